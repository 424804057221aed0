"""Runs every workload of tests/apps under `laconic run` and writes docs/appendix/programs.md:
its memory calls and host calls.

`python benchmarks/programs.py` runs them all and rewrites the page; with names it runs these and
prints them only. Workloads whose programs are not installed are named on the page.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.apps.harness import place  # noqa: E402
from tests.apps.workloads import WORKLOADS, Workload  # noqa: E402

from benchmarks.machine import RUN  # noqa: E402

PAGE = ROOT / "docs" / "appendix" / "programs.md"
COLUMNS = ("calls", "host_calls", "elided", "narrowed", "failed")
HEAD = """\
# Memory calls of real programs

Written by `python benchmarks/programs.py`. Each row is one run of `laconic run --json` on {system}. *Calls* are
those of the program and all its children. Programs with threads, and those that run for a fixed time
(stress-ng), make a different number of calls each time. Redundant mprotects are rare, except in stress tests
and in per-page, which was written to make them. Most elided calls are ld.so's second mapping of each library's
read-only segment, and queries of the break.

## All programs

| program | processes | calls | host calls | elided | elided % | narrowed | resynced |
|---|--:|--:|--:|--:|--:|--:|--:|
"""  # noqa: E501


def figures(workload: Workload) -> dict[str, Any]:
    """The JSON of one run of a workload under Laconic."""
    with place(workload) as here:
        path = here.top / "figures.json"
        here.run((*RUN, "--json", str(path), "--"))
        result: dict[str, Any] = json.loads(path.read_text())
    return result


def overview(name: str, run: dict[str, Any]) -> str:
    """One program's line in the first table."""
    share = 100 * run["elided"] / run["calls"] if run["calls"] else 0
    return (
        f"| {name} | {run['processes']:,} | {run['calls']:,} | {run['host_calls']:,} | "
        f"{run['elided']:,} | {share:.1f} "
        f"| {run['narrowed']:,} | {run['resynced']:,} |"
    )


def by_call(name: str, run: dict[str, Any]) -> list[str]:
    """One program's lines in the second table, most frequent call first."""
    calls = sorted(run["by_call"].items(), key=lambda item: (-item[1]["calls"], item[0]))
    return [
        f"| {name} | {call} | " + " | ".join(f"{line[c]:,}" for c in COLUMNS) + " |"
        for call, line in calls
    ]


def main(names: list[str]) -> int:
    """Runs the workloads and writes the page, or prints those that were named."""
    chosen = [workload for workload in WORKLOADS if not names or workload.name in names]
    totals, calls, absent = [], [], []
    for number, workload in enumerate(chosen, 1):
        if reason := workload.missing():
            absent.append(f"{workload.name} ({reason})")
            continue
        print(f"{number}/{len(chosen)} {workload.name}", file=sys.stderr)
        run = figures(workload)
        totals.append(overview(workload.name, run))
        calls += by_call(workload.name, run)
    page = HEAD.format(
        system=f"{platform.system()} {platform.release().split('-')[0]}"
    ) + "\n".join(totals)
    page += (
        "\n\n## By call\n\n| program | memory call | calls | host calls | elided | narrowed "
        "| failed |\n"
    )
    page += "|---|---|--:|--:|--:|--:|--:|\n"
    page += "\n".join(calls) + "\n"
    if absent:
        page += "\nNot run, since they were not installed: " + ", ".join(absent) + ".\n"
    if names:
        print(page)
    else:
        PAGE.write_text(page)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
