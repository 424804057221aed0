"""Vectors: what each strategy does for each event of a trace, and where another implementation
differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from laconic.errors import LaconicError
from laconic.libos.gramine import VMA_INTERNAL, Libos
from laconic.libos.strategy import Strategy
from laconic.linux.pagemap import Touched
from laconic.memory.change import Change
from laconic.memory.flags import (
    PROT_RWX,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_MAYSHARE,
    VM_PFNMAP,
)
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.recording import PalRecord, RecordingMeter, recording, records_pal_calls
from laconic.replay.thread import Mm
from laconic.strategies import arguments, strategy
from laconic.trace import schema
from laconic.trace import vectors as file_format
from laconic.trace.reader import TraceReader
from laconic.trace.records import ARITY
from laconic.trace.vectors import (
    INTERNAL,
    LAZY,
    MERGED,
    NO_COUNTS,
    SINGLE,
    SPLIT,
    UNKNOWN,
    InitialVma,
    Item,
    PalCall,
    VectorEvent,
    Vectors,
    VectorState,
    VectorStrategy,
    VmaLine,
    counted,
    crc,
    merged,
)

#: The default strategies of a file: those whose PAL calls are recorded.
DEFAULT = ("every-call", "skip-equal", "classify", "laconic")


class Recorded(NamedTuple):
    """The result of recording: the number of events, and messages on what another implementation
    cannot follow."""

    events: int
    notes: list[str]


def record(
    trace: TraceReader,
    names: Sequence[str],
    emit: Callable[[Item], None],
    until: Callable[[int, int], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Recorded:
    """Replay `trace` under the strategies `names`, and pass each item of a vector file to `emit`.

    `until` ends the replay, as in `Replay.run`. Raises LaconicError if a strategy does not exist.
    O(events × VMAs × strategies): each table is read after each event.
    """
    recorder = _VectorRecorder(names, emit)
    replay = Replay(trace, "laconic", listeners=[recorder])
    replay.run(until, progress)
    if trace.source != "run":
        recorder.notes.add(
            "the trace comes from a log, which does not record touched pages; the vectors assume "
            "that no page is touched"
        )
    return Recorded(recorder.number + 1, sorted(recorder.notes))


class _VectorRecorder(Listener):
    # Keeps enclaves beside the replay, and compares each with its state before the event.

    def __init__(self, names: Sequence[str], emit: Callable[[Item], None]) -> None:
        self.emit = emit
        self.number = -1
        self.notes: set[str] = set()
        rules = [strategy(name) for name in names]
        self._names = list(names)
        self.meters = {name: RecordingMeter() for name in names}
        self.enclaves = Enclaves(
            {
                name: recording(rule, **arguments(name))
                for name, rule in zip(names, rules, strict=True)
            }
        )
        self.enclaves.meters = dict(self.meters)
        self._files: dict[File, int] = {}
        # By strategy and process: the rows of the table, by their starts. By strategy: the counts.
        self._tables: dict[tuple[int, int], dict[int, VmaLine]] = {}
        self._counts = [NO_COUNTS for _ in names]
        # By id of a PAL: its process. By process id: the number of the program that ended last.
        self._processes: dict[int, int] = {}
        self._executed: dict[int, int] = {}
        for index, (name, rule) in enumerate(zip(names, rules, strict=True)):
            table = SPLIT if issubclass(rule, Libos) else MERGED
            emit((index, VectorStrategy(name, table, records_pal_calls(rule))))

    # Events

    def started(self, mm: Mm) -> None:
        """Record the start of a program: its VMAs are given, not mapped by calls."""
        assert mm.space is not None
        for start, end, vma in mm.space.vmas:
            if _is_kernels(start, vma):
                continue
            row = self._row(start, end, vma.flags & PROT_RWX, mm.space)
            self.emit(InitialVma(mm.number, row, _kind(vma)))
        self.enclaves.started(mm)
        self._event("load", mm, self._executed.pop(mm.pid, -1) + 1, mm.space.start_brk)

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        """Record first touches, which alone are events. A touch past the end of a file shows that
        the file has grown, which no event describes."""
        enclave = self.enclaves.enclave(mm)
        if enclave is None:
            return
        for start, end, vma in enclave.touches.take(runs, enclave.space):
            if end > enclave.touches.sizes.known_end(vma):
                self._other(mm)
            enclave.touch(start, end, vma)
            self._event("touch", mm, start, end)

    def call_done(self, done: CallDone) -> None:
        """Record a call, unless it never returned: then only its effect is known."""
        self.enclaves.call_done(done)
        mm = done.thread.mm
        if not done.is_finished:
            if done.changes:
                self._other(mm)
            return
        file = done.file
        number = self._file(file.file) if file is not None else 0
        size = file.size if file is not None else 0
        writable = int(file is not None and file.writable)
        self._event(
            done.name,
            mm,
            *done.row.args[: ARITY.get(done.name, 6)],
            result=done.result,
            file=number,
            size=size,
            writable=writable,
        )
        if done.read_host:
            self._other(mm)

    def call_committed(
        self, row: schema.Row, mm: Mm, name: str, changes: tuple[Change, ...]
    ) -> None:
        """Record the part of a call that is done before it ends, as a separate event."""
        self.enclaves.call_committed(row, mm, name, changes)
        if changes:
            self._event(name, mm, *row.args[: ARITY.get(name, 6)])

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Record the growth of stacks, or a change that the trace does not explain."""
        self.enclaves.host_read(mm, changes, grew)
        grown = [change for change in changes if change.wanted is not None]
        if grew and len(grown) == 1:
            self._event("grow", mm, grown[0].start, grown[0].end)
        elif changes:
            self._other(mm)

    def forked(self, parent: Mm, child: Mm) -> None:
        """Record the start of a child with its parent's table."""
        self.enclaves.forked(parent, child)
        self._event("fork", parent, child.number, other=child)

    def thread_started(self, mm: Mm) -> None:
        """Record the start of a thread."""
        self.enclaves.thread_started(mm)
        self._event("thread", mm)

    def thread_ended(self, mm: Mm) -> None:
        """Record the end of a thread."""
        self.enclaves.thread_ended(mm)
        self._event("thread-end", mm)

    def trace_ends(self) -> None:
        """Note that the remaining processes end next."""
        self.enclaves.trace_ends()

    def ended(self, mm: Mm) -> None:
        """Record that the process ended, or executed another program."""
        self.enclaves.ended(mm)
        self._event("end", mm)
        self._executed[mm.pid] = mm.number

    # Items

    def _other(self, mm: Mm) -> None:
        self.notes.add(
            "something happened that no call of the trace explains: event `other`, after which "
            "another implementation cannot follow that process"
        )
        self._event("other", mm)

    def _event(
        self,
        name: str,
        mm: Mm,
        *args: int,
        result: int = 0,
        file: int = 0,
        size: int = 0,
        writable: int = 0,
        other: Mm | None = None,
    ) -> None:
        self.number += 1
        six = (*args, *(0,) * (6 - len(args)))
        self.emit(VectorEvent(self.number, name, mm.number, six, result, file, size, writable))
        for index, meter in enumerate(self.meters.values()):
            for process in (mm, other):
                enclave = self.enclaves.enclave(process) if process is not None else None
                if enclave is not None and process is not None:
                    pal = getattr(enclave.strategies[self._names[index]], "pal", None)
                    self._processes[id(pal)] = process.number
            self.emit(self._state(index, mm, meter))
            if other is not None:
                self.emit(self._state(index, other, meter))

    def _state(self, index: int, mm: Mm, meter: RecordingMeter) -> VectorState:
        enclave = self.enclaves.enclave(mm)
        table: list[VmaLine] = []
        key = index, mm.number
        before = self._tables.pop(key, {})
        if enclave is None:
            before = {}  # the process has ended, and so has its table
        else:
            table = self._table(enclave.strategies[self._names[index]], enclave.space)
            self._tables[key] = {row.start: row for row in table}
        after = {row.start: row for row in table}
        counts = counted(meter.counts)
        difference = tuple(map(int.__sub__, counts, self._counts[index]))
        self._counts[index] = counts
        state = VectorState(
            self.number, index, mm.number, crc(table), len(table), meter.epc_pages, difference
        )
        state.pal = [self._pal_call(call, mm.number) for call in meter.pal_calls]
        meter.pal_calls.clear()
        state.dropped = [start for start, row in before.items() if after.get(start) != row]
        state.added = [row for start, row in after.items() if before.get(start) != row]
        return state

    def _table(self, enclosed: Strategy, space: AddressSpace) -> list[VmaLine]:
        if isinstance(enclosed, Libos):
            return [
                self._row(start, end, vma.prot, space)
                for start, end, vma in enclosed.vmas
                if not vma.flags & VMA_INTERNAL and start < TASK_SIZE
            ]
        return merged(
            self._row(start, end, vma.flags & PROT_RWX, space)
            for start, end, vma in space.vmas
            if not _is_kernels(start, vma)
        )

    def _row(self, start: int, end: int, prot: int, space: AddressSpace) -> VmaLine:
        # Sharing and backing are as the program requested, whatever a strategy records of them.
        vma = space.vmas.get(start)
        if vma is None:
            return VmaLine(start, end, prot)
        shared = int(bool(vma.flags & VM_MAYSHARE))
        file = self._file(vma.file) if vma.file is not None else 0
        return VmaLine(start, end, prot, shared, file, start - vma.base if file else 0)

    def _file(self, file: File) -> int:
        # Shared anonymous memory is a file of the kernel; in these tables it has no file.
        if file.in_memory and file.path.startswith("/dev/zero"):
            return 0
        number = self._files.get(file)
        if number is None:
            number = self._files[file] = len(self._files) + 1
            self.emit(f"file {number} is {' '.join(file.path.split()) or '?'}")
        return number

    def _pal_call(self, call: PalRecord, process: int) -> PalCall:
        flags = LAZY * call.lazy | SINGLE * call.single | INTERNAL * (call.start >= TASK_SIZE)
        old = UNKNOWN if call.old is None else call.old
        new = UNKNOWN if call.new is None else call.new
        owner = self._processes.get(id(call.pal), process)
        return PalCall(call.name, owner, call.start, call.end, old, new, call.kinds, flags)


def _is_kernels(start: int, vma: Vma) -> bool:
    # [vvar] and [vsyscall], which a library OS does not have.
    return bool(vma.flags & (VM_IO | VM_PFNMAP)) or start >= TASK_SIZE


def _kind(vma: Vma) -> int:
    if vma.is_from_disk:
        return file_format.FROM_FILE
    if vma.flags & VM_GROWSDOWN:
        return file_format.STACK
    if vma.flags & VM_DONTEXPAND and vma.flags & VM_EXEC:
        return file_format.VDSO
    return file_format.ANONYMOUS


# Comparing

#: What each PAL call costs, for any number of pages.
_PER_CALL = ("host_calls", "ioctls")
#: `VectorDifference.what`.
MISSING, TABLE, PAL, COUNTS, EPC = "missing", "table", "PAL calls", "counts", "EPC pages"


class VectorDifference(NamedTuple):
    """The first vector in which an implementation differs.

    `what` is MISSING if the other file has no state for the event. `expected` and
    `actual` are tables.
    """

    what: str
    strategy: str
    event: VectorEvent | None
    state: VectorState
    other: VectorState | None
    expected: list[VmaLine]
    actual: list[VmaLine]


@dataclass
class VectorComparison:
    """The result of a comparison: states, and by strategy how many of them. `difference` is None if
    all are equal. `unknown` counts states that the other file shows only in part."""

    states: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    difference: VectorDifference | None = None


def compare(expected: Vectors, actual: Vectors, joined: bool = False) -> VectorComparison:
    """Compare another implementation's actions with the vectors, up to the first difference.

    `joined`: neighboring `protect` calls that change alike count as one call, in both files; if
    there are any, host calls and ioctls are not compared. Raises LaconicError if the files have no
    strategy in common. O(states × VMAs).
    """
    names = {rule.name: number for number, rule in actual.strategies.items()}
    numbers = {
        number: names[rule.name]
        for number, rule in expected.strategies.items()
        if rule.name in names
    }
    if not numbers:
        theirs = ", ".join(names) or "none"
        ours = ", ".join(rule.name for rule in expected.strategies.values())
        raise LaconicError(
            f"{actual.path!r} has vectors of {theirs}, and {expected.path!r} of {ours}; "
            "name the same strategy in a `strategy` line"
        )
    comparison = VectorComparison({expected.strategies[number].name: 0 for number in numbers})
    other = {
        (state.event, state.strategy, state.process): (state, table)
        for state, table in _with_tables(actual)
    }
    for state, table in _with_tables(expected):
        if state.strategy not in numbers:
            continue
        rule = expected.strategies[state.strategy]
        found = other.get((state.event, numbers[state.strategy], state.process))
        comparison.states[rule.name] += 1
        if found is not None and found[0].unknown:
            comparison.unknown += 1
        if joined:
            state, found = _joined(state, found)
        what = MISSING if found is None else _differs(rule, state, table, *found)
        if what is None:
            continue
        event = expected.events.get(state.event)
        comparison.difference = VectorDifference(
            what,
            rule.name,
            event,
            state,
            None if found is None else found[0],
            table,
            [] if found is None else found[1],
        )
        break
    return comparison


def _with_tables(vectors: Vectors) -> Iterator[tuple[VectorState, list[VmaLine]]]:
    # Yield each state with the whole table after it.
    tables: dict[tuple[int, int], dict[int, VmaLine]] = {}
    for state in vectors.states:
        key = state.strategy, state.process
        table = {} if state.clear or not state.vmas else dict(tables.get(key, {}))
        for start in state.dropped:
            table.pop(start, None)
        for row in state.added:
            table[row.start] = row
        tables[key] = table
        yield state, [table[start] for start in sorted(table)]


def _joined(
    state: VectorState, found: tuple[VectorState, list[VmaLine]] | None
) -> tuple[VectorState, tuple[VectorState, list[VmaLine]] | None]:
    # Return both states with their PAL calls joined.
    ours = join_calls(state.pal)
    if found is None:
        return replace(state, pal=ours), None
    other, table = found
    theirs = join_calls(other.pal)
    counts = other.counts
    if (len(ours), len(theirs)) != (len(state.pal), len(other.pal)):
        counts = tuple(
            UNKNOWN if name in _PER_CALL else count
            for name, count in zip(file_format.COUNTED, counts, strict=True)
        )
    return replace(state, pal=ours), (replace(other, pal=theirs, counts=counts), table)


def join_calls(calls: Iterable[PalCall]) -> list[PalCall]:
    """Join each `protect` with the one before it if that ends where it starts, and both have the
    same protections, kinds and flags. O(n).

    >>> first = PalCall("protect", 0, 0x1000, 0x3000, 1, 3, 16, 0)
    >>> [str(call) for call in join_calls([first, first._replace(start=0x3000, end=0x4000)])]
    ['protect 0 1000 4000 1 3 16 0']
    """
    joined: list[PalCall] = []
    for call in calls:
        last = joined[-1] if joined else None
        if (
            last is not None
            and call.name == "protect"
            and last.end == call.start
            and last._replace(start=call.start, end=call.end) == call
        ):
            joined[-1] = last._replace(end=call.end)
        else:
            joined.append(call)
    return joined


def _differs(
    rule: VectorStrategy,
    state: VectorState,
    table: list[VmaLine],
    other: VectorState,
    rows: list[VmaLine],
) -> str | None:
    if TABLE not in other.unknown:
        if rule.table == MERGED:
            table, rows = merged(table), merged(rows)
        if table != rows:
            return TABLE
    pal, others = state.pal, other.pal
    counts_are_known = COUNTS not in other.unknown
    if "internal" in other.unknown:
        pal, others = _programs_own(pal), _programs_own(others)
        counts_are_known = counts_are_known and len(pal) == len(state.pal)
    if rule.pal and "pal" not in other.unknown and not _same_calls(pal, others):
        return PAL
    if counts_are_known and any(
        count not in (UNKNOWN, ours) for ours, count in zip(state.counts, other.counts, strict=True)
    ):
        return COUNTS
    return EPC if other.epc not in (UNKNOWN, state.epc) else None


def _programs_own(calls: Sequence[PalCall]) -> list[PalCall]:
    return [call for call in calls if not call.flags & INTERNAL]


def _same_calls(ours: Sequence[PalCall], theirs: Sequence[PalCall]) -> bool:
    return len(ours) == len(theirs) and all(map(same_call, ours, theirs))


def same_call(call: PalCall, other: PalCall) -> bool:
    """Return whether another implementation made the same PAL call. It may not know protections
    and kinds; the library OS's own memory may be anywhere. O(1)."""
    if (call.name, call.process, call.flags) != (other.name, other.process, other.flags):
        return False
    if call.flags & INTERNAL:
        same_range = call.end - call.start == other.end - other.start
    else:
        same_range = (call.start, call.end) == (other.start, other.end)
    return (
        same_range
        and other.old in (UNKNOWN, call.old)
        and other.new in (UNKNOWN, call.new)
        and other.kinds in (UNKNOWN, call.kinds)
    )
