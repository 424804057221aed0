"""The PAL of one SGX2 enclave: each kind of change as the least sequence of leaves and host calls.

The committed pages and their EPCM permissions are this PAL's own record, written only after success: no page is
accepted twice without a trim between (a host could give an empty page in its place), and nothing is asked of a page
that does not exist. What is equal costs nothing; an extension costs no host call; only a restriction and a trim do.

A host may refuse, or do half. What may be retried is; else every method leaves its pages as they were and raises a
`PalError`, but for a trim, which no one can undo: that says how far it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import EAGAIN, EBUSY, EINTR, ENOMEM
from typing import Any

from laconic.memory.flags import PAGE_SHIFT, PROT_READ, PROT_RWX, PROT_WRITE
from laconic.pal.sgx.faults import EPC_PAGE_CONFLICT, NOT_TRACKED, PREV_TRK_INCMPL, SgxError
from laconic.pal.sgx.meter import MODIFIED, PENDING, PR, PT_TRIM, Meter
from laconic.rangemap import RangeMap

#: What EAUG and EACCEPT give a page.
RW = PROT_READ | PROT_WRITE
Range = tuple[int, int]
_AGAIN = {EBUSY, EAGAIN, EINTR}
_TRACK_AGAIN = {NOT_TRACKED, EPC_PAGE_CONFLICT, PREV_TRK_INCMPL}
#: How often the same page is tried again.
_RETRIES = 8
#: Where a page can be left on its way out of the EPC. In none of these states can it be accessed but ACCEPTED, which
#: is passed through only on the way from PENDING.
PENDING_PAGE, ACCEPTED, CHANGED, TRIMMED = 1, 2, 3, 4


class PalError(Exception):
    """The host did not do what it had to. `error` is the errno for the program; `gone` are the ranges that a trim had
    taken away before it failed."""

    def __init__(self, error: int, why: str, gone: Iterable[Range] = ()) -> None:
        super().__init__(why)
        self.error = error
        self.gone = list(gone)


def permissions(vm_flags: int) -> int:
    """The EPCM permissions for a VMA's protection: R for W, which the EPCM does not have alone. O(1).

    >>> permissions(2), permissions(4)
    (3, 4)
    """
    prot = vm_flags & PROT_RWX
    return prot | PROT_READ if prot & PROT_WRITE else prot


class Edmm:
    """One enclave's pages. `committed`: the EPCM permissions of each page that exists.

    `batch`: the ioctls of one step go in one host call; else each run has a host call of its own. `left`: pages that
    a failure left in the EPC, on their way out. `host`, where `sync` asks that the host's mapping equals the EPCM:
    what that mapping allows.
    """

    __slots__ = ("batch", "committed", "host", "left", "meter")

    def __init__(self, meter: Meter, batch: bool = True, sync: bool = False) -> None:
        self.meter = meter
        self.batch = batch
        self.committed: RangeMap[int] = RangeMap()
        self.left: RangeMap[int] = RangeMap()
        self.host: RangeMap[int] | None = RangeMap() if sync else None

    def pages(self) -> int:
        """How many pages are in the EPC. O(n)."""
        return sum(end - start for pages in (self.committed, self.left) for start, end, _ in pages) >> PAGE_SHIFT

    # The sequences

    def commit(self, start: int, end: int, prot: int, contents: bool = False, source: int | None = None) -> None:
        """Commits pages that do not exist, with `prot` from the first moment. O(log n).

        `contents`: they have some, which are put into a staging page first; `source`: they are those of other pages of
        the enclave, at that address. Raises PalError(ENOMEM), and none of them exists then.
        """
        meter = self.meter
        if self.left.count:
            self._reclaim(start, end)
        if self.host is not None:
            self._map_host([(start, end, prot | RW)])
        try:
            _insist(meter.eaug, start, end)
        except SgxError as refused:
            self.left.set(start, refused.done, PENDING_PAGE) if refused.done > start else None
            self._abandon(start, end, refused)
        try:
            if prot == RW and not contents and source is None:
                _insist(meter.eaccept, start, end, RW, PENDING)
            else:
                if contents:
                    meter.copy(end - start >> PAGE_SHIFT)
                _insist(meter.eacceptcopy, start, end, prot, source)
        except SgxError as refused:
            if refused.done > start:
                self.left.set(start, refused.done, ACCEPTED)
            self.left.set(refused.done, end, PENDING_PAGE)
            self._abandon(start, end, refused)
        self.committed.set(start, end, prot)
        if self.host is not None:
            self._map_host([(start, end, prot)])

    def _abandon(self, start: int, end: int, refused: SgxError) -> None:
        # A commit has failed: what there is of it goes out again, at once if the host lets it.
        with suppress(PalError):
            self._reclaim(start, end)
        raise PalError(ENOMEM, str(refused)) from refused

    def protect(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Gives the committed pages of each `(start, end, prot)` these permissions. O(runs log n).

        A page that gains and loses some has EMODPR first, so that it never has both. Raises PalError(ENOMEM).
        """
        extended: list[tuple[int, int, int]] = []
        restricted: list[tuple[int, int, int, int]] = []
        for start, end, prot in changes:
            for begin, stop, had in self.committed.runs(start, end):
                if had is None or had == prot:
                    continue
                if had & ~prot:
                    restricted.append((begin, stop, had, prot))
                else:
                    extended.append((begin, stop, prot))
        if restricted:
            self._restrict(restricted)
            if self.host is not None:
                self._map_host([(start, end, prot) for start, end, _, prot in restricted])
        if extended and self.host is not None:
            self._map_host(extended)
        for start, end, prot in extended:
            self.meter.emodpe(start, end, prot)
            self.committed.set(start, end, prot)

    def _restrict(self, runs: list[tuple[int, int, int, int]]) -> None:
        # Accepted with what they keep, and only then extended: until the last step all can be taken back.
        meter = self.meter
        meter.host_call(1 if self.batch else len(runs))
        reduced = []
        try:
            for start, end, had, prot in runs:
                reduced.append((start, end, had))
                _insist(meter.restrict, start, end, had & prot)
            for start, end, had, prot in runs:
                _insist(meter.eaccept, start, end, had & prot, PR)
        except SgxError as refused:
            for start, end, had in reduced:
                meter.emodpe(start, end, had)
                with suppress(SgxError):
                    _insist(meter.eaccept, start, end, had, PR)
            raise PalError(ENOMEM, str(refused)) from refused
        for start, end, had, prot in runs:
            if prot & ~had:
                if self.host is not None:
                    self._map_host([(start, end, prot)])
                meter.emodpe(start, end, prot)
            self.committed.set(start, end, prot)

    def trim(self, ranges: Iterable[Range]) -> None:
        """Gives the committed pages of `ranges` back to the driver. O(runs log n).

        Raises PalError(ENOMEM) where the driver refuses; the pages in its `gone` are gone, the others as before.
        """
        runs: list[Range] = []
        for start, end in ranges:
            for begin, stop, prot in self.committed.runs(start, end):
                if prot is None:
                    continue
                if runs and runs[-1][1] == begin:
                    runs[-1] = (runs[-1][0], stop)
                else:
                    runs.append((begin, stop))
        if not runs:
            return
        meter, left = self.meter, self.left
        calls = 1 if self.batch else len(runs)
        if self.host is not None:
            self._map_host([(start, end, PROT_READ) for start, end in runs])  # EACCEPT needs a readable mapping
        meter.host_call(calls)
        refusal, gone = None, runs
        for index, (start, end) in enumerate(runs):
            try:
                _insist(meter.modify_types, start, end, PT_TRIM)
            except SgxError as refused:
                refusal = refused
                gone = runs[:index] + ([(start, refused.done)] if refused.done > start else [])
                break
        trimmed = []
        for start, end in gone:
            self.committed.set(start, end, None)
            try:
                _insist(meter.eaccept, start, end, 0, MODIFIED)
                trimmed.append((start, end))
            except SgxError as refused:
                left.set(refused.done, end, CHANGED)
                if refused.done > start:
                    trimmed.append((start, refused.done))
        if trimmed:
            meter.host_call(calls)
        for start, end in trimmed:
            try:
                _insist(meter.remove, start, end)
            except SgxError as refused:
                left.set(refused.done, end, TRIMMED)
        if self.host is not None:
            self._map_host([(start, end, 0) for start, end in gone])
        if refusal is not None:
            raise PalError(ENOMEM, str(refusal), gone) from refusal

    # What failures leave

    def _reclaim(self, start: int, end: int) -> None:
        # Takes what is left in `[start, end)` the rest of its way out. Raises PalError.
        meter = self.meter
        steps: tuple[tuple[int, Callable[..., None], tuple[int, ...], int | None], ...] = (
            (PENDING_PAGE, meter.eaccept, (RW, PENDING), ACCEPTED),
            (ACCEPTED, meter.modify_types, (PT_TRIM,), CHANGED),
            (CHANGED, meter.eaccept, (0, MODIFIED), TRIMMED),
            (TRIMMED, meter.remove, (), None),
        )
        for state, operation, arguments, following in steps:
            for begin, stop, found in list(self.left.runs(start, end)):
                if found != state:
                    continue
                if state in (ACCEPTED, TRIMMED):
                    meter.host_call()
                try:
                    _insist(operation, begin, stop, *arguments)
                except SgxError as refused:
                    if refused.done > begin:
                        self.left.set(begin, refused.done, following)
                    raise PalError(ENOMEM, str(refused)) from refused
                self.left.set(begin, stop, following)

    def _map_host(self, wanted: Iterable[tuple[int, int, int]]) -> None:
        # Makes the host's mapping allow just this; a host call for each run that differs.
        assert self.host is not None
        for start, end, prot in wanted:
            for begin, stop, had in list(self.host.runs(start, end)):
                if (had or 0) != prot:
                    try:
                        self.meter.host_protect(begin, stop, prot)
                    except SgxError as refused:
                        raise PalError(ENOMEM, str(refused)) from refused
                    self.host.set(begin, stop, prot or None)


def _insist(operation: Callable[..., None], start: int, end: int, *arguments: Any) -> None:
    # Goes on where the host stopped for a reason that passes.
    tries = 0
    while True:
        try:
            operation(start, end, *arguments)
            return
        except SgxError as refused:
            if refused.error not in _AGAIN and refused.code not in _TRACK_AGAIN:
                raise
            tries = tries + 1 if refused.done == start else 0
            if tries > _RETRIES:
                raise
            if arguments and operation.__name__ == "eacceptcopy" and arguments[1] is not None:
                arguments = (arguments[0], arguments[1] + refused.done - start)
            start = refused.done
