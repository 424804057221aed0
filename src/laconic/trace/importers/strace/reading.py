"""Reading one log: frequent lines are parsed in a fast loop, and unusual ones one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from laconic.trace.importers.importing import SHOWN
from laconic.trace.importers.strace import lines
from laconic.trace.importers.strace.clock import nanoseconds
from laconic.trace.importers.strace.lines import LogStyle
from laconic.trace.importers.strace.names import SIGNALS
from laconic.trace.importers.strace.processes import StraceThread
from laconic.trace.importers.strace.session import CALL_CODES, ODD, Handler, Session
from laconic.trace.importers.strace.wrapping import joined, width_of
from laconic.trace.importers.text import Log
from laconic.trace.reader import Progress
from laconic.trace.schema import CODES, MEMORY_EVENTS, PROCESS_EVENTS, UNFINISHED, Row

_NAMES = b"|".join(name.encode() for name in (*MEMORY_EVENTS, *PROCESS_EVENTS))
#: Lines that contain one of these may have been a relevant call.
_MATTERS = re.compile(
    rb"\b(?:"
    + _NAMES
    + rb")(?:\(| resumed)|(?:^|[ \]])(?:"
    # ... or that end within the name of one
    + b"|".join(
        sorted(
            {
                name[:end].encode()
                for name in (*MEMORY_EVENTS, *PROCESS_EVENTS)
                for end in range(1, 24)
            }
        )
    )
    + rb")$"
)
#: A relevant call, anywhere in a line: after the program's own output.
_GLUED = re.compile(rb"(?:\[pid +\d+\] )?(?:\d\d:\d\d:\d\d(?:\.\d+)? )?(?:" + _NAMES + rb")\(")
#: The maximum number of lines of a call that was wrapped at a terminal's width.
_PIECES = 8
#: The errors of parsing a line with an unexpected format.
ERRORS = (ValueError, IndexError, KeyError)


class StraceReading:
    """Reads one log into a session. `key` is the log's thread, if its lines do not name one."""

    def __init__(self, session: Session, log: Log, style: LogStyle, key: bytes = b"") -> None:
        self.session = session
        self.log = log
        self.style = style
        self.key = key
        self.number = 0
        self._lines: list[bytes] = []
        self._from = 0
        self._ahead = b""
        self._second, self._base = b"", 0
        #: The time of the last line that had one; lines without a time share it.
        self._now = 0
        #: Child → parent, of the clones that return in the current lines and the next block.
        self._returns: dict[bytes, bytes] = {}
        self._returns_of: tuple[list[bytes], bytes] = [], b""
        #: A call's line that is still incomplete, with the lines after it; the frames of a stack,
        #: and the position of its call's row.
        self._pieces: list[bytes] = []
        self._frames: list[bytes] = []
        self._mark = self._of = 0
        self._waiting = False
        self._stacks = self._awaits = style.stacks

    def run(self, progress: Progress | None) -> None:
        """Read the whole log. O(bytes); memory is bounded."""
        for block in self.blocks(progress):
            self.take(block)
            self.session.settle()
        self.close()

    def blocks(self, progress: Progress | None) -> Iterator[bytes]:
        """Yield the log's blocks, reading one block ahead."""
        width = width_of(self.log.head)
        stream = joined(self.log.blocks(progress), width) if width else self.log.blocks(progress)
        self._ahead = next(stream, b"")
        while self._ahead:
            block, self._ahead = self._ahead, next(stream, b"")
            yield block
            self.settle_lines()

    def settle_lines(self) -> None:
        """Count the lines of a block, which have been read."""
        self.number += len(self._lines)
        self.session.report.lines += len(self._lines)
        self._lines, self._from = [], 0

    def take(self, block: bytes) -> None:
        """Read the lines of a block."""
        found = block[:-1].split(b"\n")
        self.take_lines(found, 0, len(found))

    def take_lines(self, block: list[bytes], start: int, end: int) -> None:
        """Read the lines of a block from `start` to `end`."""
        self._lines = block
        self._awaits = self._stacks
        some = block if end - start == len(block) else block[start:end]
        if self.style.plain and not self._stacks:
            self._take_plain(some)
            return
        for line in some:
            try:
                self.odd(line)
            except ERRORS:
                self.puzzle(line, bool(_MATTERS.search(line)), self._now)

    def _take_plain(self, block: list[bytes]) -> None:
        # Most lines of most logs go through this loop, so every step in it counts.
        style, session, key = self.style, self.session, self.key
        handlers, threads, words = session.handlers, session.threads, style.words
        bare, whole, fine, timed = (
            style.pid == "bare",
            style.whole,
            style.fraction,
            style.time != "none",
        )
        last, scale = whole + 1 + fine, 10 ** (9 - fine)
        second, base, time = self._second, self._base, self._now
        for line in block:
            parts = line.split(None, words)
            resumed = False
            if len(parts) > words:
                rest = parts[words]
                name, bracket, text = rest.partition(b"(")
                handler = handlers[name] if bracket else ODD
                if handler is ODD and rest[:5] == b"<... ":
                    name, _, text = rest[5:].partition(b" resumed")
                    handler, resumed = handlers[name], True
            else:
                handler = ODD
            if self._waiting:
                handler = ODD
            if handler is None:
                continue
            try:
                if handler is ODD:
                    self._now = time
                    self.odd(line)
                    second, base, time = self._second, self._base, self._now
                    continue
                if timed:
                    when = parts[words - 1]
                    if when[:whole] != second:
                        self._base = base = session.clock.second(
                            when[:whole], when[whole + 1 : last]
                        )
                        self._second = second = when[:whole]
                    time = base + int(when[whole + 1 : last]) * scale if fine else base
                pid = parts[0] if bare else key
                thread = threads.get(pid) or self.meet(pid, time)
                if resumed:
                    session.end(name, thread, time, text)
                elif text[-16:] == b"<unfinished ...>":
                    session.begin(name, thread, time, text[:-17])
                else:
                    handler(thread, time, text)
            except ERRORS:
                self._now = time
                self._carefully(line, resumed)
                time = self._now
        self._now = time

    def _carefully(self, line: bytes, resumed: bool) -> None:
        # Read a line that the fast loop could not. The end of a call is not read twice.
        try:
            if resumed:
                raise ValueError
            self.odd(line)
        except ERRORS:
            self.puzzle(line, bool(_MATTERS.search(line)), self._now)

    # Unusual lines

    def odd(self, line: bytes) -> None:
        """Parse any line. Raises ValueError, KeyError or IndexError if it does not have the format
        that it seems to have."""
        if lines.FRAME.match(line) and not self._pieces:
            # If the head of the log contained no frames, the calls of the first block were read by
            # the fast loop, which does not wait for frames.
            if self._awaits and len(self._frames) < 256:
                self._frames.append(line.strip()[:1000].removeprefix(b"> "))
                self._waiting = True
            self._stacks = True
            return
        if self._frames:
            self._settle_frames()
        match = lines.PREFIX.match(line)
        assert match is not None  # it matches the empty string, too
        rest = line[match.end() :]
        if self._pieces:
            if (match.end() and lines.is_event(rest)) or lines.CALL.match(rest):
                self._give_up_pieces()
            elif self._joined(line):
                return
        time = self._time_of(match)
        key = match[1] or match[2] or self.key
        self._mark = len(self.session.order.rows)
        if not self._event(rest, key, time):
            self._strange(line, rest, key, time)

    def _event(self, rest: bytes, key: bytes, time: int) -> bool:
        session = self.session
        if rest[:5] == b"<... ":
            name, mark, text = rest[5:].partition(b" resumed")
            if not mark:
                return rest.endswith(b">")
            if session.handlers[name] is not None:
                alone = session.threads.get(b"")
                if (
                    key not in session.threads
                    and alone is not None
                    and alone.pending
                    and alone.pending.name == name
                ):
                    session.stranger(key, time)  # it had no number while it was alone
                session.end(name, self._thread(key, time), time, text)
            return True
        name, bracket, text = rest.partition(b"(")
        if bracket:
            handler = session.handlers[name]
            if handler is not ODD:
                return self._call(handler, name, text, key, time)
        if rest.startswith(b"+++"):
            return self._ended(rest, key, time)
        return lines.SIGNAL.match(rest) is not None

    def _call(
        self, handler: Handler | None, name: bytes, text: bytes, key: bytes, time: int
    ) -> bool:
        session = self.session
        if text.endswith(b"<unfinished ...>"):
            if handler is not None:
                session.begin(name, self._thread(key, time), time, text[:-17])
            return True
        if lines.ENDING.search(text) is None:
            return False
        if handler is not None:
            thread = self._thread(key, time)
            try:
                handler(thread, time, text)
            except ERRORS:
                session.whole(name, thread, time, text)
        return True

    def _ended(self, rest: bytes, key: bytes, time: int) -> bool:
        session = self.session
        if match := lines.ENDED.match(rest):
            thread = session.threads.get(key)
            if thread is None and session.cloning():
                thread = self.meet(key, time)
            if thread is not None:
                number = SIGNALS.get(match[2], 0) if match[2] else (int(match[1]) & 255) << 8
                session.spawning.ended(thread, time, number | 128 * (b"core dumped" in rest))
            return True
        if match := lines.SUPERSEDED.match(rest):
            other = session.threads.get(match[1])
            leader = session.threads.get(key)
            if other is not None and leader is not None:
                # The executing thread takes the leader's place, and its number.
                session.abandon(leader, UNFINISHED)
                session.threads.pop(match[1], None)
                other.replace_leader(leader)
                other.key = key
                session.threads[key] = other
            return True
        return False

    def _strange(self, line: bytes, rest: bytes, key: bytes, time: int) -> None:
        session = self.session
        if not rest.strip():
            return
        if match := lines.ATTACHED.match(line) or lines.ATTACHED.match(rest):
            if match[2] and int(match[2]) > 1:
                session.attached[match[1]] = int(match[2]) - 1
            return
        if match := lines.MODE.match(line) or lines.MODE.match(rest):
            session.spawning.mode(self._thread(match[1], time), time, match[2] != b"64 bit")
            return
        if lines.OTHER.match(line) or lines.OTHER.match(rest):
            return
        if lines.BEGINNING.match(rest) and not self._pieces:
            broken = lines.BROKEN.match(line)
            self._pieces = [broken[1] if broken else line]
            self._waiting = True
            return
        glued = _GLUED.search(line, 1)
        if glued:
            inner = lines.PREFIX.match(line, glued.start())
            assert inner is not None
            after = line[inner.end() :]
            if lines.is_event(after):
                self._event(after, inner[1] or inner[2] or self.key, self._time_of(inner) or time)
                return
        self.puzzle(line, bool(_MATTERS.search(line)), time)

    # Calls in pieces: wrapped at a terminal's width, or interrupted by the program's output

    def _joined(self, line: bytes) -> bool:
        # True if the line belongs to the pieces before it.
        self._pieces.append(line)
        for glue in (b"", b" "):
            whole = glue.join(self._pieces)
            match = lines.PREFIX.match(whole)
            assert match is not None
            rest = whole[match.end() :]
            if lines.is_event(rest):
                self._pieces = []
                self._waiting = False
                time = self._time_of(match)
                self._event(rest, match[1] or match[2] or self.key, time)
                return True
        if len(self._pieces) > _PIECES or sum(map(len, self._pieces)) > 1 << 16:
            self._give_up_pieces()
        return True

    def _give_up_pieces(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._waiting = bool(self._frames)
        for line in pieces:
            self.puzzle(line, bool(_MATTERS.search(line)), self._now)

    def _settle_odd(self) -> None:
        if self._frames:
            self._settle_frames()
        if self._pieces:
            self._give_up_pieces()

    def _settle_frames(self) -> None:
        # The stack precedes the call's row, which was written after `_mark`.
        frames, self._frames = self._frames, []
        self._waiting = bool(self._pieces)
        rows = self.session.order.rows
        for place in range(len(rows) - 1, max(self._mark, 0) - 1, -1):
            row = rows[place]
            if type(row) is Row and row.event in CALL_CODES and row.tid == self._of:
                if not self.session.redact:
                    data = b"\n".join(frames)
                    stack = Row(CODES["stack"], row.time, row.pid, row.tid, data=data)
                    rows.insert(place, stack)
                self._mark = len(rows)
                return

    # Threads and times

    def _time_of(self, match: re.Match[bytes]) -> int:
        session = self.session
        if match[3]:
            if match[3] != self._second:
                self._base = session.clock.second(match[3], match[4] or b"")
                self._second = match[3]
            self._now = self._base + nanoseconds(match[4] or b"")
        elif match[5] is not None and self.style.time == "relative":
            self._now = session.clock.elapsed(match[5], match[6])
        return self._now

    def _thread(self, key: bytes, time: int) -> StraceThread:
        thread = self.session.threads.get(key) or self.meet(key, time)
        self._of = thread.tid
        return thread

    def meet(self, key: bytes, time: int) -> StraceThread:
        """Return the thread whose first line this is."""
        session = self.session
        if key and not (key.isdigit() and len(key) < 10):
            raise ValueError(key)
        parents = session.cloning() if key else []
        if parents:
            parent = parents[0] if len(parents) == 1 else self._look_ahead(key, parents)
            session.spawning.born(parent, int(key), time)
            if key in session.threads:
                return session.threads[key]
        return session.stranger(key, time)

    def _look_ahead(self, key: bytes, parents: list[StraceThread]) -> StraceThread:
        # Return the thread whose clone in progress has this child: the one that returns its number.
        if self._returns_of[0] is not self._lines or self._returns_of[1] is not self._ahead:
            self._returns_of = self._lines, self._ahead
            self._returns = _returns(self._ahead) | _returns(b"\n".join(self._lines))
        parent = self._returns.get(key)
        return next((thread for thread in parents if thread.key == parent), parents[0])

    # Unrecognized lines

    def puzzle(self, line: bytes, matters: bool, time: int) -> None:
        """Count an unrecognized line; if it may have been a relevant call, report that in the
        trace."""
        report = self.session.report
        number = 0
        if len(report.puzzles) < SHOWN:
            try:
                self._from = self._lines.index(line, self._from)
                number = self._from
            except ValueError:
                number = 0  # it starts in the previous block
        report.puzzle(self.log, self.number + number + 1, line)
        if matters:
            what = "lines that were not understood, and may have been memory or process calls"
            self.session.lost(1, what, (time, 0, 0))

    def close(self) -> None:
        """Finish the log."""
        self._settle_odd()
        self.settle_lines()


def _returns(text: bytes) -> dict[bytes, bytes]:
    # Child → parent, of the clones that return on separate lines. O(bytes).
    found: dict[bytes, bytes] = {}
    for match in _RETURN.finditer(text):
        prefix = lines.PREFIX.match(match[1])
        assert prefix is not None
        parent = prefix[1] or prefix[2]
        if parent is not None:
            found.setdefault(match[2], parent)
    return found


_RETURN = re.compile(rb"^([^\n]*)<\.\.\. (?:clone3?|v?fork) resumed>[^\n]* = (\d+)\b", re.MULTILINE)
