"""Every memory call of a real program is explained; packed, its trace shows the same names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.explain import explain
from laconic.analysis.flamegraph import CALLS, flames
from laconic.analysis.sites import EVERY_CALL, sites
from laconic.report.explain import as_json, as_text
from laconic.report.flamegraph import as_folded
from laconic.trace.schema import MEMORY_CODES
from laconic.trace.stacks import NO_STACK, Stacks

LACONIC = (sys.executable, "-m", "laconic")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recording of the distribution's python3, whose symbols are few and quickly read, with all
    stacks."""
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip(f"not installed: {python}")
    path = tmp_path_factory.mktemp("explain") / "a.trace"
    program = (
        "import mmap; area = mmap.mmap(-1, 65536); area.madvise(mmap.MADV_DONTNEED); area.close()"
    )
    words = [
        *LACONIC,
        "run",
        "--quiet",
        "--stacks",
        "all",
        "-o",
        str(path),
        "--",
        python,
        "-c",
        program,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 71:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return str(path)


@pytest.mark.slow
def test_every_call(trace: str) -> None:
    """In at most 80 columns; what was said is what was recorded."""
    stacks = Stacks()
    rows = list(laconic.trace.open(trace).rows())
    calls = [number for number, row in enumerate(rows) if row.event < MEMORY_CODES]
    assert len(calls) > 30
    redundant = 0
    for number in calls:
        told = explain(laconic.trace.open(trace), str(number), stacks=stacks)
        output = as_text(told)
        assert max(map(len, output.splitlines())) <= 80 and output.startswith(f"event {number}: ")
        if number == calls[0]:
            assert len(json.loads(json.dumps(as_json(told)))["stack"]) > 3
        assert told.stack != NO_STACK and "called from" in output
        assert (told.host_call is not None) == told.recorded == rows[number][12]
        redundant += told.host_call is None
        assert bool(told.changes or told.only_host) == (told.host_call is not None)
        assert any(told.counts["every-call"].values()) or told.name in (
            "brk",
            "madvise",
            "prctl",
            "munmap",
        )
    assert redundant == sum(site.redundant for site in sites(laconic.trace.open(trace)).sites)


def test_packed(trace: str, tmp_path: Path) -> None:
    """The flame graphs of both are the same bytes; replay --check finds nothing in either."""
    packed = str(tmp_path / "b.trace")
    done = subprocess.run(
        [*LACONIC, "pack", trace, "-o", packed], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "were added" in done.stderr
    graphs = []
    for path in (trace, packed):
        found = sites(laconic.trace.open(path), (EVERY_CALL,))
        made = flames(found, CALLS)
        assert made.total == found.ledger.calls and not made.stackless
        graphs.append(as_folded(made))
        checked = subprocess.run(
            [*LACONIC, "replay", "--check", path], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0 and "no difference" in checked.stdout
    assert graphs[0] == graphs[1] and "mprotect" in graphs[0]
