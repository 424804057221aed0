"""One replay of a trace, for a page: sites, series, the address spaces over time, and the
strategies compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from laconic.analysis.compare import BOUND, Compared, compare
from laconic.analysis.frames import Names, own_frames
from laconic.analysis.sites import EVERY_CALL, LACONIC, Site, SiteCollector, site_label
from laconic.analysis.suppressions import Suppression, matching
from laconic.analysis.timeline.areas import Area, Areas
from laconic.analysis.timeline.series import Bins, Sampled, Scattered
from laconic.memory.change import Change
from laconic.memory.flags import PAGE_SHIFT
from laconic.memory.ledger import Ledger
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.selected import drop_unselected
from laconic.replay.thread import Mm
from laconic.sgx.costs import CostProfile
from laconic.strategies import NAMES, strategy
from laconic.trace.reader import Trace
from laconic.trace.records import ARITY
from laconic.trace.schema import Row
from laconic.trace.selection import Selection
from laconic.trace.stacks import NO_STACK, Spot, Stacks

#: Calls that are kept one by one: a trace of more is shown by its sites.
CALLS = 1_000
#: Redundant calls that are marked in the map, and moments of which the time is kept.
MARKS, MOMENTS = 20_000, 2_048
_LENGTHLESS = frozenset({"brk", "shmat", "shmdt", "mlockall", "munlockall", "arch_prctl", "io_setup", "io_destroy",
                         "userfaultfd", "other", "i386_brk", "process_madvise"})  # fmt: skip
_TOP = 1 << 64


class Mark(NamedTuple):
    """A redundant call: whose, its number among all memory calls, the pages that it was about, and
    its site."""

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
    """All that a page shows. Processes and sites are numbered as they stand in their lists; `calls`
    has the memory calls of each process. `places` are the stacks in words, innermost first, True
    for what was guessed; `modules` says why a module's symbols could not be used. `singles` is None
    where there are more than `CALLS` calls. `hidden`: of each site that is suppressed the reason;
    it is in all figures, and its stack is not in `places`. `own`: of each other site with how many
    places its stack only makes the system call."""

    source: str
    about: dict[str, Any]
    machine: dict[str, Any]
    events: int
    ledger: Ledger
    end: dict[str, Any]
    loss: list[str]
    processes: list[Program]
    calls: list[int]
    by_time: Bins
    by_order: Bins
    moments: Sampled[int]
    last: int
    areas: list[Area]
    step: int
    grain: int
    left_out: int
    marks: Scattered[Mark]
    sites: list[Site]
    places: dict[int, tuple[Spot, ...]]
    modules: list[tuple[str, str]]
    singles: list[OneCall] | None
    compared: Compared | None
    profile: CostProfile
    uncertain: int
    hidden: dict[int, str] = field(default_factory=dict)
    own: dict[int, int] = field(default_factory=dict)


def collect(
    trace: Trace,
    profile: CostProfile,
    progress: Callable[[int], None] | None = None,
    jobs: int | None = None,
    suppressions: Iterable[Suppression] = (),
    selection: Selection | None = None,
) -> Page:
    """Reads a trace to its end, once for its sites and pictures, and for the strategies as
    `compare` does.

    Symbols are looked for at the places that the trace names, of a suppressed stack no more than
    its rule needs; `jobs` and `selection` are as in `compare`. Raises LaconicError where it cannot be read. O(events
    × strategies); memory O(sites + VMAs).
    """
    tell = progress or (lambda done: None)
    stacks = Stacks()
    timeline = Timeline(selection)
    enclaves = Enclaves(
        {name: strategy(name) for name in (EVERY_CALL, LACONIC)},
        label=site_label,
        selection=selection,
    )
    replay = Replay(trace, "laconic", listeners=[enclaves, timeline], stacks=stacks)
    replay.run(progress=lambda done: tell(done // 2))
    if selection is not None:
        drop_unselected(enclaves.meters, selection, replay.started)
    timeline.areas.end_all(max(timeline.calls, 1))
    timeline.sites.add_costs(enclaves.meters)
    compared = None
    if timeline.calls:
        tail = partial(_second_half, tell, trace.size)
        compared = compare(
            trace, [*NAMES, BOUND], profile, progress=tail, jobs=jobs, selection=selection
        )
    sites = list(timeline.sites.sites.values())
    places, hidden, own = _stacks(sites, stacks, list(suppressions))
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
        by_time=timeline.by_time,
        by_order=timeline.by_order,
        moments=timeline.moments,
        last=timeline.last,
        areas=timeline.areas.ended,
        step=timeline.areas.step,
        grain=timeline.areas.grain,
        left_out=timeline.areas.left_out,
        marks=timeline.marks,
        sites=sites,
        places=places,
        modules=modules,
        singles=timeline.singles,
        compared=compared,
        profile=profile,
        uncertain=sum(replay.uncertain.values()),
        hidden=hidden,
        own=own,
    )


def _stacks(
    found: Sequence[Site], stacks: Stacks, rules: Sequence[Suppression]
) -> tuple[dict[int, tuple[Spot, ...]], dict[int, str], dict[int, int]]:
    # The places of the stacks that are shown; the sites that are not, each with the reason; the
    # wrappers of the others.
    places: dict[int, tuple[Spot, ...]] = {}
    hidden: dict[int, str] = {}
    own: dict[int, int] = {}
    for number, site in enumerate(found):
        if site.stack == NO_STACK:
            continue
        walk = stacks.walk(site.stack)
        frames = own_frames(site.call, walk)
        rule = matching(rules, site.call, site.program, Names(frames)) if frames else None
        if rule is not None:
            hidden[number] = rule.reason
            continue
        places[site.stack] = tuple(walk)
        own[number] = len(walk) - len(frames)
    return places, hidden, own


def _second_half(tell: Callable[[int], None], size: int, done: int) -> None:
    tell((size + done) // 2)


class Timeline(Listener):
    """Keeps what the page draws: `sites`, series over time, and the areas of each address space.

    `calls` is the number of memory calls so far.
    """

    def __init__(self, selection: Selection | None = None) -> None:
        self.selection = selection
        self.ledger = Ledger()  # of the selected calls
        self.sites = SiteCollector()
        self.calls = self.last = 0
        self.calls_of: dict[int, int] = {}
        self.by_time, self.by_order = Bins(1_000), Bins(1)
        self.moments: Sampled[int] = Sampled(MOMENTS)
        self.areas = Areas()
        self.marks: Scattered[Mark] = Scattered(MARKS)
        self.singles: list[OneCall] | None = []
        self._order: dict[tuple[str, int, str], int] = {}

    def call_done(self, done: CallDone) -> None:
        """Count the call, and draw what it changed."""
        if done.is_finished and (self.selection is None or done.is_in(self.selection)):
            self.ledger.count(done.name, done.host_calls, done.result, changes=done.changes)
            self._count(done, self.sites.count(done))
        mm, now = done.thread.mm, max(self.calls - 1, 0)
        if mm.number < 0:
            return
        if done.read_host or not done.is_finished or mm.space is None:
            self.areas.sync_all(mm.number, mm.space, now)
            return
        for change in done.changes:
            self.areas.sync(mm.number, mm.space, change.start, change.end, now)

    def _count(self, done: CallDone, site: Site) -> None:
        process = done.thread.mm.number
        # Sites come in the order of their first calls, here as in `sites`.
        number = self._order.setdefault((site.call, site.stack, site.program), len(self._order))
        call, time, args = self.calls, done.row.time, done.row.args
        self.calls += 1
        self.calls_of[process] = self.calls_of.get(process, 0) + 1
        self.by_time.count(time, done.host_calls, done.is_redundant)
        self.by_order.count(call, done.host_calls, done.is_redundant)
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

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Draw the changes."""
        if mm.number >= 0 and mm.space is not None:
            for change in changes:
                self.areas.sync(mm.number, mm.space, change.start, change.end, self.calls)

    def started(self, mm: Mm) -> None:
        """Draw all areas."""
        self.areas.sync_all(mm.number, mm.space, self.calls)

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Draw all areas."""
        self.areas.sync_all(mm.number, mm.space, self.calls)

    def forked(self, parent: Mm, child: Mm) -> None:
        """Draw the child's areas."""
        self.areas.sync_all(child.number, child.space, self.calls)

    def ended(self, mm: Mm) -> None:
        """The areas end."""
        self.areas.end(mm.number, self.calls)


def pages_of(call: str, args: Sequence[int], result: int) -> tuple[int, int]:
    """The first page and the number of pages that a call is about, as far as its arguments say; 0
    pages for none."""
    if call in _LENGTHLESS or len(args) < 2:
        return 0, 0
    start, length = (args[2], args[3]) if call == "prctl" else (args[0], args[1])
    if call == "mmap" and result > 0:
        start = result
    if start + length > _TOP:
        return 0, 0
    first = start >> PAGE_SHIFT
    return first, (start + length + (1 << PAGE_SHIFT) - 1 >> PAGE_SHIFT) - first
