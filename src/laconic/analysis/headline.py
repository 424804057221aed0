"""The most important fact about a trace: which site to examine first, and why it is expensive.

Data only; `report.headline` writes the sentence.
"""

from __future__ import annotations

from typing import NamedTuple

from laconic.analysis.callers import (
    AROUND,
    SITE,
    SUPPRESSED,
    Caller,
    Callers,
    CycleSpan,
    callers,
    savings,
)
from laconic.analysis.sites import EVERY_CALL, LACONIC, Sites
from laconic.analysis.suppressions import BUILT_IN, LOADING, Suppression
from laconic.replay.enclaves import BEFORE
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Counts

#: The rule that a headline follows: no calls; a log without touched pages; redundant calls; a site;
#: the dynamic loader; no site stands out.
NO_CALLS, UNTOUCHED, REDUNDANT, COSTLY, LOADER, EVEN = (
    "no calls",
    "touches unknown",
    "redundant",
    "costly",
    "loader",
    "even",
)
#: Why a site is expensive: it commits pages of which few are touched; restricts pages; releases
#: pages; leaves the enclave often.
COMMITS, RESTRICTS, RELEASES, LEAVES = "commits", "restricts", "releases", "leaves"
#: The share of all calls that a site's redundant ones must reach, and the share of all cycles that
#: it must save, to be a headline.
_REDUNDANT, _COSTLY = 0.2, 0.05
#: Below this share of touched pages, committed pages count as hardly touched.
_TOUCHED = 0.5


class Headline(NamedTuple):
    """The headline of a trace.

    `rule` is one of the rules above. `subject` is the site that the headline names (with EVEN, the
    one that saves most), None if there is none. `cost` is what it costs under every-call, `left`
    under laconic; `total` and `total_left` are the whole program's. `cause` is COMMITS, RESTRICTS,
    RELEASES, LEAVES or "". Page counts are those of the cause, under every-call. `loader` is the
    dynamic loader if it is not the subject, and costs something; `files` is the number of files
    that it loaded. `calls` and `redundant` are of all memory calls. `larger` are the callers that
    cost more than the subject, with their costs, the most expensive first. `before` is the cost of
    the memory that the program had before laconic attached to it, a part of `total`, and
    `before_left` that under laconic. `is_selection`: only some calls are counted.
    """

    rule: str
    calls: int
    redundant: int
    total: CycleSpan
    total_left: CycleSpan
    subject: Caller | None = None
    cost: CycleSpan = CycleSpan(0, 0)
    left: CycleSpan = CycleSpan(0, 0)
    cause: str = ""
    committed: int = 0
    touched: int = 0
    restricted: int = 0
    released: int = 0
    host_calls: int = 0
    loader: Caller | None = None
    loader_cost: CycleSpan = CycleSpan(0, 0)
    loader_left: CycleSpan = CycleSpan(0, 0)
    files: int = 0
    larger: tuple[tuple[Caller, CycleSpan], ...] = ()
    before: CycleSpan = CycleSpan(0, 0)
    before_left: CycleSpan = CycleSpan(0, 0)
    is_selection: bool = False

    @property
    def share(self) -> float:
        """The subject's share of the program's cost, from 0 to 1."""
        return self.cost.middle / self.total.middle if self.total.middle else 0.0


def headline(
    found: Sites,
    suppressions: tuple[Suppression, ...] | list[Suppression] = BUILT_IN,
    profile: CostProfile | None = None,
) -> Headline:
    """Return the headline of a trace. O(sites × frames).

    A suppressed site is never the headline; the dynamic loader is one if no site saves enough.
    """
    rules = [*suppressions, *(rule for rule in BUILT_IN if rule not in suppressions)]
    grouped = callers(found, "line", suppressions=rules, profile=profile)
    loader = grouped.suppressed.get(LOADING)
    basis = Headline(
        EVEN,
        grouped.calls,
        grouped.redundant,
        grouped.total(),
        grouped.total(LACONIC),
        loader=loader,
        files=0 if loader is None else len(loader.files),
        is_selection=grouped.is_selection,
    )
    if loader is not None:
        basis = basis._replace(
            loader_cost=grouped.cycles(loader), loader_left=grouped.cycles(loader, LACONIC)
        )
    if not grouped.calls:
        return basis._replace(rule=NO_CALLS)
    before = next(
        (one for one in grouped.callers if (one.kind, one.name) == (AROUND, BEFORE)), None
    )
    if before is not None:
        basis = basis._replace(
            before=grouped.cycles(before), before_left=grouped.cycles(before, LACONIC)
        )
    # The base of the shares: the cost of the work that the trace shows.
    whole = basis.total.middle - basis.before.middle
    subjects = [
        caller
        for caller in grouped.callers
        if caller.kind in (SITE, AROUND) and caller is not before
    ]
    subject = max(subjects, key=lambda caller: savings(grouped, caller), default=None)
    if not found.knows_touched:
        return _about(basis._replace(rule=UNTOUCHED), subject, grouped)
    if subject is not None:
        saved = savings(grouped, subject)
        if subject.redundant >= _REDUNDANT * grouped.calls:
            return _about(basis._replace(rule=REDUNDANT), subject, grouped)
        if saved >= _COSTLY * whole > 0:
            return _about(basis._replace(rule=COSTLY), subject, grouped)
    if loader is not None and savings(grouped, loader) >= _COSTLY * whole > 0:
        about = _about(basis._replace(rule=LOADER), loader, grouped)
        return about._replace(loader=None, cause="")
    return _about(basis, subject, grouped)


def _about(basis: Headline, subject: Caller | None, found: Callers) -> Headline:
    if subject is None:
        return basis
    counts = subject.cost(EVERY_CALL)
    cost = found.cycles(subject)
    every = [(caller, found.cycles(caller)) for caller in found.callers]
    about = basis._replace(
        subject=subject,
        larger=tuple(pair for pair in every if pair[1].middle > cost.middle),
        cost=cost,
        left=found.cycles(subject, LACONIC),
        committed=subject.committed_pages(),
        touched=subject.touched_pages,
        restricted=counts.emodpr,
        released=counts.eremove,
        host_calls=counts.host_calls,
    )
    if subject.kind in (AROUND, SUPPRESSED):
        return about
    return about._replace(cause=_cause(about, counts, found.profile))


def _cause(about: Headline, counts: Counts, profile: CostProfile) -> str:
    # The largest part of the cost decides. One page costs: EAUG in a fault, and EACCEPT; EMODPR or
    # EMODT with an ETRACK cycle, and EACCEPT; the removal.
    price = {name: (figure.low + figure.high) / 2 for name, figure in profile.figures.items()}
    commit = price["eaug"] + price["eaug_faults"] + price["eaccept"]
    restrict = price["emodpr"] + price["etrack_ipis"] + price["eaccept"]
    release = price["emodt"] + price["etrack_ipis"] + price["eaccept"] + price["eremove"]
    parts = {
        COMMITS: about.committed * commit,
        RESTRICTS: about.restricted * restrict,
        RELEASES: about.released * release,
        LEAVES: counts.host_calls * price["host_calls"],
    }
    cause = max(parts, key=lambda name: parts[name])
    if not parts[cause]:
        return ""
    if cause == COMMITS and about.touched > _TOUCHED * about.committed:
        return ""
    if cause == LEAVES and parts[LEAVES] < about.cost.middle / 2:
        return ""
    return cause
