"""Real programs behave under Laconic as they do natively, and the host hears only of what
changes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from laconic.replay import replay_trace
from laconic.report.replay import as_json
from laconic.trace.reader import TraceReader
from tests.apps.harness import Outcome, Place, place
from tests.apps.workloads import WORKLOADS, Workload

PAGES = 10_000
LEAST_ELIDED = 0.07


def compiled(name: str, *arguments: str) -> Workload:
    """Return the workload of one of our own C programs."""
    build = ("gcc", "-std=gnu11", "-O2", "-pthread", "-o", name, f"{name}.c")
    return Workload(name, (f"./{name}", *arguments), ("gcc",), (build,))


@contextmanager
def available(workload: Workload) -> Iterator[Place]:
    """Build a workload, or skip the test where the machine lacks what it needs."""
    if reason := workload.missing():
        pytest.skip(reason)
    with place(workload) as here:
        yield here


def under_laconic(here: Place) -> tuple[Outcome, dict[str, Any]]:
    """Run a workload under Laconic with every call verified, and return its outcome and Laconic's
    report."""
    path, recording = here.top / "report.json", here.top / "a.trace"
    options = ("--quiet", "--verify", "call", "--json", str(path), "-o", str(recording), "--force")
    outcome = here.run((sys.executable, "-m", "laconic", "run", *options, "--"))
    assert path.exists(), f"no report: {outcome}"
    report: dict[str, Any] = json.loads(path.read_text())
    replays_to(recording, report)
    return outcome, report


def replays_to(recording: Path, report: dict[str, Any]) -> None:
    """Replay a trace, and assert that it comes to the figures of the run to the last unit, and to
    every result."""
    trace = TraceReader(str(recording))
    replayed = as_json(trace, replay_trace(trace, check=True))
    assert replayed["trace"]["loss"] == []
    assert not any(replayed["check"]["differences"].values()), replayed["check"]["first"][:3]
    report = json.loads(json.dumps(report))
    assert {key: value for key, value in replayed.items() if key in report} == report


def compare(here: Place) -> dict[str, Any]:
    """Run a workload natively and under Laconic, assert that nobody can tell, and return Laconic's
    report."""
    native = here.run()
    traced, report = under_laconic(here)
    assert traced.visible() == native.visible()
    assert report["exit_status"] == native.status
    assert report["verify"]["mode"] == "call"
    assert report["verify"]["checks"] > 0
    assert report["verify"]["mismatches"] == 0
    assert report["resynced"] == 0
    for name, counted in report["by_call"].items():
        assert counted["host_calls"] <= counted["calls"], name
    return report


def calls(report: dict[str, Any], name: str, field: str) -> int:
    """Return one number of the report about the calls of one name: 0 where there was none."""
    number: int = report["by_call"].get(name, {}).get(field, 0)
    return number


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else [])
        for each in WORKLOADS
    ],
)
def test_same_as_native(workload: Workload) -> None:
    """Output and exit status are the native ones, no bookkeeping is wrong, and work is saved where
    it must be."""
    with available(workload) as here:
        report = compare(here)
    if workload.elides:
        assert calls(report, "mmap", "elided") >= 1
        assert report["elided"] >= LEAST_ELIDED * report["calls"]


def test_redundant_protections_are_not_told() -> None:
    """No page's mprotect() to what it already is reaches the host (Gramine issue #1708)."""
    with available(compiled("redundant", str(PAGES))) as here:
        report = compare(here)
    with available(compiled("redundant", "0")) as here:
        idle = compare(here)
    assert calls(report, "mprotect", "elided") >= PAGES
    assert calls(report, "mprotect", "host_calls") == calls(idle, "mprotect", "host_calls")


def test_protection_of_a_region_is_told_for_one_page() -> None:
    """Closing a large code cache in which one page was open tells the host of that page alone."""
    with available(compiled("jit")) as here:
        report = compare(here)
    assert calls(report, "mprotect", "narrowed") == 1


def test_mapping_over_written_memory_is_told() -> None:
    """A mapping over one of equal attributes brings fresh contents, so it may be elided only while
    untouched."""
    with available(compiled("remap_trap")) as here:
        compare(here)
