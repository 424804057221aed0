"""The errors of Linux's memory calls, one line each (a table of what the kernel checks, in its
order)."""

from __future__ import annotations

from errno import (
    EACCES,
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    errorcode,
)

import pytest

from laconic.memory import flags as f
from laconic.memory.calls import OPERATIONS, PR_SET_MDWE
from laconic.memory.mmap import OpenFile, mmap
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import FILE, LEGEND, ORIGIN, PAGE, draw, space

ANON, FIXED, TOP = f.MAP_PRIVATE | f.MAP_ANONYMOUS, f.MAP_FIXED, f.TASK_SIZE
RW_FILE, RO_FILE, WO_FILE, NOEXEC, CLOSED = range(5)
#: pages 0-1 anonymous read-write, 2-3 a hole, 4-5 a file's, 6 sealed, 7 a stack, 8-9 shared and
#: read-only
PICTURE = "ww..ffZGoo"
FREE = ORIGIN + 2 * PAGE
FILES = {
    RW_FILE: OpenFile(FILE, True, True),
    RO_FILE: OpenFile(FILE, True, False),
    WO_FILE: OpenFile(FILE, False, True),
    NOEXEC: OpenFile(FILE, True, True, noexec=True),
}


class Upcalls(DefaultUpcalls):
    """A program that has touched all its memory."""

    def __init__(self) -> None:
        super().__init__(space(PICTURE))
        self.files = FILES


TABLE: list[tuple[int, str, tuple[int, ...]]] = [
    (EINVAL, "mmap", (0, 0, 3, ANON, 0, 0)),
    (EINVAL, "mmap", (0, PAGE, 3, ANON, 0, 1)),
    (EINVAL, "mmap", (FREE + 1, PAGE, 3, ANON | FIXED, 0, 0)),
    (EINVAL, "mmap", (0, PAGE, 3, f.MAP_ANONYMOUS, 0, 0)),
    (EINVAL, "mmap", (0, PAGE, 1, 0, RW_FILE, 0)),
    (EINVAL, "mmap", (0, PAGE, 3, f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_GROWSDOWN, 0, 0)),
    (EINVAL, "mmap", (0, PAGE, 1, f.MAP_PRIVATE | f.MAP_GROWSDOWN, RW_FILE, 0)),
    (EINVAL, "mmap", (0, PAGE, 3, f.MAP_DROPPABLE | f.MAP_ANONYMOUS | f.MAP_LOCKED, 0, 0)),
    (ENOMEM, "mmap", (0, (1 << 64) - 1, 3, ANON, 0, 0)),
    (ENOMEM, "mmap", (0, TOP + PAGE, 3, ANON, 0, 0)),
    (ENOMEM, "mmap", (TOP, PAGE, 3, ANON | FIXED, 0, 0)),
    (ENOMEM, "mmap", (0, TOP, 3, f.MAP_PRIVATE, WO_FILE, 0)),
    (EBADF, "mmap", (0, PAGE, 1, f.MAP_PRIVATE, CLOSED, 0)),
    (EOVERFLOW, "mmap", (0, PAGE, 1, f.MAP_PRIVATE, RW_FILE, (1 << 64) - PAGE)),
    (EACCES, "mmap", (0, PAGE, 3, f.MAP_SHARED, RO_FILE, 0)),
    (EACCES, "mmap", (0, PAGE, 1, f.MAP_PRIVATE, WO_FILE, 0)),
    (EPERM, "mmap", (0, PAGE, 5, f.MAP_PRIVATE, NOEXEC, 0)),
    (EPERM, "mmap", (ORIGIN, 8 * PAGE, 3, ANON | FIXED, 0, 0)),
    (EEXIST, "mmap", (ORIGIN + PAGE, 2 * PAGE, 3, ANON | f.MAP_FIXED_NOREPLACE, 0, 0)),
    (EEXIST, "mmap", (ORIGIN + PAGE, 2 * PAGE, 3, ANON | FIXED | f.MAP_FIXED_NOREPLACE, 0, 0)),
    (EOPNOTSUPP, "mmap", (0, PAGE, 1, f.MAP_SHARED_VALIDATE | 0x200, RW_FILE, 0)),
    (
        EOPNOTSUPP,
        "mmap",
        (FREE, PAGE, 1, f.MAP_SHARED_VALIDATE | f.MAP_FIXED_NOREPLACE, RW_FILE, 0),
    ),
    (EOPNOTSUPP, "mmap", (FREE, PAGE, 1, f.MAP_SHARED_VALIDATE | FIXED | 1 << 32, RW_FILE, 0)),
    (EINVAL, "mmap", (FREE, PAGE, 3, ANON | f.MAP_HUGETLB | f.MAP_FIXED_NOREPLACE, 0, 0)),
    (EINVAL, "mmap", (-PAGE & f.ADDRESS_MASK, PAGE, 3, ANON | FIXED | f.MAP_HUGETLB, 0, 0)),
    (EINVAL, "mmap", (0, PAGE, 3, f.MAP_SHARED | f.MAP_HUGETLB, RW_FILE, 0)),
    (EINVAL, "mmap", (0, PAGE, 3, f.MAP_DROPPABLE | f.MAP_ANONYMOUS | f.MAP_HUGETLB, 0, 0)),
    (EBADF, "mmap", (0, PAGE, 1, f.MAP_PRIVATE | f.MAP_HUGETLB, CLOSED, 0)),
    (EPERM, "mmap", (0, PAGE, 5, f.MAP_PRIVATE | f.MAP_GROWSDOWN, NOEXEC, 0)),
    (EINVAL, "munmap", (ORIGIN + 1, PAGE)),
    (EINVAL, "munmap", (ORIGIN, 0)),
    (EINVAL, "munmap", (TOP, PAGE)),
    (EINVAL, "munmap", (ORIGIN, TOP)),
    (EPERM, "munmap", (ORIGIN, 7 * PAGE)),
    (EINVAL, "mprotect", (ORIGIN + 1, PAGE, 1)),
    (EINVAL, "mprotect", (ORIGIN, PAGE, 0x10)),
    (EINVAL, "mprotect", (ORIGIN, PAGE, f.PROT_GROWSUP | f.PROT_GROWSDOWN)),
    (EINVAL, "mprotect", (ORIGIN, PAGE, f.PROT_GROWSDOWN)),
    (ENOMEM, "mprotect", (ORIGIN, (1 << 64) - PAGE, 1)),
    (ENOMEM, "mprotect", (FREE, PAGE, 1)),
    (EACCES, "mprotect", (ORIGIN + 8 * PAGE, PAGE, 3)),
    (EPERM, "mprotect", (ORIGIN + 6 * PAGE, PAGE, 3)),
    (EINVAL, "mremap", (ORIGIN + 1, PAGE, PAGE, 0, 0)),
    (EINVAL, "mremap", (ORIGIN, PAGE, 0, 0, 0)),
    (EINVAL, "mremap", (ORIGIN, PAGE, PAGE, 8, 0)),
    (EINVAL, "mremap", (ORIGIN, PAGE, PAGE, f.MREMAP_FIXED, FREE)),
    (EINVAL, "mremap", (ORIGIN, 2 * PAGE, 2 * PAGE, 3, ORIGIN + PAGE)),
    (EINVAL, "mremap", (ORIGIN, 2 * PAGE, PAGE, 5, 0)),
    (EINVAL, "mremap", (ORIGIN, 0, PAGE, 1, 0)),
    (EINVAL, "mremap", (ORIGIN, PAGE, PAGE, 3, FREE + 1)),
    (EFAULT, "mremap", (FREE, PAGE, PAGE, 0, 0)),
    (EFAULT, "mremap", (ORIGIN, 3 * PAGE, 4 * PAGE, 1, 0)),
    (ENOMEM, "mremap", (ORIGIN, PAGE, 2 * PAGE, 0, 0)),
    (EPERM, "mremap", (ORIGIN + 6 * PAGE, PAGE, PAGE, 0, 0)),
    (EINVAL, "madvise", (ORIGIN + 1, PAGE, f.MADV_DONTNEED)),
    (EINVAL, "madvise", (ORIGIN, (1 << 64) - PAGE, f.MADV_DONTNEED)),
    (EINVAL, "madvise", (ORIGIN + 4 * PAGE, PAGE, f.MADV_WIPEONFORK)),
    (ENOMEM, "madvise", (FREE, PAGE, f.MADV_DONTFORK)),
    (ENOMEM, "mlock", (FREE, PAGE)),
    (EINVAL, "mlock", (ORIGIN, (1 << 64) - PAGE)),
    (EINVAL, "mlock2", (ORIGIN, PAGE, 2)),
    (EINVAL, "mlockall", (0,)),
    (EINVAL, "mlockall", (f.MCL_ONFAULT,)),
    (EINVAL, "mlockall", (8,)),
    (EINVAL, "msync", (ORIGIN + 1, PAGE, f.MS_SYNC)),
    (EINVAL, "msync", (ORIGIN, PAGE, f.MS_SYNC | f.MS_ASYNC)),
    (ENOMEM, "msync", (FREE, PAGE, f.MS_SYNC)),
    (ENOMEM, "mseal", (FREE, PAGE, 0)),
    (EINVAL, "remap_file_pages", (ORIGIN, PAGE, 0, 0, 0)),
    (EINVAL, "remap_file_pages", (ORIGIN + 8 * PAGE, PAGE, 1, 0, 0)),
]


@pytest.mark.parametrize(
    ("error", "name", "args"), TABLE, ids=[f"{row[1]} {errorcode[row[0]]}" for row in TABLE]
)
def test_error(error: int, name: str, args: tuple[int, ...]) -> None:
    here = space(PICTURE)
    outcome = OPERATIONS[name](here, (*args, *[0] * (6 - len(args))), Upcalls())
    assert errorcode.get(-outcome.result) == errorcode[error]
    assert draw(here.vmas, len(PICTURE), LEGEND) == PICTURE, "nothing changes"


LOCKED = ANON | f.MAP_LOCKED
#: Refusals before which the kernel makes a check that only it can make: the host answers them.
DOUBTFUL: list[tuple[str, tuple[int, ...]]] = [
    ("mmap", (0, PAGE, 3, f.MAP_ANONYMOUS | f.MAP_LOCKED, 0, 0)),
    ("mmap", (0, PAGE, 1, f.MAP_PRIVATE | f.MAP_LOCKED, WO_FILE, 0)),
    ("mmap", (0, PAGE, 1, f.MAP_PRIVATE | f.MAP_GROWSDOWN, RW_FILE, 0)),
    ("mmap", (PAGE, PAGE, 3, f.MAP_ANONYMOUS | FIXED, 0, 0)),
    ("mmap", (ORIGIN, 8 * PAGE, 3, ANON | FIXED, 0, 0)),
    ("munmap", (ORIGIN, 7 * PAGE)),
    ("mlock", (ORIGIN, -PAGE & f.ADDRESS_MASK)),
    ("mmap", (0, PAGE, f.PROT_EXEC, f.MAP_ANONYMOUS, 0, 0)),
    ("mprotect", (ORIGIN + 6 * PAGE, PAGE, f.PROT_EXEC)),
    ("pkey_mprotect", (FREE, PAGE, 3, 1)),
    ("pkey_mprotect", (ORIGIN, PAGE, 3 | f.PROT_GROWSDOWN, 1)),
    ("mremap", (ORIGIN, 2 * PAGE, 5 * PAGE, 0)),
    ("mremap", (ORIGIN, PAGE, PAGE, 3, ORIGIN + 6 * PAGE)),
]
#: Refusals that need no host call.
CERTAIN: list[tuple[str, tuple[int, ...]]] = [
    ("mmap", (0, PAGE, 3, f.MAP_ANONYMOUS, 0, 0)),
    ("mmap", (FREE + 1, PAGE, 3, LOCKED | FIXED, 0, 0)),
    ("mmap", (ORIGIN, PAGE, 3, LOCKED | f.MAP_FIXED_NOREPLACE, 0, 0)),
    ("pkey_mprotect", (ORIGIN + 1, PAGE, 3, 1)),
    ("mprotect", (FREE, PAGE, 3)),
    ("mremap", (ORIGIN, PAGE, 2 * PAGE, 0)),
]


@pytest.mark.parametrize(("name", "args"), DOUBTFUL)
def test_the_host_answers_if_it_may_know_an_earlier_error(name: str, args: tuple[int, ...]) -> None:
    outcome = OPERATIONS[name](space(PICTURE), (*args, *[0] * (6 - len(args))), Upcalls())
    assert outcome.result < 0
    assert outcome.ask


@pytest.mark.parametrize(("name", "args"), CERTAIN)
def test_a_refusal_that_is_certain_needs_no_host_call(name: str, args: tuple[int, ...]) -> None:
    outcome = OPERATIONS[name](space(PICTURE), (*args, *[0] * (6 - len(args))), Upcalls())
    assert outcome.result < 0
    assert not outcome.ask


def test_mlockall_makes_later_refusals_doubtful() -> None:
    here = space(PICTURE)
    here.def_flags = f.VM_LOCKED
    outcome = OPERATIONS["mmap"](here, (0, PAGE, 3, f.MAP_ANONYMOUS, 0, 0), Upcalls())
    assert (outcome.result, outcome.ask) == (-EINVAL, True)


def test_mdwe_without_inheritance_ends_at_fork() -> None:
    for bits, inherited in ((1, True), (3, False)):
        here = space(PICTURE)
        outcome = OPERATIONS["prctl"](here, (PR_SET_MDWE, bits, 0, 0, 0, 0), Upcalls())
        assert outcome.then is not None
        outcome.then()
        assert here.mdwe
        assert here.fork().mdwe == inherited


def test_shared_memory_that_may_be_aligned_is_placed_by_the_host() -> None:
    for align in (False, True):
        here = space(PICTURE, shmem_align=align)
        shared = OPERATIONS["mmap"](
            here, (0, PAGE, 3, f.MAP_SHARED | f.MAP_ANONYMOUS, 0, 0), Upcalls()
        )
        private = OPERATIONS["mmap"](here, (0, PAGE, 3, ANON, 0, 0), Upcalls())
        assert (shared.place, private.place) == (align, False)


def test_a_mapping_near_the_end_of_the_largest_file_is_placed_by_the_host() -> None:
    """The file system rounds the offset up, beyond what loff_t holds (__thp_get_unmapped_area)."""
    files = Upcalls()
    aligning = files.open_file(RW_FILE)
    assert aligning is not None
    for offset, placed in ((0, False), ((1 << 63) - 9 * PAGE, True)):
        outcome = mmap(
            space(PICTURE), FREE, PAGE, 1, f.MAP_PRIVATE, aligning._replace(places=True), offset
        )
        assert outcome.place == placed


def test_sealed_private_dev_zero_is_anonymous_to_madvise() -> None:
    here = space("w")
    zero = Vma(f.VM_READ | f.VM_MAY_RWX | f.VM_SEALED, File(0, 6, 5, "/dev/zero"), ORIGIN)
    here.adopt([(ORIGIN, ORIGIN + PAGE, zero)])
    outcome = OPERATIONS["madvise"](here, (ORIGIN, PAGE, f.MADV_WIPEONFORK, 0, 0, 0), Upcalls())
    assert (outcome.result, outcome.ask) == (-EPERM, True)


def test_the_limit_on_vmas() -> None:
    crowded = space("w.w.w", max_map_count=2)
    assert OPERATIONS["mmap"](crowded, (0, PAGE, 3, ANON, 0, 0), Upcalls()).result == -ENOMEM
    full = space("www.w", max_map_count=2)
    assert (
        OPERATIONS["munmap"](full, (ORIGIN + PAGE, PAGE, 0, 0, 0, 0), Upcalls()).result == -ENOMEM
    )
    assert OPERATIONS["munmap"](full, (ORIGIN, PAGE, 0, 0, 0, 0), Upcalls()).result == 0
