"""The data of a page, as JSON: the figures, and the pictures' data in the form that the page's
script draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from laconic.analysis.schemas import SCHEMAS, Json
from laconic.analysis.timeline.areas import Area, fitted
from laconic.analysis.timeline.cells import CellTally
from laconic.analysis.timeline.collect import Page
from laconic.report import compare
from laconic.report.html.groups import around, subjects
from laconic.report.html.headline import headline
from laconic.report.html.missing import binned, missing
from laconic.report.html.names import LOADER, short_function, short_module
from laconic.report.html.numbers import CLOCK
from laconic.report.text import plain
from laconic.trace.stacks import NO_STACK

#: The maximum number of frames of a stack that are shown, half of them innermost.
FRAMES = 1_000
#: The number of rows of the list on the first screen.
FIRST = 5


class PageLimits(NamedTuple):
    """The maximum of each kind of data in a page."""

    processes: int = 100
    areas: int = 16_000
    marks: int = 8_000
    sites: int = 2_000
    cells: int = 6_000

    def halved(self) -> PageLimits:
        """Return half of each limit."""
        return PageLimits(*(max(limit // 2, 1) for limit in self))


class NameTable:
    """Names by number, as they are shown."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.texts: list[str] = []

    def __call__(self, text: str) -> int:
        """Return the number of a name."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(plain(text))
        return number


def as_json(page: Page, limits: PageLimits | None = None) -> Json:
    """Return all data of the page; docs/appendix/json.md describes each key.

    O(size of the page's data).
    """
    limits = limits or PageLimits()
    names = NameTable()
    hidden = _hidden(page)
    sites, rows, order = _sites(page, limits, names, [reason for reason, *_ in hidden])
    spaces, left_out = _spaces(page, limits, names, order)
    singles = (
        None
        if page.singles is None
        else [
            [
                each.event,
                each.time // 1000,
                each.process,
                names(each.call),
                _arguments(each.args),
                _result(each.result),
                each.host_calls,
                order[each.site],
            ]
            for each in page.singles
        ]
    )
    return {
        "schema": SCHEMAS["html"],
        "summary": _summary(page),
        "headline": headline(page)._asdict(),
        "first": _first(page, order, rows, names),
        "missing": [plain(sentence) for sentence in missing(page)],
        "binned": binned(page, left_out, max(len(page.sites) - len(page.hidden) - limits.sites, 0)),
        "hidden": [[plain(reason), *numbers] for reason, *numbers in hidden],
        "modules": [[plain(path), plain(why)] for path, why in page.modules],
        "clock": CLOCK,
        "time": _time(page, limits, order),
        "moments": {
            "step": page.moments.step,
            "microseconds": [time // 1000 for time in page.moments],
            "last": page.last // 1000,
        },
        "processes": _processes(page, limits, names),
        "spaces": spaces,
        "strategies": _strategies(page),
        "sites": rows,
        "stacks": sites.stacks,
        "frames": sites.frames,
        "places": sites.places,
        "calls": singles,
        "names": names.texts,
    }


def _summary(page: Page) -> Json:
    ledger, command = page.ledger, page.about.get("command") or []
    return {
        "command": [plain(str(word)) for word in command] if isinstance(command, list) else [],
        "source": page.source,
        "machine": {
            key: plain(str(page.machine[key]))
            for key in ("system", "release", "machine")
            if page.machine.get(key)
        },
        "exit_status": page.end.get("exit_status"),
        "events": page.events,
        "processes": ledger.processes,
        "programs": list(dict.fromkeys(plain(process.path) for process in page.processes))[:20],
        "calls": ledger.calls,
        "host_calls": ledger.host_calls,
        "redundant": ledger.redundant,
        "uncertain": page.uncertain,
        "seconds": page.last / 1e9,
        "by_call": {
            plain(name): [each.calls, each.host_calls, each.elided, each.narrowed, each.failed]
            for name, each in sorted(ledger.by_call.items())
        },
        "notes": [plain(note) for note in ledger.notes],
    }


def _first(
    page: Page, order: Sequence[int], rows: Sequence[Sequence[Any]], names: NameTable
) -> list[tuple[str, int]]:
    # For each row of the first screen: how the table is grouped for it, and the row of a site in
    # it.
    found = []
    for group in subjects(page)[:FIRST]:
        if group.around:
            title = names(group.function)
            place = next(
                place for place, row in enumerate(rows) if row[1] == AROUND_ROW and row[2] == title
            )
            found.append(("site", place))
        else:
            found.append(("module" if group.module == LOADER else "site", order[group.sites[0]]))
    return found


def _time(page: Page, limits: PageLimits, order: Sequence[int]) -> Json:
    # Calls over time in bins, and the tallies of each row of `sites` in each bin of another width.
    series = page.series
    cells = page.cells.widened(limits.cells)
    tallies: dict[tuple[int, int, int], CellTally] = {}
    for cell, tally in cells.tallies.items():
        key = cell.process, order[cell.site], cell.bin
        if key in tallies:
            tallies[key].add(tally)
        else:
            tallies[key] = CellTally()
            tallies[key].add(tally)
    return {
        "unit": "nanoseconds" if page.last else "calls",
        "width": series.width,
        "calls": series.calls,
        "host_calls": series.host_calls,
        "redundant": series.redundant,
        "cycles": [round(cycles) for cycles in series.cycles],
        "cell_width": cells.width,
        "cells": [value for key, tally in tallies.items() for value in (*key, *tally.rounded())],
    }


def _processes(page: Page, limits: PageLimits, names: NameTable) -> list[Json]:
    # The programs that make calls, those with the most calls first.
    ranked = sorted(
        (number for number, calls in enumerate(page.calls) if calls),
        key=lambda number: (-page.calls[number], number),
    )
    return [
        {
            "process": number,
            "pid": page.processes[number].pid,
            "program": names(page.processes[number].path),
            "calls": page.calls[number],
            "cycles": _program_cycles(page, number),
        }
        for number in ranked[: limits.processes]
    ]


def _program_cycles(page: Page, number: int) -> dict[str, list[int]]:
    if page.compared is None:
        return {}
    return {
        name: [round(end) for end in figures.programs[number].cycles]
        for name, figures in page.compared.strategies.items()
        if number in figures.programs
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


class _StackData:
    # Stacks and places by number. Frames form a tree from the outermost functions on, so the common
    # parts of stacks are stored once.

    def __init__(self, page: Page, names: NameTable) -> None:
        self._page, self._names = page, names
        self._numbers: dict[int, int] = {}
        self._places: dict[tuple[int, ...], int] = {}
        self._frames: dict[tuple[int, int], int] = {}
        #: The innermost frame of each stack.
        self.stacks: list[int] = []
        #: For each frame, the number of its caller's (-1: there is none), and its place: ~number if
        #: it was guessed.
        self.frames: list[int] = []
        #: Function, module, source line, 1 if inlined, short function, short module.
        self.places: list[tuple[int, ...]] = []

    def number(self, stack: int) -> int:
        if stack == NO_STACK or not self._page.places.get(stack):
            return -1
        if stack not in self._numbers:
            self._numbers[stack] = len(self.stacks)
            frame = -1
            for place in reversed(self._walk(stack)):
                frame = self._frame(frame, place)
            self.stacks.append(frame)
        return self._numbers[stack]

    def _walk(self, stack: int) -> list[int]:
        # Innermost first; ~number if the frame was guessed.
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

    def _frame(self, caller: int, place: int) -> int:
        number = self._frames.get((caller, place))
        if number is None:
            number = self._frames[caller, place] = len(self._frames)
            self.frames += [caller, place]
        return number

    def _place(self, function: str, module: str, where: str, inlined: bool) -> int:
        names = self._names
        short = names(short_function(function)), names(short_module(module))
        key = names(function), names(module), names(where), int(inlined), *short
        number = self._places.get(key)
        if number is None:
            number = self._places[key] = len(self.places)
            self.places.append(key)
        return number


def _hidden(page: Page) -> list[tuple[str, int, int, int]]:
    # Suppressed work by its reason: sites, calls, redundant calls; the most first.
    found: dict[str, list[int]] = {}
    for number, reason in page.hidden.items():
        site, figures = page.sites[number], found.setdefault(reason, [0, 0, 0])
        figures[:] = figures[0] + 1, figures[1] + site.calls, figures[2] + site.redundant
    rows = [
        (reason, sites, calls, redundant) for reason, (sites, calls, redundant) in found.items()
    ]
    return sorted(rows, key=lambda each: (-each[3], -each[2], each[0]))


#: Used instead of a stack's number: none was recorded; many sites in one row; suppressed sites; what
#: a library OS does around the calls, whose name replaces the program's.
NO_STACK_ROW, OTHERS_ROW, SUPPRESSED_ROW, AROUND_ROW = -1, -2, -3, -4


def _sites(
    page: Page, limits: PageLimits, names: NameTable, reasons: Sequence[str]
) -> tuple[_StackData, list[list[Any]], list[int]]:
    # The most expensive sites first; those beyond the limit in one row; then the suppressed ones,
    # one row for each reason and call. `order`: the row of each site of the page.
    stacks = _StackData(page, names)
    ranked = sorted(
        (number for number in range(len(page.sites)) if number not in page.hidden),
        key=lambda number: (
            -page.tallies[number].today_low - page.tallies[number].today_high,
            -page.sites[number].calls,
            page.sites[number].first,
        ),
    )
    shown = ranked[: limits.sites]
    order = [0] * len(page.sites)
    rows: list[list[Any]] = []
    for number in shown:
        site = page.sites[number]
        order[number] = len(rows)
        own = min(page.own.get(number, 0), FRAMES // 2)
        stack = stacks.number(site.stack)
        head = [names(site.call), stack, names(site.program), site.first, own]
        rows.append([*head, *page.tallies[number].rounded()])
    rest = ranked[len(shown) :]
    if rest:
        first = min(page.sites[number].first for number in rest)
        head = [names("(other sites)"), OTHERS_ROW, names(""), first, 0]
        for number in rest:
            order[number] = len(rows)
        rows.append([*head, *_sum(page, rest)])
    suppressed: dict[tuple[str, str], list[int]] = {}
    for number, reason in page.hidden.items():
        suppressed.setdefault((reason, page.sites[number].call), []).append(number)
    for (reason, call), numbers in suppressed.items():
        first = min(page.sites[number].first for number in numbers)
        place = reasons.index(reason)
        head = [names(call), SUPPRESSED_ROW, names(""), first, place]
        for number in numbers:
            order[number] = len(rows)
        rows.append([*head, *_sum(page, numbers)])
    for group in around(page):
        head = [names(""), AROUND_ROW, names(group.function), -1, 0]
        rows.append([*head, *group.tally.rounded()])
    return stacks, rows, order


def _sum(page: Page, sites: Sequence[int]) -> list[int]:
    total = CellTally()
    for number in sites:
        total.add(page.tallies[number])
    return total.rounded()


# Address spaces


def _spaces(
    page: Page, limits: PageLimits, names: NameTable, order: Sequence[int]
) -> tuple[Json, dict[str, int]]:
    # Return the address spaces, and the counts of omitted items.
    known = [number for number, calls in enumerate(page.calls) if calls]
    ranked = sorted(known, key=lambda number: (-page.calls[number], number))
    shown = sorted(ranked[: limits.processes])
    chosen = set(shown)
    own = [area for area in page.areas if area.process in chosen]
    areas, step, grain, left_out = fitted(own, page.step, page.grain, limits.areas)
    every, marks = page.marks.fewer(limits.marks)
    # The last step may end beyond the last call.
    calls = max(sum(page.series.calls), 1)
    by_process: dict[int, list[Area]] = {number: [] for number in shown}
    for area in areas:
        by_process[area.process].append(area)
    spaces = []
    for number in shown:
        ordered = sorted(by_process[number], key=lambda area: (area.since, area.start))
        process = page.processes[number]
        spaces.append(
            {
                "pid": process.pid,
                "process": number,
                "program": names(process.path),
                "calls": page.calls[number],
                **_edges(ordered, names, calls, order),
                "marks": [
                    value
                    for mark in marks
                    if mark.process == number
                    for value in (mark.call, mark.start, mark.pages, order[mark.site])
                ],
            }
        )
    omitted = {
        "processes": len(known) - len(shown),
        "areas": page.left_out + left_out,
        "step": step,
        "grain": grain,
        "marks": every,
    }
    return {"step": step, "grain": grain, "mark_step": every, "processes": spaces}, omitted


def _edges(areas: Sequence[Area], names: NameTable, calls: int, order: Sequence[int]) -> Json:
    # Areas refer to the pages where they start and end by the index in a list of all such pages.
    edges = sorted({edge for area in areas for edge in (area.start, area.end)})
    place = {edge: number for number, edge in enumerate(edges)}
    return {
        "edges": [edge - before for before, edge in zip([0, *edges], edges, strict=False)],
        "areas": [
            value
            for area in areas
            for value in (
                place[area.start],
                place[area.end],
                area.prot,
                names(area.name),
                area.since,
                min(area.until, calls),
                -1 if area.site < 0 else order[area.site],
                area.tenths,
            )
        ],
    }


def _arguments(args: Sequence[int]) -> str:
    return ", ".join(str(value) if value < 4096 else f"{value:#x}" for value in args)


def _result(result: int) -> str:
    return str(result) if -4096 < result < 4096 else f"{result:#x}"
