"""The host's VMAs of an enclave: the access that the page tables allow, in addition to the EPCM.

The VMAs are VM_SPECIAL (sgx_mmap sets VM_PFNMAP, VM_IO, VM_DONTEXPAND), and vma_merge never joins
such VMAs. A split is therefore permanent.
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


class HostRange:
    """One VMA. No two are equal, even with the same `prot`, so that the map does not merge them."""

    __slots__ = ("prot",)

    def __init__(self, prot: int) -> None:
        self.prot = prot

    @property
    def allows(self) -> int:
        """The access that its page table entries allow. On x86, every accessible page is readable
        (`protection_map`)."""
        return self.prot | PROT_READ if self.prot else 0


class HostMap:
    """The VMAs, as mmap and mprotect of the enclave's file change them.

    `may_map(start, end, prot)` is the driver's `sgx_encl_may_map`: 0 or a negative errno.
    """

    def __init__(
        self, may_map: Callable[[int, int, int], int], max_map_count: int = MAX_MAP_COUNT
    ) -> None:
        self.vmas: RangeMap[HostRange] = RangeMap(same=is_)
        self.max_map_count = max_map_count
        self._may_map = may_map

    def mmap(self, start: int, end: int, prot: int, shared: bool = True) -> int:
        """Map `[start, end)`, as with MAP_FIXED. Returns 0, -EINVAL, -EACCES or -ENOMEM.
        O(log n + k)."""
        if not shared or (start | end) % PAGE_SIZE or start >= end or prot & ~PROT_RWX:
            return -EINVAL
        error = self._may_map(start, end, prot)
        if error:
            return error
        if self._split(start) or self._split(end) or self.vmas.count >= self.max_map_count:
            return -ENOMEM
        self.vmas.set(start, end, HostRange(prot))
        return 0

    def mprotect(self, start: int, end: int, prot: int) -> int:
        """Change VMA by VMA, and stop at the first that refuses; those below it stay changed.
        O(log n + k).

        Returns 0, -EINVAL, -EACCES or -ENOMEM (a hole, or a split at max_map_count).
        """
        if (start | end) % PAGE_SIZE or start >= end or prot & ~PROT_RWX:
            return -EINVAL
        for vma_start, vma_end, vma in list(self.vmas.runs(start, end)):
            if vma is None:
                return -ENOMEM
            error = self._may_map(vma_start, vma_end, prot)
            if error:
                return error
            if vma.prot != prot:  # mprotect_fixup returns early if nothing changes: no split
                if self._split(vma_start) or self._split(vma_end):
                    return -ENOMEM
                self.vmas.set(vma_start, vma_end, HostRange(prot))
        return 0

    def _split(self, address: int) -> int:
        # As in __split_vma: a split is refused at the limit, and it is not undone if the next one
        # fails.
        start, end, vma = self.vmas.find(address)
        if vma is None or start == address:
            return 0
        if self.vmas.count >= self.max_map_count:
            return -ENOMEM
        self.vmas.set(address, end, HostRange(vma.prot))
        return 0
