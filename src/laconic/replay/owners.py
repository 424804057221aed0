"""The call that last mapped each page of an address space; the cost of the page's first touch is
attributed to that call."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from laconic.libos.strategy import MemoryCall
from laconic.memory.change import FILE, MAP
from laconic.memory.flags import PAGE_SHIFT, TASK_SIZE
from laconic.memory.mmap import page_align
from laconic.memory.rangemap import RangeMap

_MAPPED = MAP | FILE
#: Calls that map every page that they change, even if pages were mapped there before.
_MAPPING = frozenset({"mmap", "shmat", "remap_file_pages"})


class Owners:
    """The owner of each page of one address space: the label of the call that mapped it last.

    Pages that no call of the trace mapped belong to `default`. `touched` counts first touches by
    owner, in pages.
    """

    __slots__ = ("default", "pages", "touched")

    def __init__(self, default: Hashable) -> None:
        self.default = default
        self.touched: dict[Hashable, int] = {}
        self.pages: RangeMap[Hashable] = RangeMap()

    def fork(self) -> Owners:
        """Return the owners of a forked address space, with no touches yet. O(n)."""
        child = Owners(self.default)
        child.pages = self.pages.copy()
        return child

    def touch(self, start: int, end: int) -> Iterator[tuple[int, int, Hashable]]:
        """Count the first touches of `[start, end)`, and yield its page runs by owner.

        Complexity: O(log n + k).
        """
        touched = self.touched
        for run_start, run_end, owner in self.pages.runs(start, end):
            if owner is None:
                owner = self.default
            touched[owner] = touched.get(owner, 0) + (run_end - run_start >> PAGE_SHIFT)
            yield run_start, run_end, owner

    def call(self, call: MemoryCall, label: Hashable) -> None:
        """Apply the changes of a call. O(changes log n).

        Pages that mremap moves keep their owners; those that it adds belong to it.
        """
        name, args, result, changes, _ = call
        pages = self.pages
        # The old ranges are read before the changes, which ascend, clear them.
        moved = [
            (run_start + start - source, run_end + start - source, owner)
            for _, start, end, _, _, source in changes
            if source is not None
            for run_start, run_end, owner in pages.runs(source, source + end - start)
        ]
        mapped_start = mapped_end = 0
        if name in _MAPPING:
            mapped_end = TASK_SIZE
        elif name == "mremap" and result > 0:
            mapped_start = result
            mapped_end = result + page_align(args[2])
        for kind, start, end, wanted, _, source in changes:
            if wanted is None:
                pages.set(start, end, None)
            elif source is None and (kind & _MAPPED or mapped_start <= start < mapped_end):
                pages.set(start, end, label)
        for run_start, run_end, owner in moved:
            pages.set(run_start, run_end, owner)

    def grow(self, start: int, end: int, label: Hashable) -> None:
        """Record the growth of a stack. O(log n)."""
        self.pages.set(start, end, label)
