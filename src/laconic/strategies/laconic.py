"""laconic: classify, and nothing is committed before it is needed, nor given back where zeroing
costs less.

What is inaccessible is never committed. What is accessible is committed at its first touch, by the
enclave's page-fault handler: it asks the bookkeeping what is mapped there, and commits ahead as a
kernel reads ahead, in windows that grow while touches go on in one direction.

`laconic:batch=madvise` assumes the patched kernel that edmm-tuned's `batch=madvise` needs: it adds
the pages of a window beside the touched one, and other ranges, in one host call without faults.
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
    """The rule `laconic`. `known_touches`: it knows beforehand which pages will be touched, and
    commits just these."""

    name: ClassVar[str] = "laconic"
    batch: ClassVar[bool] = True
    eager: ClassVar[bool] = False
    known_touches: ClassVar[bool] = False
    #: Pages that a first fault on anonymous memory commits.
    FIRST: ClassVar[int] = 4
    #: Pages that one fault on anonymous memory commits at most.
    MOST: ClassVar[int] = 64
    #: Pages of a file that are committed together, aligned in it.
    BLOCK: ClassVar[int] = 16
    #: Pages of a mapping so small that it is committed at once.
    SMALL: ClassVar[int] = 16
    #: Pages of a new program's stack that are committed at once.
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
        #: Where the next fault is expected, if touches go on; how many pages it then commits.
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
        """Pages were mapped: they wait for their first touch, unless that is certain or nearly so.
        O(log n)."""
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
        # Nobody has to have these pages yet: without room for them they wait for their first touch.
        with suppress(PalError):
            self.commit(start, end, vma)

    def opened(self, start: int, end: int, vma: Vma) -> None:
        """Pages that were inaccessible are not any more, or were mapped again: a small piece is for
        use at once.

        O(log n + k).
        """
        if vma.flags & VM_PROT and end - start <= self.SMALL * PAGE and not self.known_touches:
            self._present(start, end, vma)

    def _present(self, start: int, end: int, vma: Vma) -> None:
        # What is not committed of these pages is now. O(log n + k).
        for begin, stop, prot in list(
            self.pal.committed.runs(start, min(end, self.sizes.valid_end(vma)))
        ):
            if prot is None:
                self._ahead(begin, stop, vma)

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
        """Mapped pages lost their contents: overwritten in place where that is allowed, else given
        back.

        Those that become inaccessible by it are kept too: to restrict a page costs what giving it
        back does, and a heap that shrinks so grows again. What the host has to do for all of them
        is requested together.
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
        """Touched pages that do not exist, committed in windows from the lowest up. O(log n +
        log MOST)."""
        if self.known_touches:
            self.commit(start, end, vma)
            return
        low, limit, mapped = self.space.vmas.find(start)
        if mapped != vma:
            low, limit = start, end
        hole = self.pal.committed.find(start)
        low, limit = max(low, hole[0]), max(min(limit, hole[1], self.sizes.valid_end(vma)), end)
        if self.guards.count and any(guard for _, _, guard in self.guards.runs(low, limit)):
            low, limit = start, end
        if vma.file is not None:
            # As Linux does (do_fault_around): what shares an aligned block of the file with a
            # touched page.
            block = self.BLOCK << PAGE_SHIFT
            first = max(vma.base + (start - vma.base) // block * block, low)
            at = min(vma.base - (vma.base - end) // block * block, limit)
            # One for each block that a touched page is in, also where what is mapped ends within
            # it.
            exceptions = (end - 1 - vma.base) // block - (start - vma.base) // block + 1
            self.meter.exception(exceptions)
            self._fault(start, end, first, at, vma, exceptions)
            return
        at, expected, window, exceptions = start, self._expected, self._window, 0
        largest = self.MOST << PAGE_SHIFT
        while at < end:
            window = min(window * 2, self.MOST) if at == expected else self.FIRST
            if window == self.MOST:
                # All windows from here on are as large: all but the last are counted at once.
                whole = (end - at - 1) // largest
                at += whole * largest
                exceptions += whole
            at = expected = min(at + (window << PAGE_SHIFT), limit)
            exceptions += 1
        self._expected, self._window = expected, window
        self.meter.exception(exceptions)
        self._fault(start, end, start, at, vma, exceptions)

    def _fault(
        self, start: int, end: int, first: int, stop: int, vma: Vma, exceptions: int
    ) -> None:
        # Without room for the pages around, at least those that were touched.
        try:
            self.pal.touched = exceptions
            self.commit(first, stop, vma)
        except PalError:
            if (first, stop) == (start, end):
                raise
            self.pal.touched = exceptions
            self.commit(start, end, vma)
