"""Lines for a terminal that contain names from any source: wrapped, never truncated, and
harmless."""

from __future__ import annotations

import re
import textwrap
import unicodedata

from laconic.report.text import plain

#: A word, with the spaces before it; a number keeps its unit.
_WORD = re.compile(r"( *)([^ ]+(?: %|(?<=[0-9]) (?:[GMk](?: cycles)?|[KMGT]iB)(?![A-Za-z]))?)")


def seen(text: str) -> str:
    r"""Return all of a text, on one line; characters that would move a terminal's cursor or change
    its writing direction are shown as escapes.

    >>> seen("a\x1b[2J\nb\u202e")
    'a\\x1b[2J\\x0ab\\u202e'
    """
    return plain(text, len(text))


def columns(text: str) -> int:
    """Return the number of terminal columns of a text. O(length).

    >>> columns("memory"), columns("メモリ"), columns("e\u0301")
    (6, 6, 1)
    """
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most `width` columns. No word is divided at a hyphen.
    O(length)."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


def filled(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text in lines of at most `width` columns: the first is indented, the others by two
    columns more. O(length).

    A word that is longer than a line continues in the next one.
    """
    lines = []
    hanging = " " * (len(indent) + 2)
    line, used, empty = indent, len(indent), True
    for gap, word in _WORD.findall(seen(text)):
        if not empty and used + len(gap) + columns(word) > width:
            lines.append(line)
            line, used, empty = hanging, len(hanging), True
        if not empty:
            line, used = line + gap, used + len(gap)
        for character in word if used + columns(word) > width else [word]:
            if used + columns(character) > width:
                lines.append(line)
                line, used = hanging, len(hanging)
            line, used, empty = line + character, used + columns(character), False
    return lines if empty else [*lines, line]
