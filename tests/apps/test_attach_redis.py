"""laconic attach beside redis-server under load: no reply changes, and the server goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from laconic.replay import replay_trace
from laconic.trace.reader import TraceReader
from tests.apps.harness import environment, free_port

PATIENCE = 60.0


class Client:
    """One connection; `ask` sends a command and returns the reply's first line, or its value."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.socket.makefile("rb")

    def ask(self, *words: str) -> str:
        parts = [f"*{len(words)}", *(part for word in words for part in (f"${len(word)}", word))]
        self.socket.sendall("".join(f"{part}\r\n" for part in parts).encode())
        line = self.file.readline().decode().rstrip("\r\n")
        if line.startswith("$") and line != "$-1":
            line = self.file.read(int(line[1:]) + 2)[:-2].decode()
        return line


@contextmanager
def redis(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that answers, and its port; its log is `log` in `place`."""
    server = shutil.which("redis-server", path=environment()["PATH"])
    if server is None:
        pytest.skip("redis-server is not installed")
    place.mkdir()
    port = free_port()
    words = [server, "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(place)]
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while b"Ready to accept" not in (place / "log").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process, port
        finally:
            process.terminate()
            process.wait(PATIENCE)


def load(port: int) -> list[str]:
    """What a client is answered: strings, lists that grow, values of 200 kB, and a fork to save."""
    client, replies = Client(port), []
    for i in range(400):
        replies.append(client.ask("SET", f"key:{i}", f"value {i}" * 20))
        replies.append(client.ask("RPUSH", "list", *(f"{i}.{j}" for j in range(20))))
        replies.append(client.ask("GET", f"key:{i // 2}"))
        if i % 20 == 0:
            replies.append(client.ask("SET", f"large:{i}", "x" * (200_000 + i)))
            replies.append(client.ask("STRLEN", f"large:{i}"))
    replies.append(client.ask("BGSAVE"))
    deadline = time.monotonic() + PATIENCE
    while "rdb_bgsave_in_progress:1" in client.ask("INFO", "persistence"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    replies.append(client.ask("DBSIZE"))
    return replies


def written(place: Path) -> list[str]:
    """The lines of the log, without process ids, times and sizes."""
    lines = (place / "log").read_text().splitlines()
    return [re.sub(r"\d[\d.:]*|\b[A-Z][a-z]{2}\b", "N", line) for line in lines if "*" in line]


def test_redis_under_load(tmp_path: Path) -> None:
    """Replies and log are those of a server that nobody attached to; it is left, and answers."""
    with redis(tmp_path / "alone") as (_, port):
        replies = load(port)
    trace, figures = tmp_path / "a.trace", tmp_path / "figures.json"
    with redis(tmp_path / "attached") as (server, port):
        words = ["attach", str(server.pid), "-o", str(trace), "--json", str(figures)]
        words = [sys.executable, "-m", "laconic", *words, "--verify", "call"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as laconic:
            assert laconic.stderr is not None
            assert b"attached to process" in laconic.stderr.readline()
            attached = load(port)
            laconic.send_signal(signal.SIGINT)
            _, errors = laconic.communicate(timeout=PATIENCE)
            assert laconic.returncode == 0, errors.decode()
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "TracerPid:\t0\n" in status and "(tracing stop)" not in status
        assert Client(port).ask("GET", "key:7") == "value 7" * 20
    assert attached == replies
    assert written(tmp_path / "attached") == written(tmp_path / "alone")
    about = json.loads(figures.read_text())
    assert about["verify"]["mismatches"] == 0 < about["verify"]["checks"]
    assert about["processes"] == 2, "the server, and the child that saved"
    replayed = replay_trace(TraceReader(str(trace)), check=True)
    assert replayed.check is not None and not replayed.check.counts and not replayed.loss
    assert replayed.ledger.calls == about["calls"] > 20
