"""Logs that a terminal or a mail program wrapped at a width: the pieces of their lines are joined
again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from laconic.trace.importers.strace import lines

#: The start of a line that is not a piece of another one.
_START = re.compile(rb"(?:[a-z_]\w*\(|<\.\.\. |\+\+\+ |--- |strace: | > )")
#: The maximum number of pieces in one line.
_PIECES = 200


def width_of(head: bytes) -> int:
    """Return the width at which a log's lines were wrapped, or 0 if they are complete. O(head)."""
    found = head.replace(b"\r\n", b"\n").split(b"\n")[:-1][:2000]
    width = max(map(len, found), default=0)
    full = [place for place, line in enumerate(found[:-1]) if len(line) == width]
    if len(full) < 3 or 20 * len(full) < len(found) or width < 40:
        return 0
    pieces = sum(not _starts(found[place + 1]) for place in full)
    return width if 5 * pieces >= 4 * len(full) else 0


def joined(blocks: Iterable[bytes], width: int) -> Iterator[bytes]:
    """Yield the blocks with lines of exactly this width joined with the lines that follow them.
    O(bytes)."""
    carry: list[bytes] = []
    for block in blocks:
        whole: list[bytes] = []
        for line in block[:-1].split(b"\n"):
            if carry and (_starts(line) or len(carry) >= _PIECES):
                whole.append(b"".join(carry))
                carry = []
            carry.append(line)
            if len(line) != width:
                whole.append(b"".join(carry))
                carry = []
        if whole:
            yield b"\n".join(whole) + b"\n"
    if carry:
        yield b"".join(carry) + b"\n"


def _starts(line: bytes) -> bool:
    prefix = lines.PREFIX.match(line)
    assert prefix is not None
    return _START.match(line, prefix.end()) is not None
