"""The tests' laboratory: builds the small C programs, runs them alone and under Laconic, reads the
figures."""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import laconic
from tests.helpers.starter import starter

PROGRAMS = Path(__file__).parent / "programs"
SOURCES = Path(laconic.__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "laconic")
STRATEGIES = {"laconic": (), "every-call": ("--strategy", "every-call"), "observe": ("--observe",)}
#: No run of these tests takes longer, on the slowest machine, unless it hangs.
PATIENCE = 20.0


@dataclass(frozen=True)
class Run:
    """What one run left behind."""

    status: int
    out: str
    err: str
    figures: Mapping[str, Any]

    def exact(self) -> bool:
        """True where every check was made and none failed."""
        verify = self.figures["verify"]
        return bool(verify["checks"] > 0 and verify["mismatches"] == 0)


def environment(**more: str) -> dict[str, str]:
    """This process's environment, and where Laconic is."""
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def run_alone(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command as it is; a run that hangs is killed with its whole session, and fails the
    test. `laconic` itself is started by `starter` where that makes no difference."""
    done = run_bytes(command, **options)
    return subprocess.CompletedProcess(
        done.args, done.returncode, _text(done.stdout), _text(done.stderr)
    )


def run_bytes(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs a command as `run_alone` does, and leaves its output as it is."""
    words = [str(word) for word in command]
    done = _run_started(words, **options) if words[: len(COMMAND)] == [*COMMAND] else None
    return done or _run_fresh(words, **options)


def _text(output: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(output), "utf-8", "backslashreplace").read()


def _run_fresh(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL, **options},
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"{words} hangs")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _run_started(
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: Any = subprocess.DEVNULL,
    **others: Any,
) -> subprocess.CompletedProcess[bytes] | None:
    """Run a command of `laconic` by the starter; None if it must have an interpreter of its own."""
    env = os.environ if env is None else env
    found = None if others else starter(env)
    if found is None:
        return None
    with ExitStack() as stack:
        if stdin == subprocess.DEVNULL:
            stdin = stack.enter_context(open(os.devnull))
        pipes = [os.pipe(), os.pipe()]
        for read, _ in pipes:
            stack.callback(os.close, read)
        try:
            given = stdin if isinstance(stdin, int) else stdin.fileno()
            streams = (given, pipes[0][1], pipes[1][1])
            process = found.start(
                words[len(COMMAND) :], env, os.path.abspath(cwd or os.curdir), streams
            )
        finally:
            for _, write in pipes:
                os.close(write)
        output = _read_all([read for read, _ in pipes], time.monotonic() + PATIENCE)
        if output is None:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{words} hangs")
        status = process.wait()
    return subprocess.CompletedProcess(words, status, *output)


def _read_all(pipes: Sequence[int], deadline: float) -> list[bytes] | None:
    """Read pipes to their ends; None if an end does not come before the deadline."""
    data = {pipe: bytearray() for pipe in pipes}
    waiting = {*pipes}
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        for pipe in ready:
            part = os.read(pipe, 1 << 16)
            data[pipe] += part
            if not part:
                waiting.remove(pipe)
    return [bytes(part) for part in data.values()]


def run_laconic(
    *command: str | Path,
    verify: str = "call",
    strategy: str = "laconic",
    options: Sequence[str] = (),
    prefix: Sequence[str] = COMMAND,
    env: Mapping[str, str] | None = None,
    **more: Any,
) -> Run:
    """Runs a command under `laconic run`. Laconic itself must never fall with a traceback."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        path = Path(place, "figures.json")
        words = [
            *prefix,
            "run",
            "--verify",
            verify,
            *STRATEGIES[strategy],
            "--json",
            str(path),
            *options,
            "--",
        ]
        done = run_alone([*words, *command], env=env or environment(), **more)
        text = path.read_text() if path.exists() else ""
    assert "Traceback" not in done.stderr, done.stderr
    return Run(done.returncode, done.stdout, done.stderr, json.loads(text) if text else {})


@cache
def compiler() -> str | None:
    """gcc's path, or None."""
    return shutil.which("gcc")


def tool(name: str, *places: str) -> str:
    """The path of a program, looked for in `places` too; skips the test where it is not
    installed."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *places]))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def build(name: str, *flags: str) -> Path:
    """Compiles `programs/NAME.c`, once for all tests of a machine's run; skips the test where there
    is no gcc."""
    return build_source(PROGRAMS / f"{name}.c", *flags)


def build_source(source: Path, *flags: str) -> Path:
    """Compiles a C file, as `build` does. The file may include `programs/lab.h`."""
    gcc = compiler()
    if gcc is None:
        pytest.skip("gcc is not installed")
    text = source.read_bytes() + (PROGRAMS / "lab.h").read_bytes() + repr(flags).encode()
    place = Path(tempfile.gettempdir(), f"laconic-programs-{os.getuid()}")
    place.mkdir(mode=0o755, exist_ok=True)
    target = place / f"{source.stem}-{hashlib.sha256(text).hexdigest()[:16]}"
    if not target.exists():
        # Several test workers may build it at once: each its own, and the last one's stays.
        fresh = target.with_suffix(f".{os.getpid()}")
        command = [
            gcc,
            "-O1",
            "-Wall",
            "-Wextra",
            "-pthread",
            *flags,
            str(source),
            "-o",
            str(fresh),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and {"-static", "-static-pie", "-m32"} & {*flags}:
            pytest.skip(f"gcc cannot build with {' '.join(flags)} here")
        assert done.returncode == 0, done.stderr
        fresh.replace(target)
    return target


def skip_where_it_did(done: subprocess.CompletedProcess[str] | Run) -> None:
    """Skips the test where the program said that this kernel lacks what it tries."""
    out = done.stdout if isinstance(done, subprocess.CompletedProcess) else done.out
    if out.startswith("skip: "):
        pytest.skip("this kernel, or its settings: " + out.splitlines()[0].removeprefix("skip: "))


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Waits for a condition, and fails the test where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """The processes whose parent is `pid`, of all its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def is_alive(pid: int) -> bool:
    """True for a process that exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
