"""`laconic compare` of a trace of a million calls, beside a plain replay of the same trace."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.machine import table
from benchmarks.operations import MIXES, Recorder
from benchmarks.replaying import one_block, protection, write
from laconic.analysis.compare import BOUND, compare
from laconic.replay.engine import Replay
from laconic.sgx.costs import DEFAULT, load
from laconic.strategies import NAMES
from laconic.trace.reader import Trace

#: How often each mix is gone through, for a million calls in all; and how many times a replay a
#: comparison may take.
TIMES, MOST = 28, 5.0
_MIXES: tuple[Callable[[Recorder, Random], None], ...] = (protection, one_block, *MIXES.values())


def _all(call: Recorder, random: Random) -> None:
    # Some mixes go on until so many calls are recorded: each begins with none.
    steps = call.steps
    for _ in range(TIMES):
        for mix in _MIXES:
            call.steps = []
            mix(call, random)
            steps += call.steps
    call.steps = steps


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The section of the page, and what must hold."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "million.trace")
        calls = write(path, _all)
        names = [*NAMES, BOUND]
        profile = load(DEFAULT)
        rows = []
        plain = _seconds(lambda: Replay(Trace(path)).run())
        rows.append(["replay", f"{plain:.1f}", "1.00"])
        alone = _seconds(lambda: compare(path, names, profile, jobs=1))
        rows.append(
            ["all strategies and the bound, one process", f"{alone:.1f}", f"{alone / plain:.2f}"]
        )
        two = _seconds(lambda: compare(path, names, profile, jobs=2))
        rows.append(["two processes", f"{two:.1f}", f"{two / plain:.2f}"])
        shared = _seconds(lambda: compare(path, names, profile, jobs=None))
        rows.append(["as `laconic compare` does it", f"{shared:.1f}", f"{shared / plain:.2f}"])
    text = f"{calls:,} calls of all mixes.\n\n" + table(["", "seconds", "÷ replay"], rows)
    return {"comparing": text}, [("compare / replay, a million calls", shared / plain, MOST)]
