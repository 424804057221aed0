"""The headline of the page: one sentence, and a second for what else matters."""

from __future__ import annotations

from typing import Any, NamedTuple

from laconic.analysis.timeline.collect import Page
from laconic.report.html.groups import Group, subjects
from laconic.report.html.names import LOADER
from laconic.report.html.numbers import cycles, middle, plural, share, size


class Headline(NamedTuple):
    """`subject` is a function's name that the sentence `text` begins with, empty if it does not;
    `lede` follows in smaller type."""

    subject: str
    text: str
    lede: str


def headline(page: Page) -> Headline:
    """What the page says first. O(sites)."""
    if not page.ledger.calls:
        return Headline("", "This program made no memory calls.", "")
    found = subjects(page)
    return _costly(page, found[0]) if found else Headline("", "No site stands out.", "")


def _costly(page: Page, group: Group) -> Headline:
    total = middle(_total(page))
    where = f" ({group.module})" if group.module != LOADER else ""
    text = (
        f"{where} costs {cycles(group.today)} cycles, {share(middle(group.today), total)} of all: "
        f"{plural(group.tally.calls, 'call')} of {size(group.tally.pages)}."
    )
    return Headline(group.function, text, "")


def _total(page: Page) -> tuple[float, float]:
    if page.compared is None or "every-call" not in page.compared.strategies:
        return 0, 0
    return page.compared.strategies["every-call"].total.cycles


def headline_json(page: Page) -> dict[str, Any]:
    """The headline as text."""
    found = headline(page)
    return {"headline": f"{found.subject}{found.text}", "lede": found.lede}
