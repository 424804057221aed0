"""A trace's memory calls by the site in the program that made them, with their outcome and their
cost.

A call is *redundant* if it succeeded and changed nothing. A site costs what an enclave does for its
calls, and for the first touch of each page that they mapped last.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from laconic.analysis.advise.hints import Hints
from laconic.analysis.frames import own_frames
from laconic.libos.strategy import Strategy
from laconic.memory.ledger import Ledger
from laconic.replay.enclaves import AROUND, OTHER, TOUCH, Enclaves, Touch
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.selected import Selected
from laconic.replay.sizebounds import SizedEnclaves
from laconic.sgx import costs
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts, Meter
from laconic.stacks.symbolize import Place
from laconic.strategies import as_list, display_name, maker
from laconic.trace.charts import Bar, Chart
from laconic.trace.numbers import low_to_high
from laconic.trace.reader import TraceReader
from laconic.trace.selection import Selection
from laconic.trace.stacks import NO_STACK, Stacks
from laconic.trace.tables import Table, TableRow

#: The strategies under which the enclave's cost of each site is counted.
EVERY_CALL, LACONIC = "every-call", "laconic"
#: The number of sites that a chart shows.
_CHARTED = 10
_FIGURES = (
    "calls",
    "redundant",
    "host_calls",
    "failed",
    "first_event",
    "last_event",
    "first_redundant_event",
    "committed_pages",
    "touched_pages",
)


@dataclass(slots=True, kw_only=True)
class Work:
    """What enclaves did for some calls, or for work that a library OS does on its own.

    `counts`: strategy → what its enclave did for the calls. `touches`: strategy → what it did for
    the first touches of the pages that these calls mapped last; there were `touched_pages`.
    """

    counts: dict[str, Counts] = field(default_factory=dict)
    touches: dict[str, Counts] = field(default_factory=dict)
    touched_pages: int = 0

    def cost(self, strategy: str = EVERY_CALL) -> Counts:
        """Return everything that the enclave did, for the calls and for their pages. O(1)."""
        total = Counts()
        for counts in (self.counts, self.touches):
            if strategy in counts:
                total.add(counts[strategy])
        return total

    def committed_pages(self, strategy: str = EVERY_CALL) -> int:
        """Return how many pages these calls, and the touches of their pages, added to the enclave.
        O(1)."""
        return self.cost(strategy).eaug

    def add(self, other: Work) -> None:
        """Add another's work. O(strategies)."""
        self.touched_pages += other.touched_pages
        for ours, theirs in ((self.counts, other.counts), (self.touches, other.touches)):
            for name, counts in theirs.items():
                ours.setdefault(name, Counts()).add(counts)


@dataclass(slots=True)
class Site(Work):
    """The calls of one name from one stack of one program. `stack` is `trace.stacks.NO_STACK` if
    none was recorded.

    `calls` memory calls were made, of which `redundant` succeeded and changed nothing; `host_calls`
    host calls were made. `first`, `last` and `first_redundant` are the numbers of rows in the
    trace, -1 for none. `wasted`: strategy → the part of `counts` that is for redundant calls.
    `files` are the paths of the files that the calls mapped.
    """

    call: str
    stack: int
    program: str
    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    failed: int = 0
    first: int = -1
    last: int = -1
    first_redundant: int = -1
    wasted: dict[str, Counts] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Sites(Table):
    """All sites of a trace. As a table: one row per site, the most expensive first.

    `ledger` has the figures of all calls, `meters` those of the enclaves by strategy. `source` is
    what made the trace, as in `TraceReader.source`. `around` has the work that no call causes: that
    of each of `replay.enclaves.AROUND`, and OTHER. The costs of all sites and of `around` add up to
    the totals of `meters`. `knows_touched`: the trace records which pages were touched; otherwise
    the costs of touches are unknown. `knows_sizes`: it has the sizes of all mapped files; otherwise
    each count is the least that some size permits. Without either, all costs are lower ends.
    `selection`: which calls were counted; None for all. `hints`: what `laconic advise` would
    change, if requested.
    """

    sites: list[Site]
    stacks: Stacks
    ledger: Ledger
    meters: dict[str, Meter]
    processes: list[Program]
    loss: list[str]
    events: int
    source: str = "run"
    around: dict[str, Work] = field(default_factory=dict)
    knows_touched: bool = True
    knows_sizes: bool = True
    selection: Selection | None = None
    hints: list[str] = field(default_factory=list)

    def cycles(
        self, site: Work, strategy: str = EVERY_CALL, profile: CostProfile | None = None
    ) -> tuple[float, float]:
        """Return what a site, or an entry of `around`, costs in an enclave under `strategy`: its
        calls, and the first touches of their pages.

        In cycles, as (low, high), by the cost profile `profile` (default: `published`).
        """
        return (profile or costs.load()).cycles(site.cost(strategy))

    def total(self, strategy: str = EVERY_CALL) -> Counts:
        """Return everything that the enclaves did under `strategy`. O(labels)."""
        return self.meters[strategy].total() if strategy in self.meters else Counts()

    def most_expensive(
        self,
        count: int | None = None,
        strategy: str = EVERY_CALL,
        profile: CostProfile | None = None,
    ) -> list[Site]:
        """Return the `count` sites (default: all) that cost most under `strategy`.

        Sites that cost the same are in the order of their first calls. O(sites log sites).
        """
        profile = profile or costs.load()
        ordered = sorted(self.sites, key=lambda site: -sum(self.cycles(site, strategy, profile)))
        return ordered[:count]

    def frames(self, site: Site) -> list[Place]:
        """Return the stack of a site, innermost first, without the wrapper that makes the system
        call. Empty if no stack was recorded. O(frames)."""
        if site.stack == NO_STACK:
            return []
        return [place for place, _ in own_frames(site.call, self.stacks.walk(site.stack))]

    def table_columns(self) -> dict[str, str]:
        """Return the columns. `function` and `module` are the innermost frame's; `stack` has one
        line per frame; the events are numbers of rows in the trace. `committed_pages` is of the
        first strategy. Cycles are those of each strategy's enclave by the profile `published`: of
        the calls and the touches, of the touches alone, and of the redundant calls."""
        columns = dict.fromkeys(("call", "function", "module", "stack", "program"), "string")
        columns |= dict.fromkeys(_FIGURES, "int64")
        return columns | {
            f"{name.replace('-', '_')}_{what}_{end}": "float64"
            for name in self.meters
            for what in ("cycles", "touch_cycles", "redundant_cycles")
            for end in ("low", "high")
        }

    def table_rows(self) -> Iterator[TableRow]:
        """Return the rows, the most expensive site first."""
        profile = costs.load()
        first = next(iter(self.meters), EVERY_CALL)
        for site in self.most_expensive(profile=profile):
            frames = self.frames(site)
            cycles = [
                value
                for name in self.meters
                for counts in (
                    site.cost(name),
                    site.touches.get(name, Counts()),
                    site.wasted.get(name, Counts()),
                )
                for value in profile.cycles(counts)
            ]
            yield (
                site.call,
                frames[0].function if frames else None,
                frames[0].module if frames else None,
                "\n".join(f"{place.function} ({place.module})" for place in frames) or None,
                site.program,
                site.calls,
                site.redundant,
                site.host_calls,
                site.failed,
                site.first,
                site.last,
                None if site.first_redundant < 0 else site.first_redundant,
                site.committed_pages(first),
                site.touched_pages,
                *cycles,
            )

    def shown_columns(self) -> list[str]:
        """Return the columns that a notebook shows: all but the stack and the events."""
        hidden = ("stack", "first_event", "last_event", "first_redundant_event")
        return [name for name in self.table_columns() if name not in hidden]

    def chart(self) -> Chart:
        """Return the cost of the `_CHARTED` most expensive sites under each strategy."""
        profile = costs.load()
        bars = []
        for site in self.most_expensive(_CHARTED, profile=profile):
            frames = self.frames(site)
            where = f"{frames[0].function} ({frames[0].module})" if frames else site.program
            for name in self.meters:
                low, high = self.cycles(site, name, profile)
                label = f"{site.call} {where}, first in row {site.first}"
                bars.append(Bar(label, name, low, high, low_to_high(low, high)))
        return Chart("The most expensive sites", f"cycles, cost profile {profile.name}", bars)


class SiteLabel(NamedTuple):
    """The label under which the enclaves' work for a call is counted."""

    call: str
    stack: int
    program: str
    is_redundant: bool


def site_label(done: CallDone) -> SiteLabel:
    """Return the label of a call."""
    return SiteLabel(done.name, done.stack, done.program, done.is_redundant)


def call_of(label: Hashable) -> Hashable:
    """Return the label under which `compare` counts the work that sites count under `label`: the
    name of the call, TOUCH, or the same. O(1)."""
    if isinstance(label, Touch):
        return TOUCH
    if isinstance(label, SiteLabel):
        return label.call
    return label


def site_enclaves(
    trace: TraceReader,
    strategies: str | type[Strategy] | Iterable[str | type[Strategy]],
    selection: Selection | None,
) -> SizedEnclaves:
    """Return the enclaves of a trace, which count by `site_label` and by owner."""
    makers = {display_name(each): maker(each) for each in as_list(strategies)}

    def make(assumed_sizes: int) -> Enclaves:
        return Enclaves(
            makers,
            label=site_label,
            by_owner=True,
            selection=selection,
            assumed_sizes=assumed_sizes,
        )

    return SizedEnclaves(trace, make)


class SiteCollector(Listener):
    """Counts every memory call at its site. `sites` are in the order of their first calls."""

    def __init__(self) -> None:
        self.sites: dict[tuple[str, int, str], Site] = {}

    def call_done(self, done: CallDone) -> None:
        """Count the call. O(1)."""
        if done.is_finished:
            self.count(done)

    def count(self, done: CallDone) -> Site:
        """Count a finished call; return its site. O(1)."""
        key = done.name, done.stack, done.program
        site = self.sites.get(key)
        if site is None:
            site = self.sites[key] = Site(*key, first=done.number)
        site.calls += 1
        site.host_calls += done.host_calls
        if done.is_redundant:
            site.redundant += 1
            if site.first_redundant < 0:
                site.first_redundant = done.number
        if done.result < 0:
            site.failed += 1
        elif done.file is not None:
            site.files.add(done.file.file.path)
        site.last = done.number
        return site

    def add_costs(self, enclaves: Enclaves) -> dict[str, Work]:
        """Give each site what the enclaves did for its calls and for the pages that they mapped.

        Returns the rest, by kind. `enclaves` must count by `site_label` and by owner. O(labels).
        """
        around = {kind: Work() for kind in (*AROUND, OTHER)}
        for name, meter in enclaves.meters.items():
            for (_, label), counts in meter.tables.items():
                self.enter(name, label, counts, around)
        for touched in enclaves.touched_pages.values():
            for owner, pages in touched.items():
                self._work(owner, around).touched_pages += pages
        return around

    def enter(
        self, strategy: str, label: Hashable, counts: Counts, around: Mapping[str, Work]
    ) -> Work:
        """Add what an enclave did under a label to its site, or to its entry of `around`; return
        that. O(1)."""
        if isinstance(label, Touch):
            work = self._work(label.owner, around)
            work.touches.setdefault(strategy, Counts()).add(counts)
            return work
        work = self._work(label, around)
        work.counts.setdefault(strategy, Counts()).add(counts)
        if isinstance(label, SiteLabel) and label.is_redundant:
            assert isinstance(work, Site)
            work.wasted.setdefault(strategy, Counts()).add(counts)
        return work

    def _work(self, label: Hashable, around: Mapping[str, Work]) -> Work:
        if isinstance(label, SiteLabel):
            return self.sites[label.call, label.stack, label.program]
        return around[label if isinstance(label, str) and label in around else OTHER]


class SiteCounting:
    """The sites of `trace` and their costs, from a replay that has `listeners`, in this order, and
    `stacks`."""

    def __init__(
        self,
        trace: TraceReader,
        strategies: str | type[Strategy] | Iterable[str | type[Strategy]],
        stacks: Stacks,
        selection: Selection | None,
    ) -> None:
        self.stacks = stacks
        self.enclaves = site_enclaves(trace, strategies, selection)
        self._selection = selection
        self._collector = SiteCollector()
        self._selected: Selected | None = None
        if selection is not None:
            self._selected = Selected(self._collector, selection)
        self.listeners: list[Listener] = [
            *self.enclaves.listeners,
            self._selected or self._collector,
        ]

    def result(self, replay: Replay) -> Sites:
        """Return the sites, after the replay; its unselected work is dropped. O(labels)."""
        self.enclaves.finish(self._selection, replay.started)
        least = self.enclaves.least
        around = self._collector.add_costs(least)
        return Sites(
            list(self._collector.sites.values()),
            self.stacks,
            replay.ledger if self._selected is None else self._selected.ledger,
            least.meters,
            replay.started,
            replay.losses,
            replay.number + 1,
            replay.trace.source,
            around,
            replay.trace.has_touches,
            self.enclaves.knows_sizes,
            self._selection,
        )


def sites(
    trace: TraceReader | str,
    strategies: str | type[Strategy] | Iterable[str | type[Strategy]] = (EVERY_CALL, LACONIC),
    progress: Callable[[int], None] | None = None,
    stacks: Stacks | None = None,
    selection: Selection | None = None,
    hints: Hints | None = None,
    profile: CostProfile | None = None,
) -> Sites:
    """Return all sites of `trace`, an open trace or a path, with their costs in an enclave under
    each of `strategies` (names, `module:Class`, or classes).

    `progress` is called with the number of bytes that have been read. `stacks` finds the names of
    functions, by default in the program's own files. With `selection`, only its calls are counted.
    With `hints`, `Sites.hints` names what `advise` would change, by the costs of `profile`.
    Raises LaconicError if the trace cannot be read. O(events), memory O(sites).
    """
    trace = TraceReader(trace) if isinstance(trace, str) else trace
    counting = SiteCounting(trace, strategies, stacks or Stacks(), selection)
    listeners = [*counting.listeners, *(() if hints is None else hints.listeners)]
    replay = Replay(trace, "laconic", listeners=listeners, stacks=counting.stacks)
    replay.run(progress=progress)
    found = counting.result(replay)
    if hints is None:
        return found
    hinted = hints.found(replay, found.meters, found.stacks, profile or costs.load())
    return replace(found, hints=hinted)
