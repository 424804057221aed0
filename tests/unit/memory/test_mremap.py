"""mremap beyond the pictures: its checks, where it moves to, and what only the host decides."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOMEM, EPERM

import pytest

from laconic.memory import flags as f
from laconic.memory.change import Outcome
from laconic.memory.mremap import HOST_CHOOSES, mremap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import FILE, LEGEND, MAY, PAGE, RW, SHARED, R, at, changes, draw, space

MOVE = f.MREMAP_MAYMOVE
FIXED = MOVE | f.MREMAP_FIXED
KEEP = MOVE | f.MREMAP_DONTUNMAP


def remap(
    here: AddressSpace, start: int, old: int, new: int, flags: int = MOVE, to: int | None = None
) -> Outcome:
    """mremap in pages of the picture."""
    return mremap(here, at(start), old * PAGE, new * PAGE, flags, 0 if to is None else at(to))


def one(vma: Vma, pages: int = 2) -> AddressSpace:
    """`vma` on the first pages of an address space of eight."""
    here = space("........")
    here.adopt([(at(0), at(pages), vma)])
    return here


# Shrinking


def test_a_shrinking_move_may_name_pages_beyond_the_vma() -> None:
    # wwr.....  four pages named, of which two belong to the VMA; it keeps two, at page 5
    # .....ww.  the tail goes, whatever it is
    here = space("wwr.....")
    outcome = remap(here, 0, 4, 2, FIXED, 5)
    assert outcome.result == at(5)
    assert draw(here.vmas, 8, LEGEND) == ".....ww."
    assert changes(outcome) == ["UNMAP 0-2", "UNMAP 2-3", "MAP 5-7"]
    assert remap(space("wwr....."), 0, 4, 3, FIXED, 5).result == -EFAULT


def test_shrinking_in_place_returns_the_address() -> None:
    # wwww
    # ww..
    here = space("wwww")
    outcome = remap(here, 0, 4, 2, 0)
    assert (outcome.result, changes(outcome)) == (at(0), ["UNMAP 2-4"])
    assert remap(here, 0, 2, 2, 0) == Outcome(at(0))
    assert remap(space("wwZ"), 0, 3, 1, 0).result == -EPERM


def test_a_shrinking_move_whose_tail_is_sealed_has_lost_its_target_only() -> None:
    # wwZ.rr  to page 4: the target is unmapped by the time the tail is refused
    # wwZ...
    here = space("wwZ.rr")
    outcome = remap(here, 0, 3, 2, FIXED, 4)
    assert (outcome.result, outcome.ask) == (-EPERM, True)
    assert changes(outcome) == ["UNMAP 4-6"]
    assert (outcome.start, outcome.end) == (at(4), at(6))
    assert draw(here.vmas, 6, LEGEND) == "wwZ..."


# Growing


@pytest.mark.parametrize(
    ("picture", "new", "grows"), [("ww...", 4, True), ("ww..r", 4, True), ("ww..r", 5, False)]
)
def test_growth_in_place_needs_the_pages_above(picture: str, new: int, grows: bool) -> None:
    # ww..r  to four pages, and no further
    # wwwwr
    here = space(picture)
    outcome = remap(here, 0, 2, new, 0)
    assert (outcome.result == at(0)) == grows
    if grows:
        assert changes(outcome) == [f"MAP 2-{new}"]
        assert (outcome.start, outcome.end) == (at(2), at(new))


def test_growth_in_place_starts_at_the_end_of_the_vma() -> None:
    # www..  the first two of three pages cannot grow
    assert remap(space("www.."), 0, 2, 3, 0).result == -ENOMEM
    # the upper two can
    here = space("www..")
    assert remap(here, 1, 2, 3, 0).result == at(1)
    assert draw(here.vmas, 5, LEGEND) == "wwww."


def test_growth_in_place_ends_at_the_highest_address() -> None:
    here = space("w")
    top = f.TASK_SIZE
    here.adopt([(top - 2 * PAGE, top - PAGE, LEGEND["w"])])
    assert mremap(here, top - 2 * PAGE, PAGE, 2 * PAGE, 0).result == top - 2 * PAGE
    assert mremap(here, top - 2 * PAGE, 2 * PAGE, 3 * PAGE, 0).result == -ENOMEM


@pytest.mark.parametrize(
    ("letter", "old", "only_host"), [("w", 1, False), ("w", 2, True), ("L", 1, True)]
)
def test_a_refusal_to_grow_may_be_another_error_to_the_host(
    letter: str, old: int, only_host: bool
) -> None:
    # EAGAIN for locked memory, EFAULT for two VMAs that look alike
    outcome = remap(space(letter * old + "r"), 0, old, old + 1, 0)
    assert (outcome.result, outcome.ask) == (-ENOMEM, only_host)


@pytest.mark.parametrize("flag", [f.VM_DONTEXPAND, f.VM_PFNMAP])
def test_device_memory_neither_grows_nor_stays_behind(flag: int) -> None:
    vma = Vma(RW | MAY | flag)
    assert remap(one(vma), 0, 2, 3).result == -EFAULT
    assert remap(one(vma), 0, 2, 2, KEEP, 4).result == -EINVAL
    assert remap(one(vma), 0, 2, 2, FIXED, 4).result == at(4)


def test_a_free_place_is_the_host_s_to_choose_without_a_base() -> None:
    here = space("wwr....")
    here.layout.mmap_base = None
    assert remap(here, 0, 2, 3) == HOST_CHOOSES
    assert remap(here, 0, 2, 2, KEEP) == HOST_CHOOSES


def test_a_file_that_may_be_aligned_is_the_host_s_to_place() -> None:
    here = space("f" * 2 + "r")
    assert remap(here, 0, 2, 512) == HOST_CHOOSES
    assert remap(here, 0, 2, 511).result > 0


def test_no_place_at_all() -> None:
    length = f.TASK_SIZE >> f.PAGE_SHIFT
    outcome = remap(space("wwr"), 0, 2, length)
    assert (outcome.result, outcome.ask) == (-ENOMEM, True)
    # wwr  and no hole above or below
    full = space("wwr", mmap_min_addr=at(0), legacy_base=f.TASK_SIZE)
    outcome = remap(full, 0, 2, 2, KEEP)
    assert (outcome.result, outcome.ask) == (-ENOMEM, True)


# The checks of the arguments


def test_an_old_length_of_zero_makes_a_second_mapping_of_shared_memory() -> None:
    # ss..  a second mapping of two pages at page 4; the first stays
    # ss..SS  the same pages of the file
    here = space("ss......")
    outcome = remap(here, 0, 0, 2, FIXED, 4)
    assert outcome.result == at(4) and changes(outcome) == ["MAP 4-6"]
    assert draw(here.vmas, 4, LEGEND) == "ss.."
    vma = here.vmas.get(at(4))
    assert vma == Vma(RW | MAY | SHARED, FILE, at(4))
    assert remap(space("ww......"), 0, 0, 2, FIXED, 4).result == -EINVAL
    read_only = one(Vma(R | MAY & ~f.VM_MAYWRITE | f.VM_MAYSHARE, FILE, at(0)))
    assert remap(read_only, 0, 0, 1, FIXED, 4).result == at(4)
    # ss  the target is the source, which is unmapped first
    assert remap(space("ss......"), 0, 0, 2, FIXED, 0).result == -EFAULT


@pytest.mark.parametrize(
    ("old", "new", "flags", "to", "result"),
    [
        (2, 0, MOVE, None, -EINVAL),
        (2, 2, MOVE | 8, None, -EINVAL),
        (2, 2, f.MREMAP_FIXED, 4, -EINVAL),
        (2, 2, f.MREMAP_DONTUNMAP, 4, -EINVAL),
        (2, 1, KEEP, 4, -EINVAL),
        (2, 2, FIXED, 1, -EINVAL),  # overlaps the source's second page
        (2, 2, FIXED, 2, None),  # right above it
        (0, 0, MOVE, None, -EINVAL),
    ],
)
def test_arguments_that_are_refused(
    old: int, new: int, flags: int, to: int | None, result: int | None
) -> None:
    outcome = remap(space("ww......"), 0, old, new, flags, to)
    expected = at(to) if result is None and to is not None else result
    assert outcome.result == expected
    if result is not None:
        assert outcome.ask == bool(flags & (f.MREMAP_FIXED | f.MREMAP_DONTUNMAP))


def test_a_target_right_below_the_source_does_not_overlap() -> None:
    # ..ww  to page 0
    # ww..
    here = space("..ww")
    assert remap(here, 2, 2, 2, FIXED, 0).result == at(0)
    assert draw(here.vmas, 4, LEGEND) == "ww.."
    assert remap(space(".ww."), 1, 2, 2, FIXED, 0).result == -EINVAL


def test_a_target_beyond_the_highest_address_is_refused() -> None:
    top = f.TASK_SIZE
    here = space("ww")
    assert mremap(here, at(0), 2 * PAGE, 2 * PAGE, FIXED, top - PAGE).result == -EINVAL
    assert mremap(here, at(0), PAGE, top + PAGE, MOVE).result == -EINVAL
    assert mremap(here, at(0), 2 * PAGE, 2 * PAGE, FIXED, top - 2 * PAGE).result > 0


@pytest.mark.parametrize(("limit", "result"), [(6, -ENOMEM), (7, at(4))])
def test_a_move_keeps_six_vmas_of_distance_to_the_limit(limit: int, result: int) -> None:
    # mremap_to: map_count + 2 must stay below the limit less three; here is one VMA
    assert remap(space("ww......", max_map_count=limit), 0, 2, 2, FIXED, 4).result == result


def test_several_vmas_move_only_as_the_host_does_it() -> None:
    # wwrr  four pages of two VMAs to page 5
    outcome = remap(space("wwrr....."), 0, 4, 4, FIXED, 5)
    assert (outcome.ask, outcome.resync) == (True, True)
    assert (outcome.start, outcome.end) == (at(0), at(9))
    outcome = remap(space("wwrr"), 1, 3, 3, FIXED, -5)
    assert (outcome.start, outcome.end) == (at(-5), at(4))
    refusal = remap(space("wwrr....."), 0, 3, 4, FIXED, 5)
    assert (refusal.result, refusal.ask, refusal.resync) == (-EFAULT, True, True)


def test_sealed_and_huge_memory() -> None:
    assert remap(space("ZZ"), 0, 2, 1) == Outcome(-EPERM)
    huge = remap(one(Vma(RW | MAY | f.VM_HUGETLB)), 0, 2, 1)
    assert (huge.ask, huge.resync) == (True, True)


@pytest.mark.parametrize(
    ("old", "new", "resync"), [(1, 1, False), (2, 2, True), (2, 1, False), (2, 3, False)]
)
def test_a_sealed_target_refuses_and_may_have_let_a_part_pass(
    old: int, new: int, resync: bool
) -> None:
    # ww..ZZ  to page 4: of several VMAs, the first may have moved
    here = space("ww..ZZZ")
    outcome = remap(here, 0, old, new, FIXED, 4)
    if old < new:
        assert outcome.result == -EFAULT or outcome.result == -EPERM
        return
    assert (outcome.result, outcome.ask, outcome.resync) == (-EPERM, True, resync)
    assert draw(here.vmas, 7, LEGEND) == "ww..ZZZ"


# Moving


def test_pages_that_stay_behind_are_empty_unless_shared() -> None:
    # ww......  DONTUNMAP to page 4: the old pages lose their contents
    # ww..ww..
    here = space("ww......")
    outcome = remap(here, 0, 2, 2, KEEP, 4)
    assert changes(outcome) == ["ZERO 0-2", "MAP 4-6"]
    assert draw(here.vmas, 8, LEGEND) == "ww..ww.."
    assert (outcome.start, outcome.end) == (at(0), at(6))
    # ss  shared memory keeps them
    assert changes(remap(space("ss......"), 0, 2, 2, KEEP, 4)) == ["MAP 4-6"]
    # L  the kernel unlocks what it sees as one VMA
    locked = remap(space("LL......"), 0, 2, 2, KEEP, 4)
    assert (locked.ask, locked.resync) == (True, True)
    # and DONTUNMAP chooses a place if the hint is taken
    assert remap(space("ww..rr.."), 0, 2, 2, KEEP, 4).result == at(6)


def test_a_move_down_encloses_source_and_target() -> None:
    here = space("....ww..")
    outcome = remap(here, 4, 2, 2, FIXED, 1)
    assert (outcome.start, outcome.end) == (at(1), at(6))
    assert changes(outcome) == ["MAP 1-3", "UNMAP 4-6"]
    assert [change.source for change in outcome.changes] == [at(4), None]


def test_a_move_that_grows_has_new_pages_behind_the_moved_ones() -> None:
    # ww..rrrr  to four pages at page 4, over what is there
    here = space("ww..rrrr")
    outcome = remap(here, 0, 2, 4, FIXED, 4)
    assert changes(outcome) == ["UNMAP 0-2", "EXTEND|ZERO 4-6", "EXTEND|ZERO 6-8"]
    assert [change.source for change in outcome.changes] == [None, at(0), None]


def test_a_part_of_a_vma_moves_and_the_rest_stays() -> None:
    # wwww....  the middle two pages to page 5
    # w..w.ww.
    here = space("wwww....")
    outcome = remap(here, 1, 2, 2, FIXED, 5)
    assert draw(here.vmas, 8, LEGEND) == "w..w.ww."
    assert outcome.changes[-1].source == at(1)


def test_private_dev_zero_moves_as_a_file() -> None:
    zero = File(0, 6, 5, "/dev/zero")
    here = one(Vma(RW | MAY, zero, at(0)))
    remap(here, 0, 2, 2, FIXED, 4)
    assert here.vmas.get(at(4)) == Vma(RW | MAY, zero, at(4))


def test_a_moved_stack_ends_the_quiet() -> None:
    here = space("GG......", quiet_below=at(8))
    outcome = remap(here, 0, 2, 2, FIXED, 4)
    assert here.layout.quiet_below == at(8)
    here.commit(outcome)
    assert here.layout.quiet_below == 0
