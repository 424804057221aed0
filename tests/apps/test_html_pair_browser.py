"""The page of `laconic html A B` in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laconic.analysis.pair import pair
from laconic.report.html import as_html
from laconic.sgx import costs
from laconic.trace.reader import TraceReader
from tests.apps.browser import CHROMIUM, Browser, browser
from tests.helpers.pagetraces import hostile, known
from tests.helpers.sitetraces import sited

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """One browser for all tests."""
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by what they are of."""
    at = tmp_path_factory.mktemp("pairs")
    before = {"grow": (60, 3), "trim": (2, 5), "seal": (1, 2), "rest": (1, 1)}
    after = {"grow": (20, 3), "trim": (9, 5), "seal": (1, 9), "fresh": (0, 2), "rest": (1, 1)}
    first, second = sited(at / "before.trace", before), sited(at / "after.trace", after)
    traces = {
        "changed": (first, second),
        "same": (first, first),
        "hostile": (hostile(at / "hostile.trace"), known(at / "known.trace")),
    }
    made = {}
    for name, (one, other) in traces.items():
        made[name] = at / f"{name}.html"
        found = pair(TraceReader(one), TraceReader(other), costs.load())
        made[name].write_bytes(as_html(found))
    return made


def silent(window: Browser, file: Path) -> None:
    """The page complained of nothing and asked for nothing."""
    assert window.errors == []
    assert window.requests == [file.as_uri()]


def bottom(window: Browser, selector: str) -> float:
    """Where an element ends, in pixels from the top of the window."""
    found = window.run(f"document.querySelector({selector!r}).getBoundingClientRect().bottom")
    return float(found)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (768, 1024)])
def test_the_first_screen(window: Browser, pages: dict[str, Path], width: int, height: int) -> None:
    """Headline, four figures, the sites that changed most, and that more follows."""
    window.open(pages["changed"], width=width, height=height)
    for selector in ("h1", ".toc", ".fig", ".five li:last-child", "#sites h2"):
        assert 0 < bottom(window, selector) <= height, selector
    assert window.run("document.querySelectorAll('.fig > div').length") == 4
    assert window.run("document.querySelectorAll('.five li').length") == 4
    assert window.run("document.querySelector('h1').textContent").startswith("The second run costs")
    cut = (
        "[...document.querySelectorAll('.fig dd, .five b')].filter((e) => e.scrollWidth > "
        "e.clientWidth + 1)"
        ".map((e) => e.textContent)"
    )
    assert window.run(cut) == []
    silent(window, pages["changed"])


def test_on_a_phone(window: Browser, pages: dict[str, Path]) -> None:
    """Headline and figures are on the first screen, and no page scrolls sideways."""
    for name, page in pages.items():
        window.open(page, width=360, height=740)
        window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert window.run("document.documentElement.scrollWidth") <= 360, name
        silent(window, page)
    window.open(pages["changed"], width=360, height=740)
    assert bottom(window, ".fig") <= 740


def test_the_table_is_sorted_and_searched(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["changed"])
    names = (
        "[...document.querySelectorAll('#rows tbody tr:not([hidden]) .fn')].map((e) => "
        "e.textContent)"
    )
    assert window.run(names)[:2] == ["grow", "trim"]
    window.click("#rows thead th:nth-child(8) button")
    assert window.run(names)[:2] == ["grow", "trim"]  # 23 and 14 calls after
    window.click("#rows thead th:nth-child(8) button")
    assert window.run(names)[-1] == "grow"
    sorted_by = window.run("document.querySelector('#rows [aria-sort]').getAttribute('aria-sort')")
    assert sorted_by == "ascending"
    window.type("#filter", "SEAL")
    assert window.run(names) == ["seal"]
    silent(window, pages["changed"])


def test_a_site_leads_to_its_row(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["changed"], height=500)
    window.click(".five li:nth-child(2) a")
    window.wait("location.hash === '#row-1'")
    assert window.run("document.querySelector('#rows tr:target .fn').textContent") == "trim"
    assert 40 < bottom(window, "#rows tr:target") <= 500
    silent(window, pages["changed"])


def test_without_scripts(window: Browser, pages: dict[str, Path]) -> None:
    """All of it but sorting, searching and the theme."""
    window.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        window.send("Page.navigate", url="about:blank")
        window.size(1280, 800)
        window.send("Page.navigate", url=pages["changed"].as_uri())
        window.wait("document.readyState === 'complete' && !!document.querySelector('h1')")
        assert window.run("document.querySelectorAll('#rows tbody tr').length") == 7
        assert window.run("getComputedStyle(document.getElementById('theme')).display") == "none"
        assert window.run("document.querySelectorAll('.dg rect').length") > 5
    finally:
        window.send("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe(window: Browser, pages: dict[str, Path], width: int, dark: bool) -> None:
    """axe-core finds nothing serious or critical."""
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    window.open(pages["changed"], width=width, dark=dark)
    window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    window.run((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = window.run("axe.run(document, {resultTypes: ['violations']}).then((result) => result)")
    assert len(found["passes"]) > 10
    assert [
        (each["id"], [node["html"] for node in each["nodes"]][:3])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ] == []
