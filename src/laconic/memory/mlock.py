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

#: The upcall that says whether all pages of a range are in memory.
Resident = Callable[[int, int], bool]


def mlock(
    space: AddressSpace, start: int, length: int, *, resident: Resident = lambda start, end: False
) -> Outcome:
    """mlock(2). `resident` is called where all is locked already: mlock also brings pages in. O(log
    n + k)."""
    return _apply(space, start, length, VM_LOCKED, resident)


def mlock2(
    space: AddressSpace,
    start: int,
    length: int,
    flags: int,
    *,
    resident: Resident = lambda start, end: False,
) -> Outcome:
    """mlock2(2); MLOCK_ONFAULT is the only flag. O(log n + k)."""
    if flags & ~MLOCK_ONFAULT:
        return Outcome(-EINVAL)
    return _apply(space, start, length, VM_LOCKED | (VM_LOCKONFAULT if flags else 0), resident)


def munlock(space: AddressSpace, start: int, length: int) -> Outcome:
    """munlock(2). O(log n + k)."""
    return _apply(space, start, length, 0, None)


def _fixup(vma: Vma, locks: int) -> Vma:
    # mlock_fixup: some mappings ignore locks. DAX and device memory show as VM_SPECIAL here.
    if vma.flags & VM_LOCKED_MASK == locks or vma.flags & (VM_SPECIAL | VM_HUGETLB | VM_DROPPABLE):
        return vma
    if vma.file is not None and vma.file.is_secret:
        return vma  # memfd_secret: locked for as long as it is mapped (vma_is_secretmem)
    return vma.with_flags(vma.flags & ~VM_LOCKED_MASK | locks)


def _populated(vma: Vma, start: int, end: int, resident: Resident) -> bool:
    # populate_vma_page_range: True if mlock has no page to bring in, and would not fail. It fails
    # for secret memory, and for pages whose protection key the thread denies; execution alone takes
    # such a key.
    if vma.pkey or vma.flags & VM_PROT == VM_EXEC or (vma.file is not None and vma.file.is_secret):
        return False
    return bool(vma.flags & VM_LOCKONFAULT) or bool(vma.flags & VM_PROT) and resident(start, end)


def _apply(
    space: AddressSpace, start: int, length: int, locks: int, resident: Resident | None
) -> Outcome:
    # apply_vma_lock_flags: up to the first hole, whose error comes after the pages before it were
    # locked
    size = page_align(length + start % PAGE_SIZE & ADDRESS_MASK)
    start -= start % PAGE_SIZE
    end = start + size & ADDRESS_MASK
    if end < start:
        return Outcome(-EINVAL, ask=bool(locks))  # RLIMIT_MEMLOCK is checked before (do_mlock)
    if end == start:
        return Outcome(0, ask=bool(locks))
    stop, result = end, 0
    for begin, _, vma in space.vmas.runs(start, end):
        if vma is None:
            stop, result = begin, -ENOMEM
            break
    if stop == start:
        return Outcome(result, ask=bool(locks))
    changes = []
    for begin, finish, held in space.vmas.runs(start, stop):
        assert held is not None
        vma = _fixup(held, locks)
        if vma is not held:
            changes.append(Change(FLAGS, begin, finish, vma, held))
        elif result == 0 and resident is not None and not _populated(vma, begin, finish, resident):
            changes.append(Change(ADVISE, begin, finish, vma, vma))
    space.vmas.edit(start, stop, lambda vma: _fixup(vma, locks))
    return Outcome(result, tuple(changes), start, end)


def mlockall(space: AddressSpace, flags: int) -> Outcome:
    """mlockall(2): current VMAs, future ones, or both. There is always a host call: pages are brought
    in. O(n)."""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return Outcome(-EINVAL)
    locks = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    return _all(
        space, locks if flags & MCL_FUTURE else 0, locks if flags & MCL_CURRENT else None, ask=True
    )


def munlockall(space: AddressSpace) -> Outcome:
    """munlockall(2). Nothing locked now or in future: nothing to say. O(n)."""
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
