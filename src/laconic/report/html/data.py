"""What a page holds, as JSON: the figures, and the pictures' data in the form that the page's
script draws from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.sites import EVERY_CALL, LACONIC, Site
from laconic.analysis.timeline.areas import Area, fitted
from laconic.analysis.timeline.collect import Page
from laconic.analysis.timeline.series import Bins
from laconic.report import compare
from laconic.report.html.missing import binned, missing
from laconic.report.html.text import plain
from laconic.sgx.costs import CostProfile
from laconic.trace.stacks import NO_STACK

Json = dict[str, Any]
#: Frames of a stack that are shown, half of them innermost.
FRAMES = 100


class Limits(NamedTuple):
    """How much of each kind a page may hold."""

    processes: int = 100
    areas: int = 16_000
    marks: int = 8_000
    sites: int = 2_000

    def halved(self) -> Limits:
        """Half of each."""
        return Limits(*(max(limit // 2, 1) for limit in self))


class Names:
    """Names by number, as they are shown."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.texts: list[str] = []

    def __call__(self, text: str) -> int:
        """The number of a name."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(plain(text))
        return number


def as_json(page: Page, limits: Limits | None = None) -> Json:
    """All that the page shows; docs/html.md says what each key means. O(size of the page's
    data)."""
    limits = limits or Limits()
    names = Names()
    hidden = _hidden(page)
    sites, rows, order = _sites(page, limits, names, [reason for reason, *_ in hidden])
    spaces, left_out = _spaces(page, limits, names, order)
    singles = None if page.singles is None else [
        [each.event, each.time // 1000, each.process, names(each.call), _arguments(each.args), _result(each.result),
         each.host_calls, order[each.site]]
        for each in page.singles
    ]  # fmt: skip
    return {
        "schema": SCHEMAS["html"],
        "summary": _summary(page),
        "missing": [plain(sentence) for sentence in missing(page)],
        "binned": binned(page, left_out, max(len(page.sites) - len(page.hidden) - limits.sites, 0)),
        "hidden": [[plain(reason), *numbers] for reason, *numbers in hidden],
        "modules": [[plain(path), plain(why)] for path, why in page.modules],
        "time": _bins(page.by_time) if page.last else None,
        "order": _bins(page.by_order),
        "moments": {"step": page.moments.step, "microseconds": [time // 1000 for time in page.moments],
                    "last": page.last // 1000},
        "spaces": spaces,
        "strategies": _strategies(page),
        "sites": rows,
        "stacks": sites.stacks,
        "places": sites.places,
        "calls": singles,
        "names": names.texts,
    }  # fmt: skip


def _summary(page: Page) -> Json:
    ledger, command = page.ledger, page.about.get("command") or []
    return {
        "command": [plain(str(word)) for word in command] if isinstance(command, list) else [],
        "source": page.source,
        "machine": {key: plain(str(page.machine[key])) for key in ("system", "release", "machine")
                    if page.machine.get(key)},
        "exit_status": page.end.get("exit_status"),
        "events": page.events,
        "processes": ledger.processes,
        "programs": list(dict.fromkeys(plain(process.path) for process in page.processes))[:20],
        "calls": ledger.calls,
        "host_calls": ledger.host_calls,
        "redundant": ledger.redundant,
        "uncertain": page.uncertain,
        "seconds": page.last / 1e9,
        "by_call": {plain(name): [each.calls, each.host_calls, each.elided, each.narrowed, each.failed]
                  for name, each in sorted(ledger.by_call.items())},
        "notes": [plain(note) for note in ledger.notes],
    }  # fmt: skip


def _bins(bins: Bins) -> Json:
    return {
        "width": bins.width,
        "calls": bins.calls,
        "host_calls": bins.host_calls,
        "redundant": bins.redundant,
    }


def _strategies(page: Page) -> Json | None:
    if page.compared is None:
        return None
    figures = compare.as_json(page.compared)
    shown = {
        name: {
            key: each[key]
            for key in ("counts", "counts_low", "cycles", "ratio", "ratio_low")
            if key in each
        }
        for name, each in figures["strategies"].items()
    }
    profile = {
        key: plain(text) if isinstance(text, str) else text
        for key, text in figures["profile"].items()
    }
    notes = [plain(note) for note in figures["notes"]]
    return {"profile": profile, "ranged": figures["ranged"], "strategies": shown, "notes": notes}


# Sites


class _Stacks:
    # Stacks and places by number.

    def __init__(self, page: Page, names: Names) -> None:
        self._page, self._names = page, names
        self._numbers: dict[int, int] = {}
        self._places: dict[tuple[int, int, int, int], int] = {}
        self.stacks: list[list[int]] = []
        self.places: list[tuple[int, int, int, int]] = []

    def number(self, stack: int) -> int:
        if stack == NO_STACK or not self._page.places.get(stack):
            return -1
        if stack not in self._numbers:
            self._numbers[stack] = len(self.stacks)
            self.stacks.append(self._frames(stack))
        return self._numbers[stack]

    def _frames(self, stack: int) -> list[int]:
        # Innermost first; ~number where the frame was guessed.
        found = []
        for place, guessed in self._page.places[stack]:
            where = f"{place.file}:{place.line}" if place.file else ""
            number = self._place(place.function, place.module, where, place.inlined)
            found.append(~number if guessed else number)
        if len(found) > FRAMES:
            half = FRAMES // 2
            cut = self._place(f"[{len(found) - 2 * half} frames are not shown]", "", "", False)
            found[half:-half] = [cut]
        return found

    def _place(self, function: str, module: str, where: str, inlined: bool) -> int:
        names = self._names
        key = names(function), names(module), names(where), int(inlined)
        number = self._places.get(key)
        if number is None:
            number = self._places[key] = len(self.places)
            self.places.append(key)
        return number


def _hidden(page: Page) -> list[tuple[str, int, int, int]]:
    # What is suppressed, by the reason: sites, calls, redundant calls; the most first.
    found: dict[str, list[int]] = {}
    for number, reason in page.hidden.items():
        site, figures = page.sites[number], found.setdefault(reason, [0, 0, 0])
        figures[:] = figures[0] + 1, figures[1] + site.calls, figures[2] + site.redundant
    told = [
        (reason, sites, calls, redundant) for reason, (sites, calls, redundant) in found.items()
    ]
    return sorted(told, key=lambda each: (-each[3], -each[2], each[0]))


def _sites(
    page: Page, limits: Limits, names: Names, reasons: Sequence[str]
) -> tuple[_Stacks, list[list[Any]], list[int]]:
    # The worst first; those that are too many in one row. `order`: of each site of the page the
    # number of its row, ~n for the nth of the reasons why it is suppressed.
    stacks = _Stacks(page, names)
    ranked = sorted(
        (number for number in range(len(page.sites)) if number not in page.hidden),
        key=lambda number: (
            -page.sites[number].redundant,
            -page.sites[number].calls,
            page.sites[number].first,
        ),
    )
    shown = ranked[: limits.sites] if len(ranked) > limits.sites else ranked
    rows = [
        [*_row(page.sites[number], stacks.number(page.sites[number].stack), names, page.profile),
         min(page.own.get(number, 0), FRAMES // 2)]
        for number in shown
    ]  # fmt: skip
    order = [len(rows)] * len(page.sites)
    place_of = {reason: place for place, reason in enumerate(reasons)}
    for number, reason in page.hidden.items():
        order[number] = ~place_of[reason]
    for place, number in enumerate(shown):
        order[number] = place
    rest = [page.sites[number] for number in ranked[len(shown) :]]
    if rest:
        total = Site("(other sites)", NO_STACK, "", first=min(site.first for site in rest))
        rows.append([*_row(total, -2, names, page.profile, rest), 0])
    return stacks, rows, order


def _row(
    site: Site, stack: int, names: Names, profile: CostProfile, parts: Sequence[Site] = ()
) -> list[Any]:
    figures = [0] * 8
    for part in parts or [site]:
        costs = [profile.cycles(part.counts[name]) if name in part.counts else (0.0, 0.0)
                 for name in (EVERY_CALL, LACONIC)]  # fmt: skip
        own = [
            part.calls,
            part.redundant,
            part.host_calls,
            part.failed,
            *(round(end) for ends in costs for end in ends),
        ]
        figures = [total + more for total, more in zip(figures, own, strict=True)]
    return [names(site.call), stack, names(site.program), site.first, *figures]


# Address spaces


def _spaces(
    page: Page, limits: Limits, names: Names, order: Sequence[int]
) -> tuple[Json, dict[str, int]]:
    # What is left out, in numbers, beside.
    known = [number for number, calls in enumerate(page.calls) if calls]
    ranked = sorted(known, key=lambda number: (-page.calls[number], number))
    shown = sorted(ranked[: limits.processes])
    chosen = set(shown)
    own = [area for area in page.areas if area.process in chosen]
    areas, step, grain, left_out = fitted(own, page.step, page.grain, limits.areas)
    every, marks = page.marks.fewer(limits.marks)
    # The last step may lead beyond the end.
    calls = max(sum(page.by_order.calls), 1)
    by_process: dict[int, list[Area]] = {number: [] for number in shown}
    for area in areas:
        by_process[area.process].append(area)
    spaces = []
    for number in shown:
        ordered = sorted(by_process[number], key=lambda area: (area.since, area.start))
        process = page.processes[number]
        spaces.append({
            "pid": process.pid, "process": number, "program": names(process.path), "calls": page.calls[number],
            **_edges(ordered, names, calls),
            "marks": [value for mark in marks if mark.process == number
                      for value in (mark.call, mark.start, mark.pages, order[mark.site])],
        })  # fmt: skip
    told = {
        "processes": len(known) - len(shown),
        "areas": page.left_out + left_out,
        "step": step,
        "grain": grain,
        "marks": every,
    }
    return {"step": step, "grain": grain, "mark_step": every, "processes": spaces}, told


def _edges(areas: Sequence[Area], names: Names, calls: int) -> Json:
    # Areas name the pages where they begin and end by their place in the list of all such.
    edges = sorted({edge for area in areas for edge in (area.start, area.end)})
    place = {edge: number for number, edge in enumerate(edges)}
    return {
        "edges": [edge - before for before, edge in zip([0, *edges], edges, strict=False)],
        "areas": [
            value
            for area in areas
            for value in (place[area.start], place[area.end], area.prot, names(area.name), area.since,
                          min(area.until, calls))
        ],
    }  # fmt: skip


def _arguments(args: Sequence[int]) -> str:
    return ", ".join(str(value) if value < 4096 else f"{value:#x}" for value in args)


def _result(result: int) -> str:
    return str(result) if -4096 < result < 4096 else f"{result:#x}"
