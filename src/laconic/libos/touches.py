"""The pages of an address space that were touched since they were mapped, or since their contents
were discarded; and the sizes of its files, because only existing pages can be touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from laconic.libos.sizes import OBSERVED, FileSizes
from laconic.linux.pagemap import FILE_PAGE, GUARD, UNSEEN, Touched
from laconic.memory.change import FILE, MAP, UNMAP, ZERO, Change
from laconic.memory.flags import MADV_FREE, PAGE_SHIFT, VM_PROT
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: CLEAN: a touched page that is the file's own. OWN: a page with contents that only this process
#: has.
CLEAN, OWN = 1, 2
_DIES = MAP | UNMAP | FILE | ZERO


class Touches:
    """The touched pages of one address space, and the sizes of its files. `unseen` counts the pages
    whose pagemap was unreadable. `assumed_sizes` is the assumption of `FileSizes`."""

    __slots__ = ("pages", "sizes", "unseen")

    def __init__(self, assumed_sizes: int = OBSERVED) -> None:
        self.pages: RangeMap[int] = RangeMap()
        self.sizes = FileSizes(assumed_sizes)
        self.unseen = 0

    def copy(self) -> Touches:
        """Return the touches with which a forked process begins. O(n)."""
        twin = Touches()
        twin.pages = self.pages.copy()
        twin.sizes = self.sizes.copy()
        return twin

    def count(self, start: int, end: int) -> int:
        """Return the number of touched pages in `[start, end)`. O(log n + k)."""
        return (
            sum(
                run_end - run_start
                for run_start, run_end, how in self.pages.runs(start, end)
                if how
            )
            >> PAGE_SHIFT
        )

    def take(self, runs: Iterable[Touched], space: AddressSpace) -> Iterator[tuple[int, int, Vma]]:
        """Record touched runs, and yield the first touches of each page with its VMA. O(k log n).

        Inaccessible pages cannot have been touched by the program: they are present from an earlier
        time, and are already recorded.
        """
        pages = self.pages
        for start, end, how in runs:
            if how & (GUARD | UNSEEN):
                self.unseen += (end - start >> PAGE_SHIFT) if how & UNSEEN else 0
                continue
            state = CLEAN if how & FILE_PAGE else OWN
            for run_start, run_end, before in list(pages.runs(start, end)):
                if before is None:
                    yield from self._first(run_start, run_end, state, space)
                elif before < state:
                    pages.set(run_start, run_end, state)

    def _first(
        self, start: int, end: int, state: int, space: AddressSpace
    ) -> Iterator[tuple[int, int, Vma]]:
        for vma_start, vma_end, vma in space.vmas.runs(start, end):
            if vma is not None and vma.flags & VM_PROT:
                self.pages.set(
                    vma_start, vma_end, OWN if vma.file is None or vma.file.in_memory else state
                )
                yield vma_start, vma_end, vma

    def apply(self, name: str, args: tuple[int, ...], changes: Sequence[Change]) -> None:
        """Forget the pages whose contents a call discarded, and move those that it moved.
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
        # The old ranges of moved pages are read before the changes, which ascend, clear them.
        moved = [
            (run_start + start - source, run_end + start - source, how)
            for kind, start, end, _, _, source in changes
            if source is not None
            for run_start, run_end, how in pages.runs(source, source + end - start)
            if how
        ]
        for kind, start, end, _, _, _ in changes:
            if kind & _DIES and not kind & MAP:
                pages.set(start, end, None)
        for start, end, state in moved:
            pages.set(start, end, state)
