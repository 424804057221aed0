"""Who makes which calls: a trace's memory calls by the place in the program, what became of them,
and their cost.

A call is *redundant* if it succeeded and changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.memory.ledger import Ledger
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener, Program
from laconic.sgx.meter import Counts, Meter
from laconic.strategies import strategy
from laconic.trace.reader import Trace
from laconic.trace.stacks import Stacks

#: By whose rule the enclave's cost of each site is counted.
EVERY_CALL, LACONIC = "every-call", "laconic"


@dataclass(slots=True)
class Site:
    """The calls of one name from one stack of one program. `stack` is `trace.stacks.NO_STACK` where
    none was taken.

    `calls` memory calls were made, of which `redundant` succeeded and changed nothing; `host_calls` host calls
    were made. `first`, `last` and `first_redundant` are the numbers of rows in the trace, -1 for
    none. `counts`: strategy → what its enclave did for these calls; `wasted`: for the redundant
    ones.
    """

    call: str
    stack: int
    program: str
    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    failed: int = 0
    first: int = -1
    last: int = -1
    first_redundant: int = -1
    counts: dict[str, Counts] = field(default_factory=dict)
    wasted: dict[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sites:
    """All sites of a trace. `ledger` has the figures of all calls, `meters` those of the enclaves
    by strategy; `source` is what the trace was made by, as `Trace.source`."""

    sites: list[Site]
    stacks: Stacks
    ledger: Ledger
    meters: dict[str, Meter]
    processes: list[Program]
    loss: list[str]
    events: int
    source: str = "run"


class SiteLabel(NamedTuple):
    """What the enclaves' work for a call is counted under."""

    call: str
    stack: int
    program: str
    is_redundant: bool


def site_label(done: CallDone) -> SiteLabel:
    """The label of a call."""
    return SiteLabel(done.name, done.stack, done.program, done.is_redundant)


class SiteCollector(Listener):
    """Counts every memory call at its site. `sites` are in the order of their first calls."""

    def __init__(self) -> None:
        self.sites: dict[tuple[str, int, str], Site] = {}

    def call_done(self, done: CallDone) -> None:
        """Count the call. O(1)."""
        if done.is_finished:
            self.count(done)

    def count(self, done: CallDone) -> Site:
        """Count a finished call; return its site. O(1)."""
        key = done.name, done.stack, done.program
        site = self.sites.get(key)
        if site is None:
            site = self.sites[key] = Site(*key, first=done.number)
        site.calls += 1
        site.host_calls += done.host_calls
        if done.is_redundant:
            site.redundant += 1
            if site.first_redundant < 0:
                site.first_redundant = done.number
        if done.result < 0:
            site.failed += 1
        site.last = done.number
        return site

    def add_costs(self, meters: Mapping[str, Meter]) -> None:
        """Give each site what the enclaves did for its calls. O(labels)."""
        for name, meter in meters.items():
            for (_, label), counts in meter.tables.items():
                if not isinstance(label, SiteLabel):
                    continue  # the work of no memory call
                site = self.sites.get((label.call, label.stack, label.program))
                if site is None:
                    continue
                site.counts.setdefault(name, Counts()).add(counts)
                if label.is_redundant:
                    site.wasted.setdefault(name, Counts()).add(counts)


def sites(
    trace: Trace,
    strategies: Sequence[str] = (EVERY_CALL, LACONIC),
    progress: Callable[[int], None] | None = None,
    stacks: Stacks | None = None,
) -> Sites:
    """Read a trace to its end. O(events), memory O(sites). Raises LaconicError if it cannot be
    read."""
    stacks = stacks or Stacks()
    collector = SiteCollector()
    enclaves = Enclaves({name: strategy(name) for name in strategies}, label=site_label)
    replay = Replay(trace, "laconic", listeners=[enclaves, collector], stacks=stacks)
    replay.run(progress=progress)
    collector.add_costs(enclaves.meters)
    return Sites(
        list(collector.sites.values()),
        stacks,
        replay.ledger,
        enclaves.meters,
        replay.started,
        replay.losses,
        replay.number + 1,
        trace.source,
    )
