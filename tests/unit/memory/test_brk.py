"""The program break: where it goes, what it maps, and when it stays (sys_brk in mm/mmap.c)."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.memory.brk import brk
from laconic.memory.space import AddressSpace
from tests.helpers.pictures import LEGEND, MAY, PAGE, RW, RWX, at, changes, draw, space


def grown(picture: str, pages: int) -> AddressSpace:
    """The picture, with a break that the program has moved up by `pages` before."""
    here = space(picture)
    here.brk = at(pages)
    return here


def test_the_break_moves_once_the_host_has_confirmed() -> None:
    # wwww.  brk down by two pages
    # ww...
    here = grown("wwww.", 4)
    outcome = brk(here, at(2))
    assert draw(here.vmas, 5, LEGEND) == "ww..."
    assert changes(outcome) == ["UNMAP 2-4"]
    assert (outcome.result, outcome.start, outcome.end) == (at(2), at(2), at(4))
    assert here.brk == at(4)
    here.commit(outcome)
    assert here.brk == at(2)


def test_the_break_moves_at_once_within_its_last_page() -> None:
    # ww...  brk up by nine bytes, and down by nine: no page comes or goes
    here = grown("ww...", 2)
    here.brk = at(2) - 20
    for address in (at(2) - 11, at(2) - 20, at(2)):
        outcome = brk(here, address)
        assert (outcome.result, outcome.changes) == (address, ())
        assert here.brk == address


def test_the_break_can_return_to_its_start_and_not_below() -> None:
    # ww...  brk to the start
    # .....
    here = grown("ww...", 2)
    assert brk(here, at(0) - 1).result == at(2)
    assert brk(here, at(0)).result == at(0)
    assert draw(here.vmas, 5, LEGEND) == "....."


def test_the_break_stays_if_what_it_would_release_is_sealed() -> None:
    # wwZZ.  brk down by two pages
    # wwZZ.
    here = grown("wwZZ.", 4)
    assert brk(here, at(2)).result == at(4)
    assert draw(here.vmas, 5, LEGEND) == "wwZZ."


def test_the_break_stays_if_its_next_page_is_taken() -> None:
    # wwr..  brk up by one page
    # wwr..
    here = grown("wwr..", 2)
    assert brk(here, at(3)).result == at(2)
    assert draw(here.vmas, 5, LEGEND) == "wwr.."


@pytest.mark.parametrize(("pages", "moves"), [(2, True), (3, False)])
def test_one_page_stays_free_below_the_next_mapping(pages: int, moves: bool) -> None:
    # ...r  brk up by two pages leaves one; by three, none
    # ww.r
    here = space("...r")
    assert brk(here, at(pages)).result == at(pages if moves else 0)


@pytest.mark.parametrize(("pages", "moves"), [(3, True), (4, False)])
def test_the_guard_gap_of_a_stack_stays_free_too(pages: int, moves: bool) -> None:
    # ......G  with a gap of two pages below the stack, and one free page below the gap
    # www...G
    here = space("......G", stack_guard_gap=2 * PAGE)
    assert brk(here, at(pages)).result == at(pages if moves else 0)


def test_the_break_does_not_pass_the_highest_address() -> None:
    here = space("")
    assert brk(here, f.TASK_SIZE + 1).result == at(0)
    assert brk(here, f.TASK_SIZE).result == f.TASK_SIZE


@pytest.mark.parametrize(
    ("limit", "data", "moves"),
    [
        (-1, 1 << 40, True),
        (0, 0, False),
        (2 * PAGE, 0, True),
        (2 * PAGE - 1, 0, False),
        (2 * PAGE + 7, 7, True),
        (2 * PAGE + 7, 8, False),
    ],
)
def test_the_limit_counts_the_break_and_the_program_s_data(
    limit: int, data: int, moves: bool
) -> None:
    # .....  brk up by two pages
    here = space(".....")
    here.data_size = data
    assert brk(here, at(2), limit).result == at(2 if moves else 0)


@pytest.mark.parametrize(
    ("def_flags", "merge_any", "read_implies_exec", "flags"),
    [
        (0, False, False, RW | MAY),
        (f.VM_LOCKED, False, False, RW | MAY | f.VM_LOCKED),
        (0, True, False, RW | MAY | f.VM_MERGEABLE),
        (0, False, True, RWX | MAY),
    ],
)
def test_new_pages_have_the_flags_of_the_address_space(
    def_flags: int, merge_any: bool, read_implies_exec: bool, flags: int
) -> None:
    # ....  brk up by two pages
    # ww..
    here = space("....")
    here.def_flags, here.merge_any = def_flags, merge_any
    outcome = brk(here, at(2), read_implies_exec=read_implies_exec)
    assert [change.wanted and change.wanted.flags for change in outcome.changes] == [flags]
    assert (outcome.start, outcome.end) == (at(0), at(2))
