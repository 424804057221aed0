"""The differences between a replay and its trace, and their causes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.trace.records import ARITY
from laconic.trace.schema import Row

MODEL_ERROR, LOST_DATA, UNKNOWN_START = "model error", "lost data", "unknown start"
_KEPT = 100


class ReplayDifference(NamedTuple):
    """One call whose replay differs from the trace."""

    number: int
    time: int
    pid: int
    tid: int
    call: str
    recorded: str
    replayed: str
    cause: str
    why: str


@dataclass(slots=True)
class Check:
    """The findings of `--check`: the number of compared results, the number of differences by
    cause, and the first of each."""

    compared: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    differences: list[ReplayDifference] = field(default_factory=list)

    def differs(
        self, number: int, row: Row, name: str, replayed: str, cause: str, why: str
    ) -> None:
        """Record one difference; the first hundred of each cause are kept. O(1)."""
        self.counts[cause] += 1
        if self.counts[cause] <= _KEPT:
            call = f"{name}({', '.join(shown(value) for value in row.args[: ARITY.get(name)])})"
            where = number, row.time, row.pid, row.tid
            self.differences.append(
                ReplayDifference(*where, call, shown(row.result), replayed, cause, why)
            )


def shown(value: int) -> str:
    """Return a result or an argument as text: small numbers and errnos in decimal, addresses in
    hexadecimal."""
    return str(value) if -4096 < value < 4096 else hex(value)
