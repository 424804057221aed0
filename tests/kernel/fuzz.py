"""Random calls against the kernel until something differs; prints the shortest sequence that still
does.

python -m tests.kernel.fuzz --calls 100000 --seed 1
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from laconic.memory.calls import Call
from tests.kernel.child import Child, Ended, child, files
from tests.kernel.compare import Prediction, ThroughPal
from tests.model.shrink import Failed, shortest
from tests.model.strategies import random_call, show

#: Calls made in one child before the next is begun.
EPISODE = 120


class Failure(NamedTuple):
    """A sequence that fails, and how its last call does."""

    seed: int
    calls: list[Call]
    why: str


class Room:
    """What episodes are played in: one child that predictions are made for, or two, one of them
    behind the PAL."""

    def __init__(
        self,
        mode: str,
        stack: ExitStack,
        counts: Counter[str] | None = None,
        persona: int = 0,
        prepare: Callable[[Child], object] = id,
    ) -> None:
        self.mode = mode
        self.persona = persona
        self.prepare = prepare
        self.counts: Counter[str] = counts if counts is not None else Counter()
        self.files = [stack.enter_context(files()) for _ in range(2)]

    def side(self, stack: ExitStack, counts: Counter[str] | None = None) -> Prediction | ThroughPal:
        """New children, and what they are compared with."""
        children = []
        for descriptors in self.files:
            descriptors.renew()
            children.append(stack.enter_context(child(descriptors, self.persona)))
            self.prepare(children[-1])
        if self.mode == "predict":
            return Prediction(children[0], counts)
        return ThroughPal(children[0], children[1], counts)

    def play(self, calls: Sequence[Call], count: bool = False) -> Failed | None:
        """Makes the calls in new children; the number of the first that fails, and why."""
        number = -1
        counts = self.counts if count else None
        with ExitStack() as stack:
            side = self.side(stack, counts)
            try:
                for number, call in enumerate(calls):
                    why = side.step(call)
                    if why is not None:
                        return number, why
            except Ended:
                return None  # a child's `syscall` instruction was unmapped, or made inaccessible
            why = side.finish()
            return None if why is None else (number, why)


def episode(seed: int, length: int = EPISODE) -> list[Call]:
    """The calls of one episode, which the seed decides."""
    source = random.Random(seed)
    return [random_call(source.choice) for _ in range(length)]


def fuzz(count: int, seed: int, mode: str, counts: Counter[str] | None = None) -> Failure | None:
    """Makes `count` calls, in episodes from `seed` on; the first failure, shrunk, or None."""
    with ExitStack() as stack:
        room = Room(mode, stack, counts)
        for number in range(seed, seed + -(-count // EPISODE)):
            calls = episode(number)
            failed = room.play(calls, count=True)
            if failed is not None:
                return Failure(number, *shortest(calls[: failed[0] + 1], failed[1], room.play))
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
    parser.add_argument(
        "--mode", choices=("predict", "pal"), default="predict", help="how it is compared"
    )
    parser.add_argument(
        "--keep-going", type=int, default=1, metavar="N", help="stop after N failures"
    )
    arguments = parser.parse_args()
    # One processor for both: a switch between tracer and child then takes a quarter of the time.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    failures = 0
    seed, left = arguments.seed, arguments.calls
    while left > 0 and failures < arguments.keep_going:
        before = counts["calls"]
        failure = fuzz(left, seed, arguments.mode, counts)
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
