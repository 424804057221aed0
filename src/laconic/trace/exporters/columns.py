"""One flat row per call, for tools that read tables: the columns, and the rows of a trace."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from laconic.linux.pagemap import page_count
from laconic.memory.change import kind_names
from laconic.trace.exporters import constants
from laconic.trace.records import ARITY, TracedFile, traced_file
from laconic.trace.schema import (
    CODES,
    MEMORY_CODES,
    NO_RESULT,
    PROCESS_EVENTS,
    UNFINISHED,
    UNKNOWN_IDENTITY,
    Row,
)
from laconic.trace.selection import CLONES, RowFilter

if TYPE_CHECKING:
    from laconic.stacks.symbolize import Place
    from laconic.stacks.table import Frame, Module
    from laconic.trace import Trace
    from laconic.trace.selection import Selection

#: Column → Arrow type. Every column except the first five may be null, if it does not apply or is
#: unknown.
COLUMNS: Final = {
    "event": "int64",  # the row's number in the trace
    "time_ns": "int64",  # since the trace began
    "pid": "int32",
    "tid": "int32",
    "call": "string",  # or program, process, exit, lost, note, end
    "arg0": "uint64",
    "arg1": "uint64",
    "arg2": "uint64",
    "arg3": "uint64",
    "arg4": "uint64",
    "arg5": "uint64",
    "address": "uint64",
    "length": "uint64",  # bytes, as the program passed it
    "prot": "string",
    "flags": "string",
    "advice": "string",
    "result": "int64",
    "errno": "string",
    "state": "string",
    "host_calls": "uint32",
    "kinds": "string",
    "path": "string",
    "device": "string",
    "inode": "uint64",
    "offset": "uint64",  # bytes into the file
    "file_size": "uint64",  # bytes, at that time
    "touched_pages": "uint64",
    "program": "string",
    "stack": "string",  # one line per frame, innermost first
    "function": "string",  # of the innermost frame
    "module": "string",
    "source_file": "string",
    "source_line": "uint32",
    "redundant": "bool_",
    "every_call_cycles_low": "float64",
    "every_call_cycles_high": "float64",
    "laconic_cycles_low": "float64",
    "laconic_cycles_high": "float64",
    "text": "string",
}
Flat = tuple[Any, ...]


class CallFacts(NamedTuple):
    """The facts about one call from a replay, for the columns of the same names.

    `cycles` contains the low and the high estimate under every-call, and those under laconic. It is
    empty if they are unknown.
    """

    kinds: str | None = None
    stack: str | None = None
    function: str | None = None
    module: str | None = None
    source_file: str | None = None
    source_line: int | None = None
    redundant: bool | None = None
    cycles: tuple[float, ...] = ()


class Analysis(Protocol):
    """The facts about each call of a trace, by the number of its row."""

    def facts(self, event: int) -> CallFacts:
        """Return the facts about a call; none if the row is not a call."""

    def frames(self, event: int) -> Sequence[tuple[Frame, Module | None, Sequence[Place]]]:
        """Return the frames of a call's recorded stack, innermost first."""


#: Calls on a range: the indices of its address and its length (bytes).
_RANGES: Final = {
    "mmap": (0, 1),
    "mprotect": (0, 1),
    "munmap": (0, 1),
    "mremap": (0, 1),
    "madvise": (0, 1),
    "msync": (0, 1),
    "mlock": (0, 1),
    "munlock": (0, 1),
    "remap_file_pages": (0, 1),
    "mbind": (0, 1),
    "mlock2": (0, 1),
    "pkey_mprotect": (0, 1),
    "set_mempolicy_home_node": (0, 1),
    "map_shadow_stack": (0, 1),
    "mseal": (0, 1),
    "mincore": (0, 1),
    "prctl": (2, 3),
}
_PROT: Final = {"mmap": 2, "mprotect": 2, "pkey_mprotect": 2}
_STATES: Final = ("unfinished", "refused", "chosen", "unfollowed", "no_result")
_SHOWN: Final = {"program", "process", "exit", "lost", "note", "end"}
_NO_FACTS: Final = CallFacts()
_NO_CYCLES: Final = (None,) * 4
_FIRST_PROCESS: Final = CODES[PROCESS_EVENTS[0]]
_LAST_PROCESS: Final = CODES[PROCESS_EVENTS[-1]]


class Window(NamedTuple):
    """The selected part of a trace, in nanoseconds since it began; `until` None is its end."""

    begin: int = 0
    until: int | None = None

    def __contains__(self, time: object) -> bool:
        return (
            isinstance(time, int)
            and time >= self.begin
            and (self.until is None or time <= self.until)
        )


class Flattener:
    """Converts rows of a trace to flat rows. It keeps what they refer to, with one entry per file
    and per process."""

    def __init__(
        self,
        trace: Trace,
        window: Window,
        analysis: Analysis | None = None,
        selection: Selection | None = None,
    ) -> None:
        self._filter = None if selection is None else RowFilter(selection, trace.names)
        self._analysis = analysis
        self._names = trace.names
        self._window = window
        self._recorded = trace.source == "run"
        self._touched = trace.has_touches
        self._files: dict[int, TracedFile] = {}
        self._programs: dict[int, str] = {}
        self._stacks: dict[int, str] = {}
        self._begun: dict[int, Row] = {}
        self._number = -1

    def flat(self, rows: Iterable[Row]) -> Iterator[Flat]:
        """Yield flat rows for these rows: the calls, and other events of interest to readers of
        tables. O(rows)."""
        for row in rows:
            self._number += 1
            code = row.event
            selected = self._filter is None or self._filter.includes(row)
            if code < MEMORY_CODES or _FIRST_PROCESS <= code <= _LAST_PROCESS:
                flat = self._call(row, self._names[code])
            elif (name := self._names[code]) == "file":
                self._files[row.file] = traced_file(row)
                continue
            elif name == "begin":
                self._begun[row.tid] = row
                continue
            elif name == "stack":
                self._stacks[row.tid] = text(row.data)
                continue
            elif name in _SHOWN:
                flat = self._other(row, name)
            else:
                continue
            if selected and row.time in self._window:
                yield flat

    def loss(self, sentence: str, time: int) -> Flat:
        """Return the last row, which states what is missing in the file itself."""
        return _row(
            {
                "event": self._number + 1,
                "time_ns": time,
                "pid": 0,
                "tid": 0,
                "call": "lost",
                "text": sentence,
            }
        )

    def _call(self, row: Row, name: str) -> Flat:
        time, pid, tid, args = row.time, row.pid, row.tid, row.args
        result, state, host_calls, kinds = row.result, row.state, row.host_calls, row.kinds
        number, data, touched = row.file, row.data, row.touched
        if self._begun and (begun := self._begun.pop(tid, None)) is not None:
            number, touched = number or begun.file, touched or begun.touched
        arity = ARITY.get(name, 6)
        address = length = None
        if name in _RANGES:
            first, second = _RANGES[name]
            address, length = args[first], args[second]
        elif name == "brk":
            address = args[0]
        known = not state & (UNFINISHED | NO_RESULT)
        if known and name in CLONES and result > 0 and pid in self._programs:
            # When vfork returns, its child has already run another program.
            self._programs.setdefault(result, self._programs[pid])
        file = self._files.get(number)
        logged = self._stacks.pop(tid, None) if self._stacks else None
        facts = _NO_FACTS if self._analysis is None else self._analysis.facts(self._number)
        recorded = _kinds(kinds) if self._recorded and kinds else None
        return (
            self._number,
            time,
            pid,
            tid,
            name,
            *args[:arity],
            *[None] * (6 - arity),
            address,
            length,
            constants.prot(args[_PROT[name]] & 0xFFFFFFFF) if name in _PROT else None,
            flags_text(name, args),
            constants.one(args[2] & 0xFFFFFFFF, constants.MADV, "MADV")
            if name == "madvise"
            else None,
            result if known else None,
            error_name(result) if known and result < 0 else None,
            _state(state) if state else None,
            host_calls if self._recorded else None,
            recorded or facts.kinds,
            *(
                _file(file, args[5] if name == "mmap" else None)
                if file
                else (text(data) or None, *[None] * 4)
            ),
            page_count(touched) if self._touched else None,
            self._programs.get(pid),
            facts.stack or logged,
            *facts[2:7],
            *(facts.cycles or _NO_CYCLES),
            None,
        )

    def _other(self, row: Row, name: str) -> Flat:
        time, pid, tid, a0 = row.time, row.pid, row.tid, row.a0
        result, data, touched = row.result, row.data, row.touched
        fields: dict[str, Any] = {
            "event": self._number,
            "time_ns": time,
            "pid": pid,
            "tid": tid,
            "call": name,
        }
        fields["text"] = text(data) or None
        if name == "program":
            fields["path"] = self._programs[pid] = program_path(data)
        elif name == "process":
            fields["result"] = result
        elif name in ("exit", "end"):
            fields["result"] = a0
        fields["program"] = self._programs.get(pid)
        if name == "exit":
            fields["touched_pages"] = page_count(touched) if self._touched else None
            if tid == pid:
                self._programs.pop(pid, None)
        return _row(fields)


def _row(fields: dict[str, Any]) -> Flat:
    return tuple(map(fields.get, COLUMNS))


def _file(
    file: TracedFile, offset: int | None
) -> tuple[str | None, str | None, int | None, int | None, int | None]:
    size = None if file.size >> 63 else file.size
    path = text(os.fsencode(file.file.path)) or None
    if file.mode & UNKNOWN_IDENTITY:
        return path, None, None, offset, size or None  # a log without sizes has 0
    return path, file.file.device, file.file.inode & (1 << 64) - 1, offset, size


def flat_rows(
    trace: Trace,
    window: Window,
    analysis: Analysis | None = None,
    selection: Selection | None = None,
) -> Iterator[list[Flat]]:
    """Yield the trace as flat rows, batch by batch. O(rows).

    If data is missing, a row at the end reports that. Without an analysis, the columns that it
    fills are null.
    """
    flattener = Flattener(trace, window, analysis, selection)
    time = 0
    for rows in trace.batches():
        time = rows[-1].time
        yield list(flattener.flat(rows))
    if trace.loss:
        yield [flattener.loss(trace.loss, time)]


def text(data: bytes) -> str:
    """Return the bytes of a path or a message as text for any tool: bytes that are not UTF-8 are
    escaped."""
    return data.decode("utf-8", "backslashreplace")


def program_path(data: bytes) -> str:
    """Return the path in a `program` row's JSON."""
    return text(os.fsencode(json.loads(data).get("path") or "?"))


def error_name(result: int) -> str | None:
    """Return the errno of a negative result, by name if it has one; None for an address."""
    if result < -4095:
        return None
    return errno.errorcode.get(-result, str(-result))


def flags_text(name: str, args: Sequence[int]) -> str | None:
    """Return the flags of a call, with the kernel's names; None if the call has no flags, or none
    with names."""
    match name:
        case "mmap":
            return constants.map_flags(args[3] & 0xFFFFFFFF)
        case "mremap":
            return constants.bits(args[3], constants.MREMAP)
        case "msync":
            return constants.bits(args[2] & 0xFFFFFFFF, constants.MS)
        case "mlockall":
            return constants.bits(args[0] & 0xFFFFFFFF, constants.MCL)
        case "mlock2":
            return constants.bits(args[2] & 0xFFFFFFFF, constants.MLOCK)
        case "shmat":
            return constants.bits(args[2] & 0xFFFFFFFF, constants.SHM)
        case "mbind":
            return constants.memory_policy(args[2] & 0xFFFFFFFF)
        case "prctl":
            return constants.one(args[0], constants.PR, "PR")
        case "clone" | "clone3" | "fork" | "vfork":
            return constants.clone_flags(args[0], name != "clone3")
        case _:
            return None


@lru_cache(256)
def _kinds(value: int) -> str:
    return kind_names(value) if value else ""


@lru_cache(32)
def _state(value: int) -> str:
    return " ".join(word for bit, word in enumerate(_STATES) if value >> bit & 1)
