"""The ledger: the program's calls, and the host calls that carried them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from laconic.memory.change import Change, ChangeKind


@dataclass(slots=True)
class CallCount:
    """Counts of the calls with one name.

    `calls` are the program's calls, and `host_calls` the host calls that carried them out. `elided`
    counts the calls that needed no host call, and `redundant` the elided calls that succeeded.
    `narrowed` counts host calls for fewer pages than the call, and `failed` calls that returned an
    error.
    """

    calls: int = 0
    host_calls: int = 0
    elided: int = 0
    redundant: int = 0
    narrowed: int = 0
    failed: int = 0


@dataclass(slots=True)
class Ledger:
    """The counts of one run.

    `kinds` maps each set of change kinds to its number of page runs. `notes` are messages for the
    user.

    `unmodeled` counts, by name, the calls after which the bookkeeping was read from the host again.
    `announce` is called immediately with each urgent note.
    """

    by_call: dict[str, CallCount] = field(default_factory=dict)
    kinds: dict[int, int] = field(default_factory=dict)
    processes: int = 0
    unmodeled: dict[str, int] = field(default_factory=dict)
    checks: int = 0
    mismatches: int = 0
    notes: list[str] = field(default_factory=list)
    announce: Callable[[str], None] | None = field(default=None, compare=False, repr=False)

    def note(self, text: str, *, urgent: bool = False) -> None:
        """Add a note for the user, unless it is there already. `urgent`: the program may hang
        because of it."""
        if text in self.notes:
            return
        self.notes.append(text)
        if urgent and self.announce is not None:
            self.announce(text)

    def count(
        self,
        name: str,
        host_calls: int,
        result: int,
        narrowed: bool = False,
        changes: Iterable[Change] = (),
    ) -> None:
        """Count one call of the program, and its `host_calls`, 0 or 1. O(changes)."""
        try:
            line = self.by_call[name]
        except KeyError:
            line = self.by_call[name] = CallCount()
        line.calls += 1
        if host_calls:
            line.host_calls += 1
        else:
            line.elided += 1
            line.redundant += result >= 0
        if narrowed:
            line.narrowed += 1
        if result < 0:
            line.failed += 1
        kinds = self.kinds
        for kind, _, _, _, _, _ in changes:
            kinds[kind] = kinds.get(kind, 0) + 1

    def count_resynced(self, name: str) -> None:
        """Count a call whose effect only the host knows."""
        self.unmodeled[name] = self.unmodeled.get(name, 0) + 1

    @property
    def resynced(self) -> int:
        """Calls after which the bookkeeping was read from the host again."""
        return sum(self.unmodeled.values())

    @property
    def calls(self) -> int:
        """Memory calls that the program made."""
        return sum(line.calls for line in self.by_call.values())

    @property
    def host_calls(self) -> int:
        """Host calls that carried out the program's calls."""
        return sum(line.host_calls for line in self.by_call.values())

    @property
    def elided(self) -> int:
        """Memory calls that needed no host call."""
        return sum(line.elided for line in self.by_call.values())

    @property
    def redundant(self) -> int:
        """Memory calls that succeeded and changed nothing."""
        return sum(line.redundant for line in self.by_call.values())

    def changes(self) -> dict[str, int]:
        """Changed page runs by the name of their kind, in the order of `ChangeKind`."""
        return {
            str(kind.name).lower(): sum(
                count for kinds, count in self.kinds.items() if kinds & kind
            )
            for kind in ChangeKind
            if kind
        }
