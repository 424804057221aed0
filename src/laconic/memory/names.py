"""What the kernel calls a mapping that is of no file: get_vma_name in fs/proc/task_mmu.c."""

from __future__ import annotations

from laconic.memory.flags import VM_DONTEXPAND, VM_EXEC, VM_GROWSDOWN, VM_PFNMAP
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma


def stack_start(space: AddressSpace) -> int:
    """Where the stack begins: the highest VMA that grows down. Others of that kind are the program's own. O(n)."""
    return max((start for start, _, vma in space.vmas if vma.flags & VM_GROWSDOWN), default=-1)


def derived_name(space: AddressSpace, start: int, end: int, vma: Vma, stack: int) -> str:
    """The name of anonymous memory or the kernel's own, "" for none; `stack` as `stack_start`. O(1)."""
    if vma.flags & VM_PFNMAP:
        return "[vvar]"
    if vma.flags & VM_DONTEXPAND and vma.flags & VM_EXEC:
        return "[vdso]"
    if start < space.brk and space.start_brk < end:
        return "[heap]"
    if start == stack:
        return "[stack]"
    return f"[anon:{vma.name}]" if vma.name is not None else ""
