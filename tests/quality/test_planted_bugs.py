"""Who tests the tests: every planted bug must be caught by the model, those of the maps by the real kernel too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from laconic.memory.calls import Call
from tests.kernel.fuzz import Room, episode
from tests.model.strategies import FORK
from tests.model.test_model import play, steps
from tests.quality.bugs import BUGS

SEEDS = range(60)
#: The kernel is asked about one bug of each kind that a map can have, and one of each law; the rest cost too long.
KERNEL = {
    "split_forgets_the_rest": "predict",
    "merge_is_forgotten": "predict",
    "partial_failure_is_rolled_back": "predict",
    "partial_failure_is_not_noticed": "predict",
    "mremap_leaves_the_file_offset": "predict",
    "mremap_keeps_the_old_place": "predict",
    "faithful_equal_attributes_are_taken_for_equal_contents": "pal",
    "faithful_an_errno_is_another": "pal",
    "exact_guard_gaps_are_free": "pal",
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
def test_the_kernel_catches_it(name: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    room = Room(KERNEL[name], stack)
    BUGS[name](monkeypatch)
    assert any(room.play(episode(seed)) is not None for seed in SEEDS)


def test_without_a_bug_nothing_is_caught() -> None:
    assert all(play(_forking(seed)) is None for seed in SEEDS)
