"""A program observes of its own memory calls exactly what it observes natively (law Faithful)."""

from __future__ import annotations

import pytest

from tests.tracer.lab import STRATEGIES, Run, build, run_alone, run_laconic

CASES = (
    "growth-outlives-its-origin",
    "growth-outlives-a-move",
    "refused-mapping",
    "refused-lock",
    "alternating",
    "resized-file",
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["dynamic", "static"])
@pytest.mark.parametrize("case", CASES)
def test_observations_are_native(case: str, flags: tuple[str, ...], strategy: str) -> None:
    program = build("observations", *flags)
    native = run_alone([program, case])
    assert native.returncode == 0, native.stdout + native.stderr
    run = run_laconic(program, case, strategy=strategy)
    assert (run.status, run.out) == (native.returncode, native.stdout), run.err
    assert run.exact(), run.err
    assert run.figures["resynced"] == 0, run.figures["unmodeled"]
    assert_at_most_one_host_call(run)


def assert_at_most_one_host_call(run: Run) -> None:
    """For every call name and in total: host calls + elided = calls."""
    figures = run.figures
    for counts in (figures, *figures["by_call"].values()):
        assert counts["host_calls"] + counts["elided"] == counts["calls"], counts
    assert sum(line["calls"] for line in figures["by_call"].values()) == figures["calls"]


def test_one_mprotect_over_alternating_pages_is_one_host_call() -> None:
    run = run_laconic(build("observations"), "alternating")
    mprotect = run.figures["by_call"]["mprotect"]
    # The loader's own calls aside: 32 single pages, and one call over all 64.
    native_calls = run_laconic(build("observations"), "resized-file").figures["by_call"]["mprotect"]
    assert mprotect["calls"] - native_calls["calls"] == 33
    assert mprotect["host_calls"] - native_calls["host_calls"] == 33
    assert mprotect["narrowed"] - native_calls["narrowed"] == 1, "the last page is writable already"
