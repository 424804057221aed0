"""Vectors as text: a vector file, and the first difference of another implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, BinaryIO

from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.vectors import (
    COUNTS,
    EPC,
    MISSING,
    PAL,
    TABLE,
    VectorComparison,
    VectorDifference,
    same_call,
)
from laconic.trace.vectors import (
    COUNTED,
    HEADER,
    UNKNOWN,
    Item,
    PalCall,
    Vectors,
    VmaLine,
    lines,
)

#: The number of table rows that are shown before the first one that differs, and from there on.
_BEFORE, _FROM = 3, 12


def write(output: BinaryIO) -> Callable[[Item], None]:
    """Write the header of a vector file; return the function that writes its items. Raises
    OSError."""
    output.write(f"{HEADER}\n".encode())

    def item(value: Item) -> None:
        output.write("".join(f"{line}\n" for line in lines(value)).encode())

    return item


def as_text(comparison: VectorComparison, expected: Vectors) -> str:
    """Return what was compared; and the first difference with both tables, PAL calls or counts."""
    compared = ", ".join(f"{name} {count:,}" for name, count in comparison.states.items())
    text = [f"states compared with {expected.path}: {compared}"]
    if comparison.unknown:
        text.append(f"states that the file shows in part: {comparison.unknown:,}")
    difference = comparison.difference
    if difference is None:
        return "\n".join([*text, "no difference", ""])
    return "\n".join([*text, *_difference(difference), ""])


def as_json(comparison: VectorComparison, expected: Vectors) -> dict[str, Any]:
    """Return the same for programs."""
    difference = comparison.difference
    return {
        "schema": SCHEMAS["vectors"],
        "vectors": expected.path,
        "compared": comparison.states,
        "left_out": comparison.unknown,
        "equal": difference is None,
        "difference": None if difference is None else _difference_json(difference),
    }


def _difference_json(difference: VectorDifference) -> dict[str, Any]:
    state, other = difference.state, difference.other
    return {
        "what": difference.what,
        "event": state.event,
        "strategy": difference.strategy,
        "process": state.process,
        "call": difference.event.name if difference.event else None,
        "expected": {
            "table": [row._asdict() for row in difference.expected],
            "pal": [call._asdict() for call in state.pal],
            "counts": dict(zip(COUNTED, state.counts, strict=True)),
            "epc_pages": state.epc,
        },
        "actual": other
        and {
            "table": [row._asdict() for row in difference.actual],
            "pal": [call._asdict() for call in other.pal],
            "counts": dict(zip(COUNTED, other.counts, strict=True)),
            "epc_pages": other.epc,
        },
    }


def _difference(difference: VectorDifference) -> list[str]:
    state, other = difference.state, difference.other
    where = f"event {state.event}, process {state.process}, {difference.strategy}"
    text = [f"first difference: {difference.what}, {where}"]
    if difference.event is not None:
        text += [f"  {line}" for line in lines(difference.event)]
    if difference.what == MISSING or other is None:
        return [*text, "  the file has no `state` line for this event"]
    if difference.what == TABLE:
        text += _tables(difference.expected, difference.actual)
    elif difference.what == PAL:
        text += _calls(state.pal, other.pal)
    elif difference.what == COUNTS:
        text += [
            f"  {name}: expected {ours:,}, actual {theirs:,}"
            for name, ours, theirs in zip(COUNTED, state.counts, other.counts, strict=True)
            if theirs not in (UNKNOWN, ours)
        ]
    elif difference.what == EPC:
        text.append(f"  expected {state.epc:,}, actual {other.epc:,}")
    return text


def _tables(expected: Sequence[VmaLine], actual: Sequence[VmaLine]) -> list[str]:
    # Yield both tables, from just before the first row that differs.
    first = 0
    while first < min(len(expected), len(actual)) and expected[first] == actual[first]:
        first += 1
    text = ["  start end prot shared file offset"]
    for title, rows in (("expected", expected), ("actual", actual)):
        low = max(first - _BEFORE, 0)
        shown = rows[low : first + _FROM]
        text.append(f"  {title}, {len(rows):,} VMAs:")
        if low:
            text.append(f"      … {low:,} equal")
        for index, row in enumerate(shown, low):
            text.append(f"    {'>' if index >= first else ' '} {row}")
        if low + len(shown) < len(rows):
            text.append(f"      … {len(rows) - low - len(shown):,} more")
    return text


def _calls(expected: Sequence[PalCall], actual: Sequence[PalCall]) -> list[str]:
    text = ["  name process start end old new kinds flags"]
    for ours, theirs in zip_longest(expected, actual):
        if ours is not None and theirs is not None and same_call(ours, theirs):
            text.append(f"      {ours}")
            continue
        text.append(f"    > expected {ours or 'no call'}")
        text.append(f"    > actual   {theirs or 'no call'}")
    return text
