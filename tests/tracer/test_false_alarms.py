"""Correct programs that `--verify` once called a defect of Laconic: none is reported, and each
behaves as natively."""

from __future__ import annotations

import pytest

from tests.tracer.lab import STRATEGIES, build, run_alone, run_laconic, skip_where_it_did

CASES = (
    "exec-killed",
    "exec-fails",
    "sealed",
    "sealed-future",
    "merged",
    "secret",
    "zero",
    "sync-fork",
    "remap-executable",
    "supervised",
    "half-moved-0",
    "half-moved-1",
    "half-moved-2",
    "half-moved-3",
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("verify", ["call", pytest.param("exit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_a_correct_program_is_not_called_a_defect(name: str, verify: str, strategy: str) -> None:
    program = build("false_alarms")
    alone = run_alone([program, name])
    assert alone.returncode == 0, alone.stdout
    run = run_laconic(program, name, verify=verify, strategy=strategy)
    assert (run.status, run.out) == (0, alone.stdout), run.err
    assert run.exact()
    skip_where_it_did(run)


def test_a_call_that_a_supervisor_lets_through_is_counted_as_resynced() -> None:
    run = run_laconic(build("false_alarms"), "supervised", verify="exit")
    skip_where_it_did(run)
    assert run.figures["resynced"] == 1
    assert "seccomp supervisor, which let memory calls through" in run.err


def test_merging_every_mapping_is_modelled() -> None:
    """prctl(PR_SET_MEMORY_MERGE) is not a call that only the host understands."""
    run = run_laconic(build("false_alarms"), "merged")
    skip_where_it_did(run)
    assert run.figures["resynced"] == 0
