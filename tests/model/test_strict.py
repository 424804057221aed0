"""The law Strict: random calls, touches and faults in an enclave, and an oracle that knows the
program's VMAs alone.

After every step: what is accessible is what the program asked for, at no leaf was it more, the
PAL's record is the EPCM's, what was written is there and what was thrown away is not, and what a
plain meter counts is what was done.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.memory.calls import Call
from laconic.strategies.classify import Classify
from laconic.strategies.every_call import EveryCall
from laconic.strategies.laconic import Laconic
from laconic.strategies.strict import StrictChecker
from tests.helpers.enclaveworld import BASE, Program, machine
from tests.helpers.enclosed import Enclosed
from tests.model.strictsteps import STRATEGIES, check, make, random_step


class Random(RuleBasedStateMachine):
    """A program that does anything at any time, in an enclave."""

    strategy: type[Classify] = Laconic

    def __init__(self) -> None:
        super().__init__()
        self.program = Enclosed(self.strategy)

    @rule(
        step=st.composite(
            lambda draw: random_step(lambda choices: draw(st.sampled_from(choices)))
        )()
    )
    def step(self, step: Call) -> None:
        self.program = make(self.program, step)

    @invariant()
    def laws(self) -> None:
        self.program.check()


class RandomClassify(Random):
    """The same under `classify`."""

    strategy = Classify


TestLaconic, TestClassify = Random.TestCase, RandomClassify.TestCase
TestLaconic.settings = TestClassify.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("name", STRATEGIES)
def test_random_steps(name: str, seed: int) -> None:
    check(seed, STRATEGIES[name])


@pytest.mark.parametrize("seed", range(100, 108))
@pytest.mark.parametrize("name", STRATEGIES)
def test_random_steps_where_the_hosts_mapping_follows(name: str, seed: int) -> None:
    check(seed, STRATEGIES[name], "sync")


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_hundred_thousand_random_steps(name: str, block: int) -> None:
    for seed in range(block * 30, block * 30 + 30):
        check(1000 + seed, STRATEGIES[name], "sync" if seed % 5 == 0 else "rwx")


# Today's rule under the same law


class Watched(Program[Strategy]):
    """A program of which a `StrictChecker` sees every leaf."""

    def __init__(self, maker: type[Strategy]) -> None:
        there = machine()
        super().__init__(maker, there)
        self.watch = StrictChecker(there, self.space)

    def tell(self, call: MemoryCall) -> None:
        self.watch.expect(call.changes)
        super().tell(call)


def test_the_window_of_every_call_is_found() -> None:
    """Upstream's EMODPE comes before its EMODPR: from RW to RX a page is RWX, for a moment that a
    host can stretch."""
    program = Watched(EveryCall)
    program.map(BASE, 3, 3)
    program.anew()
    program.protect(BASE, 3, 5)
    (window,) = program.watch.windows
    assert (
        window
        == "0x1000000000-0x1000003000 was <Prot.READ|WRITE|EXEC: 7> between <Prot.READ|WRITE: 3> "
        "and " + ("<Prot.READ|EXEC: 5>")
    )
    assert program.counts.open_windows == 3, "and it is counted, as upstream's"


@pytest.mark.parametrize("rule", [Laconic, Classify])
def test_no_window_under_the_other_rules(rule: type[Strategy]) -> None:
    program = Watched(rule)
    program.map(BASE, 3, 3)
    program.anew()
    program.protect(BASE, 3, 5)
    assert not program.watch.windows
    assert not program.counts.open_windows


def test_every_call_commits_with_more_than_was_asked() -> None:
    program = Watched(EveryCall)
    program.map(BASE, 2, 1)
    assert program.watch.windows, "read-only pages were writable at first"
    assert program.counts.open_windows == 2
