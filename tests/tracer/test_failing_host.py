"""Every host call of a run made to fail, one at a time: Linux's errno, exact bookkeeping, and
nothing hangs."""

from __future__ import annotations

from functools import cache

import pytest

from tests.tracer.failing import failing
from tests.tracer.lab import build, run_laconic

#: The runs are shared out, so that several workers can take them.
PARTS = 8


@cache
def _undisturbed(strategy: str) -> tuple[list[str], int]:
    run = run_laconic(build("every_call", "-static"), verify="off", strategy=strategy)
    assert run.status == 0, run.err
    return run.out.splitlines(), run.figures["host_calls"]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    "strategy", ["laconic", pytest.param("every-call", marks=pytest.mark.slow)]
)
def test_each_host_call_fails_once_with_enomem(strategy: str, part: int) -> None:
    expected, host_calls = _undisturbed(strategy)
    assert host_calls > 40
    for number in range(1 + part, host_calls + 1, PARTS):
        program = build("every_call", "-static")
        run = run_laconic(program, strategy=strategy, prefix=failing([(number, 12)]))
        assert run.exact(), f"host call {number}: {run.err}"
        assert "WRONG" not in run.out, f"host call {number}: {run.out}"
        lines = run.out.splitlines()
        if not lines:
            # Before main: the C library may well give up, as it would on Linux.
            assert run.status, f"host call {number} failed and nobody noticed"
            continue
        differing = [line for line, usual in zip(lines, expected, strict=True) if line != usual]
        if differing:
            # Calls after the one that failed may fail for its sake; the first is the one.
            assert differing[0].endswith(("errno 12", "old break")), (
                f"host call {number}: {differing}"
            )


@pytest.mark.parametrize("errno", [1, 11, 13, 22])
def test_other_errors_are_passed_on_as_they_are(errno: int) -> None:
    expected, host_calls = _undisturbed("laconic")
    run = run_laconic(build("every_call", "-static"), prefix=failing([(host_calls, errno)]))
    assert run.exact()
    assert run.status == 0
    assert f"munmap all errno {errno}" in run.out
    assert len(run.out.splitlines()) == len(expected)


def test_several_failures_in_one_run() -> None:
    plan = failing((number, 12) for number in range(12, 60, 3))
    run = run_laconic(build("every_call", "-static"), prefix=plan)
    assert run.exact()
    assert run.status == 0
    assert "WRONG" not in run.out
