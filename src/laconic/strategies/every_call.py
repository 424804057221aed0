"""every-call: Gramine with EDMM as it is today. Each call reaches the PAL for its whole range,
changed or not.

Some calls have no counterpart in Gramine. It does not support mremap, so the C library's fallback
is modelled (another mapping of the new size, a copy, an munmap; for a shorter size, an munmap of
the tail). A stack or a heap that grows beyond the limits of the manifest costs what it would have
cost within them. Calls that only the host can describe (shmat) are a plain Alloc. A forked child
receives the list of uncommitted pages; Gramine loses it, and its child fails on them.

The options switch on changes to Gramine, each separately (`laconic.sgx.pal.switches`):
`every-call:store=on,demand=16`. They are options of this strategy instead of strategies of their
own, because this strategy without options is the baseline for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from errno import ENOMEM
from typing import Any, ClassVar, Final, Self

from mypy_extensions import mypyc_attr

from laconic.errors import LaconicError
from laconic.libos import checkpoint, execute, files, heap, loader
from laconic.libos.execute import Kept
from laconic.libos.gramine import VMA_MAY_WRITE, VMA_TAINTED, Libos, LibosVma
from laconic.libos.settings import DEFAULTS, Settings
from laconic.libos.strategy import MemoryCall
from laconic.libos.threads import Threads
from laconic.libos.touches import Touches
from laconic.memory.bookkeeper import as_made
from laconic.memory.change import EXTEND, FILE, MAP, RESTRICT, ZERO, Change
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_FREE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_TYPE,
    MREMAP_DONTUNMAP,
    MS_INVALIDATE,
    PAGE_SHIFT,
    PROT_GROWSDOWN,
    PROT_READ,
    PROT_RWX,
    VM_NORESERVE,
    VM_SHARED,
)
from laconic.memory.hostrule import HostRule
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.rangemap import TOP
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter
from laconic.sgx.model.faults import SgxError
from laconic.sgx.pal.edmm import PalError
from laconic.sgx.pal.gramine import LAZY, RW, Gramine
from laconic.sgx.pal.switches import ALL_SWITCHES, Switches
from laconic.strategies.options import Option, Options, number, show_switch, switch


def _is_strict(values: Mapping[str, Any]) -> bool:
    return Switches(**values).is_strict


OPTIONS: Final = Options(
    "every-call",
    {
        name: Option(number(0, 512), "pages from 0 to 512", 0)
        if name == "demand"
        else Option(switch, "on or off", False, show_switch)
        for name in Switches._fields
    },
    {"all": ALL_SWITCHES._asdict()},
    shown=("all",),
    is_strict=_is_strict,
)
#: The file of a descriptor that has no description.
_UNKNOWN: Final = File(0, 3, -3, "?")


class ProcessKilled(LaconicError):
    """Gramine ended the process: any SGX instruction or ioctl that fails ends in `die_or_inf_loop`
    or `BUG`, and nothing is rolled back."""


@mypyc_attr(allow_interpreted_subclasses=True)
class EveryCall(Libos):
    """The strategy `every-call`, and the changes to it that its options switch on; `values` are the
    values of its options.

    Any failure raises `ProcessKilled`, because Gramine's `die_or_inf_loop` ends the process there.

    `untouched_pages` grows by pages that are committed before they are touched, or that lose their
    contents in place, and shrinks at first touches; the LibOS's own pages are not included.
    `open_windows` includes, in addition to the PAL's, pages that the LibOS makes accessible to fill
    or read them, and pages past the end of a file that mprotect makes accessible.
    """

    name: ClassVar[str] = "every-call"
    linux_rule: ClassVar[HostRule | None] = as_made

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        settings: Settings = DEFAULTS,
        pal_type: type[Gramine] = Gramine,
        values: Mapping[str, Any] = OPTIONS.values,
    ) -> None:
        switches = Switches(**values)
        super().__init__(
            meter, space, touches, settings=settings, pal_type=pal_type, switches=switches
        )
        self.threads = Threads(self.settings)
        self._is_executing = False

    def sibling(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the same LibOS for another program or process."""
        return type(self)(
            self.meter,
            space,
            touches,
            settings=self.settings,
            pal_type=self.pal_type,
            values=self.switches._asdict(),
        )

    # Events

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave, or into that of the program that executed it.
        O(entries)."""
        if not self._is_executing:
            self.meter.create()
        try:
            loader.load_program(self, entries, has_vdso=not self._is_executing)
            self.hold_vmas()
        except SgxError as error:
            raise _killed("load", error) from error
        self._is_executing = False

    def execute(self, space: AddressSpace, touches: Touches) -> Self:
        """Execute another program in the same enclave, and free the memory of this one. With
        `Switches.exec`, memory that the new program has too is kept.

        Returns the strategy for the new program, whose `load` follows. O(n).
        """
        kept: list[Kept] = []
        try:
            if self.switches.exec:
                kept = execute.find_kept(self, space.vmas)
            execute.free_program(self, kept)
        except SgxError as error:
            raise _killed("execve", error) from error
        successor = self.sibling(space, touches)
        successor.pal = self.pal
        successor.slab = self.slab
        successor.threads = self.threads
        for start, end, vma in self.vmas:
            successor.vmas.set(start, end, vma)
        if kept:
            execute.keep(successor, kept)
            successor.hosted = self.hosted
        successor._is_executing = True
        return successor

    def call(self, call: MemoryCall) -> None:
        """Do the work of one memory call. Most failed calls do nothing, because bkeep_* fails
        first. O(log n + VMAs)."""
        name, args, result, changes, file = call
        try:
            if result < 0:
                self._failed(name, args, result, changes)
            elif name == "mprotect" or name == "pkey_mprotect":
                self._mprotect(args[0], args[1], args[2])
            elif name == "mmap":
                self._mmap(args, result, file)
            elif name == "munmap":
                self._munmap(args[0], args[0] + page_align(args[1]))
            elif name == "madvise":
                self._madvise(args, changes)
            elif name == "mremap":
                self._mremap(args, result)
            elif name == "msync":
                self._msync(args)
            elif name == "brk":
                heap.brk(self, changes)
            elif changes:
                self._other(changes)
            if self.vmas.count > self.slab.capacity:
                self.hold_vmas()
        except SgxError as error:
            raise _killed(name, error) from error

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle first touches: each lazy page is committed in an exception of its own.
        O(log n + runs)."""
        committed = 0
        lazy = False
        try:
            if vma.file is not None:
                files.follow_growth(self, vma, end)
            for run_start, run_end, had in self.pal.pages.runs(start, end):
                if had == LAZY:
                    lazy = True
                elif had is not None:
                    committed += run_end - run_start
            self.meter.counts.untouched_pages -= committed >> PAGE_SHIFT
            if lazy:
                self.fault(start, end, vma)
        except SgxError as error:
            raise _killed("touch", error) from error

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack. Within its initial size, there is nothing to do.
        O(log n)."""
        stack_start = start
        for _, vma_end, ours in self.vmas.runs(start, end):
            # Memory that is not the stack's yet, and its guard page.
            if ours is None or not ours.prot:
                stack_start = vma_end
        if stack_start == start:
            return
        try:
            loader.grow_stack(self, start, stack_start, vma.flags & PROT_RWX)
        except SgxError as error:
            raise _killed("stack growth", error) from error

    # The LibOS's handling of each call

    def _mmap(self, args: tuple[int, ...], start: int, file: OpenFile | None) -> None:
        # Existing memory is flushed and freed, VMA by VMA, regardless of its kind; without
        # MAP_FIXED there is none.
        _, length, prot, flags, _, offset = args
        end = start + page_align(length)
        prot &= PROT_RWX
        if flags & MAP_FIXED:
            files.msync_range(self, start, end)
        lazy = VM_NORESERVE if flags & MAP_NORESERVE else 0
        if flags & MAP_ANONYMOUS and self.switches.zero:
            self.map_over(start, end, prot, lazy)
            return
        self.unmap(start, end)
        if flags & MAP_ANONYMOUS:
            self.alloc(start, end, prot, lazy)
            return
        kept = VM_SHARED if flags & MAP_TYPE != MAP_PRIVATE else 0
        if file is None or file.writable:
            kept |= VMA_MAY_WRITE
        file_end = TOP  # a device covers the whole mapping
        if file is None or (file.plain and file.size <= 0):
            file_end = self.touches.sizes.assumed_end(start, end)
        elif file.plain:
            file_end = start + max(file.size - offset, 0)
        vma = LibosVma(prot, kept, file.file if file else _UNKNOWN, file_end)
        self.map_file(start, end, vma)

    def _munmap(self, start: int, end: int) -> None:
        files.msync_range(self, start, end)
        self.unmap(start, end)

    def _mprotect(self, start: int, length: int, prot: int) -> None:
        end = start + page_align(length)
        if prot & PROT_GROWSDOWN and self.vmas.get(start) is not None:
            start = self.vmas.find(start)[0]
        if start < end:
            self.protect(start, end, prot & PROT_RWX)

    def _failed(
        self, name: str, args: tuple[int, ...], result: int, changes: tuple[Change, ...]
    ) -> None:
        # madvise clears the mappings on both sides of a hole, and fails only afterwards.
        if name == "madvise" and result == -ENOMEM:
            self._madvise(args, changes)
        else:
            self._forget(name, args, changes)

    def _madvise(self, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        # madvise_dontneed_range. All other advice is ignored, or fails with ENOSYS: DONTFORK,
        # DOFORK, WIPEONFORK, KEEPONFORK, HWPOISON, DONTDUMP, DODUMP, REMOVE.
        start, length, advice = args[:3]
        self._forget("madvise", args, changes)
        if advice & 0xFFFFFFFF != MADV_DONTNEED:
            return
        for vma_start, vma_end, vma in list(self.vmas.runs(start, start + page_align(length))):
            if vma is None:
                continue
            if vma.file is None:
                self.clear(vma_start, vma_end, vma.prot)
            elif vma.flags & VMA_TAINTED:
                # ENOSYS: memory before this VMA is cleared, and memory after it is not.
                return

    def _mremap(self, args: tuple[int, ...], target: int) -> None:
        # Not in Gramine's system call table. The C library uses mmap, a copy and munmap instead.
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
            # While both exist, the copy is elsewhere; the trace has it here. The part that may not
            # fit comes first.
            meter.peak_epc_pages = max(meter.peak_epc_pages, meter.epc_pages + pages)
            places = [(source + old, source + size), (source, source + old)]
        first = vma.prot if self.switches.copy else RW
        waits = self.switches.demand > 0
        for start, end in places:
            self.unmap(start, end)
            pal.alloc(start, end, first, waits)
        if waits:
            # Only the copied pages are touched and committed.
            pages = pal.fault(target, target + kept, first)
        elif pal.waits(first):
            pages = 0
        meter.counts.untouched_pages += max(pages - touched, 0)
        meter.copy(kept >> PAGE_SHIFT)
        if vma.prot != first:
            pal.protect(target, target + size, vma.prot)
        if flags & MREMAP_DONTUNMAP:
            meter.counts.untouched_pages += touched
            self.clear(source, source + old, vma.prot)
        elif target != source:
            self.unmap(source, source + old)
        if vma.file is not None:
            self.mapped[vma.file].set(target, target + size, True)
        file_end = TOP if vma.file_end >= source + old else vma.file_end + target - source
        self.vmas.set(
            target,
            target + size,
            LibosVma(vma.prot, vma.flags & ~VM_NORESERVE, vma.file, file_end),
        )

    def _msync(self, args: tuple[int, ...]) -> None:
        # libos_syscall_msync: MS_ASYNC, or neither flag, works like MS_SYNC; MS_INVALIDATE is
        # ENOSYS.
        if not args[2] & MS_INVALIDATE:
            files.msync_range(self, args[0], args[0] + page_align(args[1]))

    def _other(self, changes: tuple[Change, ...]) -> None:
        # Changes by calls that Gramine does not have.
        for kind, start, end, wanted, _, _ in changes:
            if wanted is None:
                self.unmap(start, end)
            elif kind & (MAP | FILE):
                self.unmap(start, end)
                loader.enter(self, start, end, wanted)
            else:
                if kind & ZERO:
                    self.meter.counts.untouched_pages += self.touches.count(start, end)
                if kind & (EXTEND | RESTRICT):
                    self.protect(start, end, wanted.flags & PROT_RWX)

    def _forget(self, name: str, args: tuple[int, ...], changes: tuple[Change, ...]) -> None:
        # These pages stay as they are in the enclave, but count as untouched, like in
        # `Touches.apply`.
        if name == "madvise" and args[2] == MADV_FREE:
            return
        for kind, start, end, _, _, _ in changes:
            if kind & (ZERO | FILE):
                self.meter.counts.untouched_pages += self.touches.count(start, end)

    # Processes and threads

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave: a checkpoint is sent, then anonymous memory page by page;
        files are mapped again. O(n)."""
        meter = self.meter
        child = self.sibling(space, touches)
        meter.host_call()
        meter.create()
        try:
            checkpoint.send_checkpoint(self, child)
        except PalError:
            child.end()  # for skip-equal: nothing of the child remains
            raise
        except SgxError as error:
            raise _killed("fork", error) from error
        return child

    def thread(self) -> None:
        """Start a thread. O(log n)."""
        try:
            self.threads.start(self)
            self.hold_vmas()
        except SgxError as error:
            raise _killed("clone", error) from error

    def thread_ends(self) -> None:
        """End a thread; its slot stays for the next one. O(log n)."""
        try:
            self.threads.end(self)
        except SgxError as error:
            raise _killed("exit", error) from error

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        """Update the mappings of a file that was written to or truncated, because the LibOS
        emulates them. O(VMAs)."""
        try:
            files.file_written(self, file, size, truncated)
        except SgxError as error:
            raise _killed("write", error) from error

    def end(self) -> None:
        """End the enclave. O(n)."""
        self.meter.destroy(self.pal.count())


def _killed(what: str, error: SgxError) -> ProcessKilled:
    return ProcessKilled(
        f"{what}: {error}; upstream Gramine ends the process here: use another strategy"
    )
