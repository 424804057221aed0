"""The state of a running program: updated by the messages of `laconic.live.feed`, read by the view
and the lines."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laconic.analysis.baseline import Key, key_of
from laconic.analysis.callers import AROUND, SITE, SUPPRESSED
from laconic.analysis.frames import StackPlaces, own_frames
from laconic.analysis.suppressions import Suppression, matching
from laconic.trace.schema import Row
from laconic.trace.stacks import Stacks

#: The number of sites that are named, those with the most redundant calls: finding names takes
#: time.
_NAMED = 200


class LiveProcess(NamedTuple):
    """A process that is alive. `mapped` is in bytes; `vmas` is None if it is not followed."""

    pid: int
    name: str
    threads: int
    mapped: int
    vmas: int | None


class LiveCost(NamedTuple):
    """What calls have cost in an enclave so far, in cycles: the minimum and maximum under
    every-call, and the cost under laconic."""

    low: float = 0
    high: float = 0
    left_low: float = 0
    left_high: float = 0

    def plus(self, other: LiveCost) -> LiveCost:
        """Return the sum."""
        return LiveCost(*map(sum, zip(self, other, strict=True)))

    @property
    def middle(self) -> float:
        """The middle of the range under every-call, by which sites are sorted."""
        return (self.low + self.high) / 2


class LiveSite(NamedTuple):
    """The calls at one site. `total` of them were redundant; `rate` is the current number of
    redundant calls per second. `named`: its symbols have been found. `calls` and `cost` cover the
    calls that have been replayed.

    `kind` is that of `analysis.callers.Caller`: if it is not SITE, the function of `key` is the
    reason of the suppression, or the kind of what the library OS does around the calls.
    """

    key: Key
    total: int
    rate: float
    named: bool
    calls: int = 0
    cost: LiveCost = LiveCost()
    kind: str = SITE


class Rates(NamedTuple):
    """Calls per second between the last two beats."""

    calls: float = 0.0
    host_calls: float = 0.0
    elided: float = 0.0
    redundant: float = 0.0


class Name(NamedTuple):
    """The function that makes a call, and its module; `reason` is that of the suppression that
    hides it, or "". `only_redundant`: the suppression hides redundant calls, but not costs."""

    function: str
    module: str
    reason: str
    only_redundant: bool = False


#: Calls, host calls, elided calls, redundant calls.
LiveCounts = tuple[int, int, int, int]
#: A place that makes redundant calls: call, stack, program.
LivePlace = tuple[str, int, str]


class LiveNames:
    """Finds the names of places, in a separate thread if `apart`, because reading symbols takes
    long."""

    def __init__(
        self, stacks: Stacks, rules: Sequence[Suppression] = (), apart: bool = True
    ) -> None:
        self._stacks = stacks
        self._rules = rules
        self._found: dict[LivePlace, Name | None] = {}
        self._wanted: queue.SimpleQueue[LivePlace | threading.Event] = queue.SimpleQueue()
        self._apart = apart
        self._thread = threading.Thread(target=self._work, daemon=True)
        if apart:
            self._thread.start()

    def get(self, place: LivePlace) -> Name | None:
        """Return the name of a place; None while it is being looked up. O(1) if it was requested
        before."""
        if place not in self._found:
            self._found[place] = None if self._apart else self._find(place)
            if self._apart:
                self._wanted.put(place)
        return self._found[place]

    def wait(self, places: Iterable[LivePlace]) -> None:
        """Wait until the names of all `places` are known."""
        for place in places:
            self.get(place)
        done = threading.Event()
        self._wanted.put(done)
        while self._thread.is_alive() and not done.wait(0.1):
            pass

    def hidden(self, counts: Mapping[LivePlace, int]) -> Counter[str]:
        """Return the suppressed part of `counts`, by reason, from the names that are known.
        O(places)."""
        found: Counter[str] = Counter()
        for place, name in list(self._found.items()):
            if name is not None and name.reason:
                found[name.reason] += counts.get(place, 0)
        return found

    def _find(self, place: LivePlace) -> Name:
        # No more frames are named than necessary.
        call, stack, program = place
        frames = own_frames(call, self._stacks.walk(stack))
        if not frames:
            return Name("…", "", "")
        named = StackPlaces(frames)
        costs = [rule for rule in self._rules if not rule.only_redundant]
        rule = matching(costs, call, program, named) or matching(self._rules, call, program, named)
        first = frames[0][0]
        if rule is None:
            return Name(first.function, first.module, "")
        return Name(first.function, first.module, rule.reason, rule.only_redundant)

    def _work(self) -> None:
        while True:
            wanted = self._wanted.get()
            if isinstance(wanted, threading.Event):
                wanted.set()
            else:
                self._found[wanted] = self._find(wanted)


@dataclass
class LiveModel:
    """`by_call` has the counts of each call, by name; `time` is in seconds since the start; `ever`:
    processes so far. `costs_time`: the time up to which costs are known; `costs_stopped`: why they
    are not computed any further, or "". `behind`: rows of the trace that had not been replayed yet.

    `status` is None while the program runs; `failure`: why it could not be run, or be followed to
    its end. Calls that `rules` suppress are counted in `hidden`, not at a site.
    """

    names: LiveNames | None = None
    time: float = 0.0
    ever: int = 0
    by_call: dict[str, LiveCounts] = field(default_factory=dict)
    processes: list[LiveProcess] = field(default_factory=list)
    status: int | None = None
    failure: str = ""
    notes: list[str] = field(default_factory=list)
    rates: Rates = field(default_factory=Rates)
    stacks: Stacks = field(default_factory=Stacks)
    rules: Sequence[Suppression] = ()
    costs_time: float = 0.0
    costs_stopped: str = ""
    behind: int = 0
    _costs: dict[LivePlace, tuple[int, LiveCost]] = field(default_factory=dict)
    _around: dict[str, LiveCost] = field(default_factory=dict)
    _counts: dict[LivePlace, int] = field(default_factory=dict)
    _before: dict[LivePlace, int] = field(default_factory=dict)
    _speeds: dict[LivePlace, float] = field(default_factory=dict)
    _beat: tuple[float, LiveCounts] = (0.0, (0, 0, 0, 0))

    def __post_init__(self) -> None:
        self.names = self.names or LiveNames(self.stacks, self.rules)

    @property
    def totals(self) -> LiveCounts:
        """Return calls, host calls, elided calls and redundant calls. O(calls' names)."""
        calls, host_calls, elided, redundant = (
            sum(line[place] for line in self.by_call.values()) for place in range(4)
        )
        return calls, host_calls, elided, redundant

    @property
    def places(self) -> int:
        """Return the number of places that made calls, by stack. O(places)."""
        return len(self._counts.keys() | self._costs.keys())

    @property
    def mapped(self) -> int:
        """Return the bytes mapped by all processes."""
        return sum(process.mapped for process in self.processes)

    def take(self, message: Mapping[str, Any]) -> None:
        """Process one message. O(its size)."""
        if "failed" in message:
            self.failure, self.status = message["failed"], message["status"]
            return
        if "costs" in message:
            self._take_costs(message["costs"])
            return
        self.time, self.ever = message["time"], message["ever"]
        self.by_call = {
            name: (line[0], line[1], line[2], line[3]) for name, line in message["by_call"].items()
        }
        self.processes = [LiveProcess(*process) for process in message["processes"]]
        for event, number, data in message["rows"]:
            self.stacks.take(Row(event, 0, 0, 0, a0=number, data=data.encode("latin-1")))
        for call, stack, program, count in message["sites"]:
            self._counts[call, stack, program] = count
        if "end" in message:
            self.status, self.notes = message["end"]["status"], message["end"]["notes"]

    def _take_costs(self, costs: Mapping[str, Any]) -> None:
        self.costs_time, self.costs_stopped = costs["time"], costs["stopped"]
        self.behind = costs["behind"]
        for call, stack, program, calls, _, *cycles in costs["sites"]:
            self._costs[call, stack, program] = calls, LiveCost(*cycles)
        for kind, *cycles in costs["around"]:
            self._around[kind] = LiveCost(*cycles)

    @property
    def cost(self) -> LiveCost:
        """Return what the whole program has cost in an enclave. O(sites)."""
        total = LiveCost()
        for cost in (*self._around.values(), *(cost for _, cost in self._costs.values())):
            total = total.plus(cost)
        return total

    def beat(self) -> None:
        """Compute the rates since the previous beat; does nothing if no time has passed.
        O(sites)."""
        since, totals = self._beat
        seconds = self.time - since
        if seconds <= 0:
            return
        now = self.totals
        self.rates = Rates(
            *((after - before) / seconds for after, before in zip(now, totals, strict=True))
        )
        self._beat = self.time, now
        before = self._before
        self._speeds = {
            key: (count - before.get(key, 0)) / seconds
            for key, count in self._counts.items()
            if count != before.get(key, 0)
        }
        self._before = dict(self._counts)

    def settle(self, every: bool = False) -> None:
        """Wait until the names of all redundant calls are known, also of those that are not shown:
        then `hidden` is complete. `every`: the names of all other calls too."""
        assert self.names is not None
        self.names.wait({**self._counts, **self._costs} if every else self._counts)

    @property
    def hidden(self) -> Counter[str]:
        """Return suppressed redundant calls, by reason, from the names that are known.
        O(places)."""
        assert self.names is not None
        return self.names.hidden(self._counts)

    def sites(self, most: int = _NAMED) -> list[LiveSite]:
        """Return sites by function, the most expensive first, then those with the most redundant
        calls per second. They cover the `most` places that cost most, and the `most` places that
        make the most redundant calls. O(places log places)."""
        assert self.names is not None
        found: dict[tuple[Key, str], LiveSite] = {}
        for place in self._largest(most):
            name = self.names.get(place)
            calls, cost = self._costs.get(place, (0, LiveCost()))
            total, rate = self._counts.get(place, 0), self._speeds.get(place, 0.0)
            function, module = ("…", "") if name is None else name[:2]
            key, kind = key_of(place[0], function, module, place[2]), SITE
            if name is not None and name.reason:
                total, rate = 0, 0.0
                if not name.only_redundant:
                    key, kind = Key("", name.reason), SUPPRESSED
            site = found.get((key, kind)) or LiveSite(key, 0, 0.0, name is not None, kind=kind)
            found[key, kind] = site._replace(
                total=site.total + total,
                rate=site.rate + rate,
                calls=site.calls + calls,
                cost=site.cost.plus(cost),
            )
        around = [
            LiveSite(Key("", kind), 0, 0.0, True, cost=cost, kind=AROUND)
            for kind, cost in self._around.items()
        ]
        sites = [
            site
            for site in (*found.values(), *around)
            if site.total or site.cost.high or (site.kind == SITE and site.calls)
        ]
        return sorted(
            sites, key=lambda site: (-site.cost.middle, -site.rate, -site.total, site.key)
        )

    def _largest(self, most: int) -> Iterator[LivePlace]:
        # Return the places that are to be named, each once.
        chosen: dict[LivePlace, None] = {}
        costly = sorted(self._costs, key=lambda place: -self._costs[place][1].middle)
        chosen.update(dict.fromkeys(costly[:most]))
        redundant = sorted(
            self._counts,
            key=lambda place: (-self._speeds.get(place, 0), -self._counts[place], place),
        )
        assert self.names is not None
        for place in redundant:
            if not most:
                break
            name = self.names.get(place)
            if name is None or not name.reason:
                chosen[place] = None
                most -= 1
        return iter(chosen)
