"""Advice as JSON and for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from laconic.advise.advice import COMMAND, ENVIRONMENT, MANIFEST, Advice, cycles, plural, shown_size, span
from laconic.advise.advisor import After
from laconic.advise.figures import Cost, Figures
from laconic.pal.sgx.costs import CostProfile

#: The version of the JSON's meaning; it rises when a key changes or goes.
SCHEMA = 1
Json = dict[str, Any]
RANGED = (
    "the trace is a log's and does not say which pages were touched: what depends on that is a range, from none to all "
    "that were accessible"
)
REDACTED = "the trace is redacted: libraries and programs are not recognised by their names in it"
NOTHING = "laconic advise: no program's memory is in this trace: there is nothing to advise on"
_HEADINGS = {
    MANIFEST: "To write in the Gramine manifest",
    ENVIRONMENT: "In the program's environment, which the manifest sets",
    COMMAND: "On the program's command line (loader.argv), after the program's name",
}


def as_json(
    figures: Figures,
    advice: Sequence[Advice],
    profile: CostProfile,
    trace: str | None,
    command: Sequence[str] | None,
    status: int | None,
    tried: Mapping[int, After | str],
) -> Json:
    """The form that `--json` writes; docs/advise.md says what each key means. `tried` by the advice's place: what came
    of it, or why it was not tried."""
    return {
        "schema": SCHEMA,
        "trace": trace,
        "command": None if command is None else list(command),
        "exit_status": status,
        "profile": {"name": profile.name, "machine": profile.machine, "no_source": list(profile.unsourced)},
        "strategies": _costs(figures.costs),
        "programs": [
            {**process._asdict(), "peak_mapped": image.peak_mapped, "peak_threads": image.peak_threads}
            for process, image in figures.programs()
        ],
        "advice": [
            {
                "option": each.option,
                "line": each.line,
                "where": each.where,
                "why": each.why,
                "figures": each.figures,
                **_tried(tried.get(place)),
            }
            for place, each in enumerate(advice)
        ],
        "notes": _notes(figures),
        "losses": figures.losses,
    }


def _costs(costs: Mapping[str, Cost]) -> Json:
    return {
        name: {thing: {"low": ends[0], "high": ends[1]} for thing, ends in asdict(cost).items()}
        for name, cost in costs.items()
    }


def _tried(after: After | str | None) -> Json:
    if isinstance(after, After):
        about = {"exit_status": after.exit_status, "peak_mapped": after.peak_mapped, "differences": after.differences}
        return {"after": {"strategies": _costs(after.costs), **about}, "not_tried": None}
    return {"after": None, "not_tried": after}


def _notes(figures: Figures) -> list[str]:
    notes = [] if figures.touches else [RANGED]
    if figures.redacted:
        notes.append(REDACTED)
    if figures.unseen:
        notes.append(f"{plural(figures.unseen, 'page')} could not be looked at, and are taken for untouched")
    return notes


def as_text(
    figures: Figures,
    advice: Sequence[Advice],
    profile: CostProfile,
    tried: Mapping[int, After | str],
    width: int = 80,
) -> str:
    """What a person reads. Lines to be pasted are never broken."""
    if not advice:
        return textwrap.fill(NOTHING, width) + "\n"
    return "\n".join(_lines(figures, advice, profile, tried, width)) + "\n"


def _lines(
    figures: Figures, advice: Sequence[Advice], profile: CostProfile, tried: Mapping[int, After | str], width: int
) -> Iterator[str]:
    programs = plural(len(figures.images), "program")
    yield from textwrap.wrap(
        f"laconic advise: {programs}; cycles are an estimate by the cost profile {profile.name!r}, each number from "
        "lowest to highest",
        width,
    )
    for name, cost in figures.costs.items():
        yield from _indented(f"{name}: {span(*cost.host_calls)} host calls, {cycles(*cost.cycles)}", width, "  ")
    for where, heading in _HEADINGS.items():
        chosen = [(place, each) for place, each in enumerate(advice) if each.where == where]
        if chosen:
            yield from ("", *textwrap.wrap(heading, width), "")
        for place, each in chosen:
            yield each.line
            yield from _indented(each.why + ".", width)
            yield from _came_of_it(figures, tried.get(place), width)
    if not any(each.where != MANIFEST for each in advice):
        yield ""
        yield from textwrap.wrap("No setting of an allocator or a runtime has a cause in this trace.", width)
    for note in _notes(figures):
        yield from textwrap.wrap(f"note: {note}", width)


def _came_of_it(figures: Figures, after: After | str | None, width: int) -> Iterator[str]:
    if isinstance(after, str):
        yield from _indented(f"Not tried: {after}.", width)
    if not isinstance(after, After):
        return
    yield "    Tried:"
    for name, cost in after.costs.items():
        before = figures.costs[name]
        was, now = (cycles(*each.cycles).removesuffix(" cycles") for each in (before, cost))
        calls = f"host calls {span(*before.host_calls)} -> {span(*cost.host_calls)}"
        yield from _indented(f"{name}: {calls}, cycles {was} -> {now}", width, "      ", "  ")
    most = figures.most(lambda image: image.peak_mapped)
    mapped = f"{shown_size(most)} -> {shown_size(after.peak_mapped)}"
    yield from _indented(f"mapped by one process at most: {mapped}", width, "      ", "  ")
    for difference in after.differences:
        yield from _indented(f"But: {difference}.", width)


def _indented(text: str, width: int, indent: str = "    ", hanging: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent + hanging, break_on_hyphens=False)
