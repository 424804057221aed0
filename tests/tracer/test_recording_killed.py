"""SIGKILL at any moment, to Laconic or to the process that writes the trace: what was recorded
stays readable."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.errors import LaconicError
from laconic.trace.schema import CODES
from tests.tracer.lab import (
    COMMAND,
    PATIENCE,
    build,
    children_of,
    environment,
    is_alive,
    run_alone,
    wait_until,
)

#: Ten moments, in seconds after the program's first calls; the later ones are slow tests.
_random = random.Random(7)
MOMENTS = [round(_random.uniform(0.0, 1.4), 3) for _ in range(10)]
QUICK = 4
MPROTECT = CODES["mprotect"]


@contextmanager
def recording(
    path: Path, *command: str | Path, options: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`laconic run -o` in a session of its own, which does not outlive the test."""
    words = [*COMMAND, "run", "--quiet", "-o", str(path), *options, "--", *map(str, command)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        words, **pipes, env=environment(), start_new_session=True, preexec_fn=_heeds_signals
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _heeds_signals() -> None:
    # What a shell starts in the background ignores these, and so would all that it starts.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def writers(path: Path) -> list[int]:
    """The processes that have a file open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                links = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            if str(path) in links:
                found.append(int(entry.name))
    return found


def events(path: Path) -> int:
    """How many events a trace contains; 0 for a file that is not a trace yet."""
    try:
        return sum(1 for _ in laconic.trace.open(str(path)).rows())
    except LaconicError:
        return 0


def done(progress: Path) -> int:
    """How many calls the program has made so far."""
    try:
        with open(progress, "rb") as file:
            return int(struct.unpack("=q", file.read(8).ljust(8, b"\0"))[0])
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    ("moment", "pause"),
    [
        *((moment, 0) for moment in MOMENTS[:QUICK]),
        *(pytest.param(moment, 0, marks=pytest.mark.slow) for moment in MOMENTS[QUICK:]),
        *((1 + moment / 4, 50_000_000) for moment in MOMENTS[:2]),
    ],
)
def test_laconic_killed_at_any_moment(moment: float, pause: int, tmp_path: Path) -> None:
    """The trace is readable, says that it has no end, and lacks no more than the last second."""
    path, progress = tmp_path / "a.trace", tmp_path / "progress"
    with recording(path, build("recorded"), "progress", progress, str(pause)) as process:
        wait_until(lambda: done(progress), "the first call")
        program, _witness = children_of(process.pid)
        time.sleep(moment)
        process.kill()
        process.wait()
    wait_until(lambda: not is_alive(program), "the end of the program")
    wait_until(lambda: not writers(path), "the end of the process that writes the trace")

    trace = laconic.trace.open(str(path))
    rows = [row for row in trace.rows() if row.event == MPROTECT and row.a1 == 8192]
    assert trace.loss is not None and "not ended in order" in trace.loss
    (ended, *times) = struct.unpack(
        f"={1 + done(progress)}q", progress.read_bytes()[: 8 + 8 * done(progress)]
    )
    # ld.so's own of that size are before the program's.
    rows = [row for row in rows if rows and row.a0 == rows[-1].a0]
    assert len(rows) <= ended + 1
    if len(rows) < ended:
        assert times[-1] - times[len(rows)] < 1e9, f"{ended - len(rows)} calls are missing"
    check = run_alone([*COMMAND, "replay", "--check", path], env=environment())
    assert check.returncode == 0, check.stdout
    assert "not ended in order" in check.stderr


def test_a_recording_is_on_disk_while_it_runs(tmp_path: Path) -> None:
    """Both killed at once, as by a power cut: no more is missing than what was not written yet."""
    path, progress = tmp_path / "a.trace", tmp_path / "progress"
    with recording(path, build("recorded"), "progress", progress, "10000000") as process:
        wait_until(lambda: done(progress) > 200, "two seconds of calls")
        (writer,) = set(writers(path)) - {process.pid}
        os.kill(writer, signal.SIGKILL)
        process.kill()
        process.wait()
    wait_until(lambda: not writers(path), "the end of the process that writes the trace")
    rows = [
        row
        for row in laconic.trace.open(str(path)).rows()
        if row.event == MPROTECT and row.a1 == 8192
    ]
    rows = [row for row in rows if row.a0 == rows[-1].a0]
    (ended, *times) = struct.unpack(
        f"={1 + done(progress)}q", progress.read_bytes()[: 8 + 8 * done(progress)]
    )
    # 0.9 s, and what a machine that does other things takes.
    assert times[-1] - times[len(rows)] < 1.5e9, f"{ended - len(rows)} calls are missing"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV])
def test_the_process_that_writes_is_killed(kill: signal.Signals, tmp_path: Path) -> None:
    """The program runs on, has its own exit status, and a person is told."""
    path = tmp_path / "a.trace"
    script = "import mmap, sys; print('ready', flush=True); sys.stdin.read(); "
    script += "[mmap.mmap(-1, 8192).close() for _ in range(2000)]; sys.exit(5)"
    words = [*COMMAND, "run", "--quiet", "-o", str(path), "--", sys.executable, "-S", "-c", script]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(words, env=environment(), **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        (writer,) = writers(path)
        assert writer not in (process.pid, *children_of(process.pid))
        assert os.getsid(writer) != os.getsid(process.pid), "what the terminal sends reaches it"
        wait_until(lambda: events(path), "the first batch")
        os.kill(writer, kill)
        _, err = process.communicate("go", timeout=PATIENCE)
    assert process.returncode == 5
    assert "Traceback" not in err
    assert f"the process that writes it was killed; it contains {events(path):,} events" in err
    trace = laconic.trace.open(str(path))
    assert MPROTECT in [row.event for row in trace.rows()]
    assert trace.loss is not None


def test_the_process_that_writes_is_killed_before_its_first_batch(tmp_path: Path) -> None:
    """The message says what is in the file: nothing, or what had been written."""
    path = tmp_path / "a.trace"
    words = [
        *COMMAND,
        "run",
        "--quiet",
        "-o",
        str(path),
        "--",
        "sh",
        "-c",
        "echo ready; read go; exit 5",
    ]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(words, env=environment(), **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        (writer,) = writers(path)
        os.kill(writer, signal.SIGKILL)
        _, err = process.communicate("go\n", timeout=PATIENCE)
    assert process.returncode == 5
    count = events(path)
    assert f"was killed; it contains {f'{count:,} events' if count else 'no event'}\n" in err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signals_to_all_leave_the_trace_complete(name: str, tmp_path: Path) -> None:
    """What ends the program, sent to Laconic's whole group, ends the trace in order."""
    path, progress = tmp_path / "a.trace", tmp_path / "progress"
    with recording(path, build("recorded"), "progress", progress, "1000000") as process:
        wait_until(lambda: done(progress) > 20, "the first calls")
        os.killpg(process.pid, signal.Signals[name])
        assert process.wait(PATIENCE) == 128 + signal.Signals[name]
    trace = laconic.trace.open(str(path))
    *_, last = trace
    assert trace.loss is None
    assert isinstance(last, laconic.trace.records.End)
    assert last.status == 128 + signal.Signals[name]


def test_a_killed_recording_leaves_its_numbers_right(tmp_path: Path) -> None:
    """What stands in the trace of a killed recording is what stands in a whole one."""
    path, progress = tmp_path / "a.trace", tmp_path / "progress"
    with recording(path, build("recorded"), "progress", progress, "0") as process:
        wait_until(lambda: done(progress) > 20_000, "many calls")
        process.kill()
    wait_until(lambda: not writers(path), "the end of the process that writes the trace")
    rows = [
        row
        for row in laconic.trace.open(str(path)).rows()
        if row.event == MPROTECT and row.a1 == 8192
    ]
    protections = [row.a2 for row in rows if row.a0 == rows[-1].a0]
    assert len(protections) > 10_000
    assert protections == [(1, 3)[place % 2] for place in range(len(protections))]
