"""Comparing strategies: one trace's enclaves under each strategy, side by side; or the host calls
that Linux would execute.

Strategies are independent of each other, so several processes share those of a long trace; each
process replays the trace. A log does not record which pages were touched, and may lack the sizes of
files: its figures are ranges, from enclaves under several assumptions. `Comparison` compares
strategies in a replay that another analysis makes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from laconic.analysis import interrupts
from laconic.errors import LaconicError
from laconic.libos.direct import DirectMeter, LinuxPal, SystemCalls
from laconic.libos.gramine import Libos
from laconic.libos.settings import DEFAULTS, Settings
from laconic.libos.sizes import OBSERVED
from laconic.libos.strategy import Maker, Strategy
from laconic.memory.hostrule import HostRule
from laconic.replay import FIGURES, Replayed, replay_trace
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Measured, Replay
from laconic.replay.events import Listener, Program
from laconic.replay.selected import Selected, drop_unselected, join_labels, join_touches
from laconic.replay.sizebounds import SizeBounds, SizedEnclaves, assumed_sizes
from laconic.sgx.costs import DEFAULT, CostProfile, load
from laconic.sgx.meter import THINGS, Counts, Meter
from laconic.strategies import (
    GRAMINE,
    LINUX,
    NAMES,
    arguments,
    as_list,
    check_name,
    display_name,
    is_strict,
    linux_rule,
    names_on,
    strategy,
)
from laconic.trace.charts import Bar, Chart
from laconic.trace.numbers import low_to_high
from laconic.trace.reader import Progress, TraceReader, location
from laconic.trace.selection import Selection
from laconic.trace.tables import Table, TableRow

if TYPE_CHECKING:
    from laconic.strategies.verified import Findings, Report

#: A strategy: its name, `module:Class`, or the class.
Given = str | type[Strategy]
#: The lower limit of all strategies. It is not a strategy, but is named like one.
BOUND = "bound"
#: The strategies that have a rule for Linux.
ON_LINUX = names_on(LINUX)
#: The number of events above which other processes are used: they take a third of a second to
#: start.
LONG = 50_000
#: The bound differs between the ends of a cost profile, because it decides by costs.
_ENDS = ("bound, low", "bound, high")


@dataclass(frozen=True, slots=True)
class Span:
    """The minimum and maximum of what was counted, and the cost in cycles. `low` and `high` are
    equal, except for a trace without touched pages or sizes of files, and for the bound, which has
    figures for each end of the cost profile."""

    low: Counts
    high: Counts
    cycles: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one strategy. `cases`: the cycles (low, high), once for each assumption on
    what the trace does not record. EPC pages are (minimum, maximum): `peak` over all enclaves at a
    time, `left` committed when the trace ended."""

    total: Span
    programs: dict[int, Span]
    by_call: dict[str, Span]
    cases: list[tuple[float, float]]
    peak: tuple[int, int]
    left: tuple[int, int]

    def ratio(self, base: Figures) -> tuple[float, float] | None:
        """Return the minimum and maximum of the ratio of these cycles to those of `base`; None if
        those are 0."""
        cases = zip(self.cases, base.cases, strict=True)
        pairs = [pair for ours, theirs in cases for pair in zip(ours, theirs, strict=True)]
        if not all(divisor for _, divisor in pairs):
            return None
        ratios = [cycles / divisor for cycles, divisor in pairs]
        return min(ratios), max(ratios)


class Model(NamedTuple):
    """How enclaves are modeled. `pte`: "rwx", the host maps all of an enclave so; "sync", the host
    maps each page with its EPCM permissions. `verify`: strict strategies are carried out
    instruction by instruction, and the law Strict is checked. `settings` are those of a Gramine
    manifest."""

    pte: str = "rwx"
    verify: bool = False
    settings: Settings = DEFAULTS


@dataclass(frozen=True, slots=True)
class Compared(Table):
    """The result of a comparison: the figures of each strategy, in the order of the request. As a
    table: one row per strategy.

    `programs` are the names for the numbers in `Figures.programs`. `ranged`: the trace does not
    record touched pages, so every figure is a range. `calls`: memory calls. `processes`: the first,
    and each that was forked. `unseen`: touched pages whose pagemap was unreadable. `lost` reports
    the data that is missing before the trace's end. `findings`: of `Model.verify`, by strategy;
    those that are not strict have none. `measured`: what SGX hardware counted while the traced
    program ran. `exceeded`: options of the manifest that limit programs to less than they needed,
    with the maximum that one needed (bytes). `unsized`: the source of the trace did not have the
    sizes of all mapped files, so counts that depend on them are ranges.
    """

    strategies: dict[str, Figures]
    profile: CostProfile
    programs: list[Program]
    ranged: bool
    calls: int
    processes: int
    events: int
    unseen: int
    lost: list[str]
    model: Model = field(default_factory=Model)
    findings: dict[str, Findings] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    exceeded: dict[str, int] = field(default_factory=dict)
    unsized: bool = False

    def table_columns(self) -> dict[str, str]:
        """Return the columns: the cycles, the ratio of cycles to every-call's (null if it was not
        compared), then each count. If counts are ranges, they are the highest, and the columns
        that end in `_low` have the lowest."""
        counts = [f"{name}{end}" for name in (*THINGS, "peak_epc_pages") for end in ("", "_low")]
        return {
            "strategy": "string",
            **dict.fromkeys(("cycles_low", "cycles_high", "ratio_low", "ratio_high"), "float64"),
            **dict.fromkeys(counts, "int64"),
        }

    def table_rows(self) -> Iterator[TableRow]:
        """Return a row for each strategy."""
        base = self.strategies.get("every-call")
        for name, figures in self.strategies.items():
            ratio = None if base is None else figures.ratio(base)
            low, high = figures.total.low, figures.total.high
            counts = [
                count for thing in THINGS for count in (getattr(high, thing), getattr(low, thing))
            ]
            least, most = figures.peak
            yield (name, *figures.total.cycles, *(ratio or (None, None)), *counts, most, least)

    def shown_columns(self) -> list[str]:
        """Return the columns that a notebook shows."""
        things = (
            "host_calls",
            "ioctls",
            "etrack_ipis",
            "eaug_faults",
            "exceptions",
            "peak_epc_pages",
        )
        return ["strategy", *things, "cycles_low", "cycles_high", "ratio_low", "ratio_high"]

    def chart(self) -> Chart:
        """Return a bar for each strategy, from its lowest to its highest cycles."""
        bars = [
            Bar(
                name,
                "cycles",
                *figures.total.cycles,
                low_to_high(*figures.total.cycles),
            )
            for name, figures in self.strategies.items()
        ]
        return Chart("Cost in SGX2 enclaves", f"cycles, cost profile {self.profile.name}", bars)


@dataclass(frozen=True, slots=True)
class HostCalls(Table):
    """The host calls on Linux under each strategy: `strategies` are replays, in the order of the
    request. As a table: one row per strategy."""

    strategies: dict[str, Replayed]

    def table_columns(self) -> dict[str, str]:
        """Return the columns; `calls` are the program's calls."""
        return {"strategy": "string", **dict.fromkeys(FIGURES, "int64")}

    def table_rows(self) -> Iterator[TableRow]:
        """Return a row for each strategy."""
        for name, replayed in self.strategies.items():
            columns = zip(*replayed.table_rows(), strict=True)
            next(columns, None)  # the names of the calls
            yield name, *([sum(column) for column in columns] or [0] * len(FIGURES))

    def chart(self) -> Chart:
        """Return a bar for each strategy, as long as its host calls."""
        place = 1 + FIGURES.index("host_calls")
        bars = [
            Bar(row[0], "host calls", 0, row[place], f"{row[place]:,}") for row in self.table_rows()
        ]
        return Chart("Host calls on Linux", "host calls", bars)


def compare(
    trace: TraceReader | str,
    strategies: Given | Iterable[Given] = (*NAMES, BOUND),
    profile: CostProfile | str | None = None,
    *,
    progress: Progress | None = None,
    jobs: int | None = 1,
    model: Model | None = None,
    selection: Selection | None = None,
) -> Compared:
    """Return what `trace`, an open trace or a path, would cost in enclaves under each strategy.

    A strategy is a name, `module:Class`, or a class; `bound` is the lower limit of all. `profile`
    has the costs: a profile, or its name or file (default: `published`). A trace of more than
    `LONG` events is replayed by up to `jobs` processes (None: one per CPU); a class must be
    importable by other processes. With `selection`, only its calls are counted, with the first
    touches of the pages that they mapped; peaks are those of the whole trace. `progress` is called
    with the number of bytes that the slowest process has read.

    Raises LaconicError for an unknown strategy, for two with the same name, or if the trace cannot
    be read. O(events × strategies); memory for the figures of each process and call.
    """
    trace = TraceReader(trace) if isinstance(trace, str) else trace
    model = model or Model()
    if not isinstance(profile, CostProfile):
        profile = load(DEFAULT if profile is None else profile)
    strategies = as_list(strategies)
    names = [display_name(each) for each in strategies]
    if len(set(names)) < len(names):
        raise LaconicError(f"two strategies have one name in {', '.join(names)}: rename one")
    makers = _with_ends(strategies)
    for maker in makers:
        _maker(maker, profile, model, {})
    guesses = _guesses(trace)
    sizes = assumed_sizes(trace)
    jobs = jobs or len(os.sched_getaffinity(0))
    shared = jobs > 1 and len(makers) * len(guesses) > 1 and _is_long(trace)
    groups = _share_out(makers, max(jobs // len(guesses), 1)) if shared else [makers]
    tasks = [
        _ReplayTask(location(trace.path), group, profile, guess, model, selection, sizes)
        for guess in guesses
        for group in groups
    ]
    tell = progress or (lambda done: None)
    parts = _side_by_side(tasks, tell) if shared else _replay(trace, tasks, tell)
    trace.loss = parts[0].loss
    return _compared(names, profile, model, tasks, parts)


class Comparison:
    """A comparison of `NAMES` and the bound, as by `compare`, in a replay of `trace` that another
    analysis makes.

    `modeled` are enclaves of that analysis, which assume no touches. Their strategies are not
    modeled a second time, unless touches are assumed; `call_of` maps their labels to those of
    `compare`. The replay must have `listeners`, after those of `modeled`, which must be finished
    before `result` is called.
    """

    def __init__(
        self,
        trace: TraceReader,
        profile: CostProfile,
        selection: Selection | None,
        modeled: SizedEnclaves,
        call_of: Callable[[Hashable], Hashable],
    ) -> None:
        self._names = (*NAMES, BOUND)
        self._profile = profile
        self._modeled = modeled
        self._call_of = call_of
        makers = _with_ends(self._names)
        others = [each for each in makers if each not in modeled.least.meters]
        sizes = tuple(enclaves.assumed_sizes for enclaves in modeled.assumed)
        self._tasks = [
            _ReplayTask(
                trace.path,
                makers if assume_touched else others,
                profile,
                assume_touched,
                Model(),
                selection,
                sizes,
            )
            for assume_touched in _guesses(trace)
        ]
        self._models = [_Models(task) for task in self._tasks]
        self.listeners: list[Listener] = [
            listener for models in self._models for listener in models.listeners
        ]

    def result(self, replay: Replay) -> Compared:
        """Return the figures, after the replay. O(labels)."""
        parts = [models.part(replay) for models in self._models]
        modeled, part = self._modeled, parts[0]
        assumed = [_books(enclaves, self._call_of) for enclaves in modeled.assumed]
        for name in modeled.least.meters:
            part.books[name] = [books[name] for books in assumed]
            part.bounds[name] = _bound_books(
                modeled.least.meters[name],
                modeled.most.meters[name],
                part.books[name],
                self._call_of,
            )
        return _compared(self._names, self._profile, Model(), self._tasks, parts)


def _guesses(trace: TraceReader) -> list[bool]:
    # The assumptions about touched pages (`Enclaves.assume_touched`) that the figures are based on.
    return [False] if trace.source == "run" else [False, True]


def _with_ends(strategies: Iterable[Given]) -> list[Given]:
    # The bound has an enclave for each end of the cost profile.
    return [maker for each in strategies for maker in (_ENDS if each == BOUND else (each,))]


def _compared(
    names: Iterable[str],
    profile: CostProfile,
    model: Model,
    tasks: Sequence[_ReplayTask],
    parts: Sequence[_Part],
) -> Compared:
    cases: dict[bool, dict[str, list[_MeterBook]]] = {}
    bounds: dict[bool, dict[str, _Ends]] = {}
    for task, part in zip(tasks, parts, strict=True):
        cases.setdefault(task.assume_touched, {}).update(part.books)
        bounds.setdefault(task.assume_touched, {}).update(part.bounds)
    first = parts[0]
    figures = {
        name: _figures(
            [ends for books in cases.values() for ends in _ends(books, name)],
            profile,
            [_bounds(ends, name) for ends in bounds.values()],
        )
        for name in names
    }
    found = {name: findings for part in parts for name, findings in part.findings.items()}
    return Compared(
        figures,
        profile,
        first.programs,
        len(cases) > 1,
        first.calls,
        first.processes,
        first.events,
        first.unseen,
        first.lost,
        model,
        found,
        first.measured,
        _exceeded(book for books in cases.values() for each in books.values() for book in each),
        tasks[0].assumed_sizes != (OBSERVED,),
    )


def compare_host_calls(
    trace: TraceReader | str,
    strategies: Given | Iterable[Given] = ON_LINUX,
    progress: Progress | None = None,
) -> HostCalls:
    """Return the host calls that Linux would execute for `trace` under each strategy. Equal rules
    are replayed once.

    Arguments and errors are those of `compare`. O(events × strategies).
    """
    trace = TraceReader(trace) if isinstance(trace, str) else trace
    tell = progress or (lambda at: None)
    rules = {each: linux_rule(each) for each in as_list(strategies)}
    count = len(set(rules.values()))
    replayed: dict[HostRule, Replayed] = {}
    for each, rule in rules.items():
        if rule not in replayed:
            part = partial(_part_way, tell, len(replayed), count, trace.size)
            replayed[rule] = replay_trace(trace, each, part)
    return HostCalls({display_name(each): replayed[rule] for each, rule in rules.items()})


@dataclass(frozen=True, slots=True)
class Direct:
    """The system calls of gramine-direct. `strategies`: by the strategy's name, the work for each
    call, and the work without one: load, fork, exec, thread, stack growth. `unsized` is that of
    `Compared`: `strategies` then has the maximum of each count, and `least` its minimum."""

    strategies: dict[str, dict[str, SystemCalls]]
    least: dict[str, dict[str, SystemCalls]]
    calls: int
    processes: int
    events: int
    lost: list[str]
    unsized: bool


def compare_direct(
    trace: TraceReader, names: Sequence[str], settings: Settings, progress: Progress | None = None
) -> Direct:
    """Return the system calls that gramine-direct, Gramine's Linux PAL, would make under each
    strategy of `names`.

    Raises LaconicError as `compare`. O(events × strategies).
    """
    rules: dict[str, Maker] = {}
    for name in names:
        check_name(name, GRAMINE)
        rule = strategy(name)
        assert issubclass(rule, Libos)
        rules[name] = partial(rule, settings=settings, pal_type=LinuxPal)
    sizes = assumed_sizes(trace)
    assumed = [Enclaves(rules, meter_type=DirectMeter, assumed_sizes=size) for size in sizes]
    bounds = SizeBounds(assumed, DirectMeter)
    engine = Replay(trace, "laconic", listeners=[*assumed, bounds])
    engine.run(progress=progress)
    bounds.finish()
    return Direct(
        _by_call(bounds.most),
        _by_call(bounds.least),
        engine.ledger.calls,
        engine.ledger.processes,
        engine.number + 1,
        engine.losses,
        sizes != (OBSERVED,),
    )


def _by_call(enclaves: Enclaves) -> dict[str, dict[str, SystemCalls]]:
    # Return the system calls by strategy and call.
    found: dict[str, dict[str, SystemCalls]] = {}
    for name, meter in enclaves.meters.items():
        calls = found.setdefault(name, {})
        for (_, call), counts in meter.tables.items():
            assert isinstance(counts, SystemCalls)
            calls.setdefault(str(call), SystemCalls()).add_calls(counts)
    return found


# Replays


def _is_long(trace: TraceReader) -> bool:
    events = 0
    for batch in trace.batches():
        events += len(batch)
        if events > LONG:
            return True
    return False


class _MeterBook(NamedTuple):
    # One meter, after its replay.
    tables: Mapping[tuple[int, Hashable], Counts]
    peak: int
    left: int
    exceeded: Mapping[str, int] = MappingProxyType({})

    def sums(self, key: Callable[[tuple[int, Hashable]], Any]) -> dict[Any, Counts]:
        """The counts of all tables whose process and call have the same key."""
        sums: dict[Any, Counts] = {}
        for table, counts in self.tables.items():
            sums.setdefault(key(table), Counts()).add(counts)
        return sums

    def total(self) -> Counts:
        """All counts."""
        return self.sums(lambda key: 0).get(0, Counts())


#: Two results: at the two ends of a profile (the same, except for the bound), or the minimum and
#: the maximum over the assumed sizes of files.
_Ends = tuple[_MeterBook, _MeterBook]
#: For each end of a profile, the minimum and the maximum over the assumed sizes of files.
_Bounds = tuple[_Ends, _Ends]


class _Part(NamedTuple):
    # The results of one replay, for some of the strategies; a book for each assumed size of files,
    # and their minimum and maximum.
    books: dict[str, list[_MeterBook]]
    bounds: dict[str, _Ends]
    programs: list[Program]
    calls: int
    processes: int
    events: int
    unseen: int
    lost: list[str]
    findings: dict[str, Findings]
    loss: str | None
    measured: list[Measured]


class _ReplayTask(NamedTuple):
    path: str
    makers: list[Given]
    profile: CostProfile
    assume_touched: bool
    model: Model
    selection: Selection | None = None
    assumed_sizes: tuple[int, ...] = (OBSERVED,)


def _maker(name: Given, profile: CostProfile, model: Model, reports: dict[str, Report]) -> Maker:
    if name in _ENDS:
        from laconic.strategies.bound import bound

        return bound(profile, high=name == _ENDS[1])
    rule = strategy(name)
    options = arguments(name)
    if issubclass(rule, Libos) and model.settings != DEFAULTS:
        options["settings"] = model.settings
    pte = model.pte if rule.can_sync else "rwx"
    if pte == "sync":
        options["sync"] = True
    make: Maker = partial(rule, **options) if options else rule
    if not (model.verify and is_strict(name)):
        return make
    from laconic.libos.strategy import ContinuingStrategy
    from laconic.strategies.verified import Report, Verified, VerifiedContinuing

    report = reports[display_name(name)] = Report()
    verified = VerifiedContinuing if issubclass(rule, ContinuingStrategy) else Verified
    return partial(verified, make=make, report=report, pte=pte)


class _Models:
    # The enclaves of one task, as listeners of a replay.

    def __init__(self, task: _ReplayTask) -> None:
        self._task = task
        self._reports: list[dict[str, Report]] = []
        self._assumed = [_enclaves(task, size, self._reports) for size in task.assumed_sizes]
        self._sizes = SizeBounds(self._assumed)
        self.listeners: list[Listener] = [*self._assumed]
        if len(self._assumed) > 1:
            self.listeners.append(self._sizes)
        self._counting: Selected | None = None
        if task.selection is not None:
            self._counting = Selected(Listener(), task.selection)
            self.listeners.append(self._counting)

    def part(self, engine: Replay) -> _Part:
        # The results, after the replay.
        sizes = self._sizes
        sizes.finish()
        if self._task.selection is not None:
            for enclaves in (*self._assumed, sizes.least, sizes.most):
                drop_unselected(enclaves, self._task.selection, engine.started)
                join_touches(enclaves)
        ledger = engine.ledger if self._counting is None else self._counting.ledger
        books: dict[str, list[_MeterBook]] = {}
        for enclaves in self._assumed:
            for name, book in _books(enclaves).items():
                books.setdefault(name, []).append(book)
        return _Part(
            books,
            {
                name: _bound_books(sizes.least.meters[name], sizes.most.meters[name], found)
                for name, found in books.items()
            },
            engine.started,
            ledger.calls,
            engine.ledger.processes,
            engine.number + 1,
            self._assumed[0].unseen,
            engine.lost.sentences(),
            _most_breaches(self._reports),
            engine.trace.loss,
            engine.measured,
        )


def _books(
    enclaves: Enclaves, call_of: Callable[[Hashable], Hashable] | None = None
) -> dict[str, _MeterBook]:
    # The meters' results, by strategy; `call_of` maps their labels to others.
    return {
        name: _MeterBook(
            _joined(meter, call_of), meter.peak_epc_pages, enclaves.left[name], meter.exceeded
        )
        for name, meter in enclaves.meters.items()
    }


def _joined(
    meter: Meter, call_of: Callable[[Hashable], Hashable] | None
) -> dict[tuple[int, Hashable], Counts]:
    return meter.tables if call_of is None else join_labels(meter.tables, call_of)


def _replay(trace: TraceReader, tasks: Sequence[_ReplayTask], progress: Progress) -> list[_Part]:
    # Carry out all tasks in one replay.
    groups = [_Models(task) for task in tasks]
    listeners = [listener for models in groups for listener in models.listeners]
    engine = Replay(trace, "laconic", listeners=listeners)
    engine.run(progress=progress)
    return [models.part(engine) for models in groups]


def _enclaves(task: _ReplayTask, assumed_size: int, reports: list[dict[str, Report]]) -> Enclaves:
    found: dict[str, Report] = {}
    reports.append(found)
    makers = {
        display_name(maker): _maker(maker, task.profile, task.model, found) for maker in task.makers
    }
    # With a selection, the first touches of pages belong to the call that mapped them.
    return Enclaves(
        makers,
        task.assume_touched,
        by_owner=task.selection is not None,
        selection=task.selection,
        assumed_sizes=assumed_size,
    )


def _bound_books(
    least: Meter,
    most: Meter,
    books: Sequence[_MeterBook],
    call_of: Callable[[Hashable], Hashable] | None = None,
) -> _Ends:
    # Return the minimum and the maximum over the assumed sizes, whose results are `books`.
    left = _least_most(book.left for book in books)
    return (
        _MeterBook(_joined(least, call_of), least.peak_epc_pages, left[0], {}),
        _MeterBook(_joined(most, call_of), most.peak_epc_pages, left[1], {}),
    )


def _most_breaches(reports: Iterable[Mapping[str, Report]]) -> dict[str, Findings]:
    # By strategy, the findings under the assumed size that has the most, or under the first.
    most: dict[str, Findings] = {}
    for each in reports:
        for name, report in each.items():
            findings = report.findings()
            if name not in most or findings.breaches > most[name].breaches:
                most[name] = findings
    return most


def _part_way(tell: Progress, before: int, of: int, size: int, at: int) -> None:
    tell((before * size + at) // of)


# Processes


def _share_out(makers: Iterable[Given], count: int) -> list[list[Given]]:
    # Equal shares: reading the trace and its bookkeeping take most of the time.
    groups: list[list[Given]] = [[] for _ in range(count)]
    for place, name in enumerate(sorted(makers, key=lambda name: name not in _ENDS)):
        groups[place % count].append(name)
    return [group for group in groups if group]


def _side_by_side(tasks: Sequence[_ReplayTask], tell: Progress) -> list[_Part]:
    # Each share runs in its own process, which sends its progress, and at the end its results.
    processes: list[Any] = []
    receivers: list[Connection] = []
    try:
        _start(tasks, processes, receivers)
        return _received(receivers, tell)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for receiver in receivers:
            receiver.close()


def _start(tasks: Iterable[_ReplayTask], processes: list[Any], receivers: list[Connection]) -> None:
    context = get_context("spawn")
    try:
        with interrupts.held():
            for task in tasks:
                receiver, sender = context.Pipe(duplex=False)
                receivers.append(receiver)
                with sender:
                    process = context.Process(target=_work, args=(sender, task), daemon=True)
                    process.start()
                processes.append(process)
    except OSError as error:
        raise LaconicError(f"no process can be started, {error.strerror}: give -j 1") from None


def _received(receivers: Sequence[Connection], tell: Progress) -> list[_Part]:
    parts: dict[int, _Part] = {}
    places = dict.fromkeys(range(len(receivers)), 0)
    while places:
        ready = wait([receivers[number] for number in places])
        for number in [number for number in places if receivers[number] in ready]:
            try:
                message = receivers[number].recv()
            except (EOFError, OSError):
                raise LaconicError(
                    "a process that replays the trace was killed (no memory?): give -j 1"
                ) from None
            if isinstance(message, str):
                raise LaconicError(message)
            if isinstance(message, _Part):
                parts[number] = message
                del places[number]
            else:
                places[number] = message
        if places:
            tell(min(places.values()))
    return [parts[number] for number in range(len(receivers))]


def _work(sender: Connection, task: _ReplayTask) -> None:
    # Runs in such a process. If its parent is gone, it ends with its next message.
    try:
        message: Any = _replay(TraceReader(task.path), [task], sender.send)[0]
    except BrokenPipeError:
        return
    except LaconicError as error:
        message = str(error)
    except Exception as error:  # a bug: one line, as everywhere
        message = f"a defect of Laconic, please report it: {type(error).__name__}: {error}"
    sender.send(message)


# Figures


def _ends(books: Mapping[str, list[_MeterBook]], name: str) -> list[_Ends]:
    # Return the results of one replay, for each assumed size of files.
    low, high = _ENDS if name == BOUND else (name, name)
    return list(zip(books[low], books[high], strict=True))


def _bounds(found: Mapping[str, _Ends], name: str) -> _Bounds:
    # Return the bounds of one replay over the assumed sizes of files.
    low, high = _ENDS if name == BOUND else (name, name)
    return found[low], found[high]


def _figures(
    cases: Sequence[_Ends], profile: CostProfile, bounds: Sequence[_Bounds] | None = None
) -> Figures:
    # `cases` are the results under each assumption. A ratio compares strategies under the same
    # assumption; everything else is from `bounds` (None: the results have none but themselves).
    if bounds is None:
        bounds = [((low, low), (high, high)) for low, high in cases]
    books = [book for ends in bounds for pair in ends for book in pair]
    total = _spans(bounds, profile, lambda key: "").get("", Span(Counts(), Counts(), (0, 0)))
    programs = _spans(bounds, profile, lambda key: key[0])
    return Figures(
        _without_negative(total),
        {number: _without_negative(span) for number, span in programs.items()},
        _spans(bounds, profile, lambda key: key[1]),
        [(profile.cycles(low.total())[0], profile.cycles(high.total())[1]) for low, high in cases],
        _least_most(book.peak for book in books),
        _least_most(book.left for book in books),
    )


def _spans(
    bounds: Sequence[_Bounds], profile: CostProfile, key: Callable[[tuple[int, Hashable]], Any]
) -> dict[Any, Span]:
    # Group the figures of all tables by key, in the order in which they came.
    sums = [[book.sums(key) for book in (*at_low, *at_high)] for at_low, at_high in bounds]
    nothing = Counts()
    return {
        each: _span([[part.get(each, nothing) for part in parts] for parts in sums], profile)
        for each in dict.fromkeys(found for parts in sums for part in parts for found in part)
    }


def _span(bounds: Sequence[Sequence[Counts]], profile: CostProfile) -> Span:
    # Each of `bounds` has the minimum and the maximum for the low end of the profile, then those
    # for its high end.
    every = [counts.as_dict() for parts in bounds for counts in parts]
    low = Counts(**{name: min(each[name] for each in every) for name in THINGS})
    high = Counts(**{name: max(each[name] for each in every) for name in THINGS})
    cycles = [(profile.cycles(least)[0], profile.cycles(most)[1]) for least, _, _, most in bounds]
    return Span(low, high, (min(first for first, _ in cycles), max(last for _, last in cycles)))


def _without_negative(span: Span) -> Span:
    # Untouched pages are added when pages are committed, and subtracted under another label when
    # they are touched: the sum of the minima of both may be below 0.
    low = span.low
    return replace(span, low=replace(low, untouched_pages=max(low.untouched_pages, 0)))


def _exceeded(books: Iterable[_MeterBook]) -> dict[str, int]:
    most: dict[str, int] = {}
    for book in books:
        for option, size in book.exceeded.items():
            most[option] = max(size, most.get(option, 0))
    return most


def _least_most(values: Iterable[int]) -> tuple[int, int]:
    found = list(values)
    return min(found), max(found)
