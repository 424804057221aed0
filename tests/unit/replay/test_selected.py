"""A selection between a replay and what counts it: which calls pass, and which costs are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

import laconic.trace
from laconic.memory.change import MAP, RESTRICT
from laconic.replay.enclaves import (
    FORK,
    LOAD,
    NOT_SELECTED,
    OTHER,
    THREAD,
    TOUCH,
    Enclaves,
    Touch,
)
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.selected import Selected, drop_unselected
from laconic.trace.schema import UNFINISHED
from laconic.trace.selection import Selection
from tests.helpers.comparetraces import ANON, RW, begun
from tests.helpers.traces import BASE

PAGE = 4096
PROGRAMS = (Program(100, "/bin/prog"), Program(200, "/bin/child"))


class Passed(Listener):
    """Keeps the names of the calls that it receives."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def call_done(self, done: CallDone) -> None:
        self.names.append(f"{done.name} {done.is_finished}")


def test_only_selected_calls_pass_and_only_finished_ones_are_counted(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    trace.row("mmap", BASE, 4 * PAGE, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=int(MAP))
    trace.row("mprotect", BASE, PAGE, 1, host_calls=1, kinds=int(RESTRICT))
    trace.row("mprotect", BASE, PAGE, 1)
    trace.row("mprotect", BASE, PAGE, 1, state=UNFINISHED)
    listener = Passed()
    selected = Selected(listener, Selection(calls=("mprotect",)))
    Replay(laconic.trace.open(trace.end()), "laconic", listeners=[selected]).run()
    assert listener.names == ["mprotect True", "mprotect True", "mprotect False"]
    ledger = selected.ledger
    assert (ledger.calls, ledger.host_calls, ledger.redundant) == (2, 1, 1)
    assert ledger.by_call.keys() == {"mprotect"} and ledger.kinds == {RESTRICT: 1}


LABELS = ("mmap", LOAD, FORK, THREAD, TOUCH, OTHER, NOT_SELECTED, Touch("mmap"), Touch(LOAD))


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        # What a library OS does around the calls belongs to whole processes.
        (Selection(pids=(100,)), {0: {LOAD, FORK, THREAD, TOUCH, OTHER, Touch(LOAD)}}),
        (Selection(programs=("child",)), {1: {LOAD, FORK, THREAD, TOUCH, OTHER, Touch(LOAD)}}),
        (Selection(calls=("mmap",)), {}),
        (Selection(end=1), {}),
    ],
    ids=["process", "program", "call", "time"],
)
def test_work_around_the_calls_is_kept_for_whole_processes(
    selection: Selection, kept: dict[int, set[object]]
) -> None:
    enclaves = Enclaves({"laconic": lambda *_: None})  # type: ignore[dict-item]
    meter = enclaves.meters["laconic"]
    for number in (-1, 0, 1, 2):
        for label in LABELS:
            meter.at(number, label)
        enclaves.touched_pages[number] = {"mmap": 3, LOAD: 4, Touch(NOT_SELECTED): 5}
    drop_unselected(enclaves, selection, PROGRAMS)
    for number in (-1, 0, 1, 2):
        around = kept.get(number, set())
        labels = {label for process, label in meter.tables if process == number}
        assert labels == {"mmap", Touch("mmap"), *around}
        pages = {"mmap": 3, LOAD: 4} if around else {"mmap": 3}
        assert enclaves.touched_pages[number] == pages
