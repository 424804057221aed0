"""gramine-direct: the same LibOS on Gramine's Linux PAL, where each PAL call is one system call.

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
    """What the Linux PAL did: how often it made each system call. The other counts, an enclave's,
    have no meaning here."""

    mmap: int = 0
    munmap: int = 0
    mprotect: int = 0

    @property
    def system_calls(self) -> int:
        """All of them."""
        return self.mmap + self.munmap + self.mprotect

    def add_calls(self, other: SystemCalls) -> None:
        """Add another's system calls to these."""
        self.mmap += other.mmap
        self.munmap += other.munmap
        self.mprotect += other.mprotect


class DirectMeter(Meter):
    """Counts the system calls of one strategy."""

    counts_type = SystemCalls


class LinuxPal(Gramine):
    """One process's pages on Linux; its meter is a `DirectMeter`.

    There is no tracker, and no page that an exception commits.
    """

    __slots__ = ()

    def alloc(
        self, start: int, end: int, prot: int, lazy: bool = False, by_page: bool = False
    ) -> None:
        """_PalVirtualMemoryAlloc: an mmap, of each page with `by_page`."""
        counts = self._counts()
        counts.mmap += end - start >> PAGE_SHIFT if by_page else 1
        self.pages.set(start, end, prot)

    def free(self, start: int, end: int) -> None:
        """_PalVirtualMemoryFree: an munmap."""
        self._counts().munmap += 1
        self.pages.set(start, end, None)

    def protect(self, start: int, end: int, prot: int, single: bool = False) -> None:
        """_PalVirtualMemoryProtect: an mprotect, of each page with `single`."""
        self._counts().mprotect += end - start >> PAGE_SHIFT if single else 1

    def fault(self, start: int, end: int, prot: int) -> int:
        """The kernel has no page that waits for the PAL."""
        return 0

    def zero(self, start: int, end: int) -> None:
        """No system call."""

    def make_tcs(self, start: int) -> None:
        """Threads are the kernel's."""

    def track(self, start: int, end: int) -> None:
        """Only EDMM has a tracker."""

    def _counts(self) -> SystemCalls:
        counts = self.meter.counts
        assert isinstance(counts, SystemCalls)
        return counts
