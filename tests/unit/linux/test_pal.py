"""The Linux host's rules: which system call, if any, carries out the outcome of a memory call."""

from __future__ import annotations

from errno import ENOMEM

import pytest

from laconic.linux.pal import only_changes, skip_equal
from laconic.memory.calls import Arguments
from laconic.memory.change import ADVISE, EXTEND, FLAGS, MAP, UNMAP, ZERO, Change, Outcome
from laconic.memory.flags import (
    MADV_DONTFORK,
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MREMAP_MAYMOVE,
    PROT_GROWSDOWN,
)
from laconic.memory.vma import Vma
from laconic.strategies import linux_rule

PAGE = 4096
RW = Vma(0x73)
R = Vma(0x71)


def change(kind: int, first: int, last: int) -> Change:
    """A change of the pages from `first` up to `last`."""
    return Change(kind, first * PAGE, last * PAGE, RW, R)


def pages(first: int, last: int, *more: int) -> Arguments:
    """Six arguments that begin with a range of pages."""
    return (first * PAGE, (last - first) * PAGE, *more, *[0] * (4 - len(more)))


def test_a_call_that_changes_nothing_is_elided() -> None:
    assert only_changes("mprotect", pages(0, 1, 3), Outcome(0)) is None
    assert only_changes("munmap", pages(0, 1), Outcome(0)) is None
    assert only_changes("mmap", pages(0, 1, 3, 0x32), Outcome(0)) is None


def test_a_call_is_narrowed_to_the_span_of_its_changes_and_never_split() -> None:
    outcome = Outcome(0, (change(EXTEND, 2, 3), change(EXTEND, 7, 8)))
    assert only_changes("mprotect", pages(1, 12, 3, 9), outcome) == pages(2, 8, 3, 9)


@pytest.mark.parametrize(("first", "last"), [(1, 4), (2, 6), (2, 4)])
def test_a_call_is_narrowed_at_either_end(first: int, last: int) -> None:
    outcome = Outcome(0, (change(EXTEND, first, last),))
    assert only_changes("mprotect", pages(1, 6, 3), outcome) == pages(first, last, 3)


@pytest.mark.parametrize(
    ("name", "more", "kind"),
    [("mprotect", (3,), EXTEND), ("munmap", (), UNMAP), ("madvise", (MADV_DONTFORK,), FLAGS)],
)
def test_calls_that_set_attributes_are_narrowed(
    name: str, more: tuple[int, ...], kind: int
) -> None:
    args = pages(1, 5, *more)
    assert only_changes(name, args, Outcome(0, (change(kind, 2, 4),))) == pages(2, 4, *more)


@pytest.mark.parametrize(
    ("name", "more", "kind"),
    [
        ("mmap", (3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED), MAP),
        ("mlock", (), FLAGS),
        ("mlock2", (1,), FLAGS),
        ("munlock", (), FLAGS),
        ("msync", (4,), ADVISE),
        ("mseal", (), FLAGS),
        ("madvise", (MADV_DONTNEED,), ZERO),
    ],
)
def test_calls_whose_answer_may_depend_on_all_pages_are_passed_on_whole(
    name: str, more: tuple[int, ...], kind: int
) -> None:
    args = pages(1, 8, *more)
    one, several = (change(kind, 2, 4),), (change(kind, 2, 4), change(kind, 5, 6))
    assert only_changes(name, args, Outcome(0, one)) is args
    assert only_changes(name, args, Outcome(0, several)) is args


def test_a_call_that_will_fail_is_passed_on_whole() -> None:
    """The kernel's own error is the program's: a hole at the end must be part of the range."""
    args = pages(1, 5, 3)
    assert only_changes("mprotect", args, Outcome(-ENOMEM, (change(EXTEND, 2, 4),))) is args


def test_a_call_that_changes_its_whole_range_is_the_program_s_own() -> None:
    outcome = Outcome(0, (change(EXTEND, 1, 3),))
    for length in (PAGE + 1, 2 * PAGE - 1, 2 * PAGE):
        args = (PAGE, length, 3, 0, 0, 0)
        assert only_changes("mprotect", args, outcome) is args
    args = (PAGE, 2 * PAGE + 1, 3, 0, 0, 0)
    assert only_changes("mprotect", args, outcome) == (PAGE, 2 * PAGE, 3, 0, 0, 0)


def test_an_mprotect_that_grows_down_is_passed_on_whole() -> None:
    args = pages(4, 6, 3 | PROT_GROWSDOWN)
    assert only_changes("mprotect", args, Outcome(0, (change(EXTEND, 1, 5),))) is args
    assert only_changes("mprotect", args, Outcome(0, (change(EXTEND, 5, 6),))) is args


def test_the_host_chooses_addresses() -> None:
    args = (0, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, 2**64 - 1, 0)
    assert (
        only_changes("mmap", args, Outcome(8 * PAGE, (Change(MAP, 8 * PAGE, 9 * PAGE, RW, None),)))
        is args
    )
    args = (PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0, 0)
    moved = Outcome(64 * PAGE, (Change(MAP, 64 * PAGE, 66 * PAGE, RW, None, PAGE),))
    assert only_changes("mremap", args, moved) is args


def test_a_call_that_only_the_host_can_answer_is_passed_on_whole() -> None:
    args = pages(1, 5, 3, 7)
    assert only_changes("pkey_mprotect", args, Outcome(0, (change(FLAGS, 2, 4),), ask=True)) is args


def test_every_call_passes_every_call_on() -> None:
    args = pages(0, 1, 3)
    assert linux_rule("every-call")("mprotect", args, Outcome(0)) is args


def test_skip_equal_elides_only_equal_mprotects() -> None:
    args = pages(0, 1, 3)
    assert skip_equal("mprotect", args, Outcome(0)) is None
    assert skip_equal("munmap", args, Outcome(0)) is args
