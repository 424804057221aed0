"""What the sites of a running program have cost so far in an enclave: from the rows of its trace,
as they arrive.

The replay is that of `analysis.sites`, and its figures are read while it runs. The cost of a page's
first touch is known when the page is released, at a fork, at an execve and at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from laconic.analysis.sites import EVERY_CALL, LACONIC, SiteCollector, Work, site_label
from laconic.replay.enclaves import AROUND, OTHER, Enclaves
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.sgx.costs import CostProfile, load
from laconic.sgx.meter import Counts
from laconic.strategies import strategy
from laconic.trace.reader import TraceReader
from laconic.trace.schema import EVENTS, Row
from laconic.trace.stacks import Stacks

STRATEGIES = (EVERY_CALL, LACONIC)


class Stream(TraceReader):
    """The rows of a running program, as a trace without a file. `batches` yields them as they
    arrive; `between` is called before each batch."""

    def __init__(self, source: Iterator[list[Row]], between: Callable[[], None]) -> None:
        self.path = "-"
        self.size = self.position = self.events = 0
        self.loss = None
        self.source = "run"
        self.about = {"strategy": "laconic"}
        self.names = list(EVENTS)
        self._source = source
        self._between = between

    def batches(self) -> Iterator[list[Row]]:
        """Yield the rows, as they arrive."""
        for rows in self._source:
            self._between()
            yield rows
            self.events += len(rows)


class RunningCosts(Listener):
    """Keeps the enclaves of a running program, and the costs of its sites.

    `run` replays `source` to its end. `message` returns what has changed since the last one. All
    cycles are [low, high] under every-call, then [low, high] under laconic, by `profile`.
    """

    def __init__(self, profile: CostProfile | None = None) -> None:
        self.profile = profile or load()
        self.time = 0
        self._collector = SiteCollector()
        self._enclaves = Enclaves(
            {name: strategy(name) for name in STRATEGIES}, label=site_label, by_owner=True
        )
        self._around = {kind: Work() for kind in (*AROUND, OTHER)}
        self._changed: dict[int, Work] = {}

    def run(self, source: Iterator[list[Row]], between: Callable[[], None]) -> None:
        """Replay the rows of `source`. `between` is called regularly, and may call `message`."""
        stream = Stream(source, between)
        Replay(stream, "laconic", listeners=[self._enclaves, self], stacks=Stacks()).run()

    def call_done(self, done: CallDone) -> None:
        """Count the call. O(1)."""
        self.time = done.row.time
        if done.is_finished:
            site = self._collector.count(done)
            self._changed[id(site)] = site

    def message(self) -> dict[str, Any]:
        """Return the costs that have changed since the last message. O(sites and labels that have
        changed).

        `sites` are [call, stack, program, calls, redundant, four cycles]; `around` are [kind, four
        cycles]; `time` is that of the last call, in seconds since the program's start.
        """
        collector = self._collector
        for name, label, counts in self._enclaves.take_counts():
            work = collector.enter(name, label, counts, self._around)
            self._changed[id(work)] = work
        for meter in self._enclaves.meters.values():
            meter.at(-1, OTHER)  # work before the next label is counted there
        changed, self._changed = self._changed, {}
        return {
            "time": self.time / 1e9,
            "sites": [
                [*key, site.calls, site.redundant, *self._cycles(site)]
                for key, site in collector.sites.items()
                if id(site) in changed
            ],
            "around": [
                [kind, *self._cycles(work)]
                for kind, work in self._around.items()
                if id(work) in changed and work.cost() != Counts()
            ],
        }

    def _cycles(self, work: Work) -> list[int]:
        return [round(end) for name in STRATEGIES for end in self.profile.cycles(work.cost(name))]
