"""Sites put together: by function, module, program or stack, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from laconic.analysis.frames import Names, own_frames
from laconic.analysis.sites import EVERY_CALL, Site, Sites
from laconic.analysis.suppressions import Suppression, matching
from laconic.sgx import costs
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts
from laconic.trace.stacks import NO_STACK, Spot
from laconic.trace.tables import Row, Table

BY = ("function", "module", "program", "stack")
#: What is shown of a call whose stack was not taken.
UNKNOWN = "(no stack)"


@dataclass(slots=True)
class Caller:
    """Calls that are put together. `redundant` of `calls` changed nothing; `known`: `calls` counts
    all of them, not only those whose stack was taken. `wasted`: what the redundant ones cost in an
    enclave under every-call. `event`: the number of the first redundant one's row.
    """

    name: str
    call: str
    module: str
    program: str
    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    known: bool = True
    guessed: bool = False
    event: int = -1
    wasted: Counts = field(default_factory=Counts)
    stacks: Counter[int] = field(default_factory=Counter)

    @property
    def stack(self) -> int:
        """The stack that most of the redundant calls come from."""
        return max(self.stacks, key=lambda number: (self.stacks[number], -number), default=NO_STACK)


@dataclass(slots=True)
class Callers(Table):
    """The callers of a trace. As a table: one row per caller, the worst first.

    `callers` are in that order; `hidden`: redundant calls by the reason of their suppression.
    `calls`, `redundant` and `host_calls` are of all memory calls; `wasted` is of all redundant ones,
    `total` of everything in the enclaves. `stackless` redundant calls have no stack. `source` is
    `Sites.source`; `profile`: by what cycles are estimated."""

    by: str
    inverted: bool
    callers: list[Caller]
    hidden: Counter[str]
    calls: int
    redundant: int
    host_calls: int
    wasted: Counts
    total: Counts
    stackless: int
    source: str = "run"
    profile: CostProfile | None = None

    def table_columns(self) -> dict[str, str]:
        """Return the columns. Cycles are what the redundant calls cost under every-call."""
        columns = dict.fromkeys(("call", "name", "module", "program"), "string")
        columns |= dict.fromkeys(
            ("calls", "redundant", "host_calls", "first_redundant_event"), "int64"
        )
        return columns | dict.fromkeys(("redundant_cycles_low", "redundant_cycles_high"), "float64")

    def table_rows(self) -> Iterator[Row]:
        """Return the rows, the worst caller first."""
        profile = self.profile or costs.load()
        for caller in self.callers:
            yield (
                caller.call,
                caller.name,
                caller.module,
                caller.program,
                caller.calls,
                caller.redundant,
                caller.host_calls,
                caller.event,
                *profile.cycles(caller.wasted),
            )


def callers(
    found: Sites,
    by: str = "function",
    *,
    inverted: bool = False,
    suppressions: Iterable[Suppression] = (),
    profile: CostProfile | None = None,
) -> Callers:
    """Puts sites together `by` one of `BY`; `inverted`: under every function of the stack, not the
    innermost alone.

    Only callers with redundant calls are kept. O(sites × frames).
    """
    rules = list(suppressions)
    total = Counts()
    if EVERY_CALL in found.meters:
        total = found.meters[EVERY_CALL].total()
    result = Callers(
        by, inverted, [], Counter(), 0, 0, 0, Counts(), total, 0, found.source, profile
    )
    made: dict[tuple[str, str, str], Caller] = {}
    # Where the stacks of some calls alone are known, the others may have been made from the same
    # places.
    complete = by == "program" or len({site.stack == NO_STACK for site in found.sites}) < 2
    for site in found.sites:
        result.calls += site.calls
        result.redundant += site.redundant
        result.host_calls += site.host_calls
        wasted = site.wasted.get(EVERY_CALL, Counts())
        result.wasted.add(wasted)
        places: Sequence[Spot] = (
            own_frames(site.call, found.stacks.walk(site.stack)) if site.stack != NO_STACK else ()
        )
        if not places:
            result.stackless += site.redundant
        rule = matching(rules, site.call, site.program, Names(places)) if places else None
        if rule is not None:
            if site.redundant:
                result.hidden[rule.reason] += site.redundant
            continue
        guessed = bool(places) and found.stacks.guessed(site.stack)
        for key, name, module in _keys(by, inverted, site, places):
            caller = made.get(key)
            if caller is None:
                caller = made[key] = Caller(name, site.call, module, site.program, known=complete)
            _enter(caller, site, wasted, guessed, bool(places))
    result.callers = sorted(
        (caller for caller in made.values() if caller.redundant),
        key=lambda one: (-one.redundant, -one.calls, one.name, one.module, one.call, one.program),
    )
    return result


def _enter(caller: Caller, site: Site, wasted: Counts, guessed: bool, has_stack: bool) -> None:
    caller.calls += site.calls
    caller.redundant += site.redundant
    caller.host_calls += site.host_calls
    caller.wasted.add(wasted)
    caller.guessed |= guessed and site.redundant > 0
    if site.redundant and not 0 <= caller.event <= site.first_redundant:
        caller.event = site.first_redundant
    if site.redundant and has_stack:
        caller.stacks[site.stack] += site.redundant


def _keys(
    by: str, inverted: bool, site: Site, places: Sequence[Spot]
) -> Iterable[tuple[tuple[str, str, str], str, str]]:
    # What a site is entered under: a key, the name that is shown, its module.
    call, program = site.call, site.program
    if by == "program":
        yield (call, program, ""), program, ""
    elif not places:
        yield (call, program, UNKNOWN), UNKNOWN, ""
    elif by == "stack":
        name = places[0][0].function
        yield (call, program, str(site.stack)), name, places[0][0].module
    else:
        seen = set()
        for place, _ in places if inverted else places[:1]:
            name = place.module if by == "module" else place.function
            # Files may have static functions of one name each.
            key = (
                call,
                program,
                f"{name}\0{place.module}\0{place.file if by == 'function' else ''}",
            )
            if key not in seen:
                seen.add(key)
                yield key, name, place.module
