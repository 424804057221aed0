"""The PAL of one SGX2 enclave: each kind of change as its minimal sequence of SGX instructions and
host calls.

The PAL keeps its own record of the committed pages and their EPCM permissions, which it writes only
after success. Therefore no page is accepted twice without a trim in between (a host could otherwise
substitute an empty page), and no operation applies to a page that does not exist. An equal page
costs nothing, and an extension costs no host call; only a restriction and a trim do.

A host may refuse, or do half of the work. An operation that may succeed later is retried. If it
still fails, every method restores its pages and raises a `PalError`. The exception is a trim, which
cannot be undone: its error states how far it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import EAGAIN, EBUSY, EINTR, ENOMEM
from typing import Any

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE, PROT_READ, PROT_RWX, PROT_WRITE
from laconic.memory.rangemap import Range, RangeMap, join_ranges
from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_TCS, PT_TRIM, Meter
from laconic.sgx.model.faults import (
    EPC_PAGE_CONFLICT,
    NOT_TRACKED,
    PAGE_ATTRIBUTES_MISMATCH,
    PREV_TRK_INCMPL,
    SgxError,
)

#: The permissions of a page after EAUG and EACCEPT.
RW = PROT_READ | PROT_WRITE
#: Start, end, and the permissions before and after.
_ProtChange = tuple[int, int, int, int]
_AGAIN = {EBUSY, EAGAIN, EINTR}
_TRACK_AGAIN = {NOT_TRACKED, EPC_PAGE_CONFLICT, PREV_TRK_INCMPL}
#: The access that the host's mapping allows after a failed change.
_UNKNOWN = -1
#: The maximum number of retries for one page.
_RETRIES = 8
#: The states in which a failed operation can leave a page in the EPC. The page is inaccessible in
#: each state except ACCEPTED, in which a commit failed halfway and the driver did not take the page
#: back. A PENDING page is accepted without permissions. A RETYPED page is changing to a TCS, and
#: must complete that first.
PENDING_PAGE, ACCEPTED, CHANGED, TRIMMED, RETYPED = 1, 2, 3, 4, 5
#: The request of EACCEPT for a page that becomes a TCS.
_TCS_MODIFIED = PT_TCS << 8 | MODIFIED


class PalError(Exception):
    """The host did not carry out an operation. `error` is the errno for the program; `gone` are the
    ranges that a trim had removed before it failed."""

    def __init__(self, error: int, why: str, gone: Iterable[Range] = ()) -> None:
        super().__init__(why)
        self.error = error
        self.gone = list(gone)


def permissions(vm_flags: int) -> int:
    """Return the EPCM permissions for a VMA's protection: W includes R, because the EPCM does not
    allow W alone. O(1).

    >>> permissions(2), permissions(4)
    (3, 4)
    """
    prot = vm_flags & PROT_RWX
    return prot | PROT_READ if prot & PROT_WRITE else prot


@mypyc_attr(allow_interpreted_subclasses=True)
class Edmm:
    """One enclave's pages. `committed`: the EPCM permissions of each page that exists.

    `batch`: the ioctls of one step share one host call; otherwise each run has its own. `ranges`:
    the kernel is patched to add a range of pages in one host call, without faults; `touched` is
    then the number of faults of the next commit, each of which has added a page. `left`: pages that
    a failure left in the EPC and that must still be removed. `host`: the access that the host's
    mapping allows; None unless `sync` requires that mapping to equal the EPCM.
    """

    __slots__ = ("batch", "committed", "host", "left", "meter", "ranges", "touched")

    def __init__(
        self, meter: Meter, batch: bool = True, sync: bool = False, ranges: bool = False
    ) -> None:
        self.meter = meter
        self.batch = batch
        self.ranges = ranges
        self.touched = 0
        self.committed: RangeMap[int] = RangeMap()
        self.left: RangeMap[int] = RangeMap()
        self.host: RangeMap[int] | None = RangeMap() if sync else None

    def pages(self) -> int:
        """Return the number of pages in the EPC. O(n)."""
        return (
            sum(end - start for pages in (self.committed, self.left) for start, end, _ in pages)
            >> PAGE_SHIFT
        )

    # The sequences

    def commit(
        self, start: int, end: int, prot: int, contents: bool = False, source: int | None = None
    ) -> None:
        """Commit pages that do not exist, with `prot` from the first moment. O(log n).

        `contents`: the pages have contents, which are first copied into a staging page. `source`:
        the contents are those of other pages of the enclave, at that address. Raises
        PalError(ENOMEM); none of the pages exists then.
        """
        meter = self.meter
        if self.host is not None:
            self._map_host([(start, end, prot | RW)])
        if self.left.count:
            self._reclaim(start, end)
        faults = [self._faults(start, end)] if self.ranges else []
        try:
            insist(meter.eaug, start, end, *faults)
        except SgxError as refused:
            if refused.done > start:
                self.left.set(start, refused.done, PENDING_PAGE)
            self._abandon(start, end, refused)
        try:
            if prot == RW and not contents and source is None:
                insist(meter.eaccept, start, end, RW, PENDING)
            else:
                if contents:
                    meter.copy(end - start >> PAGE_SHIFT)
                insist(meter.eacceptcopy, start, end, prot, source)
        except SgxError as refused:
            if refused.done > start:
                self.left.set(start, refused.done, ACCEPTED)
            self.left.set(refused.done, end, PENDING_PAGE)
            self._abandon(start, end, refused)
        self.committed.set(start, end, prot)
        if self.host is not None:
            self._narrow_host([(start, end, prot)])

    def _faults(self, start: int, end: int) -> int:
        # The number of pages that faults add; one host call for each fault adds the others.
        pages = end - start >> PAGE_SHIFT
        touched, self.touched = self.touched, 0
        if pages == max(touched, 1):
            return pages
        self.meter.host_call(max(touched, 1))
        return touched

    def add_tcs(self, start: int) -> None:
        """Make the page at `start`, which does not exist, a TCS, which cannot be accessed.
        O(log n).

        Raises PalError(ENOMEM); the page does not exist then.
        """
        end, meter = start + PAGE_SIZE, self.meter
        self.commit(start, end, RW)
        meter.host_call()
        state = ACCEPTED
        try:
            insist(meter.modify_types, start, end, PT_TCS)
            state = RETYPED
            insist(meter.eaccept, start, end, 0, _TCS_MODIFIED)
        except SgxError as refused:
            if state == ACCEPTED and self._changed(start, RW):
                state = RETYPED
            self.committed.set(start, end, None)
            self.left.set(start, end, state)
            self._abandon(start, end, refused)
        self.committed.set(start, end, 0)

    def _abandon(self, start: int, end: int, refused: SgxError) -> None:
        # A commit has failed: remove its pages again, immediately if the host permits it.
        with suppress(PalError):
            self._reclaim(start, end)
        raise PalError(ENOMEM, str(refused)) from refused

    def protect(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Give the committed pages of each `(start, end, prot)` these permissions. O(runs log n).

        If a page both gains and loses permissions, EMODPR comes first so that the page never has
        both sets. Raises PalError(ENOMEM).
        """
        extended, restricted = self._split(changes)
        if not extended and not restricted:
            return
        try:
            self._protect(extended, restricted)
        except PalError:
            before = [(start, end, had) for start, end, had, _ in extended + restricted]
            with suppress(PalError):
                self._protect(*self._split(before))
            raise

    def _split(
        self, changes: Iterable[tuple[int, int, int]]
    ) -> tuple[list[_ProtChange], list[_ProtChange]]:
        # Separate the runs that only gain permissions from those that lose some.
        extended: list[_ProtChange] = []
        restricted: list[_ProtChange] = []
        for run in self.differing(changes):
            _, _, had, prot = run
            (restricted if had & ~prot else extended).append(run)
        return extended, restricted

    def differing(self, changes: Iterable[tuple[int, int, int]]) -> list[_ProtChange]:
        """Return the runs of committed pages whose permissions differ from those in `changes`.
        O(runs log n).

        A run has a start, an end, and the permissions before and after. Neighbors with the same
        change are one run.
        """
        runs: list[_ProtChange] = []
        for start, end, prot in changes:
            for run_start, run_end, had in self.committed.runs(start, end):
                if had is None or had == prot:
                    continue
                if runs and runs[-1][1:] == (run_start, had, prot):
                    run_start = runs.pop()[0]
                runs.append((run_start, run_end, had, prot))
        return runs

    def _protect(self, extended: list[_ProtChange], restricted: list[_ProtChange]) -> None:
        if self.host is not None:
            self._map_host([(start, end, prot) for start, end, _, prot in extended])
        if restricted:
            self._restrict(restricted)
        for start, end, _, prot in extended:
            self._extend(start, end, prot)

    def _extend(self, start: int, end: int, prot: int) -> None:
        try:
            insist(self.meter.emodpe, start, end, prot)
        except SgxError as refused:
            if refused.done > start:
                self.committed.set(start, refused.done, prot)
            raise PalError(ENOMEM, str(refused)) from refused
        self.committed.set(start, end, prot)

    def _restrict(self, runs: list[_ProtChange]) -> None:
        # Accept the permissions that remain, and extend only after that: up to that point,
        # everything can be undone within the enclave.
        meter = self.meter
        meter.host_call(1 if self.batch else len(runs))
        reduced: list[tuple[int, int, int]] = []
        try:
            for start, end, had, prot in runs:
                reduced.append((start, end, had))
                insist(meter.restrict, start, end, had & prot)
            for start, end, had, prot in runs:
                insist(meter.eaccept, start, end, had & prot, PR)
            if self.host is not None:
                self._map_host(
                    [(start, end, prot) for start, end, had, prot in runs if prot & ~had]
                )
        except (SgxError, PalError) as refused:
            for start, end, had in reduced:
                with suppress(SgxError):
                    insist(meter.emodpe, start, end, had)
                    insist(meter.eaccept, start, end, had, PR)
            if self.host is not None:
                self._narrow_host(reduced)
            raise PalError(ENOMEM, str(refused)) from refused
        for start, end, had, prot in runs:
            self.committed.set(start, end, had & prot)
        for start, end, had, prot in runs:
            if prot & ~had:
                self._extend(start, end, prot)
        if self.host is not None:
            self._narrow_host([(start, end, prot) for start, end, _, prot in runs])

    def trim(self, ranges: Iterable[Range]) -> None:
        """Release the committed pages of `ranges` to the driver. O(runs log n).

        Raises PalError(ENOMEM) if the driver refuses; the pages in its `gone` are removed, and the
        others are unchanged.
        """
        runs = join_ranges(
            (run_start, run_end)
            for start, end in ranges
            for run_start, run_end, prot in self.committed.runs(start, end)
            if prot is not None
        )
        if not runs:
            return
        meter, left = self.meter, self.left
        calls = 1 if self.batch else len(runs)
        if self.host is not None:
            # EACCEPT needs a readable mapping.
            shut = [
                run for start, end in runs for run in self.committed.runs(start, end) if not run[2]
            ]
            self._map_host([(start, end, PROT_READ) for start, end, _ in shut])
        meter.host_call(calls)
        refusal, gone = None, runs
        for index, (start, end) in enumerate(runs):
            try:
                insist(meter.modify_types, start, end, PT_TRIM)
            except SgxError as refused:
                refusal, done = refused, refused.done
                if self._changed(done, self.committed.get(done)):
                    done += PAGE_SIZE
                gone = runs[:index] + ([(start, done)] if done > start else [])
                break
        trimmed = []
        for start, end in gone:
            self.committed.set(start, end, None)
            try:
                insist(meter.eaccept, start, end, 0, MODIFIED)
                trimmed.append((start, end))
            except SgxError as refused:
                left.set(refused.done, end, CHANGED)
                if refused.done > start:
                    trimmed.append((start, refused.done))
        if trimmed:
            meter.host_call(calls)
        for start, end in trimmed:
            try:
                insist(meter.remove, start, end)
            except SgxError as refused:
                left.set(refused.done, end, TRIMMED)
        if self.host is not None:
            self._narrow_host([(start, end, 0) for start, end in gone])
        if refusal is not None:
            raise PalError(ENOMEM, str(refusal), gone) from refusal

    # Pages left by failures

    def discard(self, ranges: Iterable[Range]) -> None:
        """Release pages that must not be accessible. Pages that the driver does not remove lose
        their permissions, and are removed later.

        Raises PalError if even that fails. O(runs log n).
        """
        ranges = list(ranges)
        try:
            self.trim(ranges)
        except PalError:
            self.protect((start, end, 0) for start, end in ranges)
            for run in ranges:
                for start, end, prot in list(self.committed.runs(*run)):
                    if prot is not None:
                        self.committed.set(start, end, None)
                        self.left.set(start, end, ACCEPTED)

    def _changed(self, start: int, prot: int | None) -> bool:
        # Return whether the page at which MODIFY_TYPES stopped was changed although it was not
        # tracked. An EACCEPT with the page's previous attributes shows it, and changes nothing.
        try:
            insist(self.meter.eaccept, start, start + PAGE_SIZE, prot or 0, PR)
        except SgxError as refused:
            return refused.code == PAGE_ATTRIBUTES_MISMATCH
        return False

    def _reclaim(self, start: int, end: int) -> None:
        # Complete the removal of the leftover pages in `[start, end)`. Raises PalError.
        meter = self.meter
        steps: tuple[tuple[int, Callable[..., None], tuple[int | None, ...], int | None], ...] = (
            (RETYPED, meter.eaccept, (0, _TCS_MODIFIED), ACCEPTED),
            (PENDING_PAGE, meter.eacceptcopy, (0, None), ACCEPTED),
            (ACCEPTED, meter.modify_types, (PT_TRIM,), CHANGED),
            (CHANGED, meter.eaccept, (0, MODIFIED), TRIMMED),
            (TRIMMED, meter.remove, (), None),
        )
        failed: SgxError | None = None
        for state, operation, arguments, following in steps:
            for run_start, run_end, found in list(self.left.runs(start, end)):
                if found != state:
                    continue
                if state in (ACCEPTED, TRIMMED):
                    meter.host_call()
                try:
                    insist(operation, run_start, run_end, *arguments)
                except SgxError as refused:
                    failed, run_end = refused, refused.done
                    if state == ACCEPTED:
                        self._find(run_end)
                if run_start < run_end:
                    self.left.set(run_start, run_end, following)
        if failed is not None:
            raise PalError(ENOMEM, str(failed)) from failed

    def _find(self, start: int) -> None:
        # Find out whether an ACCEPTED page at which MODIFY_TYPES stopped has become TRIM, tracked
        # or not.
        state = TRIMMED
        try:
            insist(self.meter.eaccept, start, start + PAGE_SIZE, 0, MODIFIED)
        except SgxError as refused:
            state = CHANGED if refused.code == NOT_TRACKED else ACCEPTED
        self.left.set(start, start + PAGE_SIZE, state)

    # The host's mapping, if it follows the EPCM

    def _map_host(self, wanted: Iterable[tuple[int, int, int]]) -> None:
        # Give the host's mapping exactly these permissions, with one host call for each run that
        # differs. Raises PalError; the mapping of that run is then unknown.
        assert self.host is not None
        for start, end, prot in wanted:
            for run_start, run_end, had in list(self.host.runs(start, end)):
                if (had or 0) != prot:
                    try:
                        insist(self.meter.host_protect, run_start, run_end, prot)
                    except SgxError as refused:
                        self.host.set(run_start, run_end, _UNKNOWN)
                        raise PalError(ENOMEM, str(refused)) from refused
                    self.host.set(run_start, run_end, prot or None)

    def _narrow_host(self, wanted: Iterable[tuple[int, int, int]]) -> None:
        # The EPCM already forbids these accesses, so a refusal by the host leaves only its mapping
        # too wide.
        for run in wanted:
            with suppress(PalError):
                self._map_host([run])


def insist(operation: Callable[..., None], start: int, end: int, *arguments: Any) -> None:
    """Carry out `operation`, and retry from where it stopped if the host's error is transient.
    Raises SgxError.

    Complexity: O(log n + k) per attempt.
    """
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
