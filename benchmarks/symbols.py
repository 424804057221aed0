"""What names cost: `callers` and `html` of a trace of python3 with numpy that has all stacks, the
first time and when the user's cache has its symbols; and `info` of it, which needs no names.

`python -m benchmarks symbols` prints the figures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.machine import table

PROGRAM = "import numpy; a = numpy.ones((300, 300)); print(a.dot(a).sum())"
ROUNDS = 5
#: Seconds of processor time and MB that a verb may take, the first and the second time.
MOST = {"callers": (0.5, 0.3), "html": (1.0, 0.3)}
MOST_MEMORY = 200.0


def measure(words: Sequence[str], variables: Mapping[str, str]) -> tuple[float, float]:
    """Seconds of processor time of `laconic WORDS`, and its largest size in memory in MB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "laconic", *words],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"laconic {' '.join(words)} has failed: run it to see why")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's section, and every target as (what, measured, at most)."""
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        trace, page, cache = place / "a.trace", place / "a.html", place / "cache"
        words = ["run", "-o", str(trace), "--quiet", "--stacks", "all", "--"]
        measure([*words, sys.executable, "-c", PROGRAM], os.environ)
        variables = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        verbs = {
            "info": ["info", str(trace)],
            "callers": ["callers", str(trace)],
            "html": ["html", str(trace), "-o", str(page), "--force"],
        }
        for turn in range(ROUNDS):
            for verb, words in verbs.items():
                shutil.rmtree(cache, ignore_errors=True)
                for time in ("first", "second"):
                    figures.setdefault((verb, time), []).append(measure(words, variables))
            print(f"  round {turn + 1} of {ROUNDS} done", file=sys.stderr)
    seconds = {key: median(cpu for cpu, _ in found) for key, found in figures.items()}
    memory = {key: median(size for _, size in found) for key, found in figures.items()}
    rows = [
        [verb, *(f"{seconds[verb, time]:.2f}" for time in ("first", "second")),
         *(f"{memory[verb, time]:.0f}" for time in ("first", "second"))]
        for verb in verbs
    ]  # fmt: skip
    head = ["", "s, first time", "s, second time", "MB, first time", "MB, second time"]
    targets = []
    for verb, most in MOST.items():
        for time, limit in zip(("first", "second"), most, strict=True):
            targets.append((f"{verb}, {time} time, s", seconds[verb, time], limit))
        targets.append((f"{verb}, MB", memory[verb, "first"], MOST_MEMORY))
    return {"symbols": table(head, rows)}, targets
