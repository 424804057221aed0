"""Replay: recorded calls on the same bookkeeping as `laconic run`, by any strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from laconic.ledger import Ledger
from laconic.memory.change import Change
from laconic.replay.check import Check
from laconic.replay.engine import Replay
from laconic.strategies import NAMES
from laconic.trace.reader import Trace

#: The strategies that a trace can be replayed by (DESIGN: section 6). On Linux `classify` says what `laconic` says.
STRATEGIES = NAMES
_PROTECTS = ("mprotect", "pkey_mprotect")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to.

    `events`: rows replayed; `loss`: in words, what the trace lacks; `uncertain`: call → how many of its host calls were
    needless if the pages that the trace knows nothing of were untouched, or as asked. `end` is what the recording said
    at its end; `bystanders` counts the calls that no bookkeeping concerns.
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
    trace: Trace, strategy: str | None = None, progress: Callable[[int], None] | None = None, *, check: bool = False
) -> Replayed:
    """Replays all of `trace`; without `strategy` by the one that it was recorded with.

    `progress` is called with the bytes that have been read. Raises LaconicError where the trace cannot be read.
    O(events), bounded memory.
    """
    engine = (_SkipEqual if strategy == "skip-equal" else Replay)(trace, strategy, check=check)
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


class _SkipEqual(Replay):
    # Every call is said, but mprotect, of which only the runs are that have another protection.

    def __init__(self, trace: Trace, strategy: str | None = None, *, check: bool = False) -> None:
        super().__init__(trace, strategy, check=check)
        self.ledger = self.manager.ledger = _EqualSkipped()

    def run(
        self, until: Callable[[int, int], bool] | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        super().run(until, progress)
        for name in [name for name in self.uncertain if name not in _PROTECTS]:
            del self.uncertain[name]


class _EqualSkipped(Ledger):
    # What `laconic` says is told; what it need not say is entered as said.

    def count(self, name: str, said: int, result: int, narrowed: bool = False, changes: Iterable[Change] = ()) -> None:
        if name in _PROTECTS:
            super().count(name, said, result, narrowed, changes)
        else:
            super().count(name, 1, result, False, changes)
