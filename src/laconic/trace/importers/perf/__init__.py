"""Importing the text of `perf trace` and `perf script`, as Debian's linux-perf prints it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from laconic.memory.flags import MADV_DONTNEED, MADV_DONTNEED_LOCKED
from laconic.trace.importers.gramine.line import COLOUR
from laconic.trace.importers.importing import Import, flush, lost, refuse
from laconic.trace.importers.perf.line import (
    SCRIPT,
    SUMMARY,
    TRACE,
    PerfEvent,
    ScriptLines,
    TraceLines,
)
from laconic.trace.importers.perf.processes import PerfProcesses
from laconic.trace.importers.text import Log
from laconic.trace.reader import Progress
from laconic.trace.schema import FILE_SIZES
from laconic.trace.writer import TraceWriter

#: The number of events held back to sort them by time.
WINDOW = 65536
_CURE = (
    "One is made with  perf trace -F all -e "
    "mmap,munmap,mprotect,mremap,brk,madvise,clone,clone3,fork,vfork,execve,exit,exit_group,"
    "openat,close,task:task_newtask "
    "-o LOG -- CMD"
)
#: Calls that remove or copy memory do so after they started; all others have done their work when
#: they end.
_AT_START = {"munmap", "shmdt", "clone", "clone3", "fork", "vfork", "execve", "execveat"}
_AT_START_ADVICE = {MADV_DONTNEED, MADV_DONTNEED_LOCKED}


def inspect(logs: Sequence[Log]) -> dict[str, Any]:
    """Return a description of the logs from their heads. Raises LaconicError for a log without a
    line of either command."""
    kinds = {_kind(log): log for log in logs if log.head}
    if len(kinds) > 1:
        raise refuse(kinds["script"], "perf trace", "Give the logs of one command at a time")
    kind = next(iter(kinds))
    heads = b"".join(log.head for log in logs)
    unknown = ["initial maps", FILE_SIZES]
    if kind == "script" and b"page_fault_user:" in heads:
        faults = "page_fault_user"
    elif b"fault [" in heads or b"-faults:" in heads:
        # The text shows the position of a fault in a file, or does not show whether the fault was a
        # write.
        faults, unknown = "faults", ["touched pages of files", *unknown]
    else:
        faults, unknown = "none", ["touched pages", *unknown]
    return {
        "log": [log.name for log in logs],
        "unknown": unknown,
        "clock": "perf",
        "text": kind,
        "faults": faults,
    }


def import_log(
    logs: Sequence[Log], writer: TraceWriter, report: Import, progress: Progress | None
) -> None:
    """Append the rows of the calls in the logs. O(bytes × log of the window); memory is bounded by
    the window and by the runs of touched pages."""
    kind = next(_kind(log) for log in logs if log.head)
    lines = TraceLines() if kind == "trace" else ScriptLines()
    order = _PerfOrder(PerfProcesses(writer, report, lines.births), report)
    read = 0
    for log in logs:
        number = 0
        for block in log.blocks():
            for line in (COLOUR.sub(b"", block) if b"\x1b" in block else block)[:-1].split(b"\n"):
                number += 1
                if not line or line.startswith(b"#"):
                    continue
                if SUMMARY.match(line):
                    break
                try:
                    event = lines.read(line)
                except (ValueError, KeyError):
                    report.puzzle(log, number, line)
                    text = f"line {number:,} of {log.name} was not understood".encode()
                    event = PerfEvent("lost", lines.last, lines.last, 0, 0, (1,), path=text)
                if event is not None:
                    order.push(event)
            else:
                flush(writer)
                if progress is not None:
                    progress(read + log.consumed)
                continue
            break
        read += log.consumed
        report.lines += number
        if log.loss is not None:
            lost(writer, 0, log.loss)
            report.note(log.loss)
    for event in lines.unfinished():
        order.push(event)
    order.finish()
    if lines.file_faults:
        report.note(
            f"{lines.file_faults:,} faults in mapped files have no address in the text of perf "
            "trace, and are left out: perf script of exceptions:page_fault_user has them"
        )


class _PerfOrder:
    # Sorts events, which come by processor and not quite in order: the earliest of a window goes
    # first.

    def __init__(self, processes: PerfProcesses, report: Import) -> None:
        self._processes, self._report = processes, report
        self._heap: list[tuple[int, int, PerfEvent]] = []
        self._count = 0
        self._late = 0
        self._first: int | None = None
        self._last = 0

    def push(self, event: PerfEvent) -> None:
        early = event.name in _AT_START or (
            event.name == "madvise" and event.args[2] in _AT_START_ADVICE
        )
        self._count += 1
        item = event.start if early else event.end, self._count, event
        if len(self._heap) < WINDOW:
            heapq.heappush(self._heap, item)
        else:
            self._take(heapq.heappushpop(self._heap, item))

    def finish(self) -> None:
        while self._heap:
            self._take(heapq.heappop(self._heap))
        self._processes.finish()
        self._report.time = self._last
        if self._late:
            self._report.note(
                f"{self._late:,} events came more than {WINDOW:,} events late, and stand out of "
                "order: record with perf trace --sort-events, or import the text of perf script"
            )

    def _take(self, item: tuple[int, int, PerfEvent]) -> None:
        at = item[0]
        if self._first is None and at >= 0:
            self._first = at
        since = min(at - (self._first or 0), (1 << 63) - 1)
        self._late += at >= 0 and since < self._last
        self._last = max(self._last, since)
        self._processes.take(item[2], self._last)


def _kind(log: Log) -> str:
    # Return the command that printed a log, or raise LaconicError.
    for line in COLOUR.sub(b"", log.head.replace(b"\r\n", b"\n")).split(b"\n")[:1000]:
        if TRACE.match(line):
            return "trace"
        if SCRIPT.match(line):
            return "script"
    raise refuse(log, "perf trace or perf script", _CURE)
