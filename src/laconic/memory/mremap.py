"""mremap: mm/mremap.c, in the order of the kernel's own checks."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EFAULT, EINVAL, ENOMEM, EPERM

from laconic.memory.change import MAP, UNMAP, ZERO, Change, Outcome, classify
from laconic.memory.flags import (
    ADDRESS_MASK,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_MASK,
    PAGE_SIZE,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SEALED,
    VM_SHARED,
)
from laconic.memory.layout import get_unmapped_area
from laconic.memory.mmap import grown_below, may_align, page_align
from laconic.memory.munmap import munmap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: Only the host can choose the new address. Once it is known, the bookkeeper repeats the call with
#: MREMAP_FIXED.
HOST_CHOOSES = Outcome(0, ask=True, place=True)


def mremap(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    flags: int,
    new_address: int = 0,
) -> Outcome:
    """Resize or move a mapping (mremap(2)); the result is the new address. O(log n + k).

    Addresses and lengths are in bytes. If pages move, the outcome has UNMAP changes for the old
    range, and MAP changes with `source` for the new range. If only the host can decide what the
    call does, the outcome has `resync`.
    """
    to = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    refusal = _check_params(space, address, old_length, new_length, flags, new_address)
    if refusal:
        # Linux 6.17 moved the checks of the target from mremap_to to before those of the source.
        return Outcome(refusal, ask=bool(to))
    old_length, new_length = page_align(old_length), page_align(new_length)
    vma_start, vma_end, vma = space.vmas.find(address)
    if vma is None:
        return Outcome(-EFAULT)
    if vma.flags & VM_SEALED:
        return Outcome(-EPERM)
    if flags & MREMAP_DONTUNMAP and vma.flags & VM_LOCKED:
        space.locks_miscounted = True
    if vma.flags & VM_HUGETLB:
        return Outcome(0, ask=True, resync=True)
    if not to:
        if new_length == old_length:
            return Outcome(address)
        if new_length < old_length:
            tail = munmap(space, address + new_length, old_length - new_length)
            return tail if tail.result < 0 else tail._replace(result=address)
    if flags & MREMAP_FIXED and new_length == old_length > vma_end - address:
        # Several VMAs: since 6.17, they move one after the other (remap_move); before, EFAULT.
        last_end = space.vmas.find(address + old_length - 1)[1]
        start, end = min(vma_start, new_address), max(last_end, new_address + new_length)
        return Outcome(0, start=start, end=end, ask=True, resync=True)
    refusal = _check_prep_vma(address, old_length, new_length, flags, vma_end, vma)
    if refusal:
        if flags & MREMAP_FIXED:
            # Before 6.17, the target is already unmapped at this point (mremap_to).
            return Outcome(refusal, ask=True, resync=True)
        return Outcome(refusal)
    if not to:
        return _expand(space, address, old_length, new_length, flags, vma_end, vma)
    return _move_to(space, address, old_length, new_length, flags, new_address, vma)


def _check_params(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    flags: int,
    new_address: int,
) -> int:
    # check_mremap_params: 0, or a negative errno. The lengths are not rounded yet.
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) or address & ~PAGE_MASK:
        return -EINVAL
    old_length, new_length = page_align(old_length), page_align(new_length)
    if not new_length or new_length > TASK_SIZE:
        return -EINVAL
    if not flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return 0
    if new_address > TASK_SIZE - new_length or new_address & ~PAGE_MASK:
        return -EINVAL
    if not flags & MREMAP_MAYMOVE:
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and old_length != new_length:
        return -EINVAL
    # vrm_overlaps
    if address + old_length & ADDRESS_MASK > new_address and new_address + new_length > address:
        return -EINVAL
    return -ENOMEM if space.map_count + 2 >= space.layout.max_map_count - 3 else 0


def _check_prep_vma(
    address: int, old_length: int, new_length: int, flags: int, end: int, vma: Vma
) -> int:
    # check_prep_vma, for a VMA that grows or moves: 0, or a negative errno.
    if not old_length and not vma.flags & (VM_SHARED | VM_MAYSHARE):
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        return -EINVAL
    # The tail that a shrinking mapping loses may extend beyond the VMA.
    if min(old_length, new_length) > end - address:
        return -EFAULT
    if new_length > old_length and vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        return -EFAULT
    return 0


def _expand(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    flags: int,
    vma_end: int,
    vma: Vma,
) -> Outcome:
    if old_length and address + old_length == vma_end:
        _, hole_end, above = space.vmas.find(vma_end)
        grown = address + new_length
        if above is None and grown <= hole_end and grown <= TASK_SIZE:
            space.vmas.set(vma_end, grown, vma)
            return Outcome(address, space.diff(vma_end, grown), vma_end, grown)
    if not flags & MREMAP_MAYMOVE:
        # Only the host knows two errors that come first: EAGAIN (mlock_future_ok), and EFAULT if
        # the pages are two VMAs that look alike (is_mergeable_anon_vma).
        return Outcome(-ENOMEM, ask=bool(vma.flags & VM_LOCKED) or old_length > PAGE_SIZE)
    if vma.file is not None and may_align(new_length, address - vma.base):
        return HOST_CHOOSES  # the file system may align the mapping (thp_get_unmapped_area)
    kind = MAP_SHARED if vma.flags & VM_MAYSHARE else 0
    target = get_unmapped_area(space.layout, space.vmas, 0, new_length, kind, vma.file is None)
    if target is None:
        return HOST_CHOOSES
    if target < 0:
        return Outcome(target, ask=True)
    return _move(space, address, old_length, new_length, flags, target, vma)


def _move_to(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    flags: int,
    new_address: int,
    vma: Vma,
) -> Outcome:
    if flags & MREMAP_FIXED:
        return _move(space, address, old_length, new_length, flags, new_address, vma)
    kind = MAP_SHARED if vma.flags & VM_MAYSHARE else 0
    target = get_unmapped_area(
        space.layout, space.vmas, new_address, new_length, kind, vma.file is None
    )
    if target is None:
        return HOST_CHOOSES
    if target < 0:
        return Outcome(target, ask=True)
    return _move(space, address, old_length, new_length, flags, target, vma)


def _move(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    flags: int,
    target: int,
    vma: Vma,
) -> Outcome:
    # mremap_to and move_vma: the target is unmapped, a longer source loses its tail, and the rest
    # of it moves.
    if flags & MREMAP_DONTUNMAP and vma.flags & VM_LOCKED:
        # The kernel unlocks the whole VMA, whose extent only the host knows (dontunmap_complete).
        return Outcome(0, ask=True, resync=True)
    if flags & MREMAP_FIXED:
        unmapping = munmap(space, target, new_length)
        if unmapping.result < 0:
            # On the host, the source may be several VMAs that look alike. They move one after the
            # other, until one meets sealed memory (remap_move, since 6.17).
            may_have_moved = old_length == new_length and old_length > PAGE_SIZE
            return unmapping._replace(resync=may_have_moved)
        if not old_length and target <= address < target + new_length:
            # The source of the second mapping was unmapped with the target.
            return unmapping._replace(result=-EFAULT)
    moved = min(old_length, new_length)
    if old_length > moved:
        tail = munmap(space, address + moved, old_length - moved)
        if tail.result < 0:
            changes_at_target = space.diff(target, target + new_length)
            return Outcome(tail.result, changes_at_target, target, target + new_length, ask=True)
    moved_vma = vma.moved(target - address)
    left = vma if flags & MREMAP_DONTUNMAP else None
    space.vmas.set(target, target + new_length, moved_vma)
    if moved:
        space.vmas.set(address, address + moved, left)
    changes = [
        *_overlaid(space, target, target + moved, moved_vma, address),
        *_overlaid(space, target + moved, target + new_length, moved_vma, None),
        *space.diff(address + moved, address + old_length),
    ]
    for run_start, run_end, held in space.held.runs(address, address + moved):
        if left is None:
            changes.append(Change(UNMAP, run_start, run_end, None, held))
        elif not left.flags & VM_MAYSHARE:
            changes.append(Change(ZERO, run_start, run_end, left, held))
    changes.sort(key=lambda change: change.start)
    start = min(address, target)
    end = max(address + old_length, target + new_length)
    return Outcome(target, tuple(changes), start, end, then=grown_below(space, moved_vma))


def _overlaid(
    space: AddressSpace, start: int, end: int, vma: Vma, source: int | None
) -> Iterator[Change]:
    # The changes that replace everything in `[start, end)` by `vma`. The contents are those at
    # `source`, or new.
    for run_start, run_end, held in space.held.runs(start, end):
        kind = MAP if held is None else classify(held, vma) | ZERO
        yield Change(
            kind,
            run_start,
            run_end,
            vma,
            held,
            None if source is None else source + run_start - start,
        )
