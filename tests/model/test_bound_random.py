"""Long random programs: no strict strategy pays less than the bound, at any moment's end, by any
shipped prices."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import pytest

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.linux.pagemap import FILE_PAGE
from laconic.memory import flags as f
from laconic.memory.change import Outcome
from laconic.memory.layout import Layout
from laconic.memory.madvise import madvise
from laconic.memory.mmap import OpenFile, mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.mremap import mremap
from laconic.memory.munmap import munmap
from laconic.memory.space import AddressSpace
from laconic.sgx import costs
from laconic.sgx.meter import Meter
from laconic.strategies.bound import bound
from laconic.strategies.classify import Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.pictures import FILE, at

PAGES = 16
OPEN = OpenFile(FILE, readable=True, writable=True, size=1 << 20)
PROTS = (0, 1, 2, 3, 3, 3, 4, 5, 7)
Make = Callable[[Meter, AddressSpace, Touches], Strategy]


class Known(Laconic):
    """`laconic` with the touches known."""

    known_touches = True


def call(
    dice: random.Random, space: AddressSpace
) -> tuple[str, tuple[int, ...], Outcome, OpenFile | None]:
    """Any of the calls, on any pages."""
    first = dice.randrange(PAGES)
    start, length = at(first), dice.randint(1, min(6, PAGES - first)) * f.PAGE_SIZE
    prot, kind, file = dice.choice(PROTS), dice.randrange(12), None
    args: tuple[int, ...]
    if kind < 4:
        shared = dice.random() < 0.2
        flags = (
            f.MAP_FIXED
            | (f.MAP_SHARED if shared else f.MAP_PRIVATE)
            | (f.MAP_ANONYMOUS if kind else 0)
        )
        file = None if kind else OPEN
        args = start, length, prot, flags, 3, 0 if kind else start - at(0)
        return "mmap", args, mmap(space, start, length, prot, flags, file, args[5]), file
    if kind < 7:
        return "mprotect", (start, length, prot), mprotect(space, start, length, prot), None
    if kind < 8:
        return "munmap", (start, length), munmap(space, start, length), None
    if kind < 11:
        advice = dice.choice(
            (f.MADV_DONTNEED, f.MADV_DONTNEED, f.MADV_FREE, f.MADV_REMOVE, f.MADV_WILLNEED)
        )
        return "madvise", (start, length, advice), madvise(space, start, length, advice), None
    flags = f.MREMAP_MAYMOVE | f.MREMAP_FIXED | dice.choice((0, 0, f.MREMAP_DONTUNMAP))
    target = at(dice.randrange(PAGES))
    args = start, length, length, flags, target, 0
    return "mremap", args, mremap(space, *args[:5]), None


class World:
    """One process: its address space, and every strategy beside it."""

    def __init__(self, space: AddressSpace, touches: Touches) -> None:
        self.space, self.touches = space, touches
        self.strategies: list[Strategy] = []

    def touch(self, dice: random.Random) -> None:
        """Some pages are read or written."""
        runs = []
        for page in range(PAGES):
            vma = self.space.vmas.get(at(page))
            if vma is not None and vma.flags & f.VM_PROT and dice.random() < 0.3:
                read = not vma.flags & f.VM_WRITE or dice.random() < 0.5
                runs.append(
                    (at(page), at(page + 1), FILE_PAGE if vma.file is not None and read else 0)
                )
        for start, end, vma in list(self.touches.take(runs, self.space)):
            for strategy in self.strategies:
                strategy.touch(start, end, vma)

    def step(self, dice: random.Random) -> None:
        """One call, if bookkeeping knows what it does."""
        name, args, outcome, file = call(dice, self.space)
        if outcome.ask or outcome.resync or outcome.place:
            if outcome.start < outcome.end:
                self.space.rollback(outcome.start, outcome.end)
            return
        self.space.commit(outcome)
        self.touches.sizes.note(file)
        for strategy in self.strategies:
            strategy.call(MemoryCall(name, args, outcome.result, outcome.changes, file))
        self.touches.apply(name, args, outcome.changes)

    def fork(self) -> World:
        """The child, with its own of everything."""
        child = World(self.space.fork(), self.touches.copy())
        child.strategies = [
            strategy.fork(child.space, child.touches) for strategy in self.strategies
        ]
        return child


@pytest.mark.parametrize("seed", range(40))
def test_no_strict_strategy_is_below_the_bound(seed: int) -> None:
    """mmap, mprotect, munmap, madvise, mremap, fork, threads: `classify` and `laconic` never pay
    less."""
    dice = random.Random(seed)
    ends = [(costs.load(name), high) for name, high in product(costs.shipped(), (False, True))]
    makers: list[Make] = [Classify, Laconic, Known, *(bound(*end) for end in ends)]
    meters = [Meter() for _ in makers]
    world = World(AddressSpace(Layout(mmap_base=at(64)), (), start_brk=at(0)), Touches())
    world.strategies = [
        make(meter, world.space, world.touches) for make, meter in zip(makers, meters, strict=True)
    ]
    for meter in meters:
        meter.at(1, "all")
    for strategy in world.strategies:
        strategy.load(())
    worlds = [world]
    for _ in range(dice.choice((5, 20, 80))):
        world = dice.choice(worlds)
        world.step(dice)
        if dice.random() < 0.7:
            world.touch(dice)
        if dice.random() < 0.03 and len(worlds) < 4:
            worlds.append(world.fork())
        if dice.random() < 0.05:
            for strategy in world.strategies:
                strategy.thread()
    for world in worlds:
        for strategy in world.strategies:
            strategy.end()
    for (profile, high), floor in zip(ends, meters[3:], strict=True):
        least = profile.cycles(floor.total())[high]
        for make, meter in zip(makers[:3], meters[:3], strict=True):
            paid = profile.cycles(meter.total())[high]
            assert least <= paid * (1 + 1e-9), (
                f"{make} pays {paid} by {profile.name}, the bound is {least}"
            )
        assert floor.epc_pages == 0
        assert floor.peak_epc_pages <= min(meter.peak_epc_pages for meter in meters[:3])
