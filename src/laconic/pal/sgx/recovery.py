"""Upstream's PAL on a host that can fail: its order of leaves and host calls, and a way back from each of them.

Between that PAL and the machine, `Recovery` tries again what may be retried, and writes down what each page truly is
after every leaf and ioctl, however far it came. `Recoverable.restore` can then undo a call of which any part is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ENOMEM
from typing import Any

from laconic.memory.flags import PAGE_SIZE
from laconic.pal.sgx.edmm import ACCEPTED, CHANGED, PENDING_PAGE, RETYPED, TRIMMED, Edmm, PalError, insist
from laconic.pal.sgx.faults import SgxError
from laconic.pal.sgx.gramine import LAZY, Gramine, Range
from laconic.pal.sgx.meter import MODIFIED, PENDING, PT_TRIM, Counts, Meter
from laconic.rangemap import TOP, RangeMap

#: Start, end, permissions.
Run = tuple[int, int, int]


class Recovery(Edmm, Meter):
    """Carries out on `meter` what upstream's PAL asks, and records each page: in `committed`, or on its way in `left`.

    Of a `Meter` it has what that PAL uses. A method that fails raises PalError(ENOMEM), but for what is left to do of a
    page that MODIFY_TYPES has taken away: that waits in `left`. `trimmed`: the pages that were taken away.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter, batch=False)
        self.trimmed: RangeMap[bool] = RangeMap()

    @property
    def counts(self) -> Counts:
        """As the machine's."""
        return self.meter.counts

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self.meter.counts = counts

    def restrict(self, start: int, end: int, prot: int) -> None:
        """RESTRICT_PERMISSIONS. O(log n + runs), as all of these."""
        done, refused = _attempt(self.meter.restrict, start, end, prot)
        had = self.committed.get(done)
        if refused is not None and had is not None and self._changed(done, had):
            done += PAGE_SIZE  # changed, and not tracked
        self._allow(start, done, lambda had: had & prot)
        _give_up(refused)

    def modify_types(self, start: int, end: int, page_type: int) -> None:
        """MODIFY_TYPES."""
        done, refused = _attempt(self.meter.modify_types, start, end, page_type)
        if refused is not None and self._changed(done, self.committed.get(done)):
            done += PAGE_SIZE
        if start < done:
            self.committed.set(start, done, None)
            self.left.set(start, done, CHANGED if page_type == PT_TRIM else RETYPED)
            self.trimmed.set(start, done, True)
        _give_up(refused)

    def remove(self, start: int, end: int) -> None:
        """REMOVE_PAGES, of those whose trim was accepted. Raises nothing."""
        for begin, stop, state in list(self.left.runs(start, end)):
            if state == TRIMMED:
                done, _ = _attempt(self.meter.remove, begin, stop)
                _move(self.left, begin, done, None)

    def eaug(self, start: int, end: int) -> None:
        """EAUG. What failures have left in this place goes first."""
        if self.left.count:
            self._reclaim(start, end)
        self.trim([(start, end)])
        done, refused = _attempt(self.meter.eaug, start, end)
        _move(self.left, start, done, PENDING_PAGE)
        _give_up(refused)

    def eaccept(self, start: int, end: int, prot: int, request: int) -> None:
        """EACCEPT; of a trim it raises nothing."""
        done, refused = _attempt(self.meter.eaccept, start, end, prot, request)
        if request == MODIFIED:
            _move(self.left, start, done, TRIMMED)
            return
        if request & (PENDING | MODIFIED):
            _move(self.left, start, done, None)
            _move(self.committed, start, done, prot)
        _give_up(refused)

    def emodpe(self, start: int, end: int, prot: int) -> None:
        """EMODPE."""
        done, refused = _attempt(self.meter.emodpe, start, end, prot)
        self._allow(start, done, lambda had: had | prot)
        _give_up(refused)

    def zero(self, start: int, end: int) -> None:
        """Writes zeroes."""
        _give_up(_attempt(self.meter.zero, start, end)[1])

    def undo(self, before: Iterable[Run]) -> tuple[list[Range], list[Run]]:
        """Takes new pages away and puts permissions back, as far as the host lets it. O(n log n).

        `before` are the pages that were committed when `trimmed` was empty. Returns as `Recoverable.restore`.
        """
        gone: list[Range] = []
        kept: list[Run] = []
        new: RangeMap[bool] = RangeMap()
        for start, end, _ in self.committed:
            new.set(start, end, True)
        for start, end, had in before:
            for begin, stop, now in self.committed.runs(start, end):
                for low, high, trimmed in self.trimmed.runs(begin, stop):
                    if now is None or trimmed:
                        gone.append((low, high))
                        continue
                    new.set(low, high, None)
                    if now != had:
                        kept.append((low, high, had))
        with suppress(PalError):
            self._reclaim(0, TOP)
        self.discard((start, end) for start, end, _ in new)
        for run in kept:
            with suppress(PalError):
                self.protect([run])
        stuck = []
        for start, end, had in kept:
            for begin, stop, now in self.committed.runs(start, end):
                if now is not None and now != had:
                    stuck.append((begin, stop, now))
        return gone, stuck

    def discard(self, ranges: Iterable[Range]) -> None:
        """As `Edmm.discard`, run by run; what the driver does not even shut waits in `left` as it is. O(runs log n)."""
        for start, end in ranges:
            try:
                super().discard([(start, end)])
            except PalError:
                for begin, stop, prot in list(self.committed.runs(start, end)):
                    if prot is not None:
                        self.committed.set(begin, stop, None)
                        self.left.set(begin, stop, ACCEPTED)

    def _allow(self, start: int, end: int, change: Callable[[int], int]) -> None:
        if start < end:
            self.committed.edit(start, end, change)


class Recoverable(Gramine):
    """Upstream's PAL on a `Recovery`. Its methods raise PalError(ENOMEM), and may be half done then."""

    __slots__ = ("recovery",)

    def __init__(self, meter: Meter) -> None:
        self.recovery = Recovery(meter)
        super().__init__(self.recovery)

    def count(self) -> int:
        """How many pages are in the EPC, also those that failures left there. O(n)."""
        return self.recovery.pages()

    def begin(self) -> RangeMap[int]:
        """The pages as they are now, for `restore`. O(n)."""
        self.recovery.trimmed = RangeMap()
        return self.pages.copy()

    def restore(self, before: RangeMap[int]) -> tuple[list[Range], list[Run]]:
        """Undoes what was done since `begin`, which returned `before`. O(n log n).

        Returns the ranges that a trim has taken away, which nobody can bring back; and those whose permissions the host
        would not put back, with what they have.
        """
        gone, stuck = self.recovery.undo([run for run in before if run[2] != LAZY])
        self._read(before)
        return gone, stuck

    def discard(self, start: int, end: int) -> None:
        """Takes pages away that nobody is to have; those that the host does not take are shut. O(n)."""
        self.recovery.discard([(start, end)])
        self._read(self.pages)

    def _read(self, before: Iterable[Run]) -> None:
        # The record as upstream's PAL keeps it; what waited for its first touch before does so again.
        pages: RangeMap[int] = RangeMap()
        for start, end, had in before:
            if had == LAZY:
                pages.set(start, end, LAZY)
        for start, end, prot in self.recovery.committed:
            pages.set(start, end, prot)
        self.pages = pages


def _attempt(operation: Callable[..., None], start: int, end: int, *arguments: Any) -> tuple[int, SgxError | None]:
    # Up to where it came, and why no further.
    try:
        insist(operation, start, end, *arguments)
    except SgxError as refused:
        return refused.done, refused
    return end, None


def _give_up(refused: SgxError | None) -> None:
    if refused is not None:
        raise PalError(ENOMEM, str(refused)) from refused


def _move(pages: RangeMap[int], start: int, end: int, value: int | None) -> None:
    if start < end:
        pages.set(start, end, value)
