"""What mapping, touching, protecting and unmapping cost under laconic and classify, to the last
leaf."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.memory.vma import File
from laconic.strategies.classify import Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclaveworld import BASE, FIXED, HEAP, PAGE, Program, lib
from tests.helpers.strategycosts import (
    BOTH,
    NORESERVE,
    RW,
    RWX,
    RX,
    R,
    X,
    at,
    commit,
    cost,
    fault,
    fresh,
    picture,
    used,
)


class TestReservation:
    """PROT_NONE costs nothing, whatever its size."""

    def test_64_gib_are_free(self) -> None:
        program = fresh()
        program.map(BASE, 1 << 24, 0, NORESERVE)
        assert not cost(program)
        assert not program.strategy.pal.committed.count

    def test_a_piece_of_it_is_an_extension_without_cost(self) -> None:
        program = fresh()
        program.map(BASE, 1 << 24, 0, NORESERVE)
        program.protect(at(1000), 256, RW)
        assert not cost(program)
        program.touch(at(1000), 1)
        assert cost(program) == fault(4)

    def test_giving_it_back_is_free(self) -> None:
        program = fresh()
        program.map(BASE, 1 << 24, 0, NORESERVE)
        program.unmap(BASE, 1 << 24)
        assert not cost(program)

    def test_classify_waits_only_for_what_is_not_reserved(self) -> None:
        program = fresh(Classify)
        program.map(BASE, 1 << 24, 0, NORESERVE)
        assert not cost(program)
        program.map(at(1 << 24), 10, 0)
        assert cost(program) == commit(10, prot=0)

    def test_a_small_piece_that_opens_is_committed_at_once(self) -> None:
        program = fresh()
        program.map(BASE, 100, 0)
        program.protect(at(10), 16, RW)
        assert cost(program) == commit(16)
        program.anew().protect(at(50), 17, RW)
        assert not cost(program)


class TestMap:
    """What is mapped waits for its first touch, but for small mappings."""

    @pytest.mark.parametrize("pages", [1, 16])
    def test_small_is_committed_at_once(self, pages: int) -> None:
        program = fresh()
        program.map(BASE, pages, RW)
        assert cost(program) == commit(pages)

    def test_large_is_not(self) -> None:
        program = fresh()
        program.map(BASE, 17, RW)
        assert not cost(program)

    @pytest.mark.parametrize("prot", [R, X, RX, RWX])
    def test_the_first_permissions_need_no_correction(self, prot: int) -> None:
        program = fresh()
        program.map(BASE, 3, prot)
        assert cost(program) == commit(3, prot=prot)

    @BOTH
    def test_populate_commits_all(self, rule: type[Classify]) -> None:
        program = fresh(rule)
        program.map(BASE, 100, RW, NORESERVE | f.MAP_POPULATE)
        assert cost(program) == commit(100)

    def test_classify_commits_all_at_once(self) -> None:
        program = fresh(Classify)
        program.map(BASE, 100, RX)
        assert cost(program) == commit(100, prot=RX)

    def test_with_known_touches_just_those(self) -> None:
        program = fresh(type("Knowing", (Laconic,), {"known_touches": True}))
        program.map(BASE, 16, RW)
        assert not cost(program)
        program.touch(at(3), 2)
        assert cost(program) == {"eaug_faults": 2, "eaug": 2, "eaccept": 2}, (
            "EACCEPT first: no exception"
        )
        assert picture(program, 7) == "...ww.."

    def test_locked_memory_is_committed(self) -> None:
        program = fresh()
        program.map(BASE, 40, RW, FIXED | f.MAP_LOCKED)
        assert cost(program) == commit(40)


class TestWindows:
    """Anonymous memory is committed in windows that grow while touches go on."""

    def test_they_double_from_4_to_64(self) -> None:
        program = fresh()
        program.map(BASE, 400, RW)
        seen, page = [], 0
        for _ in range(7):
            program.anew().touch(at(page), 1)
            seen.append(program.counts.eaug)
            assert program.counts.exceptions == 1
            page += seen[-1]
        assert seen == [4, 8, 16, 32, 64, 64, 64]

    def test_a_touch_elsewhere_begins_anew(self) -> None:
        program = fresh()
        program.map(BASE, 400, RW)
        for page in (0, 4, 200, 204):
            program.touch(at(page), 1)
        assert picture(program, 14) == "wwwwwwwwwwww.."
        assert picture(program, 13, 200) == "wwwwwwwwwwww."

    def test_one_stops_at_what_is_committed(self) -> None:
        program = fresh()
        program.map(BASE, 40, RW)
        program.touch(at(2), 1)
        program.touch(at(0), 1)
        assert picture(program, 7) == "wwwwww."
        assert program.counts.eaug == 6

    def test_one_stops_at_the_end_of_the_mapping(self) -> None:
        program = fresh()
        program.map(BASE, 40, RW)
        program.touch(at(38), 1)
        assert program.counts.eaug == 2

    def test_touches_inside_cost_nothing(self) -> None:
        program = fresh()
        program.map(BASE, 40, RW)
        program.touch(BASE, 1)
        assert program.counts.untouched_pages == 3
        program.anew().touch(at(1), 3)
        assert cost(program) == {"untouched_pages": -3}

    def test_a_long_run_is_as_many_faults_as_windows(self) -> None:
        program = fresh()
        program.map(BASE, 400, RW)
        program.touch(BASE, 124)
        assert cost(program) == fault(124, 124, 5)


class TestFiles:
    """Contents are copied from where the host has the file, in blocks of 16 pages of it."""

    def test_one_host_call_a_file(self) -> None:
        program = Program(Laconic)
        for start in (BASE, at(200)):
            program.map_file(start, 100, R, lib(100))
            program.touch(start, 1)
        assert program.counts.host_calls == 1
        program.map_file(at(400), 100, R, lib(100, File(8, 1, 78, "/other")))
        program.touch(at(400), 1)
        assert program.counts.host_calls == 2

    def test_a_block_is_aligned_in_the_file(self) -> None:
        program = fresh()
        program.map_file(BASE, 60, RX, lib(100), page=5)
        program.touch(at(30), 1)
        assert picture(program, 60) == "." * 27 + "x" * 16 + "." * 17, "pages 32 to 47 of the file"
        assert cost(program) == {
            "eaug_faults": 16,
            "exceptions": 1,
            "eaug": 16,
            "eacceptcopy": 16,
            "pages_copied": 16,
            "untouched_pages": 15,
        }

    def test_it_ends_with_the_file_and_the_mapping(self) -> None:
        program = fresh()
        program.map_file(BASE, 30, R, lib(18.5))
        program.touch(at(17), 1)
        assert picture(program, 30) == "." * 16 + "rrr" + "." * 11
        program.map_file(at(100), 18, R, lib(100))
        program.touch(at(117), 1)
        assert picture(program, 20, 100) == "." * 16 + "rr.."

    def test_a_small_one_is_committed_up_to_its_end(self) -> None:
        program = fresh()
        program.map_file(BASE, 8, RW, lib(2.5))
        assert cost(program) == commit(3, copied=True)


class TestProtect:
    """An extension costs no host call, a restriction one; equal pages cost nothing."""

    @BOTH
    def test_extension(self, rule: type[Classify]) -> None:
        program = used(rule, 20, R)
        program.protect(BASE, 20, RW)
        assert cost(program) == {"emodpe": 20}

    @BOTH
    def test_restriction(self, rule: type[Classify]) -> None:
        program = used(rule, 20)
        program.protect(BASE, 20, R)
        assert cost(program) == {
            "host_calls": 1,
            "ioctls": 1,
            "emodpr": 20,
            "etrack_ipis": 20,
            "eaccept": 20,
        }

    @BOTH
    def test_both(self, rule: type[Classify]) -> None:
        program = used(rule, 20)
        program.protect(BASE, 20, RX)
        assert cost(program) == {
            "host_calls": 1,
            "ioctls": 1,
            "emodpr": 20,
            "etrack_ipis": 20,
            "eaccept": 20,
            "emodpe": 20,
        }

    @BOTH
    def test_pages_with_equal_permissions_are_left_alone(self, rule: type[Classify]) -> None:
        program = used(rule, 20)
        program.protect(at(5), 10, R)
        program.anew().protect(BASE, 20, R)
        assert program.counts.emodpr == program.counts.eaccept == 10, (
            "41 % of mprotected pages are as asked"
        )
        program.anew().protect(BASE, 20, R)
        assert not cost(program)

    @BOTH
    def test_pages_that_are_not_committed_cost_nothing(self, rule: type[Classify]) -> None:
        program = fresh(rule)
        program.map(BASE, 100, RW, NORESERVE)
        program.touch(BASE, 4)
        program.anew().protect(BASE, 100, R)
        assert program.counts.emodpr == 4

    @BOTH
    def test_neighbors_that_change_alike_are_one_run(self, rule: type[Classify]) -> None:
        """The VMAs differ, of a file and anonymous; what has other permissions is a run of its
        own."""
        program = fresh(rule)
        program.map_file(BASE, 4, RW, lib(4))
        program.map(at(4), 4, RW)
        program.map(at(8), 4, RWX)
        program.touch(BASE, 12)
        program.anew().protect(BASE, 12, R)
        assert (program.counts.ioctls, program.counts.emodpr) == (2, 12)
        assert program.counts.host_calls == (1 if rule is Laconic else 2)

    @pytest.mark.parametrize(("rule", "host_calls"), [(Laconic, 1), (Classify, 3)])
    def test_the_ioctls_of_a_call_share_a_host_call(
        self, rule: type[Classify], host_calls: int
    ) -> None:
        program = used(rule, 20)
        program.protect(at(4), 4, R)
        program.protect(at(12), 4, R)
        program.anew().protect(BASE, 20, R)
        assert (program.counts.host_calls, program.counts.ioctls, program.counts.emodpr) == (
            host_calls,
            3,
            12,
        )


class TestUnmap:
    """Committed pages are given back in the call: two host calls, however many runs there are."""

    @BOTH
    def test_one_run(self, rule: type[Classify]) -> None:
        program = used(rule, 20)
        program.unmap(BASE, 20)
        assert cost(program) == {
            "host_calls": 2,
            "ioctls": 2,
            "emodt": 20,
            "etrack_ipis": 20,
            "eaccept": 20,
            "eremove": 20,
        }
        assert not program.meter.epc_pages

    @pytest.mark.parametrize(("rule", "host_calls"), [(Laconic, 2), (Classify, 6)])
    def test_several_runs(self, rule: type[Classify], host_calls: int) -> None:
        program = fresh(rule)
        program.map(BASE, 100, RW, NORESERVE)
        for page in (0, 30, 60):
            program.touch(at(page), 4)
        program.anew().unmap(BASE, 100)
        assert (program.counts.host_calls, program.counts.ioctls, program.counts.eremove) == (
            host_calls,
            6,
            12,
        )

    @BOTH
    def test_different_permissions_are_one_run(self, rule: type[Classify]) -> None:
        program = used(rule, 20)
        program.protect(at(5), 5, 0)
        program.anew().unmap(BASE, 20)
        assert (program.counts.host_calls, program.counts.ioctls) == (2, 2)

    def test_unmapping_untouched_pages_is_free(self) -> None:
        program = fresh()
        program.map(BASE, 5000, RW)
        program.unmap(BASE, 5000)
        assert not cost(program)

    def test_the_break_too(self) -> None:
        program = fresh()
        program.call("brk", HEAP + 4 * PAGE)
        assert cost(program) == commit(4)
        program.anew().call("brk", HEAP + PAGE)
        assert (program.counts.host_calls, program.counts.eremove) == (2, 3)
