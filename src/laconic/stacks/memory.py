"""Reading the memory of stopped processes: process_vm_readv(2) into a buffer that is there
already."""

from __future__ import annotations

import ctypes
from typing import Final

#: Bytes of stack that are read at once.
WINDOW: Final = 16384
_MASK = (1 << 64) - 1

# As in laconic.tracer.ptrace: the GIL is kept, and no argtypes.
_readv = ctypes.PyDLL(None).process_vm_readv


class Memory:
    """Reads other processes' memory into one buffer. Never raises: what is not there is not
    read."""

    def __init__(self) -> None:
        self._buffer = (ctypes.c_uint64 * (WINDOW // 8))()
        self.words = memoryview(self._buffer).cast("B").cast("Q")
        self._ours, self._here = self._iovec(ctypes.addressof(self._buffer), WINDOW)
        self._theirs, self._there = self._iovec(0, WINDOW)

    def _iovec(self, address: int, length: int) -> tuple[memoryview, ctypes.c_void_p]:
        pair = (ctypes.c_uint64 * 2)(address, length)
        return memoryview(pair).cast("B").cast("Q"), ctypes.c_void_p(ctypes.addressof(pair))

    def load(self, tid: int, address: int) -> int:
        """Fills `words` from an address on; returns the bytes that are there."""
        self._theirs[0] = address
        done: int = _readv(tid, self._here, 1, self._there, 1, 0)
        return max(done, 0)

    def read(self, tid: int, address: int, size: int) -> bytes:
        """Up to `size` bytes at an address."""
        buffer = ctypes.create_string_buffer(size)
        _, here = ours = self._iovec(ctypes.addressof(buffer), size)
        _, there = theirs = self._iovec(address & _MASK, size)
        done = _readv(tid, here, 1, there, 1, 0)
        del ours, theirs  # until here the kernel has written to them
        return buffer.raw[: max(done, 0)]
