"""One replay of a trace, for a page: sites, series, the address spaces over time, and the
strategies compared."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laconic.analysis.advise.hints import Hints
from laconic.analysis.compare import Compared, Comparison
from laconic.analysis.frames import StackPlaces, own_frames
from laconic.analysis.headline import Headline, headline
from laconic.analysis.sites import (
    EVERY_CALL,
    LACONIC,
    Site,
    SiteCollector,
    Sites,
    Work,
    call_of,
    site_enclaves,
    site_label,
)
from laconic.analysis.suppressions import LOADING, Suppression, matching
from laconic.analysis.timeline.areas import Area, Areas
from laconic.analysis.timeline.cells import Cells, CellTally
from laconic.analysis.timeline.series import Bins, Sampled, Scattered
from laconic.libos.strategy import MemoryCall
from laconic.libos.touches import Touches
from laconic.linux.pagemap import Touched
from laconic.memory.change import Change, new
from laconic.memory.flags import PAGE_SHIFT
from laconic.memory.ledger import Ledger
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.owners import Owners
from laconic.replay.thread import Mm
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts
from laconic.trace.reader import TraceReader
from laconic.trace.records import ARITY
from laconic.trace.schema import Row
from laconic.trace.selection import Selection
from laconic.trace.stacks import NO_STACK, Spot, Stacks

#: The maximum number of calls that are kept individually: a longer trace is shown by its sites.
CALLS = 1_000
#: The maximum number of redundant calls that are marked in the map, and of moments whose time is
#: kept.
MARKS, MOMENTS = 20_000, 2_048
_LENGTHLESS = frozenset(
    {
        "brk",
        "shmat",
        "shmdt",
        "mlockall",
        "munlockall",
        "arch_prctl",
        "io_setup",
        "io_destroy",
        "userfaultfd",
        "other",
        "i386_brk",
        "process_madvise",
    }
)
_TOP = 1 << 64


class Mark(NamedTuple):
    """A redundant call: its process, its number among all memory calls, the pages that it names,
    and its site."""

    process: int
    call: int
    start: int
    pages: int
    site: int


class OneCall(NamedTuple):
    """One memory call. `event` is the number of its row, `time` in nanoseconds, `result` may be a
    negative errno."""

    event: int
    time: int
    process: int
    call: str
    args: tuple[int, ...]
    result: int
    host_calls: int
    site: int


@dataclass(frozen=True, slots=True)
class Page:
    """All data of a page. Processes and sites are numbered by their place in their lists; `calls`
    has the memory calls of each process. `series` and `cells` are over time, in nanoseconds, or
    over the order of the calls if the trace has no times (`last` is 0). `tallies` are the sums of
    the sites, in their order. `places` are the stacks as text, innermost first, True for guessed
    frames; `modules` has the reason why a module's symbols could not be used. `singles` is None if
    there are more than `CALLS` calls. `hidden`: the reason for each site that is suppressed; it is
    counted in all figures, and its stack is not in `places`. `own`: for each other site, the number
    of places of its stack that only make the system call. `around` is `Sites.around`. `headline` is
    the page's first statement. `selection`: which calls are shown; None for all. `hints`: what
    `laconic advise` would change. `knows_sizes` is that of `Sites`."""

    source: str
    about: dict[str, Any]
    machine: dict[str, Any]
    events: int
    ledger: Ledger
    end: dict[str, Any]
    loss: list[str]
    processes: list[Program]
    calls: list[int]
    series: Bins
    cells: Cells
    moments: Sampled[int]
    last: int
    areas: list[Area]
    step: int
    grain: int
    left_out: int
    marks: Scattered[Mark]
    sites: list[Site]
    tallies: list[CellTally]
    places: dict[int, tuple[Spot, ...]]
    modules: list[tuple[str, str]]
    singles: list[OneCall] | None
    compared: Compared | None
    profile: CostProfile
    uncertain: int
    hidden: dict[int, str] = field(default_factory=dict)
    headline: Headline | None = None
    own: dict[int, int] = field(default_factory=dict)
    around: dict[str, Work] = field(default_factory=dict)
    selection: Selection | None = None
    hints: list[str] = field(default_factory=list)
    knows_sizes: bool = True


def collect(
    trace: TraceReader,
    profile: CostProfile,
    progress: Callable[[int], None] | None = None,
    suppressions: Iterable[Suppression] = (),
    selection: Selection | None = None,
) -> Page:
    """Read a trace to its end, once: for its sites and pictures, and for the strategies as
    `compare` does.

    Symbols are read from the places that the trace names, and for a suppressed stack only those
    that its rule needs; `selection` is as in `compare`. Raises LaconicError if the trace cannot be
    read. O(events × strategies); memory O(sites + VMAs).
    """
    stacks = Stacks()
    enclaves = site_enclaves(trace, (EVERY_CALL, LACONIC), selection)
    timeline = Timeline(enclaves.least, profile, trace.has_touches, selection)
    comparison = Comparison(trace, profile, selection, enclaves, call_of)
    hints = Hints()
    listeners: list[Listener] = [*enclaves.listeners, timeline, *comparison.listeners]
    if selection is None:
        listeners += hints.listeners
    replay = Replay(trace, "laconic", listeners=listeners, stacks=stacks)
    replay.run(progress=progress)
    enclaves.finish(selection, replay.started)
    timeline.areas.end_all(max(timeline.calls, 1))
    around = timeline.sites.add_costs(enclaves.least)
    hinted: list[str] = []
    if selection is None:
        hinted = hints.found(replay, enclaves.least.meters, stacks, profile)
    sites = list(timeline.sites.sites.values())
    _share_touches(timeline.cells, timeline.series, sites, profile)
    compared = comparison.result(replay) if timeline.calls else None
    rules = list(suppressions)
    found = Sites(
        sites,
        stacks,
        replay.ledger if selection is None else timeline.ledger,
        enclaves.least.meters,
        replay.started,
        replay.losses,
        replay.number + 1,
        trace.source,
        around,
        trace.has_touches,
        enclaves.knows_sizes,
        selection,
    )
    # Redundant calls at a site that has other costs too, and everything of the loader, are shown.
    shown = [rule for rule in rules if rule.reason != LOADING and not rule.only_redundant]
    places, hidden, own = _stacks(sites, stacks, shown)
    modules = sorted((module.path, why) for module, why in stacks.symbolizer.missing.items())
    return Page(
        source=trace.source,
        about=trace.about,
        machine=trace.machine,
        events=replay.number + 1,
        ledger=replay.ledger if selection is None else timeline.ledger,
        end=replay.end,
        loss=replay.losses,
        processes=replay.started,
        calls=[timeline.calls_of.get(number, 0) for number in range(len(replay.started))],
        series=timeline.series,
        cells=timeline.cells,
        moments=timeline.moments,
        last=timeline.last,
        areas=timeline.areas.ended,
        step=timeline.areas.step,
        grain=timeline.areas.grain,
        left_out=timeline.areas.left_out,
        marks=timeline.marks,
        sites=sites,
        tallies=_tallies(timeline.cells, sites, profile),
        places=places,
        modules=modules,
        singles=timeline.singles,
        compared=compared,
        profile=profile,
        uncertain=sum(replay.uncertain.values()),
        hidden=hidden,
        headline=headline(found, rules, profile),
        own=own,
        around=around,
        selection=selection,
        hints=hinted,
        knows_sizes=enclaves.knows_sizes,
    )


def _stacks(
    found: Sequence[Site], stacks: Stacks, rules: Sequence[Suppression]
) -> tuple[dict[int, tuple[Spot, ...]], dict[int, str], dict[int, int]]:
    # Return the places of the stacks that are shown; the sites that are not, each with the reason;
    # the wrappers of the others.
    places: dict[int, tuple[Spot, ...]] = {}
    hidden: dict[int, str] = {}
    own: dict[int, int] = {}
    for number, site in enumerate(found):
        if site.stack == NO_STACK:
            continue
        walk = stacks.walk(site.stack)
        frames = own_frames(site.call, walk)
        rule = matching(rules, site.call, site.program, StackPlaces(frames)) if frames else None
        if rule is not None:
            hidden[number] = rule.reason
            continue
        places[site.stack] = tuple(walk)
        own[number] = len(walk) - len(frames)
    return places, hidden, own


def _share_touches(cells: Cells, series: Bins, sites: Sequence[Site], profile: CostProfile) -> None:
    # Give each cell its part of the cost of its site's touched pages, in proportion to the pages
    # that its calls mapped and that were touched.
    pages: dict[int, int] = {}
    for cell, tally in cells.tallies.items():
        pages[cell.site] = pages.get(cell.site, 0) + tally.touched
    for cell, tally in cells.tallies.items():
        if tally.touched:
            touches = sites[cell.site].touches
            part = tally.touched / pages[cell.site]
            today = profile.cycles(touches.get(EVERY_CALL, Counts()))
            laconic = profile.cycles(touches.get(LACONIC, Counts()))
            tally.today_low += today[0] * part
            tally.today_high += today[1] * part
            tally.laconic_low += laconic[0] * part
            tally.laconic_high += laconic[1] * part
            start = cell.bin * cells.width
            series.spread(start, start + cells.width, (today[0] + today[1]) / 2 * part)


def _tallies(cells: Cells, sites: Sequence[Site], profile: CostProfile) -> list[CellTally]:
    # Return the sums of each site. Its costs are exactly those of its counts and touches.
    sums = cells.by_site()
    tallies = []
    for number, site in enumerate(sites):
        tally = sums.get(number, CellTally())
        tally.touched = site.touched_pages
        tally.today_low, tally.today_high = profile.cycles(site.cost(EVERY_CALL))
        tally.laconic_low, tally.laconic_high = profile.cycles(site.cost(LACONIC))
        tallies.append(tally)
    return tallies


class _Owner(NamedTuple):
    # The owner of a page: the number of the site that mapped it, the moment of the call, and its
    # process.
    site: int
    moment: int
    process: int


class _ProcessMemory:
    # The pages of one address space: which are touched, and which call mapped them last.

    def __init__(self, touches: Touches | None = None, owners: Owners | None = None) -> None:
        self.touches = touches or Touches()
        self.owners = owners or Owners(None)

    def fork(self) -> _ProcessMemory:
        return _ProcessMemory(self.touches.copy(), self.owners.fork())

    def touched(self, start: int, end: int) -> Iterator[tuple[int, _Owner]]:
        # Count the pages that were touched, by the call that mapped them.
        for run_start, run_end, owner in self.owners.touch(start, end):
            if isinstance(owner, _Owner):
                yield run_end - run_start >> PAGE_SHIFT, owner
        # Sums by owner would be as numerous as calls.
        self.owners.touched.clear()

    def sites(self, start: int, end: int) -> list[tuple[int, int, int]]:
        # Return runs of pages with the site that mapped them, -1 for none.
        return [
            (run_start, run_end, owner.site if isinstance(owner, _Owner) else -1)
            for run_start, run_end, owner in self.owners.pages.runs(start, end)
        ]


class Timeline(Listener):
    """Collects the page's pictures: `sites`, series over time, and the areas of each address space.

    It must come after `enclaves` in the list of listeners, and tallies what they did for each call
    by `profile`. `touches`: the trace records which pages were touched. `calls` is the number of
    memory calls so far.
    """

    def __init__(
        self,
        enclaves: Enclaves,
        profile: CostProfile,
        touches: bool,
        selection: Selection | None = None,
    ) -> None:
        self.enclaves, self.profile, self.selection = enclaves, profile, selection
        self.ledger = Ledger()  # of the selected calls
        self.sites = SiteCollector()
        self.calls = self.last = 0
        self.calls_of: dict[int, int] = {}
        self.series = Bins(1)
        self.cells = Cells(1)
        self.moments: Sampled[int] = Sampled(MOMENTS)
        self.areas = Areas(self._touched_pages if touches else _unknown)
        self.marks: Scattered[Mark] = Scattered(MARKS)
        self.singles: list[OneCall] | None = []
        self._order: dict[tuple[str, int, str], int] = {}
        self._memories: dict[int, _ProcessMemory] = {}
        # The cost of the calls of one label so far, by strategy, process and label.
        self._costs: dict[tuple[str, int, Hashable], tuple[float, float]] = {}

    def _memory(self, process: int) -> _ProcessMemory:
        return self._memories.setdefault(process, _ProcessMemory())

    def _touched_pages(self, process: int, start: int, end: int) -> int:
        return self._memory(process).touches.count(start, end)

    def call_done(self, done: CallDone) -> None:
        """Count the call, and draw its changes."""
        mm = done.thread.mm
        owner = None
        if done.is_finished and (self.selection is None or done.is_in(self.selection)):
            self.ledger.count(done.name, done.host_calls, done.result, changes=done.changes)
            owner = self._count(done, self.sites.count(done))
        now = max(self.calls - 1, 0)
        if mm.number < 0:
            return
        memory = self._memory(mm.number)
        call = new(MemoryCall, (done.name, done.args, done.result, done.changes, done.file))
        memory.owners.call(call, owner)
        if done.read_host or not done.is_finished or mm.space is None:
            self.areas.sync_all(mm.number, mm.space, memory.sites, now)
        else:
            for change in done.changes:
                start, end = change.start, change.end
                self.areas.sync(mm.number, mm.space, memory.sites, start, end, now)
        # The touched pages of the areas that ended have been queried by now.
        memory.touches.apply(done.name, done.args, done.changes)

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        """Count the pages that were touched for the first time with the calls that mapped them."""
        if mm.space is None:
            return
        memory = self._memory(mm.number)
        for start, end, _ in memory.touches.take(runs, mm.space):
            for pages, owner in memory.touched(start, end):
                self.cells.at(owner.process, owner.site, owner.moment).touched += pages

    def _count(self, done: CallDone, site: Site) -> _Owner:
        process = done.thread.mm.number
        # Sites are in the order of their first calls, as in `sites`.
        number = self._order.setdefault((site.call, site.stack, site.program), len(self._order))
        call, time, args = self.calls, done.row.time, done.row.args
        # A trace without times is shown by the order of its calls.
        moment = time or call
        self.calls += 1
        self.calls_of[process] = self.calls_of.get(process, 0) + 1
        cycles = self._tally(done, process, number, moment)
        self.series.count(moment, done.host_calls, done.is_redundant, cycles)
        self.moments.see(time)
        self.last = time
        if done.is_redundant and process >= 0:
            start, pages = pages_of(site.call, args, done.result)
            self.marks.see(Mark(process, call, start, pages, number))
        if self.singles is not None:
            arguments = args[: ARITY.get(site.call, 6)]
            self.singles.append(
                OneCall(
                    done.number,
                    time,
                    process,
                    site.call,
                    arguments,
                    done.result,
                    done.host_calls,
                    number,
                )
            )
            if len(self.singles) > CALLS:
                self.singles = None
        return _Owner(number, moment, process)

    def _tally(self, done: CallDone, process: int, site: int, moment: int) -> float:
        # Tally a call; return the middle of its cost under every-call.
        tally = self.cells.at(process, site, moment)
        today_low, today_high = self._cost(EVERY_CALL, done, process)
        laconic_low, laconic_high = self._cost(LACONIC, done, process)
        _, pages = pages_of(done.name, done.args, done.result)
        if not pages:  # brk takes no length
            pages = sum(change.end - change.start for change in done.changes) >> PAGE_SHIFT
        tally.calls += 1
        tally.host_calls += done.host_calls
        tally.failed += done.result < 0
        if done.result >= 0:
            tally.pages += pages
        tally.today_low += today_low
        tally.today_high += today_high
        tally.laconic_low += laconic_low
        tally.laconic_high += laconic_high
        if done.is_redundant:
            tally.redundant += 1
            tally.redundant_pages += pages
            tally.redundant_cycles += (today_low + today_high) / 2
        return (today_low + today_high) / 2

    def _cost(self, name: str, done: CallDone, process: int) -> tuple[float, float]:
        # The enclave has just carried out this call; its work is counted with that of the site's
        # other calls.
        label = site_label(done)
        counts = self.enclaves.meters[name].tables.get((process, label))
        if counts is None:
            return 0, 0
        low, high = self.profile.cycles(counts)
        before = self._costs.get((name, process, label), (0.0, 0.0))
        self._costs[name, process, label] = low, high
        return low - before[0], high - before[1]

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Draw the changes."""
        if mm.number >= 0 and mm.space is not None:
            sites = self._memory(mm.number).sites
            for change in changes:
                self.areas.sync(mm.number, mm.space, sites, change.start, change.end, self.calls)

    def started(self, mm: Mm) -> None:
        """Draw all areas."""
        self._memories[mm.number] = _ProcessMemory()
        self._draw(mm)

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Draw all areas."""
        self._draw(mm)

    def forked(self, parent: Mm, child: Mm) -> None:
        """Draw the child's areas."""
        self._memories[child.number] = self._memory(parent.number).fork()
        self._draw(child)

    def ended(self, mm: Mm) -> None:
        """End the areas of an address space."""
        self.areas.end(mm.number, self.calls)
        self._memories.pop(mm.number, None)

    def _draw(self, mm: Mm) -> None:
        sites = self._memory(mm.number).sites
        self.areas.sync_all(mm.number, mm.space, sites, self.calls)


def _unknown(process: int, start: int, end: int) -> None:
    # Return how many pages of a range are touched, if the trace records it.
    return None


def pages_of(call: str, args: Sequence[int], result: int) -> tuple[int, int]:
    """Return the first page and the number of pages that a call names in its arguments; 0 pages for
    none."""
    if call in _LENGTHLESS or len(args) < 2:
        return 0, 0
    start, length = (args[2], args[3]) if call == "prctl" else (args[0], args[1])
    if call == "mmap" and result > 0:
        start = result
    if start + length > _TOP:
        return 0, 0
    first = start >> PAGE_SHIFT
    return first, (start + length + (1 << PAGE_SHIFT) - 1 >> PAGE_SHIFT) - first
