"""What is counted of an enclave: every leaf, host call and fault, each for all pages that it was
done to.

A PAL calls the methods of a `Meter` to act on its enclave. The meter itself only counts, which is
what millions of calls need; `laconic.sgx.model.machine.Machine` is a meter that also carries each
of them out on the modelled EPCM and driver, and so finds what the hardware would refuse. All ranges
are bytes, page aligned, `[start, end)`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SHIFT


@dataclass(slots=True)
class Counts:
    """What was done. Pages where a page is the unit, else times.

    `host_calls`: OCALLs. `ioctls`: requests to the driver, several of which one host call can
    carry. `eaug_faults`: faults that the driver resolves, each with an asynchronous exit: pages
    that do not exist, which it adds by EAUG, and added pages without a page table entry.
    `exceptions`: faults handled inside the enclave. `etrack_ipis`: tracking cycles with their
    interrupts, one a page. Then the leaves. `pages_zeroed` and `pages_copied` are software's work.
    `untouched_pages`: committed (or zeroed in place), and then not touched until they were given
    back. `open_windows`: pages that were briefly accessible beyond the requested permissions.
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
        """Adds another's figures to these."""
        for name in THINGS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, int]:
        """Every thing counted, by its name."""
        return {name: getattr(self, name) for name in THINGS}


#: The names of what is counted.
THINGS = tuple(field.name for field in fields(Counts))


class Book:
    """What meters write to. Meters of the same strategy may share one.

    `counts` is where the present work is entered, one of `tables`, which are by process and call.
    `epc_pages` are committed now, over all enclaves, `peak_epc_pages` were at most. `exceeded` are
    the limits that the library OS's settings state and that a program needed more of: the name of
    the option → the most that one needed (bytes).
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
    """Counts what is done to the enclaves of one strategy, in its `book`."""

    #: What a label's work is counted in.
    counts_type: ClassVar[type[Counts]] = Counts

    def __init__(self) -> None:
        self.book = Book(self.counts_type())

    @property
    def counts(self) -> Counts:
        """Where the present work is entered; `at` chooses it by process and call."""
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
        """The pages that are committed now, over all enclaves."""
        return self.book.epc_pages

    @epc_pages.setter
    def epc_pages(self, pages: int) -> None:
        self.book.epc_pages = pages

    @property
    def peak_epc_pages(self) -> int:
        """The most pages that were committed at once."""
        return self.book.peak_epc_pages

    @peak_epc_pages.setter
    def peak_epc_pages(self, pages: int) -> None:
        self.book.peak_epc_pages = pages

    @property
    def exceeded(self) -> dict[str, int]:
        """The most that a program needed of a limit that it exceeded, by the option's name."""
        return self.book.exceeded

    def exceeds(self, option: str, size: int) -> None:
        """A program needed `size` (bytes) of what `option` limits to less. O(1)."""
        if size > self.book.exceeded.get(option, 0):
            self.book.exceeded[option] = size

    def at(self, process: int, call: Hashable) -> None:
        """From now on, count the work for this `call`, a label, of this `process`, a number of the
        caller's. O(1)."""
        key = process, call
        counts = self.book.tables.get(key)
        if counts is None:
            counts = self.book.tables[key] = self.counts_type()
        self.book.counts = counts

    def total(self) -> Counts:
        """All that was done, whoever it was for. O(processes × calls)."""
        total = Counts()
        for counts in self.book.tables.values():
            total.add(counts)
        return total

    # Host calls, ioctls and faults

    def host_call(self, times: int = 1) -> None:
        """OCALLs: each leaves the enclave and comes back."""
        self.book.counts.host_calls += times

    def exception(self, times: int = 1) -> None:
        """Faults that the enclave's own handler resolves."""
        self.book.counts.exceptions += times

    def restrict(self, start: int, end: int, prot: int) -> None:
        """The ioctl RESTRICT_PERMISSIONS: EMODPR and a tracking cycle for each page. The host call
        is not in it."""
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.ioctls += 1
        counts.emodpr += pages
        counts.etrack_ipis += pages

    def modify_types(self, start: int, end: int, page_type: int) -> None:
        """The ioctl MODIFY_TYPES: EMODT and a tracking cycle for each page. The host call is not in
        it."""
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.ioctls += 1
        counts.emodt += pages
        counts.etrack_ipis += pages

    def remove(self, start: int, end: int) -> None:
        """The ioctl REMOVE_PAGES: EREMOVE for each page, which leaves the EPC. The host call is not
        in it."""
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.ioctls += 1
        counts.eremove += pages
        self.book.epc_pages -= pages

    def host_protect(self, start: int, end: int, prot: int) -> None:
        """The host's mprotect of its own mapping of the enclave: a host call."""
        self.host_call()

    # The enclave's own leaves

    def eaug(self, start: int, end: int, faults: int | None = None) -> None:
        """The driver adds pages that do not exist, by an EAUG for each; they are pending.

        None: each is touched, a fault of its own. Otherwise the driver adds them all in so many
        `faults`.
        """
        pages = end - start >> PAGE_SHIFT
        counts = self.book.counts
        counts.eaug_faults += pages if faults is None else faults
        counts.eaug += pages
        self.book.epc_pages = now = self.book.epc_pages + pages
        if now > self.book.peak_epc_pages:
            self.book.peak_epc_pages = now

    def eaccept(self, start: int, end: int, prot: int, request: int) -> None:
        """EACCEPT of each page: of a pending one (PENDING), a restricted one (PR), a new type
        (MODIFIED)."""
        self.book.counts.eaccept += end - start >> PAGE_SHIFT

    def eacceptcopy(self, start: int, end: int, prot: int, source: int | None) -> None:
        """EACCEPTCOPY of pending pages, with `prot` at once; contents from `source` (bytes), a
        staging page if None."""
        self.book.counts.eacceptcopy += end - start >> PAGE_SHIFT

    def emodpe(self, start: int, end: int, prot: int) -> None:
        """EMODPE: adds `prot` to each page's permissions."""
        self.book.counts.emodpe += end - start >> PAGE_SHIFT

    # Software's work

    def zero(self, start: int, end: int) -> None:
        """Writes zeroes over the pages, which must be writable."""
        self.book.counts.pages_zeroed += end - start >> PAGE_SHIFT

    def copy(self, pages: int) -> None:
        """Copies this many pages."""
        self.book.counts.pages_copied += pages

    def place(self, moves: Iterable[tuple[int, int, int]]) -> None:
        """From now on, the pages of each `(start, end, target)` are called by the addresses from
        `target` on: a library OS that chooses addresses itself has a mapping there that the trace
        shows elsewhere. No work."""

    # Enclaves

    def create(self) -> None:
        """A new enclave."""
        self.book.counts.ecreate += 1
        self.book.counts.einit += 1

    def eadd(self, start: int, end: int) -> None:
        """Pages are added while the enclave is built, before the program starts: EADD of each."""
        pages = end - start >> PAGE_SHIFT
        self.book.counts.eadd += pages
        self.book.epc_pages += pages
        self.book.peak_epc_pages = max(self.book.peak_epc_pages, self.book.epc_pages)

    def preheat(self, pages: int) -> None:
        """Pages of a new enclave are added by EADD in one ioctl, and then read once: a fault for
        each, which finds no page table entry."""
        counts = self.book.counts
        counts.ioctls += 1
        counts.eadd += pages
        counts.eaug_faults += pages
        self.book.epc_pages += pages
        self.book.peak_epc_pages = max(self.book.peak_epc_pages, self.book.epc_pages)

    def destroy(self, pages: int) -> None:
        """An enclave ends: its `pages` go back to the driver."""
        self.book.epc_pages -= pages


#: What an EACCEPT asks for (SECINFO.FLAGS): bits 3 to 5 as the SDM has them.
PENDING, MODIFIED, PR = 8, 16, 32
#: Page types (SECINFO.PT).
PT_SECS, PT_TCS, PT_REG, PT_VA, PT_TRIM = range(5)
