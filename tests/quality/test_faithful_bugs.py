"""Who tests the tests: tests/faithful finds each bug that a program can observe, in its lists of
past differences."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faithful.compare import compare
from tests.faithful.known import KNOWN
from tests.faithful.programs import REGRESSIONS, build_of, program, read_list
from tests.quality.faithfulbugs import BUGS
from tests.tracer.lab import COMMAND

ROOT = Path(__file__).parents[2]
#: Bug → the list that was written for it, and runs first. If it does not find the bug, another may.
WRITTEN_FOR = {
    "growth_is_forgotten_with_its_origin": "growsdown-unmapped",
    "growth_is_not_expected": "growsdown-first-static",
    "a_fixed_mmap_is_done_in_parts": "fixed-mmap-fails",
    "an_mlock_is_narrowed": "errno-locked-over-limit",
    "a_signal_to_the_group_ends_laconic": "group-signal-winch",
    "the_first_segment_has_no_file": "shmdt-id-zero",
    "mdwe_is_inherited": "mdwe-no-inherit",
    "huge_pages_without_reserve_are_refused": "errno-noreplace-hugetlb",
    "a_path_descriptor_is_open": "errno-path-descriptor",
    "an_mmap_is_refused_without_the_host": "errno-hugetlb-offset",
    "a_key_is_checked_last": "errno-key-unmapped",
    "a_wrapping_mlock_is_refused_without_the_host": "errno-mlock-wraps-over-limit",
    "a_thread_stays_traced_at_its_exit": "exit-order",
}

#: How often the list that was written for a bug is run: a race does not show it each time.
TRIES = 6
#: Lists that run together: few, because after a crash of Laconic each runs alone.
BATCH = 10


def _batches(first: str | None) -> Iterator[tuple[str, list[list[str]]]]:
    if first is not None:
        yield build_of(first), [read_list(first)] * TRIES
    # Static programs come first: they make no memory call of their own before the list's.
    for build in ("static", "dynamic"):
        names = [name for name in REGRESSIONS if name not in KNOWN and build_of(name) == build]
        for start in range(0, len(names), BATCH):
            yield build, [read_list(name) for name in names[start : start + BATCH]]


def _finds(command: tuple[str, ...], first: str | None = None) -> bool:
    for build, lists in _batches(first):
        differences = compare(program(build), lists, ("laconic",), command=command).differences
        assert not any("Traceback" in difference.messages for difference in differences.values())
        if differences:
            return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_that_a_program_observes_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    assert _finds((sys.executable, "-m", "tests.quality.planted", name), WRITTEN_FOR.get(name))


def test_without_a_bug_nothing_differs() -> None:
    assert not _finds(COMMAND)
