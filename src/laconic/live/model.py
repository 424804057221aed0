"""What is known of a running program: fed by the messages of `laconic.tracer.feed`, read by the view and the lines."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laconic.callers import own_frames
from laconic.figures import Key, key_of
from laconic.stacks.symbolize import Place
from laconic.trace.schema import Row
from laconic.trace.sites import Stacks

#: Sites that are named, those with the most redundant calls: names cost time.
_NAMED = 200


class Process(NamedTuple):
    """A process that is alive. `mapped` in bytes; `vmas` is None where it is not followed."""

    pid: int
    name: str
    threads: int
    mapped: int
    vmas: int | None


class Site(NamedTuple):
    """Redundant calls from one place: in all, and a second at present. `named`: its symbols have been found."""

    key: Key
    total: int
    rate: float
    named: bool


class Rates(NamedTuple):
    """Calls a second between the last two beats."""

    asked: float = 0.0
    said: float = 0.0
    elided: float = 0.0


class Names:
    """Finds the names of stacks, in a thread of its own where `apart`: reading symbols takes long."""

    def __init__(self, stacks: Stacks, apart: bool = True) -> None:
        self._stacks = stacks
        self._found: dict[int, tuple[tuple[Place, bool], ...] | None] = {}
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._apart = apart
        if apart:
            threading.Thread(target=self._work, daemon=True).start()

    def get(self, stack: int) -> tuple[tuple[Place, bool], ...] | None:
        """The places of a stack; None where they are still being looked for. O(1) where they were asked for before."""
        if stack not in self._found:
            self._found[stack] = None if self._apart else self._stacks.places(stack)
            if self._apart:
                self._wanted.put(stack)
        return self._found[stack]

    def _work(self) -> None:
        while True:
            stack = self._wanted.get()
            self._found[stack] = self._stacks.places(stack)


@dataclass
class Model:
    """`calls` are (asked, said, elided) by name; `time` is in seconds since the start; `ever`: processes so far.

    `status` is None while the program runs; `failure`: why it could not be run, or be followed to its end.
    """

    names: Names | None = None
    time: float = 0.0
    ever: int = 0
    calls: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    status: int | None = None
    failure: str = ""
    notes: list[str] = field(default_factory=list)
    rates: Rates = field(default_factory=Rates)
    stacks: Stacks = field(default_factory=Stacks)
    _counts: dict[tuple[str, int, str], int] = field(default_factory=dict)
    _before: dict[tuple[str, int, str], int] = field(default_factory=dict)
    _speeds: dict[tuple[str, int, str], float] = field(default_factory=dict)
    _beat: tuple[float, tuple[int, int, int]] = (0.0, (0, 0, 0))

    def __post_init__(self) -> None:
        self.names = self.names or Names(self.stacks)

    @property
    def totals(self) -> tuple[int, int, int]:
        """Calls asked, host calls said, calls elided. O(1)."""
        lines = self.calls.values()
        return sum(line[0] for line in lines), sum(line[1] for line in lines), sum(line[2] for line in lines)

    @property
    def mapped(self) -> int:
        """Bytes mapped by all processes."""
        return sum(process.mapped for process in self.processes)

    def take(self, message: Mapping[str, Any]) -> None:
        """Enters one message. O(its size)."""
        if "failed" in message:
            self.failure, self.status = message["failed"], message["status"]
            return
        self.time, self.ever = message["time"], message["ever"]
        self.calls = {name: (line[0], line[1], line[2]) for name, line in message["calls"].items()}
        self.processes = [Process(*process) for process in message["processes"]]
        for event, number, data in message["rows"]:
            self.stacks.take(tuple(Row(event, 0, 0, 0, number, data=data.encode("latin-1"))))
        for call, stack, program, count in message["sites"]:
            self._counts[call, stack, program] = count
        if "end" in message:
            self.status, self.notes = message["end"]["status"], message["end"]["notes"]

    def beat(self) -> None:
        """Rates are counted from the beat before to here; nothing happens where no time has passed. O(sites)."""
        since, totals = self._beat
        seconds = self.time - since
        if seconds <= 0:
            return
        now = self.totals
        self.rates = Rates(*((after - before) / seconds for after, before in zip(now, totals, strict=True)))
        self._beat = self.time, now
        before = self._before
        self._speeds = {
            key: (count - before.get(key, 0)) / seconds
            for key, count in self._counts.items()
            if count != before.get(key, 0)
        }
        self._before = dict(self._counts)

    def sites(self) -> list[Site]:
        """Sites by function, those with the most redundant calls a second first. O(sites log sites)."""
        assert self.names is not None
        found: dict[Key, list[Any]] = {}
        worst = sorted(self._counts.items(), key=lambda item: (-self._speeds.get(item[0], 0), -item[1], item[0]))
        for (call, stack, program), count in worst[:_NAMED]:
            places = self.names.get(stack)
            key = key_of(call, *_innermost(call, places), program)
            entry = found.setdefault(key, [0, 0.0, places is not None])
            entry[0] += count
            entry[1] += self._speeds.get((call, stack, program), 0.0)
        sites = [Site(key, total, rate, named) for key, (total, rate, named) in found.items()]
        return sorted(sites, key=lambda site: (-site.rate, -site.total, site.key))


def _innermost(call: str, places: Sequence[tuple[Place, bool]] | None) -> tuple[str, str]:
    if not places:
        return "…", ""
    place = own_frames(call, places)[0][0]
    return place.function, place.module
