"""Who tests the tests: tests/faithful finds each bug that a program can observe, in its lists of past differences."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faithful.compare import compare
from tests.faithful.known import KNOWN
from tests.faithful.test_faithful import REGRESSIONS, build_of, program, read_list
from tests.quality.faithfulbugs import BUGS
from tests.tracer.lab import COMMAND

ROOT = Path(__file__).parents[2]


#: Lists that run together: few, because after a crash of Laconic each runs alone.
BATCH = 10


def _batches() -> Iterator[tuple[str, list[list[str]]]]:
    # Static programs come first: they make no memory call of their own before the list's.
    for build in ("static", "dynamic"):
        names = [name for name in REGRESSIONS if name not in KNOWN and build_of(name) == build]
        for start in range(0, len(names), BATCH):
            yield build, [read_list(name) for name in names[start : start + BATCH]]


def _finds(command: tuple[str, ...]) -> bool:
    for build, lists in _batches():
        differences = compare(program(build), lists, ("laconic",), command=command).differences
        assert not any("Traceback" in difference.messages for difference in differences.values())
        if differences:
            return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_what_a_program_observes_shows_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    assert _finds((sys.executable, "-m", "tests.quality.planted", name))


def test_without_a_bug_nothing_differs() -> None:
    assert not _finds(COMMAND)
