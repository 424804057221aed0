"""The replay of a trace: every recorded event, applied to the bookkeeping that `laconic run`
uses."""

from __future__ import annotations

import gc
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import Any, NamedTuple

from laconic.libos.strategy import Strategy
from laconic.linux.clone import CLONE_THREAD, CLONE_VM
from laconic.linux.pal import only_changes
from laconic.linux.proc import READ_IMPLIES_EXEC
from laconic.memory.bookkeeper import Bookkeeper
from laconic.memory.calls import Call, is_error
from laconic.memory.change import NOTHING, Change, Outcome
from laconic.memory.flags import TASK_SIZE
from laconic.memory.hostrule import HostRule
from laconic.memory.ledger import Ledger
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace, VmaRun
from laconic.memory.vma import Vma
from laconic.replay.assumed import UNKNOWN_FILE, AssumedStart, assumed_space, may_be_nothing
from laconic.replay.check import LOST_DATA, MODEL_ERROR, Check, shown
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.thread import Mm, RecordedUpcalls, ReplayedThread, seen, started_mm
from laconic.strategies import LINUX, display_name, has_rule, linux_rule, names_on
from laconic.trace import records
from laconic.trace.losses import Losses
from laconic.trace.reader import TraceReader
from laconic.trace.schema import (
    BREAK,
    BYSTANDERS,
    CHOSEN,
    CODES,
    FAILED,
    GREW,
    HUGE_SHIFT,
    MEMORY_CODES,
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

ENDLESS = UNFINISHED | NO_RESULT
#: The host alone determined the result: it refused the call, or chose another address than the
#: bookkeeping predicts.
HOSTS_OWN = FAILED | CHOSEN
PERSONALITY_QUERY = 0xFFFFFFFF
#: The result of a call, its host calls (0 or 1), its changes, and its outcome.
Carried = tuple[int, int, tuple[Change, ...], Outcome]


class Measured(NamedTuple):
    """The SGX hardware counters of a process or thread: entries and exits of its enclave, and
    signals. `pid` is 0 if the process in the trace is unknown; `host_id` is the host's id."""

    pid: int
    host_id: int
    whole_process: bool
    eenters: int
    eexits: int
    aexs: int
    sync_signals: int
    async_signals: int


class Replay:
    """Replays `trace` under `strategy`, and publishes the events to `listeners`.

    `strategy` is a name, `module:Class`, or a class. A strategy without a rule for Linux is
    replayed by the rule of `laconic`. `check` compares each result with the recorded one.
    `recorded` is the strategy that the trace was recorded with, None for an imported trace.
    `processes` are the address spaces by process id, and `programs` their paths; with `keep`, those
    of ended processes stay until the id is reused. `started` lists the programs by number. With
    `stacks`, the rows about stacks are read too, and each call has its stack.
    """

    def __init__(
        self,
        trace: TraceReader,
        strategy: str | type[Strategy] | None = None,
        *,
        check: bool = False,
        keep: bool = False,
        listeners: Sequence[Listener] = (),
        stacks: Stacks | None = None,
    ) -> None:
        self.trace = trace
        self.recorded: str | None = trace.about.get("strategy") if trace.source == "run" else None
        self.strategy = display_name(strategy or self.recorded or "laconic")
        self.ledger = Ledger()
        self.manager = Bookkeeper(self._rule(strategy), self.ledger, self.strategy == "observe")
        self.check = Check() if check else None
        self.keep = keep
        self.threads: dict[int, ReplayedThread] = {}
        self.processes: dict[int, Mm] = {}
        self.programs: dict[int, str] = {}
        self.started: list[Program] = []
        self.stacks = stacks
        self.number = -1
        self.end: dict[str, Any] = {}
        self.lost = Losses()
        self.bystanders = 0
        self.uncertain: Counter[str] = Counter()
        self.measured: list[Measured] = []
        self._names = [intern(name) for name in trace.names]
        self._files: dict[int, OpenFile] = {}
        if trace.source != "run":
            self._files[0] = UNKNOWN_FILE
        self.up = RecordedUpcalls(trace.source == "run", self._files)
        self._runs: tuple[int, int, list[VmaRun], int] | None = None
        # Processes that lost data before their first row.
        self._lossy: set[int] = set()
        self._handlers: list[Callable[[Row], None]] = [_skip] * 256
        for code in range(MEMORY_CODES):
            self._handlers[code] = (
                self._bystander if self._names[code] in BYSTANDERS else self._call
            )
        for name, handler in (
            ("file", self._file),
            ("program", self._program),
            ("maps", self._maps),
            ("vma", self._vma),
            ("answer", self._answer),
            ("begin", self._begin),
            ("process", self._process),
            ("exit", self._exit),
            ("leave", self._touched),
            ("lost", self._lost),
            ("note", self._note),
            ("end", self._end),
            ("measured", self._measured),
            ("written", self._written),
            ("personality", self._personality),
            *((name, self._clone) for name in ("clone", "clone3", "fork", "vfork")),
        ):
            self._handlers[CODES[name]] = handler
        if listeners:
            for name in ("execve", "execveat"):
                self._handlers[CODES[name]] = self._touched
        if stacks is not None:
            for code in stacks.codes:
                self._handlers[code] = stacks.take
        self.listeners = listeners
        self._on_call_begins = subscribers(listeners, "call_begins")
        self._on_call_done = subscribers(listeners, "call_done")
        self._on_touched = subscribers(listeners, "touched")
        self._on_host_read = subscribers(listeners, "host_read")

    def _rule(self, strategy: str | type[Strategy] | None) -> HostRule:
        # The strategy's name in a trace is untrusted data: it selects one of Laconic's own
        # strategies, and imports nothing else.
        if strategy is None:
            return linux_rule(self.strategy) if self.strategy in names_on(LINUX) else only_changes
        return linux_rule(strategy) if has_rule(strategy, LINUX) else only_changes

    def run(
        self,
        until: Callable[[int, int], bool] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Replay until the end of the trace, or until the first event for which `until(number,
        time)` is true. O(events)."""
        # Rows are not part of reference cycles: scanning them for cycles repeatedly takes a tenth
        # of a replay.
        thresholds = gc.get_threshold()
        gc.set_threshold(100_000, 20, 20)
        try:
            self._run(until, progress)
        finally:
            gc.set_threshold(*thresholds)
        for listener in self.listeners:
            listener.trace_ends()
        for mm in {id(thread.mm): thread.mm for thread in self.threads.values()}.values():
            self._end_space(mm)

    @property
    def losses(self) -> list[str]:
        """The trace's missing data, one sentence each; complete after the end of a run."""
        return [*self.lost.sentences(), *([self.trace.loss] if self.trace.loss is not None else [])]

    def _run(
        self, until: Callable[[int, int], bool] | None, progress: Callable[[int], None] | None
    ) -> None:
        handlers = self._handlers
        for batch in self.trace.batches():
            for row in batch:
                self.number += 1
                if until is not None and until(self.number, row.time):
                    return
                handlers[row.event](row)
            if progress is not None:
                progress(self.trace.position)

    # Memory calls

    def _bystander(self, row: Row) -> None:
        self.bystanders += 1
        self._ignore(row, self._stack_of(row), followed=True)

    def _ignore(self, row: Row, stack: int, followed: bool) -> None:
        for listener in self.listeners:
            listener.call_ignored(self.number, row, stack, followed)

    def _stack_of(self, row: Row) -> int:
        return NO_STACK if self.stacks is None else self.stacks.next.pop(row.tid, NO_STACK)

    def _call(self, row: Row) -> None:
        thread = self.threads.get(row.tid)
        if thread is None:
            thread = self._first_seen(row.pid, row.tid)
        mm = thread.mm
        space = mm.space
        if not self.listeners:
            if space is not None:
                self._carry_out(row, thread, space)
            return
        stack = self._stack_of(row)
        if space is None:
            self._ignore(row, stack, followed=False)
            return
        for begins in self._on_call_begins:
            begins(self.number, row, thread)
        self._touched(row)
        # If the host's map was read for this call, it replaces the bookkeeping, and the outcome
        # does not contain the changes.
        before = space.held.copy() if thread.map_runs else None
        result, host_calls, changes, outcome = self._carry_out(row, thread, space)
        if before is not None:
            changes = _differences(before, space)
        file = self._files.get(row.file) if row.file else None
        is_finished = not row.state & ENDLESS
        done = CallDone(
            self.number,
            row,
            thread,
            self._names[row.event],
            result,
            changes,
            host_calls,
            self.programs.get(row.pid, "?"),
            stack,
            outcome,
            file,
            is_finished,
            before is not None,
        )
        for call_done in self._on_call_done:
            call_done(done)

    def _touched(self, row: Row) -> None:
        if row.touched and self._on_touched:
            mm = self._thread(row).mm
            if mm.number >= 0:
                for touched in self._on_touched:
                    touched(mm, row.touched)

    def _carry_out(self, row: Row, thread: ReplayedThread, space: AddressSpace) -> Carried:
        mm, up = thread.mm, self.up
        up.row = row
        up.thread = thread
        up.read_implies_exec = thread.read_implies_exec
        result, state = row.result, row.state
        if state & ENDLESS:
            self._unfinished(thread, space)
            return result, 0, (), NOTHING
        name = self._names[row.event]
        if thread.answers and BREAK in thread.answers:
            # The break of a program that was running before the recording began.
            space.brk = thread.answers.pop(BREAK)[0][0]
        if mm.assumed is not None:
            return self._logged_call(mm.assumed, mm, space, row, name)
        args, manager = row.args, self.manager
        begun, thread.begun = thread.begun, None
        outcome = begun or manager.begin(space, name, args, up, not state & UNFOLLOWED)
        answer, changes, _, _, ask, _, _, _ = outcome
        host_args = args if begun is not None else manager.host_arguments(name, args, outcome)
        host_calls = 1
        if host_args is None:
            manager.finish_elided(name, outcome)
            host_calls = 0
        elif not ask and not state & HOSTS_OWN and not thread.map_runs:
            # The host did as predicted. A failed call for which no map was read is included.
            manager.finish_as_predicted(space, name, args, outcome, host_args, up)
        else:
            answer = result
            changes = manager.finish(
                space, Call(name, args), outcome, host_args, result, up
            ).changes
        if manager.observe:
            host_calls = manager.host_calls(name, args, outcome)
        if thread.map_runs or thread.answers:
            # A recorded host call of the recording's strategy, which this strategy did not make.
            thread.map_runs.clear()
            thread.answers.clear()
        if self.check is not None:
            self._compare(row, name, mm, answer, host_calls, changes)
        return answer, host_calls, changes, outcome

    def _logged_call(
        self, assumed: AssumedStart, mm: Mm, space: AddressSpace, row: Row, name: str
    ) -> Carried:
        # A call in a log, which has no initial maps: the recorded result takes precedence.
        manager, up, args, result = self.manager, self.up, row.args, row.result
        up.guessed = False
        outcome = assumed.begin(manager, space, name, args, result, up, mm.lossy)
        changes, host_calls = outcome.changes, 1
        host_args = manager.host_arguments(name, args, outcome)
        if assumed.refused:
            self.ledger.count(name, 1, result)
        elif host_args is None:
            manager.finish_elided(name, outcome)
            host_calls = 0
        else:
            if is_error(result) and name != "brk":
                manager.finish_as_predicted(space, name, args, outcome, host_args, up)
            else:
                changes = manager.finish(
                    space, Call(name, args), outcome, host_args, result, up
                ).changes
            elidable = manager.rule(name, args, NOTHING) is None
            if elidable and may_be_nothing(outcome, up.guessed):
                self.uncertain[name] += 1
        if assumed.removed:
            changes = assumed.removed + changes
        if self.check is not None:
            self.check.compared += 1
            if assumed.cause:
                self.check.differs(
                    self.number, row, name, assumed.answer, assumed.cause, assumed.why
                )
        return result, host_calls, changes, outcome

    def _unfinished(self, thread: ReplayedThread, space: AddressSpace) -> None:
        # The thread ended in this call: only the host's map, observed afterwards, shows how far the
        # call came.
        thread.begun = None
        if thread.map_runs:
            space.adopt(seen(space.held, thread.map_runs.popleft()))
        elif thread.mm.assumed is not None:
            thread.mm.lossy = True

    def _compare(
        self,
        row: Row,
        name: str,
        mm: Mm,
        answer: int,
        host_calls: int,
        changes: tuple[Change, ...],
    ) -> None:
        assert self.check is not None
        kinds = 0
        for change in changes:
            kinds |= change.kind
        self.check.compared += 1
        cause = LOST_DATA if mm.lossy else MODEL_ERROR
        if answer != row.result:
            self.check.differs(self.number, row, name, shown(answer), cause, "another result")
        elif self.strategy == self.recorded and (host_calls, kinds) != (row.host_calls, row.kinds):
            why = (
                f"{row.host_calls} host calls for changes {row.kinds:#x} were recorded, "
                f"{host_calls} for {kinds:#x} replayed"
            )
            self.check.differs(self.number, row, name, shown(answer), cause, why)

    # Processes

    def _first_seen(self, pid: int, tid: int) -> ReplayedThread:
        mm = self.processes.get(pid)
        if mm is None:
            self.ledger.processes += 1
            mm = self.processes[pid] = self._unknown()
            mm.lossy = pid in self._lossy
            self._lossy.discard(pid)
        thread = self.threads[tid] = ReplayedThread(pid, mm)
        self._start_assumed(mm)
        return thread

    def _start_assumed(self, mm: Mm) -> None:
        # Start an address space whose start was not recorded.
        if (
            mm.number < 0
            and mm.assumed is not None
            and not mm.assumed.awaits_maps
            and mm.space is not None
        ):
            self._start(mm)

    def _start(self, mm: Mm) -> None:
        mm.pid = next((pid for pid, other in self.processes.items() if other is mm), 0)
        self._number(mm)
        for listener in self.listeners:
            listener.started(mm)

    def _number(self, mm: Mm) -> None:
        mm.number = len(self.started)
        mm.program = self.programs.get(mm.pid, "?")
        self.started.append(Program(mm.pid, mm.program))

    def _end_space(self, mm: Mm) -> None:
        if mm.number >= 0:
            for listener in self.listeners:
                listener.ended(mm)
            mm.number = -1

    def _unknown(self) -> Mm:
        if self.trace.source == "run":
            return Mm(None)
        return Mm(assumed_space(), AssumedStart())

    def _thread(self, row: Row) -> ReplayedThread:
        thread = self.threads.get(row.tid)
        return self._first_seen(row.pid, row.tid) if thread is None else thread

    def _clone(self, row: Row) -> None:
        tid, flags = row.result, row.a0
        parent = self._thread(row)
        self._touched(row)
        if tid <= 0 or row.state & ENDLESS:
            return
        if not flags & CLONE_THREAD:
            self.ledger.processes += 1
        if flags & CLONE_VM:
            mm = parent.mm
        else:
            space, assumed = parent.mm.space, parent.mm.assumed
            mm = Mm(space and space.fork(), assumed and assumed.copy())
            mm.lossy = parent.mm.lossy
        child = self.threads[tid] = ReplayedThread(parent.pid if flags & CLONE_THREAD else tid, mm)
        child.read_implies_exec = parent.read_implies_exec
        self.processes[child.pid] = mm
        if parent.pid in self.programs:
            self.programs[child.pid] = self.programs[parent.pid]
        if parent.mm.number < 0:
            return
        if flags & CLONE_THREAD:
            for listener in self.listeners:
                listener.thread_started(mm)
        elif flags & CLONE_VM:
            for listener in self.listeners:
                listener.vforked(mm, child.pid)
        elif mm.space is not None:
            mm.pid = child.pid
            self._number(mm)
            for listener in self.listeners:
                listener.forked(parent.mm, mm)

    def _process(self, row: Row) -> None:
        pid, tid, shares, other = row.pid, row.tid, row.a0, row.result
        if tid in self.threads:
            return
        if shares and other in self.processes:
            if pid not in self.processes:
                self.ledger.processes += 1
                self.processes[pid] = self.processes[other]
            mm = self.processes[other]
            self.threads[tid] = ReplayedThread(pid, mm)
            if pid == mm.pid and mm.number >= 0:
                for listener in self.listeners:
                    listener.thread_found(mm)
        else:
            self._first_seen(pid, tid)

    def _program(self, row: Row) -> None:
        pid, tid = row.pid, row.tid
        old = self.threads.get(tid)
        if old is None:
            # The start of the process, if a log shows that of its first program.
            self.ledger.processes += pid not in self.processes
            old = ReplayedThread(pid, Mm(None))
        for other, thread in list(self.threads.items()):
            if thread.pid == pid and other != tid:
                self._leave(other)
        if tid in self.threads:
            if old.mm.number >= 0:
                for listener in self.listeners:
                    listener.executes(old.mm, pid)
            self._leave(tid)
        about = json.loads(row.data or b"{}")
        self.programs[pid] = about.get("path", "?")
        mm = started_mm(about, row.a0, row.a1)
        if mm.space is None:
            self.ledger.note(
                f"{about.get('path')} is not followed: a 32-bit program, or one that hides its "
                "memory map"
            )
        self.processes[pid] = mm
        fresh = self.threads[tid] = ReplayedThread(pid, mm)
        fresh.read_implies_exec = bool(row.a2)
        fresh.map_runs = old.map_runs
        self._start_assumed(mm)

    def _exit(self, row: Row) -> None:
        self._touched(row)
        if not row.a1:
            self._leave(row.tid)

    def _leave(self, tid: int) -> None:
        thread = self.threads.pop(tid, None)
        if thread is None:
            return
        mm = thread.mm
        mm.threads -= 1
        if not mm.threads:
            self._forget(thread.pid, mm)
            self._end_space(mm)
        elif mm.number < 0:
            return
        elif thread.pid == mm.pid:
            for listener in self.listeners:
                listener.thread_ended(mm)
        elif not any(other.pid == thread.pid for other in self.threads.values()):
            self._forget(thread.pid, mm)
            for listener in self.listeners:
                listener.vfork_ended(mm, thread.pid)

    def _forget(self, pid: int, mm: Mm) -> None:
        # The process has ended, or executes another program. Its id may be reused.
        if not self.keep and self.processes.get(pid) is mm:
            del self.processes[pid]

    def _personality(self, row: Row) -> None:
        if row.result >= 0 and row.a0 & 0xFFFFFFFF != PERSONALITY_QUERY:
            self._thread(row).read_implies_exec = bool(row.a0 & READ_IMPLIES_EXEC)

    # Rows that belong to the next call of a thread

    def _file(self, row: Row) -> None:
        file, size, mode = records.traced_file(row)
        huge_shift = mode >> HUGE_SHIFT
        self._files[row.file] = OpenFile(
            file,
            bool(mode & READABLE),
            bool(mode & WRITABLE),
            bool(mode & PLAIN),
            bool(mode & NOEXEC),
            bool(mode & PLACES),
            size,
            1 << huge_shift if huge_shift else 0,
        )

    def _maps(self, row: Row) -> None:
        self._runs = row.a0, row.a1, [], row.tid
        self._vmas_complete()

    def _vma(self, row: Row) -> None:
        if self._runs is None:
            return
        start, end, vma = records.vma_run(row, self._files)
        self._runs[2].append((start, end, vma))
        self._vmas_complete()

    def _vmas_complete(self) -> None:
        assert self._runs is not None
        count, use, runs, tid = self._runs
        if len(runs) < count:
            return
        self._runs = None
        thread = self.threads.get(tid)
        if thread is None:
            return
        if not use:
            thread.map_runs.append(runs)
            return
        space = thread.mm.space
        if space is not None:
            self._looked(thread.mm, space, seen(space.held, runs), use)

    def _looked(self, mm: Mm, space: AddressSpace, host: RangeMap[Vma], use: int) -> None:
        before = space.held.copy() if self._on_host_read else None
        if use == GREW:
            space.grow(host)
        else:
            space.adopt(host)
        if mm.assumed is not None:
            mm.assumed.shows(host)
        if mm.number < 0:
            self._start(mm)
        elif before is not None:
            changes = _differences(before, space)
            for host_read in self._on_host_read:
                host_read(mm, changes, use == GREW)

    def _answer(self, row: Row) -> None:
        self._thread(row).answers.setdefault(row.a0, deque()).append((row.result, row.data))

    def _begin(self, row: Row) -> None:
        thread = self._thread(row)
        space = thread.mm.space
        if space is None:
            return
        for begins in self._on_call_begins:
            begins(self.number, row, thread)
        self._touched(row)
        up = self.up
        up.row, up.thread, up.read_implies_exec = row, thread, thread.read_implies_exec
        name = self._names[row.call_code]
        outcome = self.manager.begin(space, name, row.args, up)
        if row.state:
            space.commit(outcome)
            for listener in self.listeners:
                listener.call_committed(row, thread.mm, name, outcome.changes)
            outcome = outcome._replace(changes=(), start=0, end=0, then=None)
        thread.begun = outcome

    # Messages for the user

    def _lost(self, row: Row) -> None:
        self.lost.add(row)
        if not row.pid:
            lossy = list(self.processes.values())
        elif row.pid in self.processes:
            lossy = [self.processes[row.pid]]
        else:
            lossy = []
            self._lossy.add(row.pid)
        for mm in lossy:
            mm.lossy = True
            if row.a1:
                mm.space = None

    def _note(self, row: Row) -> None:
        self.ledger.note(row.data.decode("utf-8", "replace"))

    def _measured(self, row: Row) -> None:
        self.measured.append(Measured(row.pid, row.result, bool(row.a5), *row.args[:5]))

    def _written(self, row: Row) -> None:
        mm = self._thread(row).mm
        file = self._files.get(row.file)
        if mm.number >= 0 and file is not None:
            for listener in self.listeners:
                listener.file_written(mm, file.file, row.a0, not row.a1)

    def _end(self, row: Row) -> None:
        self.end = json.loads(row.data or b"{}")
        self.ledger.notes[:] = self.end.get("notes", self.ledger.notes)
        checks = self.end.get("verify", {})
        self.ledger.checks, self.ledger.mismatches = (
            checks.get("checks", 0),
            checks.get("mismatches", 0),
        )


def subscribers(listeners: Iterable[Listener], event: str) -> list[Callable[..., None]]:
    """Return the methods for one event, of the listeners that override it. Used for the events that
    most calls have."""
    overriding = [
        listener
        for listener in listeners
        if getattr(type(listener), event) is not getattr(Listener, event)
    ]
    return [getattr(listener, event) for listener in overriding]


def _differences(before: RangeMap[Vma], space: AddressSpace) -> tuple[Change, ...]:
    # Return the changes from an earlier held map, by page run.
    return space.diff(0, TASK_SIZE, before.runs(0, TASK_SIZE))


def _skip(row: Row) -> None:
    pass  # an event of a newer release of the same schema, or one without effect on a replay
