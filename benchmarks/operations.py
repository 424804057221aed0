"""The memory calls as a replay makes them, in four mixes, beside a sortedcontainers map that is
told their changes."""

from __future__ import annotations

from collections.abc import Callable
from gc import collect
from random import Random
from time import perf_counter_ns
from typing import Any, NamedTuple

from benchmarks.builds import COMPILED, PURE, measured
from benchmarks.machine import table
from benchmarks.rivals import Entry, Sorted
from benchmarks.stream import READ, SLOT, WRITABLE
from laconic.memory.calls import OPERATIONS
from laconic.memory.change import Change
from laconic.memory.flags import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PAGE_SIZE,
    VM_GROWSDOWN,
)
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import File

SIZES = (50, 1_000, 20_000)
#: Calls in a stream, and rounds, of which each call's least time counts.
LENGTH, ROUNDS = 6_000, 9
MMAP_BASE, FAR_BELOW, START_BRK = 0x7FFFF7FB2000, 0x700000000000, 0x555555560000
ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS
NO_FD = (1 << 64) - 1
RW, RX, R = 3, 5, 1
MiB = 1 << 20


class Replayed(DefaultUpcalls):
    """Upcalls with nothing behind them: every descriptor is a library, and every page was
    touched."""

    def __init__(self, space: AddressSpace) -> None:
        super().__init__(space)
        self.files = {inode: OpenFile(File(8, 1, inode), True, False) for inode in range(32)}


class Step(NamedTuple):
    """One call, and the changes that it came to when the stream was recorded."""

    name: str
    args: tuple[int, ...]
    changes: tuple[Change, ...]


def space_of(count: int) -> AddressSpace:
    """A program of `count` VMAs: half right below the mmap base, half far below, and a stack."""
    entries = []
    for low, some in (
        (FAR_BELOW, count // 2),
        (MMAP_BASE - (count + 3) // 4 * SLOT, count - count // 2),
    ):
        for number in range(some):
            start = low + number // 2 * SLOT
            first, last, vma = (0, 8, WRITABLE) if number % 2 == 0 else (8, 12, READ)
            entries.append((start + first * PAGE_SIZE, start + last * PAGE_SIZE, vma))
    entries.append(
        (0x7FFFFFFDE000, 0x7FFFFFFFF000, WRITABLE.with_flags(WRITABLE.flags | VM_GROWSDOWN))
    )
    return AddressSpace(Layout(MMAP_BASE, thp_align=True), entries, START_BRK)


class Recorder:
    """Makes calls on an address space, and keeps them."""

    def __init__(self, count: int) -> None:
        self.space = space_of(count)
        self.upcalls = Replayed(self.space)
        self.steps: list[Step] = []

    def __call__(self, name: str, *args: int) -> int:
        args += (0,) * (6 - len(args))
        outcome = OPERATIONS[name](self.space, args, self.upcalls)
        assert outcome.result >= 0 and not outcome.place, f"{name} {args} is {outcome.result}"
        self.space.commit(outcome)
        self.steps.append(Step(name, args, outcome.changes))
        return outcome.result

    def map(self, length: int, prot: int = RW, flags: int = ANONYMOUS) -> int:
        """An anonymous mapping where the kernel puts it."""
        return self("mmap", 0, length, prot, flags, NO_FD, 0)


def allocator(call: Recorder, random: Random) -> None:
    """128 KiB to 4 MiB at a time; with 1,000 live, one of them is unmapped first."""
    live: list[tuple[int, int]] = []
    while len(call.steps) < LENGTH:
        if len(live) == 1_000:
            call("munmap", *live.pop(random.randrange(len(live))))
        length = random.randrange(32, 1025) * PAGE_SIZE
        live.append((call.map(length), length))


def arenas(call: Recorder, random: Random) -> None:
    """glibc: reservations of 64 MiB made accessible bit by bit; now and then the upper half is
    given back."""
    heaps = []
    for _ in range(16):
        start = call.map(128 * MiB, 0, ANONYMOUS | MAP_NORESERVE)
        aligned = -(-start // (64 * MiB)) * 64 * MiB
        if aligned > start:
            call("munmap", start, aligned - start)
        call("munmap", aligned + 64 * MiB, start + 64 * MiB - aligned or PAGE_SIZE)
        call("mprotect", aligned, 33 * PAGE_SIZE, RW)
        heaps.append([aligned, 33])
    while len(call.steps) < LENGTH:
        heap = random.choice(heaps)
        start, pages = heap
        if random.random() < 0.95 or pages < 200:
            more = random.choice((1, 1, 1, 2, 4, 8, 33))
            call("mprotect", start + pages * PAGE_SIZE, more * PAGE_SIZE, RW)
            heap[1] += more
        else:
            half, length = start + pages // 2 * PAGE_SIZE, (pages - pages // 2) * PAGE_SIZE
            call("madvise", half, length, MADV_DONTNEED)
            call("mprotect", half, length, 0)
            heap[1] = pages // 2


def starts(call: Recorder, random: Random) -> None:
    """ld.so maps a program's libraries, segment by segment, protects RELRO; at the end all is
    unmapped."""
    while len(call.steps) < LENGTH:
        cache = call("mmap", 0, 9 * PAGE_SIZE, R, MAP_PRIVATE, 3, 0)
        libraries = []
        for fd in range(8, 8 + random.randrange(3, 9)):
            text, rodata, data = (
                random.randrange(5, 300),
                random.randrange(2, 80),
                random.randrange(2, 8),
            )
            pages = 3 + text + rodata + data + 2
            start = call("mmap", 0, pages * PAGE_SIZE, R, MAP_PRIVATE, fd, 0)
            at = start + 3 * PAGE_SIZE
            for size, prot in ((text, RX), (rodata, R), (data, RW)):
                call("mmap", at, size * PAGE_SIZE, prot, MAP_PRIVATE | MAP_FIXED, fd, at - start)
                at += size * PAGE_SIZE
            call("mmap", at, 2 * PAGE_SIZE, RW, ANONYMOUS | MAP_FIXED, NO_FD, 0)
            libraries.append((start, pages * PAGE_SIZE, at - data * PAGE_SIZE))
        for _, _, relro in libraries:
            call("mprotect", relro, PAGE_SIZE, R)
        call("munmap", cache, 9 * PAGE_SIZE)
        call("brk", START_BRK + 33 * PAGE_SIZE)
        call("brk", START_BRK)
        for start, length, _ in libraries:
            call("munmap", start, length)


def breaks(call: Recorder, random: Random) -> None:
    """The break goes up and down, and is asked for in between."""
    top = START_BRK
    while len(call.steps) < LENGTH:
        call("brk", 0)
        top = max(START_BRK, top + random.choice((33, 33, 33, 66, -33, -60, 200, -150)) * PAGE_SIZE)
        call("brk", top)


MIXES = {"allocator": allocator, "arenas": arenas, "program starts": starts, "the break": breaks}
#: How much of the peer's time a mix may take. The peer chooses no address, has one map, and says no
#: changes.
MOST = {"allocator": 2.5, "arenas": 1.0, "program starts": 1.4, "the break": 2.2}


def _ours(count: int, steps: list[Step]) -> tuple[list[int], list[Entry]]:
    # ns for each call, as a replay makes it, and what there is in the end.
    space = space_of(count)
    upcalls = Replayed(space)
    calls = [(OPERATIONS[step.name], step.args) for step in steps]
    times = []
    collect()
    for operation, args in calls:
        began = perf_counter_ns()
        outcome = operation(space, args, upcalls)
        if outcome.changes:
            space.commit(outcome)
        elif outcome.then is not None:
            outcome.then()
        times.append(perf_counter_ns() - began)
    space.check()
    return times, list(space.vmas)


def _peers(count: int, steps: list[Step]) -> tuple[list[int], list[Entry]]:
    # ns for each call: its changes entered into one map, at places that are known already; no
    # changes: one look.
    peer = Sorted(space_of(count).vmas)
    edits: list[list[tuple[Callable[..., Any], tuple[Any, ...]]]] = [
        [
            (peer.clear, (start, end)) if wanted is None else (peer.set, (start, end, wanted))
            for _, start, end, wanted, held, _ in step.changes
            if wanted is not held
        ]
        or [(peer.find, (step.args[0],))]
        for step in steps
    ]
    times = []
    collect()
    for functions in edits:
        began = perf_counter_ns()
        for function, arguments in functions:
            function(*arguments)
        times.append(perf_counter_ns() - began)
    return times, peer.entries()


def measure(mix: str, count: int) -> tuple[list[Step], list[int], list[int]]:
    """The stream, and ns for each of its calls: ours, and the peer's. The timer's own time is taken
    off."""
    recorder = Recorder(count)
    MIXES[mix](recorder, Random(1))
    steps = recorder.steps
    idle = min(-(perf_counter_ns() - perf_counter_ns()) for _ in range(1000))
    (ours, mine), (peers, others) = _ours(count, steps), _peers(count, steps)
    assert mine == others, f"the peer does not end like AddressSpace: {mix} at {count} VMAs"
    for _ in range(ROUNDS - 1):
        ours = list(map(min, ours, _ours(count, steps)[0]))
        peers = list(map(min, peers, _peers(count, steps)[0]))
    return steps, [time - idle for time in ours], [time - idle for time in peers]


def figures(mix: str, count: int) -> dict[str, tuple[int, float, float]]:
    """Return calls, µs a call, and the ratio to the peer, of the mix ("") and of each operation."""
    steps, ours, peers = measure(mix, count)
    pairs: dict[str, list[tuple[int, int]]] = {"": list(zip(ours, peers, strict=True))}
    for step, mine, other in zip(steps, ours, peers, strict=True):
        pairs.setdefault(f"{step.name}, {mix}", []).append((mine, other))
    results = {}
    for name, times in pairs.items():
        mine, other = (sum(column) for column in zip(*times, strict=True))
        results[name] = len(times), mine / len(times) / 1000, mine / other
    return results


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    rows, names, targets = [], [], []
    for mix in MIXES:
        row = [mix]
        for count in SIZES:
            builds = measured(figures, mix, count)
            pure, fast = builds[PURE], builds[COMPILED]
            _, microseconds, ratio = pure[""]
            row += [f"{microseconds:.2f}", f"{ratio:.2f}", f"{fast[''][2]:.2f}"]
            targets.append((f"{mix} ÷ sortedcontainers at {count:,} VMAs", ratio, MOST[mix]))
            if count == 1_000:
                names += [
                    [name, f"{calls:,}", f"{mine:.2f}", f"{times:.2f}", f"{fast[name][2]:.2f}"]
                    for name, (calls, mine, times) in pure.items()
                    if name
                ]
        rows.append(row)
    head = ["µs per call"]
    for count in SIZES:
        head += [f"{count:,} VMAs", "÷ baseline", "compiled ÷ baseline"]
    columns = [
        "operation at 1,000 VMAs",
        "calls",
        "µs per call",
        "÷ baseline",
        "compiled ÷ baseline",
    ]
    return {"operations": table(head, rows) + "\n\n" + table(columns, names)}, targets
