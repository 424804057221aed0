"""every-call: what upstream Gramine does with EDMM. Each call reaches the PAL for its whole range,
changed or not.

Not upstream's, where upstream has nothing: mremap, which it does not support, is what the C library
then does (another mapping of the new size, a copy, an munmap; a shorter one is an munmap of the
tail). A stack, of fixed size there, costs what it grows as it would have at the start. Calls that
only the host can describe (shmat) are a plain Alloc. A forked child is told which pages are
uncommitted: upstream forgets it, and the child fails on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final, Self

from laconic.errors import LaconicError
from laconic.libos.gramine import VMA_INTERNAL, VMA_TAINTED, Libos, LibosVma
from laconic.libos.strategy import MemoryCall
from laconic.libos.touches import Touches
from laconic.memory.bookkeeper import as_made
from laconic.memory.calls import HostRule
from laconic.memory.change import EXTEND, FILE, MAP, RESTRICT, ZERO, Change, coalesce
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_FREE,
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_TYPE,
    MREMAP_DONTUNMAP,
    MS_SYNC,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROT_GROWSDOWN,
    PROT_READ,
    PROT_RWX,
    PROT_WRITE,
    VM_NORESERVE,
    VM_SHARED,
)
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.rangemap import TOP, RangeMap
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter
from laconic.sgx.model.faults import SgxError
from laconic.sgx.pal.edmm import PalError
from laconic.sgx.pal.gramine import INTERNAL, LAZY, RW

#: A thread's stack in the LibOS, its guard page the lowest; with the TCS above it, bytes a thread.
THREAD_STACK: Final = 8 * PAGE_SIZE
SLOT: Final = 16 * PAGE_SIZE
#: What a descriptor refers to that nobody described.
_UNKNOWN: Final = File(0, 3, -3, "?")


class ProcessKilled(LaconicError):
    """Upstream gave up: any leaf or ioctl that fails ends in `die_or_inf_loop` or `BUG`, with
    nothing rolled back."""


class EveryCall(Libos):
    """The rule `every-call`. Any failure raises `ProcessKilled`: upstream's `die_or_inf_loop` ends
    the process there.

    `untouched_pages` grows by what is committed before it is touched, or loses its contents in
    place, and shrinks at the first touch; the LibOS's own pages are not in it. `open_windows` has,
    beside the PAL's, pages that the LibOS opens to fill or read them, and pages past the end of a
    file that mprotect opens.
    """

    name = "every-call"
    linux_rule: ClassVar[HostRule | None] = as_made

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        # Where threads have their slots; those of ended ones keep their TCS.
        self._threads: list[int] = []
        self._idle: list[int] = []

    # What the program does

    def load(self, entries: Iterable[Entry]) -> None:
        """A program begins in a new enclave. O(entries)."""
        self.meter.create()
        try:
            for start, end, vma in entries:
                self.enter(start, end, vma)
        except SgxError as error:
            raise _killed("load", error) from error

    def call(self, call: MemoryCall) -> None:
        """The work of one memory call; one that fails does nothing, since bkeep_* refuse first.
        O(log n + VMAs)."""
        name, args, result, changes, file = call
        try:
            if result < 0:
                self._forget(name, args, changes)
            elif name == "mprotect" or name == "pkey_mprotect":
                self._mprotect(args[0], args[1], args[2])
            elif name == "mmap":
                self._mmap(args, result, file)
            elif name == "munmap":
                self.unmap(args[0], args[0] + page_align(args[1]))
            elif name == "madvise":
                self._madvise(args, changes)
            elif name == "mremap":
                self._mremap(args, result)
            elif name == "msync":
                self._msync(args)
            elif name == "brk":
                self._brk(changes)
            elif changes:
                self._other(changes)
        except SgxError as error:
            raise _killed(name, error) from error

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """First touches: pages that are lazy are committed, each in an exception of its own. O(log
        n + runs)."""
        committed, lazy = 0, False
        for begin, stop, had in self.pal.pages.runs(start, end):
            if had == LAZY:
                lazy = True
            elif had is not None:
                committed += stop - begin
        self.meter.counts.untouched_pages -= committed >> PAGE_SHIFT
        if lazy:
            try:
                self.pal.fault(start, end, vma.flags & PROT_RWX)
            except SgxError as error:
                raise _killed("touch", error) from error

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """A stack grew: upstream's was that large from the start, in the same host calls. O(log
        n)."""
        try:
            self.unmap(start, end)
            self.stack(start, end, vma.flags & PROT_RWX)
        except SgxError as error:
            raise _killed("stack growth", error) from error
        counts = self.meter.counts
        counts.host_calls -= 2
        counts.ioctls -= 2
        prot, above = vma.flags & PROT_RWX, self.vmas.get(end)
        same = above is not None and above.file is None and above.prot == prot
        self.vmas.set(start, end, above if same else LibosVma(prot))

    # The LibOS's handling of each call

    def _mmap(self, args: tuple[int, ...], start: int, file: OpenFile | None) -> None:
        # What lies there is freed, VMA by VMA, whatever it is; without MAP_FIXED there is nothing.
        _, length, prot, flags, _, offset = args
        end = start + page_align(length)
        prot &= PROT_RWX
        self.unmap(start, end)
        if flags & MAP_ANONYMOUS:
            self.alloc(start, end, prot, VM_NORESERVE if flags & MAP_NORESERVE else 0)
            return
        shared = flags & MAP_TYPE != MAP_PRIVATE and (file is None or file.writable)
        valid_end = TOP  # not known: all of it
        if file is not None and file.plain and file.size > 0:
            valid_end = start + max(page_align(file.size) - offset, 0)
        vma = LibosVma(prot, VM_SHARED if shared else 0, file.file if file else _UNKNOWN, valid_end)
        self.map_file(start, end, vma)

    def _mprotect(self, start: int, length: int, prot: int) -> None:
        end = start + page_align(length)
        if prot & PROT_GROWSDOWN and self.vmas.get(start) is not None:
            start = self.vmas.find(start)[0]
        if start < end:
            self.protect(start, end, prot & PROT_RWX)

    def _madvise(self, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        # madvise_dontneed_range; all other advice is ignored, or refused.
        start, length, advice = args[:3]
        self._forget("madvise", args, changes)
        if advice & 0xFFFFFFFF != MADV_DONTNEED:
            return
        for begin, stop, vma in list(self.vmas.runs(start, start + page_align(length))):
            if vma is not None and vma.file is None:
                self.clear(begin, stop, vma.prot)

    def _mremap(self, args: tuple[int, ...], target: int) -> None:
        # Not in upstream's system call table. In the C library's place: mmap, copy, munmap.
        source, old, size, flags = args[0], page_align(args[1]), page_align(args[2]), args[3]
        if target == source and size <= old:
            if size < old:
                self.unmap(source + size, source + old)
            return
        vma = self.vmas.get(source)
        if vma is None:
            return
        pal, meter, pages = self.pal, self.meter, size >> PAGE_SHIFT
        kept = min(old, size) if vma.prot & PROT_READ else 0
        touched = self.touches.count(source, source + min(old, size))
        if kept:
            pal.fault(source, source + kept, vma.prot)
        places = [(target, target + size)]
        if target == source and old:
            # The copy is elsewhere, as long as both exist; the program knows it here. What may not
            # fit comes first.
            meter.peak_epc_pages = max(meter.peak_epc_pages, meter.epc_pages + pages)
            places = [(source + old, source + size), (source, source + old)]
        for start, end in places:
            self.unmap(start, end)
            pal.alloc(start, end, RW)
        meter.counts.untouched_pages += pages - touched
        meter.copy(kept >> PAGE_SHIFT)
        if vma.prot != RW:
            pal.protect(target, target + size, vma.prot)
        if flags & MREMAP_DONTUNMAP:
            meter.counts.untouched_pages += touched
            self.clear(source, source + old, vma.prot)
        elif target != source:
            self.unmap(source, source + old)
        if vma.file is not None:
            self.mapped[vma.file].set(target, target + size, True)
        valid_end = TOP if vma.valid_end >= source + old else vma.valid_end + target - source
        self.vmas.set(
            target,
            target + size,
            LibosVma(vma.prot, vma.flags & ~VM_NORESERVE, vma.file, valid_end),
        )

    def _msync(self, args: tuple[int, ...]) -> None:
        # generic_emulated_msync: opened if it cannot be read, written, and closed again.
        if not args[2] & MS_SYNC:
            return
        start, end = args[0], args[0] + page_align(args[1])
        for begin, stop, vma in list(self.vmas.runs(start, end)):
            if vma is None or vma.file is None or not vma.flags & VM_SHARED:
                continue
            closed = not vma.prot & PROT_READ
            if closed:
                self.pal.protect(begin, stop, vma.prot | PROT_READ)
                self.meter.counts.open_windows += stop - begin >> PAGE_SHIFT
            valid = min(stop, vma.valid_end)
            if begin < valid:
                self.transfer(valid - begin >> PAGE_SHIFT)
                self.written(vma.file)
            if closed:
                self.pal.protect(begin, stop, vma.prot)

    def _brk(self, changes: tuple[Change, ...]) -> None:
        # libos_syscall_brk: each growth is a VMA, and what is given up one Free.
        for change in changes:
            if change.wanted is not None:
                self.unmap(change.start, change.end)
                self.alloc(change.start, change.end, RW)
        for start, end in coalesce(change for change in changes if change.wanted is None):
            self.pal.free(start, end)
            self.vmas.set(start, end, None)

    def _other(self, changes: tuple[Change, ...]) -> None:
        # What changed without a call that upstream has.
        for kind, start, end, wanted, _, _ in changes:
            if wanted is None:
                self.unmap(start, end)
            elif kind & (MAP | FILE):
                self.unmap(start, end)
                self.enter(start, end, wanted)
            else:
                if kind & ZERO:
                    self.meter.counts.untouched_pages += self.touches.count(start, end)
                if kind & (EXTEND | RESTRICT):
                    self.protect(start, end, wanted.flags & PROT_RWX)

    def _forget(self, name: str, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        # These pages stay as they are in the enclave, and are touched no longer (as `Touches.apply`
        # has it).
        if name == "madvise" and args[2] == MADV_FREE:
            return
        for kind, start, end, _, _, _ in changes:
            if kind & (ZERO | FILE):
                self.meter.counts.untouched_pages += self.touches.count(start, end)

    # Processes and threads

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """The child's enclave: anonymous memory is sent page by page, files are mapped again.
        O(n)."""
        meter = self.meter
        child = type(self)(meter, space, touches)
        meter.host_call()
        meter.create()
        try:
            for start, end, vma in self.vmas:
                if vma.flags & VMA_INTERNAL:
                    continue
                if vma.file is None:
                    self._send(child, start, end, vma, True)
                elif vma.flags & (VMA_TAINTED | VM_SHARED) == VMA_TAINTED:
                    self._send(child, start, min(end, vma.valid_end), vma, False)
                    child.mapped.setdefault(vma.file, RangeMap()).set(start, end, True)
                else:
                    child.map_file(start, end, vma)
                    meter.counts.untouched_pages -= touches.count(start, end)
                child.vmas.set(start, end, vma)
        except PalError:
            child.end()  # skip-equal's: nothing of the child stays
            raise
        except SgxError as error:
            raise _killed("fork", error) from error
        return child

    def _send(self, child: Self, start: int, end: int, vma: LibosVma, single: bool) -> None:
        # send_memory_on_stream and receive_memory; `single`: each page is an entry of its own.
        prot, meter, pal = vma.prot, self.meter, self.pal
        for begin, stop in pal.committed(start, end):
            pages = stop - begin >> PAGE_SHIFT
            if not prot & PROT_READ:
                pal.protect(begin, stop, prot | PROT_READ, single)
            meter.host_call(pages if single else 1)
            if not prot & PROT_READ:
                pal.protect(begin, stop, prot, single)
            child.pal.alloc(begin, stop, prot | PROT_WRITE)
            meter.host_call(pages if single else 1)
            meter.copy(pages)
            if not prot & PROT_WRITE:
                child.pal.protect(begin, stop, prot, single)
                meter.counts.open_windows += pages
            if not prot & PROT_READ:
                meter.counts.open_windows += pages
            meter.counts.untouched_pages += pages - child.touches.count(begin, stop)
        if vma.flags & VM_NORESERVE:
            for begin, stop, had in pal.pages.runs(start, end):
                if had == LAZY:
                    child.pal.pages.set(begin, stop, LAZY)

    def thread(self) -> None:
        """A thread begins: its stack in the LibOS with a guard page, and a TCS if none is idle.
        O(log n)."""
        reused = bool(self._idle)
        slot = self._idle.pop() if reused else INTERNAL + len(self._threads) * SLOT
        self._threads.append(slot)
        try:
            self.pal.alloc(slot, slot + THREAD_STACK, RW)
            self.vmas.set(slot, slot + THREAD_STACK, LibosVma(RW, VMA_INTERNAL))
            self.guard(slot, slot + PAGE_SIZE)
            if not reused:
                self.pal.tcs(slot + THREAD_STACK)
        except SgxError as error:
            raise _killed("clone", error) from error

    def thread_ends(self) -> None:
        """A thread ended; its TCS stays for the next. O(log n)."""
        if not self._threads:
            return
        slot = self._threads.pop()
        self._idle.append(slot)
        try:
            self.pal.free(slot, slot + THREAD_STACK)
        except SgxError as error:
            raise _killed("exit", error) from error
        self.vmas.set(slot, slot + THREAD_STACK, None)

    def end(self) -> None:
        """The enclave is gone. O(n)."""
        self.meter.destroy(self.pal.count())


def _killed(what: str, error: SgxError) -> ProcessKilled:
    return ProcessKilled(
        f"{what}: {error}; upstream Gramine ends the process here: use another strategy"
    )
