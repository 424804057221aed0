"""The page of a trace, or of two: one self-contained HTML file. Pure: data in, bytes out."""

from __future__ import annotations

from typing import Any

from laconic.analysis.pair import Pair
from laconic.analysis.timeline.collect import Page
from laconic.report.html import data, document, pair, pairdata


def as_html(page: Page | Pair) -> bytes:
    """The page, in UTF-8. O(size of the page's data)."""
    return pair.as_html(page) if isinstance(page, Pair) else document.as_html(page)


def as_json(page: Page | Pair) -> dict[str, Any]:
    """What the page holds. O(size of the page's data)."""
    return pairdata.as_json(page) if isinstance(page, Pair) else data.as_json(page)


__all__ = ["as_html", "as_json"]
