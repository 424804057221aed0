"""The law Strict: random calls, touches and faults in an enclave, and an oracle that knows the
program's VMAs alone.

After every step: what is accessible is what the program asked for, at no leaf was it more, the
PAL's record is the EPCM's, what was written is there and what was thrown away is not, and what a
plain meter counts is what was done.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.memory import flags as f
from laconic.memory.calls import Call
from laconic.sgx.model.failures import Plan
from laconic.sgx.model.faults import SgxError
from laconic.strategies.classify import Classify
from laconic.strategies.every_call import EveryCall
from laconic.strategies.laconic import Laconic
from laconic.strategies.strict import Watch
from tests.enclosed import FILES, NO_FD, Enclosed
from tests.model.shrink import Failed, shortest
from tests.unit.enclaveworld import BASE, HEAP, PAGE, Program, machine

Pick = Callable[[Sequence[Any]], Any]
ACCESSES = ("load", "store", "fetch")
THREAD, THREAD_ENDS, FORK = "thread", "thread ends", "fork"
ARENA = range(300)
_LENGTHS = (1, 1, 2, 3, 5, 8, 13, 17, 24, 40, 90)
_PROTS = (0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7)
_EXTRAS = (0, 0, 0, f.MAP_NORESERVE, f.MAP_POPULATE, f.MAP_STACK)
_ADVICE = (
    *(f.MADV_DONTNEED,) * 6,
    *(
        f.MADV_FREE,
        f.MADV_DONTFORK,
        f.MADV_WIPEONFORK,
        f.MADV_DONTNEED_LOCKED,
        f.MADV_GUARD_INSTALL,
    ),
    *(f.MADV_POPULATE_READ, f.MADV_POPULATE_WRITE),
)


class Knowing(Laconic):
    """`laconic` that commits what is touched, and nothing else."""

    known_touches = True


STRATEGIES: dict[str, type[Classify]] = {
    "laconic": Laconic,
    "known touches": Knowing,
    "classify": Classify,
}


def _place(pick: Pick) -> int:
    return int(BASE + pick(ARENA) * PAGE)


def _length(pick: Pick) -> int:
    return int(pick(_LENGTHS) * PAGE)


def _mmap(pick: Pick) -> Call:
    flags = pick((f.MAP_PRIVATE, f.MAP_PRIVATE, f.MAP_PRIVATE, f.MAP_SHARED)) | pick(_EXTRAS)
    address = 0
    if pick(range(3)):
        address, flags = _place(pick), flags | f.MAP_FIXED
    if pick(range(3)):
        return Call(
            "mmap", (address, _length(pick), pick(_PROTS), flags | f.MAP_ANONYMOUS, NO_FD, 0)
        )
    return Call(
        "mmap",
        (address, _length(pick), pick(_PROTS), flags, pick(tuple(FILES)), pick(range(6)) * PAGE),
    )


def _mremap(pick: Pick) -> Call:
    flags = pick((0, 1, 1, 1, 3, 3, 3, 5))
    old = _length(pick)
    new = old if flags & f.MREMAP_DONTUNMAP else pick((old, _length(pick)))
    return Call(
        "mremap", (_place(pick), old, new, flags, _place(pick) if flags & f.MREMAP_FIXED else 0)
    )


def _brk(pick: Pick) -> Call:
    return Call("brk", (HEAP + pick(range(30)) * PAGE + pick((0, 0, 8)),))


def _access(pick: Pick) -> Call:
    return Call(
        pick(("load", "store", "store", "fetch")),
        (pick((_place(pick),) * 9 + (HEAP,)) + pick((0, 8)),),
    )


_MAKERS: list[Callable[[Pick], Call]] = (
    [_mmap] * 16
    + [_mremap] * 7
    + [_brk] * 2
    + [lambda pick: Call("mprotect", (_place(pick), _length(pick), pick(_PROTS)))] * 10
    + [lambda pick: Call("munmap", (_place(pick), _length(pick)))] * 4
    + [lambda pick: Call("madvise", (_place(pick), _length(pick), pick(_ADVICE)))] * 7
    + [_access] * 30
    + [
        lambda pick: Call(FORK, (pick(range(2)),)),
        lambda pick: Call(THREAD, ()),
        lambda pick: Call(THREAD_ENDS, ()),
    ]
)


def random_step(pick: Pick) -> Call:
    """One step; every decision is one `pick`."""
    made: Call = pick(_MAKERS)(pick)
    return made


def make(program: Enclosed, step: Call, counted: bool = True) -> Enclosed:
    """Makes a step and asserts all laws; returns the program to go on with, which after a fork may
    be the child.

    Not `counted`: the host fails now and then, which a program may notice as ENOMEM or SIGBUS.
    """
    name, args = step
    if name in ACCESSES:
        deserved = program.deserved(args[0], name)
        found = program.access(args[0], name)
        excused = not counted and not deserved and found == signal.SIGBUS
        assert found == deserved or excused, (
            f"a {name} at {args[0]:#x} gets signal {found}, and deserves {deserved}"
        )
    elif name == FORK:
        child = program.fork()
        assert child is not None or not counted
        if child is not None:
            child.check(counted)
            program.check(counted)
            ends, program = (program, child) if args[0] else (child, program)
            ends.end()
    elif name == THREAD:
        program.thread()
    elif name == THREAD_ENDS:
        program.thread_ends()
    else:
        program.call(name, *args)
    program.check(counted)
    return program


def show(step: Call) -> str:
    """One step as Python that makes it."""
    return f'Call("{step.name}", ({", ".join(hex(arg) for arg in step.args)}{"," if len(step.args) == 1 else ""}))'


def play(
    steps: list[Call],
    strategy: type[Classify],
    pte: str = "rwx",
    plan: Callable[[], Plan] | None = None,
) -> Failed | None:
    """Makes the steps in a new enclave; the number of the first that fails, and why. With `plan`
    the host fails too."""
    program = Enclosed(strategy, plan() if plan else None, pte=pte)
    number = -1
    try:
        for step in steps:
            number += 1
            program = make(program, step, plan is None)
        program.end()
        assert not program.epc.used, "the enclave's pages are given back at its end"
    except (AssertionError, SgxError) as error:
        return number, f"{type(error).__name__}: {error}"
    return None


def steps(seed: int, length: int = 120) -> list[Call]:
    """The steps of one seed."""
    source = random.Random(seed)
    return [random_step(source.choice) for _ in range(length)]


def check(
    seed: int,
    strategy: type[Classify],
    pte: str = "rwx",
    plan: Callable[[], Plan] | None = None,
    length: int = 120,
) -> None:
    """Makes the steps of one seed and fails with the shortest sequence that does."""
    made = steps(seed, length)
    failed = play(made, strategy, pte, plan)
    if failed is not None:
        made, why = shortest(
            made[: failed[0] + 1], failed[1], lambda some: play(some, strategy, pte, plan)
        )
        pytest.fail("\n".join([f"seed {seed}: {why}", *map(show, made)]), pytrace=False)


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


class Watched(Program):
    """A program of which a `Watch` sees every leaf."""

    def __init__(self, maker: type[Strategy]) -> None:
        there = machine()
        super().__init__(maker, there)
        self.watch = Watch(there, self.space)

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
        == "0x1000000000-0x1000003000 was <Prot.READ|WRITE|EXEC: 7> between <Prot.READ|WRITE: 3> and "
        + ("<Prot.READ|EXEC: 5>")
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
