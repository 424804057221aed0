"""Where Linux puts a mapping: hints, guard gaps, both directions, and how the base is learned."""

from __future__ import annotations

from errno import ENOMEM

import pytest

from laconic.memory import flags as f
from laconic.memory.layout import Layout, get_unmapped_area, hint_fits, start_gap
from laconic.memory.rangemap import RangeMap
from laconic.memory.vma import Vma
from tests.helpers.pictures import ORIGIN, PAGE, at, space

LOW_2_GIB, HIGH_2_GIB = 0x40000000, 0x80000000


def chosen(
    picture: str, pages: int, hint: int | None = None, flags: int = 0, **rules: int
) -> int | None:
    """The page that Linux chooses in a picture, -1 for ENOMEM, None if only the host can say."""
    here = space(picture, **rules)
    start = 0 if hint is None else at(hint)
    address = get_unmapped_area(here.layout, here.vmas, start, pages * PAGE, flags, True)
    if address is None:
        return None
    return -1 if address == -ENOMEM else (address - ORIGIN) // PAGE


def test_defaults_are_those_of_the_kernel() -> None:
    layout = Layout()
    assert layout.legacy_base == 0x2AAAAAAAB000, "TASK_UNMAPPED_BASE: a third of TASK_SIZE"
    assert (layout.mmap_min_addr, layout.max_map_count) == (65536, 65530)
    assert layout.stack_guard_gap == 1 << 20
    assert (layout.mmap_base, layout.top_down, layout.quiet_below) == (None, True, 0)
    assert layout.thp and layout.anon_names and not layout.overcommit_never
    assert not layout.thp_align and not layout.shmem_align


# From the top down


@pytest.mark.parametrize(
    ("picture", "pages", "page"),
    [
        ("......", 2, 4),  # right below the base
        ("....ww", 2, 2),
        ("..w..w", 2, 3),  # the highest hole that fits
        ("w.w..w", 3, -3),  # none within the picture
    ],
)
def test_the_highest_hole_that_fits(picture: str, pages: int, page: int) -> None:
    assert chosen(picture, pages) == page


def test_the_guard_gap_below_a_stack_is_free_of_new_mappings() -> None:
    # .....GG  with a gap of two pages: page 2 is the highest that is free
    gap = 2 * PAGE
    assert chosen(".....GG", 1, stack_guard_gap=gap) == 2
    assert chosen(".....GG", 3, stack_guard_gap=gap) == 0
    # ..w..GG  the hole is all gap: below the next VMA
    assert chosen("..w..GG", 1, stack_guard_gap=gap) == 1


def test_a_gap_above_the_base_reaches_below_it() -> None:
    # ....|..GG  the base is at page 4; the stack above it keeps pages 3 to 5 free
    here = space("......GG", stack_guard_gap=3 * PAGE)
    here.layout.mmap_base = at(4)
    assert get_unmapped_area(here.layout, here.vmas, 0, PAGE, 0, True) == at(2)


def test_below_the_quiet_line_no_gap_is_looked_for() -> None:
    # ..GG..  the line says that no VMA below page 6 grows
    assert chosen("..GG..", 1, quiet_below=at(7), stack_guard_gap=PAGE) == 5
    here = space("..GGww", quiet_below=at(6), stack_guard_gap=PAGE)
    assert get_unmapped_area(here.layout, here.vmas, 0, PAGE, 0, True) == at(1)
    here = space("..GGww", quiet_below=at(2), stack_guard_gap=PAGE)
    assert get_unmapped_area(here.layout, here.vmas, 0, PAGE, 0, True) == at(0)


def test_a_full_map_is_searched_from_the_legacy_base_up() -> None:
    # arch_get_unmapped_area_topdown falls back to the bottom-up search
    here = space("wwww")
    here.layout.mmap_min_addr = at(0)
    here.layout.legacy_base = at(2)
    assert get_unmapped_area(here.layout, here.vmas, 0, PAGE, 0, True) == at(4)


# Hints


@pytest.mark.parametrize(
    ("picture", "hint", "pages", "fits"),
    [
        (".....w", 2, 3, True),
        (".....w", 2, 4, False),
        ("w....w", 0, 1, False),
        ("....GG", 1, 1, True),  # up to the gap of two pages, and no further
        ("....GG", 1, 2, False),
    ],
)
def test_a_hint_is_taken_if_the_range_is_free(
    picture: str, hint: int, pages: int, fits: bool
) -> None:
    here = space(picture, stack_guard_gap=2 * PAGE)
    assert hint_fits(here.layout, here.vmas, at(hint), pages * PAGE) == fits
    if fits:
        assert chosen(picture, pages, hint, stack_guard_gap=2 * PAGE) == hint


def test_a_hint_must_lie_between_zero_and_the_top() -> None:
    layout, empty = Layout(), RangeMap[Vma]()
    assert not hint_fits(layout, empty, 0, PAGE)
    assert hint_fits(layout, empty, PAGE, PAGE)
    assert hint_fits(layout, empty, f.TASK_SIZE - PAGE, PAGE)
    assert not hint_fits(layout, empty, f.TASK_SIZE - PAGE, 2 * PAGE)


def test_a_hint_that_does_not_fit_is_ignored() -> None:
    assert chosen("..rr..", 2, hint=1) == 4


def test_without_a_base_only_hints_can_be_answered() -> None:
    here = space("......")
    here.layout.mmap_base = None
    assert get_unmapped_area(here.layout, here.vmas, at(2), PAGE, 0, True) == at(2)
    assert get_unmapped_area(here.layout, here.vmas, 0, PAGE, 0, True) is None
    here.layout.thp_align = True
    assert get_unmapped_area(here.layout, here.vmas, 0, f.PMD_SIZE, 0, True) is None


def test_lengths_beyond_the_address_space_are_refused() -> None:
    layout = Layout(mmap_base=at(8))
    assert get_unmapped_area(layout, RangeMap(), 0, f.TASK_SIZE + PAGE, 0, True) == -ENOMEM


# From the bottom up


def test_the_lowest_hole_that_fits() -> None:
    # w..w...w  from the base at page 0 up
    here = space("w..w...w", top_down=False)
    here.layout.mmap_base = at(0)
    for pages, page in ((1, 1), (2, 1), (3, 4), (4, 8)):
        found = get_unmapped_area(here.layout, here.vmas, 0, pages * PAGE, 0, True)
        assert found == at(page), pages


def test_the_lowest_hole_leaves_the_guard_gap_free() -> None:
    # ...GG.  with a gap of two pages, page 0 is free, and two pages fit above the stack only
    here = space("...GG.", top_down=False, stack_guard_gap=2 * PAGE)
    here.layout.mmap_base = at(0)
    assert get_unmapped_area(here.layout, here.vmas, 0, PAGE, 0, True) == at(0)
    assert get_unmapped_area(here.layout, here.vmas, 0, 2 * PAGE, 0, True) == at(5)


def test_a_search_that_reaches_the_top_fails() -> None:
    here = space("w", top_down=False)
    here.layout.mmap_base = f.TASK_SIZE - 2 * PAGE
    assert get_unmapped_area(here.layout, here.vmas, 0, 2 * PAGE, 0, True) == here.layout.mmap_base
    assert get_unmapped_area(here.layout, here.vmas, 0, 3 * PAGE, 0, True) == -ENOMEM


def test_map_32bit_searches_the_second_gibibyte() -> None:
    layout, vmas = Layout(mmap_base=at(8)), RangeMap[Vma]()
    length = HIGH_2_GIB - LOW_2_GIB
    low = get_unmapped_area(layout, vmas, 0, PAGE, f.MAP_32BIT, True)
    assert low == LOW_2_GIB
    assert get_unmapped_area(layout, vmas, 0, length, f.MAP_32BIT, True) == LOW_2_GIB
    assert get_unmapped_area(layout, vmas, 0, length + PAGE, f.MAP_32BIT, True) == -ENOMEM
    hint = HIGH_2_GIB - PAGE
    assert get_unmapped_area(layout, vmas, hint, PAGE, f.MAP_32BIT, True) == hint
    assert get_unmapped_area(layout, vmas, hint, 2 * PAGE, f.MAP_32BIT, True) == LOW_2_GIB
    vmas.set(LOW_2_GIB, HIGH_2_GIB - PAGE, Vma(3))
    assert get_unmapped_area(layout, vmas, 0, PAGE, f.MAP_32BIT, True) == hint
    assert get_unmapped_area(layout, vmas, 0, 2 * PAGE, f.MAP_32BIT, True) == -ENOMEM


# Huge pages


def test_anonymous_mappings_of_whole_huge_pages_are_aligned() -> None:
    # __thp_get_unmapped_area: a place for one huge page more, aligned upwards
    huge = f.PMD_SIZE
    base = (1 << 40) + 5 * PAGE
    layout, empty = Layout(mmap_base=base, thp_align=True), RangeMap[Vma]()
    place = get_unmapped_area(layout, empty, 0, huge, 0, True)
    assert place == (1 << 40) - huge
    assert get_unmapped_area(layout, empty, 0, huge, 0, False) == base - huge
    assert get_unmapped_area(layout, empty, 0, huge + PAGE, 0, True) == base - huge - PAGE
    assert get_unmapped_area(layout, empty, at(0), huge, 0, True) == at(0)
    layout.thp_align = False
    assert get_unmapped_area(layout, empty, 0, huge, 0, True) == base - huge
    aligned = Layout(mmap_base=1 << 40, thp_align=True)
    assert get_unmapped_area(aligned, empty, 0, huge, 0, True) == (1 << 40) - huge
    up = Layout(mmap_base=1 << 40, thp_align=True, top_down=False)
    assert get_unmapped_area(up, empty, 0, huge, 0, True) == 1 << 40
    up.mmap_base = (1 << 40) + PAGE
    assert get_unmapped_area(up, empty, 0, huge, 0, True) == (1 << 40) + huge


def test_a_huge_mapping_that_finds_no_aligned_place_takes_any() -> None:
    huge = f.PMD_SIZE
    layout = Layout(mmap_base=f.TASK_SIZE - huge, thp_align=True, top_down=False)
    assert get_unmapped_area(layout, RangeMap(), 0, huge, 0, True) == f.TASK_SIZE - huge


# The base


def test_the_base_is_above_what_was_mapped_before() -> None:
    # ...Xww..  the host chose X: what lies right above it was chosen from the same base
    here = space("....ww..")
    here.layout.mmap_base = None
    here.layout.learn(here.vmas, at(3), at(4))
    assert here.layout.mmap_base == at(6)
    assert here.layout.quiet_below == at(6)


def test_a_stack_below_the_base_leaves_no_quiet() -> None:
    # .G..X..  a stack of the program's own
    here = space(".G.....")
    here.layout.mmap_base = None
    here.layout.learn(here.vmas, at(4), at(5))
    assert here.layout.mmap_base == at(5)
    assert here.layout.quiet_below == 0
    here = space(".....G.")
    here.layout.learn(here.vmas, at(4), at(5))
    assert here.layout.quiet_below == 0, "the stack right above belongs to the block"


def test_the_stack_above_the_base_does_not_count() -> None:
    here = space("......GG")
    here.layout.learn(here.vmas, at(3), at(4))
    assert (here.layout.mmap_base, here.layout.quiet_below) == (at(4), at(4))


def test_from_the_bottom_up_the_base_is_below_what_was_mapped_before() -> None:
    # .wwX...
    here = space(".ww....", top_down=False)
    here.layout.learn(here.vmas, at(3), at(4))
    assert here.layout.mmap_base == here.layout.legacy_base == at(1)
    assert here.layout.quiet_below == 0
    bottom = RangeMap[Vma]()
    bottom.set(0, PAGE, Vma(3))
    here.layout.learn(bottom, PAGE, 2 * PAGE)
    assert here.layout.mmap_base == 0


def test_a_guard_gap_does_not_reach_below_zero() -> None:
    layout, grows = Layout(), Vma(f.VM_GROWSDOWN)
    assert start_gap(layout, 1 << 30, grows) == (1 << 30) - (1 << 20)
    assert start_gap(layout, PAGE, grows) == 0
    assert start_gap(layout, PAGE, Vma(3)) == PAGE


def test_a_copy_is_independent() -> None:
    layout = Layout(mmap_base=5)
    copy = layout.copy()
    copy.mmap_base = 6
    assert layout == Layout(mmap_base=5)
