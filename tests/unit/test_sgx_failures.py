"""The host fails: at every operation of the driver and of the enclave, of every kind of call.

What may be tried again ends as if nothing had been; else the program gets ENOMEM (for an access,
SIGBUS), and bookkeeping, the PAL's record and the EPCM agree, within the law Strict, and the next
call works.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from errno import ENOMEM
from functools import partial
from typing import NamedTuple

import pytest
from tests.enclosed import NO_FD, Enclosed
from tests.model.hostfailures import PASSES, STAYS, now_and_then
from tests.model.test_strict import ACCESSES, FORK, STRATEGIES, THREAD, check
from tests.unit.enclaveworld import BASE, HEAP, PAGE

from laconic.memory import flags as f
from laconic.memory.calls import Call
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import NOT_TRACKED
from laconic.strategies.classify import THREAD_STACK, Classify
from laconic.strategies.laconic import Laconic

ANON = f.MAP_PRIVATE | f.MAP_ANONYMOUS | f.MAP_FIXED
R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
#: Where the scenes are, and where the call after them is.
ELSEWHERE = BASE + 200 * PAGE


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
CASES = [(name, pte) for name in STRATEGIES for pte in ("rwx", "sync")]


class Switch(Plan):
    """A plan that applies to one call, whose operations it numbers from 1; `on` switches it."""

    def __init__(
        self, failures: dict[tuple[str, int], Failure] | Callable[[str, int], Failure | None]
    ) -> None:
        super().__init__(failures)
        self.on = False

    def next(self, kind: str) -> Failure | None:
        return super().next(kind) if self.on else None


class End(NamedTuple):
    """How a scene ends: the result, what is mapped, what is committed, what the pages hold."""

    result: int
    vmas: list[object]
    committed: list[object]
    contents: dict[int, int]


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


def end(program: Enclosed, result: int) -> End:
    return End(
        result,
        list(program.space.vmas),
        list(program.pal.committed),
        dict(program.machine.contents),
    )


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


#: Each scene under one strategy and one way to map the enclave, in turn: what these tests find does
#: not depend on both.
each_scene_once = pytest.mark.parametrize(
    ("scene", "strategy", "pte"),
    [(scene, *CASES[i % len(CASES)]) for i, scene in enumerate(SCENES)],
)


@each_scene_once
def test_what_passes_leaves_no_trace(scene: str, strategy: str, pte: str) -> None:
    quiet = Switch(lambda kind, number: None)
    program, step = start(scene, strategy, pte, quiet)
    expected = end(program, attempt(program, step, quiet))
    for kind, number, failure in once(PASSES, scene, strategy, pte):
        plan = Switch({(kind, number): failure})
        program, step = start(scene, strategy, pte, plan)
        assert end(program, attempt(program, step, plan)) == expected, (kind, number, failure)
        assert not program.pal.left.count


@pytest.mark.parametrize(("strategy", "pte"), CASES)
@pytest.mark.parametrize("scene", SCENES)
def test_what_stays_is_enomem_and_no_more(scene: str, strategy: str, pte: str) -> None:
    quiet = Switch(lambda kind, number: None)
    program, step = start(scene, strategy, pte, quiet)
    expected = attempt(program, step, quiet)
    for kind, number, failure in once(STAYS, scene, strategy, pte):
        plan = Switch({(kind, number): failure})
        program, step = start(scene, strategy, pte, plan)
        before, old = list(program.space.vmas), program.space.brk
        result = attempt(program, step, plan)
        where = (kind, number, failure)
        refused = {"brk": old, "store": signal.SIGBUS, "fetch": signal.SIGBUS}.get(
            step.name, -ENOMEM
        )
        assert result in (expected, refused), where
        next_call_works(program)
        if kind != "etrack":  # a page that the driver changed and did not track is lost to it
            if result != expected and list(program.space.vmas) == before:
                assert make(program, step) == expected, where
                program.check(False)
            reclaimed(program)
        program.end()
        assert kind == "etrack" or not program.epc.used


@each_scene_once
def test_what_fails_from_then_on(scene: str, strategy: str, pte: str) -> None:
    """The driver takes nothing back any more, or the enclave's own leaves fail for ever."""
    for kind in ("modify_types", "remove", "eaug", "restrict"):
        persist(scene, strategy, pte, kind, STAYS[kind][0])
    persist(scene, strategy, pte, "eaccept", Failure(code=NOT_TRACKED))


def failing(kind: str, first: int, failure: Failure, what: str, number: int) -> Failure | None:
    return failure if what == kind and number >= first else None


def persist(scene: str, strategy: str, pte: str, kind: str, failure: Failure) -> None:
    quiet = Switch(lambda kind, number: None)
    program, step = start(scene, strategy, pte, quiet)
    attempt(program, step, quiet)
    for first in range(1, quiet.seen[kind] + 1):
        plan = Switch(partial(failing, kind, first, failure))
        program, step = start(scene, strategy, pte, plan)
        attempt(program, step, plan)
        next_call_works(program)
        reclaimed(program)


def next_call_works(program: Enclosed) -> None:
    assert program.call("mmap", ELSEWHERE, 3 * PAGE, RW, ANON, NO_FD, 0) == ELSEWHERE
    assert not program.access(ELSEWHERE + PAGE, "store")
    assert not program.call("munmap", ELSEWHERE, 3 * PAGE)
    program.check(False)


def reclaimed(program: Enclosed) -> None:
    """What a failure left in the EPC goes as soon as its place is used again."""
    for begin, stop, _ in list(program.pal.left):
        if begin >= 1 << 47:
            assert program.thread() > 0
            continue
        assert program.call("mmap", begin, stop - begin, RW, ANON, NO_FD, 0) == begin
        for page in range(begin, stop, PAGE):
            assert not program.access(page, "store")
    assert not program.pal.left.count
    program.check(False)


class TestEpcFull:
    """There is no room for another page."""

    def test_a_touch_is_sigbus_and_nothing_else_changes(self) -> None:
        program = Enclosed(Laconic, epc_pages=4)
        program.call("mmap", BASE, 90 * PAGE, RW, ANON, NO_FD, 0)
        assert program.access(BASE, "store") == 0
        before = end(program, 0)
        assert program.access(BASE + 50 * PAGE, "store") == signal.SIGBUS
        assert end(program, 0) == before
        program.check(False)
        assert program.access(BASE, "load") == 0

    def test_a_window_that_does_not_fit_is_the_touched_page_alone(self) -> None:
        program = Enclosed(Laconic, epc_pages=2)
        program.call("mmap", BASE, 90 * PAGE, RW, ANON, NO_FD, 0)
        assert program.access(BASE + 7 * PAGE, "store") == 0
        assert list(program.pal.committed) == [(BASE + 7 * PAGE, BASE + 8 * PAGE, RW)]
        program.check(False)

    @pytest.mark.parametrize("flags", [0, f.MAP_POPULATE])
    def test_what_nobody_has_to_have_yet_is_left_out(self, flags: int) -> None:
        program = Enclosed(Laconic, epc_pages=3)
        assert program.call("mmap", BASE, 8 * PAGE, RW, ANON | flags, NO_FD, 0) == BASE
        assert not program.pal.pages()
        program.check(False)
        assert [program.access(BASE + page * PAGE, "store") for page in range(4)] == [
            0,
            0,
            0,
            signal.SIGBUS,
        ]

    def test_a_small_piece_that_opens_is_left_out(self) -> None:
        program = Enclosed(Laconic, epc_pages=3)
        program.call("mmap", BASE, 8 * PAGE, 0, ANON, NO_FD, 0)
        assert program.call("mprotect", BASE, 8 * PAGE, RW) == 0
        assert not program.pal.pages()
        program.check(False)

    def test_classify_commits_at_once_or_not_at_all(self) -> None:
        program = Enclosed(Classify, epc_pages=6)
        assert program.call("mmap", BASE, 4 * PAGE, RW, ANON, NO_FD, 0) == BASE
        assert program.call("mmap", ELSEWHERE, 4 * PAGE, RW, ANON, NO_FD, 0) == -ENOMEM
        assert program.pal.pages() == 4
        program.check(False)
        assert program.call("munmap", BASE, 4 * PAGE) == 0
        assert program.call("mmap", ELSEWHERE, 4 * PAGE, RW, ANON, NO_FD, 0) == ELSEWHERE
        program.check(False)

    def test_a_fork_that_does_not_fit_leaves_nothing(self) -> None:
        program = Enclosed(Laconic, epc_pages=6)
        program.call("mmap", BASE, 4 * PAGE, RW, ANON, NO_FD, 0)
        for page in range(4):
            program.access(BASE + page * PAGE, "store")
        assert program.fork() is None
        assert program.epc.used == 4
        program.check(False)

    def test_a_thread_that_does_not_fit_can_begin_later(self) -> None:
        pages = THREAD_STACK // PAGE + 1
        program = Enclosed(Laconic, epc_pages=pages)
        program.call("mmap", BASE, PAGE, RW, ANON, NO_FD, 0)
        assert program.thread() == -ENOMEM
        program.check(False)
        program.call("munmap", BASE, PAGE)
        assert program.thread() == 1
        program.check(False)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize(("strategy", "pte"), CASES)
def test_random_steps_while_the_host_fails(strategy: str, pte: str, seed: int) -> None:
    check(500 + seed, STRATEGIES[strategy], pte, lambda: now_and_then(seed))
