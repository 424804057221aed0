"""The figures of real runs: the keys that docs/appendix/json.md lists, sums that are right,
strategies that agree."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

from laconic.memory.change import ChangeKind
from tests.tracer.lab import COMMAND, STRATEGIES, Run, build, run_laconic

KEYS = [
    *(
        "schema",
        "command",
        "exit_status",
        "strategy",
        "host",
        "processes",
        "calls",
        "host_calls",
        "elided",
        "redundant",
    ),
    *("narrowed", "resynced", "unmodeled", "by_call", "changes", "verify", "notes", "seconds"),
]
COLUMNS = ["calls", "host_calls", "elided", "redundant", "narrowed", "failed"]
FORK = [sys.executable, "-c", "import os; os.fork() and os.wait()"]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def without_randomness(strategy: str) -> Run:
    """The program of every memory call, at the same addresses in each run."""
    if shutil.which("setarch") is None:
        pytest.skip("setarch is not installed")
    run = run_laconic(
        build("every_call", "-static"), strategy=strategy, prefix=("setarch", "-R", *COMMAND)
    )
    assert run.status == 0, run.err
    assert run.exact()
    return run


def check_sums(run: Run) -> None:
    """What must hold between the figures of any run."""
    figures = run.figures
    assert list(figures) == KEYS
    for column in COLUMNS:
        assert all(
            type(line[column]) is int and line[column] >= 0 for line in figures["by_call"].values()
        )
    for column in ("calls", "host_calls", "elided", "narrowed"):
        assert figures[column] == sum(line[column] for line in figures["by_call"].values()), column
    for name, line in figures["by_call"].items():
        assert list(line) == COLUMNS
        assert line["host_calls"] + line["elided"] == line["calls"], (
            f"{name}: one call, at most one host call"
        )
        assert line["narrowed"] <= line["host_calls"] and line["redundant"] <= line["elided"], name
        assert line["failed"] <= line["calls"], name
    assert list(figures["by_call"]) == sorted(figures["by_call"])
    assert list(figures["changes"]) == [str(kind.name).lower() for kind in ChangeKind if kind]
    assert list(figures["verify"]) == ["mode", "checks", "mismatches"]
    assert figures["seconds"] > 0


@every_strategy
def test_keys_and_sums(strategy: str) -> None:
    run = run_laconic(*FORK, strategy=strategy)
    assert run.status == 0, run.err
    assert run.exact()
    check_sums(run)
    figures = run.figures
    assert figures["schema"] == 2
    assert figures["command"] == FORK
    assert (figures["exit_status"], figures["strategy"], figures["processes"]) == (0, strategy, 2)
    assert figures["host"] == {
        "system": "Linux",
        "release": platform.release(),
        "machine": "x86_64",
    }
    assert figures["verify"]["mode"] == "call"
    assert (figures["resynced"], figures["notes"]) == (0, [])
    assert all(
        str(figures[key]) in run.err.replace(",", "") for key in ("calls", "host_calls", "elided")
    )


def test_the_reference_names_every_key() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "appendix", "json.md").read_text()
    for key in (*KEYS, *COLUMNS, *(str(kind.name).lower() for kind in ChangeKind if kind)):
        assert f"`{key}`" in page, key


@every_strategy
def test_sums_of_every_memory_call(strategy: str) -> None:
    check_sums(without_randomness(strategy))


def test_every_call_says_every_call() -> None:
    run = without_randomness("every-call")
    assert run.figures["elided"] == run.figures["narrowed"] == 0
    for name, line in run.figures["by_call"].items():
        assert line["host_calls"] == line["calls"], name


def test_the_strategies_agree_on_the_calls() -> None:
    runs = {strategy: without_randomness(strategy) for strategy in STRATEGIES}
    calls = {
        strategy: {
            name: (line["calls"], line["failed"]) for name, line in run.figures["by_call"].items()
        }
        for strategy, run in runs.items()
    }
    assert calls["every-call"] == calls["laconic"] == calls["observe"]
    assert runs["every-call"].out == runs["laconic"].out == runs["observe"].out
    assert runs["every-call"].figures["changes"] == runs["laconic"].figures["changes"]


def test_observe_counts_the_host_calls_of_laconic() -> None:
    """All the figures of a run in which nothing is changed are those of the run in which it is."""
    mediated, seen = without_randomness("laconic").figures, without_randomness("observe").figures
    assert mediated["elided"] > 0 and mediated["narrowed"] > 0
    for key in (
        "by_call",
        "changes",
        "calls",
        "host_calls",
        "elided",
        "narrowed",
        "resynced",
        "processes",
    ):
        assert seen[key] == mediated[key], key


def test_two_runs_are_counted_alike() -> None:
    first, second = (without_randomness("laconic").figures for _ in range(2))
    for key in ("calls", "by_call", "changes", "verify"):
        assert first[key] == second[key]


@pytest.mark.parametrize("verify", ["off", "exit"])
def test_fewer_checks(verify: str) -> None:
    run = run_laconic("sh", "-c", "(exit 1); (exit 2); exit 4", verify=verify)
    assert run.status == run.figures["exit_status"] == 4
    checks = run.figures["verify"]
    assert (checks["mode"], checks["mismatches"]) == (verify, 0)
    assert checks["checks"] == (0 if verify == "off" else run.figures["processes"])
    assert ("verify" in run.err) == (verify != "off")
