"""madvise, and similar calls on a range: msync, mseal, PR_SET_VMA, mbind, remap_file_pages.

mm/madvise.c, mm/msync.c, mm/mseal.c, mm/mempolicy.c, mm/mmap.c. Some advice changes the flags of
VMAs, and some only contents or residency.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EINVAL, ENOMEM, EOVERFLOW, EPERM

from laconic.memory.change import ADVISE, NOTHING, ZERO, Change, Outcome, classify
from laconic.memory.flags import (
    ADDRESS_MASK,
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    MS_ASYNC,
    MS_INVALIDATE,
    MS_SYNC,
    PAGE_MASK,
    PAGE_SIZE,
    TASK_SIZE,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DROPPABLE,
    VM_EXEC,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAY_RWX,
    VM_MAYEXEC,
    VM_MAYSHARE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_PROT,
    VM_RAND_READ,
    VM_READ,
    VM_SEALED,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_SYNC,
    VM_UNMERGEABLE,
    VM_WIPEONFORK,
    VM_WRITE,
)
from laconic.memory.mmap import MAX_LFS_FILESIZE, Untouched, page_align
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: advice → (VM_* bits that it clears, bits that it sets)
FLAG_ADVICE = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
    MADV_MERGEABLE: (0, VM_MERGEABLE),
    MADV_UNMERGEABLE: (VM_MERGEABLE, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
}
#: Advice that discards contents. MADV_FREE discards them lazily; MADV_GUARD_INSTALL also makes the
#: pages inaccessible until MADV_GUARD_REMOVE.
DISCARDS = {MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_REMOVE, MADV_GUARD_INSTALL}
#: Advice that concerns only residency.
RESIDENCY = {
    MADV_WILLNEED,
    MADV_COLD,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_COLLAPSE,
    MADV_GUARD_REMOVE,
}


def madvise(
    space: AddressSpace,
    start: int,
    length: int,
    advice: int,
    *,
    untouched: Untouched = lambda start, end: False,
) -> Outcome:
    """Apply advice to a range (madvise(2)); `start` and `length` are in bytes. O(log n + k).

    `untouched` is queried before a discard. Holes result in ENOMEM after all mapped pages were
    advised. Unknown advice (memory failure injection, or newer than this module) is passed to the
    host unchanged.
    """
    if advice not in FLAG_ADVICE and advice not in DISCARDS and advice not in RESIDENCY:
        return Outcome(0, ask=True)
    if advice in space.layout.refused_advice:
        return Outcome(-EINVAL)
    size = page_align(length)
    end = start + size & ADDRESS_MASK
    if start & ~PAGE_MASK or (length and not size) or end < start:
        return Outcome(-EINVAL)
    if end == start:
        # Even for an empty range, advice that this kernel was built without is EINVAL. For advice
        # other than these, only the host knows whether it is supported.
        return Outcome(
            0, ask=advice not in FLAG_ADVICE and advice not in (MADV_WILLNEED, MADV_DONTNEED)
        )
    result, mapped = 0, []
    for vma_start, vma_end, vma in space.vmas.runs(start, end):
        if vma is not None:
            mapped.append((vma_start, vma_end, vma))
            continue
        result = -ENOMEM
        if advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
            break  # madvise_populate stops at the first hole; all other advice continues
    if not mapped:
        return Outcome(-ENOMEM, ask=advice not in FLAG_ADVICE and advice != MADV_DONTNEED)
    if advice in FLAG_ADVICE:
        return _advise_flags(space, start, end, advice)
    if advice == MADV_GUARD_INSTALL:
        space.guarded = True
    kind = ZERO if advice in DISCARDS else ADVISE
    changes = [
        Change(kind, vma_start, vma_end, vma, vma)
        for vma_start, vma_end, vma in mapped
        if not (advice == MADV_DONTNEED and _idle(space, vma_start, vma_end, vma, untouched))
    ]
    return Outcome(result, tuple(changes), start, end)


def _idle(space: AddressSpace, start: int, end: int, vma: Vma, untouched: Untouched) -> bool:
    # Discarding untouched pages changes nothing. For a file mapping, `untouched` only excludes
    # written pages, so the rule is limited to anonymous memory.
    if (
        vma.file is not None
        or vma.flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB | VM_SEALED)
        or space.opaque
    ):
        return False
    return untouched(start, end)


def _refused(vma: Vma, advice: int) -> bool:
    # madvise_vma_behavior
    if _sealed(vma, advice):
        return True
    if advice == MADV_DOFORK:
        return bool(vma.flags & VM_IO)
    if advice == MADV_WIPEONFORK:
        return vma.file is not None or bool(vma.flags & VM_SHARED)
    if advice == MADV_KEEPONFORK:
        return bool(vma.flags & VM_DROPPABLE)
    if advice == MADV_DODUMP:
        return bool(
            vma.flags & VM_DROPPABLE or (vma.flags & VM_SPECIAL and not vma.flags & VM_HUGETLB)
        )
    return False


def _sealed(vma: Vma, advice: int) -> bool:
    # can_madvise_modify: a child must not lose sealed memory that the program cannot write.
    if not vma.flags & VM_SEALED or advice not in (MADV_DONTFORK, MADV_WIPEONFORK):
        return False
    return vma.anonymous and not vma.flags & (VM_WRITE | VM_SPECIAL)


def _advise_flags(space: AddressSpace, start: int, end: int, advice: int) -> Outcome:
    clears, sets = FLAG_ADVICE[advice]
    edit_end, result, ask = end, 0, False
    for vma_start, _, vma in space.vmas.runs(start, end):
        if vma is None:
            result = -ENOMEM
        elif _refused(vma, advice):
            # Before Linux 6.17, sealed VMAs were checked first, so a refused call changed nothing.
            # The call is passed on, because the result depends on the host's version.
            ask = _sealed(vma, advice)
            edit_end, result = vma_start, -EPERM if ask else -EINVAL
            break

    def advise(vma: Vma) -> Vma:
        if advice == MADV_MERGEABLE and vma.flags & VM_UNMERGEABLE:
            return vma
        flags = vma.flags & ~clears | sets
        return vma if flags == vma.flags else vma.with_flags(flags)

    changes = space.edit(start, edit_end, advise) if edit_end > start else ()
    return Outcome(result, changes, start, end, ask=ask)


def msync(space: AddressSpace, start: int, length: int, flags: int) -> Outcome:
    """Write back a range (msync(2)). O(log n + k).

    Only MS_SYNC on writable shared files has an effect. The outcome has one ADVISE change for each
    such mapping.
    """
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or start & ~PAGE_MASK:
        return Outcome(-EINVAL)
    if flags & MS_ASYNC and flags & MS_SYNC:
        return Outcome(-EINVAL)
    end = start + page_align(length) & ADDRESS_MASK
    if end < start:
        return Outcome(-ENOMEM)
    if end == start:
        return NOTHING
    if flags & MS_INVALIDATE and any(
        vma.flags & VM_LOCKED for _, _, vma in space.vmas.entries(start, end)
    ):
        return Outcome(0, ask=True)  # EBUSY, unless a hole or a failing write-back comes first
    result = 0 if space.vmas.covered(start, end) else -ENOMEM
    changes = []
    if flags & MS_SYNC:
        for vma_start, vma_end, vma in space.vmas.entries(start, end):
            if vma.file is not None and vma.flags & VM_SHARED:
                changes.append(Change(ADVISE, max(vma_start, start), min(vma_end, end), vma, vma))
    return Outcome(result, tuple(changes), start, end)


def mseal(space: AddressSpace, start: int, length: int, flags: int) -> Outcome:
    """Seal a range (mseal(2), Linux 6.10). Calls that must fail are passed to the host.
    O(log n + k)."""
    size = page_align(length)
    end = start + size & ADDRESS_MASK
    if flags or start & ~PAGE_MASK or (length and not size) or end <= start:
        return Outcome(0, ask=True)
    if not space.vmas.covered(start, end):
        return Outcome(-ENOMEM, ask=True)
    return _edited(space, start, end, lambda vma: vma.with_flags(vma.flags | VM_SEALED))


def set_vma_name(space: AddressSpace, start: int, length: int, name: str | None) -> Outcome:
    """Name a range (prctl(PR_SET_VMA)); the host checks the name. O(log n + k)."""
    if not space.layout.anon_names:
        return Outcome(-EINVAL)
    size = page_align(length)
    end = start + size & ADDRESS_MASK
    if start & ~PAGE_MASK or (length and not size) or end <= start:
        return Outcome(0, ask=True)
    edit_end, result = end, 0
    for vma_start, _, vma in space.vmas.runs(start, end):
        if vma is None:
            result = -ENOMEM
        elif (
            vma.file is not None
            and vma.file.inode >= 0
            and not vma.file.path.startswith("/dev/zero")
        ):
            edit_end, result = vma_start, -EBADF
            break
    if edit_end == start:
        return Outcome(result, ask=True)
    return _edited(space, start, edit_end, lambda vma: vma._replace(name=name), result, end)


def mbind(space: AddressSpace, start: int, length: int, policy: tuple[int, bytes]) -> Outcome:
    """Set the memory policy of a range (mbind(2)), which splits VMAs. O(log n + k).

    The call is always passed on, because it also moves pages.
    """
    end = start + page_align(length) & ADDRESS_MASK
    if start & ~PAGE_MASK or end <= start or not space.vmas.covered(start, end):
        return Outcome(0, ask=True)
    wanted = policy if policy[0] & 0xFF else None  # MPOL_DEFAULT removes the policy
    return _edited(space, start, end, lambda vma: vma._replace(policy=wanted))._replace(ask=True)


def set_memory_merge(space: AddressSpace, enable: bool) -> Outcome:
    """Make all compatible mappings MADV_MERGEABLE, now and later (prctl(PR_SET_MEMORY_MERGE)).

    ksm_enable_merge_any and ksm_disable_merge_any in mm/ksm.c. Complexity: O(n).
    """

    def mark(vma: Vma) -> Vma:
        flags = vma.flags & ~VM_MERGEABLE
        if enable and not flags & VM_UNMERGEABLE:
            flags |= VM_MERGEABLE
        return vma if flags == vma.flags else vma.with_flags(flags)

    def remember() -> None:
        space.merge_any = enable

    changes = () if enable == space.merge_any else space.edit(0, TASK_SIZE, mark)
    end = TASK_SIZE if changes else 0
    return Outcome(0, changes, 0, end, ask=True, then=remember)


def remap_file_pages(
    space: AddressSpace,
    start: int,
    size: int,
    prot: int,
    pgoff: int,
    flags: int,
    read_implies_exec: bool = False,
) -> Outcome:
    """Map another part of a shared file (remap_file_pages(2)). O(log n + k).

    Since 4.0, Linux emulates the call with a new mapping (mm/mmap.c).
    """
    start &= PAGE_MASK
    size &= PAGE_MASK
    end = start + size
    if prot or not start < end <= ADDRESS_MASK or pgoff + size // PAGE_SIZE > ADDRESS_MASK:
        return Outcome(-EINVAL)
    _, vma_end, vma = space.vmas.find(start)
    if vma is None or not vma.flags & VM_SHARED or vma.file is None:
        return Outcome(-EINVAL)
    if end > vma_end or vma.flags & (VM_SPECIAL | VM_HUGETLB | VM_SYNC):
        return Outcome(0, start=start, end=end, ask=True, resync=True)
    if pgoff * PAGE_SIZE + size > MAX_LFS_FILESIZE:
        return Outcome(-EOVERFLOW)
    if vma.flags & VM_SEALED:
        return Outcome(-EPERM)
    if vma.file.is_secret:
        # Its driver locks the new mapping, and excludes it from dumps.
        return Outcome(0, start=start, end=end, ask=True, resync=True)
    # The new mapping of the same file has none of the flags that madvise had set.
    kept = VM_PROT | VM_MAY_RWX | VM_SHARED | VM_MAYSHARE | VM_LOCKED
    vm_flags = vma.flags & kept | space.def_flags
    if read_implies_exec and vm_flags & VM_READ and vm_flags & VM_MAYEXEC:
        vm_flags |= VM_EXEC  # do_mmap in mm/mmap.c
    wanted = Vma(vm_flags, vma.file, start - pgoff * PAGE_SIZE)
    space.vmas.set(start, end, wanted)
    return Outcome(
        0, (Change(classify(vma, wanted) or ADVISE, start, end, wanted, vma),), start, end, ask=True
    )


def _edited(
    space: AddressSpace,
    start: int,
    edit_end: int,
    change: Callable[[Vma], Vma],
    result: int = 0,
    end: int | None = None,
) -> Outcome:
    return Outcome(
        result, space.edit(start, edit_end, change), start, edit_end if end is None else end
    )
