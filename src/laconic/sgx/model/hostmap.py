"""The host's VMAs of an enclave: what the page tables allow, beside what the EPCM allows.

They are VM_SPECIAL (sgx_mmap sets VM_PFNMAP, VM_IO, VM_DONTEXPAND), which vma_merge never joins: a
split is for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOMEM
from operator import is_
from typing import Final

from laconic.memory.flags import PAGE_SIZE, PROT_READ, PROT_RWX
from laconic.memory.rangemap import RangeMap

#: The default of /proc/sys/vm/max_map_count.
MAX_MAP_COUNT: Final = 65_530


class HostVma:
    """One VMA. Two are never the same, whatever their `prot`, so that the map does not merge
    them."""

    __slots__ = ("prot",)

    def __init__(self, prot: int) -> None:
        self.prot = prot

    @property
    def allows(self) -> int:
        """What its page table entries allow: x86 reads whatever is accessible at all
        (`protection_map`)."""
        return self.prot | PROT_READ if self.prot else 0


class HostMap:
    """The VMAs, as mmap and mprotect of the enclave's file change them.

    `may_map(start, end, prot)` is the driver's `sgx_encl_may_map`: 0 or a negative errno.
    """

    def __init__(
        self, may_map: Callable[[int, int, int], int], max_map_count: int = MAX_MAP_COUNT
    ) -> None:
        self.vmas: RangeMap[HostVma] = RangeMap(same=is_)
        self.max_map_count = max_map_count
        self._may_map = may_map

    def mmap(self, start: int, end: int, prot: int, shared: bool = True) -> int:
        """Maps `[start, end)`, MAP_FIXED. Returns 0, or -EINVAL, -EACCES, -ENOMEM. O(log n + k)."""
        if not shared or (start | end) % PAGE_SIZE or start >= end or prot & ~PROT_RWX:
            return -EINVAL
        error = self._may_map(start, end, prot)
        if error:
            return error
        if self._split(start) or self._split(end) or self.vmas.count >= self.max_map_count:
            return -ENOMEM
        self.vmas.set(start, end, HostVma(prot))
        return 0

    def mprotect(self, start: int, end: int, prot: int) -> int:
        """Changes VMA by VMA, and stops at the first that refuses; those below it stay changed.
        O(log n + k).

        Returns 0, or -EINVAL, -EACCES, -ENOMEM (a hole, or a split at max_map_count).
        """
        if (start | end) % PAGE_SIZE or start >= end or prot & ~PROT_RWX:
            return -EINVAL
        for at, stop, vma in list(self.vmas.runs(start, end)):
            if vma is None:
                return -ENOMEM
            error = self._may_map(at, stop, prot)
            if error:
                return error
            if vma.prot != prot:  # mprotect_fixup returns early where nothing changes: no split
                if self._split(at) or self._split(stop):
                    return -ENOMEM
                self.vmas.set(at, stop, HostVma(prot))
        return 0

    def _split(self, address: int) -> int:
        # As __split_vma: refused at the limit, and a split that was made is not undone when the
        # next one fails.
        start, end, vma = self.vmas.find(address)
        if vma is None or start == address:
            return 0
        if self.vmas.count >= self.max_map_count:
            return -ENOMEM
        self.vmas.set(address, end, HostVma(vma.prot))
        return 0
