"""munmap and shmdt: do_vmi_munmap in mm/vma.c, ksys_shmdt in ipc/shm.c."""

from __future__ import annotations

from errno import EINVAL, ENOMEM, EPERM

from laconic.memory.change import NOTHING, UNMAP, Change, Outcome, new
from laconic.memory.flags import PAGE_MASK, PAGE_SIZE, TASK_SIZE, VM_SEALED
from laconic.memory.space import AddressSpace


def munmap(space: AddressSpace, start: int, length: int) -> Outcome:
    """Unmap a range (munmap(2)); `start` and `length` are in bytes. O(log n + k)."""
    if start & ~PAGE_MASK or start > TASK_SIZE or length > TASK_SIZE - start:
        return Outcome(-EINVAL)
    end = start + length + PAGE_SIZE - 1 & PAGE_MASK
    if end == start:
        return Outcome(-EINVAL)
    if space.vmas.count >= space.layout.max_map_count:
        vma_start, vma_end, vma = space.vmas.find(start)
        if vma is not None and vma_start < start and end < vma_end:
            return Outcome(-ENOMEM)
    changes = unmapped(space, start, end)
    if changes is None:
        # Before it refuses, the kernel has split the VMAs at both ends (vms_gather_munmap_vmas),
        # and it does not merge them again. Later calls may depend on that, so this call is passed
        # on.
        return Outcome(-EPERM, ask=True)
    return new(Outcome, (0, changes, start, end, False, False, False, None)) if changes else NOTHING


def unmapped(space: AddressSpace, start: int, end: int) -> tuple[Change, ...] | None:
    """Make `[start, end)` a hole; return the changes. O(log n + k).

    Returns None, and edits nothing, if a VMA is sealed.
    """
    changes = []
    for vma_start, vma_end, vma in space.vmas.runs(start, end):
        if vma is not None:
            if vma.flags & VM_SEALED:
                return None
            changes.append(new(Change, (UNMAP, vma_start, vma_end, None, vma, None)))
    if changes:
        space.vmas.clear(start, end)
    return tuple(changes)


def shmdt(space: AddressSpace, address: int) -> Outcome:
    """Unmap every piece of the segment that was attached at `address` (shmdt(2)). O(n)."""
    if address & ~PAGE_MASK:
        return Outcome(-EINVAL)
    segment = None
    pieces = []
    for start, end, vma in space.vmas.runs(address, TASK_SIZE):
        if (
            segment is None
            and vma is not None
            and vma.base == address
            and vma.file
            and "/SYSV" in vma.file.path
        ):
            segment = vma.file
        if vma is not None and segment is not None and vma.base == address and vma.file == segment:
            pieces.append((start, end))
    if not pieces:
        return Outcome(-EINVAL)
    for start, end in pieces:
        space.vmas.clear(start, end)
    return Outcome(
        0, space.diff(pieces[0][0], pieces[-1][1]), pieces[0][0], pieces[-1][1], ask=True
    )
