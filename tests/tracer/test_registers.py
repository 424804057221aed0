"""What a `syscall` instruction keeps is kept, bit for bit, across memory calls of each kind."""

from __future__ import annotations

import pytest

from tests.tracer.failing import failing
from tests.tracer.lab import STRATEGIES, build, run_alone, run_laconic


@pytest.mark.parametrize("verify", ["off", "call"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_registers_across_memory_calls(strategy: str, verify: str) -> None:
    program = build("registers")
    alone = run_alone([program])
    assert alone.returncode == 0, alone.stdout
    run = run_laconic(program, strategy=strategy, verify=verify)
    assert (run.status, run.out) == (0, alone.stdout), run.out
    assert run.figures["verify"]["mismatches"] == 0
    if strategy == "laconic":
        mprotect = run.figures["by_call"]["mprotect"]
        assert mprotect["elided"] >= 2 and mprotect["narrowed"] >= 1, (
            "the program no longer makes each kind of call"
        )


@pytest.mark.parametrize("strategy", ["laconic", "every-call"])
def test_registers_where_the_host_fails(strategy: str) -> None:
    """Every second host call fails, or every second other one: the program's registers stay its
    own."""
    program = build("registers", "-static")
    output = run_laconic(program, strategy=strategy, verify="off").figures["host_calls"]
    for odd in (0, 1):
        # The C library's calls come first, then the program's reservation: without them there is
        # nothing to see.
        plan = failing((number, 12) for number in range(8 + odd, output, 2))
        run = run_laconic(program, strategy=strategy, prefix=plan)
        assert "WRONG" not in run.out
        assert run.exact()
        assert run.status in (0, 99) and len(run.out.splitlines()) >= 22, run.err
