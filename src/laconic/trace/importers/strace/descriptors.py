"""What the descriptors of a process refer to, as far as a log shows who opened, copied and closed
them."""

from __future__ import annotations

import os.path
from dataclasses import dataclass, field
from typing import NamedTuple

from laconic.trace.importers.strace.names import O_ACCMODE, O_CLOEXEC, O_PATH
from laconic.trace.schema import PLACES, PLAIN, READABLE, UNKNOWN_IDENTITY, WRITABLE


class Descriptor(NamedTuple):
    """One open descriptor: the path, `FileMode` bits, and whether an execve closes it."""

    path: bytes
    mode: int
    cloexec: bool = False


@dataclass(slots=True, eq=False)
class Files:
    """A table of descriptors, and the working directory where it is known."""

    table: dict[int, Descriptor] = field(default_factory=dict)
    cwd: bytes = b""

    def copy(self) -> Files:
        """As fork copies it. O(descriptors)."""
        return Files(dict(self.table), self.cwd)

    def execute(self) -> Files:
        """As a successful execve leaves it. O(descriptors)."""
        return Files({fd: each for fd, each in self.table.items() if not each.cloexec}, self.cwd)

    def resolve(self, directory: bytes, path: bytes) -> bytes:
        """A path as `/proc/PID/maps` would have it, symbolic links not followed: `directory` is b""
        for the cwd."""
        if not path.startswith(b"/"):
            path = os.path.join(
                directory or self.cwd, path
            )  # where that is not known: as the program named it
        return os.path.normpath(path) if b"//" in path or b"/." in path else path

    def open(self, fd: int, path: bytes, flags: int) -> None:
        """Descriptor `fd` is open now, with the flags of open(2)."""
        if len(self.table) < MOST:
            self.table[fd] = Descriptor(path, mode_of(path, access(flags)), bool(flags & O_CLOEXEC))

    def dup(self, old: int, new: int, cloexec: bool) -> None:
        """Descriptor `new` is a copy of `old`."""
        known = self.table.get(old)
        if known is None:
            self.table.pop(new, None)
        elif len(self.table) < MOST:
            self.table[new] = known._replace(cloexec=cloexec)


#: Descriptors that are kept of a process: more than the kernel's usual highest limit, and memory
#: stays bounded.
MOST = 1 << 20


def access(flags: int) -> int:
    """READABLE and WRITABLE of the flags of open(2)."""
    if flags & O_PATH:
        return 0
    return (READABLE, WRITABLE, READABLE | WRITABLE, 0)[flags & O_ACCMODE]


def mode_of(path: bytes, bits: int) -> int:
    """The `FileMode` bits of a path that was opened with the access `bits`."""
    if (path.startswith(b"/") and not path.startswith(_STRANGE)) or path.startswith(b"/dev/shm/"):
        bits |= PLAIN | PLACES
    return bits | UNKNOWN_IDENTITY


_STRANGE = (b"/dev/", b"/proc/", b"/sys/", b"/secretmem")
