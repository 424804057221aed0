"""The page tables of a process: which pages are present, and how (`/proc/PID/pagemap`).
Read-only."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator

from laconic.linux import proc
from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE

#: PAGEMAP_SCAN (Linux 6.7), include/uapi/linux/fs.h.
PAGEMAP_SCAN = 0xC0606610
_SCAN = struct.Struct("=12Q")
_RANGE = struct.Struct("=2Q")
_WALK_END = struct.Struct("=Q")
_REGION = struct.Struct("=3Q")
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_PFNZERO, _IS_HUGE, _IS_GUARD = 4, 8, 16, 32, 64, 256
#: Bits of a /proc/PID/pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
_PM_GUARD, _PM_FILE, _PM_SWAP, _PM_PRESENT = 1 << 58, 1 << 61, 1 << 62, 1 << 63

#: How the pages of a touched run are present. FILE_PAGE: a page of the file or of shared memory,
#: not a private copy. ZERO_PAGE: read, never written. SWAPPED: swapped out. GUARD: the marker of a
#: guard region. HUGE: part of a huge page, all of which counts as touched. UNSEEN: pagemap was
#: unreadable, so any page of the run may be touched.
FILE_PAGE, ZERO_PAGE, SWAPPED, GUARD, HUGE, UNSEEN = 1, 2, 4, 8, 16, 32
_BITS = (
    (_IS_FILE, FILE_PAGE),
    (_IS_PFNZERO, ZERO_PAGE),
    (_IS_SWAPPED, SWAPPED),
    (_IS_GUARD, GUARD),
    (_IS_HUGE, HUGE),
)
_HOW = [sum(ours for bit, ours in _BITS if categories & bit) for categories in range(512)]
#: One run of touched pages: start and end in bytes, and the bits above.
Touched = tuple[int, int, int]
#: Regions per request. The kernel allocates memory for this many on each request.
_REGIONS = 64


class Pagemap:
    """The page tables of one address space, held open. An exec does not change which ones they are.

    Raises OSError if the process is gone, and PermissionError if it hides its memory.
    """

    def __init__(self, pid: int) -> None:
        self._file = open(f"/proc/{pid}/pagemap", "rb", buffering=0)  # noqa: SIM115
        self._fd = self._file.fileno()
        self._regions = ctypes.create_string_buffer(_REGION.size * _REGIONS)
        # The request for touched pages is packed once; only its range differs between requests.
        anyof = _IS_PRESENT | _IS_SWAPPED | _IS_GUARD
        wanted = _IS_FILE | _IS_PFNZERO | _IS_SWAPPED | _IS_GUARD | _IS_HUGE
        where = ctypes.addressof(self._regions)
        self._scan = bytearray(
            _SCAN.pack(_SCAN.size, 0, 0, 0, 0, where, _REGIONS, 0, 0, 0, anyof, wanted)
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def touched(self, start: int, end: int) -> list[Touched]:
        """Return the runs of `[start, end)` (bytes) that are present, swapped or guard markers.

        Complexity: O(page tables), O(pages) before Linux 6.7.
        """
        runs: list[Touched] = []
        scan = self._scan
        while start < end:
            _RANGE.pack_into(scan, 16, start, end)
            try:
                count = fcntl.ioctl(self._fd, PAGEMAP_SCAN, scan, True)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                return runs + _runs(_entries(self._fd, start, end), start)
            for offset in range(0, count * _REGION.size, _REGION.size):
                run_start, run_end, categories = _REGION.unpack_from(self._regions, offset)
                runs.append((run_start, run_end, _HOW[categories]))
            if count < _REGIONS:
                break
            (start,) = _WALK_END.unpack_from(scan, 32)
        return runs

    def untouched(self, start: int, end: int, private_file: bool) -> bool:
        """Return whether no page of `[start, end)` (bytes) was touched.

        A page counts as touched if it is present or swapped, even if it was only read. In a private
        file mapping, only written pages count. Complexity: O(page tables), O(pages) before Linux
        6.7.
        """
        anyof = _IS_PRESENT | _IS_SWAPPED | (0 if private_file else _IS_GUARD)
        inverted = required = _IS_FILE if private_file else 0
        scan = _SCAN.pack(
            _SCAN.size,
            0,
            start,
            end,
            0,
            ctypes.addressof(self._regions),
            1,
            1,
            inverted,
            required,
            anyof,
            anyof,
        )
        try:
            # The result of the ioctl is the number of regions; the structure is not needed.
            return bool(fcntl.ioctl(self._fd, PAGEMAP_SCAN, bytearray(scan), True) == 0)
        except OSError:
            return was_untouched(
                _runs(_entries(self._fd, start, end), start), start, end, private_file
            )

    def resident(self, start: int, end: int) -> bool:
        """Return whether every page of `[start, end)` (bytes) is in memory. O(pages)."""
        return all(entry & _PM_PRESENT for entry in _entries(self._fd, start, end))


def was_untouched(runs: Iterable[Touched], start: int, end: int, private_file: bool) -> bool:
    """Return the result of `Pagemap.untouched` for touched runs that were read earlier. O(runs)."""
    for run_start, run_end, how in runs:
        if run_start < end and start < run_end and not (private_file and how & FILE_PAGE):
            return False
    return True


def page_count(runs: Iterable[Touched]) -> int:
    """Return the number of pages in `runs` that are known to be touched. O(runs)."""
    return sum(end - start for start, end, how in runs if not how & UNSEEN) >> PAGE_SHIFT


def has_scan(pid: int) -> bool:
    """Return whether the kernel reports touched pages as ranges (PAGEMAP_SCAN)."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return proc.answers(file, PAGEMAP_SCAN)


def _runs(entries: Iterable[int], start: int) -> list[Touched]:
    # Join entries of single pages to runs. They show neither the zero page nor huge pages.
    runs: list[Touched] = []
    for entry in entries:
        if entry & (_PM_PRESENT | _PM_SWAP | _PM_GUARD):
            how = FILE_PAGE if entry & _PM_FILE else 0
            how |= SWAPPED if entry & _PM_SWAP else 0
            how |= GUARD if entry & _PM_GUARD else 0
            if runs and runs[-1][1:] == (start, how):
                runs[-1] = (runs[-1][0], start + PAGE_SIZE, how)
            else:
                runs.append((start, start + PAGE_SIZE, how))
        start += PAGE_SIZE
    return runs


def _entries(fd: int, start: int, end: int) -> Iterator[int]:
    for at in range(start, end, 512 * PAGE_SIZE):
        pages = min(end - at, 512 * PAGE_SIZE) >> PAGE_SHIFT
        for (entry,) in struct.iter_unpack("=Q", os.pread(fd, pages * 8, at >> PAGE_SHIFT << 3)):
            yield entry
