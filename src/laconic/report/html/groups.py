"""The rows of the page's lists: sites on the same source line are one row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from laconic.analysis.sites import EVERY_CALL, LACONIC
from laconic.analysis.timeline.cells import CellTally
from laconic.analysis.timeline.collect import Page
from laconic.report.headline import WORK
from laconic.report.html.names import LOADER, short_function, short_line, short_module
from laconic.report.html.numbers import middle
from laconic.report.text import plain
from laconic.trace.stacks import NO_STACK

#: The module of a group of suppressed sites, and of what a library OS does around the calls.
SUPPRESSED, AROUND = "suppressed", "no call"


@dataclass(slots=True)
class Group:
    """Sites with the same call, function, source line and module, or the same reason for their
    suppression.

    `function` and `module` are short names; `full` is the function's whole name. `calls` are the
    names of the calls. `sites` are indices into `Page.sites`; `around` is a key of `Page.around` if
    the group is work of a library OS around the calls, and then there are no sites.
    """

    function: str
    module: str
    line: str = ""
    full: str = ""
    calls: list[str] = field(default_factory=list)
    sites: list[int] = field(default_factory=list)
    tally: CellTally = field(default_factory=CellTally)
    around: str = ""

    @property
    def today(self) -> tuple[float, float]:
        """The cycles under every-call, at the low and the high end of the cost profile."""
        return self.tally.today_low, self.tally.today_high

    @property
    def laconic(self) -> tuple[float, float]:
        """The cycles under laconic."""
        return self.tally.laconic_low, self.tally.laconic_high

    @property
    def is_suppressed(self) -> bool:
        """True for a group of suppressed sites; `function` is the reason."""
        return self.module == SUPPRESSED

    def take(self, page: Page, number: int) -> None:
        """Add the site of this number."""
        site = page.sites[number]
        if site.call not in self.calls:
            self.calls.append(site.call)
        self.sites.append(number)
        self.tally.add(page.tallies[number])

    def join(self, other: Group) -> None:
        """Add the sites of another group."""
        self.calls += [call for call in other.calls if call not in self.calls]
        self.sites += other.sites
        self.tally.add(other.tally)


GroupKey = tuple[str, str, str, str]


def key_of(page: Page, number: int) -> GroupKey:
    """Return what the sites of one group have in common: call, function, line and module."""
    site = page.sites[number]
    reason = page.hidden.get(number)
    if reason is not None:
        return "", reason, "", SUPPRESSED
    places = () if site.stack == NO_STACK else page.places.get(site.stack, ())
    if not places:
        return site.call, f"{_program(site.program)}", "", "no stack"
    place = places[min(page.own.get(number, 0), len(places) - 1)][0]
    return site.call, place.function, short_line(place.file, place.line), place.module


def _program(path: str) -> str:
    return path.rsplit("/", 1)[-1] or "a program that is not known"


def groups(page: Page) -> list[Group]:
    """Return all groups, the most expensive first. O(sites)."""
    found: dict[GroupKey, Group] = {}
    for number in range(len(page.sites)):
        key = key_of(page, number)
        group = found.get(key)
        if group is None:
            _, function, line, module = key
            group = found[key] = Group(
                plain(function if module == SUPPRESSED else short_function(function)),
                plain(short_module(module)),
                plain(line),
                plain(function),
            )
        group.take(page, number)
    return by_cost([*found.values(), *around(page)])


def around(page: Page) -> list[Group]:
    """Return the work of a library OS around the calls, if it costs anything."""
    found = []
    for kind, work in page.around.items():
        tally = CellTally(touched=work.touched_pages)
        tally.today_low, tally.today_high = page.profile.cycles(work.cost(EVERY_CALL))
        tally.laconic_low, tally.laconic_high = page.profile.cycles(work.cost(LACONIC))
        if tally.today_high or tally.laconic_high:
            title = WORK[kind]
            found.append(Group(title, AROUND, full=title, tally=tally, around=kind))
    return found


def by_cost(found: Iterable[Group]) -> list[Group]:
    """Return groups, the most expensive first; equally expensive ones by their calls and first
    site."""
    return sorted(
        found,
        key=lambda group: (
            -middle(group.today),
            -group.tally.calls,
            group.sites[0] if group.sites else -1,
        ),
    )


def subjects(page: Page) -> list[Group]:
    """Return the groups that are not suppressed, with all of the loader's as one. O(sites)."""
    loader = Group(LOADER, LOADER)
    others = []
    for group in groups(page):
        if group.is_suppressed:
            continue
        if group.module == LOADER:
            loader.join(group)
        else:
            others.append(group)
    return by_cost([*others, *([loader] if loader.sites else [])])


def loaded_files(page: Page) -> int:
    """Return how many files the loader mapped."""
    loader = {number for number in range(len(page.sites)) if _is_loaders(page, number)}
    return len({area.name for area in page.areas if area.site in loader and area.name[:1] == "/"})


def _is_loaders(page: Page, number: int) -> bool:
    return short_module(key_of(page, number)[3]) == LOADER
