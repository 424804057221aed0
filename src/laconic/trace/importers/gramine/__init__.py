"""Importing the logs that Gramine, and Graphene before it, write with `loader.log_level =
"trace"`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from laconic.trace.importers.gramine.glue import CUT, Fragment, Fragments, split
from laconic.trace.importers.gramine.line import (
    ANY,
    BARE,
    COLOUR,
    FILES,
    HEADER,
    LINE,
    MEMORY,
    PROCESS,
    UNSUPPORTED,
    WHOLE,
    LineTimes,
    result,
)
from laconic.trace.importers.gramine.measured import COUNTERS, Statistics
from laconic.trace.importers.gramine.processes import GramineProcesses, GramineThread
from laconic.trace.importers.gramine.start import Mounts, ProgramStart
from laconic.trace.importers.importing import Import, lost, refuse
from laconic.trace.importers.text import MAX_LINE, Log
from laconic.trace.reader import Progress
from laconic.trace.sysroot import Sysroot
from laconic.trace.writer import TraceWriter

_CURE = 'One is made with  loader.log_level = "trace"  in the program\'s manifest'
#: The maximum number of threads, and of names of calls in notes, that are kept.
_MANY, _NAMES = 65536, 64
_FOLLOWED = MEMORY | PROCESS
_EXITS = {b"exit", b"exit_group"}
_WANTED = _FOLLOWED | FILES | _EXITS
_MASK = (1 << 64) - 1
_COMMIT = re.compile(rb"Gramine was built from commit: (\S{1,80})")
_HOST = re.compile(rb"debug: Host: (\S{1,80})")
_STACK = re.compile(rb"Allocated stack at (\w+) \(size = (\w+)\)")
_ADDING = re.compile(rb"adding (\S.*) at (\w+)$")
_MOUNTING = re.compile(rb'mounting "(.*)" \(\w+\) under (.*)$')
_ENTRY = re.compile(rb"memory entry \[\w+\]: (\w+)-(\w+)$")
#: The maximum number of memory entries of a fork that are kept until the child is known.
_ENTRIES = 1 << 20


def inspect(logs: Sequence[Log]) -> dict[str, Any]:
    """Return a description of the logs from their heads. Raises LaconicError for a log without a
    line of Gramine's at level trace."""
    clock = LineTimes()
    for log in logs:
        head = COLOUR.sub(b"", log.head.replace(b"\r\n", b"\n"))
        levels = {found[2] for found in ANY.finditer(head)}
        if head and not levels & {b"trace", b"debug", None}:
            if levels:
                level = max(levels).decode()
                raise refuse(
                    log, "Gramine's system calls", f"It holds no more than level {level}. {_CURE}"
                )
            raise refuse(log, "Gramine", _CURE)
        for line in head.split(b"\n")[:100]:
            clock.read(line)
    about = {
        "log": [log.name for log in logs],
        "unknown": ["touched pages"],
        "clock": clock.style or "none",
    }
    # Those of the first run; a log with runs of different builds gets a note.
    for name, pattern in (("gramine_commit", _COMMIT), ("gramine_host", _HOST)):
        shown = next(filter(None, (pattern.search(log.head) for log in logs)), None)
        if shown is not None:
            about[name] = shown[1].decode("utf-8", "replace")
    return about


def import_log(
    logs: Sequence[Log],
    writer: TraceWriter,
    report: Import,
    progress: Progress | None,
    root: Sysroot | None = None,
) -> None:
    """Append the rows of the calls in the logs, which are read one after the other.

    `root` contains the files that the program used. O(bytes), bounded memory.
    """
    reading = _GramineReading(writer, report, root)
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


class _GramineReading:
    # The state of an import: from lines to rows.

    log: Log

    def __init__(self, writer: TraceWriter, report: Import, root: Sysroot | None) -> None:
        self.number = 0
        self._writer, self._report = writer, report
        self._mounts = Mounts()
        self._processes = GramineProcesses(writer, report, self._mounts, root)
        self._clock = LineTimes()
        self._threads: dict[bytes, GramineThread] = {}
        self._fragments = Fragments()
        self._starts: dict[bytes, ProgramStart] = {}
        self._entries: list[tuple[int, int]] = []
        self._statistics = Statistics()
        self._builds: dict[bytes, None] = {}
        self._unsupported: dict[str, int] = {}
        self._mocked: dict[str, int] = {}
        self._late = 0
        self._facts: dict[bytes, Callable[[bytes, bytes], None]] = {
            b"Gramine": self._build,
            b"Host:": self._build,
            b"Allocated": self._stack,
            b"adding": self._adding,
            b"mounting": self._mounting,
            b"memory": self._entry,
            b"successfully": self._restored,
        }

    def block(self, block: bytes) -> None:
        # Read complete lines. Most are not memory calls: they cost one look-up.
        if b"\x1b" in block:
            block = COLOUR.sub(b"", block)
        block = split(block)
        processes, call, fragments = self._processes, self._call, self._fragments
        starts = self._starts
        before = number = self.number
        for front, who, graphene, back, name, rest, other in LINE.findall(block, 0, len(block) - 1):
            number += 1
            if not name:
                if other or fragments:
                    self._other(number, other)
                    number -= other.endswith(CUT)
                continue
            thread = who or graphene
            if fragments:
                self._passed(thread)
            if rest.endswith(CUT):
                body = b"---- " + back + name + b"(" + rest[: -len(CUT)]
                self._keep(Fragment(number, thread, b"trace", body))
                number -= 1  # the next fragment is in the same physical line
                continue
            if (starts or processes.executing) and not back:
                self._began(thread)
            if name in _WANTED:
                if front:
                    processes.now = self._clock.read(front)
                call(number, thread, back, name, rest)
        self._report.lines += number - before
        self.number = number
        processes.flush()

    def finish(self) -> None:
        for fragment in self._fragments.take_all():
            self._give_up(fragment)
        for who in list(self._starts):
            self._began(who)
        self._processes.finish()
        self._measured()
        report = self._report
        report.time = self._processes.now
        for counts, what in (
            (self._unsupported, "Gramine does not support, and they failed"),
            (self._mocked, "Gramine mocks, and they did nothing"),
        ):
            if counts:
                names = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
                report.note(f"calls that {what}: {names}")
        if len(self._builds) > 2:
            builds = ", ".join(build.decode("utf-8", "replace") for build in self._builds)
            report.note(f"the log holds runs of several builds or hosts of Gramine: {builds}")
        if self._late:
            text = "lines came from processes that had ended, and were left out"
            report.note(f"{self._late:,} {text}")
            lost(self._writer, self._late, text)

    def _measured(self) -> None:
        # Report SGX's own counters. Gramine prints the host's process numbers, which no other line
        # shows.
        statistics = self._statistics
        if statistics.is_open:
            lost(self._writer, 1, "the end of Gramine's SGX statistics")
        total = [0] * len(COUNTERS)
        for host_id, is_process, counts in statistics.blocks:
            self._processes.measured(host_id, is_process, counts)
            if is_process:
                total = [sum(pair) for pair in zip(total, counts, strict=True)]
        if statistics.blocks:
            shown = ", ".join(
                f"{count:,} {name.decode()}" for name, count in zip(COUNTERS, total, strict=True)
            )
            self._report.note(f"measured on hardware, all processes together: {shown}")

    # Calls

    def _call(self, number: int, who: bytes, back: bytes, name: bytes, rest: bytes) -> None:
        thread = self._threads.get(who)
        if thread is None or thread.gone:
            thread = self._thread(who, name, rest)
            if thread is None:
                self._late += 1
                return
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
                    processes.file_call(
                        thread, name, thread.opening if back else args, result(tail[3:])
                    )
                elif back:
                    processes.end(thread, name, result(tail[3:]))
                    self._starts.pop(who, None)  # from an execve that failed
                else:
                    processes.whole(thread, name, args, result(tail[3:]))
            elif name in _EXITS and args.startswith(b"returning "):
                processes.exit(thread, int(args[10:], 0), whole=name == b"exit_group")
            elif rest.endswith(b" (mock)"):
                _count(self._mocked, name)
            else:
                body = b"---- " + back + name + b"(" + rest
                self._keep(Fragment(number, who, b"trace", body))
        except ValueError:
            self._puzzle(number, who, back + name + b"(" + rest)

    def _thread(self, who: bytes, name: bytes, rest: bytes) -> GramineThread | None:
        # Return a thread that is seen for the first time, or again after its end; None if its
        # process has ended.
        pid, tid = self._ids(who)
        # A program that is run again has the same ids. The first call of each run is the loader's.
        again = tid == pid and name == b"brk" and rest.startswith((b"0)", b"0x0)"))
        if self._processes.late(pid, tid) and not again:
            return None
        if len(self._threads) >= _MANY:
            self._threads.clear()
        thread = self._threads[who] = self._processes.thread(pid, tid)
        return thread

    def _ids(self, who: bytes) -> tuple[int, int]:
        # The process and the thread that a line's header names.
        process, colon, thread = who.partition(b":")
        if colon:
            pid = _id(process[1:]) or 1
            return pid, _id(thread[1:]) or pid
        tid = _id(process) or 1
        return self._processes.process_of(tid), tid

    def _began(self, who: bytes) -> None:
        # Handle the first call of a program: an execve that succeeded never returns.
        thread = self._threads.get(who)
        start = self._starts.pop(who, None)
        if thread in self._processes.executing:
            self._processes.ran(thread, start)
        elif start is not None:
            self._threads[who] = self._processes.started(*self._ids(who), start)

    # Lines that do not show a call, or not in the usual format

    def _other(self, number: int, line: bytes) -> None:
        # Handle messages, the program's output, and parts of long lines.
        cut = line.endswith(CUT)
        if cut:
            line = line[: -len(CUT)]
        header = HEADER.search(line)
        if header is None:
            self._without_header(number, line)
            return
        who = header[1] or header[3] or b""
        level = header[2] or header[4] or b""
        fragment = Fragment(number, who, level, line[header.end() :])
        is_part = level == b"trace" and not fragment.body.startswith(b"---- ")
        if self._fragments and who and not is_part:
            self._passed(who)
        if is_part and who:
            self._part(fragment, cut)
        elif cut:
            self._keep(fragment)
        else:
            self._body(fragment)

    def _without_header(self, number: int, line: bytes) -> None:
        whole = self._fragments.join(self._clock.behind(line))
        if whole is not None:
            self._body(whole)
            return
        if self._statistics.line(line):
            return
        bare = BARE.search(line)
        if bare is not None:
            if bare[2] in _WANTED:
                self._call(number, b"", bare[1] or b"", bare[2], bare[3])
        elif line.strip():
            self._report.unknown_text(self.log, number, line)

    def _part(self, part: Fragment, cut: bool) -> None:
        # Handle the next part of a call that is too long for Gramine's buffer.
        first = next(iter(self._fragments.take(part.who)), None)
        if first is None:
            if cut:
                self._keep(part)  # of an irrelevant call, so that its rest is recognized
            return
        joined = first._replace(body=first.body + part.body)
        if cut or not WHOLE.search(joined.body):
            self._keep(joined)
        else:
            self._body(joined)

    def _body(self, fragment: Fragment) -> None:
        # Handle a complete body, or one whose next part has its own header.
        number, who, level, body = fragment
        if body.startswith(b"---- "):
            bare = BARE.match(body)
            if bare is None:
                self._puzzle(number, who, body)
                return
            if not bare[1]:
                self._began(who)
            if bare[2] in _WANTED:
                self._call(number, who, bare[1] or b"", bare[2], bare[3])
        elif level == b"debug":
            fact = self._facts.get(body.partition(b" ")[0])
            if fact is not None:
                fact(who, body)
        elif level == b"warning":
            unsupported = UNSUPPORTED.match(body)
            if unsupported is not None:
                _count(self._unsupported, unsupported[1])
        elif not level:
            self._statistics.begin(body)

    def _keep(self, fragment: Fragment) -> None:
        # Keep a fragment until its rest comes.
        if len(fragment.body) > MAX_LINE:
            self._give_up(fragment)
            return
        oldest = self._fragments.add(fragment)
        if oldest is not None:
            self._give_up(oldest)

    def _passed(self, who: bytes) -> None:
        # If a thread has continued, the rest of its earlier line will not come. Several helpers
        # share one name.
        if not who.endswith(b":"):
            for fragment in self._fragments.take(who):
                self._give_up(fragment)

    def _give_up(self, fragment: Fragment) -> None:
        # The rest of a line did not come.
        number, who, _, body = fragment
        call = BARE.match(body)
        if call is None or call[2] not in _WANTED:
            self._report.unknown_text(self.log, number, body)
        else:
            self._puzzle(number, who, body)

    def _puzzle(self, number: int, who: bytes, text: bytes) -> None:
        self._report.puzzle(self.log, number, text.removeprefix(b"---- "))
        where = self._processes.now, *self._ids(who)
        lost(self._writer, 1, f"line {number:,} of {self.log.name} was not understood", where)

    # Facts that Gramine reports

    def _build(self, who: bytes, body: bytes) -> None:
        if len(self._builds) < _NAMES:
            self._builds[body.rpartition(b" ")[2][:80]] = None

    def _stack(self, who: bytes, body: bytes) -> None:
        shown = _STACK.match(body)
        if shown is not None and len(self._starts) < _MANY:
            start = _address(shown[1])
            self._starts[who] = ProgramStart((start, start + _address(shown[2])))

    def _adding(self, who: bytes, body: bytes) -> None:
        # After the program has started, its loader reports files that it has mapped by calls.
        shown = _ADDING.match(body)
        start = self._starts.get(who)
        if shown is not None and start is not None:
            start.add(shown[1], _address(shown[2]))

    def _mounting(self, who: bytes, body: bytes) -> None:
        shown = _MOUNTING.match(body)
        if shown is not None:
            self._mounts.add(shown[1], shown[2])

    def _entry(self, who: bytes, body: bytes) -> None:
        shown = _ENTRY.match(body)
        if shown is not None and len(self._entries) < _ENTRIES:
            self._entries.append((_address(shown[1]), _address(shown[2])))

    def _restored(self, who: bytes, body: bytes) -> None:
        # The child of a fork has received its memory. Only this line names it.
        if who:
            pid, tid = self._ids(who)
            self._threads[who] = self._processes.received(pid, tid, self._entries)
        self._entries = []


def _id(digits: bytes) -> int:
    # Columns for ids are signed 32-bit integers.
    return int(digits or b"0") & 0x7FFFFFFF


def _address(text: bytes) -> int:
    # Return an address or a size in a message, or 0 for anything else.
    try:
        return int(text, 0) & _MASK
    except ValueError:
        return 0


def _count(counts: dict[str, int], name: bytes) -> None:
    key = name.decode() if len(counts) < _NAMES or name.decode() in counts else "others"
    counts[key] = counts.get(key, 0) + 1
