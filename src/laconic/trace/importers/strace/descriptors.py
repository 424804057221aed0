"""The files of a process's descriptors, as far as a log shows which calls opened, copied and closed
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
class StraceDescriptors:
    """A table of descriptors, and the working directory if it is known."""

    table: dict[int, Descriptor] = field(default_factory=dict)
    cwd: bytes = b""

    def copy(self) -> StraceDescriptors:
        """Return the table of a forked process. O(descriptors)."""
        return StraceDescriptors(dict(self.table), self.cwd)

    def execute(self) -> StraceDescriptors:
        """Return the table after a successful execve. O(descriptors)."""
        return StraceDescriptors(
            {fd: each for fd, each in self.table.items() if not each.cloexec}, self.cwd
        )

    def resolve(self, directory: bytes, path: bytes) -> bytes:
        """Return a path as in `/proc/PID/maps`, but without resolving symbolic links. `directory`
        is b"" for the working directory."""
        if not path.startswith(b"/"):
            path = os.path.join(
                directory or self.cwd, path
            )  # if that is unknown: as the program passed it
        return os.path.normpath(path) if b"//" in path or b"/." in path else path

    def open(self, fd: int, path: bytes, flags: int) -> None:
        """Open the descriptor `fd`, with the flags of open(2)."""
        if len(self.table) < MOST:
            self.table[fd] = Descriptor(path, mode_of(path, access(flags)), bool(flags & O_CLOEXEC))

    def dup(self, old: int, new: int, cloexec: bool) -> None:
        """Make the descriptor `new` a copy of `old`."""
        known = self.table.get(old)
        if known is None:
            self.table.pop(new, None)
        elif len(self.table) < MOST:
            self.table[new] = known._replace(cloexec=cloexec)


#: The maximum number of descriptors kept per process: more than the kernel's usual maximum, so that
#: memory stays bounded.
MOST = 1 << 20


def access(flags: int) -> int:
    """Return READABLE and WRITABLE for the flags of open(2)."""
    if flags & O_PATH:
        return 0
    return (READABLE, WRITABLE, READABLE | WRITABLE, 0)[flags & O_ACCMODE]


def mode_of(path: bytes, bits: int) -> int:
    """Return the `FileMode` bits of a path that was opened with the access `bits`."""
    if (path.startswith(b"/") and not path.startswith(_STRANGE)) or path.startswith(b"/dev/shm/"):
        bits |= PLAIN | PLACES
    return bits | UNKNOWN_IDENTITY


_STRANGE = (b"/dev/", b"/proc/", b"/sys/", b"/secretmem")
