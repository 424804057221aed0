"""One recorded stream of operations on an address space of n VMAs, for every structure alike.

Two VMAs and a hole stand in each slot of 16 pages: eight RW pages, four read-only ones, four free.
What is done to a slot (a few pages protected, unmapped, mapped into the hole) is undone some
operations later, as allocators, stacks and garbage collectors do, so that there are about n VMAs
from the first operation to the last. Three operations of four fall into one neighbourhood, which
moves on now and then; the fourth falls anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from laconic.memory.flags import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, VM_MAY_RWX
from laconic.memory.vma import Vma

FIND, PROTECT, SET, CLEAR = "find", "protect", "set", "clear"

#: MAP_PRIVATE | MAP_ANONYMOUS: the flags of every mapping here.
FLAGS = MAP_PRIVATE | MAP_ANONYMOUS
BASE = 1 << 32
#: Slots in a neighbourhood, and operations until it moves on.
NEAR, STAY = 500, 500
SLOT = 16 * PAGE_SIZE
#: One `Vma` for each protection; all are anonymous.
VMAS = {prot: Vma(prot | VM_MAY_RWX) for prot in range(4)}
READ, WRITABLE = VMAS[1], VMAS[3]


class Operation(NamedTuple):
    """`find` looks `start` up; `protect` gives every VMA of `[start, end)` the flags of `vma`,
    `set` maps it there, `clear` unmaps. Addresses are in bytes."""

    name: str
    start: int
    end: int
    vma: Vma

    def change(self) -> Callable[[Vma], Vma]:
        """What `protect` does to one VMA."""
        wanted = self.vma
        return lambda vma: wanted


def layout(count: int) -> list[tuple[int, int, Vma]]:
    """The first `count` VMAs as `(start, end, vma)`, ascending."""
    entries = []
    for number in range(count):
        slot = BASE + number // 2 * SLOT
        first, last, vma = (0, 8, WRITABLE) if number % 2 == 0 else (8, 12, READ)
        entries.append((slot + first * PAGE_SIZE, slot + last * PAGE_SIZE, vma))
    return entries


def record(count: int, length: int, seed: int = 1) -> list[Operation]:
    """`length` operations for a map of `count` VMAs: 25 % find, 45 % protect, 15 % set, 15 % clear,
    about."""
    random = Random(seed)
    slots = max(count // 2, 1)
    limit = min(max(slots // 10, 1), 100)
    undone: list[tuple[int, Operation]] = []
    busy: set[int] = set()
    operations: list[Operation] = []

    def pages(slot: int, name: str, first: int, last: int, vma: Vma) -> Operation:
        start = BASE + slot * SLOT
        return Operation(name, start + first * PAGE_SIZE, start + last * PAGE_SIZE, vma)

    def somewhere() -> int:
        if random.random() < 0.25:
            return random.randrange(slots)
        return (centres[len(operations) // STAY] + random.randrange(NEAR)) % slots

    centres = [random.randrange(slots) for _ in range(length // STAY + 1)]
    while len(operations) < length:
        if random.random() < 0.25:
            operations.append(pages(somewhere(), FIND, random.randrange(16), 16, READ))
            continue
        if len(undone) >= limit:
            slot, operation = undone.pop(random.randrange(len(undone)))
            busy.discard(slot)
            operations.append(operation)
            continue
        slot = somewhere()
        if slot in busy:
            continue
        busy.add(slot)
        first = random.randrange(7)
        last = random.randrange(first + 1, 9)
        choice = random.random()
        if choice < 0.6:
            operations.append(pages(slot, PROTECT, first, last, VMAS[random.randrange(2)]))
            undone.append((slot, pages(slot, PROTECT, first, last, WRITABLE)))
        elif choice < 0.8:
            operations.append(pages(slot, CLEAR, first, last, WRITABLE))
            undone.append((slot, pages(slot, SET, first, last, WRITABLE)))
        else:
            last = random.randrange(13, 17)
            operations.append(pages(slot, SET, 12, last, VMAS[random.choice((0, 3))]))
            undone.append((slot, pages(slot, CLEAR, 12, last, READ)))
    return operations
