"""Advice for real programs: its figures are what the trace says, counted here in another way;
settings that help."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconic.memory.flags import MAP_FIXED, VM_GROWSDOWN, VM_IO, VM_PFNMAP
from laconic.replay.engine import Replay
from laconic.trace import Trace
from laconic.trace.records import CallRecord, Exit, ProgramRecord
from tests.apps.harness import environment

THREADS = """
import mmap, threading
gate = threading.Barrier(6)
def work():
    area = mmap.mmap(-1, 4 << 20)
    area[0] = 1
    gate.wait()
    area.close()
group = [threading.Thread(target=work) for _ in range(5)]
[each.start() for each in group]
gate.wait()
[each.join() for each in group]
heap = [bytearray(1000) for _ in range(5000)]
"""
JAVA = """
public class Small {
    public static void main(String[] words) throws Exception {
        byte[][] kept = new byte[2000][];
        for (int at = 0; at < kept.length; at++) kept[at] = new byte[2000];
        System.out.println(kept.length);
    }
}
"""
ARENAS = """
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
static pthread_barrier_t gate;
static void *work(void *unused) {
    char *kept[2000];
    for (int at = 0; at < 2000; at++) { kept[at] = malloc(1000); memset(kept[at], 1, 1000); }
    pthread_barrier_wait(&gate);
    for (int at = 0; at < 2000; at++) free(kept[at]);
    return unused;
}
int main(void) {
    pthread_t threads[8];
    pthread_barrier_init(&gate, 0, 8);
    for (int at = 0; at < 8; at++) pthread_create(&threads[at], 0, work, 0);
    for (int at = 0; at < 8; at++) pthread_join(threads[at], 0);
    return 0;
}
"""
CHURN = """
#include <stdlib.h>
#include <string.h>
int main(void) {
    char *kept[40];
    for (int round = 0; round < 20; round++) {
        char *large = malloc(900000 + round * 50000);
        memset(large, 1, 900000);
        for (int at = 0; at < 40; at++) { kept[at] = malloc(100000); memset(kept[at], 1, 100000); }
        for (int at = 40; at-- > 0;) free(kept[at]);
        free(large);
    }
    return 0;
}
"""
STACK = """
#include <string.h>
static int deeper(int left) {
    volatile char room[65536];
    memset((void *)room, left, sizeof room);
    return left ? deeper(left - 1) + room[5] : 0;
}
int main(void) { return deeper(60) == -1; }
"""
GO = """
package main
import "runtime/debug"
var kept [][]byte
func main() {
    for round := 0; round < 20; round++ {
        for at := 0; at < 3000; at++ { kept = append(kept, make([]byte, 40000)) }
        kept = nil
        debug.FreeOSMemory()
    }
}
"""
PROGRAMS = {
    "python3": (sys.executable, "-c", THREADS),
    "java": ("java", "Small.java"),
    "node": ("node", "-e", "let kept = []; for (let at = 0; at < 1e5; at++) kept.push({ at })"),
}


def laconic(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `laconic WORDS`."""
    command = [sys.executable, "-m", "laconic", *words]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return done


def needs(*programs: str) -> None:
    """Skips the test where one is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"not installed: {program}")


def compiled(source: str, here: Path) -> str:
    """A C program."""
    needs("gcc")
    (here / "program.c").write_text(source)
    subprocess.run(["gcc", "-O1", "-pthread", "program.c", "-o", "program"], cwd=here, check=True)
    return "./program"


def advice(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pieces of advice of a JSON, by option."""
    return {each["option"]: each for each in found["advice"]}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "java" else name for name in PROGRAMS],
)
def test_figures_are_the_trace_s(name: str, tmp_path: Path) -> None:
    """Peaks of mappings, threads, stack and heap, and what is mapped MAP_NORESERVE."""
    needs(PROGRAMS[name][0])
    (tmp_path / "Small.java").write_text(JAVA)
    laconic("run", "--quiet", "-o", "a.trace", "--", *PROGRAMS[name], cwd=tmp_path)
    shown = laconic("advise", "a.trace", "--json", "a.json", cwd=tmp_path).stdout
    found = advice(json.loads((tmp_path / "a.json").read_text()))
    trace = str(tmp_path / "a.trace")
    counted = walk(trace)
    assert found["sgx.enclave_size"]["figures"]["peak_mapped"] == counted["mapped"]
    assert found["sys.stack.size"]["figures"]["main_stack"] == counted["stack"]
    assert found["sgx.max_threads"]["figures"]["peak_threads"] == threads(trace)
    assert found["sys.brk.max_size"]["figures"]["peak_brk"] == heap(trace)
    assert found["sgx.use_exinfo"]["figures"]["noreserve_pages"] >= reserved(trace) >> 12
    if name != "java":  # which maps over its reservations once more
        assert found["sgx.use_exinfo"]["figures"]["noreserve_pages"] == reserved(trace) >> 12
    assert f"sgx.max_threads = {possible_threads(trace) + 3}" in shown.splitlines()
    size = int(found["sgx.enclave_size"]["figures"]["value"])
    assert size & size - 1 == 0 and size > counted["mapped"]
    if name == "java":
        assert {"-XX:ReservedCodeCacheSize", "-XX:CompressedClassSpaceSize"} <= set(found)


def walk(path: str) -> dict[str, int]:
    """The most that any one process had mapped, and of stack, looked at before every event."""
    most = Counter({"mapped": 0, "stack": 0})
    engine = Replay(Trace(path))

    def look(number: int, time: int) -> bool:
        for mm in engine.processes.values():
            entries = list(mm.space.vmas) if mm.space is not None else []
            own = [
                (end - start, vma.flags)
                for start, end, vma in entries
                if not vma.flags & (VM_IO | VM_PFNMAP)
            ]
            most["mapped"] = max(most["mapped"], sum(size for size, _ in own))
            most["stack"] = max(
                most["stack"], sum(size for size, flags in own if flags & VM_GROWSDOWN)
            )
        return False

    engine.run(look)
    return most


def threads(path: str) -> int:
    """The most threads that one process had at once."""
    return max(most for most, _ in threads_by_program(path))


def possible_threads(path: str) -> int:
    """The most that one process might have had at once: all that it started, and of more than 16
    at most twice as many as it had."""
    return max(
        max(most, min(started, max(2 * most, 16))) for most, started in threads_by_program(path)
    )


def threads_by_program(path: str) -> list[tuple[int, int]]:
    """How many threads each program had at once, and in all, from its clones and exits."""
    alive: Counter[int] = Counter()
    found: dict[int, list[int]] = {}
    ended: list[list[int]] = []
    for each in Trace(path):
        if isinstance(each, ProgramRecord):
            alive[each.pid] = 1
            ended.extend(filter(None, [found.pop(each.pid, None)]))
            found[each.pid] = [1, 1]
        elif (
            isinstance(each, CallRecord)
            and each.call.startswith("clone")
            and each.args[0] & 0x10000
            and each.result
        ):
            alive[each.pid] += each.result > 0
            found.setdefault(each.pid, [1, 1])[1] += each.result > 0
        elif isinstance(each, Exit):
            alive[each.pid] -= 1
        else:
            continue
        count = found.setdefault(each.pid, [1, 1])
        count[0] = max(count[0], alive[each.pid])
    return [(most, started) for most, started in (*ended, *found.values())]


def heap(path: str) -> int:
    """The most that the break was above its start, in any program."""
    start: dict[int, int] = {}
    most = 0
    for each in Trace(path):
        if isinstance(each, ProgramRecord):
            start[each.pid] = each.start_brk
        elif isinstance(each, CallRecord) and each.call == "brk" and each.result is not None:
            most = max(most, each.result - start[each.pid])
    return most


def reserved(path: str) -> int:
    """Bytes mapped MAP_NORESERVE and anonymous, where there was nothing before."""
    calls = [
        each
        for each in Trace(path)
        if isinstance(each, CallRecord) and each.call == "mmap" and (each.result or -1) > 0
    ]
    lazy = [
        each for each in calls if each.args[3] & 0x4020 == 0x4020 and not each.args[3] & MAP_FIXED
    ]
    return sum(-(-each.args[1] // 4096) * 4096 for each in lazy)


def test_the_stack_of_a_deep_program(tmp_path: Path) -> None:
    """61 frames of 64 KiB and more each."""
    program = compiled(STACK, tmp_path)
    laconic("advise", "--json", "a.json", "--", program, cwd=tmp_path)
    figures = advice(json.loads((tmp_path / "a.json").read_text()))["sys.stack.size"]["figures"]
    assert 61 << 16 < figures["main_stack"] <= figures["value"] < 66 << 16


def tried(here: Path, *command: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What `advise --try` found: everything, and the advice by option."""
    laconic("advise", "--try", "--json", "a.json", "--", *command, cwd=here)
    found = json.loads((here / "a.json").read_text())
    return found, advice(found)


def middle(figures: dict[str, Any], strategy: str, thing: str) -> float:
    """The middle of a range."""
    span = figures["strategies"][strategy][thing]
    return float(span["low"] + span["high"]) / 2


def improved(
    before: dict[str, Any], each: dict[str, Any], strategy: str, thing: str
) -> Callable[[float], bool]:
    """True where the figure fell to less than this part of what it was."""
    return lambda part: (
        middle(each["after"], strategy, thing) < part * middle(before, strategy, thing)
    )


def test_arenas_that_are_tried(tmp_path: Path) -> None:
    """Eight threads have eight arenas; with one there is less to map, and without EXINFO far less
    to commit.

    Followed together with sys.brk.max_size: the heap that all share fits.
    """
    before, found = tried(tmp_path, compiled(ARENAS, tmp_path))
    arenas = found["MALLOC_ARENA_MAX"]
    assert arenas["figures"]["arenas"] == 8
    assert arenas["after"]["peak_mapped"] < found["sgx.enclave_size"]["figures"]["peak_mapped"] - (
        400 << 20
    )
    assert improved(before, arenas, "every-call, no EXINFO", "cycles")(0.5)
    assert arenas["after"]["exit_status"] == before["unchanged"]["after"]["exit_status"] == 0
    assert not any("is too small" in output for output in arenas["after"]["differences"])
    env = {
        **environment(),
        **dict(
            line.removeprefix("loader.env.").split(" = ") for line in arenas["line"].split("\n")
        ),
    }
    env = {name: value.strip('"') for name, value in env.items()}
    words = [sys.executable, "-m", "laconic", "run", "--quiet", "-o", "b.trace", "--", "./program"]
    subprocess.run(words, cwd=tmp_path, env=env, check=True)
    used = heap(str(tmp_path / "b.trace"))
    assert found["sys.brk.max_size"]["figures"]["peak_brk"] + (8 << 20) < used
    assert used <= found["sys.brk.max_size"]["figures"]["value"]


def test_a_heap_that_is_kept(tmp_path: Path) -> None:
    """Both thresholds: the same program with one of them maps what it took from the heap."""
    before, found = tried(tmp_path, compiled(CHURN, tmp_path))
    kept = found["MALLOC_MMAP_THRESHOLD_"]
    assert improved(before, kept, "every-call", "host_calls")(0.9)
    assert improved(before, kept, "every-call", "cycles")(0.5)
    assert kept["after"]["differences"] == []


@pytest.mark.slow
def test_java_s_flags_that_are_tried(tmp_path: Path) -> None:
    """Each is put after the program's name. The heap that is not reserved is not mapped."""
    needs("java")
    (tmp_path / "Small.java").write_text(JAVA)
    before, found = tried(tmp_path, "java", "-XX:+UseParallelGC", "-Xms64m", "Small.java")
    # A JVM with two collectors, or with -Xms above -Xmx, does not start.
    assert (
        found["-XX:+UseSerialGC"]["after"]["exit_status"]
        == before["together"]["after"]["exit_status"]
        == 0
    )
    assert (
        before["together"]["after"]["peak_mapped"]
        < found["sgx.enclave_size"]["figures"]["peak_mapped"] // 2
    )
    limits = [
        each for name, each in found.items() if name.startswith(("-Xmx", "-XX:CompressedClass"))
    ]
    if not limits:
        pytest.skip("this machine's memory is so small that the JVM reserves little")
    mapped = found["sgx.enclave_size"]["figures"]["peak_mapped"]
    for each in limits:
        assert each["after"]["exit_status"] == 0, each
        assert each["after"]["peak_mapped"] < mapped
        assert each["not_tried"] is None
    assert before["exit_status"] == 0


def test_a_flag_of_a_program_that_another_starts(tmp_path: Path) -> None:
    """It cannot be put anywhere, and that is said; variables are inherited."""
    needs("node", "sh")
    script = "let kept = []; for (let at = 0; at < 1e5; at++) kept.push({ at })"
    _, found = tried(tmp_path, "sh", "-c", f'node -e "{script}"; true')
    flags = [each for name, each in found.items() if name.startswith("--")]
    assert flags
    assert all(
        each["after"] is None and "does not begin with node" in each["not_tried"] for each in flags
    )


@pytest.mark.slow
def test_go_that_gives_memory_back(tmp_path: Path) -> None:
    """Recognised by its heap. With MADV_FREE in the place of MADV_DONTNEED its pages need not be
    zeroed."""
    needs("go")
    (tmp_path / "program.go").write_text(GO)
    env = {
        **environment(),
        "GO111MODULE": "off",
        "GOCACHE": str(tmp_path / "cache"),
        "CGO_ENABLED": "0",
    }
    subprocess.run(
        ["go", "build", "-o", "program", "program.go"], cwd=tmp_path, env=env, check=True
    )
    before, found = tried(tmp_path, "./program")
    free = found["GODEBUG"]
    assert free["figures"]["discards"] > 100
    assert improved(before, free, "laconic", "cycles")(0.95)
    assert found["GOMEMLIMIT"]["figures"]["opened"] >= 3000 * 40000
    assert found["sgx.use_exinfo"]["figures"]["prot_none_without_noreserve"] > 100 << 20
