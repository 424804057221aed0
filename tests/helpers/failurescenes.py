"""Scenes in which the host of an enclave fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import ENOMEM

from laconic.memory import flags as f
from laconic.memory.calls import Call
from laconic.sgx.model.failures import Failure, Plan
from tests.helpers.enclaveworld import BASE, HEAP, PAGE
from tests.helpers.enclosed import NO_FD, Enclosed
from tests.model.strictsteps import ACCESSES, FORK, STRATEGIES, THREAD

ANON = f.MAP_PRIVATE | f.MAP_ANONYMOUS | f.MAP_FIXED

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC

RW, RX, RWX = R | W, R | X, R | W | X


def mapped(page: int, pages: int, prot: int, flags: int = ANON) -> Call:
    return Call("mmap", (BASE + page * PAGE, pages * PAGE, prot, flags, NO_FD, 0))


def file(
    page: int, pages: int, prot: int, fd: int, flags: int = f.MAP_PRIVATE | f.MAP_FIXED
) -> Call:
    return Call("mmap", (BASE + page * PAGE, pages * PAGE, prot, flags, fd, 0))


def stored(*pages: int) -> list[Call]:
    return [Call("store", (BASE + page * PAGE,)) for page in pages]


def protected(page: int, pages: int, prot: int) -> Call:
    return Call("mprotect", (BASE + page * PAGE, pages * PAGE, prot))


def moved(page: int, pages: int, to: int, new: int | None = None) -> Call:
    return Call(
        "mremap", (BASE + page * PAGE, pages * PAGE, (new or pages) * PAGE, 3, BASE + to * PAGE)
    )


EIGHT = [mapped(0, 8, RW), *stored(0, 1, 2, 3, 4, 5, 6, 7)]

MIXED = [*EIGHT, protected(2, 2, R), protected(5, 1, RWX)]

#: What was done before, and the call while which the host fails.
SCENES: dict[str, tuple[list[Call], Call]] = {
    "populate": ([], mapped(0, 12, RW, ANON | f.MAP_NORESERVE | f.MAP_POPULATE)),
    "populate read-only": ([], mapped(0, 6, R, ANON | f.MAP_POPULATE)),
    "populate a file": ([], file(0, 6, RX, 4, f.MAP_PRIVATE | f.MAP_FIXED | f.MAP_POPULATE)),
    "map around": ([mapped(2, 2, RW), *stored(2, 3)], mapped(0, 6, RX)),
    "touch": ([mapped(0, 90, RW, ANON | f.MAP_NORESERVE)], Call("store", (BASE + 5 * PAGE,))),
    "touch a file": ([file(0, 60, RX, 3)], Call("fetch", (BASE + 25 * PAGE,))),
    "restrict": (EIGHT, protected(0, 8, R)),
    "shut": (EIGHT, protected(0, 8, 0)),
    "extend": ([*EIGHT, protected(0, 8, R)], protected(0, 8, RW)),
    "RW to RX": (EIGHT, protected(0, 8, RX)),
    "each direction": (MIXED, protected(0, 8, RX)),
    "munmap": (EIGHT, Call("munmap", (BASE + 2 * PAGE, 4 * PAGE))),
    "munmap of two": ([*EIGHT, mapped(10, 3, R)], Call("munmap", (BASE, 13 * PAGE))),
    "MAP_FIXED over": (EIGHT, mapped(0, 8, R)),
    "MAP_FIXED over kinds": (MIXED, mapped(0, 10, RX)),
    "MAP_FIXED of a file": (MIXED, file(0, 8, R, 5)),
    "DONTNEED": (MIXED, Call("madvise", (BASE, 8 * PAGE, f.MADV_DONTNEED))),
    "DONTNEED read-only": (
        [*EIGHT, protected(0, 8, R)],
        Call("madvise", (BASE, 8 * PAGE, f.MADV_DONTNEED)),
    ),
    "move": (EIGHT, moved(0, 8, 20)),
    "move over": ([*EIGHT, mapped(20, 6, RX), Call("fetch", (BASE + 21 * PAGE,))], moved(0, 8, 18)),
    "move and grow": (EIGHT, moved(0, 8, 20, 12)),
    "move and shrink": (EIGHT, moved(0, 8, 20, 3)),
    "move unreadable": ([*EIGHT, protected(0, 8, 0)], moved(0, 8, 20)),
    "break up": ([], Call("brk", (HEAP + 6 * PAGE,))),
    "break down": (
        [Call("brk", (HEAP + 6 * PAGE,)), Call("store", (HEAP,))],
        Call("brk", (HEAP + PAGE,)),
    ),
    "thread": ([], Call(THREAD, ())),
    "fork": (MIXED, Call(FORK, ())),
}


class Switch(Plan):
    """A plan that applies to one call, whose operations it numbers from 1; `on` switches it."""

    def __init__(
        self, failures: dict[tuple[str, int], Failure] | Callable[[str, int], Failure | None]
    ) -> None:
        super().__init__(failures)
        self.on = False

    def next(self, kind: str) -> Failure | None:
        return super().next(kind) if self.on else None


def make(program: Enclosed, step: Call) -> int:
    name, args = step
    if name in ACCESSES:
        return program.access(args[0], name)
    if name == THREAD:
        return program.thread()
    if name == FORK:
        child = program.fork()
        if child is None:
            return -ENOMEM
        child.check(False)
        child.end()
        return 0
    return program.call(name, *args)


def start(scene: str, strategy: str, pte: str, plan: Switch) -> tuple[Enclosed, Call]:
    """The scene up to its call, which is to come."""
    before, step = SCENES[scene]
    program = Enclosed(STRATEGIES[strategy], plan, pte=pte)
    for call in before:
        assert make(program, call) >= 0
    program.check()
    return program, step


def attempt(program: Enclosed, step: Call, plan: Switch) -> int:
    """Makes the call while the host fails, and asserts all laws."""
    plan.on = True
    result = make(program, step)
    plan.on = False
    program.check(False)
    return result


def once(
    failures: dict[str, list[Failure]], scene: str, strategy: str, pte: str
) -> Iterator[tuple[str, int, Failure]]:
    """Each failure of each operation that the scene's call has, alone."""
    plan = Switch(lambda kind, number: None)
    program, step = start(scene, strategy, pte, plan)
    attempt(program, step, plan)
    for kind, times in plan.seen.items():
        for number in range(1, times + 1):
            for failure in failures.get(kind, []):
                yield kind, number, failure
