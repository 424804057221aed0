"""A program over upstream's LibOS under `skip-equal`, on a machine: as `Enclosed`, but for the law Strict.

`check` asserts that the program's VMAs, the LibOS's, the PAL's record and the EPCM agree. Contents are followed where
the program wrote them; what upstream copies is taken to be right.
"""

from __future__ import annotations

import signal

from laconic.memory import flags as f
from laconic.memory.flags import PROT_READ, PROT_RWX, PROT_WRITE
from laconic.memory.vma import Vma
from laconic.pal.pagemap import FILE_PAGE
from laconic.pal.sgx.edmm import Edmm, PalError, permissions
from laconic.pal.sgx.epcm import NEEDS
from laconic.pal.sgx.failures import Plan
from laconic.pal.sgx.faults import SgxError
from laconic.pal.sgx.gramine import INTERNAL, LAZY, TRACKER
from laconic.strategies.libos import VMA_INTERNAL
from laconic.strategies.skip_equal import SkipEqual
from laconic.strategies.touches import OWN
from tests.enclosed import Enclosed
from tests.unit.enclaveworld import PAGE


class Upstream(Enclosed):
    """A program over upstream's LibOS. `stuck` are what pages may have beside what was asked for (R, W, X): a host that
    refuses for ever would not put that back, and the VMAs say so."""

    def __init__(self, plan: Plan | None = None, epc_pages: int | None = None) -> None:
        self.stuck = 0
        super().__init__(SkipEqual, plan, epc_pages)  # type: ignore[arg-type]

    @property
    def libos(self) -> SkipEqual:
        assert isinstance(self.strategy, SkipEqual)
        return self.strategy

    @property
    def pal(self) -> Edmm:
        found: Edmm = self.strategy.pal.recovery  # type: ignore[attr-defined]
        return found

    def call(self, name: str, *args: int) -> int:
        mapped_before = [(start, end) for start, end, _ in self.space.vmas]
        result = super().call(name, *args)
        for start, end in mapped_before if result < 0 else ():
            for begin, stop, vma in self.space.vmas.runs(start, end):
                for page in [page for page in self.holds if begin <= page < stop and vma is None]:
                    del self.holds[page]
        if name == "mremap" and result >= 0:
            self._copied()
        return result

    def _copied(self) -> None:
        # Contents that upstream copies are not modelled.
        for page, holds in self.holds.items():
            if self.pal.committed.get(page) is not None:
                self.machine.contents[page] = holds

    def access(self, address: int, kind: str) -> int:
        page = address & f.PAGE_MASK
        vma = self.space.vmas.get(page)
        if vma is None or not permissions(vma.flags) & NEEDS[kind]:
            return signal.SIGSEGV
        first = self.touches.pages.get(page) is None
        try:
            if self.libos.pal.pages.get(page) != LAZY:
                self.machine.access(address, kind)
            if first:
                self.strategy.touch(page, page + PAGE, vma)
            self.machine.access(address, kind)
        except (PalError, SgxError):
            return signal.SIGBUS
        own = vma.file is None or kind == "store" and not vma.flags & f.VM_MAYSHARE
        if first:
            self.shadow.touch(page, page + PAGE, vma)
        list(self.touches.take([(page, page + PAGE, 0 if own else FILE_PAGE)], self.space))
        if kind == "store" and not vma.flags & f.VM_MAYSHARE:
            self.touches.pages.set(page, page + PAGE, OWN)
            self.written += 1
            self.holds[page] = self.machine.contents[page] = self.written
        return 0

    def thread_ends(self) -> None:
        for strategy in (self.strategy, self.shadow):
            strategy.thread_ends()

    def fork(self) -> Enclosed | None:
        child = super().fork()
        if child is not None:
            assert isinstance(child, Upstream)
            child.stuck = self.stuck
            child._copied()
        return child

    def grow(self, start: int, end: int) -> int:
        """A stack is there; 0, or a negative errno."""
        stack = Vma(PROT_READ | PROT_WRITE | f.VM_MAY_RWX | f.VM_GROWSDOWN)
        try:
            self.strategy.grow(start, end, stack)
        except PalError as refused:
            return -refused.error
        self.shadow.grow(start, end, stack)
        for vmas in (self.space.vmas, self.space.held):
            vmas.set(start, end, stack)
        return 0

    def check(self, counted: bool = True) -> None:
        self.space.check()
        assert not self.machine.twice, f"page {self.machine.twice[0]:#x} is accepted twice without a trim"
        self._record(counted)
        self._agree()
        self._contents()
        if counted:
            done, said = self.counts.as_dict(), self.shadow.meter.counts.as_dict()
            assert done == said, "counted otherwise than done"
            assert self.machine.peak_epc_pages == self.shadow.meter.peak_epc_pages
        assert self.machine.epc_pages == self.epc.used

    def _agree(self) -> None:
        # The program's VMAs, the LibOS's and the pages.
        libos, pages = self.libos.vmas, self.libos.pal.pages
        for start, end, vma in self.space.vmas:
            for begin, stop, ours in libos.runs(start, end):
                assert ours is not None, f"{begin:#x}-{stop:#x} is mapped, and no VMA of the LibOS"
                wrong = (ours.prot ^ vma.flags) & PROT_RWX & ~self.stuck
                assert not wrong, f"{begin:#x}-{stop:#x} has {ours.prot}, and not as {vma}"
        for start, end, ours in libos:
            inside = [vma for _, _, vma in self.space.vmas.runs(start, end)]
            assert start >= INTERNAL and ours.flags & VMA_INTERNAL or all(inside), f"{start:#x}-{end:#x} is not mapped"
            for begin, stop, had in pages.runs(start, end):
                valid = min(max(begin, ours.valid_end), stop)
                if begin < valid:
                    assert had in (permissions(ours.prot), LAZY), f"{begin:#x} has {had}, and the VMA {ours}"
                assert valid == stop or not had, f"{valid:#x} is past the end of the file, and has {had}"
        for start, end, had in pages:
            for begin, stop, ours in libos.runs(start, end):
                tcs = start >= INTERNAL and not had or start >= TRACKER
                assert ours is not None or tcs, f"{begin:#x}-{stop:#x} has {had}, and no VMA"
        committed = [(start, end, had) for start, end, had in pages if had != LAZY]
        assert committed == list(self.pal.committed), "the PAL's two records"

    def _contents(self) -> None:
        for page, holds in self.holds.items():
            contents = self.machine.contents.get(page)
            assert contents == holds, f"page {page:#x} holds {contents}, and was written {holds}"
