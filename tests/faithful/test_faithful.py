"""A program cannot tell the difference: its own observations, natively and under Laconic, are
equal.

    LACONIC_FAITHFUL_CALLS=100000 pytest tests/faithful -m slow -rP

`python -m tests.faithful.hunt` looks for more, shrinks what differs, and saves it in
tests/faithful/regressions.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from typing import Any

import pytest

from tests.faithful.calls import NAMES, OTHER, count_calls, name_of, write_list
from tests.faithful.compare import MODES, Difference, Result, compare
from tests.faithful.known import KNOWN
from tests.faithful.programs import BUILDS, LIST, REGRESSIONS, build_of, program, read_list

#: Lists per test. Half of them run unprivileged.
PART = 5
#: How many tests, so that they make at least 20,000 calls, and may run on several processors.
PARTS = 10
#: Memory calls of the slow test, and the first of its seeds.
SLOW_CALLS = int(os.environ.get("LACONIC_FAITHFUL_CALLS", "1000000"))
SLOW_SEED = 1_000_000


def _named(names: list[str]) -> list[Any]:
    """Test parameters, of which those in KNOWN must fail."""
    xfail = pytest.mark.xfail(reason="a known difference", strict=True)
    return [pytest.param(name, marks=xfail if name in KNOWN else ()) for name in names]


def _report(result: Result, seeds: range) -> str:
    differing = sorted(result.differences.items())
    return "\n".join(f"list {seeds[number]}: {difference}" for number, difference in differing)


@cache
def _past(build: str) -> dict[str, Difference | None]:
    """What the regressions that do not fail come to: all in one batch, because each start of
    Laconic costs time."""
    names = [name for name in REGRESSIONS if name not in KNOWN and build_of(name) == build]
    result = compare(program(build), [read_list(name) for name in names])
    return {name: result.differences.get(number) for number, name in enumerate(names)}


@pytest.mark.parametrize("name", _named(REGRESSIONS))
def test_a_difference_of_the_past_is_gone(name: str) -> None:
    build = build_of(name)
    if name in KNOWN:
        difference = compare(program(build), [read_list(name)]).differences.get(0)
    else:
        difference = _past(build)[name]
    assert difference is None, str(difference)


def test_a_signal_to_the_group_stays_pending_for_a_parent_in_vfork() -> None:
    """It must not be left to another thread of the parent because the main thread is stopped for
    the tracer. On one CPU the child runs first."""
    calls = ["@3 madvise 0x240000e800 0x1000 0x67"]
    calls += ["vfork", "group 0xf", "group 0xf", "join", "maps"] * 5
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        result = compare(program(), [calls])
    finally:
        os.sched_setaffinity(0, cpus)
    assert not result.differences, _report(result, range(1))


@pytest.mark.parametrize("part", _named([f"seeds-{part}" for part in range(PARTS)]))
def test_random_calls_are_observed_to_do_the_same(part: str) -> None:
    number = int(part.removeprefix("seeds-"))
    build = [*BUILDS][number % len(BUILDS)]
    seeds = range(number * PART, (number + 1) * PART)
    result = compare(program(build), [write_list(seed, LIST) for seed in seeds])
    print(f"{result.calls} calls, excluded: {dict(result.excluded)}")
    assert not result.differences, _report(result, seeds)
    assert result.excluded.total() <= result.operations // 1000


def test_the_random_calls_are_enough() -> None:
    lists = [write_list(seed, LIST) for seed in range(PARTS * PART)]
    assert sum(count_calls(calls) for calls in lists) >= 20_000
    names = {name_of(line) for calls in lists for line in calls}
    assert not {*NAMES, *OTHER} - names


@pytest.mark.slow
def test_many_random_calls() -> None:
    excluded: Counter[str] = Counter()
    total, seed = 0, SLOW_SEED
    while total < SLOW_CALLS:
        seeds = range(seed, seed + PART)
        build = [*BUILDS][seed // PART % len(BUILDS)]
        result = compare(program(build), [write_list(number, LIST) for number in seeds])
        assert not result.differences, _report(result, seeds)
        total += result.calls
        excluded += result.excluded
        seed += PART
    print(
        f"{total:,} calls, {len(MODES)} modes, 0 differences; excluded as natively unstable: "
        f"{dict(excluded)}"
    )
