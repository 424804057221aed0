"""From a list of calls that differs under Laconic to a short list that differs in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.faithful.compare import Difference, compare

#: How many shorter lists run in one batch: starting Laconic costs as much as some hundred calls.
BATCH = 12


def _differing(program: Path, lists: Sequence[list[str]], difference: Difference) -> list[bool]:
    result = compare(program, lists, (difference.mode,))
    kinds = {number: seen.kind() for number, seen in result.differences.items()}
    return [kinds.get(number) == difference.kind() for number in range(len(lists))]


def shorten(program: Path, calls: Sequence[str], difference: Difference) -> list[str]:
    """Leaves out lines as long as the first difference stays of the same kind; halves first, single
    lines last.

    All lists without one part run in one batch; what can be left out alone is then left out
    together, if it can.
    """
    lines = list(calls)
    if difference.native.number >= 0:
        fewer = lines[: difference.native.number + 1]
        if _differing(program, [fewer], difference)[0]:
            lines = fewer
    size = max(len(lines) // 2, 1)
    while size:
        before = len(lines)
        lines = _without_parts(program, lines, size, difference)
        if size > 1 or len(lines) == before:
            size //= 2
    return lines


def _without_parts(program: Path, lines: list[str], size: int, difference: Difference) -> list[str]:
    start = 0
    while start < len(lines):
        starts = list(range(start, len(lines), size))[:BATCH]
        shorter = [lines[:at] + lines[at + size :] for at in starts]
        needless = [
            at
            for at, differs in zip(starts, _differing(program, shorter, difference), strict=True)
            if differs
        ]
        together = [
            line
            for number, line in enumerate(lines)
            if not any(at <= number < at + size for at in needless)
        ]
        if len(needless) > 1 and not _differing(program, [together], difference)[0]:
            at = needless[-1]
            lines = lines[:at] + lines[at + size :]
            continue
        if needless:
            lines = together
        start = starts[-1] + size * (1 - len(needless))
        start = max(start, 0)
    return lines
