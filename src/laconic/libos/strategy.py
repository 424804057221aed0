"""The interface of a strategy: a library OS's enclave for one address space, and the events that it
handles.

One `Strategy` object is one enclave under one strategy. It receives all events of one address
space, in order: the program's image, memory calls, touches, threads, forks. It acts on its enclave
through a `Meter`, which counts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, cast

from mypy_extensions import mypyc_attr

from laconic.errors import LaconicError
from laconic.libos.touches import Touches
from laconic.memory.change import Change
from laconic.memory.hostrule import HostRule
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter


class MemoryCall(NamedTuple):
    """One completed memory call: its request, the program's result, and the changes.

    `args` are the call's six arguments, `result` is its value or a negative errno. `changes` are
    page runs, in ascending order; a failed call may also have some, as on Linux. `file` is the file
    of an mmap's descriptor.
    """

    name: str
    args: tuple[int, ...]
    result: int
    changes: tuple[Change, ...]
    file: OpenFile | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Strategy:
    """One enclave, under one rule. Subclasses define the cost of each event.

    `space` is the program's address space, which its owner updates: during `touch` it is as it was
    when the pages were touched, and during `call` as it is after the call. `touches` contains the
    touched pages; during `call`, those before the call. If `needs_unchanged` is False, calls
    without changes need not be delivered to the strategy.

    By default, execve ends the enclave and vfork makes none; a `ContinuingStrategy` differs.

    `strict` is True if the strategy never violates the law Strict, so that `compare --verify`
    checks it. If it depends on the strategy's options, use `laconic.strategies.is_strict`.
    `can_sync` is True if the class takes an argument `sync`, with which the host's mapping follows
    the EPCM's permissions, at the cost of additional host calls (`--pte sync`). The check tolerates
    pages in `left`, which a failure left in the EPC. It expects no access to pages in `guards`, the
    guard regions (MADV_GUARD_INSTALL), which VMAs do not contain.

    `linux_rule` is the strategy's rule on Linux. It maps a call's name, six arguments and outcome
    to the arguments of the system call that carries it out, or to None. Without a rule for Linux,
    the attribute is None.
    """

    name: ClassVar[str]
    linux_rule: ClassVar[HostRule | None] = None
    strict: ClassVar[bool] = False
    can_sync: ClassVar[bool] = False

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        self.meter = meter
        self.space = space
        self.touches = touches
        self.needs_unchanged = True
        self.left: RangeMap[int] = RangeMap()
        self.guards: RangeMap[bool] = RangeMap()

    @abstractmethod
    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave: `entries` are the mappings that the loader leaves."""

    @abstractmethod
    def call(self, call: MemoryCall) -> None:
        """Handle a memory call of the program."""

    @abstractmethod
    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle the first touches of all pages of `[start, end)`, which belong to `vma`, since
        they were mapped or lost their contents. Some may be committed."""

    @abstractmethod
    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack by `[start, end)`."""

    @abstractmethod
    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave, to which this one's pages are sent; `space` and `touches` are
        the child's own."""

    @abstractmethod
    def thread(self) -> None:
        """Start a thread, in addition to the first."""

    @abstractmethod
    def thread_ends(self) -> None:
        """End a thread that `thread` or `thread_found` has announced."""

    def thread_found(self) -> None:
        """Handle a thread, in addition to the first, that was running before the recording
        began."""

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        """Handle a write to `file`, which then has at least `size` bytes, or its truncation to
        `size` bytes.

        By default, nothing is done: a host that maps files itself needs no work.
        """

    @abstractmethod
    def end(self) -> None:
        """End the enclave, because the process ends or executes another program."""


S = TypeVar("S", bound=Strategy)


def fork_of(strategy: S, space: AddressSpace, touches: Touches) -> S:
    """Return the child's enclave. Raises LaconicError if `strategy.fork` returns none."""
    # If compiled code knew the type of `fork`, it would reject another type before this check.
    untyped: Any = strategy
    child = untyped.fork(space, touches)
    if not isinstance(child, Strategy):
        raise LaconicError(
            f"fork of {type(strategy).__name__} returned {child!r}; return the child's enclave, as "
            "in  type(self)(self.meter, space, touches)"
        )
    return cast(S, child)


@mypyc_attr(allow_interpreted_subclasses=True)
class ContinuingStrategy(Strategy):
    """A strategy, like Gramine's, under which an executed program runs in the enclave of the
    previous program, and vfork is a fork.

    Among several bases it comes first: otherwise, the compiled build cannot call its methods.
    """

    @abstractmethod
    def execute(self, space: AddressSpace, touches: Touches) -> Self:
        """Execute another program in this enclave. Returns the strategy for that program, whose
        `load` follows. `space` and `touches` are the program's."""


#: Makes a strategy for one address space.
Maker = Callable[[Meter, AddressSpace, Touches], Strategy]
