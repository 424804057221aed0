"""Gramine's LibOS as it is today: its bookkeeping, and the PAL calls that it makes for each
operation.

VMAs never merge (libos_vma.c): a region made by ten calls is ten VMAs, and ten Frees release it.
Gramine's work around the calls is in the other modules of this package: `loader`, `heap`, `files`,
`threads`, `checkpoint`, `slab`. Comments name Gramine's functions.
"""

from __future__ import annotations

import operator
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from laconic.libos.settings import DEFAULTS, Settings
from laconic.libos.slab import VmaSlab, list_pages
from laconic.libos.strategy import ContinuingStrategy
from laconic.libos.touches import Touches
from laconic.memory.change import new
from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE, PROT_RWX, PROT_WRITE, VM_SHARED
from laconic.memory.rangemap import TOP, Range, RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter
from laconic.sgx.pal.gramine import INTERNAL, LAZY, RW, Gramine
from laconic.sgx.pal.switches import NO_SWITCHES, Switches

#: VMA flags of Gramine's own: the LibOS's memory, a file mapping that was ever writable, and a file
#: mapping whose handle may write.
VMA_INTERNAL, VMA_TAINTED, VMA_MAY_WRITE = 0x20000000, 0x40000000, 0x80000000
#: The LibOS's own memory in the model, in bytes: the stacks of threads start at INTERNAL, followed
#: by lists of VMAs, the VMA objects, and the checkpoints that are sent and received.
LISTS: Final = INTERNAL + (1 << 43)
SLAB: Final = INTERNAL + (2 << 43)
STORE: Final = INTERNAL + (3 << 43)
RECEIVED: Final = INTERNAL + (4 << 43)


class LibosVma(NamedTuple):
    """One VMA; each is a separate object. `flags`: VM_NORESERVE (lazy), VM_SHARED, and the VMA_*.

    The file's contents end at the address `file_end` (bytes; TOP if that is unknown).
    """

    prot: int
    flags: int = 0
    file: File | None = None
    file_end: int = TOP

    @property
    def valid_end(self) -> int:
        """The address at which the pages of the file end."""
        return (self.file_end + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE


@mypyc_attr(allow_interpreted_subclasses=True)
class Libos(ContinuingStrategy):
    """One process's LibOS. `vmas` are the LibOS's own; `pal` contains the pages. All ranges are in
    bytes, page aligned.

    `settings` are the manifest's. `pal_type` is the PAL of a new process. `switches` are the
    changes to Gramine that are on. `transfers` counts the host calls that read or wrote contents of
    files.
    """

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        settings: Settings = DEFAULTS,
        pal_type: type[Gramine] = Gramine,
        switches: Switches = NO_SWITCHES,
    ) -> None:
        super().__init__(meter, space, touches)
        self.settings = settings
        self.pal_type = pal_type
        self.switches = switches
        self.pal = pal_type(meter, switches)
        self.slab = VmaSlab(SLAB)
        self.vmas: RangeMap[LibosVma] = RangeMap(operator.is_)
        #: The ranges in which each file may be mapped.
        self.mapped: dict[File, RangeMap[bool]] = {}
        #: Files that the host has mapped for the handler of first touches.
        self.hosted: set[File] = set()
        #: The starts of mappings that an executed program inherits from the previous one.
        self.kept: set[int] = set()
        self.transfers = 0

    @property
    def has_tails(self) -> bool:
        """Whether pages past the end of a mapped file are committed, and inaccessible."""
        return not (self.switches.reserve or self.switches.demand)

    def map_file(self, start: int, end: int, vma: LibosVma) -> None:
        """generic_emulated_mmap: read the file, because the enclave cannot map it. O(log n)."""
        prot, flags, file, _file_end = vma
        assert file is not None
        valid = max(min(end, vma.valid_end), start)
        if self.switches.demand:
            self._reserve_file(start, valid)
        elif self.switches.copy:
            self._copy_file(start, end, valid, vma)
        else:
            self._fill_file(start, end, valid, vma)
        if prot & PROT_WRITE:
            vma = vma._replace(flags=flags | VMA_TAINTED)
        self.vmas.set(start, end, vma)
        if file not in self.mapped:
            self.mapped[file] = RangeMap()
        self.mapped[file].set(start, end, True)

    def _fill_file(self, start: int, end: int, valid: int, vma: LibosVma) -> None:
        # Gramine today: the memory is made writable, read into, and then protected. Pages past the
        # end of the file, from `valid` on, are inaccessible.
        pal, counts, prot = self.pal, self.meter.counts, vma.prot
        filled = end if self.has_tails else valid
        if start < filled:
            pal.alloc(start, filled, prot | PROT_WRITE)
        counts.untouched_pages += filled - start >> PAGE_SHIFT
        self.read_file(start, end, vma.file_end)
        opened = valid if prot & PROT_WRITE else start
        counts.open_windows += filled - opened >> PAGE_SHIFT
        if not prot & PROT_WRITE and start < filled:
            pal.protect(start, filled, prot)
        if valid < filled:
            pal.protect(valid, filled, 0)

    def _copy_file(self, start: int, end: int, valid: int, vma: LibosVma) -> None:
        # The contents are read outside the mapping, and EACCEPTCOPY copies them in with the final
        # protection.
        counts = self.meter.counts
        if start < valid:
            self.pal.alloc(start, valid, vma.prot)
            counts.untouched_pages += valid - start >> PAGE_SHIFT
        self.read_file(start, end, vma.file_end)
        if valid < end and self.has_tails:
            self.pal.alloc(valid, end, 0)
            counts.untouched_pages += end - valid >> PAGE_SHIFT

    def _reserve_file(self, start: int, valid: int) -> None:
        # The contents are read at the first touch; pages past the end of the file never exist.
        if start < valid:
            self.pal.alloc(start, valid, 0, lazy=True)

    def fault(self, start: int, end: int, vma: Vma) -> None:
        """Handle first touches of `[start, end)`, which belongs to `vma`: commit lazy pages, with
        `Switches.demand` in blocks. O(log n + runs).

        The contents of a file come from a host mapping, one for each file.
        """
        pal, meter, prot = self.pal, self.meter, vma.flags & PROT_RWX
        if not self.switches.demand:
            pal.fault(start, end, prot)
            return
        vma_start, vma_end, mapped = self.space.vmas.find(start)
        if mapped != vma:
            vma_start, vma_end = start, end
        block = self.switches.demand << PAGE_SHIFT
        for run_start, run_end, had in list(pal.pages.runs(start, end)):
            if had != LAZY:
                continue
            block_start, block_end, _ = pal.pages.find(run_start)
            block_start = max(block_start, vma_start, run_start // block * block)
            block_end = min(block_end, vma_end, -(-run_end // block) * block)
            pages = pal.fault(block_start, block_end, prot)
            meter.counts.untouched_pages += pages - (run_end - run_start >> PAGE_SHIFT)
            ours = self.vmas.get(run_start)
            if ours is not None and ours.file is not None:
                if ours.file not in self.hosted:
                    self.hosted.add(ours.file)
                    self.transfer(0)
                meter.copy(pages)

    def read_file(self, start: int, end: int, file_end: int) -> None:
        """Read the contents of a file, which end at `file_end`, into `[start, end)`.

        Gramine reads until it has all bytes, or until none are left: past the end of the file, the
        last read returns 0. O(1).
        """
        if file_end <= start:
            self.transfer(0)
            return
        self.transfer(min(file_end, end) + PAGE_SIZE - 1 - start >> PAGE_SHIFT)
        if file_end < end:
            self.transfer(0)

    def unmap(self, start: int, end: int) -> None:
        """libos_syscall_munmap: one Free for each VMA of `[start, end)`. O(log n + VMAs)."""
        gone = [(vma_start, vma_end) for vma_start, vma_end, _ in self.vmas.parts(start, end)]
        if not gone:
            return
        listed = self.begin_list(len(gone))
        for vma_start, vma_end in gone:
            self.pal.free(vma_start, vma_end)
        self.vmas.set(start, end, None)
        self.end_list(listed)

    def map_over(self, start: int, end: int, prot: int, lazy: int) -> None:
        """MAP_FIXED of anonymous memory with `Switches.zero`. O(log n + VMAs + runs).

        Pages that are writable before or after the call stay, and are zeroed; others are freed.
        """
        pal = self.pal
        writable = prot & PROT_WRITE
        listed = self.begin_list(sum(1 for _ in self.vmas.parts(start, end)))
        for run_start, run_end, had in list(pal.pages.runs(start, end)):
            is_committed = had is not None and had < LAZY
            if had is None or not is_committed or not (had | prot) & PROT_WRITE:
                if is_committed:
                    pal.free(run_start, run_end)
                self.add(run_start, run_end, prot, bool(lazy))
                continue
            if had & PROT_WRITE:
                pal.zero(run_start, run_end)
            pal.protect(run_start, run_end, prot)
            if writable and not had & PROT_WRITE:
                pal.zero(run_start, run_end)
            self.meter.counts.untouched_pages += self.touches.count(run_start, run_end)
        self.vmas.set(start, end, new(LibosVma, (prot, lazy, None, TOP)))
        self.end_list(listed)

    def begin_list(self, count: int) -> Range | None:
        """dump_vmas: list `count` VMAs, in memory of the list's own if it is long.

        Returns the range of that memory, for `end_list`. O(log n).
        """
        pages = list_pages(count)
        if not pages:
            return None
        listed = LISTS, LISTS + pages * PAGE_SIZE
        self.pal.alloc(*listed, RW)
        return listed

    def end_list(self, listed: Range | None) -> None:
        """free_vma_info_array: free the list. O(log n)."""
        if listed is not None:
            self.pal.free(*listed)

    def hold_vmas(self) -> None:
        """alloc_vma: allocate memory for all VMA objects, which is never released. O(1)."""
        grown = self.slab.hold(self.vmas.count)
        if grown is not None:
            self.pal.alloc(*grown, RW)

    def protect(self, start: int, end: int, prot: int) -> None:
        """libos_syscall_mprotect: split and change VMAs, with one Protect for the whole range.
        O(log n + VMAs)."""
        if self.switches.equal:
            self._protect_differing(start, end, prot)
            return
        keys: list[int] = []
        values: list[LibosVma | None] = []
        for vma_start, vma_end, vma in self.vmas.runs(start, end):
            keys.append(vma_start)
            if vma is None:
                values.append(None)
                continue
            if prot and self.has_tails and vma.file_end < vma_end and vma.valid_end < vma_end:
                # Pages past the end of the file, which fault on Linux whatever their protection.
                self.meter.counts.open_windows += (
                    vma_end - max(vma_start, vma.valid_end) >> PAGE_SHIFT
                )
            values.append(changed(vma, prot))
        if len(keys) == 1:
            self.vmas.set(start, end, values[0])
        else:
            self.vmas.replace(start, end, keys, values)
        self.pal.protect(start, end, prot)

    def _protect_differing(self, start: int, end: int, prot: int) -> None:
        # PR #1824: one Protect for each VMA whose protection differs; equal ones are not split.
        # Unlike in the PR, pages past the end of a file stay inaccessible.
        for vma_start, vma_end, vma in list(self.vmas.runs(start, end)):
            if vma is None or vma.prot == prot:
                continue
            if vma_start < vma.valid_end:
                self.pal.protect(vma_start, min(vma_end, vma.valid_end), prot)
            self.vmas.set(vma_start, vma_end, changed(vma, prot))

    def guard(self, start: int, end: int) -> None:
        """Make a guard page: Gramine protects it, but its VMA stays RW. With `Switches.equal`, it
        is a VMA of its own. O(log n)."""
        self.pal.protect(start, end, 0)
        if self.switches.equal:
            self.vmas.set(start, end, LibosVma(0, VMA_INTERNAL))

    def clear(self, start: int, end: int, prot: int) -> None:
        """madvise_dontneed_visitor: memset, with two Protects around it if the VMA is not writable.
        O(log n + k).

        With `Switches.zero`, such pages are released, and allocated again as lazy pages
        (PalFreeThenLazyReallocCommittedPages).
        """
        pal = self.pal
        if prot & PROT_WRITE:
            pal.zero(start, end)
            return
        if self.switches.zero:
            for run_start, run_end in pal.committed(start, end):
                pal.free(run_start, run_end)
                pal.alloc(run_start, run_end, prot, lazy=True)
                self.meter.counts.untouched_pages -= self.touches.count(run_start, run_end)
            return
        pal.protect(start, end, prot | PROT_WRITE)
        pal.zero(start, end)
        pal.protect(start, end, prot)
        for run_start, run_end in pal.committed(start, end):
            self.meter.counts.open_windows += run_end - run_start >> PAGE_SHIFT

    def alloc(self, start: int, end: int, prot: int, lazy: int = 0) -> None:
        """Allocate anonymous memory; `lazy` is VM_NORESERVE or 0. O(log n)."""
        self.add(start, end, prot, bool(lazy))
        self.vmas.set(start, end, new(LibosVma, (prot, lazy, None, TOP)))

    def add(self, start: int, end: int, prot: int, lazy: bool = False) -> None:
        """Alloc anonymous memory of the program. With `Switches.demand`, all of it is lazy.
        O(log n)."""
        lazy = lazy or self.switches.demand > 0
        self.pal.alloc(start, end, prot, lazy)
        if not self.pal.waits(prot, lazy):
            self.meter.counts.untouched_pages += end - start >> PAGE_SHIFT

    def transfer(self, pages: int) -> None:
        """Transfer contents of a file, in one host call. O(1)."""
        self.meter.host_call()
        self.meter.copy(pages)
        self.transfers += 1


def changed(vma: LibosVma, prot: int) -> LibosVma:
    """Return the VMA with another protection (vma_update_prot), as a new object even if nothing
    changes. O(1)."""
    flags = vma.flags | VMA_TAINTED if vma.file is not None and prot & PROT_WRITE else vma.flags
    return new(LibosVma, (prot, flags, vma.file, vma.file_end))


def is_flushed(vma: LibosVma) -> bool:
    """vma_filter_needs_msync: return whether this is a shared mapping of a file whose handle may
    write."""
    both = VM_SHARED | VMA_MAY_WRITE
    return vma.file is not None and vma.flags & both == both
