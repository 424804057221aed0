"""Python frames of real interpreters: functions, files and lines are those that Python itself
shows at the same call, in every version that is installed here."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from laconic.report.callers import missing_lines
from laconic.stacks.memory import Memory
from laconic.stacks.python import RELEASED, Interpreter, Unsupported, layout_of, line_table
from laconic.stacks.table import PYTHON, Tables
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES
from laconic.trace.stacks import Stacks
from tests.tracer.lab import COMMAND, PROGRAMS, environment, run_alone

PROGRAM = PROGRAMS / "lines.py"
#: More interpreters may be named here, with colons between them.
MORE = "LACONIC_TEST_PYTHONS"


@cache
def interpreters() -> dict[str, str]:
    """All CPythons from 3.10 on that this machine has: path → version."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    paths = [*home.glob("versions/*/bin/python3"), *Path("/usr/bin").glob("python3.??")]
    paths += [Path(path) for path in os.environ.get(MORE, "").split(":") if path]
    found = {}
    for path in sorted(paths):
        ask = "import sys; print('%d.%d' % sys.version_info[:2], hasattr(sys, 'gettotalrefcount'))"
        done = subprocess.run([path, "-c", ask], capture_output=True, text=True)
        version = done.stdout.split()[0] if done.returncode == 0 else ""
        if version.startswith("3.1") and len(version) == 4:
            found[str(path)] = version
    return found


SUPPORTED = [path for path, version in interpreters().items() if version != "3.10"]
OLD = [path for path, version in interpreters().items() if version == "3.10"]


def record(trace: Path, *command: str, options: tuple[str, ...] = ()) -> str:
    """Records a program with all its stacks; returns what it prints."""
    words = [*COMMAND, "run", "--quiet", "-o", str(trace), "--stacks", "all", *options, "--"]
    done = run_alone([*words, *command], env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


Lines = list[tuple[str, str, int]]


class Call(NamedTuple):
    """An madvise: the pages that it is about; the Python frames of its stack as (function, file,
    line), and its modules by their names, "python" for those frames."""

    pages: int
    lines: Lines
    modules: list[str]


def calls(trace: Path) -> Iterator[Call]:
    """The madvise calls of a trace. No symbols are read, which takes seconds for an interpreter."""
    stacks = Stacks()
    for row in TraceReader(str(trace)).rows():
        stacks.take(row)
        if row.event == CODES["madvise"]:
            frames = stacks.frames(stacks.next[row.tid])
            found = [(stacks.modules[frame.module], frame) for frame in frames]
            lines = [
                (module.name, module.path, frame.address)
                for module, frame in found
                if module.kind == PYTHON
            ]
            short = [
                PYTHON if module.kind == PYTHON else os.path.basename(module.path)
                for module, _ in found
            ]
            yield Call(row.a1 >> 12, lines, short)


def call_of(trace: Path, pages: int) -> Call:
    """The call that is about so many pages, which Python code makes."""
    return next(
        call for call in calls(trace) if call.pages == pages and "python" in str(call.modules)
    )


@pytest.mark.parametrize("python", SUPPORTED)
def test_every_frame_is_what_python_shows(python: str, tmp_path: Path) -> None:
    printed = record(tmp_path / "a.trace", python, str(PROGRAM))
    truth: dict[int, Lines] = {}
    for line in printed.splitlines():
        truth |= {number: [tuple(frame) for frame in stack] for number, stack in json.loads(line)}
    found: dict[int, Lines] = {}
    for call in calls(tmp_path / "a.trace"):
        if call.lines and call.lines[0][0] == "call":
            found[call.pages] = call.lines
    assert len(truth) > 40 and found == truth
    assert len(truth[15]) > 200 and [frame[0] for frame in truth[70]][:2] == ["call", "recurse"]


@pytest.mark.parametrize("python", SUPPORTED)
def test_c_frames_stay_where_they_are(python: str, tmp_path: Path) -> None:
    """The Python frames take the place of the loop that runs them, between the C functions that
    call it and that it calls."""
    record(tmp_path / "a.trace", python, str(PROGRAM))
    call = call_of(tmp_path / "a.trace", 5)
    assert [line[0] for line in call.lines] == ["call", "Shape.__lt__", "<module>"]
    interpreter = next(name for name in call.modules if "python3" in name and "_ctypes" not in name)
    runs = [name for name, _ in groupby(call.modules)]
    # libffi and ctypes make the call; __lt__ is called by sorted(), in C; so is that, by the
    # script.
    assert "libc" in runs[0] and "python3" in runs[-1]
    start = runs.index(PYTHON)
    assert runs[start : start + 4] == [PYTHON, interpreter, PYTHON, interpreter]
    assert call.modules.count(PYTHON) == 3


@pytest.mark.parametrize("python", SUPPORTED[:1])
def test_names_are_hidden_in_a_redacted_trace(python: str, tmp_path: Path) -> None:
    record(tmp_path / "a.trace", python, str(PROGRAM), options=("--redact",))
    lines = next(call.lines for call in calls(tmp_path / "a.trace") if len(call.lines) == 3)
    assert all(name[0] == file[0] == "#" and line for name, file, line in lines)
    text = (tmp_path / "a.trace").read_bytes()
    assert b"Shape" not in text and b"lines.py" not in text


@pytest.mark.parametrize("python", SUPPORTED[-1:])
def test_a_stack_that_is_too_deep_is_cut(python: str, tmp_path: Path) -> None:
    text = (
        "import ctypes, sys; sys.setrecursionlimit(5000)\n"
        "def f(n): return f(n - 1) if n else ctypes.CDLL(None).madvise(\n"
        "    ctypes.c_void_p(1 << 40), ctypes.c_size_t(4096 * 7), 0)\n"
        "f(900)"
    )
    record(tmp_path / "a.trace", python, "-c", text)
    call = call_of(tmp_path / "a.trace", 7)
    assert len(call.modules) == 513 and call.modules[-1] == "[cut]"
    assert {line[0] for line in call.lines} == {"f"} and len(call.lines) > 480


@pytest.mark.parametrize("python", OLD[:1])
def test_older_versions_keep_their_c_frames(python: str, tmp_path: Path) -> None:
    """What cannot be read is reported in one line."""
    record(tmp_path / "a.trace", python, str(PROGRAM))
    call = call_of(tmp_path / "a.trace", 14)
    assert not call.lines and "python3.10" in str(call.modules)
    stacks = Stacks()
    for row in TraceReader(str(tmp_path / "a.trace")).rows():
        stacks.take(row)
    told = "\n".join(missing_lines(stacks, 500))
    assert told.startswith("no Python lines of") and told.count("\n") == 0
    assert told.endswith("libpython3.10.so.1.0: its version is older than 3.11, or unknown")


class Described(Memory):
    """Memory of no process, with `_Py_DebugOffsets` in it."""

    def __init__(self, version: int, free_threaded: int = 0, **words: int) -> None:
        super().__init__()
        self.words_ = [0, version, free_threaded, *[8] * 93]
        for index, value in words.items():
            self.words_[int(index[1:])] = value

    def read(self, tid: int, address: int, size: int) -> bytes:
        return (b"xdebugpy" + struct.pack("<95Q", *self.words_[1:]))[:size]


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        (Described(0x030D00F0, 1), "CPython 3.13.0 is a free-threaded build"),
        (Described(0x030F00F0), "CPython 3.15.0 is not supported"),
        (Described(0x030E00A3), "CPython 3.14.0 is a pre-release"),
        (Described(0x030E01F0), "CPython 3.14.1 has another layout than the release"),
        (Described(0x030D01F0, w65=16, w66=32, w68=32, w69=16, w5=1 << 60), "another layout"),
    ],
)
def test_other_builds_are_not_read(memory: Memory, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        layout_of(memory, 1, 0x1000, 0)


def test_an_interpreter_without_a_version_is_not_read() -> None:
    class Nothing(Memory):
        def read(self, tid: int, address: int, size: int) -> bytes:
            return bytes(size) if address < 0x2000 else (0x030A0DF0).to_bytes(8, "little")

    for version_at, why in ((0, "older than 3.11"), (0x3000, "CPython 3.10.13 is not supported")):
        with pytest.raises(Unsupported, match=why):
            layout_of(Nothing(), 1, 0x1000, version_at)


@pytest.mark.parametrize("version", RELEASED)
def test_corrupt_structures_are_given_up(version: tuple[int, int]) -> None:
    """Memory in which every pointer leads into the same memory: no frames, no error, no hang."""
    random = Random(1)
    count = 1 << 8
    buffer = (ctypes.c_uint64 * count)()
    base = ctypes.addressof(buffer)
    interpreter = Interpreter(Memory(), Tables(), RELEASED[version], base)
    stack = memoryview(buffer).cast("B").cast("Q")
    for turn in range(250):
        for place in range(count):
            buffer[place] = base + random.randrange(0, 8 * count - 600, 8 if turn % 2 else 1)
        buffer[5] = buffer[place] = base  # the interpreter
        for place in (2, 9):  # its thread states, in 3.11 and 3.12
            buffer[place] = base
        identity = buffer[RELEASED[version].thread_id >> 3]
        pid = os.getpid()
        assert interpreter.activations(pid, identity, stack, base, base + 8 * count // 2) == []
    assert interpreter.is_hopeless


def test_line_tables_are_what_python_decodes() -> None:
    """co_lines() of every code object of a module of the standard library."""
    import traceback

    todo = [compile(Path(str(traceback.__file__)).read_text(), "traceback.py", "exec")]
    count = 0
    while todo:
        code = todo.pop()
        todo += [const for const in code.co_consts if hasattr(const, "co_linetable")]
        ends, lines = line_table(code.co_linetable, code.co_firstlineno)
        starts = [0, *ends]
        ours = {
            at: line
            for start, end, line in zip(starts, ends, lines, strict=False)
            for at in range(start, end, 2)
        }
        theirs = {
            at: line or 0 for start, end, line in code.co_lines() for at in range(start, end, 2)
        }
        assert ours == theirs, code
        count += 1
    assert count > 50
