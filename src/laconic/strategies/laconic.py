"""laconic: classify, and nothing is committed before it is needed, nor given back where zeroing costs less.

What is inaccessible is never committed. What is accessible is committed at its first touch, by the enclave's page-fault
handler: it asks the bookkeeping what is mapped there, and commits ahead as a kernel reads ahead, in windows that grow
while touches go on in one direction.
"""

from __future__ import annotations

from laconic.memory.flags import MADV_GUARD_INSTALL, PAGE_SHIFT, PROT_WRITE, VM_LOCKED, VM_LOCKONFAULT, VM_PROT
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.pal.sgx.edmm import permissions
from laconic.pal.sgx.meter import Meter
from laconic.strategies.classify import Classify
from laconic.strategies.touches import Touches

#: Pages that a first fault commits, and that one commits at most.
FIRST, MOST = 4, 64


class Laconic(Classify):
    """The rule `laconic`. `known_touches`: it knows beforehand which pages will be touched, and commits just these."""

    name = "laconic"
    batch = True
    known_touches = False

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        #: Where the next fault is expected, if touches go on; how many pages it then commits.
        self._expected = 0
        self._window = FIRST

    def lazy(self, vma: Vma) -> bool:
        """True where pages wait for their first touch: nearly everywhere."""
        return not vma.flags & VM_PROT or vma.flags & (VM_LOCKED | VM_LOCKONFAULT) != VM_LOCKED

    def renew(self, start: int, end: int, vma: Vma, held: Vma | None, advice: int | None) -> None:
        """Mapped pages lost their contents: overwritten in place where that is allowed, else given back."""
        before = 0 if held is None else permissions(held.flags)
        after = 0 if advice == MADV_GUARD_INSTALL else permissions(vma.flags)
        valid = max(min(end, self.valid_end(vma)), start)
        if not after or not (before | after) & PROT_WRITE:
            valid = start
        if valid < end:
            self.pal.trim([(valid, end)])
        if before & PROT_WRITE:
            self.overwrite(start, valid, vma)
        if start < valid:
            self.pal.protect([(start, valid, after)])
        if not before & PROT_WRITE:
            self.overwrite(start, valid, vma)

    def fault(self, start: int, end: int, vma: Vma) -> None:
        """Touched pages, none of which exists, committed in windows from the lowest up. O(log n + pages / MOST)."""
        if self.known_touches:
            self.commit(start, end, vma)
            return
        _, limit, mapped = self.space.vmas.find(start)
        limit = min(limit, self.pal.committed.find(start)[1], self.valid_end(vma)) if mapped == vma else end
        at, expected, window, exceptions = start, self._expected, self._window, 0
        while at < end:
            window = min(window * 2, MOST) if at == expected else FIRST
            at = expected = min(at + (window << PAGE_SHIFT), max(limit, end))
            exceptions += 1
        self._expected, self._window = expected, window
        self.meter.exception(exceptions)
        self.commit(start, at, vma)
