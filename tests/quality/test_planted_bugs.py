"""Who tests the tests: every planted bug must be caught by the model, those of the maps by the real
kernel too.

Those of the enclave must be caught by the random steps of the law Strict, some only where the host
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from laconic.memory.calls import Call
from laconic.sgx.model.failures import Plan
from tests.helpers.failurescenes import SCENES, Switch, attempt, once, start
from tests.kernel.fuzz import Room, episode
from tests.model.hostfailures import STAYS, now_and_then
from tests.model.modelsteps import play, steps
from tests.model.strategies import FORK
from tests.model.strictsteps import STRATEGIES
from tests.model.strictsteps import play as play_enclosed
from tests.model.strictsteps import steps as steps_enclosed
from tests.quality import enclavebugs
from tests.quality.bugs import BUGS

SEEDS = range(60)
#: The kernel is asked about one bug of each kind that a map can have, and one of each law; the rest
#: cost too long.
KERNEL = {
    "split_forgets_the_rest": "predict",
    "merge_is_forgotten": "predict",
    "partial_failure_is_rolled_back": "predict",
    "partial_failure_is_not_noticed": "predict",
    "mremap_leaves_the_file_offset": "predict",
    "mremap_keeps_the_old_place": "predict",
    "faithful_equal_attributes_are_taken_for_equal_contents": "pal",
    "faithful_an_errno_is_another": "pal",
    "exact_guard_gaps_are_free": "predict",  # behind the PAL the host chooses every address
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def _forking(seed: int) -> list[tuple[Call, int]]:
    made = steps(seed, 60)
    for number in range(9, len(made), 10):
        made[number] = (Call(FORK, ()), 0)
    return made


@pytest.mark.parametrize("name", BUGS)
def test_the_model_catches_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    assert any(play(_forking(seed)) is not None for seed in SEEDS)


@pytest.mark.parametrize("name", KERNEL)
def test_the_kernel_catches_it(
    name: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    room = Room(KERNEL[name], stack)
    BUGS[name](monkeypatch)
    assert any(room.play(episode(seed)) is not None for seed in SEEDS)


@pytest.mark.slow
def test_without_a_bug_nothing_is_caught() -> None:
    assert all(play(_forking(seed)) is None for seed in SEEDS)


def _caught(seed: int, plan: Callable[[], Plan] | None) -> bool:
    made = steps_enclosed(seed)
    return any(
        play_enclosed(made, strategy, plan=plan) is not None for strategy in STRATEGIES.values()
    )


def _caught_in_a_scene() -> bool:
    for scene in SCENES:
        for kind, number, failure in once(STAYS, scene, "laconic", "rwx"):
            plan = Switch({(kind, number): failure})
            program, step = start(scene, "laconic", "rwx", plan)
            try:
                attempt(program, step, plan)
            except AssertionError:
                return True
    return False


@pytest.mark.parametrize("name", enclavebugs.BUGS)
def test_the_law_strict_catches_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enclavebugs.BUGS[name](monkeypatch)
    assert any(_caught(seed, None) for seed in range(30))


@pytest.mark.slow
@pytest.mark.parametrize("name", enclavebugs.FAILING)
def test_it_is_caught_where_the_host_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enclavebugs.FAILING[name](monkeypatch)
    assert (
        any(_caught(seed, partial(now_and_then, seed)) for seed in range(30))
        or _caught_in_a_scene()
    )


@pytest.mark.slow
def test_without_a_bug_no_enclave_is_wrong() -> None:
    assert not any(_caught(seed, None) for seed in range(30))
    assert not any(_caught(seed, partial(now_and_then, seed)) for seed in range(30))
    assert not _caught_in_a_scene()
