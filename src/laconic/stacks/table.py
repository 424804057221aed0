"""Small numbers for values that recur: modules, frames, stacks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


class Interned(Generic[T]):
    """Values by number, counted from 0 in the order in which they first occurred; never removed.

    >>> stacks = Interned()
    >>> stacks.number((5, 7)), stacks.number((5, 8)), stacks.number((5, 7))
    (0, 1, 0)
    """

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def number(self, value: T) -> int:
        """Return the number of a value, a new one if it has none. O(size of the value)."""
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


#: Kinds of modules: an ELF file; the kernel's vDSO; executable memory of one process that belongs
#: to no ELF file; the remainder of a stack that was too deep; and a Python function.
FILE, VDSO, JIT, CUT, PYTHON = "file", "vdso", "jit", "cut", "python"


class Module(NamedTuple):
    """The module that a frame's address is relative to. It is the same on every machine that maps
    the same file, except for JIT.

    `path` is as the process sees it; `size` (bytes) and `mtime` (ns) identify a file without a
    build-id that has changed since. `pid` is the process of JIT memory, otherwise 0.

    For a Python function, `name` is its qualified name and `path` its source file; the addresses of
    its frames are lines, 0 if the line is unknown. For an interpreter (whose ELF file is `path`),
    `lost` is the reason why its Python frames are not read.
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

    It is a return address, so the call precedes it, unless `exact`: the innermost frame, a frame
    that a signal interrupted, and a function that was not called but is returned to. `guessed`:
    found by a frame pointer or by a call's target, because the frame before it has no call-frame
    information.
    """

    module: int
    address: int
    exact: bool
    guessed: bool

    @property
    def lookup(self) -> int:
        """Return the address by which to look up the function and the line."""
        return self.address if self.exact else self.address - 1

    @property
    def key(self) -> str:
        """Return the key of the frame among the names of its module: in a packed trace, and in the
        cache."""
        return f"{self.address:x}{'e' * self.exact}"


class Tables:
    """The modules, frames and stacks of one run. Module 0 and frame 0 represent what was cut
    off."""

    def __init__(self) -> None:
        self.modules: Interned[Module] = Interned()
        self.frames: Interned[Frame] = Interned()
        self.stacks: Interned[tuple[int, ...]] = Interned()
        self.modules.number(Module(CUT, "[cut]"))
        self.frames.number(Frame(0, 0, True, False))

    def guessed(self, frame: int) -> int:
        """Return the number of the same frame, marked as guessed."""
        return self.frames.number(self.frames[frame]._replace(guessed=True))
