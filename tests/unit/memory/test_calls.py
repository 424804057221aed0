"""From a system call's six arguments to the operation: which argument means what, and as which C
type."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.memory.calls import (
    OPERATIONS,
    PR_MDWE_NO_INHERIT,
    PR_MDWE_REFUSE_EXEC_GAIN,
    PR_SET_MEMORY_MERGE,
    PR_SET_VMA,
    RANGED,
    is_error,
)
from laconic.memory.change import Outcome
from laconic.memory.mmap import OpenFile
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import Vma
from tests.helpers.pictures import FILE, LEGEND, MAY, PAGE, RW, R, at, changes, draw, space

ALL_ONES = (1 << 64) - 1
OPEN = OpenFile(FILE, readable=True, writable=True)


class Upcalls(DefaultUpcalls):
    """A host with memory to read and a limit, which writes down what it is asked."""

    def __init__(self, here: AddressSpace, memory: bytes = b"", limit: int = -1) -> None:
        super().__init__(here)
        self.memory = memory
        self.limit = limit
        self.reads: list[tuple[int, int]] = []

    def read(self, address: int, length: int) -> bytes:
        self.reads.append((address, length))
        return self.memory[:length]

    def data_limit(self) -> int:
        return self.limit


def call(here: AddressSpace, name: str, *args: int, up: Upcalls | None = None) -> Outcome:
    """Make one call; missing arguments are zero, negative ones are as in a register."""
    six = (*(value & ALL_ONES for value in args), *[0] * (6 - len(args)))
    return OPERATIONS[name](here, six, up or Upcalls(here))


def test_a_host_that_knows_no_more_than_the_bookkeeping() -> None:
    here = space("ww")
    up = DefaultUpcalls(here)
    assert up.read_implies_exec is False
    assert (up.open_file(3), up.data_limit(), up.read(at(0), 8)) == (None, -1, b"")
    assert (up.untouched(at(0), at(1)), up.resident(at(0), at(1))) == (False, False)
    assert up.shown_file(3, at(0), FILE) is FILE
    assert up.vma_start(at(0)) == 0
    maps = up.maps_in(at(0), at(1))
    maps.clear(at(0), at(1))
    assert draw(up.maps(), 2, LEGEND) == draw(here.held, 2, LEGEND) == "ww", "answers are copies"


@pytest.mark.parametrize(
    ("result", "error"), [(0, False), (1, False), (-1, True), (-4095, True), (-4096, False)]
)
def test_an_errno_is_between_1_and_4095(result: int, error: bool) -> None:
    assert is_error(result) == error


def test_mmap_takes_a_descriptor_as_a_c_int() -> None:
    here = space("....")
    up = Upcalls(here)
    up.files = {3: OPEN, -1: OPEN}
    fixed = f.MAP_PRIVATE | f.MAP_FIXED
    call(here, "mmap", at(1), PAGE, R, fixed, 3 | 7 << 32, PAGE, up=up)
    assert here.vmas.get(at(1)) == Vma(R | MAY, FILE, at(0))
    assert call(here, "mmap", at(2), PAGE, R, fixed, 0xFFFFFFFF, 0, up=up).result == at(2)
    assert call(here, "mmap", at(3), PAGE, R, fixed, 0x7FFFFFFF, 0, up=up).result < 0
    # MAP_ANONYMOUS ignores the descriptor
    call(here, "mmap", at(3), PAGE, R, fixed | f.MAP_ANONYMOUS, 3, 0, up=up)
    assert here.vmas.get(at(3)) == Vma(R | MAY)


@pytest.mark.parametrize("name", ["mprotect", "pkey_mprotect"])
def test_mprotect_s_key_is_a_c_int(name: str) -> None:
    here = space("wwww")
    outcome = call(here, name, at(1), PAGE, R, 0xFFFFFFFF)
    assert changes(outcome) == ["RESTRICT 1-2"], "-1 is not a key"
    assert here.vmas.get(at(1)) == LEGEND["r"]
    if name == "pkey_mprotect":
        outcome = call(here, name, at(2), PAGE, R, 5)
        assert outcome.ask and here.vmas.get(at(2)) == Vma(R | MAY, pkey=5)


def test_brk_queries_the_limit_only_for_addresses_of_the_break() -> None:
    here = space("....")
    up = Upcalls(here, limit=PAGE)
    assert call(here, "brk", at(2), up=up).result == at(0)
    assert call(here, "brk", at(1), up=up).result == at(1)
    assert call(space("...."), "brk", 0, up=Upcalls(here, limit=0)).result == at(0)


def test_ranges_come_first_and_advice_is_a_c_int() -> None:
    here = space("wwww")
    assert changes(call(here, "munmap", at(0), PAGE)) == ["UNMAP 0-1"]
    outcome = call(here, "madvise", at(1), PAGE, f.MADV_DONTFORK | 1 << 32)
    assert changes(outcome) == ["FLAGS 1-2"]
    assert changes(call(here, "mlock", at(2), PAGE)) == ["FLAGS 2-3"]
    assert changes(call(here, "munlock", at(2), PAGE)) == ["FLAGS 2-3"]
    outcome = call(here, "mlock2", at(2), PAGE, f.MLOCK_ONFAULT | 1 << 32)
    assert changes(outcome) == ["FLAGS 2-3"]
    assert call(here, "mlock2", at(2), PAGE, 2).result < 0
    assert changes(call(here, "mseal", at(3), PAGE, 0)) == ["FLAGS 3-4"]
    assert call(here, "mseal", at(3), PAGE, 1).ask


def test_locks_of_the_whole_address_space() -> None:
    here = space("ww")
    outcome = call(here, "mlockall", (f.MCL_CURRENT | f.MCL_FUTURE) | 1 << 32)
    assert draw(here.vmas, 2, LEGEND) == "LL" and changes(outcome) == ["FLAGS 0-2"]
    here.commit(outcome)
    assert here.def_flags == f.VM_LOCKED
    assert changes(call(here, "munlockall")) == ["FLAGS 0-2"]


def test_msync_takes_its_flags_as_a_c_int() -> None:
    here = space("ssww")
    assert changes(call(here, "msync", at(0), 4 * PAGE, f.MS_SYNC | 1 << 32)) == ["ADVISE 0-2"]
    assert call(here, "msync", at(0), PAGE, 8).result == -22


def test_mremap_takes_five_arguments() -> None:
    # ww....  to page 3
    # ...ww.
    here = space("ww....")
    both = f.MREMAP_MAYMOVE | f.MREMAP_FIXED
    assert call(here, "mremap", at(0), 2 * PAGE, 2 * PAGE, both, at(3)).result == at(3)
    assert draw(here.vmas, 6, LEGEND) == "...ww."


def test_remap_file_pages_takes_its_arguments_in_order() -> None:
    # ssss  page 1 shows page 3 of the file
    here = space("ssss")
    outcome = call(here, "remap_file_pages", at(1), PAGE, 0, 3)
    assert outcome.result == 0 and changes(outcome) == ["FILE 1-2"]
    vma = here.vmas.get(at(1))
    assert vma is not None and at(1) - vma.base == 3 * PAGE
    assert call(here, "remap_file_pages", at(1), PAGE, R, 3).result < 0


def test_mbind_reads_the_mask_and_splits_the_vma() -> None:
    here = space("wwww")
    up = Upcalls(here, memory=b"\x05" + bytes(7))
    outcome = call(here, "mbind", at(1), PAGE, 2 | 1 << 32, 0x1000, 65, up=up)
    assert outcome.ask and changes(outcome) == ["FLAGS 1-2"]
    assert here.vmas.get(at(1)) == Vma(RW | MAY, policy=(2, b"\x05"))
    assert up.reads == [(0x1000, 8)]
    call(here, "mbind", at(2), PAGE, 2, 0x1000, 66, up=up)
    assert up.reads[-1] == (0x1000, 16), "one bit fewer than the argument says (get_nodes)"
    call(here, "mbind", at(2), PAGE, 2, 0, 65, up=up)
    call(here, "mbind", at(2), PAGE, 2, 0x1000, 1, up=up)
    call(here, "mbind", at(2), PAGE, 2, 0x1000, 0, up=up)
    assert len(up.reads) == 2, "without an address or bits there is no mask"
    call(here, "mbind", at(2), PAGE, 2, 0x1000, 1 << 40, up=up)
    assert up.reads[-1] == (0x1000, 512)


@pytest.mark.parametrize(
    ("bits", "mdwe", "inherited"),
    [
        (PR_MDWE_REFUSE_EXEC_GAIN, True, True),
        (PR_MDWE_REFUSE_EXEC_GAIN | PR_MDWE_NO_INHERIT, True, False),
        (0, False, True),
    ],
)
def test_prctl_mdwe_takes_effect_once_the_host_agrees(
    bits: int, mdwe: bool, inherited: bool
) -> None:
    here = space("ww")
    outcome = call(here, "prctl", 65, bits)
    assert (outcome.result, outcome.ask, here.mdwe) == (0, True, False)
    here.commit(outcome)
    assert (here.mdwe, here.mdwe_inherited) == (mdwe, inherited)


def test_prctl_names_memory_with_the_program_s_string() -> None:
    here = space("wwww")
    up = Upcalls(here, memory=b"heap\0rest")
    outcome = call(here, "prctl", 0x53564D41 | 1 << 32, 0, at(1), PAGE, 0x5000, up=up)
    assert changes(outcome) == ["FLAGS 1-2"] and not outcome.resync
    assert here.vmas.get(at(1)) == Vma(RW | MAY, name="heap")
    assert up.reads == [(0x5000, 80)]
    call(here, "prctl", PR_SET_VMA, 0, at(1), PAGE, 0, up=up)
    assert here.vmas.get(at(1)) == LEGEND["w"] and len(up.reads) == 1


def test_prctl_of_another_kind_is_read_again_from_the_host() -> None:
    for args in ((PR_SET_VMA, 1), (35, 0), (PR_SET_MEMORY_MERGE, 1, 1)):
        outcome = call(space("ww"), "prctl", *args)
        assert (outcome.ask, outcome.resync) == (True, True), args


def test_prctl_merges_all_memory_or_none() -> None:
    here = space("ww")
    outcome = call(here, "prctl", 67, 1, 0, 0, 0, 9)
    assert changes(outcome) == ["FLAGS 0-2"] and not outcome.resync
    here.commit(outcome)
    assert here.merge_any
    assert changes(call(here, "prctl", PR_SET_MEMORY_MERGE, 0)) == ["FLAGS 0-2"]
    assert draw(here.vmas, 2, LEGEND) == "ww"


def test_userfaultfd_makes_contents_unknown() -> None:
    here = space("ww")
    outcome = call(here, "userfaultfd", 0)
    assert outcome.ask and not here.opaque
    here.commit(outcome)
    assert here.opaque


@pytest.mark.parametrize(
    ("name", "resync"),
    [
        ("set_mempolicy_home_node", False),
        ("shmat", False),
        ("io_setup", False),
        ("io_destroy", False),
        ("map_shadow_stack", False),
        ("arch_prctl", True),
    ],
)
def test_calls_that_only_the_host_can_answer_are_passed_on(name: str, resync: bool) -> None:
    assert call(space("ww"), name) == Outcome(0, ask=True, resync=resync)


@pytest.mark.parametrize(
    ("advice", "resync"), [(f.MADV_DONTFORK, True), (f.MADV_COLD, False), (-1, False)]
)
def test_process_madvise_is_read_again_only_if_it_sets_flags(advice: int, resync: bool) -> None:
    outcome = call(space("ww"), "process_madvise", 5, 0x1000, 1, advice)
    assert outcome == Outcome(0, ask=True, resync=resync)


def test_shmdt_takes_the_address() -> None:
    assert call(space("ww"), "shmdt", at(0) + 1).result == -22


def test_ranges_of_calls_are_address_and_length() -> None:
    assert RANGED["prctl"] == 2 and {RANGED[name] for name in RANGED if name != "prctl"} == {0}
    assert set(RANGED) <= set(OPERATIONS)


def test_upcalls_reach_the_operations() -> None:
    # wwww  nothing was touched, all is resident: discards and locks of locked memory are nothing
    here = space("wwLL")

    class Quiet(Upcalls):
        def untouched(self, start: int, end: int) -> bool:
            return True

        def resident(self, start: int, end: int) -> bool:
            return True

    up = Quiet(here)
    assert not call(here, "madvise", at(0), PAGE, f.MADV_DONTNEED, up=up).changes
    assert not call(here, "mlock", at(2), PAGE, up=up).changes
    assert not call(here, "mlock2", at(2), PAGE, 0, up=up).changes
    fixed = f.MAP_PRIVATE | f.MAP_ANONYMOUS | f.MAP_FIXED
    assert not call(here, "mmap", at(0), PAGE, RW, fixed, -1, 0, up=up).changes
    up.read_implies_exec = True
    for name, args in (
        ("mprotect", (at(0), PAGE, R)),
        ("pkey_mprotect", (at(1), PAGE, R, -1)),
        ("mmap", (at(0), PAGE, R, fixed, -1, 0)),
    ):
        call(here, name, *args, up=up)
        vma = here.vmas.get(args[0])
        assert vma is not None and vma.flags & f.VM_EXEC, name
    top = space("....")
    call(top, "brk", at(1), up=up)
    vma = top.vmas.get(at(0))
    assert vma is not None and vma.flags & f.VM_EXEC
