"""Files that a log knows by their paths alone, or not even so: what stands for their identity in a
trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self, TypeVar

from laconic.memory.vma import File
from laconic.trace.schema import PLACES, PLAIN, READABLE, UNKNOWN_IDENTITY, WRITABLE
from laconic.trace.sysroot import HostFile
from laconic.trace.writer import TraceWriter

_MODE = PLAIN | PLACES
#: Appearances of unknown descriptors that are distinguished: a log that has ever more of them must
#: not fill the memory.
_APART = 65536


T = TypeVar("T")


class DescriptorTable(dict[int, T]):
    """Descriptor → what it refers to, of a log that does not show which ones an execve closes."""

    def copy(self) -> Self:
        """Return the table that a fork makes. O(descriptors)."""
        return type(self)(self)

    def execute(self) -> Self:
        """Return the table that an execve leaves: all of it. O(descriptors)."""
        return self.copy()


class Paths(DescriptorTable[bytes]):
    """Descriptor → path."""


class PathFiles:
    """The numbers of a trace's files, an inode counted down from -1 for each path.

    `look` finds the file at a path, if it is at hand: then its device, inode and size are known.
    `unsized`: there was a path for which none was found.
    """

    def __init__(
        self, writer: TraceWriter, look: Callable[[str], HostFile | None] | None = None
    ) -> None:
        self._writer = writer
        self._look = look
        self._inodes: dict[str, int] = {}
        self.unsized = False

    def number(
        self,
        path: bytes | None,
        fd: int,
        now: tuple[int, int, int],
        access: int = READABLE | WRITABLE,
        size: int | None = None,
    ) -> int:
        """The file of this path; None: what the descriptor refers to is not known, and it is a file
        of its own.

        `fd` is a C int in a register; 0 is returned for a negative one. `now` is the row's time,
        pid and tid. `access` are READABLE and WRITABLE. `size` is in bytes; None: that of the file
        that is at hand, if there is one. O(1).
        """
        if fd >> 31 & 1:
            return 0
        if path is None:
            name = f"?fd {fd & 0x7FFFFFFF} of P{now[1]}, {min(len(self._inodes) + 1, _APART)}"
        else:
            name = os.fsdecode(path)
            found = self._look(name) if self._look is not None else None
            if found is not None:
                file = File(found.major, found.minor, found.inode, name)
                known = found.size if size is None else size
                return self._writer.file(file, known, _MODE | access, now=now)
            self.unsized |= size is None
        inode = self._inodes.setdefault(name, -1 - len(self._inodes))
        mode = _MODE | access | UNKNOWN_IDENTITY
        return self._writer.file(File(0, 2, inode, name), size or 0, mode, now=now)
