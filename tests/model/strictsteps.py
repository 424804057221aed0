"""Random steps of a program in an enclave, carried out under the law Strict."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from laconic.memory import flags as f
from laconic.memory.calls import Call
from laconic.sgx.model.failures import Plan
from laconic.sgx.model.faults import SgxError
from laconic.strategies.classify import Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclaveworld import BASE, HEAP, PAGE
from tests.helpers.enclosed import FILES, NO_FD, Enclosed
from tests.model.shrink import Failed, shortest

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
    return (
        f'Call("{step.name}", '
        f"({', '.join(hex(arg) for arg in step.args)}{',' if len(step.args) == 1 else ''}))"
    )


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
