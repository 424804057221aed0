"""Small traces for tests: written row by row, as the recorder and the importers write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from laconic.memory.change import EXTEND, MAP
from laconic.memory.vma import File
from laconic.trace.schema import CHOSEN, CODES, PLAIN, READABLE, UNFINISHED, WRITABLE, Row, make_row
from laconic.trace.writer import TraceWriter

#: Where mappings of these traces lie.
BASE = 0x7F0000000000
MASK = (1 << 64) - 1
SIGCHLD, THREAD = 17, 0x3D0F00
#: Paths that every format must bring through.
PATHS = ("/lib/libc.so.6", '/tmp/a "b">c<\n\\é 1', "/memfd:x>y (deleted)", "/tmp/gone (deleted)")


class Builder:
    """Appends rows to a trace, a millisecond apart, of process `pid` and thread `tid` (100 both,
    unless told)."""

    def __init__(
        self,
        path: Path,
        source: str = "run",
        about: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.path = str(path)
        self.writer = TraceWriter(self.path, source, about, **options)
        self.time = 0

    def row(
        self, event: str, *args: int, pid: int = 100, tid: int | None = None, **fields: Any
    ) -> None:
        """One row; negative arguments become unsigned as in a register. `call_code` is for rows
        that have it instead of host calls."""
        if "call_code" in fields:
            fields["host_calls"] = fields.pop("call_code")
        numbers: dict[str, Any] = {f"a{place}": value & MASK for place, value in enumerate(args)}
        self.writer.rows.append(
            Row(CODES[event], self.time, pid, pid if tid is None else tid, **numbers, **fields)
        )
        self.time += 1_000_000

    def mapping(self, length: int, prot: int = 3, flags: int = 0x22, **fields: Any) -> None:
        """A mmap for which the host chose an address: BASE, unless told as `result`. RW and private
        anonymous memory, unless told."""
        fields = {"result": BASE, "state": CHOSEN, "host_calls": 1, "kinds": int(MAP), **fields}
        self.row("mmap", 0, length, prot, flags, -1, 0, **fields)

    def file(
        self, path: str, inode: int = 7, size: int = 5000, mode: int = READABLE | WRITABLE | PLAIN
    ) -> int:
        """The number of a file."""
        return self.writer.file(File(8, 1, inode, path), size, mode, now=(self.time, 100, 100))

    def program(self, path: str, argv: Iterable[str], pid: int = 100) -> None:
        """An execve that succeeded, and what ran then."""
        self.row("execve", BASE, BASE + 64, pid=pid, data=self.writer.hidden_path(path))
        about: dict[str, Any] = {"path": os.fsdecode(self.writer.hidden_path(path))}
        about["argv"] = [os.fsdecode(self.writer.hidden(word)) for word in argv]
        self.row(
            "program",
            0x5555_5555_6000,
            0x1000,
            pid=pid,
            data=json.dumps(about | {"bits": 64}).encode(),
        )

    def end(self, status: int = 0) -> str:
        """Ends the trace in order; its path."""
        self.row("end", status, pid=0, data=b"{}")
        return self.cut()

    def cut(self) -> str:
        """Closes the file without an end; its path."""
        self.writer.close()
        assert self.writer.failure is None
        return self.path


def small(path: Path, **options: Any) -> str:
    """A small complete trace: two programs, two threads and a fork, files of odd names, touched
    runs, an exit.

    Process 100 starts /bin/prog, which starts thread 101 and forks 102, which runs /bin/true,
    killed by SIGKILL.
    """
    trace = Builder(path, **options)
    trace.program("/bin/prog", ["prog", 'a "b"\n', "é"])
    trace.row("brk", 0, result=0x5555_5555_6000, host_calls=0)
    for place, name in enumerate(PATHS):
        number = trace.file(name, inode=7 + place)
        result = BASE + place * 8192
        trace.row(
            "mmap",
            0,
            8192,
            1,
            2,
            3,
            4096,
            result=result,
            state=CHOSEN,
            host_calls=1,
            kinds=MAP,
            file=number,
        )
    arena = BASE + (1 << 30)
    trace.mapping(1 << 36, 0, 0x4022, result=arena)
    trace.row("mprotect", arena, 8192, 3, result=0, host_calls=1, kinds=EXTEND)
    trace.row("mprotect", arena, 8192, 3, result=0)
    trace.row("clone3", THREAD, result=101)
    trace.row(
        "madvise",
        arena,
        8192,
        4,
        tid=101,
        result=0,
        host_calls=1,
        touched=((arena, arena + 4096, 0),),
    )
    trace.row("munmap", 5, 4096, tid=101, result=-22)
    trace.row("mremap", BASE, 8192, 16384, 1, 0, tid=101, result=BASE + (2 << 30), host_calls=1)
    trace.row("clone", 0x1200000 | SIGCHLD, result=102)
    trace.program("/bin/true", ["true"], pid=102)
    trace.row("mmap", 0, 4096, 7, 0x22, -1, 0, pid=102, state=UNFINISHED)
    trace.row("exit", 9, pid=102)
    trace.row("exit", 0, tid=101)
    trace.row("exit", 3 << 8, touched=((BASE, BASE + 8192, 0),))
    return trace.end(3 << 8)


def large(path: Path, calls: int, **options: Any) -> str:
    """A trace of that many calls of one process."""
    trace = Builder(path, **options)
    trace.program("/bin/prog", ["prog"])
    code, rows = CODES["mprotect"], trace.writer.rows
    for number in range(calls):
        args = (BASE + number % 1000 * 4096, 4096, 1 + number % 2)
        rows.append(make_row(code, (number * 1000, 100, 100), args, host_calls=number % 2))
        if len(rows) >= 16384:
            trace.writer.flush()
    trace.time = calls * 1000
    return trace.end()
