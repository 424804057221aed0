"""The LibOS's memory for its own VMA objects, and for lists of VMAs.

Objects come from areas that are allocated as they are needed (memmgr.h), and never given back. A
list of VMAs (dump_vmas) is an array from the LibOS's malloc, which maps what is large by itself.
"""

from __future__ import annotations

from typing import Final

from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE
from laconic.memory.rangemap import Range

#: Objects in the first area, which exists from the beginning (DEFAULT_VMA_COUNT in libos_vma.c).
FIRST: Final = 64
#: An area's pages, and the objects of `struct libos_vma` (96 bytes) that fit beside its header of
#: 24 bytes (size_align_up in memmgr.h).
AREA: Final = 2 * PAGE_SIZE
OBJECTS: Final = (AREA - 24) // 96
#: VMAs that every process has beside those that are modeled: the initial ones of the PAL and the
#: host's (16 in a log of gramine-direct), the LibOS's slabs, and objects in the threads' caches.
ALWAYS: Final = 32
#: One `struct libos_vma_info` (bytes), the largest array that slabs have room for
#: (SLAB_LEVEL_SIZES in slabmgr.h), and the header of a larger one.
_INFO: Final = 64
_SLABS: Final = 8288 - 32
_HEADER: Final = 32


class VmaSlab:
    """The areas of VMA objects of one process, from the address `start` (bytes) on."""

    __slots__ = ("capacity", "end")

    def __init__(self, start: int) -> None:
        self.end = start
        self.capacity = FIRST - ALWAYS

    def hold(self, vmas: int) -> Range | None:
        """Make room for so many VMAs. Returns the range of new areas, which the caller allocates,
        or None. O(1)."""
        if vmas <= self.capacity:
            return None
        start = self.end
        while self.capacity < vmas:
            # An area's own VMA (_vma_malloc) is an object too.
            self.capacity += OBJECTS - 1
            self.end += AREA
        return start, self.end


def list_pages(count: int) -> int:
    """Pages of the LibOS that a list of `count` VMAs has to itself: 0 if slabs have room for it."""
    size = count * _INFO
    if size <= _SLABS:
        return 0
    return (size + _HEADER + PAGE_SIZE - 1) >> PAGE_SHIFT
