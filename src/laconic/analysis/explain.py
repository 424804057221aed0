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
    strategy → what its enclave did for this call alone, without zeros.
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
    loss: list[str] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        """True for a memory call."""
        return bool(self.found.row.event < MEMORY_CODES)


def locate(
    trace: TraceReader,
    event: str,
    progress: Callable[[int], None] | None = None,
    selection: Selection | None = None,
) -> Found:
    """Return the row that `event` names: by its number; by `@SECONDS`: the first memory call then
    or later; or by `CALL:N`: the `N`th call of that name. With `selection`, only its calls are
    counted, except for a number. Reads the trace to its end.

    Raises LaconicError if there is no such row, or `event` has another form.
    """
    fits = wanted(event, trace.names)
    row_filter = None
    if selection is not None and not event.isdigit():
        row_filter = RowFilter(selection, trace.names)
    begun: dict[int, tuple[int, int]] = {}
    found: Found | None = None
    symbols = []
    number, last, calls = -1, 0, [0] * MEMORY_CODES
    for batch in trace.batches():
        for row in batch:
            number += 1
            code = row.event
            if code == _BEGIN:
                begun[row.tid] = number, row.call_code
            elif code == _SYMBOLS:
                symbols.append(row)
            selected = row_filter is None or row_filter.includes(row)
            if found is None:
                if selected and fits(number, row):
                    begin = begun.get(row.tid, (None, -1))
                    found = Found(number, row, begin[0] if begin[1] == code else None, None)
            elif found.next_call is None and code < MEMORY_CODES:
                found = found._replace(next_call=number)
            if code < MEMORY_CODES:
                if selected:
                    calls[code] += 1
                    last = row.time
                begun.pop(row.tid, None)
        if progress is not None:
            progress(trace.position)
    if found is None:
        raise LaconicError(_nowhere(event, trace, number, calls, last))
    return found._replace(symbols=tuple(symbols))


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
    """Return everything that is known about the row that `event` names, as in `locate`. O(events +
    events up to it × strategies).

    Raises LaconicError if it does not exist, or the trace cannot be read.
    """
    found = locate(trace, event, progress, selection)
    loss = [trace.loss] if trace.loss else []
    stacks = stacks or Stacks()
    enclaves = Enclaves({name: strategy(name) for name in NAMES})
    explainer = _Explainer(trace, found, enclaves)
    replay = Replay(trace, "laconic", listeners=[enclaves, explainer], stacks=stacks)
    replay.run(lambda number, _: number > found.number, progress)
    explanation = explainer.explanation
    row = found.row
    if explanation.stack == NO_STACK:
        explanation.stack = stacks.next.get(row.tid, NO_STACK)
    explanation.program = replay.programs.get(row.pid, "?")
    for row in found.symbols:
        stacks.take(row)
    explanation.stacks = stacks
    explanation.loss = [*replay.lost.sentences(), *loss]
    return explanation


class _Explainer(Listener):
    # Follows a replay up to one call, under every strategy, and records what that call alone does.

    def __init__(self, trace: TraceReader, found: Found, enclaves: Enclaves) -> None:
        self.trace = trace
        self.found = found
        self.enclaves = enclaves
        self.explanation = Explanation(found, trace.names[found.row.event])
        if trace.source == "run":
            recorded = trace.about.get("strategy") or "laconic"
            self.explanation.strategy, self.explanation.recorded = recorded, found.row.host_calls
        self._before: list[Labelled] | None = None
        self._work_before: dict[str, Counter[str]] = {}
        self._committed: tuple[Change, ...] = ()
        self._watching = False

    def call_begins(self, number: int, row: Row, thread: ReplayedThread) -> None:
        """Note what the pages are, and what the enclaves did, before the call."""
        self._watching = number in (self.found.number, self.found.begin)
        if not self._watching or thread.mm.space is None:
            return
        if self._before is None:
            self._before = labelled(thread.mm.space)
        self._work_before = self._work()

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Note the changes that are done before the call has ended."""
        if self._watching:
            self._add_work()
            self._committed = changes

    def call_ignored(self, number: int, row: Row, stack: int, followed: bool) -> None:
        """Note why nothing more is known."""
        if number != self.found.number:
            return
        self.explanation.stack = stack
        self.explanation.answer = row.result
        self.explanation.why_not = (
            "no bookkeeping concerns it: it changes nothing, and the host answers it"
            if followed
            else "its process is not followed: a 32-bit program, or one that hides its memory map"
        )

    def call_done(self, done: CallDone) -> None:
        """Record what the call did."""
        if done.number != self.found.number:
            return
        explanation, row, space = self.explanation, done.row, done.thread.mm.space
        self._add_work()
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
        assert space is not None and self._before is not None
        outcome, after, changes = done.outcome, labelled(space), self._committed + done.changes
        if outcome.ask and not changes:
            # The bookkeeping could not predict the call, so it was re-read from the host.
            changes = differences(self._before, after)
        explanation.requested = _requested(explanation.name, row, done.result, changes)
        explanation.runs = list(around(self._before, after, explanation.requested, changes))
        explanation.changes = changes
        explanation.touched = self._touched(row, changes)
        explanation.only_host = outcome.ask
        if done.host_calls:
            args = row.args
            explanation.host_call = done.name, only_changes(done.name, args, outcome) or args

    def _add_work(self) -> None:
        # Add the work for this call; touches that were recorded in between are left out.
        for name, counts in self._work().items():
            more = self.explanation.counts.setdefault(name, {})
            for thing, count in (counts - self._work_before[name]).items():
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
