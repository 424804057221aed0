"""Reading the logs that Gramine writes with `loader.log_level = "trace"`, and Graphene's before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.trace.importers.gramine.line import (
    ANY,
    BARE,
    COLOUR,
    FILES,
    LINE,
    MEMORY,
    PART,
    PROCESS,
    UNSUPPORTED,
    Clock,
    result,
)
from laconic.trace.importers.gramine.processes import Processes, Thread
from laconic.trace.importers.importing import UNKNOWN, Import, lost, refuse
from laconic.trace.importers.text import MAX_LINE, Log, Progress
from laconic.trace.writer import TraceWriter

_CURE = 'One is made with  loader.log_level = "trace"  in the program\'s manifest'
#: Threads, and names of calls in notes, that are kept in mind.
_MANY, _NAMES = 65536, 64
_FOLLOWED = MEMORY | PROCESS
_EXITS = {b"exit", b"exit_group"}
_WANTED = _FOLLOWED | FILES | _EXITS


def inspect(logs: Sequence[Log]) -> dict[str, Any]:
    """What the logs' heads tell. Raises LaconicError for one that has no line of Gramine's log at level trace."""
    clock = Clock()
    for log in logs:
        head = COLOUR.sub(b"", log.head.replace(b"\r\n", b"\n"))
        levels = {found[2] for found in ANY.finditer(head)}
        if head and not levels & {b"trace", b"debug", None}:
            if levels:
                level = max(levels).decode()
                raise refuse(log, "Gramine's system calls", f"It holds no more than level {level}. {_CURE}")
            raise refuse(log, "Gramine", _CURE)
        for line in head.split(b"\n")[:100]:
            clock.read(line)
    return {"log": [log.name for log in logs], "unknown": list(UNKNOWN), "clock": clock.style or "none"}


def import_log(logs: Sequence[Log], writer: TraceWriter, report: Import, progress: Progress | None) -> None:
    """Appends the rows of the calls in the logs, which are read one after the other. O(bytes), bounded memory."""
    reading = _Reading(writer, report)
    done = 0
    for log in logs:
        reading.log, reading.number = log, 0
        for block in log.blocks():
            reading.block(block)
            if progress is not None:
                progress(done + log.consumed)
        done += log.consumed
        if log.loss is not None:
            lost(writer, 0, log.loss)
            report.note(log.loss)
    reading.finish()


class _Reading:
    # The state of an import: lines in, rows out.

    log: Log

    def __init__(self, writer: TraceWriter, report: Import) -> None:
        self.number = 0
        self._writer, self._report = writer, report
        self._processes = Processes(writer, report)
        self._clock = Clock()
        self._threads: dict[bytes, Thread] = {}
        self._unsupported: dict[str, int] = {}
        self._mocked: dict[str, int] = {}
        self._late = 0

    def block(self, block: bytes) -> None:
        # Whole lines. Most are no memory calls: those cost one look-up.
        if b"\x1b" in block:
            block = COLOUR.sub(b"", block)
        processes, call = self._processes, self._call
        executing = processes.executing
        number = self.number
        for front, who, graphene, back, name, rest, other in LINE.findall(block, 0, len(block) - 1):
            number += 1
            if not name:
                if other:
                    self._other(number, other)
                continue
            if executing and not back:
                self._ran(who or graphene)
            if name in _WANTED:
                if front:
                    processes.now = self._clock.read(front)
                call(number, who or graphene, back, name, rest)
        self._report.lines += number - self.number
        self.number = number
        processes.flush()

    def finish(self) -> None:
        for thread in self._threads.values():
            if thread.part:
                self._give_up(self.number, thread)
        self._processes.finish()
        report = self._report
        report.time = self._processes.now
        for counts, what in (
            (self._unsupported, "Gramine does not support, and they failed"),
            (self._mocked, "Gramine mocks, and they did nothing"),
        ):
            if counts:
                names = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
                report.note(f"calls that {what}: {names}")
        if self._late:
            report.note(f"{self._late:,} lines came from processes that had ended, and were left out")

    def _call(self, number: int, who: bytes, back: bytes, name: bytes, rest: bytes) -> None:
        thread = self._threads.get(who)
        if thread is None or thread.gone:
            thread = self._thread(who, name, rest)
            if thread is None:
                self._late += 1
                return
        if thread.part:
            self._give_up(number, thread)
        args, _, tail = rest.rpartition(b")")
        processes = self._processes
        try:
            if tail == b" ...":
                if name in _FOLLOWED:
                    processes.begin(thread, name, args)
                else:
                    thread.opening = args
            elif tail.startswith(b" = "):
                if name not in _FOLLOWED:
                    processes.file_call(thread, name, thread.opening if back else args, result(tail[3:]))
                elif back:
                    processes.end(thread, name, result(tail[3:]))
                else:
                    processes.whole(thread, name, args, result(tail[3:]))
            elif name in _EXITS and args.startswith(b"returning "):
                processes.exit(thread, int(args[10:], 0), whole=name == b"exit_group")
            elif rest.endswith(b" (mock)"):
                _count(self._mocked, name)
            else:
                thread.part = back + name + b"(" + rest
        except ValueError:
            self._puzzle(number, thread, back + name + b"(" + rest)

    def _thread(self, who: bytes, name: bytes, rest: bytes) -> Thread | None:
        # A thread that is seen for the first time, or again after its end; None: its process has ended.
        process, colon, thread = who.partition(b":")
        if colon:
            pid = _id(process[1:]) or 1
            tid = _id(thread[1:]) or pid
        else:
            tid = _id(process) or 1
            pid = self._processes.process_of(tid)
        # A program that is run again has the same ids; the first call of each is the loader's.
        again = tid == pid and name == b"brk" and rest.startswith((b"0)", b"0x0)"))
        if self._processes.late(pid, tid) and not again:
            return None
        if len(self._threads) >= _MANY:
            for one in self._threads.values():
                if one.part:
                    self._give_up(self.number, one)
            self._threads.clear()
        found = self._threads[who] = self._processes.thread(pid, tid)
        return found

    def _ran(self, who: bytes) -> None:
        # An execve that succeeded never returns: the next call of its thread is the new program's.
        thread = self._threads.get(who)
        if thread in self._processes.executing:
            self._processes.ran(thread)

    def _other(self, number: int, line: bytes) -> None:
        # A line that shows no call, or not in the common way: messages, the program's output, parts of long lines.
        part = PART.search(line)
        if part is not None and not part[2].startswith(b"---- "):
            thread = self._threads.get(part[1])
            if thread is not None and thread.part:
                joined, thread.part = thread.part + part[2], b""
                whole = BARE.match(b"---- " + joined)
                if whole is not None and len(joined) <= MAX_LINE:
                    self._call(number, part[1], whole[1] or b"", whole[2], whole[3])
                else:
                    self._puzzle(number, thread, joined)
        elif (found := UNSUPPORTED.search(line)) is not None:
            _count(self._unsupported, found[1])
        elif (bare := BARE.search(line)) is not None:
            if bare[2] in _WANTED:
                self._call(number, b"", bare[1] or b"", bare[2], bare[3])
        elif b"trace: ---- " in line:
            self._report.puzzle(self.log, number, line)

    def _give_up(self, number: int, thread: Thread) -> None:
        # The rest of a line that was split did not come.
        text, thread.part = thread.part, b""
        self._puzzle(number, thread, text)

    def _puzzle(self, number: int, thread: Thread, text: bytes) -> None:
        self._report.puzzle(self.log, number, text)
        if not text.removeprefix(b"return from ").startswith(_FILES):
            where = self._processes.now, thread.process.pid, thread.tid
            lost(self._writer, 1, f"line {number:,} of {self.log.name} was not understood", where)


_FILES = tuple(name + b"(" for name in FILES)


def _id(digits: bytes) -> int:
    # Columns for ids are signed 32 bits wide.
    return int(digits or b"0") & 0x7FFFFFFF


def _count(counts: dict[str, int], name: bytes) -> None:
    key = name.decode() if len(counts) < _NAMES or name.decode() in counts else "others"
    counts[key] = counts.get(key, 0) + 1
