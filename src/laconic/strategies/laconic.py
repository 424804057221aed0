"""laconic: like classify, but nothing is committed before it is needed, and nothing is released if
zeroing costs less.

Inaccessible memory is never committed. Accessible memory is committed at its first touch by the
enclave's page-fault handler. It queries the bookkeeping for the mapping there, and commits ahead
like a kernel's readahead, in windows that grow while touches continue in one direction.

`laconic:batch=madvise` assumes the patched kernel that edmm-tuned's `batch=madvise` needs. That
kernel adds the pages of a window around the touched page, and other ranges, in one host call
without faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self

from mypy_extensions import mypyc_attr

from laconic.libos.strategy import MemoryCall
from laconic.libos.touches import Touches
from laconic.memory.change import Change
from laconic.memory.flags import (
    MADV_GUARD_INSTALL,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    PAGE_SHIFT,
    PROT_WRITE,
    VM_GROWSDOWN,
    VM_IO,
    VM_PFNMAP,
    VM_PROT,
)
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.sgx.meter import Meter
from laconic.sgx.pal.edmm import Edmm, PalError, permissions
from laconic.strategies.classify import PAGE, Classify
from laconic.strategies.options import Option, Options, choice

OPTIONS = Options(
    "laconic", {"batch": Option(choice("none", "madvise"), "none or madvise", "none")}
)


@mypyc_attr(allow_interpreted_subclasses=True)
class Laconic(Classify):
    """The strategy `laconic`. With `known_touches`, the pages that will be touched are known in
    advance, and exactly these are committed."""

    name: ClassVar[str] = "laconic"
    batch: ClassVar[bool] = True
    eager: ClassVar[bool] = False
    known_touches: ClassVar[bool] = False
    #: Pages that the first fault on anonymous memory commits.
    FIRST: ClassVar[int] = 4
    #: The maximum number of pages that one fault on anonymous memory commits.
    MOST: ClassVar[int] = 64
    #: Pages of a file that are committed together, aligned in the file.
    BLOCK: ClassVar[int] = 16
    #: The maximum size of a mapping that is committed immediately, in pages.
    SMALL: ClassVar[int] = 16
    #: Pages of a new program's stack that are committed immediately.
    STACK: ClassVar[int] = 8

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        sync: bool = False,
        pal_type: type[Edmm] = Edmm,
        values: Mapping[str, Any] = OPTIONS.values,
    ) -> None:
        self.values = values
        super().__init__(meter, space, touches, sync=sync, pal_type=pal_type)
        #: The address of the next fault if touches continue upwards, and the window of pages
        #: committed last.
        self._expected = 0
        self._window = self.FIRST

    def make_pal(self, meter: Meter) -> Edmm:
        """Return the PAL of a new enclave."""
        return self.pal_type(meter, self.batch, self.sync, self.values["batch"] == "madvise")

    def sibling(self, space: AddressSpace, touches: Touches) -> Self:
        """Return the same strategy for another enclave."""
        return type(self)(
            self.meter,
            space,
            touches,
            sync=self.sync,
            pal_type=self.pal_type,
            values=self.values,
        )

    def map(self, start: int, end: int, vma: Vma, populate: bool = False) -> None:
        """Handle newly mapped pages: they wait for their first touch, unless a touch is certain or
        almost certain. O(log n)."""
        if not vma.flags & VM_PROT or vma.flags & (VM_IO | VM_PFNMAP):
            return
        if vma.is_locked:
            populate = True
        elif vma.flags & VM_GROWSDOWN and not populate:
            start = max(start, end - self.STACK * PAGE)
            populate = True
        if populate or (end - start <= self.SMALL * PAGE and not self.known_touches):
            if vma.file is not None:
                end = min(end, self.sizes.valid_end(vma))
            if start < end:
                self._ahead(start, end, vma)

    def _ahead(self, start: int, end: int, vma: Vma) -> None:
        # Committing ahead is optional: if the EPC is full, these pages wait for their first touch.
        with suppress(PalError):
            self.commit(start, end, vma)

    def opened(self, start: int, end: int, vma: Vma) -> None:
        """Handle pages that were inaccessible and now are accessible, or that were mapped again. A
        small range is committed, because it is about to be used.

        O(log n + k).
        """
        if vma.flags & VM_PROT and end - start <= self.SMALL * PAGE and not self.known_touches:
            self._present(start, end, vma)

    def _present(self, start: int, end: int, vma: Vma) -> None:
        # Commit the uncommitted pages of the range. O(log n + k).
        for run_start, run_end, prot in list(
            self.pal.committed.runs(start, min(end, self.sizes.valid_end(vma)))
        ):
            if prot is None:
                self._ahead(run_start, run_end, vma)

    def _several(self, call: MemoryCall) -> None:
        super()._several(call)
        populate = call.name == "madvise" and call.args[2] in (
            MADV_POPULATE_READ,
            MADV_POPULATE_WRITE,
        )
        if populate or call.name in ("mlock", "mlock2", "mlockall"):
            for _, start, end, vma, _, _ in call.changes:
                locked = vma is not None and vma.is_locked
                if vma is not None and vma.flags & VM_PROT and (populate or locked):
                    self._present(start, end, vma)

    def renew(self, changes: Iterable[Change], advice: int | None) -> None:
        """Handle mapped pages that lost their contents: overwrite them in place if they are
        writable; otherwise, release them.

        Pages that thereby become inaccessible are kept too. Restricting a page costs as much as
        releasing it, and a heap that shrinks this way grows again. The host work for all of them is
        requested together.
        """
        trimmed: list[tuple[int, int]] = []
        kept: list[tuple[int, int, Vma, int]] = []
        for _, start, end, vma, held, _ in changes:
            assert vma is not None
            before = 0 if held is None else permissions(held.flags)
            after = permissions(vma.flags)
            valid = max(min(end, self.sizes.valid_end(vma)), start)
            if (
                not (before | after) & PROT_WRITE
                or (not after and vma.file)
                or advice == MADV_GUARD_INSTALL
            ):
                valid = start
            if valid < end:
                trimmed.append((valid, end))
            if start < valid:
                kept.append((start, valid, vma, before))
        self.pal.trim(trimmed)
        for start, end, vma, before in kept:
            if before & PROT_WRITE:
                self.overwrite(start, end, vma)
        self.pal.protect((start, end, permissions(vma.flags)) for start, end, vma, _ in kept)
        for start, end, vma, before in kept:
            if not before & PROT_WRITE:
                self.overwrite(start, end, vma)
            if advice is None:
                self.opened(start, end, vma)

    def fault(self, start: int, end: int, vma: Vma) -> None:
        """Commit touched pages that do not exist, in windows from the lowest up.
        O(log n + log MOST)."""
        if self.known_touches:
            self.commit(start, end, vma)
            return
        limit_start, limit_end, mapped = self.space.vmas.find(start)
        if mapped != vma:
            limit_start, limit_end = start, end
        hole_start, hole_end, _ = self.pal.committed.find(start)
        limit_start = max(limit_start, hole_start)
        limit_end = max(min(limit_end, hole_end, self.sizes.valid_end(vma)), end)
        if self.guards.count and any(
            guard for _, _, guard in self.guards.runs(limit_start, limit_end)
        ):
            limit_start, limit_end = start, end
        if vma.file is not None:
            # Like do_fault_around in Linux: commit the pages that are in the same aligned block of
            # the file as a touched page.
            block = self.BLOCK << PAGE_SHIFT
            window_start = max(vma.base + (start - vma.base) // block * block, limit_start)
            window_end = min(vma.base - (vma.base - end) // block * block, limit_end)
            # One exception for each block that contains a touched page, even if the mapping ends
            # within the block.
            exceptions = (end - 1 - vma.base) // block - (start - vma.base) // block + 1
            self.meter.exception(exceptions)
            self._fault(start, end, window_start, window_end, vma, exceptions)
            return
        at, expected, window, exceptions = start, self._expected, self._window, 0
        largest = self.MOST << PAGE_SHIFT
        while at < end:
            window = min(window * 2, self.MOST) if at == expected else self.FIRST
            if window == self.MOST:
                # From here on, all windows have the same size: all but the last are counted at
                # once.
                whole = (end - at - 1) // largest
                at += whole * largest
                exceptions += whole
            at = expected = min(at + (window << PAGE_SHIFT), limit_end)
            exceptions += 1
        self._expected, self._window = expected, window
        self.meter.exception(exceptions)
        self._fault(start, end, start, at, vma, exceptions)

    def _fault(
        self, start: int, end: int, window_start: int, window_end: int, vma: Vma, exceptions: int
    ) -> None:
        # If the EPC has no room for the surrounding pages, commit at least the touched ones.
        try:
            self.pal.touched = exceptions
            self.commit(window_start, window_end, vma)
        except PalError:
            if (window_start, window_end) == (start, end):
                raise
            self.pal.touched = exceptions
            self.commit(start, end, vma)
