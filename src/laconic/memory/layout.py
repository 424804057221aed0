"""The kernel's choice of an address for a new mapping.

arch/x86/kernel/sys_x86_64.c, mm/mmap.c, mm/vma.c.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from errno import ENOMEM

from laconic.memory.flags import (
    MAP_32BIT,
    PAGE_MASK,
    PAGE_SIZE,
    PMD_SIZE,
    TASK_SIZE,
    VM_GROWSDOWN,
)
from laconic.memory.rangemap import RangeMap
from laconic.memory.vma import Vma


@dataclass(slots=True)
class Layout:
    """The settings that decide addresses in one `mm`, and the kernel's limits. Sizes are in bytes.

    `mmap_base` is None until `learn` derives it from the host's first choice. No VMA below
    `quiet_below` can grow unseen.

    `thp`: CONFIG_TRANSPARENT_HUGEPAGE. `thp_align`: the kernel aligns anonymous mappings of whole
    huge pages (__get_unmapped_area since 6.7). `shmem_align`: the kernel may align shared anonymous
    mappings (shmem_get_unmapped_area). `refused_advice`: madvise advice that this kernel was built
    without. `anon_names`: CONFIG_ANON_VMA_NAME.
    """

    mmap_base: int | None = None
    top_down: bool = True
    legacy_base: int = (TASK_SIZE // 3 + PAGE_SIZE - 1) & PAGE_MASK
    mmap_min_addr: int = 65536
    stack_guard_gap: int = 256 * PAGE_SIZE
    thp: bool = True
    thp_align: bool = False
    shmem_align: bool = False
    max_map_count: int = 65530
    overcommit_never: bool = False
    quiet_below: int = 0
    refused_advice: frozenset[int] = frozenset()
    anon_names: bool = True

    def copy(self) -> Layout:
        """Return an independent copy, for fork."""
        return replace(self)

    def learn(self, vmas: RangeMap[Vma], start: int, end: int) -> None:
        """Derive the mmap base from the first range `[start, end)` that the host chose itself.

        The kernel takes the highest hole that fits (unmapped_area_topdown in mm/vma.c). VMAs
        directly above the range, without a hole, were therefore placed earlier from the same base.
        Complexity: O(log n + VMAs directly above).
        """
        if self.top_down:
            while vmas.get(end) is not None:
                end = vmas.find(end)[1]
            self.mmap_base = end
            # The program may already have mapped its own stack (MAP_GROWSDOWN at a fixed address).
            if not any(vma.flags & VM_GROWSDOWN for vma_start, _, vma in vmas if vma_start < end):
                self.quiet_below = end
        else:
            while start and vmas.get(start - 1) is not None:
                start = vmas.find(start - 1)[0]
            self.mmap_base = self.legacy_base = start


def start_gap(layout: Layout, start: int, vma: Vma) -> int:
    """Return the lowest address that stays free for a VMA at `start`.

    vm_start_gap in include/linux/mm.h.
    """
    if vma.flags & VM_GROWSDOWN:
        return max(start - layout.stack_guard_gap, 0)
    return start


def hint_fits(layout: Layout, vmas: RangeMap[Vma], address: int, length: int) -> bool:
    """Return whether the kernel would use a hint: its range is free and in no guard gap.
    O(log n)."""
    if not 0 < address <= TASK_SIZE - length:
        return False
    _, end, vma = vmas.find(address)
    if vma is not None:
        return False
    above = vmas.get(end)
    return address + length <= (end if above is None else start_gap(layout, end, above))


def get_unmapped_area(
    layout: Layout, vmas: RangeMap[Vma], hint: int, length: int, flags: int, anonymous: bool
) -> int | None:
    """Return the address that Linux chooses for `length` bytes, or -ENOMEM. O(log n + holes tried).

    Returns None if only the host can choose. `hint` (page-aligned, 0 for none), `length` (whole
    pages) and the result are in bytes.
    """
    if length > TASK_SIZE:
        return -ENOMEM
    if layout.thp_align and anonymous and not hint and length % PMD_SIZE == 0:
        # __thp_get_unmapped_area (mm/huge_memory.c) requests one more huge page, and aligns
        # upwards.
        padded = _choose(layout, vmas, 0, length + PMD_SIZE, flags)
        if padded is None:
            return None
        if padded > 0:
            return padded + (-padded % PMD_SIZE or (PMD_SIZE if layout.top_down else 0))
    return _choose(layout, vmas, hint, length, flags)


def _choose(layout: Layout, vmas: RangeMap[Vma], hint: int, length: int, flags: int) -> int | None:
    # arch_get_unmapped_area_topdown and arch_get_unmapped_area (arch/x86/kernel/sys_x86_64.c)
    if flags & MAP_32BIT:
        return _lowest(layout, vmas, hint, length, 0x40000000, 0x80000000)
    if hint and hint_fits(layout, vmas, hint, length):
        return hint
    if layout.mmap_base is None:
        return None
    if not layout.top_down:
        return _lowest(layout, vmas, 0, length, layout.mmap_base, TASK_SIZE)
    highest = _highest(layout, vmas, length)
    if highest is not None:
        return highest
    return _lowest(layout, vmas, 0, length, layout.legacy_base, TASK_SIZE)


def _highest(layout: Layout, vmas: RangeMap[Vma], length: int) -> int | None:
    # unmapped_area_topdown (mm/vma.c)
    search_end = layout.mmap_base
    assert search_end is not None
    while True:
        hole = vmas.highest_hole(layout.mmap_min_addr, search_end, length)
        if hole is None:
            return None
        end = hole[1]
        if end < layout.quiet_below:
            return end - length  # no VMA below has a guard gap
        search_end = _gap_above(layout, vmas, end)
        if search_end >= end:
            return end - length
        # The hole ends in the guard gap of the VMA above. The kernel continues below that gap.


def _gap_above(layout: Layout, vmas: RangeMap[Vma], end: int) -> int:
    # The start of the guard gap of the next VMA at or above `end`. A hole that was truncated at
    # `end` may continue above it.
    above = end
    _, hole_end, vma = vmas.find(end)
    if vma is None and hole_end < TASK_SIZE:
        above, vma = hole_end, vmas.get(hole_end)
    return end if vma is None else start_gap(layout, above, vma)


def _lowest(
    layout: Layout, vmas: RangeMap[Vma], hint: int, length: int, start: int, end: int
) -> int:
    # arch_get_unmapped_area and unmapped_area (mm/vma.c)
    if hint and hint + length <= end and hint_fits(layout, vmas, hint, length):
        return hint
    while start < end:
        hole_start = start
        _, hole_end, vma = vmas.find(hole_start)
        start = min(hole_end, end)
        if (
            vma is None
            and start - hole_start >= length
            and hole_start + length <= max(hole_start, _gap_above(layout, vmas, start))
        ):
            return hole_start
    return -ENOMEM
