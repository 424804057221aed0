"""`--listen` and `laconic live --connect`: a program that is watched from another terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracer.lab import COMMAND, PATIENCE, build, environment, wait_until

#: Makes 20 rounds a second of 10 redundant mprotect calls and 2 others, and says so.
ROUNDS = "steady"


@contextmanager
def listening(path: Path, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A program that can be watched at `path`."""
    with subprocess.Popen(
        [*COMMAND, *words[:1], "--listen", path, *words[1:]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        try:
            wait_until(path.exists, "the socket")
            yield process
        finally:
            process.kill()


def test_a_viewer_comes_and_goes(tmp_path: Path) -> None:
    """It sees what there was before it came; the program has its own status and output."""
    path, figures, gate = tmp_path / "a.sock", tmp_path / "sums.json", tmp_path / "gate"
    os.mkfifo(gate)
    script = f"{build(ROUNDS)} 20 0; read line <{gate}; exec {build(ROUNDS)} 20 5"
    viewer: list[str | Path] = [*COMMAND, "live", "--connect", path, "--lines", "--delay", "0.2"]
    with listening(path, "run", "--", "sh", "-c", script) as process:
        with subprocess.Popen(viewer, stderr=subprocess.PIPE, text=True, env=environment()) as one:
            assert one.stderr is not None
            assert " calls/s, " in one.stderr.readline()
            one.send_signal(signal.SIGINT)
            assert one.wait(timeout=PATIENCE) == 0
        viewer += ["--json", figures]
        with subprocess.Popen(viewer, stderr=subprocess.PIPE, text=True, env=environment()) as one:
            assert one.stderr is not None
            assert " calls/s, " in one.stderr.readline()
            gate.write_text("on\n")
            last = one.stderr.read()
            assert one.wait(timeout=PATIENCE) == 0, last
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (5, 2 * "".join(f"round {n}\n" for n in range(20)))
    assert err.startswith(f"laconic: to watch, use  laconic live --connect {path}\n")
    assert " cycles under every-call, " in last
    found = json.loads(figures.read_text())
    assert found["exit_status"] == 5
    assert found["command"] == ["sh", "-c", script]
    again = next(site for site in found["sites"] if site["function"] == "again")
    assert (again["calls"], again["redundant"]) == (400, 400)
    assert not path.exists()


def test_a_viewer_that_does_not_read(tmp_path: Path) -> None:
    """It holds nothing up, neither the program nor its end; what it writes is not read."""
    path = tmp_path / "a.sock"
    with listening(path, "live", "--lines", "--", build(ROUNDS), "20", "3") as process:
        idle = socket.socket(socket.AF_UNIX)
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        idle.connect(str(path))
        with pytest.raises(BrokenPipeError):
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                idle.send(b'{"end": 1}\n')
                time.sleep(0.01)
        out, _ = process.communicate(timeout=PATIENCE)
        idle.close()
    assert (process.returncode, out) == (3, "".join(f"round {n}\n" for n in range(20)))


def test_the_program_is_killed(tmp_path: Path) -> None:
    """A viewer says that the connection has ended."""
    path = tmp_path / "a.sock"
    with listening(path, "run", "--", build(ROUNDS), "10000", "0") as process:
        viewer = [*COMMAND, "live", "--connect", str(path), "--lines", "--delay", "0.2"]
        with subprocess.Popen(viewer, stderr=subprocess.PIPE, text=True, env=environment()) as one:
            assert one.stderr is not None
            one.stderr.readline()
            process.kill()
            rest = one.stderr.read()
            assert one.wait(timeout=PATIENCE) == 1
    assert rest.splitlines()[-1].startswith("laconic: the connection has ended")


def test_another_kind_of_listener(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        viewer = [*COMMAND, "live", "--connect", str(path), "--lines"]
        with subprocess.Popen(viewer, stderr=subprocess.PIPE, text=True, env=environment()) as one:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert one.stderr is not None
            assert "is not a program under Laconic; name the address" in one.stderr.read()
            connection.close()
            assert one.wait(timeout=PATIENCE) == 2
