"""The bookkeeping against the running kernel: random sequences, and those that once failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.kernel.fuzz import Room, fuzz, report
from tests.kernel.regressions import SEQUENCES

MODES = ("predict", "pal")


@pytest.fixture(scope="module", params=MODES)
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    with ExitStack() as stack:
        yield Room(request.param, stack)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_that_once_failed(room: Room, name: str) -> None:
    failed = room.play(SEQUENCES[name])
    assert failed is None, f"call {failed[0]}: {failed[1]}"


@pytest.mark.parametrize("mode", MODES)
def test_random_calls(mode: str) -> None:
    counts: Counter[str] = Counter()
    failure = fuzz(4000, 1, mode, counts)
    assert failure is None, report(failure)
    assert counts["calls"] > 3000
    assert counts["resync: mremap"] < counts["calls"] // 50, (
        "bookkeeping knows most of what the kernel will do"
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_hundred_thousand_random_calls(mode: str) -> None:
    counts: Counter[str] = Counter()
    failure = fuzz(130_000, 1_000_000, mode, counts)
    assert failure is None, report(failure)
    print(counts)
    assert counts["calls"] >= 100_000
