"""Ranges of counts for Gramine's logs without the sizes of files: the counts with sizes are within
them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from laconic.analysis.advise.figures import measure
from laconic.analysis.compare import Figures, Span, compare, compare_direct
from laconic.analysis.explain import explain
from laconic.analysis.export import analyse_calls
from laconic.analysis.sites import sites
from laconic.analysis.timeline.collect import collect
from laconic.libos.settings import Settings
from laconic.libos.sizes import ASSUMPTIONS, EMPTY, PARTIAL, WHOLE, FileSizes
from laconic.linux.clone import CLONE_VFORK, CLONE_VM
from laconic.linux.pagemap import Touched
from laconic.memory.change import Change
from laconic.memory.flags import MAP_PRIVATE, PAGE_SIZE
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import TOP
from laconic.memory.vma import LOG_DEVICE, File, Vma
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.sizebounds import SizeBounds
from laconic.replay.thread import Mm
from laconic.report.compare import as_json, as_text, direct_as_json
from laconic.sgx.costs import load
from laconic.sgx.meter import THINGS, Counts
from laconic.strategies import maker
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES, Row
from laconic.trace.selection import Selection
from tests.helpers.gramlogs import REAL, take
from tests.helpers.traces import BASE, SIGCHLD, Builder

LIBOS = ["every-call", "skip-equal"]
ALL = [*LIBOS, "classify", "laconic", "sgx-emm", "edmm-tuned", "bound", "every-call:all"]
#: Logs of so many calls or pages that only Gramine's strategies are replayed.
LONG = ("per_page.log.gz", "pipe2.log.gz", "thr.log.gz")


def is_slow(log: Path) -> bool:
    """True for a long log, and for all but one form of a log that exists in many."""
    return log.name in LONG or (log.name.startswith("run.") and "1.9" not in log.name)


LOGS = [
    pytest.param(log, marks=pytest.mark.slow if is_slow(log) else ())
    for log in sorted((*REAL.glob("*.log*"), *REAL.parent.glob("*.log")))
]


def mapped_files(trace: TraceReader) -> dict[str, int]:
    """The paths of mapped files, with the end of their last mapping in the file (bytes)."""
    paths: dict[int, str] = {}
    ends: dict[str, int] = {}
    for row in trace.rows():
        if row.event == CODES["file"]:
            paths[row.file] = row.data.decode()
        elif row.event == CODES["mmap"] and row.file and not paths[row.file].startswith("?"):
            ends[paths[row.file]] = row.a5 + row.a1
    return ends


def write_files(root: Path, ends: dict[str, int], seed: int) -> None:
    """Make files that end at the end of their last mapping, before, within or after it."""
    choose = random.Random(seed)
    root.mkdir()
    for name, end in sorted(ends.items()):
        pages = choose.choice((0, 0, 1, 2, end // PAGE_SIZE))
        size = end - pages * PAGE_SIZE + choose.choice((-1, 0, 0, 1))
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(max(size, 1))


def spans(figures: Figures) -> Iterator[tuple[str, Span]]:
    yield "all", figures.total
    for number, span in figures.programs.items():
        yield f"program {number}", span
    yield from figures.by_call.items()


def escaped(name: str, exact: Figures, ranges: Figures) -> Iterable[str]:
    """The counts and cycles that are outside of their ranges."""
    bounds = dict(spans(ranges))
    for group, span in spans(exact):
        bound = bounds[group]
        for thing in THINGS:
            least, most = getattr(bound.low, thing), getattr(bound.high, thing)
            if not least <= getattr(span.low, thing) <= getattr(span.high, thing) <= most:
                yield f"{name}, {group}: {thing}"
        least, most = bound.cycles
        if not least <= span.cycles[0] <= span.cycles[1] <= most:
            yield f"{name}, {group}: cycles"
    if not ranges.peak[0] <= exact.peak[0] <= exact.peak[1] <= ranges.peak[1]:
        yield f"{name}: peak"


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.name)
def test_counts_with_sizes_are_within_the_ranges_without(log: Path, tmp_path: Path) -> None:
    names = LIBOS if log.name in LONG else ALL
    trace, _ = take(tmp_path, log)
    ranges = compare(trace, names, load(), jobs=1)
    direct = compare_direct(trace, LIBOS, Settings())
    root = tmp_path / "root"
    write_files(root, mapped_files(TraceReader(trace.path)), seed=len(log.name))
    trace, _ = take(tmp_path, log, root)
    exact = compare(trace, names, load(), jobs=1)
    assert not [
        text
        for name in names
        for text in escaped(name, exact.strategies[name], ranges.strategies[name])
    ]
    for figures in (*ranges.strategies.values(), *exact.strategies.values()):
        for span in (figures.total, *figures.programs.values()):
            assert span.low.untouched_pages >= 0
    found = compare_direct(trace, LIBOS, Settings())
    for name in LIBOS:
        for call, calls in found.strategies[name].items():
            least, most = direct.least[name][call], direct.strategies[name][call]
            for thing in ("mmap", "munmap", "mprotect"):
                count = getattr(calls, thing)
                assert getattr(least, thing) <= count <= getattr(most, thing), (name, call)


def test_a_range_is_shown_and_ends_with_the_sizes(tmp_path: Path) -> None:
    log = REAL / "hello.log.gz"
    trace, _ = take(tmp_path, log)
    enclaves = as_json(compare(trace, LIBOS, load(), jobs=1))
    direct = direct_as_json(compare_direct(trace, LIBOS, Settings()))
    for figures in (enclaves, direct):
        assert figures["ranged"]
        entry = figures["strategies"]["every-call"]
        assert entry["counts_low"]["host_calls"] < entry["counts"]["host_calls"]
        assert entry["ratio"]["every_call"] == entry["ratio_low"]["every_call"] == 1
        text = " ".join(as_text(figures).split())
        low, high = entry["counts_low"]["host_calls"], entry["counts"]["host_calls"]
        assert f"every-call {low} – {high}" in text
        assert "Import a Gramine log again with --root DIR" in text
    root = tmp_path / "root"
    write_files(root, mapped_files(TraceReader(trace.path)), seed=1)
    trace, _ = take(tmp_path, log, root)
    enclaves = as_json(compare(trace, LIBOS, load(), jobs=1))
    direct = direct_as_json(compare_direct(trace, LIBOS, Settings()))
    low = enclaves["strategies"]["every-call"]["counts_low"]
    high = enclaves["strategies"]["every-call"]["counts"]
    # Only the touched pages are unknown.
    assert {thing for thing in low if low[thing] != high[thing]} == {"untouched_pages"}
    assert not direct["ranged"] and "counts_low" not in direct["strategies"]["every-call"]


def test_the_costs_of_advise_are_ranges_too(tmp_path: Path) -> None:
    root = tmp_path / "root"
    found = []
    for source in (None, root):
        trace, _ = take(tmp_path, REAL / "vmatest.log.gz", source)
        found.append(measure(partial(TraceReader, trace.path), load()))
        if source is None:
            write_files(root, mapped_files(TraceReader(trace.path)), seed=2)
    ranges, exact = found
    assert (ranges.unsized, exact.unsized) == (True, False)
    for name, cost in exact.costs.items():
        bound = ranges.costs[name]
        for thing in ("host_calls", "cycles", "epc_pages"):
            (least, most), (low, high) = getattr(bound, thing), getattr(cost, thing)
            assert least <= low <= high <= most, (name, thing)
    (least, most), (low, high) = (each.costs["every-call"].host_calls for each in (ranges, exact))
    assert least < low <= high < most


def test_sites_and_calls_have_the_least_counts(tmp_path: Path) -> None:
    """Site by site, call by call and row by row of an export; with sizes, they are the exact
    ones."""
    root = tmp_path / "root"
    found = []
    for source in (None, root):
        trace, _ = take(tmp_path, REAL / "vmatest.log.gz", source)
        reader = TraceReader(trace.path)
        if source is None:
            write_files(root, mapped_files(reader), seed=3)
        exported = analyse_calls(TraceReader(trace.path), load())
        found.append(
            (
                sites(reader),
                explain(TraceReader(trace.path), "mmap:1"),
                [exported.facts(event).cycles for event in range(reader.events)],
                collect(TraceReader(trace.path), load()),
            )
        )
    least, exact = found
    assert [each.knows_sizes for each in (*least[:2], least[3])] == [False] * 3
    assert [each.knows_sizes for each in (*exact[:2], exact[3])] == [True] * 3
    for name in ("every-call", "laconic"):
        low = compare(take(tmp_path, REAL / "vmatest.log.gz")[0], [name], load(), jobs=1)
        total = least[0].total(name)
        assert total.host_calls == low.strategies[name].total.low.host_calls
        assert below(total, exact[0].total(name))
        for one, other in zip(least[0].sites, exact[0].sites, strict=True):
            assert one.first == other.first and below(one.cost(name), other.cost(name))
        for thing, count in least[1].counts[name].items():
            assert count <= exact[1].counts[name].get(thing, 0)
    assert least[0].total("every-call") != exact[0].total("every-call")
    assert sum(map(len, least[2])) >= 40
    for few, many in zip(least[2], exact[2], strict=True):
        assert all(low <= high for low, high in zip(few, many, strict=True))
    page = least[3]
    compared = compare(take(tmp_path, REAL / "vmatest.log.gz")[0], jobs=1).strategies
    assert page.compared is not None
    for name, figures in page.compared.strategies.items():
        assert (figures.cases, figures.peak) == (compared[name].cases, compared[name].peak), name
    # The page's sums over time are those of its sites.
    cells = sum(tally.today_low for tally in page.cells.by_site().values())
    assert cells == pytest.approx(sum(tally.today_low for tally in page.tallies))
    assert cells == pytest.approx(sum(least[0].cycles(site)[0] for site in least[0].sites))


def test_a_selection_keeps_the_least_counts_of_its_calls(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "vmatest.log.gz")
    selection = Selection(calls=("mmap",))
    every, found = sites(trace), sites(trace, selection=selection)
    page = collect(TraceReader(trace.path), load(), selection=selection)
    compared = compare(TraceReader(trace.path), selection=selection, jobs=1).strategies
    assert page.compared is not None
    for name in ("every-call", "laconic"):
        costs = [site.cost(name) for site in every.sites if site.call == "mmap"]
        total = Counts()
        for cost in costs:
            total.add(cost)
        assert found.total(name) == total
        figures = page.compared.strategies[name]
        assert figures.cases == compared[name].cases
        assert figures.total.low == compared[name].total.low
        assert figures.total.low.host_calls == total.host_calls


def test_touches_in_a_log_without_sizes_are_counted_with_their_sites(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "perf")
    file = trace.file("/lib/a.so", inode=0, size=0)
    trace.mapping(4 * PAGE_SIZE, 3, MAP_PRIVATE, file=file)
    touched = ((BASE, BASE + 2 * PAGE_SIZE, 1),)
    trace.row("munmap", BASE, 4 * PAGE_SIZE, touched=touched)
    found = sites(TraceReader(trace.end()))
    assert not found.knows_sizes
    assert {site.call: site.touched_pages for site in found.sites} == {"mmap": 2, "munmap": 0}


class Taken(Listener):
    """Checks after each event that `bounds` has taken all counts; notes if `other` had not."""

    def __init__(self, bounds: SizeBounds, other: SizeBounds) -> None:
        self._bounds, self._other = bounds, other
        self.events: set[str] = set()
        self.late: set[str] = set()

    def _see(self, event: str) -> None:
        self.events.add(event)
        for enclaves in self._bounds.assumed:
            assert not any(meter.tables for meter in enclaves.meters.values()), event
        if any(meter.tables for each in self._other.assumed for meter in each.meters.values()):
            self.late.add(event)

    def call_done(self, done: CallDone) -> None:
        files = [side and side.file for each in done.changes for side in (each.held, each.wanted)]
        self._see("file call" if any(files) else "call")

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        self._see("committed")

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        self._see("touched")

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        self._see("host read")

    def started(self, mm: Mm) -> None:
        self._see("started")

    def forked(self, parent: Mm, child: Mm) -> None:
        self._see("forked")

    def vforked(self, mm: Mm, pid: int) -> None:
        self._see("vforked")

    def file_written(self, mm: Mm, file: File, size: int, truncated: bool) -> None:
        self._see("written")

    def ended(self, mm: Mm) -> None:
        self._see("ended")


def bounded(every_call: bool) -> SizeBounds:
    makers = {name: maker(name) for name in (*LIBOS, "laconic")}
    assumed = [Enclaves(makers, assumed_sizes=size) for size in ASSUMPTIONS]
    return SizeBounds(assumed, every_call=every_call)


def of_call(done: CallDone) -> tuple[str, int]:
    return done.name, done.number


def check_bounds(trace: TraceReader) -> Taken:
    """The bounds are the sums of each call's minima and maxima over the assumptions."""
    makers = {name: maker(name) for name in (*LIBOS, "laconic")}
    single = [Enclaves(makers, label=of_call, assumed_sizes=size) for size in ASSUMPTIONS]
    rarely, always = bounded(False), bounded(True)
    taken = Taken(always, rarely)
    listeners = [*single, *rarely.assumed, *always.assumed, rarely, always, taken]
    Replay(trace, "laconic", listeners=listeners).run()
    for bounds in (rarely, always):
        bounds.finish()
        for name in makers:
            tables = [enclaves.meters[name].tables for enclaves in single]
            for bound, choice in ((bounds.least, min), (bounds.most, max)):
                meter = bound.meters[name]
                sums: dict[tuple[int, str], Counts] = {}
                for process, label in dict.fromkeys(key for table in tables for key in table):
                    if type(label) is tuple:  # not a FileTouch
                        found = [table.get((process, label), Counts()) for table in tables]
                        total = sums.setdefault((process, label[0]), Counts())
                        for thing in THINGS:
                            count = choice(getattr(each, thing) for each in found)
                            setattr(total, thing, getattr(total, thing) + count)
                assert sums
                for key, total in sums.items():
                    assert meter.tables.get(key, Counts()) == total, (name, key)
                peaks = [enclaves.meters[name].peak_epc_pages for enclaves in single]
                assert meter.peak_epc_pages == choice(peaks) > 0
    return taken


@pytest.mark.parametrize("name", ["vmatest", "pyjson", "busybox"])
def test_bounds_are_sums_over_calls(name: str, tmp_path: Path) -> None:
    taken = check_bounds(take(tmp_path, REAL / f"{name}.log.gz")[0])
    assert taken.events >= {"started", "call", "file call", "ended"}
    assert "call" in taken.late and not taken.late & {"started", "file call", "forked", "ended"}


def test_bounds_are_taken_after_every_kind_of_event(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "perf")
    large, small = (trace.file(path, inode=0, size=0) for path in ("/lib/a.so", "/lib/b.so"))
    anonymous, other = BASE + (1 << 24), BASE + (2 << 24)
    for start, pages, file in ((BASE, 4, large), (other, 1, small)):
        trace.mapping(pages * PAGE_SIZE, 3, MAP_PRIVATE, result=start, file=file)
    trace.mapping(PAGE_SIZE, result=anonymous)
    touched = ((other, other + PAGE_SIZE, 1), (BASE, BASE + 2 * PAGE_SIZE, 1))
    trace.row("mprotect", BASE, 4 * PAGE_SIZE, 1, touched=touched)
    trace.row("begin", anonymous, PAGE_SIZE, call_code=CODES["mlock"], state=1)
    trace.row("mlock", anonymous, PAGE_SIZE)
    trace.row("clone", SIGCHLD, result=200)
    trace.row("clone", CLONE_VM | CLONE_VFORK | SIGCHLD, result=300)
    trace.row("exit", 0, pid=300)
    trace.row("written", 2 * PAGE_SIZE, 1, file=large)
    trace.row("munmap", BASE, 4 * PAGE_SIZE)
    trace.row("munmap", other, PAGE_SIZE)
    taken = check_bounds(TraceReader(trace.end()))
    on_time = {"started", "file call", "forked", "vforked", "written", "ended"}
    assert taken.events == {*on_time, "call", "committed", "touched"}
    assert taken.late == {"call", "committed", "touched"}


def below(least: Counts, exact: Counts) -> bool:
    """Whether no count is over the exact one."""
    return all(getattr(least, thing) <= getattr(exact, thing) for thing in THINGS)


@pytest.mark.parametrize(
    ("assumed", "pages", "contents"),
    [(WHOLE, None, None), (EMPTY, 0, 0), (PARTIAL, 3, 3 * PAGE_SIZE - 1)],
)
def test_the_assumed_size_of_a_file(assumed: int, pages: int | None, contents: int | None) -> None:
    """Of a file that is first mapped with four pages. A truncation makes its size known."""
    sizes = FileSizes(assumed)
    file = File(*LOG_DEVICE, -1, "/a")
    sizes.note(OpenFile(file, readable=True, writable=False), 4 * PAGE_SIZE)
    vma = Vma(1, file, BASE)
    assert sizes.is_assumed(file)
    if pages is None or contents is None:
        assert sizes.valid_end(vma) == sizes.known_end(vma) > BASE + 4 * PAGE_SIZE
        assert sizes.assumed_end(BASE, BASE + 4 * PAGE_SIZE) == TOP
    else:
        assert sizes.valid_end(vma) == sizes.known_end(vma) == BASE + pages * PAGE_SIZE
        assert sizes.assumed_end(BASE, BASE + 4 * PAGE_SIZE) == BASE + contents
    twin = sizes.copy()
    twin.write(file, 2 * PAGE_SIZE, truncated=True)
    assert not twin.is_assumed(file) and sizes.is_assumed(file)
    assert twin.known_end(vma) == BASE + 2 * PAGE_SIZE
