"""brk: sys_brk in mm/mmap.c. It has no errors: a call that is refused returns the current break."""

from __future__ import annotations

from laconic.memory.change import MAP, Change, Outcome
from laconic.memory.flags import (
    PAGE_SIZE,
    PROT_EXEC,
    TASK_SIZE,
    VM_MAY_RWX,
    VM_MERGEABLE,
    VM_READ,
    VM_WRITE,
)
from laconic.memory.layout import start_gap
from laconic.memory.mmap import page_align
from laconic.memory.munmap import unmapped
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma


def brk(
    space: AddressSpace, address: int, data_limit: int = -1, read_implies_exec: bool = False
) -> Outcome:
    """Move the break to `address` (brk(2)); the result is the new break. O(log n + k).

    `data_limit` is RLIMIT_DATA in bytes, -1 for none.
    """
    current = space.brk
    if address < space.start_brk or address > TASK_SIZE:
        return Outcome(current)
    if data_limit >= 0 and address - space.start_brk + space.data_size > data_limit:
        return Outcome(current)  # check_data_rlimit in include/linux/mm.h
    old, new = page_align(current), page_align(address)

    def move() -> None:
        space.brk = address

    if new == old:
        space.brk = address
        return Outcome(address)
    if address < current:
        changes = unmapped(space, new, old)
        return Outcome(address, changes, new, old, then=move) if changes else Outcome(current)
    # One page above must stay free, and so must the guard gap of a stack.
    _, end, vma = space.vmas.find(old)
    if vma is not None:
        return Outcome(current)
    above = space.vmas.get(end) if end < TASK_SIZE else None
    if above is not None and new + PAGE_SIZE > start_gap(space.layout, end, above):
        return Outcome(current)
    flags = (
        VM_READ | VM_WRITE | VM_MAY_RWX | space.def_flags | (PROT_EXEC if read_implies_exec else 0)
    )
    if space.merge_any:
        flags |= VM_MERGEABLE  # ksm_vma_flags in mm/ksm.c
    vma = Vma(flags)
    space.vmas.set(old, new, vma)
    return Outcome(address, (Change(MAP, old, new, vma, None),), old, new, then=move)
