"""The host fails: at every operation of the driver and of the enclave, of every kind of call.

What may be tried again ends as if nothing had been; else the program gets ENOMEM (for an access,
SIGBUS), and bookkeeping, the PAL's record and the EPCM agree, within the law Strict, and the next
call works.
"""

from __future__ import annotations

import signal
from errno import ENOMEM
from functools import partial
from typing import NamedTuple

import pytest

from laconic.memory import flags as f
from laconic.sgx.model.failures import Failure
from laconic.sgx.model.faults import NOT_TRACKED
from laconic.strategies.classify import THREAD_STACK, Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclaveworld import BASE, PAGE
from tests.helpers.enclosed import NO_FD, Enclosed
from tests.helpers.failurescenes import ANON, RW, SCENES, Switch, attempt, make, once, start
from tests.model.hostfailures import PASSES, STAYS, now_and_then
from tests.model.strictsteps import STRATEGIES, check

#: Where the scenes are, and where the call after them is.
ELSEWHERE = BASE + 200 * PAGE


CASES = [(name, pte) for name in STRATEGIES for pte in ("rwx", "sync")]


class End(NamedTuple):
    """How a scene ends: the result, what is mapped, what is committed, what the pages hold."""

    result: int
    vmas: list[object]
    committed: list[object]
    contents: dict[int, int]


def end(program: Enclosed, result: int) -> End:
    return End(
        result,
        list(program.space.vmas),
        list(program.pal.committed),
        dict(program.machine.contents),
    )


#: Each scene under one strategy and one way to map the enclave, in turn: what these tests find does
#: not depend on both.
each_scene_once = pytest.mark.parametrize(
    ("scene", "strategy", "pte"),
    [(scene, *CASES[i % len(CASES)]) for i, scene in enumerate(SCENES)],
)


@each_scene_once
def test_a_failure_that_passes_leaves_no_trace(scene: str, strategy: str, pte: str) -> None:
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
def test_a_failure_that_stays_is_enomem_and_no_more(scene: str, strategy: str, pte: str) -> None:
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
def test_after_a_lasting_failure_the_next_call_works(scene: str, strategy: str, pte: str) -> None:
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
    for run_start, run_end, _ in list(program.pal.left):
        if run_start >= 1 << 47:
            assert program.thread() > 0
            continue
        assert program.call("mmap", run_start, run_end - run_start, RW, ANON, NO_FD, 0) == run_start
        for page in range(run_start, run_end, PAGE):
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
    def test_pages_that_need_not_exist_yet_are_left_out(self, flags: int) -> None:
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
