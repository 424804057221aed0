"""munmap and shmdt: do_vmi_munmap in mm/vma.c, ksys_shmdt in ipc/shm.c."""

from __future__ import annotations

from errno import EINVAL, ENOMEM, EPERM

from laconic.memory.change import NOTHING, UNMAP, Change, Outcome, new
from laconic.memory.flags import PAGE_MASK, PAGE_SIZE, TASK_SIZE, VM_SEALED
from laconic.memory.space import AddressSpace


def munmap(space: AddressSpace, start: int, length: int) -> Outcome:
    """munmap(2); `start` and `length` in bytes. Holes need no host call. O(log n + k)."""
    if start & ~PAGE_MASK or start > TASK_SIZE or length > TASK_SIZE - start:
        return Outcome(-EINVAL)
    end = start + length + PAGE_SIZE - 1 & PAGE_MASK
    if end == start:
        return Outcome(-EINVAL)
    if space.vmas.count >= space.layout.max_map_count:
        first, stop, vma = space.vmas.find(start)
        if vma is not None and first < start and end < stop:
            return Outcome(-ENOMEM)
    changes = unmapped(space, start, end)
    if changes is None:
        # The kernel has split the VMAs at both ends by then (vms_gather_munmap_vmas), and does not
        # merge them again: later calls may depend on it, so the host must see this one.
        return Outcome(-EPERM, ask=True)
    return new(Outcome, (0, changes, start, end, False, False, False, None)) if changes else NOTHING


def unmapped(space: AddressSpace, start: int, end: int) -> tuple[Change, ...] | None:
    """Empties `[start, end)`, in bytes, and says what was there; None where a VMA is sealed. O(log
    n + k)."""
    changes = []
    for begin, stop, vma in space.vmas.runs(start, end):
        if vma is not None:
            if vma.flags & VM_SEALED:
                return None
            changes.append(new(Change, (UNMAP, begin, stop, None, vma, None)))
    if changes:
        space.vmas.clear(start, end)
    return tuple(changes)


def shmdt(space: AddressSpace, address: int) -> Outcome:
    """shmdt(2): unmaps every piece of the segment that was attached at `address` (bytes). O(log n +
    k)."""
    if address & ~PAGE_MASK:
        return Outcome(-EINVAL)
    segment = None
    pieces = []
    for begin, end, vma in space.vmas.runs(address, TASK_SIZE):
        if (
            segment is None
            and vma is not None
            and vma.base == address
            and vma.file
            and "/SYSV" in vma.file.path
        ):
            segment = vma.file
        if vma is not None and segment is not None and vma.base == address and vma.file == segment:
            pieces.append((begin, end))
    if not pieces:
        return Outcome(-EINVAL)
    for begin, end in pieces:
        space.vmas.clear(begin, end)
    return Outcome(
        0, space.diff(pieces[0][0], pieces[-1][1]), pieces[0][0], pieces[-1][1], ask=True
    )
