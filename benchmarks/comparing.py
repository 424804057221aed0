"""`laconic compare` of a trace of a million calls, beside a plain replay of the same trace."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

from benchmarks.builds import COMPILED, PURE, measured
from benchmarks.machine import table
from benchmarks.operations import MIXES, Recorder
from benchmarks.replaying import one_block, protection, write
from benchmarks.symbols import measure
from laconic.analysis.compare import BOUND, compare
from laconic.memory.rangemap import RangeMap
from laconic.replay.engine import Replay
from laconic.sgx.costs import DEFAULT, load
from laconic.strategies import NAMES
from laconic.trace.reader import TraceReader

#: How often each mix is gone through, for a million calls in all; and how many times a replay a
#: comparison may take.
TIMES, MOST = 28, 5.0
#: The same for the compiled build, in one process.
MOST_COMPILED = 3.5
#: How much more memory a trace of twice the length may take.
MOST_MEMORY = 1.1
ALONE, USUAL = "all strategies and the bound, one process", "as `laconic compare` does it"
_MIXES: tuple[Callable[[Recorder, Random], None], ...] = (protection, one_block, *MIXES.values())


def _all(times: int, call: Recorder, random: Random) -> None:
    # Some mixes go on until so many calls are recorded: each begins with none.
    steps = call.steps
    before = [(start, end) for start, end, _ in call.space.vmas]
    for _ in range(times):
        for mix in _MIXES:
            call.steps = []
            mix(call, random)
            steps += call.steps
        call.steps = steps
        _unmap_others(call, before)
    call.steps = steps


def _unmap_others(call: Recorder, kept: list[tuple[int, int]]) -> None:
    # Unmap what a round has left. Otherwise, the program's VMAs, and so the memory of a comparison,
    # would grow with the trace.
    mapped: RangeMap[bool] = RangeMap()
    for start, end, _ in call.space.vmas:
        mapped.set(start, end, True)
    for start, end in kept:
        mapped.clear(start, end)
    for start, end, _ in list(mapped):
        call("munmap", start, end - start)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seconds(path: str) -> dict[str, float]:
    """Return the seconds that a replay of a trace, and comparisons of it, take."""
    names = [*NAMES, BOUND]
    profile = load(DEFAULT)
    return {
        "replay": _seconds(lambda: Replay(TraceReader(path)).run()),
        **{name: _seconds(partial(compare, path, [name], profile)) for name in names},
        ALONE: _seconds(lambda: compare(path, names, profile, jobs=1)),
        "two processes": _seconds(lambda: compare(path, names, profile, jobs=2)),
        USUAL: _seconds(lambda: compare(path, names, profile, jobs=None)),
    }


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The section of the page, and what must hold."""
    with tempfile.TemporaryDirectory() as directory:
        path, half = (str(Path(directory) / name) for name in ("million.trace", "half.trace"))
        # In another process: the memory of the process that starts a command counts for the command
        # (exec_mmap in fs/exec.c).
        with ProcessPoolExecutor(1, get_context("spawn")) as writer:
            calls = writer.submit(write, path, partial(_all, TIMES)).result()
            fewer = writer.submit(write, half, partial(_all, TIMES // 2)).result()
        memory = [measure(["compare", "-j", "1", each], os.environ)[1] for each in (half, path)]
        builds = measured(seconds, path)
    pure, fast = builds[PURE], builds[COMPILED]
    rows = []
    for what, slow in pure.items():
        row = [what]
        for build in (pure, fast):
            row += [f"{build[what]:.1f}", f"{build[what] / build['replay']:.2f}"]
        rows.append([*row, f"{fast[what] / slow:.2f}"])
    head = ["", "seconds", "÷ replay", "compiled", "÷ its replay", "compiled ÷ pure"]
    text = f"{calls:,} calls of all mixes.\n\n" + table(head, rows)
    sizes = [
        [f"{count:,}", f"{size:.0f}"] for count, size in zip((fewer, calls), memory, strict=True)
    ]
    text += "\n\n" + table(["calls", "MB that compare takes"], sizes)
    return {"comparing": text}, [
        ("compare / replay, a million calls", pure[USUAL] / pure["replay"], MOST),
        (
            "compiled compare in one process / replay, a million calls",
            fast[ALONE] / fast["replay"],
            MOST_COMPILED,
        ),
        ("MB of compare, a million calls ÷ half a million", memory[1] / memory[0], MOST_MEMORY),
    ]
