"""strace logs of real programs, cut where every process's map was saved: import and replay must
come to those maps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from laconic.replay.engine import Replay
from laconic.report.maps import as_text
from laconic.trace.importers.importing import import_logs
from laconic.trace.reader import TraceReader

STRACE = ("strace", "-f", "-tt", "-e", "trace=%memory,%process,%file,%desc")
THREADS = """
import threading, mmap, random
def work(seed):
    chance = random.Random(seed)
    held = []
    while True:
        held.append(mmap.mmap(-1, 4096 * chance.randrange(1, 64)))
        held.append(bytearray(chance.randrange(1 << 21)))
        if len(held) > 40:
            del held[chance.randrange(40)]
for seed in range(6):
    threading.Thread(target=work, args=(seed,)).start()
"""
PROCESSES = """
import multiprocessing, mmap, os, random
def work(seed):
    chance = random.Random(seed)
    held = []
    for _ in range(200):
        held.append(bytearray(chance.randrange(1 << 21)))
        if len(held) > 20:
            del held[chance.randrange(20)]
if __name__ == "__main__":
    shared = mmap.mmap(-1, 1 << 20)
    while True:
        group = [multiprocessing.Process(target=work, args=(seed,)) for seed in range(4)]
        for each in group:
            each.start()
        for each in group:
            each.join()
"""
FILES = """
import mmap, os, random, tempfile
chance = random.Random(1)
held = []
with tempfile.TemporaryDirectory(dir=".") as top:
    os.chdir(top)
    while True:
        name = f"file{chance.randrange(30)}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 1 << 16)
        copy = os.dup(fd)
        kind = chance.choice((mmap.MAP_SHARED, mmap.MAP_PRIVATE))
        held.append(mmap.mmap(copy, 4096 * chance.randrange(1, 17), flags=kind))
        os.close(copy)
        memory = os.memfd_create(f"memory{len(held)}")
        os.ftruncate(memory, 8192)
        held.append(mmap.mmap(memory, 8192))
        os.close(memory)
        os.close(fd)
        while len(held) > 50:
            held.pop(chance.randrange(50))
"""
CHURN = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static void *work(void *argument) {
    unsigned seed = (unsigned)(long)argument;
    void *held[64] = {0};
    for (;;) {
        int place = rand_r(&seed) % 64;
        free(held[place]);
        held[place] = malloc(rand_r(&seed) % 400000);
        size_t size = 4096 * (1 + rand_r(&seed) % 32);
        char *area = mmap(0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(area, size, PROT_READ | PROT_WRITE);
        area[0] = 1;
        char *moved = mremap(area, size, 2 * size, MREMAP_MAYMOVE);
        madvise(moved, size, MADV_DONTNEED);
        munmap(moved + 4096, 2 * size - 4096);
        if (rand_r(&seed) % 8) munmap(moved, 4096);
        else mmap(moved, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    }
    return 0;
}
int main(void) {
    pthread_t thread;
    for (long i = 1; i < 5; i++) pthread_create(&thread, 0, work, (void *)i);
    return (int)(long)work((void *)9L);
}
"""
JAVA = """
import java.util.*;
public class Loop {
    public static void main(String[] words) throws Exception {
        for (int i = 0; i < 4; i++)
            new Thread(() -> { while (true) { List<byte[]> all = new ArrayList<>(); for (int j = 0; j < 300; j++) all.add(new byte[50000]); } }).start();
    }
}
"""  # noqa: E501
NODE = "let a=[];setInterval(()=>{a=[];for(let j=0;j<50000;j++)a.push({j})},1)"
SHELL = (
    "while :; do ls -l / | sort | grep -c e > /dev/null; (sleep 0.01; echo $(date) > "
    "/dev/null) & wait; done"
)
PROGRAMS: dict[str, tuple[str, ...]] = {
    "python-threads": (sys.executable, "-c", THREADS),
    "python-processes": (sys.executable, "processes.py"),
    "python-files": (sys.executable, "-c", FILES),
    "churn": ("./churn",),
    "bash": ("bash", "-c", SHELL),
    "perl": (
        "perl",
        "-e",
        "while (1) { my @a = map { 'x' x $_ } 1 .. 2000; fork or exit 0; wait }",
    ),
    "redis": (
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        "redis.sock",
        "--save",
        "",
        "--io-threads",
        "4",
    ),
    "gcc": ("bash", "-c", "while :; do gcc -O2 -pthread churn.c -o other; done"),
    "node": ("node", "-e", NODE),
    "java": ("java", "-XX:+UseG1GC", "-Xmx200m", "Loop.java"),
    "java-serial": ("java", "-XX:+UseSerialGC", "-Xmx100m", "Loop.java"),
    "stress": (
        "stress-ng",
        "--mmap",
        "2",
        "--mmap-bytes",
        "4m",
        "--mremap",
        "1",
        "--brk",
        "1",
        "--temp-path",
        ".",
    ),
}
#: Bytes of a log after which a program is stopped before its time: twice what python3's start is.
ENOUGH = 400_000
SLOW = {"java", "java-serial", "churn", "stress"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PROGRAMS],
)
def test_maps_at_the_cut(name: str, tmp_path: Path) -> None:
    """Ranges, protection, sharing, file and offset of every mapping that the log shows."""
    command = PROGRAMS[name]
    for needed in ("strace", command[0]):
        if shutil.which(needed) is None and not needed.startswith("./"):
            pytest.skip(f"not installed: {needed}")
    (tmp_path / "processes.py").write_text(PROCESSES)
    (tmp_path / "Loop.java").write_text(JAVA)
    (tmp_path / "churn.c").write_text(CHURN)
    if name == "churn":
        subprocess.run(
            ["gcc", "-O1", "-pthread", "churn.c", "-o", "churn"], cwd=tmp_path, check=True
        )
    log = tmp_path / "log"
    with traced(command, log, tmp_path) as pid:
        end = time.monotonic() + (4.0 if command[0] == "java" else 2.0)
        while time.monotonic() < end and not (log.exists() and log.stat().st_size > ENOUGH):
            time.sleep(0.02)
        freeze(pid, log)
        saved = {each: (maps_of(each), kernels_own(each)) for each in tracees(pid)}
        size = log.stat().st_size
    os.truncate(log, size)
    trace = tmp_path / "trace"
    report = import_logs("strace", [str(log)], str(trace))
    assert not report.not_understood, report.puzzles
    engine = Replay(TraceReader(str(trace)), keep=True, check=True)
    engine.run()
    assert engine.check is not None
    assert not engine.check.counts["model error"], engine.check.differences[:3]
    assert saved
    for each, (real, own) in saved.items():
        space = engine.processes[each].space
        assert space is not None
        assert without(parse(as_text(space)), own) == without(parse(real), own), each


@contextmanager
def traced(command: tuple[str, ...], log: Path, where: Path) -> Iterator[int]:
    """Runs the command under strace; gives strace's pid; ends all of it."""
    words = [*STRACE, "-o", str(log), *command]
    strace = subprocess.Popen(
        words, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield strace.pid
    finally:
        for _ in range(50):
            left = tracees(strace.pid)
            for pid in left:
                signal_to(pid, signal.SIGKILL)
            if strace.poll() is not None and not left:
                break
            time.sleep(0.05)
        strace.kill()
        strace.wait()


def freeze(strace: int, log: Path) -> None:
    """Stops all that strace traces, where each thread has left the call that it was in, and strace
    has logged it."""
    quiet, size = 0, -1
    deadline = time.monotonic() + 30
    while quiet < 4:
        assert time.monotonic() < deadline, "the program could not be stopped"
        for pid in tracees(strace):
            signal_to(pid, signal.SIGSTOP)
        time.sleep(0.1)
        now = log.stat().st_size
        # A parent in vfork waits for its child, uninterruptibly.
        stopped = all(state in "tTDZX" for pid in tracees(strace) for state in states(pid))
        quiet = quiet + 1 if stopped and now == size else 0
        size = now


def tracees(strace: int) -> list[int]:
    """The processes that strace traces, those ended left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text(errors="replace")
            except OSError:
                continue
            if (
                f"TracerPid:\t{strace}\n" in status
                and "State:\tZ" not in status
                and "State:\tX" not in status
            ):
                found.append(int(entry.name))
    return found


def states(pid: int) -> list[str]:
    """The state of each thread, a letter."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.append(task.read_text(errors="replace").rpartition(")")[2].split()[0])
        except OSError:
            continue
    return found


def signal_to(pid: int, number: int) -> None:
    """Sends a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def maps_of(pid: int) -> str:
    """The real map."""
    return Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")


Run = tuple[int, int, str, int, str]


def parse(text: str) -> list[Run]:
    """(start, end, permissions, offset, path) of each mapping; the kernel's names of anonymous
    memory left out."""
    runs = []
    for line in text.splitlines():
        words = line.split(None, 5)
        start, _, end = words[0].partition("-")
        path = words[5] if len(words) > 5 else ""
        if path in ("[heap]", "[stack]"):
            path = ""
        deleted = path.removesuffix(" (deleted)")
        if path.startswith("/") and not path.startswith("/memfd:"):
            path = os.path.realpath(deleted)
        runs.append(
            (int(start, 16), int(end, 16), words[1], int(words[2], 16) if path else 0, path)
        )
    return runs


def kernels_own(pid: int) -> list[tuple[int, int]]:
    """What execve mapped: the program, its interpreter, what follows each of them, stack, vdso."""
    program = os.readlink(f"/proc/{pid}/exe")
    found: list[tuple[int, int]] = []
    last = 0
    for line in maps_of(pid).splitlines():
        words = line.split(None, 5)
        path = words[5] if len(words) > 5 else ""
        start, end = (int(word, 16) for word in words[0].split("-"))
        image = path == program or os.path.basename(path).startswith("ld-linux")
        named = path.startswith(("[stack", "[vdso", "[vvar", "[vsyscall"))
        if image or named or (not path and start == last):
            found.append((start, end))
            last = end if image else 0
    return found


def without(runs: list[Run], holes: list[tuple[int, int]]) -> list[Run]:
    """The runs outside the holes, neighbours that continue each other joined."""
    joined: list[Run] = []
    for start, end, permissions, offset, path in runs:
        pieces = [(start, end)]
        for hole_start, hole_end in holes:
            pieces = [
                piece
                for piece_start, piece_end in pieces
                for piece in (
                    (piece_start, min(piece_end, hole_start)),
                    (max(piece_start, hole_end), piece_end),
                )
                if piece[0] < piece[1]
            ]
        for piece_start, piece_end in pieces:
            at = offset + piece_start - start if path else 0
            if joined:
                before = joined[-1]
                follows = before[3] + before[1] - before[0] if path else 0
                if (
                    before[1] == piece_start
                    and before[2] == permissions
                    and before[4] == path
                    and follows == at
                ):
                    joined[-1] = (before[0], piece_end, permissions, before[3], path)
                    continue
            joined.append((piece_start, piece_end, permissions, at, path))
    return joined
