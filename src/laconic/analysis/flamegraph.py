"""Calls by their whole stacks, each stack once with its weight: the data of a flame graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.analysis.callers import UNKNOWN
from laconic.analysis.frames import StackPlaces, own_frames
from laconic.analysis.sites import EVERY_CALL, Sites
from laconic.analysis.suppressions import Suppression, matching
from laconic.sgx import costs
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts
from laconic.stacks.symbolize import Place
from laconic.trace.selection import Selection
from laconic.trace.stacks import NO_STACK

#: The weights of a stack: the cycles that an enclave spends on its calls and their pages under
#: every-call (the middle of the estimate); calls; host calls of that enclave; pages that are
#: committed in it.
CYCLES, CALLS, HOST_CALLS, PAGES = WEIGHTS = ("cycles", "calls", "host-calls", "pages")
_JIT = "[jit]"


class Flame(NamedTuple):
    """One box of a flame graph. `kind` is "program", "call", "inlined", "jit", "suppressed" (`name`
    is the reason), "around" (what the library OS does without a call) or "" for any other function.
    """

    name: str
    module: str = ""
    file: str = ""
    line: int = 0
    kind: str = ""


@dataclass(slots=True)
class Flames:
    """Stacks, the outermost box first, with their weights; `total` is the sum of all weights.

    `redundant`: only redundant calls are counted. `hidden`: suppressed redundant calls by reason,
    which belong to no stack; if all calls are counted, each reason is one box. `stackless` calls
    have no stack, and are directly under their program. `selection`: which calls were counted; None
    for all.
    """

    weight: str
    redundant: bool
    stacks: dict[tuple[Flame, ...], int] = field(default_factory=dict)
    hidden: Counter[str] = field(default_factory=Counter)
    stackless: int = 0
    selection: Selection | None = None

    @property
    def total(self) -> int:
        """The weight of all stacks."""
        return sum(self.stacks.values())


def flames(
    found: Sites,
    weight: str = CYCLES,
    *,
    redundant: bool = False,
    suppressions: Iterable[Suppression] = (),
    profile: CostProfile | None = None,
) -> Flames:
    """Group sites by stack, without those that weigh nothing. O(sites × frames), plus reading the
    symbols."""
    rules = [rule for rule in suppressions if redundant or not rule.only_redundant]
    result = Flames(weight, redundant, selection=found.selection)
    profile = profile or costs.load()
    for site in found.sites:
        calls = site.redundant if redundant else site.calls
        counts = site.wasted.get(EVERY_CALL, Counts()) if redundant else site.cost()
        weighs = calls if weight == CALLS else _weighed(counts, weight, profile)
        if not weighs and not calls:
            continue
        program = Flame(site.program, kind="program")
        places = (
            own_frames(site.call, found.stacks.walk(site.stack)) if site.stack != NO_STACK else ()
        )
        rule = matching(rules, site.call, site.program, StackPlaces(places)) if places else None
        if rule is not None:
            if redundant:
                result.hidden[rule.reason] += calls
            else:
                _add(result, (program, Flame(rule.reason, kind="suppressed")), weighs)
            continue
        # The remaining names of a stack are read only here: most suppressed stacks are recognized
        # by their first frames.
        known = [place for place, _ in places]
        if not known:
            result.stackless += calls
        middle = [_flame(place) for place in reversed(known)] or [Flame(UNKNOWN)]
        _add(result, (program, *middle, Flame(site.call, kind="call")), weighs)
    if not redundant and weight != CALLS:
        for kind, work in found.around.items():
            weighs = _weighed(work.cost(), weight, profile)
            _add(result, (Flame(f"({kind})", kind="around"),), weighs)
    result.stacks = dict(sorted(result.stacks.items()))
    return result


def _add(result: Flames, stack: tuple[Flame, ...], weighs: int) -> None:
    if weighs:
        result.stacks[stack] = result.stacks.get(stack, 0) + weighs


def _weighed(counts: Counts, weight: str, profile: CostProfile) -> int:
    if weight == HOST_CALLS:
        return counts.host_calls
    if weight == PAGES:
        return counts.eaug
    return round(sum(profile.cycles(counts)) / 2)


def _flame(place: Place) -> Flame:
    kind = "jit" if place.module == _JIT else "inlined" if place.inlined else ""
    return Flame(place.function, place.module, place.file, place.line, kind)
