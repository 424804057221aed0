"""One import of strace logs: from lines to rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from operator import attrgetter

from laconic.trace.importers import importing
from laconic.trace.importers.importing import BATCH, Import
from laconic.trace.importers.strace import lines
from laconic.trace.importers.strace.arguments import number, result_of, split
from laconic.trace.importers.strace.memory import MemoryCalls
from laconic.trace.importers.strace.names import RESTARTS, SUBCALLS
from laconic.trace.importers.strace.opening import Opening
from laconic.trace.importers.strace.processes import Slot, StraceThread, UnfinishedCall
from laconic.trace.importers.strace.spawning import FAMILY, Spawning
from laconic.trace.importers.strace.state import LogState
from laconic.trace.schema import (
    CODES,
    EVENTS,
    MEMORY_CODES,
    MEMORY_EVENTS,
    NO_RESULT,
    PROCESS_EVENTS,
    Row,
)
from laconic.trace.writer import TraceWriter

#: Writes the rows of one call, from its thread, its time, and the text after the opening bracket.
Handler = Callable[[StraceThread, int, bytes], None]

_NAME = re.compile(rb"[a-z_][a-z0-9_]{0,40}")
_SUBCALLS = frozenset(name.encode() for name in SUBCALLS)
_TAKES = frozenset({b"munmap", b"shmdt", b"madvise", b"mremap", b"brk"})
_KEPT = frozenset(name.encode() for name in (*MEMORY_EVENTS, *PROCESS_EVENTS))
CALL_CODES = frozenset(CODES[name] for name in (*MEMORY_EVENTS, *PROCESS_EVENTS))
_FAMILY = frozenset(name.encode() for name in FAMILY)


def ODD(thread: StraceThread, time: int, text: bytes) -> None:  # noqa: N802
    """Marks a name that is not a call's."""


class Handlers(dict[bytes, Handler | None]):
    """Name → the handler that writes the rows of such a call: None for an irrelevant call, ODD for
    a name that is not a call's."""

    def __missing__(self, name: bytes) -> Handler | None:
        if _NAME.fullmatch(name) is None:
            return ODD
        if len(self) < 2000:
            self[name] = None
        return None


class Session(LogState):
    """One import. Joins the two lines of a call that other lines interrupted, and writes each
    call's rows."""

    def __init__(self, writer: TraceWriter, report: Import) -> None:
        super().__init__(writer, report)
        self._clones: dict[StraceThread, None] = {}
        self.memory = MemoryCalls(self)
        self.opening = Opening(self.memory.numbers)
        self.spawning = Spawning(self, self.abandon)
        self.quick: dict[bytes, Handler] = {**self.memory.quick, **self.opening.quick}
        self.handlers = self._all_handlers()
        self.counts: Counter[int] = Counter()

    def _all_handlers(self) -> Handlers:
        handlers = Handlers()
        quick = self.quick
        for name in (*MEMORY_EVENTS, *PROCESS_EVENTS, *self.opening.calls, "unshare"):
            key = name.encode()
            handlers[key] = quick.get(key) or partial(self.whole, key)
        return handlers

    # One call

    def whole(self, name: bytes, thread: StraceThread, time: int, text: bytes) -> None:
        """Write the rows of a call, whose text after the opening bracket is `text`. Raises
        ValueError."""
        parts = split(text)
        match = lines.RESULT.match(parts[1]) if parts else None
        if parts is None or match is None:
            raise ValueError(text)
        word, rest = match.groups()
        result, state = 0, 0
        if word == b"?":
            if rest.split(None, 1)[:1] and rest.split(None, 1)[0] in RESTARTS:
                return
            state = NO_RESULT
        else:
            result = result_of(word, rest)
            rest = word[len(word.partition(b"<")[0]) :] + rest
        self.write(name, thread, time, parts[0], result, state, rest)

    def write(
        self,
        name: bytes,
        thread: StraceThread,
        time: int,
        args: list[bytes],
        result: int,
        state: int,
        rest: bytes,
    ) -> None:
        """Write the rows of a parsed call. Raises ValueError."""
        call = name.decode()
        code = CODES.get(call, 255)
        if code < MEMORY_CODES:
            self.memory.call(call, thread, time, args, result, state)
            if call in self.opening.calls and not state:
                self.opening.call(call, thread, args, result, rest)
        elif code in CALL_CODES:
            self.spawning.call(call, thread, time, args, result, state, rest)
        elif not state:
            self.opening.call(call, thread, args, result, rest)

    # A call whose start and end are on separate lines

    def begin(self, name: bytes, thread: StraceThread, time: int, text: bytes) -> None:
        """Handle the start of a call, if other lines come before its end."""
        if thread.pending is not None:
            self.abandon(thread, NO_RESULT)
        pending = thread.pending = UnfinishedCall(name, text, time)
        if name in _FAMILY:
            self._clones[thread] = None
        if name == b"close":
            # The number may be reused for another thread's file before this call has returned.
            thread.files.table.pop(number(text.partition(b"<")[0].partition(b")")[0]), None)
            pending.done = True
        elif name in _TAKES and not thread.process.narrow and self._takes(name, thread, text):
            pending.slot = self.order.reserve(thread)

    def _takes(self, name: bytes, thread: StraceThread, text: bytes) -> bool:
        if name == b"brk":
            try:
                return 0 < number(text.strip()) < thread.process.brk
            except ValueError:
                return False
        return True

    def end(self, name: bytes, thread: StraceThread, time: int, rest: bytes) -> None:
        """Handle the end of a call in progress; `rest` is the text after `resumed`. Raises
        ValueError."""
        if rest.endswith(b"<unfinished ...>"):
            return
        rest = rest.removeprefix(b">").removeprefix(b" ")
        pending, thread.pending = thread.pending, None
        if pending is None or pending.name != name:
            if pending is not None:
                thread.pending = pending
                self.abandon(thread, NO_RESULT)
            if name in _KEPT and name not in _SUBCALLS:
                self.lost(
                    1,
                    "the end of a call whose beginning is not in the log",
                    (time, thread.pid, thread.tid),
                )
            return
        slot = pending.slot
        if slot is None:
            if not pending.born and not pending.done:
                self.joined(name, thread, time, pending.text + rest)
            return
        if not slot.open:
            return  # given up: its row is written
        outer, self.order.rows = self.order.rows, slot
        try:
            self.joined(name, thread, pending.time, pending.text + rest)
        finally:
            self.order.rows = outer
            if name == b"mremap":
                self._place_mremap(slot)
            self.order.close(slot)

    def joined(self, name: bytes, thread: StraceThread, time: int, text: bytes) -> None:
        """Like `whole`, but fast if the call has the usual format. Raises ValueError."""
        quick = self.quick.get(name)
        if quick is not None:
            try:
                quick(thread, time, text)
                return
            except ValueError:
                pass
        self.whole(name, thread, time, text)

    def _place_mremap(self, slot: Slot) -> None:
        # An mremap removes one range and creates another. It is placed at its end, unless a call
        # that already ended was given the removed range. In that case, another mremap that removed
        # the range this one was given is placed before it.
        if not slot or slot[-1].result < 0:
            return
        row = slot[-1]
        source, target = (
            (row.a0, row.a0 + max(row.a1, 1)),
            (row.result, row.result + max(row.a2, 1)),
        )
        place = None
        for at, other in self.order.since(slot):
            if place is None:
                if (
                    other.event in _MAKES
                    and other.result > 0
                    and _overlap(source, (other.result, other.result + _size(other)))
                ):
                    place = at
            elif other.event == _MREMAP and _overlap(
                target, (other.a0, other.a0 + max(other.a1, 1))
            ):
                self.order.move(at, place)
                place += 1
        self.order.move_slot(slot, place)

    def abandon(self, thread: StraceThread, state: int) -> None:
        """Handle a call that never returned, or whose end the log does not show: `state` is
        UNFINISHED or NO_RESULT."""
        pending, thread.pending = thread.pending, None
        if (
            pending is None
            or pending.born
            or pending.done
            or (pending.slot is not None and not pending.slot.open)
        ):
            return
        slot = pending.slot
        outer = self.order.rows
        if slot is not None:
            self.order.rows = slot
        try:
            parts = split(pending.text + b")")
            if parts is not None and pending.name in _KEPT:
                self.write(pending.name, thread, pending.time, parts[0], 0, state, b"")
        except (ValueError, IndexError, KeyError):
            pass
        finally:
            self.order.rows = outer
            if slot is not None:
                self.order.close(slot)

    # Threads

    def cloning(self) -> list[StraceThread]:
        """Return the threads in a clone whose child has not been seen, in the order in which they
        started it.

        Complexity: O(clones in progress), amortized.
        """
        over = [thread for thread in self._clones if not self._is_cloning(thread)]
        for thread in over:
            del self._clones[thread]
        return list(self._clones)

    def _is_cloning(self, thread: StraceThread) -> bool:
        pending = thread.pending
        if pending is None or pending.name not in _FAMILY or pending.born:
            return False
        return self.threads.get(thread.key) is thread

    # Batches, and the end

    def settle(self) -> None:
        """Called between blocks: give up rows that are held back too long, and write full
        batches."""
        while self.order.full:
            slot = self.order.first()
            if slot is None:
                break
            thread, pending = slot.thread, slot.thread.pending
            if pending is not None and pending.slot is slot:
                self.abandon(thread, NO_RESULT)
                thread.pending = pending
            self.order.close(slot)
        if len(self.writer.rows) >= BATCH:
            self._count()
            importing.flush(self.writer)

    def finish(self) -> None:
        """End the logs: calls in progress have no result."""
        for thread in list(self.threads.values()):
            self.abandon(thread, NO_RESULT)
        if self.narrow_calls:
            self.note(
                f"{self.narrow_calls:,} memory calls of 32-bit processes are not in the trace"
            )
        if self.clock.set_back:
            times = "once" if self.clock.set_back == 1 else f"{self.clock.set_back:,} times"
            self.note(
                f"the log's clock was set back {times}; the times after that continue from the "
                "time before"
            )
        self._count()
        names = {EVENTS[code]: count for code, count in self.counts.items() if code in CALL_CODES}
        self.report.by_call = names

    def _count(self) -> None:
        if self.writer.rows:
            self.report.time = self.writer.rows[-1].time
        self.counts.update(map(attrgetter("event"), self.writer.rows))


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _size(row: Row) -> int:
    return max(row.a2 if row.event == _MREMAP else row.a1, 1)


_MREMAP = CODES["mremap"]
_MAKES = frozenset(CODES[name] for name in ("mmap", "mremap", "shmat"))
