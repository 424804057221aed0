"""One replay of a trace, for a page: sites, series, the address spaces over time, and the strategies compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from laconic.callers import Names, own_frames
from laconic.ledger import Ledger
from laconic.memory.flags import PAGE_SHIFT
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.page.areas import Area, Areas
from laconic.page.series import Bins, Sampled, Scattered
from laconic.pal.sgx.costs import CostProfile
from laconic.pal.sgx.meter import Counts
from laconic.rangemap import RangeMap
from laconic.replay.compare import BOUND, Compared, compare
from laconic.replay.enclaves import Process
from laconic.replay.thread import Mm
from laconic.sites import EVERY_CALL, LACONIC, Site, SiteReplay
from laconic.strategies import NAMES
from laconic.suppressions import Suppression, matching
from laconic.trace.reader import Trace
from laconic.trace.records import ARITY
from laconic.trace.schema import PlainRow
from laconic.trace.sites import NO_STACK, Spot, Stacks

#: Calls that are kept one by one: a trace of more is shown by its sites.
CALLS = 1_000
#: Redundant calls that are marked in the map, and moments of which the time is kept.
MARKS, MOMENTS = 20_000, 2_048
_LENGTHLESS = frozenset({"brk", "shmat", "shmdt", "mlockall", "munlockall", "arch_prctl", "io_setup", "io_destroy",
                         "userfaultfd", "other", "i386_brk", "process_madvise"})  # fmt: skip
_TOP = 1 << 64


class Mark(NamedTuple):
    """A redundant call: whose, its number among all memory calls, the pages that it was about, and its site."""

    process: int
    call: int
    start: int
    pages: int
    site: int


class OneCall(NamedTuple):
    """One memory call. `event` is the number of its row, `time` in nanoseconds, `result` may be a negative errno."""

    event: int
    time: int
    process: int
    call: str
    args: tuple[int, ...]
    result: int
    said: int
    site: int


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page shows. Processes and sites are numbered as they stand in their lists; `calls` has the memory
    calls of each process. `places` are the stacks in words, innermost first, True for what was guessed; `modules` says
    why a module's symbols could not be used. `singles` is None where there are more than `CALLS` calls. `hidden`: of
    each site that is suppressed the reason; it is in all figures, and its stack is not in `places`. `own`: of each
    other site with how many places its stack only makes the system call."""

    source: str
    about: dict[str, Any]
    machine: dict[str, Any]
    events: int
    ledger: Ledger
    end: dict[str, Any]
    loss: list[str]
    processes: list[Process]
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
) -> Page:
    """Reads a trace to its end, once for its sites and pictures, and for the strategies as `compare` does.

    Symbols are looked for at the places that the trace names, of a suppressed stack no more than its rule needs; `jobs`
    is as in `compare`. Raises LaconicError where it cannot be read. O(events × strategies); memory O(sites + VMAs).
    """
    tell = progress or (lambda done: None)
    replay = PageReplay(trace)
    replay.run(progress=lambda done: tell(done // 2))
    compared = None
    if replay.calls:
        tail = partial(_second_half, tell, trace.size)
        compared = compare(trace, [*NAMES, BOUND], profile, progress=tail, jobs=jobs)
    found = list(replay.sites.values())
    places, hidden, own = _stacks(found, replay.stacks, list(suppressions))
    modules = sorted((module.path, why) for module, why in replay.stacks.symbolizer.missing.items())
    counts = [replay.calls_of.get(number, 0) for number in range(len(replay.told))]
    return Page(
        trace.source, trace.about, trace.machine, replay.number + 1, replay.ledger, replay.end, replay.losses,
        replay.told, counts, replay.by_time, replay.by_order, replay.moments, replay.last,
        replay.areas.ended, replay.areas.step, replay.areas.grain, replay.areas.left_out, replay.marks, found, places,
        modules, replay.singles, compared, profile, sum(replay.uncertain.values()), hidden, own,
    )  # fmt: skip


def _stacks(
    found: Sequence[Site], stacks: Stacks, rules: Sequence[Suppression]
) -> tuple[dict[int, tuple[Spot, ...]], dict[int, str], dict[int, int]]:
    # The places of the stacks that are shown; the sites that are not, each with the reason; the wrappers of the others.
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


class PageReplay(SiteReplay):
    """A replay that keeps what the page draws. `calls` is the number of memory calls so far."""

    def __init__(self, trace: Trace, stacks: Stacks | None = None) -> None:
        super().__init__(trace, (EVERY_CALL, LACONIC), stacks, lambda _, row, site: self._entered(row, site))
        self.calls = self.last = 0
        self.calls_of: dict[int, int] = {}
        self.by_time, self.by_order = Bins(1_000), Bins(1)
        self.moments: Sampled[int] = Sampled(MOMENTS)
        self.areas = Areas()
        self.marks: Scattered[Mark] = Scattered(MARKS)
        self.singles: list[OneCall] | None = []
        self._labels: dict[tuple[str, int, str], str] = {}
        self._order: dict[tuple[str, int, str], int] = {}

    def run(
        self, until: Callable[[int, int], bool] | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """As `Replay.run`; then every area has ended and every site has its enclaves' counts."""
        super().run(until, progress)
        self.areas.end_all(max(self.calls, 1))
        keys = {label: key for key, label in self._labels.items()}
        for name, meter in self.meters.items():
            for (_, label), counts in meter.tables.items():
                site = self.sites.get(keys[label]) if label in keys else None
                if site is not None:
                    site.counts.setdefault(name, Counts()).add(counts)

    def _label(self, row: PlainRow) -> str:
        # No call's name, and none of the other work's, begins so.
        key = self._key(row)
        label = self._labels.get(key)
        if label is None:
            label = self._labels[key] = f"#{len(self._labels)}"
        return label

    # Calls

    def _call(self, row: PlainRow) -> None:
        thread = self.threads.get(row[3])
        looked = thread is None or bool(thread.map_runs)
        super()._call(row)
        mm = self.threads[row[3]].mm
        if mm.enclave is None:
            return
        now = max(self.calls - 1, 0)
        if looked or self.said < 0 or mm.space is None:
            self.areas.sync_all(mm.enclave.number, mm.space, now)
            return
        for change in self.changes:
            self.areas.sync(mm.enclave.number, mm.space, change.start, change.end, now)

    def _entered(self, row: PlainRow, site: Site) -> None:
        enclave = self.threads[row[3]].mm.enclave
        process = -1 if enclave is None else enclave.number
        # Sites come in the order of their first calls, here as in `sites`.
        number = self._order.setdefault((site.call, site.stack, site.program), len(self._order))
        call, time = self.calls, row[1]
        self.calls += 1
        self.calls_of[process] = self.calls_of.get(process, 0) + 1
        self.by_time.count(time, self.said, self.redundant)
        self.by_order.count(call, self.said, self.redundant)
        self.moments.see(time)
        self.last = time
        if self.redundant and process >= 0:
            start, pages = pages_of(site.call, row[4:10], self.answer)
            self.marks.see(Mark(process, call, start, pages, number))
        if self.singles is not None:
            arguments = row[4 : 4 + ARITY.get(site.call, 6)]
            self.singles.append(
                OneCall(self.number, time, process, site.call, arguments, self.answer, self.said, number)
            )
            if len(self.singles) > CALLS:
                self.singles = None

    def _begin(self, row: PlainRow) -> None:
        super()._begin(row)
        mm = self._thread(row).mm
        if mm.enclave is not None and row[11]:
            for change in self.changes:
                self.areas.sync(mm.enclave.number, mm.space, change.start, change.end, self.calls)

    # Address spaces

    def _started(self, mm: Mm, space: AddressSpace) -> None:
        super()._started(mm, space)
        assert mm.enclave is not None
        self.areas.sync_all(mm.enclave.number, space, self.calls)

    def _looked(self, mm: Mm, space: AddressSpace, host: RangeMap[Vma], use: int) -> None:
        super()._looked(mm, space, host, use)
        if mm.enclave is not None:
            self.areas.sync_all(mm.enclave.number, space, self.calls)

    def _clone(self, row: PlainRow) -> None:
        before = len(self.told)
        super()._clone(row)
        child = self.threads.get(row[10])
        if child is not None and child.mm.enclave is not None and child.mm.enclave.number >= before:
            self.areas.sync_all(child.mm.enclave.number, child.mm.space, self.calls)

    def _ended(self, mm: Mm) -> None:
        if mm.enclave is not None:
            self.areas.end(mm.enclave.number, self.calls)
        super()._ended(mm)


def pages_of(call: str, args: Sequence[int], result: int) -> tuple[int, int]:
    """The first page and the number of pages that a call is about, as far as its arguments say; 0 pages for none."""
    if call in _LENGTHLESS or len(args) < 2:
        return 0, 0
    start, length = (args[2], args[3]) if call == "prctl" else (args[0], args[1])
    if call == "mmap" and result > 0:
        start = result
    if start + length > _TOP:
        return 0, 0
    first = start >> PAGE_SHIFT
    return first, (start + length + (1 << PAGE_SHIFT) - 1 >> PAGE_SHIFT) - first
