"""The data structure of all bookkeeping: disjoint half-open ranges, each with an immutable value.

A `RangeMap` is stored as a *step function*. Each boundary between two runs is a key, and the value
stored with it holds from there to the next key. A hole is a run whose value is None. An edit is
therefore one splice of two parallel lists, and a 64 TiB range is one entry. The lists are cut into
chunks, so that an insertion moves at most a few kilobytes, however many entries there are. (With a
flat list, memmove becomes noticeable at about 10,000 entries.)

Values do not contain their position. Attributes that depend on it, such as a file offset, are
stored relative to address 0. A split therefore copies a reference, and two neighbors merge exactly
if the owner's rule calls their values the same.

>>> m = RangeMap()
>>> m.set(0, 8, "A")
>>> m.set(2, 4, "B")
>>> list(m)
[(0, 2, 'A'), (2, 4, 'B'), (4, 8, 'A')]
>>> m.set(2, 4, "A")
>>> list(m.runs(6, 10))
[(6, 8, 'A'), (8, 10, None)]
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from typing import Final, Generic, TypeVar, cast

V = TypeVar("V")
K = TypeVar("K")
#: `[start, end)`.
Range = tuple[int, int]
#: A chunk's keys and values, and the indices of a run's key and of the next key.
Hint = tuple[list[int], list[V | None], int, int]

#: One past the highest address that a map can hold: 2**64 bytes.
TOP: Final = 1 << 64
_HINTS: Final = 4096
_is_entry = partial(operator.is_not, None)


def join_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Join the ranges that touch; `ranges` must ascend. O(n)."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def range_text(start: int, end: int, form: str = "x") -> str:
    """Return the ends of a range as text, each in the format `form`: "#x" for messages, "08x" as in
    `/proc/PID/maps`.

    >>> range_text(0x7000, 0x9000), range_text(0x7000, 0x9000, "#x"), range_text(0, 0x9000, "08x")
    ('7000-9000', '0x7000-0x9000', '00000000-00009000')
    """
    return f"{start:{form}}-{end:{form}}"


class RangeMap(Generic[V]):
    """Disjoint ranges `[start, end)` with values. Neighbors with the same value are one entry.

    `same(a, b)` is the owner's merge rule for the values of two neighbors (default: equality).
    `load` is the target size of a chunk, in runs; a chunk that exceeds twice that size is cut.
    Tests use a small `load`, so that small maps have several chunks.

    With n runs in the map and k runs in the range of a call, a look-up costs O(log n) and an edit
    O(log n + k + load).
    """

    __slots__ = (
        "_ceilings",
        "_firsts",
        "_keys",
        "_lengths",
        "_load",
        "_same",
        "_searched_end",
        "_values",
        "count",
        "hints",
    )

    def __init__(self, same: Callable[[V, V], bool] | None = None, load: int = 128) -> None:
        self._same: Callable[[V, V], bool] = operator.eq if same is None else same
        self._load = load
        # Chunk c covers the addresses from _firsts[c] to _firsts[c + 1], and
        # _firsts[c] == _keys[c][0].
        self._firsts: list[int] = [0]
        self._keys: list[list[int]] = [[0]]
        self._values: list[list[V | None]] = [[None]]
        #: The number of entries, as returned by `len`.
        self.count = 0
        # Results of earlier searches: every hole below _searched_end (and truncated to it) that has
        # at least _lengths[i] bytes ends at or below _ceilings[i]. Lengths ascend and ceilings
        # descend. A shrinking hole cannot invalidate them.
        self._searched_end = 0
        self._lengths: list[int] = []
        self._ceilings: list[int] = []
        #: Address → last known position of its run; see `hint`.
        self.hints: dict[int, Hint[V]] = {}

    # Reading

    def __len__(self) -> int:
        """Return the number of entries, without holes. O(1)."""
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        """Yield every entry as `(start, end, value)`, lowest first. O(n)."""
        for start, end, value in self.runs(0, TOP):
            if value is not None:
                yield start, end, value

    def get(self, address: int) -> V | None:
        """Return the value at `address`, or None in a hole. O(log n)."""
        chunk = bisect_right(self._firsts, address) - 1
        return self._values[chunk][bisect_right(self._keys[chunk], address) - 1]

    def find(self, address: int) -> tuple[int, int, V | None]:
        """Return the whole run around `address` as `(start, end, value)`. O(log n).

        In a hole, the value is None.

        >>> m = RangeMap()
        >>> m.set(4, 6, "A")
        >>> m.find(5), m.find(1)
        ((4, 6, 'A'), (0, 4, None))
        """
        chunk = bisect_right(self._firsts, address) - 1
        keys = self._keys[chunk]
        index = bisect_right(keys, address)
        if index < len(keys):
            end = keys[index]
        else:
            end = self._firsts[chunk + 1] if chunk + 1 < len(self._firsts) else TOP
        return keys[index - 1], end, self._values[chunk][index - 1]

    def position(self, address: int) -> Hint[V]:
        """Return the position `(keys, values, low, high)` of the run around `address`. O(log n).

        The run's value is `values[low]`. It ends at `keys[high]`, or after the chunk if there is
        no such key.
        """
        chunk = bisect_right(self._firsts, address) - 1
        keys = self._keys[chunk]
        high = bisect_right(keys, address)
        return keys, self._values[chunk], high - 1, high

    def hint(self, address: int, position: Hint[V]) -> None:
        """Store the position of the run around `address` in `hints`. O(1).

        Edits do not update hints. A hint `(keys, values, low, high)` is valid only if
        `keys[low] <= address < keys[high]`; the value is then `values[low]`. If an index is out of
        range, the hint is stale.
        """
        if len(self.hints) == _HINTS:
            self.hints.clear()
        self.hints[address] = position

    def hinted(self, start: int, end: int) -> V | None:
        """Return the value of the run that contains `[start, end)` if `hints` has its position.
        O(1).

        Returns None if there is no hint for `start`, or if it is stale. A redundant mprotect at an
        address with a hint takes half the time.
        """
        hint = self.hints.get(start)
        if hint is None:
            return None
        keys, values, low, high = hint
        try:
            return values[low] if keys[low] <= start and end <= keys[high] else None
        except IndexError:
            return None

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int, V | None]]:
        """Iterate over the runs of `[start, end)`, truncated to it. O(log n + k).

        Holes are included, with the value None. Edits during the iteration do not affect it.
        """
        if start >= end:
            return iter(())
        firsts = self._firsts
        chunk = bisect_right(firsts, start) - 1
        keys, values = self._keys[chunk], self._values[chunk]
        index = bisect_right(keys, start)
        if index < len(keys) and end <= keys[index]:
            return iter(((start, end, values[index - 1]),))
        stop = bisect_left(keys, end, index)
        starts, held = [start, *keys[index:stop]], values[index - 1 : stop]
        while stop == len(keys):
            chunk += 1
            if chunk == len(firsts) or firsts[chunk] >= end:
                break
            keys = self._keys[chunk]
            stop = bisect_left(keys, end)
            starts += keys[:stop]
            held += self._values[chunk][:stop]
        return zip(starts, [*starts[1:], end], held, strict=True)

    def parts(self, start: int, end: int) -> list[tuple[int, int, V]]:
        """Return the entries that overlap `[start, end)`, truncated to it and without holes.

        Complexity: O(log n + k).

        >>> m = RangeMap()
        >>> m.set(0, 8, "A"); m.set(12, 20, "b")
        >>> m.parts(4, 16)
        [(4, 8, 'A'), (12, 16, 'b')]
        """
        return [
            (run_start, run_end, value)
            for run_start, run_end, value in self.runs(start, end)
            if value is not None
        ]

    def entries(self, start: int, end: int) -> Iterator[tuple[int, int, V]]:
        """Yield the entries that overlap `[start, end)`, not truncated and without holes.

        Complexity: O(k log n).
        """
        while start < end:
            entry_start, entry_end, value = self.find(start)
            if value is not None:
                yield entry_start, entry_end, value
            start = entry_end

    def covered(self, start: int, end: int) -> bool:
        """Return whether `[start, end)` has no hole. O(log n + k)."""
        return all(value is not None for _, _, value in self.runs(start, end))

    def distinct(self, key: Callable[[V], K]) -> set[K]:
        """Return the distinct results of `key` for the values of the entries. O(n).

        If `key` is implemented in C (operator.itemgetter), no Python code runs per entry, which is
        15 times as fast as a loop.

        >>> m = RangeMap()
        >>> m.set(0, 8, "A"); m.set(2, 4, "b")
        >>> sorted(m.distinct(str.lower))
        ['a', 'b']
        """
        results: set[K] = set()
        for values in self._values:
            entries = cast(Iterator[V], filter(_is_entry, values))
            results.update(map(key, entries))
        return results

    def highest_hole(self, start: int, end: int, length: int) -> tuple[int, int] | None:
        """Return the highest hole with at least `length` bytes in `[start, end)`, truncated to it.

        Returns its start and end, or None. Repeated searches with the same `end` resume where
        previous ones stopped. Complexity: O(log n + runs that no earlier search passed).
        """
        if end != self._searched_end:
            self._searched_end, self._lengths, self._ceilings = end, [], []
        known = bisect_right(self._lengths, length)
        run_end = self._ceilings[known - 1] if known else end
        chunk = bisect_left(self._firsts, run_end) - 1
        keys, values = self._keys[chunk], self._values[chunk]
        last = bisect_left(keys, run_end) - 1
        longest = 0
        while run_end > start:
            for index in range(last, -1, -1):
                run_start = keys[index]
                if values[index] is None and run_end - run_start > longest:
                    if run_end - run_start >= length:
                        run_start = max(run_start, start)
                        if run_end - run_start < length:
                            return None
                        self._remember(known, longest, run_end)
                        return run_start, run_end
                    longest = run_end - run_start
                run_end = run_start
            chunk -= 1
            keys, values = self._keys[chunk], self._values[chunk]
            last = len(keys) - 1
        return None

    def _remember(self, known: int, longest: int, ceiling: int) -> None:
        # A search that started at the ceiling with the index `known - 1` passed no hole longer than
        # `longest` above `ceiling`. It is lowered to that, or a ceiling for another length is
        # inserted. Higher ceilings for longer holes are then redundant.
        lengths, ceilings = self._lengths, self._ceilings
        if known and longest < lengths[known - 1]:
            known -= 1
        else:
            lengths.insert(known, longest + 1)
            ceilings.insert(known, ceiling)
        ceilings[known] = ceiling
        known += 1
        while known < len(ceilings) and ceilings[known] >= ceiling:
            del lengths[known], ceilings[known]

    def _opened(self, start: int, end: int) -> None:
        # Holes in `[start, end)` may be new or longer, so ceilings below them are raised.
        lengths, ceilings = self._lengths, self._ceilings
        while start < end:
            hole_start, start, value = self.find(start)
            if value is None and hole_start < self._searched_end:
                hole_end = min(start, self._searched_end)
                after = first = bisect_right(lengths, hole_end - hole_start)
                while first and ceilings[first - 1] < hole_end:
                    first -= 1
                if first < after:
                    ceilings[first:after] = [hole_end]
                    del lengths[first + 1 : after]

    # Writing

    def set(self, start: int, end: int, value: V | None) -> None:
        """Set all of `[start, end)` to one value; None makes a hole. O(log n + k + load).

        Raises ValueError if the range is empty or not within `[0, 2**64)`.
        """
        self._write(start, end, [start], [value])
        if value is None and self._lengths:
            self._opened(start, end)

    def clear(self, start: int, end: int) -> None:
        """Make `[start, end)` a hole. O(log n + k + load)."""
        self.set(start, end, None)

    def edit(self, start: int, end: int, change: Callable[[V], V | None]) -> None:
        """Replace each value in `[start, end)` by `change(value)`; holes stay. O(log n + k + load).

        Entries are split at `start` and `end`, and merged again if their values are the same.

        >>> m = RangeMap()
        >>> m.set(0, 4, "a"); m.set(6, 9, "b")
        >>> m.edit(2, 8, str.upper)
        >>> list(m)
        [(0, 2, 'a'), (2, 4, 'A'), (6, 8, 'B'), (8, 9, 'b')]
        """
        self._write(start, end, [start], [], change)
        if self._lengths:
            self._opened(start, end)

    def replace(self, start: int, end: int, keys: list[int], values: list[V | None]) -> None:
        """Replace `[start, end)` by a step function: `values[i]` from `keys[i]` on.

        `keys[0]` must be `start`, the keys must ascend, and neighbors in `values` must differ by
        the owner's rule. Complexity: O(log n + k + load).
        """
        self._write(start, end, keys.copy(), values.copy())
        if self._lengths:
            self._opened(start, end)

    def __repr__(self) -> str:
        """Return the number of entries, and the first few entries.

        >>> m = RangeMap()
        >>> m.set(0x1000, 0x2000, "A")
        >>> m
        <RangeMap of 1: 1000-2000 'A'>
        """
        shown = [f"{range_text(start, end)} {value!r}" for start, end, value in islice(self, 4)]
        if self.count > 4:
            shown.append(f"and {self.count - 4} more")
        return f"<RangeMap of {self.count}{': ' if shown else ''}{', '.join(shown)}>"

    def copy(self) -> RangeMap[V]:
        """Return an independent map with the same entries; the values are shared. O(n)."""
        twin: RangeMap[V] = RangeMap(self._same, self._load)
        twin.count = self.count
        twin._firsts = self._firsts.copy()
        twin._keys = [keys.copy() for keys in self._keys]
        twin._values = [values.copy() for values in self._values]
        twin._searched_end = self._searched_end
        twin._lengths = self._lengths.copy()
        twin._ceilings = self._ceilings.copy()
        return twin

    def check(self) -> None:
        """Assert every invariant. O(n)."""
        assert len(self._firsts) == len(self._keys) == len(self._values) >= 1
        assert self._firsts[0] == 0, "the step function begins at address 0"
        keys = [key for chunk in self._keys for key in chunk]
        values = [value for chunk in self._values for value in chunk]
        for first, chunk_keys, chunk_values in zip(
            self._firsts, self._keys, self._values, strict=True
        ):
            assert chunk_keys and first == chunk_keys[0], "a chunk begins at its first key"
            assert len(chunk_keys) == len(chunk_values) <= 2 * self._load, (
                "a chunk's lists are parallel and bounded"
            )
        assert all(a < b for a, b in pairwise(keys)), "keys ascend"
        assert keys[-1] < TOP and values[-1] is None, "the last run is the hole up to the top"
        for key, a, b in zip(keys[1:], values, values[1:], strict=False):
            assert not self._alike(a, b), (
                f"the runs that meet at {key:#x} are the same and were not merged"
            )
        assert self.count == sum(value is not None for value in values), "the count is right"
        live = {id(keys): values for keys, values in zip(self._keys, self._values, strict=True)}
        for hinted, beside, _, _ in self.hints.values():
            assert not hinted or live.get(id(hinted)) is beside, (
                "a hint's lists are a chunk's, or empty"
            )
        rules = list(zip(self._lengths, self._ceilings, strict=True))
        for (short, higher), (long, lower) in pairwise(rules):
            assert short < long and higher >= lower, "lengths ascend and ceilings descend"
        for start, end, value in self.runs(0, self._searched_end):
            for length, ceiling in rules:
                assert value is not None or end - start < length or end <= ceiling, (
                    "no hole exceeds a ceiling"
                )

    def _alike(self, a: V | None, b: V | None) -> bool:
        return a is b or (a is not None and b is not None and self._same(a, b))

    def _write(
        self,
        start: int,
        end: int,
        keys: list[int],
        values: list[V | None],
        change: Callable[[V], V | None] | None = None,
    ) -> None:
        # The general edit: isolate, change, merge, as one splice. The lists are consumed; with
        # `change`, they contain only `start`. This is one function with the merge rule inlined,
        # because every memory call ends here.
        if not 0 <= start < end <= TOP:
            where = range_text(start, end, "#x")
            raise ValueError(
                f"range {where} is empty or outside 0-{TOP:#x}: give start < end in bytes"
            )

        # Isolate: keys i to j of one chunk lie in the range, and both neighbors are in that chunk.
        firsts = self._firsts
        chunk = bisect_right(firsts, start) - 1
        here = self._keys[chunk]
        size = len(here)
        i = bisect_left(here, start)
        j = bisect_left(here, end, i)
        if (not i and chunk) or (
            j == size and chunk + 1 < len(firsts) and firsts[chunk + 1] <= end
        ):
            chunk = self._gather(start, end)
            here = self._keys[chunk]
            i, size = bisect_left(here, start), len(here)
            j = bisect_left(here, end, i)
        held = self._values[chunk]
        same = self._same

        if change is not None:
            following = i + 1 if i < size and here[i] == start else i
            old = held[following - 1]
            final = None if old is None else change(old)
            values.append(final)
            for index in range(following, j):
                old = held[index]
                new = None if old is None else change(old)
                if not (
                    new is final or (new is not None and final is not None and same(final, new))
                ):
                    keys.append(here[index])
                    values.append(new)
                    final = new

        # Merge with the run below, and with the run that starts at `end` or extends across it.
        final, tail = values[-1], held[j - 1]
        if i:
            below, new = held[i - 1], values[0]
            if below is new or (below is not None and new is not None and same(below, new)):
                del keys[0], values[0]
        if j < size and here[j] == end:
            above = held[j]
            if above is final or (above is not None and final is not None and same(final, above)):
                j += 1
        elif end < TOP and not (
            tail is final or (tail is not None and final is not None and same(final, tail))
        ):
            keys.append(end)
            values.append(tail)

        for old in held[i:j]:
            if old is not None:
                self.count -= 1
        for new in values:
            if new is not None:
                self.count += 1
        here[i:j] = keys
        held[i:j] = values
        if len(here) > 2 * self._load:
            self._cut(chunk)

    def _gather(self, start: int, end: int) -> int:
        # Join the chunks that contain `[start, end)` and its two neighbors; return the number of
        # the joined chunk.
        firsts = self._firsts
        first = max(bisect_left(firsts, start) - 1, 0)
        last = bisect_right(firsts, end) - 1
        for chunk in range(first + 1, last + 1):
            self._keys[first] += self._keys[chunk]
            self._values[first] += self._values[chunk]
            self._keys[chunk].clear()  # so that hints that refer to this list are stale
        joined = slice(first + 1, last + 1)
        del firsts[joined], self._keys[joined], self._values[joined]
        return first

    def _cut(self, chunk: int) -> None:
        # Cut a chunk that is too long into pieces of `load` runs. The first piece keeps the lists.
        keys, values, load = self._keys[chunk], self._values[chunk], self._load
        pieces = range(load, len(keys), load)
        after = chunk + 1
        self._keys[after:after] = [keys[i : i + load] for i in pieces]
        self._values[after:after] = [values[i : i + load] for i in pieces]
        self._firsts[after:after] = [keys[i] for i in pieces]
        del keys[load:], values[load:]
