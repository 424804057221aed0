"""Two traces side by side, for a page: their sites, the strategies, and one call graph for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laconic.analysis.baseline import EnclaveBasis, Key, KeyTally, RunFigures, from_sites
from laconic.analysis.callers import AROUND, SITE, SUPPRESSED
from laconic.analysis.compare import Compared, Comparison
from laconic.analysis.diff import Delta, Difference, diff
from laconic.analysis.frames import StackPlaces, own_frames
from laconic.analysis.sites import EVERY_CALL, LACONIC, Site, SiteCounting, Sites, call_of
from laconic.analysis.suppressions import Suppression, matching
from laconic.replay.engine import Replay
from laconic.sgx.costs import CostProfile
from laconic.trace.reader import TraceReader
from laconic.trace.selection import Selection
from laconic.trace.stacks import NO_STACK, Stacks


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two traces. `today` are its figures under every-call, `laconic` those under
    laconic. `compared` is None if there are no calls."""

    name: str
    about: dict[str, Any]
    machine: dict[str, Any]
    sites: Sites
    today: RunFigures
    laconic: RunFigures
    compared: Compared | None


class PairRow(NamedTuple):
    """One site, or other work, in both runs: under every-call, and under laconic. `lines` are its
    source lines before and after, as file and line; ("", 0) if unknown."""

    today: Delta
    laconic: Delta
    lines: tuple[tuple[str, int], tuple[str, int]]


@dataclass(slots=True)
class Box:
    """A box of the call graph of both runs: a program, functions of one module, or a call. What a
    library OS does around the calls is not in it.

    `name` is a function, `module` its module. `before` and `after` are the middles of the cost
    under every-call in cycles. `width` is the sum of its boxes' widths; that of a call is the
    larger of its two costs, so that work of only one run is visible too.
    """

    name: str
    module: str = ""
    before: float = 0.0
    after: float = 0.0
    width: float = 0.0
    boxes: dict[tuple[str, str], Box] = field(default_factory=dict)

    def find(self, name: str, module: str) -> Box:
        """Return the box of this name in this one, a new one if there is none. O(1)."""
        return self.boxes.setdefault((name, module), Box(name, module))

    def measure(self) -> None:
        """Set all widths, and sort the boxes: the widest first. O(boxes log boxes)."""
        for box in self.boxes.values():
            box.measure()
        self.width = sum(box.width for box in self.boxes.values()) or max(self.before, self.after)
        self.boxes = dict(sorted(self.boxes.items(), key=lambda item: (-item[1].width, item[0])))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two traces. `difference` is under every-call. `rows` has all sites and all other work, those
    whose cost changed most first."""

    before: Side
    after: Side
    profile: CostProfile
    difference: Difference
    rows: list[PairRow]
    graph: Box

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both traces, the first one first."""
        return self.before, self.after

    @property
    def has_programs(self) -> bool:
        """True if memory calls were made by programs of more than one name. O(sites)."""
        programs = {row.today.key.program for row in self.rows if row.today.kind == SITE}
        return len(programs) > 1


def pair(
    before: TraceReader,
    after: TraceReader,
    profile: CostProfile,
    suppressions: Sequence[Suppression] = (),
    *,
    progress: Callable[[int], None] | None = None,
    selection: Selection | None = None,
) -> Pair:
    """Compare two traces. `selection` is as in `compare`; `progress` is called with the number of
    bytes that have been read. Each trace is read once.

    Raises LaconicError if one of them cannot be read. O(events × strategies).
    """
    tell = progress or (lambda done: None)
    sides = [
        _side(before, profile, suppressions, tell, selection),
        _side(after, profile, suppressions, _from(tell, before.size), selection),
    ]
    first, second = sides
    difference = diff(first.today, second.today)
    return Pair(
        first,
        second,
        profile,
        difference,
        _rows(first, second),
        _graph(first, second, profile, suppressions),
    )


def _side(
    trace: TraceReader,
    profile: CostProfile,
    suppressions: Sequence[Suppression],
    tell: Callable[[int], None],
    selection: Selection | None,
) -> Side:
    counting = SiteCounting(trace, (EVERY_CALL, LACONIC), Stacks(), selection)
    comparison = Comparison(trace, profile, selection, counting.enclaves, call_of)
    listeners = [*counting.listeners, *comparison.listeners]
    replay = Replay(trace, "laconic", listeners=listeners, stacks=counting.stacks)
    replay.run(progress=tell)
    found = counting.result(replay)
    today, laconic = (
        from_sites(found, trace.path, suppressions, EnclaveBasis(name, profile))
        for name in (EVERY_CALL, LACONIC)
    )
    compared = comparison.result(replay) if found.ledger.calls else None
    return Side(trace.path, trace.about, trace.machine, found, today, laconic, compared)


def _from(tell: Callable[[int], None], start: int) -> Callable[[int], None]:
    return lambda done: tell(start + done)


def _tallies(figures: RunFigures) -> Iterator[tuple[str, Key, KeyTally]]:
    # Everything that costs something, with its kind.
    for key, tally in (figures.sites or {}).items():
        yield SITE, key, tally
    for kind, tallies in ((SUPPRESSED, figures.suppressed), (AROUND, figures.around)):
        for name, tally in tallies.items():
            yield kind, Key("", name), tally


def _rows(before: Side, after: Side) -> list[PairRow]:
    tables = [
        {(kind, key): tally for kind, key, tally in _tallies(figures)}
        for figures in (before.today, after.today, before.laconic, after.laconic)
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = []
    for kind, key in names:
        was, now, was_left, now_left = (table.get((kind, key), KeyTally()) for table in tables)
        lines = _line(before, key), _line(after, key)
        rows.append(
            PairRow(Delta(key, was, now, kind), Delta(key, was_left, now_left, kind), lines)
        )
    return sorted(rows, key=_order)


def _order(row: PairRow) -> tuple[float, float, Key]:
    # Largest change first, then largest cost.
    delta = row.today
    return -abs(delta.cycles.middle), -max(delta.was.cycles, delta.now.cycles), delta.key


def _line(side: Side, key: Key) -> tuple[str, int]:
    stack = side.today.stacks.get(key)
    if stack is None:
        return "", 0
    places = own_frames(key.call, side.sites.stacks.walk(stack))
    return (places[0][0].file, places[0][0].line) if places else ("", 0)


# The call graph


def _graph(
    before: Side, after: Side, profile: CostProfile, suppressions: Sequence[Suppression]
) -> Box:
    rules = [rule for rule in suppressions if not rule.only_redundant]
    root = Box("all")
    for is_after, side in enumerate((before, after)):
        for site in side.sites.sites:
            low, high = profile.cycles(site.cost())
            path = _path(site, side.sites.stacks, rules)
            _enter(root, path, (low + high) / 2, bool(is_after))
    root.measure()
    return root


def _enter(root: Box, path: Sequence[tuple[str, str]], cost: float, is_after: bool) -> None:
    if not cost:
        return
    box = root
    for name, module in (("", ""), *path):
        box = box.find(name, module) if name else box
        if is_after:
            box.after += cost
        else:
            box.before += cost


def _path(site: Site, stacks: Stacks, rules: Sequence[Suppression]) -> list[tuple[str, str]]:
    # Return the boxes of a site, outermost first. Consecutive frames of one module are one box,
    # which has the name of the innermost function.
    program = site.program.rsplit("/", 1)[-1] or "?"
    path = [(program, "")]
    if site.stack != NO_STACK:
        places = own_frames(site.call, stacks.walk(site.stack))
        rule = matching(rules, site.call, site.program, StackPlaces(places)) if places else None
        if rule is not None:
            path.append((rule.reason, SUPPRESSED))
        else:
            for place, _ in reversed(places):
                if path[-1][1] == place.module and len(path) > 1:
                    path.pop()
                path.append((place.function, place.module))
    return [*path, (site.call, "")]
