"""One call on an AddressSpace beside the kernel's own system call, and beside an AVL tree in C, on
the same number of VMAs: both builds of Laconic.

The processor time of batches of 1,000 calls is measured; the median batch counts.
"""

from __future__ import annotations

import subprocess
from gc import collect
from pathlib import Path
from random import Random
from statistics import median
from time import process_time_ns

from benchmarks.builds import COMPILED, PURE, measured
from benchmarks.machine import compiled, table
from laconic.memory.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
)
from laconic.memory.layout import Layout
from laconic.memory.mmap import mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.munmap import munmap
from laconic.memory.space import AddressSpace

CALLS = ("equal mprotect", "changing mprotect", "munmap", "mmap fixed")
#: VMAs, and the most that a compiled call may take of the kernel's, and of the tree's.
KERNEL = {100: 1.0, 1_000: 1.0, 10_000: 1.0}
TREE = {1_000: 6.0, 60_000: 3.0}
#: Batches, and the calls in each.
ROUNDS, BATCH = 25, 1_000
BASE, SLOT = 0x10_0000_0000, 4 * PAGE_SIZE
RW = PROT_READ | PROT_WRITE
FIXED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED


def ours(count: int) -> list[float]:
    """Return the ns of each of `CALLS` on an AddressSpace of `count` VMAs, and its commit."""
    space = AddressSpace(Layout())
    for number in range(count):
        start = BASE + number * SLOT
        space.commit(mmap(space, start, 3 * PAGE_SIZE, RW, FIXED, None, 0))
    random = Random(1)
    times: list[list[float]] = [[] for _ in CALLS]
    collect()
    for _ in range(ROUNDS):
        slots = [BASE + random.randrange(count) * SLOT for _ in range(BATCH)]
        for call, kept in zip((_equal, _change, _unmap, _map), times, strict=True):
            began = process_time_ns()
            call(space, slots)
            kept.append((process_time_ns() - began) / BATCH)
    space.check()
    return [median(kept) for kept in times]


def _equal(space: AddressSpace, slots: list[int]) -> None:
    for start in slots:
        outcome = mprotect(space, start, 3 * PAGE_SIZE, RW)
        if outcome.changes:
            space.commit(outcome)


def _change(space: AddressSpace, slots: list[int]) -> None:
    prot = RW
    for start in slots:
        outcome = mprotect(space, start + PAGE_SIZE, PAGE_SIZE, prot)
        if outcome.changes:
            space.commit(outcome)
        prot ^= PROT_WRITE


def _unmap(space: AddressSpace, slots: list[int]) -> None:
    for start in slots:
        outcome = munmap(space, start, 3 * PAGE_SIZE)
        if outcome.changes:
            space.commit(outcome)


def _map(space: AddressSpace, slots: list[int]) -> None:
    for start in slots:
        space.commit(mmap(space, start, 3 * PAGE_SIZE, RW, FIXED, None, 0))


def _theirs(program: str, which: str, count: int) -> list[float]:
    command = [program, which, str(count), str(ROUNDS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return [float(line) for line in done.stdout.split()]


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's section, and every target as (what, measured, at most)."""
    source = (Path(__file__).parent / "tree.c").read_text()
    rows: list[list[str]] = []
    targets: list[tuple[str, float, float]] = []
    with compiled(source) as program:
        for which, title, sizes in (("kernel", "the kernel", KERNEL), ("tree", "the tree", TREE)):
            for count, most in sizes.items():
                _compare(program, which, title, count, most, rows, targets)
    head = ["", "VMAs", "its ns", "pure ns", "compiled ns", "pure ÷ it", "compiled ÷ it"]
    return {"calls": table(head, rows)}, targets


def _compare(
    program: str,
    which: str,
    title: str,
    count: int,
    most: float,
    rows: list[list[str]],
    targets: list[tuple[str, float, float]],
) -> None:
    before = _theirs(program, which, count)
    builds = measured(ours, count)
    after = _theirs(program, which, count)
    for number, call in enumerate(CALLS):
        base = (before[number] + after[number]) / 2
        pure, fast = builds[PURE][number], builds[COMPILED][number]
        times = [f"{time:,.0f}" for time in (base, pure, fast)]
        ratios = [f"{time / base:.2f}" for time in (pure, fast)]
        rows.append([f"{call} ÷ {title}", f"{count:,}", *times, *ratios])
        targets.append((f"compiled {call} ÷ {title} at {count:,} VMAs", fast / base, most))
