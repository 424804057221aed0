"""One call of a trace, explained: everything that is known about it, as data.
`laconic.report.explain` turns it into text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.analysis.neighbourhood import Labelled, Run, around, differences, labelled
from laconic.errors import LaconicError
from laconic.linux.pagemap import Touched, page_count
from laconic.linux.pal import only_changes
from laconic.memory.calls import Arguments
from laconic.memory.change import Change
from laconic.memory.flags import PAGE_MASK, PAGE_SIZE, TASK_SIZE
from laconic.memory.mmap import page_align
from laconic.replay.assumed import affected
from laconic.replay.enclaves import TOUCH, Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.sizebounds import SizedEnclaves
from laconic.replay.thread import Mm, ReplayedThread
from laconic.strategies import NAMES, strategy
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES, EVENTS, MEMORY_CODES, NO_RESULT, UNFINISHED, Row
from laconic.trace.selection import RowFilter, Selection
from laconic.trace.stacks import NO_STACK, Stacks
from laconic.trace.words import plural

_BEGIN, _SYMBOLS = CODES["begin"], CODES["symbols"]
_COUNT = re.compile(r"[0-9]{1,18}")


class Found(NamedTuple):
    """The place of a row: its number, the row itself, the row in which its work began if that is a
    different one, and the number of the next memory call after it (None: there is none). `symbols`
    are the rows of that kind, which come last."""

    number: int
    row: Row
    begin: int | None
    next_call: int | None
    symbols: tuple[Row, ...] = ()


@dataclass(slots=True)
class Explanation:
    """Everything that is known about one row.

    `why_not`: why only the call itself can be shown, for example because its process is not
    followed. `stack` is one of `stacks`, or NO_STACK. `touched`: pages, by the number of the
    change; None if the trace does not record them. `requested`: the ranges that the call concerns.
    `host_call` is the one that the bookkeeping would make; `recorded` counts the host calls that
    the recording made under `strategy` (None: the trace was imported from a log). `counts`:
    strategy → what its enclave did for this call alone, without zeros. `knows_sizes`: the trace has
    the sizes of all mapped files; otherwise `counts` are the least that some sizes permit.
    """

    found: Found
    name: str
    program: str = "?"
    file: str = ""
    stack: int = NO_STACK
    stacks: Stacks = field(default_factory=Stacks)
    why_not: str = ""
    answer: int = 0
    requested: list[tuple[int, int]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    changes: tuple[Change, ...] = ()
    touched: list[int | None] = field(default_factory=list)
    host_call: tuple[str, Arguments] | None = None
    only_host: bool = False
    recorded: int | None = None
    strategy: str = "laconic"
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    knows_sizes: bool = True
    loss: list[str] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        """True for a memory call."""
        return bool(self.found.row.event < MEMORY_CODES)


class EventSearch:
    """The search for the row that `event` names, in the rows of a trace.

    An event is the number of a row; `@SECONDS`: the first memory call then or later; or `CALL:N`:
    the `N`th call of that name. With `selection`, only its calls are counted, except for a number.
    `found` is the row, as soon as it was read. `begins` are the numbers of the `begin` rows of the
    calls that may be that row: if it was not read yet, those of all calls that have not ended.

    Raises LaconicError if `event` has another form.
    """

    def __init__(self, trace: TraceReader, event: str, selection: Selection | None = None) -> None:
        self.found: Found | None = None
        self.begins: set[int] = set()
        self._trace = trace
        self._event = event
        self._fits = wanted(event, trace.names)
        self._filter: RowFilter | None = None
        if selection is not None and not event.isdigit():
            self._filter = RowFilter(selection, trace.names)
        # By thread: the number of its `begin` row, and the event code of the call.
        self._begun: dict[int, tuple[int, int]] = {}
        self._symbols: list[Row] = []
        self._number = -1
        self._last_time = 0
        self._calls = [0] * MEMORY_CODES

    def read(self, batch: Iterable[Row]) -> None:
        """Read the next rows of the trace. O(rows)."""
        begun, row_filter = self._begun, self._filter
        for row in batch:
            self._number += 1
            code = row.event
            if code == _BEGIN:
                begun[row.tid] = self._number, row.call_code
            elif code == _SYMBOLS:
                self._symbols.append(row)
            selected = row_filter is None or row_filter.includes(row)
            if self.found is None:
                if selected and self._fits(self._number, row):
                    begin = begun.get(row.tid, (None, -1))
                    work_began = begin[0] if begin[1] == code else None
                    self.found = Found(self._number, row, work_began, None)
            elif self.found.next_call is None and code < MEMORY_CODES:
                self.found = self.found._replace(next_call=self._number)
            if code < MEMORY_CODES:
                if selected:
                    self._calls[code] += 1
                    self._last_time = row.time
                begun.pop(row.tid, None)
        if self.found is None:
            self.begins = {number for number, _ in begun.values()}
        else:
            self.begins = set() if self.found.begin is None else {self.found.begin}

    def is_past(self, number: int) -> bool:
        """Return whether the row `number` follows the one that was found. O(1)."""
        return self.found is not None and number > self.found.number

    def result(self) -> Found:
        """Return the row, after all rows were read. Raises LaconicError if there is none."""
        if self.found is None:
            message = _nowhere(self._event, self._trace, self._number, self._calls, self._last_time)
            raise LaconicError(message)
        return self.found._replace(symbols=tuple(self._symbols))


def wanted(event: str, names: Sequence[str] = EVENTS) -> Callable[[int, Row], bool]:
    """Return a predicate that is true for the row that `event` names. Call it with the number of
    each row and the row, in order, once. `names` are those of the rows' codes.

    Raises LaconicError if `event` has none of these forms.
    """
    name, colon, count = event.rpartition(":")
    if _COUNT.fullmatch(event):
        place = int(event)
        return lambda number, row: number == place
    if event.startswith("@"):
        try:
            moment = float(event[1:]) * 1e9
        except ValueError:
            moment = -1
        if 0 <= moment < 1e18:
            return lambda number, row: row.event < MEMORY_CODES and row.time >= moment
    elif colon and _COUNT.fullmatch(count) and int(count) > 0:
        if name not in names[:MEMORY_CODES]:
            raise LaconicError(
                f"there is no memory call {name!r}: name one, as in mprotect:{count}"
            )
        code, left = names.index(name), iter(range(int(count) - 1, -1, -1))
        return lambda number, row: row.event == code and not next(left)
    raise LaconicError(
        f"{event!r} names no event: give its number, @SECONDS as in @1.5, or CALL:N as in "
        "mprotect:3"
    )


def _nowhere(event: str, trace: TraceReader, last: int, calls: Sequence[int], time: int) -> str:
    if last < 0:
        return f"there is no event {event}: {trace.path!r} has none at all"
    count = sum(calls)
    if event.startswith("@"):
        when = (
            f"the last of {count:,} is at {time / 1e9:.6f} s" if count else "there is none at all"
        )
        return f"there is no memory call at {event[1:]} s or later: {when}"
    if ":" in event:
        name, _, wish = event.rpartition(":")
        found = calls[trace.names.index(name)]
        are = "is" if found == 1 else "are"
        every = plural(count, "memory call")
        return f"there is no {wish}. {name}: of {every}, {found:,} {are} {name}"
    of_them = plural(count, "of them memory call")
    return f"there is no event {event}: the trace has those from 0 to {last}, {of_them}"


def explain(
    trace: TraceReader,
    event: str,
    progress: Callable[[int], None] | None = None,
    stacks: Stacks | None = None,
    selection: Selection | None = None,
) -> Explanation:
    """Return everything that is known about the row that `event` names, as in `EventSearch`. The
    trace is read once; it is replayed up to that row. O(events + events up to it × strategies).

    Raises LaconicError if it does not exist, or the trace cannot be read.
    """
    search = EventSearch(trace, event, selection)
    stacks = stacks or Stacks()
    makers = {name: strategy(name) for name in NAMES}
    enclaves = SizedEnclaves(trace, lambda size: Enclaves(makers, assumed_sizes=size))
    explainer = _Explainer(trace, search, enclaves.least)
    listeners = [*enclaves.listeners, explainer]
    replay = Replay(trace, "laconic", listeners=listeners, stacks=stacks)
    batches = trace.batches()
    replay.run(lambda number, _: search.is_past(number), progress, _searched(batches, search))
    for batch in batches:
        search.read(batch)
        if progress is not None:
            progress(trace.position)
    found = search.result()
    explanation = explainer.explanation or _explanation(trace, found)
    explanation.found = found
    explanation.knows_sizes = enclaves.knows_sizes
    row = found.row
    if explanation.stack == NO_STACK:
        explanation.stack = stacks.next.get(row.tid, NO_STACK)
    explanation.program = replay.programs.get(row.pid, "?")
    for row in found.symbols:
        stacks.take(row)
    explanation.stacks = stacks
    explanation.loss = [*replay.lost.sentences(), *([trace.loss] if trace.loss else [])]
    return explanation


def _searched(batches: Iterable[list[Row]], search: EventSearch) -> Iterator[list[Row]]:
    # The search is a batch ahead of the replay. Therefore, few calls must be watched from their
    # `begin` rows on: only those that end in a later batch, and the one that was found.
    for batch in batches:
        search.read(batch)
        yield batch


def _explanation(trace: TraceReader, found: Found) -> Explanation:
    # What the row itself shows.
    explanation = Explanation(found, trace.names[found.row.event])
    if trace.source == "run":
        explanation.strategy = trace.about.get("strategy") or "laconic"
        explanation.recorded = found.row.host_calls
    return explanation


@dataclass(slots=True)
class _Start:
    # The state of a call before it began: the address space, and each enclave's work. `counts` and
    # `changes` are of the part of the call that was done before its end.
    before: list[Labelled]
    work: dict[str, Counter[str]]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


class _Explainer(Listener):
    # Follows a replay up to one call, under every strategy, and records what that call alone does.
    # `explanation` is None until the call is reached.

    def __init__(self, trace: TraceReader, search: EventSearch, enclaves: Enclaves) -> None:
        self.trace = trace
        self.search = search
        self.enclaves = enclaves
        self.explanation: Explanation | None = None
        # By the numbers of `begin` rows: the calls that may be the one to explain.
        self._starts: dict[int, _Start] = {}
        # The call of the row that is being replayed.
        self._start: _Start | None = None

    def _found(self, number: int) -> Found | None:
        # Return the row to explain, if it is this one.
        found = self.search.found
        return found if found is not None and found.number == number else None

    def call_begins(self, number: int, row: Row, thread: ReplayedThread) -> None:
        """Note what the pages are, and what the enclaves did, before the call."""
        self._start = None
        found = self._found(number)
        if thread.mm.space is None or (found is None and number not in self.search.begins):
            return
        start = None
        if found is not None and found.begin is not None:
            start = self._starts.get(found.begin)
        if start is None:
            start = _Start(labelled(thread.mm.space), self._work())
        else:
            start.work = self._work()
        self._start = start
        if found is None:
            begins = self.search.begins
            self._starts = {old: self._starts[old] for old in self._starts if old in begins}
            self._starts[number] = start

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Note the changes that are done before the call has ended."""
        if self._start is not None:
            self._add_work(self._start)
            self._start.changes = changes

    def call_ignored(self, number: int, row: Row, stack: int, followed: bool) -> None:
        """Note why nothing more is known."""
        found = self._found(number)
        if found is None:
            return
        self.explanation = explanation = _explanation(self.trace, found)
        explanation.stack = stack
        explanation.answer = row.result
        explanation.why_not = (
            "no bookkeeping concerns it: it changes nothing, and the host answers it"
            if followed
            else "its process is not followed: a 32-bit program, or one that hides its memory map"
        )

    def call_done(self, done: CallDone) -> None:
        """Record what the call did."""
        found = self._found(done.number)
        if found is None:
            return
        start, row, space = self._start, done.row, done.thread.mm.space
        assert space is not None and start is not None
        self._add_work(start)
        self.explanation = explanation = _explanation(self.trace, found)
        explanation.counts = start.counts
        explanation.stack = done.stack
        explanation.answer = done.result
        if done.file is not None:
            explanation.file = done.file.file.path
        if row.state & UNFINISHED:
            explanation.why_not = "it never returned: the thread ended in it"
        elif row.state & NO_RESULT:
            explanation.why_not = "the log does not show its result"
        if explanation.why_not:
            explanation.counts = {}
        outcome, after, changes = done.outcome, labelled(space), start.changes + done.changes
        if outcome.ask and not changes:
            # The bookkeeping could not predict the call, so it was re-read from the host.
            changes = differences(start.before, after)
        explanation.requested = _requested(explanation.name, row, done.result, changes)
        explanation.runs = list(around(start.before, after, explanation.requested, changes))
        explanation.changes = changes
        explanation.touched = self._touched(row, changes)
        explanation.only_host = outcome.ask
        if done.host_calls:
            args = row.args
            explanation.host_call = done.name, only_changes(done.name, args, outcome) or args

    def _add_work(self, start: _Start) -> None:
        # Add the work for this call; touches that were recorded in between are left out.
        for name, counts in self._work().items():
            more = start.counts.setdefault(name, {})
            for thing, count in (counts - start.work[name]).items():
                more[thing] = more.get(thing, 0) + count

    def _work(self) -> dict[str, Counter[str]]:
        work = {}
        for name, meter in self.enclaves.meters.items():
            work[name] = Counter[str]()
            for (_, label), counts in meter.tables.items():
                if label != TOUCH:
                    work[name].update(counts.as_dict())
        return work

    def _touched(self, row: Row, changes: Iterable[Change]) -> list[int | None]:
        # Return the number of pages of each change that were recorded as touched.
        if not self.trace.has_touches or self.trace.source != "run":
            return [None for _ in changes]
        return [page_count(_cut(row.touched, change.start, change.end)) for change in changes]


def _cut(runs: Iterable[Touched], start: int, end: int) -> Iterator[Touched]:
    return ((max(a, start), min(b, end), how) for a, b, how in runs if a < end and start < b)


def _requested(
    name: str, row: Row, answer: int, changes: Iterable[Change]
) -> list[tuple[int, int]]:
    # Return the ranges that the call concerns, in bytes: those of its arguments and its result.
    args = row.args
    found = {(change.start, change.end) for change in changes}
    start, end = affected(name, args)
    if name == "mmap" and answer >= 0:
        start, end = answer & PAGE_MASK, (answer & PAGE_MASK) + page_align(args[1])
    elif name == "mremap" and answer >= 0:
        found.add((answer & PAGE_MASK, (answer & PAGE_MASK) + page_align(args[2])))
    elif name == "brk" and not found:
        start, end = page_align(args[0]) - PAGE_SIZE, page_align(args[0])
    if 0 <= start < end <= TASK_SIZE:
        found.add((start, end))
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
