"""every-call against real Gramine: after each call of three programs, the same VMA table and the
same counts."""

from __future__ import annotations

import pytest

from laconic.libos.gramine import VMA_INTERNAL, LibosVma
from laconic.libos.strategy import MemoryCall
from laconic.libos.touches import Touches
from laconic.memory.calls import OPERATIONS
from laconic.memory.change import Change
from laconic.memory.flags import MAP_ANONYMOUS, MAP_FIXED, TASK_SIZE
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import Range
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Counts, Meter
from laconic.sgx.pal.gramine import TRACKER
from laconic.strategies.every_call import EveryCall
from tests.helpers.gramine_vectors import (
    NAMES,
    InitialVma,
    Touch,
    VectorCall,
    answers,
    calls,
    checksum,
)

#: The vectors' names of what a `Counts` has.
COUNTS = {
    "io": "ioctls",
    "eaug": "eaug",
    "eacc": "eaccept",
    "epe": "emodpe",
    "epr": "emodpr",
    "emt": "emodt",
    "erem": "eremove",
    "zero": "pages_zeroed",
}


class Answers(DefaultUpcalls):
    """What the bookkeeping may ask of a program of the vectors."""

    file: OpenFile | None = None

    def open_file(self, fd: int) -> OpenFile | None:
        return self.file


class Linked(EveryCall):
    """every-call as Gramine's code was linked for the vectors: its malloc was the C library's."""

    def begin_list(self, count: int) -> Range | None:
        return None

    def hold_vmas(self) -> None:
        pass


class Vectors:
    """A program of the vectors: its calls go through Laconic's bookkeeping, and to every-call."""

    def __init__(self, name: str) -> None:
        items = list(calls(name))
        first_brk = next(
            item.result for item in items if isinstance(item, VectorCall) and item.name == "brk"
        )
        self.items = [item for item in items if not isinstance(item, InitialVma)]
        self.space = AddressSpace(Layout(mmap_base=TASK_SIZE), (), first_brk)
        self.touches = Touches()
        self.meter = Meter()
        self.libos = Linked(self.meter, self.space, self.touches)
        # Gramine's stubs had the tracker's bits from the beginning.
        self.libos.pal.pages.set(TRACKER, TRACKER << 1, 0)
        self.up = Answers(self.space)
        for item in items:
            if isinstance(item, InitialVma):
                self._begin(item)

    def _begin(self, item: InitialVma) -> None:
        # The programs of the vectors were loaded without Gramine: only the VMAs and their pages are
        # known.
        file = File(1, item.file, item.file, f"/{item.file}") if item.file else None
        self.space.adopt(
            [
                *self.space.vmas,
                (item.start, item.end, Vma(item.prot | item.prot << 4, file, item.start)),
            ]
        )
        self.libos.vmas.set(item.start, item.end, LibosVma(item.prot, 0, file))
        self.libos.pal.pages.set(item.start, item.end, item.prot)

    def touch(self, item: Touch) -> None:
        for start, end, vma in self.touches.take([(item.start, item.end, 0)], self.space):
            self.libos.touch(start, end, vma)

    def call(self, item: VectorCall) -> Counts:
        """Makes one call; what every-call did for it."""
        file = None
        if item.file:
            kept = File(1, item.file, item.file, f"/{item.file}")
            file = OpenFile(kept, readable=True, writable=item.writable, size=item.size)
        changes = self._changes(item, file)
        self.meter.counts = Counts()
        self.libos.transfers = 0
        if item.result >= 0:  # Gramine was not given the others
            self.libos.call(MemoryCall(item.name, item.args, item.result, changes, file))
        self.touches.apply(item.name, item.args, changes)
        return self.meter.counts

    def _changes(self, item: VectorCall, file: OpenFile | None) -> tuple[Change, ...]:
        # The bookkeeping maps where the host did.
        args = item.args
        if item.name == "mmap" and item.result >= 0:
            args = (item.result, args[1], args[2], args[3] | MAP_FIXED, *args[4:])
        if item.name == "mmap" and not args[3] & MAP_ANONYMOUS:
            self.up.file = file
        outcome = OPERATIONS[item.name](self.space, args, self.up)
        self.space.commit(outcome)
        return outcome.changes

    def table(self) -> list[tuple[int, int, int]]:
        """The user VMAs, in ascending order."""
        return [
            (start, end, vma.prot)
            for start, end, vma in self.libos.vmas
            if not vma.flags & VMA_INTERNAL
        ]


@pytest.mark.parametrize("name", NAMES)
def test_each_call_does_what_gramine_did(name: str) -> None:
    program = Vectors(name)
    expected = answers(name)
    table = program.table()
    assert (len(table), checksum(table)) == (expected[0].vmas, expected[0].crc)
    number = 0
    for item in program.items:
        if isinstance(item, Touch):
            program.touch(item)
            continue
        number += 1
        answer = expected[number]
        counts = program.call(item)
        where = f"call {number}: {item}"
        assert item.name == answer.name
        done = {key: getattr(counts, ours) for key, ours in COUNTS.items()}
        assert done | {"tr": program.libos.transfers} == answer.counts, where
        table = program.table()
        assert (len(table), checksum(table)) == (answer.vmas, answer.crc), where
    assert number == len(expected) - 1
