"""The calls of a trace that a report covers: a window of time, processes, programs, calls.

The bookkeeping needs every call. A selection only determines which calls are counted and shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from laconic.trace.schema import MEMORY_CODES, NO_RESULT, PROCESS_EVENTS, UNFINISHED, Row

#: The calls that start a process or a thread.
CLONES: Final = frozenset({"clone", "clone3", "fork", "vfork"})


@dataclass(frozen=True, slots=True)
class Selection:
    """The calls from `start` to `end` (nanoseconds since the trace began; None: its end) of `pids`,
    of `programs` (shell patterns for a path or its last part), and of the names `calls`.

    An empty field selects everything.
    """

    start: int = 0
    end: int | None = None
    pids: tuple[int, ...] = ()
    programs: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()

    def includes(self, time: int, pid: int, program: str, call: str) -> bool:
        """Return whether a call is selected. O(options)."""
        if time < self.start or (self.end is not None and time > self.end):
            return False
        if self.calls and call not in self.calls:
            return False
        return self.includes_process(pid, program)

    def includes_process(self, pid: int, program: str) -> bool:
        """Return whether calls of this process, which runs `program`, can be selected.
        O(options)."""
        if self.pids and pid not in self.pids:
            return False
        if not self.programs:
            return True
        names = (program, program.rsplit("/", 1)[-1])
        return any(fnmatchcase(name, pattern) for pattern in self.programs for name in names)

    @property
    def divides_processes(self) -> bool:
        """True if only some of the calls of a process may be selected."""
        return bool(self.calls or self.start or self.end is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the selection for a report: times in seconds, null for the end of the trace."""
        return {
            "between": [self.start / 1e9, None if self.end is None else self.end / 1e9],
            "pids": list(self.pids),
            "programs": list(self.programs),
            "calls": list(self.calls),
        }

    def __str__(self) -> str:
        """Return the selection as text.

        >>> str(Selection(2_000_000_000, None, (7,), (), ("mmap", "brk")))
        'mmap, brk calls of process 7, from 2 s to the end'
        """
        parts: list[str] = []
        if self.pids:
            many = "es" if len(self.pids) > 1 else ""
            parts.append(f"of process{many} {', '.join(map(str, self.pids))}")
        if self.programs:
            many = "s" if len(self.programs) > 1 else ""
            parts.append(f"of program{many} {', '.join(self.programs)}")
        if self.start or self.end is not None:
            end = "the end" if self.end is None else f"{self.end / 1e9:g} s"
            parts.append(f"from {self.start / 1e9:g} s to {end}")
        calls = f"{', '.join(self.calls)} calls" if self.calls else "calls"
        return f"{calls} {', '.join(parts)}".rstrip()


class RowFilter:
    """Decides for each row, in the order of the trace, whether it is selected.

    Rows that are not calls are selected with their process; rows without a process always are.
    """

    def __init__(self, selection: Selection, names: Sequence[str]) -> None:
        self._selection = selection
        self._names = names
        self._programs: dict[int, str] = {}

    def includes(self, row: Row) -> bool:
        """Return whether a row is selected. Must be called once for every row. O(options)."""
        name = self._names[row.event]
        pid, state = row.pid, row.state
        if name == "program":
            self._programs[pid] = _path(row.data)
        program = self._programs.get(pid, "?")
        if row.event < MEMORY_CODES or name in PROCESS_EVENTS:
            if row.result > 0 and name in CLONES and not state & (UNFINISHED | NO_RESULT):
                self._programs.setdefault(row.result, program)
            return self._selection.includes(row.time, pid, program, name)
        return not pid or self._selection.includes_process(pid, program)


def _path(data: bytes) -> str:
    try:
        return str(json.loads(data).get("path") or "?")
    except (ValueError, AttributeError, RecursionError):
        return "?"
