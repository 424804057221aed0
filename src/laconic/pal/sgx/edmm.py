"""The PAL of one SGX2 enclave: each kind of change as the least sequence of leaves and host calls.

The committed pages and their EPCM permissions are this PAL's own record, written only after success: no page is
accepted twice without a trim between (a host could give an empty page in its place), and nothing is asked of a page
that does not exist. What is equal costs nothing; an extension costs no host call; only a restriction and a trim do.
"""

from __future__ import annotations

from collections.abc import Iterable

from laconic.memory.flags import PAGE_SHIFT, PROT_READ, PROT_RWX, PROT_WRITE
from laconic.pal.sgx.meter import MODIFIED, PENDING, PR, PT_TRIM, Meter
from laconic.rangemap import RangeMap

#: What EAUG and EACCEPT give a page.
RW = PROT_READ | PROT_WRITE
Range = tuple[int, int]


def permissions(vm_flags: int) -> int:
    """The EPCM permissions for a VMA's protection: R for W, which the EPCM does not have alone. O(1).

    >>> permissions(2), permissions(4)
    (3, 4)
    """
    prot = vm_flags & PROT_RWX
    return prot | PROT_READ if prot & PROT_WRITE else prot


class Edmm:
    """One enclave's pages. `committed`: the EPCM permissions of each page that exists.

    `batch`: the ioctls of one step go in one host call; else each run has a host call of its own.
    """

    __slots__ = ("batch", "committed", "meter")

    def __init__(self, meter: Meter, batch: bool = True) -> None:
        self.meter = meter
        self.batch = batch
        self.committed: RangeMap[int] = RangeMap()

    def pages(self) -> int:
        """How many pages are committed. O(n)."""
        return sum(end - start for start, end, _ in self.committed) >> PAGE_SHIFT

    def commit(self, start: int, end: int, prot: int, contents: bool = False, source: int | None = None) -> None:
        """Commits pages that do not exist, with `prot` from the first moment. O(log n).

        `contents`: they have some, which are put into a staging page first; `source`: they are those of other pages of
        the enclave, at that address.
        """
        meter = self.meter
        meter.eaug(start, end)
        if prot == RW and not contents and source is None:
            meter.eaccept(start, end, RW, PENDING)
        else:
            if contents:
                meter.copy(end - start >> PAGE_SHIFT)
            meter.eacceptcopy(start, end, prot, source)
        self.committed.set(start, end, prot)

    def protect(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Gives the committed pages of each `(start, end, prot)` these permissions. O(runs log n).

        A page that gains and loses some has EMODPR first, so that it never has both.
        """
        restricted: list[tuple[int, int, int, int]] = []
        for start, end, prot in changes:
            for begin, stop, had in list(self.committed.runs(start, end)):
                if had is None or had == prot:
                    continue
                if had & ~prot:
                    restricted.append((begin, stop, had, prot))
                else:
                    self.meter.emodpe(begin, stop, prot)
                    self.committed.set(begin, stop, prot)
        if restricted:
            self._restrict(restricted)

    def _restrict(self, runs: list[tuple[int, int, int, int]]) -> None:
        meter = self.meter
        meter.host_call(1 if self.batch else len(runs))
        for start, end, had, prot in runs:
            meter.restrict(start, end, had & prot)
        for start, end, had, prot in runs:
            if prot & ~had:
                meter.emodpe(start, end, prot)
            meter.eaccept(start, end, prot, PR)
            self.committed.set(start, end, prot)

    def trim(self, ranges: Iterable[Range]) -> None:
        """Gives the committed pages of `ranges` back to the driver. O(runs log n)."""
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
        meter = self.meter
        calls = 1 if self.batch else len(runs)
        meter.host_call(calls)
        for start, end in runs:
            meter.modify_types(start, end, PT_TRIM)
            meter.eaccept(start, end, 0, MODIFIED)
        meter.host_call(calls)
        for start, end in runs:
            meter.remove(start, end)
            self.committed.set(start, end, None)
