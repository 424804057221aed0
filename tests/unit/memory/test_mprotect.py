"""mprotect beyond the pictures: its fast paths, keys, and what the host must answer."""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM

import pytest

from laconic.memory import flags as f
from laconic.memory.mprotect import mprotect
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from tests.helpers.pictures import LEGEND, MAY, PAGE, RW, RWX, RX, R, W, X, at, changes, draw, space


def crowded(vmas: int) -> AddressSpace:
    """`vmas` VMAs of one page each, read-only and read-write in turn: several chunks of the map."""
    return space("rw" * (vmas // 2))


def test_no_mprotect_is_elided_by_a_stale_hint() -> None:
    # rwrwrwrw...  every page read-write: the pages that were so leave a hint each
    # wwwwwwww...
    # rrrrrrrr...  now each of these changes, whatever its hint said before
    here = crowded(400)
    for page in range(1, 400, 2):
        assert not mprotect(here, at(page), PAGE, RW).changes
    here.commit(mprotect(here, at(0), 400 * PAGE, RW))
    here.commit(mprotect(here, at(0), 400 * PAGE, R))
    for page in range(1, 400, 2):
        assert changes(mprotect(here, at(page), PAGE, RW)) == [f"EXTEND {page}-{page + 1}"]


def test_a_hint_holds_for_one_vma_and_one_protection() -> None:
    # wwrrww  page 1 is read-write already, and leaves a hint
    here = space("wwrrww")
    assert not mprotect(here, at(1), PAGE, RW).changes
    assert not mprotect(here, at(1), PAGE, RW).changes
    assert changes(mprotect(here, at(1), 3 * PAGE, RW)) == ["EXTEND 2-4"]
    assert changes(mprotect(here, at(1), PAGE, R)) == ["RESTRICT 1-2"]
    # wrrrww turned to wrwwww: the hint of page 1 is for a VMA that is gone
    assert changes(mprotect(here, at(1), PAGE, RW)) == ["EXTEND 1-2"]


@pytest.mark.parametrize("hinted", [False, True])
def test_the_fast_path_refuses_what_the_slow_path_refuses(hinted: bool) -> None:
    # ZZ   sealed with the requested protection: EPERM, not nothing to do
    here = space("ZZww")
    if hinted:
        here.vmas.hint(at(0), here.vmas.position(at(0)))
        here.vmas.hint(at(2), here.vmas.position(at(2)))
    assert mprotect(here, at(0), PAGE, RW).result == -1
    # ww  with PR_SET_MDWE, execution is refused also where nothing else is wrong
    here.mdwe = True
    assert mprotect(here, at(2), PAGE, RWX).result == -EACCES
    assert mprotect(here, at(2), PAGE, RW).result == 0


def test_a_length_is_rounded_up_to_whole_pages() -> None:
    # wwww  one page and a byte
    # rrww
    here = space("wwww")
    outcome = mprotect(here, at(0), PAGE + 1, R)
    assert draw(here.vmas, 4, LEGEND) == "rrww"
    assert changes(outcome) == ["RESTRICT 0-2"]
    assert (outcome.start, outcome.end) == (at(0), at(2))
    assert mprotect(here, at(2), PAGE, RW).changes == ()


@pytest.mark.parametrize(
    ("before", "prot", "refusal"),
    [
        ("wwww", X, -EACCES),  # gains execution
        ("xxxx", W | X, -EACCES),  # writable and executable
        ("xxxx", X, 0),
        ("xxxx", R, 0),
    ],
)
def test_mdwe_denies_gains_of_execution(before: str, prot: int, refusal: int) -> None:
    # map_deny_write_exec in include/linux/mman.h
    here = space(before)
    here.mdwe = True
    assert mprotect(here, at(1), PAGE, prot).result == refusal


def test_execution_alone_is_passed_to_the_host_for_its_key() -> None:
    # xxxx  to --x: execute_only_pkey takes a protection key
    here = space("xxxx")
    assert mprotect(here, at(0), PAGE, X).ask
    assert mprotect(here, at(0), PAGE, X).ask, "also if the VMA has it already"
    assert mprotect(here, at(0), PAGE, X | f.PROT_SEM).ask, "which takes the key away again"
    assert not mprotect(here, at(1), PAGE, R).ask


def test_a_protection_key_is_kept_and_the_host_is_asked() -> None:
    # wwww  page 1 gets key 2: a VMA of its own, with the same protection
    here = space("wwww")
    outcome = mprotect(here, at(1), PAGE, RW, pkey=2)
    assert changes(outcome) == ["FLAGS 1-2"] and outcome.ask
    assert here.vmas.get(at(1)) == Vma(RW | MAY, pkey=2)
    # mprotect leaves the key as it is
    here.commit(outcome)
    assert not mprotect(here, at(1), PAGE, RW).changes
    assert changes(mprotect(here, at(1), PAGE, R)) == ["RESTRICT 1-2"]
    assert here.vmas.get(at(1)) == Vma(R | MAY, pkey=2)
    assert mprotect(here, at(0), PAGE, RW, pkey=0).ask


@pytest.mark.parametrize(
    ("before", "prot", "after"),
    [("wwww", R, RX), ("wwww", RW, RWX), ("wwww", W, W), ("nnnn", 0, 0)],
)
def test_read_implies_exec_adds_execution_to_what_is_readable(
    before: str, prot: int, after: int
) -> None:
    here = space(before)
    mprotect(here, at(0), 4 * PAGE, prot, read_implies_exec=True)
    vma = here.vmas.get(at(0))
    assert vma is not None and vma.flags & f.VM_PROT == after


def test_read_implies_exec_spares_mappings_that_may_not_be_executed() -> None:
    here = space("..")
    here.adopt([(at(0), at(2), Vma(RW | MAY & ~f.VM_MAYEXEC))])
    assert mprotect(here, at(0), PAGE, R, read_implies_exec=True).result == 0
    vma = here.vmas.get(at(0))
    assert vma is not None and vma.flags & f.VM_PROT == R


def test_growsdown_starts_at_the_stack_above_the_given_page() -> None:
    # ..GGww  from page 0, a hole: the change begins where the stack begins
    # ..rrww
    down = f.PROT_GROWSDOWN
    here = space("..GG")
    outcome = mprotect(here, at(0), 3 * PAGE, R | down)
    assert changes(outcome) == ["RESTRICT 2-3"] and outcome.result == 0
    # ..GG  but not if the range ends below the stack
    assert mprotect(space("..GG"), at(0), 2 * PAGE, R | down).result == -ENOMEM
    assert mprotect(space("....GG"), at(0), 3 * PAGE, R | down).result == -ENOMEM
    # ..ww  the VMA must be one that grows down
    assert mprotect(space("..ww"), at(0), 3 * PAGE, R | down).result == -EINVAL


def test_prot_sem_is_accepted_and_not_kept() -> None:
    here = space("wwww")
    assert mprotect(here, at(0), PAGE, RW | f.PROT_SEM).changes == ()
    assert changes(mprotect(here, at(0), PAGE, R | f.PROT_SEM)) == ["RESTRICT 0-1"]
    assert here.vmas.get(at(0)) == Vma(R | MAY)


def test_a_range_that_wraps_is_enomem_and_no_length_is_nothing() -> None:
    here = space("ww")
    assert mprotect(here, at(0), -PAGE & f.ADDRESS_MASK, R).result == -ENOMEM
    assert mprotect(here, at(0), 0, R).result == 0
    assert mprotect(here, at(0), -1 & f.ADDRESS_MASK, R).result == -ENOMEM
    assert draw(here.vmas, 2, LEGEND) == "ww"
