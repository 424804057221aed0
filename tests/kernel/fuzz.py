"""Random calls against the kernel until something differs; prints the shortest sequence that still does.

    python -m tests.kernel.fuzz --calls 100000 --seed 1
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from laconic.memory.calls import Call
from tests.kernel.child import Ended, Files, child, files
from tests.kernel.compare import Prediction
from tests.model.strategies import random_call, show

#: Calls made in one child before the next is begun.
EPISODE = 120


class Failure(NamedTuple):
    """A sequence that fails, and how its last call does."""

    seed: int
    calls: list[Call]
    why: str


def play(calls: Sequence[Call], descriptors: Files, counts: Counter[str] | None = None) -> tuple[int, str] | None:
    """Makes the calls in a new child; the number of the first that fails, and why."""
    descriptors.renew()
    with child(descriptors) as process:
        side = Prediction(process, counts)
        for number, call in enumerate(calls):
            try:
                why = side.step(call)
            except Ended:
                return None  # its `syscall` instruction was unmapped, or made inaccessible
            if why is not None:
                return number, why
    return None


def episode(seed: int, length: int = EPISODE) -> list[Call]:
    """The calls of one episode, which the seed decides."""
    source = random.Random(seed)
    return [random_call(source.choice) for _ in range(length)]


def shrink(failure: Failure, descriptors: Files) -> Failure:
    """Leaves out calls as long as the rest still fails."""
    calls, why = failure.calls, failure.why
    size = max(len(calls) // 2, 1)
    while size:
        start = 0
        while start < len(calls):
            fewer = calls[:start] + calls[start + size :]
            again = play(fewer, descriptors) if fewer else None
            if again is not None:
                calls, why = fewer[: again[0] + 1], again[1]
            else:
                start += size
        size //= 2
    return Failure(failure.seed, calls, why)


def fuzz(count: int, seed: int, counts: Counter[str] | None = None, length: int = EPISODE) -> Failure | None:
    """Makes `count` calls, in episodes of `length`; the first failure, shrunk, or None."""
    with files() as descriptors:
        for number in range(seed, seed + -(-count // length)):
            calls = episode(number, length)
            failed = play(calls, descriptors, counts)
            if failed is not None:
                return shrink(Failure(number, calls[: failed[0] + 1], failed[1]), descriptors)
    return None


def report(failure: Failure) -> str:
    """A failure for people, to be pasted into tests/kernel/regressions.py."""
    lines = [f"episode {failure.seed}: {failure.why}", "shortest sequence:"]
    return "\n".join([*lines, *(f"    {show(call)}," for call in failure.calls)])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1, help="number of the first episode")
    parser.add_argument("--keep-going", type=int, default=1, metavar="N", help="stop after N failures")
    arguments = parser.parse_args()
    # One processor for both: a switch between tracer and child then takes a quarter of the time.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    failures = 0
    seed, left = arguments.seed, arguments.calls
    while left > 0 and failures < arguments.keep_going:
        before = counts["calls"]
        failure = fuzz(left, seed, counts)
        if failure is None:
            break
        failures += 1
        print(report(failure), flush=True)
        seed = failure.seed + 1
        left -= max(counts["calls"] - before, 1)
    for name, count in sorted(counts.items()):
        if count:
            print(f"{count:8} {name}")
    print(f"{time.monotonic() - begun:.1f} s, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
