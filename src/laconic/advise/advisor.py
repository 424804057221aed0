"""All advice for a trace, and what came of trying one piece of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import basename
from typing import TYPE_CHECKING

from laconic.advise import allocators, manifest, runtimes
from laconic.advise.advice import MANIFEST, Advice, plural
from laconic.advise.figures import SHOWN, TODAY, Cost, Figures

if TYPE_CHECKING:
    from laconic.pal.sgx.costs import CostProfile

#: What two equal runs may differ in, as a part of either.
NOISE = 0.05


def advise(figures: Figures, profile: CostProfile) -> list[Advice]:
    """The manifest's options, then the settings of allocators and runtimes. O(programs × reservations)."""
    if not figures.images:
        return []
    return [*manifest.advise(figures, profile), *allocators.advise(figures), *runtimes.advise(figures)]


@dataclass(frozen=True, slots=True)
class After:
    """What a rerun with one piece of advice came to; `differences` from the first run, a sentence each. `peak_mapped`:
    bytes that one program mapped at most."""

    costs: dict[str, Cost]
    peak_mapped: int
    exit_status: int
    differences: list[str]


def attempt(advice: Advice, command: Sequence[str]) -> tuple[list[str], dict[str, str]] | str:
    """The command and the environment's additions with which `advice` is tried, or why it is not. O(1)."""
    if advice.env is not None:
        return list(command), dict([advice.env])
    if advice.where == MANIFEST:
        return "a manifest's option changes nothing outside of Gramine"
    if basename(command[0]) in advice.programs:
        return [command[0], advice.flag, *command[1:]], {}
    return f"the command does not begin with {' or '.join(advice.programs)}: write {advice.flag} where that is started"


def after(before: Figures, status: int, figures: Figures, new_status: int, said: Sequence[str] = ()) -> After:
    """Compares a rerun with the first run; `said` are the last lines of its standard error. O(programs)."""
    differences = []
    if new_status != status:
        last = f" (it said: {' / '.join(said)})" if said else ""
        differences.append(f"exit status {new_status}, {status} before{last}: do not take this over unseen")
    programs = len(before.images), len(figures.images)
    if programs[0] != programs[1]:
        differences.append(f"{plural(programs[1], 'program')} ran, {programs[0]:,} before")
    if figures.losses:
        differences.append(f"its trace is not complete: {figures.losses[0]}")
    if (verdict := _verdict(before, figures)) is not None:
        differences.append(verdict)
    return After(figures.costs, figures.most(lambda image: image.peak_mapped), new_status, differences)


def _verdict(before: Figures, figures: Figures) -> str | None:
    # Two runs of a program with threads differ a little in any case.
    pairs = [(figures.costs[name], before.costs[name]) for name in SHOWN]
    cycles = [_ratio(sum(new.cycles), sum(old.cycles)) for new, old in pairs]
    calls = [_ratio(sum(new.host_calls), sum(old.host_calls)) for new, old in pairs]
    mapped = [each.most(lambda image: image.peak_mapped) for each in (figures, before)]
    rise = [thing for thing, ratio in (("cycles", cycles[0]), ("host calls", calls[0])) if ratio > 1 + NOISE]
    if rise:
        return f"it takes more {' and '.join(rise)} than before under {TODAY}"
    if min(*cycles, *calls, _ratio(*mapped)) > 1 - NOISE:
        return "nothing that is measured is better than before"
    return None


def _ratio(after: float, before: float) -> float:
    return after / before if before else 1.0
