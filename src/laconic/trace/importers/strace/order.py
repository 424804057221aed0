"""The order of rows if the calls of several threads overlap.

A log shows when a call started (`<unfinished ...>`) and when it had ended (`<... resumed>`); the
kernel did its work at some moment in between. A call that removes mappings is placed at its start,
and one that creates them at its end: no thread can know an address before the call that created it
has ended, and an address may be reused before the munmap that freed it has ended. Therefore, while
a call to be placed at its start is in progress, the rows after it are held back.
"""

from __future__ import annotations

from typing import Any

from laconic.trace.importers.strace.processes import Slot, StraceThread
from laconic.trace.schema import Row

#: The maximum number of rows held back. A call that does not return within them is treated as one
#: whose end is unknown.
LIMIT = 10_000


class Order:
    """Rows on their way to the writer. The next row must be appended to `rows`."""

    def __init__(self, out: list[Row]) -> None:
        self._out = out
        self._held: list[Any] = []
        self._open = 0
        self.rows: list[Any] = out

    def reserve(self, thread: StraceThread) -> Slot:
        """Reserve a position for the later rows of a thread's call; until then, the other rows are
        held back."""
        slot = Slot(thread)
        self._held.append(slot)
        self._open += 1
        self.rows = self._held
        return slot

    def close(self, slot: Slot) -> None:
        """Close a slot, which contains its rows, if there are any. O(1), amortised."""
        if slot.open:
            slot.open = False
            self._open -= 1
            if not self._open or self._held[0] is slot:
                self._release()

    def since(self, slot: Slot) -> list[tuple[int, Row]]:
        """Return the rows that are held after a slot, each with its position. O(held)."""
        return [
            (place, row)
            for place in range(self._place(slot) + 1, len(self._held))
            for row in (
                self._held[place] if type(self._held[place]) is Slot else (self._held[place],)
            )
        ]

    def move(self, place: int, before: int) -> None:
        """Move the item at one position forward, to directly before another. O(held)."""
        self._held.insert(before, self._held.pop(place))

    def move_slot(self, slot: Slot, before: int | None) -> None:
        """Move a slot back, to directly before a position, or to the end. O(held)."""
        place = self._place(slot)
        end = len(self._held) if before is None else before
        self._held.insert(end, slot)
        del self._held[place]

    def _place(self, slot: Slot) -> int:
        return next(at for at, each in enumerate(self._held) if each is slot)

    @property
    def full(self) -> bool:
        """True if more rows are held back than permitted."""
        return len(self._held) > LIMIT

    def first(self) -> Slot | None:
        """Return the first open slot."""
        return next((each for each in self._held if type(each) is Slot and each.open), None)

    def _release(self) -> None:
        # Everything before the first open slot is in its final position.
        done = 0
        for each in self._held:
            if type(each) is Slot:
                if each.open:
                    break
                self._out.extend(each)
            else:
                self._out.append(each)
            done += 1
        del self._held[:done]
        if not self._held:
            self.rows = self._out
