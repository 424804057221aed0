"""The upcalls of a replay: answered from what the trace holds of the call that is being replayed."""

from __future__ import annotations

from collections import deque

from laconic.memory.mmap import OpenFile
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.pal.pagemap import Touched, was_untouched
from laconic.rangemap import RangeMap
from laconic.trace.schema import DATA_LIMIT, READ, RESIDENT

#: The runs of a host's map that differed from what was held.
Runs = list[tuple[int, int, Vma | None]]


class RecordedUpcalls:
    """Answers as the host did (`laconic.memory.calls.Upcalls`), for the call whose facts were put here.

    `guessed` is set where the trace does not hold an answer and one was made up that costs rather than saves a host
    call.
    """

    __slots__ = (
        "answers",
        "file",
        "guessed",
        "knows_touched",
        "map_runs",
        "read_implies_exec",
        "shown",
        "space",
        "touched",
    )

    def __init__(self, knows_touched: bool) -> None:
        self.knows_touched = knows_touched
        self.read_implies_exec = False
        self.space: AddressSpace | None = None
        self.file: OpenFile | None = None
        self.shown: File | None = None
        self.touched: tuple[Touched, ...] = ()
        self.answers: dict[int, deque[tuple[int, bytes]]] = {}
        self.map_runs: deque[Runs] = deque()
        self.guessed = False

    def open_file(self, fd: int) -> OpenFile | None:
        """What the call's descriptor referred to."""
        return self.file

    def untouched(self, start: int, end: int) -> bool:
        """True where the trace knows that no page was touched."""
        assert self.space is not None
        if not self.knows_touched:
            self.guessed = True
            return False
        vma = self.space.vmas.get(start)
        return vma is not None and was_untouched(self.touched, start, end, vma.file is not None)

    def resident(self, start: int, end: int) -> bool:
        """True where the trace knows that every page was in memory."""
        known = self.answers.get(RESIDENT)
        if not known:
            self.guessed = True
            return False
        return bool(known.popleft()[0])

    def data_limit(self) -> int:
        """RLIMIT_DATA in bytes, -1 for none."""
        known = self.answers.get(DATA_LIMIT)
        return known.popleft()[0] if known else -1

    def read(self, address: int, length: int) -> bytes:
        """The memory that was read at this call."""
        known = self.answers.get(READ)
        return known.popleft()[1] if known else b""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        """How the host showed the file of a new mapping."""
        return file if self.shown is None else self.shown

    def maps(self) -> RangeMap[Vma]:
        """The host's map at this call; what is held, where the trace has none."""
        assert self.space is not None
        return seen(self.space.held, self.map_runs.popleft() if self.map_runs else [])


def seen(held: RangeMap[Vma], runs: Runs) -> RangeMap[Vma]:
    """The host's map, from what was held and the runs that differed. O(n)."""
    host = held.copy()
    for start, end, vma in runs:
        host.set(start, end, vma)
    return host
