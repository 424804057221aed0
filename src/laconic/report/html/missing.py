"""Notes on what a page does not show: data that the trace lacks, and data that was too much for a
page."""

from __future__ import annotations

from collections.abc import Mapping

from laconic.analysis.timeline.collect import CALLS, Page
from laconic.trace.stacks import NO_STACK

#: The number of losses that are listed individually.
_SHOWN = 20
NO_STACKS = (
    "the trace has no stacks, so no function can be named: laconic run --stacks all takes them"
)
NO_TIMES = "the trace has no times: what is over time elsewhere is in the order of the calls"
EMPTY = "the trace has no memory call"


def missing(page: Page) -> list[str]:
    """Return what the trace lacks, in sentences; empty if it is complete. O(sites)."""
    lines = [*page.loss[:_SHOWN]]
    if len(page.loss) > _SHOWN:
        lines.append(f"and {len(page.loss) - _SHOWN:,} more kinds of loss")
    if not page.ledger.calls:
        return [*lines, EMPTY]
    if not page.last:
        lines.append(NO_TIMES)
    bare = sum(
        site.calls
        for number, site in enumerate(page.sites)
        if number not in page.hidden and (site.stack == NO_STACK or not page.places.get(site.stack))
    )
    if bare == sum(site.calls for site in page.sites):
        lines.append(NO_STACKS)
    elif bare:
        lines.append(
            f"{bare:,} of {page.ledger.calls:,} calls have no stack: they are shown by program and "
            "call"
        )
    if page.uncertain:
        one = page.uncertain == 1
        lines.append(
            f"{page.uncertain:,} host call{' is' if one else 's are'} uncertain: as many calls "
            "more would be redundant if all that a log does not show already had the requested "
            "state"
        )
    if page.source != "run":
        lines.append(
            "a log does not say which pages were touched: the cycles of a site are those with none "
            "touched"
        )
    strange = page.calls and page.ledger.calls - sum(page.calls)
    if strange:
        lines.append(
            f"{strange:,} calls are of processes that are not followed, and are not in the map"
        )
    return lines


def binned(page: Page, left: Mapping[str, int], sites: int) -> list[str]:
    """Return what was too much for a page and is drawn more coarsely, or omitted, in sentences.
    O(1)."""
    lines = []
    if page.singles is None:
        lines.append(
            f"there are more than {CALLS:,} calls: they are listed by site, and not one by one"
        )
    if not page.last and page.series.width > 1:
        lines.append(
            f"the picture of calls over their order has a bin for each {page.series.width:,} calls"
        )
    if page.moments.step > 1:
        lines.append(
            f"the map knows the time of every {_th(page.moments.step)} call; those between are "
            "interpolated"
        )
    if left["step"] > 1:
        lines.append(
            f"the map shows the address spaces as they are at every {_th(left['step'])} call"
        )
    if left["grain"] > 1:
        lines.append(
            "where pages are mapped without a gap, the map shows the permissions and the name of "
            f"every {_th(left['grain'])} page"
        )
    if left["areas"]:
        lines.append(f"the map leaves out {left['areas']:,} areas, the smallest")
    if left["marks"] > 1:
        lines.append(f"the map marks about one in {left['marks']:,} redundant calls")
    if left["processes"]:
        lines.append(
            f"the map leaves out {left['processes']:,} processes, those with the fewest calls"
        )
    if sites > 0:
        lines.append(f"{sites:,} sites, those that cost least, share one row of the table")
    return lines


def _th(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
