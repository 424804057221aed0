"""Program loading: the stack, the segments of the program and of ld.so, and the vDSO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from laconic.libos.gramine import VMA_MAY_WRITE, Libos, LibosVma
from laconic.libos.settings import STACK_SIZE
from laconic.memory.flags import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_RWX,
    PROT_WRITE,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_MAYSHARE,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_SHARED,
)
from laconic.memory.space import Entry
from laconic.memory.vma import Vma
from laconic.sgx.pal.gramine import RW

#: The size of the vDSO: Gramine has its own (vdso_so_size in libos_rtld.c).
VDSO: Final = PAGE_SIZE


def load_program(libos: Libos, entries: Iterable[Entry], has_vdso: bool) -> None:
    """Map a program as Gramine's loader does, at the addresses of `entries` in the trace.

    `has_vdso`: a process has its vDSO from the beginning. A program that it executes has none,
    because execve frees it with the other VMAs. O(entries).
    """
    image = list(entries)
    stacks = {start for start, _, vma in image if vma.flags & VM_GROWSDOWN}
    for start, end, vma in image:
        if not is_the_programs(start, vma):
            continue
        prot = vma.flags & PROT_RWX
        if not prot and end in stacks:
            # A Gramine log also shows the guard page, which `allocate_stack` makes.
            continue
        if start in libos.kept:
            continue
        if vma.is_from_disk:
            map_segment(libos, start, end, prot, vma)
        elif vma.flags & VM_GROWSDOWN:
            if stack_bottom(libos, start, end) - PAGE_SIZE not in libos.kept:
                allocate_stack(libos, start, end, prot)
        elif is_vdso(vma):
            if has_vdso:
                map_vdso(libos, start, prot)
        else:
            libos.alloc(start, end, prot, vma.flags & VM_NORESERVE)


def is_the_programs(start: int, vma: Vma) -> bool:
    """Return False for mappings that the kernel makes for itself, such as [vvar]."""
    return not vma.flags & (VM_IO | VM_PFNMAP) and start < TASK_SIZE


def is_vdso(vma: Vma) -> bool:
    """Return whether a VMA is [vdso]: an executable special mapping (vdso_mapping in
    arch/x86/entry/vdso)."""
    return bool(vma.flags & VM_DONTEXPAND and vma.flags & VM_EXEC)


def map_segment(libos: Libos, start: int, end: int, prot: int, vma: Vma) -> None:
    """execute_loadcmd: read a segment of the program or of ld.so, and zero its last page from the
    segment's end on.

    A segment that is not writable is made writable for that: two Protects of one page for each
    segment. O(log n).
    """
    assert vma.file is not None
    libos.map_file(start, end, LibosVma(prot, mapping_flags(vma), vma.file))
    switches = libos.switches
    if switches.copy or switches.demand:
        return  # the last page is zeroed in the memory that it is copied from
    if not prot & PROT_WRITE:
        last = end - PAGE_SIZE
        libos.pal.protect(last, end, prot | PROT_WRITE)
        libos.pal.protect(last, end, prot)
        libos.meter.counts.open_windows += 1


def mapping_flags(vma: Vma) -> int:
    """Return the flags that the LibOS keeps for a file mapping, derived from Linux's."""
    flags = VM_SHARED if vma.flags & VM_MAYSHARE else 0
    # Linux keeps VM_SHARED only if the descriptor may write (do_mmap in mm/mmap.c).
    return flags | VMA_MAY_WRITE if vma.flags & VM_SHARED else flags


def allocate_stack(libos: Libos, start: int, end: int, prot: int) -> None:
    """allocate_stack (libos_init.c): allocate inaccessible memory, and then make all but its guard
    page accessible.

    The stack has its full size (sys.stack.size) from the beginning, and is committed. O(log n).
    """
    stack_start = stack_bottom(libos, start, end)
    guard = stack_start - PAGE_SIZE
    if libos.switches.copy:
        # Each part gets its own permissions immediately.
        libos.add(guard, stack_start, 0)
        libos.add(stack_start, end, prot)
    else:
        libos.add(guard, end, 0)
        libos.pal.protect(stack_start, end, prot)
    libos.vmas.set(guard, stack_start, LibosVma(0))
    libos.vmas.set(stack_start, end, LibosVma(prot))


def stack_bottom(libos: Libos, start: int, end: int) -> int:
    """Return the lowest address of the stack: `start` if the trace's stack is larger than the
    manifest's."""
    return min(start, end - libos.settings.stack_size)


def grow_stack(libos: Libos, start: int, stack_start: int, prot: int) -> None:
    """Extend the stack at `stack_start` down to `start`, which Gramine's cannot do. O(log n).

    The pages cost what they would have cost at the beginning, without host calls of their own.
    """
    counts = libos.meter.counts
    calls = counts.host_calls, counts.ioctls
    stack = libos.vmas.get(stack_start)
    if has_guard(libos, stack_start):
        libos.meter.exceeds(STACK_SIZE, libos.vmas.find(stack_start)[1] - start)
        libos.add(start - PAGE_SIZE, stack_start - PAGE_SIZE, 0)
        libos.vmas.set(start - PAGE_SIZE, start, LibosVma(0))
    else:
        # A mapping with MAP_GROWSDOWN.
        libos.unmap(start, stack_start)
        libos.add(start, stack_start, 0)
    libos.pal.protect(start, stack_start, prot)
    counts.host_calls, counts.ioctls = calls
    libos.vmas.set(start, stack_start, LibosVma(prot) if stack is None else stack)


def has_guard(libos: Libos, stack_start: int) -> bool:
    """Return whether the guard page of `allocate_stack` is below a stack."""
    start, end, vma = libos.vmas.find(stack_start - PAGE_SIZE)
    return vma is not None and not vma.prot and vma.file is None and end - start == PAGE_SIZE


def map_vdso(libos: Libos, start: int, prot: int) -> None:
    """vdso_map_init: the VMA is RX, but the pages are RW until the vDSO is copied. O(log n)."""
    end = start + VDSO
    if libos.switches.copy:
        libos.pal.alloc(start, end, prot)
    else:
        libos.pal.alloc(start, end, RW)
        libos.pal.protect(start, end, prot)
    libos.meter.copy(VDSO >> PAGE_SHIFT)
    libos.meter.counts.untouched_pages += VDSO >> PAGE_SHIFT
    libos.vmas.set(start, end, LibosVma(prot))


def enter(libos: Libos, start: int, end: int, vma: Vma) -> None:
    """Add memory that is known only by its VMA, because the program did not map it by a call that
    Gramine has. O(log n)."""
    if not is_the_programs(start, vma):
        return
    prot = vma.flags & PROT_RWX
    if vma.is_from_disk:
        libos.map_file(start, end, LibosVma(prot, mapping_flags(vma), vma.file))
    else:
        libos.alloc(start, end, prot, vma.flags & VM_NORESERVE)
