"""Random calls of a seed, played in a world."""

from __future__ import annotations

import random

from laconic.memory.calls import Call
from tests.model.shrink import Failed
from tests.model.strategies import random_call
from tests.model.world import World

#: A call, and the number of the host call that fails for it (0: none).
Step = tuple[Call, int]


def steps(seed: int, length: int = 100) -> list[Step]:
    """The calls of one seed; for one in ten the host fails."""
    source = random.Random(seed)
    return [
        (random_call(source.choice), source.randint(1, 3) if source.random() < 0.1 else 0)
        for _ in range(length)
    ]


def play(made: list[Step]) -> Failed | None:
    """Makes the calls in a new world; the number of the first that fails, and why."""
    world = World()
    for number, (call, fail_at) in enumerate(made):
        try:
            world.step(call, fail_at)
        except AssertionError as error:
            return number, str(error)
    return None
