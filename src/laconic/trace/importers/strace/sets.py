"""Several logs of one run: the sets of `strace -ff`, one file per thread, merged by their times."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heapreplace

from laconic.trace.importers.strace import lines
from laconic.trace.importers.strace.clock import nanoseconds
from laconic.trace.importers.strace.lines import style_of
from laconic.trace.importers.strace.reading import ERRORS, StraceReading
from laconic.trace.importers.strace.session import Session
from laconic.trace.importers.text import CHUNK, Log
from laconic.trace.reader import Progress

#: The time of a log whose first line has none.
_UNKNOWN = -(1 << 63)
_PID = re.compile(r"\.(\d{1,9})(?:\.gz|\.zst)?$")
_CHILD = re.compile(rb"^[^\n(]*\b(?:clone3?|v?fork)\([^\n]* = (\d{1,9})\b", re.MULTILINE)
_DURATION = re.compile(rb"<(\d{1,9})\.(\d{1,9})>$")
_DURATIONS = re.compile(rb"<\d+\.\d+>$", re.MULTILINE)
#: Calls that create mappings: in a set, they are placed at their end if `-T` shows it.
_MAKES = re.compile(rb"(?:mmap|mremap|brk|shmat|mprotect|pkey_mprotect|map_shadow_stack)\(")


def keys_of(logs: Sequence[Log]) -> list[bytes]:
    """Return the thread of each log of a `-ff` set, from its name; empty if the logs are not such a
    set."""
    keys = [match[1].encode() for log in logs if (match := _PID.search(log.name))]
    if len(keys) < len(logs) or len(set(keys)) < len(keys):
        return []
    return keys if all(style_of(log.head)[0].pid == "none" for log in logs if log.head) else []


def read_set(
    session: Session, logs: Sequence[Log], keys: list[bytes], progress: Progress | None
) -> None:
    """Read a `-ff` set. O(lines · log(files)); memory for some kilobytes of each file in
    progress."""
    _allow_files(len(logs))
    session.clock.in_order = False
    styles = [style_of(log.head)[0] for log in logs]
    if any(style.time != "clock" for style, log in zip(styles, logs, strict=True) if log.head):
        session.disorder = (
            "the logs of a set without times: the order of its threads' calls is not known"
        )
        session.note(session.disorder)
        for place in _parents_first(logs, keys):
            StraceReading(session, logs[place], styles[place], keys[place]).run(progress)
        return
    order = list(range(len(logs)))
    if min(style.fraction for style, log in zip(styles, logs, strict=True) if log.head) < 6:
        order = _parents_first(logs, keys)
        session.disorder = (
            "the logs of a set with coarse times: the order of its threads' calls is known only to "
            "that"
        )
    elif not any(_DURATIONS.search(log.head) for log in logs):
        session.disorder = (
            "the logs of a set show when calls began, and without -T not when they had ended: the "
            "order "
        )
        session.disorder += "of its threads' calls is uncertain where they overlap"
    chunk = max(CHUNK // max(len(logs), 1), 1 << 14)
    cursors = [
        Cursor(
            StraceReading(session, logs[place], styles[place], keys[place]), rank, chunk, progress
        )
        for rank, place in enumerate(order)
        if logs[place].head
    ]
    earliest = min((cursor.time for cursor in cursors), default=0)
    session.clock.start_at(earliest)
    for cursor in cursors:
        cursor.time -= earliest
    _merge(session, cursors)


class Cursor:
    """The progress of reading one log of a set. `time` is the time at which its next line is
    placed."""

    def __init__(
        self, reading: StraceReading, rank: int, chunk: int, progress: Progress | None
    ) -> None:
        self.reading = reading
        self.rank = rank
        self._blocks = reading.log.blocks(progress, chunk)
        self._lines: list[bytes] = []
        self._at = 0
        self.time = _UNKNOWN
        time = self._time_of(reading.log.head.partition(b"\n")[0])
        self.time = 0 if time == _UNKNOWN else time

    def __lt__(self, other: Cursor) -> bool:
        return (self.time, self.rank) < (other.time, other.rank)

    def advance(self, until: Cursor | None) -> bool:
        """Read lines up to the time of the other log's next line. Returns False at the log's
        end."""
        reading = self.reading
        while True:
            if self._at == len(self._lines):
                block = next(self._blocks, b"")
                if not block:
                    reading.close()
                    return False
                reading.settle_lines()
                self._lines, self._at = block[:-1].split(b"\n"), 0
            start = self._at
            self._at = self._run_end(until)
            reading.take_lines(self._lines, start, self._at)
            if self._at < len(self._lines):
                return True

    def _run_end(self, until: Cursor | None) -> int:
        if until is None:
            return len(self._lines)
        at = self._at
        while at < len(self._lines):
            self.time = self._time_of(self._lines[at])
            if until < self:
                break
            at += 1
        return at

    def _time_of(self, line: bytes) -> int:
        # A line without a time belongs to the previous line.
        match = lines.PREFIX.match(line)
        if match is None or not match[3]:
            return self.time
        try:
            fraction = match[4] or b""
            time = self.reading.session.clock.second(match[3], fraction) + nanoseconds(fraction)
        except ERRORS:
            return self.time
        if line.endswith(b">") and _MAKES.match(line, match.end()):
            took = _DURATION.search(line)
            if took is not None:
                time += int(took[1]) * 1_000_000_000 + nanoseconds(took[2])
        return max(time, self.time)


def _merge(session: Session, cursors: list[Cursor]) -> None:
    heapify(cursors)
    while cursors:
        first = cursors[0]
        second = min(cursors[1:3], default=None)
        if first.advance(second):
            heapreplace(cursors, first)
        else:
            heappop(cursors)
        session.settle()


def _parents_first(logs: Sequence[Log], keys: list[bytes]) -> list[int]:
    # The positions of the logs, each after that of the parent process.
    places = {key: place for place, key in enumerate(keys)}
    children: dict[int, list[int]] = {}
    begun: set[int] = set()
    for place, log in enumerate(logs):
        for block in log.blocks():
            for match in _CHILD.finditer(block):
                child = places.get(match[1])
                if child is not None and child != place and child not in begun:
                    begun.add(child)
                    children.setdefault(place, []).append(child)
    return list(
        _walk([place for place in range(len(logs)) if place not in begun], children, len(logs))
    )


def _walk(roots: list[int], children: dict[int, list[int]], count: int) -> Iterator[int]:
    done: set[int] = set()
    left = roots[::-1]
    while left:
        place = left.pop()
        if place not in done:
            done.add(place)
            yield place
            left.extend(reversed(children.get(place, [])))
    yield from (place for place in range(count) if place not in done)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count + 64 > soft and (hard == resource.RLIM_INFINITY or hard > soft):
        wanted = count + 64 if hard == resource.RLIM_INFINITY else min(count + 64, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
