"""laconic html: what the page holds, that it is the same bytes for the same data, and what it says
of bad input.

`LACONIC_GOLDEN=write` in the environment writes the golden file anew.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.analysis.compare import BOUND, Compared, Figures, Span
from laconic.analysis.headline import headline
from laconic.analysis.sites import Site, sites
from laconic.analysis.timeline.areas import Area
from laconic.analysis.timeline.cells import TALLIED, Cells, CellTally
from laconic.analysis.timeline.collect import CALLS, Mark, OneCall, Page, collect
from laconic.analysis.timeline.series import Bins, Sampled, Scattered
from laconic.commands import main
from laconic.commands.html import _write
from laconic.errors import LaconicError
from laconic.memory.flags import PAGE_SHIFT
from laconic.memory.ledger import Ledger
from laconic.replay.engine import Replay
from laconic.replay.events import Program
from laconic.report.headline import sentence
from laconic.report.html import as_html, as_json, document, sections
from laconic.report.html.data import AROUND_ROW, PageLimits
from laconic.report.text import plain, script_json
from laconic.sgx.costs import COSTED, CostProfile, Figure
from laconic.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.strategies import NAMES
from laconic.trace.stacks import NO_STACK
from tests.helpers.pagetraces import HOSTILE, Stacked, hostile, known, many
from tests.helpers.traces import Builder, large, small
from tests.tracer.lab import COMMAND, environment, run_alone

#: What stands before the numbers of a site.
HEAD = 5
GOLDEN = Path(__file__).parent / "golden" / "page.html"
PROFILE = CostProfile(
    "test", "a machine", {name: Figure(10, 30, "a source", "a machine") for name in COSTED}
)


def of(path: str) -> Page:
    """The page of a trace."""
    return collect(laconic.trace.open(path), PROFILE, jobs=1)


def figures(host_calls: int) -> Figures:
    """One strategy's figures, of host calls alone."""
    counts = Counts(host_calls=host_calls)
    cycles = PROFILE.cycles(counts)
    span = Span(counts, counts, cycles)
    return Figures(span, {0: span}, {"mmap": span}, [cycles], (8, 8), (4, 4))


def fixed() -> Page:
    """A page whose data no replay made."""
    ledger = Ledger()
    for output in (1, 0, 1, 0):
        ledger.count("mprotect", output, 0)
    ledger.processes = 1
    ledger.note("a note")
    sites = [
        Site("mprotect", 1, "/bin/prog", 3, 2, 1, 0, 5, 9),
        Site("mprotect", NO_STACK, "/bin/prog", 1, 0, 1, 0, 7, 7),
    ]
    sites[0].counts["every-call"] = Counts(host_calls=3)
    tallies = [
        CellTally(calls=3, redundant=2, host_calls=1, pages=6, today_low=30, today_high=90),
        CellTally(calls=1, host_calls=1, pages=2),
    ]
    places: dict[int, tuple[tuple[Place, bool], ...]]
    places = {1: ((Place("grow", "libx.so", "x.c", 12), False), (Place("main", "prog"), True))}
    series, cells = Bins(1000), Cells(1000)
    moments, marks = Sampled[int](100), Scattered[Mark](100)
    for call, output in enumerate((1, 0, 1, 0)):
        series.count(call * 5000, output, not output)
        moments.see(call * 5000)
        tally = cells.at(0, int(call == 2), call * 5000)
        tally.calls += 1
        tally.redundant += not output
        tally.today_high += 20
        if not output:
            marks.see(Mark(0, call, 16, 2, 0))
    compared = Compared({"every-call": figures(9), "laconic": figures(3), "bound": figures(2)},
                        PROFILE,
                        [], False, 4, 1, 12, 0, [])  # fmt: skip
    areas = [
        Area(0, 16, 20, 3, "anonymous", 0, 4, 0, 10),
        Area(0, 64, 65, 5, "/lib/libx.so", 1, 4, -1, 0),
    ]
    singles = [OneCall(5 + call, call * 5000, 0, "mprotect", (65536, 8192, 3), 0, output,
                       0) for call, output in
               enumerate((1, 0, 1, 0))]  # fmt: skip
    return Page(
        source="run",
        about={"command": ["prog", "--fast"]},
        machine={"system": "Linux", "release": "6.1", "machine": "x86_64"},
        events=12,
        ledger=ledger,
        end={"exit_status": 0},
        loss=["a line is lost"],
        processes=[Program(100, "/bin/prog")],
        calls=[4],
        series=series,
        cells=cells,
        moments=moments,
        last=15_000,
        areas=areas,
        step=1,
        grain=1,
        left_out=0,
        marks=marks,
        sites=sites,
        tallies=tallies,
        places=places,
        modules=[("/lib/gone.so", "No such file or directory")],
        singles=singles,
        compared=compared,
        profile=PROFILE,
        uncertain=0,
    )


def data_of(made: bytes) -> dict[str, Any]:
    """The data that a page has for its script."""
    found: dict[str, Any] = json.loads(
        re.findall(r'id="data">(.*?)</script>', made.decode(), re.DOTALL)[0]
    )
    return found


def stack_of(data: dict[str, Any], site: list[Any]) -> list[str]:
    """The functions of a site's stack, innermost first."""
    names, frame, found = data["names"], data["stacks"][site[1]], []
    while frame >= 0:
        place = data["frames"][2 * frame + 1]
        found.append(names[data["places"][place if place >= 0 else ~place][0]])
        frame = data["frames"][2 * frame]
    return found


class TestPure:
    """The same data, the same bytes."""

    def test_golden(self) -> None:
        page = fixed()
        made = as_html(page)
        if os.environ.get("LACONIC_GOLDEN") == "write":
            GOLDEN.write_bytes(made)
        assert made == GOLDEN.read_bytes()

    def test_no_clock_no_seed_no_zone(self, tmp_path: Path) -> None:
        """Two processes with other seeds of hashes, zones and languages write the same."""
        trace = known(tmp_path / "a.trace")
        made = []
        for seed, zone, language in (
            ("1", "Asia/Tokyo", "C"),
            ("2", "America/Lima", "de_DE.UTF-8"),
        ):
            report, data = tmp_path / f"{seed}.html", tmp_path / f"{seed}.json"
            words = [*COMMAND, "html", trace, "-o", str(report), "--json", str(data)]
            env = environment(PYTHONHASHSEED=seed, TZ=zone, LC_ALL=language)
            subprocess.run(words, env=env, check=True, capture_output=True)
            made.append((report.read_bytes(), data.read_bytes()))
        assert made[0] == made[1]

    def test_policy(self) -> None:
        """The policy's hashes are those of the one script and the one style, and it allows nothing
        else."""
        page = as_html(fixed()).decode()
        found = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
        assert found is not None
        policy = dict(part.split(" ", 1) for part in found[1].split("; "))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in found[1]
        for kind, element in (
            ("script-src", r"<script>(.*?)</script>"),
            ("style-src", r"<style>(.*?)</style>"),
        ):
            parts = re.findall(element, page, re.DOTALL)
            assert len(parts) == 1
            digest = base64.b64encode(hashlib.sha256(parts[0].encode()).digest()).decode()
            assert policy[kind] == f"'sha256-{digest}'"

    def test_the_page_is_readable_without_its_script(self) -> None:
        """Who allows no script reads the figures, the sites and the strategies, and where the rest
        is printed."""
        page = as_html(fixed()).decode()
        static = re.sub(r"<[^>]+>", "", page.split('<script type="application/json"')[0])
        for told in (
            "2 redundant, 50 %",
            "Gramine today",
            "libx · x.c:12",
            "90–270",
            "laconic callers",
        ):
            assert told in static.replace("\u00a0", " ").replace("\u2060", ""), told
        assert re.search(r"<noscript>.*laconic callers.*</noscript>", page, re.DOTALL)

    def test_nothing_from_elsewhere(self) -> None:
        """No address but that of SVG's namespace, no handler and no style in an attribute, no
        markup from strings."""
        _, style, script = document._pieces()
        page = as_html(fixed()).decode()
        assert set(re.findall(r"\w+://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}
        assert not re.search(
            r"<[^>]+\s(?:on\w+|style|src|href=\"[^#])=", page.split("<script", 1)[0]
        )
        markup = ("innerHTML", "outerHTML", "insertAdjacent", "document.write")
        for banned in (*markup, "eval(", "Function(", "fetch(", "import("):
            assert banned not in script
        assert "url(" not in style
        assert "@import" not in style


class TestNames:
    """Whatever a name is, it is text."""

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("/lib/libc.so.6", "/lib/libc.so.6"),
            ("<b>", "<b>"),
            ("a\n\t\x00\x7f\x9b", "a\\x0a\\x09\\x00\\x7f\\x9b"),
            ("\u202eabc\u2066", "\\u202eabc\\u2066"),
            ("\u2028\u2029\ufeff", "\\u2028\\u2029\\ufeff"),
            ("\ud800", "\\ud800"),
            ("a\udcff", "a\\xff"),
            ("שלום 你好 🦊", "שלום 你好 🦊"),
            ("\U000e0041", "\\U000e0041"),
        ],
    )
    def test_plain(self, name: str, shown: str) -> None:
        assert plain(name) == shown

    def test_long_names_are_cut_and_say_so(self) -> None:
        shown = plain("a" * 1_000_000)
        assert len(shown) < 500
        assert "999,600 characters" in shown

    def test_json_leads_nowhere(self) -> None:
        """No text of a page's data has a character that HTML looks at; all of it comes back."""
        for name in HOSTILE:
            text = script_json([plain(name)])
            assert not set(text) & set("<>&\u2028\u2029")
            text.encode()
            assert json.loads(text) == [plain(name)]

    def test_a_hostile_trace(self, tmp_path: Path) -> None:
        page = as_html(of(hostile(tmp_path / "a.trace"))).decode()
        assert page.count("<script") == page.count("</script") == 2
        assert page.count("<img") == page.count("<!--") == 0
        data = data_of(page.encode())
        for name in HOSTILE[:5]:
            assert plain(name) in data["names"]
        assert data["summary"]["redundant"] == 2 * len(HOSTILE)

    def test_the_headline_is_that_of_callers(self, tmp_path: Path) -> None:
        """The heading of the page is the sentence that `callers` begins with."""
        trace = known(tmp_path / "a.trace")
        page = of(trace)
        found = re.search(r"<h1>(.*?)</h1>", as_html(page).decode())
        assert found is not None
        shown = re.sub(r"<[^>]+>", "", found[1]).replace("\u00a0", " ").replace("\u2060", "")
        text = sentence(headline(sites(trace), profile=PROFILE)).text
        assert html.unescape(shown) == text
        assert text.startswith("fork costs ")


class TestFigures:
    """What the page says is what the replay came to."""

    def test_sites(self, tmp_path: Path) -> None:
        data = as_json(of(known(tmp_path / "a.trace")))
        names = data["names"]
        assert (
            data["summary"]["calls"],
            data["summary"]["host_calls"],
            data["summary"]["redundant"],
        ) == (12, 6, 6)
        sites = [site for site in data["sites"] if names[site[0]] == "mprotect"]
        assert [stack_of(data, site) for site in sites] == [["mprotect", "grow", "main"]]
        assert names[sites[0][2]] == "/bin/prog"
        assert sites[0][HEAD : HEAD + 4] == [8, 6, 2, 0]
        assert [sum(site[HEAD + at] for site in data["sites"]) for at in (0, 1, 2)] == [12, 6, 6]
        costs = [sum(site[HEAD + 6 : HEAD + 8]) for site in data["sites"] if site[1] >= -1]
        assert costs == sorted(costs, reverse=True)
        assert [(space["pid"], space["calls"]) for space in data["spaces"]["processes"]] == [
            (100, 10),
            (200, 2),
        ]
        assert sum(len(space["marks"]) // 4 for space in data["spaces"]["processes"]) == 6
        assert data["summary"]["command"] == ["prog", "--fast"]
        assert list(data["strategies"]["strategies"]) == [*NAMES, BOUND]
        assert data["strategies"]["profile"]["name"] == "test"
        assert len(data["calls"]) == 12

    def test_sites_and_what_is_around_them_are_the_whole_cost(self, tmp_path: Path) -> None:
        """What the rows of the table cost is what the strategy costs."""
        for trace in (known(tmp_path / "a.trace"), many(tmp_path / "b.trace", 400)):
            data = as_json(of(trace))
            for name, at in (("every-call", 6), ("laconic", 8)):
                total = data["strategies"]["strategies"][name]["cycles"]
                for end, key in enumerate(("low", "high")):
                    cost = sum(site[HEAD + at + end] for site in data["sites"])
                    assert cost == pytest.approx(total[key], abs=len(data["sites"]))

    def test_cells_are_the_sites_by_time(self, tmp_path: Path) -> None:
        """Summed over time, cells come to the sites' calls and costs."""
        data = as_json(of(many(tmp_path / "a.trace", 400)))
        cells, size = data["time"]["cells"], 3 + len(TALLIED)
        sums: dict[int, list[int]] = {}
        for at in range(0, len(cells), size):
            row = sums.setdefault(cells[at + 1], [0] * len(TALLIED))
            row[:] = [one + more for one, more in zip(row, cells[at + 3 : at + size], strict=True)]
        for number, site in enumerate(data["sites"]):
            if site[1] >= -1:
                assert sums[number] == pytest.approx(site[HEAD:], abs=400)
                assert sums[number][:4] == site[HEAD : HEAD + 4]

    def test_series(self, tmp_path: Path) -> None:
        """Bins of time hold every call once."""
        data = as_json(of(many(tmp_path / "a.trace", 3_000)))
        assert data["time"]["unit"] == "nanoseconds"
        assert sum(data["time"]["calls"]) == 3_000
        assert sum(data["time"]["host_calls"]) == data["summary"]["host_calls"]
        assert sum(data["time"]["redundant"]) == data["summary"]["redundant"]
        assert data["calls"] is None
        assert any(f"more than {CALLS:,} calls" in sentence for sentence in data["binned"])

    def test_areas_are_the_replayed_address_spaces(self, tmp_path: Path) -> None:
        """At any call the areas are what `laconic maps` prints there."""
        path = many(tmp_path / "a.trace", 600, places=40)
        page = of(path)
        assert page.step == 1
        events = [call.event for call in page.singles or []]
        for call in (0, 1, 7, 123, 300, 599):
            engine = Replay(laconic.trace.open(path), keep=True)
            engine.run(lambda number, _, last=events[call]: number > last)  # type: ignore[misc]
            held = engine.processes[100].space
            assert held is not None
            shown = sorted(
                (area.start, area.end, area.prot)
                for area in page.areas
                if area.since <= call < area.until
            )
            wanted = sorted(
                (start >> PAGE_SHIFT, end >> PAGE_SHIFT, vma.flags & 7)
                for start, end, vma in held.vmas
            )
            assert joined(shown) == joined(wanted), call

    def test_areas_end_at_the_last_call(self, tmp_path: Path) -> None:
        page = of(known(tmp_path / "a.trace"))
        assert sum(page.calls) == 12 == max(area.until for area in page.areas)

    def test_a_page_of_many_calls(self, tmp_path: Path) -> None:
        """It is small, and says what it left out."""
        page = of(large(tmp_path / "a.trace", 30_000))
        assert len(as_html(page)) < document.LARGEST
        data = as_json(page, PageLimits(1, 50, 10, 1))
        assert len(data["spaces"]["processes"]) == 1
        assert len(data["spaces"]["processes"][0]["areas"]) // 8 <= 50
        assert len(data["spaces"]["processes"][0]["marks"]) // 4 <= 10
        stacks = [site[1] for site in data["sites"] if site[1] > AROUND_ROW]
        assert stacks == ([-1, -2] if len(page.sites) > 1 else [-1])
        assert sum(site[HEAD] for site in data["sites"]) == 30_000
        assert len(data["binned"]) >= 4

    @pytest.mark.slow
    def test_a_page_above_its_size_limit_is_drawn_more_coarsely(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Names that are all long, and areas that are many, do not make the page larger than it may
        be."""
        monkeypatch.setattr(document, "LARGEST", document.LARGEST // 4)
        page = fixed()
        page.areas[:] = [
            Area(
                0,
                64 * number,
                64 * number + 7,
                number % 8,
                f"/{number}-" + "x" * 300,
                number % 977,
                4_000 + number,
            )
            for number in range(10_000)
        ]
        made = as_html(page)
        assert len(made) <= document.LARGEST
        assert b"the map leaves out" in made


def joined(areas: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Neighbours that are alike, as one."""
    found: list[tuple[int, int, int]] = []
    for start, end, prot in areas:
        if found and found[-1][1:] == (start, prot):
            found[-1] = (found[-1][0], end, prot)
        else:
            found.append((start, end, prot))
    return found


class TestBadInput:
    """Each lack is named on the page; each wrong path in one line."""

    def test_an_empty_trace(self, tmp_path: Path) -> None:
        data = as_json(of(Builder(tmp_path / "a.trace").end()))
        assert "the trace has no memory call" in data["missing"]
        assert (data["sites"], data["strategies"], data["spaces"]["processes"]) == ([], None, [])
        page = as_html(of(Builder(tmp_path / "b.trace").end())).decode()
        assert "<h1>This program made no memory calls.</h1>" in page
        assert "<details open>" in page

    def test_no_stacks(self, tmp_path: Path) -> None:
        data = as_json(of(small(tmp_path / "a.trace")))
        assert any(
            "no stacks" in sentence and "--stacks all" in sentence for sentence in data["missing"]
        )

    def test_cut_short(self, tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace")
        trace.program("/bin/prog", ["prog"])
        trace.row("mmap", 0, 4096, 3, 0x22, -1, 0, result=1 << 30, host_calls=1)
        data = as_json(of(trace.cut()))
        assert any("not ended in order" in sentence for sentence in data["missing"])

    def test_a_module_that_is_gone_is_named(self, tmp_path: Path) -> None:
        trace = Stacked(tmp_path / "a.trace", module=str(tmp_path / "gone.so"))
        trace.program("/bin/prog", ["prog"])
        trace._packed = lambda places: None  # type: ignore[method-assign]
        trace.stack(["grow"])
        trace.row("mprotect", 1 << 30, 4096, 3, result=-12)
        data = as_json(of(trace.end()))
        assert data["modules"] == [[str(tmp_path / "gone.so"), "No such file or directory"]]
        assert "gone.so+0x10" in data["names"]

    def test_no_times(self, tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace", "strace")
        for _ in range(3):
            trace.time = 0
            trace.row("munmap", 1 << 30, 4096, result=0)
        trace.time = 0
        data = as_json(of(trace.end()))
        assert (data["time"]["unit"], data["time"]["calls"]) == ("calls", [1, 1, 1])
        assert any("no times" in sentence for sentence in data["missing"])
        assert any("which pages were touched" in sentence for sentence in data["missing"])

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (lambda at: [at / "no.trace", "-o", at / "r.html"], "cannot be read"),
            (lambda at: [at / "text", "-o", at / "r.html"], "is not a trace"),
            (lambda at: [at / "empty", "-o", at / "r.html"], "is empty"),
            (lambda at: [at / "a.trace", "-o", at / "none" / "r.html"], "cannot be written"),
            (lambda at: [at / "a.trace", "-o", at / "there.html"], "exists already"),
            (
                lambda at: [at / "a.trace", "-o", at / "a.trace", "--force"],
                "is a trace, and stays as it is",
            ),
            (lambda at: [at / "a.trace", "-o", "/dev/full", "--force"], "not a regular file"),
            (
                lambda at: [at / "a.trace", "-o", at / "r.html", "--json", at / "none" / "x"],
                "--json",
            ),
            (lambda at: [at / "a.trace", "-o", at / "r.html", "--costs", "cheap"], "cheap"),
            (lambda at: ["-o", at / "r.html"], "no trace was named"),
            (
                lambda at: [*[at / "a.trace"] * 3, "-o", at / "r.html"],
                "more than one trace",
            ),
            (lambda at: [at / "a.trace", "-o", at / "r.html", "--", "true"], "stands before --"),
        ],
    )
    def test_one_line_and_no_page(
        self,
        words: Callable[[Path], list[Any]],
        message: str,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        known(tmp_path / "a.trace")
        before = (tmp_path / "a.trace").read_bytes()
        (tmp_path / "text").write_text("mmap(NULL, 4096)\n")
        (tmp_path / "empty").touch()
        (tmp_path / "there.html").write_text("mine")
        assert main(["html", *map(str, words(tmp_path))]) == 2
        told = capfd.readouterr()
        assert told.out == ""
        assert message in told.err
        assert told.err.startswith("laconic: ")
        assert not (tmp_path / "r.html").exists()
        assert (tmp_path / "there.html").read_text() == "mine"
        assert (tmp_path / "a.trace").read_bytes() == before

    def test_a_wrong_trace_does_not_cost_the_old_page(self, tmp_path: Path) -> None:
        (tmp_path / "r.html").write_text("mine")
        assert (
            main(["html", str(tmp_path / "none"), "-o", str(tmp_path / "r.html"), "--force"]) == 2
        )
        assert (tmp_path / "r.html").read_text() == "mine"

    def test_a_full_disk(self) -> None:
        fd = os.open("/dev/full", os.O_WRONLY)
        try:
            with pytest.raises(LaconicError, match=r"No space left.*another place"):
                _write(fd, b"x", "r.html")
        finally:
            os.close(fd)


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    """A page of a program that was run for it."""
    program = ("sh", "-c", "echo its own; exit 3")
    words: list[str | Path] = [*COMMAND, "html", "-o", tmp_path / "r.html", "--", *program]
    done = run_alone(words, env=environment())
    if done.returncode == 71:
        pytest.skip("this machine does not let Laconic trace")
    assert (done.returncode, done.stdout) == (3, "its own\n"), done.stderr
    return tmp_path / "r.html"


def test_a_program(traced: Path) -> None:
    """Its status and output are its own, and the page has its stacks."""
    data = data_of(traced.read_bytes())
    assert data["summary"]["exit_status"] == 3
    assert data["summary"]["command"][0] == "sh"
    assert data["stacks"]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        ((9.18, 10.3), "9.18–10.3 × less"),
        ((1.0, 1.0), "no less"),
        ((0.9, 1.2), "no less"),
        ((0.5, 0.8), "1.25–2.00 × more"),
    ],
)
def test_a_ratio_of_one_is_no_saving(ratio: tuple[float, float], text: str) -> None:
    shown = sections._less(ratio).replace("\u00a0", " ").replace("\u2060", "")
    assert shown == text
