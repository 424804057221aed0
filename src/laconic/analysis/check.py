"""Limits on redundant calls and host calls, which `laconic check` and the pytest plug-in check."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

from laconic.analysis import callers, diff
from laconic.analysis.baseline import Key, KeyTally, RunFigures
from laconic.analysis.callers import AROUND, SITE, SUPPRESSED

REDUNDANT, HOST_CALLS, BASELINE = "max-redundant", "max-host-calls", "baseline"
ENCLAVE_HOST_CALLS, CYCLES = "max-enclave-host-calls", "max-cycles"


#: The sort orders of offenders: `diff.SORTS`, or the quantity that the limit counts.
LIMIT = "limit"
SORTS = (*diff.SORTS, LIMIT)


class Limit(NamedTuple):
    """A count, or a percentage if `share` is set."""

    number: Fraction
    share: bool = False

    def of(self, whole: int) -> Fraction:
        """Return the limit as a count, out of `whole`.

        >>> parse_limit("5%").of(300), parse_limit("7").of(300)
        (Fraction(15, 1), Fraction(7, 1))
        """
        return self.number * whole / 100 if self.share else self.number

    def __str__(self) -> str:
        return f"{float(self.number):,g} %" if self.share else f"{int(self.number):,}"


def parse_limit(text: str | int) -> Limit:
    """Return the limit for `5%`, `0.5 %` or a count. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*(%?)\s*", str(text), re.ASCII)
    if match is None or isinstance(text, bool) or ("." in match[1] and not match[2]):
        raise ValueError(f"{text!r} is not a limit: write a share as in 5%, or a count as in 20")
    return Limit(Fraction(match[1]), bool(match[2]))


def parse_cycles(text: str | int) -> int:
    """Return a number of cycles; K, M, G and T are powers of 1000. Raises ValueError.

    >>> parse_cycles("800M"), parse_cycles("4.5G"), parse_cycles(20)
    (800000000, 4500000000, 20)
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)", str(text), re.ASCII)
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is not a number of cycles; give one as in 800M or 4.5G")
    scale: int = 1000 ** " KMGT".index(match[2] or " ")
    return round(Fraction(match[1]) * scale)


#: No tolerance.
NONE = Limit(Fraction(0))


class Limits(NamedTuple):
    """The limits of a run. `tolerance` is the permitted increase over `baseline`. `max_cycles`
    limits the high end of the estimate."""

    max_redundant: Limit | None = None
    max_host_calls: int | None = None
    baseline: RunFigures | None = None
    tolerance: Limit = NONE
    max_enclave_host_calls: int | None = None
    max_cycles: int | None = None


class Offender(NamedTuple):
    """A site, or a call if sites are unknown (`key.function` is ""). `known`: `calls` and
    `host_calls` are known. `was`: the baseline's tally. `kind` is as in `callers.Caller`: with
    SUPPRESSED and AROUND, `key.function` is the reason or the kind of work."""

    key: Key
    tally: KeyTally
    known: bool
    was: KeyTally | None = None
    kind: str = SITE


class Verdict(NamedTuple):
    """The result of one rule, as a sentence; if the limit is exceeded, also the offenders: those
    that cost most in an enclave first, or in another order.

    `what` is the quantity that is counted: the `redundant`, `host_calls`, `enclave_host_calls` or
    `cycles` of a tally. For cycles, the sentence has fields: `{now}`, and either the limit
    `{most}`, or the baseline's `{was}`, and `{change}`; `most` and `was` are their values.
    """

    rule: str
    what: str
    kept: bool
    sentence: str
    offenders: tuple[Offender, ...] = ()
    most: int | None = None
    was: KeyTally | None = None


def check(figures: RunFigures, limits: Limits, sort: str = callers.COST) -> list[Verdict]:
    """Return a verdict for each rule. `sort` is the order of offenders, one of `SORTS`. Costs and
    host calls are those of an enclave; without one, the offenders that have most of what the rule
    counts come first. Under the rule of a baseline with the same enclave, offenders are sorted by
    their increase. O(sites log sites)."""
    verdicts = _verdicts(figures, limits)
    by_baseline = limits.baseline is not None and limits.baseline.enclave == figures.enclave
    return [
        verdict._replace(
            offenders=_ordered(
                verdict.offenders, sort, figures, by_baseline and verdict.rule == BASELINE
            )
        )
        for verdict in verdicts
    ]


def _ordered(
    offenders: tuple[Offender, ...], sort: str, figures: RunFigures, grown: bool
) -> tuple[Offender, ...]:
    # The sort is stable: equal offenders stay in the order of what the rule counts. `grown`: sort
    # by the increase over the baseline.
    needs_costs = sort in (callers.COST, callers.HOST_CALLS)
    if sort == LIMIT or (needs_costs and figures.enclave is None):
        return offenders

    def value(one: Offender) -> float:
        before = one.was if grown and one.was is not None else KeyTally()
        if sort == callers.COST:
            return one.tally.middle - before.middle
        names = {callers.HOST_CALLS: "enclave_host_calls", callers.CALLS: "calls"}
        name = names.get(sort, "redundant")
        return float(getattr(one.tally, name) - getattr(before, name))

    return tuple(sorted(offenders, key=lambda one: -value(one)))


def _verdicts(figures: RunFigures, limits: Limits) -> list[Verdict]:
    verdicts = []
    if limits.max_redundant is not None:
        verdicts.append(_redundant(figures, limits.max_redundant))
    if limits.max_host_calls is not None:
        verdicts.append(_host_calls(figures, limits.max_host_calls))
    if limits.max_enclave_host_calls is not None:
        verdicts.append(_enclave_host_calls(figures, limits.max_enclave_host_calls))
    if limits.max_cycles is not None:
        verdicts.append(_cycles(figures, limits.max_cycles))
    if limits.baseline is not None:
        verdicts += _baseline(figures, limits.baseline, limits.tolerance)
    return verdicts


def _share(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""


def _redundant(figures: RunFigures, limit: Limit) -> Verdict:
    found, calls = figures.redundant, figures.total.calls
    sentence = f"{figures.total.redundant:,} of {calls:,} memory calls changed nothing"
    if figures.hidden:
        sentence += f"; {figures.hidden:,} of them are suppressed, and {found:,} count"
    sentence += f"{_share(found, calls)}; {limit} may"
    if found <= limit.of(calls):
        return Verdict(REDUNDANT, "redundant", True, sentence)
    return Verdict(REDUNDANT, "redundant", False, sentence, _worst(figures, "redundant"))


def _host_calls(figures: RunFigures, most: int) -> Verdict:
    host_calls = figures.total.host_calls
    sentence = f"{host_calls:,} host calls; {most:,} may be"
    if host_calls <= most:
        return Verdict(HOST_CALLS, "host_calls", True, sentence)
    return Verdict(HOST_CALLS, "host_calls", False, sentence, _worst(figures, "host_calls"))


def _enclave_host_calls(figures: RunFigures, most: int) -> Verdict:
    host_calls = figures.total.enclave_host_calls
    sentence = f"{host_calls:,} enclave host calls under {_strategy(figures)}; {most:,} may be"
    kept = host_calls <= most
    what = "enclave_host_calls"
    return Verdict(ENCLAVE_HOST_CALLS, what, kept, sentence, () if kept else _worst(figures, what))


def _cycles(figures: RunFigures, most: int) -> Verdict:
    sentence = f"{{now}} in an enclave under {_strategy(figures)}; {{most}} may be"
    kept = figures.total.cycles <= most
    offenders = () if kept else _worst(figures, "cycles")
    return Verdict(CYCLES, "cycles", kept, sentence, offenders, most)


def _strategy(figures: RunFigures) -> str:
    return figures.enclave[0] if figures.enclave else "?"


def _tallies(figures: RunFigures, by_site: bool) -> Mapping[Key, KeyTally]:
    if by_site:
        return figures.sites or {}
    return {Key(call): tally for call, tally in (figures.by_call or {}).items()}


def _worst(figures: RunFigures, what: str) -> tuple[Offender, ...]:
    # Stacks of redundant calls only do not show where host calls are made.
    by_site = figures.sites is not None and (figures.whole or what != "host_calls")
    known = figures.whole or not by_site
    found = [Offender(key, tally, known) for key, tally in _tallies(figures, by_site).items()]
    if by_site and what != "redundant":
        found += _others(figures)
    found = [one for one in found if getattr(one.tally, what)]
    found.sort(key=lambda one: (-getattr(one.tally, what), -one.tally.calls, one.key))
    return tuple(found)


def _others(figures: RunFigures) -> Iterator[Offender]:
    # Work without a site counts too: suppressed sites, and the work around the calls.
    for kind, tallies in ((SUPPRESSED, figures.suppressed), (AROUND, figures.around)):
        for name, tally in tallies.items():
            yield Offender(Key("", name), tally, figures.whole, kind=kind)


def _before(one: Offender, baseline: RunFigures) -> KeyTally:
    # Return the baseline's tally of one of `_others`.
    tallies = baseline.suppressed if one.kind == SUPPRESSED else baseline.around
    return tallies.get(one.key.function, KeyTally())


def _baseline(figures: RunFigures, baseline: RunFigures, tolerance: Limit) -> list[Verdict]:
    by_site = figures.sites is not None and baseline.sites is not None
    sums_alone = baseline.sites is None and baseline.by_call is None
    # A run's own JSON contains no suppressions.
    now, was = (
        one.redundant if by_site or sums_alone else one.total.redundant
        for one in (figures, baseline)
    )
    more = f"; {tolerance} more may be" if tolerance.number else ""
    before = _tallies(baseline, by_site)
    worse = [
        Offender(key, tally, figures.whole or not by_site, old)
        for key, tally in ({} if sums_alone else _tallies(figures, by_site)).items()
        if tally.redundant > _allowed((old := before.get(key, KeyTally())).redundant, tolerance)
    ]
    worse.sort(key=lambda one: ((one.was or one.tally).redundant - one.tally.redundant, one.key))
    what = "site" if by_site else "call"
    sentence = f"{now:,} redundant calls, {was:,} in the baseline{more}"
    if worse:
        sentence += (
            f"; {len(worse):,} {what}{' makes' if len(worse) == 1 else 's make'} more than before"
        )
    kept = not worse and now <= _allowed(was, tolerance)
    # Sums do not show which sites regressed, so all sites that make such calls are named.
    offenders = _worst(figures, "redundant") if sums_alone and not kept else tuple(worse)
    verdicts = [Verdict(BASELINE, "redundant", kept, sentence, offenders)]
    now, was = figures.total.host_calls, baseline.total.host_calls
    kept = now <= _allowed(was, tolerance)
    offenders = (
        ()
        if kept
        else _worst(figures, "host_calls")
        if sums_alone
        else _more_host_calls(figures, baseline)
    )
    sentence = f"{now:,} host calls, {was:,} in the baseline{more}"
    verdicts.append(Verdict(BASELINE, "host_calls", kept, sentence, offenders))
    if figures.enclave is not None and figures.enclave == baseline.enclave:
        verdicts.append(_more(figures, baseline, tolerance, "enclave_host_calls", more))
        verdicts.append(_more(figures, baseline, tolerance, "cycles", more))
    return verdicts


def _more(
    figures: RunFigures, baseline: RunFigures, tolerance: Limit, what: str, more: str
) -> Verdict:
    # Compare an enclave figure with the baseline's; the sites whose figure grew most come first.
    now, was = getattr(figures.total, what), getattr(baseline.total, what)
    sentence = f"{now:,} enclave host calls, {was:,} in the baseline{more}"
    if what == "cycles":
        sentence = f"{{now}} in an enclave, {{was}} in the baseline{{change}}{more}"
    if now <= _allowed(was, tolerance):
        return Verdict(BASELINE, what, True, sentence, was=baseline.total)
    before = baseline.sites or {}
    found = [
        Offender(key, tally, figures.whole, before.get(key, KeyTally()))
        for key, tally in (figures.sites or {}).items()
    ]
    found += [one._replace(was=_before(one, baseline)) for one in _others(figures)]
    grown = [one for one in found if getattr(one.tally, what) > getattr(one.was, what)]
    grown.sort(key=lambda one: (getattr(one.was, what) - getattr(one.tally, what), one.key))
    return Verdict(BASELINE, what, False, sentence, tuple(grown), was=baseline.total)


def _allowed(was: int, tolerance: Limit) -> Fraction:
    return was + tolerance.of(was)


def _more_host_calls(figures: RunFigures, baseline: RunFigures) -> tuple[Offender, ...]:
    by_site = figures.whole and baseline.whole
    if not by_site and baseline.by_call is None:
        return ()
    before = _tallies(baseline, by_site)
    found = [
        Offender(key, tally, True, before.get(key, KeyTally()))
        for key, tally in _tallies(figures, by_site).items()
    ]
    if by_site:
        found += [one._replace(was=_before(one, baseline)) for one in _others(figures)]
    grown = [
        one for one in found if one.was is not None and one.tally.host_calls > one.was.host_calls
    ]
    return tuple(
        sorted(
            grown,
            key=lambda one: ((one.was or one.tally).host_calls - one.tally.host_calls, one.key),
        )
    )
