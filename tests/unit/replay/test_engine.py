"""The replay: which events it publishes, in which order, and what it counts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.linux.pagemap import Touched
from laconic.memory.change import EXTEND, MAP, RESTRICT, UNMAP, Change
from laconic.memory.flags import PAGE_SIZE as PAGE
from laconic.replay.check import LOST_DATA, MODEL_ERROR
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.thread import Mm, Thread
from laconic.trace.schema import CHOSEN, CODES, FAILED, UNFINISHED, UNFOLLOWED, Row
from tests.helpers.comparetraces import ANON, RW, begun
from tests.helpers.traces import BASE, Builder

FORK, THREAD, VFORK = 17, 0x3D0F00, 0x4111
R = 1


class Log(Listener):
    """Writes down every event in a word or two."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.calls: list[CallDone] = []

    def call_begins(self, number: int, row: Row, thread: Thread) -> None:
        self.events.append("begins")

    def call_done(self, done: CallDone) -> None:
        self.calls.append(done)
        self.events.append(f"{done.name} {done.host_calls}")

    def call_ignored(self, number: int, row: Row, stack: int, followed: bool) -> None:
        self.events.append(f"ignored {followed}")

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        self.events.append(f"committed {name}")

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        self.events.append(f"touched {mm.number}")

    def started(self, mm: Mm) -> None:
        self.events.append(f"started {mm.number}")

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        self.events.append(f"host_read {len(changes)} {grew}")

    def forked(self, parent: Mm, child: Mm) -> None:
        self.events.append(f"forked {parent.number} {child.number}")

    def thread_started(self, mm: Mm) -> None:
        self.events.append("thread_started")

    def thread_ended(self, mm: Mm) -> None:
        self.events.append("thread_ended")

    def trace_ends(self) -> None:
        self.events.append("trace_ends")

    def ended(self, mm: Mm) -> None:
        self.events.append(f"ended {mm.pid}")


def replayed(trace: Builder, strategy: str = "laconic", **options: Any) -> tuple[Replay, Log]:
    """The replay of a trace and its events."""
    log = Log()
    engine = Replay(laconic.trace.open(trace.end()), strategy, listeners=[log], **options)
    engine.run()
    return engine, log


def mapped(path: Path, pages: int = 4) -> Builder:
    """A program that has mapped some pages."""
    trace = begun(path)
    kinds = int(MAP)
    trace.row(
        "mmap", 0, pages * PAGE, RW, ANON, -1, 0, result=BASE, state=CHOSEN, said=1, kinds=kinds
    )
    return trace


START = ["started 0", "begins", "mmap 1"]
END = ["trace_ends", "ended 100"]


def test_a_call_begins_and_is_done(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("mprotect", BASE, PAGE, R, said=1, kinds=int(RESTRICT))
    engine, log = replayed(trace)
    assert log.events == [*START, "begins", "mprotect 0", "begins", "mprotect 1", *END]
    done = log.calls[-1]
    assert (done.name, done.result, done.program, done.is_finished) == (
        "mprotect",
        0,
        "/bin/prog",
        True,
    )
    assert [change.kind for change in done.changes] == [RESTRICT]
    assert not done.is_redundant and log.calls[1].is_redundant and not done.read_host
    assert done.number == 5 and engine.number == 6
    assert (engine.ledger.processes, len(engine.started)) == (1, 1)
    assert (engine.started[0].pid, engine.started[0].path) == (100, "/bin/prog")


@pytest.mark.parametrize(
    ("strategy", "host_calls"),
    [("laconic", [1, 0, 1]), ("every-call", [1, 1, 1]), ("observe", [1, 0, 1])],
)
def test_a_strategy_decides_the_host_calls(
    strategy: str, host_calls: list[int], tmp_path: Path
) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("munmap", BASE, 8 * PAGE, said=1, kinds=int(UNMAP))
    _, log = replayed(trace, strategy)
    assert [done.host_calls for done in log.calls] == host_calls


def test_touched_pages_precede_what_happens_to_them(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    pages = ((BASE, BASE + PAGE, 0),)
    trace.row("munmap", BASE, PAGE, said=1, kinds=int(UNMAP), touched=pages)
    trace.row("clone", FORK, result=102, touched=pages)
    trace.row("exit", 0, pid=102, touched=pages)
    trace.row("exit", 0, touched=pages)
    _, log = replayed(trace)
    assert log.events == [
        *START, "begins", "touched 0", "munmap 1", "touched 0", "forked 0 1", "touched 1",
        "ended 102", "touched 0", "ended 100", "trace_ends",
    ]  # fmt: skip


def test_threads_share_an_address_space_and_processes_do_not(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone3", THREAD, result=101)
    trace.row("munmap", BASE, PAGE, tid=101, said=1, kinds=int(UNMAP))
    trace.row("clone", FORK, tid=101, result=200)
    trace.row("munmap", BASE, PAGE, pid=200)
    trace.row("exit", 0, tid=101)
    trace.row("exit", 0, pid=200)
    engine, log = replayed(trace)
    assert log.events == [
        *START, "thread_started", "begins", "munmap 1", "forked 0 1", "begins", "munmap 0",
        "thread_ended", "ended 200", *END,
    ]  # fmt: skip
    assert engine.ledger.processes == 2
    assert [program.pid for program in engine.started] == [100, 200]


def test_vfork_shares_until_exec(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", VFORK, result=200)
    trace.row("munmap", BASE, PAGE, pid=200, said=1, kinds=int(UNMAP))
    trace.row("munmap", BASE, PAGE)
    engine, log = replayed(trace)
    assert log.events == [*START, "begins", "munmap 1", "begins", "munmap 0", *END]
    assert engine.ledger.processes == 2


def test_a_clone_that_failed_starts_nothing(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", FORK, result=-11)
    trace.row("clone", FORK, result=0)
    trace.row("clone", FORK, result=300, state=UNFINISHED)
    engine, log = replayed(trace)
    assert log.events == [*START, *END] and engine.ledger.processes == 1


def test_calls_without_bookkeeping_are_ignored(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mincore", BASE, PAGE, 0)
    trace.row("program", data=b'{"path": "/bin/old", "bits": 32}')
    trace.row("munmap", BASE, PAGE)
    engine, log = replayed(trace)
    assert log.events == [*START, "ignored True", "ended 100", "ignored False", "trace_ends"]
    assert engine.bystanders == 1
    assert "is not followed" in engine.ledger.notes[0] or engine.end == {}


def test_an_exec_ends_the_old_program_and_starts_the_new_one(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone3", THREAD, result=101)
    trace.row("execve", data=b"/bin/new", touched=((BASE, BASE + PAGE, 0),))
    trace.row("program", 0x5555_5555_6000, 0, 1, data=b'{"path": "/bin/new", "bits": 64}')
    engine, log = replayed(trace)
    assert log.events[3:6] == ["thread_started", "touched 0", "thread_ended"]
    assert log.events[6:] == ["ended 100", "started 1", *END]
    assert engine.started[1].path == "/bin/new"
    assert engine.threads[100].read_implies_exec and 101 not in engine.threads


def test_an_unfinished_call_changes_nothing(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("munmap", BASE, PAGE, state=UNFINISHED)
    trace.row("munmap", BASE, PAGE, said=1, kinds=int(UNMAP))
    engine, log = replayed(trace)
    assert [(done.is_finished, done.host_calls) for done in log.calls[1:]] == [
        (False, 0),
        (True, 1),
    ]
    assert engine.ledger.by_call["munmap"].calls == 1


def test_a_call_that_was_begun_before_is_finished(tmp_path: Path) -> None:
    # mlock kept other threads waiting: its changes are committed at once, and its end follows
    for committed in (0, 1):
        trace = mapped(tmp_path / f"{committed}.trace")
        trace.row("begin", BASE, PAGE, said=CODES["mlock"], state=committed)
        trace.row("mlock", BASE, PAGE, said=1)
        _engine, log = replayed(trace)
        extra = ["committed mlock"] if committed else []
        assert log.events == [*START, "begins", *extra, "begins", "mlock 1", *END]
        assert len(log.calls[-1].changes) == 1 - committed
        space = log.calls[-1].thread.mm.space
        assert space is not None
        assert [vma.is_locked for _, _, vma in space.held] == [True, False]


def test_the_host_s_map_is_read_between_calls_and_for_one(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 2)  # the whole map, between two calls
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    trace.row("maps", 1, 0)  # for the next call
    trace.row("vma", BASE + PAGE, BASE + 2 * PAGE, 0x71)
    trace.row("munmap", BASE, PAGE, result=-12, state=FAILED)
    _, log = replayed(trace)
    assert log.events == [*START, "host_read 1 False", "begins", "munmap 1", *END]
    assert log.calls[-1].read_host


def test_growth_of_a_stack_is_told_apart(tmp_path: Path) -> None:
    from laconic.trace.schema import GREW

    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 2)
    trace.row("vma", BASE + (1 << 20), BASE + (1 << 20) + PAGE, 0x173)
    trace.row("maps", 1, GREW)
    trace.row("vma", BASE + (1 << 20) - PAGE, BASE + (1 << 20), 0x173)
    _, log = replayed(trace)
    assert log.events == [*START, "host_read 1 False", "host_read 1 True", *END]


def test_a_check_compares_results_and_host_calls(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, R, said=1, kinds=int(RESTRICT))  # right
    trace.row("mprotect", BASE, PAGE, R, result=-13)  # another result
    trace.row("mprotect", BASE, PAGE, R, said=1)  # it was elided
    trace.row("mprotect", BASE, PAGE, RW, said=1, kinds=int(RESTRICT))  # other changes
    trace.row("lost", 1)
    trace.row("mprotect", BASE, PAGE, RW, result=-13)
    engine, _ = replayed(trace, check=True)
    assert engine.check is not None
    assert (engine.check.compared, engine.check.counts) == (6, {MODEL_ERROR: 3, LOST_DATA: 1})
    whys = [difference.why for difference in engine.check.differences]
    assert whys[0] == whys[3] == "another result"
    assert whys[2].startswith(
        f"1 host calls for changes {RESTRICT:#x} were recorded, 1 for {EXTEND:#x}"
    )
    other, _ = replayed(mapped(tmp_path / "b.trace"), "every-call", check=True)
    assert other.check is not None and other.check.compared == 1


def test_another_strategy_is_held_to_the_results_alone(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    engine, _ = replayed(trace, "every-call", check=True)
    assert engine.check is not None and not engine.check.counts
    assert (engine.recorded, engine.strategy) == ("laconic", "every-call")


def test_lost_rows_stop_the_bookkeeping_of_a_process_if_they_say_so(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("lost", 1, 1)
    trace.row("munmap", BASE, PAGE)
    engine, log = replayed(trace)
    assert log.events == [*START, "ignored False", *END]
    assert engine.losses


def test_a_replay_can_stop_before_an_event(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("munmap", BASE, PAGE, said=1, kinds=int(UNMAP))
    log = Log()
    engine = Replay(laconic.trace.open(trace.end()), listeners=[log])
    times: list[int] = []
    engine.run(lambda number, time: times.append(time) or number == 4)  # type: ignore[func-returns-value]
    assert log.events == [*START, *END]
    assert times == [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000]


def test_ended_processes_are_kept_on_request(tmp_path: Path) -> None:
    for keep in (False, True):
        trace = mapped(tmp_path / f"{keep}.trace")
        trace.row("exit", 0)
        engine, _ = replayed(trace, keep=keep)
        assert (100 in engine.processes) == keep


def test_personality_decides_what_is_executable(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    for persona, result in ((0x0400000, 0), (0xFFFFFFFF, 0), (0, -1)):
        trace.row("personality", persona, result=result)
    trace.row("mprotect", BASE, PAGE, R, said=1, kinds=int(RESTRICT | EXTEND))
    trace.row("personality", 0)
    trace.row("mprotect", BASE + PAGE, PAGE, R, said=1, kinds=int(RESTRICT))
    engine, log = replayed(trace, check=True)
    assert [change.kind for done in log.calls[1:] for change in done.changes] == [
        EXTEND | RESTRICT,
        RESTRICT,
    ]
    assert engine.check is not None and not engine.check.counts


def test_a_call_that_is_not_followed_is_read_from_the_host(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 0)
    trace.row("vma", BASE, BASE + 4 * PAGE, 0x71)
    trace.row("mprotect", BASE, PAGE, RW, state=UNFOLLOWED, said=1)
    engine, log = replayed(trace)
    assert engine.ledger.unmodeled == {"mprotect": 1}
    assert log.calls[-1].read_host and [change.kind for change in log.calls[-1].changes] == [
        RESTRICT
    ]


def test_a_log_starts_with_its_first_call_and_results_lead(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "strace")
    trace.row("mprotect", BASE, PAGE, RW, pid=7)
    trace.row("munmap", BASE, PAGE, pid=7, result=-22)
    engine, log = replayed(trace, check=True)
    assert log.events == [
        "started 0",
        "begins",
        "mprotect 1",
        "begins",
        "munmap 1",
        "trace_ends",
        "ended 7",
    ]
    assert engine.uncertain == {"mprotect": 1}
    assert engine.check is not None and engine.check.compared == 2 and engine.check.counts
    assert engine.ledger.by_call["munmap"].failed == 1
