"""What the Linux PAL says for an outcome: the changed runs, and nothing else."""

from __future__ import annotations

from errno import ENOMEM

import pytest

from laconic.memory.calls import Call
from laconic.memory.change import EXTEND, FLAGS, MAP, UNMAP, Change, Outcome
from laconic.memory.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_GROWSDOWN,
)
from laconic.memory.vma import Vma
from laconic.pal import Confirmation, HostCall
from laconic.pal.linux import LinuxPal

PAGE = 4096
RW = Vma(0x73)
R = Vma(0x71)


def change(kind: int, first: int, last: int) -> Change:
    """A change of the pages from `first` up to `last`."""
    return Change(kind, first * PAGE, last * PAGE, RW, R)


def said(name: str, args: tuple[int, ...], outcome: Outcome, last: int = 0, every_call: bool = False) -> list[HostCall]:
    """The host calls for an outcome."""
    return LinuxPal(every_call).host_calls(Call(name, args), outcome, last)


def test_nothing_changed_nothing_said() -> None:
    """Law Silent."""
    assert said("mprotect", (0, PAGE, 3, 0, 0, 0), Outcome(0)) == []


def test_says_each_changed_run_once() -> None:
    """Runs that touch are one call; a run that is as asked lies between two."""
    outcome = Outcome(0, (change(EXTEND, 1, 2), change(EXTEND, 2, 3), change(EXTEND, 7, 8)))
    assert said("mprotect", (PAGE, 7 * PAGE, 3, 9, 9, 9), outcome) == [
        HostCall("mprotect", (PAGE, 2 * PAGE, 3, 9, 9, 9)),
        HostCall("mprotect", (7 * PAGE, PAGE, 3, 9, 9, 9)),
    ]


def test_the_run_that_the_calls_are_made_from_comes_last() -> None:
    """Unmapping the code that makes the next call would be the last thing it does."""
    outcome = Outcome(0, (change(UNMAP, 1, 2), change(UNMAP, 4, 5)))
    order = [call.args[0] // PAGE for call in said("munmap", (PAGE, 4 * PAGE, 0, 0, 0, 0), outcome, last=PAGE + 2)]
    assert order == [4, 1]


def test_a_narrowed_mprotect_does_not_grow_down_again() -> None:
    """The runs are where the growing start has led already."""
    outcome = Outcome(0, (change(EXTEND, 1, 2),))
    assert said("mprotect", (PAGE, PAGE, 3 | PROT_GROWSDOWN, 0, 0, 0), outcome)[0].args[2] == 3


def test_a_chosen_address_is_fixed_but_replaces_nothing() -> None:
    """If bookkeeping were wrong about a free place, the host would refuse instead of destroying."""
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    outcome = Outcome(8 * PAGE, (Change(MAP, 8 * PAGE, 9 * PAGE, RW, None),))
    (call,) = said("mmap", (0, PAGE, 3, flags, 2**64 - 1, 0), outcome)
    assert call.args == (8 * PAGE, PAGE, 3, flags | MAP_FIXED_NOREPLACE, 2**64 - 1, 0)


def test_a_narrowed_file_mapping_begins_further_on_in_the_file() -> None:
    """The run's offset moves with its address."""
    outcome = Outcome(8 * PAGE, (Change(EXTEND, 10 * PAGE, 12 * PAGE, RW, R),))
    (call,) = said("mmap", (8 * PAGE, 4 * PAGE, 3, MAP_PRIVATE | MAP_FIXED, 3, PAGE), outcome)
    assert (call.args[0], call.args[1], call.args[5]) == (10 * PAGE, 2 * PAGE, 3 * PAGE)


def test_a_moving_mremap_goes_where_bookkeeping_chose() -> None:
    """MREMAP_FIXED with the chosen target."""
    outcome = Outcome(64 * PAGE, (Change(MAP, 64 * PAGE, 66 * PAGE, RW, None, PAGE),))
    (call,) = said("mremap", (PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0, 0), outcome)
    assert call.args == (PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 64 * PAGE, 0)


def test_every_call_is_said_whole() -> None:
    """Today's rule, for comparison."""
    args = (0, PAGE, 3, 0, 0, 0)
    assert said("mprotect", args, Outcome(0), every_call=True) == [HostCall("mprotect", args)]


@pytest.mark.parametrize(("second", "confirmation"), [(0, (0, 0, 2)), (-ENOMEM, (-ENOMEM, -ENOMEM, 2))])
def test_stops_at_the_first_failure(second: int, confirmation: tuple[int, int, int]) -> None:
    """And says how far it came."""
    outcome = Outcome(0, tuple(change(FLAGS, page, page + 1) for page in (1, 3, 5)))
    answers = iter([0, second, 0])
    work = LinuxPal().apply(Call("madvise", (PAGE, 5 * PAGE, 14, 0, 0, 0)), outcome)
    with pytest.raises(StopIteration) as stop:
        next(work)
        while True:
            work.send(next(answers))
    expected = Confirmation(*confirmation) if second else Confirmation(0, 0, 3)
    assert stop.value.value == expected


def test_a_break_that_stayed_is_a_failure() -> None:
    """brk has no errno: it says no by returning what was."""
    work = LinuxPal().apply(Call("brk", (9 * PAGE, 0, 0, 0, 0, 0)), Outcome(9 * PAGE, (change(MAP, 8, 9),)))
    next(work)
    with pytest.raises(StopIteration) as stop:
        work.send(8 * PAGE)
    assert stop.value.value.error
    assert stop.value.value.value == 8 * PAGE
