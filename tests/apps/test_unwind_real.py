"""Real programs: their stacks agree with gdb's at the same stop, as far as call-frame information
leads."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.debugger import Comparison, sampled
from tests.tracer.lab import tool

SAMPLES = 200
MEMORY = ("mmap", "munmap", "mprotect", "madvise", "brk", "mremap")
TRAFFIC = ("read", "write", "epoll_wait", "futex", "mmap", "munmap", "madvise", "mprotect")

PYTHON = """
import json, mmap, re, zlib
try:
    import numpy
except ImportError:
    numpy = None
def deep(n, what):
    return deep(n - 1, what) if n else what()
def work(i):
    if numpy is not None:
        a = numpy.ones((300 + i % 50, 300)); (a @ a.T).sum()
    text = json.dumps([{"a": [str(j)] * 50} for j in range(200 + i % 100)])
    sorted(json.loads(text), key=lambda one: len(zlib.compress(re.sub("[0-9]+", str, str(one)).encode())))
    mmap.mmap(-1, 1 << 20).close()
    with open("/proc/self/stat") as file:
        return len(file.read()) + len(bytearray(3_000_000 + i))
for i in range(1_000_000):
    deep(i % 40, lambda: work(i))
"""  # noqa: E501
NODE = """
const zlib = require('zlib');
function deep(n, f) { return n ? deep(n - 1, f) : f(); }
let kept = [];
function work(i) {
  const text = JSON.stringify(Array.from({length: 2000}, (_, j) => ({a: 'x'.repeat(j % 50), b: [i, j]})));
  kept.push(JSON.parse(text)); if (kept.length > 30) kept = [];
  zlib.deflateSync(text); text.match(/x+"/g); Buffer.alloc(2000000 + i);
}
let i = 0;
function turn() { for (let k = 0; k < 20; k++) deep(i % 20, () => work(i++)); setImmediate(turn); }
turn();
"""  # noqa: E501
JAVA = """
import java.util.*;
import java.util.zip.*;
public class Churn {
    static Object kept;
    static void work(int i) throws Exception {
        List<byte[]> all = new ArrayList<>();
        for (int j = 0; j < 200; j++) all.add(new byte[20000 + j * i % 1000]);
        kept = all;
        Deflater d = new Deflater(); d.setInput(new byte[100000]); d.finish(); d.deflate(new byte[1000]); d.end();
        java.nio.file.Files.readAllBytes(java.nio.file.Path.of("/proc/self/stat"));
    }
    static void deep(int n, int i) throws Exception { if (n > 0) deep(n - 1, i); else work(i); }
    public static void main(String[] arguments) throws Exception {
        Thread other = new Thread(() -> { try { for (int i = 0; ; i++) deep(i % 9, i); } catch (Exception e) { } });
        other.setDaemon(true); other.start();
        for (int i = 0; ; i++) deep(i % 30, i);
    }
}
"""  # noqa: E501
SQL = """
select count(*), sum(length(md5(a::text))) from generate_series(1, 20000) a
create table if not exists t (a int primary key, b text)
insert into t select a, repeat(md5(a::text), 20) from generate_series(1, 3000) a
select count(*) from t x join t y on x.a = y.a + 1 where x.b like '%ab%'
select b, count(*), array_agg(a order by b) from t group by b order by 2 desc limit 10
delete from t
"""


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program, and kills it and its session at the end."""
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, **{"stdin": subprocess.DEVNULL, **options},
    )  # fmt: skip
    try:
        time.sleep(1.0)
        assert process.poll() is None, "it has ended at once"
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def agree(pid: int, name: str, calls: Sequence[str] = MEMORY, every: int = 5) -> None:
    """Compares SAMPLES stacks, and prints the figure."""
    comparison = Comparison(pid)
    for sample in sampled(pid, SAMPLES, calls, every):
        comparison.compare(sample)
    print(f"{name}: {comparison}", *comparison.differences, sep="\n")
    assert comparison.stacks == SAMPLES and comparison.frames > SAMPLES
    assert comparison.share >= 0.99, "\n".join(comparison.differences)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can enter."""
    with tempfile.TemporaryDirectory(prefix="laconic-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.slow
def test_python() -> None:
    with started([sys.executable, "-c", PYTHON]) as process:
        agree(process.pid, "python3", TRAFFIC)


@pytest.mark.slow
def test_node() -> None:
    with started([tool("node"), "-e", NODE]) as process:
        agree(process.pid, "node")


@pytest.mark.slow
def test_java(place: Path) -> None:
    source = place / "Churn.java"
    source.write_text(JAVA)
    subprocess.run([tool("javac"), "-d", str(place), str(source)], check=True)
    with started([tool("java"), "-Xmx300m", "-cp", place, "Churn"]) as process:
        agree(process.pid, "java", TRAFFIC)


@pytest.mark.slow
def test_redis(place: Path) -> None:
    socket = place / "socket"
    benchmark = tool("redis-benchmark")
    command: list[str | Path] = [
        tool("redis-server"),
        "--port",
        "0",
        "--unixsocket",
        socket,
        "--save",
        "",
        "--dir",
        place,
    ]
    with started(command) as server:
        load: list[str | Path] = [
            benchmark,
            "-s",
            socket,
            "-n",
            "100000000",
            "-r",
            "100000",
            "-d",
            "3000",
            "-c",
            "4",
        ]
        with started([*load, "-t", "set,lpush,lrange_300,mset"]):
            agree(server.pid, "redis", TRAFFIC)


@pytest.mark.slow
def test_postgresql(place: Path) -> None:
    tools = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    initdb, postgres = tool("initdb", *tools), tool("postgres", *tools)
    prefix = []
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres")
        prefix = [
            tool("setpriv"),
            f"--reuid={entry.pw_uid}",
            f"--regid={entry.pw_gid}",
            "--clear-groups",
        ]
    data = place / "data"
    subprocess.run(
        [*prefix, initdb, "-D", data, "-N", "-A", "trust"],
        check=True,
        capture_output=True,
        cwd=place,
    )
    queries = place / "queries"
    queries.write_text(SQL.strip() + "\n" + (SQL.strip() + "\n") * 3000)
    with queries.open() as text:
        command: list[str | Path] = [
            *prefix,
            os.path.realpath(postgres),
            "--single",
            "-D",
            data,
            "postgres",
        ]
        with started(command, stdin=text, cwd=place) as process:
            agree(
                process.pid,
                "postgresql",
                ("brk", "mmap", "munmap", "pread64", "pwrite64", "openat", "close"),
            )
