"""The contents of a trace: one pass over it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from laconic.linux.pagemap import page_count
from laconic.trace.losses import Losses
from laconic.trace.schema import (
    CODES,
    MEMORY_CODES,
    NO_RESULT,
    PROCESS_EVENTS,
    UNFINISHED,
    Row,
)
from laconic.trace.selection import RowFilter

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.selection import Selection

#: The maximum number of programs and of places of loss that are kept; further ones are only
#: counted.
KEPT = 10_000
_CALLS = frozenset({*range(MEMORY_CODES), *(CODES[name] for name in PROCESS_EVENTS)})
_OTHERS = {CODES[name]: name for name in ("file", "program", "exit", "lost", "note", "end")}


@dataclass
class Calls:
    """The calls of one name. `unfinished` calls never returned; for `no_result` calls the log does
    not show the result."""

    calls: int = 0
    failed: int = 0
    unfinished: int = 0
    no_result: int = 0


@dataclass
class ProgramInfo:
    """A program that ran: its path, the arguments of its first start (None: unknown), and how often
    it was started."""

    path: str
    argv: list[str] | None
    starts: int = 1


@dataclass
class Contents:
    """The contents of a trace. `began` and `ended` are the times of the first and last event, in
    nanoseconds since the trace began. `touched_pages` (None: unknown) counts the pages of all
    touched runs. `lost` reports the data that is missing in between. `status` is the exit status
    with which the recording ended, None if it has no end marker, or was imported from a log.
    """

    events: int = 0
    by_call: dict[str, Calls] = field(default_factory=dict)
    programs: list[ProgramInfo] = field(default_factory=list)
    more_programs: int = 0
    processes: int = 0
    threads: int = 0
    files: int = 0
    exits: int = 0
    began: int = 0
    ended: int = 0
    touched_pages: int | None = None
    lost: Losses = field(default_factory=Losses)
    notes: list[str] = field(default_factory=list)
    status: int | None = None
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """The number of all calls."""
        return sum(line.calls for line in self.by_call.values())


def contents(
    trace: Trace,
    update: Callable[[int], None] = lambda position: None,
    selection: Selection | None = None,
) -> Contents:
    """Read a trace to its end. `update` receives the number of bytes read. With `selection`, only
    its calls, and only the processes that it includes, are counted. O(events), memory O(threads +
    programs)."""
    row_filter = None if selection is None else RowFilter(selection, trace.names)
    found = Contents()
    pages = 0
    threads: set[tuple[int, int]] = set()
    programs: dict[str, ProgramInfo] = {}
    for rows in trace.batches():
        if not found.events:
            found.began = rows[0].time
        found.events, found.ended = trace.events, rows[-1].time
        if row_filter is not None:
            rows = list(filter(row_filter.includes, rows))
        threads.update(set(map(attrgetter("pid", "tid"), rows)))
        _count_calls(found, rows, trace.names)
        pages += sum(page_count(row.touched) for row in rows if row.touched)
        for row in rows:
            if row.event in _OTHERS:
                _other(found, row, _OTHERS[row.event], programs)
        update(trace.position)
    threads = {(pid, tid) for pid, tid in threads if tid}
    found.threads = len(threads)
    found.processes = len({pid for pid, _ in threads})
    if trace.has_touches:
        found.touched_pages = pages
    return found


def _count_calls(found: Contents, rows: list[Row], names: list[str]) -> None:
    for code, count in Counter(map(attrgetter("event"), rows)).items():
        if code in _CALLS:
            found.by_call.setdefault(names[code], Calls()).calls += count
    for code, result, state in (
        (row.event, row.result, row.state) for row in rows if row.result < 0 or row.state
    ):
        if code not in _CALLS:
            continue
        calls = found.by_call[names[code]]
        if state & UNFINISHED:
            calls.unfinished += 1
        elif state & NO_RESULT:
            calls.no_result += 1
        elif -4095 <= result < 0:
            calls.failed += 1


def _other(found: Contents, row: Row, name: str, programs: dict[str, ProgramInfo]) -> None:
    data: bytes = row.data
    match name:
        case "file":
            found.files += 1
        case "exit":
            found.exits += 1
        case "program":
            about = json.loads(data)
            path = str(about.get("path") or "?")
            if path in programs:
                programs[path].starts += 1
            elif len(programs) < KEPT:
                programs[path] = ProgramInfo(path, about.get("argv"))
                found.programs.append(programs[path])
            else:
                found.more_programs += 1
        case "lost":
            found.lost.add(row)
        case "note":
            if len(found.notes) < KEPT:
                found.notes.append(data.decode("utf-8", "replace"))
        case "end":
            found.report = json.loads(data or b"{}")
            found.notes += found.report.get("notes", [])
            found.status = row.a0 if found.report.get("exit_status", row.a0) is not None else None
