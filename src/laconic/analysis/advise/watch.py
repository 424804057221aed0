"""The memory use of one program in one process, to the extent that a manifest or a setting depends
on it.

`Watch` receives what every strategy receives, and only counts, so it runs beside them in one
replay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from os.path import basename
from typing import Self

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.memory.change import FILE, MAP, ZERO, Change
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_FREE,
    MAP_STACK,
    PAGE_SHIFT,
    PROT_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_PROT,
)
from laconic.memory.mmap import page_align
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import Vma
from laconic.replay.assumed import UNKNOWN
from laconic.sgx.meter import ANY_MACHINE, Meter
from laconic.trace.stacks import NO_STACK

MIB = 1 << 20
#: A PROT_NONE mapping of this many bytes or more is a reservation that is followed.
LARGE = 16 * MIB
#: The alignment of glibc's thread arenas and the size that they reserve (HEAP_MAX_SIZE in
#: malloc/arena.c), in bytes.
ARENA = 64 * MIB
#: The sizes of blocks that malloc maps individually: its threshold's default and its limit
#: (DEFAULT_MMAP_THRESHOLD in malloc.c).
BLOCK_LEAST, BLOCK_MOST = 128 << 10, 32 * MIB
#: Blocks of these sizes belong to other allocators (CPython's arenas, V8's pages:
#: kRegularPageSize), in bytes.
CHUNK = 256 << 10
#: The start of Go's heap (arenaHint in runtime/malloc.go).
GO_HEAP = 0xC000000000
_HOSTS = VM_IO | VM_PFNMAP
#: The prefixes of the names of OpenBLAS's files: the distribution's, and those of Python's wheels.
OPENBLAS = ("libopenblas", "libscipy_openblas")
#: The prefixes of the names of the libraries that show who makes these calls; other files are not
#: recorded.
LIBRARIES = (
    "libc.so",
    "libc-2",
    "libjemalloc",
    "libmimalloc",
    "libtcmalloc",
    "libjvm.so",
    "libnode",
    "libv8",
    *OPENBLAS,
)
#: The maximum number of reservations kept for one program, in addition to its threads' stacks.
_KEPT = 10_000


@dataclass(eq=False, slots=True)
class Region:
    """A reservation, or a thread's stack: `[start, start + length)` in bytes.

    `opens`: how often a part was made accessible; `opened` and `peak`: bytes that are accessible,
    now and at most. `executable`: some of it was. `stack`: it was mapped with MAP_STACK; `guards`
    are the parts within it that were made inaccessible, so that it contains more than one stack.
    `touched` are its pages that were ever touched.
    """

    start: int
    length: int
    opens: int = 0
    opened: int = 0
    peak: int = 0
    executable: bool = False
    stack: bool = False
    guards: int = 0
    touched: RangeMap[bool] = field(default_factory=RangeMap)

    @property
    def touched_bytes(self) -> int:
        """The number of its bytes that were ever touched. O(runs)."""
        return sum(end - start for start, end, _ in self.touched)

    @property
    def depth(self) -> int:
        """The depth of a stack: bytes from its top down to the lowest page that was touched. O(1).

        0 for a pool of stacks (Ruby's fibers): the program divides it itself, and no thread of
        Gramine needs its size.
        """
        if self.guards:
            return 0
        first = next(iter(self.touched), None)
        return self.start + self.length - first[0] if first else 0

    def twin(self) -> Region:
        """Return the region of a forked process. O(runs)."""
        return Region(
            self.start,
            self.length,
            self.opens,
            self.opened,
            self.peak,
            self.executable,
            self.stack,
            self.guards,
            self.touched.copy(),
        )


@dataclass(slots=True)
class Image:
    """One program in one process. Units are bytes unless stated; `peak_` is the maximum at any one
    time.

    `mapped`: everything that is mapped; `oversized`: the part in mappings that Gramine commits at
    once and that are larger than any machine; `impossible`: such mappings, start → size and
    attributes. `fitting`: what is mapped without them, and `forked_fitting` the maximum of that at
    a fork. `eager`: what Gramine commits at once, `peak_eager` the maximum of that without
    `oversized`, and `largest_eager` the largest such mapping: size, start and attributes. `closed`:
    the part of `mapped` that is PROT_NONE, `closed_at_peak`: that part when `mapped` was largest.
    `unlazy_closed`: PROT_NONE, anonymous and not MAP_NORESERVE. `allocated_pages`: in total,
    counted again each time they were mapped. `lazy_pages` were mapped with MAP_NORESERVE;
    `lazy_touched` counts their first touches. `brk_base` is an address. `started_threads`: in
    total, without the first; `found_threads` of them were running before the recording began.
    `refused`: growths of the break that failed, `repeated` of them for the same address as the one
    before. `shrinks` are the break's, of `shrunk_pages`. `arenas` are glibc's: base → further
    growths; `tops`: base → the maximum of bytes that were made accessible from there. `discards`
    are madvise(DONTNEED, FREE), except those of threads' stacks. `blocks` are individually mapped
    ones, base → size, and `peak_blocks` their bytes; `churned`: the sizes of those that were
    unmapped whole. `buffers`: large accessible mappings of a program that has OpenBLAS, with the
    numbers of the stacks that they were mapped from; at the end, those of OpenBLAS itself.
    `exec_changes` are calls that made anonymous memory executable or no longer executable, of
    `exec_pages`. `files` are names of files of `LIBRARIES`; `deepest` is the maximum depth of the
    thread stacks that are gone.
    """

    mapped: int = 0
    peak_mapped: int = 0
    oversized: int = 0
    impossible: dict[int, tuple[int, Vma]] = field(default_factory=dict)
    peak_fitting: int = 0
    forked_fitting: int = 0
    eager: int = 0
    peak_eager: int = 0
    largest_eager: tuple[int, int, Vma] | None = None
    closed: int = 0
    closed_at_peak: int = 0
    unlazy_closed: int = 0
    peak_unlazy_closed: int = 0
    allocated_pages: int = 0
    lazy_pages: int = 0
    lazy_touched: int = 0
    threads: int = 1
    peak_threads: int = 1
    started_threads: int = 0
    found_threads: int = 0
    stack: int = 0
    peak_stack: int = 0
    brk_base: int = 0
    peak_brk: int = 0
    shrinks: int = 0
    shrunk_pages: int = 0
    refused: int = 0
    repeated: int = 0
    last_refused: int = 0
    arenas: dict[int, int] = field(default_factory=dict)
    tops: dict[int, int] = field(default_factory=dict)
    discards: int = 0
    blocks: dict[int, int] = field(default_factory=dict)
    block_bytes: int = 0
    peak_blocks: int = 0
    churned: Counter[int] = field(default_factory=Counter)
    buffers: dict[Region, int] = field(default_factory=dict)
    exec_changes: int = 0
    exec_pages: int = 0
    go_heap: bool = False
    files: set[str] = field(default_factory=set)
    deepest: int = 0
    regions: dict[Region, None] = field(default_factory=dict)

    @property
    def fitting(self) -> int:
        """The bytes that are mapped now, without `oversized`. O(1)."""
        return self.mapped - self.oversized

    @property
    def is_too_large_together(self) -> bool:
        """Whether the mappings that Gramine commits at once were together larger than any machine,
        without those that are so alone. O(1)."""
        return self.peak_eager >= ANY_MACHINE

    @property
    def reservations(self) -> list[Region]:
        """The regions that are not stacks, in the order in which they were mapped. O(regions)."""
        return [each for each in self.regions if not each.stack]

    @property
    def depth(self) -> int:
        """The maximum depth of any thread's stack except the main one's. O(regions)."""
        return max([self.deepest, *(each.depth for each in self.regions if each.stack)])

    def fork(self) -> Image:
        """Return the initial image of a forked process: what is mapped, and no counts. O(arenas +
        regions)."""
        return Image(
            mapped=self.mapped,
            peak_mapped=self.mapped,
            oversized=self.oversized,
            peak_fitting=self.fitting,
            eager=self.eager,
            closed=self.closed,
            closed_at_peak=self.closed,
            unlazy_closed=self.unlazy_closed,
            peak_unlazy_closed=self.unlazy_closed,
            stack=self.stack,
            peak_stack=self.stack,
            brk_base=self.brk_base,
            go_heap=self.go_heap,
            files=self.files,
        )


class Watch(Strategy):
    """Counts into an `Image`, which it appends to `images` in the order in which processes
    begin."""

    name = "watch"

    def __init__(
        self, meter: Meter, space: AddressSpace, touches: Touches, images: list[Image]
    ) -> None:
        super().__init__(meter, space, touches)
        self.images = images
        self.image = Image()
        self.regions: RangeMap[Region] = RangeMap()
        self.oversized: RangeMap[bool] = RangeMap()
        self.last_brk = 0
        images.append(self.image)

    def load(self, entries: Iterable[Entry]) -> None:
        """Start a program; one that was already running has a heap. O(entries)."""
        for start, end, vma in entries:
            self._mapped(start, end, vma)
        space, image = self.space, self.image
        if space.brk > page_align(space.start_brk):
            image.brk_base = space.start_brk
            image.peak_brk = space.brk - space.start_brk
            self.last_brk = space.brk
        self._peaks()

    def call(self, call: MemoryCall) -> None:
        """Count a memory call that has ended. O(changes log n)."""
        name, args, result, changes, _ = call
        image = self.image
        if name == "brk":
            self._brk(args[0], result)
        elif name == "madvise":
            # glibc discards the stack of each thread that ends (advise_stack_range).
            region = self.regions.get(args[0])
            own = region is None or not region.stack
            image.discards += own and result == 0 and args[2] in (MADV_DONTNEED, MADV_FREE)
        elif name == "mprotect" and changes:
            self._arena(args[0], changes)
        elif name == "munmap" and changes:
            size = image.blocks.pop(args[0], 0)
            image.block_bytes -= size
            if size == args[1]:
                image.churned[size] += 1
        executable = 0
        for change in changes:
            executable += self._change(change, name == "mmap")
        image.exec_changes += executable > 0
        image.exec_pages += executable
        if name == "mmap" and result >= 0:
            self._new(args, result, changes)
        self._peaks()

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Record first touches. O(log n + k)."""
        if vma.flags & VM_NORESERVE:
            self.image.lazy_touched += end - start >> PAGE_SHIFT
        for run_start, run_end, region in self.regions.runs(start, end):
            if region is not None:
                region.touched.set(run_start, run_end, True)

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Record the growth of a stack. O(1)."""
        self._mapped(start, end, vma)
        self._peaks()

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's watch. O(n)."""
        self.image.forked_fitting = max(self.image.forked_fitting, self.image.fitting)
        child = type(self)(self.meter, space, touches, self.images)
        child.image = self.images[-1] = self.image.fork()
        child.oversized = self.oversized.copy()
        twins = {region: region.twin() for region in self.image.regions}
        child.image.regions = dict.fromkeys(twins.values())
        twins |= {region: region.twin() for region in self.image.buffers}
        for start, end, region in self.regions:
            child.regions.set(start, end, twins[region])
        return child

    def thread(self) -> None:
        """Count a new thread. O(1)."""
        self.image.threads += 1
        self.image.started_threads += 1
        self.image.peak_threads = max(self.image.peak_threads, self.image.threads)

    def thread_found(self) -> None:
        """Count a thread that was running before the recording began. O(1)."""
        self.image.found_threads += 1
        self.thread()

    def thread_ends(self) -> None:
        """Record the end of a thread. O(1)."""
        self.image.threads -= 1

    def end(self) -> None:
        """Record the end of the process."""

    # Mappings

    def _change(self, change: Change, by_mmap: bool) -> int:
        # Count the pages of anonymous memory that became executable, or are no longer.
        kind, start, end, wanted, held, source = change
        if held == UNKNOWN:
            held = None  # from a log: mapped before it began, and never counted
        if held is not None:
            self._unmapped(start, end, held)
        if wanted is not None:
            self._mapped(
                start,
                end,
                wanted,
                bool(kind & MAP or (by_mmap and kind & (ZERO | FILE))) and source is None,
            )
        before, after = (0 if vma is None else vma.flags & VM_PROT for vma in (held, wanted))
        for run_start, run_end, region in list(self.regions.runs(start, end)):
            if region is None:
                continue
            if wanted is None:
                self.regions.clear(run_start, run_end)
                self._gone(region)
            region.executable |= bool(after & PROT_EXEC)
            if bool(before) != bool(after):
                region.opens += bool(after)
                region.opened += run_end - run_start if after else run_start - run_end
                region.peak = max(region.peak, region.opened)
                region.guards += bool(not after and wanted is not None and run_start > region.start)
        if (
            wanted is None
            or wanted.file is not None
            or before == after
            or not (before | after) & PROT_EXEC
        ):
            return 0
        return end - start >> PAGE_SHIFT

    def _gone(self, region: Region) -> None:
        # A region that is unmapped is remembered only if it was used, because there may be any
        # number of threads.
        if any(
            left is not None
            for _, _, left in self.regions.runs(region.start, region.start + region.length)
        ):
            return
        if region.stack:
            self.image.deepest = max(self.image.deepest, region.depth)
        if region.stack or not region.opens:
            self.image.regions.pop(region, None)

    def _mapped(self, start: int, end: int, vma: Vma, fresh: bool = True) -> None:
        image, size, flags = self.image, end - start, vma.flags
        if flags & _HOSTS:
            return
        image.mapped += size
        if _is_eager(vma):
            image.eager += size
            if size >= ANY_MACHINE:
                image.oversized += size
                self.oversized.set(start, end, True)
                if fresh:
                    image.impossible[start] = size, vma
            elif fresh and (image.largest_eager is None or size > image.largest_eager[0]):
                image.largest_eager = size, start, vma
        if not flags & VM_PROT:
            image.closed += size
            image.unlazy_closed += 0 if flags & VM_NORESERVE or vma.file is not None else size
        if flags & VM_GROWSDOWN:
            image.stack += size
        if vma.file is not None:
            name = basename(vma.file.path)
            if name.startswith(LIBRARIES):
                image.files.add(name)
        if fresh:
            image.allocated_pages += size >> PAGE_SHIFT
            image.lazy_pages += (
                size >> PAGE_SHIFT if flags & VM_NORESERVE and vma.file is None else 0
            )

    def _unmapped(self, start: int, end: int, vma: Vma) -> None:
        image, size, flags = self.image, end - start, vma.flags
        if flags & _HOSTS:
            return
        image.mapped -= size
        if _is_eager(vma):
            image.eager -= size
        if image.oversized:
            for run_start, run_end, oversized in self.oversized.runs(start, end):
                image.oversized -= run_end - run_start if oversized else 0
            self.oversized.clear(start, end)
        if not flags & VM_PROT:
            image.closed -= size
            image.unlazy_closed -= 0 if flags & VM_NORESERVE or vma.file is not None else size
        if flags & VM_GROWSDOWN:
            image.stack -= size

    def _peaks(self) -> None:
        image = self.image
        if image.mapped > image.peak_mapped:
            image.peak_mapped = image.mapped
            image.closed_at_peak = image.closed
        image.peak_fitting = max(image.peak_fitting, image.fitting)
        image.peak_eager = max(image.peak_eager, image.eager - image.oversized)
        if image.unlazy_closed > image.peak_unlazy_closed:
            image.peak_unlazy_closed = image.unlazy_closed
        if image.stack > image.peak_stack:
            image.peak_stack = image.stack

    def _new(self, args: tuple[int, ...], start: int, changes: tuple[Change, ...]) -> None:
        if len(changes) != 1 or changes[0].kind != MAP:
            return
        _, map_start, map_end, vma, _, _ = changes[0]
        assert vma is not None
        length, image = map_end - map_start, self.image
        if vma.file is not None:
            return
        image.go_heap |= start == GO_HEAP
        if args[3] & MAP_STACK or (length >= LARGE and not vma.flags & VM_PROT):
            region = Region(map_start, length, stack=bool(args[3] & MAP_STACK))
            region.opened = region.peak = length if vma.flags & VM_PROT else 0
            if len(image.regions) < _KEPT or region.stack:
                image.regions[region] = None
                self.regions.set(map_start, map_end, region)
        elif length >= LARGE and any(name.startswith(OPENBLAS) for name in image.files):
            if len(image.buffers) < _KEPT:
                region = Region(map_start, length)
                image.buffers[region] = NO_STACK
                self.regions.set(map_start, map_end, region)
        elif (
            vma.flags & VM_PROT
            and BLOCK_LEAST <= length <= BLOCK_MOST
            and length % CHUNK
            and not args[0]
        ):
            image.block_bytes += length - image.blocks.get(map_start, 0)
            image.blocks[map_start] = length
            image.peak_blocks = max(image.peak_blocks, image.block_bytes)

    # The heap

    def _brk(self, requested: int, result: int) -> None:
        image, space = self.image, self.space
        if not image.brk_base:
            image.brk_base = space.start_brk or min(filter(None, (requested, result)), default=0)
        image.peak_brk = max(image.peak_brk, result - image.brk_base)
        if requested and requested != result:
            image.refused += 1
            image.repeated += requested == image.last_refused
            image.last_refused = requested
        elif requested:
            image.shrinks += result < self.last_brk
            image.shrunk_pages += max(self.last_brk - result, 0) >> PAGE_SHIFT
        self.last_brk = result

    def _arena(self, start: int, changes: tuple[Change, ...]) -> None:
        # The first mprotect of an arena begins at its base, which is aligned (new_heap in glibc's
        # malloc/arena.c).
        base, image = start & -ARENA, self.image
        region = self.regions.get(base)
        if region is None or region.length not in (ARENA, 2 * ARENA):
            return
        if base in image.arenas:
            image.arenas[base] += 1
        elif base == start:
            image.arenas[base] = 0
        else:
            return
        image.tops[base] = max(image.tops.get(base, 0), changes[-1].end - base)


def _is_eager(vma: Vma) -> bool:
    # Return whether Gramine commits a mapping at once. MAP_NORESERVE does not make a file's memory
    # lazy.
    return vma.file is not None or not vma.flags & VM_NORESERVE
