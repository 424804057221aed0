"""Random call sequences against the oracle, shrunk by Hypothesis where they fail."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from laconic.memory.calls import Call
from tests.kernel.regressions import SEQUENCES
from tests.model.modelsteps import play, steps
from tests.model.shrink import shortest
from tests.model.strategies import calls, show
from tests.model.world import World


class Machine(RuleBasedStateMachine):
    """A program that makes any call at any time, on a host that fails now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(call=calls())
    def make(self, call: Call) -> None:
        self.world.step(call)

    @rule(call=calls(), number=st.integers(1, 3))
    def make_while_the_host_fails(self, call: Call, number: int) -> None:
        self.world.step(call, fail_at=number)

    @invariant()
    def laws(self) -> None:
        self.world.check()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def check(seed: int) -> None:
    """Makes the calls of one seed and fails with the shortest sequence that does."""
    made = steps(seed)
    failed = play(made)
    if failed is not None:
        made, why = shortest(made[: failed[0] + 1], failed[1], play)
        lines = [
            f"world.step({show(call)}{f', {fail_at}' if fail_at else ''})" for call, fail_at in made
        ]
        pytest.fail("\n".join([f"seed {seed}: {why}", *lines]), pytrace=False)


@pytest.mark.parametrize("seed", range(30))
def test_random_calls(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_a_hundred_thousand_random_calls(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        check(1000 + seed)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_that_once_failed(name: str) -> None:
    assert play([(call, 0) for call in SEQUENCES[name]]) is None
