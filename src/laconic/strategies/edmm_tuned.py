"""edmm-tuned: Gramine with the EDMM optimizations of Dhanraj et al. 2025 (arXiv 2504.16251).

The paper names pre-allocation, batch allocation, contiguous demand allocation and lazy freeing. The
effects of each, and their order, are those of the authors' public development code, in which the
options are called `preheat_enclave_size`, `edmm_batch_allocation` or `edmm_range_alloc`,
`edmm_demand_paging` and `edmm_lazyfree_th`. The paper's own values are not published; those of
`SETTINGS` are from the authors' scripts.

- A PAL allocation brings pages in as readable and writable, sets all of the range to zero, and
  then gives it the requested permission. Pages that a VMA of the PAL has already are not accepted
  again, so MAP_FIXED over existing memory frees nothing.
- `preheat` bytes are added when the enclave is built, readable, writable and executable, and are
  read once. They never leave the EPC and never change their permissions.
- `demand` pages are committed at a first touch, from the touched page upwards. They are readable
  and writable, and executable too if their VMA is; a VMA without W or R does not restrict them.
- `batch=madvise` adds each fragment in one host call, without faults (a patched kernel).
  `batch=fault` adds it in one fault (the out-of-tree driver), and is the authors' earlier code: all
  pages are readable, writable and executable, and a permission change does nothing.
- `lazyfree` is a threshold, in percent of the heap. Freed pages stay committed in a pool, with
  their contents and permissions, until the pool exceeds it; then the entries with the lowest
  addresses are trimmed, whole.

The law Strict does not hold. `open_windows` counts pages that have wider permissions than
requested, each time they get them: pre-heated pages, freed pages that stay, pages of a demand
window, and pages that are RW until their allocation is over.

Assumptions, each in favor of this strategy:

- The trace has Linux's addresses. The first `preheat` bytes of address space that a program maps
  are the pre-heated ones, from the end of each mapping down: an allocator that works from the top
  of the heap down, without gaps, places them there. In Gramine, address space randomization would
  have to be off.
- Only committed pages are set to zero, trimmed, or change their permissions, and each VMA of an
  mprotect changes by itself; the code does not handle pages that are not committed, and refuses an
  mprotect of several VMAs.
- With `demand` and `batch=madvise`, a window is one host call after the first fault. The code
  cannot combine them.
- The part above the PAL is that of `sgx-emm`: reading a file is one host call per mapping, a forked
  child receives what memory holds, threads have a stack, and their TCS exists. MADV_DONTNEED sets
  pages to zero; other advice is ignored, as in Gramine. Pages past the end of a file are not
  allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, NamedTuple, Self

from mypy_extensions import mypyc_attr

from laconic.errors import LaconicError
from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import OWN, Touches
from laconic.memory.change import EXTEND, FILE, MAP, RESTRICT, ZERO, Change, coalesce
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_FREE,
    MS_SYNC,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_RWX,
    PROT_WRITE,
    TASK_SIZE,
    VM_DONTCOPY,
    VM_IO,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_WIPEONFORK,
)
from laconic.memory.mmap import page_align
from laconic.memory.rangemap import Range, RangeMap, join_ranges
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import Vma
from laconic.sgx.meter import PENDING, PR, Meter
from laconic.sgx.pal.edmm import permissions
from laconic.sgx.pal.gramine import RW, remove_run
from laconic.strategies.options import Option, Options, choice, number, parse_size, show_size

#: A thread's stack in the LibOS, above all addresses that a program can map.
THREAD_STACK: Final = 7 * PAGE_SIZE
_SLOTS: Final = TASK_SIZE + PAGE_SIZE
_SLOT: Final = 16 * PAGE_SIZE
NONE, FAULT, MADVISE = "none", "fault", "madvise"
#: The maximum number of pages that a fault can commit: far more than any script uses.
_MOST_DEMAND: Final = 1 << 20


class Tuning(NamedTuple):
    """The options. `preheat` and `heap` are in bytes, `demand` in pages per fault (0: everything is
    committed at allocation), `lazyfree` in percent of `heap`."""

    preheat: int = 0
    demand: int = 0
    batch: str = NONE
    lazyfree: int = 0
    heap: int = 1 << 30

    @property
    def threshold(self) -> int:
        """The size above which the pool of freed pages is trimmed, in bytes; 0 means that there is
        no pool."""
        return self.heap * self.lazyfree // 100


class TunedPal:
    """The PAL of one enclave. Ranges are in bytes and page aligned; all operations take
    O(log n + runs).

    `vmas`: the requested permission of each allocated page; equal neighbors merge. `committed`: the
    EPCM permission of each page in the EPC, including those of the pool. `pool`: freed ranges that
    stay, with the permission that they had. `preheated`: addresses whose pages are pre-heated.
    Raises `SgxError` if the host fails; nothing is then rolled back.
    """

    __slots__ = ("committed", "meter", "pending", "pool", "preheated", "room", "tuning", "vmas")

    def __init__(self, meter: Meter, tuning: Tuning) -> None:
        self.meter = meter
        self.tuning = tuning
        self.vmas: RangeMap[int] = RangeMap()
        self.committed: RangeMap[int] = RangeMap()
        self.pool: RangeMap[int] = RangeMap()
        self.preheated: RangeMap[bool] = RangeMap()
        #: Bytes of the pool, and pre-heated bytes that have no address yet.
        self.pending = 0
        self.room = 0

    def start(self) -> None:
        """Build the enclave: add the pre-heated pages."""
        self.room = self.tuning.preheat
        pages = self.room >> PAGE_SHIFT
        if pages:
            self.meter.preheat(pages)
            self.meter.counts.untouched_pages += pages

    def count(self) -> int:
        """Return the number of pages in the EPC. O(n)."""
        committed = sum(end - start for start, end, _ in self.committed)
        return committed + self.room >> PAGE_SHIFT

    def runs(self, start: int, end: int) -> list[Range]:
        """Return the maximal runs of committed pages in `[start, end)`."""
        return join_ranges(
            (run_start, run_end) for run_start, run_end, _ in self.committed.parts(start, end)
        )

    # Allocation

    def alloc(self, start: int, end: int, prot: int) -> None:
        """Allocate `[start, end)`. Parts of it that are allocated already lose their contents."""
        tuning, vmas = self.tuning, self.vmas
        if tuning.batch == FAULT:
            opened = prot != PROT_RWX
            prot = at_first = PROT_RWX
        else:
            opened = prot & RW != RW
            at_first = prot | RW
        changes: list[tuple[int, int, int]] = []
        for run_start, run_end, had in list(vmas.runs(start, end)):
            if had is not None:
                changes += [
                    (part_start, part_end, had)
                    for part_start, part_end in self._without_preheated(run_start, run_end)
                ]
                continue
            self._preheat(run_start, run_end)
            for part_start, part_end in self._without_preheated(run_start, run_end):
                for rest_start, rest_end in self._from_pool(part_start, part_end, changes):
                    if not tuning.demand:
                        self._add(rest_start, rest_end)
                        changes.append((rest_start, rest_end, self._accepted(0)))
        vmas.set(start, end, at_first)
        for part_start, part_end, before in changes:
            self._change(part_start, part_end, before, at_first)
        committed = self.runs(start, end)
        for run_start, run_end in committed:
            self.meter.zero(run_start, run_end)
        if opened:
            self.meter.counts.open_windows += _pages(committed)
        elif prot != PROT_RWX and self.preheated.count:
            cold = _pages(self._without_preheated(start, end))
            self.meter.counts.open_windows += (end - start >> PAGE_SHIFT) - cold
        if prot != at_first:
            self.protect(start, end, prot)

    def _preheat(self, start: int, end: int) -> None:
        # Give pre-heated pages to the end of a new range while there are any left. Addresses that
        # already have some keep them.
        for run_start, run_end, hot in reversed(list(self.preheated.runs(start, end))):
            if not self.room:
                break
            if hot is None:
                hot_start = max(run_start, run_end - self.room)
                self.room -= run_end - hot_start
                self.preheated.set(hot_start, run_end, True)
                self.committed.set(hot_start, run_end, PROT_RWX)

    def _without_preheated(self, start: int, end: int) -> list[Range]:
        if not self.preheated.count:
            return [(start, end)]
        runs = self.preheated.runs(start, end)
        return [(run_start, run_end) for run_start, run_end, hot in runs if hot is None]

    def _from_pool(self, start: int, end: int, changes: list[tuple[int, int, int]]) -> list[Range]:
        # Take the pool's pages in this range, with their current permission; return the rest.
        if not self.pool.count:
            return [(start, end)]
        fragments: list[Range] = []
        for run_start, run_end, prot in list(self.pool.runs(start, end)):
            if prot is None:
                fragments.append((run_start, run_end))
            else:
                changes.append((run_start, run_end, prot))
                self.pending -= run_end - run_start
        self.pool.set(start, end, None)
        return fragments

    def _accepted(self, prot: int) -> int:
        # The EPCM permission of a page that was just accepted, in a VMA with `prot`.
        if self.tuning.batch == FAULT:
            return PROT_RWX
        return RW | prot & PROT_EXEC

    def _add(self, start: int, end: int) -> None:
        # Commit a fragment of an allocation.
        batch = self.tuning.batch
        faults = None
        if batch == FAULT:
            faults = 1
        elif batch == MADVISE:
            faults = 0
            self.meter.host_call()
        self.meter.eaug(start, end, faults)
        self._accept(start, end, 0)

    def _accept(self, start: int, end: int, prot: int) -> None:
        meter, accepted = self.meter, self._accepted(prot)
        meter.eaccept(start, end, RW, PENDING)
        if accepted != RW:
            meter.emodpe(start, end, accepted)
        self.committed.set(start, end, accepted)
        meter.counts.untouched_pages += end - start >> PAGE_SHIFT

    # First touches

    def touch(self, start: int, end: int) -> None:
        """Handle touches of allocated pages, from the lowest up: uncommitted pages are committed,
        one window per exception."""
        window = max(self.tuning.demand, 1) << PAGE_SHIFT
        at = start
        while at < end:
            _, run_end, prot = self.committed.find(at)
            if prot is not None:
                at = run_end
                continue
            # Windows whose pages are all touched and uncommitted are handled together.
            count = max((min(run_end, end) - at) // window, 1)
            self._windows(at, at + count * window, count)
            at += count * window

    def _windows(self, start: int, end: int, count: int) -> None:
        # `count` faults commit the allocated but uncommitted pages of `[start, end)`.
        absent = [
            (run_start, run_end, prot)
            for vma_start, vma_end, prot in self.vmas.parts(start, end)
            for run_start, run_end, had in self.committed.runs(vma_start, vma_end)
            if had is None
        ]
        meter = self.meter
        pages = sum(run_end - run_start for run_start, run_end, _ in absent) >> PAGE_SHIFT
        meter.exception(count)
        batched = self.tuning.batch == MADVISE
        if batched and pages > count:
            meter.host_call(count)
        faults = count
        for run_start, run_end, prot in absent:
            meter.eaug(run_start, run_end, faults if batched else None)
            faults = 0
            self._accept(run_start, run_end, prot)
            if prot & RW != RW:
                meter.counts.open_windows += run_end - run_start >> PAGE_SHIFT

    # Permissions

    def protect(self, start: int, end: int, prot: int) -> None:
        """Change the permission of the allocated pages in `[start, end)`."""
        counts = self.meter.counts
        if self.tuning.batch == FAULT:
            if prot != PROT_RWX:
                counts.open_windows += _pages(self.runs(start, end))
            return
        for vma_start, vma_end, had in list(self.vmas.runs(start, end)):
            if had is None or had == prot:
                continue
            self.vmas.set(vma_start, vma_end, prot)
            changed = self._without_preheated(vma_start, vma_end)
            for cold_start, cold_end in changed:
                self._change(cold_start, cold_end, had, prot)
            if had & ~prot:
                counts.open_windows += (vma_end - vma_start >> PAGE_SHIFT) - _pages(changed)

    def _change(self, start: int, end: int, before: int, after: int) -> None:
        # Restrict first, then relax. The pages of a demand window may have more than `before`.
        if before == after:
            return
        meter, committed = self.meter, self.committed
        kept = before & after
        for run_start, run_end in self.runs(start, end):
            if before & ~after:
                meter.host_call()
                meter.restrict(run_start, run_end, kept)
                meter.eaccept(run_start, run_end, kept, PR)
                committed.set(run_start, run_end, kept)
            if after & ~before:
                meter.emodpe(run_start, run_end, after)
                # The host's mprotect. Here the mapping stays RWX, which counts the same.
                meter.host_protect(run_start, run_end, PROT_RWX)
                committed.edit(run_start, run_end, lambda had: had | after)

    # Freeing

    def free(self, start: int, end: int, touches: Touches) -> None:
        """Free the allocated pages in `[start, end)`; `touches` contains their touched pages."""
        counts = self.meter.counts
        freed: list[tuple[int, int, int]] = []
        for vma_start, vma_end, prot in list(self.vmas.runs(start, end)):
            if prot is None:
                continue
            cold = self._without_preheated(vma_start, vma_end)
            freed += [(cold_start, cold_end, prot) for cold_start, cold_end in cold]
            counts.open_windows += (vma_end - vma_start >> PAGE_SHIFT) - _pages(cold)
            touched = touches.count(vma_start, vma_end)
            counts.untouched_pages += touched
            if not self.tuning.threshold:
                counts.untouched_pages -= sum(
                    touches.count(cold_start, cold_end) for cold_start, cold_end in cold
                )
        self.vmas.set(start, end, None)
        for cold_start, cold_end, prot in freed:
            if self.tuning.threshold:
                self._keep(cold_start, cold_end, prot)
            else:
                self._trim(cold_start, cold_end)

    def _keep(self, start: int, end: int, prot: int) -> None:
        # Put a range into the pool, and trim entries while it is too large.
        if prot:
            self.meter.counts.open_windows += _pages(self.runs(start, end))
        self.pool.set(start, end, prot)
        self.pending += end - start
        while self.pending > self.tuning.threshold:
            entry_start, entry_end, _ = next(iter(self.pool))
            self.pool.set(entry_start, entry_end, None)
            self.pending -= entry_end - entry_start
            self._trim(entry_start, entry_end)

    def _trim(self, start: int, end: int) -> None:
        for run_start, run_end in self.runs(start, end):
            remove_run(self.meter, run_start, run_end)
            self.committed.set(run_start, run_end, None)


def _check(values: Mapping[str, Any]) -> None:
    # Raise LaconicError if the options cannot be combined.
    tuning = Tuning(**values)
    if not tuning.heap:
        raise LaconicError(f"{NAME}: 'heap=0' is not a heap; use heap=1G")
    if tuning.preheat > tuning.heap:
        raise LaconicError(
            f"{NAME}: 'preheat={show_size(tuning.preheat)}' exceeds the heap of "
            f"{show_size(tuning.heap)}; use a smaller preheat, or a larger heap"
        )
    if tuning.batch == FAULT and tuning.demand:
        raise LaconicError(
            f"{NAME}: 'batch={FAULT}' cannot be combined with 'demand={tuning.demand}', "
            f"because that driver refuses other faults; use batch={MADVISE}, or demand=0"
        )


#: The paper's names. Each of the last four includes the options of the one before. The values 64M,
#: 1, 8 and 15 are from the authors' scripts and code; the paper's own are unknown.
_SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "static": {"preheat": Tuning().heap},
    "edmm": {},
    "edmm+demand": {"demand": 1},
    "+preheat": {"preheat": 64 << 20},
    "+batch": {"preheat": 64 << 20, "batch": MADVISE},
    "+contiguous": {"preheat": 64 << 20, "batch": MADVISE, "demand": 8},
    "+lazy": {"preheat": 64 << 20, "batch": MADVISE, "demand": 8, "lazyfree": 15},
}
NAME: Final = "edmm-tuned"
#: Without options the strategy has all four optimizations, with the values of the authors' scripts.
OPTIONS: Final = Options(
    NAME,
    {
        "preheat": Option(parse_size, "a size in whole pages, such as 64M", 0, show_size),
        "demand": Option(
            number(0, _MOST_DEMAND), "the pages that a first touch commits; 0: all at once", 0
        ),
        "batch": Option(choice(NONE, FAULT, MADVISE), f"{NONE}, {FAULT} or {MADVISE}", NONE),
        "lazyfree": Option(number(0, 100), "0 to 100 percent of the heap", 0),
        "heap": Option(parse_size, "the size of the heap, such as 1G", Tuning().heap, show_size),
    },
    _SETTINGS,
    _SETTINGS["+lazy"],
    _check,
)


@mypyc_attr(allow_interpreted_subclasses=True)
class EdmmTuned(Strategy):
    """The strategy `edmm-tuned`: the library OS above `pal`. Raises `SgxError` if the host fails.

    `values` are those of its options.
    """

    name: ClassVar[str] = NAME

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        values: Mapping[str, Any] = OPTIONS.values,
    ) -> None:
        super().__init__(meter, space, touches)
        self.values = values
        self.pal = TunedPal(meter, Tuning(**values))
        self.sizes = touches.sizes
        #: The stacks of running threads, and those of ended ones.
        self._threads: list[int] = []
        self._idle: list[int] = []

    # Events

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave. O(entries)."""
        self.meter.create()
        self.pal.start()
        for start, end, vma in entries:
            self._map(start, end, vma)

    def call(self, call: MemoryCall) -> None:
        """Do the work of one memory call. O(log n + runs)."""
        name, args, result, changes, _ = call
        if name == "mmap" and result >= 0:
            self._mmap(result, args, changes)
        elif name == "madvise":
            self._madvise(args, changes)
        elif name == "msync":
            if args[2] & MS_SYNC:
                self.meter.host_call(len(changes))
        else:
            self._apply(changes)

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle first touches: windows of uncommitted pages are committed. O(log n + windows)."""
        pal = self.pal
        _, run_end, prot = pal.committed.find(start)
        if prot is None or run_end < end:
            for run_start, run_end, prot in list(pal.vmas.runs(start, end)):
                if prot is None:
                    # When the page was mapped, it was past the end of its file; the file has grown
                    # since.
                    self._map(run_start, run_end, vma, whole=True)
            pal.touch(start, end)
        self.meter.counts.untouched_pages -= end - start >> PAGE_SHIFT

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack, which was allocated earlier in its full size, in one piece.
        O(log n)."""
        before = self.meter.counts.host_calls
        self._map(start, end, vma)
        self.meter.counts.host_calls = before

    def _mmap(self, start: int, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        end = start + page_align(args[1])
        if changes:
            end = max(end, changes[-1].end)  # huge pages round up
        # Existing memory loses its contents in place.
        self.meter.counts.untouched_pages += self.touches.count(start, end)
        for vma_start, vma_end, vma in self.space.vmas.parts(start, end):
            self._map(vma_start, vma_end, vma)

    def _madvise(self, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        # madvise_dontneed_range; other advice is ignored.
        advice = args[2] & 0xFFFFFFFF
        if advice == MADV_FREE:
            return
        for kind, start, end, vma, _, _ in changes:
            if vma is None or not kind & ZERO:
                continue
            self.meter.counts.untouched_pages += self.touches.count(start, end)
            if advice == MADV_DONTNEED and not vma.flags & VM_MAYSHARE and vma.file is None:
                self._clear(start, end)

    def _apply(self, changes: tuple[Change, ...]) -> None:
        # Pages are moved before their source is freed.
        for change in changes:
            if change.source is not None and change.wanted is not None:
                self._move(change.start, change.end, change.source, change.wanted)
        self._protect(changes)
        for start, end in coalesce(change for change in changes if change.wanted is None):
            self.pal.free(start, end, self.touches)
        for kind, start, end, vma, _, source in changes:
            if vma is None or source is not None:
                continue
            if kind & (MAP | FILE):
                self.meter.counts.untouched_pages += self.touches.count(start, end)
                self._map(start, end, vma)
            elif kind & ZERO:
                self.meter.counts.untouched_pages += self.touches.count(start, end)
                self._clear(start, end)

    def _protect(self, changes: Iterable[Change]) -> None:
        # Neighbors that get the same permission are one request.
        pending: tuple[int, int, int] | None = None
        for kind, start, end, vma, _, source in changes:
            if vma is None or source is not None or kind & (MAP | FILE | ZERO):
                continue
            if not kind & (EXTEND | RESTRICT):
                continue
            prot = permissions(vma.flags)
            if pending is not None and pending[1:] == (start, prot):
                pending = (pending[0], end, prot)
                continue
            if pending is not None:
                self.pal.protect(*pending)
            pending = (start, end, prot)
        if pending is not None:
            self.pal.protect(*pending)

    def _clear(self, start: int, end: int) -> None:
        # madvise_dontneed_visitor: pages that are not writable become so while they are set to
        # zero.
        pal = self.pal
        for vma_start, vma_end, prot in list(pal.vmas.runs(start, end)):
            if prot is None or not pal.runs(vma_start, vma_end):
                continue
            if not prot & PROT_WRITE:
                pal.protect(vma_start, vma_end, prot | RW)
            for run_start, run_end in pal.runs(vma_start, vma_end):
                self.meter.zero(run_start, run_end)
                if not prot & PROT_WRITE:
                    self.meter.counts.open_windows += run_end - run_start >> PAGE_SHIFT
            if not prot & PROT_WRITE:
                pal.protect(vma_start, vma_end, prot)

    def _move(self, start: int, end: int, source: int, vma: Vma) -> None:
        # mremap: allocates the target and copies. Another change handles the source.
        pal, meter, distance = self.pal, self.meter, start - source
        pal.free(start, end, self.touches)
        prot = permissions(vma.flags)
        pal.alloc(start, end, prot | RW)
        for vma_start, vma_end, had in list(pal.vmas.runs(source, source + end - start)):
            committed = pal.runs(vma_start, vma_end)
            if had is None or not committed:
                continue
            if not had & PROT_READ:
                pal.protect(vma_start, vma_end, had | PROT_READ)
                meter.counts.open_windows += _pages(committed)
            for run_start, run_end in committed:
                pal.touch(run_start + distance, run_end + distance)
                meter.copy(run_end - run_start >> PAGE_SHIFT)
            if not had & PROT_READ and self.space.vmas.get(vma_start) is not None:
                pal.protect(vma_start, vma_end, had)
        pal.protect(start, end, prot)
        # The touched pages move with them (`Touches.apply`).
        meter.counts.untouched_pages -= self.touches.count(source, source + end - start)

    # Memory in the enclave

    def _map(self, start: int, end: int, vma: Vma, whole: bool = False) -> None:
        # [vvar] is the kernel's own. Pages past the end of a file exist if they are touched
        # (`whole`).
        if vma.flags & (VM_IO | VM_PFNMAP):
            return
        pal, prot = self.pal, permissions(vma.flags)
        if not whole:
            valid = max(start, min(end, self.sizes.valid_end(vma)))
            if valid < end:
                pal.free(valid, end, Touches())
            end = valid
        if start == end:
            return
        if not vma.is_from_disk:
            pal.alloc(start, end, prot)
            return
        # Copying the contents in touches the pages.
        pal.alloc(start, end, prot | RW)
        pal.touch(start, end)
        self.meter.host_call()
        self.meter.copy(end - start >> PAGE_SHIFT)
        if prot & RW != RW:
            self.meter.counts.open_windows += end - start >> PAGE_SHIFT
            pal.protect(start, end, prot)

    # Processes and threads

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave; contents that are only in memory are sent to it, and
        allocated there. O(n)."""
        child = type(self)(self.meter, space, touches, values=self.values)
        self.meter.host_call()
        self.meter.create()
        child.pal.start()
        sent = 0
        for start, end, vma in space.vmas:
            if vma.flags & (VM_DONTCOPY | VM_IO | VM_PFNMAP):
                continue
            if vma.flags & VM_WIPEONFORK or (vma.is_from_disk and not _is_own(touches, start, end)):
                child._map(start, end, vma)
            else:
                sent += self._send(start, min(end, self.sizes.valid_end(vma)), vma, child)
            self.meter.counts.untouched_pages -= touches.count(start, end)
        if sent:
            self.meter.host_call(2)
            self.meter.copy(sent)
        return child

    def _send(self, start: int, end: int, vma: Vma, child: Self) -> int:
        # Returns the number of pages.
        if start >= end:
            return 0
        pal, prot = self.pal, permissions(vma.flags)
        committed = pal.runs(start, end)
        closed = bool(committed) and not prot & PROT_READ
        if closed:
            pal.protect(start, end, prot | PROT_READ)
            self.meter.counts.open_windows += _pages(committed)
        child.pal.alloc(start, end, prot | RW)
        for run_start, run_end in committed:
            child.pal.touch(run_start, run_end)
        child.pal.protect(start, end, prot)
        if closed:
            pal.protect(start, end, prot)
        return _pages(committed)

    def thread(self) -> None:
        """Start a thread: its stack in the LibOS is allocated and used. O(log n)."""
        slot = self._idle.pop() if self._idle else _SLOTS + len(self._threads) * _SLOT
        self._threads.append(slot)
        # The LibOS's own pages do not count as untouched.
        untouched = self.meter.counts.untouched_pages
        self.pal.alloc(slot, slot + THREAD_STACK, RW)
        self.pal.touch(slot, slot + THREAD_STACK)
        self.meter.counts.untouched_pages = untouched

    def thread_ends(self) -> None:
        """End a thread: its stack is freed. O(log n)."""
        if self._threads:
            slot = self._threads.pop()
            self._idle.append(slot)
            self.pal.free(slot, slot + THREAD_STACK, self.touches)

    def end(self) -> None:
        """End the enclave. O(n)."""
        self.meter.destroy(self.pal.count())


def _is_own(touches: Touches, start: int, end: int) -> bool:
    # Return whether some page there has contents that are only in memory.
    return any(how == OWN for _, _, how in touches.pages.runs(start, end))


def _pages(ranges: Iterable[Range]) -> int:
    return sum(end - start for start, end in ranges) >> PAGE_SHIFT
