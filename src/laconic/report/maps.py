"""An address space in the format of `/proc/PID/maps`."""

from __future__ import annotations

from laconic.memory.names import derived_name, stack_start
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma


def as_text(space: AddressSpace) -> str:
    """The VMAs a line each, equal neighbours joined, names from column 73 on as the kernel prints them.

    The labels that the kernel derives (show_vma_header_prefix, get_vma_name in fs/proc/task_mmu.c) are derived here
    too; `[vsyscall]`, which every process shows and none has, is not printed. O(VMAs).
    """
    lines = []
    stack = stack_start(space)
    for start, end, vma in space.vmas:
        where = f"{start:08x}-{end:08x} {vma.permissions()} {_backing(start, vma)} "
        name = _name(space, start, end, vma, stack)
        lines.append(f"{where:<73}{name}\n" if name else f"{where}\n")
    return "".join(lines)


def _backing(start: int, vma: Vma) -> str:
    # Offset, device, inode; zeros for what a log does not tell (an inode below 0 stands for a path, or for nothing).
    file = vma.file
    if file is None or file.path == "?":
        return "00000000 00:00 0"
    device = "00:00" if file.inode < 0 and file.path != "/dev/zero (deleted)" else file.device
    return f"{start - vma.base:08x} {device} {max(file.inode, 0)}"


def _name(space: AddressSpace, start: int, end: int, vma: Vma, stack: int) -> str:
    if vma.file is not None:
        if vma.name is not None:
            return f"[anon_shmem:{vma.name}]"
        # The kernel escapes a line's end in a path (seq_path).
        return vma.file.path.replace("\n", "\\012")
    return derived_name(space, start, end, vma, stack)
