"""A trace's rows as typed records, for programs that read traces in Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from laconic.linux.pagemap import Touched
from laconic.memory.change import ChangeKind
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import File, Vma
from laconic.trace.schema import (
    CODES,
    MEMORY_CODES,
    NO_RESULT,
    PROCESS_EVENTS,
    UNFINISHED,
    Row,
)

#: The number of arguments of each call; the rest of the six registers contains whatever the program
#: left there.
ARITY = {
    "mmap": 6,
    "mprotect": 3,
    "munmap": 2,
    "brk": 1,
    "mremap": 5,
    "madvise": 3,
    "msync": 3,
    "shmat": 3,
    "shmdt": 1,
    "mlock": 2,
    "munlock": 2,
    "mlockall": 1,
    "munlockall": 0,
    "prctl": 5,
    "arch_prctl": 2,
    "io_setup": 2,
    "io_destroy": 1,
    "remap_file_pages": 5,
    "mbind": 6,
    "userfaultfd": 1,
    "mlock2": 3,
    "pkey_mprotect": 4,
    "process_madvise": 5,
    "set_mempolicy_home_node": 4,
    "map_shadow_stack": 3,
    "mseal": 3,
    "other": 6,
    "i386_brk": 1,
    "mincore": 3,
    "get_mempolicy": 5,
    "set_mempolicy": 3,
    "migrate_pages": 4,
    "move_pages": 6,
    "pkey_alloc": 2,
    "pkey_free": 1,
    "process_mrelease": 2,
    "memfd_secret": 1,
    "clone": 1,
    "clone3": 1,
    "fork": 0,
    "vfork": 0,
    "execve": 2,
    "execveat": 3,
    "personality": 1,
    "seccomp": 3,
}


class TracedFile(NamedTuple):
    """A file that a call's descriptor referred to: identity, size in bytes at that time, `FileMode`
    bits."""

    file: File
    size: int
    mode: int


class CallRecord(NamedTuple):
    """One memory or process call. `time` is in nanoseconds since the trace began.

    `result` is the program's result (a value, or a negative errno); None if the call never returned
    or the log does not show the result. `host_calls` is the number of host calls made for it, and
    `kinds` their kinds of change. `file` is the file of its descriptor; `shown` is the file that
    the host shows for a new mapping, if that is another. `touched` are runs `(start, end, how)` in
    bytes of touched pages that the call was about to change. `path` is the path of an execve.
    """

    number: int
    time: int
    pid: int
    tid: int
    call: str
    args: tuple[int, ...]
    result: int | None
    state: int
    host_calls: int
    kinds: ChangeKind
    file: TracedFile | None
    shown: TracedFile | None
    path: str
    touched: tuple[Touched, ...]


class ProgramRecord(NamedTuple):
    """The process starts a new program. `about` contains `path`, `argv`, `bits` and, if known,
    `layout`."""

    number: int
    time: int
    pid: int
    tid: int
    start_brk: int
    data_size: int
    about: dict[str, Any]


class Maps(NamedTuple):
    """The host's map: the runs `(start, end, vma)` that differed from the bookkeeping. `vma` is
    None for a hole."""

    number: int
    time: int
    pid: int
    tid: int
    runs: tuple[tuple[int, int, Vma | None], ...]


class ProcessRecord(NamedTuple):
    """A process or thread whose start is not in the trace; `parent` is 0 if it is unknown too."""

    number: int
    time: int
    pid: int
    tid: int
    parent: int
    shares_memory: bool


class Exit(NamedTuple):
    """A thread ended, with a wait status (waitpid(2)); `touched` are the pages touched since the
    previous scan."""

    number: int
    time: int
    pid: int
    tid: int
    status: int
    touched: tuple[Touched, ...]


class Loss(NamedTuple):
    """Data is missing here: `missing` lines or calls, 0 if the number is unknown."""

    number: int
    time: int
    pid: int
    tid: int
    missing: int
    text: str


class Note(NamedTuple):
    """A message for the user."""

    number: int
    time: int
    pid: int
    tid: int
    text: str


class Stack(NamedTuple):
    """The stack of this thread's next call as a log showed it, one frame per line."""

    number: int
    time: int
    pid: int
    tid: int
    frames: tuple[str, ...]


class Detail(NamedTuple):
    """A row that belongs to the next call: the answer of an upcall, or a host call that was made
    for it."""

    number: int
    time: int
    pid: int
    tid: int
    event: str
    row: Row


class End(NamedTuple):
    """The end of a complete recording."""

    number: int
    time: int
    pid: int
    tid: int
    status: int
    about: dict[str, Any]


Record = (
    CallRecord | ProgramRecord | Maps | ProcessRecord | Exit | Loss | Note | Stack | Detail | End
)

_FILE, _VMA, _MAPS, _BEGIN = CODES["file"], CODES["vma"], CODES["maps"], CODES["begin"]
_CALLS = {*range(MEMORY_CODES), *(CODES[name] for name in PROCESS_EVENTS)}


def records(rows: Iterable[Row], names: list[str]) -> Iterator[Record]:
    """Yield typed records for rows; `names` are the events' names by code. O(rows)."""
    files: dict[int, TracedFile] = {}
    begun: dict[int, Row] = {}
    pending: tuple[Row, int, list[tuple[int, int, Vma | None]]] | None = None
    for number, row in enumerate(rows):
        code = row.event
        if pending is not None:
            if code == _VMA:
                pending[2].append(vma_run(row, files))
                continue
            if code != _FILE:
                yield _maps(*pending)
                pending = None
        if code in _CALLS:
            yield _call(number, row, names[code], files, begun.pop(row.tid, None))
        elif code == _FILE:
            files[row.file] = traced_file(row)
        elif code == _MAPS:
            pending = row, number, []
        else:
            if code == _BEGIN:
                begun[row.tid] = row
            yield _other(number, row, names[code])
    if pending is not None:
        yield _maps(*pending)


def traced_file(row: Row) -> TracedFile:
    """Return the file that a `file` row describes."""
    inode = row.a2 - (1 << 64) if row.a2 >> 63 else row.a2
    return TracedFile(File(row.a0, row.a1, inode, os.fsdecode(row.data)), row.a3, row.a4)


def vma_run(row: Row, files: Mapping[int, TracedFile | OpenFile]) -> tuple[int, int, Vma | None]:
    """Return the run `(start, end, vma)` that a `vma` row describes."""
    if row.a5:
        return row.a0, row.a1, None
    base = row.a3 - (1 << 64) if row.a3 >> 63 else row.a3
    number = row.file
    # Here, the number 0 means no file. In a replay of a log, it is the number of an unknown file,
    # for calls.
    file = files[number].file if number and number in files else None
    name = os.fsdecode(row.data) if row.data else None
    return row.a0, row.a1, Vma(row.a2, file, base, name, row.a4)


def _maps(row: Row, number: int, runs: list[tuple[int, int, Vma | None]]) -> Maps:
    return Maps(number, row.time, row.pid, row.tid, tuple(runs))


def _call(
    number: int, row: Row, name: str, files: dict[int, TracedFile], begun: Row | None
) -> CallRecord:
    state, file, touched = row.state, row.file, row.touched
    if begun is not None and begun.call_code == row.event:
        # Facts known when the call's work began are in that row.
        file, touched = file or begun.file, touched or begun.touched
    return CallRecord(
        number=number,
        time=row.time,
        pid=row.pid,
        tid=row.tid,
        call=name,
        args=row.args[: ARITY.get(name, 6)],
        result=None if state & (UNFINISHED | NO_RESULT) else row.result,
        state=state,
        host_calls=row.host_calls,
        kinds=ChangeKind(row.kinds),
        file=files.get(file),
        shown=files.get(row.shown),
        path=os.fsdecode(row.data),
        touched=touched,
    )


def _other(number: int, row: Row, event: str) -> Record:
    where: tuple[int, int, int, int] = number, row.time, row.pid, row.tid
    text = row.data
    match event:
        case "program":
            return ProgramRecord(*where, row.a0, row.a1, json.loads(text))
        case "process":
            return ProcessRecord(*where, row.result, bool(row.a0))
        case "exit":
            return Exit(*where, row.a0, row.touched)
        case "lost":
            return Loss(*where, row.a0, text.decode("utf-8", "replace"))
        case "note":
            return Note(*where, text.decode("utf-8", "replace"))
        case "stack":
            return Stack(*where, tuple(text.decode("utf-8", "replace").splitlines()))
        case "end":
            return End(*where, row.a0, json.loads(text or b"{}"))
        case _:
            return Detail(*where, event, row)
