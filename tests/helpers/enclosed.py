"""A program in an enclave: the real bookkeeping, one strategy, and a machine that carries out what
the strategy does.

`Enclosed` makes calls and accesses; `check` asserts all that must hold between two, contents and
counts too.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable

from laconic.libos.strategy import MemoryCall
from laconic.libos.touches import OWN, Touches
from laconic.linux.pagemap import FILE_PAGE
from laconic.memory.calls import OPERATIONS
from laconic.memory.change import FILE, MAP, UNMAP, ZERO, Change, Outcome
from laconic.memory.flags import (
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MAP_ANONYMOUS,
    PAGE_MASK,
    PROT_READ,
    PROT_WRITE,
    VM_MAYSHARE,
    VM_WIPEONFORK,
)
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_TCS, PT_TRIM, Book, Counts, Meter
from laconic.sgx.model.driver import Driver, Epc
from laconic.sgx.model.epcm import NEEDS, EpcmEntry
from laconic.sgx.model.failures import Plan
from laconic.sgx.model.faults import SgxError
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.edmm import ACCEPTED, CHANGED, PENDING_PAGE, RETYPED, TRIMMED, Edmm, PalError
from laconic.strategies.classify import Classify
from laconic.strategies.strict import StrictChecker, breaches
from tests.helpers.enclaveworld import BASE, HEAP, PAGE, Answers

#: All that a program and a library OS can use, in bytes.
SIZE = 1 << 48
#: Files by descriptor: one for everything, one that is read-only and ends within a page, one that
#: is empty.
FILES = {
    3: OpenFile(File(8, 1, 3, "/data"), True, True, size=90 * PAGE),
    4: OpenFile(File(8, 1, 4, "/lib"), True, False, size=20 * PAGE + 100),
    5: OpenFile(File(8, 1, 5, "/short"), True, True, size=3 * PAGE),
    6: OpenFile(File(8, 1, 6, "/empty"), True, True, size=0),
}
NO_FD = (1 << 64) - 1
#: What a page holds: zeroes; what the host gave, a file's. Above 0: what the program has written.
ZEROES, GIVEN = 0, -1
#: What the EPCM must say of a page that a failure left: its type, PENDING and MODIFIED.
_LEFT = {
    PENDING_PAGE: (PT_REG, PENDING),
    CHANGED: (PT_TRIM, MODIFIED),
    TRIMMED: (PT_TRIM, 0),
    RETYPED: (PT_TCS, MODIFIED),
}


class Recorder(Machine):
    """A machine that remembers what each page holds and which were accepted; `twice` are accepted
    once too often."""

    def __init__(self, driver: Driver, book: Book | None = None) -> None:
        super().__init__(driver, book)
        self.contents: dict[int, int] = {}
        self.twice: list[int] = []
        #: Pages that were copied: all of them, and those since the last EAUG, which are for
        #: EACCEPTCOPY.
        self.copied = self.staged = 0

    def _do(
        self,
        effect: Callable[[int], None],
        operation: Callable[..., None],
        start: int,
        end: int,
        *more: object,
    ) -> None:
        done = end
        try:
            operation(start, end, *more)
        except SgxError as refused:
            done = refused.done
            raise
        finally:
            for page in range(start, done, PAGE):
                effect(page)

    def _accepted(self, page: int, holds: int) -> None:
        if page in self.contents:
            self.twice.append(page)
        self.contents[page] = holds

    def eaccept(self, start: int, end: int, prot: int, request: int) -> None:
        def effect(page: int) -> None:
            if request & PENDING:
                self._accepted(page, ZEROES)
            elif request == MODIFIED:
                self.contents.pop(page, None)

        self._do(effect, super().eaccept, start, end, prot, request)

    def eacceptcopy(self, start: int, end: int, prot: int, source: int | None) -> None:
        def effect(page: int) -> None:
            if source is not None:
                self._accepted(page, self.contents[source + page - start])
                return
            self._accepted(page, GIVEN if self.staged else ZEROES)
            if self.staged:
                self.staged -= 1
                self.copied -= 1

        self._do(effect, super().eacceptcopy, start, end, prot, source)

    def zero(self, start: int, end: int) -> None:
        self._do(lambda page: self.contents.update({page: ZEROES}), super().zero, start, end)

    def copy(self, pages: int) -> None:
        super().copy(pages)
        self.copied += pages
        self.staged += pages

    def eaug(self, start: int, end: int, faults: int | None = None) -> None:
        self.staged = 0
        super().eaug(start, end, faults)


class Enclosed(Answers):
    """One program: its `strategy` on a machine, and as `shadow` on a meter. `holds`: what was
    written, by page.

    `plan` and `epc_pages` are the driver's, `pte` is --pte.
    """

    def __init__(
        self,
        strategy_class: type[Classify],
        plan: Plan | None = None,
        epc_pages: int | None = None,
        pte: str = "rwx",
        entries: Iterable[Entry] = (),
    ) -> None:
        self.pte = pte
        self.plan = plan or Plan()
        self.epc = Epc(epc_pages)
        space = AddressSpace(Layout(mmap_base=BASE + 300 * PAGE), entries, HEAP)
        self._begin(space, Touches(), None)
        sync = pte == "sync"
        self.shadow = strategy_class(Meter(), self.space, self.touches, sync=sync)
        self.strategy = strategy_class(self.machine, self.space, self.touches, sync=sync)
        self.written = 0
        self.holds: dict[int, int] = {}
        self.guards: set[int] = set()
        for strategy in (self.strategy, self.shadow):
            strategy.load(space.vmas)

    def _begin(self, space: AddressSpace, touches: Touches, book: Book | None) -> None:
        self.space, self.touches = space, touches
        self.driver = Driver.ready(0, SIZE, self.epc, self.pte, self.plan)
        self.machine = Recorder(self.driver, book)
        self.watch = StrictChecker(self.machine, space)

    @property
    def counts(self) -> Counts:
        return self.machine.counts

    @property
    def pal(self) -> Edmm:
        return self.strategy.pal

    # Upcalls

    def open_file(self, fd: int) -> OpenFile | None:
        return FILES.get(fd)

    def untouched(self, start: int, end: int) -> bool:
        for vma_start, vma_end, vma in self.space.vmas.runs(start, end):
            for _, _, how in self.touches.pages.runs(vma_start, vma_end):
                if how is not None and (vma is None or vma.file is None or how == OWN):
                    return False
        return True

    # What the program does

    def call(self, name: str, *args: int) -> int:
        """Makes one memory call. What bookkeeping cannot answer by itself is not made."""
        six = (*args, *(0,) * (6 - len(args)))
        outcome = OPERATIONS[name](self.space, six, self)
        start, end = outcome.start, outcome.end
        if outcome.ask or outcome.resync or outcome.place:
            if start < end:
                self.space.rollback(start, end)
            return 0
        file = FILES.get(six[4]) if name == "mmap" and not six[3] & MAP_ANONYMOUS else None
        self.touches.sizes.note(file)
        told = MemoryCall(name, six, outcome.result, outcome.changes, file)
        self.machine.copied = 0
        self.watch.expect(outcome.changes)
        opened = self.counts.open_windows
        try:
            self.strategy.call(told)
        except PalError as refused:
            self._excused(name, outcome.changes, opened)
            self._taken_back(outcome, refused)
            return self.space.brk if name == "brk" else -refused.error
        self.space.commit(outcome)
        self.shadow.call(told)
        self._excused(name, outcome.changes, opened)
        if name != "madvise" or six[2] != MADV_FREE:
            self._lost(outcome.changes)
        self._guarded(name, six[2], outcome.changes)
        self.touches.apply(name, six, outcome.changes)
        return outcome.result

    def _guarded(self, name: str, advice: int, changes: Iterable[Change]) -> None:
        # Guard regions, which no VMA shows, page by page: they outlive mprotect and discards, and
        # go along with mremap.
        moved = {
            page + start - source
            for _, start, end, _, _, source in changes
            if source is not None
            for page in self.guards
            if source <= page < source + end - start
        }
        for kind, start, end, _, _, _ in changes:
            pages = set(range(start, end, PAGE))
            if name == "madvise" and advice == MADV_GUARD_INSTALL:
                self.guards |= pages
            elif (
                advice == MADV_GUARD_REMOVE
                if name == "madvise"
                else kind & (MAP | UNMAP | FILE | ZERO)
            ):
                self.guards -= pages
        self.guards |= moved

    def access(self, address: int, kind: str) -> int:
        """The program's "load", "store" or "fetch"; returns the signal that it gets, or 0."""
        page = address & PAGE_MASK
        self.watch.expect(())
        faults = False
        try:
            self.machine.access(address, kind)
        except SgxError:
            faults = True
            found = self.strategy.page_fault(address, NEEDS[kind])
            if found:
                return found
            self.machine.access(address, kind)
        vma = self.space.vmas.get(page)
        assert vma is not None
        own = vma.file is None or (kind == "store" and not vma.flags & VM_MAYSHARE)
        first = list(self.touches.take([(page, page + PAGE, 0 if own else FILE_PAGE)], self.space))
        if first and not faults:
            self.strategy.touch(page, page + PAGE, vma)
        if first or faults:
            self.shadow.touch(page, page + PAGE, vma)
        if kind == "store" and not vma.flags & VM_MAYSHARE:
            self.written += 1
            self.holds[page] = self.machine.contents[page] = self.written
        return 0

    def thread(self) -> int:
        """A thread begins; its number, or a negative errno."""
        self.watch.expect(())
        try:
            self.strategy.thread()
        except PalError as refused:
            return -refused.error
        self.shadow.thread()
        return 1

    def thread_ends(self) -> None:
        """One of the threads that have begun ends."""
        for strategy in (self.strategy, self.shadow):
            if strategy.threads:
                strategy.thread_ends()

    def fork(self) -> Enclosed | None:
        """The child; None where the host has no room for it."""
        child: Enclosed = object.__new__(type(self))
        child.pte, child.plan, child.epc, child.written = (
            self.pte,
            self.plan,
            self.epc,
            self.written,
        )
        child._begin(self.space.fork(), self.touches.copy(), self.machine.book)
        # The child's enclave is another machine, which counts in the same book.
        self.strategy.meter = child.machine
        try:
            child.strategy = self.strategy.fork(child.space, child.touches)
        except PalError:
            return None
        finally:
            self.strategy.meter = self.machine
        child.shadow = self.shadow.fork(child.space, child.touches)
        kept = {
            page
            for page in (*self.holds, *self.guards)
            if (vma := child.space.vmas.get(page)) is not None and not vma.flags & VM_WIPEONFORK
        }
        child.holds = {page: holds for page, holds in self.holds.items() if page in kept}
        child.guards = self.guards & kept
        for page, holds in child.machine.contents.items():
            own = self.touches.pages.get(page) == OWN
            if holds == GIVEN and own:
                child.machine.contents[page] = self.machine.contents[page]
        return child

    def end(self) -> None:
        """The process ends; the machine raises `SgxError` where the strategy had another number of
        pages."""
        for strategy in (self.strategy, self.shadow):
            strategy.end()

    def _taken_back(self, outcome: Outcome, refused: PalError) -> None:
        space = self.space
        if outcome.start < outcome.end:
            space.rollback(outcome.start, outcome.end)
        for start, end in refused.gone:
            for pages in (space.vmas, space.held, self.touches.pages):
                pages.clear(start, end)
        contents = self.machine.contents
        for kind, start, end, _, _, _ in outcome.changes:
            for page in [page for page in self.holds if start <= page < end]:
                if self.pal.committed.get(page) is None:
                    contents.pop(page, None)
                # What the call was to throw away may be lost, or not.
                if space.vmas.get(page) is None or (
                    kind & (ZERO | FILE) and contents.get(page) != self.holds[page]
                ):
                    del self.holds[page]
            for page in [page for page in contents if start <= page < end and kind & (ZERO | FILE)]:
                vma = space.vmas.get(page)
                if page not in self.holds and vma is not None:
                    contents[page] = self._clean(vma)

    def _lost(self, changes: Iterable[Change]) -> None:
        # What the program can expect of its pages after these changes; and the file contents that
        # were copied in place.
        moved = {
            page + start - source: holds
            for _, start, end, _, _, source in changes
            if source is not None
            for page, holds in self.holds.items()
            if source <= page < source + end - start
        }
        for kind, start, end, wanted, _, source in changes:
            if not kind & (MAP | UNMAP | FILE | ZERO):
                continue
            for page in [page for page in self.holds if start <= page < end]:
                del self.holds[page]
            if source is None and wanted is not None and self._clean(wanted) == GIVEN:
                for page, holds in self.machine.contents.items():
                    if start <= page < end and holds != GIVEN and self.machine.copied:
                        self.machine.contents[page] = GIVEN
                        self.machine.copied -= 1
        self.holds.update(moved)

    def _excused(self, name: str, changes: Iterable[Change], opened: int) -> None:
        # The one window that is allowed: what nobody may read is opened to be moved.
        assert bool(self.watch.excepted) <= (name == "mremap" and self.counts.open_windows > opened)
        self.watch.excepted.clear()

    # What must be true

    def deserved(self, address: int, kind: str) -> int:
        """The signal that an access deserves, or 0: by the VMAs and the files' sizes alone."""
        vma = self.space.vmas.get(address & PAGE_MASK)
        rights = 0 if vma is None else vma.flags
        if rights & PROT_WRITE:
            rights |= PROT_READ
        if vma is None or not rights & NEEDS[kind]:
            return signal.SIGSEGV
        if address & PAGE_MASK in self.guards:
            return signal.SIGSEGV
        return 0 if self._exists(address & PAGE_MASK, vma) else signal.SIGBUS

    @staticmethod
    def _exists(page: int, vma: Vma) -> bool:
        sizes = {opened.file: opened.size for opened in FILES.values()}
        return vma.file not in sizes or page - vma.base < sizes[vma.file]

    def check(self, counted: bool = True) -> None:
        """Asserts all that holds between two steps; not `counted`, where failures make counts
        differ."""
        self.space.check()
        found = list(breaches(self.machine, self.space, self.pal.left))
        assert not found, f"Strict: {found[0]}"
        assert not self.watch.windows, f"Strict: {self.watch.windows[0]}"
        for page in self.guards:
            assert not next(self.machine.effective(page, page + PAGE))[2], (
                f"Strict: {page:#x} is a guard region's"
            )
        assert not self.machine.twice, (
            f"page {self.machine.twice[0]:#x} is accepted twice without a trim"
        )
        self._record(counted)
        self._contents()
        if counted:
            meter = self.shadow.meter
            done, shadow = self.counts.as_dict(), meter.counts.as_dict()
            differ = {
                name: (done[name], shadow[name]) for name in done if done[name] != shadow[name]
            }
            assert not differ, f"counted otherwise than done: {differ}"
            assert (self.machine.epc_pages, self.machine.peak_epc_pages) == (
                meter.epc_pages,
                meter.peak_epc_pages,
            )
        assert self.machine.epc_pages == self.epc.used, "the pages counted are those in the EPC"

    def _record(self, settled: bool) -> None:
        # The PAL's record of each page is the EPCM's; `settled`: nothing waits for an EACCEPT.
        pal, epcm = self.pal, self.driver.epcm.pages
        listed: dict[int, tuple[str, int]] = {}
        for start, end, prot in pal.committed:
            listed |= dict.fromkeys(range(start, end, PAGE), ("committed", prot))
        for start, end, state in pal.left:
            for page in range(start, end, PAGE):
                assert page not in listed, f"page {page:#x} is committed and left"
                listed[page] = ("left", state)
        there = {page: entry for start, end, entry in epcm for page in range(start, end, PAGE)}
        assert listed.keys() == there.keys(), (
            f"the EPCM has other pages: {sorted(listed.keys() ^ there.keys())[:3]}"
        )
        for page, (what, how) in listed.items():
            assert not settled or not there[page].state, (
                f"page {page:#x} waits for an EACCEPT: {there[page]}"
            )
            assert _agrees(what, how, there[page]), (
                f"page {page:#x} is {what} {how}, and in the EPCM {there[page]}"
            )

    def _contents(self) -> None:
        there = self.pal.committed
        contents = {
            page: holds
            for page, holds in self.machine.contents.items()
            if there.get(page) is not None
        }
        for page, holds in self.holds.items():
            assert contents.get(page) == holds, (
                f"page {page:#x} holds {contents.get(page)}, and was written {holds}"
            )
        for page, holds in contents.items():
            vma = self.space.vmas.get(page)
            assert vma is None or self._exists(page, vma), (
                f"page {page:#x} is past the end of its file, and committed"
            )
            if page not in self.holds and vma is not None and not vma.flags & VM_MAYSHARE:
                assert holds == self._clean(vma), f"page {page:#x} should be new, and holds {holds}"

    @staticmethod
    def _clean(vma: Vma) -> int:
        return GIVEN if vma.file is not None and vma.file.inode > 0 else ZEROES


def _agrees(what: str, how: int, entry: EpcmEntry) -> bool:
    state = entry.state & ~PR
    if what == "left":
        return (how == ACCEPTED and not state) or (entry.page_type, state) == _LEFT.get(how)
    return not state and entry.prot == how and entry.page_type in (PT_REG, PT_TCS)
