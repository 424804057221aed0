"""One import of strace logs: from lines to rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from operator import attrgetter

from laconic.memory.vma import LOG_DEVICE, File
from laconic.trace.importers import importing
from laconic.trace.importers.importing import BATCH, Import
from laconic.trace.importers.strace import lines
from laconic.trace.importers.strace.arguments import annotation, number, result_of, split
from laconic.trace.importers.strace.clock import Clock
from laconic.trace.importers.strace.descriptors import StraceDescriptors, mode_of
from laconic.trace.importers.strace.memory import MemoryCalls
from laconic.trace.importers.strace.names import RESTARTS, SUBCALLS
from laconic.trace.importers.strace.opening import Opening
from laconic.trace.importers.strace.order import Order, Slot
from laconic.trace.importers.strace.processes import StraceProcess, StraceThread, UnfinishedCall
from laconic.trace.importers.strace.spawning import FAMILY, Spawning
from laconic.trace.schema import (
    CODES,
    EVENTS,
    MEMORY_CODES,
    MEMORY_EVENTS,
    NO_RESULT,
    PROCESS_EVENTS,
    UNKNOWN_IDENTITY,
    Row,
)
from laconic.trace.writer import TraceWriter

#: Writes the rows of one call, from its thread, its time, and the text after the opening bracket.
Handler = Callable[[StraceThread, int, bytes], None]

#: The maximum number of names for unknown descriptors: so many that no two simultaneous mappings
#: share one.
_STRANGERS = 65536
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


class Session:
    """The state of reading logs, and the methods that write it."""

    def __init__(self, writer: TraceWriter, report: Import) -> None:
        self.writer = writer
        self.report = report
        self.redact = bool(writer.hidden("x") != b"x")
        self.order = Order(writer.rows)
        self.threads: dict[bytes, StraceThread] = {}
        self._clones: dict[StraceThread, None] = {}
        self.clock = Clock()
        self.narrow_calls = 0
        #: Why the order between threads is unknown, if it is.
        self.disorder = ""
        self._strange: Row | None = None
        #: Processes that strace attached to, and the number of their threads that have not been
        #: seen yet.
        self.attached: dict[bytes, int] = {}
        self.memory = MemoryCalls(self)
        self.opening = Opening(self)
        self.spawning = Spawning(self)
        self.quick: dict[bytes, Handler] = {**self.memory.quick, **self.opening.quick}
        self.handlers = self._all_handlers()
        self.counts: Counter[int] = Counter()
        self._files: dict[tuple[bytes, int], int] = {}
        self._inodes: dict[bytes, int] = {}
        self._strangers: list[int] = []
        self._appeared = 0

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

    def stranger(self, key: bytes, time: int) -> StraceThread:
        """Return a thread whose start is not in the log."""
        if key:
            alone = self.threads.get(b"")
            if alone is not None:
                # While there is only one process, lines do not name it: this is that process.
                alone.key = key
                self.threads[key] = alone
                return alone
            tid = int(key)
        else:
            if len(self.threads) == 1:
                return next(iter(self.threads.values()))
            tid = 1
        owner = self._owner(key, time)
        if owner is not None:
            thread = StraceThread(owner.process, tid, owner.files)
        else:
            thread = StraceThread(StraceProcess(tid), tid, StraceDescriptors())
            self.report.processes += 1
        thread.key = key
        self.threads[key] = thread
        self.report.threads += 1
        self._strange = Row(
            CODES["process"],
            time,
            thread.pid,
            tid,
            a0=int(owner is not None),
            result=owner.pid if owner else 0,
        )
        self.order.rows.append(self._strange)
        return thread

    def _owner(self, key: bytes, time: int) -> StraceThread | None:
        # The process of a thread, if strace has attached to exactly one process with further
        # threads.
        if len(self.attached) != 1 or key in self.attached:
            return None
        pid, left = self.attached.popitem()
        if left > 1:
            self.attached[pid] = left - 1
        owner = self.threads.get(pid)
        if owner is None:
            self.attached, others = {}, self.attached
            owner = self.stranger(pid, time)
            self.attached = others
        return owner

    def known(self, thread: StraceThread) -> None:
        """Handle the start of a program: if it is the first event of its thread, the thread's start
        is not missing."""
        rows = self.order.rows
        if len(rows) > 1 and rows[-2] is self._strange and rows[-1].tid == thread.tid:
            del rows[-2]

    # Files

    def file_of(self, thread: StraceThread, fd: bytes, where: tuple[int, int, int]) -> int:
        """Return the number of the file of an mmap's descriptor. Raises ValueError."""
        shown = annotation(fd) if fd[-1:] in b">)" else None
        handle = number(fd) & 0xFFFFFFFF
        if handle >> 31:
            return 0
        known = thread.files.table.get(handle)
        if shown is not None:
            path = shown[0]
            if shown[1] and not path.endswith(b" (deleted)"):
                path += b" (deleted)"
            mode = known.mode if known is not None and known.path == path else mode_of(path, 3)
        elif known is not None and known.path:
            path, mode = known.path, known.mode
        else:
            return self._stranger(handle, thread, where)
        number_of = self._files.get((path, mode))
        if number_of is None:
            inode = self._inodes.setdefault(path, -len(self._inodes) - 1)
            file = File(*LOG_DEVICE, inode, path.decode("utf-8", "surrogateescape"))
            number_of = self._files[path, mode] = self.writer.file(file, 0, mode, now=where)
        return number_of

    def _stranger(self, fd: int, thread: StraceThread, where: tuple[int, int, int]) -> int:
        self.report.doubt("files of some mappings")
        self._appeared += 1
        if len(self._strangers) == _STRANGERS:
            return self._strangers[self._appeared % _STRANGERS]
        path = f"?fd {fd} of {thread.pid}"
        inode = self._inodes.setdefault(b"?%d" % self._appeared, -len(self._inodes) - 1)
        found = self.writer.file(
            File(*LOG_DEVICE, inode, path), 0, 1 | 2 | 4 | 16 | UNKNOWN_IDENTITY, now=where
        )
        self._strangers.append(found)
        return found

    # Messages, and the end

    def note(self, text: str, where: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Add a message, unless it is there already."""
        if self.report.note(text):
            self.order.rows.append(Row(CODES["note"], *where, data=text.encode()))

    def doubt(self, what: str) -> None:
        """Report information that the log does not contain."""
        self.report.doubt(what)

    def lost(self, count: int, text: str, where: tuple[int, int, int]) -> None:
        """Report missing lines or calls."""
        rows = self.order.rows
        data = text.encode()
        last = rows[-1] if rows else None
        if type(last) is Row and last.event == CODES["lost"] and last.data == data:
            rows[-1] = last._replace(a0=last.a0 + count)
        else:
            rows.append(Row(CODES["lost"], *where, a0=count, data=data))

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
