"""Touched pages from a played kernel: PAGEMAP_SCAN, and entries of single pages before it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

import pytest

from laconic.linux import pagemap
from laconic.linux.pagemap import (
    FILE_PAGE,
    GUARD,
    HUGE,
    PAGEMAP_SCAN,
    SWAPPED,
    UNSEEN,
    ZERO_PAGE,
    Pagemap,
    page_count,
    was_untouched,
)

PAGE = 4096
BASE = 1 << 30
# enum of PAGE_IS_* in include/uapi/linux/fs.h
IS_FILE, IS_PRESENT, IS_SWAPPED, IS_PFNZERO, IS_HUGE, IS_GUARD = 4, 8, 16, 32, 64, 256
IS_WPALLOWED, IS_WRITTEN, IS_SOFT_DIRTY = 1, 2, 128
#: How a page of each letter is present.
LETTERS = {
    ".": 0,
    "w": IS_PRESENT,
    "f": IS_PRESENT | IS_FILE,
    "z": IS_PRESENT | IS_PFNZERO,
    "s": IS_SWAPPED,
    "S": IS_SWAPPED | IS_FILE,
    "h": IS_PRESENT | IS_HUGE,
    "g": IS_GUARD,
    "p": IS_WPALLOWED | IS_WRITTEN | IS_SOFT_DIRTY,
    "d": IS_PRESENT | IS_WRITTEN | IS_SOFT_DIRTY,
}


def at(page: int) -> int:
    """The address of a page of the picture."""
    return BASE + page * PAGE


class Kernel:
    """Page tables as a picture; `scans` counts the requests, and `error` refuses them."""

    def __init__(self) -> None:
        self.picture = ""
        self.error = 0
        self.scans = 0

    def categories(self, page: int) -> int:
        """How a page is present."""
        return LETTERS[self.picture[page]] if 0 <= page < len(self.picture) else 0

    def ioctl(self, fd: int, request: int, argument: bytearray, mutate: bool = False) -> int:
        """PAGEMAP_SCAN: pages of some category, none of which is excluded, as regions."""
        assert request == PAGEMAP_SCAN == 0xC0606610
        self.scans += 1
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        (size, flags, start, end, _, vector, length, limit, inverted, mask, anyof, returned) = (
            struct.unpack("=12Q", argument)
        )
        assert (size, flags) == (96, 0) and start % PAGE == end % PAGE == 0
        regions: list[list[int]] = []
        pages = 0
        address = start
        while address < end:
            found = self.categories((address - BASE) // PAGE)
            wanted = not (mask & ~(found ^ inverted)) and bool(
                anyof & (found ^ inverted) or not anyof
            )
            if wanted:
                shown = found & returned
                joins = regions and regions[-1][1] == address and regions[-1][2] == shown
                if (not joins and len(regions) == length) or (limit and pages == limit):
                    break
                pages += 1
                if joins:
                    regions[-1][1] += PAGE
                else:
                    regions.append([address, address + PAGE, shown])
            address += PAGE
        for index, region in enumerate(regions):
            ctypes.memmove(vector + index * 24, struct.pack("=3Q", *region), 24)
        struct.pack_into("=Q", argument, 32, address)
        return len(regions)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """The entries of /proc/PID/pagemap."""
        entries = []
        for number in range(offset // 8, (offset + length) // 8):
            found = self.categories(number - BASE // PAGE)
            entry = (1 << 63) * bool(found & IS_PRESENT) | (1 << 62) * bool(found & IS_SWAPPED)
            entry |= (1 << 61) * bool(found & IS_FILE) | (1 << 58) * bool(found & IS_GUARD)
            entries.append(entry | 1 << 55 | 1)
        return struct.pack(f"={len(entries)}Q", *entries)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The kernel behind /proc/PID/pagemap."""
    played = Kernel()
    monkeypatch.setattr(fcntl, "ioctl", played.ioctl)
    monkeypatch.setattr(os, "pread", played.pread)
    return played


@pytest.fixture
def pages() -> Iterator[Pagemap]:
    """The pagemap of this process, which is read only to be opened."""
    opened = Pagemap(os.getpid())
    yield opened
    opened.close()


def runs(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Runs in pages of the picture."""
    return [((start - BASE) // PAGE, (end - BASE) // PAGE, how) for start, end, how in found]


def test_how_pages_are_present(kernel: Kernel, pages: Pagemap) -> None:
    kernel.picture = "ww.fzsShhg.d"
    assert runs(pages.touched(at(0), at(12))) == [
        (0, 2, 0),
        (3, 4, FILE_PAGE),
        (4, 5, ZERO_PAGE),
        (5, 6, SWAPPED),
        (6, 7, SWAPPED | FILE_PAGE),
        (7, 9, HUGE),
        (9, 10, GUARD),
        (11, 12, 0),
    ]
    assert runs(pages.touched(at(1), at(4))) == [(1, 2, 0), (3, 4, FILE_PAGE)]
    assert pages.touched(at(2), at(2)) == []
    kernel.picture = "pwp"
    assert runs(pages.touched(at(0), at(3))) == [(1, 2, 0)]


def test_bits_of_how_a_page_is_present_are_apart() -> None:
    assert [FILE_PAGE, ZERO_PAGE, SWAPPED, GUARD, HUGE, UNSEEN] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(("count", "scans"), [(63, 1), (64, 1), (65, 2), (150, 3)])
def test_many_runs_take_several_requests(
    count: int, scans: int, kernel: Kernel, pages: Pagemap
) -> None:
    kernel.picture = "w." * count
    assert runs(pages.touched(at(0), at(2 * count))) == [
        (2 * number, 2 * number + 1, 0) for number in range(count)
    ]
    assert kernel.scans == scans


@pytest.mark.parametrize("error", [errno.ENOTTY, errno.EINVAL])
def test_older_kernels_are_read_page_by_page(error: int, kernel: Kernel, pages: Pagemap) -> None:
    # They show neither the zero page nor huge pages.
    kernel.error = error
    kernel.picture = "ww.fzsShhg.w" + "." * 600 + "f"
    assert runs(pages.touched(at(0), at(len(kernel.picture)))) == [
        (0, 2, 0),
        (3, 4, FILE_PAGE),
        (4, 5, 0),
        (5, 6, SWAPPED),
        (6, 7, SWAPPED | FILE_PAGE),
        (7, 9, 0),
        (9, 10, GUARD),
        (11, 12, 0),
        (612, 613, FILE_PAGE),
    ]


def test_a_process_that_is_gone_is_an_error(kernel: Kernel, pages: Pagemap) -> None:
    kernel.error = errno.ESRCH
    with pytest.raises(OSError, match="process"):
        pages.touched(at(0), at(1))


@pytest.mark.parametrize("error", [0, errno.ENOTTY])
@pytest.mark.parametrize(
    ("picture", "anonymous", "private_file"),
    [
        ("....", True, True),
        ("pppp", True, True),  # not present
        ("w...", False, False),
        ("...w", False, False),
        ("f...", False, True),  # a page of the file, not a copy
        ("ffff", False, True),
        ("fw..", False, False),
        ("s...", False, False),
        ("S...", False, True),
        ("z...", False, False),
    ],
)
def test_untouched_pages(
    picture: str, anonymous: bool, private_file: bool, error: int, kernel: Kernel, pages: Pagemap
) -> None:
    kernel.picture, kernel.error = picture + "w", error
    assert pages.untouched(at(0), at(4), False) == anonymous
    assert pages.untouched(at(0), at(4), True) == private_file


def test_guard_markers_count_for_anonymous_memory(kernel: Kernel, pages: Pagemap) -> None:
    kernel.picture = "g"
    assert not pages.untouched(at(0), at(1), False)
    assert pages.untouched(at(0), at(1), True)


def test_resident_pages_are_present(kernel: Kernel, pages: Pagemap) -> None:
    kernel.picture = "wfz" + "w" * 600 + "s."
    assert pages.resident(at(0), at(603))
    assert not pages.resident(at(0), at(604))
    assert not pages.resident(at(604), at(605))


def test_touched_runs_that_were_read_earlier_answer_too() -> None:
    found = [(at(1), at(2), 0), (at(3), at(4), FILE_PAGE)]
    assert was_untouched(found, at(0), at(1), False)
    assert not was_untouched(found, at(0), at(2), False)
    assert was_untouched(found, at(2), at(3), False)
    assert not was_untouched(found, at(3), at(4), False)
    assert was_untouched(found, at(3), at(4), True)
    assert not was_untouched(found, at(1), at(4), True)


def test_unseen_pages_are_not_counted_as_touched() -> None:
    assert page_count([(at(0), at(3), 0), (at(3), at(9), UNSEEN), (at(9), at(10), HUGE)]) == 4


def test_a_closed_pagemap_is_closed() -> None:
    opened = Pagemap(os.getpid())
    opened.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(opened._fd)


@pytest.mark.parametrize(("error", "known"), [(errno.ENOTTY, False), (errno.EFAULT, True)])
def test_a_kernel_that_refuses_an_empty_request_knows_it(
    error: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ioctl(file: object, request: int, argument: bytes) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert pagemap.has_scan(os.getpid()) == known
