"""The sizes of files, inferred from the program's calls and touches."""

from __future__ import annotations

from typing import Self

from laconic.memory.flags import TASK_SIZE
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.vma import File, Vma


class FileSizes:
    """The file sizes known to one enclave. All methods except `copy` take O(1)."""

    __slots__ = ("_sizes", "_unsized")

    def __init__(self) -> None:
        self._sizes: dict[File, int] = {}
        # Files that had 0 bytes when they were mapped: devices, new files, and files in a log
        # without sizes.
        self._unsized: set[File] = set()

    def note(self, file: OpenFile | None) -> None:
        """Record the size of a call's file; None is ignored."""
        if file is not None:
            self._sizes[file.file] = file.size
            if file.size:
                self._unsized.discard(file.file)
            else:
                self._unsized.add(file.file)

    def write(self, file: File, size: int, truncated: bool) -> None:
        """Record a write to a file, which then has at least `size` bytes, or its truncation to
        `size` bytes.

        A write does not make an unknown size known.
        """
        if truncated:
            self._sizes[file] = size
        elif file in self._sizes:
            self._sizes[file] = max(self._sizes[file], size)

    def valid_end(self, vma: Vma) -> int:
        """Return the address at which the pages of a VMA's file end, or TASK_SIZE if that is
        unknown."""
        if vma.file is None or vma.file not in self._sizes:
            return TASK_SIZE
        return vma.base + page_align(self._sizes[vma.file])

    def grow(self, vma: Vma, end: int) -> None:
        """Record that the page of `vma` that ends at `end` was touched, and therefore exists.

        If it is past the known end, the file has grown since, by a write or an ftruncate that the
        trace does not contain.
        """
        if vma.file is not None and end > self.valid_end(vma):
            self._sizes[vma.file] = end - vma.base

    def known_end(self, vma: Vma) -> int:
        """Like `valid_end`, but return TASK_SIZE for a file that had 0 bytes when it was mapped,
        because its size is then unknown."""
        return TASK_SIZE if vma.file in self._unsized else self.valid_end(vma)

    def copy(self) -> Self:
        """Return a copy for a child. O(files)."""
        twin = type(self)()
        twin._sizes = self._sizes.copy()
        twin._unsized = self._unsized.copy()
        return twin
