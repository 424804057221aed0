"""Advice as JSON and for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from laconic.analysis.advise.advice import (
    COMMAND,
    ENVIRONMENT,
    MANIFEST,
    Advice,
    shown_size,
)
from laconic.analysis.advise.figures import AdviceFigures, Cost
from laconic.analysis.advise.trial import After, Trial, outside
from laconic.analysis.schemas import SCHEMAS, Json
from laconic.report.compare import UNSIZED
from laconic.report.numbers import cycles, ends_text, low_to_high, unit
from laconic.sgx.costs import CostProfile
from laconic.trace.numbers import LowHigh
from laconic.trace.words import plural

RANGED = (
    "the trace is a log's and does not say which pages were touched: what depends on that is a "
    "range, from none to all that were accessible"
)
ATTACHED = (
    "laconic attached to a running program: what it had is counted as it was at that moment, and "
    "it may have had more before; a recording from its start shows that (laconic run -o FILE -- "
    "CMD)"
)
REDACTED = "the trace is redacted: libraries and programs are not recognised by their names in it"
NOTHING = "laconic advise: no program's memory is in this trace: there is nothing to advise on"
_HEADINGS = {
    MANIFEST: "To write in the Gramine manifest",
    ENVIRONMENT: "In the program's environment, which the manifest sets",
    COMMAND: (
        "On the program's command line (loader.argv), after the program's name and in place of "
        "flags for the same"
    ),
}


def as_json(
    figures: AdviceFigures,
    advice: Sequence[Advice],
    profile: CostProfile,
    trace: str | None,
    command: Sequence[str] | None,
    status: int | None,
    tried: Trial | None,
) -> Json:
    """Return the form that `--json` writes; docs/appendix/json.md describes each key. `tried`: the
    result of `--try`."""
    trial = tried or Trial()
    return {
        "schema": SCHEMAS["advise"],
        "trace": trace,
        "command": None if command is None else list(command),
        "exit_status": status,
        "profile": {
            "name": profile.name,
            "machine": profile.machine,
            "no_source": list(profile.unsourced),
        },
        "strategies": _costs(figures.costs),
        "unchanged": _tried(trial.again),
        "together": _tried(trial.together),
        "programs": [
            {
                **process._asdict(),
                "peak_mapped": image.peak_mapped,
                "peak_threads": image.peak_threads,
            }
            for process, image in figures.programs()
        ],
        "advice": [
            {
                "option": each.option,
                "line": each.line,
                "where": each.where,
                "why": each.why,
                "figures": each.figures,
                **_tried(trial.pieces.get(place)),
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
        about = {
            "exit_status": after.exit_status,
            "peak_mapped": after.peak_mapped,
            "differences": after.differences,
        }
        return {"after": {"strategies": _costs(after.costs), **about}, "not_tried": None}
    return {"after": None, "not_tried": after}


def _notes(figures: AdviceFigures) -> list[str]:
    notes = [] if figures.touches else [RANGED]
    if figures.unsized:
        notes.append(UNSIZED)
    if figures.attached:
        notes.append(ATTACHED)
    if figures.cpus and figures.most(lambda image: image.peak_threads) > 1:
        notes.append(
            f"this trace is of a machine with {plural(figures.cpus, 'CPU')}: a program that starts "
            "a thread for each CPU needs other values of sgx.max_threads and of sizes elsewhere"
        )
    if figures.redacted:
        notes.append(REDACTED)
    if figures.unseen:
        notes.append(
            f"{plural(figures.unseen, 'page')} could not be looked at, and are taken for untouched"
        )
    return notes


def as_text(
    figures: AdviceFigures,
    advice: Sequence[Advice],
    profile: CostProfile,
    tried: Trial | None,
    width: int = 80,
) -> str:
    """Return the text for people. Lines to be pasted are never broken."""
    if not advice:
        return textwrap.fill(NOTHING, width) + "\n"
    return "\n".join(_lines(figures, advice, profile, tried, width)) + "\n"


def _lines(
    figures: AdviceFigures,
    advice: Sequence[Advice],
    profile: CostProfile,
    tried: Trial | None,
    width: int,
) -> Iterator[str]:
    trial = tried or Trial()
    between: tuple[str, ...] = ()
    for where, heading in _HEADINGS.items():
        chosen = [(place, each) for place, each in enumerate(advice) if each.where == where]
        if chosen:
            yield from (*between, *textwrap.wrap(heading, width), "")
            between = ("",)
        for place, each in chosen:
            yield from each.line.splitlines()
            yield from _indented(each.why + ".", width)
            yield from _came_of_it(figures, trial, trial.pieces.get(place), width)
    if trial.together is not None:
        yield from ("", *textwrap.wrap("All settings that were tried, together", width), "")
        yield from _came_of_it(figures, trial, trial.together, width)
    if isinstance(trial.again, After):
        yield from ("", *_unchanged(trial.again, width))
    if not any(each.where != MANIFEST for each in advice):
        yield ""
        yield from textwrap.wrap(
            "No setting of an allocator or a runtime has a cause in this trace.", width
        )
    yield ""
    yield from textwrap.wrap(
        f"Cost of {plural(len(figures.images), 'program')} as recorded, an estimate by the cost "
        f"profile {profile.name!r}",
        width,
    )
    of = unit([max(cost.cycles) for cost in figures.costs.values()])
    for name, cost in figures.costs.items():
        yield from _indented(
            f"{name}: {low_to_high(*cost.host_calls)} host calls, {cycles(*cost.cycles, of)}",
            width,
            "  ",
        )
    for note in _notes(figures):
        yield from textwrap.wrap(f"note: {note}", width)


def _came_of_it(
    figures: AdviceFigures, trial: Trial, after: After | str | None, width: int
) -> Iterator[str]:
    if isinstance(after, str):
        yield from _indented(f"Not tried: {after}.", width)
    if not isinstance(after, After):
        return
    again = trial.again if isinstance(trial.again, After) else None
    yield "    Tried, after two runs as it is:" if again else "    Tried, after one run as it is:"
    for name, cost in after.costs.items():
        runs = [figures.costs[name], *([again.costs[name]] if again else [])]
        calls = _change(low_to_high, [each.host_calls for each in runs], cost.host_calls)
        took = _change(_cycles, [each.cycles for each in runs], cost.cycles)
        yield from _indented(f"{name}: host calls {calls}, cycles {took}", width, "      ", "  ")
    most = [
        float(figures.most(lambda image: image.peak_mapped)),
        *([float(again.peak_mapped)] if again else []),
    ]
    mapped = _change(
        _sizes, [(each, each) for each in most], (after.peak_mapped, after.peak_mapped)
    )
    yield from _indented(f"mapped by one process at most: {mapped}", width, "      ", "  ")
    for difference in after.differences:
        yield from _indented(f"But: {difference}.", width)


def _change(shown: Callable[[float, float], str], runs: Sequence[LowHigh], now: LowHigh) -> str:
    before = shown(min(low for low, _ in runs), max(high for _, high in runs))
    text = f"{before} -> {shown(*now)}"
    return (
        text
        if before == shown(*now) or outside([sum(run) for run in runs], sum(now))
        else f"{text} (no difference)"
    )


def _cycles(low: float, high: float) -> str:
    return cycles(low, high).removesuffix(" cycles")


def _sizes(low: float, high: float) -> str:
    return ends_text(shown_size(low), shown_size(high), " to ")


def _unchanged(again: After, width: int) -> Iterator[str]:
    yield from textwrap.wrap(
        "What stands before each arrow is from two runs of the program as it is. What is not "
        "outside of both by more than they differ, and by more than a twentieth, counts as no "
        "difference.",
        width,
    )
    for difference in again.differences:
        yield from _indented(f"But the second of them differs: {difference}.", width)


def _indented(text: str, width: int, indent: str = "    ", hanging: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_on_hyphens=False,
    )
