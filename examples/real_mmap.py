"""A PAL that carries changes out with real system calls, inside an arena of this very process.

python examples/real_mmap.py
"""

from __future__ import annotations

import ctypes
import mmap

from laconic import (
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
    Change,
    ChangeKind,
    HostError,
    Layout,
    MemoryManager,
)

ARENA_SIZE = 1 << 30
MAP_FIXED, MAP_NORESERVE, MADV_DONTNEED = 0x10, 0x4000, 4

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


class RealPal:
    """Maps, protects and unmaps the pages of an arena. `host_calls` counts the system calls."""

    def __init__(self) -> None:
        # The arena stays reserved, so that nothing else in this process takes its addresses.
        address = libc.mmap(
            None, ARENA_SIZE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        self.end = address + ARENA_SIZE
        self.host_calls = 0

    def apply(self, change: Change) -> None:
        """Carry out one change by one system call."""
        self.host_calls += 1
        length = change.end - change.start
        prot = 0 if change.wanted is None else int(change.wanted.prot)
        if change.kinds & (ChangeKind.MAP | ChangeKind.UNMAP | ChangeKind.FILE):
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
            reserve = 0 if change.kinds & ChangeKind.MAP else MAP_NORESERVE
            failed = libc.mmap(change.start, length, prot, flags | reserve, -1, 0) != change.start
        elif change.kinds & ChangeKind.ZERO:
            failed = (
                libc.madvise(ctypes.c_void_p(change.start), ctypes.c_size_t(length), MADV_DONTNEED)
                != 0
            )
        else:
            failed = (
                libc.mprotect(ctypes.c_void_p(change.start), ctypes.c_size_t(length), prot) != 0
            )
        if failed:
            raise HostError(ctypes.get_errno())


def main() -> None:
    """Allocate, write, protect and free memory through the manager."""
    pal = RealPal()
    mm = MemoryManager(pal, AddressSpace(Layout(mmap_base=pal.end)))
    address = mm.mmap(None, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE)
    ctypes.memset(address, ord("x"), 16 * PAGE_SIZE)
    for _ in range(1000):
        mm.mprotect(address, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE)  # redundant: no system call
    mm.mprotect(address, PAGE_SIZE, PROT_READ)
    print(
        f"{pal.host_calls} system calls for 1,002 memory calls; the memory holds "
        f"{ctypes.string_at(address, 4)!r}"
    )
    with open("/proc/self/maps") as maps:
        print(next(line for line in maps if line.startswith(f"{address:x}-")).rstrip())
    mm.munmap(address, 16 * PAGE_SIZE)
    print(f"{mm.space.map_count} VMAs are left")


if __name__ == "__main__":
    main()
