"""The sizes of files, as far as the program's calls and touches show them."""

from __future__ import annotations

from typing import Self

from laconic.memory.flags import TASK_SIZE
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.vma import File, Vma


class FileSizes:
    """What one enclave knows of the sizes of files. All but `copy` take O(1)."""

    __slots__ = ("_sizes", "_unsized")

    def __init__(self) -> None:
        self._sizes: dict[File, int] = {}
        # Files of 0 bytes when they were mapped: devices, new files, and those of a log without
        # sizes.
        self._unsized: set[File] = set()

    def note(self, file: OpenFile | None) -> None:
        """Take over the size of a call's file; a call without a file shows none."""
        if file is not None:
            self._sizes[file.file] = file.size
            if file.size:
                self._unsized.discard(file.file)
            else:
                self._unsized.add(file.file)

    def write(self, file: File, size: int, truncated: bool) -> None:
        """Follow a write to a file, which has at least `size` bytes now, or its truncation to
        `size` bytes. The size of a file that was written to stays unknown if it was."""
        if truncated:
            self._sizes[file] = size
        elif file in self._sizes:
            self._sizes[file] = max(self._sizes[file], size)

    def valid_end(self, vma: Vma) -> int:
        """Return the address at which the pages of a VMA's file end, TASK_SIZE if they do not."""
        if vma.file is None or vma.file not in self._sizes:
            return TASK_SIZE
        return vma.base + page_align(self._sizes[vma.file])

    def grow(self, vma: Vma, end: int) -> None:
        """Take over that the page of `vma` that ends at `end` was touched, so that it exists.

        Past the known end, the file has grown since: by a write or an ftruncate, which a trace does
        not have.
        """
        if vma.file is not None and end > self.valid_end(vma):
            self._sizes[vma.file] = end - vma.base

    def known_end(self, vma: Vma) -> int:
        """As `valid_end`, but TASK_SIZE for a file that was mapped when it had 0 bytes, because its
        size is then not known."""
        return TASK_SIZE if vma.file in self._unsized else self.valid_end(vma)

    def copy(self) -> Self:
        """Return the same sizes, for a child. O(files)."""
        twin = type(self)()
        twin._sizes = self._sizes.copy()
        twin._unsized = self._unsized.copy()
        return twin
