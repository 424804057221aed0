"""Comparing strategies: sums, ranges, the bound, and the same figures from one process or
several."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import laconic.analysis.compare
import laconic.linux.pagemap
import laconic.report.ablation
from laconic.analysis.ablation import ablate
from laconic.analysis.compare import (
    BOUND,
    Compared,
    Figures,
    Span,
    _figures,
    _MeterBook,
    compare,
    compare_host_calls,
)
from laconic.errors import LaconicError
from laconic.memory.change import EXTEND, MAP, UNMAP
from laconic.memory.flags import PAGE_SIZE
from laconic.replay import STRATEGIES, replay_trace
from laconic.report.compare import as_json, as_text, hosts_as_json
from laconic.sgx.costs import load
from laconic.sgx.meter import THINGS, Counts
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CHOSEN
from tests.helpers.comparetraces import ALL, ANON, NORESERVE, PAGES, RW, begun, busy
from tests.helpers.traces import BASE, Builder, small


def reservation(path: Path, length: int) -> str:
    """A program that reserves so many bytes, opens and touches a page of them, and ends."""
    trace = begun(path)
    trace.row(
        "mmap",
        0,
        length,
        0,
        ANON | NORESERVE,
        -1,
        0,
        result=BASE,
        state=CHOSEN,
        host_calls=1,
        kinds=int(MAP),
    )
    trace.row("mprotect", BASE, PAGE_SIZE, RW, host_calls=1, kinds=int(EXTEND))
    trace.row("exit", 0, touched=((BASE, BASE + PAGE_SIZE, 0),))
    return trace.end()


def compared(path: str, **options: Any) -> Compared:
    """All strategies, by the default costs."""
    return compare(TraceReader(path), ALL, load(), **options)


def added(each: list[Counts]) -> Counts:
    """The sum of counts."""
    total = Counts()
    for counts in each:
        total.add(counts)
    return total


def test_the_counts_of_one_mapping_under_each_strategy(tmp_path: Path) -> None:
    """As their pages say: every-call accepts all pages and protects all of them each time, laconic
    only the touched."""
    found = compared(busy(tmp_path / "a.trace").end()).strategies
    totals = {name: each.total.high for name, each in found.items()}
    assert totals["every-call"].eaug_faults >= PAGES and totals["classify"].eaug_faults >= PAGES
    assert totals["skip-equal"].host_calls < totals["every-call"].host_calls
    assert totals["classify"].etrack_ipis < totals["skip-equal"].etrack_ipis
    assert totals["laconic"].etrack_ipis <= totals["classify"].etrack_ipis
    assert found["every-call"].peak[0] >= PAGES > 2
    costs = [found[name].total.cycles for name in ALL]
    assert all(low <= high for low, high in costs)
    for other in ALL[:-1]:
        assert found[BOUND].total.cycles[0] <= found[other].total.cycles[0]
        assert found[BOUND].total.cycles[1] <= found[other].total.cycles[1]


def test_by_program_and_by_call_add_up(tmp_path: Path) -> None:
    trace = busy(tmp_path / "a.trace")
    trace.row(
        "mmap", 0, 8192, RW, ANON, -1, 0, result=BASE, state=CHOSEN, host_calls=1, kinds=int(MAP)
    )
    trace.row("clone", 17, result=102, touched=((BASE, BASE + PAGE_SIZE, 0),))
    trace.row("munmap", BASE, 8192, pid=102, host_calls=1, kinds=int(UNMAP))
    trace.row("exit", 0, pid=102)
    trace.row("exit", 0)
    result = compared(trace.end())
    assert [program.pid for program in result.programs] == [100, 102] and result.processes == 2
    for name, each in result.strategies.items():
        for end in ("low", "high") if name != BOUND else ():
            total = getattr(each.total, end)
            assert added([getattr(span, end) for span in each.programs.values()]) == total
            assert added([getattr(span, end) for span in each.by_call.values()]) == total
        if name != BOUND:
            assert each.total.low == each.total.high
        for place in (0, 1):
            parts = [span.cycles[place] for span in each.by_call.values()]
            assert sum(parts) == pytest.approx(each.total.cycles[place])
    assert {"mmap", "mprotect", "munmap", "fork"} <= result.strategies["every-call"].by_call.keys()


def test_json_has_every_thing(tmp_path: Path) -> None:
    figures = as_json(compared(busy(tmp_path / "a.trace").end()), 4)
    assert list(figures["strategies"]) == list(ALL)
    for name, each in figures["strategies"].items():
        assert each["counts"].keys() == {*THINGS, "peak_epc_pages", "epc_pages"}
        assert each["cycles"].keys() == {"low", "high"}
        assert each["ratio"].keys() == each["ratio_low"].keys() == {"every_call", "bound"}
        assert each["ratio_low"]["bound"] >= 1
        if name != BOUND:
            assert "counts_low" not in each
    assert figures["strategies"]["every-call"]["ratio"] == {
        "every_call": 1.0,
        "bound": figures["strategies"]["every-call"]["ratio"]["bound"],
    }
    assert figures["strategies"][BOUND]["ratio"]["bound"] == 1.0
    assert figures["profile"]["name"] == "published" and "ioctls" in figures["profile"]["no_source"]
    assert figures["epc"]["pages"] == 4 and "every-call" in figures["epc"]["overflows"]
    assert [each["path"] for each in figures["programs"]] == ["/bin/prog"]
    assert figures["ranged"] is False and json.loads(json.dumps(figures)) == figures


@pytest.mark.parametrize(("source", "jobs"), [("run", 2), ("strace", 5)])
def test_several_processes_come_to_the_same(
    source: str, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And say how far they are, never more than there is."""
    path = busy(tmp_path / "a.trace", 20, source=source).end()
    alone = compared(path, jobs=1)
    monkeypatch.setattr(laconic.analysis.compare, "LONG", 10)
    places: list[int] = []
    trace = TraceReader(path)
    assert compare(trace, ALL, load(), jobs=jobs, progress=places.append) == alone
    assert places == sorted(places) and all(0 <= place <= trace.size for place in places)
    assert pickle.loads(pickle.dumps(alone)) == alone


def test_an_error_in_a_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = TraceReader(busy(tmp_path / "a.trace", 20).end())
    monkeypatch.setattr(laconic.analysis.compare, "LONG", 10)
    trace.path = str(tmp_path / "gone")
    monkeypatch.setattr(laconic.analysis.compare, "_is_long", lambda trace: True)
    with pytest.raises(LaconicError, match="gone' cannot be read"):
        compare(trace, ALL, load(), jobs=2)


class TestRanges:
    """What a log leaves open."""

    def test_no_page_touched_to_every_page_touched(self, tmp_path: Path) -> None:
        result = compared(busy(tmp_path / "a.trace", source="strace").end())
        assert result.ranged
        for each in result.strategies.values():
            assert all(
                getattr(each.total.low, thing) <= getattr(each.total.high, thing)
                for thing in THINGS
            )
            assert each.total.cycles[0] < each.total.cycles[1] and each.peak[0] <= each.peak[1]
        floor = result.strategies[BOUND].total
        assert (floor.low.eaug_faults, floor.high.eaug_faults) == (2, PAGES)
        assert result.strategies["laconic"].total.high.eaug_faults >= PAGES

    def test_it_is_said_why(self, tmp_path: Path) -> None:
        figures = as_json(compared(busy(tmp_path / "a.trace", source="strace").end()))
        assert "counts_low" in figures["strategies"]["laconic"]
        text = " ".join(as_text(figures).split())
        assert "does not say which pages were touched" in text
        assert any("touched" in note for note in figures["notes"])

    def test_a_ratio_is_of_the_same_replay(self, tmp_path: Path) -> None:
        """Its ends are those of whole comparisons: what is never above the base is never shown
        so."""
        result = compared(busy(tmp_path / "a.trace", source="strace").end()).strategies
        for name in STRATEGIES:
            ratio = result[name].ratio(result[name])
            assert ratio == (1.0, 1.0)

    def test_a_ratio_is_from_the_least_to_the_most(self) -> None:
        """Of two replays: no page touched, every page touched."""
        span = Span(Counts(), Counts(), (0, 0))

        def figures(*cases: tuple[float, float]) -> Figures:
            return Figures(span, {}, {}, list(cases), (0, 0), (0, 0))

        base = figures((10, 10), (10, 10))
        assert figures((40, 50), (10, 90)).ratio(base) == (1.0, 9.0)
        assert figures((30, 40), (20, 20)).ratio(base) == (2.0, 4.0)
        assert figures((30, 40), (20, 20)).ratio(figures((10, 0), (10, 10))) is None

    def test_the_ends_of_the_bound_are_two_books(self) -> None:
        """One is made for low costs and one for high costs: each end is that of its own."""
        books = [
            _MeterBook({(0, "mmap"): Counts(host_calls=calls)}, peak, left)
            for calls, peak, left in ((3, 9, 4), (5, 7, 6), (2, 8, 5), (4, 6, 3))
        ]
        profile = load()
        found = _figures([(books[0], books[1]), (books[2], books[3])], profile)
        costs = [profile.cycles(book.total()) for book in books]
        assert found.cases == [(costs[0][0], costs[1][1]), (costs[2][0], costs[3][1])]
        assert found.total.cycles == (costs[2][0], costs[1][1])
        assert (found.total.low.host_calls, found.total.high.host_calls) == (2, 5)
        assert (found.peak, found.left) == ((6, 9), (3, 6))

    def test_nothing_to_divide_by(self, tmp_path: Path) -> None:
        path = Builder(tmp_path / "a.trace").end()
        figures = as_json(compared(path))
        assert figures["strategies"]["laconic"]["ratio"] == {"every_call": None, "bound": None}
        assert "–" in as_text(figures)


def test_a_trace_that_is_cut_counts_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laconic.analysis.compare, "LONG", 5_000)
    whole = busy(tmp_path / "a.trace", 6_000).end()
    cut = tmp_path / "b.trace"
    content = Path(whole).read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    trace = TraceReader(str(cut))
    result = compare(trace, ["laconic", "classify"], load(), jobs=1)
    assert trace.loss is not None and "damaged or cut short" in trace.loss
    assert 0 < result.calls < 30_000
    assert result.strategies["classify"].total.high.host_calls > 0
    parallel = TraceReader(str(cut))
    assert compare(parallel, ["laconic", "classify"], load(), jobs=2) == result
    assert parallel.loss == trace.loss


def test_pages_that_nobody_could_look_at_are_told(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    trace.row(
        "mmap", 0, 8192, RW, ANON, -1, 0, result=BASE, state=CHOSEN, host_calls=1, kinds=int(MAP)
    )
    trace.row("exit", 0, touched=((BASE, BASE + 8192, laconic.linux.pagemap.UNSEEN),))
    figures = as_json(compared(trace.end()))
    assert figures["notes"] == ["2 pages could not be looked at, and count as untouched"]


def test_a_program_that_cannot_start_is_reported(tmp_path: Path) -> None:
    """8 TiB that are committed at once; with MAP_NORESERVE they are not, or not for certain."""
    length = 8 << 40
    lines = {}
    for name, flags, source in (
        ("reserved", ANON, "run"),
        ("lazy", ANON | NORESERVE, "run"),
        ("log", ANON | NORESERVE, "strace"),
    ):
        trace = begun(tmp_path / name, source=source)
        start = BASE - 2 * length
        trace.row("mmap", 0, length, RW, flags, -1, 0, result=start, state=CHOSEN)
        trace.row("exit", 0)
        lines[name] = as_json(compared(trace.end()))["notes"]
    (note,) = lines["reserved"]
    assert note.startswith(
        "a program cannot start, or cannot run to its end, under every-call (8.0 TiB), "
        "skip-equal (8.0 TiB), classify (8.0 TiB): no machine has so much EPC"
    )
    assert lines["lazy"] == []
    assert not any("cannot start" in note for note in lines["log"])
    found = ablate([TraceReader(str(tmp_path / "reserved"))])
    notes = laconic.report.ablation.as_json(found)["notes"]
    assert any("under every-call (8.0 TiB): no machine" in note for note in notes)


def test_epc_pages_at_the_end_are_those_before_the_enclaves_end(tmp_path: Path) -> None:
    """A recording that was cut has processes that still run; one that was not has none."""
    trace = begun(tmp_path / "a.trace")
    trace.row(
        "mmap", 0, 8192, RW, ANON, -1, 0, result=BASE, state=CHOSEN, host_calls=1, kinds=int(MAP)
    )
    running = compared(trace.cut()).strategies["classify"]
    assert running.left[0] == running.peak[0] >= 2
    assert compared(reservation(tmp_path / "b.trace", 4096)).strategies["classify"].left == (0, 0)


def test_an_unknown_strategy_names_the_choices(tmp_path: Path) -> None:
    path = small(tmp_path / "a.trace")
    for run in (
        lambda: compare(path, ["mute"], load()),
        lambda: compare_host_calls(TraceReader(path), ["mute"]),
    ):
        with pytest.raises(
            LaconicError, match=r"'mute'.*every-call, skip-equal, classify, laconic"
        ):
            run()


def best(work: Callable[[], Any]) -> float:
    """Seconds of the quickest of five."""
    times = []
    for _ in range(5):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("name", ALL)
def test_a_reservation_of_64_gib_costs_no_more_than_a_small_one(name: str, tmp_path: Path) -> None:
    """Java and node make them: PROT_NONE and NORESERVE, a page of it used."""
    large, tiny = (
        reservation(tmp_path / "a.trace", 64 << 30),
        reservation(tmp_path / "b.trace", 1 << 16),
    )
    assert (
        best(lambda: compare(large, [name], load()))
        < 3 * best(lambda: compare(tiny, [name], load())) + 0.01
    )
    peaks = [compare(path, [name], load()).strategies[name].peak for path in (large, tiny)]
    # The first three commit all of it; edmm-tuned's reservation takes the addresses of all the
    # pre-heated pages, so that the page that is used is another.
    assert peaks[0] == peaks[1] or name in ("every-call", "skip-equal", "classify", "edmm-tuned")
    if name == "edmm-tuned":
        assert peaks[0][1] - peaks[1][1] == 8, "a window"


@pytest.mark.slow
def test_a_million_calls_compare_in_under_five_plain_replays(tmp_path: Path) -> None:
    """Wall time, the best of two each, where four CPUs have nothing else to do."""
    cpus = len(os.sched_getaffinity(0))
    if cpus < 4 or os.getloadavg()[0] > cpus / 2:
        pytest.skip("this machine is busy, or has fewer than four CPUs")
    path = busy(tmp_path / "a.trace", 200_000).end()
    times = []
    for work in (lambda: replay_trace(TraceReader(path)), lambda: compared(path)):
        took = []
        for _ in range(2):
            began = time.monotonic()
            work()
            took.append(time.monotonic() - began)
        times.append(min(took))
    assert times[1] < 5 * times[0], times


class TestLinux:
    """What Linux would hear."""

    def test_skip_equal_leaves_out_equal_mprotects_and_nothing_else(self, tmp_path: Path) -> None:
        path = busy(tmp_path / "a.trace", 3).end()
        found = compare_host_calls(TraceReader(path), STRATEGIES).strategies
        output = {name: each.ledger.host_calls for name, each in found.items()}
        assert output == {"every-call": 15, "skip-equal": 12, "classify": 12, "laconic": 12}
        for name in STRATEGIES:
            ledger = replay_trace(TraceReader(path), name).ledger
            assert (ledger.host_calls, ledger.elided) == (output[name], found[name].ledger.elided)
            assert ledger.calls == 15

    def test_others_than_mprotect_are_said(self, tmp_path: Path) -> None:
        trace = begun(tmp_path / "a.trace")
        trace.row("munmap", BASE, PAGE_SIZE)
        trace.row("mprotect", BASE, PAGE_SIZE, RW, result=-12)
        ledgers = {
            name: each.ledger
            for name, each in compare_host_calls(
                TraceReader(trace.end()), STRATEGIES
            ).strategies.items()
        }
        assert (
            ledgers["skip-equal"].by_call["munmap"].host_calls
            == ledgers["every-call"].by_call["munmap"].host_calls
            == 1
        )
        assert ledgers["laconic"].host_calls == 0

    def test_json_and_text(self, tmp_path: Path) -> None:
        figures = hosts_as_json(
            compare_host_calls(
                TraceReader(small(tmp_path / "a.trace", source="strace")), STRATEGIES
            ).strategies
        )
        assert figures["strategies"]["classify"] == figures["strategies"]["laconic"]
        assert "counts_low" in figures["strategies"]["laconic"]
        assert "counts_low" not in figures["strategies"]["every-call"]
        for name, each in figures["strategies"].items():
            assert each["counts"]["host_calls"] == sum(
                line[name]["counts"]["host_calls"] for line in figures["by_call"].values()
            )
        text = as_text(figures, 80, "call")
        assert "classify says what laconic says" in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 80


class TestText:
    """80 columns, every number whole."""

    @pytest.mark.parametrize("factor", [1, 10**6, 10**12])
    @pytest.mark.parametrize("ranged", [False, True])
    @pytest.mark.parametrize("by", [None, "program", "call"])
    def test_numbers_are_never_cut(
        self, factor: int, ranged: bool, by: str | None, tmp_path: Path
    ) -> None:
        figures = as_json(compared(busy(tmp_path / "a.trace").end()), 2)
        figures["programs"][0]["path"] = "/opt/a/program/with/a/long/" + "name" * 20
        parts = [
            figures["programs"][0]["strategies"],
            *figures["by_call"].values(),
            figures["strategies"],
        ]
        for each in [each for part in parts for each in part.values()]:
            each["counts"] = {name: (count + 1) * factor for name, count in each["counts"].items()}
            each["cycles"] = {end: cycles * factor for end, cycles in each["cycles"].items()}
            each.pop("counts_low", None)
            if ranged:
                each["counts_low"] = {
                    name: count // 2 + 1 for name, count in each["counts"].items()
                }
        text = as_text(figures, 80, by)
        assert text == as_text(figures, 80, by) and "…" not in text and "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        for each in figures["strategies"].values():
            counts = each["counts"]
            for number in (
                counts["host_calls"],
                counts["eaccept"] + counts["eacceptcopy"],
                each["cycles"]["low"],
            ):
                assert f" {number:,}" in text

    def test_the_epc_is_compared_with_the_peak(self, tmp_path: Path) -> None:
        result = compared(busy(tmp_path / "a.trace").end())
        peak = result.strategies["every-call"].peak[1]
        assert f"overflow under every-call ({peak:,})" in " ".join(
            as_text(as_json(result, 3)).split()
        )
        most = max(figures.peak[1] for figures in result.strategies.values())
        assert "holds the peak of every strategy" in as_text(as_json(result, most))
        assert as_json(result, most)["epc"]["overflows"] == []
        assert "every-call" not in as_json(result, peak)["epc"]["overflows"]

    def test_many_processes_are_cut_to_the_dearest(self, tmp_path: Path) -> None:
        figures = as_json(compared(busy(tmp_path / "a.trace").end()))
        figures["programs"] *= 30
        assert "and 10 more (--json has all)" in as_text(figures, 80, "program")
