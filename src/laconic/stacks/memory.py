"""Reading the memory of stopped processes: process_vm_readv(2) into a preallocated buffer."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

#: Bytes of stack that are read at once.
WINDOW: Final = 16384
#: The maximum number of ranges that one system call reads (UIO_MAXIOV in include/uapi/linux/uio.h).
MOST_RANGES: Final = 1024
_MASK = (1 << 64) - 1

# As in laconic.tracer.ptrace: the GIL is kept, and there are no argtypes.
_readv = ctypes.PyDLL(None).process_vm_readv


class Memory:
    """Reads other processes' memory into one buffer. Never raises: memory that does not exist is
    not read."""

    def __init__(self) -> None:
        self._buffer = (ctypes.c_uint64 * (WINDOW // 8))()
        self.words = memoryview(self._buffer).cast("B").cast("Q")
        self._ours, self._here = self._iovec(ctypes.addressof(self._buffer), WINDOW)
        self._theirs, self._there = self._iovec(0, WINDOW)

    def _iovec(self, address: int, length: int) -> tuple[memoryview, ctypes.c_void_p]:
        pair = (ctypes.c_uint64 * 2)(address, length)
        return memoryview(pair).cast("B").cast("Q"), ctypes.c_void_p(ctypes.addressof(pair))

    def load(self, tid: int, address: int) -> int:
        """Fill `words` from an address on; return the number of bytes that were read."""
        self._theirs[0] = address & _MASK
        done: int = _readv(tid, self._here, 1, self._there, 1, 0)
        return max(done, 0)

    def read(self, tid: int, address: int, size: int) -> bytes:
        """Return up to `size` bytes at an address."""
        buffer = ctypes.create_string_buffer(size)
        _, here = ours = self._iovec(ctypes.addressof(buffer), size)
        _, there = theirs = self._iovec(address & _MASK, size)
        done = _readv(tid, here, 1, there, 1, 0)
        del ours, theirs  # until here the kernel has written to them
        return buffer.raw[: max(done, 0)]


class Block:
    """A buffer of `size` bytes for one range of another process's memory, as `words`."""

    def __init__(self, size: int) -> None:
        self.size = size + 7 & -8
        self._buffer = (ctypes.c_uint64 * (self.size // 8))()
        self.words = memoryview(self._buffer).cast("B").cast("Q")
        self._ours = (ctypes.c_uint64 * 2)(ctypes.addressof(self._buffer), self.size)
        self._theirs = (ctypes.c_uint64 * 2)()
        self._here = ctypes.c_void_p(ctypes.addressof(self._ours))
        self._there = ctypes.c_void_p(ctypes.addressof(self._theirs))

    def load(self, tid: int, address: int, size: int) -> int:
        """Fill `words` from an address on; return the number of bytes that were read, up to `size`.
        Raises ValueError if the buffer is smaller."""
        if size > self.size:
            raise ValueError("the buffer is too small")
        self._theirs[0] = address & _MASK
        self._theirs[1] = size
        done: int = _readv(tid, self._here, 1, self._there, 1, 0)
        return max(done, 0)


class Pieces:
    """Ranges `(address, size)` of another process's memory, read by one system call.

    Raises ValueError if there are more than `MOST_RANGES`.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        if len(ranges) > MOST_RANGES:
            raise ValueError(f"{len(ranges):,} ranges, and {MOST_RANGES:,} is the most")
        size = sum(size for _, size in ranges)
        self._buffer = ctypes.create_string_buffer(max(size, 1))
        self._count = len(ranges)
        self._ours = (ctypes.c_uint64 * 2)(ctypes.addressof(self._buffer), size)
        self._theirs = (ctypes.c_uint64 * (2 * len(ranges)))(
            *[number for part in ranges for number in part]
        )
        self._here = ctypes.c_void_p(ctypes.addressof(self._ours))
        self._there = ctypes.c_void_p(ctypes.addressof(self._theirs))
        self.size = size

    def read(self, tid: int) -> bytes:
        """Return the bytes of all ranges, up to the first byte that cannot be read
        (process_vm_readv)."""
        done: int = _readv(tid, self._here, 1, self._there, self._count, 0)
        return self._buffer.raw[: min(max(done, 0), self.size)]
