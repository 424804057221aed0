"""The bound: the lower limit for every strict strategy, computed with full knowledge of which pages
are touched, and when.

SGX instructions are counted page by page, as the minimum over each page's whole history
(`pagefloor`). Host calls and ioctls are counted call by call, if some page cannot do without them.
docs/bound.md states the bound and proves it. If a minimum is hard to find, the bound may be lower,
but never higher. It is computed for one end of a cost profile's range; a range therefore has two
bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import ClassVar, Self

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import CLEAN, OWN, Touches
from laconic.memory.change import EXTEND, FILE, RESTRICT, UNMAP, ZERO, Change
from laconic.memory.flags import MADV_FREE, PAGE_SHIFT, VM_IO, VM_MAYSHARE, VM_PFNMAP, VM_WIPEONFORK
from laconic.memory.rangemap import Range, RangeMap
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.costs import CostProfile
from laconic.sgx.meter import Meter
from laconic.sgx.pal.edmm import RW, permissions
from laconic.strategies.pagefloor import (
    DIES,
    FROM_FILE,
    KEEPS,
    OTHER,
    TRIM,
    PageFloor,
    PageShape,
    PageStep,
    Tally,
    plus,
)

#: The value of a page run: the call in which its pages were last live, and the open choices.
Value = tuple[int, PageShape]
_WORK = UNMAP | FILE | EXTEND | RESTRICT | ZERO
#: Pages of a thread's stack in the library OS, without its guard page (Gramine's libos_thread.c).
_THREAD_STACK = 7
#: A page that mremap moved: to a page that does not exist, or to one that does.
_ARRIVE: Tally = (("eacceptcopy", 1), ("eaug", 1), ("eaug_faults", 1))
_OVERWRITE: Tally = (("pages_copied", 1),)


def bound(
    profile: CostProfile, high: bool = False
) -> Callable[[Meter, AddressSpace, Touches], Bound]:
    """Return a maker of bounds for the low or the high end of `profile`, with the signature of a
    strategy's class.

    The two ends may choose differently. The bound's cycles range from the low cycles of the low
    end's counts to the high cycles of the high end's counts.
    """
    floor = PageFloor(profile.vector(high))

    def made(meter: Meter, space: AddressSpace, touches: Touches) -> Bound:
        return Bound(meter, space, touches, floor)

    return made


class Bound(Strategy):
    """The bound of one enclave, under the costs of `floor`. Its `peak_epc_pages` counts live pages
    only."""

    name: ClassVar[str] = "bound"

    def __init__(
        self, meter: Meter, space: AddressSpace, touches: Touches, floor: PageFloor
    ) -> None:
        super().__init__(meter, space, touches)
        self.needs_unchanged = False
        self.floor = floor
        #: Pages that are live or have open choices. Other pages are not stored, so a reservation
        #: costs nothing.
        self.pages: RangeMap[Value] = RangeMap()
        self._live: Value = 0, floor.live
        self._files: set[File] = set()
        self._now = 0
        # The calls in which the last two host calls, and the last two ioctls, were counted.
        self._host_calls = self._ioctls = (-1, -1)
        self._threads = self._most_threads = self._committed = 0

    # Events

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave; none of it is committed yet. O(1)."""
        self.meter.create()

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack: nothing is needed before it is touched. O(1)."""

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle first touches: the pages are live from here on. O(log n + k)."""
        if vma.flags & (VM_IO | VM_PFNMAP):
            return  # a device's pages cannot be in an enclave
        floor, prot, file = self.floor, permissions(vma.flags), vma.is_from_disk
        if file:
            self._read(vma)
        entered = 0
        for run_start, run_end, value in self.pages.runs(start, end):
            pages = run_end - run_start >> PAGE_SHIFT
            if value is None:
                self._enter(floor.commit(prot, file), pages)
            elif value[1] is floor.live:
                continue
            else:
                self._enter(floor.touch(value[1], prot, file), pages)
            entered += pages
        if entered:
            self.pages.set(start, end, self._live)
            self._exist(entered)

    def call(self, call: MemoryCall) -> None:
        """Count the minimum work of one memory call. O(changes log n)."""
        pages = self.pages
        changes = call.changes
        if not changes or (not pages.count and not self.floor.eager):
            return
        if len(changes) == 1 and self._nothing(changes[0]):
            return
        name, args = call.name, call.args
        if name == "madvise" and args[2] == MADV_FREE:
            return  # the contents may stay
        self._now += 1
        moved = self._moved(changes) if name == "mremap" else ()
        work = _CallWork(self)
        for kind, start, end, wanted, held, source in changes:
            if held is None or not kind & _WORK:
                continue
            if wanted is None:
                work.unmap(start, end)
                continue
            event = permissions(held.flags) | permissions(wanted.flags) << 3
            if kind & (ZERO | FILE) or source is not None:
                event |= DIES
                if wanted.is_from_disk:
                    event |= FROM_FILE
                if kind & FILE or source is not None:
                    event |= OTHER
                elif wanted.flags & VM_MAYSHARE:
                    event |= KEEPS
                elif wanted.file is not None:
                    # A page of the file that was only read still has the file's contents.
                    for run_start, run_end, how in self.touches.pages.runs(start, end):
                        work.step(
                            run_start, run_end, event | KEEPS if how == CLEAN else event, wanted
                        )
                    continue
            elif wanted.is_from_disk:
                event |= FROM_FILE
            work.step(start, end, event, wanted)
        work.done()
        for start, end, overlaid in moved:
            # EACCEPTCOPY takes the contents from the old address. If a page may already exist at
            # the new one, they are copied over it.
            ways = (_ARRIVE, _OVERWRITE) if overlaid else (_ARRIVE,)
            self._enter(self.floor.cheapest(ways), end - start >> PAGE_SHIFT)
            self.pages.set(start, end, self._live)
            self._exist(end - start >> PAGE_SHIFT)

    def _nothing(self, change: Change) -> bool:
        # True for a new mapping, and for pages that are not committed and that no strategy would
        # commit for this.
        kind, start, end, wanted, held, source = change
        if held is None or source is not None:
            return source is None
        eager = self.floor.eager
        if wanted is not None and eager and (eager != OTHER or kind & FILE):
            return False
        _, run_end, value = self.pages.find(start)
        return value is None and end <= run_end

    def _moved(self, changes: Iterable[Change]) -> list[tuple[int, int, bool]]:
        # Return the new ranges of live pages that mremap moves, and whether pages may exist there.
        # Those are removed.
        places = []
        for _, start, end, _, _, source in changes:
            if source is not None:
                by = start - source
                for run_start, run_end, value in self.pages.runs(source, source + end - start):
                    if value is not None and value[1] is self.floor.live:
                        places.append((run_start + by, run_end + by))
        moved = []
        for start, end in places:
            for run_start, run_end, value in list(self.pages.runs(start, end)):
                if value is not None:
                    self._leave(run_start, run_end, value, self.floor.end(value[1]))
                    self.pages.set(run_start, run_end, None)
                moved.append((run_start, run_end, value is not None))
        return moved

    # Counting

    def _enter(self, tally: Tally, pages: int) -> None:
        counts = self.meter.counts
        for name, count in tally:
            setattr(counts, name, getattr(counts, name) + count * pages)

    def _exist(self, pages: int) -> None:
        self._committed += pages
        meter = self.meter
        meter.epc_pages = now = meter.epc_pages + pages
        if now > meter.peak_epc_pages:
            meter.peak_epc_pages = now

    def _leave(self, start: int, end: int, value: Value, tally: Tally) -> None:
        # Count the decided cost of pages that are no longer live.
        pages = end - start >> PAGE_SHIFT
        if tally:
            self._enter(tally, pages)
        if value[1] is self.floor.live:
            self._committed -= pages
            self.meter.epc_pages -= pages

    def _need(self, since: int, host_calls: int, ioctls: int) -> None:
        """Count the host calls and ioctls needed between the call `since` and now, except those
        already counted in that interval. O(1)."""
        first, last = self._host_calls
        for _ in range(host_calls - (first >= since) - (last >= since)):
            self.meter.counts.host_calls += 1
            self._host_calls = self._host_calls[1], self._now
        first, last = self._ioctls
        more = ioctls - (first >= since) - (last >= since)
        if more > 0:
            self.meter.counts.ioctls += more
            self._ioctls = (self._now if more > 1 else self._ioctls[1]), self._now

    def _read(self, vma: Vma) -> None:
        # Only the host can provide a file's contents: at least one host call for each file.
        if vma.file is not None and vma.file not in self._files:
            self._files.add(vma.file)
            self.meter.counts.host_calls += 1

    # Processes and threads

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave. The parent writes the contents that are only in memory, and
        the child reads them. O(n)."""
        child = type(self)(self.meter, space, touches, self.floor)
        self.meter.create()
        self.meter.counts.host_calls += 1
        sent = 0
        for start, end, value in list(self.pages):
            if value[1] is not self.floor.live:
                continue
            for vma_start, vma_end, vma in space.vmas.runs(start, end):
                if vma is None or vma.flags & (VM_WIPEONFORK | VM_IO | VM_PFNMAP):
                    continue
                for run_start, run_end, how in self.touches.pages.runs(vma_start, vma_end):
                    if how == OWN or (how and vma.file is None):
                        sent += child._receive(run_start, run_end, permissions(vma.flags))
        if sent:
            self.meter.counts.host_calls += 2
        return child

    def _receive(self, start: int, end: int, prot: int) -> int:
        pages = end - start >> PAGE_SHIFT
        ways: list[Tally] = [(("eacceptcopy", 1),)]
        if prot & RW == RW:
            # The child is not running yet, so nothing can read the page before it has its contents.
            ways.append((("eaccept", 1),) if prot == RW else (("eaccept", 1), ("emodpe", 1)))
        common: Tally = (("eaug", 1), ("eaug_faults", 1), ("pages_copied", 2))
        self._enter(plus(common, self.floor.cheapest(ways)), pages)
        self.pages.set(start, end, self._live)
        self._exist(pages)
        return pages

    def thread(self) -> None:
        """Start a thread: count a stack in the library OS and a TCS for each thread above the
        previous maximum. O(1)."""
        self._threads += 1
        if self._threads <= self._most_threads:
            return
        self._most_threads = self._threads
        self._enter(self.floor.commit(RW, False), _THREAD_STACK)
        # A TCS has contents. They are written after EACCEPT has made the page writable, or provided
        # by EACCEPTCOPY.
        self._enter(self.floor.commit(RW, False), 1)
        self._enter((("eaccept", 1), ("emodt", 1), ("etrack_ipis", 1)), 1)
        if self._most_threads == 1:
            # A strategy that knows the number of threads makes all TCSs together: one ioctl, in an
            # existing host call.
            self._enter((("ioctls", 1),), 1)
            self._need(0, 1, 0)
        self._exist(_THREAD_STACK + 1)

    def thread_ends(self) -> None:
        """End a thread; the next one uses its stack and TCS. O(1)."""
        self._threads -= 1

    def end(self) -> None:
        """End the enclave, and decide all open choices. O(n)."""
        for start, end, value in self.pages:
            if value[1] is not self.floor.live:
                self._enter(self.floor.end(value[1]), end - start >> PAGE_SHIFT)
        self.meter.destroy(self._committed)
        self.pages = RangeMap()
        self._committed = 0


class _CallWork:
    """The effects of one call on the pages of a bound, which are written only after all of them are
    known."""

    __slots__ = ("bound", "died", "either", "needs", "restricted", "trimmed", "writes")

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.writes: list[tuple[int, int, Value | None]] = []
        #: Live pages that require an ioctl: the runs of each kind, in ascending order.
        self.trimmed: list[Range] = []
        self.restricted: list[Range] = []
        self.either: list[Range] = []
        #: True if contents died: other live pages may then be trimmed as well.
        self.died = False
        #: The needs of pages that were live earlier: since which call, and how many host calls.
        self.needs: list[tuple[int, int]] = []

    def unmap(self, start: int, end: int) -> None:
        """Unmap pages; live pages are released within the call."""
        bound = self.bound
        live = bound.floor.live
        for run_start, run_end, value in bound.pages.runs(start, end):
            if value is None:
                continue
            since, shape = value
            if shape is live:
                bound._leave(run_start, run_end, value, TRIM)
                self.trimmed.append((run_start, run_end))
            else:
                bound._leave(run_start, run_end, value, bound.floor.unmap(shape))
                if shape.dead:
                    self.needs.append((since, 2))
            self.writes.append((run_start, run_end, None))

    def step(self, start: int, end: int, event: int, wanted: Vma) -> None:
        """Give pages other permissions or contents."""
        bound = self.bound
        floor, eager = bound.floor, bound.floor.eager
        self.died |= bool(event & DIES)
        for run_start, run_end, value in bound.pages.runs(start, end):
            if value is not None:
                since, shape = value
            elif event & eager:
                since, shape = 0, floor.fresh
            else:
                continue
            step = floor.step(shape, event)
            if step.tally:
                bound._enter(step.tally, run_end - run_start >> PAGE_SHIFT)
            if shape is floor.live:
                if step.host_calls:
                    self._live(run_start, run_end, step)
                since = bound._now
            elif step.host_calls:
                self.needs.append((since, step.host_calls))
            if step.shape is not floor.live:
                if shape is floor.live:
                    bound._leave(run_start, run_end, bound._live, ())
                after = (
                    None if step.shape is None or step.shape is floor.fresh else (since, step.shape)
                )
                if after != value:
                    self.writes.append((run_start, run_end, after))

    def _live(self, start: int, end: int, step: PageStep) -> None:
        runs = (
            self.either
            if step.either
            else self.restricted
            if step.host_calls == 1
            else self.trimmed
        )
        runs.append((start, end))

    def done(self) -> None:
        """Count the host calls and ioctls, and write the pages' new values."""
        bound = self.bound
        if self.trimmed or self.restricted or self.either:
            ioctls = self._ioctls(self.restricted, 0) + 2 * self._ioctls(self.trimmed, 1)
            bound._need(bound._now, 2 if self.trimmed else 1, ioctls or 1)
        for since, host_calls in self.needs:
            bound._need(since, host_calls, host_calls)
        for start, end, value in self.writes:
            bound.pages.set(start, end, value)

    def _ioctls(self, runs: list[Range], kind: int) -> int:
        # An ioctl covers one page run, and fails at an uncommitted page. Runs separated by such a
        # page therefore need separate ioctls if committing the page would cost more than an ioctl.
        if len(runs) < 2 or not self.bound.floor.separate[kind]:
            return len(runs[:1])
        count = 1
        for (_, last), (start, _) in itertools.pairwise(runs):
            between = self.bound.pages.runs(last, start)
            count += any(
                value is None or (value[1] is self.bound.floor.live and not self.died)
                for _, _, value in between
            )
        return count
