"""What a strategy is: a library OS's enclave for one address space, and the events that it handles.

One `Strategy` object is one enclave under one strategy. It receives, in order, all that happens to
one address space: the program's image, memory calls, touches, threads, forks. It acts on its
enclave through a `Meter`, which counts.
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
    """One memory call that is over: its request, the program's result, and what changed.

    `args` are the call's six, `result` is its value or a negative errno. `changes` are page runs,
    in ascending order; a part of them may come with an error too, as Linux leaves it. `file` is
    what an mmap's descriptor refers to.
    """

    name: str
    args: tuple[int, ...]
    result: int
    changes: tuple[Change, ...]
    file: OpenFile | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Strategy:
    """One enclave, under one rule. Subclasses say what each event costs.

    `space` is the program's address space, kept by its owner: in `touch` as it was when the pages
    were touched, in `call` as it is after the call. `touches` knows which pages are touched; in
    `call` as it was before the call. `hears_all` is False if a call without changes means nothing
    to the strategy.

    execve ends the enclave, and vfork makes none, unless the strategy is a `ContinuingStrategy`.

    `strict` is True if the strategy keeps the law Strict without exception, so that `compare
    --verify` checks it; for a strategy with options that matter, `laconic.strategies.is_strict`
    says so. `can_sync` is True if the class takes an argument `sync`, with which the
    host's mapping follows the EPCM's permissions, at host calls of its own (`--pte sync`). The
    check tolerates pages in `left`, which a failure left in the EPC, and expects no access to pages
    in `guards`, the guard regions (MADV_GUARD_INSTALL), of which VMAs say nothing.

    `linux_rule` is the strategy's rule on Linux: from a call's name, its six arguments and its
    outcome to the arguments of the system call that carries it out, or None if there is none.
    """

    name: ClassVar[str]
    linux_rule: ClassVar[HostRule | None] = None
    strict: ClassVar[bool] = False
    can_sync: ClassVar[bool] = False

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        self.meter = meter
        self.space = space
        self.touches = touches
        self.hears_all = True
        self.left: RangeMap[int] = RangeMap()
        self.guards: RangeMap[bool] = RangeMap()

    @abstractmethod
    def load(self, entries: Iterable[Entry]) -> None:
        """A program begins in a new enclave: `entries` are mapped, as the loader leaves them."""

    @abstractmethod
    def call(self, call: MemoryCall) -> None:
        """The program made a memory call."""

    @abstractmethod
    def touch(self, start: int, end: int, vma: Vma) -> None:
        """The pages of `[start, end)`, all of `vma`, were touched for the first time since they
        were mapped, or lost their contents. Some may be committed."""

    @abstractmethod
    def grow(self, start: int, end: int, vma: Vma) -> None:
        """A stack grew by `[start, end)`."""

    @abstractmethod
    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """The child's enclave, with this one's pages sent to it; `space` and `touches` are the
        child's own."""

    @abstractmethod
    def thread(self) -> None:
        """A thread begins, beside the first."""

    @abstractmethod
    def thread_ends(self) -> None:
        """A thread ends that `thread` or `thread_found` has announced."""

    def thread_found(self) -> None:
        """A thread, beside the first, was running before the recording began."""

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        """The program wrote to `file`, which has at least `size` bytes now, or truncated it to
        `size` bytes. It is nothing to a host that maps files itself."""

    @abstractmethod
    def end(self) -> None:
        """The process ends, or executes another program: the enclave is gone."""


S = TypeVar("S", bound=Strategy)


def fork_of(strategy: S, space: AddressSpace, touches: Touches) -> S:
    """Return the child's enclave. Raises LaconicError if `strategy.fork` returns none."""
    # Compiled code would refuse another type before this check, if it knew the type of `fork`.
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
    """A strategy under which an executed program runs in the enclave of the program before it, and
    vfork is a fork: Gramine's ways."""

    @abstractmethod
    def execute(self, space: AddressSpace, touches: Touches) -> Self:
        """The process executes another program in this enclave: the strategy for that program,
        whose `load` follows. `space` and `touches` are the program's."""


#: Makes a strategy for one address space.
Maker = Callable[[Meter, AddressSpace, Touches], Strategy]
