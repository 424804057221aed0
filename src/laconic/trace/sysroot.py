"""The files that a traced program used, looked up under a directory: identity, size, ELF segments.

Nothing outside the directory is read, whatever a path or a file contains: links are resolved as if
the directory were the root.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import NamedTuple

from laconic.errors import LaconicError
from laconic.stacks.elf import PT_LOAD, Malformed, Segment
from laconic.stacks.symbols import open_elf

#: The maximum number of cached files, and of links followed on the way to one (like the kernel's
#: MAXSYMLINKS).
_KEPT, _LINKS = 65536, 40


class HostFile(NamedTuple):
    """A regular file: device, inode, size in bytes."""

    major: int
    minor: int
    inode: int
    size: int


class Sysroot:
    """The directory `folder` as the root of paths. Raises LaconicError if it is not a directory."""

    def __init__(self, folder: str) -> None:
        if not os.path.isdir(folder):
            raise LaconicError(
                f"--root {folder!r} is not a directory; name the one that holds the program's files"
            )
        self._folder = os.path.abspath(folder)
        self._files: dict[str, HostFile | None] = {}

    def find(self, path: str) -> HostFile | None:
        """Return the regular file at a path, or None if there is none. O(links), later O(1)."""
        if path not in self._files:
            if len(self._files) >= _KEPT:
                self._files.clear()
            self._files[path] = self._stat(path)
        return self._files[path]

    def segments(self, path: str) -> list[Segment] | None:
        """Return the PT_LOAD segments of the ELF file at a path, ascending, or None if there is no
        such file. O(segments)."""
        if self.find(path) is None:
            return None
        try:
            elf = open_elf(self._resolved(path))
        except Malformed:
            return None
        loads = [segment for segment in elf.segments if segment.kind == PT_LOAD]
        return sorted(loads, key=lambda segment: segment.vaddr)

    def _stat(self, path: str) -> HostFile | None:
        try:
            about = os.stat(self._resolved(path), follow_symlinks=False)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(about.st_mode):
            return None
        device = about.st_dev
        return HostFile(os.major(device), os.minor(device), about.st_ino, about.st_size)

    def _resolved(self, path: str) -> str:
        # Raises OSError or ValueError if there is no such file.
        left = deque(path.split("/"))
        taken: list[str] = []
        links = 0
        while left:
            name = left.popleft()
            if name in ("", "."):
                continue
            if name == "..":
                del taken[-1:]
                continue
            here = os.path.join(self._folder, *taken, name)
            if not stat.S_ISLNK(os.lstat(here).st_mode):
                taken.append(name)
                continue
            links += 1
            if links > _LINKS:
                raise OSError("too many links")
            target = os.readlink(here)
            if target.startswith("/"):
                taken.clear()
            left.extendleft(reversed(target.split("/")))
        return os.path.join(self._folder, *taken)
