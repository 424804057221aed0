"""gramine-direct: the same LibOS on Gramine's Linux PAL, which makes one system call for each PAL
call.

Alloc is mmap, Free is munmap, Protect is mprotect (pal/src/host/linux/pal_memory.c). The kernel
commits pages at their first touch, so nothing else is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from laconic.memory.flags import PAGE_SHIFT
from laconic.sgx.meter import Counts, Meter
from laconic.sgx.pal.gramine import Gramine


@dataclass(slots=True)
class SystemCalls(Counts):
    """The number of times that the Linux PAL made each system call. The other counts are an
    enclave's, and have no meaning here."""

    mmap: int = 0
    munmap: int = 0
    mprotect: int = 0

    @property
    def system_calls(self) -> int:
        """The total number of system calls."""
        return self.mmap + self.munmap + self.mprotect

    def add_calls(self, other: SystemCalls) -> None:
        """Add the system calls of `other` to these."""
        self.mmap += other.mmap
        self.munmap += other.munmap
        self.mprotect += other.mprotect


class DirectMeter(Meter):
    """Counts the system calls of one strategy."""

    counts_type = SystemCalls


class LinuxPal(Gramine):
    """One process's pages on Linux; its meter is a `DirectMeter`.

    There is no tracker, and no page is committed by an exception.
    """

    __slots__ = ()

    def alloc(
        self, start: int, end: int, prot: int, lazy: bool = False, by_page: bool = False
    ) -> None:
        """_PalVirtualMemoryAlloc: one mmap, or one for each page with `by_page`."""
        counts = self._counts()
        counts.mmap += end - start >> PAGE_SHIFT if by_page else 1
        self.pages.set(start, end, prot)

    def free(self, start: int, end: int) -> None:
        """_PalVirtualMemoryFree: one munmap."""
        self._counts().munmap += 1
        self.pages.set(start, end, None)

    def protect(self, start: int, end: int, prot: int, single: bool = False) -> None:
        """_PalVirtualMemoryProtect: one mprotect, or one for each page with `single`."""
        self._counts().mprotect += end - start >> PAGE_SHIFT if single else 1

    def fault(self, start: int, end: int, prot: int) -> int:
        """Return 0: on Linux, no page waits for the PAL."""
        return 0

    def zero(self, start: int, end: int) -> None:
        """Do nothing: no system call is needed."""

    def make_tcs(self, start: int) -> None:
        """Do nothing: the kernel manages threads."""

    def track(self, start: int, end: int) -> None:
        """Do nothing: only EDMM has a tracker."""

    def _counts(self) -> SystemCalls:
        counts = self.meter.counts
        assert isinstance(counts, SystemCalls)
        return counts
