"""What discarding, moving, threads, forks and faults cost under laconic and classify, to the last
leaf."""

from __future__ import annotations

import pytest

from laconic.linux.pagemap import FILE_PAGE
from laconic.memory import flags as f
from laconic.memory.vma import Vma
from laconic.sgx.meter import Meter
from laconic.strategies.classify import THREAD_STACK, Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclaveworld import BASE, LIB, PAGE, Program, lib, machine
from tests.helpers.strategycosts import (
    BOTH,
    MAY,
    NORESERVE,
    RW,
    RX,
    R,
    W,
    X,
    at,
    commit,
    cost,
    fault,
    fresh,
    picture,
    used,
)


class TestRenew:
    """What loses its contents is overwritten in place if it may be, else given back."""

    @BOTH
    def test_discarded_pages_are_zeroed(self, rule: type[Classify]) -> None:
        program = used(rule, 20)
        program.call("madvise", BASE, 20 * PAGE, f.MADV_DONTNEED)
        assert cost(program) == {"pages_zeroed": 20, "untouched_pages": 20}

    @BOTH
    def test_only_those_that_are_committed(self, rule: type[Classify]) -> None:
        program = fresh(rule)
        program.map(BASE, 100, RW, NORESERVE)
        program.touch(BASE, 4)
        program.anew().call("madvise", BASE, 100 * PAGE, f.MADV_DONTNEED)
        assert program.counts.pages_zeroed == 4

    @BOTH
    def test_of_a_file_they_are_copied_anew(self, rule: type[Classify]) -> None:
        program = fresh(rule)
        program.map_file(BASE, 8, RW, lib(8))
        program.touch(BASE, 8)
        program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_DONTNEED)
        assert cost(program) == {"pages_copied": 8, "untouched_pages": 8}

    @BOTH
    def test_unwritten_pages_of_a_file_stay(self, rule: type[Classify]) -> None:
        program = fresh(rule)
        program.map_file(BASE, 8, RW, lib(8))
        program.touch(BASE, 2)
        program.touch(at(2), 4, FILE_PAGE)
        program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_DONTNEED)
        assert cost(program) == {"pages_copied": 2, "untouched_pages": 6}
        program.protect(BASE, 8, R)
        program.touch(BASE, 8, FILE_PAGE)
        assert program.counts.untouched_pages == 6 - 8, "two were untouched before"
        program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_DONTNEED)
        assert cost(program) == {"untouched_pages": 8}

    @pytest.mark.parametrize(("rule", "after"), [(Laconic, "." * 8), (Classify, "r" * 8)])
    def test_pages_that_may_not_be_written_are_released(
        self, rule: type[Classify], after: str
    ) -> None:
        program = used(rule, 8, R)
        program.call("madvise", BASE, 8 * PAGE, f.MADV_DONTNEED)
        assert (program.counts.host_calls, program.counts.eremove) == (2, 8)
        assert picture(program, 8) == after

    @BOTH
    def test_free_does_nothing(self, rule: type[Classify]) -> None:
        program = used(rule, 8)
        program.call("madvise", BASE, 8 * PAGE, f.MADV_FREE)
        assert not cost(program)

    def test_mapped_over_with_the_same(self) -> None:
        program = used(Laconic, 20)
        program.map(BASE, 20, RW)
        assert cost(program) == {"pages_zeroed": 20, "untouched_pages": 20}

    def test_mapped_over_with_less(self) -> None:
        program = used(Laconic, 20)
        program.map(BASE, 20, R)
        assert (program.counts.pages_zeroed, program.counts.host_calls, program.counts.emodpr) == (
            20,
            1,
            20,
        )
        assert not program.counts.eremove

    def test_a_guard_region_gives_back(self) -> None:
        program = used(Laconic, 8)
        program.call("madvise", at(2), 4 * PAGE, f.MADV_GUARD_INSTALL)
        assert picture(program, 8) == "ww....ww"


class TestMove:
    """mremap: grow in place; else commit, copy, give back."""

    @BOTH
    def test_growing_in_place_is_a_new_mapping(self, rule: type[Classify]) -> None:
        program = used(rule, 8)
        assert program.call("mremap", BASE, 8 * PAGE, 12 * PAGE, 0) == BASE
        assert cost(program) == commit(4)

    @BOTH
    def test_moving(self, rule: type[Classify]) -> None:
        program = used(rule, 8)
        assert program.call("mremap", BASE, 8 * PAGE, 8 * PAGE, 3, at(100)) == at(100)
        assert cost(program) == {
            "eaug_faults": 8,
            "eaug": 8,
            "eacceptcopy": 8,
            "host_calls": 2,
            "ioctls": 2,
            "emodt": 8,
            "etrack_ipis": 8,
            "eaccept": 8,
            "eremove": 8,
        }
        assert picture(program, 8) == "." * 8 and picture(program, 8, 100) == "w" * 8

    def test_shrinking_gives_back(self) -> None:
        program = used(Laconic, 8)
        program.call("mremap", BASE, 8 * PAGE, 3 * PAGE, 0)
        assert (program.counts.host_calls, program.counts.eremove) == (2, 5)

    def test_unreadable_pages_are_opened_for_a_move_and_counted(self) -> None:
        program = used(Laconic, 4, 0)
        program.call("mremap", BASE, 4 * PAGE, 4 * PAGE, 3, at(100))
        assert (program.counts.open_windows, program.counts.emodpe) == (4, 4)
        assert picture(program, 4, 100) == "----"


class TestProcesses:
    """Threads, fork, exec."""

    def test_a_thread_has_a_stack_and_a_tcs(self) -> None:
        program = fresh()
        program.strategy.thread()
        pages = THREAD_STACK // PAGE
        assert cost(program) == {
            "host_calls": 1,
            "ioctls": 1,
            "etrack_ipis": 1,
            "emodt": 1,
            "eaug_faults": pages + 1,
            "eaug": pages + 1,
            "eaccept": pages + 2,
        }

    @BOTH
    def test_pages_of_an_ended_thread_are_used_again(self, rule: type[Classify]) -> None:
        program = fresh(rule)
        for _ in range(2):
            program.strategy.thread()
        pages = program.meter.epc_pages
        for _ in range(2):
            program.strategy.thread_ends()
        program.anew()
        for _ in range(2):
            program.strategy.thread()
        assert not cost(program)
        program.strategy.thread()
        assert program.meter.epc_pages == pages + pages // 2

    def test_fork_sends_what_only_memory_holds(self) -> None:
        program = fresh()
        program.map(BASE, 100, RW)
        program.touch(at(10), 3)
        program.map_file(at(200), 40, RX, lib(40))
        for start, end, vma in program.touches.take([(at(200), at(201), 1)], program.space):
            program.strategy.touch(start, end, vma)
        program.anew()
        child = program.strategy.fork(program.space.fork(), program.touches.copy())
        assert list(child.pal.committed) == [(at(10), at(13), RW)], (
            "the file's pages are read anew, at a touch"
        )
        assert cost(program) == {
            "host_calls": 3,
            "ecreate": 1,
            "einit": 1,
            "eaug_faults": 3,
            "eaug": 3,
            "eacceptcopy": 3,
            "pages_copied": 6,
        }

    def test_fork_leaves_out_what_the_child_does_not_have(self) -> None:
        program = used(Laconic, 9)
        program.call("madvise", BASE, 3 * PAGE, f.MADV_DONTFORK)
        program.call("madvise", at(3), 3 * PAGE, f.MADV_WIPEONFORK)
        child = program.strategy.fork(program.space.fork(), program.touches.copy())
        assert list(child.pal.committed) == [(at(6), at(9), RW)]

    def test_a_program_begins_with_its_small_pieces_and_a_little_stack(self) -> None:
        program = fresh()
        text, data = Vma(RX | MAY, LIB, BASE), Vma(RW | MAY, LIB, at(90) - 50 * PAGE)
        stack = Vma(RW | MAY | f.VM_GROWSDOWN)
        program.load([(BASE, at(50), text), (at(90), at(93), data), (at(200), at(233), stack)])
        assert picture(program, 50) == "." * 50
        assert picture(program, 4, 90) == "www."
        assert picture(program, 33, 200) == "." * 25 + "w" * 8
        assert (program.counts.ecreate, program.counts.einit) == (1, 1)

    @BOTH
    def test_at_the_end_everything_goes(self, rule: type[Classify]) -> None:
        there = machine()
        program = Program(rule, there)
        program.load([])
        program.map(BASE, 8, RW)
        program.strategy.thread()
        program.strategy.end()
        assert there.epc_pages == 0 == there.driver.epc.used


class TestPageFault:
    """The handler of the enclave asks the bookkeeping."""

    def test_a_page_fault_is_the_signal_that_linux_sends(self) -> None:
        program = fresh()
        program.map(BASE, 20, R)
        program.map_file(at(50), 8, RW, lib(3))
        fault = program.strategy.page_fault
        assert fault(at(5) + 8, R) == 0
        assert [fault(at(5), W), fault(at(5), X), fault(at(30), R)] == [11, 11, 11]
        assert [fault(at(52), W), fault(at(53), W), fault(at(53), X)] == [0, 7, 11]

    def test_a_meter_counts_it_as_a_machine_does(self) -> None:
        counted = []
        for meter in (Meter(), machine()):
            program = Program(Laconic, meter)
            program.map(BASE, 40, RW)
            program.strategy.page_fault(at(3), W)
            counted.append(cost(program))
        assert counted[0] == counted[1] == fault(4)
