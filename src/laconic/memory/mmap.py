"""mmap: do_mmap in mm/mmap.c, step by step in the kernel's order."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EBADF, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from functools import lru_cache
from typing import Final, NamedTuple

from laconic.memory.change import FILE, MAP, ZERO, Change, Outcome, classify, new
from laconic.memory.flags import (
    ADDRESS_MASK,
    LEGACY_MAP_MASK,
    MAP_ANONYMOUS,
    MAP_DROPPABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGE_MASK,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_SYNC,
    MAP_TYPE,
    MAX_ERRNO,
    PAGE_MASK,
    PAGE_SIZE,
    PMD_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_RWX,
    PROT_WRITE,
    TASK_SIZE,
    VM_DONTDUMP,
    VM_DROPPABLE,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAY_RWX,
    VM_MAYEXEC,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SEALED,
    VM_SHARED,
    VM_SYNC,
    VM_UNMERGEABLE,
    VM_WIPEONFORK,
)
from laconic.memory.layout import get_unmapped_area
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma

#: The upcall that returns whether a range of private memory was never touched or, in a file
#: mapping, never written.
Untouched = Callable[[int, int], bool]


#: The highest size of a regular file (include/linux/fs.h), in bytes.
MAX_LFS_FILESIZE: Final = (1 << 63) - 1


#: CONFIG_LSM_MMAP_MIN_ADDR, which is not in /proc. The host rounds hints below it
#: (round_hint_to_min).
LSM_MMAP_MIN_ADDR: Final = 65536


class OpenFile(NamedTuple):
    """The open file of an mmap, with the attributes that the kernel checks.

    `plain`: a regular file whose mappings are page cache. For all others (devices, huge pages),
    only the host knows the mapping's attributes. `places`: the file system may choose addresses.
    `size` is in bytes. `huge` is the page size of a file of hugetlbfs in bytes, or 0.
    """

    file: File
    readable: bool
    writable: bool
    plain: bool = True
    noexec: bool = False
    places: bool = False
    size: int = 0
    huge: int = 0


#: The file of hugetlbfs that the kernel creates for MAP_ANONYMOUS|MAP_HUGETLB (ksys_mmap_pgoff).
HUGE_PAGES: Final = OpenFile(File(0, 0, -1), readable=True, writable=True, plain=False)


def page_align(length: int) -> int:
    """Round bytes up to whole pages; wraps at 2**64, like PAGE_ALIGN."""
    return (length + PAGE_SIZE - 1) & PAGE_MASK & ADDRESS_MASK


def mmap(  # noqa: C901 (do_mmap's checks, one by one and in its order)
    space: AddressSpace,
    address: int,
    length: int,
    prot: int,
    flags: int,
    file: OpenFile | None,
    offset: int,
    read_implies_exec: bool = False,
    untouched: Untouched = lambda start, end: False,
) -> Outcome:
    """Map memory (mmap(2)); the result is the address. O(log n + k).

    `address`, `length` and `offset` are in bytes. `file` is the file of the descriptor; without
    MAP_ANONYMOUS, None represents a bad descriptor. `untouched` is queried only if a private
    mapping already has all attributes that MAP_FIXED requests.

    The checks have the order of ksys_mmap_pgoff, do_mmap and mmap_region. A refusal has `ask` if
    only the host can make one of the checks before it; the program then receives the host's errno.
    """
    # SYSCALL_DEFINE6(mmap) in arch/x86/kernel/sys_x86_64.c, and ksys_mmap_pgoff
    if offset & ~PAGE_MASK:
        return Outcome(-EINVAL)
    huge = 0
    if flags & MAP_ANONYMOUS:
        file = None
        if flags & MAP_HUGETLB:
            file = HUGE_PAGES
            huge = 1 << (flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK or 21)
    elif file is None:
        return Outcome(-EBADF)
    elif file.huge:
        huge = file.huge
        flags |= MAP_HUGETLB
    elif flags & MAP_HUGETLB:
        return Outcome(-EINVAL)
    # A driver may refuse with any errno, and hugetlb_file_setup refuses if there are too few huge
    # pages.
    special = file is not None and not file.plain
    # Even a refused execute-only mapping allocates a protection key (execute_only_pkey).
    doubtful = special or prot == PROT_EXEC

    # do_mmap: length and address
    layout = space.layout
    if huge:
        length = _huge_align(length, huge)
    if not length:
        return Outcome(-EINVAL, ask=doubtful)
    length = page_align(length)
    if not length or space.vmas.count > layout.max_map_count:
        return Outcome(-ENOMEM, ask=doubtful)
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    place = False
    if flags & MAP_FIXED:
        refusal = _fixed_address(address, length, huge)
        if refusal:
            return Outcome(refusal, ask=doubtful)
        # security_mmap_addr: low addresses need CAP_SYS_RAWIO.
        low = address < LSM_MMAP_MIN_ADDR
        special = special or low
        doubtful = doubtful or low
    else:
        chosen = _free_address(space, address & PAGE_MASK, length, flags, file, offset)
        if chosen is None:
            place = True
        elif chosen < 0:
            return Outcome(chosen, ask=doubtful)
        else:
            address = chosen
    if flags & MAP_FIXED_NOREPLACE and not _is_free(space, address, address + length):
        return Outcome(-EEXIST, ask=doubtful)

    # do_mmap: flags. can_do_mlock and mlock_future_ok check RLIMIT_MEMLOCK. Some checks of a file
    # can be made only by the host: swap files, append-only files, seals, and finally whether it can
    # be mapped at all (can_mmap_file).
    locked = bool(flags & MAP_LOCKED or space.def_flags & VM_LOCKED)
    doubtful = doubtful or locked or file is not None
    if read_implies_exec and prot & PROT_READ and not (file is not None and file.noexec):
        prot |= PROT_EXEC
    own = _file_flags(file, prot, flags, offset + length) if file is not None else 0
    added = prot & PROT_RWX | space.def_flags
    if space.merge_any:
        added |= VM_MERGEABLE  # ksm_vma_flags in mm/ksm.c
    vma = _without_file(own, added, flags, layout.thp, layout.overcommit_never)
    vm_flags = vma.flags
    if vm_flags < 0:
        return Outcome(vm_flags, ask=doubtful)

    # mmap_region
    if space.mdwe and prot & PROT_WRITE and prot & PROT_EXEC:
        return Outcome(-EACCES, ask=doubtful)  # map_deny_write_exec in include/linux/mman.h
    if file is HUGE_PAGES:
        file = None
    if place:
        if file is not None:
            vma = Vma(vm_flags, file.file, -offset)
        elif vm_flags & VM_MAYSHARE:
            vma = Vma(vm_flags, _shared_memory())
        return Outcome(address, (Change(MAP, 0, length, vma, None),), ask=True, place=True)
    if file is not None:
        vma = Vma(vm_flags, file.file, address - offset)
    elif vm_flags & VM_MAYSHARE:
        vma = Vma(vm_flags, _shared_memory(), address)
    end = address + length
    changes: tuple[Change, ...] = (new(Change, (MAP, address, end, vma, None, None)),)
    if flags & MAP_FIXED:
        whole = (
            populates(flags) or vm_flags & (VM_LOCKED | VM_MAYSHARE | VM_HUGETLB) or space.opaque
        )
        overlaid = _overlay(space, address, end, vma, None if whole else untouched)
        if overlaid is None:
            # Before it refuses, the kernel has split the VMAs at both ends
            # (vms_gather_munmap_vmas), and it does not merge them again. Later calls may depend on
            # that, so this call is passed on.
            return Outcome(-EPERM, ask=True)
        changes = overlaid
    if changes:
        space.vmas.set(address, end, vma)
    then = grown_below(space, vma) if vm_flags & VM_GROWSDOWN else None
    # A file system may refuse MAP_SYNC, which requires DAX. PROT_EXEC alone sets a protection key,
    # and with PROT_SEM it sets none (do_mmap): only the host knows the key of the mapping below.
    # After a guard region, only the host's old mapping may have VM_MAYBE_GUARD.
    ask = (
        special
        or (file is not None and bool(flags & MAP_SYNC))
        or prot & PROT_RWX == PROT_EXEC
        or (space.guarded and not changes)
    )
    return new(Outcome, (address, changes, address, end, ask, False, False, then))


def _fixed_address(address: int, length: int, huge: int) -> int:
    # __get_unmapped_area with MAP_FIXED: 0, or a negative errno. The checks of
    # hugetlb_get_unmapped_area precede those of other mappings.
    if length > TASK_SIZE:
        return -ENOMEM
    if huge and address % huge:
        return -EINVAL
    if address > ADDRESS_MASK - MAX_ERRNO:
        return address - ADDRESS_MASK - 1  # IS_ERR_VALUE: the address looks like an errno
    if address > TASK_SIZE - length:
        return -ENOMEM
    return -EINVAL if address & ~PAGE_MASK else 0


def _free_address(
    space: AddressSpace, hint: int, length: int, flags: int, file: OpenFile | None, offset: int
) -> int | None:
    # __get_unmapped_area: the address, -ENOMEM, or None if the host chooses.
    if length > TASK_SIZE:
        return -ENOMEM
    if 0 < hint < LSM_MMAP_MIN_ADDR:
        return None  # round_hint_to_min
    layout = space.layout
    shared_memory = file is None and flags & MAP_SHARED
    if (file is not None and not file.plain) or (shared_memory and layout.shmem_align):
        return None
    anonymous = file is None and not shared_memory
    chosen = get_unmapped_area(layout, space.vmas, hint, length, flags, anonymous)
    if chosen is not None and chosen < 0:
        return chosen
    return None if file is not None and _places(file, length, flags, offset) else chosen


def _is_free(space: AddressSpace, start: int, end: int) -> bool:
    return not any(vma for _, _, vma in space.vmas.runs(start, end))


def placed(space: AddressSpace, outcome: Outcome, address: int) -> Outcome:
    """Return the outcome of an mmap at the address that the host chose. O(log n).

    Edits the wanted state. The first such address reveals the mmap base.
    """
    (change,) = outcome.changes
    vma = change.wanted
    assert vma is not None
    if vma.file is not None:
        vma = vma._replace(base=address + vma.base)
    start, end = address, address + change.end
    if space.layout.mmap_base is None and address != outcome.result and change.end < PMD_SIZE:
        # The address is neither the hint nor aligned to huge pages, so it reveals the base.
        space.layout.learn(space.vmas, start, end)
    space.vmas.set(start, end, vma)
    return Outcome(
        address, (Change(MAP, start, end, vma, None),), start, end, then=grown_below(space, vma)
    )


def grown_below(space: AddressSpace, vma: Vma) -> Callable[[], None] | None:
    """Return the effect of mapping `vma` on the layout: if it grows down, it may grow unseen."""
    if not vma.flags & VM_GROWSDOWN:
        return None

    def anywhere() -> None:
        space.layout.quiet_below = 0

    return anywhere


def _overlay(
    space: AddressSpace, start: int, end: int, vma: Vma, untouched: Untouched | None
) -> tuple[Change, ...] | None:
    # The changes of MAP_FIXED over existing VMAs, or None if one is sealed. VMAs with equal
    # attributes still change, because their contents are discarded.
    changes = []
    for run_start, run_end, held in space.vmas.runs(start, end):
        if held is not None and held.flags & VM_SEALED:
            return None
        kind = classify(held, vma)
        same_backing = held is not None and not kind & FILE
        if same_backing and not (untouched is not None and untouched(run_start, run_end)):
            kind |= ZERO
        if kind:
            changes.append(new(Change, (kind, run_start, run_end, vma, held, None)))
    return tuple(changes)


@lru_cache(256)
def _without_file(own: int, added: int, flags: int, thp: bool, overcommit_never: bool) -> Vma:
    # The VMA of a mapping with `flags`, without its backing. `own` are the VM_* flags that the file
    # decides, and `added` those of the protection and of mlockall. If `flags` are invalid, the VMA
    # has a negative errno instead of flags. Cached, because programs use few combinations.
    own = own or _anonymous_flags(flags)
    if own < 0:
        return Vma(own)
    # The flags of calc_vm_flag_bits in include/linux/mman.h, and those that do_mmap adds.
    vm_flags = own | added
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if flags & MAP_SYNC:
        vm_flags |= VM_SYNC  # on any mapping, although only DAX files use it
    if flags & MAP_STACK and thp:
        vm_flags |= VM_NOHUGEPAGE
    if flags & MAP_NORESERVE and not overcommit_never:
        vm_flags |= VM_NORESERVE
    if flags & MAP_HUGETLB:
        vm_flags |= VM_HUGETLB
    if vm_flags & (VM_DROPPABLE | VM_HUGETLB):
        vm_flags &= ~VM_LOCKED_MASK  # vma_supports_mlock in mm/vma.c
    if vm_flags & VM_UNMERGEABLE:
        vm_flags &= ~VM_MERGEABLE
    return Vma(vm_flags)


def _anonymous_flags(flags: int) -> int:
    kind = flags & MAP_TYPE
    if kind == MAP_PRIVATE:
        return VM_MAY_RWX
    if kind == MAP_SHARED:
        return -EINVAL if flags & MAP_GROWSDOWN else VM_MAY_RWX | VM_SHARED | VM_MAYSHARE
    if kind == MAP_DROPPABLE:
        if flags & (MAP_LOCKED | MAP_GROWSDOWN):
            return -EINVAL
        return VM_MAY_RWX | VM_DROPPABLE | VM_NORESERVE | VM_WIPEONFORK | VM_DONTDUMP
    return -EINVAL


def _file_flags(file: OpenFile, prot: int, flags: int, end: int) -> int:
    if end > (MAX_LFS_FILESIZE if file.plain else ADDRESS_MASK):
        return -EOVERFLOW  # file_mmap_ok; `end` is the end of the mapped part of the file
    vm_flags = VM_MAY_RWX
    kind = flags & MAP_TYPE
    if kind in (MAP_SHARED, MAP_SHARED_VALIDATE):
        if kind == MAP_SHARED_VALIDATE and flags & ~(LEGACY_MAP_MASK | MAP_SYNC):
            return -EOPNOTSUPP
        if prot & PROT_WRITE and not file.writable:
            return -EACCES
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if not file.writable:
            vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
    elif kind != MAP_PRIVATE:
        return -EINVAL
    if not file.readable:
        return -EACCES
    if file.noexec:
        if prot & PROT_EXEC:
            return -EPERM
        vm_flags &= ~VM_MAYEXEC
    if flags & MAP_GROWSDOWN:
        return -EINVAL
    return vm_flags


_last_provisional_inode = 0


def _shared_memory() -> File:
    # Each shared anonymous mapping is a new file in the kernel's tmpfs (shmem_zero_setup in
    # mm/shmem.c). Until the host shows its inode, a unique negative number identifies it.
    global _last_provisional_inode
    _last_provisional_inode -= 1
    return File(0, 1, _last_provisional_inode, "/dev/zero (deleted)")


def _huge_align(length: int, size: int) -> int:
    # ALIGN, which wraps at 2**64
    return (length + size - 1) & ~(size - 1) & ADDRESS_MASK


def _places(file: OpenFile, length: int, flags: int, offset: int) -> bool:
    # True if the host chooses the address: for huge pages and for DAX.
    return bool(flags & MAP_SYNC) or (file.places and may_align(length, offset))


def may_align(length: int, offset: int) -> bool:
    """Return whether a file system may align a mapping to huge pages; arguments are in bytes.

    __thp_get_unmapped_area in mm/huge_memory.c. The rounded offset wraps beyond the largest file.
    """
    return length >= PMD_SIZE or offset > MAX_LFS_FILESIZE - PMD_SIZE


def populates(flags: int) -> bool:
    """Return whether mmap also faults the pages in (the end of do_mmap)."""
    return bool(flags & MAP_LOCKED) or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE
