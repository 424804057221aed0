"""The options that `advise` would change, from a replay that another verb makes anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from laconic.analysis.advise.advice import MANIFEST
from laconic.analysis.advise.advisor import advise
from laconic.analysis.advise.figures import (
    EAGER,
    OURS,
    TODAY,
    AdviceFigures,
    BufferCallers,
    Cost,
    watching,
)
from laconic.replay.enclaves import Enclaves
from laconic.replay.events import Listener

if TYPE_CHECKING:
    from laconic.analysis.advise.watch import Image
    from laconic.replay.engine import Replay
    from laconic.sgx.costs import CostProfile
    from laconic.sgx.meter import Meter
    from laconic.trace.stacks import Stacks


class Hints:
    """Additional data for a replay; its `listeners` must come after the replay's own."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._enclaves = Enclaves(watching(self._images))
        self._callers = BufferCallers(self._images)
        self.listeners: tuple[Listener, ...] = (self._enclaves, self._callers)

    def found(
        self, replay: Replay, meters: Mapping[str, Meter], stacks: Stacks, profile: CostProfile
    ) -> list[str]:
        """Return the lines or names of the settings, shortest first. Call it after the replay,
        which must have kept `meters` of every-call and laconic.

        Empty for a log without touched pages, whose costs are ranges. O(programs × reservations).
        """
        trace = replay.trace
        if trace.source != "run" or not trace.has_touches or not self._images:
            return []
        self._callers.keep_own(stacks)
        costs = {}
        for name, meter in ((TODAY, TODAY), (EAGER, TODAY), (OURS, OURS)):
            total, pages = meters[meter].total(), float(meters[meter].peak_epc_pages)
            calls = float(total.host_calls)
            costs[name] = Cost((calls, calls), profile.cycles(total), (pages, pages))
        figures = AdviceFigures(
            source=trace.source,
            redacted=trace.redacted,
            images=self._images,
            processes=replay.started,
            costs=costs,
            counts=meters[TODAY].total(),
            lazy_touched=(0, 0),
            attached=trace.was_attached,
            cpus=trace.cpus,
        )
        found = []
        for advice in advise(figures, profile):
            if advice.where != MANIFEST:
                found.append(advice.option)
            elif advice.option == "sgx.edmm_enable" and not advice.figures["value"]:
                found.append(advice.line)
        return found
