"""Regressions and improvements between two runs: in total, by call, and by site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from laconic.analysis.baseline import Key, KeyTally, RunFigures
from laconic.analysis.callers import (
    AROUND,
    CALLS,
    COST,
    HOST_CALLS,
    REDUNDANT,
    SITE,
    SUPPRESSED,
    CycleSpan,
)

#: The sort orders of sites, with the meanings of `callers.SORTS`.
SORTS = (COST, REDUNDANT, CALLS, HOST_CALLS)


@dataclass(frozen=True, slots=True)
class Delta:
    """The figures of one call or site in both runs; zero in a run that lacks it.

    `kind` is as in `callers.Caller`: with SUPPRESSED and AROUND, `key.function` is the reason or
    the kind of work.
    """

    key: Key
    was: KeyTally
    now: KeyTally
    kind: str = SITE

    @property
    def redundant(self) -> int:
        """The increase of redundant calls; negative for a decrease."""
        return self.now.redundant - self.was.redundant

    @property
    def host_calls(self) -> int:
        """The increase of host calls on Linux; negative for a decrease."""
        return self.now.host_calls - self.was.host_calls

    @property
    def calls(self) -> int:
        """The increase of calls; negative for a decrease."""
        return self.now.calls - self.was.calls

    @property
    def cycles(self) -> CycleSpan:
        """The increase of cycles (negative for a decrease), at the low and at the high end of the
        cost profile."""
        return CycleSpan(
            self.now.cycles_low - self.was.cycles_low, self.now.cycles - self.was.cycles
        )

    def weights(self, sort: str) -> tuple[float, ...]:
        """Return by how much it regressed, with the quantity `sort` (one of `SORTS`) first."""
        counts = (self.redundant, self.host_calls, self.calls)
        if sort == REDUNDANT:
            return counts
        if sort == CALLS:
            return self.calls, *counts
        if sort == HOST_CALLS:
            enclave = self.now.enclave_host_calls - self.was.enclave_host_calls
            return enclave, self.cycles.middle, *counts
        return self.cycles.middle, *counts

    def is_worse(self, sort: str = COST) -> bool:
        """Return whether it regressed.

        By cost, it regressed if it costs more. If the cost is equal, redundant calls decide; if
        they are equal too, host calls; and finally calls.
        """
        weights = self.weights(sort)
        return weights > (0.0,) * len(weights)


@dataclass(frozen=True, slots=True)
class Difference:
    """`calls` and `sites` that differ, the worst first and the best last by `sort`; None if they
    are unknown in one of the runs.

    `others` are suppressed sites by their reason, and what a library OS does around the calls; only
    if the costs of both runs are known. `whole`: the sites' `calls` and `host_calls` are known in
    both; otherwise they are 0, and only `redundant` was compared. `hidden`: suppressed redundant
    calls, in the first and in the second. `missing` is as in `RunFigures`, of both. `enclave`: the
    enclave of the enclave figures; None if one side lacks them, or has those of a different
    enclave.
    """

    first: str
    second: str
    total: Delta
    hidden: tuple[int, int]
    by_call: list[Delta] | None
    sites: list[Delta] | None
    whole: bool
    sort: str = COST
    others: list[Delta] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    enclave: tuple[str, str] | None = None

    @property
    def is_same(self) -> bool:
        """True if nothing differs that is known of both runs."""
        total, parts = self.total, (self.by_call, self.sites, self.others)
        return total.was == total.now and not any(parts)

    def ranked(self) -> list[Delta]:
        """Return all differences, the worst first. O(n log n)."""
        return _ranked([*(self.sites or ()), *self.others], self.sort)


def diff(first: RunFigures, second: RunFigures, sort: str = COST) -> Difference:
    """Compare two runs. `sort` is one of `SORTS`; if the costs that it needs are unknown, sites are
    sorted by redundant calls, and a note reports that. O(calls + sites), plus sorting them."""
    notes = []
    for what, sides in (
        ("by_call", (first.by_call, second.by_call)),
        ("sites", (first.sites, second.sites)),
    ):
        lacking = [
            one.name for one, side in zip((first, second), sides, strict=True) if side is None
        ]
        notes += [f"{name!r} does not tell {what} apart" for name in lacking]
    enclave = first.enclave if first.enclave == second.enclave else None
    whole = first.whole and second.whole
    has_sites = first.sites is not None and second.sites is not None
    if enclave is None:
        notes += _without_costs(first, second)
    elif first.lacking != second.lacking and not (first.is_baseline or second.is_baseline):
        notes += [lowest(one) for one in (first, second) if one.lacking]
    if has_sites and not whole:
        notes.append(
            "not every call's stack is known: of sites, only the redundant calls are compared"
        )
    if sort in (COST, HOST_CALLS) and (enclave is None or not whole):
        sort = REDUNDANT
    calls = sites = None
    if first.by_call is not None and second.by_call is not None:
        calls = _deltas(
            {Key(call): t for call, t in first.by_call.items()},
            {Key(c): t for c, t in second.by_call.items()},
            REDUNDANT,
        )
    others: list[Delta] = []
    if first.sites is not None and second.sites is not None:
        known = enclave is not None
        sites = _deltas(
            _comparable(first.sites, whole, known), _comparable(second.sites, whole, known), sort
        )
        if enclave is not None and whole:
            others = _others(first, second, sort)
    return Difference(
        first.name,
        second.name,
        Delta(
            Key(""),
            _total(first.total, enclave is not None),
            _total(second.total, enclave is not None),
        ),
        (first.hidden, second.hidden),
        calls,
        sites,
        whole,
        sort,
        others,
        notes,
        {**first.missing, **second.missing},
        enclave,
    )


def lowest(figures: RunFigures) -> str:
    """Return the note on the costs of a log that lacks what they depend on."""
    return f"{figures.name!r} has no {' or '.join(figures.lacking)}: its costs may be higher"


def _without_costs(first: RunFigures, second: RunFigures) -> list[str]:
    # Return why no costs are compared.
    if first.enclave and second.enclave:
        return ["the enclave figures are not of one enclave, and are not compared"]
    lacking = [one.name for one in (first, second) if one.enclave is None]
    return [f"{name!r} does not contain costs, so costs are not compared" for name in lacking]


def _total(tally: KeyTally, known: bool) -> KeyTally:
    return tally if known else KeyTally(tally.calls, tally.redundant, tally.host_calls)


def _comparable(sites: Mapping[Key, KeyTally], whole: bool, known: bool) -> Mapping[Key, KeyTally]:
    # Reduce sites to what both runs record; `known`: the costs too.
    if not whole:
        return {key: KeyTally(0, tally.redundant, 0) for key, tally in sites.items()}
    return {key: _total(tally, known) for key, tally in sites.items()}


def _others(first: RunFigures, second: RunFigures, sort: str) -> list[Delta]:
    found: list[Delta] = []
    for kind, was, now in (
        (SUPPRESSED, first.suppressed, second.suppressed),
        (AROUND, first.around, second.around),
    ):
        before, after = (
            {Key("", name): tally for name, tally in side.items()} for side in (was, now)
        )
        found += _deltas(before, after, sort, kind)
    return _ranked(found, sort)


def _deltas(
    was: Mapping[Key, KeyTally], now: Mapping[Key, KeyTally], sort: str, kind: str = SITE
) -> list[Delta]:
    deltas = [
        Delta(key, was.get(key, KeyTally()), now.get(key, KeyTally()), kind)
        for key in {**was, **now}
    ]
    return _ranked([delta for delta in deltas if delta.was != delta.now], sort)


def _ranked(deltas: list[Delta], sort: str) -> list[Delta]:
    return sorted(
        deltas, key=lambda delta: (*(-weight for weight in delta.weights(sort)), delta.key)
    )
