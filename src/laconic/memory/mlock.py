"""mlock, mlock2, munlock, mlockall, munlockall: mm/mlock.c."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOMEM

from laconic.memory.change import ADVISE, FLAGS, NOTHING, Change, Outcome
from laconic.memory.flags import (
    ADDRESS_MASK,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MLOCK_ONFAULT,
    PAGE_SIZE,
    TASK_SIZE,
    VM_DROPPABLE,
    VM_EXEC,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_LOCKONFAULT,
    VM_PROT,
    VM_SPECIAL,
)
from laconic.memory.mmap import page_align
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: The upcall that returns whether all pages of a range are in memory.
Resident = Callable[[int, int], bool]
#: The upcall that returns RLIMIT_MEMLOCK in bytes, -1 for none.
LockLimit = Callable[[], int]


def mlock(
    space: AddressSpace,
    start: int,
    length: int,
    *,
    resident: Resident = lambda start, end: False,
    lock_limit: LockLimit = lambda: -1,
) -> Outcome:
    """Lock a range (mlock(2)). O(log n + k).

    `resident` is queried for VMAs that are already locked, because mlock also brings pages in.
    """
    return _apply(space, start, length, VM_LOCKED, resident, lock_limit)


def mlock2(
    space: AddressSpace,
    start: int,
    length: int,
    flags: int,
    *,
    resident: Resident = lambda start, end: False,
    lock_limit: LockLimit = lambda: -1,
) -> Outcome:
    """Lock a range (mlock2(2)); MLOCK_ONFAULT is the only flag. O(log n + k)."""
    if flags & ~MLOCK_ONFAULT:
        return Outcome(-EINVAL)
    return _apply(
        space, start, length, VM_LOCKED | (VM_LOCKONFAULT if flags else 0), resident, lock_limit
    )


def munlock(space: AddressSpace, start: int, length: int) -> Outcome:
    """Unlock a range (munlock(2)). O(log n + k)."""
    return _apply(space, start, length, 0, None, None)


def _fixup(vma: Vma, locks: int) -> Vma:
    # mlock_fixup: some mappings ignore locks. DAX and device memory show as VM_SPECIAL here.
    if vma.flags & VM_LOCKED_MASK == locks or vma.flags & (VM_SPECIAL | VM_HUGETLB | VM_DROPPABLE):
        return vma
    if vma.file is not None and vma.file.is_secret:
        return vma  # memfd_secret: always locked (vma_is_secretmem)
    return vma.with_flags(vma.flags & ~VM_LOCKED_MASK | locks)


def _populated(vma: Vma, start: int, end: int, resident: Resident) -> bool:
    # populate_vma_page_range: True if mlock has no page to bring in and cannot fail. It fails for
    # secret memory, and for pages whose protection key denies access to the thread. Execute-only
    # memory has such a key.
    if vma.pkey or vma.flags & VM_PROT == VM_EXEC or (vma.file is not None and vma.file.is_secret):
        return False
    return bool(vma.flags & VM_LOCKONFAULT) or (bool(vma.flags & VM_PROT) and resident(start, end))


def _may_exceed(space: AddressSpace, start: int, end: int, limit: int) -> bool:
    # do_mlock: True if the host may refuse to lock the range, although it has the requested state
    # already. The limit (bytes, -1 for none) may have been lowered, and pages that ignore locks
    # count too.
    if limit == -1:
        return False
    if space.locks_miscounted:
        return True
    locked = sum(
        run_end - run_start for run_start, run_end, vma in space.vmas if vma.flags & VM_LOCKED
    )
    unlocked = sum(
        run_end - run_start
        for run_start, run_end, vma in space.vmas.runs(start, end)
        if vma is None or not vma.flags & VM_LOCKED
    )
    return locked + unlocked > limit


def _apply(
    space: AddressSpace,
    start: int,
    length: int,
    locks: int,
    resident: Resident | None,
    lock_limit: LockLimit | None,
) -> Outcome:
    # apply_vma_lock_flags: a hole is an error, but the pages before it are locked.
    size = page_align(length + start % PAGE_SIZE & ADDRESS_MASK)
    start -= start % PAGE_SIZE
    end = start + size & ADDRESS_MASK
    if end < start:
        return Outcome(-EINVAL, ask=bool(locks))  # RLIMIT_MEMLOCK is checked before (do_mlock)
    if end == start:
        return Outcome(0, ask=bool(locks))
    edit_end, result = end, 0
    for hole_start, _, vma in space.vmas.runs(start, end):
        if vma is None:
            edit_end, result = hole_start, -ENOMEM
            break
    if edit_end == start:
        return Outcome(result, ask=bool(locks))
    changes = []
    for run_start, run_end, held in space.vmas.runs(start, edit_end):
        assert held is not None
        vma = _fixup(held, locks)
        if vma is not held:
            changes.append(Change(FLAGS, run_start, run_end, vma, held))
        elif result or resident is None:
            continue
        elif not _populated(vma, run_start, run_end, resident):
            changes.append(Change(ADVISE, run_start, run_end, vma, vma))
    if not changes and result == 0 and lock_limit is not None:
        return Outcome(0, ask=_may_exceed(space, start, end, lock_limit()))
    space.vmas.edit(start, edit_end, lambda vma: _fixup(vma, locks))
    return Outcome(result, tuple(changes), start, end)


def mlockall(space: AddressSpace, flags: int) -> Outcome:
    """Lock current VMAs, future VMAs, or both (mlockall(2)). O(n).

    The call is always passed on, because it brings pages in.
    """
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return Outcome(-EINVAL)
    locks = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    return _all(
        space, locks if flags & MCL_FUTURE else 0, locks if flags & MCL_CURRENT else None, ask=True
    )


def munlockall(space: AddressSpace) -> Outcome:
    """Unlock current and future VMAs (munlockall(2)). O(n)."""
    return _all(space, 0, 0, ask=bool(space.def_flags))


def _all(space: AddressSpace, future: int, current: int | None, ask: bool) -> Outcome:
    def remember() -> None:
        space.def_flags = future

    if current is not None:
        locks = current
        for start, end, vma in list(space.vmas):
            if end <= TASK_SIZE + PAGE_SIZE and _fixup(vma, locks) is not vma:
                space.vmas.set(start, end, _fixup(vma, locks))
    changes = space.diff(0, TASK_SIZE + PAGE_SIZE)
    if not changes and not ask:
        return NOTHING
    return Outcome(0, changes, 0, TASK_SIZE + PAGE_SIZE, ask=True, then=remember)
