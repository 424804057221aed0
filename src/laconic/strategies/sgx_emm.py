"""sgx-emm: a library OS on sgx-emm, the memory manager of Intel's SDK, which keeps regions.

A region has one permission for all its pages, and a bit per page that says whether it is committed.
The manager skips a region that already has the requested permission, and commits or trims only the
pages that need it. It does not consider the direction of a permission change: every change is an
OCALL, in which the untrusted side restricts each page and calls mprotect, even if the change only
extends. Comments name the functions of sgx-emm (ema.c, sgx_mm.c) and of the SDK's untrusted side
(`enclave_modify` in sgx_enclave_common.cpp).

The SDK has no library OS. The part above its API is an assumption, the plainest use of that API:

- Inaccessible memory is RESERVE, which is not an OCALL. Readable and writable memory is
  COMMIT_ON_DEMAND.
- The manager's fault handler and `sgx_mm_commit` accept pages as RW only. All other memory, and
  files, are therefore committed when they are mapped, by `sgx_mm_commit_data`, from a buffer of the
  library OS that is not counted.
- MAP_FIXED deallocates what is there first, because `sgx_mm_alloc` returns EEXIST.
- `sgx_mm_modify_permissions` rejects a range that contains uncommitted pages. To make a region
  inaccessible, the library OS splits it and reserves its uncommitted pages. For another permission
  it commits them first.
- Contents are discarded by `sgx_mm_uncommit`, and copied within the enclave by
  `sgx_mm_commit_data`.
- Reading a file is one host call per mapping. A forked child receives every committed page.
- Guard regions are not supported: MADV_GUARD_INSTALL removes the pages, and no more.

The law Strict has two exceptions, both forced by the API. Pages that are executable only are
readable too (`sgx_mm_modify_permissions` rejects X without R). Inaccessible pages are opened for
reading before they are trimmed (`ema_do_dealloc`) or copied. `open_windows` counts both.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import ClassVar, Final, NamedTuple, Self

from mypy_extensions import mypyc_attr

from laconic.errors import LaconicError
from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.memory.change import EXTEND, FILE, MAP, RESTRICT, ZERO, Change, coalesce
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MS_SYNC,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_RWX,
    PROT_WRITE,
    TASK_SIZE,
    VM_IO,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_WIPEONFORK,
)
from laconic.memory.mmap import page_align, populates
from laconic.memory.rangemap import Range, RangeMap, join_ranges
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import Vma
from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_TCS, PT_TRIM, Meter
from laconic.sgx.model.faults import SgxError
from laconic.sgx.pal.edmm import insist

RW: Final = PROT_READ | PROT_WRITE
WX: Final = PROT_WRITE | PROT_EXEC
#: A thread's slot, above all addresses that a program can map: a guard page, 7 pages of stack, and
#: the TCS.
THREAD_STACK: Final = 7 * PAGE_SIZE
_SLOTS: Final = TASK_SIZE + PAGE_SIZE
_SLOT: Final = 16 * PAGE_SIZE
#: Advice that removes shared memory from the page tables without discarding its contents.
_UNMAPS_SHARED: Final = (MADV_DONTNEED, MADV_DONTNEED_LOCKED)


class Aborted(LaconicError):
    """An EACCEPT failed while the manager committed pages, so it called abort()."""


class Ema(NamedTuple):
    """An `ema_t`: `prot` is the permission of all its committed pages, `reserved` SGX_EMA_RESERVE.

    Equal regions stay separate objects, and neighbors never merge.
    """

    prot: int
    reserved: bool = False


def emm_prot(vm_flags: int) -> int:
    """Return the permissions that the API accepts for a VMA: any access includes READ. O(1)."""
    prot = vm_flags & PROT_RWX
    return prot | PROT_READ if prot else 0


class Emm:
    """The memory manager of one enclave: `regions`, and which of their pages are `committed`.

    An unreserved region that is not RW has no uncommitted pages. Ranges are in bytes and page
    aligned. If the host fails, operations raise `SgxError`, and nothing is rolled back. All
    operations take O(log n + runs).
    """

    __slots__ = ("committed", "meter", "regions")

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.regions: RangeMap[Ema] = RangeMap(operator.is_)
        self.committed: RangeMap[bool] = RangeMap()

    def pages(self, start: int, end: int, committed: bool) -> list[Range]:
        """Return the page runs of `[start, end)` that are committed, or those that are not."""
        runs = self.committed.runs(start, end)
        return [
            (run_start, run_end)
            for run_start, run_end, value in runs
            if (value is not None) == committed
        ]

    def count(self) -> int:
        """Return the number of committed pages. O(n)."""
        return sum(end - start for start, end, _ in self.committed) >> PAGE_SHIFT

    def reserve(self, start: int, end: int) -> None:
        """`sgx_mm_alloc` with RESERVE: no OCALL (`ema_do_alloc`)."""
        self.regions.set(start, end, Ema(0, True))

    def alloc(self, start: int, end: int) -> None:
        """`sgx_mm_alloc` with COMMIT_ON_DEMAND, also within a reservation: an OCALL, which maps
        RW."""
        self.meter.host_protect(start, end, RW)
        self.regions.set(start, end, Ema(RW))

    def commit(self, start: int, end: int) -> int:
        """`sgx_mm_commit`: EACCEPT of the pages that are not committed yet (`ema_do_commit`).

        Returns the number of those pages. Raises `Aborted` if an EACCEPT fails, because the manager
        then calls abort() (`sgx_mm_enclave_pfhandler`, `eaccept_range_forward`).
        """
        count = 0
        for run_start, run_end in self.pages(start, end, committed=False):
            self.meter.eaug(run_start, run_end)
            try:
                self.meter.eaccept(run_start, run_end, RW, PENDING)
            except SgxError as error:
                raise Aborted(f"commit: {error}; sgx-emm aborts the enclave here") from error
            self.committed.set(run_start, run_end, True)
            count += run_end - run_start >> PAGE_SHIFT
        return count

    def commit_data(self, start: int, end: int, prot: int, source: int | None = None) -> None:
        """`sgx_mm_commit_data` into RW regions without committed pages there.

        `source` is the address of the data in the enclave; None is a buffer of the library OS.
        EACCEPTCOPY sets the permissions, and `ema_do_commit_data_loop` changes them once more.
        """
        self.meter.eaug(start, end)
        self.meter.eacceptcopy(start, end, prot, source)
        self.committed.set(start, end, True)
        self._modify(start, end, prot)

    def modify_permissions(self, start: int, end: int, prot: int) -> None:
        """`sgx_mm_modify_permissions` of committed pages.

        Raises ValueError if some page is not committed; the API returns EINVAL then
        (`ema_can_modify_permissions`).
        """
        if self.pages(start, end, committed=False):
            raise ValueError(f"[{start:#x}, {end:#x}) contains uncommitted pages: commit or split")
        self._modify(start, end, prot)

    def uncommit(self, start: int, end: int) -> None:
        """`sgx_mm_uncommit`: pages leave the EPC, regions stay. No region may be inaccessible."""
        for region_start, region_end, region in self.regions.parts(start, end):
            self._trim(region_start, region_end, region.prot)

    def dealloc(self, start: int, end: int) -> None:
        """`sgx_mm_dealloc`. Inaccessible pages are made readable first, because EACCEPT needs
        that."""
        for region_start, region_end, region in self.regions.parts(start, end):
            if not region.prot and self.pages(region_start, region_end, committed=True):
                self.open(region_start, region_end)
            self._trim(region_start, region_end, 0)
            self.regions.set(region_start, region_end, None)

    def open(self, start: int, end: int) -> None:
        """Make inaccessible committed pages readable, against the program's request."""
        self.modify_permissions(start, end, PROT_READ)
        self.meter.counts.open_windows += end - start >> PAGE_SHIFT

    def make_tcs(self, start: int) -> None:
        """`sgx_mm_modify_type` of a committed RW page (`ema_change_to_tcs`)."""
        end = start + PAGE_SIZE
        self.meter.host_call()
        insist(self.meter.modify_types, start, end, PT_TCS)
        self.meter.eaccept(start, end, 0, PT_TCS << 8 | MODIFIED)
        self.regions.set(start, end, Ema(0))

    def _modify(self, start: int, end: int, prot: int) -> None:
        # ema_modify_permissions: the region is updated only after all its pages have changed.
        for region_start, region_end, region in self.regions.parts(start, end):
            if region.prot != prot:
                self._change(region_start, region_end, region.prot, prot)
                self.regions.set(region_start, region_end, Ema(prot))
                if not prot:
                    # The host's PROT_NONE comes last: EACCEPT needs a readable mapping.
                    self.meter.host_protect(region_start, region_end, 0)

    def _change(self, start: int, end: int, before: int, prot: int) -> None:
        # The OCALL (enclave_modify): EMODPR whatever the direction, and mprotect unless to NONE.
        meter = self.meter
        insist(meter.restrict, start, end, prot)
        if prot:
            meter.host_protect(start, end, prot)
        else:
            meter.host_call()
        if prot & ~before:
            meter.emodpe(start, end, prot)
        if prot & WX != WX:
            meter.eaccept(start, end, prot, PR)

    def _trim(self, start: int, end: int, prot: int) -> None:
        # ema_do_uncommit_real: two OCALLs for each run of committed pages. If `prot` is NONE, the
        # second calls mprotect too.
        meter = self.meter
        for run_start, run_end in self.pages(start, end, committed=True):
            meter.host_call()
            insist(meter.modify_types, run_start, run_end, PT_TRIM)
            meter.eaccept(run_start, run_end, 0, MODIFIED)
            self.committed.set(run_start, run_end, None)
            insist(meter.remove, run_start, run_end)
            if prot:
                meter.host_call()
            else:
                meter.host_protect(run_start, run_end, 0)


@mypyc_attr(allow_interpreted_subclasses=True)
class SgxEmm(Strategy):
    """The strategy `sgx-emm`: the library OS above `emm`.

    Raises `SgxError` or `Aborted` if the host fails. The host's mapping always follows, in the
    OCALL of each change, so `--pte` makes no difference.
    """

    name: ClassVar[str] = "sgx-emm"

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        self.emm = Emm(meter)
        self.sizes = touches.sizes
        #: The number of threads in addition to the first, and the number of slots for threads.
        self.threads = 0
        self.slots = 0

    # Events

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave. O(entries)."""
        self.meter.create()
        for start, end, vma in entries:
            self._map(start, end, vma)

    def call(self, call: MemoryCall) -> None:
        """Do the work of one memory call. O(log n + regions)."""
        name, args, result, changes, _ = call
        if name == "mmap" and result >= 0:
            self._mmap(result, args, changes)
        elif name == "madvise":
            self._madvise(args[2], changes)
        elif name == "msync":
            if args[2] & MS_SYNC:
                self.meter.host_call(len(changes))
        else:
            self._apply(changes)
            if name in ("mlock", "mlock2", "mlockall"):
                self._populate(change for change in changes if _is_locked(change.wanted))

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle first touches: each uncommitted page is committed in an exception.
        O(log n + k)."""
        for region_start, region_end, region in self.emm.regions.parts(start, end):
            pages = region_end - region_start >> PAGE_SHIFT
            if region.reserved:
                # When the page was mapped, it was past the end of its file; the file has grown
                # since.
                self.meter.exception(pages)
                self._fill(region_start, region_end, vma)
            else:
                self.meter.exception(self._commit(region_start, region_end))
            self.meter.counts.untouched_pages -= pages

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack. Its full size was allocated earlier, so no OCALL is needed.
        O(log n)."""
        self.emm.dealloc(start, end)
        self._map(start, end, vma)
        self.meter.counts.host_calls -= 1

    def _mmap(self, start: int, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        # The library OS does not know which pages differ, so it deallocates all and allocates them
        # again.
        end = start + page_align(args[1])
        if changes:
            end = max(end, changes[-1].end)  # huge pages round up
        self.emm.dealloc(start, end)
        for vma_start, vma_end, vma in self.space.vmas.parts(start, end):
            self._map(vma_start, vma_end, vma)
            if populates(args[3]) or _is_locked(vma):
                self._commit_ahead(vma_start, vma_end, vma)

    def _madvise(self, advice: int, changes: tuple[Change, ...]) -> None:
        if advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
            self._populate(changes)
        if advice == MADV_FREE:
            return
        for kind, start, end, vma, _, _ in changes:
            if vma is None or not kind & ZERO:
                continue
            if vma.flags & VM_MAYSHARE and advice in _UNMAPS_SHARED:
                # The pages stay, and count as untouched from now on.
                self.meter.counts.untouched_pages += self.touches.count(start, end)
            elif advice == MADV_GUARD_INSTALL and not _is_on_demand(vma):
                self.emm.dealloc(start, end)
                self.emm.reserve(start, end)
            else:
                self._discard(start, end, vma)

    def _apply(self, changes: tuple[Change, ...]) -> None:
        # Pages are moved before their source is discarded.
        for change in changes:
            if change.source is not None:
                self.emm.dealloc(change.start, change.end)
                self._move(change.start, change.end, change.source)
        self._protect(changes)
        for start, end in coalesce(change for change in changes if change.wanted is None):
            self.emm.dealloc(start, end)
        for kind, start, end, vma, _, source in changes:
            if vma is None or source is not None:
                continue
            if kind & (MAP | FILE):
                self.emm.dealloc(start, end)
                self._map(start, end, vma)
            elif kind & ZERO:
                self._discard(start, end, vma)

    def _protect(self, changes: Iterable[Change]) -> None:
        for start, end, prot in _protections(changes):
            for region_start, region_end, region in self.emm.regions.parts(start, end):
                if region.prot == prot:
                    continue
                if region.reserved:
                    # Memory allocated within a reservation has the contents of a new mapping.
                    for vma_start, vma_end, vma in self.space.vmas.parts(region_start, region_end):
                        self._map(vma_start, vma_end, vma)
                elif prot:
                    self._commit(region_start, region_end)
                    self.emm.modify_permissions(region_start, region_end, prot)
                    self._count_readable(region_start, region_end)
                else:
                    self._close(region_start, region_end)

    def _close(self, start: int, end: int) -> None:
        # Make a part of a region inaccessible.
        for run_start, run_end in self.emm.pages(start, end, committed=False):
            self.emm.dealloc(run_start, run_end)
            self.emm.reserve(run_start, run_end)
        for run_start, run_end in self.emm.pages(start, end, committed=True):
            self.emm.modify_permissions(run_start, run_end, 0)

    def _discard(self, start: int, end: int, vma: Vma) -> None:
        # Give a mapping the contents of a new one.
        if _is_on_demand(vma):
            self.emm.uncommit(start, end)
        else:
            # commit and commit_data accept RW regions only.
            self.emm.dealloc(start, end)
            self._map(start, end, vma)

    def _move(self, start: int, end: int, source: int) -> None:
        # mremap: copies the pages. Another change handles those at the source.
        emm, distance = self.emm, start - source
        for region_start, region_end, region in emm.regions.parts(source, source + end - start):
            if region.reserved:
                emm.reserve(region_start + distance, region_end + distance)
                continue
            if not region.prot:
                emm.open(region_start, region_end)
            emm.alloc(region_start + distance, region_end + distance)
            for run_start, run_end in emm.pages(region_start, region_end, committed=True):
                emm.commit_data(run_start + distance, run_end + distance, region.prot, run_start)
                self._count_readable(run_start + distance, run_end + distance)
            if not region.prot and self.space.vmas.get(region_start) is not None:
                emm.modify_permissions(region_start, region_end, 0)

    # Memory in the enclave

    def _map(self, start: int, end: int, vma: Vma) -> None:
        # Turn free or reserved memory into that of `vma`. [vvar] is the kernel's own.
        if vma.flags & (VM_IO | VM_PFNMAP):
            return
        valid_end = start
        if emm_prot(vma.flags):
            valid_end = max(start, min(end, self.sizes.valid_end(vma)))
        if start < valid_end:
            self._fill(start, valid_end, vma)
        if valid_end < end:
            self.emm.reserve(valid_end, end)

    def _fill(self, start: int, end: int, vma: Vma) -> None:
        # Allocate accessible memory, and commit what the fault handler cannot commit.
        self.emm.alloc(start, end)
        if _is_on_demand(vma):
            return
        pages = end - start >> PAGE_SHIFT
        if vma.is_from_disk:
            self.meter.host_call()
            self.meter.copy(pages)
        self.emm.commit_data(start, end, emm_prot(vma.flags))
        self.meter.counts.untouched_pages += pages
        self._count_readable(start, end)

    def _commit(self, start: int, end: int) -> int:
        pages = self.emm.commit(start, end)
        self.meter.counts.untouched_pages += pages
        return pages

    def _commit_ahead(self, start: int, end: int, vma: Vma) -> None:
        if _is_on_demand(vma):
            self._commit(start, end)

    def _populate(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.wanted is not None:
                self._commit_ahead(change.start, change.end, change.wanted)

    def _count_readable(self, start: int, end: int) -> None:
        # Count pages that the program requested to be executable only.
        for vma_start, vma_end, vma in self.space.vmas.parts(start, end):
            if vma.flags & PROT_RWX == PROT_EXEC:
                self.meter.counts.open_windows += vma_end - vma_start >> PAGE_SHIFT

    # Processes and threads

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave; every committed page is sent to it. O(n)."""
        child = type(self)(self.meter, space, touches)
        self.meter.host_call()
        self.meter.create()
        sent = 0
        for start, end, region in list(self.emm.regions):
            for part_start, part_end in _inherited(space, start, min(end, TASK_SIZE)):
                sent += self._send(part_start, part_end, region, child)
        for start, end, vma in child.space.vmas.parts(0, TASK_SIZE):
            if vma.flags & VM_WIPEONFORK:
                child._map(start, end, vma)
        if sent:
            self.meter.host_call(2)
            self.meter.copy(sent)
        return child

    def _send(self, start: int, end: int, region: Ema, child: SgxEmm) -> int:
        # Returns the number of pages.
        if region.reserved:
            child.emm.reserve(start, end)
            return 0
        if not region.prot:
            self.emm.open(start, end)
        child.emm.alloc(start, end)
        sent = 0
        for run_start, run_end in self.emm.pages(start, end, committed=True):
            child.emm.commit_data(run_start, run_end, region.prot)
            child._count_readable(run_start, run_end)
            pages = run_end - run_start >> PAGE_SHIFT
            self.meter.counts.untouched_pages += pages - child.touches.count(run_start, run_end)
            sent += pages
        if not region.prot:
            self.emm.modify_permissions(start, end, 0)
        return sent

    def thread(self) -> None:
        """Start a thread with a new stack and TCS, or with those of a thread that has ended.
        O(log n)."""
        if self.threads == self.slots:
            guard = _SLOTS + self.slots * _SLOT
            stack = guard + PAGE_SIZE
            tcs = stack + THREAD_STACK
            self.emm.reserve(guard, stack)
            self.emm.alloc(stack, tcs + PAGE_SIZE)
            self.emm.commit(stack, tcs + PAGE_SIZE)
            self.emm.make_tcs(tcs)
            self.slots += 1
        self.threads += 1

    def thread_ends(self) -> None:
        """End a thread; its stack and TCS stay for the next one. O(1)."""
        self.threads -= 1

    def end(self) -> None:
        """End the enclave. O(n)."""
        self.meter.destroy(self.emm.count())


def _is_on_demand(vma: Vma) -> bool:
    # Return whether the manager's own fault handler, which accepts zeroed RW pages, can commit the
    # VMA's pages.
    return emm_prot(vma.flags) == RW and not vma.is_from_disk


def _is_locked(vma: Vma | None) -> bool:
    return vma is not None and vma.is_locked


def _protections(changes: Iterable[Change]) -> list[tuple[int, int, int]]:
    # Return the ranges of which only the permissions change, as (start, end, prot). Neighbors that
    # get the same permission are joined.
    ranges: list[tuple[int, int, int]] = []
    for kind, start, end, vma, _, source in changes:
        if (
            vma is None
            or source is not None
            or kind & (MAP | FILE | ZERO)
            or not kind & (EXTEND | RESTRICT)
        ):
            continue
        prot = emm_prot(vma.flags)
        if ranges and ranges[-1][1:] == (start, prot):
            ranges[-1] = (ranges[-1][0], end, prot)
        else:
            ranges.append((start, end, prot))
    return ranges


def _inherited(space: AddressSpace, start: int, end: int) -> list[Range]:
    # Return the ranges of a child's address space that have the parent's contents, joined.
    return join_ranges(
        (vma_start, vma_end)
        for vma_start, vma_end, vma in space.vmas.parts(start, end)
        if not vma.flags & VM_WIPEONFORK
    )
