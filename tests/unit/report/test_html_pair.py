"""`laconic html A B`: what the page of two traces holds, and that each figure is that of the
traces."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from laconic.analysis.baseline import Key
from laconic.analysis.callers import AROUND, SITE, SUPPRESSED
from laconic.analysis.pair import Box, Pair, pair
from laconic.analysis.suppressions import Suppression
from laconic.analysis.timeline.collect import collect
from laconic.commands import main
from laconic.memory.change import MAP, RESTRICT
from laconic.report.html import as_html, as_json
from laconic.report.text import plain
from laconic.sgx import costs
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CHOSEN
from laconic.trace.selection import Selection
from tests.helpers.pagetraces import HOSTILE, Stacked, hostile
from tests.helpers.sitetraces import sited
from tests.helpers.traces import BASE, Builder

PAGE = 4096
BEFORE = {"grow": (60, 3), "trim": (2, 5), "rest": (1, 1)}
AFTER = {"grow": (20, 3), "trim": (9, 5), "rest": (1, 1), "fresh": (0, 2)}


def paired(before: str, after: str, rules: list[Suppression] | None = None) -> Pair:
    """Two traces side by side."""
    return pair(TraceReader(before), TraceReader(after), costs.load(), rules or [])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two runs: of `grow` there are fewer calls, of `trim` more, and `fresh` is new."""
    at = tmp_path_factory.mktemp("pair")
    return paired(sited(at / "before.trace", BEFORE), sited(at / "after.trace", AFTER))


def shown(page: bytes) -> str:
    """The text of a page without its script and data, in plain spaces."""
    body = page.decode().partition("<body")[2].partition('<script type="application/json"')[0]
    text = html.unescape(re.sub(r"<[^>]+>", " ", body))
    return " ".join(text.replace("\u00a0", " ").replace("\u2060", "").split())


def leaves(box: Box) -> list[Box]:
    """The boxes without boxes."""
    return [leaf for each in box.boxes.values() for leaf in leaves(each)] or [box]


class TestPair:
    """The data: sites are matched, costs add up."""

    def test_rows_are_sorted_by_their_change(self, both: Pair) -> None:
        names = [row.today.key.function for row in both.rows if row.today.kind == SITE]
        assert names == ["grow", "trim", "fresh", "setup", "rest"]
        assert [row.today.calls for row in both.rows if row.today.kind == SITE] == [-40, 7, 2, 0, 0]

    @pytest.mark.parametrize("after", [False, True])
    def test_all_rows_add_up_to_the_total(self, both: Pair, after: bool) -> None:
        side = both.sides[after]
        for low_or_high in (0, 1):
            cycles = 0
            for row in both.rows:
                tally = row.today.now if after else row.today.was
                cycles += (tally.cycles_low, tally.cycles)[low_or_high]
            total = side.compared.strategies["every-call"].total if side.compared else None
            assert total is not None
            ends = both.profile.cycles(total.low)
            assert cycles == pytest.approx(ends[low_or_high], abs=len(both.rows))

    def test_the_graph_has_the_cost_of_all_calls(self, both: Pair) -> None:
        calls = [row.today for row in both.rows if row.today.kind != AROUND]
        middle = sum(delta.was.cycles_low + delta.was.cycles for delta in calls) / 2
        assert both.graph.before == pytest.approx(middle, abs=len(calls))
        assert both.graph.width == sum(max(leaf.before, leaf.after) for leaf in leaves(both.graph))
        (program,) = both.graph.boxes.values()
        assert (program.name, [box.name for box in program.boxes.values()]) == ("prog", ["main"])
        (main_box,) = program.boxes.values()
        assert [box.name for box in main_box.boxes.values()][:2] == ["setup", "grow"]

    def test_frames_of_one_module_are_one_box(self, tmp_path: Path) -> None:
        paths = []
        for name in ("a", "b"):
            trace = Stacked(tmp_path / f"{name}.trace")
            trace.program("/bin/prog", ["prog"])
            trace.stack(["mmap", "arena", "middle", "main"])
            trace.row("mmap", 0, 64 * PAGE, 3, 0x22, -1, 0, result=BASE, state=CHOSEN, kinds=MAP)
            paths.append(trace.end())
        before, after = paths
        (program,) = paired(before, after).graph.boxes.values()
        (arena,) = program.boxes.values()
        assert (arena.name, [box.name for box in leaves(arena)]) == ("arena", ["mmap"])

    def test_suppressed_sites_are_one_row(self, tmp_path: Path) -> None:
        rules = [Suppression("mine", "mprotect", "*", "libgrow*")]
        path = sited(tmp_path / "a.trace", BEFORE)
        found = paired(path, path, rules)
        kinds = {row.today.key: row.today.kind for row in found.rows}
        assert kinds[Key("", "mine")] == SUPPRESSED
        assert [key.call for key, kind in kinds.items() if kind == SITE] == ["mmap"]
        assert "mine suppressed" in shown(as_html(found))

    def test_the_cost_under_laconic(self, both: Pair) -> None:
        """Of pages that are not touched, no call costs anything there."""
        (grow,) = (row for row in both.rows if row.today.key.function == "grow")
        assert grow.laconic.was.cycles == 0 < grow.today.was.cycles


class TestPage:
    """The markup."""

    def test_the_first_screen(self, both: Pair) -> None:
        page = shown(as_html(both))
        assert "The second run costs 15 % less" in page
        assert "mprotect from grow (libgrow) costs 2.48–3.84 M cycles less" in page
        assert "Calls 73 to 42" not in page  # the arrow stands between them
        assert "Calls 73 → to 42 −31 (42 % less) 63 → to 30 redundant" in page
        assert "Host calls on Linux 10 → to 12 +2 (20 % more)" in page
        five = page.partition("Sites that changed most")[2].partition("All sites by change")[0]
        assert re.findall(r"\b(grow|trim|fresh)\b", five) == ["grow", "trim", "fresh"]
        assert "libgrow · 63 → to 23 mprotect" in five
        assert "−2.48–3.84 M 63 % less" in five and "3 times" not in five

    def test_it_is_the_same_for_the_same_data_and_needs_nothing_else(self, both: Pair) -> None:
        page = as_html(both)
        assert page == as_html(both)
        assert len(page) < 120_000
        text = page.decode()
        assert "@@" not in text.partition('<script type="application/json"')[0]
        assert not re.search(r"<[a-z][^>]*\s(?:src|on\w+|style)=", text)
        assert "default-src 'none'; style-src 'sha256-" in text
        assert not re.search(r'href="(?!#)', text)

    def test_a_trace_and_itself(self, tmp_path: Path) -> None:
        path = sited(tmp_path / "a.trace", BEFORE)
        page = shown(as_html(paired(path, path)))
        assert "Nothing changed: both runs make 73 calls, which cost" in page
        assert "No site costs more or less than before" in page
        assert "less)" not in page and "more)" not in page

    def test_traces_without_calls(self, tmp_path: Path) -> None:
        empty = Builder(tmp_path / "empty.trace").end()
        assert "Neither run made a memory call." in shown(as_html(paired(empty, empty)))
        page = shown(as_html(paired(empty, sited(tmp_path / "a.trace", BEFORE))))
        assert "One of the runs made no memory call" in page

    def test_hostile_names_are_text(self, tmp_path: Path) -> None:
        page = as_html(paired(hostile(tmp_path / "a.trace"), sited(tmp_path / "b.trace", AFTER)))
        text = page.decode()
        assert text.count("<script") == 2 and text.count("</script") == 2
        assert "<img" not in text and "\u202e" not in text
        assert html.escape(plain(HOSTILE[1])) in text

    def test_as_json(self, both: Pair) -> None:
        found = as_json(both)
        assert json.loads(json.dumps(found)) == found
        assert found["headline"]["text"].startswith("The second run costs 15 % less")
        (grow,) = (site for site in found["sites"] if site["function"] == "grow")
        assert (grow["calls"], grow["redundant"], grow["kind"]) == ([63, 23], [60, 20], "site")
        low, high, now_low, now_high = grow["every_call"]
        assert now_low < low < high and now_low < now_high < high
        assert set(found["before"]["strategies"]) == set(found["after"]["strategies"])
        assert found["graph"]["name"] == "all"


def test_the_page_states_the_selection(both: Pair) -> None:
    """It is about the selected calls only."""
    chosen = Selection(calls=("mmap",))
    before, after = (TraceReader(side.name) for side in both.sides)
    found = pair(before, after, costs.load(), selection=chosen)
    page = shown(as_html(found))
    assert "Selected: mmap calls" in page and "Calls 1 → to 1 unchanged" in page
    assert "Selected:" not in shown(as_html(both))
    one = collect(TraceReader(both.before.name), costs.load(), selection=chosen)
    assert "Selected: mmap calls" in shown(as_html(one))


class TestCommand:
    """`laconic html A B`."""

    def test_it_writes_the_page(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], both: Pair
    ) -> None:
        first, second = both.before.name, both.after.name
        report, data = tmp_path / "d.html", tmp_path / "d.json"
        assert main(["html", first, second, "-o", str(report), "--json", str(data)]) == 0
        assert "open it in a browser" in capfd.readouterr().err
        assert "The second run costs" in shown(report.read_bytes())
        assert json.loads(data.read_text())["schema"] == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["A", "B", "C", "-o", "x.html"], "more than one trace"),
            (["-", "-", "-o", "x.html"], "only one of the two runs"),
            (["A", "missing.trace", "-o", "x.html"], "missing.trace"),
            (["A", "B", "--keep", "k.trace", "-o", "x.html"], "keeps the trace of a program"),
            (["--", "true"], "name the page with -o"),
        ],
    )
    def test_wrong_words(
        self,
        words: list[str],
        message: str,
        both: Pair,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        names = {"A": both.before.name, "B": both.after.name}
        assert main(["html", *(names.get(word, word) for word in words)]) == 2
        assert message in capfd.readouterr().err
        assert not Path("x.html").exists()


def test_touched_pages_cost_where_they_were_mapped(tmp_path: Path) -> None:
    """As in `callers`: under laconic, the site of the mmap pays for the pages that are touched."""
    paths = []
    for name, pages in (("a", 1), ("b", 40)):
        trace = Stacked(tmp_path / f"{name}.trace")
        trace.program("/bin/prog", ["prog"])
        trace.stack(["mmap", "arena", "main"])
        trace.row("mmap", 0, 64 * PAGE, 3, 0x22, -1, 0, result=BASE, state=CHOSEN, kinds=MAP)
        trace.stack(["mprotect", "seal", "main"])
        runs = ((BASE, BASE + pages * PAGE, 1),)
        trace.row("mprotect", BASE, 64 * PAGE, 1, result=0, kinds=RESTRICT, touched=runs)
        paths.append(trace.end())
    before, after = paths
    found = paired(before, after)
    (arena,) = (row for row in found.rows if row.today.key.function == "arena")
    assert arena.laconic.cycles.low > 0
