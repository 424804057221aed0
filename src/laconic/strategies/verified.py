"""A strategy whose every leaf is carried out on the modelled EPCM, and looked at: `laconic compare
--verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.memory.change import Change
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import Vma
from laconic.sgx.meter import Meter
from laconic.sgx.model.driver import Driver
from laconic.sgx.model.faults import SgxError
from laconic.sgx.model.machine import Machine
from laconic.strategies.strict import Watch, breaches

#: The size of the enclaves, in bytes: what programs can map, and as much above it, where the
#: library OS's own is.
_SIZE = 1 << 48
_KEPT = 10


class Findings(NamedTuple):
    """What was looked at, and the first breaches of the law Strict, in words.

    `excepted` counts page runs that were open by the law's one exception (`strict.Watch`); they are
    no breaches.
    """

    steps: int
    breaches: int
    first: list[str]
    excepted: int


@dataclass
class Report:
    """Collects the findings of all enclaves of one strategy."""

    steps: int = 0
    breaches: int = 0
    first: list[str] = field(default_factory=list)
    excepted: int = 0

    def add(self, found: Iterable[str]) -> None:
        """Enters breaches; the first few are kept."""
        for one in found:
            self.breaches += 1
            if len(self.first) < _KEPT:
                self.first.append(one)

    def findings(self) -> Findings:
        """All of it."""
        return Findings(self.steps, self.breaches, self.first, self.excepted)


def verified(rule: type[Strategy], report: Report) -> type[Strategy]:
    """The strategy `rule` on machines: after every step what is accessible is compared with what
    was requested.

    What the model refuses is a breach too. O(pages' runs + VMAs) a step.
    """
    pte = "sync" if rule.sync else "rwx"

    class Verified(rule):  # type: ignore[misc, valid-type]
        def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
            book = meter.book if isinstance(meter, Machine) else meter
            self.machine = Machine(Driver.ready(0, _SIZE, pte=pte), book)
            super().__init__(self.machine, space, touches)
            self.watch = Watch(self.machine, space)

        def _step(
            self, work: Callable[..., Any], *args: Any, changes: Iterable[Change] = ()
        ) -> None:
            self.watch.expect(changes)
            try:
                work(*args)
            except SgxError as refused:
                report.add([str(refused)])
            report.steps += 1
            report.add(self.watch.windows)
            self.watch.windows.clear()
            report.excepted += len(self.watch.excepted)
            self.watch.excepted.clear()
            report.add(breaches(self.machine, self.space, self.left, self.guards))

        def load(self, entries: Iterable[Entry]) -> None:
            self._step(super().load, entries)

        def call(self, call: MemoryCall) -> None:
            self._step(super().call, call, changes=call.changes)

        def touch(self, start: int, end: int, vma: Vma) -> None:
            self._step(super().touch, start, end, vma)

        def grow(self, start: int, end: int, vma: Vma) -> None:
            self._step(super().grow, start, end, vma)

        def thread(self) -> None:
            self._step(super().thread)

        def end(self) -> None:
            try:
                super().end()
            except SgxError as refused:
                report.add([str(refused)])

    Verified.name = rule.name
    return Verified
