"""The facts about each call of a trace that a replay finds, for the exporters: its stack and site
by name, whether it is redundant, its kinds of change, and its cost in an enclave."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from laconic.analysis.frames import own_frames
from laconic.analysis.sites import EVERY_CALL, LACONIC
from laconic.libos.strategy import Maker
from laconic.memory.change import kind_names
from laconic.replay.enclaves import Enclaves, Touch
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Listener
from laconic.replay.sizebounds import SizedEnclaves
from laconic.sgx.costs import CostProfile
from laconic.stacks.symbolize import Place
from laconic.stacks.table import Frame, Module
from laconic.strategies import maker
from laconic.trace.exporters.columns import CallFacts
from laconic.trace.reader import TraceReader
from laconic.trace.schema import Row
from laconic.trace.stacks import NO_STACK, Stacks

#: The strategies whose cycles are exported.
STRATEGIES = (EVERY_CALL, LACONIC)
_UNKNOWN, _NEEDED, _REDUNDANT = range(3)


class CallAnalysis(Listener):
    """The facts about each call, by the number of its row. 45 bytes per row.

    Fill it by a replay with `stacks`. `enclaves` count under the number of the call's row; `settle`
    moves what they have counted into the analysis.
    """

    def __init__(self, stacks: Stacks, enclaves: Enclaves, profile: CostProfile | None) -> None:
        self._stacks = stacks
        self._enclaves = enclaves
        self._profile = profile
        self._names: dict[int, str] = {}  # stack → the call that was made from it
        self._stack = array("i")
        self._kinds = array("I")
        self._redundant = bytearray()
        self._cycles = [array("d") for _ in enclaves.meters for _ in ("low", "high")]
        self._text = lru_cache(None)(self._stack_text)
        self._site = lru_cache(None)(self._innermost)

    # The replay

    def call_done(self, done: CallDone) -> None:
        """Record the outcome of the call. O(changes)."""
        self._note(done.number, done.name, done.stack)
        if done.is_finished:
            self._redundant[done.number] = _REDUNDANT if done.is_redundant else _NEEDED
            for change in done.changes:
                self._kinds[done.number] |= change.kinds

    def call_ignored(self, number: int, row: Row, stack: int, followed: bool) -> None:
        """Record the stack of a call without bookkeeping. O(1)."""
        self._note(number, "", stack)

    def _note(self, number: int, name: str, stack: int) -> None:
        missing = number + 1 - len(self._stack)
        self._stack.extend([NO_STACK] * missing)
        self._kinds.extend([0] * missing)
        self._redundant.extend(bytes(missing))
        for column in self._cycles:
            column.extend([0.0] * missing)
        self._stack[number] = stack
        self._names.setdefault(stack, name)

    def settle(self) -> None:
        """Add the cycles of what the enclaves have counted, and forget the counts, so that they
        take no memory. O(calls since the last time)."""
        order = list(self._enclaves.meters)
        for name, label, counts in self._enclaves.take_counts():
            number = label.owner if isinstance(label, Touch) else label
            if isinstance(number, int) and self._profile is not None:
                low, high = self._profile.cycles(counts)
                place = 2 * order.index(name)
                self._cycles[place][number] += low
                self._cycles[place + 1][number] += high

    # The exporters

    def facts(self, event: int) -> CallFacts:
        """Return what is known about the call whose row has this number. O(1), plus finding the
        names."""
        if event >= len(self._stack):
            return CallFacts()
        known = self._redundant[event]
        stack = self._stack[event]
        place = self._site(stack)
        kinds = self._kinds[event]
        return CallFacts(
            kind_names(kinds) if kinds else None,
            self._text(stack),
            place.function if place else None,
            place.module if place else None,
            (place.file or None) if place else None,
            (place.line or None) if place else None,
            None if known == _UNKNOWN else known == _REDUNDANT,
            tuple(column[event] for column in self._cycles) if known != _UNKNOWN else (),
        )

    def frames(self, event: int) -> list[tuple[Frame, Module | None, Sequence[Place]]]:
        """Return the recorded frames of the call, innermost first, each with its module and its
        places. Empty if the trace was imported from a log, which has its stacks as text.
        O(frames)."""
        stack = self._stack[event] if event < len(self._stack) else NO_STACK
        return [
            (frame, self._stacks.modules.get(frame.module), self._stacks.frame_places(frame))
            for frame in self._stacks.frames(stack)
        ]

    def _innermost(self, stack: int) -> Place | None:
        own = own_frames(self._names.get(stack, ""), self._stacks.walk(stack))
        return own[0][0] if own else None

    def _stack_text(self, stack: int) -> str | None:
        lines = []
        for place, _ in own_frames(self._names.get(stack, ""), self._stacks.walk(stack)):
            line = f" {place.file}:{place.line}" if place.file else ""
            lines.append(f"{place.function} ({place.module}){line}")
        return "\n".join(lines) or None


def analyse_calls(
    trace: TraceReader,
    profile: CostProfile | None,
    progress: Callable[[int], None] | None = None,
) -> CallAnalysis:
    """Replay the trace, and return the facts about each of its calls.

    With a cost profile, an enclave is modeled under each of `STRATEGIES`; without one, the cycles
    are unknown. They are the least if the trace does not have the sizes of files. Raises
    LaconicError if the trace cannot be read. O(events), 45 bytes per event.
    """
    strategies = () if profile is None else STRATEGIES
    stacks = Stacks()
    makers = {name: maker(name) for name in strategies}
    enclaves = SizedEnclaves(trace, partial(_enclaves, makers))
    analysis = CallAnalysis(stacks, enclaves.least, profile)

    def update(position: int) -> None:
        analysis.settle()
        if progress is not None:
            progress(position)

    listeners = [*enclaves.listeners, analysis]
    replay = Replay(trace, LACONIC, listeners=listeners, stacks=stacks)
    replay.run(progress=update)
    enclaves.finish(None, replay.started)
    analysis.settle()
    return analysis


def _enclaves(makers: Mapping[str, Maker], assumed_sizes: int) -> Enclaves:
    return Enclaves(makers, label=_number, by_owner=True, assumed_sizes=assumed_sizes)


def _number(done: CallDone) -> int:
    return done.number
