"""Address spaces as `/proc/PID/maps` shows them, and the names that the kernel gives to mappings
without a file."""

from __future__ import annotations

from laconic.memory.flags import VM_DONTEXPAND, VM_EXEC, VM_GROWSDOWN, VM_PFNMAP
from laconic.memory.rangemap import Range, RangeMap, range_text
from laconic.memory.vma import Vma


def stack_start(vmas: RangeMap[Vma]) -> int:
    """Return the start of the stack, the highest VMA with VM_GROWSDOWN; -1 if there is none. O(n).

    Any other VMAs that grow down were mapped by the program itself.
    """
    return max((start for start, _, vma in vmas if vma.flags & VM_GROWSDOWN), default=-1)


def derived_name(heap: Range, start: int, end: int, vma: Vma, stack: int) -> str:
    """Return the name of anonymous memory or of a kernel mapping, "" for none. O(1).

    `heap` is `AddressSpace.heap`, and `stack` the result of `stack_start`.
    """
    if vma.flags & VM_PFNMAP:
        return "[vvar]"
    if vma.flags & VM_DONTEXPAND and vma.flags & VM_EXEC:
        return "[vdso]"
    heap_start, heap_end = heap
    if start < heap_end and heap_start < end:
        return "[heap]"
    if start == stack:
        return "[stack]"
    return f"[anon:{vma.name}]" if vma.name is not None else ""


def maps_text(vmas: RangeMap[Vma], heap: Range) -> str:
    """Return an address space in the format of `/proc/PID/maps`, with names from column 73 on.

    Equal neighbors are merged. Labels such as `[heap]` are derived as the kernel derives them
    (show_vma_header_prefix and get_vma_name in fs/proc/task_mmu.c). `[vsyscall]` is not a mapping
    and is not shown. O(VMAs).
    """
    lines = []
    stack = stack_start(vmas)
    for start, end, vma in vmas:
        where = f"{range_text(start, end, '08x')} {vma.permissions()} {_backing(start, vma)} "
        name = shown_name(heap, start, end, vma, stack)
        lines.append(f"{where:<73}{name}\n" if name else f"{where}\n")
    return "".join(lines)


def _backing(start: int, vma: Vma) -> str:
    # Offset, device and inode; zeros if a log does not show them (a negative inode represents a
    # path).
    file = vma.file
    if file is None or file.path == "?":
        return "00000000 00:00 0"
    device = "00:00" if file.inode < 0 and file.path != "/dev/zero (deleted)" else file.device
    return f"{start - vma.base:08x} {device} {max(file.inode, 0)}"


def shown_name(heap: Range, start: int, end: int, vma: Vma, stack: int) -> str:
    """Return the name that `/proc/PID/maps` shows: the path, or the result of `derived_name`. O(1).

    `heap` and `stack` are as for `derived_name`.
    """
    if vma.file is not None:
        if vma.name is not None:
            return f"[anon_shmem:{vma.name}]"
        # The kernel escapes newlines in paths (seq_path).
        return vma.file.path.replace("\n", "\\012")
    return derived_name(heap, start, end, vma, stack)
