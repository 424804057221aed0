"""What a replay and its trace disagree on, and whose fault it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.trace.records import ARITY
from laconic.trace.schema import Row

MODEL_ERROR, LOST_DATA, UNKNOWN_START = "model error", "lost data", "unknown start"
_KEPT = 100


class Difference(NamedTuple):
    """One call whose replay came to something else than the trace has."""

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
    """What `--check` found: how many results were compared, how many differ by cause, and the first
    of each."""

    compared: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def differs(
        self, number: int, row: Row, name: str, replayed: str, cause: str, why: str
    ) -> None:
        """Enters one difference; the first hundred are kept. O(1)."""
        self.counts[cause] += 1
        if self.counts[cause] <= _KEPT:
            call = f"{name}({', '.join(shown(value) for value in row.args[: ARITY.get(name)])})"
            where = number, row.time, row.pid, row.tid
            self.differences.append(
                Difference(*where, call, shown(row.result), replayed, cause, why)
            )


def shown(value: int) -> str:
    """A result or an argument for people: small numbers and errnos as they are, addresses in
    hexadecimal."""
    return str(value) if -4096 < value < 4096 else hex(value)
