"""Advice for allocators and runtimes on synthetic traces: where its cause is, with its figure, and
not elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.analysis.advise.advice import Advice, power_of_two, shown_size
from laconic.analysis.advise.figures import TODAY
from laconic.analysis.advise.watch import ARENA, CHUNK, GO_HEAP, MIB
from tests.helpers.adviseprograms import (
    ANONYMOUS,
    DONTNEED,
    FIXED,
    NONE,
    NORESERVE,
    PAGE,
    RW,
    RWX,
    RX,
    STACK_FLAGS,
    Program,
    advised,
    arenas,
    hotspot,
    measured,
    settings,
)
from tests.helpers.traces import BASE, THREAD


class TestOpenblas:
    """Its buffers, one for each thread, are told from other mappings by the stacks."""

    @staticmethod
    def buffers(path: Path, module: str, function: str, count: int = 3) -> str:
        trace = Program(path)
        trace.library("libscipy_openblas64_-1.so")
        for place in range(count):
            trace.row("stack", data=f"/usr/lib/{module}({function}+0x1) [0x1]".encode())
            trace.mmap(BASE + place * 2 * ARENA, 32 * MIB, RW)
        return trace.touched((BASE, BASE + 3 * MIB))

    def test_a_buffer_for_each_thread(self, tmp_path: Path) -> None:
        found = settings(self.buffers(tmp_path, "libscipy_openblas64_-1.so", "alloc_mmap"))
        advice = found["OPENBLAS_NUM_THREADS"]
        assert advice.line == 'loader.env.OPENBLAS_NUM_THREADS = "1"'
        assert advice.figures == {"buffers": 3, "committed": 96 * MIB, "touched": 3 * MIB}
        assert (
            "mapped 3 buffers (alloc_mmap): 96.0 MiB, of which 3.0 MiB were touched" in advice.why
        )

    def test_not_for_one_buffer_or_those_of_others(self, tmp_path: Path) -> None:
        for module, function, count in (
            ("libscipy_openblas64_-1.so", "alloc_mmap", 1),
            ("libother.so", "grow", 3),
        ):
            path = tmp_path / f"{count}"
            path.mkdir()
            assert not settings(self.buffers(path, module, function, count))


class TestAllocators:
    def test_arenas(self, tmp_path: Path) -> None:
        """One arena, and a heap that is kept: malloc adjusts neither threshold once one is set."""
        trace = Program(tmp_path)
        arenas(trace, 3, 40)
        found = advised(trace.touched())
        arena, opened = found["MALLOC_ARENA_MAX"], 3 * (0x21000 + 40 * PAGE)
        assert {
            name: arena.figures[name] for name in ("arenas", "reserved", "growths", "opened")
        } == {
            "arenas": 3,
            "reserved": 3 * ARENA,
            "growths": 120,
            "opened": opened,
        }
        assert arena.why.startswith("prog (process 100) has 3 malloc arenas beside the heap")
        assert arena.line.splitlines() == [
            f'loader.env.{name} = "{value}"' for name, value in arena.env
        ]
        assert dict(arena.env) == {
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": str(128 << 10),
            "MALLOC_TRIM_THRESHOLD_": str(2 * power_of_two(opened)),
        }

    def test_arenas_grow_without_host_calls(self, tmp_path: Path) -> None:
        """They are MAP_NORESERVE: with EXINFO, which is advised, an mprotect of lazy pages is none.
        So no padding."""
        costs = []
        for growths in (1, 120):
            place = tmp_path / str(growths)
            place.mkdir()
            trace = Program(place)
            arenas(trace, 3, growths)
            path = trace.touched()
            assert "MALLOC_TOP_PAD_" not in settings(path)
            costs.append(measured(path).costs[TODAY].host_calls)
        assert costs[0] == costs[1]

    def test_the_heap_has_room_for_what_the_arenas_had(self, tmp_path: Path) -> None:
        """Both lines hold when both are followed."""
        trace = Program(tmp_path)
        base = 0x555555556000
        trace.call("brk", 0, result=base)
        trace.call("brk", base + 3 * MIB, result=base + 3 * MIB)
        arenas(trace, 4, 900)
        found = advised(trace.touched())
        opened = 4 * (0x21000 + 900 * PAGE)
        brk = found["sys.brk.max_size"]
        assert found["MALLOC_ARENA_MAX"].heap == brk.figures["from_settings"] == opened
        assert 3 * MIB + opened < brk.figures["value"] < 3 * MIB + 2 * opened
        assert shown_size(opened) in brk.why

    def test_one_arena_that_hardly_grows(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        arenas(trace, 1, 3)
        assert settings(trace.touched()) == {}

    def test_reservations_that_are_no_arenas(self, tmp_path: Path) -> None:
        """Of their size, and never made accessible from their base on."""
        trace = Program(tmp_path)
        for place in range(4):
            base = trace.mmap(BASE + place * 4 * ARENA, ARENA, NONE, NORESERVE)
            for page in range(5, 100):
                trace.call("mprotect", base + page * PAGE, PAGE, RW)
        assert settings(trace.touched()) == {}

    @pytest.mark.parametrize(("times", "others"), [(3, 0), (20, 0), (20, 1000)])
    def test_a_heap_that_is_given_back_again_and_again(
        self, times: int, others: int, tmp_path: Path
    ) -> None:
        """Where that is seldom, or little beside what else is done, there is nothing to gain."""
        trace = Program(tmp_path)
        base = 0x555555556000
        trace.call("brk", 0, result=base)
        for _ in range(times):
            for size in (MIB, 128 << 10):
                trace.call("brk", base + size, result=base + size)
        for _ in range(others):
            trace.mmap(BASE, 2 * MIB, RW)
            trace.call("munmap", BASE, 2 * MIB)
        found = settings(trace.touched())
        assert bool(found) == (times == 20 and not others)
        if found:
            kept = found["MALLOC_MMAP_THRESHOLD_"]
            assert (kept.figures["shrinks"], kept.figures["pages"]) == (20, 20 * 224)
            assert "prog (process 100) gave the heap back 20 times" in kept.why
            assert dict(kept.env)["MALLOC_TRIM_THRESHOLD_"] == str(2 * MIB)

    @pytest.mark.parametrize(
        ("size", "libraries", "there"),
        [
            (1 << 20 | PAGE, ["libc.so.6"], True),
            (1 << 20, ["libc.so.6"], False),
            (1 << 20 | PAGE, ["libcrypto.so.3"], False),
            (1 << 20 | PAGE, ["libc.so.6", "libjemalloc.so.2"], False),
            (64 << 10, ["libc.so.6"], False),
        ],
    )
    def test_blocks_that_come_and_go(
        self, size: int, libraries: list[str], there: bool, tmp_path: Path
    ) -> None:
        """Only malloc's: not of sizes that are other allocators', nor without glibc, nor below its
        threshold."""
        trace = Program(tmp_path)
        for library in libraries:
            trace.library(library)
        for _ in range(17):
            trace.mmap(BASE, size, RW)
            trace.call("munmap", BASE, size)
        found = settings(trace.touched())
        assert ("MALLOC_MMAP_THRESHOLD_" in found) is there
        if there:
            kept = found["MALLOC_MMAP_THRESHOLD_"]
            assert {name: kept.figures[name] for name in ("blocks", "pages", "largest")} == {
                "blocks": 17,
                "pages": 17 * size // PAGE,
                "largest": size,
            }
            assert kept.env == (
                ("MALLOC_MMAP_THRESHOLD_", str(2 * MIB)),
                ("MALLOC_TRIM_THRESHOLD_", str(4 * MIB)),
            )
            assert kept.heap == size
            assert kept.why.startswith("prog (process 100) mapped and unmapped 17 blocks")

    def test_sums_over_programs_name_the_largest_part(self, tmp_path: Path) -> None:
        """And arenas those of the program that has most of them, and the one that opened most."""
        trace = Program(tmp_path)
        trace.library("libjemalloc.so.2")
        trace.mmap(BASE + (1 << 36), MIB, RW)
        for _ in range(10):
            trace.call("madvise", BASE + (1 << 36), MIB, DONTNEED)
        arenas(trace, 3, 1)
        trace.program("/bin/other", ["other"])
        trace.library("libjemalloc.so.2")
        trace.mmap(BASE + (1 << 36), MIB, RW)
        for _ in range(30):
            trace.call("madvise", BASE + (1 << 36), MIB, DONTNEED)
        arenas(trace, 2, 100)
        found = settings(trace.touched())
        conf, arena = found["MALLOC_CONF"], found["MALLOC_ARENA_MAX"]
        assert conf.figures["discards"] == 40
        assert conf.why.startswith("other (process 100) and 1 other program: jemalloc gave freed")
        assert (arena.figures["arenas"], arena.figures["growths"]) == (3, 3)
        opened = shown_size(2 * (0x21000 + 100 * PAGE))
        assert arena.why.startswith("prog (process 100) has 3 malloc arenas")
        assert f"in all (other (process 100) opened {opened})" in arena.why

    @pytest.mark.parametrize(
        ("library", "options"),
        [
            ("libjemalloc.so.2", {"MALLOC_CONF"}),
            ("libmimalloc.so.2.0", {"MIMALLOC_PURGE_DELAY", "MIMALLOC_ALLOW_DECOMMIT"}),
            ("libother.so", set()),
        ],
    )
    def test_discards(self, library: str, options: set[str], tmp_path: Path) -> None:
        """Whose they are the mapped library says."""
        trace = Program(tmp_path)
        trace.library(library)
        trace.mmap(BASE, 4 * MIB, RW)
        for _ in range(20):
            trace.call("madvise", BASE, MIB, DONTNEED)
        found = settings(trace.touched())
        assert set(found) == options
        assert all(each.figures["discards"] == 20 for each in found.values())
        assert all(each.why.startswith("prog (process 100): ") for each in found.values())

    def test_an_allocator_that_gives_nothing_back(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.library("libjemalloc.so.2")
        trace.mmap(BASE, 4 * MIB, RW)
        assert settings(trace.touched()) == {}

    def test_stacks_that_glibc_discards_are_not_the_allocator_s(self, tmp_path: Path) -> None:
        """A thread's, when it ends (advise_stack_range)."""
        trace = Program(tmp_path)
        trace.library("libjemalloc.so.2")
        trace.mmap(BASE, 8 * MIB, RW, STACK_FLAGS)
        for _ in range(20):
            trace.call("madvise", BASE, 8 * MIB - 5 * PAGE, DONTNEED)
        assert settings(trace.touched()) == {}

    def test_mimalloc_s_segments_made_accessible_step_by_step(self, tmp_path: Path) -> None:
        trace = Program(tmp_path)
        trace.library("libmimalloc.so.2.0")
        trace.mmap(BASE, 64 * MIB, NONE)
        for step in range(20):
            trace.call("mprotect", BASE + step * MIB, MIB, RW)
        delay = settings(trace.touched())["MIMALLOC_EAGER_COMMIT_DELAY"]
        assert delay.figures == {"opens": 20, "reserved": 64 * MIB}
        assert delay.why.startswith("prog (process 100): mimalloc reserved 64.0 MiB")


class TestRuntimes:
    def test_java(self, tmp_path: Path) -> None:
        trace = Program(tmp_path, "/usr/bin/java")
        found = settings(trace.touched(*hotspot(trace, steps=20)))
        assert {name: each.line for name, each in found.items()} == {
            "-XX:+UseSerialGC": "-XX:+UseSerialGC",
            "-Xmx64m": "-Xmx64m",
            "-Xms64m": "-Xms64m",
            "-XX:ReservedCodeCacheSize": "-XX:ReservedCodeCacheSize=16m",
            "-XX:CompressedClassSpaceSize": "-XX:CompressedClassSpaceSize=16m",
        }
        assert found["-XX:+UseSerialGC"].figures["bitmaps"] == 2 * (6 << 30) // 64
        assert all(each.why.startswith("java (process 100)") for each in found.values())
        assert found["-Xmx64m"].figures == {"reserved": 6 << 30, "used": 40 * MIB}
        assert found["-Xms64m"].figures == {"steps": 20, "opened": 160 * MIB}
        assert found["-XX:ReservedCodeCacheSize"].figures["used"] == MIB
        for name in ("-Xmx64m", "-XX:ReservedCodeCacheSize", "-XX:CompressedClassSpaceSize"):
            assert "a longer one, or more load, may need more" in found[name].why

    def test_a_heap_that_grows_in_few_steps(self, tmp_path: Path) -> None:
        """Four more host calls, or none, are no reason for a setting."""
        trace = Program(tmp_path, "/usr/bin/java")
        assert "-Xms64m" not in settings(trace.touched(*hotspot(trace)))

    def test_a_jvm_needs_its_page_faults(self, tmp_path: Path) -> None:
        """Gramine passes SIGSEGV on only with EXINFO, with EDMM or not."""
        trace = Program(tmp_path, "/usr/bin/java")
        trace.library("libjvm.so")
        exinfo = advised(trace.touched())["sgx.use_exinfo"]
        assert exinfo.line == "sgx.use_exinfo = true" and "the JVM handles SIGSEGV" in exinfo.why

    def test_java_with_serial_gc(self, tmp_path: Path) -> None:
        """No bitmaps, no advice."""
        trace = Program(tmp_path, "/usr/bin/java")
        assert "-XX:+UseSerialGC" not in settings(trace.touched(*hotspot(trace, 0)))

    def test_a_heap_as_large_as_the_class_space(self, tmp_path: Path) -> None:
        """It is mapped first."""
        trace = Program(tmp_path, "/usr/bin/java")
        trace.library("libjvm.so")
        for place, length in enumerate((1 << 30, (1 << 30) + 16 * MIB)):
            trace.mmap(BASE + (place << 32), length, NONE, NORESERVE)
            trace.call("mprotect", BASE + (place << 32), 64 * MIB, RW)
        found = settings(
            trace.touched((BASE, BASE + 60 * MIB), (BASE + (1 << 32), BASE + (1 << 32) + MIB))
        )
        assert found["-Xmx128m"].figures["used"] == 60 * MIB
        assert found["-XX:CompressedClassSpaceSize"].figures["used"] == MIB

    def test_a_heap_that_is_smaller_than_an_arena(self, tmp_path: Path) -> None:
        """-Xmx128m with 60 MiB in use: glibc's reservations for a thread are as large, or
        larger."""
        trace = Program(tmp_path, "/usr/bin/java")
        trace.library("libjvm.so")
        heap, classes = BASE + (1 << 36), BASE + (1 << 37)
        arenas(trace, 3, 2)
        trace.mmap(heap, 128 * MIB, NONE, NORESERVE)
        trace.mmap(heap, 64 * MIB, RW, NORESERVE | FIXED)
        trace.mmap(classes, (1 << 30) + 16 * MIB, NONE, NORESERVE)
        trace.call("mprotect", classes, 4 * MIB, RW)
        other = classes + (1 << 36)
        trace.mmap(other, 512 * MIB, NONE, NORESERVE)
        trace.call("mprotect", other, 80 * MIB, RW)
        found = settings(
            trace.touched((BASE, BASE + MIB), (heap, heap + 60 * MIB), (other, other + 80 * MIB))
        )
        assert not any(name.startswith("-Xmx") for name in found), "128 MiB are what it needs"

    def test_the_jvm_that_needs_most(self, tmp_path: Path) -> None:
        """sh -c 'java -version; java -Xmx200m T': the first reserves more, and uses less."""
        trace = Program(tmp_path, "/usr/bin/java")
        first = hotspot(trace)
        trace.row("clone", 17, result=300)
        trace.row("exit", 0, touched=tuple((start, start + MIB, 0) for start, _ in first))
        trace.program("/usr/bin/java", ["java"], pid=300)
        heap = BASE
        trace.mmap(BASE + (1 << 39), 2 * PAGE, RX, 2, trace.file("/usr/lib/libjvm.so"), pid=300)
        trace.mmap(heap, 1 << 29, NONE, NORESERVE, pid=300)
        trace.mmap(heap, 200 * MIB, RW, NORESERVE | FIXED, pid=300)
        trace.row("exit", 0, pid=300, touched=((heap, heap + 150 * MIB, 0),))
        found = settings(trace.end())
        assert found["-Xmx256m"].figures["used"] == 150 * MIB
        assert "java (process 300) reserved 512.0 MiB" in found["-Xmx256m"].why

    def test_a_code_cache_that_grows(self, tmp_path: Path) -> None:
        """The second compiler stays: without it what is hot is slower, and growth of lazy pages
        costs no host call."""
        trace = Program(tmp_path, "/usr/bin/java")
        runs = hotspot(trace)
        for step in range(1, 5):
            trace.mmap(BASE + (8 << 30) + step * 2 * MIB, 2 * MIB, RWX, NORESERVE | FIXED)
        assert "-XX:TieredStopAtLevel" not in settings(trace.touched(*runs))

    def test_the_same_without_a_jvm(self, tmp_path: Path) -> None:
        """The library decides, and no program's name."""
        trace = Program(tmp_path, "/usr/bin/java")
        trace.mmap(BASE, 6 << 30, NONE, NORESERVE)
        trace.mmap(BASE, 32 * MIB, RW, NORESERVE | FIXED)
        assert settings(trace.touched()) == {}

    def go(self, tmp_path: Path, threads: int, discards: int, heap: int) -> dict[str, Advice]:
        trace = Program(tmp_path, "/bin/server")
        trace.mmap(GO_HEAP, 2 * ARENA, NONE, ANONYMOUS)
        trace.mmap(GO_HEAP, heap, RW, ANONYMOUS | FIXED)
        for tid in range(101, 100 + threads):
            trace.row("clone", THREAD, result=tid)
        for _ in range(discards):
            trace.call("madvise", GO_HEAP, PAGE, DONTNEED)
        return settings(trace.touched())

    def test_go(self, tmp_path: Path) -> None:
        """GOGC is left alone: a larger heap is more to commit."""
        found = self.go(tmp_path, 17, 18, 100 * MIB)
        assert set(found) == {"GOMAXPROCS", "GODEBUG", "GOMEMLIMIT"}
        assert found["GOMAXPROCS"].figures == {"threads": 17}
        assert "No more than 4 goroutines then compute" in found["GOMAXPROCS"].why
        assert found["GODEBUG"].line == 'loader.env.GODEBUG = "madvdontneed=0"'
        assert found["GODEBUG"].figures == {"discards": 18}
        assert found["GOMEMLIMIT"].env == (("GOMEMLIMIT", "128MiB"),)

    def test_each_setting_follows_from_the_go_program_that_needs_most_of_it(
        self, tmp_path: Path
    ) -> None:
        """A parent that maps most, a child with the largest heap, and one with most threads."""
        trace = Program(tmp_path, "/bin/parent")
        trace.mmap(GO_HEAP, 2 * ARENA, NONE, ANONYMOUS)
        trace.mmap(GO_HEAP, 70 * MIB, RW, ANONYMOUS | FIXED)
        trace.mmap(BASE, 4 << 30, NONE, NORESERVE)
        for pid, name in ((200, "heap"), (300, "threads")):
            trace.row("clone", 17, result=pid)
            trace.program(f"/bin/{name}", [name], pid=pid)
            trace.mmap(GO_HEAP, 16 * ARENA, NONE, ANONYMOUS, pid=pid)
        trace.mmap(GO_HEAP, 900 * MIB, RW, ANONYMOUS | FIXED, pid=200)
        for tid in range(301, 320):
            trace.row("clone", THREAD, result=tid, pid=300)
        for _ in range(18):
            trace.call("madvise", GO_HEAP, PAGE, DONTNEED)
        found = settings(trace.touched())
        assert found["GOMEMLIMIT"].env == (("GOMEMLIMIT", "960MiB"),)
        assert found["GOMEMLIMIT"].why.startswith("heap (process 200), a Go program, grew its heap")
        assert found["GOMAXPROCS"].figures == {"threads": 20}
        assert found["GOMAXPROCS"].why.startswith("threads (process 300), a Go program, has 20")
        assert found["GODEBUG"].figures == {"discards": 18}
        assert found["GODEBUG"].why.startswith("parent (process 100), a Go program, gave pages")

    def test_the_threads_of_a_go_program_on_few_processors(self, tmp_path: Path) -> None:
        assert self.go(tmp_path, 9, 2, 4 * MIB) == {}

    def test_a_small_go_program(self, tmp_path: Path) -> None:
        assert self.go(tmp_path, 3, 2, 4 * MIB) == {}

    def node(self, tmp_path: Path, name: str, changes: int, threads: int) -> dict[str, Advice]:
        trace = Program(tmp_path, name)
        trace.mmap(BASE, 512 * MIB, NONE, NORESERVE)
        for number in range(changes):
            trace.call("mprotect", BASE, 64 * PAGE, RX if number % 2 else RW)
        for tid in range(101, 100 + threads):
            trace.row("clone3", THREAD, result=tid)
        for _ in range(30):
            trace.mmap(BASE + (1 << 32), CHUNK, RW)
            trace.call("munmap", BASE + (1 << 32), CHUNK)
        return settings(trace.touched())

    def test_node_that_changes_its_code_all_the_time(self, tmp_path: Path) -> None:
        """What the price of that is, and that no figure shows, is said."""
        found = self.node(tmp_path, "/usr/bin/node", 600, 7)
        assert set(found) == {"--jitless", "--v8-pool-size"}
        # The first mprotect finds nothing executable.
        assert found["--jitless"].figures == {"changes": 599, "pages": 599 * 64}
        assert "several times slower" in found["--jitless"].why
        assert found["--v8-pool-size"].figures == {"threads": 7}
        assert all(each.why.startswith("node (process 100) runs V8") for each in found.values())

    def test_the_node_that_has_the_cause(self, tmp_path: Path) -> None:
        """The second changes code and has threads, the first only maps more."""
        trace = Program(tmp_path, "/usr/bin/node")
        trace.mmap(BASE, 4 << 30, NONE, NORESERVE)
        trace.row("clone", 17, result=200)
        trace.program("/usr/bin/node", ["node"], pid=200)
        for number in range(3):
            trace.mmap(BASE, 128 * MIB, RX if number % 2 else RW, ANONYMOUS | FIXED, pid=200)
        for tid in range(201, 207):
            trace.row("clone3", THREAD, result=tid, pid=200)
        found = settings(trace.touched())
        assert found["--jitless"].figures == {"changes": 2, "pages": 2 * 128 * MIB // PAGE}
        assert found["--v8-pool-size"].figures == {"threads": 7}
        assert all(each.why.startswith("node (process 200)") for each in found.values())

    def test_node_with_a_large_reservation_for_code(self, tmp_path: Path) -> None:
        """That is lazy, and costs nothing; some changes cost less than what compilation saves."""
        found = self.node(tmp_path, "/usr/bin/node", 40, 4)
        assert found == {}

    @pytest.mark.parametrize(("name", "many"), [("/usr/bin/node", 3), ("/bin/prog", 600)])
    def test_another_program_and_an_idle_node(self, name: str, many: int, tmp_path: Path) -> None:
        assert self.node(tmp_path, name, many, min(many, 4)) == {}
