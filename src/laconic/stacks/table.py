"""Small numbers for what comes again and again: modules, frames, stacks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


class Interned(Generic[T]):
    """Values by number, counted from 0 in the order in which they first came; never taken back.

    >>> stacks = Interned()
    >>> stacks.number((5, 7)), stacks.number((5, 8)), stacks.number((5, 7))
    (0, 1, 0)
    """

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def number(self, value: T) -> int:
        """The number of a value, a new one if it has none. O(size of the value)."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._values)
            self._values.append(value)
        return number

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[T]:
        return iter(self._values)


#: Kinds of modules: an ELF file; the kernel's vDSO; executable memory of one process that is of no
#: ELF file; what stands for the rest of a stack that was too deep; and a Python function.
FILE, VDSO, JIT, CUT, PYTHON = "file", "vdso", "jit", "cut", "python"


class Module(NamedTuple):
    """What a frame's address counts from. The same on every machine where the same file is mapped,
    but for JIT.

    `path` is as the process sees it; `size` (bytes) and `mtime` (ns) tell a file that has changed
    since without a build-id. `pid` is the process of JIT memory, else 0.

    Of a Python function, `name` is its qualified name and `path` its source file; the addresses of
    its frames are lines, 0 if the line is unknown. `lost` says of an interpreter (its ELF file is
    `path`) why its Python frames are not read.
    """

    kind: str
    path: str
    build_id: str = ""
    size: int = 0
    mtime: int = 0
    pid: int = 0
    name: str = ""
    lost: str = ""


class Frame(NamedTuple):
    """One frame. `address` is as in the ELF file's symbol table; in JIT memory, as in the process.

    It is a return address, so that the call is before it, unless `exact`: the innermost frame, one
    that a signal interrupted, and a function that was not called but is returned to.
    `guessed`: found by a frame pointer or by a call's target, for want of call-frame information in
    the frame before.
    """

    module: int
    address: int
    exact: bool
    guessed: bool

    @property
    def lookup(self) -> int:
        """The address by which to look for the function and the line."""
        return self.address if self.exact else self.address - 1

    @property
    def key(self) -> str:
        """What stands for it among the names of its module: in a packed trace, and in the cache."""
        return f"{self.address:x}{'e' * self.exact}"


class Tables:
    """The modules, frames and stacks of one run. Module 0 and frame 0 stand for what was cut
    off."""

    def __init__(self) -> None:
        self.modules: Interned[Module] = Interned()
        self.frames: Interned[Frame] = Interned()
        self.stacks: Interned[tuple[int, ...]] = Interned()
        self.modules.number(Module(CUT, "[cut]"))
        self.frames.number(Frame(0, 0, True, False))

    def guessed(self, frame: int) -> int:
        """The number of the same frame where it was guessed."""
        return self.frames.number(self.frames[frame]._replace(guessed=True))
