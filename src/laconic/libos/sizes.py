"""The sizes of files, inferred from the program's calls and touches, or assumed."""

from __future__ import annotations

from typing import Final, Self

from laconic.memory.flags import PAGE_SIZE, TASK_SIZE
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.rangemap import TOP
from laconic.memory.vma import File, Vma

#: The assumed size of a file whose size is unknown. OBSERVED: a library OS that reads files assumes
#: that the file covers each of its mappings; otherwise, the file has the pages that are touched.
#: WHOLE: it covers each mapping. EMPTY: it has no page. PARTIAL: it ends within a page, and the
#: mapping has one page more, if it has several; without the mapping (`valid_end`), the first
#: mapping of the file counts.
OBSERVED: Final = 0
WHOLE: Final = 1
EMPTY: Final = 2
PARTIAL: Final = 3
#: The assumptions that together bound each count of the calls of every-call and skip-equal from
#: both sides.
#:
#: Let a file have v of the N pages of a mapping. A count of one call that maps, protects, sends or
#: unmaps it is linear in v, plus a constant for the first page of the file (v > 0), one for a tail
#: past its end (v < N), and one for a second read, which returns 0 because the file ends within the
#: mapping (generic_emulated_mmap in libos_fs_util.c). The linear part has its extremes at v = N and
#: v = 0, which are WHOLE and EMPTY. WHOLE has neither the tail nor the second read; PARTIAL has
#: both, or, if N = 1, the second read, where EMPTY has the tail. Files are independent, so the
#: extremes are taken call by call, and summed (`laconic.replay.sizebounds`).
#:
#: They are only an estimate in two cases. One is a shared mapping that was split before it is
#: flushed or refreshed (msync_range, refresh_mappings_on_file): the file ends in one of the parts,
#: and the assumptions do not try each of them, which changes a host call for each flush or refresh.
#: The other is a strategy that commits at the first touch: what a call costs depends on the pages
#: that earlier calls have committed, and a mix of assumptions may exceed all three.
ASSUMPTIONS: Final = (WHOLE, EMPTY, PARTIAL)


class FileSizes:
    """The file sizes known to one enclave. All methods except `copy` take O(1).

    `assumed` is OBSERVED, WHOLE, EMPTY or PARTIAL, for files of unknown size.
    """

    __slots__ = ("_sizes", "_unsized", "assumed")

    def __init__(self, assumed: int = OBSERVED) -> None:
        self.assumed = assumed
        self._sizes: dict[File, int] = {}
        # Files that had 0 bytes when they were mapped: devices, new files, and files in a log
        # without sizes.
        self._unsized: set[File] = set()

    def note(self, file: OpenFile | None, mapped_end: int = 0) -> None:
        """Record the size of the file that a call maps up to the byte `mapped_end`; None is
        ignored."""
        if file is None:
            return
        if file.size or self.assumed != PARTIAL:
            self._sizes[file.file] = file.size
        elif file.file not in self._unsized:
            self._sizes[file.file] = max(mapped_end - PAGE_SIZE - 1, 0)
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
            self._unsized.discard(file)
        elif file in self._sizes:
            self._sizes[file] = max(self._sizes[file], size)

    def valid_end(self, vma: Vma) -> int:
        """Return the address at which the pages of a VMA's file end, or TASK_SIZE if that is
        unknown."""
        if vma.file is None or vma.file not in self._sizes:
            return TASK_SIZE
        if self.assumed == WHOLE and vma.file in self._unsized:
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
        """Return the address at which the pages of a VMA's file that the program may have touched
        end.

        Like `valid_end`, but TASK_SIZE for a file that had 0 bytes when it was mapped, because its
        size is then unknown, unless it is assumed to be EMPTY or PARTIAL.
        """
        if self.assumed in (OBSERVED, WHOLE) and vma.file in self._unsized:
            return TASK_SIZE
        return self.valid_end(vma)

    def is_assumed(self, file: File) -> bool:
        """Return whether the size of a file is an assumption other than OBSERVED."""
        return self.assumed != OBSERVED and file in self._unsized

    def assumed_end(self, start: int, end: int) -> int:
        """Return where in a new mapping `[start, end)` the contents of its file end, whose size is
        unknown. TOP: the file covers the mapping."""
        if self.assumed in (OBSERVED, WHOLE):
            return TOP
        if self.assumed == EMPTY:
            return start
        return max(end - PAGE_SIZE - 1, start + 1)

    def copy(self) -> Self:
        """Return a copy for a child. O(files)."""
        twin = type(self)(self.assumed)
        twin._sizes = self._sizes.copy()
        twin._unsized = self._unsized.copy()
        return twin
