"""Bugs to plant: each a function that patches one into the code by a MonkeyPatch, named for what is
then wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest

from laconic.memory import calls, layout, mmap, mprotect, mremap, munmap
from laconic.memory.change import EXTEND, UNMAP, ZERO, Change, Outcome
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

Patch = pytest.MonkeyPatch
BUGS: dict[str, Callable[[Patch], None]] = {}


def _bug(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    BUGS[plant.__name__] = plant
    return plant


@_bug
def split_forgets_the_rest(patch: Patch) -> None:
    """An edit of a part of an entry reaches to the entry's end."""
    edit = RangeMap.edit

    def wrong(self: RangeMap[Any], start: int, end: int, change: Callable[[Any], Any]) -> None:
        _, run_end, value = self.find(end - 1)
        edit(self, start, run_end if value is not None else end, change)

    patch.setattr(RangeMap, "edit", wrong)


@_bug
def split_moves_the_hole(patch: Patch) -> None:
    """Clearing the middle of an entry clears one page less."""
    clear = RangeMap.clear

    def wrong(self: RangeMap[Any], start: int, end: int) -> None:
        clear(self, start, end - 4096 if end - start > 4096 and self.get(end) is not None else end)

    patch.setattr(RangeMap, "clear", wrong)


@_bug
def merge_is_forgotten(patch: Patch) -> None:
    """Neighbours that are the same stay two entries."""
    for name in ("set", "edit", "replace"):
        original = getattr(RangeMap, name)

        def wrong(
            self: RangeMap[Any], *args: Any, original: Callable[..., None] = original
        ) -> None:
            rule, self._same = self._same, lambda a, b: False
            try:
                original(self, *args)
            finally:
                self._same = rule

        patch.setattr(RangeMap, name, wrong)


@_bug
def merge_is_too_eager(patch: Patch) -> None:
    """Neighbours merge when their flags are the same, whatever file they map."""
    begin = RangeMap.__init__

    def wrong(
        self: RangeMap[Any], same: Callable[[Any, Any], bool] | None = None, load: int = 256
    ) -> None:
        begin(self, lambda a, b: a[0] == b[0] and (a[1] is None) == (b[1] is None), load)

    patch.setattr(RangeMap, "__init__", wrong)


@_bug
def partial_failure_is_rolled_back(patch: Patch) -> None:
    """An mprotect that comes to a hole changes nothing."""
    permitted = mprotect._permitted

    def wrong(space: AddressSpace, start: int, *rest: Any) -> tuple[int, int]:
        edit_end, result = permitted(space, start, *rest)
        return (start, result) if result else (edit_end, result)

    patch.setattr(mprotect, "_permitted", wrong)


@_bug
def partial_failure_is_not_noticed(patch: Patch) -> None:
    """An mprotect goes on behind a hole, and succeeds."""
    patch.setattr(mprotect, "_permitted", lambda space, start, end, prot, rie: (end, 0))


def _mremap(patch: Patch, spoil: Callable[[AddressSpace, Outcome], Outcome]) -> None:
    @wraps(mremap.mremap)
    def wrong(space: AddressSpace, *args: int) -> Outcome:
        return spoil(space, mremap.mremap(space, *args))

    patch.setattr(calls, "mremap", wrong)


@_bug
def mremap_leaves_the_file_offset(patch: Patch) -> None:
    """The mapping moves, its base does not."""
    patch.setattr(Vma, "moved", lambda self, distance: self)


@_bug
def mremap_keeps_the_old_place(patch: Patch) -> None:
    """The old range stays in the bookkeeping."""

    def keep(space: AddressSpace, outcome: Outcome) -> Outcome:
        for change in outcome.changes:
            if change.kind == UNMAP and outcome.result > 0:
                space.vmas.set(change.start, change.end, change.held)
        return outcome._replace(
            changes=tuple(change for change in outcome.changes if change.kind != UNMAP)
        )

    _mremap(patch, keep)


@_bug
def mremap_keeps_the_targets_contents(patch: Patch) -> None:
    """What was at the target is taken for what comes there, where all attributes are equal."""

    def overlaid(
        space: AddressSpace, start: int, end: int, vma: Vma, source: int | None
    ) -> Iterator[Change]:
        for change in original(space, start, end, vma, source):
            if change.kind != ZERO:
                yield change._replace(kind=change.kind & ~ZERO)

    original = mremap._overlaid
    patch.setattr(mremap, "_overlaid", overlaid)


@_bug
def exact_a_failed_call_is_not_looked_at(patch: Patch) -> None:
    """After a host call failed, bookkeeping keeps what it had hoped for."""
    patch.setattr(AddressSpace, "settle", lambda self, start, end, host: None)


@_bug
def exact_locks_survive_fork(patch: Patch) -> None:
    """A child inherits locked memory."""

    def fork(self: AddressSpace) -> AddressSpace:
        return AddressSpace(self.layout.copy(), self.vmas, self.start_brk)

    patch.setattr(AddressSpace, "fork", fork)


@_bug
def exact_guard_gaps_are_free(patch: Patch) -> None:
    """Mappings are placed right below a stack."""
    patch.setattr(layout, "start_gap", lambda rules, start, vma: start)


@_bug
def silent_an_equal_mprotect_is_said(patch: Patch) -> None:
    """The host hears of an mprotect that changes nothing."""

    def wrong(space: AddressSpace, start: int, length: int, *rest: Any, **named: Any) -> Outcome:
        outcome = right(space, start, length, *rest, **named)
        vma = space.vmas.get(start)
        if outcome.result or outcome.changes or vma is None or not length:
            return outcome
        end = start + length + 4095 & -4096
        return outcome._replace(
            changes=(Change(EXTEND, start, end, vma, vma),), start=start, end=end
        )

    right = mprotect.mprotect
    patch.setattr(calls, "mprotect", wrong)


@_bug
def silent_holes_are_unmapped(patch: Patch) -> None:
    """The host hears of the whole range of an munmap."""

    def wrong(space: AddressSpace, start: int, length: int) -> Outcome:
        outcome = right(space, start, length)
        if not outcome.changes:
            return outcome
        end = start + length + 4095 & -4096
        return outcome._replace(changes=(Change(UNMAP, start, end, None, outcome.changes[0].held),))

    right = munmap.munmap
    patch.setattr(calls, "munmap", wrong)


@_bug
def faithful_equal_attributes_are_taken_for_equal_contents(patch: Patch) -> None:
    """MAP_FIXED over touched memory that has the same attributes is not said: the program finds its
    old data."""
    right = mmap._overlay

    def wrong(
        space: AddressSpace, start: int, end: int, vma: Vma, untouched: Any
    ) -> tuple[Change, ...] | None:
        return right(space, start, end, vma, untouched and (lambda start, end: True))

    patch.setattr(mmap, "_overlay", wrong)


@_bug
def faithful_an_errno_is_another(patch: Patch) -> None:
    """A write beyond what the file's descriptor allows is EPERM."""
    patch.setattr(mprotect, "EACCES", 1)
