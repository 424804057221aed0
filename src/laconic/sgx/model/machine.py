"""A meter that executes what it counts: each operation runs on the modelled driver and EPCM of one
enclave.

A refusal by the hardware or the kernel raises an `SgxError`, which contains the address that the
operation reached. The work done up to there is counted, so that counts and EPCM always agree.
`after_step` inspects the enclave after every SGX instruction and every ioctl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SIZE
from laconic.memory.rangemap import RangeMap
from laconic.sgx.meter import MODIFIED, PR, PT_REG, PT_TRIM, Book, Meter
from laconic.sgx.model.driver import Driver
from laconic.sgx.model.epcm import EpcmEntry
from laconic.sgx.model.faults import PF_ACCESS, HostFault, Refused, SgxError

V = TypeVar("V")


@mypyc_attr(allow_interpreted_subclasses=True)
class Machine(Meter):
    """One enclave, ready to run (`Driver.ready`).

    `book` receives the counts; by default, the machine has its own. Machines that share a book
    count together, like the enclaves of one strategy. `after_step` is called with the machine after
    every SGX instruction over a range and every ioctl, including those that fail halfway.
    """

    def __init__(
        self,
        driver: Driver,
        book: Book | None = None,
        after_step: Callable[[Machine], None] | None = None,
    ) -> None:
        super().__init__()
        if book is not None:
            self.book = book
        self.driver = driver
        self.after_step = after_step

    # Host calls

    def restrict(self, start: int, end: int, prot: int) -> None:
        """RESTRICT_PERMISSIONS. Raises `SgxError` with the ioctl's errno and result."""
        reply = self.driver.restrict_permissions(start - self.driver.base, end - start, prot)
        super().restrict(start, start + reply.count, prot)
        self._replied("RESTRICT_PERMISSIONS", start + reply.count, -reply.error, reply.result)

    def modify_types(self, start: int, end: int, page_type: int) -> None:
        """MODIFY_TYPES. Raises `SgxError` with the ioctl's errno and result."""
        reply = self.driver.modify_types(start - self.driver.base, end - start, page_type)
        super().modify_types(start, start + reply.count, page_type)
        self._replied("MODIFY_TYPES", start + reply.count, -reply.error, reply.result)

    def remove(self, start: int, end: int) -> None:
        """REMOVE_PAGES. Raises `SgxError` with the ioctl's errno."""
        reply = self.driver.remove_pages(start - self.driver.base, end - start)
        super().remove(start, start + reply.count)
        self._replied("REMOVE_PAGES", start + reply.count, -reply.error, 0)

    def host_protect(self, start: int, end: int, prot: int) -> None:
        """mprotect of the host's mapping (pte "sync"), which is a host call. Raises `SgxError`,
        whose `done` is then the start.

        mprotect does not return how much it did; `driver.host` contains the result.
        """
        error = self.driver.mprotect(start, end, prot)
        super().host_call()
        self._replied("mprotect", start if error else end, -error, 0)

    # The enclave's instructions: a page walk first, then the EPCM

    def eaug(self, start: int, end: int, faults: int | None = None) -> None:
        """Add pages that do not exist, as touches do. Raises `SgxError` with ENOMEM if the EPC is
        full, and without an errno if a page exists."""
        driver = self.driver
        absent_end = next(
            (
                run_start
                for run_start, _, entry in driver.epcm.pages.runs(start, end)
                if entry is not None
            ),
            end,
        )
        refused: SgxError | None = None
        if absent_end < end:
            refused = SgxError("EAUG", absent_end, why="the page exists: a touch adds nothing")
        done = absent_end
        try:
            if start < absent_end:
                driver.touch(start, absent_end, "load")
        except HostFault as fault:
            done, refused = fault.address, SgxError.of(fault)
        super().eaug(start, done, faults)
        self._stepped(refused)

    def eaccept(self, start: int, end: int, prot: int, request: int) -> None:
        """EACCEPT. As in SECINFO.FLAGS, bits 15:8 of `request` may contain the page type; MODIFIED
        alone means PT_TRIM. Raises `SgxError`."""
        page_type = request >> 8 or (PT_TRIM if request & MODIFIED else PT_REG)
        epcm, states = self.driver.epcm, request & 0xFF
        done, refused = self._leaf(
            "EACCEPT",
            start,
            end,
            "load",
            lambda cut_end: epcm.eaccept(start, cut_end, prot, states, page_type),
        )
        super().eaccept(start, done, prot, request)
        self._stepped(refused)

    def eacceptcopy(self, start: int, end: int, prot: int, source: int | None) -> None:
        """EACCEPTCOPY from the pages at `source`, or from a staging page if it is None. Raises
        `SgxError`."""
        epcm = self.driver.epcm
        done, refused = self._leaf(
            "EACCEPTCOPY",
            start,
            end,
            "store",
            lambda cut_end: epcm.eacceptcopy(start, cut_end, prot, source),
            source,
        )
        super().eacceptcopy(start, done, prot, source)
        self._stepped(refused)

    def emodpe(self, start: int, end: int, prot: int) -> None:
        """EMODPE. Raises `SgxError`."""
        epcm = self.driver.epcm
        done, refused = self._leaf(
            "EMODPE", start, end, "load", lambda cut_end: epcm.emodpe(start, cut_end, prot)
        )
        super().emodpe(start, done, prot)
        self._stepped(refused)

    def zero(self, start: int, end: int) -> None:
        """Write zeros. Raises `SgxError` at the first page that is not writable."""
        epcm = self.driver.epcm
        done, refused = self._leaf(
            "store", start, end, "store", lambda cut_end: epcm.access(start, cut_end, "store")
        )
        super().zero(start, done)
        self._stepped(refused)

    def place(self, moves: Iterable[tuple[int, int, int]]) -> None:
        """Move the pages of each `(start, end, target)` to the addresses from `target` on. O(n)."""
        moves = list(moves)
        driver = self.driver
        _rename(driver.epcm.pages, moves)
        _rename(driver.pages, moves)
        _rename(driver.ptes, moves)

    # Accesses by the program

    def access(self, address: int, kind: str) -> None:
        """Check a "load", "store" or "fetch" by the program. Changes, counts and commits nothing.
        O(log n).

        Raises `SgxError` with the fault's code; for an absent page, neither the SGX bit nor the P
        bit is set.
        """
        start = address - address % PAGE_SIZE
        try:
            self.driver.walk(start, start + PAGE_SIZE, kind)
            if self.driver.epcm.pages.get(start) is None:
                raise SgxError(kind, start, fault=PF_ACCESS[kind], why="the page does not exist")
            self.driver.epcm.access(start, start + PAGE_SIZE, kind)
        except Refused as refused:
            raise SgxError.of(refused) from refused

    def effective(self, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
        """Yield the program's effective access as `(start, end, prot)`: host mapping ∩ EPCM.
        O(log n + k).

        `prot` is None if no page is committed: absent, pending, changing its type, trimmed, or
        being swapped. A TCS has 0.
        """
        for entry_start, entry_end, entry in self.driver.epcm.pages.runs(start, end):
            prot = _prot(entry)
            if prot is None:
                yield entry_start, entry_end, None
                continue
            for vma_start, vma_end, vma in self.driver.host.vmas.runs(entry_start, entry_end):
                yield vma_start, vma_end, prot & vma.allows if vma is not None else 0

    def eadd(self, start: int, end: int) -> None:
        """Raise `SgxError`: the enclave is ready to run, so no page can be added to it."""
        raise SgxError("EADD", start, why="the enclave is initialized")

    def destroy(self, pages: int) -> None:
        """End the enclave. Raises `SgxError` if it did not contain this number of pages; it is
        destroyed nevertheless."""
        held = self.driver.destroy()
        super().destroy(held)
        if held != pages:
            raise SgxError(
                "EREMOVE", self.driver.base, why=f"the enclave held {held} pages, not {pages}"
            )

    def _leaf(
        self,
        what: str,
        start: int,
        end: int,
        kind: str,
        leaf: Callable[[int], None],
        source: int | None = None,
    ) -> tuple[int, SgxError | None]:
        # Run an SGX instruction on pages whose page walk allows this kind of access. Returns the
        # address that it reached, and the reason why it went no further.
        refused: SgxError | None = None
        cut_end, failure = (
            (end, None) if what == "store" else self.driver.plan.cut(what.lower(), start, end)
        )
        if failure is not None:
            refused = SgxError(what, cut_end, failure.error, failure.code)
        for shift, access in (
            ((0, kind),) if source is None else ((0, kind), (source - start, "load"))
        ):
            try:
                self.driver.walk(start + shift, cut_end + shift, access)
            except HostFault as fault:
                cut_end = fault.address - shift
                refused = SgxError(
                    what, cut_end, fault=fault.error_code, why="the page walk refuses"
                )
        absent = next(
            (
                run_start
                for run_start, _, entry in self.driver.epcm.pages.runs(start, cut_end)
                if entry is None
            ),
            cut_end,
        )
        if absent < cut_end:
            cut_end = absent
            refused = SgxError(what, cut_end, fault=PF_ACCESS[kind], why="the page does not exist")
        try:
            if start < cut_end:
                leaf(cut_end)
        except Refused as refusal:  # not `fault`: mypyc allows a name only one class per function
            cut_end, refused = refusal.address, SgxError.of(refusal)
        return cut_end, refused

    def _stepped(self, refused: SgxError | None) -> None:
        if self.after_step is not None:
            self.after_step(self)
        if refused is not None:
            raise refused

    def _replied(self, what: str, done: int, error: int, code: int) -> None:
        self._stepped(SgxError(what, done, error, code) if error else None)


def _rename(pages: RangeMap[V], moves: Iterable[tuple[int, int, int]]) -> None:
    moved = [
        (run_start + target - start, run_end + target - start, value)
        for start, end, target in moves
        for run_start, run_end, value in pages.parts(start, end)
    ]
    for start, end, _ in moves:
        pages.clear(start, end)
    for start, end, value in moved:
        pages.set(start, end, value)


def _prot(entry: EpcmEntry | None) -> int | None:
    # The access that the EPCM allows, or None if no page is committed.
    if entry is None or entry.state & ~PR or entry.page_type == PT_TRIM:
        return None
    return entry.prot if entry.accessible else 0
