"""Gramine's current PAL for SGX2 (enclave_edmm.c), which ignores the current permissions of pages.

Alloc commits pages RW and corrects the permissions afterwards, Protect always extends and then
restricts, and Free always trims. Only pages allocated with LAZYALLOC wait for their first touch,
which the enclave's exception handler resolves page by page. SGX instructions and host calls have
the order of Gramine's functions. Gramine's PAL does not record the permissions of pages. They are
recorded here for the counts only, and no decision depends on them unless one of `Switches` is on.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE
from laconic.memory.rangemap import Range, RangeMap, join_ranges
from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_TCS, PT_TRIM, Meter
from laconic.sgx.pal.switches import NO_SWITCHES, Switches

RW: Final = PROT_READ | PROT_WRITE
#: Values for pages that are allocated but not committed, stored instead of permissions. LAZY: by
#: LAZYALLOC, until their first touch. RESERVED: until they become accessible (`Switches.reserve`).
LAZY: Final = 8
RESERVED: Final = 16
#: The start of the pages of the LibOS and the PAL themselves, above all addresses that a program
#: can map, in bytes.
INTERNAL: Final = 1 << 47
#: The start of the tracker's bits. There is one bit per page, so one page of bits covers 128 MiB.
TRACKER: Final = INTERNAL + (1 << 46)
_COVERS: Final = PAGE_SHIFT + 15


def remove_run(meter: Meter, start: int, end: int) -> None:
    """Remove a run of committed pages: two host calls, and EACCEPT between them
    (sgx_edmm_remove_pages)."""
    meter.host_call()
    meter.modify_types(start, end, PT_TRIM)
    meter.eaccept(start, end, 0, MODIFIED)
    meter.host_call()
    meter.remove(start, end)


@mypyc_attr(allow_interpreted_subclasses=True)
class Gramine:
    """One enclave's pages. `pages`: the EPCM permissions, LAZY or RESERVED, of each allocated page.

    Ranges are in bytes, page aligned. Pages that were never allocated are skipped, although
    Gramine's ioctls fail on them. With `single`, the request is repeated for each page of the
    range. All methods cost O(log n + runs).
    """

    __slots__ = ("_tracked", "meter", "pages", "switches")

    def __init__(self, meter: Meter, switches: Switches = NO_SWITCHES) -> None:
        self.meter = meter
        self.switches = switches
        self.pages: RangeMap[int] = RangeMap()
        # The last page of the tracker's bits that was checked: most calls need the same one.
        self._tracked = -1

    def committed(self, start: int, end: int) -> list[Range]:
        """Return the maximal runs of committed pages in `[start, end)`, ascending (walk_pages)."""
        return join_ranges(
            (run_start, run_end)
            for run_start, run_end, had in self.pages.runs(start, end)
            if had is not None and had < LAZY
        )

    def count(self) -> int:
        """Return the number of committed pages, including the PAL's own. O(n)."""
        return sum(end - start for start, end, had in self.pages if had < LAZY) >> PAGE_SHIFT

    def alloc(
        self, start: int, end: int, prot: int, lazy: bool = False, by_page: bool = False
    ) -> None:
        """PalVirtualMemoryAlloc of pages that do not exist; `lazy` is LAZYALLOC. With `by_page`, it
        is called for each page."""
        self.track(start, end)
        if lazy:
            self.pages.set(start, end, LAZY)
        elif self.waits(prot):
            self.pages.set(start, end, RESERVED)
        else:
            self._add(start, end, prot, _times(start, end, by_page))

    def waits(self, prot: int, lazy: bool = False) -> bool:
        """Return whether `alloc` postpones committing such pages."""
        return lazy or (self.switches.reserve and not prot)

    def free(self, start: int, end: int) -> None:
        """PalVirtualMemoryFree: two host calls for each committed run (sgx_edmm_remove_pages)."""
        self.track(start, end)
        for run_start, run_end in self.committed(start, end):
            remove_run(self.meter, run_start, run_end)
        self.pages.set(start, end, None)

    def protect(self, start: int, end: int, prot: int, single: bool = False) -> None:
        """PalVirtualMemoryProtect: one host call for each committed run, whatever its permissions
        are.

        Pages that gain some permissions and lose others have both for a moment, because EMODPE
        comes first.
        """
        self.track(start, end)
        if prot & PROT_WRITE:
            prot |= PROT_READ
        if self.switches.reserve and prot:
            for run_start, run_end in self._open(start, end, prot):
                self._protect(run_start, run_end, prot, single)
        else:
            self._protect(start, end, prot, single)

    def _protect(self, start: int, end: int, prot: int, single: bool) -> None:
        if self.switches.kinds or self.switches.extend:
            self._change(start, end, prot, single)
            return
        committed: list[Range] = []
        opened, changes = 0, False
        pages = self.pages
        for run_start, run_end, had in pages.runs(start, end):
            if had is None or had >= LAZY:
                continue
            if had != prot:
                changes = True
                if had & ~prot and prot & ~had:
                    opened += run_end - run_start
            committed.append((run_start, run_end))
        meter = self.meter
        if opened:
            meter.counts.open_windows += opened >> PAGE_SHIFT
        for run_start, run_end in join_ranges(committed):
            meter.emodpe(run_start, run_end, prot)
            self._restrict(run_start, run_end, prot, _times(run_start, run_end, single))
            if changes:
                pages.set(run_start, run_end, prot)

    def _open(self, start: int, end: int, prot: int) -> list[Range]:
        # Commit reserved pages that become accessible. Returns the other ranges.
        others: list[Range] = []
        for run_start, run_end, had in list(self.pages.runs(start, end)):
            if had == RESERVED:
                self._add(run_start, run_end, prot)
                self.meter.counts.untouched_pages += run_end - run_start >> PAGE_SHIFT
            else:
                others.append((run_start, run_end))
        return join_ranges(others)

    def _change(self, start: int, end: int, prot: int, single: bool) -> None:
        # Protect with the kind of change. `kinds`: equal pages are skipped, EMODPR comes first, and
        # EMODPE follows only if a permission is added. `extend`: if no permission is removed,
        # EMODPE is the only instruction.
        meter, pages = self.meter, self.pages
        kinds, extend = self.switches.kinds, self.switches.extend
        extended: list[Range] = []
        restricted: list[tuple[int, int, int]] = []
        for run_start, run_end, had in list(pages.runs(start, end)):
            if had is None or had >= LAZY or (kinds and had == prot):
                continue
            if extend and not had & ~prot:
                extended.append((run_start, run_end))
            else:
                restricted.append((run_start, run_end, had))
        for run_start, run_end, had in restricted:
            if not kinds:
                meter.emodpe(run_start, run_end, prot)
                if had & ~prot and prot & ~had:
                    meter.counts.open_windows += run_end - run_start >> PAGE_SHIFT
        for run_start, run_end in join_ranges(
            (run_start, run_end) for run_start, run_end, _ in restricted
        ):
            times = _times(run_start, run_end, single)
            meter.host_call(times)
            meter.restrict(run_start, run_end, prot)
            meter.counts.ioctls += times - 1
        for run_start, run_end, had in restricted:
            if kinds:
                meter.eaccept(run_start, run_end, had & prot, PR)
                if prot & ~had:
                    extended.append((run_start, run_end))
            else:
                meter.eaccept(run_start, run_end, prot, PR)
            pages.set(run_start, run_end, prot)
        for run_start, run_end in extended:
            meter.emodpe(run_start, run_end, prot)
            pages.set(run_start, run_end, prot)

    def fault(self, start: int, end: int, prot: int) -> int:
        """The exception handler (commit_lazy_alloc_pages): commit the lazy pages of `[start, end)`,
        each in one exception. Returns their number.

        The access has already added the page, and has then faulted again because the page is
        pending. With `Switches.demand`, an exception commits the lazy pages of an aligned block of
        this many pages that are in `[start, end)`.
        """
        block = (self.switches.demand or 1) << PAGE_SHIFT
        count = 0
        for run_start, run_end, had in list(self.pages.runs(start, end)):
            if had == LAZY:
                blocks = (run_end - 1) // block - run_start // block + 1
                self.meter.exception(blocks)
                self._add(run_start, run_end, prot, blocks)
                count += run_end - run_start >> PAGE_SHIFT
        return count

    def zero(self, start: int, end: int) -> None:
        """Zero the committed pages in place."""
        for run_start, run_end in self.committed(start, end):
            self.meter.zero(run_start, run_end)

    def make_tcs(self, start: int) -> None:
        """sgx_edmm_convert_pages_to_tcs: make the committed page at `start` a thread's TCS."""
        end, meter = start + PAGE_SIZE, self.meter
        meter.host_call()
        meter.modify_types(start, end, PT_TCS)
        meter.eaccept(start, end, 0, PT_TCS << 8 | MODIFIED)
        self.pages.set(start, end, 0)

    def track(self, start: int, end: int) -> None:
        """maybe_alloc_bitvector_pages_eagerly: commit the tracker's bits for these pages, unless
        they are committed. Every Alloc, Free and Protect begins with it."""
        first, last = start >> _COVERS, end - 1 >> _COVERS
        if first == last == self._tracked:
            return
        self._tracked = last
        bits_start, bits_end = TRACKER + (first << PAGE_SHIFT), TRACKER + (last + 1 << PAGE_SHIFT)
        for run_start, run_end, had in list(self.pages.runs(bits_start, bits_end)):
            if had is None:
                self._add(run_start, run_end, RW)

    def _add(self, start: int, end: int, prot: int, times: int = 1) -> None:
        # sgx_edmm_add_pages, called `times` times for parts of the range
        if prot & PROT_WRITE:
            prot |= PROT_READ
        meter = self.meter
        meter.eaug(start, end)
        if self.switches.copy and prot != RW:
            meter.eacceptcopy(start, end, prot, None)
            self.pages.set(start, end, prot)
            return
        meter.eaccept(start, end, RW, PENDING)
        if prot & PROT_EXEC:
            meter.emodpe(start, end, prot)
        if RW & ~prot:
            meter.counts.open_windows += end - start >> PAGE_SHIFT
            self._restrict(start, end, prot, times)
        self.pages.set(start, end, prot)

    def _restrict(self, start: int, end: int, prot: int, times: int) -> None:
        meter = self.meter
        meter.host_call(times)
        meter.restrict(start, end, prot)
        meter.counts.ioctls += times - 1
        meter.eaccept(start, end, prot, PR)


def _times(start: int, end: int, single: bool) -> int:
    # The number of requests for the range.
    return end - start >> PAGE_SHIFT if single else 1
