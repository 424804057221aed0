"""What a call does to several runs of pages at once: guard regions, host calls together, pages that
must be present."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.strategies.classify import Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclaveworld import BASE, FIXED, PAGE, Program, lib
from tests.helpers.enclosed import NO_FD, Enclosed

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
BOTH = pytest.mark.parametrize("rule", [Classify, Laconic])
#: A mapping with a guard region in its middle, of these permissions before that is installed.
ANON = f.MAP_PRIVATE | f.MAP_ANONYMOUS | f.MAP_FIXED


def guarded(rule: type[Classify], prot: int) -> Enclosed:
    program = Enclosed(rule)
    program.call("mmap", BASE, 8 * PAGE, prot, ANON, NO_FD, 0)
    program.call("madvise", BASE + 2 * PAGE, 3 * PAGE, f.MADV_GUARD_INSTALL)
    return program


class TestGuardRegions:
    """They outlive mprotect and discards, move with mremap, and are in no enclave (pte_markers,
    mm/madvise.c)."""

    @BOTH
    @pytest.mark.parametrize("advice", [f.MADV_DONTNEED, f.MADV_GUARD_INSTALL])
    @pytest.mark.parametrize(("before", "after"), [(0, RW), (R, RX), (RW, R), (RW, RWX)])
    def test_they_outlive_mprotect_and_discards(
        self, rule: type[Classify], before: int, after: int, advice: int
    ) -> None:
        program = guarded(rule, before)
        assert program.call("mprotect", BASE, 8 * PAGE, after) == 0
        program.check()
        program.call("madvise", BASE, 3 * PAGE, advice)
        program.check()
        assert program.access(BASE + 4 * PAGE, "load")
        assert not program.access(BASE + 6 * PAGE, "load")

    @BOTH
    @pytest.mark.parametrize(
        ("name", "more"), [("madvise", f.MADV_DONTFORK), ("mlock2", f.MLOCK_ONFAULT), ("mseal", 0)]
    )
    def test_they_outlive_changes_of_flags(
        self, rule: type[Classify], name: str, more: int
    ) -> None:
        program = guarded(rule, RW)
        assert program.call(name, BASE, 8 * PAGE, more) == 0
        program.check()
        assert program.access(BASE + 4 * PAGE, "load")
        assert not program.access(BASE + 6 * PAGE, "load")

    @BOTH
    def test_they_move(self, rule: type[Classify]) -> None:
        program = guarded(rule, RW)
        there = BASE + 100 * PAGE
        assert program.call("mremap", BASE, 8 * PAGE, 8 * PAGE, 3, there) == there
        program.check()
        assert program.access(there + 2 * PAGE, "load") and not program.access(there, "load")
        program.call("mmap", BASE, 8 * PAGE, RW, ANON, NO_FD, 0)
        assert not program.access(BASE + 2 * PAGE, "load")
        program.check()

    @BOTH
    def test_a_child_has_none_in_memory_that_is_wiped(self, rule: type[Classify]) -> None:
        program = guarded(rule, RW)
        program.call("madvise", BASE, 4 * PAGE, f.MADV_WIPEONFORK)
        child = program.fork()
        assert child is not None
        assert not child.access(BASE + 2 * PAGE, "load") and child.access(BASE + 4 * PAGE, "load")
        child.check()


def kinds(maker: type[Classify]) -> Program[Classify]:
    """Five kinds of runs side by side, all touched."""
    program = Program(maker)
    program.load([])
    for number, prot in enumerate((R, RX, RW)):
        program.map(BASE + 20 * number * PAGE, 20, prot)
    program.map_file(BASE + 60 * PAGE, 20, R, lib(50))
    program.map_file(BASE + 80 * PAGE, 20, RX, lib(50))
    program.touch(BASE, 100)
    return program.anew()


class TestTogether:
    """One host call for all that a call restricts, and two for all that it trims."""

    def test_mapped_over_with_what_nobody_may_write(self) -> None:
        program = kinds(Laconic)
        program.map(BASE, 100, R)
        counts = program.counts
        assert (counts.host_calls, counts.ioctls) == (3, 5), (
            "two runs are trimmed, and one is restricted"
        )
        assert (counts.eremove, counts.emodpr, counts.pages_zeroed) == (80, 20, 20)

    def test_mapped_over_with_nothing(self) -> None:
        program = Program(Laconic)
        program.load([])
        program.map(BASE, 40, RW)
        program.map(BASE + 40 * PAGE, 40, RWX)
        program.touch(BASE, 80)
        program.anew().map(BASE, 80, 0)
        assert (program.counts.host_calls, program.counts.ioctls, program.counts.emodpr) == (
            1,
            2,
            80,
        )

    def test_discarded(self) -> None:
        program = kinds(Laconic)
        program.call("madvise", BASE, 100 * PAGE, f.MADV_DONTNEED)
        assert (program.counts.host_calls, program.counts.ioctls, program.counts.eremove) == (
            2,
            4,
            80,
        )


class TestPresent:
    """What the program asks to have at once is committed at once (mm/gup.c,
    populate_vma_page_range)."""

    @pytest.mark.parametrize(
        "call",
        [
            ("mlock", BASE, 100 * PAGE),
            ("mlock2", BASE, 100 * PAGE, 0),
            ("mlockall", 1),
            ("madvise", BASE, 100 * PAGE, f.MADV_POPULATE_READ),
            ("madvise", BASE, 100 * PAGE, f.MADV_POPULATE_WRITE),
        ],
    )
    def test_it_is_committed(self, call: tuple[str, *tuple[int, ...]]) -> None:
        program = Program(Laconic)
        program.load([])
        program.map(BASE, 100, RW)
        assert program.counts.as_dict()["eaug"] == 0
        assert program.call(*call) == 0
        assert program.counts.eaug == 100
        program.anew().touch(BASE, 100)
        assert not program.counts.exceptions and not program.counts.eaug

    def test_on_fault_it_is_not(self) -> None:
        program = Program(Laconic)
        program.load([])
        program.map(BASE, 100, RW, FIXED)
        assert program.call("mlock2", BASE, 100 * PAGE, 1) == 0
        assert not program.counts.eaug


@pytest.mark.parametrize("page", [0, 5, 15])
@pytest.mark.parametrize("length", [17, 20, 34])
def test_an_exception_for_each_block_of_a_file(page: int, length: int) -> None:
    """Also where the mapping begins and ends within one."""
    for start in range(length):
        for pages in {1, length - start}:
            program = Program(Laconic)
            program.load([])
            program.map_file(BASE, length, R, lib(400), page=page)
            program.touch(BASE + start * PAGE, pages)
            blocks = (page + start + pages - 1) // 16 - (page + start) // 16 + 1
            assert program.counts.exceptions == blocks, (start, pages)
