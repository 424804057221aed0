"""Impossible rows: calls that succeeded although the kernel refuses them, and texts that no writer
wrote.

Such a line of a log is an unrecognized line, and such a row of a trace counts as lost. Therefore,
code behind the importers and the reader never receives a mapping of no bytes, or a range outside
the address space.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from laconic.memory.calls import is_error
from laconic.memory.flags import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    PAGE_SIZE,
    TASK_SIZE,
)
from laconic.memory.layout import Layout
from laconic.memory.rangemap import TOP
from laconic.trace.schema import CODES, MEMORY_CODES, NO_RESULT, UNFINISHED, Row

_ENDLESS = UNFINISHED | NO_RESULT
_IN_PAGE = PAGE_SIZE - 1
_FIXED = MAP_FIXED | MAP_FIXED_NOREPLACE
#: Calls that refuse a start that is not page aligned (EINVAL).
_ALIGNED = frozenset({"mprotect", "pkey_mprotect", "madvise", "msync", "munmap", "mseal", "mbind"})
#: Calls that fail if a part of the range `[a0, a0 + a1)` is not mapped, and therefore for any range
#: outside the address space.
_MAPPED = _ALIGNED | {"mlock", "mlock2", "munlock"}
_ADDRESSES = frozenset({"shmat", "map_shadow_stack"})


def impossible_call(name: str, args: Sequence[int], result: int) -> str:
    """Return why the kernel cannot have answered a call with `result`, or "" if it can. O(1).

    Errors are always possible.

    >>> impossible_call("mmap", (0, 0, 3, 0x22, -1, 0), 0x7F0000000000)
    'an mmap of length 0 succeeded'
    """
    if is_error(result):
        return ""
    if result < 0:
        return f"{name} returned {result}, which is neither an address nor an errno"
    if name == "mmap":
        return _mmap(args, result)
    if name == "mremap":
        return _mremap(args, result)
    if name == "brk":
        return "" if result <= TASK_SIZE else f"brk returned {result:#x}, outside the address space"
    if name in _MAPPED:
        return _ranged(name, args)
    if name in _ADDRESSES and (result & _IN_PAGE or result > TASK_SIZE):
        return f"{name} returned {result:#x}, where no page begins"
    return ""


def _mmap(args: Sequence[int], result: int) -> str:
    address, length, _, flags, _, offset = args
    if not length:
        return "an mmap of length 0 succeeded"
    if offset & _IN_PAGE:
        return f"an mmap from byte {offset} of a file, where no page begins, succeeded"
    if flags & _FIXED and result != address:
        return f"an mmap at {address:#x} returned {result:#x}"
    return _placed("mmap", result, length)


def _mremap(args: Sequence[int], result: int) -> str:
    address, length, new_length, flags, target = args[:5]
    if not new_length:
        return "an mremap to length 0 succeeded"
    if address & _IN_PAGE or address + length > TASK_SIZE:
        return f"an mremap of {length} bytes at {address:#x} succeeded"
    if flags & MREMAP_FIXED and result != target:
        return f"an mremap to {target:#x} returned {result:#x}"
    return _placed("mremap", result, new_length)


def _placed(name: str, result: int, length: int) -> str:
    if result & _IN_PAGE or result + length > TASK_SIZE:
        return f"{name} returned {result:#x} for {length} bytes, where no mapping can be"
    return ""


def _ranged(name: str, args: Sequence[int]) -> str:
    start, length = args[0], args[1]
    if name == "munmap" and not length:
        return "a munmap of length 0 succeeded"
    if (name in _ALIGNED and start & _IN_PAGE) or start + length > TASK_SIZE:
        return f"{name} of {length} bytes at {start:#x} succeeded"
    return ""


class Judge:
    """Finds the impossible rows of a trace; `names` are the names of the event codes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._checks: list[RowCheck | None] = [None] * 256
        # Almost all calls of a trace are plain ones, whose check is short.
        self._is_plain: list[RowCheck | None] = [None] * 256
        for code, name in enumerate(names[:MEMORY_CODES]):
            self._checks[code] = _call_check(name)
            self._is_plain[code] = _PLAIN.get(name)
        for name, check in _CHECKS.items():
            self._checks[CODES[name]] = check

    def possible(self, rows: list[Row]) -> list[Row]:
        """Return the rows, with a `lost` row instead of each impossible one. Changes `rows`.
        O(rows)."""
        for place, row in enumerate(rows):
            is_plain = self._is_plain[row.event]
            if is_plain is None or not is_plain(row):
                check = self._checks[row.event]
                if check is not None and not check(row):
                    rows[place] = self._lost(row)
                    continue
            if row.touched and not _are_runs(row.touched):
                rows[place] = self._lost(row)
        return rows

    def _lost(self, row: Row) -> Row:
        text = f"{self._names[row.event]} events that cannot be true"
        return Row(CODES["lost"], row.time, row.pid, row.tid, a0=1, data=os.fsencode(text))


#: Returns True for a possible row.
RowCheck = Callable[[Row], bool]


def _call_check(name: str) -> RowCheck:
    def check(row: Row) -> bool:
        return bool(row.state & _ENDLESS) or not impossible_call(name, row.args, row.result)

    return check


def _is_plain_range(row: Row) -> bool:
    length = row.a1
    return length > 0 and not row.a0 & _IN_PAGE and row.a0 + length <= TASK_SIZE


def _is_plain_mmap(row: Row) -> bool:
    result, length = row.result, row.a1
    return (
        result >= 0
        and length > 0
        and result + length <= TASK_SIZE
        and not (result | row.a5) & _IN_PAGE
        and (result == row.a0 or not row.a3 & _FIXED)
    )


def _is_plain_brk(row: Row) -> bool:
    return 0 <= row.result <= TASK_SIZE


#: Sufficient conditions for a possible call, for the calls that make up most of a trace.
_PLAIN: dict[str, RowCheck] = {
    "mmap": _is_plain_mmap,
    "brk": _is_plain_brk,
    "mprotect": _is_plain_range,
    "munmap": _is_plain_range,
    "madvise": _is_plain_range,
}


def _are_runs(runs: Iterable[tuple[int, int, int]]) -> bool:
    # all() would cost three times as much, and this runs for most calls that unmap.
    for start, end, _ in runs:  # noqa: SIM110
        if not 0 <= start < end <= TASK_SIZE:
            return False
    return True


def _vma(row: Row) -> bool:
    start, end = row.a0, row.a1
    return start < end <= TOP and not (start | end) & _IN_PAGE


def _begin(row: Row) -> bool:
    return bool(row.call_code < MEMORY_CODES)


def _program(row: Row) -> bool:
    about = _object(row.data)
    if row.a0 > TASK_SIZE or about is None:
        return False
    brk = about.get("brk", 0)
    if not isinstance(brk, int) or not 0 <= brk <= TASK_SIZE:
        return False
    if not isinstance(about.get("path", ""), str) or not _are_texts(about.get("argv") or []):
        return False
    layout = about.get("layout")
    return layout is None or _is_layout(layout)


def _is_layout(layout: Any) -> bool:
    # True for the fields of `laconic.memory.layout.Layout`.
    if not isinstance(layout, dict) or not layout.keys() <= _LAYOUT:
        return False
    advice = layout.get("refused_advice")
    if not isinstance(advice, list):
        return False
    numbers = [*advice, *(value for key, value in layout.items() if key != "refused_advice")]
    return all(
        number is None or (isinstance(number, int) and 0 <= number <= TOP) for number in numbers
    )


_LAYOUT = {field.name for field in fields(Layout)}


def _end(row: Row) -> bool:
    about = _object(row.data or b"{}")
    if about is None:
        return False
    verify = about.get("verify", {})
    if not isinstance(verify, dict):
        return False
    counts = [verify.get(key, 0) for key in ("checks", "mismatches")]
    return (
        all(isinstance(count, int) for count in counts)
        and _are_texts(about.get("notes", []))
        and _are_texts(about.get("unknown", []))
        and isinstance(about.get("seconds", 0), (int, float))
    )


def _symbols(row: Row) -> bool:
    about = _object(row.data)
    places = None if about is None else about.get("places", {})
    if not isinstance(places, dict):
        return False
    stacks = places.values()
    return all(isinstance(stack, list) and stack and all(map(_is_place, stack)) for stack in stacks)


def _is_place(place: Any) -> bool:
    # True for the fields of `laconic.stacks.symbolize.Place`.
    if not isinstance(place, list) or not 2 <= len(place) <= len(_PLACE):
        return False
    return all(isinstance(value, kind) for value, kind in zip(place, _PLACE, strict=False))


_PLACE = (str, str, str, int, bool, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_CHECKS = {"vma": _vma, "begin": _begin, "program": _program, "end": _end, "symbols": _symbols}
