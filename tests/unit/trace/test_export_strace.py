"""laconic export --to strace: strace's own lines, which its importer reads back to the same
calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.trace import records
from laconic.trace.exporters import ExportPart, Window, export
from laconic.trace.exporters.strace import _FORMS, quoted
from laconic.trace.importers.importing import import_logs
from laconic.trace.possible import impossible_call
from laconic.trace.schema import CODES, NO_RESULT, PLAIN, READ, READABLE, WRITABLE
from tests.helpers.traces import BASE, MASK, Builder, small
from tests.tracer.lab import COMMAND, environment, run_alone, run_bytes


def exported(trace: str, directory: Path, window: Window | None = None) -> Path:
    """The trace as a log."""
    path = directory / "out.log"
    with path.open("wb") as output:
        export(laconic.trace.open(trace), output, ExportPart("strace", window or Window()))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """The small trace."""
    return small(tmp_path / "small.trace")


def test_strace_lines(trace: str, tmp_path: Path) -> None:
    """The lines are strace's own, to the letter."""
    lines = exported(trace, tmp_path).read_text().splitlines()
    arena = f"{BASE + (1 << 30):#x}"
    for line in (
        '100 1000000000.000000000 execve("/bin/prog", ["prog", "a \\"b\\"\\n", "\\303\\251"], '
        "NULL) = 0",
        "100 1000000000.002000000 brk(NULL) = 0x555555556000",
        f"100 1000000000.003000000 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3</lib/libc.so.6>, "
        f"0x1000) = {BASE:#x}",
        "100 1000000000.004000000 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, "
        f'3</tmp/a \\"b\\"\\76c\\74\\n\\\\\\303\\251 1>, 0x1000) = {BASE + 8192:#x}',
        "100 1000000000.005000000 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, "
        "3</memfd:x\\76y>(deleted), 0x1000) = "
        f"{BASE + 16384:#x}",
        f"100 1000000000.008000000 mprotect({arena}, 8192, PROT_READ|PROT_WRITE) = 0",
        "100 1000000000.010000000 "
        "clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|"
        "CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID}, 88) = 101",
        "101 1000000000.012000000 munmap(0x5, 4096) = -1 EINVAL (Invalid argument)",
        "100 1000000000.014000000 clone(child_stack=NULL, "
        "flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD) = 102",
        "102 1000000000.017000000 mmap(NULL, 4096, PROT_READ|PROT_WRITE|PROT_EXEC, "
        "MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)"
        " = ?",
        "102 1000000000.018000000 +++ killed by SIGKILL +++",
        "100 1000000000.020000000 +++ exited with 3 +++",
    ):
        assert line in lines
    assert len(lines) == 19


def test_strace_says_what_it_left_out(tmp_path: Path) -> None:
    """Calls without a form in strace are counted, losses are lines that no importer takes for a
    call."""
    builder = Builder(tmp_path / "a.trace")
    builder.program("/bin/x", ["x"])
    builder.row("other", 1)
    builder.row("i386_brk", 0, result=5)
    builder.row("lost", 12, data=b"a line\nwas cut")
    command = [*COMMAND, "export", builder.cut(), "--to", "strace", "-o", "-"]
    done = run_bytes(command, env=environment())
    assert done.returncode == 0
    assert b"left out: i386_brk 1, other 1" in done.stderr
    assert b"# missing: 12 lines or calls: a line was cut" in done.stdout
    assert b"not ended in order" in done.stdout and b"not ended in order" in done.stderr


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"a\x001", r'"a\0001"'),
        (b"a\x00b", r'"a\0b"'),
        (b"\x7f\xff8", r'"\177\3778"'),
        (b'\t\\"', r'"\t\\\""'),
    ],
)
def test_strace_strings(data: bytes, shown: str) -> None:
    """Escapes are strace's."""
    assert quoted(data) == shown


def test_a_call_that_was_begun_before(tmp_path: Path) -> None:
    """Its line has the file that its `begin` row knows, after a line that shows how that was
    open."""
    builder = Builder(tmp_path / "a.trace")
    number = builder.file("/x", mode=READABLE)
    builder.row("begin", 0, 8192, 1, 0x8002, 3, 0, call_code=CODES["mmap"], file=number)
    builder.row("munmap", BASE, 4096, tid=101)
    builder.row("mmap", 0, 8192, 1, 0x8002, 3, 0, result=BASE)
    lines = exported(builder.end(), tmp_path).read_text().splitlines()
    assert lines[1].endswith('openat(AT_FDCWD, "/x", O_RDONLY) = 3</x>')
    assert lines[2].endswith(
        f"mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_POPULATE, 3</x>, 0) = {BASE:#x}"
    )


# There and back


def calls(path: str | Path) -> list[tuple[Any, ...]]:
    """What must come back: calls with arguments, results and files, programs, ends, stacks, in
    order and time."""
    found: list[tuple[Any, ...]] = []
    began = None
    for record in laconic.trace.open(str(path)):
        match record:
            case records.CallRecord():
                began = record.time if began is None else began
                file = record.file and (
                    record.file.file.path,
                    record.file.mode & (READABLE | WRITABLE),
                )
                where = (record.time - began, record.pid, record.tid)
                found.append(
                    (record.call, *where, arguments(record), record.result, file, record.path)
                )
            case records.ProgramRecord():
                found.append(("program", record.pid, record.about.get("argv")))
            case records.Exit():
                found.append(
                    ("exit", record.time - (began or 0), record.pid, record.tid, record.status)
                )
            case records.Stack():
                found.append(("stack", record.tid, record.frames))
            case records.Detail(event="answer") if record.row.a0 == READ:
                found.append(("read", record.row.data.rstrip(b"\0")))
    return found


def arguments(call: records.CallRecord) -> tuple[int, ...]:
    """Those that strace shows, as the kernel reads them: pointers to what it shows instead are only
    there or not."""
    args = list(call.args)
    if call.call.startswith("execve"):
        return ()
    if call.call == "mremap" and not args[3] & 6:
        args.pop()
    for name, place in (("mmap", 4), ("mbind", 5)):
        if call.call == name:
            args[place] &= 0xFFFFFFFF
    for name, place in (("prctl", 4), ("mbind", 3)):
        if call.call == name:
            args[place] = bool(args[place])
    return tuple(args)


def there_and_back(trace: str, tmp_path: Path) -> list[tuple[Any, ...]]:
    """The same, of the trace exported and imported; no line is left that is not understood."""
    log = exported(trace, tmp_path)
    report = import_logs("strace", [str(log)], str(tmp_path / "again.trace"))
    assert report.not_understood == 0, report.puzzles
    return calls(tmp_path / "again.trace")


def test_round_trip(trace: str, tmp_path: Path) -> None:
    """The small trace, with its threads, fork, exec and odd names."""
    assert there_and_back(trace, tmp_path) == calls(trace)


def test_round_trip_of_every_call(tmp_path: Path) -> None:
    """Every memory and process call that strace knows, with usual and with odd arguments, failed
    and not."""
    builder = Builder(tmp_path / "a.trace")
    builder.program("/bin/x", ["x"])
    modes = {READABLE: "r", WRITABLE: "w", READABLE | WRITABLE: "b", 0: "p"}
    for mode, name in modes.items():
        file = builder.file(f"/tmp/{name}", mode=mode | PLAIN)
        builder.row("mmap", BASE, 4096, 3, 0x11, 7, 1 << 40, result=BASE, file=file)
    builder.row("mmap", 0, 1 << 63, 0x3000007, 0x4008D | 21 << 26, -1, -4096 & MASK, result=-12)
    builder.row(
        "mmap",
        0,
        5,
        0,
        0,
        3,
        0,
        state=NO_RESULT,
        file=builder.file("/tmp/b", mode=READABLE | WRITABLE),
    )
    builder.row("answer", READ, BASE, 80, data=b'a "name"\0')
    builder.row("prctl", 0x53564D41, 0, BASE, 4096, BASE, result=0)
    builder.row("prctl", 0x53564D41, 0, BASE, 4096, 0, result=0)
    builder.row("prctl", 65, 1, 0, 0, 0, result=0)
    builder.row("answer", READ, BASE, 8, data=bytes([5, 0, 0, 0, 0, 0, 0, 0]))
    builder.row("mbind", BASE, 4096, 0x8002, BASE, 64, 3, result=0)
    builder.row("mremap", BASE, 4096, 8192, 3, BASE + 8192, result=BASE + 8192)
    builder.row("stack", data=b"/lib/libc.so.6(mmap+0x17) [0x11f2a7]\n/bin/x(main+0x1) [0x1]")
    builder.row("arch_prctl", 0x5001, 1, result=-22)
    builder.row("shmat", 5, BASE, 0o50000, result=BASE)
    builder.row("io_setup", 5, BASE, result=0)
    builder.row("userfaultfd", 0o2004001, result=4)
    numbers = (0, 4096, 1, 5, 0x7FFFFFFF)
    names = sorted(_FORMS.keys() - {"mmap", "mbind", "shmat", "brk", "arch_prctl"})
    for place, name in enumerate(names):
        for shift in range(3):
            args = [numbers[(place + shift + i) % len(numbers)] for i in range(records.ARITY[name])]
            result = (0, -12, 0)[shift]
            # What the kernel refuses did not succeed.
            builder.row(name, *args, result=-22 if impossible_call(name, args, result) else result)
    for name, flags in (
        ("fork", 0),
        ("vfork", 0x4100),
        ("clone", 0x3D0F00),
        ("clone3", 0x100000180),
    ):
        builder.row(name, flags, result=-11)
    builder.row("execve", data=b"/no\n\xff", result=-2)
    builder.row("execveat", data=b"/no", result=-13)
    builder.row("exit", 0x8B)
    trace = builder.end()
    assert there_and_back(trace, tmp_path) == calls(trace)


def test_round_trip_of_a_run(tmp_path: Path) -> None:
    """A real program's threads, forks and programs, as `laconic run -o` recorded them."""
    program = (
        "import mmap, os, subprocess, threading\n"
        "fd = os.memfd_create('x>\"y')\n"
        "os.ftruncate(fd, 8192)\n"
        "m = mmap.mmap(fd, 8192)\n"
        "threads = [threading.Thread(target=lambda: bytearray(1 << 24)) for _ in range(3)]\n"
        "[t.start() for t in threads], [t.join() for t in threads]\n"
        "subprocess.run(['sh', '-c', 'true; true'])\n"
        "os.fork() or os.abort()\n"
    )
    trace = str(tmp_path / "run.trace")
    command = [*COMMAND, "run", "--quiet", "-o", trace, "--", sys.executable, "-c", program]
    assert run_alone(command, env=environment()).returncode == 0
    assert len(calls(trace)) > 100
    assert there_and_back(trace, tmp_path) == calls(trace)
