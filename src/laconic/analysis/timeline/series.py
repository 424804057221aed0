"""Series of bounded length over a trace of any length: if one grows too long, its resolution is
halved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Bins:
    """Calls in up to `limit` bins of equal width: `calls`, `host_calls` and `redundant`, and their
    cost in `cycles`. `width` doubles as needed."""

    width: int
    limit: int = 512
    calls: list[int] = field(default_factory=list)
    host_calls: list[int] = field(default_factory=list)
    redundant: list[int] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)

    def count(self, at: int, host_calls: int, redundant: bool, cycles: float = 0) -> None:
        """Count a call at the place `at` (0 or more), which made `host_calls` host calls and costs
        `cycles`. O(1) amortized."""
        while at // self.width >= self.limit:
            self.calls, self.host_calls, self.redundant = map(
                _halved, (self.calls, self.host_calls, self.redundant)
            )
            self.cycles = _halved(self.cycles)
            self.width *= 2
        place = at // self.width
        if place >= len(self.calls):
            for series in (self.calls, self.host_calls, self.redundant):
                series.extend([0] * (place + 1 - len(series)))
            self.cycles.extend([0.0] * (place + 1 - len(self.cycles)))
        self.calls[place] += 1
        self.host_calls[place] += host_calls
        self.redundant[place] += redundant
        self.cycles[place] += cycles

    def spread(self, start: int, end: int, cycles: float) -> None:
        """Distribute cycles over the bins that the places `[start, end)` overlap, in proportion to
        their calls; without calls there, they are dropped. O(bins)."""
        places = range(start // self.width, min(-(-end // self.width), len(self.calls)))
        calls = sum(self.calls[place] for place in places)
        for place in places:
            if calls:
                self.cycles[place] += cycles * self.calls[place] / calls


_IntOrFloat = TypeVar("_IntOrFloat", int, float)


def _halved(series: list[_IntOrFloat]) -> list[_IntOrFloat]:
    return [sum(series[place : place + 2]) for place in range(0, len(series), 2)]


@dataclass(slots=True)
class Sampled(Generic[T]):
    """Every `step`th of the items that were seen, starting with the first; `step` doubles when
    there are more than `limit`.

    >>> sampled = Sampled(limit=3)
    >>> for thing in "abcdef":
    ...     sampled.see(thing)
    >>> sampled.step, sampled.kept
    (2, ['a', 'c', 'e'])
    """

    limit: int
    step: int = 1
    seen: int = 0
    kept: list[T] = field(default_factory=list)

    def see(self, thing: T) -> None:
        """Add the next item. O(1) amortized."""
        if self.seen % self.step == 0:
            if len(self.kept) == self.limit:
                del self.kept[1::2]
                self.step *= 2
            if self.seen % self.step == 0:
                self.kept.append(thing)
        self.seen += 1

    def __iter__(self) -> Iterator[T]:
        return iter(self.kept)


@dataclass(slots=True)
class Scattered(Generic[T]):
    """About one in `step` of the items that were seen, at most `limit`, scattered evenly over them.

    A loop's events are evenly spaced, so every `step`th item would be the same part of the loop
    every time.
    """

    limit: int
    step: int = 1
    seen: int = 0
    kept: list[tuple[int, T]] = field(default_factory=list)

    def see(self, thing: T) -> None:
        """Add the next item. O(1) amortized."""
        # Multiples of the golden ratio are spread evenly, and are not in step with any period.
        key = self.seen * 0x9E3779B1 & 0xFFFFFFFF
        self.seen += 1
        if key * self.step >> 32:
            return
        self.kept.append((key, thing))
        while len(self.kept) > self.limit:
            self.step *= 2
            self.kept = _scattered(self.kept, self.step)

    def fewer(self, limit: int) -> tuple[int, list[T]]:
        """Return the sampling interval (one in how many items) and at most `limit` items."""
        step, kept = self.step, self.kept
        while len(kept) > limit:
            step *= 2
            kept = _scattered(kept, step)
        return step, [thing for _, thing in kept]


def _scattered(kept: list[tuple[int, T]], step: int) -> list[tuple[int, T]]:
    return [(key, thing) for key, thing in kept if not key * step >> 32]
