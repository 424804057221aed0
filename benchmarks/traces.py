"""Traces of workloads of tests/apps, recorded once and kept in a directory."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.apps.harness import place  # noqa: E402
from tests.apps.workloads import WORKLOADS  # noqa: E402

from benchmarks.machine import RUN  # noqa: E402


def record(names: Iterable[str], directory: Path) -> dict[str, Path]:
    """Records each workload that can run here, unless its trace is there already; name → trace."""
    directory.mkdir(parents=True, exist_ok=True)
    known = {workload.name: workload for workload in WORKLOADS}
    found = {}
    for name in names:
        path = directory / f"{name}.trace"
        workload = known[name]
        if not path.exists():
            missing = workload.missing()
            if missing:
                print(f"{name}: {missing}", file=sys.stderr)
                continue
            with place(workload) as here:
                made = here.top / "a.trace"
                here.run((*RUN, "-o", str(made), "--"))
                path.write_bytes(made.read_bytes())
        found[name] = path
    return found


def count_calls(name: str) -> Counter[str]:
    """All system calls of a workload and its children, by name, as strace counts them."""
    known = {workload.name: workload for workload in WORKLOADS}
    calls: Counter[str] = Counter()
    with place(known[name]) as here:
        counts = here.top / "counts"
        here.run(("strace", "-f", "-c", "-U", "calls,name", "-o", str(counts), "--"))
        for line in counts.read_text().splitlines():
            words = line.split()
            if len(words) == 2 and words[0].isdigit() and words[1] != "total":
                calls[words[1]] += int(words[0])
    return calls
