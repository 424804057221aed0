"""Advice on synthetic traces: each piece where its cause is, with the figure that was put there,
and not elsewhere."""

from __future__ import annotations

import doctest
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import laconic.analysis.advise.advice
import laconic.trace
from laconic.analysis.advise import advisor, trial
from laconic.analysis.advise.figures import EAGER, OURS, TODAY
from laconic.analysis.advise.manifest import HELPERS, PER_THREAD, RUNTIME, STACK, without_edmm
from laconic.analysis.advise.watch import ARENA, MIB
from laconic.memory.flags import VM_GROWSDOWN, VM_READ, VM_WRITE
from laconic.report import advise as report
from laconic.trace.schema import ADOPTED, GREW
from tests.helpers.adviseprograms import (
    ANONYMOUS,
    NONE,
    NORESERVE,
    PAGE,
    PROFILE,
    RW,
    STACK_FLAGS,
    Program,
    R,
    advised,
    arenas,
    hotspot,
    measured,
)
from tests.helpers.traces import BASE, THREAD, Builder, small


class TestManifest:
    def test_the_enclave_holds_the_peak_of_one_process(self, tmp_path: Path) -> None:
        """What is unmapped before more is mapped does not count, nor what another process maps."""
        trace = Program(tmp_path)
        trace.mmap(BASE, 100 * MIB, RW)
        trace.mmap(BASE + ARENA * 8, 300 * MIB, NONE)
        trace.row("clone", 17, result=200)
        trace.call("munmap", BASE, 100 * MIB)
        trace.mmap(BASE, 90 * MIB, RW)
        trace.mmap(BASE + ARENA * 32, 20 * MIB, RW, pid=200)
        figures = measured(trace.touched())
        assert [image.peak_mapped // MIB for image in figures.images] == [400, 420]
        size = advised(str(tmp_path / "a.trace"))["sgx.enclave_size"]
        assert size.figures["peak_mapped"] == 400 * MIB
        assert size.figures["closed_at_peak"] == 300 * MIB
        allowance = RUNTIME + (1 + HELPERS) * PER_THREAD
        assert size.figures["allowance"] == allowance
        need = size.figures["need"] - allowance
        assert 496 * MIB <= need <= 498 * MIB, "the parent's at the fork, more than the child's 420"
        assert size.line == 'sgx.enclave_size = "1G"'
        assert "prog (process 100) maps 400.0 MiB" in size.why and "300.0 MiB" in size.why

    def test_a_fork_needs_the_checkpoint_store(self, tmp_path: Path) -> None:
        """64 + 32 MiB in one piece, beside what is mapped then; not if nothing forks."""
        trace = Program(tmp_path)
        trace.mmap(BASE, 20 * MIB, RW)
        trace.row("clone", 17, result=200)
        size = advised(trace.touched())["sgx.enclave_size"]
        assert size.figures["need"] - size.figures["allowance"] > (20 + 96) * MIB
        assert size.line == 'sgx.enclave_size = "256M"'
        assert "at a fork 96.0 MiB more, in one piece" in size.why

    def test_memory_that_is_mapped_after_a_fork_is_not_there_with_the_store(
        self, tmp_path: Path
    ) -> None:
        trace = Program(tmp_path)
        trace.row("clone", 17, result=200)
        trace.mmap(BASE, 300 * MIB, RW)
        size = advised(trace.touched())["sgx.enclave_size"]
        assert size.figures["need"] - size.figures["allowance"] <= 302 * MIB
        assert size.figures["checkpoint"] == 0 and "at a fork" not in size.why

    def test_a_reservation_larger_than_any_machine(self, tmp_path: Path) -> None:
        """mariadbd's buffer pool: it does not start, and no enclave of that size is advised."""
        trace = Program(tmp_path, "/usr/sbin/mariadbd")
        trace.mmap(BASE - (1 << 44), 8 << 40, NONE)
        found = advised(trace.touched())
        size, edmm = found["sgx.enclave_size"], found["sgx.edmm_enable"]
        assert size.line == 'sgx.enclave_size = "128M"'
        assert (
            "mariadbd (process 100) does not start as it is: it maps 8.0 TiB PROT_NONE at "
            f"{BASE - (1 << 44):#x} without MAP_NORESERVE" in size.why
        )
        assert "set innodb_buffer_pool_size_max of mariadbd" in size.why
        assert edmm.line == "sgx.edmm_enable = true" and "does not start as it is" in edmm.why

    @pytest.mark.parametrize(
        ("prot", "flags", "path", "text"),
        [
            (RW, ANONYMOUS, "", "maps 2.0 TiB at {:#x} without MAP_NORESERVE, which Gramine"),
            (R, 2, "/data.mdb", "maps 2.0 TiB of data.mdb at {:#x}, which Gramine"),
        ],
    )
    def test_a_mapping_larger_than_any_machine(
        self, prot: int, flags: int, path: str, text: str, tmp_path: Path
    ) -> None:
        """Readable memory and files are committed at once too; it is reported although it is gone
        at the end, and not subtracted twice."""
        trace = Program(tmp_path)
        start = BASE - (1 << 44)
        trace.mmap(BASE, 100 * MIB, RW)
        file = trace.file(path, size=2 << 40) if path else 0
        for _ in range(2):
            trace.mmap(start, 2 << 40, prot, flags, file)
            trace.call("munmap", start, 2 << 40)
        found = advised(trace.touched())
        size, edmm = found["sgx.enclave_size"], found["sgx.edmm_enable"]
        assert size.figures["peak_mapped"] == (2 << 40) + 100 * MIB
        assert 100 * MIB < size.figures["need"] - size.figures["allowance"] < 102 * MIB
        assert size.why.count("does not start as it is") == 1
        assert text.format(start) in size.why
        assert edmm.line == "sgx.edmm_enable = true" and "does not start as it is" in edmm.why

    @pytest.mark.parametrize(("count", "is_lazy"), [(2, False), (3, False), (3, True)])
    def test_mappings_that_are_together_larger_than_any_machine(
        self, count: int, is_lazy: bool, tmp_path: Path
    ) -> None:
        """None of them is so alone. Lazy ones, and those that are gone, do not count."""
        trace = Program(tmp_path, "/usr/sbin/mariadbd")
        start = BASE - (1 << 44)
        flags = NORESERVE if is_lazy else ANONYMOUS
        size = 400 << 30
        trace.mmap(start, size, RW, ANONYMOUS)
        trace.call("munmap", start, size)
        for number in range(count):
            trace.mmap(start + 2 * number * size, size + number * PAGE, RW, flags)
        found = advised(trace.touched())
        enclave, edmm = found["sgx.enclave_size"], found["sgx.edmm_enable"]
        is_reported = count == 3 and not is_lazy
        assert ("does not run to its end, as it is: it maps 1.2 TiB" in enclave.why) == is_reported
        assert ("does not run to its end" in edmm.why) == is_reported
        if is_reported:
            last = start + 4 * size
            assert f"The largest of these mappings is 400.0 GiB at {last:#x}" in enclave.why
            assert "set innodb_buffer_pool_size_max of mariadbd" in enclave.why
            assert edmm.line == "sgx.edmm_enable = true"

    def test_what_a_program_opens_of_such_a_mapping_counts(self, tmp_path: Path) -> None:
        """It is needed with a smaller mapping as well; a child inherits the rest."""
        trace = Program(tmp_path)
        start = BASE - (1 << 44)
        trace.mmap(start, 8 << 40, NONE)
        trace.call("mprotect", start, 200 * MIB, RW)
        trace.row("clone", 17, result=200)
        trace.row("munmap", start, 8 << 40, pid=200, result=0)
        figures = measured(trace.touched())
        parent, child = figures.images
        assert (parent.peak_fitting, parent.forked_fitting) == (200 * MIB, 200 * MIB)
        assert (child.peak_fitting, child.fitting, child.mapped) == (200 * MIB, 0, 0)
        size = advised(str(tmp_path / "a.trace"))["sgx.enclave_size"]
        assert size.line == 'sgx.enclave_size = "512M"'
        assert size.why.count("does not start as it is") == 1

    def test_an_enclave_larger_than_any_machine_needs_edmm(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.mmap(BASE - (1 << 44), 3 << 40, NONE, NORESERVE)
        edmm = advised(trace.touched())["sgx.edmm_enable"]
        assert edmm.line == "sgx.edmm_enable = true"
        assert "an enclave of 4096G cannot be built without EDMM" in edmm.why

    def test_a_small_program_needs_the_allowance(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.mmap(BASE, PAGE, RW)
        assert advised(trace.touched())["sgx.enclave_size"].line == 'sgx.enclave_size = "128M"'

    def test_a_reservation_of_terabytes_says_that_the_default_does_not_do(
        self, tmp_path: Path
    ) -> None:
        trace = Program(tmp_path)
        trace.mmap(BASE - (1 << 44), 3 << 40, NONE, NORESERVE)
        size = advised(trace.touched())["sgx.enclave_size"]
        assert size.line == 'sgx.enclave_size = "4096G"'
        assert "more than the 1024G" in size.why

    def test_edmm_where_most_is_reserved(self, tmp_path: Path) -> None:
        """A large lazy reservation costs EDMM nothing, and EADD and zeroing of all of it else."""
        trace = Program(tmp_path)
        trace.mmap(BASE, 4 << 30, NONE, NORESERVE)
        path = trace.touched()
        edmm = advised(path)["sgx.edmm_enable"]
        assert edmm.line == "sgx.edmm_enable = true"
        assert not edmm.figures["ranges_overlap"]
        assert edmm.figures["without_edmm"]["eadd"] == (8 << 30) // PAGE
        figures = measured(path)
        assert edmm.figures["with_edmm"] == {
            TODAY: figures.costs[TODAY].cycles,
            OURS: figures.costs[OURS].cycles,
        }
        counts = without_edmm(figures, 8 << 30)
        assert edmm.figures["without_edmm"]["cycles"] == PROFILE.cycles(counts)
        assert counts.host_calls == counts.eaccept == 0

    def test_no_edmm_where_memory_comes_and_goes(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        for _ in range(200):
            trace.mmap(BASE, 16 * MIB, RW)
            trace.call("munmap", BASE, 16 * MIB)
        edmm = advised(trace.touched())["sgx.edmm_enable"]
        assert edmm.line == "sgx.edmm_enable = false"
        assert edmm.figures["without_edmm"]["pages_zeroed"] >= 200 * 16 * MIB // PAGE
        assert PROFILE.name in edmm.why

    def test_threads_of_one_process_at_once(self, tmp_path: Path) -> None:
        """Five, of which two end before another two begin; a forked process's are its own."""
        trace = Program(tmp_path)
        trace.mmap(BASE, PAGE, RW)
        for tid in (101, 102, 103, 104):
            trace.row("clone3", THREAD, result=tid)
        for tid in (101, 102):
            trace.row("exit", 0, tid=tid)
        for tid in (105, 106):
            trace.row("clone3", THREAD, result=tid)
        trace.row("clone", 17, result=200)
        trace.row("clone3", THREAD, pid=200, result=201)
        threads = advised(trace.touched())["sgx.max_threads"]
        assert (threads.figures["peak_threads"], threads.line) == (
            5,
            f"sgx.max_threads = {7 + HELPERS}",
        )
        assert "starts so many that 7 is safe" in threads.why

    def test_threads_that_come_and_go_for_ever(self, tmp_path: Path) -> None:
        """Sixteen, or twice as many as lived at once if that is more."""
        trace = Program(tmp_path)
        for tid in range(101, 201):
            trace.row("clone3", THREAD, result=tid)
            trace.row("exit", 0, tid=tid)
        threads = advised(trace.touched())["sgx.max_threads"]
        assert (threads.figures["peak_threads"], threads.figures["value"]) == (2, 16 + HELPERS)

    def test_the_stack_that_grew(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        flags, top = VM_READ | VM_WRITE | VM_GROWSDOWN, BASE + (1 << 39)
        for use, size in ((ADOPTED, 132 << 10), (GREW, 1030 << 10)):
            trace.row("maps", 1, use)
            trace.row("vma", top - (size & -PAGE), top, flags)
        stack = advised(trace.touched())["sys.stack.size"]
        assert stack.figures["main_stack"] == 1028 << 10
        assert stack.line == 'sys.stack.size = "1088K"'

    def test_a_thread_s_stack_that_is_deeper(self, tmp_path: Path) -> None:
        """Counted from its top down to the lowest page that was touched, although not all between
        was."""
        trace = Program(tmp_path)
        size = 8 * MIB
        trace.mmap(BASE, size + PAGE, NONE, STACK_FLAGS)
        trace.call("mprotect", BASE + PAGE, size, RW)
        top = BASE + PAGE + size
        stack = advised(trace.touched((top - 500 * PAGE, top - 499 * PAGE), (top - PAGE, top)))[
            "sys.stack.size"
        ]
        assert stack.figures["deepest_thread_stack"] == 500 * PAGE
        assert stack.figures["value"] == 2 * MIB

    def test_stacks_of_threads_that_are_gone(self, tmp_path: Path) -> None:
        """The deepest of them counts, and nothing else is kept of them."""
        trace = Program(tmp_path)
        for depth in (3, 90, 5):
            start = trace.mmap(BASE, MIB, RW, STACK_FLAGS)
            runs = ((start + MIB - depth * PAGE, start + MIB, 0),)
            trace.row("munmap", BASE, MIB, result=0, touched=runs)
        image = measured(trace.touched()).images[0]
        assert (image.depth, image.regions) == (90 * PAGE, {})

    def test_a_pool_of_stacks_is_no_thread_s(self, tmp_path: Path) -> None:
        """Ruby's fibers: one mapping with a guard page for each stack in it."""
        trace = Program(tmp_path)
        stride, count = 160 * PAGE, 1000
        trace.mmap(BASE, count * stride, RW, STACK_FLAGS)
        for place in range(count):
            trace.call("mprotect", BASE + place * stride, PAGE, NONE)
        top = BASE + count * stride
        stack = advised(trace.touched((BASE + stride - PAGE, BASE + stride), (top - PAGE, top)))[
            "sys.stack.size"
        ]
        assert stack.figures["deepest_thread_stack"] == 0
        assert stack.line == 'sys.stack.size = "256K"'

    def test_values_name_the_program_that_needs_most(self, tmp_path: Path) -> None:
        trace = Program(tmp_path, "/bin/sh")
        trace.call("brk", 0, result=0x10000000)
        trace.row("clone", 17, result=200)
        trace.row("brk", 0x10000000 + 3 * MIB, result=0x10000000 + 3 * MIB, pid=200)
        found = advised(trace.touched())
        assert "the heap of sh (process 200)" in found["sys.brk.max_size"].why
        assert "1 thread of sh (process 100)" in found["sgx.max_threads"].why

    def test_a_shallow_stack_needs_no_more_than_the_default(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.mmap(BASE, PAGE, RW)
        stack = advised(trace.touched())["sys.stack.size"]
        assert stack.figures["value"] == STACK and "default is enough" in stack.why

    def test_the_heap_and_its_refusals(self, tmp_path: Path) -> None:
        """Growth to 3 MiB; then the same refused three times, and once more for another address."""
        trace = Program(tmp_path, source="gramine")
        base = 0x10000000
        trace.call("brk", 0, result=base)
        for size in (1, 3):
            trace.call("brk", base + size * MIB, result=base + size * MIB)
        for size in (4, 4, 4, 5):
            trace.call("brk", base + size * MIB, result=base + 3 * MIB)
        brk = advised(trace.touched())["sys.brk.max_size"]
        assert brk.figures == {
            "value": 6 * MIB,
            "peak_brk": 3 * MIB,
            "refused": 4,
            "repeated": 2,
            "from_settings": 0,
        }
        assert brk.line == 'sys.brk.max_size = "6M"' and "4 times" in brk.why

    def test_a_heap_without_refusals(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        base = 0x555555556000
        trace.call("brk", 0, result=base)
        trace.call("brk", base + 5 * MIB + PAGE, result=base + 5 * MIB + PAGE)
        trace.call("brk", base + PAGE, result=base + PAGE)
        brk = advised(trace.touched())["sys.brk.max_size"]
        assert brk.line == 'sys.brk.max_size = "6M"' and "no growth was refused" in brk.why

    def test_sizes_have_room_to_spare(self, tmp_path: Path) -> None:
        """A heap, and an enclave, that would be full to the last twentieth are made larger."""
        trace = Program(tmp_path)
        base = 0x10000000
        trace.call("brk", 0, result=base)
        trace.call("brk", base + 128 * MIB - PAGE, result=base + 128 * MIB - PAGE)
        trace.mmap(BASE, 55 * MIB, RW)
        found = advised(trace.touched())
        size, brk = found["sgx.enclave_size"], found["sys.brk.max_size"]
        assert brk.line == 'sys.brk.max_size = "135M"' and "7.0 MiB are to spare" in brk.why
        assert 0.95 * 256 * MIB < size.figures["need"] < 256 * MIB
        assert size.line == 'sgx.enclave_size = "512M"' and "% free" in size.why

    def test_exinfo_for_what_is_reserved(self, tmp_path: Path) -> None:
        """Pages mapped MAP_NORESERVE, how many of them were touched, and the costs with it and
        without."""
        trace = Program(tmp_path)
        trace.mmap(BASE, 4 << 30, RW, NORESERVE)
        path = trace.touched((BASE, BASE + 7 * PAGE))
        exinfo = advised(path)["sgx.use_exinfo"]
        assert exinfo.line == "sgx.use_exinfo = true"
        assert exinfo.figures["noreserve_pages"] == (4 << 30) // PAGE
        assert exinfo.figures["noreserve_touches"] == [7, 7]
        figures = measured(path)
        assert (
            figures.costs[EAGER].epc_pages[0]
            >= (4 << 30) // PAGE
            > 1000
            > figures.costs[TODAY].epc_pages[1]
        )

    def test_exinfo_where_nothing_is(self, tmp_path: Path) -> None:
        """Said, and what is PROT_NONE without the flag is named."""
        trace = Program(tmp_path)
        trace.mmap(BASE, 64 * MIB, NONE)
        exinfo = advised(trace.touched())["sgx.use_exinfo"]
        assert exinfo.line == "sgx.use_exinfo = false"
        assert "does not help this program as it is" in exinfo.why
        assert exinfo.figures["prot_none_without_noreserve"] == 64 * MIB
        assert "prog (process 100) reserves 64.0 MiB PROT_NONE at most" in exinfo.why


class TestTraces:
    def test_a_log_gives_ranges_and_says_why(self, tmp_path: Path) -> None:
        """Nobody knows which pages were touched: none, or all that were accessible."""
        trace = Program(tmp_path, source="gramine")
        trace.mmap(BASE, 64 * MIB, RW, NORESERVE)
        figures = measured(trace.touched())
        assert not figures.touches
        assert figures.lazy_touched == (0, 64 * MIB // PAGE)
        low, high = figures.costs[TODAY].cycles
        assert low < high
        advice = advisor.advise(figures, PROFILE)
        text = report.as_text(figures, advice, PROFILE, None)
        assert "does not say which pages were touched" in " ".join(text.split())
        assert "0 to 16,384 first touches" in " ".join(text.split())

    def test_an_empty_trace(self, tmp_path: Path) -> None:
        figures = measured(Builder(tmp_path / "a.trace").end())
        assert advisor.advise(figures, PROFILE) == []
        assert "nothing to advise" in report.as_text(figures, [], PROFILE, None)
        assert report.as_json(figures, [], PROFILE, None, None, None, None)["advice"] == []

    def test_a_trace_without_an_end(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.mmap(BASE, 100 * MIB, RW)
        figures = measured(trace.cut())
        assert len(figures.losses) == 1 and "not ended in order" in figures.losses[0]
        assert figures.most(lambda image: image.peak_mapped) == 100 * MIB

    def test_a_redacted_trace_says_that_names_are_hidden(self, tmp_path: Path) -> None:
        figures = measured(small(tmp_path / "a.trace", redact=True))
        assert (
            report.REDACTED in report.as_json(figures, [], PROFILE, None, None, None, None)["notes"]
        )

    def test_an_exec_begins_anew(self, tmp_path: Path) -> None:
        """Two programs of one process are two; the second has nothing of the first's."""
        trace = Program(tmp_path)
        trace.mmap(BASE, 200 * MIB, RW)
        trace.program("/bin/next", ["next"])
        trace.mmap(BASE, MIB, RW)
        figures = measured(trace.touched())
        assert [process.path for process, _ in figures.programs()] == ["/bin/prog", "/bin/next"]
        assert [image.peak_mapped for image in figures.images] == [200 * MIB, MIB]

    def test_a_fork_s_child_has_what_the_parent_mapped(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        arenas(trace, 2, 1)
        before = 2 * ARENA
        trace.row("clone", 17, result=200)
        trace.row("munmap", BASE, ARENA, pid=200, result=0)
        trace.row("exit", 0, pid=200)
        parent, child = measured(trace.touched()).images
        assert (parent.peak_mapped, parent.mapped) == (before + ARENA, before)
        assert (child.peak_mapped, child.mapped) == (before, before - ARENA)
        assert (len(parent.arenas), child.arenas) == (2, {})

    def test_mremap_moves_and_adds_nothing_twice(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.mmap(BASE, 10 * MIB, RW)
        trace.call("mremap", BASE, 10 * MIB, 30 * MIB, 1, 0, result=BASE + (1 << 30))
        image = measured(trace.touched()).images[0]
        assert (image.mapped, image.peak_mapped) == (30 * MIB, 30 * MIB)


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("make", [arenas, lambda trace, *_: hotspot(trace)])
def test_prose_fits_the_width(
    width: int, make: Callable[[Program, int, int], object], tmp_path: Path
) -> None:
    """Lines to be pasted are whole, all others are no wider than the terminal."""
    trace = Program(tmp_path)
    make(trace, 3, 40)
    figures = measured(trace.touched())
    advice = advisor.advise(figures, PROFILE)
    lines = report.as_text(figures, advice, PROFILE, None, width).splitlines()
    pasted = {line for each in advice for line in each.line.splitlines()}
    assert pasted <= set(lines)
    assert all(len(line) <= width for line in lines if line not in pasted), textwrap.shorten(
        str(lines), 200
    )


def test_the_examples_in_the_docstrings() -> None:
    assert (
        doctest.testmod(laconic.analysis.advise.advice).failed == doctest.testmod(trial).failed == 0
    )
