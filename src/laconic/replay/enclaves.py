"""Enclaves attached to a replay: one for each address space, under any number of strategies at
once.

The bookkeeping runs once. Every strategy receives the resulting changes and the touched pages
recorded in the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

from mypy_extensions import mypyc_attr

from laconic.libos.sizes import OBSERVED
from laconic.libos.strategy import ContinuingStrategy, Maker, MemoryCall, Strategy, fork_of
from laconic.libos.touches import Touches
from laconic.linux.pagemap import Touched
from laconic.memory.change import Change, new
from laconic.memory.flags import VM_PROT
from laconic.memory.mmap import page_align
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.replay.events import CallDone, Listener
from laconic.replay.owners import Owners
from laconic.replay.thread import Mm
from laconic.sgx.meter import Counts, Meter
from laconic.trace.schema import Row
from laconic.trace.selection import Selection

Receiver = tuple[Strategy, Meter, Counts]
#: Labels for work of a strategy that is not for a memory call. EXEC is the work of freeing memory
#: at execve; LOAD is the new program's own memory.
LOAD, EXEC, FORK, THREAD = "load", "exec", "fork", "thread"
#: The label used instead of LOAD for a program that was running before the recording began.
BEFORE = "before attach"
#: The label of work on the mappings of files that are written to or truncated.
WRITE = "write"
TOUCH, STACK = "touch", "stack growth"
#: The label of work for calls that are not selected.
NOT_SELECTED = "not selected"
#: The labels of a library OS's work around the program's calls.
AROUND = (LOAD, BEFORE, EXEC, FORK, THREAD, WRITE, STACK)
#: The label of changes observed in the host's map after a call that did not end, or that is not
#: modelled.
OTHER = "other"


class Touch(NamedTuple):
    """The label of the first touches of pages that belong to `owner`: the label of the call that
    last mapped them, LOAD, BEFORE, STACK or OTHER."""

    owner: Hashable


class FileTouch(NamedTuple):
    """The label of the first touches of pages of `file`, while the sizes of files are assumed; used
    instead of TOUCH."""

    file: File


class Unfinished(NamedTuple):
    """The label of the work of a call of the thread `tid` before its end."""

    call: str
    tid: int


class Enclave:
    """One address space's enclave, once for each strategy. `number` is its program's `Mm.number`.
    With `owners`, touches are counted under the call that last mapped the page."""

    __slots__ = ("_books", "_unchanged", "number", "owners", "space", "strategies", "touches")

    def __init__(
        self,
        number: int,
        space: AddressSpace,
        touches: Touches,
        strategies: dict[str, Strategy],
        owners: Owners | None = None,
    ) -> None:
        self.number = number
        self.owners = owners
        self.space = space
        self.touches = touches
        self.strategies = strategies
        # By label: the receivers of work, each with the counts for that label. The second is for
        # calls without changes.
        self._books: dict[Hashable, list[Receiver]] = {}
        self._unchanged: dict[Hashable, list[Receiver]] = {}

    def _receivers(self, label: Hashable, books: dict[Hashable, list[Receiver]]) -> list[Receiver]:
        receivers = books.get(label)
        if receivers is None:
            receivers = books[label] = []
            for strategy in self.strategies.values():
                if books is self._books or strategy.needs_unchanged:
                    strategy.meter.at(self.number, label)
                    receivers.append((strategy, strategy.meter, strategy.meter.counts))
        return receivers

    def forget_labels(self) -> None:
        """Use new counts from here on. O(labels)."""
        self._books.clear()
        self._unchanged.clear()

    def load(self, entries: Iterable[Entry], label: str = LOAD) -> None:
        """Load a program; the work is counted under `label`. O(strategies × entries)."""
        image = list(entries)
        for strategy in self.strategies.values():
            strategy.meter.at(self.number, label)
            strategy.load(image)

    def touched(self, runs: Iterable[Touched]) -> None:
        """Handle pages that were observed to be touched. O(strategies × runs)."""
        for start, end, vma in self.touches.take(runs, self.space):
            self.touch(start, end, vma)

    def assume_touched(self, start: int, end: int, vma: Vma) -> None:
        """Assume that all of `[start, end)`, which was `vma`, is touched, except for pages past the
        end of its file. O(strategies × runs)."""
        end = min(end, self.touches.sizes.known_end(vma))
        if vma.flags & VM_PROT and start < end:
            for run_start, run_end, how in list(self.touches.pages.runs(start, end)):
                if how is None:
                    self.touches.pages.set(run_start, run_end, 2)
                    self.touch(run_start, run_end, vma)

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle the first touch of the pages of `[start, end)` (`Touches.take`), which a file must
        therefore have. O(strategies), with owners O(strategies × owners)."""
        sizes = self.touches.sizes
        sizes.grow(vma, end)
        if self.owners is None:
            label: Hashable = TOUCH
            if sizes.assumed and vma.file is not None:
                label = FileTouch(vma.file)
            self._touch(start, end, vma, label)
            return
        for run_start, run_end, owner in self.owners.touch(start, end):
            self._touch(run_start, run_end, vma, new(Touch, (owner,)))

    def _touch(self, start: int, end: int, vma: Vma, label: Hashable) -> None:
        for strategy, meter, counts in self._receivers(label, self._books):
            meter.counts = counts
            strategy.touch(start, end, vma)

    def call(self, call: MemoryCall, label: Hashable) -> None:
        """Handle a completed memory call; its work is counted under `label`.
        O(strategies × changes)."""
        name, args, _, changes, file = call
        if file is not None:
            self.touches.sizes.note(file, args[5] + page_align(args[1]))
        for strategy, meter, counts in self._receivers(
            label, self._books if changes else self._unchanged
        ):
            meter.counts = counts
            strategy.call(call)
        if changes:
            self.touches.apply(name, args, changes)
            if self.owners is not None:
                self.owners.call(call, label)

    def relabel(self, old: Hashable, label: Hashable) -> None:
        """Move the counts of `old` to `label`. O(strategies).

        `old` must be the label of a call that maps no page, so it owns none.
        """
        for books in (self._books, self._unchanged):
            books.pop(old, None)
        for strategy in self.strategies.values():
            _relabel(strategy.meter, self.number, old, label)

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack. O(strategies)."""
        for strategy in self.strategies.values():
            strategy.meter.at(self.number, STACK)
            strategy.grow(start, end, vma)
        if self.owners is not None:
            self.owners.grow(start, end, STACK)

    def fork(self, number: int, space: AddressSpace) -> Enclave:
        """Return the child's enclave. O(strategies × n)."""
        touches = self.touches.copy()
        made: dict[str, Strategy] = {}
        for name, strategy in self.strategies.items():
            strategy.meter.at(number, FORK)
            made[name] = fork_of(strategy, space, touches)
        owners = None if self.owners is None else self.owners.fork()
        return Enclave(number, space, touches, made, owners)

    def vfork(self) -> dict[str, ContinuingStrategy]:
        """Return the enclaves of a process that shares this one's memory, by the names of the
        strategies for which vfork is a fork. O(strategies × n)."""
        made: dict[str, ContinuingStrategy] = {}
        for name, strategy in self.strategies.items():
            if isinstance(strategy, ContinuingStrategy):
                strategy.meter.at(self.number, FORK)
                made[name] = fork_of(strategy, self.space, self.touches.copy())
        return made

    def detach(self) -> dict[str, ContinuingStrategy]:
        """Remove and return the enclaves in which the next program of the process runs.
        O(strategies)."""
        kept = {
            name: strategy
            for name, strategy in self.strategies.items()
            if isinstance(strategy, ContinuingStrategy)
        }
        for name in kept:
            del self.strategies[name]
        return kept

    def thread(self, began: bool) -> None:
        """Start or end a thread. O(strategies)."""
        for strategy in self.strategies.values():
            strategy.meter.at(self.number, THREAD)
            if began:
                strategy.thread()
            else:
                strategy.thread_ends()

    def thread_found(self) -> None:
        """Handle a thread that was running before the recording began; it costs nothing.
        O(strategies)."""
        for strategy in self.strategies.values():
            strategy.thread_found()

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        """Handle a write to a file, or its truncation. O(strategies × VMAs)."""
        self.touches.sizes.write(file, size, truncated)
        for strategy in self.strategies.values():
            strategy.meter.at(self.number, WRITE)
            strategy.file_written(file, size, truncated)

    def end(self) -> None:
        """End the enclave of the address space. O(strategies × n)."""
        for strategy in self.strategies.values():
            strategy.end()


def _relabel(meter: Meter, number: int, old: Hashable, label: Hashable) -> None:
    counts = meter.tables.pop((number, old), None)
    if counts is not None:
        meter.at(number, label)
        meter.counts.add(counts)


@mypyc_attr(allow_interpreted_subclasses=True)
class Enclaves(Listener):
    """Keeps an enclave under each of `makers` for each address space of a replay.

    `meters` contain the counts, by the makers' names. The work of a call is counted under
    `label(done)`, or its name; that of a call outside `selection` under NOT_SELECTED. `by_owner`:
    the cost of touched pages is counted under `Touch(label of the call that last mapped them)`, and
    `touched_pages` contains their number by process (`Mm.number`) and that label; otherwise, all of
    it is counted under TOUCH. `assume_touched`: pages that the trace does not describe are assumed
    to be touched as soon as they are accessible, and otherwise never. `assumed_sizes` is how large
    a file of unknown size is (`laconic.libos.sizes`). `unseen` counts the touched
    pages whose pagemap was unreadable. `left` is the number of committed EPC pages when the trace
    ends, before the enclaves do.
    """

    def __init__(
        self,
        makers: Mapping[str, Maker],
        assume_touched: bool = False,
        label: Callable[[CallDone], Hashable] | None = None,
        meter_type: type[Meter] = Meter,
        by_owner: bool = False,
        selection: Selection | None = None,
        assumed_sizes: int = OBSERVED,
    ) -> None:
        self.assumed_sizes = assumed_sizes
        self.selection = selection
        self.makers = makers
        self.by_owner = by_owner
        self.touched_pages: dict[int, dict[Hashable, int]] = {}
        self.meters = {name: meter_type() for name in makers}
        self.assume_touched = assume_touched
        self.label = label
        self.unseen = 0
        self.left: dict[str, int] = {}
        self._enclaves: dict[Mm, Enclave] = {}
        # By pid: enclaves of processes that vfork made, and those of processes that execute a
        # program.
        self._vforked: dict[int, dict[str, ContinuingStrategy]] = {}
        self._executing: dict[int, dict[str, ContinuingStrategy]] = {}
        # By thread id: the label of the work that the thread's call has done before its end.
        self._unfinished: dict[int, Unfinished] = {}

    def enclave(self, mm: Mm) -> Enclave | None:
        """Return the enclave of an address space, or None if it has none. O(1)."""
        return self._enclaves.get(mm)

    def started(self, mm: Mm) -> None:
        """Load a program into an enclave."""
        assert mm.space is not None
        touches = Touches(self.assumed_sizes)
        before = self._executing.pop(mm.pid, {})
        strategies: dict[str, Strategy] = {}
        for name, maker in self.makers.items():
            meter = self.meters[name]
            if name in before:
                meter.at(mm.number, EXEC)
                strategies[name] = before[name].execute(mm.space, touches)
            else:
                strategies[name] = maker(meter, mm.space, touches)
        label = BEFORE if mm.was_running else LOAD
        owners = Owners(label) if self.by_owner else None
        enclave = Enclave(mm.number, mm.space, touches, strategies, owners)
        self._add(mm, enclave)
        enclave.load(mm.space.vmas, label)

    def _add(self, mm: Mm, enclave: Enclave) -> None:
        self._enclaves[mm] = enclave
        if enclave.owners is not None:
            self.touched_pages[mm.number] = enclave.owners.touched

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        """Let every strategy commit the pages that are not committed yet."""
        self._enclaves[mm].touched(runs)

    def call_done(self, done: CallDone) -> None:
        """Let every strategy carry out the call."""
        enclave = self._enclaves.get(done.thread.mm)
        if enclave is None:
            return
        if self.assume_touched:
            for change in done.changes:
                if change.held is not None:
                    enclave.assume_touched(change.start, change.end, change.held)
        label = self._label(done)
        if self._unfinished:
            begun = self._unfinished.pop(done.row.tid, None)
            if begun is not None:
                enclave.relabel(begun, label)
        if done.is_finished:
            call = new(MemoryCall, (done.name, done.row.args, done.result, done.changes, done.file))
            enclave.call(call, label)
        else:
            self._other(enclave, done.changes)

    def _label(self, done: CallDone) -> Hashable:
        if not done.is_finished:
            return OTHER
        if self.selection is not None and not done.is_in(self.selection):
            return NOT_SELECTED
        return done.name if self.label is None else self.label(done)

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Carry out the changes now; the end of the call has none."""
        enclave = self._enclaves.get(mm)
        if enclave is None or not changes:
            return
        label: Hashable = name
        if self.label is not None or self.selection is not None:
            # The call's label is known only when it ends.
            label = self._unfinished[row.tid] = Unfinished(name, row.tid)
        enclave.call(MemoryCall(name, row.args, 0, changes), label)

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Handle the growth of stacks; anything else is counted as the work of an unknown call."""
        enclave = self._enclaves[mm]
        if not grew:
            self._other(enclave, changes)
            return
        for change in changes:
            if change.wanted is not None:
                enclave.grow(change.start, change.end, change.wanted)

    def forked(self, parent: Mm, child: Mm) -> None:
        """Make the child's enclave, which receives the parent's pages."""
        enclave = self._enclaves[parent]
        if self.assume_touched:
            self._touch_all(enclave)
        assert child.space is not None
        self._add(child, enclave.fork(child.number, child.space))

    def vforked(self, mm: Mm, pid: int) -> None:
        """Make an enclave for the child, for strategies under which vfork is a fork."""
        self._vforked[pid] = self._enclaves[mm].vfork()

    def executes(self, mm: Mm, pid: int) -> None:
        """Keep the enclaves that continue, until the program starts."""
        if pid in self._vforked:
            self._executing[pid] = self._vforked.pop(pid)
        elif mm.pid == pid and mm.threads == 1:
            enclave = self._enclaves[mm]
            if self.assume_touched:
                self._touch_all(enclave)
            self._executing[pid] = enclave.detach()

    def vfork_ended(self, mm: Mm, pid: int) -> None:
        """End the enclave of a vforked process, unless it executes a program."""
        for strategy in self._vforked.pop(pid, {}).values():
            strategy.end()

    def thread_started(self, mm: Mm) -> None:
        """Start a thread in the enclave."""
        self._enclaves[mm].thread(True)

    def thread_found(self, mm: Mm) -> None:
        """Handle a thread that is already in the enclave."""
        self._enclaves[mm].thread_found()

    def thread_ended(self, mm: Mm) -> None:
        """End a thread in the enclave."""
        self._enclaves[mm].thread(False)

    def file_written(self, mm: Mm, file: File, size: int, truncated: bool) -> None:
        """Update the mappings of the file, if the library OS emulates them."""
        self._enclaves[mm].file_written(file, size, truncated)

    def trace_ends(self) -> None:
        """Record the pages that are still committed, and end programs that were executed and are
        not followed. Work of calls whose end is not in the trace belongs to no call."""
        self.left = {name: meter.epc_pages for name, meter in self.meters.items()}
        for meter in self.meters.values():
            for number, label in [key for key in meter.tables if isinstance(key[1], Unfinished)]:
                _relabel(meter, number, label, OTHER)
        for strategies in (*self._vforked.values(), *self._executing.values()):
            for strategy in strategies.values():
                strategy.end()

    def ended(self, mm: Mm) -> None:
        """End the enclave."""
        enclave = self._enclaves.pop(mm)
        if self.assume_touched:
            self._touch_all(enclave)
        enclave.end()
        self.unseen += enclave.touches.unseen

    def take_counts(self) -> Iterator[tuple[str, Hashable, Counts]]:
        """Yield the counts so far, with the strategy and the label, and forget them, so that the
        memory for labels stays bounded. O(labels)."""
        for enclave in self._enclaves.values():
            enclave.forget_labels()
        for name, meter in self.meters.items():
            tables, meter.tables = meter.tables, {}
            for (process, label), counts in tables.items():
                if isinstance(label, Unfinished):  # its call's own label follows
                    meter.tables[process, label] = counts
                else:
                    yield name, label, counts

    def take_tables(self) -> dict[str, dict[tuple[int, Hashable], Counts]]:
        """Return the counts so far, by strategy, process and label, and forget them, except for
        those of unfinished calls. O(labels)."""
        for enclave in self._enclaves.values():
            enclave.forget_labels()
        taken = {}
        for name, meter in self.meters.items():
            taken[name] = meter.tables
            # The label of such a call follows when it ends.
            meter.tables = {
                key: taken[name].pop(key)
                for key in list(meter.tables)
                if isinstance(key[1], Unfinished)
            }
        return taken

    @staticmethod
    def _other(enclave: Enclave, changes: tuple[Change, ...]) -> None:
        # Only the host's map, observed afterwards, shows the effect.
        if changes:
            enclave.call(MemoryCall(OTHER, (0,) * 6, 0, changes), OTHER)

    @staticmethod
    def _touch_all(enclave: Enclave) -> None:
        for start, end, vma in list(enclave.space.vmas):
            enclave.assume_touched(start, end, vma)
