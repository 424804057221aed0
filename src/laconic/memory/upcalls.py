"""Upcalls: queries by an operation to the owner of the bookkeeping, for facts that only the host
has.

The tracer answers them from the program, and a replay from the trace.
"""

from __future__ import annotations

from typing import Protocol

from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma


class Upcalls(Protocol):
    """Queries about the calling thread. Ranges are in bytes and page-aligned."""

    read_implies_exec: bool

    def open_file(self, fd: int) -> OpenFile | None:
        """Return the file of a descriptor, or None if it is not open."""

    def untouched(self, start: int, end: int) -> bool:
        """Return whether no page of a private mapping was touched or, in a file mapping,
        written."""

    def resident(self, start: int, end: int) -> bool:
        """Return whether every page is in memory."""

    def data_limit(self) -> int:
        """Return RLIMIT_DATA in bytes, -1 for none."""

    def lock_limit(self) -> int:
        """Return RLIMIT_MEMLOCK in bytes, -1 for none."""

    def vma_start(self, address: int) -> int:
        """Return the start of the host's VMA that contains `address`, or 0 if it is unknown."""

    def read(self, address: int, length: int) -> bytes:
        """Return the program's memory: fewer bytes than `length` if not all of it is readable."""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        """Return `file` as the host shows it; it was just mapped at `address` from `fd` (-1:
        none)."""

    def maps(self) -> RangeMap[Vma]:
        """Return the host's map of the whole address space, with equal neighbors merged."""

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        """Return the host's map within `[start, end)`, truncated to it.

        Within the range, the wanted and held maps may differ, and each page of the host is expected
        to match one of them. The host's map is read in full only if the two look alike or a page
        matches neither.
        """


class DefaultUpcalls:
    """Answers without a host: any page may have been touched, and none is resident.

    `files` are the open files by descriptor.
    """

    read_implies_exec = False

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.files: dict[int, OpenFile] = {}

    def open_file(self, fd: int) -> OpenFile | None:
        """Return the file of a descriptor, or None if it is not open."""
        return self.files.get(fd)

    def untouched(self, start: int, end: int) -> bool:
        """Return False: any page may have been touched."""
        return False

    def resident(self, start: int, end: int) -> bool:
        """Return False: pages may have to be brought in."""
        return False

    def data_limit(self) -> int:
        """Return -1: there is no limit."""
        return -1

    def lock_limit(self) -> int:
        """Return -1: there is no limit."""
        return -1

    def vma_start(self, address: int) -> int:
        """Return 0: pages that look alike are one VMA."""
        return 0

    def read(self, address: int, length: int) -> bytes:
        """Return no bytes: there is no memory to read."""
        return b""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        """Return the file itself."""
        return file

    def maps(self) -> RangeMap[Vma]:
        """Return a copy of the held map."""
        return self.space.held.copy()

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        """Return a copy of the held map."""
        return self.maps()
