"""Replay: recorded calls on the same bookkeeping as `laconic run`, by any strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from laconic.memory.ledger import Ledger
from laconic.replay.check import Check
from laconic.replay.engine import Replay
from laconic.strategies import names_on
from laconic.trace.reader import Trace

#: The strategies that a trace can be replayed by on Linux (DESIGN: section 6).
STRATEGIES = names_on("linux")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to.

    `events`: rows replayed; `loss`: in words, what the trace lacks; `uncertain`: call → how many of
    its host calls were redundant if the pages that the trace does not describe were untouched, or
    already as requested. `end` is what the recording reported at its end; `bystanders` counts the calls that no
    bookkeeping concerns.
    """

    ledger: Ledger
    strategy: str
    events: int
    loss: list[str]
    uncertain: dict[str, int]
    bystanders: int
    end: dict[str, Any]
    check: Check | None


def replay(
    trace: Trace,
    strategy: str | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    check: bool = False,
) -> Replayed:
    """Replays all of `trace`; without `strategy` by the one that it was recorded with.

    `progress` is called with the bytes that have been read. Raises LaconicError where the trace
    cannot be read. O(events), bounded memory.
    """
    engine = Replay(trace, strategy, check=check)
    engine.run(progress=progress)
    return Replayed(
        engine.ledger,
        engine.strategy,
        engine.number + 1,
        engine.losses,
        dict(engine.uncertain),
        engine.bystanders,
        engine.end,
        engine.check,
    )
