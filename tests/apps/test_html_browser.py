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

import laconic.trace
from laconic.analysis.suppressions import Suppression
from laconic.analysis.timeline.collect import collect
from laconic.report.html import as_html
from laconic.report.text import plain
from laconic.sgx import costs
from laconic.strategies import NAMES
from tests.apps.browser import CHROMIUM, Browser, browser
from tests.helpers.pagetraces import HOSTILE, hostile, known, many
from tests.helpers.traces import Builder

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
#: The page of 100,000 calls, which takes a minute to make.
MANY = pytest.param("many", marks=pytest.mark.slow)
#: What a page of 100,000 calls may be, in bytes.
LARGEST = 1_500_000
SECTIONS = ("top", "sites", "graph", "strategies", "time", "memory", "notes")


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
    trace.row("mmap", 0, 8192, 3, 0x22, -1, 0, result=1 << 30, host_calls=1)
    return trace.end()


class Pages(dict[str, Path]):
    """Pages by what they are of, each made when it is first needed: the largest takes a minute."""

    def __init__(self, at: Path) -> None:
        super().__init__()
        self.at = at

    def __missing__(self, name: str) -> Path:
        path = self.at / f"{name}.trace"
        if name == "suppressed":
            rules = [Suppression("<b>the allocator's own</b>", "mprotect", "grow")]
            made = page(known(path), rules)
        elif name == "empty":
            made = page(Builder(path).end())
        elif name in ("hundred", "many"):
            made = page(many(path, 100 if name == "hundred" else 100_000))
        else:
            made = page({"one": one, "known": known, "hostile": hostile}[name](path))
        self[name] = made
        return made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Pages by what they are of."""
    return Pages(tmp_path_factory.mktemp("pages"))


def silent(window: Browser, file: Path) -> None:
    """The page complained of nothing and asked for nothing."""
    window.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
    assert window.errors == []
    assert window.requests == [file.as_uri()]


def numbers(window: Browser, column: str) -> list[int]:
    """The numbers in a column of the site table, as they stand; rounded ones in full."""
    cells = window.run(
        f"[...document.querySelectorAll('#tab td[data-label=\"{column}\"]')].map((e) => e.title "
        f"|| e.textContent)"
    )
    return [int(cell.replace(",", "")) for cell in cells]


def text_of(window: Browser, element: str) -> str:
    """The text of an element, with plain spaces and without joiners."""
    found: str = window.run(f"document.getElementById({json.dumps(element)}).textContent")
    return found.replace("\u00a0", " ").replace("\u2060", "")


def box_of(element: str) -> str:
    """An expression for where an element is in the window: left, top, right, bottom."""
    return (
        f"(() => {{ const b = "
        f"document.getElementById({json.dumps(element)}).getBoundingClientRect();"
        "return [b.left, b.top, b.right, b.bottom]; })()"
    )


def drawn(window: Browser) -> int:
    """How many colours the map has."""
    colours = window.run(
        "(() => { const c = document.getElementById('map-canvas'), s = new Set();"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "for (let i = 0; i < d.length; i += 4) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); "
        "return s.size; })()"
    )
    return int(colours)


def drag(window: Browser, selector: str, low: float, high: float) -> None:
    """Drags over an element, from one part of its width to another."""
    x, y = window.centre(selector)
    wide = window.run(
        f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().width"
    )
    left = x - wide / 2
    mouse = [
        ("mousePressed", low, 1),
        ("mouseMoved", (low + high) / 2, 1),
        ("mouseMoved", high, 1),
        ("mouseReleased", high, 0),
    ]
    for kind, at, buttons in mouse:
        window.send("Input.dispatchMouseEvent", type=kind, x=left + at * wide, y=y, button="left",
                    buttons=buttons, clickCount=1)  # fmt: skip


class TestFirstScreen:
    """Without scrolling: the answer, at three sizes."""

    #: The bottom of each part, in pixels.
    BOTTOM = """(() => { const bottom = (each) => document.querySelector(each).getBoundingClientRect().bottom;
        return Object.fromEntries(['h1', '.toc', '.fig', '.five li:nth-child(1)', '.five li:last-child']
            .map((each) => [each, bottom(each)])); })()"""  # noqa: E501

    def parts(self, window: Browser, file: Path, width: int, height: int) -> dict[str, float]:
        window.open(file, width=width, height=height)
        assert window.run("window.scrollY") == 0
        seen = "(e) => e.getClientRects().length > 0 && e.textContent.trim()"
        shown = window.run(f"[...document.querySelectorAll('h1, .fig dd, .five b')].every({seen})")
        assert shown or width < 600  # a phone shows no savings
        found: dict[str, float] = window.run(self.BOTTOM)
        return found

    @pytest.mark.parametrize("name", ["known", "hundred"])
    @pytest.mark.parametrize(("width", "height"), [(1280, 800), (768, 1024)])
    def test_all_of_it(
        self, window: Browser, pages: dict[str, Path], name: str, width: int, height: int
    ) -> None:
        """Contents, headline, four figures and all costliest sites, and that more follows."""
        parts = self.parts(window, pages[name], width, height)
        assert all(bottom <= height for bottom in parts.values()), parts
        assert window.run("document.querySelectorAll('.fig > div').length") == 4
        assert 3 <= window.run("document.querySelectorAll('.five li').length") <= 5
        assert (
            window.run("document.querySelector('#sites h2').getBoundingClientRect().bottom")
            <= height
        )
        silent(window, pages[name])

    def test_on_a_phone(self, window: Browser, pages: dict[str, Path]) -> None:
        """Contents, headline, figures, and the first of the costliest sites."""
        parts = self.parts(window, pages["known"], 360, 740)
        del parts[".five li:last-child"]
        assert all(bottom <= 740 + 60 for bottom in parts.values()), parts
        assert parts[".fig"] <= 740

    def test_a_site_opens_in_the_table(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        title = window.run(
            "[...document.querySelectorAll('.five .fn')].map((e) => e.textContent)"
        ).index("grow")
        window.click(f".five li:nth-child({title + 1}) a")
        assert window.run("document.querySelector('#tab tr.open .fn').textContent") == "grow"
        assert window.run(
            "[...document.querySelectorAll('#tab .stack li .fn')].map((e) => e.textContent)"
        ) == ["mprotect", "grow", "main"]

    def test_the_first_figures(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        tiles = [
            tile.replace("\u00a0", " ")
            for tile in window.run(
                "[...document.querySelectorAll('.fig > div')].map((e) => e.textContent)"
            )
        ]
        assert tiles[0] == "Calls126 redundant, 50 %"
        assert tiles[1] == "Host calls on Linux66 elided"
        assert re.fullmatch(
            r"Cost in an enclave, cycles; seconds at 3 GHzGramine today.+s→under laconic.+ "
            r"less→floor.+s",
            tiles[2],
        )
        assert re.fullmatch(r"Peak EPC[\d.]+ [KMG]iB[\d.]+ [KMG]iB under laconic", tiles[3])

    def test_a_word_opens_its_meaning(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        # A scroll would take the meaning away.
        window.run("document.querySelector('.term[data-term=floor]').focus({preventScroll: true})")
        window.wait("document.getElementById('tip').textContent.includes('lowest cost')")
        window.press("Escape")
        assert window.run("document.getElementById('tip').hidden")


class TestAnyNumberOfCalls:
    """0, 1, 100 and 100,000 calls: every part is there, and nothing goes wrong."""

    @pytest.mark.parametrize("name", ["empty", "one", "hundred", MANY])
    def test_all_parts(self, window: Browser, pages: dict[str, Path], name: str) -> None:
        window.open(pages[name])
        for section in SECTIONS:
            assert window.run(f"document.querySelectorAll('#{section} > *').length") >= 1, section
        count = {"empty": "0", "one": "1", "hundred": "100", "many": "100,000"}[name]
        assert window.run("document.querySelector('.fig dd').textContent") == count
        if name != "empty":
            assert window.run("document.querySelectorAll('#strategies .sbar .fl').length") == len(
                NAMES
            )
            assert window.run("document.querySelectorAll('#tab tbody tr').length") > 0
            assert (
                window.run("document.querySelectorAll('#flame-graph [role=treeitem]').length") > 1
            )
        if name in ("hundred", "many"):
            assert window.run("document.querySelectorAll('#time svg rect').length") > 20
            assert drawn(window) > 2
        silent(window, pages[name])

    @pytest.mark.slow
    def test_the_size_of_100_000_calls(self, window: Browser, pages: dict[str, Path]) -> None:
        """It is binned, and says so."""
        assert pages["many"].stat().st_size < LARGEST
        window.open(pages["many"])
        told = text_of(window, "notes")
        assert "more than 1,000 calls" in told
        assert (
            "the map shows the address spaces as they are at every" in told
            or "the map leaves out" in told
        )
        window.click("#graph [data-value=all]")
        assert window.run("document.querySelectorAll('#flame-graph [role=treeitem]').length") > 20

    def test_empty_says_so(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["empty"])
        assert (
            window.run("document.querySelector('h1').textContent")
            == "This program made no memory calls."
        )
        assert "the trace has no memory call" in text_of(window, "notes")
        assert window.run("document.querySelector('#notes details').open")
        assert window.run("document.getElementById('time').getClientRects().length") == 0

    def test_too_few_to_draw(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["one"])
        assert "too few calls to draw" in text_of(window, "time")
        assert "too few calls to draw" in text_of(window, "memory")
        assert window.run("document.querySelector('.five .rk').textContent") in ("", "1")


class TestTable:
    """It sorts, filters and groups."""

    HEAD = "#tab th:nth-child(3) button"

    def test_sort(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        assert window.run("document.querySelector('#tab [aria-sort]').textContent").startswith(
            "Today"
        )
        window.click(self.HEAD)
        shown = numbers(window, "Calls")
        assert shown == sorted(shown, reverse=True)
        assert len(set(shown)) > 1
        window.click(self.HEAD)
        assert numbers(window, "Calls") == sorted(numbers(window, "Calls"))
        assert window.run("document.querySelector('#tab th:nth-child(3)').ariaSort") == "ascending"
        assert window.run("document.querySelectorAll('#tab th[aria-sort]').length") == 1
        silent(window, pages["hundred"])

    def test_the_most_expensive_first(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        bars = window.run(
            "[...document.querySelectorAll('#tab .bar .t1')].map((e) => "
            "parseFloat(e.getAttribute('width')))"
        )
        assert len(bars) > 3
        assert bars[0] == max(bars)
        assert bars[0] > bars[-1]

    def test_filter(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        assert sum(numbers(window, "Calls")) == 12
        window.type("#filter", "GROW")
        assert numbers(window, "Calls") == [8]
        assert numbers(window, "Redundant") == [6]
        assert re.fullmatch(r"1 row, .* % of the cost", text_of(window, "site-count"))
        window.type("#filter", "no such thing")
        assert numbers(window, "Calls") == []
        window.type("#filter", "")
        assert sum(numbers(window, "Calls")) == 12

    def test_groups(self, window: Browser, pages: dict[str, Path]) -> None:
        """By source line, module and stack, all calls are in the table."""
        window.open(pages["hundred"])
        rows = []
        for kind in ("site", "module", "stack"):
            window.click(f"#site-tools [data-value={kind}]")
            if window.run("document.getElementById('site-more') !== null"):
                window.click("#site-more")
            assert sum(numbers(window, "Calls")) == 100, kind
            rows.append(len(numbers(window, "Calls")))
        assert rows[1] < rows[0] <= rows[2]

    def test_calls_one_by_one_and_stacks(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        window.type("#filter", "grow")
        window.click("#tab .tog")
        stack = window.run(
            "[...document.querySelectorAll('#tab .stack li .fn')].map((e) => e.textContent)"
        )
        assert stack == ["mprotect", "grow", "main"]
        window.click("#site-tools [data-value=call]")
        rows = "document.querySelectorAll('#calls-table tbody tr').length"
        assert window.run(rows) == 8
        window.type("#filter", "")
        assert window.run(rows) == 12
        assert (
            window.run(
                "[...document.querySelectorAll('#calls-table td')].filter((e) => e.textContent "
                "=== 'redundant').length"
            )
            == 6
        )


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
        window.click("#map-all")
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
        told = text_of(window, "map-readout")
        assert "Redundant call 1 of 6" in told
        assert "mprotect" in told and "grow" in told
        window.press("p")
        assert "Redundant call 6 of 6" in text_of(window, "map-readout")

    def test_next_redundant_comes_into_view(self, window: Browser, pages: dict[str, Path]) -> None:
        """The picture is scrolled to what is shown, and the readout stands beside the mark."""
        window.open(pages["known"], height=600)
        window.run("window.scrollTo({top: 0, behavior: 'instant'})")
        window.run("document.getElementById('map-next').click()")
        window.wait("!document.getElementById('tip').hidden")
        frame = window.run(box_of("map-frame"))
        assert frame[1] < 600 and frame[3] > 0
        tip = window.run(box_of("tip"))
        assert tip[0] >= 0 and tip[1] >= 0 and tip[3] <= 600
        assert "Redundant: mprotect" in text_of(window, "tip")
        assert "1 of 6" in text_of(window, "map-count")

    def test_readout_at_the_pointer(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        x, y = window.centre("#map-canvas")
        wide = window.run("document.getElementById('map-canvas').clientWidth")
        for step in range(-20, 20):
            window.send(
                "Input.dispatchMouseEvent", type="mouseMoved", x=x + wide / 4, y=y + step * 8
            )
            if "arena" in text_of(window, "tip"):
                break
        assert "mapped by mmap from arena" in text_of(window, "tip")
        assert "no access" in text_of(window, "tip")
        box = window.run(box_of("tip"))
        assert abs(box[0] - x - wide / 4) < 450

    def test_colours(self, window: Browser, pages: dict[str, Path]) -> None:
        """By touched pages, or by permissions; the legend has what is drawn."""
        window.open(pages["known"])
        legend = "[...document.querySelectorAll('#memory .legend li')].map((e) => e.textContent)"
        assert "under 20 % of its pages touched" in window.run(legend)
        window.click("#memory [data-value=permissions]")
        assert "read, write" in window.run(legend)
        assert drawn(window) > 2

    def test_process(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        assert "process prog 100" in window.run("document.getElementById('map-canvas').ariaLabel")
        first = self.view(window)
        window.choose("#map-process", "1")
        assert "process child 200" in window.run("document.getElementById('map-canvas').ariaLabel")
        assert self.view(window) != first
        silent(window, pages["known"])


def text(number: float) -> str:
    """A number as JavaScript prints it."""
    return str(int(number)) if number == int(number) else repr(number)


class TestGraph:
    """All calls or the redundant ones, by cycles, pages or calls; a click zooms, and what is
    searched for is found."""

    def titles(self, window: Browser) -> list[str]:
        found: list[str] = window.run(
            "[...document.querySelectorAll('#flame-graph .box')].map((e) => e.textContent)"
        )
        return found

    def press(self, window: Browser, value: str) -> None:
        window.click(f"#graph [data-value={value}]")

    def root(self, window: Browser) -> str:
        found: str = window.run("document.querySelector('#flame-graph .box').ariaLabel")
        return found.replace("\u00a0", " ")

    def test_redundant_calls_by_stack(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        for value in ("redundant", "calls", "all"):
            self.press(window, value)
        assert self.titles(window) == ["all", "prog", "main", "grow x.c:5", "mprotect"]
        assert "6 calls, 100 %" in self.root(window)

    def test_switches(self, window: Browser, pages: dict[str, Path]) -> None:
        """Every weight has its unit; folded modules have fewer rows than frames."""
        window.open(pages["hundred"])
        assert re.search(r" [MGk]? ?cycles, 100 %", self.root(window))
        self.press(window, "pages")
        assert re.search(r"iB, [\d,]+ pages, 100 %", self.root(window))
        self.press(window, "calls")
        assert "100 calls, 100 %" in self.root(window)
        depth = (
            "Math.max(...[...document.querySelectorAll('#flame-graph .box')].map((e) => "
            "Number(e.ariaLevel)))"
        )
        folded = window.run(depth)
        self.press(window, "all")
        assert window.run(depth) > folded
        silent(window, pages["hundred"])

    def test_zoom_by_click_and_key(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        self.press(window, "all")
        everything = len(self.titles(window))
        zoomed = "document.getElementById('flame-graph').dataset.zoomed"
        window.click("#flame-graph .box[aria-level='4']")
        assert window.run(zoomed) != "all"
        assert len(self.titles(window)) < everything
        for _ in range(3):
            window.press("Escape")
        assert window.run(zoomed) == "all"
        assert len(self.titles(window)) == everything
        window.press("ArrowDown")
        assert window.run("document.activeElement.textContent") == "main"
        window.press("Enter")
        assert window.run(zoomed) == "main"
        window.click("#graph-reset")
        assert window.run(zoomed) == "all"

    def test_search(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        for value in ("redundant", "calls"):
            self.press(window, value)
        window.type("#graph-search", "GROW")
        assert window.run("document.querySelectorAll('#flame-graph .found').length") == 1
        assert text_of(window, "graph-readout") == "“grow” is in 100 % of 6 calls."
        window.click("#graph .legend button")
        assert "“libx”" in text_of(window, "graph-readout")


class TestTime:
    """Values at the pointer, and a span that the whole page follows."""

    def calls(self, window: Browser) -> int:
        found = re.search(r": ([\d,]+) calls?,", text_of(window, "time-readout"))
        assert found is not None
        return int(found[1].replace(",", ""))

    def test_values_at_the_pointer(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        x, y = window.centre("#time-picture")
        window.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert re.search(
            r" to .*\d calls?, \d+ redundant\d+ host calls?.* cycles", text_of(window, "tip")
        )

    def test_a_span_selects_for_the_whole_page(
        self, window: Browser, pages: dict[str, Path]
    ) -> None:
        window.open(pages["hundred"])
        assert self.calls(window) == 100
        whole = window.run("document.getElementById('map-frame').dataset.view")
        drag(window, "#time-picture", 0.4, 0.7)
        some = self.calls(window)
        assert 0 < some < 100
        assert window.run("document.querySelectorAll('#time .sel').length") == 1
        window.click("#site-tools [data-value=stack]")
        if window.run("document.getElementById('site-more') !== null"):
            window.click("#site-more")
        assert sum(numbers(window, "Calls")) == some
        window.click("#graph [data-value=calls]")
        assert f"{some} calls" in window.run(
            "document.querySelector('#flame-graph .box').ariaLabel"
        )
        assert window.run("document.getElementById('map-frame').dataset.view") != whole
        window.click("#site-tools [data-value=call]")
        assert window.run("document.querySelectorAll('#calls-table tbody tr').length") == some
        window.click("#span-clear")
        assert self.calls(window) == 100
        assert window.run("document.getElementById('map-frame').dataset.view") == whole
        silent(window, pages["hundred"])

    def test_by_keyboard(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        window.run("document.getElementById('time-picture').focus()")
        window.press("ArrowRight")
        first = text_of(window, "time-readout")
        assert self.calls(window) < 100
        window.press("ArrowRight")
        assert text_of(window, "time-readout") != first
        window.press("Escape")
        assert self.calls(window) == 100

    def test_the_address_keeps_the_view(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        drag(window, "#time-picture", 0.3, 0.6)
        some, address = self.calls(window), window.run("location.hash")
        assert "span=" in address
        window.open(pages["known"])
        window.run(f"location.hash = {json.dumps(address)}")
        window.wait("document.querySelectorAll('#time .sel').length === 1")
        assert self.calls(window) == some


class TestProcesses:
    """One process, or all."""

    def test_every_part_follows(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["known"])
        assert sum(numbers(window, "Calls")) == 12
        window.choose("#process", window.run("document.querySelector('#process').lastChild.value"))
        assert sum(numbers(window, "Calls")) == 2
        assert "process child 200" in window.run("document.getElementById('map-canvas').ariaLabel")
        assert text_of(window, "time-readout").startswith("All: 2 calls")
        assert "show=process-" in window.run("location.hash")
        window.choose("#process", "")
        assert sum(numbers(window, "Calls")) == 12
        silent(window, pages["known"])


class TestStrategies:
    """The bars have the floor as a line, and the same numbers stand beside them."""

    def test_the_floor_is_left_of_every_bar(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hundred"])
        rows = window.run(
            "[...document.querySelectorAll('#strategies .sts li[data-strategy]')].map((e) => ["
            "e.dataset.strategy, parseFloat(e.querySelector('.fl').getAttribute('x1')),"
            "[...e.querySelectorAll('rect[class^=c]')].reduce((sum, r) => sum + "
            "parseFloat(r.getAttribute('width')), 0)])"
        )
        assert [row[0] for row in rows] == list(NAMES)
        assert all(floor <= bar + 0.02 for _, floor, bar in rows)
        table = window.run(
            "[...document.querySelectorAll('#strategies tbody th')].map((e) => e.textContent)"
        )
        assert table == ["Gramine today", *NAMES[1:], "floor"]


class TestSuppressed:
    """What is suppressed has one row for each reason, with its cost."""

    def test_told(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["suppressed"])
        assert "<b>the allocator's own</b>: 8 calls, 6 redundant" in text_of(window, "notes")
        assert "suppressed (1 site)" in window.run("document.querySelector('.five').textContent")
        titles = "[...document.querySelectorAll('.five .fn')].map((e) => e.textContent)"
        assert not any("allocator" in title for title in window.run(titles))
        assert sum(numbers(window, "Calls")) == 12
        window.type("#filter", "the allocator's own")
        assert numbers(window, "Calls") == [8]
        window.click("#site-tools [data-value=call]")
        assert window.run("document.querySelectorAll('#calls-table tbody tr').length") == 8
        for value in ("redundant", "calls"):
            window.click(f"#graph [data-value={value}]")
        boxes = window.run(
            "[...document.querySelectorAll('#flame-graph .box')].map((e) => e.ariaLabel)"
        )
        assert any(
            box.startswith("<b>the allocator's own</b> (suppressed): 6 calls") for box in boxes
        )
        window.run("document.getElementById('map-frame').focus()")
        window.press("n")
        assert "mprotect from <b>the allocator's own</b> (suppressed)" in text_of(
            window, "map-readout"
        )
        silent(window, pages["suppressed"])


class TestPaper:
    """What is printed is light, whatever the screen is."""

    @pytest.mark.parametrize("theme", ["", "dark"])
    def test_light(self, window: Browser, pages: dict[str, Path], theme: str) -> None:
        window.open(pages["known"], dark=True)
        for _ in range(["", "light", "dark"].index(theme)):
            window.click("#theme")
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        pixel = (
            "[...document.getElementById('map-canvas').getContext('2d').getImageData(1, 1, "
            "1, 1).data].slice(0, 3)"
        )
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
        window.wait(f"({pixel}).join() === '18,21,24'")


class TestColours:
    """Light and dark: as the system has it, and by the switch."""

    PAPER = "getComputedStyle(document.documentElement).backgroundColor"

    def test_dark(self, window: Browser, pages: dict[str, Path]) -> None:
        light, dark = "rgb(255, 255, 255)", "rgb(18, 21, 24)"
        window.open(pages["known"], dark=False)
        assert window.run(self.PAPER) == light
        for _ in range(2):
            window.click("#theme")
        assert text_of(window, "theme-name") == "Dark"
        assert window.run(self.PAPER) == dark
        pixel = (
            "[...document.getElementById('map-canvas').getContext('2d').getImageData(1, 1, "
            "1, 1).data].slice(0, 3)"
        )
        assert window.run(pixel) == [18, 21, 24]
        window.open(pages["known"], dark=True)
        assert window.run(self.PAPER) == dark
        window.click("#theme")
        assert window.run(self.PAPER) == light
        silent(window, pages["known"])


class TestHostileNames:
    """Names are shown as text, whatever is in them."""

    def test_as_text(self, window: Browser, pages: dict[str, Path]) -> None:
        window.open(pages["hostile"])
        window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for kind in ("call", "stack", "module", "site"):
            window.click(f"#site-tools [data-value={kind}]")
        shown = window.run(
            "document.body.textContent + "
            "JSON.stringify(JSON.parse(document.getElementById('data').textContent))"
        )
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
            window.choose("#map-process", str(number))
            assert f" {100 + number}: " in window.run(
                "document.getElementById('map-canvas').ariaLabel"
            )
        window.type("#filter", "__proto__")
        assert len(numbers(window, "Calls")) >= 1
        silent(window, pages["hostile"])

    def test_the_policy_holds(self, window: Browser, pages: dict[str, Path]) -> None:
        """Even a script that did get into the page would not run, nor reach out."""
        window.open(pages["known"])
        window.run(
            "(() => { const s = document.createElement('style'); s.textContent = 'html { margin: "
            "99px }';"
            "document.head.append(s); })()"
        )
        assert window.run("getComputedStyle(document.documentElement).marginTop") == "0px"
        assert (
            window.run("fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')")
            == "refused"
        )
        parse = (
            "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'set'; } catch { "
            "return 'no'; } })()"
        )
        assert window.run(parse) == "no"
        assert any("Content Security Policy" in error for error in window.errors)


class TestForEveryone:
    """On a phone, by keyboard, by a screen reader."""

    @pytest.mark.parametrize("name", ["empty", "known", "hostile", MANY])
    def test_a_narrow_window_does_not_scroll_sideways(
        self, window: Browser, pages: dict[str, Path], name: str
    ) -> None:
        window.open(pages[name], width=360, height=740)
        window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert window.run("document.documentElement.scrollWidth") <= 360
        assert window.run("document.documentElement.clientWidth") == 360
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
            "[...document.querySelectorAll('svg text')].filter((text) => { const a = "
            "text.getBoundingClientRect(),"
            "b = text.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || "
            "a.right > b.right + 1; })"
            ".map((text) => text.textContent)"
        )
        window.open(made, width=320, height=740)
        for width in (320, 360, 420, 500, 900):
            window.size(width)
            window.wait(f"document.documentElement.clientWidth === {width}")
            window.run(
                "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            assert window.run(cut) == [], width
        silent(window, made)

    @pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("width", [1280, 360])
    @pytest.mark.parametrize("name", ["empty", "known", "hostile"])
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
        drag(window, "#time-picture", 0.1, 0.9)
        window.click("#graph [data-value=calls]")
        window.click("#flame-graph .box[aria-level='3']")
        window.type("#graph-search", "grow")
        window.click("#tab thead th:nth-child(4) button")
        window.click("#tab .tog")
        for kind, wanted in (("site", ""), ("module", "no such thing"), ("call", "grow")):
            window.click(f"#site-tools [data-value={kind}]")
            window.type("#filter", wanted)
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
        for _ in range(90):
            window.press("Tab")
            reached.append(
                window.run(
                    "document.activeElement.id || document.activeElement.textContent.slice(0, 20)"
                )
            )
            parts.append(window.run("document.activeElement.closest('section')?.id || ''"))
        assert reached[0].startswith("Skip")
        assert {"theme", "map-frame", "time-picture", "graph-search", "filter", "map-next"} <= set(
            reached
        )
        order = [part for part in dict.fromkeys(parts) if part]
        assert order == [section for section in SECTIONS if section in order]
        window.run("document.getElementById('map-frame').focus()")
        window.press("Tab")
        assert window.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    def test_pictures_have_words(self, window: Browser, pages: dict[str, Path]) -> None:
        """Each picture has a description with numbers, and a folded table with what it shows."""
        window.open(pages["known"])
        labels = window.run(
            "[...document.querySelectorAll('svg:not([aria-hidden]), canvas')].map((each) => "
            "each.ariaLabel)"
        )
        assert len(labels) == len(NAMES) + 2
        assert all(label and re.search(r"\d", label) for label in labels)
        for section in ("graph", "time", "memory"):
            rows = f"document.querySelectorAll('#{section} details.astext tbody tr').length"
            assert window.run(rows) > 0, section

    def test_without_scripts(self, window: Browser, pages: dict[str, Path]) -> None:
        """The answer is there, and no part that needs a script."""
        window.send("Emulation.setScriptExecutionDisabled", value=True)
        try:
            window.send("Page.navigate", url="about:blank")
            window.size(1280, 800)
            window.send("Page.navigate", url=pages["known"].as_uri())
            window.wait("document.readyState === 'complete' && !!document.querySelector('h1')")
            seen = "(id) => document.getElementById(id).getClientRects().length > 0"
            assert [part for part in SECTIONS if not window.run(f"({seen})('{part}')")] == [
                "graph",
                "time",
                "memory",
            ]
            cells = (
                "[...document.querySelectorAll('#tab tbody tr.row')].map((row) => "
                "[...row.cells].map((e) => e.textContent.trim()))"
            )
            printed = window.run(cells)
            assert len(printed) > 2
            assert "laconic callers" in window.run("document.body.innerText")
        finally:
            window.send("Emulation.setScriptExecutionDisabled", value=False)
        # The script writes the same numbers in the same order.
        window.open(pages["known"])
        shown = window.run(cells)
        assert [row[2:] for row in shown] == [row[2:] for row in printed]
        assert [row[0] for row in shown] == [row[0] for row in printed]


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
        ("light", "top", 1280, False),
        ("graph", "graph", 1280, False),
        ("dark", "strategies", 1280, True),
        ("memory", "time", 1280, False),
        ("narrow", "top", 360, False),
    )
    for name, part, width, dark in drawn:
        window.open(made, width=width, height=740 if width < 600 else 800, dark=dark)
        if part != "top":
            window.run(f"document.getElementById({json.dumps(part)}).scrollIntoView()")
        picture = window.picture()
        assert picture.startswith(b"\x89PNG")
        (place / f"html-{name}.png").write_bytes(picture)
