"""The address space: wanted and held, what a fork inherits, and stacks that grow unseen."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.memory.change import ZERO, Change, Outcome
from laconic.memory.layout import Layout
from laconic.memory.mlock import mlockall
from laconic.memory.mprotect import mprotect
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import (
    FILE,
    LEGEND,
    MAY,
    ORIGIN,
    PAGE,
    RW,
    R,
    at,
    changes,
    draw,
    read,
    space,
)


def host(picture: str) -> RangeMap[Vma]:
    """A host's map as in the picture."""
    return space(picture).vmas


# Fork


@pytest.mark.parametrize(
    ("attribute", "parent", "child"),
    [
        ("start_brk", at(3), at(3)),
        ("brk", at(5), at(5)),
        ("data_size", 77, 77),
        ("opaque", True, True),
        ("opaque", False, False),
        ("mdwe", True, True),
        ("mdwe", False, False),
        ("merge_any", True, True),
        ("merge_any", False, False),
        ("def_flags", f.VM_LOCKED, 0),
    ],
)
def test_fork_inherits(attribute: str, parent: object, child: object) -> None:
    # dup_mmap in mm/mmap.c, mmf_init_flags in include/linux/mm_types.h: all but mlockall's locks
    here = space("ww")
    setattr(here, attribute, parent)
    assert getattr(here.fork(), attribute) == child


def test_fork_passes_mdwe_on_unless_the_program_said_no() -> None:
    here = space("ww")
    here.mdwe, here.mdwe_inherited = True, False
    assert not here.fork().mdwe


def test_fork_copies_the_layout() -> None:
    here = space("ww", max_map_count=7)
    child = here.fork()
    assert child.layout == here.layout
    child.layout.mmap_base = 0
    assert here.layout.mmap_base == at(2)


def test_fork_drops_locks_on_fault_too() -> None:
    # LL  locked on fault
    # ww
    here = space("..")
    here.adopt([(at(0), at(2), Vma(RW | MAY | f.VM_LOCKED_MASK))])
    child = here.fork()
    assert draw(child.vmas, 2, LEGEND) == draw(child.held, 2, LEGEND) == "ww"


def test_a_child_s_edits_are_not_its_parent_s() -> None:
    here = space("wwww")
    child = here.fork()
    child.commit(mprotect(child, at(0), PAGE, R))
    assert draw(child.held, 4, LEGEND) == "rwww"
    assert draw(here.vmas, 4, LEGEND) == draw(here.held, 4, LEGEND) == "wwww"


# Wanted and held


def test_a_program_that_merges_all_its_memory_is_recognized_by_its_first_vmas() -> None:
    # ksm_execve in mm/ksm.c
    mergeable = Vma(RW | MAY | f.VM_MERGEABLE)
    assert AddressSpace(Layout(), [(at(0), at(1), mergeable)]).merge_any
    assert not AddressSpace(Layout(), [(at(0), at(1), Vma(RW | MAY))]).merge_any


def test_the_difference_of_wanted_and_held_in_runs() -> None:
    # wwrr..ww  held
    # wrrrxx..  wanted
    here = space("wwrr..ww")
    for start, end, vma in ((1, 2, "r"), (4, 6, "x")):
        here.vmas.set(at(start), at(end), LEGEND[vma])
    here.vmas.clear(at(6), at(8))
    drawn = [str(change) for change in here.diff(at(0), at(8))]
    assert drawn == [
        f"RESTRICT {at(1):x}-{at(2):x} r--p, was rw-p",
        f"MAP {at(4):x}-{at(6):x} r-xp",
        f"UNMAP {at(6):x}-{at(8):x}, was rw-p",
    ]
    assert here.diff(at(2), at(4)) == ()
    assert [change.end for change in here.diff(at(0), at(5))] == [at(2), at(5)]


def test_flags_other_than_the_protection_are_a_difference() -> None:
    # ww  held
    # DL  wanted
    here = space("ww")
    here.vmas.set(at(0), at(1), LEGEND["D"])
    here.vmas.set(at(1), at(2), LEGEND["L"])
    assert changes(Outcome(0, here.diff(at(0), at(2)))) == ["FLAGS 0-1", "FLAGS 1-2"]


def test_a_difference_to_runs_that_the_caller_knows() -> None:
    # rrrr  before
    # wwww  now
    here = space("wwww")
    before = host("rrrr").runs(at(0), at(4))
    assert changes(Outcome(0, here.diff(at(0), at(4), before))) == ["EXTEND 0-4"]


def test_an_edit_returns_its_changes_and_merges_what_became_equal() -> None:
    # wr.w
    # rr.r
    here = space("wr.w")
    made = here.edit(at(0), at(4), lambda vma: LEGEND["r"])
    assert changes(Outcome(0, made)) == ["RESTRICT 0-1", "RESTRICT 3-4"]
    assert here.map_count == 2
    assert draw(here.vmas, 4, LEGEND) == "rr.r"
    assert here.edit(at(0), at(4), lambda vma: vma) == ()


def test_held_is_right_whenever_it_is_read() -> None:
    # Confirmed changes are applied when held is next read, or, after very many, wanted is copied.
    for reads in (False, True):
        here = space("w" * 400)
        for page in range(0, 400, 2):
            here.commit(mprotect(here, at(page), PAGE, R))
            if reads:
                assert here.held.get(at(page)) == LEGEND["r"]
        assert draw(here.held, 400, LEGEND) == "rw" * 200
        here.check()


def test_confirmed_contents_do_not_change_what_is_held() -> None:
    # A change from a VMA to the same VMA is about contents alone.
    here = space("ww")
    same = LEGEND["w"]
    here.commit(Outcome(0, (Change(ZERO, at(0), at(1), same, same),), at(0), at(1)))
    assert draw(here.held, 2, LEGEND) == "ww"


def test_commit_runs_what_waits_for_the_host() -> None:
    here = space("ww")
    calls: list[str] = []
    here.commit(Outcome(0, then=lambda: calls.append("then")))
    assert calls == ["then"]


def test_a_settled_range_is_wanted_and_held_and_nothing_else_is() -> None:
    # wwwwww  wanted and held
    # rrrrrr  the host's map; taken over from page 2 to 4
    # wwrrww
    here = space("wwwwww")
    here.settle(at(2), at(4), host("rrrrrr"))
    assert draw(here.vmas, 6, LEGEND) == draw(here.held, 6, LEGEND) == "wwrrww"


def test_adopting_replaces_everything() -> None:
    here = space("wwwwww")
    here.adopt(read("rr..xx", LEGEND))
    assert draw(here.vmas, 6, LEGEND) == draw(here.held, 6, LEGEND) == "rr..xx"


def test_the_host_s_file_is_wanted_and_held() -> None:
    # ffff  another identity for pages 1 to 3, as overlayfs shows it
    here = space("ffff")
    other = File(0, 44, 5, "/lib/file.so")
    here.rebind(at(1), at(3), other)
    for maps in (here.vmas, here.held):
        assert [vma and vma.file for _, _, vma in maps.runs(at(0), at(4))] == [FILE, other, FILE]
        assert all(vma is None or vma.base == ORIGIN for _, _, vma in maps.runs(at(0), at(4)))


# Stacks that grow unseen


@pytest.mark.parametrize(
    ("picture", "start", "end", "looks"),
    [
        ("..ww", 0, 2, False),  # a hole below what does not grow
        ("..GG", 0, 1, True),  # the hole below a stack: it may have grown into it
        ("..GG", 0, 2, True),
        ("..GG", 2, 3, True),  # the stack's first page: it may have grown from it
        ("..GG", 3, 4, False),
        ("wwGG", 2, 4, False),  # no room to grow into
        ("wwww", 0, 4, False),
    ],
)
def test_a_call_on_what_a_stack_may_have_grown_into_looks_first(
    picture: str, start: int, end: int, looks: bool
) -> None:
    assert space(picture).must_look_below(at(start), at(end)) == looks


def test_below_the_quiet_line_nothing_grows() -> None:
    here = space("..GG", quiet_below=at(2))
    assert not here.must_look_below(at(0), at(2))
    assert here.must_look_below(at(0), at(3))


def test_growth_takes_the_key_and_the_policy_of_the_stack() -> None:
    # ..GG  ours, with a key and a policy that smaps does not show
    # GGGG  the host's
    stack = LEGEND["G"]._replace(pkey=3, policy=(2, b"\1"))
    here = space("....")
    here.adopt([(at(2), at(4), stack)])
    assert here.grow(host("GGGG")) == 2 * PAGE
    assert list(here.vmas) == list(here.held) == [(at(0), at(4), stack)]


def test_growth_has_the_locks_that_an_mlockall_is_setting() -> None:
    # ..GG  wanted locked, not confirmed yet
    # GGGG  the host's, read before mlockall had locked it
    locked = LEGEND["G"].with_flags(LEGEND["G"].flags | f.VM_LOCKED)
    here = space("..GG")
    outcome = mlockall(here, f.MCL_CURRENT)
    here.grow(host("GGGG"))
    here.commit(outcome)
    assert list(here.vmas) == list(here.held) == [(at(0), at(4), locked)]


# For people


def test_an_address_space_prints_as_proc_maps() -> None:
    here = space("wwr.", stack_guard_gap=0)
    here.brk = at(2)
    lines = [line.split() for line in str(here).splitlines()]
    assert [line[1] for line in lines] == ["rw-p", "r--p"]
    assert lines[0][-1] == "[heap]"
    assert repr(here) == f"<AddressSpace of 2 VMAs, break at {at(2):x}>"
    assert not str(here).endswith("\n")


def test_an_address_space_is_a_table_in_a_notebook() -> None:
    html = space("wf")._repr_html_()
    assert html.count("<tr>") == 3 and "rw-p" in html and "/lib/file.so" in html


@pytest.mark.parametrize(
    ("start", "end", "vma"),
    [
        (at(0) + 1, at(1), Vma(R | MAY)),
        (at(0), at(1), Vma(R | MAY, None, PAGE)),
        (at(0), at(1), Vma(R | MAY, FILE, 7)),
    ],
)
def test_check_finds_what_is_wrong(start: int, end: int, vma: Vma) -> None:
    here = AddressSpace(Layout(), [(start, end, vma)])
    with pytest.raises(AssertionError):
        here.check()


def test_check_finds_wanted_that_is_not_held() -> None:
    here = space("ww")
    here.vmas.set(at(0), at(1), LEGEND["r"])
    with pytest.raises(AssertionError, match="wanted and held are equal"):
        here.check()
