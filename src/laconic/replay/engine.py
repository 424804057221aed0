"""The replay of a trace: every recorded event, on the bookkeeping that `laconic run` uses."""

from __future__ import annotations

import gc
import json
from collections import Counter, deque
from collections.abc import Callable
from sys import intern
from typing import Any

from laconic.ledger import Ledger
from laconic.manager import MemoryManager
from laconic.memory.calls import Call
from laconic.memory.change import Change, Outcome
from laconic.memory.mmap import OpenFile
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.pal import Confirmation
from laconic.pal.linux import LinuxPal
from laconic.pal.proc import READ_IMPLIES_EXEC
from laconic.rangemap import RangeMap
from laconic.replay.assumed import UNKNOWN_FILE, AssumedStart, assumed_space, begun, may_be_nothing
from laconic.replay.check import LOST_DATA, MODEL_ERROR, Check, shown
from laconic.replay.thread import Mm, RecordedUpcalls, Runs, Thread, seen
from laconic.trace import records
from laconic.trace.losses import Losses
from laconic.trace.reader import Trace
from laconic.trace.schema import (
    BYSTANDERS,
    CHOSEN,
    CODES,
    FAILED,
    GREW,
    MEMORY_CODES,
    NO_RESULT,
    NOEXEC,
    PLACES,
    PLAIN,
    READABLE,
    UNFINISHED,
    UNFOLLOWED,
    WRITABLE,
    PlainRow,
)

CLONE_VM, CLONE_THREAD = 0x100, 0x10000
ENDLESS = UNFINISHED | NO_RESULT
PERSONALITY_QUERY = 0xFFFFFFFF


class Replay:
    """Replays `trace` by the rule `strategy`; `check` compares each result with the recorded one. `answer`, `said` and
    `changes` are the last memory call's: its result, the host calls made for it, what it changed.

    `recorded` is the strategy that the trace was made with, None for a log's. `processes` are the address spaces as
    they are, by process id, `programs` their paths; those of ended processes stay until the id is used again where
    `keep` is set.
    """

    def __init__(self, trace: Trace, strategy: str | None = None, *, check: bool = False, keep: bool = False) -> None:
        self.trace = trace
        self.recorded: str | None = trace.about.get("strategy") if trace.source == "run" else None
        self.strategy = strategy or self.recorded or "laconic"
        self.ledger = Ledger()
        self.pal = LinuxPal(self.strategy == "every-call")
        self.manager = MemoryManager(self.pal, self.ledger, self.strategy == "observe")
        self.check = Check() if check else None
        self.keep = keep
        self.threads: dict[int, Thread] = {}
        self.processes: dict[int, Mm] = {}
        self.programs: dict[int, str] = {}
        self.number = -1
        self.answer = self.said = 0
        self.changes: tuple[Change, ...] = ()
        self.end: dict[str, Any] = {}
        self.lost = Losses()
        self.bystanders = 0
        self.uncertain: Counter[str] = Counter()
        self._names = [intern(name) for name in trace.names]
        self._files: dict[int, OpenFile] = {}
        if trace.source != "run":
            self._files[0] = UNKNOWN_FILE
        self.up = RecordedUpcalls(trace.source == "run", self._files)
        self._runs: tuple[int, int, Runs, int] | None = None
        self._handlers: list[Callable[[PlainRow], None]] = [_skip] * 256
        for code in range(MEMORY_CODES):
            self._handlers[code] = self._bystander if self._names[code] in BYSTANDERS else self._call
        for name, handler in (
            ("file", self._file),
            ("program", self._program),
            ("maps", self._maps),
            ("vma", self._vma),
            ("answer", self._answer),
            ("begin", self._begin),
            ("process", self._process),
            ("exit", self._exit),
            ("lost", self._lost),
            ("note", self._note),
            ("end", self._end),
            ("personality", self._personality),
            *((name, self._clone) for name in ("clone", "clone3", "fork", "vfork")),
        ):
            self._handlers[CODES[name]] = handler

    def run(
        self, until: Callable[[int, int], bool] | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """Replays to the end, or up to the first event for whose number and time `until` is true. O(events)."""
        # Rows are no cycles: looking through them again and again costs a tenth of a replay.
        thresholds = gc.get_threshold()
        gc.set_threshold(100_000, 20, 20)
        try:
            self._run(until, progress)
        finally:
            gc.set_threshold(*thresholds)

    @property
    def losses(self) -> list[str]:
        """What the trace lacks, a sentence each; complete after the end of a run."""
        return [*self.lost.told(), *([self.trace.loss] if self.trace.loss is not None else [])]

    def _run(self, until: Callable[[int, int], bool] | None, progress: Callable[[int], None] | None) -> None:
        handlers = self._handlers
        for batch in self.trace.batches():
            for row in batch:
                self.number += 1
                if until is not None and until(self.number, row[1]):
                    return
                handlers[row[0]](row)
            if progress is not None:
                progress(self.trace.position)

    # Memory calls

    def _bystander(self, row: PlainRow) -> None:
        self.bystanders += 1

    def _call(self, row: PlainRow) -> None:
        thread = self.threads.get(row[3])
        if thread is None:
            thread = self._first_seen(row[2], row[3])
        mm = thread.mm
        space = mm.space
        if space is None:
            return
        up = self.up
        up.row = row
        up.thread = thread
        up.read_implies_exec = thread.read_implies_exec
        result, state = row[10], row[11]
        if state & ENDLESS:
            self._unfinished(thread, space, row)
            return
        name = self._names[row[0]]
        if mm.assumed is not None:
            self._logged_call(mm.assumed, mm, space, row, name)
            return
        args, manager = row[4:10], self.manager
        begun, thread.begun = thread.begun, None
        outcome = begun or manager.begin(space, name, args, up, not state & UNFOLLOWED)
        answer, changes, _, _, ask, _, _, _ = outcome
        if begun is None and manager.unsaid(outcome):
            manager.finish_unsaid(name, outcome)
            said = 0
        elif answer == result and not state and not ask and begun is None and not manager.observe:
            said = 1 if len(changes) < 2 else self._said(row, name, outcome)
            manager.done(space, name, args, outcome, said, up)
        else:
            said = self._said(row, name, outcome)
            confirmation = Confirmation(result if state & FAILED else 0, result, said)
            answer, said, changes = manager.finish(
                space, Call(name, args), outcome, confirmation, up, edited=begun is None, chosen=bool(state & CHOSEN)
            )
        self.answer, self.said, self.changes = answer, said, changes
        if thread.map_runs or thread.answers:
            # What the strategy that was recorded asked the host, and this one did not.
            thread.map_runs.clear()
            thread.answers.clear()
        if self.check is not None:
            self._compare(row, name, mm, answer, said, changes)

    def _logged_call(self, assumed: AssumedStart, mm: Mm, space: AddressSpace, row: PlainRow, name: str) -> None:
        # A call of a log, which has no starting maps: the recorded result leads.
        manager, up, args, result = self.manager, self.up, row[4:10], row[10]
        up.guessed = False
        outcome = assumed.begin(manager, space, name, args, result, up, mm.lossy)
        self.answer, self.said, self.changes = result, 0, outcome.changes
        if assumed.refused:
            self.said = 1
            self.ledger.count(name, 1, result)
        elif manager.unsaid(outcome):
            manager.finish_unsaid(name, outcome)
        else:
            confirmation = Confirmation(0, result, self._said(row, name, outcome))
            chosen = bool(row[11] & CHOSEN)
            answered = manager.finish(space, Call(name, args), outcome, confirmation, up, chosen=chosen)
            self.said, self.changes = answered.said, answered.changes
            if not self.pal.every_call and may_be_nothing(outcome, up.guessed):
                self.uncertain[name] += answered.said
        if assumed.removed:
            self.changes = assumed.removed + self.changes
        if self.check is not None:
            self.check.compared += 1
            if assumed.cause:
                self.check.differs(self.number, row, name, assumed.answer, assumed.cause, assumed.why)

    def _said(self, row: PlainRow, name: str, outcome: Outcome) -> int:
        # Host calls for this outcome. Where one failed, the trace knows how many had been made.
        if row[11] & FAILED and self.strategy == self.recorded:
            return int(row[12])
        if len(outcome.changes) < 2 or outcome.ask:
            return 1
        return len(self.pal.host_calls(Call(name, row[4:10]), outcome))

    def _unfinished(self, thread: Thread, space: AddressSpace, row: PlainRow) -> None:
        # Its thread ended in it: only what the host was seen to hold afterwards tells how far it came.
        thread.begun = None
        if thread.map_runs:
            space.adopt(seen(space.held, thread.map_runs.popleft()))
        elif thread.mm.assumed is not None:
            thread.mm.lossy = True

    def _compare(self, row: PlainRow, name: str, mm: Mm, answer: int, said: int, changes: tuple[Change, ...]) -> None:
        assert self.check is not None
        kinds = 0
        for change in changes:
            kinds |= change.kind
        self.check.compared += 1
        cause = LOST_DATA if mm.lossy else MODEL_ERROR
        if answer != row[10]:
            self.check.differs(self.number, row, name, shown(answer), cause, "another result")
        elif self.strategy == self.recorded and (said, kinds) != row[12:14]:
            why = f"{row[12]} host calls for changes {row[13]:#x} were recorded, {said} for {kinds:#x} replayed"
            self.check.differs(self.number, row, name, shown(answer), cause, why)

    # Processes

    def _first_seen(self, pid: int, tid: int) -> Thread:
        mm = self.processes.get(pid)
        if mm is None:
            self.ledger.processes += 1
            mm = self.processes[pid] = self._unknown()
        thread = self.threads[tid] = Thread(pid, mm)
        return thread

    def _unknown(self) -> Mm:
        if self.trace.source == "run":
            return Mm(None)
        return Mm(assumed_space(), AssumedStart())

    def _thread(self, row: PlainRow) -> Thread:
        thread = self.threads.get(row[3])
        return self._first_seen(row[2], row[3]) if thread is None else thread

    def _clone(self, row: PlainRow) -> None:
        tid, flags = row[10], row[4]
        parent = self._thread(row)
        if tid <= 0 or row[11] & ENDLESS:
            return
        if not flags & CLONE_THREAD:
            self.ledger.processes += 1
        if flags & CLONE_VM:
            mm = parent.mm
        else:
            space, assumed = parent.mm.space, parent.mm.assumed
            mm = Mm(space and space.fork(), assumed and assumed.copy())
            mm.lossy = parent.mm.lossy
        child = self.threads[tid] = Thread(parent.pid if flags & CLONE_THREAD else tid, mm)
        child.read_implies_exec = parent.read_implies_exec
        self.processes[child.pid] = mm
        if parent.pid in self.programs:
            self.programs[child.pid] = self.programs[parent.pid]

    def _process(self, row: PlainRow) -> None:
        pid, tid, shares, other = row[2], row[3], row[4], row[10]
        if tid in self.threads:
            return
        if shares and other in self.processes:
            if pid not in self.processes:
                self.ledger.processes += 1
                self.processes[pid] = self.processes[other]
            self.threads[tid] = Thread(pid, self.processes[other])
        else:
            self._first_seen(pid, tid)

    def _program(self, row: PlainRow) -> None:
        pid, tid = row[2], row[3]
        old = self._thread(row)
        for other, thread in list(self.threads.items()):
            if thread.pid == pid:
                self._leave(other)
        about = json.loads(row[16] or b"{}")
        self.programs[pid] = about.get("path", "?")
        mm = begun(about, row[4], row[5])
        if mm.space is None:
            self.ledger.note(f"{about.get('path')} is not followed: a 32-bit program, or one that hides its memory map")
        self.processes[pid] = mm
        fresh = self.threads[tid] = Thread(pid, mm)
        fresh.read_implies_exec = bool(row[6])
        fresh.map_runs = old.map_runs

    def _exit(self, row: PlainRow) -> None:
        if not row[5]:
            self._leave(row[3])

    def _leave(self, tid: int) -> None:
        thread = self.threads.pop(tid, None)
        if thread is None:
            return
        thread.mm.threads -= 1
        if not thread.mm.threads and not self.keep and self.processes.get(thread.pid) is thread.mm:
            del self.processes[thread.pid]

    def _personality(self, row: PlainRow) -> None:
        if row[10] >= 0 and row[4] & 0xFFFFFFFF != PERSONALITY_QUERY:
            self._thread(row).read_implies_exec = bool(row[4] & READ_IMPLIES_EXEC)

    # What belongs to the next call of a thread

    def _file(self, row: PlainRow) -> None:
        file, size, mode = records.traced_file(row)
        self._files[row[14]] = OpenFile(
            file, bool(mode & READABLE), bool(mode & WRITABLE), bool(mode & PLAIN), bool(mode & NOEXEC),
            bool(mode & PLACES), size,
        )  # fmt: skip

    def _maps(self, row: PlainRow) -> None:
        self._runs = row[4], row[5], [], row[3]
        self._vmas_complete()

    def _vma(self, row: PlainRow) -> None:
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
        if use == GREW:
            space.grow(host)
        else:
            space.adopt(host)

    def _answer(self, row: PlainRow) -> None:
        self._thread(row).answers.setdefault(row[4], deque()).append((row[10], row[16]))

    def _begin(self, row: PlainRow) -> None:
        thread = self._thread(row)
        space = thread.mm.space
        if space is None:
            return
        up = self.up
        up.row, up.thread, up.read_implies_exec = row, thread, thread.read_implies_exec
        name = self._names[row[12]]
        outcome = self.manager.begin(space, name, row[4:10], up)
        if row[11]:
            space.commit(outcome)
            self.changes = outcome.changes
            outcome = outcome._replace(changes=(), start=0, end=0, then=None)
        thread.begun = outcome

    # What a person must be told

    def _lost(self, row: PlainRow) -> None:
        self.lost.add(row)
        which = [self.processes[row[2]]] if row[2] in self.processes else list(self.processes.values())
        for mm in which:
            mm.lossy = True
            if row[5]:
                mm.space = None

    def _note(self, row: PlainRow) -> None:
        self.ledger.note(row[16].decode("utf-8", "replace"))

    def _end(self, row: PlainRow) -> None:
        self.end = json.loads(row[16] or b"{}")
        self.ledger.notes[:] = self.end.get("notes", self.ledger.notes)
        checks = self.end.get("verify", {})
        self.ledger.checks, self.ledger.mismatches = checks.get("checks", 0), checks.get("mismatches", 0)


def _skip(row: PlainRow) -> None:
    pass  # what a newer release of the same schema may have, and what says nothing to a replay
