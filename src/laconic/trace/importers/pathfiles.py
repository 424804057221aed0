"""Files that a log knows by their paths alone, or not even so: what stands for their identity in a trace."""

from __future__ import annotations

import os

from laconic.memory.vma import File
from laconic.trace.schema import PLACES, PLAIN, READABLE, UNKNOWN_IDENTITY, WRITABLE
from laconic.trace.writer import TraceWriter

_MODE = READABLE | WRITABLE | PLAIN | PLACES | UNKNOWN_IDENTITY
#: Appearances of unknown descriptors that are told apart: a log that has ever more of them must not fill the memory.
_APART = 65536


class PathFiles:
    """The numbers of a trace's files, an inode counted down from -1 for each path."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._inodes: dict[str, int] = {}

    def number(self, path: bytes | None, fd: int, now: tuple[int, int, int]) -> int:
        """The file of this path; None: what the descriptor refers to is not known, and it is a file of its own.

        `fd` is a C int in a register; 0 is returned for a negative one. `now` is the row's time, pid and tid. O(1).
        """
        if fd >> 31 & 1:
            return 0
        if path is None:
            name = f"?fd {fd & 0x7FFFFFFF} of P{now[1]}, {min(len(self._inodes) + 1, _APART)}"
        else:
            name = os.fsdecode(path)
        inode = self._inodes.setdefault(name, -1 - len(self._inodes))
        return self._writer.file(File(0, 2, inode, name), 0, _MODE, now=now)
