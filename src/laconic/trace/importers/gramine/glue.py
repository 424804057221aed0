"""Lines of several threads in one physical line: Gramine writes a long line in two pieces, with
other threads' lines in between.

The first piece ends without a newline, so another thread's complete line follows it in the same
physical line. The second piece comes later, on a separate line without a header:

    (a.c:1:f) [P1:T1:x] trace: ---- clone(CLONE_VM, 0x1, (a.c:1:f) [P1:T2:x] trace: ---- brk(0) =
    0x0 0x2) ...

`split` separates such physical lines, and `Fragments` keeps the first pieces until the second ones
come.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from laconic.trace.importers.gramine.line import BUFFER, HEADER, WHOLE

#: Marks the end of a piece whose newline is missing.
CUT = b"\0\x1e\0"
#: The maximum number of incomplete pieces; if there are more, the oldest is given up.
_MOST = 1024

# Two headers in one line. For a line without a second header, this costs little: the end of a
# header is skipped in one step, except for its first byte.
_PLACE = rb"\.[ch]:\d+:\w+\) "
_BRACKET = rb"\] (?:trace|debug|warning|error): "
_TWO_PLACES = re.compile(_PLACE + rb"[^\n.]*+(?:\.(?![ch]:\d+:\w+\) )[^\n.]*+)*+" + _PLACE)
_TWO_BRACKETS = re.compile(
    _BRACKET + rb"[^\n\]]*+(?:\](?! (?:trace|debug|warning|error): )[^\n\]]*+)*+" + _BRACKET
)


def split(block: bytes) -> bytes:
    """Return complete lines, with a newline before each header that is inside a line.

    A piece that was separated from the text after it ends in `CUT`. O(bytes).
    """
    pattern = _TWO_PLACES if _TWO_PLACES.search(block) else _TWO_BRACKETS
    parts = []
    done = 0
    for match in pattern.finditer(block):
        if match.start() < done:
            continue
        start = block.rfind(b"\n", done, match.start()) + 1 or done
        end = block.find(b"\n", match.end())
        end = len(block) if end < 0 else end
        headers = list(HEADER.finditer(block, start, end))
        for header in headers[1:]:
            parts += [block[done : header.start()], CUT, b"\n"]
            done = header.start()
        parts.append(block[done:end])
        done = end
    parts.append(block[done:])
    return b"".join(parts) if len(parts) > 1 else block


class Fragment(NamedTuple):
    """A body or its first piece: its line number, its process and thread, its level, and its
    text."""

    line: int
    who: bytes
    level: bytes
    body: bytes


class Fragments:
    """The incomplete pieces, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Fragment] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, fragment: Fragment) -> Fragment | None:
        """Keep a piece. Returns the oldest one if there are too many. O(1)."""
        self._waiting.append(fragment)
        return self._waiting.pop(0) if len(self._waiting) > _MOST else None

    def join(self, rest: bytes) -> Fragment | None:
        """Return the piece that `rest` completes, joined with it, or None if there is none. O(n).

        The log does not show which piece it belongs to. It is assumed to be the first piece that
        then ends as a call does, or that then fills Gramine's buffer. A message may end in any way.
        """
        for fragment in self._waiting:
            body = fragment.body + rest
            ends = len(body) == BUFFER or WHOLE.search(body) is not None
            if ends or (fragment.level != b"trace" and rest):
                self._waiting.remove(fragment)
                return fragment._replace(body=body)
        return None

    def take(self, who: bytes) -> list[Fragment]:
        """Remove and return the pieces of a thread that has continued: their rests will not come.
        O(n)."""
        gone = [fragment for fragment in self._waiting if fragment.who == who]
        if gone:
            self._waiting = [fragment for fragment in self._waiting if fragment.who != who]
        return gone

    def take_all(self) -> list[Fragment]:
        """Remove and return all pieces. O(n)."""
        gone, self._waiting = self._waiting, []
        return gone
