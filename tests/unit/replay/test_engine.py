"""The replay: which events it publishes, in which order, and what it counts."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.linux.pagemap import Touched
from laconic.memory.change import EXTEND, MAP, RESTRICT, UNMAP, Change
from laconic.memory.flags import PAGE_SIZE as PAGE
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import File
from laconic.replay.check import LOST_DATA, MODEL_ERROR
from laconic.replay.engine import Measured, Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.thread import Mm, ReplayedThread
from laconic.trace.schema import (
    BREAK,
    CODES,
    DATA_LIMIT,
    FAILED,
    GREW,
    HUGE_SHIFT,
    NO_RESULT,
    NOEXEC,
    PLACES,
    PLAIN,
    READABLE,
    UNFINISHED,
    UNFOLLOWED,
    WRITABLE,
    Row,
)
from laconic.trace.stacks import NO_STACK, Stacks
from tests.helpers.comparetraces import ANON, RW, begun
from tests.helpers.traces import BASE, Builder

FORK, THREAD, VFORK = 17, 0x3D0F00, 0x4111
R = 1


class Log(Listener):
    """Writes down every event in a word or two."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.calls: list[CallDone] = []

    def call_begins(self, number: int, row: Row, thread: ReplayedThread) -> None:
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

    def vforked(self, mm: Mm, pid: int) -> None:
        self.events.append(f"vforked {pid}")

    def executes(self, mm: Mm, pid: int) -> None:
        self.events.append(f"executes {pid}")

    def vfork_ended(self, mm: Mm, pid: int) -> None:
        self.events.append(f"vfork_ended {pid}")

    def file_written(self, mm: Mm, file: File, size: int, truncated: bool) -> None:
        self.events.append(f"written {file.path} {size} {truncated}")

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
    trace.mapping(pages * PAGE)
    return trace


START = ["started 0", "begins", "mmap 1"]
END = ["trace_ends", "ended 100"]


def test_a_call_begins_and_is_done(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("mprotect", BASE, PAGE, R, host_calls=1, kinds=int(RESTRICT))
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
    trace.row("munmap", BASE, 8 * PAGE, host_calls=1, kinds=int(UNMAP))
    _, log = replayed(trace, strategy)
    assert [done.host_calls for done in log.calls] == host_calls


def test_touched_pages_precede_what_happens_to_them(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    pages = ((BASE, BASE + PAGE, 0),)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP), touched=pages)
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
    trace.row("munmap", BASE, PAGE, tid=101, host_calls=1, kinds=int(UNMAP))
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
    trace.row("munmap", BASE, PAGE, pid=200, host_calls=1, kinds=int(UNMAP))
    trace.row("munmap", BASE, PAGE)
    engine, log = replayed(trace)
    assert log.events == [
        *START, "vforked 200", "begins", "munmap 1", "begins", "munmap 0", *END,
    ]  # fmt: skip
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
    assert log.events == [
        *START, "ignored True", "executes 100", "ended 100", "ignored False", "trace_ends",
    ]  # fmt: skip
    assert engine.bystanders == 1
    assert "is not followed" in engine.ledger.notes[0] or engine.end == {}


def test_an_exec_ends_the_old_program_and_starts_the_new_one(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone3", THREAD, result=101)
    trace.row("execve", data=b"/bin/new", touched=((BASE, BASE + PAGE, 0),))
    trace.row("program", 0x5555_5555_6000, 0, 1, data=b'{"path": "/bin/new", "bits": 64}')
    engine, log = replayed(trace)
    assert log.events[3:6] == ["thread_started", "touched 0", "thread_ended"]
    assert log.events[6:] == ["executes 100", "ended 100", "started 1", *END]
    assert engine.started[1].path == "/bin/new"
    assert engine.threads[100].read_implies_exec and 101 not in engine.threads


def test_an_unfinished_call_changes_nothing(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("munmap", BASE, PAGE, state=UNFINISHED)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
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
        trace.row("begin", BASE, PAGE, call_code=CODES["mlock"], state=committed)
        trace.row("mlock", BASE, PAGE, host_calls=1)
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
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 2)
    trace.row("vma", BASE + (1 << 20), BASE + (1 << 20) + PAGE, 0x173)
    trace.row("maps", 1, GREW)
    trace.row("vma", BASE + (1 << 20) - PAGE, BASE + (1 << 20), 0x173)
    _, log = replayed(trace)
    assert log.events == [*START, "host_read 1 False", "host_read 1 True", *END]


def test_a_check_compares_results_and_host_calls(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, R, host_calls=1, kinds=int(RESTRICT))  # right
    trace.row("mprotect", BASE, PAGE, R, result=-13)  # another result
    trace.row("mprotect", BASE, PAGE, R, host_calls=1)  # it was elided
    trace.row("mprotect", BASE, PAGE, RW, host_calls=1, kinds=int(RESTRICT))  # other changes
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
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
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
    for persona, result in ((0x0400000, 0), (0xFFFFFFFF, 0), (-1, 0), (0, -1)):
        trace.row("personality", persona, result=result)
    trace.row("mprotect", BASE, PAGE, R, host_calls=1, kinds=int(RESTRICT | EXTEND))
    trace.row("personality", 0)
    trace.row("personality", 0xFFFFFFFF)
    trace.row("mprotect", BASE + PAGE, PAGE, R, host_calls=1, kinds=int(RESTRICT))
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
    trace.row("mprotect", BASE, PAGE, RW, state=UNFOLLOWED, host_calls=1)
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


# A replay as a whole


def test_a_replay_without_listeners_counts_the_same(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("mprotect", BASE, PAGE, R, host_calls=1, kinds=int(RESTRICT))
    trace.row("mincore", BASE, PAGE, 0)
    trace.row("clone", FORK, result=200)
    trace.row("munmap", BASE, PAGE, pid=200, host_calls=1, kinds=int(UNMAP))
    trace.row("lost", 1, 1, pid=200)
    trace.row("munmap", BASE, PAGE, pid=200)
    path = trace.end()
    thresholds = gc.get_threshold()
    ledgers = []
    for listeners in ([], [Log()]):
        engine = Replay(laconic.trace.open(path), check=True, listeners=listeners)
        engine.run()
        assert gc.get_threshold() == thresholds
        assert engine.check is not None and not engine.check.counts and engine.check.compared == 4
        assert (engine.number, engine.bystanders) == (11, 1)
        ledgers.append(engine.ledger)
    assert ledgers[0] == ledgers[1]
    assert (ledgers[0].calls, ledgers[0].host_calls, ledgers[0].processes) == (4, 3, 2)


def test_progress_is_counted_in_bytes_up_to_the_end(tmp_path: Path) -> None:
    path = mapped(tmp_path / "a.trace").end()
    positions: list[int] = []
    Replay(laconic.trace.open(path)).run(progress=positions.append)
    assert positions and 0 < positions[-1] <= Path(path).stat().st_size


def test_a_trace_s_own_strategy_is_the_default_and_a_foreign_one_is_replaced(
    tmp_path: Path,
) -> None:
    for recorded, shown, host_calls in (
        ("every-call", "every-call", 2),
        ("laconic", "laconic", 1),
        ("a-class:of-somebody", "a-class:of-somebody", 1),  # no code of others is run
    ):
        trace = Builder(tmp_path / f"{host_calls}{shown[0]}.trace", about={"strategy": recorded})
        trace.row("program", 0x5555_5555_6000, 0, data=PROGRAM)
        trace.row("maps", 0, 2)
        trace.row("mmap", BASE, PAGE, RW, ANON, -1, 0, result=BASE)
        trace.row("mprotect", BASE, PAGE, RW)
        engine = Replay(laconic.trace.open(trace.end()))
        engine.run()
        assert (engine.recorded, engine.strategy) == (recorded, shown)
        assert engine.ledger.host_calls == host_calls
    engine = Replay(laconic.trace.open(trace.path), "sgx-emm")  # it has no rule for Linux
    engine.run()
    assert (engine.strategy, engine.ledger.host_calls) == ("sgx-emm", 1)


def test_the_end_of_a_trace_replaces_its_notes(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("note", data=b"one \xff")
    trace.row("measured", 1, 2, 3, 4, 5, 1, pid=100, result=4242)
    trace.row("measured", 6, 7, 8, 9, 10, 0, pid=0, result=4243)
    path = trace.cut()
    engine = Replay(laconic.trace.open(path))
    engine.run()
    assert engine.ledger.notes == ["one \N{REPLACEMENT CHARACTER}"] and engine.end == {}
    assert engine.measured == [
        Measured(100, 4242, True, 1, 2, 3, 4, 5),
        Measured(0, 4243, False, 6, 7, 8, 9, 10),
    ]
    assert (engine.ledger.checks, engine.ledger.mismatches) == (0, 0)
    trace = mapped(tmp_path / "b.trace")
    trace.row("note", data=b"one")
    about = {"notes": ["two"], "verify": {"checks": 7, "mismatches": 1}}
    trace.row("end", data=json.dumps(about).encode())
    engine = Replay(laconic.trace.open(trace.cut()))
    engine.run()
    assert engine.ledger.notes == ["two"] and engine.end == about
    assert (engine.ledger.checks, engine.ledger.mismatches) == (7, 1)


def test_each_call_has_its_stack_if_stacks_are_read(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace", source="strace")
    trace.row("stack", data=b"/lib/l.so(first+0x1) [0x1]")
    trace.row("mmap", BASE, PAGE, RW, ANON | 0x10, -1, 0, result=BASE)
    trace.row("munmap", BASE, PAGE)
    path = trace.end()
    for stacks in (None, Stacks()):
        log = Log()
        Replay(laconic.trace.open(path), listeners=[log], stacks=stacks).run()
        first, second = log.calls
        assert second.stack == NO_STACK
        if stacks is None:
            assert first.stack == NO_STACK
        else:
            assert [place.function for place, _ in stacks.walk(first.stack)] == ["first"]


# What the host did, and what it answered

PROGRAM = json.dumps(
    {"path": "/bin/prog", "bits": 64, "layout": {"quiet_below": 1 << 46, "refused_advice": []}}
).encode()


def test_the_host_s_own_answers_lead(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("munmap", BASE, PAGE, result=-12, state=FAILED, host_calls=1)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
    engine, log = replayed(trace, check=True)
    assert [(done.result, len(done.changes)) for done in log.calls] == [(BASE, 1), (-12, 0), (0, 1)]
    assert engine.check is not None and not engine.check.counts


def test_several_changes_are_compared_as_one_set_of_kinds(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, 5, host_calls=1, kinds=int(RESTRICT | EXTEND))
    trace.row("mprotect", BASE, 2 * PAGE, 1, host_calls=1, kinds=int(RESTRICT))
    trace.row("mprotect", BASE + PAGE, PAGE, 3, host_calls=1, kinds=int(EXTEND))
    trace.row("mprotect", BASE, 3 * PAGE, 5, host_calls=1, kinds=int(RESTRICT | EXTEND))
    engine, log = replayed(trace, check=True)
    assert len(log.calls[-1].changes) == 2
    assert engine.check is not None and not engine.check.counts and engine.check.compared == 5


def test_answers_and_maps_are_for_one_call_alone(tmp_path: Path) -> None:
    """Another strategy may not make the host call that they were recorded for."""
    heap = 0x5555_5555_6000
    trace = mapped(tmp_path / "a.trace")
    trace.row("answer", DATA_LIMIT, result=4096)
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("brk", heap + 2 * PAGE, result=heap + 2 * PAGE, host_calls=1, kinds=int(MAP))
    trace.row("maps", 1, 0)
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("munmap", BASE + PAGE, PAGE, result=-12, state=FAILED, host_calls=1)
    trace.row("answer", DATA_LIMIT, result=4096)
    trace.row("brk", heap + 3 * PAGE, result=heap + 2 * PAGE)
    engine, log = replayed(trace, check=True)
    assert engine.check is not None and not engine.check.counts
    space = log.calls[-1].thread.mm.space
    assert space is not None
    assert [vma.flags for start, _, vma in space.held if start >= BASE] == [0x73]


def test_the_break_of_a_program_that_was_running_is_an_answer(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("answer", BREAK, result=0x5555_5556_0000)
    trace.row("brk", 0, result=0x5555_5556_0000)
    trace.row("brk", 0x5555_5556_1000, result=0x5555_5556_1000, host_calls=1, kinds=int(MAP))
    engine, log = replayed(trace, check=True)
    assert engine.check is not None and not engine.check.counts
    assert [change.start for change in log.calls[-1].changes] == [0x5555_5556_0000]


def test_an_unfinished_call_forgets_what_it_had_begun(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("begin", BASE, PAGE, call_code=CODES["madvise"])
    trace.row("madvise", BASE, PAGE, 4, state=UNFINISHED)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
    engine, log = replayed(trace, check=True)
    assert engine.check is not None and not engine.check.counts
    assert [done.is_finished for done in log.calls] == [True, False, True]
    assert [change.kind for change in log.calls[-1].changes] == [UNMAP]


def test_an_unfinished_call_changed_what_the_host_s_map_shows(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 0)
    trace.row("vma", BASE, BASE + PAGE, a5=1)  # a hole
    trace.row("munmap", BASE, 2 * PAGE, state=NO_RESULT)
    trace.row("munmap", BASE, PAGE)
    _, log = replayed(trace)
    assert [(done.host_calls, len(done.changes)) for done in log.calls] == [(1, 1), (0, 1), (0, 0)]
    assert log.calls[1].changes[0].kind == UNMAP and log.calls[1].read_host


def test_after_an_unfinished_call_of_a_log_data_is_lost(tmp_path: Path) -> None:
    for state, cause in ((0, MODEL_ERROR), (UNFINISHED, LOST_DATA)):
        trace = Builder(tmp_path / f"{state}.trace", "strace")
        trace.row("mmap", 0, 4 * PAGE, RW, ANON, -1, 0, result=BASE)
        trace.row("mprotect", BASE, PAGE, R, state=state)
        trace.row("mprotect", BASE, PAGE, RW, result=-12)
        engine, _ = replayed(trace, check=True)
        assert engine.check is not None and engine.check.counts == {cause: 1}


def test_a_call_has_the_file_of_its_descriptor(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    modes: tuple[tuple[int, dict[str, Any]], ...] = (
        (0, {}),
        (READABLE, {"readable": True}),
        (WRITABLE, {"writable": True}),
        (PLAIN, {"plain": True}),
        (NOEXEC, {"noexec": True}),
        (PLACES, {"places": True}),
        (21 << HUGE_SHIFT, {"huge": 2 << 20}),
    )
    nothing = {"readable": False, "writable": False, "plain": False, "noexec": False, "huge": 0}
    for number, (mode, _) in enumerate(modes):
        file = trace.file("/data", inode=number, size=5000, mode=mode)
        trace.row("munmap", BASE, PAGE, file=file)
    _, log = replayed(trace)
    assert log.calls[0].file is None
    for number, (done, (_, field)) in enumerate(zip(log.calls[1:], modes, strict=True)):
        expected = OpenFile(
            File(8, 1, number, "/data"), size=5000, **nothing | {"places": False} | field
        )
        assert done.file == expected


def test_files_are_written_to_in_followed_programs(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    file = trace.file("/data")
    trace.row("written", 4096, 1, file=file)
    trace.row("written", 0, 0, file=file)
    trace.row("written", 0, 0, file=77)  # only in a damaged trace
    trace.row("program", data=b'{"path": "/bin/old", "bits": 32}')
    trace.row("written", 0, 0, file=file)
    _, log = replayed(trace)
    assert log.events[3:5] == ["written /data 4096 False", "written /data 0 True"]
    assert log.events[5:] == ["executes 100", "ended 100", "trace_ends"]


# The host's map between calls


def test_rows_of_a_map_belong_to_the_maps_row_before_them(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("vma", BASE, BASE + PAGE, 0x71)  # of none
    trace.row("maps", 1, 2)
    trace.row("vma", BASE + PAGE, BASE + 2 * PAGE, 0x71)
    trace.row("vma", BASE + 2 * PAGE, BASE + 3 * PAGE, 0x71)  # one too many
    trace.row("maps", 0, 2, tid=555)  # of an unknown thread
    trace.row("maps", 0, 2)
    _, log = replayed(trace)
    assert log.events == [*START, "host_read 1 False", "host_read 0 False", *END]


def test_only_growth_of_stacks_is_taken_from_a_map_of_growth(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, GREW)
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    _, log = replayed(trace)
    assert log.events == [*START, "host_read 0 True", *END]


def test_a_map_of_a_program_that_is_not_followed_is_skipped(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("program", data=b'{"path": "/bin/old", "bits": 32}')
    trace.row("maps", 1, 2)
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    trace.row("begin", BASE, PAGE, call_code=CODES["mlock"], state=1)
    trace.row("clone", FORK, result=200)
    trace.row("munmap", BASE, PAGE, pid=200)
    _, log = replayed(trace)
    assert log.events == [*START, "executes 100", "ended 100", "ignored False", "trace_ends"]


def test_a_map_that_was_read_for_an_execve_is_for_the_program_s_first_call(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 0)
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    trace.row("program", 0x5555_5555_6000, 0, data=PROGRAM)
    trace.row("maps", 0, 2)
    trace.row("munmap", BASE, PAGE, state=UNFINISHED)
    _, log = replayed(trace)
    assert log.calls[-1].read_host and [change.kind for change in log.calls[-1].changes] == [MAP]


def test_the_work_of_a_call_that_overtakes_sees_its_touched_pages(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row(
        "begin", BASE, PAGE, call_code=CODES["mlock"], state=1, touched=((BASE, BASE + PAGE, 0),)
    )
    trace.row("mlock", BASE, PAGE, host_calls=1)
    _, log = replayed(trace)
    assert log.events[3:6] == ["begins", "touched 0", "committed mlock"]


# Processes and threads


def test_a_vforked_process_ends_or_executes_a_program(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", VFORK, result=200)
    trace.row("clone3", THREAD, pid=200, result=201)
    trace.row("exit", 0, pid=200, tid=201)
    trace.row("exit", 0, pid=200)
    trace.row("clone", VFORK, result=300)
    trace.row("program", 0x5555_5555_6000, 0, pid=300, data=PROGRAM)
    trace.row("maps", 0, 2, pid=300)
    trace.row("munmap", BASE, PAGE, pid=300)
    engine, log = replayed(trace)
    assert log.events == [
        *START, "vforked 200", "thread_started", "vfork_ended 200", "vforked 300",
        "executes 300", "vfork_ended 300", "started 1", "begins", "munmap 0",
        "trace_ends", "ended 100", "ended 300",
    ]  # fmt: skip
    assert engine.processes.keys() == {100, 300} and engine.ledger.processes == 3
    kept = Replay(laconic.trace.open(trace.path), keep=True)
    kept.run()
    assert kept.processes.keys() == {100, 200, 300}


def test_a_child_inherits_its_parent_s_state(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("personality", 0x0400000)
    trace.row("lost", 1)
    trace.row("clone", FORK, result=200)
    trace.row("mprotect", BASE, PAGE, R, pid=200, host_calls=1, kinds=int(RESTRICT | EXTEND))
    trace.row("munmap", BASE, PAGE, pid=200, result=-22)
    engine, log = replayed(trace, check=True)
    assert log.calls[-2].changes[0].kind == EXTEND | RESTRICT
    assert engine.check is not None and engine.check.counts == {LOST_DATA: 1}
    assert log.calls[-1].program == engine.started[1].path == "/bin/prog"
    assert engine.started[1].pid == 200


def test_a_fork_of_a_process_that_is_no_longer_followed_starts_nothing(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("lost", 1, 1)
    trace.row("clone", FORK, result=200)
    trace.row("munmap", BASE, PAGE, pid=200)
    engine, log = replayed(trace)
    assert log.events == [*START, "ignored False", *END]
    assert engine.ledger.processes == 2 and len(engine.started) == 1


def test_processes_whose_beginning_the_trace_lacks(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("process", 1, tid=101, result=100)  # a thread of the first
    trace.row("process", 0, result=999)  # known
    trace.row("process", 1, pid=200, result=100)  # it shares the memory of the first
    trace.row("process", 1, pid=200, tid=201, result=100)
    trace.row("munmap", BASE, PAGE, pid=200, tid=201, host_calls=1, kinds=int(UNMAP))
    trace.row("process", 1, pid=300, result=777)  # of an unknown one
    trace.row("process", 0, pid=400, result=100)
    trace.row("munmap", BASE, PAGE, tid=101)
    trace.row("munmap", BASE, PAGE, pid=300)
    engine, log = replayed(trace)
    assert engine.ledger.processes == 4
    assert {pid: mm is engine.processes[100] for pid, mm in engine.processes.items()} == {
        100: True, 200: True, 300: False, 400: False,
    }  # fmt: skip
    assert log.events[3:8] == ["begins", "munmap 1", "begins", "munmap 0", "ignored False"]


def test_threads_of_other_processes_outlive_an_exec(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", FORK, result=200)
    trace.row("clone3", THREAD, pid=200, result=201)
    trace.row("program", 0x5555_5555_6000, 0, data=PROGRAM)
    trace.row("maps", 0, 2)
    trace.row("munmap", BASE, PAGE, pid=200, tid=201, host_calls=1, kinds=int(UNMAP))
    _, log = replayed(trace)
    assert log.events[3:] == [
        "forked 0 1", "thread_started", "executes 100", "ended 100", "started 2",
        "begins", "munmap 1", "trace_ends", "ended 200", "ended 100",
    ]  # fmt: skip


def test_an_exit_within_a_fork_leaves_the_thread(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("exit", 0, 1)
    trace.row("clone", FORK, result=200)
    trace.row("exit", 0, pid=200)
    trace.row("exit", 0, pid=200)  # gone already
    _, log = replayed(trace)
    assert log.events == [*START, "forked 0 1", "ended 200", *END]


def test_loss_of_one_process_excuses_no_other(tmp_path: Path) -> None:
    """Its own calls are excused, also if its first row is still to come."""
    for lost, causes in (
        (0, {LOST_DATA: 2}),
        (100, {LOST_DATA: 1, MODEL_ERROR: 1}),
        (200, {LOST_DATA: 1, MODEL_ERROR: 1}),
        (300, {MODEL_ERROR: 2}),
    ):
        trace = Builder(tmp_path / f"{lost}.trace", "strace")
        trace.row("mmap", 0, PAGE, RW, ANON, -1, 0, result=BASE)
        trace.row("lost", 1, pid=lost)
        trace.row("mmap", 0, PAGE, RW, ANON, -1, 0, pid=200, result=BASE)
        if not lost:
            trace.row("lost", 1, pid=lost)
        for pid in (100, 200):
            trace.row("munmap", BASE, PAGE, pid=pid, result=-22)
        engine, _ = replayed(trace, check=True)
        assert engine.check is not None and engine.check.counts == causes, lost


def test_loss_of_a_process_that_ended_does_not_excuse_the_next_one_with_its_id(
    tmp_path: Path,
) -> None:
    trace = Builder(tmp_path / "a.trace", "strace")
    trace.row("lost", 1, pid=200)
    for _ in range(2):
        trace.row("mmap", 0, PAGE, RW, ANON, -1, 0, pid=200, result=BASE)
        trace.row("munmap", BASE, PAGE, pid=200, result=-22)
        trace.row("exit", 0, pid=200)
    engine, _ = replayed(trace, check=True)
    assert engine.check is not None
    assert [difference.cause for difference in engine.check.differences] == [LOST_DATA, MODEL_ERROR]


# Logs, whose beginning is assumed


def test_a_log_s_process_starts_once(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "strace")
    for pid, tid in ((7, 7), (7, 8), (9, 9)):
        trace.row("mprotect", BASE, PAGE, RW, pid=pid, tid=tid)
    engine, log = replayed(trace)
    assert [event for event in log.events if "start" in event] == ["started 0", "started 1"]
    assert [(program.pid, program.path) for program in engine.started] == [(7, "?"), (9, "?")]
    assert engine.ledger.processes == 2


def test_a_log_that_shows_maps_starts_with_them(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "gramine")
    about = {"path": "/bin/prog", "bits": 64, "maps": True}
    trace.row("program", data=json.dumps(about).encode())
    trace.row("maps", 1, 2)
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    trace.row("mprotect", BASE, PAGE, R)
    trace.row("maps", 0, 2)
    engine, log = replayed(trace, check=True)
    assert log.events == ["started 0", "begins", "mprotect 0", "host_read 0 False", *END]
    assert engine.check is not None and not engine.check.counts


def test_a_log_s_child_learns_for_itself(tmp_path: Path) -> None:
    """The break that the child's first call shows is not the parent's."""
    trace = Builder(tmp_path / "a.trace", "strace")
    trace.row("clone", FORK, result=200)
    trace.row("brk", 0, pid=200, result=0x5555_0000_0000)
    trace.row("brk", 0, result=0x6666_0000_0000)
    engine, log = replayed(trace, check=True)
    assert engine.check is not None and not engine.check.counts
    assert [done.result for done in log.calls] == [0x5555_0000_0000, 0x6666_0000_0000]


def test_calls_of_a_log_are_counted_as_they_ended(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "strace")
    trace.row("mmap", 0, 4 * PAGE, RW, ANON, -1, 0, result=BASE)
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("munmap", 5, PAGE, result=-22)  # no host call is needed for that
    trace.row("munmap", BASE, PAGE, result=-1)  # the host's own refusal
    engine, log = replayed(trace, check=True)
    assert [(done.name, done.host_calls) for done in log.calls] == [
        ("mmap", 1), ("mprotect", 0), ("munmap", 0), ("munmap", 1),
    ]  # fmt: skip
    line = engine.ledger.by_call["munmap"]
    assert (line.calls, line.host_calls, line.failed) == (2, 1, 2)
    assert engine.check is not None and engine.check.compared == 4
    (difference,) = engine.check.differences
    assert (difference.number, difference.replayed, difference.cause) == (3, "0", "unknown start")
    assert not engine.uncertain
