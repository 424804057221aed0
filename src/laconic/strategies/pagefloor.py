"""The minimum cost of one page: a dynamic program over its history, which works on page runs and
keeps undecided choices open.

A touched page must be committed (LIVE). For an untouched page, a strict strategy has choices: not
committed (U); committed with the contents that the program must see (C); or, if the program may not
access it, committed with stale contents (D). A `PageShape` contains the choices that may still turn
out cheapest, each with its cost since the last decision. An event leads from shape to shape, and
the cost of what it decides is counted. There are few shapes and few events, so each combination is
computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from laconic.memory.flags import PROT_READ, PROT_RWX, PROT_WRITE
from laconic.sgx.pal.edmm import RW

#: Counters with their numbers for one page, sorted by name.
Tally = tuple[tuple[str, int], ...]
U, C, D, L = 1, 2, 4, 8

#: Bits of an event, in addition to the permissions before (bits 0 to 2) and after (3 to 5). DIES:
#: the contents are lost. FROM_FILE: the new contents are a file's. KEEPS: the new contents are
#: those already there. OTHER: the backing changes.
DIES, FROM_FILE, KEEPS, OTHER = 64, 128, 256, 512

TRIM: Tally = (("eaccept", 1), ("emodt", 1), ("eremove", 1), ("etrack_ipis", 1))
_FAULT: Tally = (("eaug", 1), ("eaug_faults", 1))


def plus(*tallies: Tally) -> Tally:
    """Return the sum of tallies. O(counters).

    >>> plus((("eaccept", 1),), (("eaccept", 1), ("eaug", 1)))
    (('eaccept', 2), ('eaug', 1))
    """
    total: dict[str, int] = {}
    for tally in tallies:
        for name, count in tally:
            total[name] = total.get(name, 0) + count
    return tuple(sorted(total.items()))


def protected(had: int, want: int) -> tuple[Tally, int]:
    """Return the SGX instructions that give a committed page other permissions, and the number of
    host calls, each with one ioctl."""
    if not had & ~want:
        return ((("emodpe", 1),) if want & ~had else ()), 0
    leaves: Tally = (("eaccept", 1), ("emodpr", 1), ("etrack_ipis", 1))
    return (plus(leaves, (("emodpe", 1),)) if want & ~had else leaves), 1


class PageShape:
    """The open choices of a page. Its `PageFloor` interns it, so equal shapes are identical.

    `choices`: those that may still turn out cheapest, with their tallies. `may`: all choices that a
    strict strategy may have made, as a set of bits. `dead`: the page was live, so a strategy
    without the page must have trimmed it.
    """

    __slots__ = ("choices", "dead", "ended", "may", "steps", "touches", "unmapped")

    def __init__(self, choices: tuple[tuple[int, Tally], ...], may: int, dead: bool) -> None:
        self.choices = choices
        self.may = may
        self.dead = dead
        self.steps: dict[int, PageStep] = {}
        self.touches: dict[int, Tally] = {}
        self.unmapped: Tally | None = None
        self.ended: Tally | None = None


class PageStep(NamedTuple):
    """The effect of an event on a page.

    `shape` is its next shape (None: not committed, nothing open), `tally` the cost that is now
    decided, and `host_calls` the number of host calls (with as many ioctls) that no choice can
    avoid. `either`: the host call may be a trim's or a restriction's.
    """

    shape: PageShape | None
    tally: Tally
    host_calls: int = 0
    either: bool = False


#: One way to continue: the next choice, its cost, and its minimum number of host calls.
Way = tuple[int, Tally, int]


class PageFloor:
    """The dynamic program for one vector of `costs` (cycles for each counter)."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.costs = costs
        self._shapes: dict[tuple[tuple[tuple[int, Tally], ...], int, bool], PageShape] = {}
        self._commits: dict[int, Tally] = {}
        self.live = self._shape(((L, ()),), L, False)
        self.fresh = self._shape(((U, ()),), U, False)
        cost = self.cost
        commits = [cost(self.commit(prot, False)) for prot in range(1, 8)]
        self._recommit = max(commits)
        restricted = cost(protected(RW, PROT_READ)[0])
        refused = costs["emodpr"] + costs["etrack_ipis"]  # if the page never had the permission
        #: Bits of the events for which committing an untouched page can pay, as long as EACCEPT
        #: alone suffices: all of them, if it makes up for a restriction; OTHER, if contents are
        #: then only copied over; or none.
        self.eager = 0
        if min(commits) < self._recommit:
            self.eager = ~0 if min(commits) + restricted < self._recommit else OTHER
        #: Whether committing a page between two runs costs more than another ioctl (for
        #: restrictions, for trims).
        self.separate = (
            min(restricted + min(commits) - self._recommit, refused) > costs["ioctls"],
            min(commits) + cost(TRIM) > 2 * costs["ioctls"],
        )

    def cost(self, tally: Tally) -> float:
        """Return the cost of a tally, in cycles. O(counters)."""
        return sum(self.costs[name] * count for name, count in tally)

    def cheapest(self, tallies: Iterable[Tally]) -> Tally:
        """Return the tally with the lowest cost; among equals, the shortest. O(tallies)."""
        return min(
            tallies, key=lambda tally: (self.cost(tally), sum(count for _, count in tally), tally)
        )

    def commit(self, prot: int, file: bool) -> Tally:
        """Return the cost of committing a page with `prot` from the first moment; `file`: with a
        file's contents, otherwise zeros. O(1)."""
        key = prot | file << 3
        tally = self._commits.get(key)
        if tally is None:
            ways = [plus(_FAULT, (("eacceptcopy", 1),), (("pages_copied", 1),) if file else ())]
            if not file and prot & RW == RW:
                ways.append(
                    plus(_FAULT, (("eaccept", 1),), (("emodpe", 1),) if prot == PROT_RWX else ())
                )
            tally = self._commits[key] = self.cheapest(ways)
        return tally

    def touch(self, shape: PageShape, prot: int, file: bool) -> Tally:
        """Return the cost that is decided when the page is touched, after which it is live.
        O(1)."""
        key = prot | file << 3
        tally = shape.touches.get(key)
        if tally is None:
            ends = {U: self.commit(prot, file), C: (), L: ()}
            tally = self.cheapest(
                plus(spent, ends[choice]) for choice, spent in shape.choices if choice in ends
            )
            shape.touches[key] = tally
        return tally

    def unmap(self, shape: PageShape) -> Tally:
        """Return the cost that is decided when the page is unmapped, including its release if it is
        committed. O(1)."""
        if shape.unmapped is None:
            shape.unmapped = self.cheapest(
                plus(t, () if choice == U else TRIM) for choice, t in shape.choices
            )
        return shape.unmapped

    def end(self, shape: PageShape) -> Tally:
        """Return the cost that is decided when the enclave ends. O(1)."""
        if shape.ended is None:
            shape.ended = self.cheapest(tally for _, tally in shape.choices)
        return shape.ended

    def step(self, shape: PageShape, event: int) -> PageStep:
        """Return the effect of a call that leaves the page mapped. O(1)."""
        step = shape.steps.get(event)
        if step is None:
            step = shape.steps[event] = self._step(shape, event)
        return step

    def _step(self, shape: PageShape, event: int) -> PageStep:
        ways = {choice: self._ways(choice, event) for choice in (U, C, D, L) if shape.may & choice}
        best: dict[int, Tally] = {}
        for choice, spent in shape.choices:
            for after, tally, _ in ways[choice]:
                total = plus(spent, tally)
                best[after] = self.cheapest((best[after], total)) if after in best else total
        may = 0
        least = 2
        for choice, further in ways.items():
            # A strategy that no longer has the page has trimmed it since it was live, either in
            # this call or earlier, which costs the same.
            least = min(
                least, 2 if choice == U and shape.dead else min(calls for _, _, calls in further)
            )
            for after, _, _ in further:
                may |= after
        if shape is self.live:
            dead = bool(event & DIES)
        else:
            dead = shape.dead
            # A page that is not dead may be U, which needs no call.
            assert dead or not least
        either = shape is self.live and dead and least == 1
        self._prune(best, bool(event & FROM_FILE))
        if L in best:
            return PageStep(self.live, best[L], least, either)
        if len(best) == 1 and U in best:
            return PageStep(None, best[U], least, either)
        return PageStep(self._shape(tuple(sorted(best.items())), may, dead), (), least, either)

    def _ways(self, choice: int, event: int) -> list[Way]:
        had, want = event & 7, event >> 3 & 7
        move, calls = protected(had, want)
        filled: Tally = (("pages_copied", 1),) if event & FROM_FILE else (("pages_zeroed", 1),)
        gone: Way = U, TRIM, 2
        if choice == U:
            return [(U, (), 0), *self._committed_early(had, want, event)]
        if choice == L and not event & DIES:
            return [(L, move, calls)]
        # The page is released, and committed again before the call ends. The host calls of a
        # restriction are omitted, because only the minimum over all ways counts, and `gone` has 2.
        early = self._committed_early(had, want, event)
        again: list[Way] = [(after, plus(TRIM, tally), 2) for after, tally, _ in early]
        if choice == D:
            if not want:
                return [gone, *again, (D, (), 0)]
            return (
                [gone, *again, (C, plus(move, filled), calls)]
                if want & PROT_WRITE
                else [gone, *again]
            )
        if (choice == C and not event & OTHER) or event & KEEPS:
            return [gone, *again, (C, move, calls)]
        ways = [gone, *again]
        if (had | want) & PROT_WRITE:
            ways.append((C, plus(move, filled), calls))
        if not want:
            ways.append((D, move, calls))
        return ways

    def _committed_early(self, had: int, want: int, event: int) -> Iterator[Way]:
        # Pages that are not touched yet, committed immediately before or during the call: with the
        # permissions before the call, or with those that EACCEPT sets if either side of the call
        # has them. If the call changes the backing, the cheapest case is an earlier backing of
        # zeros, which is assumed.
        file = bool(event & FROM_FILE)
        copied: Tally = (("pages_copied", 1),) if file else ()
        over = bool(event & OTHER)
        for first in (had, RW):
            fits = had & first == first or (over and want & first == first)
            if fits and (not over or not file or (first | want) & PROT_WRITE):
                move, calls = protected(first, want)
                if over:
                    yield C, plus(self.commit(first, False), move, copied), calls
                elif had != want:
                    yield C, plus(self.commit(first, file), move), calls

    def _prune(self, best: dict[int, Tally], file: bool) -> None:
        # Remove choices that can never be cheapest: they cost as much as committing the page only
        # at its touch.
        if U in best:
            limit = (
                self.cost(best[U]) + self._recommit + (self.costs["pages_copied"] if file else 0)
            )
            for choice in (C, D):
                if choice in best and self.cost(best[choice]) >= limit:
                    del best[choice]
        if C in best and D in best and self.cost(best[C]) <= self.cost(best[D]):
            del best[D]

    def _shape(self, choices: tuple[tuple[int, Tally], ...], may: int, dead: bool) -> PageShape:
        key = choices, may, dead
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = PageShape(choices, may, dead)
        return shape
