"""The cheapest strict way through a tiny case: a search of all that can be done, independent of
bound and strategies.

A case is a few pages, a few calls, and which pages are touched after each. `Search` takes the
cheapest ways of one page through one call from `onepage`, joins them for all pages with the host
calls and ioctls that they can share, and finds the cheapest way through the case.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby, product
from typing import NamedTuple

from tests.helpers.onepage import ABSENT, Page, Rules, search


class Step(NamedTuple):
    """One call on the pages `first` to `last`, both in it, and the pages that are touched after it.
    `prot` is of the protection, or -1."""

    name: str
    first: int
    last: int
    prot: int
    touched: tuple[int, ...]


Case = tuple[Step, ...]


class State(NamedTuple):
    """One page as the program sees it. `prot` None: not mapped. `initial`: what it has before it is
    written. `live`: touched. `own`: written."""

    prot: int | None = None
    initial: str = "zero"
    live: bool = False
    own: bool = False


def after_call(state: State, step: Step, page: int) -> tuple[State, bool]:
    """The page after the call, and whether its contents died."""
    if not step.first <= page <= step.last:
        return state, False
    if step.name in ("mmap", "file"):
        return State(step.prot, "file" if step.name == "file" else "zero"), state.prot is not None
    if step.name == "munmap":
        return State(), True
    if step.name == "mprotect":
        return state._replace(prot=step.prot), False
    return state._replace(live=False, own=False), True


def after_touch(state: State) -> State:
    """The page after it was touched: written where that is allowed; what memory alone has is its
    own always."""
    assert state.prot
    return (
        state
        if state.live
        else state._replace(live=True, own=bool(state.prot & 2) or state.initial == "zero")
    )


def legal(step: Step, states: list[State]) -> bool:
    """True where the call succeeds as a whole, and is what a program would do."""
    mapped = [states[page].prot is not None for page in range(step.first, step.last + 1)]
    return step.name in ("mmap", "file") or all(mapped)


# The search


class Option(NamedTuple):
    """One way of one page through a call: what it is then (U, C or D), the leaves' cost, the host
    calls, the kinds of ioctl, and whether it took contents from the file."""

    choice: str
    cost: float
    rounds: int
    kinds: frozenset[str]
    reads: bool


class Search:
    """The cheapest way through cases, under one price list."""

    def __init__(self, prices: dict[str, float]) -> None:
        self.prices = prices
        self.leaves = prices | {"host_calls": 0, "ioctls": 0}
        self.options = cache(self._options)

    def _options(self, choice: str, before: State, after: State, died: bool) -> tuple[Option, ...]:
        lived = before.live and not (
            died and not before.own and after.initial == before.initial == "file"
        )
        had = "live" if lived else before.initial
        good = "live" if after.live and before.live and not died else after.initial
        start = (
            ABSENT
            if choice == "U"
            else Page("regular", before.prot or 0, had if choice == "C" else "stale")
        )
        # What lies in a page may be seen by whoever overwrites it, though nobody could before: more
        # ways are legal.
        visible = frozenset((good, "stale", *([had] if before.prot or choice != "U" else ())))
        rules = Rules(before.prot, after.prot, visible)
        found = search(
            start,
            rules,
            lambda things: (sum(self.leaves[thing] for thing in things),),
            longest=3,
            apart=True,
        )
        best: dict[tuple[str, int, frozenset[str], bool], float] = {}
        for (page, requested), way in found.items():
            if page.phase == "absent":
                end = "" if after.live else "U"
            elif (
                page.phase != "regular" or page.pr or after.prot is None or page.prot != after.prot
            ):
                end = ""
            elif page.contents == good:
                end = "C"
            else:
                end = "" if after.prot or after.live else "D"
            if end:
                key = (
                    end,
                    requested.count("("),
                    frozenset(requested) - {"("},
                    page.contents == "file" != start.contents,
                )
                best[key] = min(best.get(key, way.cost[0]), way.cost[0])
        ways = [
            Option(end, cost, rounds, kinds, reads)
            for (end, rounds, kinds, reads), cost in best.items()
        ]
        return tuple(
            way for way in ways if not any(self._beaten(way, by) for by in ways if by is not way)
        )

    def _beaten(self, way: Option, by: Option) -> bool:
        # A kind of ioctl more may be good for something: the page between two others then saves one
        # of theirs.
        more = len(way.kinds - by.kinds)
        least = by.cost + more * self.prices["ioctls"], by.rounds, by.reads
        no_worse = all(
            a <= b for a, b in zip(least, (way.cost, way.rounds, way.reads), strict=True)
        )
        equal = by[:3] == way[:3] and by[3:] == way[3:]
        return way.choice == by.choice and by.kinds <= way.kinds and no_worse and not equal

    def run(self, case: Case, pages: int) -> float:
        """The least that any strict strategy pays for the case."""
        states = [State()] * pages
        costs: dict[tuple[tuple[str, ...], bool], float] = {(("U",) * pages, False): 0.0}
        for step in case:
            moved = [after_call(state, step, page) for page, state in enumerate(states)]
            after = [state for state, _ in moved]
            costs = self._join(costs, states, after, [died for _, died in moved])
            states = [
                after_touch(state) if page in step.touched else state
                for page, state in enumerate(after)
            ]
            if step.touched:
                costs = self._join(costs, after, states, [False] * pages)
        return min(costs.values())

    def _join(
        self,
        costs: dict[tuple[tuple[str, ...], bool], float],
        before: list[State],
        after: list[State],
        died: list[bool],
    ) -> dict[tuple[tuple[str, ...], bool], float]:
        joined: dict[tuple[tuple[str, ...], bool], float] = {}
        for (choices, read), spent in costs.items():
            options = [
                self.options(*page) for page in zip(choices, before, after, died, strict=True)
            ]
            for ways in product(*options):
                cost = spent + sum(way.cost for way in ways) + self._shared(ways)
                reads = any(way.reads for way in ways)
                if reads and not read:
                    cost += self.prices["host_calls"]
                key = tuple(way.choice for way in ways), read or reads
                if cost < joined.get(key, float("inf")):
                    joined[key] = cost
        return joined

    def _shared(self, ways: tuple[Option, ...]) -> float:
        rounds = max(way.rounds for way in ways)
        if not rounds:
            return 0.0
        runs = 0
        for kind in ("EMODPR", "EMODT", "EREMOVE"):
            runs += sum(there for there, _ in groupby(kind in way.kinds for way in ways))
        return rounds * self.prices["host_calls"] + runs * self.prices["ioctls"]
