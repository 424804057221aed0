"""The ledger: what a call counts as."""

from __future__ import annotations

import pytest

from laconic.memory.change import EXTEND, MAP, RESTRICT, Change
from laconic.memory.ledger import CallCount, Ledger


def change(kind: int) -> Change:
    """A change of one page."""
    return Change(kind, 0, 4096, None, None)


@pytest.mark.parametrize(
    ("host_calls", "result", "narrowed", "count"),
    [
        (1, 0, False, CallCount(calls=1, host_calls=1)),
        (1, 0, True, CallCount(calls=1, host_calls=1, narrowed=1)),
        (1, -12, False, CallCount(calls=1, host_calls=1, failed=1)),
        (0, 0, False, CallCount(calls=1, elided=1, redundant=1)),
        (0, 0x7000, False, CallCount(calls=1, elided=1, redundant=1)),
        (0, -12, False, CallCount(calls=1, elided=1, failed=1)),
    ],
)
def test_a_redundant_call_was_elided_and_succeeded(
    host_calls: int, result: int, narrowed: bool, count: CallCount
) -> None:
    ledger = Ledger()
    ledger.count("munmap", host_calls, result, narrowed)
    assert ledger.by_call == {"munmap": count}


def test_sums_are_over_all_calls() -> None:
    ledger = Ledger()
    for name, host_calls, result in (("mmap", 1, 0), ("mmap", 0, 0), ("brk", 0, -1), ("brk", 0, 1)):
        ledger.count(name, host_calls, result)
    assert (ledger.calls, ledger.host_calls, ledger.elided, ledger.redundant) == (4, 1, 3, 2)
    assert ledger.by_call["mmap"] == CallCount(calls=2, host_calls=1, elided=1, redundant=1)


def test_a_change_counts_under_each_of_its_kinds() -> None:
    ledger = Ledger()
    ledger.count("mmap", 1, 0, changes=[change(MAP), change(EXTEND | RESTRICT)])
    ledger.count("mprotect", 1, 0, changes=[change(EXTEND)])
    assert ledger.kinds == {MAP: 1, EXTEND | RESTRICT: 1, EXTEND: 1}
    counts = ledger.changes()
    assert list(counts) == ["map", "unmap", "flags", "file", "extend", "restrict", "zero", "advise"]
    assert (counts["map"], counts["extend"], counts["restrict"], counts["zero"]) == (1, 2, 1, 0)


def test_resynced_calls_are_counted_by_name() -> None:
    ledger = Ledger()
    for name in ("shmat", "shmat", "prctl"):
        ledger.count_resynced(name)
    assert (ledger.unmodeled, ledger.resynced) == ({"shmat": 2, "prctl": 1}, 3)
    assert ledger.by_call == {}


def test_a_note_is_entered_once_and_announced_if_urgent() -> None:
    announced: list[str] = []
    ledger = Ledger(announce=announced.append)
    ledger.note("later")
    for _ in range(2):
        ledger.note("now", urgent=True)
    assert (ledger.notes, announced) == (["later", "now"], ["now"])
    silent = Ledger()
    silent.note("now", urgent=True)
    assert silent.notes == ["now"]


def test_a_new_ledger_is_empty() -> None:
    ledger = Ledger()
    assert (ledger.processes, ledger.checks, ledger.mismatches, ledger.calls) == (0, 0, 0, 0)
    assert not any(ledger.changes().values())


def test_whom_a_ledger_announces_to_is_no_part_of_its_value() -> None:
    ledger = Ledger(announce=print)
    assert ledger == Ledger() and "announce" not in repr(ledger)
