"""Replay: recorded calls on the same bookkeeping as in `laconic run`, under any strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from laconic.errors import LaconicError
from laconic.memory.ledger import Ledger
from laconic.memory.pal import Pal
from laconic.replay.check import Check
from laconic.replay.engine import Replay
from laconic.replay.events import Listener
from laconic.replay.pals import PalFeed, Refusal, check_pal
from laconic.replay.thread import Mm
from laconic.strategies import names_on
from laconic.trace.charts import Chart, calls_chart
from laconic.trace.reader import TraceReader
from laconic.trace.tables import Table, TableRow

if TYPE_CHECKING:
    from laconic.libos.strategy import Strategy

#: The strategies under which a trace can be replayed on Linux (DESIGN: section 6).
STRATEGIES = names_on("linux")
#: The counts in a replay's table.
FIGURES = ("calls", "host_calls", "elided", "redundant", "narrowed", "failed")


@dataclass(frozen=True, slots=True)
class Replayed(Table):
    """The result of a replay. As a table, it has one row for each kind of call.

    `events` is the number of rows replayed. `loss` lists the trace's missing data, as text.
    `uncertain` maps a call to the number of its host calls that were redundant if the pages that
    the trace does not describe were untouched, or already as requested. `end` is the recording's
    report at its end. `bystanders` counts the calls that do not affect the bookkeeping. `refusals`
    are the changes that the given PAL refused.
    """

    ledger: Ledger
    strategy: str
    events: int
    loss: list[str]
    uncertain: dict[str, int]
    bystanders: int
    end: dict[str, Any]
    check: Check | None
    refusals: list[Refusal] = field(default_factory=list)

    def table_columns(self) -> dict[str, str]:
        """Return the columns: a call's name, and its counts."""
        return {"call": "string", **dict.fromkeys(FIGURES, "int64")}

    def table_rows(self) -> list[TableRow]:
        """Return a row for each name, sorted."""
        return [
            (
                name,
                line.calls,
                line.host_calls,
                line.elided,
                line.redundant,
                line.narrowed,
                line.failed,
            )
            for name, line in sorted(self.ledger.by_call.items())
        ]

    def chart(self) -> Chart:
        """Return a bar for each kind of call, with its host calls and elided calls."""
        lines = sorted(self.ledger.by_call.items())
        counted = [(name, line.host_calls, line.elided) for name, line in lines]
        return calls_chart(counted, f"Memory calls under {self.strategy}")


def replay_trace(
    trace: TraceReader | str,
    strategy: str | type[Strategy] | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    pal: Pal | None = None,
    pal_for: Callable[[Mm], Pal] | None = None,
    listeners: Sequence[Listener] = (),
    check: bool = False,
) -> Replayed:
    """Replay all of `trace`, an open trace or a path.

    `strategy` decides which calls would reach a Linux host: a name, `module:Class`, or a class. By
    default, it is the strategy that the trace was recorded with. `pal` receives every change of
    every address space; `pal_for(mm)` returns a separate PAL for each address space. `listeners`
    receive the events of the replay, in this order and before the PAL. `check` compares each result
    with the recorded one.

    `progress` is called with the number of bytes that have been read. Raises LaconicError if the
    trace cannot be read. O(events), bounded memory.
    """
    trace = TraceReader(trace) if isinstance(trace, str) else trace
    if pal is not None and pal_for is not None:
        raise LaconicError("pal and pal_for exclude each other: pass one of them")
    _check_listeners(listeners)
    feed = None
    if pal is not None:
        check_pal(pal, "pal")
        feed = PalFeed(lambda mm: pal)
    elif pal_for is not None:
        feed = PalFeed(pal_for)
    every = [*listeners] if feed is None else [*listeners, feed]
    engine = Replay(trace, strategy, check=check, listeners=every)
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
        [] if feed is None else feed.refusals,
    )


def _check_listeners(listeners: object) -> None:
    example = "listeners=[MyListener()], objects of classes that inherit from laconic.Listener"
    if not isinstance(listeners, Sequence):
        raise LaconicError(f"listeners is {listeners!r}, which is not a list: pass {example}")
    for listener in listeners:
        if not isinstance(listener, Listener):
            raise LaconicError(f"{listener!r} is not a listener: pass {example}")
