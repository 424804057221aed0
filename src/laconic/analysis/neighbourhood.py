"""The address space around a call: the state of its pages and their neighbors, before and after
it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from laconic.memory.change import Change, classify
from laconic.memory.names import derived_name, stack_start
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: The number of page runs on either side of the call's pages, holes included, that the picture
#: shows.
_NEIGHBOURS = 3
#: The maximum number of runs of a call that are shown individually.
_SHOWN = 12
#: A range in bytes, its VMA, and the VMA's label for people.
Labelled = tuple[int, int, tuple[Vma, str]]


class Run(NamedTuple):
    """Pages `[start, end)` in bytes, before and after the call. `requested`: the call concerns
    them; `kind` as in `Change`. `left_out` runs are not shown individually, and this one represents
    them (0: only itself)."""

    start: int
    end: int
    before: Vma | None
    after: Vma | None
    name_before: str = ""
    name_after: str = ""
    requested: bool = False
    kind: int = 0
    left_out: int = 0


def labelled(space: AddressSpace) -> list[Labelled]:
    """Return all VMAs with the names that the kernel derives (get_vma_name in fs/proc/task_mmu.c).
    O(n)."""
    stack = stack_start(space.vmas)
    return [
        (
            start,
            end,
            (
                vma,
                vma.file.path
                if vma.file is not None
                else derived_name(space.heap, start, end, vma, stack),
            ),
        )
        for start, end, vma in space.vmas
    ]


def _runs(
    before: list[Labelled],
    after: list[Labelled],
    requested: list[tuple[int, int]],
    changes: Iterable[Change],
) -> list[Run]:
    # Split everything into runs that are uniform before and after; equal neighbors are joined. O(n
    # log n).
    parts = [(change.start, change.end, change.kind) for change in changes]
    edges = sorted(
        {
            edge
            for entries in (before, after, requested, parts)
            for entry in entries
            for edge in entry[:2]
        }
    )
    found: list[Run] = []
    was, now, about, changed = (
        _At(entries) for entries in (before, after, [(*one, True) for one in requested], parts)
    )
    for start, end in pairwise(edges):
        (vma, name), (other, other_name) = was.at(start) or (None, ""), now.at(start) or (None, "")
        run = Run(
            start, end, vma, other, name, other_name, bool(about.at(start)), changed.at(start) or 0
        )
        if found and found[-1].end == start and found[-1][2:] == run[2:]:
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(run)
    return found


class _At:
    # Look up values at ascending addresses, in ascending entries.

    def __init__(self, entries: Iterable[tuple[int, int, object]]) -> None:
        self._entries = iter(sorted(entries, key=lambda entry: entry[0]))
        self._now = next(self._entries, None)

    def at(self, address: int) -> Any:
        while self._now is not None and self._now[1] <= address:
            self._now = next(self._entries, None)
        return self._now[2] if self._now is not None and self._now[0] <= address else None


def differences(before: list[Labelled], after: list[Labelled]) -> tuple[Change, ...]:
    """Return the differences between two address spaces, one per page run. O(n log n)."""
    return tuple(
        Change(classify(run.before, run.after), run.start, run.end, run.after, run.before)
        for run in _runs(before, after, [], ())
        if run.before != run.after
    )


def around(
    before: list[Labelled],
    after: list[Labelled],
    requested: list[tuple[int, int]],
    changes: Iterable[Change],
) -> Iterator[Run]:
    """Yield the pages that a call concerns or changes (`requested` and `changes`) and their
    neighbors, ascending; runs in between are counted.

    O(n log n).
    """
    runs = _runs(before, after, requested, changes)
    marked = [
        place
        for place, run in enumerate(runs)
        if run.requested or run.kind or run.before != run.after
    ]
    near = marked if len(marked) <= _SHOWN else [*marked[: _SHOWN // 2], *marked[-(_SHOWN // 2) :]]
    hidden = set(marked) - set(near)
    close = {place for one in near for place in range(one - _NEIGHBOURS, one + _NEIGHBOURS + 1)}
    kept = sorted(close.intersection(range(len(runs))) - hidden)
    last = None
    for place in kept:
        if last is not None and place > last + 1:
            between = runs[last + 1 : place]
            kind = 0
            for run in between:
                kind |= run.kind
            about = any(run.requested for run in between)
            start, end = between[0].start, between[-1].end
            yield Run(start, end, None, None, requested=about, kind=kind, left_out=len(between))
        last = place
        yield runs[place]
