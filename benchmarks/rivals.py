"""The same map of disjoint ranges on other people's structures, each written as well as that
structure allows.

All have `find`, `protect`, `set`, `clear` and `entries`; neighbours that touch and are equal are
always merged.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable

import portion
from intervaltree import Interval, IntervalTree
from sortedcontainers import SortedDict

from benchmarks.stream import FLAGS
from laconic.memory.flags import MAP_FIXED
from laconic.memory.layout import Layout
from laconic.memory.mmap import mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.munmap import munmap
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

Entry = tuple[int, int, Vma]
Change = Callable[[Vma], Vma]


class Ranges:
    """Laconic's RangeMap."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.map: RangeMap[Vma] = RangeMap()
        for start, end, vma in entries:
            self.map.set(start, end, vma)
        self.find, self.protect, self.set, self.clear = (
            self.map.find,
            self.map.edit,
            self.map.set,
            self.map.clear,
        )

    def entries(self) -> list[Entry]:
        return list(self.map)


class Space:
    """Laconic's AddressSpace: the memory calls themselves, their changes, and the host's
    confirmation."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.space = AddressSpace(Layout(), entries)
        self.find = self.space.vmas.find

    def protect(self, start: int, end: int, change: Change) -> None:
        space = self.space
        space.commit(mprotect(space, start, end - start, change(None).flags & 7))  # type: ignore[arg-type]

    def set(self, start: int, end: int, vma: Vma) -> None:
        space = self.space
        space.commit(mmap(space, start, end - start, vma.flags & 7, FLAGS | MAP_FIXED, None, 0))

    def clear(self, start: int, end: int) -> None:
        self.space.commit(munmap(self.space, start, end - start))

    def entries(self) -> list[Entry]:
        self.space.check()
        return list(self.space.vmas)


class Flat:
    """Three parallel lists and bisect: every insertion moves all that lies above it."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        listed = list(entries)
        self.starts = [start for start, _, _ in listed]
        self.ends = [end for _, end, _ in listed]
        self.vmas = [vma for _, _, vma in listed]

    def find(self, address: int) -> Entry | None:
        index = bisect_right(self.starts, address) - 1
        if index >= 0 and address < self.ends[index]:
            return self.starts[index], self.ends[index], self.vmas[index]
        return None

    def set(self, start: int, end: int, vma: Vma) -> None:
        self._splice(start, end, [start], [end], [vma])

    def clear(self, start: int, end: int) -> None:
        self._splice(start, end, [], [], [])

    def protect(self, start: int, end: int, change: Change) -> None:
        starts: list[int] = []
        ends: list[int] = []
        vmas: list[Vma] = []
        for index in range(bisect_right(self.ends, start), bisect_left(self.starts, end)):
            first, last, vma = (
                max(self.starts[index], start),
                min(self.ends[index], end),
                change(self.vmas[index]),
            )
            if ends and ends[-1] == first and vmas[-1] == vma:
                ends[-1] = last
            else:
                starts.append(first)
                ends.append(last)
                vmas.append(vma)
        self._splice(start, end, starts, ends, vmas)

    def _splice(
        self, start: int, end: int, starts: list[int], ends: list[int], vmas: list[Vma]
    ) -> None:
        low = bisect_left(self.ends, start)  # the VMA that ends at start, or lies across it
        high = bisect_right(
            self.starts, end, low
        )  # one past that which begins at end, or lies across it
        if low < high:
            if self.starts[low] < start:
                if starts and starts[0] == start and vmas[0] == self.vmas[low]:
                    starts[0] = self.starts[low]
                else:
                    starts.insert(0, self.starts[low])
                    ends.insert(0, min(self.ends[low], start))
                    vmas.insert(0, self.vmas[low])
            if self.ends[high - 1] > end:
                if ends and ends[-1] == end and vmas[-1] == self.vmas[high - 1]:
                    ends[-1] = self.ends[high - 1]
                else:
                    starts.append(max(self.starts[high - 1], end))
                    ends.append(self.ends[high - 1])
                    vmas.append(self.vmas[high - 1])
        self.starts[low:high] = starts
        self.ends[low:high] = ends
        self.vmas[low:high] = vmas

    def entries(self) -> list[Entry]:
        return list(zip(self.starts, self.ends, self.vmas, strict=True))


class Sorted:
    """sortedcontainers: a SortedDict from start to (end, VMA). A step function on one costs the
    same."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.map = SortedDict({start: (end, vma) for start, end, vma in entries})
        self.keys = self.map.keys()

    def find(self, address: int) -> Entry | None:
        index = self.map.bisect_right(address)
        if index:
            start, (end, vma) = self.map.peekitem(index - 1)
            if address < end:
                return start, end, vma
        return None

    def set(self, start: int, end: int, vma: Vma) -> None:
        self.clear(start, end)
        self._put(start, end, vma)

    def clear(self, start: int, end: int) -> None:
        for vma_start, vma_end, vma in self._overlapping(start, end):
            if vma_start < start:
                self.map[vma_start] = (start, vma)
            else:
                del self.map[vma_start]
            if vma_end > end:
                self.map[end] = (vma_end, vma)

    def protect(self, start: int, end: int, change: Change) -> None:
        for vma_start, vma_end, vma in self._overlapping(start, end):
            new = change(vma)
            if vma_start >= start and vma_end <= end:
                self._put(vma_start, vma_end, new)
            elif new != vma:
                changed_start, changed_end = max(vma_start, start), min(vma_end, end)
                if vma_start < changed_start:
                    self.map[vma_start] = (changed_start, vma)
                if changed_end < vma_end:
                    self.map[changed_end] = (vma_end, vma)
                self._put(changed_start, changed_end, new)

    def _overlapping(self, start: int, end: int) -> list[Entry]:
        found = []
        index = self.map.bisect_right(start)
        if index:
            vma_start = self.keys[index - 1]
            vma_end, vma = self.map[vma_start]
            if vma_end > start:
                found.append((vma_start, vma_end, vma))
        inside = self.map.irange(start, end, (False, False))
        found.extend((vma_start, *self.map[vma_start]) for vma_start in inside)
        return found

    def _put(self, start: int, end: int, vma: Vma) -> None:
        # Merges with the VMAs that touch it, and enters it.
        entries = self.map
        above = entries.get(end)
        if above is not None and above[1] == vma:
            del entries[end]
            end = above[0]
        index = entries.bisect_left(start)
        if index:
            below_start = self.keys[index - 1]
            below_end, below = entries[below_start]
            if below_end == start and below == vma:
                if start in entries:
                    del entries[start]
                start = below_start
        entries[start] = (end, vma)

    def entries(self) -> list[Entry]:
        return [(start, end, vma) for start, (end, vma) in self.map.items()]


class Tree:
    """intervaltree: an AVL tree of intervals that may overlap, which VMAs never do."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.tree = IntervalTree.from_tuples(entries)

    def find(self, address: int) -> Interval | None:
        return next(iter(self.tree.at(address)), None)

    def set(self, start: int, end: int, vma: Vma) -> None:
        self.clear(start, end)
        self._put(start, end, vma)

    def clear(self, start: int, end: int) -> None:
        for interval in self.tree.overlap(start, end):
            self._cut(interval, start, end)

    def protect(self, start: int, end: int, change: Change) -> None:
        for interval in sorted(self.tree.overlap(start, end)):
            new = change(interval.data)
            if new != interval.data:
                self._cut(interval, start, end)
                self._put(max(interval.begin, start), min(interval.end, end), new)

    def _cut(self, interval: Interval, start: int, end: int) -> None:
        self.tree.remove(interval)
        if interval.begin < start:
            self.tree.add(Interval(interval.begin, start, interval.data))
        if interval.end > end:
            self.tree.add(Interval(end, interval.end, interval.data))

    def _put(self, start: int, end: int, vma: Vma) -> None:
        for interval in self.tree.overlap(start - 1, end + 1):
            if interval.data == vma:
                self.tree.remove(interval)
                start, end = min(start, interval.begin), max(end, interval.end)
        self.tree.add(Interval(start, end, vma))

    def entries(self) -> list[Entry]:
        return [(interval.begin, interval.end, interval.data) for interval in sorted(self.tree)]


class Portion:
    """portion: an IntervalDict, which merges by itself and walks through all of it for each
    operation."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        by_vma: dict[Vma, list[portion.Interval]] = {}
        for start, end, vma in entries:
            by_vma.setdefault(vma, []).append(portion.closedopen(start, end))
        self.map = portion.IntervalDict(
            {portion.Interval(*ranges): vma for vma, ranges in by_vma.items()}
        )

    def find(self, address: int) -> Vma | None:
        found: Vma | None = self.map.get(address)
        return found

    def set(self, start: int, end: int, vma: Vma) -> None:
        self.map[portion.closedopen(start, end)] = vma

    def clear(self, start: int, end: int) -> None:
        del self.map[portion.closedopen(start, end)]

    def protect(self, start: int, end: int, change: Change) -> None:
        for interval, vma in list(self.map[portion.closedopen(start, end)].items()):
            self.map[interval] = change(vma)

    def entries(self) -> list[Entry]:
        return sorted(
            (piece.lower, piece.upper, vma) for ranges, vma in self.map.items() for piece in ranges
        )
