"""A program whose memory calls go through the real bookkeeping, with the enclave of one strategy
beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, NamedTuple, TypeVar, cast

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.memory.calls import OPERATIONS
from laconic.memory.flags import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Counts, Meter
from laconic.sgx.model.driver import Driver
from laconic.sgx.model.failures import Plan
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.gramine import Gramine
from laconic.strategies.every_call import EveryCall

PAGE = 4096
#: Where the tests map, and where the break is.
BASE, HEAP = 0x10_0000_0000, 0x5000_0000
PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS
FIXED = PRIVATE | MAP_FIXED
LIB = File(8, 1, 77, "/lib/file.so")
StrategyT = TypeVar("StrategyT", bound=Strategy, covariant=True)
Maker = Callable[[Meter, AddressSpace, Touches], StrategyT]


def lib(pages: float, file: File = LIB) -> OpenFile:
    """A file of so many pages, open for both."""
    return OpenFile(file, readable=True, writable=True, size=int(pages * PAGE))


def machine(plan: Plan | None = None) -> Machine:
    """A machine whose enclave spans all that a program and a LibOS can use."""
    return Machine(Driver.ready(0, 1 << 48, plan=plan))


class UntrackedPal(Gramine):
    """Gramine's PAL without the pages of its lazy tracker."""

    __slots__ = ()

    def track(self, start: int, end: int) -> None:
        pass


def untracked(maker: Maker[Strategy]) -> Maker[Strategy]:
    """A strategy on Gramine's PAL without the tracker's pages: which call pays for one depends on
    where its memory is. Other strategies as they are."""
    rule = maker.func if isinstance(maker, partial) else maker
    if isinstance(rule, type) and issubclass(rule, EveryCall):
        return partial(cast(Callable[..., Strategy], maker), pal_type=UntrackedPal)
    return maker


class Answers(DefaultUpcalls):
    """What bookkeeping may ask, with the answers of an ordinary process
    (`laconic.memory.upcalls.Upcalls`)."""

    file: OpenFile | None = None

    def open_file(self, fd: int) -> OpenFile | None:
        return self.file

    def resident(self, start: int, end: int) -> bool:
        return True

    def maps(self) -> RangeMap[Vma]:
        raise AssertionError("no call of these tests needs the host's map")


class Program(Generic[StrategyT]):
    """`call`, `touch` and the like are told to bookkeeping, touches and strategy; `counts` begin at
    0 with `anew`. The pages of Gramine's tracker are counted only if `tracked` is set."""

    def __init__(
        self, maker: Maker[StrategyT], meter: Meter | None = None, tracked: bool = False
    ) -> None:
        if not tracked:
            maker = cast(Maker[StrategyT], untracked(maker))
        self.space = AddressSpace(Layout(mmap_base=BASE + (1 << 45)), (), HEAP)
        self.touches = Touches()
        self.meter = Meter() if meter is None else meter
        self.strategy = maker(self.meter, self.space, self.touches)
        self.up = Answers(self.space)

    @property
    def counts(self) -> Counts:
        return self.meter.counts

    def anew(self) -> Program[StrategyT]:
        """Counts from 0 on."""
        self.meter.counts = Counts()
        if isinstance(self.strategy, EveryCall):
            self.strategy.transfers = 0
        return self

    def load(self, entries: Iterable[Entry]) -> None:
        self.space.adopt(entries)
        self.strategy.load(self.space.vmas)

    def call(self, name: str, *args: int, file: OpenFile | None = None) -> int:
        """Makes a call, and returns its result."""
        result = self.attempt(name, args, file)
        assert result is not None
        return result

    def attempt(self, name: str, args: tuple[int, ...], file: OpenFile | None = None) -> int | None:
        """As `call`; a call that only the host can answer is not made, and has no result."""
        six = (*args, *(0,) * (6 - len(args)))
        self.up.file = file
        outcome = OPERATIONS[name](self.space, six, self.up)
        if outcome.place or outcome.resync:
            self.space.rollback(outcome.start, outcome.end)
            return None
        self.space.commit(outcome)
        self.tell(MemoryCall(name, six, outcome.result, outcome.changes, file))
        return outcome.result

    def tell(self, call: MemoryCall) -> None:
        """Tells the strategy of a call that bookkeeping knows nothing of."""
        self.touches.sizes.note(call.file)
        self.strategy.call(call)
        self.touches.apply(call.name, call.args, call.changes)

    def map(self, start: int, pages: int, prot: int, flags: int = FIXED) -> None:
        assert self.call("mmap", start, pages * PAGE, prot, flags, -1 & (1 << 64) - 1, 0) == start

    def map_file(
        self,
        start: int,
        pages: int,
        prot: int,
        file: OpenFile,
        flags: int = MAP_PRIVATE | MAP_FIXED,
        page: int = 0,
    ) -> None:
        assert (
            self.call("mmap", start, pages * PAGE, prot, flags, 3, page * PAGE, file=file) == start
        )

    def protect(self, start: int, pages: int, prot: int) -> None:
        assert self.call("mprotect", start, pages * PAGE, prot) == 0

    def unmap(self, start: int, pages: int) -> None:
        assert self.call("munmap", start, pages * PAGE) == 0

    def touch(self, start: int, pages: int, how: int = 0) -> None:
        touched = [(start, start + pages * PAGE, how)]
        for run_start, run_end, vma in self.touches.take(touched, self.space):
            self.strategy.touch(run_start, run_end, vma)


class Cost(NamedTuple):
    """The columns of the table; host calls and ioctls are the same number there, and #PFs are EAUG
    faults."""

    host_calls: int = 0
    eaccept: int = 0
    emodpe: int = 0
    eaug_faults: int = 0
    exceptions: int = 0


def cost(program: Program[EveryCall]) -> Cost:
    counts = program.counts
    ioctls = counts.host_calls - program.strategy.transfers
    assert counts.ioctls == ioctls, "each host call but those for contents carries one ioctl"
    assert counts.etrack_ipis == counts.emodpr + counts.emodt
    assert counts.eaug == counts.eaug_faults
    return Cost(ioctls, counts.eaccept, counts.emodpe, counts.eaug_faults, counts.exceptions)
