"""Calls by their whole stacks, each stack once with what it weighs: what a flame graph is drawn
of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.analysis.callers import UNKNOWN
from laconic.analysis.frames import Names, own_frames
from laconic.analysis.sites import EVERY_CALL, Site, Sites
from laconic.analysis.suppressions import Suppression, matching
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.trace.stacks import NO_STACK

#: What a stack weighs: calls; the host calls, or the cycles, that an enclave spends on them under
#: every-call.
CALLS, HOST_CALLS, CYCLES = WEIGHTS = ("calls", "host-calls", "cycles")
_JIT = "[jit]"


class Flame(NamedTuple):
    """One box of a flame graph. `kind` is "program", "call", "inlined", "jit" or "" for any other
    function."""

    name: str
    module: str = ""
    file: str = ""
    line: int = 0
    kind: str = ""


@dataclass(slots=True)
class Flames:
    """Stacks, the outermost box first, with their weights; `total` of all that are there.

    `every`: of all calls, not only the redundant ones. `hidden`: redundant calls by the reason of
    their suppression; `stackless` calls have no stack, and stand under their program.
    """

    weight: str
    every: bool
    stacks: dict[tuple[Flame, ...], int] = field(default_factory=dict)
    hidden: Counter[str] = field(default_factory=Counter)
    stackless: int = 0

    @property
    def total(self) -> int:
        """The weight of all stacks."""
        return sum(self.stacks.values())


def flames(
    found: Sites,
    weight: str = CALLS,
    *,
    every: bool = False,
    suppressions: Iterable[Suppression] = (),
    profile: CostProfile | None = None,
) -> Flames:
    """Puts sites together by stack; what weighs nothing is left out. O(sites × frames), and the
    reading of symbols.

    Cycles are the low end of `profile`, which must then be given.
    """
    rules = list(suppressions)
    result = Flames(weight, every)
    for site in found.sites:
        weighs = _weighed(site, weight, every, profile)
        calls = site.calls if every else site.redundant
        if not weighs and not calls:
            continue
        places = (
            own_frames(site.call, found.stacks.walk(site.stack)) if site.stack != NO_STACK else ()
        )
        rule = matching(rules, site.call, site.program, Names(places)) if places else None
        if rule is not None:
            result.hidden[rule.reason] += calls
            continue
        # All of a stack's names are read only now: most of what is hidden is told by its first
        # frames.
        known = [place for place, _ in places]
        if not known:
            result.stackless += calls
        if weighs:
            middle = [_flame(place) for place in reversed(known)] or [Flame(UNKNOWN)]
            stack = (Flame(site.program, kind="program"), *middle, Flame(site.call, kind="call"))
            result.stacks[stack] = result.stacks.get(stack, 0) + weighs
    result.stacks = dict(sorted(result.stacks.items()))
    return result


def _weighed(site: Site, weight: str, every: bool, profile: CostProfile | None) -> int:
    if weight == CALLS:
        return site.calls if every else site.redundant
    counts = (site.counts if every else site.wasted).get(EVERY_CALL, Counts())
    if weight == HOST_CALLS:
        return counts.host_calls
    assert profile is not None
    return round(profile.cycles(counts)[0])


def _flame(place: Place) -> Flame:
    kind = "jit" if place.module == _JIT else "inlined" if place.inlined else ""
    return Flame(place.function, place.module, place.file, place.line, kind)
