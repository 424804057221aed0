"""The page of `laconic html` in a real browser: headless Chromium opens it from a file, and does
what a person does."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.apps.browser import CHROMIUM, Browser, browser
from tests.unit.pagetraces import HOSTILE, hostile, known, many
from tests.unit.traces import Builder

import laconic.trace
from laconic.analysis.suppressions import Suppression
from laconic.analysis.timeline.collect import collect
from laconic.report.html import as_html
from laconic.report.html.text import plain
from laconic.sgx import costs
from laconic.strategies import NAMES

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
#: What a page of 100,000 calls may be, in bytes.
LARGEST = 1_500_000
SECTIONS = ("summary", "calls", "map", "strategies", "flame", "table")


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """One browser for all tests."""
    with browser() as made:
        yield made


def page(path: str, rules: Sequence[Suppression] = (), name: str = "") -> Path:
    """The page of a trace, beside it."""
    made = Path(path).with_suffix(f"{name}.html")
    made.write_bytes(
        as_html(
            collect(laconic.trace.open(path), costs.load(costs.DEFAULT), jobs=1, suppressions=rules)
        )
    )
    return made


def one(path: Path) -> str:
    """A trace of one call."""
    trace = Builder(path)
    trace.program("/bin/prog", ["prog"])
    trace.row("mmap", 0, 8192, 3, 0x22, -1, 0, result=1 << 30, said=1)
    return trace.end()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by what they are of."""
    at = tmp_path_factory.mktemp("pages")
    traces = {
        "empty": Builder(at / "empty.trace").end(),
        "one": one(at / "one.trace"),
        "known": known(at / "known.trace"),
        "hundred": many(at / "hundred.trace", 100),
        "many": many(at / "many.trace", 100_000),
        "hostile": hostile(at / "hostile.trace"),
    }
    made = {name: page(path) for name, path in traces.items()}
    rules = [Suppression("<b>the allocator's own</b>", "mprotect", "grow")]
    return {**made, "suppressed": page(traces["known"], rules, ".suppressed")}


def silent(window: Browser, file: Path) -> None:
    """The page complained of nothing and asked for nothing."""
    window.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
    assert window.errors == []
    assert window.requests == [file.as_uri()]


def numbers(window: Browser, column: str) -> list[int]:
    """The numbers in a column of the table, as they stand."""
    cells = window.run(
        f"[...document.querySelectorAll('td[data-label=\"{column}\"]')].map((cell) => cell.textContent)"
    )
    return [int(cell.replace(",", "")) for cell in cells]


def drawn(window: Browser) -> int:
    """How many colours the map has."""
    colours = window.run(
        "(() => { const c = document.getElementById('map-canvas'), s = new Set();"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "for (let i = 0; i < d.length; i += 4) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return s.size; })()"
    )
    return int(colours)


class TestAnyNumberOfCalls:
    """0, 1, 100 and 100,000 calls: every part is there, and nothing goes wrong."""

    @pytest.mark.parametrize("name", ["empty", "one", "hundred", "many"])
    def test_all_parts(self, window: Browser, pages: dict[str, Path], name: str) -> None:
        window.open(pages[name])
        for section in SECTIONS:
            assert window.run(f"document.querySelectorAll('#{section} > *').length") > 1, section
        if name != "empty":
            assert window.run("document.querySelectorAll('#calls svg path').length") == 3
            assert window.run(
                "document.querySelectorAll('#strategies svg line.f-bound').length"
            ) == 2 * len(NAMES)
            assert drawn(window) > 2
            assert window.run("document.querySelectorAll('#sites-table tbody tr').length") > 0
        asked = {"empty": "0", "one": "1", "hundred": "100", "many": "100,000"}[name]
        assert window.run("document.querySelector('.figures dd').textContent") == asked
        silent(window, pages[name])

    def test_the_size_of_100_000_calls(self, window: Browser, pages: dict[str, Path]) -> None:
        """It is binned, and says so."""
        assert pages["many"].stat().st_size < LARGEST
        window.open(pages["many"])
        told = window.run("document.getElementById('binned').textContent")
        assert "more than 1,000 calls" in told
        assert (
            "the map shows the address spaces as they are at every" in told
            or "the map leaves out" in told
        )
        assert window.run("document.querySelectorAll('#flame-graph [role=treeitem]').length") > 20

    def test_empty_says_so(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["empty"])
        assert "the trace has no memory call" in window.run(
            "document.getElementById('missing').textContent"
        )


class TestTable:
    """It sorts and filters."""

    def test_sort(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        shown = numbers(window, "Redundant")
        assert shown == sorted(shown, reverse=True)
        assert len(set(shown)) > 1
        window.click("#sites-table th:nth-child(4) button")
        assert numbers(window, "Asked") == sorted(numbers(window, "Asked"), reverse=True)
        window.click("#sites-table th:nth-child(4) button")
        assert numbers(window, "Asked") == sorted(numbers(window, "Asked"))
        assert (
            window.run("document.querySelector('#sites-table th:nth-child(4)').ariaSort")
            == "ascending"
        )
        assert window.run("document.querySelectorAll('#sites-table th[aria-sort]').length") == 1
        silent(window, pages["hundred"])

    def test_filter(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        assert sum(numbers(window, "Asked")) == 12
        window.type("#table-filter", "GROW")
        assert numbers(window, "Asked") == [8]
        assert "1 of 1 shown, of" in window.run(
            "document.getElementById('table-status').textContent"
        )
        window.type("#table-filter", "no such thing")
        assert numbers(window, "Asked") == []
        window.type("#table-filter", "")
        window.click("#table-redundant")
        assert numbers(window, "Redundant") == [6]

    def test_calls_one_by_one_and_stacks(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        window.click("#sites-table td summary")
        window.wait("document.querySelector('ol.stack li') !== null")
        stack = window.run(
            "[...document.querySelectorAll('ol.stack li .code')].map((each) => each.textContent)"
        )
        assert stack == ["mprotect", "grow", "main"]
        window.choose("#table select", "calls")
        assert len(numbers(window, "Event")) == 12
        window.click("#table-redundant")
        assert len(numbers(window, "Event")) == 6


class TestMap:
    """It zooms by wheel, buttons and keys, and shows one process of several."""

    def view(self, window: Browser) -> list[float]:
        """What is shown: left, right, low, high."""
        return [
            float(each)
            for each in window.run("document.getElementById('map-frame').dataset.view").split()
        ]

    def test_zoom(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        whole = self.view(window)
        for label, smaller in (("Zoom in", True), ("Zoom out", False)):
            before = self.view(window)
            window.click(f"button[aria-label='{label}']")
            after = self.view(window)
            assert (after[1] - after[0] < before[1] - before[0]) is smaller
        window.run("document.getElementById('map-frame').focus()")
        for key in ("+", "+", "ArrowRight", "ArrowUp"):
            before = self.view(window)
            window.press(key)
            assert self.view(window) != before, key
        window.press("0")
        assert self.view(window) == whole
        window.wheel("#map-canvas", -120)
        window.wait(
            "document.getElementById('map-frame').dataset.view !== "
            + json.dumps(" ".join(map(text, whole)))
        )
        left, right, low, high = self.view(window)
        assert right - left < whole[1] - whole[0] and high - low < 1
        silent(window, pages["hundred"])

    def test_double_click(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        whole = self.view(window)
        x, y = window.centre("#map-canvas")
        for number in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                window.send(
                    "Input.dispatchMouseEvent",
                    type=kind,
                    x=x,
                    y=y,
                    button="left",
                    clickCount=number,
                )
        left, right, low, high = self.view(window)
        assert right - left == pytest.approx((whole[1] - whole[0]) / 2)
        assert high - low == pytest.approx(0.5)

    def test_two_fingers_zoom_and_one_moves(self, window: Browser, pages: dict[str, Path]) -> None:
        """What was between two fingers stays between them; `All` comes back."""
        window.open(pages["hundred"], width=360, height=740)
        whole = self.view(window)
        x, y = window.centre("#map-canvas")

        def touch(kind: str, *across: float) -> None:
            points = [{"x": x + step, "y": y, "id": number} for number, step in enumerate(across)]
            window.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)

        touch("touchStart", -20, 20)
        for spread in (30, 40):
            touch("touchMove", -spread, spread)
        touch("touchEnd")
        zoomed = self.view(window)
        assert zoomed[1] - zoomed[0] == pytest.approx((whole[1] - whole[0]) / 2, rel=0.05)
        assert zoomed[3] - zoomed[2] == pytest.approx(0.5, rel=0.05)
        touch("touchStart", 0)
        for step in (20, 60):
            touch("touchMove", step)
        touch("touchEnd")
        moved = self.view(window)
        assert moved[0] < zoomed[0]
        assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])
        assert window.run("window.scrollX") == 0
        window.run(
            "[...document.querySelectorAll('#map button')].find((e) => e.textContent === 'All').id = 'all'"
        )
        window.click("#all")
        assert self.view(window) == whole
        silent(window, pages["hundred"])

    def test_the_wheel_scrolls_on_where_the_map_is_whole(
        self, window: Browser, pages: dict[str, Path]
    ) -> None:
        """A map with the focus does not hold the page fast."""
        window.open(pages["hundred"])
        window.centre("#map-canvas")
        window.run("document.getElementById('map-frame').focus({preventScroll: true})")
        before = window.run("window.scrollY")
        window.wheel("#map-canvas", 120)
        window.wait(f"window.scrollY > {before}")

    def test_the_wheel_scrolls_the_page_where_the_map_has_no_focus(
        self, window: Browser, pages: dict[str, Path]
    ) -> None:
        window.open(pages["hundred"])
        whole = self.view(window)
        window.wheel("#map-canvas", 120)
        window.run("new Promise((done) => setTimeout(done, 100))")
        assert self.view(window) == whole

    def test_redundant_calls_one_by_one(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        window.run("document.getElementById('map-frame').focus()")
        window.press("n")
        told = window.run("document.getElementById('map-readout').textContent")
        assert "Redundant call 1 of 6" in told
        assert "mprotect" in told and "grow" in told
        window.press("p")
        assert "Redundant call 6 of 6" in window.run(
            "document.getElementById('map-readout').textContent"
        )

    def test_process_and_axis(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        assert "process 100" in window.run("document.getElementById('map-canvas').ariaLabel")
        window.choose("#map select", "1")
        assert "process 200 child" in window.run("document.getElementById('map-canvas').ariaLabel")
        time = self.view(window)
        window.run("document.querySelectorAll('#map select')[1].id = 'axis'")
        window.choose("#axis", "order")
        assert self.view(window) != time
        silent(window, pages["known"])


def text(number: float) -> str:
    """A number as JavaScript prints it."""
    return str(int(number)) if number == int(number) else repr(number)


class TestFlame:
    """A click zooms, and what is searched for is found."""

    def titles(self, window: Browser) -> list[str]:
        found: list[str] = window.run(
            "[...document.querySelectorAll('#flame-graph .cell')].map((e) => e.textContent)"
        )
        return found

    def test_stack(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        assert self.titles(window) == [
            "all redundant calls",
            "/bin/prog",
            "main",
            "grow",
            "mprotect",
        ]
        assert "6 redundant calls, 100.0 %" in window.run(
            "document.querySelector('#flame-graph .cell').ariaLabel"
        )

    def test_zoom_by_click_and_key(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        everything = len(self.titles(window))
        window.click("#flame-graph .cell[aria-level='4']")
        assert (
            window.run("document.getElementById('flame-graph').dataset.zoomed")
            != "all redundant calls"
        )
        assert len(self.titles(window)) < everything
        for _ in range(3):
            window.press("Escape")
        assert (
            window.run("document.getElementById('flame-graph').dataset.zoomed")
            == "all redundant calls"
        )
        assert len(self.titles(window)) == everything
        window.press("ArrowDown")
        assert window.run("document.activeElement.textContent") == "/bin/prog"
        window.press("Enter")
        assert window.run("document.getElementById('flame-graph').dataset.zoomed") == "/bin/prog"

    def test_search(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        window.type("#flame-search", "GROW")
        assert window.run("document.querySelectorAll('#flame-graph .found').length") == 1
        assert "6 redundant calls, 100.0 %" in window.run(
            "document.getElementById('flame-readout').textContent"
        )


class TestSuppressed:
    """What is suppressed is told, and left out of the flame graph and the table of sites alone."""

    def test_told(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["suppressed"])
        told = window.run("document.getElementById('hidden').textContent")
        assert "<b>the allocator's own</b>: 6 redundant calls of 8, from 1 site" in told
        assert window.run("document.querySelectorAll('.figures dd')[2].textContent") == "6 (50.0 %)"
        flame = window.run("document.getElementById('flame').textContent")
        assert "Every redundant call is suppressed." in flame
        assert "6 redundant calls of 1 suppressed site are left out here." in flame
        assert sum(numbers(window, "Asked")) == 4
        window.choose("#table select", "calls")
        assert len(numbers(window, "Event")) == 12
        window.type("#table-filter", "the allocator's own")
        assert len(numbers(window, "Event")) == 8
        window.run("document.getElementById('map-frame').focus()")
        window.press("n")
        assert "a suppressed site: <b>the" in window.run(
            "document.getElementById('map-readout').textContent"
        )
        silent(window, pages["suppressed"])


class TestPaper:
    """What is printed is light, whatever the screen is."""

    @pytest.mark.parametrize("theme", ["", "dark"])
    def test_light(self, window: Browser, pages: dict[str, Path], theme: str) -> None:
        window.open(pages["known"], dark=True)
        window.choose("#theme", theme)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        pixel = "[...document.getElementById('map-canvas').getContext('2d').getImageData(1, 1, 1, 1).data].slice(0, 3)"
        try:
            window.send("Emulation.setEmulatedMedia", media="print", features=dark)
            assert (
                window.run("getComputedStyle(document.documentElement).backgroundColor")
                == "rgb(255, 255, 255)"
            )
            window.wait(f"({pixel}).join() === '255,255,255'")
            assert (
                window.run("getComputedStyle(document.querySelector('.tools')).display") == "none"
            )
        finally:
            window.send("Emulation.setEmulatedMedia", media="", features=dark)
        window.wait(f"({pixel}).join() === '20,23,26'")


class TestColours:
    """Light and dark: as the system has it, and by the switch."""

    PAPER = "getComputedStyle(document.documentElement).backgroundColor"

    def test_dark(self, window: Browser, pages: dict[str, Path]) -> None:
        light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
        window.open(pages["known"], dark=False)
        assert window.run(self.PAPER) == light
        window.choose("#theme", "dark")
        assert window.run(self.PAPER) == dark
        pixel = "[...document.getElementById('map-canvas').getContext('2d').getImageData(1, 1, 1, 1).data].slice(0, 3)"
        assert window.run(pixel) == [20, 23, 26]
        window.open(pages["known"], dark=True)
        assert window.run(self.PAPER) == dark
        window.choose("#theme", "light")
        assert window.run(self.PAPER) == light
        silent(window, pages["known"])


class TestHostileNames:
    """Names are shown as text, whatever is in them."""

    def test_as_text(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hostile"])
        window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        window.choose("#table select", "calls")
        window.choose("#table select", "sites")
        shown = window.run("document.body.textContent")
        for name in HOSTILE:
            assert plain(name) in shown, name[:40]
        assert window.run("document.documentElement.dataset.harmed === undefined")
        assert window.run("document.querySelectorAll('script').length") == 2
        assert (
            window.run("document.querySelectorAll('img, iframe, object, embed, link').length") == 0
        )
        silent(window, pages["hostile"])

    def test_every_process_can_be_chosen(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hostile"])
        for number in range(len(HOSTILE)):
            window.choose("#map select", str(number))
            assert f"process {100 + number} " in window.run(
                "document.getElementById('map-canvas').ariaLabel"
            )
        window.type("#table-filter", "__proto__")
        assert len(numbers(window, "Asked")) >= 1
        silent(window, pages["hostile"])

    def test_the_policy_holds(self, window: Browser, pages: dict[str, Path]) -> None:
        """Even a script that did get into the page would not run, nor reach out."""
        window.open(pages["known"])
        window.run(
            "(() => { const s = document.createElement('style'); s.textContent = 'html { margin: 99px }';"
            "document.head.append(s); })()"
        )
        assert window.run("getComputedStyle(document.documentElement).marginTop") == "0px"
        assert (
            window.run("fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')")
            == "refused"
        )
        parse = "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'set'; } catch { return 'no'; } })()"
        assert window.run(parse) == "no"
        assert any("Content Security Policy" in error for error in window.errors)


class TestForEveryone:
    """On a phone, by keyboard, by a screen reader."""

    @pytest.mark.parametrize("name", ["empty", "known", "hostile", "many"])
    def test_a_narrow_window_does_not_scroll_sideways(
        self, window: Browser, pages: dict[str, Path], name: str
    ) -> None:
        window.open(pages[name], width=360, height=740)
        window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert window.run("document.documentElement.scrollWidth") <= 360
        assert window.run("document.documentElement.clientWidth") == 360
        # Nothing is cut in the table either, which has no width of its own there.
        cells = "[...document.querySelectorAll('#sites-table td')]"
        cut = window.run(
            f"{cells}.filter((each) => each.scrollWidth > each.clientWidth + 1).map((e) => e.textContent)"
        )
        assert cut == []
        window.size(1000)
        window.wait("document.documentElement.clientWidth === 1000")
        silent(window, pages[name])

    def test_no_number_of_a_picture_is_cut(self, window: Browser, tmp_path: Path) -> None:
        """However long the bound's figures are, and wherever its line is."""
        # Of 326 host calls one is the bound's, and all strategies make three enclaves: its line is
        # in the middle.
        dear = {"host_calls": 10**8, "ecreate": 10**10}
        figures = {
            name: costs.Figure(low := dear.get(name, 0), low * 1.1, "", "") for name in costs.COSTED
        }
        profile = costs.CostProfile("long", "a machine", figures)
        made = tmp_path / "long.html"
        trace = laconic.trace.open(known(tmp_path / "a.trace"))
        made.write_bytes(as_html(collect(trace, profile, jobs=1)))
        cut = (
            "[...document.querySelectorAll('svg text')].filter((text) => { const a = text.getBoundingClientRect(),"
            "b = text.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1; })"
            ".map((text) => text.textContent)"
        )
        window.open(made, width=320, height=740)
        for width in (320, 360, 420, 500, 900):
            window.size(width)
            window.wait(
                f"document.querySelector('#bars-cycles svg').viewBox.baseVal.width === {width - 32}"
            )
            assert window.run(cut) == [], width
        silent(window, made)

    @pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("width", [1200, 360])
    @pytest.mark.parametrize("name", ["empty", "known", "hostile", "hundred"])
    def test_axe(
        self, window: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
    ) -> None:
        """axe-core finds nothing serious or critical."""
        axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
        window.open(pages[name], width=width, dark=dark)
        window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        window.run((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
        found = window.run(
            "axe.run(document, {resultTypes: ['violations']}).then((result) => result)"
        )
        assert found["testEngine"]["name"] == "axe-core"
        assert len(found["passes"]) > 10
        serious = [
            told(each) for each in found["violations"] if each["impact"] in ("serious", "critical")
        ]
        assert serious == []

    @pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("width", [1200, 360])
    def test_axe_once_it_is_used(
        self, window: Browser, pages: dict[str, Path], width: int, dark: bool
    ) -> None:
        """Zoomed, searched, filtered, with a stack open, and call by call."""
        axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
        window.open(pages["known"], width=width, dark=dark)
        window.run((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
        window.click("button[aria-label='Zoom in']")
        window.run("document.getElementById('map-frame').focus()")
        window.press("n")
        window.click("#flame-graph .cell[aria-level='3']")
        window.type("#flame-search", "grow")
        window.click("#sites-table th:nth-child(4) button")
        window.click("#sites-table td summary")
        for kind, wanted in (("sites", "grow"), ("sites", "no such thing"), ("calls", "grow")):
            window.choose("#table select", kind)
            window.type("#table-filter", wanted)
            found = window.run(
                "axe.run(document, {resultTypes: ['violations']}).then((result) => result)"
            )
            serious = [
                told(each)
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], (kind, wanted)

    def test_by_keyboard_alone(self, window: Browser, pages: dict[str, Path]) -> None:
        """Tab comes to every control, in the order of the page, and the focus is seen."""
        window.open(pages["known"])
        reached, parts = [], []
        for _ in range(60):
            window.press("Tab")
            reached.append(
                window.run(
                    "document.activeElement.id || document.activeElement.textContent.slice(0, 20)"
                )
            )
            parts.append(window.run("document.activeElement.closest('section')?.id || ''"))
        assert reached[0].startswith("Skip")
        assert {"theme", "map-frame", "flame-search", "table-filter"} <= set(reached)
        order = [part for part in dict.fromkeys(parts) if part]
        assert order == [section for section in SECTIONS if section in order]
        window.run("document.getElementById('map-frame').focus()")
        window.press("Tab")
        assert window.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    def test_pictures_have_words(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        labels = window.run(
            "[...document.querySelectorAll('svg, canvas')].map((each) => each.ariaLabel)"
        )
        assert len(labels) == 4
        assert all(label and re.search(r"\d", label) for label in labels)
        tables = window.run(
            "[...document.querySelectorAll('caption')].map((each) => each.textContent)"
        )
        assert len(tables) == 6


def told(violation: dict[str, Any]) -> str:
    """One of axe's findings, in a line."""
    return f"{violation['id']}: {[node['html'][:120] for node in violation['nodes'][:3]]}"


def test_screenshots(window: Browser, tmp_path: Path) -> None:
    """With LACONIC_PICTURES=FILE the page of that trace is drawn into docs/pictures/: light, dark
    and narrow."""
    trace = os.environ.get("LACONIC_PICTURES")
    made = page(trace) if trace else page(known(tmp_path / "a.trace"))
    place = Path(__file__).parents[2] / "docs" / "pictures" if trace else tmp_path
    place.mkdir(exist_ok=True)
    drawn = (
        ("light", "calls", 1100, False),
        ("dark", "bars-cycles", 1100, True),
        ("narrow", "calls", 360, False),
    )
    for name, part, width, dark in drawn:
        window.open(made, width=width, height=740 if width < 600 else 1000, dark=dark)
        window.run(f"document.getElementById({json.dumps(part)}).scrollIntoView()")
        picture = window.picture()
        assert picture.startswith(b"\x89PNG")
        (place / f"html-{name}.png").write_bytes(picture)
