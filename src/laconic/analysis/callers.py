"""Grouped sites: by function, module, line, program or stack, the most expensive first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.analysis.frames import StackPlaces, own_frames, own_line
from laconic.analysis.sites import EVERY_CALL, LACONIC, Site, Sites, Work
from laconic.analysis.suppressions import Suppression, matching
from laconic.sgx import costs
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts
from laconic.trace.stacks import NO_STACK, Spot
from laconic.trace.tables import Table, TableRow

BY = ("function", "module", "line", "own-line", "program", "stack")
#: The sort orders of callers: their cost in an enclave under every-call; redundant calls; calls;
#: host calls of that enclave; pages that are committed in it.
COST, REDUNDANT, CALLS, HOST_CALLS, PAGES = SORTS = (
    "cost",
    "redundant",
    "calls",
    "host-calls",
    "pages",
)
#: Shown for a call whose stack was not recorded.
UNKNOWN = "(no stack)"
#: The kinds of callers: calls of one place in the program; suppressed sites with one reason; what
#: the library OS does around the calls, whose `name` is a kind of `Sites.around`.
SITE, SUPPRESSED, AROUND = "site", "suppressed", "around"


@dataclass(slots=True)
class Caller(Work):
    """Sites that are grouped together; their work is as in `Site`.

    `redundant` of `calls` changed nothing; `known`: `calls` counts all of them, not only those
    whose stack was recorded. `wasted`: the cost of the redundant ones under every-call. `first` and
    `event`: the numbers of the rows of the first call, and of the first redundant one; -1 for none.
    `file` and `line` are those of the function's first site. `sites` is their number; `files` are
    the paths of the files that they mapped. `kind` is SITE, SUPPRESSED (`name` is the reason) or
    AROUND. `quiet` is the reason why redundant calls at these sites are suppressed in lists of such
    calls, or "".
    """

    name: str
    call: str = ""
    module: str = ""
    program: str = ""
    file: str = ""
    line: int = 0
    kind: str = SITE
    quiet: str = ""
    sites: int = 0
    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    known: bool = True
    guessed: bool = False
    first: int = -1
    event: int = -1
    wasted: Counts = field(default_factory=Counts)
    files: set[str] = field(default_factory=set)
    stacks: Counter[int] = field(default_factory=Counter)

    @property
    def stack(self) -> int:
        """The stack that contributes most to the quantity by which the callers are sorted."""
        return max(self.stacks, key=lambda number: (self.stacks[number], -number), default=NO_STACK)


class CycleSpan(NamedTuple):
    """Cycles at the low and at the high end of a cost profile."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The middle of the range, for uses that need one number."""
        return (self.low + self.high) / 2


@dataclass(slots=True)
class Callers(Table):
    """The callers of a trace. As a table: one row per caller, in the order of `sort`.

    `callers` has the sites, the suppressed ones as one caller per reason, and what the library OS
    does around the calls. If inverted, suppressed sites are counted in `suppressed` only. Sorted by
    redundant calls, it has only callers with such calls. `calls`, `redundant` and `host_calls` are
    of all memory calls; `wasted` is of all redundant ones. `totals`: strategy → everything that its
    enclaves did. `stackless` calls, `stackless_redundant` redundant ones, have no stack. `source`
    and what the trace knows are as in `Sites`; cycles are estimated by `profile`. `is_selection`:
    only some calls are counted.
    """

    by: str
    inverted: bool
    sort: str
    profile: CostProfile
    totals: Mapping[str, Counts]
    source: str = "run"
    callers: list[Caller] = field(default_factory=list)
    suppressed: dict[str, Caller] = field(default_factory=dict)
    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    wasted: Counts = field(default_factory=Counts)
    stackless: int = 0
    stackless_redundant: int = 0
    knows_touched: bool = True
    knows_sizes: bool = True
    is_selection: bool = False

    def cycles(self, caller: Work, strategy: str = EVERY_CALL) -> CycleSpan:
        """Return what a caller costs in an enclave under `strategy`, touched pages included."""
        return CycleSpan(*self.profile.cycles(caller.cost(strategy)))

    def total(self, strategy: str = EVERY_CALL) -> CycleSpan:
        """Return what the whole program costs."""
        return CycleSpan(*self.profile.cycles(self.totals.get(strategy, Counts())))

    @property
    def hidden(self) -> Counter[str]:
        """Suppressed redundant calls, by reason."""
        found = {reason: caller.redundant for reason, caller in self.suppressed.items()}
        return Counter({reason: count for reason, count in found.items() if count})

    def table_columns(self) -> dict[str, str]:
        """Return the columns. Cycles are those of the calls and of the touches of their pages."""
        columns = dict.fromkeys(("kind", "call", "name", "module", "program", "file"), "string")
        integers = (
            "line",
            "calls",
            "redundant",
            "host_calls",
            "committed_pages",
            "touched_pages",
            "first_event",
            "first_redundant_event",
        )
        columns |= dict.fromkeys(integers, "int64")
        return (
            columns
            | {
                f"{name.replace('-', '_')}_cycles_{end}": "float64"
                for name in self.totals
                for end in ("low", "high")
            }
            | dict.fromkeys(("redundant_cycles_low", "redundant_cycles_high"), "float64")
        )

    def table_rows(self) -> Iterator[TableRow]:
        """Return the rows, in the order of the callers."""
        for caller in self.callers:
            yield (
                caller.kind,
                caller.call,
                caller.name,
                caller.module,
                caller.program,
                caller.file,
                caller.line,
                caller.calls,
                caller.redundant,
                caller.host_calls,
                caller.committed_pages(),
                caller.touched_pages,
                caller.first,
                caller.event,
                *(end for name in self.totals for end in self.cycles(caller, name)),
                *self.profile.cycles(caller.wasted),
            )


def callers(
    found: Sites,
    by: str = "function",
    *,
    sort: str = COST,
    inverted: bool = False,
    suppressions: Iterable[Suppression] = (),
    profile: CostProfile | None = None,
) -> Callers:
    """Group sites `by` one of `BY`, in the order `sort` (one of `SORTS`); `inverted`: under every
    function of the stack, not only the innermost. O(sites × frames)."""
    totals = {name: meter.total() for name, meter in found.meters.items()}
    result = Callers(by, inverted, sort, profile or costs.load(), totals, found.source)
    result.knows_touched, result.knows_sizes = found.knows_touched, found.knows_sizes
    result.is_selection = found.selection is not None
    every = list(suppressions)
    rules = [rule for rule in every if sort == REDUNDANT or not rule.only_redundant]
    quieting = [rule for rule in every if rule.only_redundant]
    grouped: dict[tuple[str, str, str], Caller] = {}
    # If only some calls have stacks, the other calls may have been made at the same sites.
    complete = by == "program" or len({site.stack == NO_STACK for site in found.sites}) < 2
    for site in found.sites:
        result.calls += site.calls
        result.redundant += site.redundant
        result.host_calls += site.host_calls
        result.wasted.add(site.wasted.get(EVERY_CALL, Counts()))
        places: Sequence[Spot] = (
            own_frames(site.call, found.stacks.walk(site.stack)) if site.stack != NO_STACK else ()
        )
        if not places:
            result.stackless += site.calls
            result.stackless_redundant += site.redundant
        weight = _weight(site, sort, result)
        rule = matching(rules, site.call, site.program, StackPlaces(places)) if places else None
        if rule is not None:
            caller = result.suppressed.get(rule.reason)
            if caller is None:
                caller = Caller(rule.reason, site.call, kind=SUPPRESSED)
                result.suppressed[rule.reason] = caller
            _enter(caller, site, weight, False)
            continue
        quiet = matching(quieting, site.call, site.program, StackPlaces(places)) if places else None
        guessed = bool(places) and found.stacks.guessed(site.stack)
        for key, caller in _keys(by, inverted, site, places):
            caller = grouped.setdefault(key, caller)
            caller.known = complete
            if quiet is not None:
                caller.quiet = quiet.reason
            _enter(caller, site, weight, guessed)
    listed = list(grouped.values())
    if not inverted:
        listed += result.suppressed.values() if sort != REDUNDANT else ()
        for kind, work in found.around.items():
            if any(
                counts != Counts() for counts in (*work.counts.values(), *work.touches.values())
            ):
                around = Caller(kind, kind=AROUND)
                around.add(work)
                listed.append(around)
    value = _value(sort, result)
    if sort in (REDUNDANT, CALLS):
        listed = [caller for caller in listed if value(caller)]
    result.callers = sorted(
        listed,
        key=lambda caller: (
            *(-value(caller), -caller.redundant, -caller.calls),
            *(caller.name, caller.module, caller.line, caller.call, caller.program),
        ),
    )
    return result


def _value(sort: str, result: Callers) -> Callable[[Caller], float]:
    # Return the value by which a caller is sorted.
    if sort == COST:
        return lambda caller: result.cycles(caller).middle
    if sort == REDUNDANT:
        return lambda caller: caller.redundant
    if sort == CALLS:
        return lambda caller: caller.calls
    if sort == HOST_CALLS:
        return lambda caller: caller.cost().host_calls
    return lambda caller: caller.committed_pages()


def _weight(site: Site, sort: str, result: Callers) -> float:
    # Return how strongly a stack represents a caller. Calls decide between stacks that cost
    # nothing.
    if sort == REDUNDANT:
        return site.redundant
    return result.cycles(site).middle + site.calls / (1 << 40)


def _enter(caller: Caller, site: Site, weight: float, guessed: bool) -> None:
    caller.add(site)
    caller.sites += 1
    caller.calls += site.calls
    caller.redundant += site.redundant
    caller.host_calls += site.host_calls
    caller.wasted.add(site.wasted.get(EVERY_CALL, Counts()))
    caller.files |= site.files
    caller.guessed |= guessed
    if not 0 <= caller.first <= site.first:
        caller.first = site.first
    if site.redundant and not 0 <= caller.event <= site.first_redundant:
        caller.event = site.first_redundant
    if site.call != caller.call:
        caller.call = ""  # suppressed sites, or a line, contain several calls
    if weight and site.stack != NO_STACK:
        caller.stacks[site.stack] += weight  # type: ignore[assignment]


def _keys(
    by: str, inverted: bool, site: Site, places: Sequence[Spot]
) -> Iterable[tuple[tuple[str, str, str], Caller]]:
    # Return where a site is entered: a key, and a new caller for that key.
    call, program = site.call, site.program
    if by == "program":
        yield (call, program, ""), Caller(program, call, "", program)
    elif not places:
        yield (call, program, UNKNOWN), Caller(UNKNOWN, call, "", program)
    elif by == "stack":
        place = places[0][0]
        caller = Caller(place.function, call, place.module, program, place.file, place.line)
        yield (call, program, str(site.stack)), caller
    elif by == "own-line":
        place = own_line(places, program)
        key = "", program, f"{place.function}\0{place.module}\0{place.file}\0{place.line}"
        yield key, Caller(place.function, call, place.module, program, place.file, place.line)
    else:
        seen = set()
        for place, _ in places if inverted else places[:1]:
            name = place.module if by == "module" else place.function
            # Several files may each have a static function of the same name.
            file = place.file if by in ("function", "line") else ""
            line = place.line if by == "line" else 0
            key = call, program, f"{name}\0{place.module}\0{file}\0{line}"
            if key not in seen:
                seen.add(key)
                yield key, Caller(name, call, place.module, program, file, line)


def savings(found: Callers, caller: Work) -> float:
    """Return the cycles of a caller's cost under every-call that laconic saves, by the middles of
    both ranges."""
    return found.cycles(caller).middle - found.cycles(caller, LACONIC).middle
