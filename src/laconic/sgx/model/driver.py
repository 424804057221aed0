"""The Linux driver of one enclave: faults resolved by EAUG, the SGX2 ioctls, and the host's
mappings.

Modelled after arch/x86/kernel/cpu/sgx (Linux 6.12); comments name its functions. Runs of equal
pages are handled at once, in O(runs), with the same result as page by page. Not modelled: swapping
(a page that is being reclaimed is an EAGAIN that a test plans), and the EPC pages of the SECS and
of version arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES, EBUSY, EFAULT, EINVAL, ENODEV, ENOMEM, EPERM
from signal import SIGBUS, SIGSEGV
from typing import Final, NamedTuple

from laconic.errors import LaconicError
from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE, PROT_READ, PROT_RWX, PROT_WRITE
from laconic.memory.rangemap import RangeMap
from laconic.sgx.meter import PT_REG, PT_TCS, PT_TRIM
from laconic.sgx.model.epcm import NEEDS, Epcm
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import PF_ACCESS, PF_PROT, HostFault, LeafError, PageFault, Refused
from laconic.sgx.model.hostmap import MAX_MAP_COUNT, HostMap

#: How the host maps the enclave: all of it RWX, once; or each page with its EPCM permissions.
PTE: Final = ("rwx", "sync")


class Epc:
    """The enclave page cache of a machine, in pages; with None, it never fills. Enclaves may share
    it."""

    def __init__(self, pages: int | None = None) -> None:
        if pages is not None and pages <= 0:
            raise LaconicError(
                f"the EPC size is {pages} pages: give at least 1 page, or none for an EPC without "
                "limit"
            )
        self.pages = pages
        self.used = 0

    def room(self, pages: int) -> int:
        """Return how many of `pages` pages fit."""
        return pages if self.pages is None else min(pages, self.pages - self.used)


class DriverPage(NamedTuple):
    """The contents of a page's `struct sgx_encl_page`: the type as recorded by the driver, and
    `vm_max_prot_bits`."""

    page_type: int
    max_prot: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of an ioctl: 0 or a negative errno, the bytes done, and an instruction's error
    code (0: none)."""

    error: int
    count: int
    result: int = 0


class _Stopped(Exception):
    # An ioctl ends at this address.
    def __init__(self, address: int, error: int, result: int = 0) -> None:
        super().__init__(address)
        self.address = address
        self.error = error
        self.result = result


class Driver:
    """One enclave as the kernel records it, and the process that maps it.

    The constructor is ENCLAVE_CREATE; `base` and `size` are in bytes. `ptes` are the page table
    entries that are present. `ioctl_flag` is SGX_ENCL_IOCTL: while it is set, an ioctl of another
    thread is in progress.
    """

    def __init__(
        self,
        base: int,
        size: int,
        epc: Epc | None = None,
        plan: Plan | None = None,
        max_map_count: int = MAX_MAP_COUNT,
        sgx2: bool = True,
    ) -> None:
        self.epcm = Epcm(base, size)
        self.base = base
        self.size = size
        self.epc = epc or Epc()
        self.plan = plan or Plan()
        self.sgx2 = sgx2
        self.ioctl_flag = False
        self.host = HostMap(self.may_map, max_map_count)
        self.pages: RangeMap[DriverPage] = RangeMap()
        self.ptes: RangeMap[bool] = RangeMap()

    @classmethod
    def ready(
        cls,
        base: int,
        size: int,
        epc: Epc | None = None,
        pte: str = "rwx",
        plan: Plan | None = None,
        max_map_count: int = MAX_MAP_COUNT,
    ) -> Driver:
        """Return an initialised enclave without pages, all of it mapped: RWX with pte "rwx",
        inaccessible with "sync"."""
        if pte not in PTE:
            raise LaconicError(
                f"no way to map an enclave is called {pte!r}: choose one of {', '.join(PTE)}"
            )
        driver = cls(base, size, epc, plan, max_map_count)
        driver.epcm.einit()
        driver.host.mmap(base, base + size, PROT_RWX if pte == "rwx" else 0)
        return driver

    # Building

    def add_pages(self, offset: int, length: int, prot: int, page_type: int = PT_REG) -> Reply:
        """ENCLAVE_ADD_PAGES: add pages that can never be mapped with more than `prot`, or RW for a
        TCS. O(log n + k)."""
        bad = (
            page_type not in (PT_REG, PT_TCS)
            or (page_type == PT_TCS and prot)
            or prot & 3 == PROT_WRITE
        )
        if self.epcm.initialised or self._invalid(offset, length) or bad:
            return Reply(-EINVAL, 0)
        start = self.base + offset
        wanted_end, error = start + length, 0
        end = next(
            (at for at, _, page in self.pages.runs(start, wanted_end) if page is not None),
            wanted_end,
        )
        if end < wanted_end:
            error = -EBUSY  # xa_insert
        room = start + (self.epc.room(end - start >> PAGE_SHIFT) << PAGE_SHIFT)
        if room < end:
            end, error = room, -ENOMEM
        if start < end:
            self.epcm.eadd(start, end, prot, page_type)
            max_prot = PROT_READ | PROT_WRITE if page_type == PT_TCS else prot
            self.pages.set(start, end, DriverPage(page_type, max_prot))
            self.epc.used += end - start >> PAGE_SHIFT
        return Reply(error, end - start)

    def init(self) -> int:
        """ENCLAVE_INIT: return 0, or -EINVAL if it was called before."""
        if self.epcm.initialised:
            return -EINVAL
        self.epcm.einit()
        return 0

    def destroy(self) -> int:
        """End the enclave: free all of its pages and its SECS. Returns the number of pages that it
        had. O(n)."""
        held = sum(end - start for start, end, _ in self.epcm.pages) >> PAGE_SHIFT
        self.epcm.threads.clear()
        everything = self.base, self.base + self.size
        self.epcm.eremove(*everything)
        self.epcm.eremove_secs()
        self.pages.clear(*everything)
        self.ptes.clear(*everything)
        self.epc.used -= held
        return held

    # Mappings and faults

    def may_map(self, start: int, end: int, prot: int) -> int:
        """`sgx_encl_may_map`: return -EACCES outside the enclave, or if a page's max-prot lacks a
        bit; otherwise 0. O(log n + k)."""
        if self.epcm.initialised and (start < self.base or end > self.base + self.size):
            return -EACCES
        pages = self.pages.runs(start, end)
        return (
            -EACCES
            if any(page is not None and prot & ~page.max_prot for _, _, page in pages)
            else 0
        )

    def mprotect(self, start: int, end: int, prot: int) -> int:
        """mprotect of the host's mapping: return 0 or a negative errno. The EPCM does not change.
        O(log n + k)."""
        cut_end, failure = self.plan.cut("mprotect", start, end)
        error = self.host.mprotect(start, cut_end, prot) if start < cut_end else 0
        return error or (-failure.error if failure is not None else 0)

    def walk(self, start: int, end: int, kind: str) -> None:
        """Walk the page tables for a "load", "store" or "fetch" of each page, and check the VMAs.
        O(log n + k).

        Raises `HostFault` (SIGSEGV, without the SGX bit) at the first page without a VMA that
        allows it.
        """
        need = NEEDS[kind]
        for at, _, vma in self.host.vmas.runs(start, end):
            if vma is None or not vma.allows & need:
                present = PF_PROT if vma is not None and vma.prot and self.ptes.get(at) else 0
                why = "no VMA" if vma is None else f"the host's mapping lacks what a {kind} needs"
                raise HostFault(at, PF_ACCESS[kind] | present, SIGSEGV, 0, why)

    def touch(self, start: int, end: int, kind: str) -> int:
        """Do the host's part of touching each page: the walk, and EAUG of pages that do not exist.
        Returns the number of added pages.

        Each EAUG is a fault of its own. The EPCM's check of the access is not included. Raises
        `HostFault` at the first page that stays absent. O(log n + k).
        """
        added = 0
        fault: HostFault | None = None
        try:
            self.walk(start, end, kind)
        except HostFault as refused:
            end, fault = refused.address, refused
        for run_start, run_end, page in list(self.pages.runs(start, end)):
            if page is None:
                added += self._eaug(run_start, run_end, kind)
            else:
                self._load(run_start, run_end, page, kind)
        if fault is not None:
            raise fault
        return added

    def access(self, address: int, kind: str) -> None:
        """Make one complete access by a thread inside: page walk, EAUG, EPCM. Raises `HostFault` or
        `PageFault`."""
        page = address - address % PAGE_SIZE
        self.touch(page, page + PAGE_SIZE, kind)
        self.epcm.access(page, page + PAGE_SIZE, kind)

    def _load(self, start: int, end: int, page: DriverPage, kind: str) -> None:
        # sgx_encl_load_page_in_vma, if no page table entry is present: the VMA may not exceed the
        # max-prot.
        for run_start, run_end, present in list(self.ptes.runs(start, end)):
            for vma_start, vma_end, vma in (
                () if present else self.host.vmas.runs(run_start, run_end)
            ):
                if vma is not None and vma.prot & ~page.max_prot:
                    raise HostFault(
                        vma_start, PF_ACCESS[kind], SIGBUS, 0, "the VMA exceeds the page's max-prot"
                    )
                self.ptes.set(vma_start, vma_end, True)

    def _eaug(self, start: int, end: int, kind: str) -> int:
        # sgx_encl_eaug_page, one fault per page.
        if not self.sgx2 or not self.epcm.initialised:
            raise HostFault(
                start, PF_ACCESS[kind], SIGBUS, 0, "no EAUG: no SGX2, or not initialised"
            )
        cut_end, failure = self.plan.cut("eaug", start, end)
        room = start + (self.epc.room(cut_end - start >> PAGE_SHIFT) << PAGE_SHIFT)
        if room < cut_end:
            cut_end, failure = room, Failure(ENOMEM)
        if start < cut_end:
            self.epcm.eaug(start, cut_end)
            self.pages.set(start, cut_end, DriverPage(PT_REG, PROT_RWX))
            self.ptes.set(start, cut_end, True)
            self.epc.used += cut_end - start >> PAGE_SHIFT
        if failure is not None:
            raise HostFault(cut_end, PF_ACCESS[kind], SIGBUS, failure.error, "the EPC is full")
        return cut_end - start >> PAGE_SHIFT

    # Ioctls: offset and length are in bytes, as in the kernel's interface

    def restrict_permissions(
        self, offset: int, length: int, permissions: int, result: int = 0, count: int = 0
    ) -> Reply:
        """ENCLAVE_RESTRICT_PERMISSIONS: EMODPR and ETRACK for each page. O(log n + k)."""
        bad = permissions & ~PROT_RWX or permissions & 3 == PROT_WRITE or result or count

        def step(start: int, end: int, page: DriverPage) -> None:
            if page.page_type != PT_REG:
                raise _Stopped(start, -EINVAL)
            self._change(start, end, lambda cut_end: self.epcm.emodpr(start, cut_end, permissions))

        return self._ioctl("restrict", offset, length, bool(bad), step)

    def modify_types(
        self, offset: int, length: int, page_type: int, result: int = 0, count: int = 0
    ) -> Reply:
        """ENCLAVE_MODIFY_TYPES: EMODT to TCS or TRIM and ETRACK for each page. O(log n + k)."""
        bad = page_type not in (PT_TCS, PT_TRIM) or result or count

        def step(start: int, end: int, page: DriverPage) -> None:
            if page.page_type != PT_REG and not (page.page_type == PT_TCS and page_type == PT_TRIM):
                raise _Stopped(start, -EINVAL)
            max_prot = page.max_prot
            if page_type == PT_TCS:
                max_prot = PROT_READ | PROT_WRITE
                if max_prot & ~page.max_prot:
                    raise _Stopped(start, -EPERM)
            try:
                self._change(start, end, lambda cut_end: self.epcm.emodt(start, cut_end, page_type))
            except _Stopped as stopped:
                self._typed(start, stopped.address, DriverPage(page_type, max_prot))
                if page_type == PT_TCS:  # sgx_zap_enclave_ptes comes before EMODT
                    self.ptes.clear(stopped.address, stopped.address + PAGE_SIZE)
                raise
            self._typed(start, end, DriverPage(page_type, max_prot))

        return self._ioctl("modify_types", offset, length, bool(bad), step)

    def remove_pages(self, offset: int, length: int, count: int = 0) -> Reply:
        """ENCLAVE_REMOVE_PAGES: EREMOVE of pages that were trimmed and accepted. O(log n + k)."""

        def step(start: int, end: int, page: DriverPage) -> None:
            if page.page_type != PT_TRIM:
                raise _Stopped(start, -EPERM)
            for run_start, run_end, _ in list(self.epcm.pages.runs(start, end)):
                # a probe, which changes nothing on a TRIM page: only #PF shows that it was accepted
                try:
                    self.epcm.emodpr(run_start, run_end, PROT_RWX)
                except PageFault:
                    self.epcm.eremove(run_start, run_end)
                    self.pages.clear(run_start, run_end)
                    self.ptes.clear(run_start, run_end)
                    self.epc.used -= run_end - run_start >> PAGE_SHIFT
                except LeafError:
                    raise _Stopped(run_start, -EPERM) from None

        return self._ioctl("remove", offset, length, bool(count), step)

    def _ioctl(
        self,
        kind: str,
        offset: int,
        length: int,
        bad: bool,
        step: Callable[[int, int, DriverPage], None],
    ) -> Reply:
        if self.ioctl_flag:
            return Reply(-EBUSY, 0)
        if not self.sgx2:  # sgx_ioc_sgx2_ready
            return Reply(-ENODEV, 0)
        if not self.epcm.initialised or self._invalid(offset, length) or bad:
            return Reply(-EINVAL, 0)
        start = self.base + offset
        cut_end, failure = self.plan.cut(kind, start, start + length)
        try:
            for run_start, run_end, page in list(self.pages.runs(start, cut_end)):
                if page is None:
                    raise _Stopped(run_start, -EFAULT)
                step(run_start, run_end, page)
        except _Stopped as stopped:
            return Reply(stopped.error, stopped.address - start, stopped.result)
        if failure is not None:
            return Reply(-(failure.error or EFAULT), cut_end - start, failure.code)
        return Reply(0, cut_end - start)

    def _invalid(self, offset: int, length: int) -> bool:
        # sgx_validate_offset_length
        return (
            bool(offset % PAGE_SIZE or length % PAGE_SIZE)
            or length <= 0
            or not 0 <= offset <= self.size - length
        )

    def _change(self, start: int, end: int, leaf: Callable[[int], None]) -> None:
        # Run an SGX instruction on each page up to the address that it receives, each with its
        # ETRACK cycle. Raises _Stopped if a page fails.
        tracked, failure = self.plan.cut("etrack", start, end)
        stopped = None if failure is None else _Stopped(tracked, -EFAULT)
        try:
            leaf(end if failure is None else tracked + PAGE_SIZE)
        except Refused as refused:
            if refused.address < tracked or failure is None:
                stopped = _Stopped(
                    refused.address, -EFAULT, refused.code if isinstance(refused, LeafError) else 0
                )
        tracked = end if stopped is None else stopped.address
        if start < tracked:
            self._etrack(start, tracked)
        if stopped is not None:
            raise stopped

    def _etrack(self, start: int, end: int) -> None:
        # sgx_enclave_etrack. The cycles of the pages follow each other, and no thread has been
        # inside since before the first of them, so one cycle represents all.
        try:
            self.epcm.etrack()
        except LeafError:
            self.epcm.interrupt()
            self.epcm.etrack()
        self.epcm.interrupt()
        self.epcm.settle(start, end)

    def _typed(self, start: int, end: int, page: DriverPage) -> None:
        if start < end:
            self.pages.set(start, end, page)
            if page.page_type == PT_TCS:
                self.ptes.clear(start, end)
