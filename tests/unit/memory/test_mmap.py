"""mmap: flags of new VMAs, limits, and which mappings only the host can place or describe."""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM

import pytest

from laconic.memory import flags as f
from laconic.memory.change import MAP, Change, Outcome
from laconic.memory.madvise import madvise
from laconic.memory.mmap import (
    LSM_MMAP_MIN_ADDR,
    MAX_LFS_FILESIZE,
    OpenFile,
    mmap,
    page_align,
    placed,
    populates,
)
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import (
    FILE,
    LEGEND,
    MAY,
    PAGE,
    RW,
    RX,
    SHARED,
    R,
    W,
    X,
    at,
    changes,
    draw,
    space,
)

ANON = f.MAP_PRIVATE | f.MAP_ANONYMOUS
FIXED = ANON | f.MAP_FIXED
OPEN = OpenFile(FILE, readable=True, writable=True)


def anonymous(
    here: AddressSpace, start: int, pages: int, prot: int = RW, flags: int = FIXED
) -> Outcome:
    """mmap of anonymous memory at a page of the picture."""
    return mmap(here, at(start), pages * PAGE, prot, flags, None, 0)


def never_touched(start: int, end: int) -> bool:
    """An upcall: no page was touched."""
    return True


def mapped(here: AddressSpace, page: int) -> Vma:
    """The VMA at a page; there must be one."""
    vma = here.vmas.get(at(page))
    assert vma is not None
    return vma


@pytest.mark.parametrize(
    ("length", "aligned"),
    [(0, 0), (1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), ((1 << 64) - 1, 0)],
)
def test_lengths_are_rounded_up_and_wrap(length: int, aligned: int) -> None:
    assert page_align(length) == aligned


@pytest.mark.parametrize(
    ("vmas", "result"), [(2, at(5)), (3, at(5)), (4, -ENOMEM)], ids=["below", "at", "above"]
)
def test_one_more_vma_than_the_limit_is_allowed(vmas: int, result: int) -> None:
    # do_mmap refuses at map_count > max_map_count: the mapping that exceeds the limit by one works
    # w.w.w  three VMAs
    picture = {2: "w.w...", 3: "w.w.w.", 4: "wrw.w."}[vmas]
    assert anonymous(space(picture, max_map_count=3), 5, 1).result == result


def test_a_refused_mapping_edits_nothing() -> None:
    here = space("w.w.w.", max_map_count=2)
    anonymous(here, 5, 1)
    assert draw(here.vmas, 6, LEGEND) == "w.w.w."


def test_mappings_that_grow_down_end_the_quiet() -> None:
    # ......  below the quiet line nothing grows, until a mapping that does is confirmed
    here = space("......", quiet_below=at(6))
    outcome = anonymous(here, 3, 1, flags=FIXED | f.MAP_GROWSDOWN)
    assert here.layout.quiet_below == at(6)
    here.commit(outcome)
    assert here.layout.quiet_below == 0
    assert mapped(here, 3).flags == RW | MAY | f.VM_GROWSDOWN


def test_other_mappings_leave_the_quiet_as_it_is() -> None:
    here = space("......", quiet_below=at(6))
    here.commit(anonymous(here, 3, 1))
    assert here.layout.quiet_below == at(6)


def test_a_place_that_the_host_chose_for_what_grows_down_ends_the_quiet() -> None:
    here = space("......", quiet_below=at(6))
    here.layout.mmap_base = None
    outcome = anonymous(here, 0, 1, flags=ANON | f.MAP_GROWSDOWN)
    here.layout.mmap_base = at(6)
    free = mmap(here, 0, PAGE, RW, ANON | f.MAP_GROWSDOWN | f.MAP_NORESERVE, None, 0)
    assert free.result == at(5)
    here.commit(placed(here, outcome._replace(result=0), at(1)))
    assert here.layout.quiet_below == 0


# Flags of the VMA


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        (0, 0),
        (f.MAP_LOCKED, f.VM_LOCKED),
        (f.MAP_NORESERVE, f.VM_NORESERVE),
        (f.MAP_STACK, f.VM_NOHUGEPAGE),
        (f.MAP_GROWSDOWN, f.VM_GROWSDOWN),
        (f.MAP_SYNC, f.VM_SYNC),
        (f.MAP_POPULATE | f.MAP_NONBLOCK, 0),
    ],
)
def test_flags_of_the_call_are_flags_of_the_vma(flags: int, added: int) -> None:
    # calc_vm_flag_bits in include/linux/mman.h, and what do_mmap adds
    here = space("....")
    anonymous(here, 0, 1, flags=FIXED | flags)
    assert mapped(here, 0) == Vma(RW | MAY | added)


def test_flags_that_the_kernel_may_ignore() -> None:
    # MAP_STACK needs CONFIG_TRANSPARENT_HUGEPAGE; MAP_NORESERVE is ignored under overcommit 2
    here = space("....", thp=False, overcommit_never=True)
    anonymous(here, 0, 1, flags=FIXED | f.MAP_STACK | f.MAP_NORESERVE)
    assert mapped(here, 0) == Vma(RW | MAY)


def test_droppable_memory() -> None:
    # MAP_DROPPABLE (6.11): wiped at fork, not dumped, never locked
    flags = f.MAP_DROPPABLE | f.MAP_ANONYMOUS | f.MAP_FIXED
    expected = f.VM_DROPPABLE | f.VM_NORESERVE | f.VM_WIPEONFORK | f.VM_DONTDUMP
    here = space("....")
    here.def_flags = f.VM_LOCKED
    anonymous(here, 0, 1, flags=flags)
    assert mapped(here, 0).flags == RW | MAY | expected
    assert anonymous(here, 1, 1, flags=flags | f.MAP_GROWSDOWN).result == -EINVAL


def test_locks_and_merging_that_are_set_for_the_future() -> None:
    here = space("......")
    here.def_flags, here.merge_any = f.VM_LOCKED_MASK, True
    anonymous(here, 0, 1)
    assert mapped(here, 0).flags == RW | MAY | f.VM_LOCKED_MASK | f.VM_MERGEABLE
    # vma_ksm_compatible in mm/ksm.c: shared memory is never merged
    anonymous(here, 2, 1, flags=f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_FIXED)
    assert mapped(here, 2).flags == RW | MAY | SHARED | f.VM_LOCKED_MASK


def test_each_shared_anonymous_mapping_is_a_file_of_its_own() -> None:
    # ....  two mappings side by side do not merge (shmem_zero_setup in mm/shmem.c)
    shared = f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_FIXED
    here = space("....")
    anonymous(here, 0, 1, flags=shared)
    anonymous(here, 1, 1, flags=shared)
    assert here.map_count == 2
    file = mapped(here, 0).file
    assert file is not None and file.inode < 0 and file.path == "/dev/zero (deleted)"
    assert (mapped(here, 0).base, mapped(here, 1).base) == (at(0), at(1))
    assert (file.major, file.minor) == (0, 1)


# Files


def of_file(
    here: AddressSpace,
    file: OpenFile,
    prot: int = R,
    flags: int = f.MAP_PRIVATE | f.MAP_FIXED,
    offset: int = 0,
) -> Outcome:
    """mmap of one page of a file at page 1."""
    return mmap(here, at(1), PAGE, prot, flags, file, offset)


@pytest.mark.parametrize(
    ("file", "prot", "flags", "vm_flags"),
    [
        (OPEN, R, f.MAP_PRIVATE, R | MAY),
        (OPEN, RW, f.MAP_SHARED, RW | MAY | SHARED),
        (OPEN, RW, f.MAP_SHARED_VALIDATE, RW | MAY | SHARED),
        (OPEN, R, f.MAP_SHARED_VALIDATE | f.MAP_SYNC, R | MAY | SHARED | f.VM_SYNC),
        (OPEN._replace(writable=False), R, f.MAP_SHARED, R | MAY & ~f.VM_MAYWRITE | f.VM_MAYSHARE),
        (OPEN._replace(writable=False), RW, f.MAP_PRIVATE, RW | MAY),
        (OPEN._replace(noexec=True), R, f.MAP_PRIVATE, R | MAY & ~f.VM_MAYEXEC),
    ],
)
def test_flags_of_a_file_mapping(file: OpenFile, prot: int, flags: int, vm_flags: int) -> None:
    # do_mmap: what the descriptor allows decides VM_MAY% and VM_SHARED
    here = space("...")
    assert of_file(here, file, prot, flags | f.MAP_FIXED).result == at(1)
    assert mapped(here, 1) == Vma(vm_flags, FILE, at(1))


def test_a_file_s_offset_is_kept_relative_to_the_address() -> None:
    here = space("...")
    of_file(here, OPEN, offset=3 * PAGE)
    assert at(1) - mapped(here, 1).base == 3 * PAGE


@pytest.mark.parametrize(
    ("plain", "offset", "fits"),
    [
        (True, MAX_LFS_FILESIZE + 1 - 2 * PAGE, True),
        (True, MAX_LFS_FILESIZE + 1 - PAGE, False),
        (False, MAX_LFS_FILESIZE + 1 - PAGE, True),
        (False, (1 << 64) - PAGE, False),
    ],
)
def test_the_largest_offset(plain: bool, offset: int, fits: bool) -> None:
    # file_mmap_ok: a device may be larger than any file
    outcome = of_file(space("..."), OPEN._replace(plain=plain), offset=offset)
    assert (outcome.result == at(1)) == fits


def test_read_implies_exec_where_the_mount_allows_it() -> None:
    for file, prot in ((OPEN, RX), (OPEN._replace(noexec=True), R)):
        here = space("...")
        mmap(here, at(1), PAGE, R, f.MAP_PRIVATE | f.MAP_FIXED, file, 0, read_implies_exec=True)
        assert mapped(here, 1).flags & f.VM_PROT == prot
    here = space("...")
    mmap(here, at(1), PAGE, W, FIXED, None, 0, read_implies_exec=True)
    assert mapped(here, 1).flags & f.VM_PROT == W


def test_mdwe_refuses_memory_that_is_writable_and_executable() -> None:
    here = space("....")
    here.mdwe = True
    assert anonymous(here, 0, 1, W | X).result == -EACCES
    assert anonymous(here, 0, 1, RW).result == at(0)
    assert anonymous(here, 1, 1, RX).result == at(1)


# What only the host can place, describe or refuse


@pytest.mark.parametrize(
    ("file", "flags", "only_host"),
    [
        (None, FIXED, False),
        (OPEN, f.MAP_PRIVATE | f.MAP_FIXED, False),
        (OPEN._replace(plain=False), f.MAP_PRIVATE | f.MAP_FIXED, True),
        (OPEN, f.MAP_SHARED_VALIDATE | f.MAP_SYNC | f.MAP_FIXED, True),
        (None, FIXED | f.MAP_SYNC, False),
    ],
)
def test_the_host_answers_for_devices_and_dax(
    file: OpenFile | None, flags: int, only_host: bool
) -> None:
    assert mmap(space("..."), at(1), PAGE, R, flags, file, 0).ask == only_host


@pytest.mark.parametrize(
    ("address", "only_host"), [(LSM_MMAP_MIN_ADDR - PAGE, True), (LSM_MMAP_MIN_ADDR, False)]
)
def test_the_host_answers_for_low_addresses(address: int, only_host: bool) -> None:
    # security_mmap_addr: they need CAP_SYS_RAWIO
    assert mmap(space("..."), address, PAGE, R, FIXED, None, 0).ask == only_host


@pytest.mark.parametrize(
    ("hint", "place"), [(0, False), (PAGE, True), (LSM_MMAP_MIN_ADDR, False), (7, False)]
)
def test_the_host_places_hints_at_low_addresses(hint: int, place: bool) -> None:
    # round_hint_to_min
    assert mmap(space("..."), hint, PAGE, R, ANON, None, 0).place == place


@pytest.mark.parametrize(
    ("file", "pages", "place"),
    [
        (OPEN._replace(places=True), 511, False),
        (OPEN._replace(places=True), 512, True),
        (OPEN, 512, False),
        (OPEN._replace(plain=False), 1, True),
    ],
)
def test_the_host_places_what_a_file_system_may_align(
    file: OpenFile, pages: int, place: bool
) -> None:
    outcome = mmap(space("." * 600), 0, pages * PAGE, R, f.MAP_PRIVATE, file, PAGE)
    assert outcome.place == place
    if place:
        (change,) = outcome.changes
        assert (outcome.ask, change.kind, change.start, change.end) == (True, MAP, 0, pages * PAGE)
        assert change.wanted == Vma(R | MAY, FILE, -PAGE)


def test_huge_pages_are_rounded_to_their_size_and_described_by_the_host() -> None:
    here = space("....")
    start = 1 << 40
    outcome = mmap(here, start, 1, RW, FIXED | f.MAP_HUGETLB, None, 0)
    assert (outcome.result, outcome.end, outcome.ask) == (start, start + f.PMD_SIZE, True)
    assert here.vmas.get(start) == Vma(RW | MAY | f.VM_HUGETLB)
    giant = FIXED | f.MAP_HUGETLB | 30 << f.MAP_HUGE_SHIFT
    assert mmap(here, start, 1, RW, giant, None, 0).end == start + (1 << 30)
    assert mmap(here, start + f.PMD_SIZE, 1, RW, giant, None, 0).result == -EINVAL
    assert mmap(here, 0, (1 << 64) - 1, RW, ANON | f.MAP_HUGETLB, None, 0).result == -EINVAL
    assert mmap(here, 0, 1, RW, ANON | f.MAP_HUGETLB, None, 0).place


def test_a_file_of_hugetlbfs_is_mapped_in_its_pages() -> None:
    huge = OPEN._replace(plain=False, huge=1 << 21)
    outcome = mmap(space("."), 1 << 40, PAGE, R, f.MAP_PRIVATE | f.MAP_FIXED, huge, 0)
    assert outcome.end - outcome.start == 1 << 21
    wanted = outcome.changes[0].wanted
    assert wanted is not None and wanted.flags & f.VM_HUGETLB and wanted.file == FILE


def test_shared_memory_without_a_known_place_has_no_base_yet() -> None:
    here = space("....", shmem_align=True)
    outcome = mmap(here, 0, PAGE, RW, f.MAP_SHARED | f.MAP_ANONYMOUS, None, 0)
    wanted = outcome.changes[0].wanted
    assert outcome.place and wanted is not None and wanted.file is not None and wanted.base == 0
    taken = placed(here, outcome, at(2))
    assert (taken.start, taken.end, taken.result) == (at(2), at(3), at(2))
    assert mapped(here, 2).base == at(2)


@pytest.mark.parametrize(
    ("address", "length", "predicted", "learns"),
    [
        (at(2), PAGE, 0, True),
        (at(2), PAGE, at(2), False),  # at the hint: any base would do
        (1 << 40, f.PMD_SIZE, 0, False),  # may have been aligned
    ],
)
def test_a_place_shows_the_base_if_the_host_chose_it_freely(
    address: int, length: int, predicted: int, learns: bool
) -> None:
    here = space("....")
    here.layout.mmap_base = None
    change = Change(MAP, 0, length, Vma(R | MAY), None)
    placed(here, Outcome(predicted, (change,), ask=True, place=True), address)
    assert (here.layout.mmap_base is not None) == learns


# Over what is there


@pytest.mark.parametrize(
    ("flags", "opaque", "after"),
    [
        (0, False, []),
        (0, True, ["ZERO 0-2"]),
        (f.MAP_POPULATE, False, ["ZERO 0-2"]),
        (f.MAP_POPULATE | f.MAP_NONBLOCK, False, []),
    ],
)
def test_equal_untouched_memory_is_nothing_unless_contents_may_come_from_elsewhere(
    flags: int, opaque: bool, after: list[str]
) -> None:
    # ww  mapped again over itself, untouched
    here = space("ww")
    here.opaque = opaque
    outcome = mmap(here, at(0), 2 * PAGE, RW, FIXED | flags, None, 0, untouched=never_touched)
    assert changes(outcome) == after


def test_after_a_guard_region_a_new_mapping_over_an_equal_one_reaches_the_host() -> None:
    """Of the two, only the old one may have VM_MAYBE_GUARD, which smaps shows."""
    here = space("ww.ww")
    madvise(here, at(3), PAGE, f.MADV_GUARD_INSTALL)
    for where in (here, here.fork()):
        outcome = mmap(where, at(0), 2 * PAGE, RW, FIXED, None, 0, untouched=never_touched)
        assert changes(outcome) == [] and outcome.ask


def test_execution_alone_is_passed_to_the_host_for_its_key() -> None:
    # xx  mapped again over itself, untouched: only the host knows the key that it had
    for prot in (X, X | f.PROT_SEM):
        here = space("xx")
        vma = here.vmas.get(at(0))
        assert vma is not None
        here.vmas.set(at(0), at(2), vma.with_flags(vma.flags & ~f.PROT_RWX | X))
        assert mmap(here, at(0), 2 * PAGE, prot, FIXED, None, 0, untouched=never_touched).ask


def test_only_runs_with_the_requested_attributes_are_queried() -> None:
    # rww.  mapped read-write: of page 0 and 3 it is clear that they change
    queries: list[tuple[int, int]] = []

    def untouched(start: int, end: int) -> bool:
        queries.append((start, end))
        return start == at(1)

    here = space("rww.")
    outcome = mmap(here, at(0), 4 * PAGE, RW, FIXED, None, 0, untouched=untouched)
    assert changes(outcome) == ["EXTEND|ZERO 0-1", "MAP 3-4"]
    assert queries == [(at(0), at(1)), (at(1), at(3))]


def test_shared_memory_over_shared_memory_is_always_new() -> None:
    here = space("ss")
    shared = f.MAP_SHARED | f.MAP_FIXED
    outcome = mmap(here, at(0), 2 * PAGE, RW, shared, OPEN, 0, untouched=never_touched)
    assert changes(outcome) == ["ZERO 0-2"]


@pytest.mark.parametrize(
    ("flags", "populate"),
    [
        (0, False),
        (f.MAP_POPULATE, True),
        (f.MAP_POPULATE | f.MAP_NONBLOCK, False),
        (f.MAP_NONBLOCK, False),
        (f.MAP_LOCKED, True),
        (f.MAP_LOCKED | f.MAP_NONBLOCK, True),
    ],
)
def test_flags_that_bring_pages_in_at_once(flags: int, populate: bool) -> None:
    # the end of do_mmap in mm/mmap.c
    assert populates(flags) == populate


def test_addresses_at_the_top() -> None:
    here = space(".")
    top = f.TASK_SIZE
    assert mmap(here, top - PAGE, PAGE, R, FIXED, None, 0).result == top - PAGE
    assert mmap(here, top - PAGE, 2 * PAGE, R, FIXED, None, 0).result == -ENOMEM
    assert mmap(here, 0, top + PAGE, R, FIXED, None, 0).result == -ENOMEM
    assert mmap(here, 0, top, R, FIXED, None, 0).result == 0
    device = OPEN._replace(plain=False)
    assert mmap(here, 0, top, R, f.MAP_PRIVATE, device, 0).place, "the driver decides"
    assert mmap(here, 0, top + PAGE, R, f.MAP_PRIVATE, device, 0).result == -ENOMEM
    # IS_ERR_VALUE: the last page of the address space is taken for an errno
    last = f.ADDRESS_MASK - 4094
    assert mmap(here, last, PAGE, R, FIXED, None, 0).result == -4095
    assert mmap(here, f.ADDRESS_MASK, PAGE, R, FIXED, None, 0).result == -1


def test_noreplace_accepts_a_free_range_and_only_that() -> None:
    here = space("w..w")
    flags = ANON | f.MAP_FIXED_NOREPLACE
    assert anonymous(here, 1, 3, flags=flags).result == -17
    assert anonymous(here, 0, 2, flags=flags).result == -17
    assert anonymous(here, 1, 2, flags=flags).result == at(1)


def test_a_file_from_elsewhere_has_another_identity() -> None:
    other = OpenFile(File(8, 1, 78), readable=True, writable=True)
    here = space("ff")
    outcome = mmap(here, at(0), PAGE, R, f.MAP_PRIVATE | f.MAP_FIXED, other, 0)
    assert changes(outcome) == ["FILE 0-1"]
