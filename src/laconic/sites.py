"""Who makes which calls: a trace's memory calls by the place in the program, what became of them, and their cost.

A call is *redundant* if it succeeded and changed nothing. A failed call is not, even if it needed no host call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from laconic.ledger import Ledger
from laconic.pal.sgx.meter import Counts, Meter
from laconic.replay.enclaves import EnclaveReplay, Process
from laconic.strategies import strategy
from laconic.trace.reader import Trace
from laconic.trace.schema import MEMORY_CODES, PlainRow
from laconic.trace.sites import NO_STACK, Stacks

#: By whose rule the enclave's cost of each site is counted.
EVERY_CALL, LACONIC = "every-call", "laconic"


@dataclass(slots=True)
class Site:
    """The calls of one name from one stack of one program. `stack` is `trace.sites.NO_STACK` where none was taken.

    `asked` calls were made, of which `redundant` succeeded and changed nothing; `said` host calls were made. `first`,
    `last` and `first_redundant` are the numbers of rows in the trace, -1 for none. `counts`: strategy → what its
    enclave did for these calls; `wasted`: for the redundant ones.
    """

    call: str
    stack: int
    program: str
    asked: int = 0
    redundant: int = 0
    said: int = 0
    failed: int = 0
    first: int = -1
    last: int = -1
    first_redundant: int = -1
    counts: dict[str, Counts] = field(default_factory=dict)
    wasted: dict[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sites:
    """All sites of a trace. `ledger` has the figures of all calls, `meters` those of the enclaves by strategy; `source`
    is what the trace was made by, as `Trace.source`."""

    sites: list[Site]
    stacks: Stacks
    ledger: Ledger
    meters: dict[str, Meter]
    processes: list[Process]
    loss: list[str]
    events: int
    source: str = "run"


class SiteReplay(EnclaveReplay):
    """A replay that enters every memory call under its site. `on_call` is told each, when it is over."""

    def __init__(
        self,
        trace: Trace,
        strategies: Sequence[str] = (EVERY_CALL, LACONIC),
        stacks: Stacks | None = None,
        on_call: Callable[[SiteReplay, PlainRow, Site], None] | None = None,
    ) -> None:
        super().__init__(trace, {name: strategy(name) for name in strategies})
        self.stacks = stacks or Stacks()
        self.sites: dict[tuple[str, int, str], Site] = {}
        self._stack = NO_STACK
        self.on_call = on_call
        for code in range(MEMORY_CODES, 256):
            self._handlers[code] = self._with_stack(self._handlers[code])

    def _with_stack(self, handler: Callable[[PlainRow], None]) -> Callable[[PlainRow], None]:
        take = self.stacks.take

        def both(row: PlainRow) -> None:
            take(row)
            handler(row)

        return both

    def _call(self, row: PlainRow) -> None:
        self._stack = self.stacks.next.pop(row[3], NO_STACK)
        self.said = -1
        super()._call(row)
        if self.said < 0:
            return  # not followed, or never over
        key = self._key(row)
        site = self.sites.get(key)
        if site is None:
            site = self.sites[key] = Site(key[0], key[1], key[2], first=self.number)
        site.asked += 1
        site.said += self.said
        if self.redundant:
            site.redundant += 1
            if site.first_redundant < 0:
                site.first_redundant = self.number
        if self.answer < 0:
            site.failed += 1
        site.last = self.number
        if self.on_call is not None:
            self.on_call(self, row, site)

    @property
    def redundant(self) -> bool:
        """True if the last call succeeded and changed nothing."""
        return not self.said and self.answer >= 0

    def _key(self, row: PlainRow) -> tuple[str, int, str]:
        return self._names[row[0]], self._stack, self.programs.get(row[2], "?")

    def _label(self, row: PlainRow) -> str:
        name, stack, program = self._key(row)
        return f"{name} {stack} {int(self.redundant)} {program}"


def sites(
    trace: Trace,
    strategies: Sequence[str] = (EVERY_CALL, LACONIC),
    progress: Callable[[int], None] | None = None,
    stacks: Stacks | None = None,
) -> Sites:
    """Reads a trace to its end. O(events), memory O(sites). Raises LaconicError where it cannot be read."""
    replay = SiteReplay(trace, strategies, stacks)
    replay.run(progress=progress)
    for name, meter in replay.meters.items():
        for (_, label), counts in meter.tables.items():
            call, *rest = label.split(" ", 3)
            site = replay.sites.get((call, int(rest[0]), rest[2])) if len(rest) == 3 else None
            if site is None:
                continue  # the work of no memory call
            site.counts.setdefault(name, Counts()).add(counts)
            if rest[1] == "1":
                site.wasted.setdefault(name, Counts()).add(counts)
    found = list(replay.sites.values())
    return Sites(
        found, replay.stacks, replay.ledger, replay.meters, replay.told, replay.losses, replay.number + 1, trace.source
    )
