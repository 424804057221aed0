"""classify: every change carries its kind, and the PAL does only that kind (the proposal of
Gramine's issue #1708).

Mapped memory, including reservations, is committed immediately, as in Gramine; only MAP_NORESERVE
memory waits for its first touch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import ClassVar, Self

from mypy_extensions import mypyc_attr

from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import OWN, Touches
from laconic.linux.pal import only_changes
from laconic.memory.change import EXTEND, FILE, FLAGS, MAP, RESTRICT, UNMAP, ZERO, Change
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MS_SYNC,
    PAGE_MASK,
    PAGE_SHIFT,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
    VM_DONTCOPY,
    VM_IO,
    VM_MAYSHARE,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_PROT,
    VM_WIPEONFORK,
)
from laconic.memory.hostrule import HostRule
from laconic.memory.mmap import populates
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Meter
from laconic.sgx.pal.edmm import RW, Edmm, PalError, permissions

PAGE = 1 << PAGE_SHIFT
#: Advice that drops pages.
_DROPS_PAGES = {MADV_DONTNEED, MADV_DONTNEED_LOCKED}
#: Pages of a thread's stack in the library OS, without its guard page (Gramine's libos_thread.c).
THREAD_STACK = 7 * PAGE
#: The start of the library OS's memory for threads, above all addresses that a program can map; and
#: the bytes per thread.
_INTERNAL, _SLOT = TASK_SIZE + PAGE, 16 * PAGE


@mypyc_attr(allow_interpreted_subclasses=True)
class Classify(Strategy):
    """The strategy `classify`; `laconic` differs in what it commits, and when."""

    name: ClassVar[str] = "classify"
    linux_rule: ClassVar[HostRule | None] = only_changes
    strict: ClassVar[bool] = True
    can_sync: ClassVar[bool] = True
    #: `batch`: the ioctls of one step share a host call. `eager`: all accessible memory is
    #: committed immediately.
    batch: ClassVar[bool] = False
    eager: ClassVar[bool] = True

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        sync: bool = False,
        pal_type: type[Edmm] = Edmm,
    ) -> None:
        super().__init__(meter, space, touches)
        self.needs_unchanged = False
        self.sync = sync
        self.pal_type = pal_type
        self.pal = self.make_pal(meter)
        self.left = self.pal.left
        #: Files that the host has mapped, so that contents can be copied from them.
        self.hosted: set[File] = set()
        self.sizes = touches.sizes
        self.threads = self.slots = 0

    def make_pal(self, meter: Meter) -> Edmm:
        """Return the PAL of a new process."""
        return self.pal_type(meter, self.batch, self.sync)

    def sibling(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the same strategy for another enclave."""
        return type(self)(self.meter, space, touches, sync=self.sync, pal_type=self.pal_type)

    # Events

    def load(self, entries: Iterable[Entry]) -> None:
        """Load a program into a new enclave. O(entries)."""
        self.meter.create()
        for start, end, vma in entries:
            self.map(start, end, vma)

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Handle the growth of a stack. O(log n)."""
        self.map(start, end, vma)

    def call(self, call: MemoryCall) -> None:
        """Do the work of one memory call. O(changes log n).

        Raises PalError if the host fails. The enclave is then as before, except for the ranges in
        the error's `gone`, and for contents that the call discards.
        """
        if not self.guards.count and (call.name != "madvise" or call.args[2] != MADV_GUARD_INSTALL):
            self._work(call)
            return
        before = [
            run for change in call.changes for run in self.guards.runs(change.start, change.end)
        ]
        self._guard(call)
        try:
            self._work(call)
        except PalError:
            for start, end, guard in before:
                self.guards.set(start, end, guard)
            raise

    def _work(self, call: MemoryCall) -> None:
        changes = call.changes
        if len(changes) == 1:
            kind, start, end, wanted, held, source = changes[0]
            if kind == UNMAP:
                self.unmap([(start, end)])
                return
            if kind == MAP and source is None:
                assert wanted is not None
                self.map(start, end, wanted, call.name == "mmap" and populates(call.args[3]))
                return
            if not kind & ~(EXTEND | RESTRICT):
                assert wanted is not None
                self.pal.protect([(start, end, permissions(wanted.flags))])
                if call.name == "mmap" or (held is not None and not held.flags & VM_PROT):
                    self.opened(start, end, wanted)
                return
        elif not changes:
            return
        self._several(call)

    def _guard(self, call: MemoryCall) -> None:
        # A new mapping has no guard regions, regardless of the old one; mremap moves them with the
        # pages (move_ptes).
        advice = call.args[2] if call.name == "madvise" else None
        moved = [
            (run_start + change.start - change.source, run_end + change.start - change.source)
            for change in call.changes
            if change.source is not None
            for run_start, run_end, guard in self.guards.runs(
                change.source, change.source + change.end - change.start
            )
            if guard
        ]
        for kind, start, end, _, _, _ in call.changes:
            if advice == MADV_GUARD_INSTALL:
                self.guards.set(start, end, True)
            elif advice == MADV_GUARD_REMOVE or (
                advice is None and kind & ~(EXTEND | RESTRICT | FLAGS)
            ):
                self.guards.clear(start, end)
        for start, end in moved:
            self.guards.set(start, end, True)

    def _several(self, call: MemoryCall) -> None:
        name, args = call.name, call.args
        if name == "madvise" and args[2] == MADV_FREE:
            return  # the program may still see the old contents
        gone: list[tuple[int, int]] = []
        protected: list[tuple[int, int, int]] = []
        opened: list[tuple[int, int, Vma]] = []
        fresh: list[Change] = []
        renewed: list[Change] = []
        for change in call.changes:
            kind, start, end, wanted, held, source = change
            if wanted is None:
                gone.append((start, end))
            elif kind & MAP or source is not None:
                fresh.append(change)
            elif kind & (ZERO | FILE):
                if name == "madvise" and args[2] in _DROPS_PAGES:
                    renewed += self._dropped(change, wanted)
                else:
                    renewed.append(change)
            elif kind & (EXTEND | RESTRICT):
                protected.append((start, end, permissions(wanted.flags)))
                if name == "mmap" or (held is not None and not held.flags & VM_PROT):
                    opened.append((start, end, wanted))
            elif name == "msync" and args[2] & MS_SYNC:
                self.meter.host_call()
        before = [
            run
            for change in call.changes
            for run in self.pal.committed.runs(change.start, change.end)
        ]
        for _, start, end, wanted, _, source in fresh:
            if source is not None and wanted is not None and wanted.flags & VM_MAYSHARE:
                before += self.pal.committed.runs(
                    source, source + end - start
                )  # which may have no change of its own
        try:
            # Work that can be undone comes first.
            if protected:
                self.pal.protect(protected)
            for change in fresh:
                self._fresh(change, name == "mmap" and populates(args[3]))
            for start, end, vma in opened:
                self.opened(start, end, vma)
            if renewed:
                self.renew(renewed, args[2] if name == "madvise" else None)
            if gone:
                self.unmap(gone)
        except PalError as refused:
            self._take_back(before, fresh, renewed)
            if name == "madvise":
                refused.gone = []  # still mapped, and zeroed at the next touch
            raise

    def _dropped(self, change: Change, wanted: Vma) -> list[Change]:
        # Return the parts of the pages dropped by advice (zap_page_range_single) whose contents
        # change. Shared memory keeps its contents, as do unwritten pages of a file: these pages
        # stay, and count as untouched from now on.
        if wanted.file is None:
            return [change]
        parts = []
        for start, end, how in self.touches.pages.runs(change.start, change.end):
            if how == OWN and not wanted.flags & VM_MAYSHARE:
                parts.append(change._replace(start=start, end=end))
            elif how:
                self.meter.counts.untouched_pages += end - start >> PAGE_SHIFT
        return parts

    def _take_back(
        self, before: list[tuple[int, int, int | None]], fresh: list[Change], renewed: list[Change]
    ) -> None:
        # A call failed halfway: remove the pages that it committed, and restore access to the
        # earlier ones.
        with suppress(PalError):
            self.pal.discard(
                (change.start, change.end) for change in fresh if change.source is not None
            )
        with suppress(PalError):
            self.pal.discard((start, end) for start, end, prot in before if prot is None)
        was = [(start, end, prot) for start, end, prot in before if prot is not None]
        try:
            self.pal.protect(was)
        except PalError:
            # Pages that were to lose their contents may be removed.
            for change in renewed:
                with suppress(PalError):
                    self.pal.discard([(change.start, change.end)])
            with suppress(PalError):
                self.pal.protect(was)

    def _fresh(self, change: Change, populate: bool) -> None:
        kind, start, end, wanted, _, source = change
        assert wanted is not None
        if source is None:
            self.map(start, end, wanted, populate)
            return
        if not kind & MAP:
            self.unmap([(start, end)])
        self.move(start, end, wanted, source)

    # The effects on the enclave

    def lazy(self, vma: Vma) -> bool:
        """Return whether pages wait for their first touch."""
        return bool(vma.flags & VM_NORESERVE) and vma.file is None

    def map(self, start: int, end: int, vma: Vma, populate: bool = False) -> None:
        """Handle newly mapped pages, none of which is committed. Pages past the end of a file do
        not exist. O(log n).

        `populate`: the program requests all of them immediately.
        """
        if not vma.flags & (VM_IO | VM_PFNMAP) and (
            (populate and vma.flags & VM_PROT) or not self.lazy(vma)
        ):
            if vma.file is not None:
                end = min(end, self.sizes.valid_end(vma))
            if start < end:
                self.commit(start, end, vma)

    def opened(self, start: int, end: int, vma: Vma) -> None:
        """Handle pages that were inaccessible and now are accessible, or that were mapped again
        unchanged."""

    def commit(self, start: int, end: int, vma: Vma) -> None:
        """Commit pages that do not exist, with their contents; guard regions are skipped.
        O(log n)."""
        for run_start, run_end, guard in (
            self.guards.runs(start, end) if self.guards.count else [(start, end, None)]
        ):
            if not guard:
                self.pal.commit(run_start, run_end, permissions(vma.flags), contents=self.host(vma))
                self.meter.counts.untouched_pages += run_end - run_start >> PAGE_SHIFT

    def host(self, vma: Vma) -> bool:
        """Return whether pages of `vma` have a file's contents; if so, let the host map the file.
        O(1)."""
        file = vma.file
        if file is None or not file.is_on_disk:
            return False
        if file not in self.hosted:
            # The host maps the whole file once outside the enclave, and contents are copied from
            # there.
            self.hosted.add(file)
            self.meter.host_call()
        return True

    def unmap(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Handle unmapped pages: release the committed ones. O(log n + k)."""
        self.pal.trim(ranges)

    def renew(self, changes: Iterable[Change], advice: int | None) -> None:
        """Handle mapped pages that lost their contents: by madvise with `advice`, or by another
        mapping (None). O(log n + k)."""
        trimmed: list[tuple[int, int, Vma]] = []
        for _, start, end, vma, _, _ in changes:
            assert vma is not None
            if advice is not None and advice != MADV_GUARD_INSTALL and vma.flags & PROT_WRITE:
                self.overwrite(start, end, vma)
            else:
                trimmed.append((start, end, vma))
        self.pal.trim((start, end) for start, end, _ in trimmed)
        if advice != MADV_GUARD_INSTALL:
            for start, end, vma in trimmed:
                self.map(start, end, vma)

    def overwrite(self, start: int, end: int, vma: Vma) -> None:
        """Give the committed pages, which are writable, the contents of a new mapping.
        O(log n + k)."""
        meter = self.meter
        for run_start, run_end, prot in self.pal.committed.runs(start, end):
            if prot is not None:
                if self.host(vma):
                    meter.copy(run_end - run_start >> PAGE_SHIFT)
                else:
                    meter.zero(run_start, run_end)
                meter.counts.untouched_pages += self.touches.count(run_start, run_end)

    def move(self, start: int, end: int, vma: Vma, source: int) -> None:
        """Give pages the contents of those at `source`, and then release the latter.
        O(log n + k)."""
        prot, by, meter = permissions(vma.flags), start - source, self.meter
        for run_start, run_end, had in list(self.pal.committed.runs(source, source + end - start)):
            if had is None:
                continue
            if not had & PROT_READ:
                # EACCEPTCOPY must read the source, so an unreadable page is made readable
                # temporarily; no other path does this.
                meter.counts.open_windows += run_end - run_start >> PAGE_SHIFT
                self.pal.protect([(run_start, run_end, had | PROT_READ)])
            self.pal.commit(run_start + by, run_end + by, prot, source=run_start)
            if (
                not had & PROT_READ
                and vma.flags & VM_MAYSHARE
                and self.space.vmas.get(run_start) is not None
            ):
                self.pal.protect([(run_start, run_end, had)])  # the source stays (MREMAP_DONTUNMAP)

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Handle first touches: the enclave's page-fault handler commits uncommitted pages, page by
        page. O(log n + k)."""
        committed = self.pal.committed
        _, run_end, prot = committed.find(start)
        if prot is None or run_end < end:
            for run_start, run_end, prot in list(committed.runs(start, end)):
                if prot is None:
                    self.fault(run_start, run_end, vma)
        self.meter.counts.untouched_pages -= end - start >> PAGE_SHIFT

    def page_fault(self, address: int, access: int) -> int:
        """Handle a fault in the enclave at `address`, caused by an `access` (PROT_READ, PROT_WRITE
        or PROT_EXEC).

        The bookkeeping states what is mapped there. Returns the signal for the program, or 0 if the
        page is committed now. O(log n).
        """
        start = address & PAGE_MASK
        vma = self.space.vmas.get(start)
        if vma is None or not permissions(vma.flags) & access or self.guards.get(start):
            return signal.SIGSEGV
        if start >= self.sizes.valid_end(vma):
            return signal.SIGBUS
        try:
            self.touch(start, start + PAGE, vma)
        except PalError:
            return signal.SIGBUS  # like the kernel if it has no free page (VM_FAULT_SIGBUS)
        return 0

    def fault(self, start: int, end: int, vma: Vma) -> None:
        """Handle a fault on touched pages that do not exist. O(log n)."""
        self.meter.exception(end - start >> PAGE_SHIFT)
        self.commit(start, end, vma)

    # Processes and threads

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the child's enclave, to which pages that are only in memory have been sent. O(n).

        Raises PalError if the EPC has no room for them.
        """
        child = self.sibling(space, touches)
        child.guards = self.guards.copy()
        self.meter.host_call()
        self.meter.create()
        sent = 0
        try:
            for start, end, vma in space.vmas:
                if vma.flags & VM_WIPEONFORK:
                    child.guards.clear(start, end)
                if not vma.flags & (VM_DONTCOPY | VM_WIPEONFORK | VM_IO | VM_PFNMAP):
                    sent += self._send(start, end, vma, child)
        except PalError:
            child.end()
            raise
        if sent:
            self.meter.host_call(2)  # one write, one read
            self.meter.copy(sent)
        return child

    def _send(self, start: int, end: int, vma: Vma, child: Classify) -> int:
        # Send the child the committed pages whose contents are nowhere else. Pages with a file's
        # contents are read from the file again.
        prot, sent = permissions(vma.flags), 0
        for run_start, run_end, had in self.pal.committed.runs(start, end):
            if had is None:
                continue
            for part_start, part_end, how in self.touches.pages.runs(run_start, run_end):
                if how == OWN or (how and vma.file is None):
                    child.pal.commit(part_start, part_end, prot, contents=True)
                    sent += part_end - part_start >> PAGE_SHIFT
                elif self.eager:
                    child.map(part_start, part_end, vma)
        return sent

    def thread(self) -> None:
        """Start a thread: its stack in the library OS, whose guard page is never committed, and its
        TCS. O(log n).

        Raises PalError; the next thread then uses the part of the stack that exists.
        """
        if self.threads == self.slots:
            at = _INTERNAL + self.slots * _SLOT
            tcs = at + 2 * PAGE + THREAD_STACK
            for start, end, prot in list(
                self.pal.committed.runs(at + PAGE, at + PAGE + THREAD_STACK)
            ):
                if prot is None:
                    self.pal.commit(start, end, RW)
            self.pal.add_tcs(tcs)
            self.slots += 1
        self.threads += 1  # a free slot of an ended thread is used first

    def thread_ends(self) -> None:
        """End a thread. O(1)."""
        self.threads -= 1

    def end(self) -> None:
        """End the enclave. O(n)."""
        self.meter.destroy(self.pal.pages())
