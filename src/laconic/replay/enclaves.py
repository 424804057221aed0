"""The replay of a trace with enclaves beside it: one for each address space, under any number of strategies at once.

The bookkeeping runs once. What it comes to, and which pages the trace says were touched, every strategy is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from laconic.memory.change import Change, new
from laconic.memory.flags import TASK_SIZE, VM_PROT
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import Vma
from laconic.pal.pagemap import Touched
from laconic.pal.sgx.meter import Counts, Meter
from laconic.rangemap import RangeMap
from laconic.replay.engine import CLONE_THREAD, CLONE_VM, ENDLESS, Replay
from laconic.replay.thread import Mm, Thread
from laconic.strategies import MemoryCall, Strategy
from laconic.strategies.touches import Touches
from laconic.trace.reader import Trace
from laconic.trace.schema import CODES, GREW, PlainRow

Maker = Callable[[Meter, AddressSpace, Touches], Strategy]
Told = tuple[Strategy, Meter, Counts]
#: What the work of a strategy is for, where it is no memory call's.
EXEC, FORK, THREAD, TOUCH, STACK = "exec", "fork", "clone", "touch", "stack growth"


class Process(NamedTuple):
    """One program in one process: what `--by process` shows."""

    pid: int
    path: str


class Enclave:
    """One address space's enclave, once for each strategy. `number` is that of its process in `EnclaveReplay.told`."""

    __slots__ = ("_books", "_unchanged", "number", "pid", "space", "strategies", "touches")

    def __init__(
        self, number: int, pid: int, space: AddressSpace, touches: Touches, strategies: list[Strategy]
    ) -> None:
        self.number = number
        self.pid = pid
        self.space = space
        self.touches = touches
        self.strategies = strategies
        # By label: whom to tell, with the counts of the label that the work is entered in; of calls without changes.
        self._books: dict[str, list[Told]] = {}
        self._unchanged: dict[str, list[Told]] = {}

    def _told(self, label: str, books: dict[str, list[Told]]) -> list[Told]:
        told = books.get(label)
        if told is None:
            told = books[label] = []
            for strategy in self.strategies:
                if books is self._books or strategy.hears_all:
                    strategy.meter.at(self.number, label)
                    told.append((strategy, strategy.meter, strategy.meter.counts))
        return told

    def load(self, entries: Iterable[Entry]) -> None:
        """A program begins. O(strategies × entries)."""
        image = list(entries)
        for strategy in self.strategies:
            strategy.meter.at(self.number, EXEC)
            strategy.load(image)

    def touched(self, runs: Iterable[Touched]) -> None:
        """Pages were seen to be touched. O(strategies × runs)."""
        for start, end, vma in self.touches.take(runs, self.space):
            self._touch(start, end, vma)

    def assume_touched(self, start: int, end: int, vma: Vma) -> None:
        """All of `[start, end)`, which was `vma`, is taken to be touched. O(strategies × runs)."""
        if vma.flags & VM_PROT:
            for begin, stop, how in list(self.touches.pages.runs(start, end)):
                if how is None:
                    self.touches.pages.set(begin, stop, 2)
                    self._touch(begin, stop, vma)

    def _touch(self, start: int, end: int, vma: Vma) -> None:
        for strategy, meter, counts in self._told(TOUCH, self._books):
            meter.counts = counts
            strategy.touch(start, end, vma)

    def call(self, call: MemoryCall, label: str = "") -> None:
        """A memory call is over; its work is entered under `label`, or its name. O(strategies × changes)."""
        name, args, _, changes, _ = call
        for strategy, meter, counts in self._told(label or name, self._books if changes else self._unchanged):
            meter.counts = counts
            strategy.call(call)
        if changes:
            self.touches.apply(name, args, changes)

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """A stack grew. O(strategies)."""
        for strategy in self.strategies:
            strategy.meter.at(self.number, STACK)
            strategy.grow(start, end, vma)

    def fork(self, number: int, pid: int, space: AddressSpace) -> Enclave:
        """The child's enclave. O(strategies × n)."""
        touches = self.touches.copy()
        made = []
        for strategy in self.strategies:
            strategy.meter.at(number, FORK)
            made.append(strategy.fork(space, touches))
        return Enclave(number, pid, space, touches, made)

    def thread(self, began: bool) -> None:
        """A thread began, or ended. O(strategies)."""
        for strategy in self.strategies:
            strategy.meter.at(self.number, THREAD)
            if began:
                strategy.thread()
            else:
                strategy.thread_ends()

    def end(self) -> None:
        """The address space is gone. O(strategies × n)."""
        for strategy in self.strategies:
            strategy.end()


class EnclaveReplay(Replay):
    """Replays `trace` and keeps an enclave under each of `makers` beside each address space.

    `meters` have what came of it, by the makers' names; `told` are the processes by number. `assume_touched`: pages of
    which the trace says nothing are taken to be touched as soon as they are accessible, else never.
    """

    def __init__(self, trace: Trace, makers: Mapping[str, Maker], assume_touched: bool = False) -> None:
        super().__init__(trace, "laconic")
        self.makers = makers
        self.meters = {name: Meter() for name in makers}
        self.told: list[Process] = []
        self.assume_touched = assume_touched
        self.unseen = 0
        for name in ("execve", "execveat"):
            self._handlers[CODES[name]] = self._touches_before

    def run(
        self, until: Callable[[int, int], bool] | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """As `Replay.run`; the enclaves that are left at the end of the trace end there. O(events × strategies)."""
        super().run(until, progress)
        for mm in {id(thread.mm): thread.mm for thread in self.threads.values()}.values():
            self._ended(mm)

    def _call(self, row: PlainRow) -> None:
        thread = self.threads.get(row[3])
        if thread is None:
            thread = self._first_seen(row[2], row[3])
        mm = thread.mm
        enclave, space = mm.enclave, mm.space
        if enclave is None or space is None:
            super()._call(row)
            return
        if row[17]:
            enclave.touched(row[17])
        # What the host was seen to hold is taken over without a word of what changes.
        before = space.held.copy() if thread.map_runs else None
        self.changes, self.answer = (), row[10]
        super()._call(row)
        changes = self.changes if before is None else _differences(before, space)
        if self.assume_touched:
            for _, start, end, _, held, _ in changes:
                if held is not None:
                    enclave.assume_touched(start, end, held)
        if row[11] & ENDLESS:
            # It never returned: only what the host was seen to hold afterwards tells what it did.
            if changes:
                enclave.call(MemoryCall("other", (0,) * 6, 0, changes))
            return
        file = self._files.get(row[14]) if row[14] else None
        call = new(MemoryCall, (self._names[row[0]], row[4:10], self.answer, changes, file))
        enclave.call(call, self._label(row))

    def _label(self, row: PlainRow) -> str:
        # What the work of this memory call is entered under, in the place of its name: for subclasses.
        return ""

    def _begin(self, row: PlainRow) -> None:
        enclave = self._thread(row).mm.enclave
        if enclave is not None and row[17]:
            enclave.touched(row[17])
        self.changes = ()
        super()._begin(row)
        if enclave is not None and row[11] and self.changes:
            enclave.call(MemoryCall(self._names[row[12]], row[4:10], 0, self.changes))

    def _looked(self, mm: Mm, space: AddressSpace, host: RangeMap[Vma], use: int) -> None:
        enclave = mm.enclave
        before = space.held.copy()
        super()._looked(mm, space, host, use)
        if enclave is None:
            self._started(mm, space)
            return
        changes = _differences(before, space)
        if use == GREW:
            for _, start, end, wanted, _, _ in changes:
                if wanted is not None:
                    enclave.grow(start, end, wanted)
        elif changes:
            enclave.call(MemoryCall("other", (0,) * 6, 0, changes))

    # Processes

    def _started(self, mm: Mm, space: AddressSpace) -> None:
        pid = next((pid for pid, other in self.processes.items() if other is mm), 0)
        touches = Touches()
        made = [maker(self.meters[name], space, touches) for name, maker in self.makers.items()]
        mm.enclave = Enclave(len(self.told), pid, space, touches, made)
        self.told.append(Process(pid, self.programs.get(pid, "?")))
        mm.enclave.load(space.vmas)

    def _first_seen(self, pid: int, tid: int) -> Thread:
        thread = super()._first_seen(pid, tid)
        self._assumed(thread.mm)
        return thread

    def _assumed(self, mm: Mm) -> None:
        # An address space whose beginning nobody saw has an enclave from now on.
        if mm.enclave is not None or mm.assumed is None or mm.space is None:
            return
        if not mm.assumed.awaits_maps:
            self._started(mm, mm.space)

    def _program(self, row: PlainRow) -> None:
        super()._program(row)
        self._assumed(self.processes[row[2]])

    def _clone(self, row: PlainRow) -> None:
        enclave = self._thread(row).mm.enclave
        if enclave is not None and row[17]:
            enclave.touched(row[17])
        before = self.threads.get(row[10])
        super()._clone(row)
        child = self.threads.get(row[10])
        if enclave is None or child is None or child is before:
            return
        if row[4] & CLONE_THREAD:
            enclave.thread(True)
        elif not row[4] & CLONE_VM and child.mm.space is not None:
            if self.assume_touched:
                self._touch_all(enclave)
            child.mm.enclave = enclave.fork(len(self.told), child.pid, child.mm.space)
            self.told.append(Process(child.pid, self.programs.get(child.pid, "?")))

    def _touches_before(self, row: PlainRow) -> None:
        enclave = self._thread(row).mm.enclave
        if enclave is not None and row[17]:
            enclave.touched(row[17])

    def _exit(self, row: PlainRow) -> None:
        self._touches_before(row)
        super()._exit(row)

    def _leave(self, tid: int) -> None:
        thread = self.threads.get(tid)
        super()._leave(tid)
        if thread is None:
            return
        enclave = thread.mm.enclave
        if enclave is None:
            return
        if not thread.mm.threads:
            self._ended(thread.mm)
        elif thread.pid == enclave.pid:
            enclave.thread(False)

    def _ended(self, mm: Mm) -> None:
        enclave = mm.enclave
        if enclave is not None:
            if self.assume_touched:
                self._touch_all(enclave)
            enclave.end()
            self.unseen += enclave.touches.unseen
            mm.enclave = None

    @staticmethod
    def _touch_all(enclave: Enclave) -> None:
        for start, end, vma in list(enclave.space.vmas):
            enclave.assume_touched(start, end, vma)


def _differences(before: RangeMap[Vma], space: AddressSpace) -> tuple[Change, ...]:
    # What changed from a map that was held before, page run by page run.
    return space.diff(0, TASK_SIZE, before.runs(0, TASK_SIZE))
