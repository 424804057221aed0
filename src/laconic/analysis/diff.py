"""What got better or worse between two runs: in all, by call, and by site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from laconic.analysis.baseline import Figures, Key, Tally


@dataclass(frozen=True, slots=True)
class Delta:
    """The figures of one call or site, as they were and as they are; zero where it is not there."""

    key: Key
    was: Tally
    now: Tally

    @property
    def redundant(self) -> int:
        """Redundant calls more, or fewer (negative)."""
        return self.now.redundant - self.was.redundant

    @property
    def host_calls(self) -> int:
        """Host calls more, or fewer (negative)."""
        return self.now.host_calls - self.was.host_calls

    @property
    def calls(self) -> int:
        """Calls more, or fewer (negative)."""
        return self.now.calls - self.was.calls

    @property
    def worse(self) -> bool:
        """True for more redundant calls; if as many, more host calls; if as many, more calls."""
        return (self.redundant, self.host_calls, self.calls) > (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Difference:
    """`calls` and `sites` that differ, the worst first and the best last; None where one of the two
    does not know them.

    `whole`: the sites' `calls` and `host_calls` are known in both; else they are 0, and only `redundant`
    was compared. `hidden`: suppressed redundant calls, in the first and in the second. `missing` is
    as in `Figures`, of both. `enclave`: whose the enclave figures of `total` are; None if one side
    lacks them, or has those of another.
    """

    first: str
    second: str
    total: Delta
    hidden: tuple[int, int]
    by_call: list[Delta] | None
    sites: list[Delta] | None
    whole: bool
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    enclave: tuple[str, str] | None = None


def diff(first: Figures, second: Figures) -> Difference:
    """Compares two runs. O(calls + sites), and their sorting."""
    notes = []
    for what, sides in (
        ("by_call", (first.by_call, second.by_call)),
        ("sites", (first.sites, second.sites)),
    ):
        lacking = [
            one.name for one, side in zip((first, second), sides, strict=True) if side is None
        ]
        notes += [f"{name!r} does not tell {what} apart" for name in lacking]
    calls = sites = None
    if first.by_call is not None and second.by_call is not None:
        calls = _deltas(
            {Key(call): t for call, t in first.by_call.items()},
            {Key(c): t for c, t in second.by_call.items()},
        )
    whole = first.whole and second.whole
    if first.sites is not None and second.sites is not None:
        sites = _deltas(_seen(first.sites, whole), _seen(second.sites, whole))
        if not whole:
            notes.append(
                "not every call's stack is known: of sites, only the redundant calls are compared"
            )
    hidden = first.hidden, second.hidden
    total = Delta(Key(""), first.total, second.total)
    missing = {**first.missing, **second.missing}
    enclave = first.enclave if first.enclave == second.enclave else None
    if (first.enclave or second.enclave) and enclave is None:
        notes.append("the enclave figures are not of one enclave, and are not compared")
    return Difference(
        first.name, second.name, total, hidden, calls, sites, whole, notes, missing, enclave
    )


def _seen(sites: Mapping[Key, Tally], whole: bool) -> Mapping[Key, Tally]:
    # The enclave figures are compared in total alone.
    if not whole:
        return {key: Tally(0, tally.redundant, 0) for key, tally in sites.items()}
    return {
        key: Tally(tally.calls, tally.redundant, tally.host_calls) for key, tally in sites.items()
    }


def _deltas(was: Mapping[Key, Tally], now: Mapping[Key, Tally]) -> list[Delta]:
    deltas: Iterable[Delta] = (
        Delta(key, was.get(key, Tally()), now.get(key, Tally())) for key in {**was, **now}
    )
    return sorted(
        (delta for delta in deltas if delta.was != delta.now),
        key=lambda delta: (-delta.redundant, -delta.host_calls, -delta.calls, delta.key),
    )
