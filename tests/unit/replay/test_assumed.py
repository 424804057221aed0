"""Address spaces whose start a log does not show: what is assumed, and what contradicts it."""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM, EPERM
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.memory import flags as f
from laconic.memory.change import ADVISE, EXTEND, FILE, MAP, RESTRICT, ZERO, Change, Outcome
from laconic.memory.flags import TASK_SIZE
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.replay.assumed import (
    UNKNOWN,
    AssumedStart,
    affected,
    assumed_space,
    may_be_nothing,
)
from laconic.replay.check import LOST_DATA, MODEL_ERROR, UNKNOWN_START, Check
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.thread import started_mm
from tests.helpers.pictures import LEGEND, PAGE, RW, R
from tests.helpers.traces import BASE, Builder

ANON, FIXED = 0x22, 0x10


def at(page: int) -> int:
    """The address of a page."""
    return BASE + page * PAGE


class Log:
    """A log of one process, and its replay with a check."""

    def __init__(self, path: Path) -> None:
        self.trace = Builder(path / "a.trace", "strace")

    def call(self, name: str, *args: int, result: int = 0) -> Log:
        """One more line."""
        self.trace.row(name, *args, result=result)
        return self

    def replay(self) -> tuple[Check, AddressSpace, Replay]:
        """The differences, the address space at the end, and the replay."""
        engine = Replay(laconic.trace.open(self.trace.end()), "laconic", check=True, keep=True)
        engine.run()
        assert engine.check is not None
        space = engine.processes[100].space
        assert space is not None
        return engine.check, space, engine


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def drawn(space: AddressSpace, pages: int = 8) -> str:
    """The first pages: `w` and `r` for known protections, `?` for unknown ones, a dot for a
    hole."""
    letters = {None: ".", UNKNOWN: "?"}
    vmas = [space.vmas.get(at(page)) for page in range(pages)]
    return "".join(
        letters.get(vma) or ("w" if vma and vma.flags & f.VM_WRITE else "r") for vma in vmas
    )


# What a successful call presupposes


def test_a_protected_range_was_mapped(log: Log) -> None:
    # ........  mprotect of pages 1 to 3 succeeded: something was there
    # .www....
    check, space, engine = log.call("mprotect", at(1), 3 * PAGE, RW).replay()
    assert drawn(space) == ".www...." and not check.counts
    assert engine.uncertain == {"mprotect": 1}, "it may have been read-write before"


def test_an_unmapped_range_may_have_been_mapped(log: Log) -> None:
    check, space, engine = log.call("munmap", at(1), 3 * PAGE).replay()
    assert drawn(space) == "........" and not check.counts
    assert (engine.ledger.calls, engine.ledger.host_calls) == (1, 1)
    assert engine.uncertain == {"munmap": 1}


def test_a_known_hole_is_not_assumed_to_be_mapped(log: Log) -> None:
    # the second munmap changes nothing: the log showed the first one
    log.call("munmap", at(1), 3 * PAGE).call("munmap", at(1), 2 * PAGE)
    _, _, engine = log.replay()
    assert (engine.ledger.host_calls, engine.ledger.redundant) == (1, 1)


def test_a_success_on_a_known_hole_is_an_error_of_the_model(log: Log) -> None:
    log.call("munmap", at(1), 3 * PAGE).call("mprotect", at(1), PAGE, R)
    check, space, _ = log.replay()
    assert check.counts == {MODEL_ERROR: 1}
    (difference,) = check.differences
    assert difference.why == f"it succeeded, and bookkeeping has nothing at {at(1):#x}"
    assert drawn(space) == ".r......"


def test_what_a_success_presupposes_is_held_too(log: Log) -> None:
    _, space, engine = log.call("mprotect", at(1), PAGE, 0).replay()
    assert space.held.get(at(1)) == space.vmas.get(at(1)) == UNKNOWN
    assert engine.ledger.host_calls == 0


def test_a_heap_is_known_once_it_has_grown(log: Log) -> None:
    heap = 0x5555_5555_6000
    log.call("brk", 0, result=heap).call("brk", heap + 2 * PAGE, result=heap + 2 * PAGE)
    log.call("mprotect", heap, 2 * PAGE, R, result=-EINVAL)
    check, _, _ = log.replay()
    assert check.counts == {MODEL_ERROR: 1}


# Places that the host chose


def test_a_mapping_lies_where_the_log_says(log: Log) -> None:
    log.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, result=at(3))
    check, space, engine = log.replay()
    assert drawn(space) == "...ww..." and not check.counts and not engine.uncertain


def test_a_mapping_over_another_one_contradicts_the_bookkeeping(log: Log) -> None:
    log.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, result=at(3))
    log.call("mmap", 0, 2 * PAGE, R, ANON, -1, 0, result=at(4))
    check, space, _ = log.replay()
    assert drawn(space) == "...wrr.." and check.counts == {MODEL_ERROR: 1}
    assert check.differences[0].why == (
        f"the host put it on {at(4):#x}, where bookkeeping still has a mapping"
    )


def test_a_move_goes_where_the_log_says(log: Log) -> None:
    # www.....  mremap of pages 0 to 2 to page 4, one page longer
    # ....wwww
    log.call("mmap", 0, 3 * PAGE, RW, ANON, -1, 0, result=at(0))
    log.call("mremap", at(0), 3 * PAGE, 4 * PAGE, 1, result=at(4))
    check, space, _ = log.replay()
    assert drawn(space) == "....wwww" and not check.counts


class Changes(Listener):
    """Keeps the changes of every call."""

    def __init__(self) -> None:
        self.changes: list[list[str]] = []

    def call_done(self, done: CallDone) -> None:
        self.changes.append([str(change) for change in done.changes])


def test_what_a_mapping_grew_over_was_unmapped_before(log: Log) -> None:
    log.call("mmap", 0, PAGE, RW, ANON, -1, 0, result=at(0))
    log.call("mmap", 0, PAGE, R, ANON, -1, 0, result=at(1))
    log.call("mremap", at(0), PAGE, 2 * PAGE, 1, result=at(0))
    changes = Changes()
    Replay(laconic.trace.open(log.trace.end()), "laconic", listeners=[changes]).run()
    assert changes.changes[2] == [
        "UNMAP 7f0000001000-7f0000002000, was r--p",
        "MAP 7f0000001000-7f0000002000 rw-p",
    ]


def test_several_vmas_are_moved_one_after_the_other(log: Log) -> None:
    # wrr.....  mremap of pages 0 to 2 to page 4
    # ..r.wr..
    log.call("mmap", 0, PAGE, RW, ANON, -1, 0, result=at(0))
    log.call("mmap", 0, 2 * PAGE, R, ANON, -1, 0, result=at(1))
    log.call("mremap", at(0), 2 * PAGE, 2 * PAGE, 3, at(4), result=at(4))
    check, space, _ = log.replay()
    assert drawn(space) == "..r.wr.." and not check.counts


def test_huge_pages_that_stay_where_they_are_are_not_moved(log: Log) -> None:
    """Only the host decides about them, so the result of the log is taken over."""
    length = 4 << 20
    log.call("mmap", 0, length, RW, ANON | f.MAP_HUGETLB, -1, 0, result=at(0))
    log.call("mremap", at(0), length, length, 1, result=at(0))
    check, space, _ = log.replay()
    assert drawn(space) == "wwwwwwww" and not check.counts
    vma = space.held.get(at(0))
    assert vma is not None and vma.flags & f.VM_HUGETLB


def test_growth_in_place_over_another_mapping_replaces_it(log: Log) -> None:
    log.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, result=at(0))
    log.call("mmap", 0, 2 * PAGE, R, ANON, -1, 0, result=at(3))
    log.call("mremap", at(0), 2 * PAGE, 4 * PAGE, 1, result=at(0))
    check, space, _ = log.replay()
    assert drawn(space) == "wwwwr..." and check.counts == {MODEL_ERROR: 1}


def test_a_file_that_the_log_does_not_show_allows_any_mapping(log: Log) -> None:
    log.call("mmap", 0, PAGE, RW, 1, 3, 0, result=at(0)).call(
        "mmap", 0, PAGE, 5, 2, 3, 0, result=at(2)
    )
    check, space, _ = log.replay()
    assert drawn(space) == "w.r....." and not check.counts


# Refusals


@pytest.mark.parametrize(
    ("name", "args", "error", "cause"),
    [
        ("mprotect", (at(0), PAGE, R), EACCES, UNKNOWN_START),  # the host's own reasons
        ("mprotect", (at(0), PAGE, R), EPERM, UNKNOWN_START),
        ("mprotect", (at(0), PAGE, R), EINVAL, MODEL_ERROR),
        ("mlock", (at(0), PAGE), ENOMEM, UNKNOWN_START),  # a limit
        ("madvise", (at(0), PAGE, f.MADV_DONTNEED), EINVAL, UNKNOWN_START),
        ("munmap", (at(0), PAGE), ENOMEM, MODEL_ERROR),
        ("munmap", (at(6), PAGE), EINVAL, UNKNOWN_START),  # the log does not show what was there
    ],
)
def test_a_refusal_has_a_cause(
    name: str, args: tuple[int, ...], error: int, cause: str, log: Log
) -> None:
    log.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, result=at(0))
    check, space, engine = log.call(name, *args, result=-error).replay()
    assert check.counts == {cause: 1}
    assert drawn(space) == "ww......", "a refused call changes nothing"
    assert engine.ledger.by_call[name].failed == 1
    assert check.differences[0].recorded == str(-error)


def test_a_refusal_that_is_expected_is_none(log: Log) -> None:
    log.call("munmap", at(0), PAGE).call("mprotect", at(0), PAGE, R, result=-ENOMEM)
    check, _, _ = log.replay()
    assert not check.counts


def test_after_a_loss_differences_are_lost_data(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, result=at(0))
    log.trace.row("lost", 1)
    log.call("munmap", at(0), PAGE, result=-EINVAL)
    check, _, _ = log.replay()
    assert check.counts == {LOST_DATA: 1}


# The break


def test_the_first_break_is_where_the_log_shows_it(log: Log) -> None:
    log.call("brk", 0, result=at(0)).call("brk", at(2), result=at(2)).call(
        "brk", at(1), result=at(1)
    )
    check, space, engine = log.replay()
    assert drawn(space) == "w......." and space.brk == at(1) and not check.counts
    assert [engine.ledger.by_call["brk"].calls, engine.ledger.by_call["brk"].host_calls] == [3, 2]


def test_a_break_that_was_refused_stays(log: Log) -> None:
    log.call("brk", 0, result=at(0)).call("brk", at(2), result=at(0))
    check, space, _ = log.replay()
    assert drawn(space) == "........" and space.brk == at(0) and not check.counts


def test_a_break_that_the_bookkeeping_refuses_moves(log: Log) -> None:
    log.call("brk", 0, result=at(0))
    log.call("mmap", at(1), PAGE, R, ANON | FIXED, -1, 0, result=at(1))
    log.call("brk", at(3), result=at(3))
    check, space, _ = log.replay()
    assert space.brk == at(3) and sum(check.counts.values()) == 1


def test_a_first_break_that_moved_says_nothing_of_its_start(log: Log) -> None:
    _, space, _ = log.call("brk", at(2), result=at(2)).replay()
    assert (space.start_brk, space.brk) == (0, at(2))


# Pieces


@pytest.mark.parametrize(
    ("name", "args", "pages"),
    [
        ("mprotect", (at(1), 2 * PAGE), (1, 3)),
        ("mprotect", (at(1) + 5, PAGE), (1, 3)),
        ("prctl", (1, 2, at(1), PAGE), (1, 2)),
        ("mmap", (at(2), 1), (2, 3)),
        ("mremap", (at(2), PAGE), (2, 3)),
        ("remap_file_pages", (at(2), PAGE), (2, 3)),
    ],
)
def test_the_range_that_a_call_affects(
    name: str, args: tuple[int, ...], pages: tuple[int, int]
) -> None:
    six = (*args, *[0] * (6 - len(args)))
    assert affected(name, six) == (at(pages[0]), at(pages[1]))


def test_calls_without_a_range_affect_none() -> None:
    assert affected("mlockall", (at(1), PAGE, 0, 0, 0, 0)) == (0, 0)


W = LEGEND["w"]
PATHS = Vma(R, File(0, 3, -7, "?a"), 0)


@pytest.mark.parametrize(
    ("change", "guessed", "nothing"),
    [
        (Change(EXTEND, 0, PAGE, W, UNKNOWN), False, True),
        (Change(EXTEND, 0, PAGE, W, LEGEND["r"]), False, False),
        (Change(ZERO, 0, PAGE, W, W), True, True),
        (Change(ZERO, 0, PAGE, W, W), False, False),
        (Change(ZERO | EXTEND, 0, PAGE, W, LEGEND["r"]), True, False),
        (Change(FILE, 0, PAGE, PATHS, LEGEND["f"]), False, True),
        (Change(FILE, 0, PAGE, LEGEND["f"], PATHS), False, True),
        (Change(FILE | RESTRICT, 0, PAGE, PATHS, LEGEND["f"]), False, False),
        (Change(FILE, 0, PAGE, LEGEND["w"], PATHS), False, False),
        (Change(FILE, 0, PAGE, LEGEND["F"], LEGEND["f"]), False, False),
        (Change(MAP, 0, PAGE, W, None), True, False),
        (Change(ADVISE, 0, PAGE, W, W), True, False),
    ],
)
def test_changes_of_assumed_pages_may_be_redundant(
    change: Change, guessed: bool, nothing: bool
) -> None:
    assert may_be_nothing(Outcome(0, (change,)), guessed) == nothing
    certain = Change(MAP, PAGE, 2 * PAGE, W, None)
    assert not may_be_nothing(Outcome(0, (change, certain)), guessed)
    assert not may_be_nothing(Outcome(0), guessed)


@pytest.mark.parametrize(
    ("about", "followed", "assumed", "awaits"),
    [
        ({"bits": 32}, False, False, False),
        ({"followed": False}, False, False, False),
        ({}, True, True, False),
        ({"maps": True}, True, True, True),
        ({"layout": {"refused_advice": [3], "max_map_count": 7}}, True, False, False),
    ],
)
def test_the_address_space_of_a_program(
    about: dict[str, Any], followed: bool, assumed: bool, awaits: bool
) -> None:
    mm = started_mm(about, at(0), 77)
    assert (mm.space is not None, mm.assumed is not None) == (followed, assumed)
    if mm.assumed is not None:
        assert mm.assumed.awaits_maps == awaits
    elif mm.space is not None:
        assert (mm.space.brk, mm.space.data_size) == (at(0), 77)
        assert mm.space.layout.refused_advice == {3} and mm.space.layout.max_map_count == 7


def test_in_an_assumed_space_no_stack_grows() -> None:
    assert assumed_space().layout.quiet_below > TASK_SIZE


def test_a_fork_knows_what_its_parent_knew() -> None:
    start = AssumedStart(awaits_maps=True)
    start.brk = True
    space = assumed_space()
    space.vmas.set(at(0), at(2), W)
    start.shows(space.vmas)
    copy = start.copy()
    assert not start.awaits_maps and copy.brk
    assert [(begin, end) for begin, end, _ in copy.known] == [(at(0), at(2))]
    copy.known.clear(at(0), at(1))
    assert len(list(start.known)) == 1 and start.known.get(at(0))
