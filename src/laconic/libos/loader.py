"""Program load: the stack, the segments of the program and of ld.so, and the vDSO."""

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

#: The vDSO's pages: Gramine has one of its own (vdso_so_size in libos_rtld.c).
VDSO: Final = PAGE_SIZE


def load_program(libos: Libos, entries: Iterable[Entry], has_vdso: bool) -> None:
    """Map a program as Gramine's loader does, where the trace shows that `entries` were.

    A process has its vDSO from the beginning; a program that it executes has none, because execve
    frees it with the other VMAs (`has_vdso`). O(entries).
    """
    image = list(entries)
    stacks = {start for start, _, vma in image if vma.flags & VM_GROWSDOWN}
    for start, end, vma in image:
        if not is_the_programs(start, vma):
            continue
        prot = vma.flags & PROT_RWX
        if not prot and end in stacks:
            # A log of Gramine shows the guard page as well, which `allocate_stack` makes.
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
    """False for what the kernel maps for itself, as [vvar]."""
    return not vma.flags & (VM_IO | VM_PFNMAP) and start < TASK_SIZE


def is_vdso(vma: Vma) -> bool:
    """True for [vdso]: an executable special mapping (vdso_mapping in arch/x86/entry/vdso)."""
    return bool(vma.flags & VM_DONTEXPAND and vma.flags & VM_EXEC)


def map_segment(libos: Libos, start: int, end: int, prot: int, vma: Vma) -> None:
    """execute_loadcmd: a segment of the program or of ld.so is read, and its last page is cleared
    from the segment's end on.

    A segment that is not writable is opened for that: two Protects of one page, each segment.
    O(log n).
    """
    assert vma.file is not None
    libos.map_file(start, end, LibosVma(prot, mapping_flags(vma), vma.file))
    switches = libos.switches
    if switches.copy or switches.demand:
        return  # the last page is cleared where its contents are copied from
    if not prot & PROT_WRITE:
        last = end - PAGE_SIZE
        libos.pal.protect(last, end, prot | PROT_WRITE)
        libos.pal.protect(last, end, prot)
        libos.meter.counts.open_windows += 1


def mapping_flags(vma: Vma) -> int:
    """The flags that the LibOS keeps for a mapping of a file, from Linux's."""
    flags = VM_SHARED if vma.flags & VM_MAYSHARE else 0
    # Linux keeps VM_SHARED only if the descriptor may write (do_mmap in mm/mmap.c).
    return flags | VMA_MAY_WRITE if vma.flags & VM_SHARED else flags


def allocate_stack(libos: Libos, start: int, end: int, prot: int) -> None:
    """allocate_stack (libos_init.c): inaccessible at first, and then opened without its guard page.

    The stack has its full size from the beginning (sys.stack.size), and is committed. O(log n).
    """
    low = stack_bottom(libos, start, end)
    guard = low - PAGE_SIZE
    if libos.switches.copy:
        # Each part gets its own permissions at once.
        libos.add(guard, low, 0)
        libos.add(low, end, prot)
    else:
        libos.add(guard, end, 0)
        libos.pal.protect(low, end, prot)
    libos.vmas.set(guard, low, LibosVma(0))
    libos.vmas.set(low, end, LibosVma(prot))


def stack_bottom(libos: Libos, start: int, end: int) -> int:
    """Where the stack ends downwards: at `start`, if the trace's stack is larger than the
    manifest's."""
    return min(start, end - libos.settings.stack_size)


def grow_stack(libos: Libos, start: int, low: int, prot: int) -> None:
    """A stack that ends at `low` grew to `start`, which upstream's cannot: the pages cost what they
    would have cost at the beginning, without host calls of their own. O(log n)."""
    counts = libos.meter.counts
    calls = counts.host_calls, counts.ioctls
    stack = libos.vmas.get(low)
    if has_guard(libos, low):
        libos.meter.exceeds(STACK_SIZE, libos.vmas.find(low)[1] - start)
        libos.add(start - PAGE_SIZE, low - PAGE_SIZE, 0)
        libos.vmas.set(start - PAGE_SIZE, start, LibosVma(0))
    else:
        # A mapping with MAP_GROWSDOWN.
        libos.unmap(start, low)
        libos.add(start, low, 0)
    libos.pal.protect(start, low, prot)
    counts.host_calls, counts.ioctls = calls
    libos.vmas.set(start, low, LibosVma(prot) if stack is None else stack)


def has_guard(libos: Libos, low: int) -> bool:
    """True if the guard page of `allocate_stack` is below the address `low`."""
    start, end, vma = libos.vmas.find(low - PAGE_SIZE)
    return vma is not None and not vma.prot and vma.file is None and end - start == PAGE_SIZE


def map_vdso(libos: Libos, start: int, prot: int) -> None:
    """vdso_map_init: the VMA says RX, the pages are RW until the vDSO is copied. O(log n)."""
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
    """Memory that is known by its VMA only, because the program did not make a call that upstream
    has. O(log n)."""
    if not is_the_programs(start, vma):
        return
    prot = vma.flags & PROT_RWX
    if vma.is_from_disk:
        libos.map_file(start, end, LibosVma(prot, mapping_flags(vma), vma.file))
    else:
        libos.alloc(start, end, prot, vma.flags & VM_NORESERVE)
