"""A strategy whose SGX instructions all run on the modelled EPCM, which is checked: `laconic
compare --verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from laconic.libos.strategy import ContinuingStrategy, Maker, MemoryCall, Strategy, fork_of
from laconic.libos.touches import Touches
from laconic.memory.change import Change
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter
from laconic.sgx.model.driver import Driver
from laconic.sgx.model.faults import SgxError
from laconic.sgx.model.machine import Machine
from laconic.strategies.strict import StrictChecker, breaches

#: The size of the enclaves, in bytes: the addresses that programs can map, and as much again above
#: them for the library OS.
_SIZE = 1 << 48
_KEPT = 10


class Findings(NamedTuple):
    """The number of checked steps, and the first violations of the law Strict as text.

    `excepted` counts page runs covered by the law's one exception (`strict.Watch`), which are not
    violations.
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
        """Add violations; the text of the first few is kept."""
        for one in found:
            self.breaches += 1
            if len(self.first) < _KEPT:
                self.first.append(one)

    def findings(self) -> Findings:
        """Return all findings."""
        return Findings(self.steps, self.breaches, self.first, self.excepted)


class Verified(Strategy):
    """A strategy on its own machine: after every step, effective access is compared with requested
    access.

    `make` makes `inner`, the strategy that does the work. `pte` is how the host maps the enclave
    ("rwx" or "sync"). `machine` is the enclave; if None, a new one is made. `report` receives the
    findings, and each operation that the model refuses. O(page runs + VMAs) per step.
    """

    name: ClassVar[str] = "verified"

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        make: Maker,
        report: Report,
        pte: str = "rwx",
        machine: Machine | None = None,
    ) -> None:
        super().__init__(meter, space, touches)
        self.report = report
        self.pte = pte
        self.machine = machine or Machine(Driver.ready(0, _SIZE, pte=pte), meter.book)
        self.inner = make(self.machine, space, touches)
        self.watch = StrictChecker(self.machine, space)
        self.needs_unchanged = self.inner.needs_unchanged

    def _step(self, work: Callable[..., Any], *args: Any, changes: Iterable[Change] = ()) -> None:
        report, watch, inner = self.report, self.watch, self.inner
        watch.expect(changes)
        try:
            work(*args)
        except SgxError as refused:
            report.add([str(refused)])
        report.steps += 1
        report.add(watch.windows)
        watch.windows.clear()
        report.excepted += len(watch.excepted)
        watch.excepted.clear()
        report.add(breaches(self.machine, self.space, inner.left, inner.guards))

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave."""
        self._step(self.inner.load, entries)

    def call(self, call: MemoryCall) -> None:
        """Handle a memory call of the program."""
        self._step(self.inner.call, call, changes=call.changes)

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle touched pages."""
        self._step(self.inner.touch, start, end, vma)

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack."""
        self._step(self.inner.grow, start, end, vma)

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave, which is another machine with the same counts."""
        return type(self)(
            self.meter, space, touches, make=self.child_maker, report=self.report, pte=self.pte
        )

    def child_maker(self, machine: Meter, space: AddressSpace, touches: Touches) -> Strategy:
        """Make the strategy of a child. It receives its parent's meter, which must be another
        machine."""
        self.inner.meter = machine
        try:
            return fork_of(self.inner, space, touches)
        finally:
            self.inner.meter = self.machine

    def thread(self) -> None:
        """Start a thread."""
        self._step(self.inner.thread)

    def thread_ends(self) -> None:
        """End a thread."""
        self.inner.thread_ends()

    def thread_found(self) -> None:
        """Handle a thread that was running before the recording began."""
        self._step(self.inner.thread_found)

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        """Handle a write to a mapped file, or its truncation."""
        self._step(self.inner.file_written, file, size, truncated)

    def end(self) -> None:
        """End the enclave."""
        try:
            self.inner.end()
        except SgxError as refused:
            self.report.add([str(refused)])


class VerifiedContinuing(ContinuingStrategy):
    """A `ContinuingStrategy` on its own machine, in which the next program runs too.

    `verified` does the work; its `inner` is the strategy.
    """

    name: ClassVar[str] = "verified"

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        make: Maker,
        report: Report,
        pte: str = "rwx",
        machine: Machine | None = None,
    ) -> None:
        super().__init__(meter, space, touches)
        self.verified = Verified(
            meter, space, touches, make=make, report=report, pte=pte, machine=machine
        )

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into the enclave."""
        self.verified.load(entries)

    def call(self, call: MemoryCall) -> None:
        """Handle a memory call of the program."""
        self.verified.call(call)

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle touched pages."""
        self.verified.touch(start, end, vma)

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack."""
        self.verified.grow(start, end, vma)

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave, which is another machine with the same counts."""
        return self._sibling(self.verified.child_maker, space, touches, None)

    def execute(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the strategy for the next program in the same enclave."""
        return self._sibling(self._successor, space, touches, self.verified.machine)

    def _successor(self, machine: Meter, space: AddressSpace, touches: Touches) -> Strategy:
        inner = self.verified.inner
        assert isinstance(inner, ContinuingStrategy)
        return inner.execute(space, touches)

    def _sibling(
        self, make: Maker, space: AddressSpace, touches: Touches, machine: Machine | None
    ) -> Self:
        verified = self.verified
        return type(self)(
            self.meter,
            space,
            touches,
            make=make,
            report=verified.report,
            pte=verified.pte,
            machine=machine,
        )

    def thread(self) -> None:
        """Start a thread."""
        self.verified.thread()

    def thread_ends(self) -> None:
        """End a thread."""
        self.verified.thread_ends()

    def thread_found(self) -> None:
        """Handle a thread that was running before the recording began."""
        self.verified.thread_found()

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        """Handle a write to a mapped file, or its truncation."""
        self.verified.file_written(file, size, truncated)

    def end(self) -> None:
        """End the enclave."""
        self.verified.end()
