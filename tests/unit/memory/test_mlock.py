"""mlock and its like: which mappings ignore locks, and when locking is more than a flag."""

from __future__ import annotations

from errno import EINVAL, ENOMEM

import pytest

from laconic.memory import flags as f
from laconic.memory.change import NOTHING, Outcome
from laconic.memory.mlock import mlock, mlock2, mlockall, munlock, munlockall
from laconic.memory.mremap import mremap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import LEGEND, MAY, PAGE, RW, R, X, at, changes, draw, space

LOCKS = f.VM_LOCKED | f.VM_LOCKONFAULT
SECRET = File(0, 1, 5, "/secretmem (deleted)")


def present(start: int, end: int) -> bool:
    """An upcall: all pages are in memory."""
    return True


def of(vma: Vma) -> AddressSpace:
    """One page of a VMA."""
    here = space("..")
    here.adopt([(at(0), at(1), vma)])
    return here


def test_runs_that_differ_are_one_outcome() -> None:
    # wwLLww  the locked pages in the middle are all in memory
    # LLLLLL
    here = space("wwLLww")
    outcome = mlock(here, at(0), 6 * PAGE, resident=present)
    assert changes(outcome) == ["FLAGS 0-2", "FLAGS 4-6"]
    assert (outcome.start, outcome.end, outcome.ask) == (at(0), at(6), False)
    assert draw(here.vmas, 6, LEGEND) == "LLLLLL"


@pytest.mark.parametrize(
    ("vma", "ignored"),
    [
        (Vma(RW | MAY), False),
        (Vma(RW | MAY | f.VM_IO), True),
        (Vma(RW | MAY | f.VM_DONTEXPAND), True),
        (Vma(RW | MAY | f.VM_PFNMAP), True),
        (Vma(RW | MAY | f.VM_HUGETLB), True),
        (Vma(RW | MAY | f.VM_DROPPABLE), True),
        (Vma(RW | MAY, SECRET, at(0)), True),
    ],
)
def test_some_mappings_ignore_locks(vma: Vma, ignored: bool) -> None:
    # mlock_fixup in mm/mlock.c
    for lock_all in (False, True):
        here = of(vma)
        if lock_all:
            mlockall(here, 1)
        else:
            mlock(here, at(0), PAGE)
        locked = here.vmas.get(at(0))
        assert locked is not None and (locked == vma) == ignored


@pytest.mark.parametrize(
    ("before", "call", "after"),
    [
        (0, lambda here: mlock(here, at(0), PAGE), f.VM_LOCKED),
        (LOCKS, lambda here: mlock(here, at(0), PAGE), f.VM_LOCKED),
        (0, lambda here: mlock2(here, at(0), PAGE, 0), f.VM_LOCKED),
        (f.VM_LOCKED, lambda here: mlock2(here, at(0), PAGE, f.MLOCK_ONFAULT), LOCKS),
        (LOCKS, lambda here: munlock(here, at(0), PAGE), 0),
        (LOCKS, lambda here: munlockall(here), 0),
        (0, lambda here: mlockall(here, f.MCL_CURRENT | f.MCL_ONFAULT), LOCKS),
        (LOCKS, lambda here: mlockall(here, f.MCL_CURRENT), f.VM_LOCKED),
    ],
)
def test_a_call_sets_one_kind_of_lock(before: int, call: object, after: int) -> None:
    here = of(Vma(RW | MAY | before))
    assert callable(call)
    assert changes(call(here)) == ["FLAGS 0-1"]
    vma = here.vmas.get(at(0))
    assert vma is not None and vma.flags == RW | MAY | after


@pytest.mark.parametrize(
    ("vma", "resident", "elided"),
    [
        (LEGEND["L"], True, True),
        (LEGEND["L"], False, False),
        (Vma(MAY | f.VM_LOCKED), True, False),  # inaccessible: populating it fails
        (Vma(X | MAY | f.VM_LOCKED), True, False),  # execution alone takes a protection key
        (Vma(R | X | MAY | f.VM_LOCKED), True, True),
        (LEGEND["L"]._replace(pkey=3), True, False),  # the thread may deny the key
        (Vma(RW | MAY | f.VM_LOCKED, SECRET, at(0)), True, False),
    ],
)
def test_locking_locked_memory_is_nothing_if_no_page_is_to_be_brought_in(
    vma: Vma, resident: bool, elided: bool
) -> None:
    # populate_vma_page_range in mm/gup.c
    outcome = mlock(of(vma), at(0), PAGE, resident=lambda start, end: resident)
    assert outcome.result == 0
    assert changes(outcome) == ([] if elided else ["ADVISE 0-1"])


def test_locks_on_fault_bring_nothing_in() -> None:
    here = of(Vma(RW | MAY | LOCKS))
    assert mlock2(here, at(0), PAGE, f.MLOCK_ONFAULT).changes == ()
    assert changes(mlock2(of(LEGEND["L"]), at(0), PAGE, 0)) == ["ADVISE 0-1"]


def test_unlocking_unlocked_memory_is_nothing() -> None:
    assert munlock(space("ww"), at(0), 2 * PAGE).changes == ()


def test_a_hole_ends_the_call_and_nothing_is_brought_in() -> None:
    # LL.w  locked already, up to a hole: ENOMEM before any page is brought in
    here = space("LL.w")
    outcome = mlock(here, at(0), 4 * PAGE)
    assert outcome == Outcome(-ENOMEM, (), at(0), at(4))
    assert draw(here.vmas, 4, LEGEND) == "LL.w"


@pytest.mark.parametrize("unlock", [False, True])
def test_the_host_checks_the_limit_before_the_range(unlock: bool) -> None:
    # do_mlock: RLIMIT_MEMLOCK comes first; munlock has none
    call = munlock if unlock else mlock
    for start, length, result in (
        (at(5), PAGE, -ENOMEM),
        (at(0), 0, 0),
        (at(0), -PAGE & f.ADDRESS_MASK, -EINVAL),
    ):
        outcome = call(space("ww"), start, length)
        assert (outcome.result, outcome.ask, outcome.changes) == (result, not unlock, ())


def test_a_range_is_extended_to_whole_pages() -> None:
    # wwww  two bytes across the middle: pages 1 and 2
    # wLLw
    here = space("wwww")
    outcome = mlock(here, at(2) - 1, 2)
    assert changes(outcome) == ["FLAGS 1-3"]
    assert (outcome.start, outcome.end) == (at(1), at(3))
    assert mlock(space("wwww"), at(1) + 8, 0).changes != (), "a start within a page locks it"


def test_flags_of_mlock2() -> None:
    assert mlock2(space("ww"), at(0), PAGE, 2) == Outcome(-EINVAL)
    assert mlock2(space("ww"), at(0), PAGE, 1).result == 0


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (0, True),
        (f.MCL_ONFAULT, True),
        (8, True),
        (f.MCL_CURRENT, False),
        (f.MCL_FUTURE, False),
        (f.MCL_FUTURE | f.MCL_ONFAULT, False),
    ],
)
def test_flags_of_mlockall(flags: int, refused: bool) -> None:
    assert (mlockall(space("ww"), flags) == Outcome(-EINVAL)) == refused


@pytest.mark.parametrize(
    ("flags", "current", "future"),
    [
        (f.MCL_CURRENT, "LL", 0),
        (f.MCL_FUTURE, "ww", f.VM_LOCKED),
        (f.MCL_CURRENT | f.MCL_FUTURE, "LL", f.VM_LOCKED),
        (f.MCL_FUTURE | f.MCL_ONFAULT, "ww", LOCKS),
    ],
)
def test_mlockall_is_for_now_for_later_or_both(flags: int, current: str, future: int) -> None:
    here = space("ww")
    outcome = mlockall(here, flags)
    assert outcome.ask and draw(here.vmas, 2, LEGEND) == current
    assert (outcome.start, outcome.end) == (0, f.TASK_SIZE + PAGE)
    assert here.def_flags == 0
    here.commit(outcome)
    assert here.def_flags == future


def test_mlockall_for_now_ends_locks_for_later() -> None:
    # apply_mlockall_flags clears def_flags first
    here = space("ww")
    here.def_flags = f.VM_LOCKED
    here.commit(mlockall(here, f.MCL_CURRENT))
    assert here.def_flags == 0


def test_munlockall_without_locks_is_nothing() -> None:
    here = space("ww")
    assert munlockall(here) is NOTHING
    here.def_flags = f.VM_LOCKED
    outcome = munlockall(here)
    assert outcome.ask and outcome.changes == ()
    here.commit(outcome)
    assert here.def_flags == 0


def test_the_page_at_the_top_of_the_address_space_is_locked_too() -> None:
    here = space("")
    top = f.TASK_SIZE
    here.adopt([(top, top + PAGE, LEGEND["w"]), (top + PAGE, top + 2 * PAGE, LEGEND["r"])])
    assert [change.start for change in mlockall(here, f.MCL_CURRENT).changes] == [top]


@pytest.mark.parametrize(
    ("limit", "only_host"), [(-1, False), (4 * PAGE, False), (4 * PAGE - 1, True)]
)
def test_locking_again_over_a_lowered_limit_is_left_to_the_host(
    limit: int, only_host: bool
) -> None:
    """do_mlock counts what is locked already, too."""
    here = space("....")
    here.adopt([(at(0), at(4), Vma(RW | MAY | f.VM_LOCKED))])
    outcome = mlock(here, at(0), 2 * PAGE, resident=present, lock_limit=lambda: limit)
    assert (outcome.result, outcome.changes, outcome.ask) == (0, (), only_host)


def test_locking_again_after_a_move_that_left_locked_pages_is_left_to_the_host() -> None:
    """The kernel has unlocked the old pages without subtracting them from those that it counts."""
    here = space("....")
    here.adopt([(at(0), at(4), Vma(RW | MAY | f.VM_LOCKED))])
    move = f.MREMAP_MAYMOVE | f.MREMAP_DONTUNMAP
    assert mremap(here, at(3), PAGE, PAGE, move).resync
    assert mlock(here, at(0), PAGE, resident=present, lock_limit=lambda: 64 * PAGE).ask
    assert not mlock(here, at(0), PAGE, resident=present).ask, "there is no limit"
    assert not here.fork().locks_miscounted
