"""Memory calls that few programs make, and programs with filters of their own: all exact, as far as
it can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracer.lab import STRATEGIES, Run, build, run_alone, run_laconic, skip_where_it_did

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
CALLS = (
    "stack",
    "growsdown",
    "aio",
    "sysv",
    "shared",
    "hugetlb",
    "locks",
    "mseal",
    "pkeys",
    "process-madvise",
    "userfaultfd",
    "names",
    "guards",
    "mdwe",
)


def compared(program: Path, name: str, strategy: str) -> Run:
    """Runs a program's part alone and under Laconic: status and output are the same, and the
    bookkeeping is exact."""
    alone = run_alone([program, name])
    assert alone.returncode == 0, alone.stdout
    run = run_laconic(program, name, strategy=strategy)
    assert (run.status, run.out) == (0, alone.stdout), run.err
    assert run.exact()
    return run


@every_strategy
@pytest.mark.parametrize("name", CALLS)
def test_calls_that_few_programs_make(name: str, strategy: str) -> None:
    run = compared(build("odd_calls"), name, strategy)
    # A kernel without one of these calls refuses it, and the program says so: in the same words
    # under Laconic.
    assert run.figures["resynced"] == (1 if name == "process-madvise" else 0)


def test_a_move_of_several_vmas_is_not_interrupted() -> None:
    """A restarted mremap would find that its first VMA has moved already."""
    program = build("moves")
    alone = run_alone([program])
    if alone.returncode or alone.stdout.startswith("300 "):
        pytest.skip("this kernel has no KSM, or moves one VMA at a time (before Linux 6.17)")
    run = run_laconic(program)
    assert (run.status, run.out) == (0, "0 failed\n"), run.err
    assert run.exact()


@every_strategy
def test_calls_of_the_i386_abi_from_a_64_bit_program(strategy: str) -> None:
    run = compared(build("odd_calls"), "int80", strategy)
    skip_where_it_did(run)
    assert run.figures["resynced"] == 4


@every_strategy
def test_the_break_moved_by_the_i386_abi(strategy: str) -> None:
    skip_where_it_did(compared(build("odd_calls", "-static", "-no-pie"), "int80-brk", strategy))


@every_strategy
@pytest.mark.parametrize(
    "name", ["errno", "trap", "kill", "notify", "notify-memory", "mmap-flags", "undumpable"]
)
def test_programs_with_filters_of_their_own(name: str, strategy: str) -> None:
    compared(build("filters"), name, strategy)
