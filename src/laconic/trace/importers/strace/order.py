"""The order of rows where the calls of several threads overlap.

A log shows when a call began (`<unfinished ...>`) and when it had ended (`<... resumed>`); the
kernel did its work at some moment between. A call that takes mappings away is placed at its
beginning and one that makes them at its end: no thread can learn of an address before the call that
made it has ended, and an address may be given out again before the munmap that freed it has ended.
So, while a call that is to be placed at its beginning is under way, what comes after it is held
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from laconic.trace.schema import Row

if TYPE_CHECKING:
    from laconic.trace.importers.strace.processes import Thread

#: Rows that are held back at most: a call that does not return within them is placed as one whose
#: end is not known.
LIMIT = 10_000


class Slot(list[Any]):
    """The place that is kept for the rows of a call under way, which `thread` makes. `open` until
    they are known or given up."""

    __slots__ = ("open", "thread")

    def __init__(self, thread: Thread) -> None:
        super().__init__()
        self.open = True
        self.thread = thread


class Order:
    """Rows on their way to the writer. `rows` is where the next one is to be appended."""

    def __init__(self, out: list[Row]) -> None:
        self._out = out
        self._held: list[Any] = []
        self._open = 0
        self.rows: list[Any] = out

    def reserve(self, thread: Thread) -> Slot:
        """A place for the rows of a thread's call, which come later; until then the others are held
        back."""
        slot = Slot(thread)
        self._held.append(slot)
        self._open += 1
        self.rows = self._held
        return slot

    def close(self, slot: Slot) -> None:
        """The slot's rows, if there are any, are in it. O(1), amortised."""
        if slot.open:
            slot.open = False
            self._open -= 1
            if not self._open or self._held[0] is slot:
                self._release()

    def since(self, slot: Slot) -> list[tuple[int, Row]]:
        """The rows that are held behind a slot, each with its place. O(held)."""
        return [
            (place, row)
            for place in range(self._place(slot) + 1, len(self._held))
            for row in (
                self._held[place] if type(self._held[place]) is Slot else (self._held[place],)
            )
        ]

    def move(self, place: int, before: int) -> None:
        """Moves what is held at one place forward, to directly before another. O(held)."""
        self._held.insert(before, self._held.pop(place))

    def move_slot(self, slot: Slot, before: int | None) -> None:
        """Moves a slot back, to directly before a place, or to the end. O(held)."""
        place = self._place(slot)
        end = len(self._held) if before is None else before
        self._held.insert(end, slot)
        del self._held[place]

    def _place(self, slot: Slot) -> int:
        return next(at for at, each in enumerate(self._held) if each is slot)

    @property
    def full(self) -> bool:
        """True where more is held back than may be."""
        return len(self._held) > LIMIT

    def first(self) -> Slot | None:
        """The first slot that is open."""
        return next((each for each in self._held if type(each) is Slot and each.open), None)

    def _release(self) -> None:
        # Everything before the first open slot is in its place.
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
