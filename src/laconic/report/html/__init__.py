"""The page of a trace, or of two: one self-contained HTML file. Pure functions: data in, bytes
out."""

from __future__ import annotations

from typing import Any

from laconic.analysis.pair import Pair
from laconic.analysis.timeline.collect import Page
from laconic.report.html import data, document, pair, pairdata


def as_html(page: Page | Pair) -> bytes:
    """Return the page, in UTF-8. O(size of the page's data)."""
    return pair.as_html(page) if isinstance(page, Pair) else document.as_html(page)


def as_json(page: Page | Pair, limits: data.PageLimits | None = None) -> dict[str, Any]:
    """Return the data of the page; `limits` are those of the page of one trace. O(size of the
    page's data)."""
    if isinstance(page, Pair):
        return pairdata.as_json(page)
    return data.as_json(page, limits)


__all__ = ["as_html", "as_json"]
