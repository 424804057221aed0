"""Which pages of an address space were touched since they were mapped, or since their contents were
thrown away; and how long its files are, since only pages that exist can be touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from laconic.libos.sizes import FileSizes
from laconic.linux.pagemap import FILE_PAGE, GUARD, UNSEEN, Touched
from laconic.memory.change import FILE, MAP, UNMAP, ZERO, Change
from laconic.memory.flags import MADV_FREE, PAGE_SHIFT, VM_PROT
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: A touched page is the file's own (CLEAN), or has contents that only this process has (OWN).
CLEAN, OWN = 1, 2
_DIES = MAP | UNMAP | FILE | ZERO


class Touches:
    """The touched pages of one address space, and the sizes of its files. `unseen` counts the pages
    that could not be looked at."""

    __slots__ = ("pages", "sizes", "unseen")

    def __init__(self) -> None:
        self.pages: RangeMap[int] = RangeMap()
        self.sizes = FileSizes()
        self.unseen = 0

    def copy(self) -> Touches:
        """What a forked process begins with. O(n)."""
        twin = Touches()
        twin.pages = self.pages.copy()
        twin.sizes = self.sizes.copy()
        return twin

    def count(self, start: int, end: int) -> int:
        """How many pages of `[start, end)` are touched. O(log n + k)."""
        return (
            sum(stop - begin for begin, stop, how in self.pages.runs(start, end) if how)
            >> PAGE_SHIFT
        )

    def take(self, runs: Iterable[Touched], space: AddressSpace) -> Iterator[tuple[int, int, Vma]]:
        """Enters the touched runs that were seen; the first touches of each page, with its VMA. O(k
        log n).

        What the program cannot access it has not touched: these pages are present from before, and
        known.
        """
        pages = self.pages
        for start, end, how in runs:
            if how & (GUARD | UNSEEN):
                self.unseen += (end - start >> PAGE_SHIFT) if how & UNSEEN else 0
                continue
            state = CLEAN if how & FILE_PAGE else OWN
            for begin, stop, before in list(pages.runs(start, end)):
                if before is None:
                    yield from self._first(begin, stop, state, space)
                elif before < state:
                    pages.set(begin, stop, state)

    def _first(
        self, start: int, end: int, state: int, space: AddressSpace
    ) -> Iterator[tuple[int, int, Vma]]:
        for begin, stop, vma in space.vmas.runs(start, end):
            if vma is not None and vma.flags & VM_PROT:
                self.pages.set(
                    begin, stop, OWN if vma.file is None or vma.file.in_memory else state
                )
                yield begin, stop, vma

    def apply(self, name: str, args: tuple[int, ...], changes: Sequence[Change]) -> None:
        """Forgets the pages whose contents a call threw away, and moves those that it moved.
        O(changes log n)."""
        if name == "madvise" and args[2] == MADV_FREE:
            return  # the contents stay until the host needs the memory
        pages = self.pages
        if not pages.count:
            return
        if len(changes) == 1:
            kind, start, end, _, _, source = changes[0]
            if source is None:
                if kind & _DIES and not kind & MAP:
                    pages.set(start, end, None)
                return
        # What moves is found before the changes, which ascend, clear the place that it came from.
        moved = [
            (begin + start - source, stop + start - source, how)
            for kind, start, end, _, _, source in changes
            if source is not None
            for begin, stop, how in pages.runs(source, source + end - start)
            if how
        ]
        for kind, start, end, _, _, _ in changes:
            if kind & _DIES and not kind & MAP:
                pages.set(start, end, None)
        for start, end, state in moved:
            pages.set(start, end, state)
