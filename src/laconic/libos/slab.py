"""The LibOS's memory for its VMA objects, and for lists of VMAs.

Objects come from areas that are allocated on demand (memmgr.h), and never released. A list of VMAs
(dump_vmas) is an array from the LibOS's malloc, which maps large arrays separately.
"""

from __future__ import annotations

from typing import Final

from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE
from laconic.memory.rangemap import Range

#: Objects in the first area, which exists from the beginning (DEFAULT_VMA_COUNT in libos_vma.c).
FIRST: Final = 64
#: The pages of an area, and the number of `struct libos_vma` objects (96 bytes) that fit next to
#: its header of 24 bytes (size_align_up in memmgr.h).
AREA: Final = 2 * PAGE_SIZE
OBJECTS: Final = (AREA - 24) // 96
#: VMAs that every process has in addition to the modelled ones: the PAL's initial ones and the
#: host's (16 in a log of gramine-direct), the LibOS's slabs, and objects in the threads' caches.
ALWAYS: Final = 32
#: The size of one `struct libos_vma_info`, the largest array that fits into slabs (SLAB_LEVEL_SIZES
#: in slabmgr.h), and the header of a larger one, in bytes.
_INFO: Final = 64
_SLABS: Final = 8288 - 32
_HEADER: Final = 32


class VmaSlab:
    """The areas of VMA objects of one process, starting at the address `start` (bytes)."""

    __slots__ = ("capacity", "end")

    def __init__(self, start: int) -> None:
        self.end = start
        self.capacity = FIRST - ALWAYS

    def hold(self, vmas: int) -> Range | None:
        """Make room for `vmas` VMAs. Returns the range of new areas, which the caller must
        allocate, or None. O(1)."""
        if vmas <= self.capacity:
            return None
        start = self.end
        while self.capacity < vmas:
            # An area's own VMA (_vma_malloc) is an object too.
            self.capacity += OBJECTS - 1
            self.end += AREA
        return start, self.end


def list_pages(count: int) -> int:
    """Return the number of LibOS pages that a list of `count` VMAs occupies: 0 if it fits into
    slabs."""
    size = count * _INFO
    if size <= _SLABS:
        return 0
    return (size + _HEADER + PAGE_SIZE - 1) >> PAGE_SHIFT
