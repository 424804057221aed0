"""The LibOS of upstream Gramine: its bookkeeping, and what it asks of the PAL for each thing that
it does.

VMAs never merge (libos_vma.c): a region that ten calls have made is ten VMAs, and is freed by ten.
Comments name the function of upstream's that is meant.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

from laconic.libos.strategy import Strategy
from laconic.libos.touches import Touches
from laconic.memory.change import new
from laconic.memory.flags import (
    PAGE_SHIFT,
    PROT_RWX,
    PROT_WRITE,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_SHARED,
)
from laconic.memory.rangemap import TOP, RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter
from laconic.sgx.pal.gramine import RW, Gramine

#: Flags of a VMA that are Gramine's own: the LibOS's memory, and a file mapping that was ever
#: writable.
VMA_INTERNAL, VMA_TAINTED = 0x20000000, 0x40000000


class LibosVma(NamedTuple):
    """One VMA, each an object of its own. `flags`: VM_NORESERVE (lazy), VM_SHARED, and the two
    VMA_*.

    From `valid_end` (bytes) on a file has no pages.
    """

    prot: int
    flags: int = 0
    file: File | None = None
    valid_end: int = TOP


class Libos(Strategy):
    """One process's LibOS. `vmas` are its own, `pal` has the pages; all ranges are in bytes, page
    aligned.

    `transfers`: how many of the host calls counted read or wrote contents of files.
    """

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        self.pal = self.make_pal(meter)
        self.vmas: RangeMap[LibosVma] = RangeMap(operator.is_)
        #: Where each file may be mapped.
        self.mapped: dict[File, RangeMap[bool]] = {}
        self.transfers = 0

    def make_pal(self, meter: Meter) -> Gramine:
        """The PAL of a new process."""
        return Gramine(meter)

    def map_file(self, start: int, end: int, vma: LibosVma) -> None:
        """generic_emulated_mmap: the enclave cannot map files, so they are read. O(log n)."""
        prot, flags, file, valid_end = vma
        assert file is not None
        pal, meter = self.pal, self.meter
        pal.alloc(start, end, prot | PROT_WRITE)
        meter.counts.untouched_pages += end - start >> PAGE_SHIFT
        valid = max(min(end, valid_end), start)
        if start < valid:
            self.transfer(valid - start >> PAGE_SHIFT)
        opened = valid if prot & PROT_WRITE else start
        meter.counts.open_windows += end - opened >> PAGE_SHIFT
        if not prot & PROT_WRITE:
            pal.protect(start, end, prot)
        if valid < end:
            pal.protect(valid, end, 0)
        if prot & PROT_WRITE:
            vma = vma._replace(flags=flags | VMA_TAINTED)
        self.vmas.set(start, end, vma)
        if file not in self.mapped:
            self.mapped[file] = RangeMap()
        self.mapped[file].set(start, end, True)

    def unmap(self, start: int, end: int) -> None:
        """libos_syscall_munmap: one Free for each VMA of `[start, end)`. O(log n + VMAs)."""
        gone = False
        for begin, stop, vma in self.vmas.runs(start, end):
            if vma is not None:
                self.pal.free(begin, stop)
                gone = True
        if gone:
            self.vmas.set(start, end, None)

    def protect(self, start: int, end: int, prot: int) -> None:
        """libos_syscall_mprotect: VMAs are split and changed, the whole range is one Protect. O(log
        n + VMAs)."""
        keys: list[int] = []
        values: list[LibosVma | None] = []
        for begin, stop, vma in self.vmas.runs(start, end):
            keys.append(begin)
            if vma is None:
                values.append(None)
                continue
            if prot and vma.valid_end < stop:
                # Past the end of the file: a fault in Linux, whatever the protection.
                self.meter.counts.open_windows += stop - max(begin, vma.valid_end) >> PAGE_SHIFT
            values.append(changed(vma, prot))
        if len(keys) == 1:
            self.vmas.set(start, end, values[0])
        else:
            self.vmas.replace(start, end, keys, values)
        self.pal.protect(start, end, prot)

    def guard(self, start: int, end: int) -> None:
        """A guard page: upstream protects it and keeps it bookkept as RW. O(log n)."""
        self.pal.protect(start, end, 0)

    def clear(self, start: int, end: int, prot: int) -> None:
        """madvise_dontneed_visitor: memset, with two Protects around it where the VMA is not
        writable. O(log n + k)."""
        pal = self.pal
        if prot & PROT_WRITE:
            pal.zero(start, end)
            return
        pal.protect(start, end, prot | PROT_WRITE)
        pal.zero(start, end)
        pal.protect(start, end, prot)
        for begin, stop in pal.committed(start, end):
            self.meter.counts.open_windows += stop - begin >> PAGE_SHIFT

    def written(self, file: File) -> None:
        """prot_refresh_vma: all that is mapped of a file that was written to, whether or not its
        end moved. O(VMAs)."""
        mapped = self.mapped[file]
        for low, high, _ in list(mapped):
            for begin, stop, vma in list(self.vmas.runs(low, high)):
                if vma is None or vma.file != file:
                    mapped.set(begin, stop, None)
                    continue
                valid = min(max(begin, vma.valid_end), stop)
                if begin < valid:
                    self.pal.protect(begin, valid, vma.prot)
                if valid < stop:
                    self.pal.protect(valid, stop, 0)

    def enter(self, start: int, end: int, vma: Vma) -> None:
        """Memory of which only the VMA is known, as the loader leaves it; [vvar] is the kernel's
        own. O(log n)."""
        flags, prot = vma.flags, vma.flags & PROT_RWX
        if flags & (VM_IO | VM_PFNMAP) or start >= TASK_SIZE:
            return
        if vma.file is not None and vma.file.is_on_disk:
            self.map_file(start, end, LibosVma(prot, flags & VM_SHARED, vma.file))
        elif flags & VM_GROWSDOWN:
            self.stack(start, end, prot)
            self.vmas.set(start, end, LibosVma(prot))
        elif flags & VM_DONTEXPAND and flags & VM_EXEC:
            # The vDSO: the VMA says RX, the pages are RW until it is copied (libos_rtld.c).
            self.alloc(start, end, RW)
            self.meter.copy(end - start >> PAGE_SHIFT)
            self.pal.protect(start, end, prot)
            self.vmas.set(start, end, LibosVma(prot))
        else:
            self.alloc(start, end, prot, flags & VM_NORESERVE)

    def stack(self, start: int, end: int, prot: int) -> None:
        """The program's stack (libos_init.c): inaccessible at first, and then not. O(log n)."""
        self.pal.alloc(start, end, 0)
        self.pal.protect(start, end, prot)
        self.meter.counts.untouched_pages += end - start >> PAGE_SHIFT

    def alloc(self, start: int, end: int, prot: int, lazy: int = 0) -> None:
        """New anonymous memory; `lazy` is VM_NORESERVE or 0. O(log n)."""
        self.pal.alloc(start, end, prot, bool(lazy))
        if not lazy:
            self.meter.counts.untouched_pages += end - start >> PAGE_SHIFT
        self.vmas.set(start, end, new(LibosVma, (prot, lazy, None, TOP)))

    def transfer(self, pages: int) -> None:
        """Contents of a file, in one host call. O(1)."""
        self.meter.host_call()
        self.meter.copy(pages)
        self.transfers += 1


def changed(vma: LibosVma, prot: int) -> LibosVma:
    """The VMA with another protection (vma_update_prot), an object of its own even if it is the
    same. O(1)."""
    flags = vma.flags | VMA_TAINTED if vma.file is not None and prot & PROT_WRITE else vma.flags
    return new(LibosVma, (prot, flags, vma.file, vma.valid_end))
