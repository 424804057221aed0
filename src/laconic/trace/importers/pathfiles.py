"""Files that a log shows only by their paths, or not at all: the identity that represents them in a
trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self, TypeVar

from laconic.memory.vma import LOG_DEVICE, File
from laconic.trace.schema import PLACES, PLAIN, READABLE, UNKNOWN_IDENTITY, WRITABLE
from laconic.trace.sysroot import HostFile
from laconic.trace.writer import TraceWriter

_MODE = PLAIN | PLACES
#: The maximum number of unknown descriptors that are distinguished: memory must stay bounded if a
#: log has ever more of them.
_APART = 65536
#: The number of missing files that are kept.
_MISSING = 10

T = TypeVar("T")


class DescriptorTable(dict[int, T]):
    """Descriptor → its file, for a log that does not show which descriptors an execve closes."""

    def copy(self) -> Self:
        """Return the table of a forked process. O(descriptors)."""
        return type(self)(self)

    def execute(self) -> Self:
        """Return the table after an execve: all of it. O(descriptors)."""
        return self.copy()


class Paths(DescriptorTable[bytes]):
    """Descriptor → path."""


class PathFiles:
    """The numbers of a trace's files. Each path has an inode, counted down from -1.

    `look` finds the file at a path if it is available; its device, inode and size are then known.
    `missing`: the first paths of files whose size is not known.
    """

    def __init__(
        self, writer: TraceWriter, look: Callable[[str], HostFile | None] | None = None
    ) -> None:
        self._writer = writer
        self._look = look
        self._inodes: dict[str, int] = {}
        self.missing: dict[str, None] = {}

    def number(
        self,
        path: bytes | None,
        fd: int,
        now: tuple[int, int, int],
        access: int = READABLE | WRITABLE,
        size: int | None = None,
    ) -> int:
        """Return the number of the file at this path. If the path is None, the descriptor's file is
        unknown, and counts as a file of its own.

        `fd` is a C int in a register; the result is 0 if it is negative. `now` is the row's time,
        pid and tid. `access` are READABLE and WRITABLE. `size` is in bytes; if None, it is that of
        the available file, if there is one. O(1).
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
            if size is None and len(self.missing) < _MISSING:
                self.missing[name] = None
        inode = self._inodes.setdefault(name, -1 - len(self._inodes))
        mode = _MODE | access | UNKNOWN_IDENTITY
        return self._writer.file(File(*LOG_DEVICE, inode, name), size or 0, mode, now=now)
