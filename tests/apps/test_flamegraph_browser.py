"""The SVG of `laconic flamegraph` in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laconic.analysis.flamegraph import CALLS, Flame, Flames
from laconic.report.flamegraph import as_svg
from tests.apps.browser import CHROMIUM, Browser, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
BOX = """[...document.querySelectorAll("g")].find((one) => one.textContent.startsWith({name!r}))"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A graph of 100 calls: main calls left (25) and right (75), and both call mmap."""
    stacks: dict[tuple[Flame, ...], int] = {
        (Flame("main", "prog"), Flame(name, "prog"), Flame("mmap", kind="call")): count
        for name, count in (("left", 25), ("right", 75))
    }
    path = tmp_path_factory.mktemp("svg") / "graph.svg"
    path.write_text(as_svg(Flames(CALLS, False, stacks)))
    with browser() as made:
        made.open(path)
        yield made


def width(window: Browser, name: str) -> float:
    """How wide a box is, in the units of the picture; 0 if it is hidden."""
    box = BOX.format(name=name)
    shown = f"getComputedStyle({box}).display !== 'none'"
    size = f"Number({box}.querySelector('rect').getAttribute('width'))"
    return float(window.run(f"{shown} ? {size} : 0"))


def click(window: Browser, name: str) -> None:
    """A click on a box, or on a label of the picture."""
    event = "new MouseEvent('click', {bubbles: true})"
    window.run(f"{BOX.format(name=name)}.dispatchEvent({event})")


def test_a_click_zooms_and_escape_returns(window: Browser) -> None:
    assert (width(window, "left"), width(window, "right")) == (300, 900)
    click(window, "left")
    assert [width(window, name) for name in ("main", "left", "right")] == [1200, 1200, 0]
    window.press("Escape")
    assert (width(window, "left"), width(window, "right")) == (300, 900)
    assert window.errors == []


def test_a_search_marks_boxes_and_says_their_share(window: Browser) -> None:
    window.run("window.prompt = () => 'RIGHT'")
    window.press("/")
    assert window.run("document.querySelector('.found').textContent") == "1 found, 75.0 %"
    assert window.run("document.querySelectorAll('.hit').length") == 1
    window.press("Escape")
    assert window.run("document.querySelectorAll('.hit').length") == 0


def test_the_root_is_on_the_first_screen(window: Browser) -> None:
    top = window.run(f"{BOX.format(name='all')}.getBoundingClientRect().top")
    assert 0 <= float(top) < 100
