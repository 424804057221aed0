"""The counters of an enclave: every SGX instruction, host call and fault, counted for all pages
that it applies to.

A PAL calls the methods of a `Meter` to act on its enclave. The meter itself only counts, because
millions of calls need no more. `laconic.sgx.model.machine.Machine` is a meter that also executes
each operation on the modelled EPCM and driver, and so detects what the hardware would refuse. All
ranges are in bytes, page aligned, `[start, end)`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SHIFT

#: An EPC of this many bytes is more than any machine has: two sockets with 512 GiB each.
ANY_MACHINE = 1 << 40


@dataclass(slots=True)
class Counts:
    """Event counts, in pages if the event applies to a page, and in occurrences otherwise.

    `host_calls`: OCALLs. `ioctls`: requests to the driver; one host call can carry several.
    `eaug_faults`: faults that the driver resolves, each with an asynchronous exit. They are for
    pages that do not exist, which the driver adds by EAUG, and for added pages without a page table
    entry. `exceptions`: faults handled inside the enclave. `etrack_ipis`: ETRACK cycles with their
    IPIs, one per page. `ecreate` to `eremove`: SGX instructions. `pages_zeroed` and `pages_copied`:
    work of software. `untouched_pages`: pages that were committed (or zeroed in place) and released
    without having been touched. `open_windows`: pages that were briefly accessible beyond the
    requested permissions.
    """

    host_calls: int = 0
    ioctls: int = 0
    eaug_faults: int = 0
    exceptions: int = 0
    etrack_ipis: int = 0
    ecreate: int = 0
    eadd: int = 0
    einit: int = 0
    eaug: int = 0
    eaccept: int = 0
    eacceptcopy: int = 0
    emodpe: int = 0
    emodpr: int = 0
    emodt: int = 0
    eremove: int = 0
    pages_zeroed: int = 0
    pages_copied: int = 0
    untouched_pages: int = 0
    open_windows: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of `other` to these."""
        for name in THINGS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, int]:
        """Return every count by its name."""
        return {name: getattr(self, name) for name in THINGS}


#: The names of the counters.
THINGS = tuple(field.name for field in fields(Counts))


class Book:
    """The record that meters write to. Meters of the same strategy may share one.

    `counts` receives the current work. It is one of `tables`, which are keyed by process and call.
    `epc_pages` is the number of pages committed now, over all enclaves; `peak_epc_pages` is its
    maximum. `exceeded` records the limits in the library OS's settings that a program exceeded: the
    name of the option → the largest size that a program needed (bytes).
    """

    __slots__ = ("counts", "epc_pages", "exceeded", "peak_epc_pages", "tables")

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.tables: dict[tuple[int, Hashable], Counts] = {}
        self.epc_pages = 0
        self.peak_epc_pages = 0
        self.exceeded: dict[str, int] = {}


@mypyc_attr(allow_interpreted_subclasses=True)
class Meter:
    """Counts the work done for the enclaves of one strategy, in its `book`."""

    #: The type of the counts of one label.
    counts_type: ClassVar[type[Counts]] = Counts

    def __init__(self) -> None:
        self.book = Book(self.counts_type())

    @property
    def counts(self) -> Counts:
        """The counts that receive the current work; `at` selects them by process and call."""
        return self.book.counts

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self.book.counts = counts

    @property
    def tables(self) -> dict[tuple[int, Hashable], Counts]:
        """The counts by process and call."""
        return self.book.tables

    @tables.setter
    def tables(self, tables: dict[tuple[int, Hashable], Counts]) -> None:
        self.book.tables = tables

    @property
    def epc_pages(self) -> int:
        """The number of pages committed now, over all enclaves."""
        return self.book.epc_pages

    @epc_pages.setter
    def epc_pages(self, pages: int) -> None:
        self.book.epc_pages = pages

    @property
    def peak_epc_pages(self) -> int:
        """The maximum number of pages that were committed at once."""
        return self.book.peak_epc_pages

    @peak_epc_pages.setter
    def peak_epc_pages(self, pages: int) -> None:
        self.book.peak_epc_pages = pages

    @property
    def exceeded(self) -> dict[str, int]:
        """For each exceeded limit, the largest size that a program needed (bytes), by the option's
        name."""
        return self.book.exceeded

    def exceeds(self, option: str, size: int) -> None:
        """Record that a program needed `size` bytes, more than `option` allows. O(1)."""
        if size > self.book.exceeded.get(option, 0):
            self.book.exceeded[option] = size

    def at(self, process: int, call: Hashable) -> None:
        """Count the following work for `call`, a label, and `process`, a number of the caller's
        choice. O(1)."""
        key = process, call
        counts = self.book.tables.get(key)
        if counts is None:
            counts = self.book.tables[key] = self.counts_type()
        self.book.counts = counts

    def total(self) -> Counts:
        """Return the sum of all tables. O(processes × calls)."""
        total = Counts()
        for counts in self.book.tables.values():
            total.add(counts)
        return total

    # Host calls, ioctls and faults

    def host_call(self, times: int = 1) -> None:
        """Count OCALLs: each leaves the enclave and returns."""
        self.book.counts.host_calls += times

    def exception(self, times: int = 1) -> None:
        """Count faults that the enclave's own handler resolves."""
        self.book.counts.exceptions += times

    def restrict(self, start: int, end: int, prot: int) -> None:
        """Count the ioctl RESTRICT_PERMISSIONS: EMODPR and an ETRACK cycle for each page. The
        caller counts the host call."""
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.ioctls += 1
        counts.emodpr += pages
        counts.etrack_ipis += pages

    def modify_types(self, start: int, end: int, page_type: int) -> None:
        """Count the ioctl MODIFY_TYPES: EMODT and an ETRACK cycle for each page. The caller counts
        the host call."""
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.ioctls += 1
        counts.emodt += pages
        counts.etrack_ipis += pages

    def remove(self, start: int, end: int) -> None:
        """Count the ioctl REMOVE_PAGES: EREMOVE for each page, which leaves the EPC. The caller
        counts the host call."""
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.ioctls += 1
        counts.eremove += pages
        self.book.epc_pages -= pages

    def host_protect(self, start: int, end: int, prot: int) -> None:
        """Count the host's mprotect of its own mapping of the enclave: one host call."""
        self.host_call()

    # The enclave's own instructions

    def eaug(self, start: int, end: int, faults: int | None = None) -> None:
        """Count one EAUG by the driver for each page; the pages did not exist, and are now pending.

        If `faults` is None, each page is added by a fault of its own. Otherwise the driver adds all
        pages in this number of `faults`.
        """
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.eaug_faults += pages if faults is None else faults
        counts.eaug += pages
        self.book.epc_pages = now = self.book.epc_pages + pages
        if now > self.book.peak_epc_pages:
            self.book.peak_epc_pages = now

    def eaccept(self, start: int, end: int, prot: int, request: int) -> None:
        """Count EACCEPT of each page. `request` is PENDING for a pending page, PR for a restricted
        one, and MODIFIED for a new type."""
        self.book.counts.eaccept += end - start >> PAGE_SHIFT

    def eacceptcopy(self, start: int, end: int, prot: int, source: int | None) -> None:
        """Count EACCEPTCOPY of pending pages, which have `prot` from then on. Their contents come
        from `source` (bytes), or from a staging page if it is None."""
        self.book.counts.eacceptcopy += end - start >> PAGE_SHIFT

    def emodpe(self, start: int, end: int, prot: int) -> None:
        """Count EMODPE, which adds `prot` to each page's permissions."""
        self.book.counts.emodpe += end - start >> PAGE_SHIFT

    # Work of software

    def zero(self, start: int, end: int) -> None:
        """Count zeroing of the pages, which must be writable."""
        self.book.counts.pages_zeroed += end - start >> PAGE_SHIFT

    def copy(self, pages: int) -> None:
        """Count copies of this many pages."""
        self.book.counts.pages_copied += pages

    def place(self, moves: Iterable[tuple[int, int, int]]) -> None:
        """Give the pages of each `(start, end, target)` the addresses from `target` on, without any
        work.

        A library OS that chooses addresses itself has a mapping there that the trace shows
        elsewhere.
        """

    # Enclaves

    def create(self) -> None:
        """Count a new enclave."""
        self.book.counts.ecreate += 1
        self.book.counts.einit += 1

    def eadd(self, start: int, end: int) -> None:
        """Count EADD of each page, while the enclave is built and before the program starts."""
        pages = end - start >> PAGE_SHIFT
        self.book.counts.eadd += pages
        self.book.epc_pages += pages
        self.book.peak_epc_pages = max(self.book.peak_epc_pages, self.book.epc_pages)

    def preheat(self, pages: int) -> None:
        """Count pages of a new enclave that are added by EADD in one ioctl, and then read once.
        Each read faults, because there is no page table entry."""
        counts = self.book.counts
        counts.ioctls += 1
        counts.eadd += pages
        counts.eaug_faults += pages
        self.book.epc_pages += pages
        self.book.peak_epc_pages = max(self.book.peak_epc_pages, self.book.epc_pages)

    def destroy(self, pages: int) -> None:
        """Count the end of an enclave: its `pages` leave the EPC."""
        self.book.epc_pages -= pages


#: The request of an EACCEPT (SECINFO.FLAGS): bits 3 to 5, as in the SDM.
PENDING, MODIFIED, PR = 8, 16, 32
#: Page types (SECINFO.PT).
PT_SECS, PT_TCS, PT_REG, PT_VA, PT_TRIM = range(5)
