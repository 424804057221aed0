"""The memory calls of one program as methods: a library OS's memory manager on any PAL.

Each method edits the wanted state, hands the changes to the PAL, and returns Linux's result or
raises OSError with Linux's errno. If nothing changes, the PAL is not called.

>>> class Printer:
...     def apply(self, change):
...         print(change)
>>> mm = MemoryManager(Printer())
>>> address = mm.mmap(None, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE)
MAP 7ffff7ff4000-7ffff7ff8000 rw-p
>>> mm.mprotect(address, PAGE_SIZE, PROT_READ | PROT_WRITE)
>>> mm.mprotect(address, PAGE_SIZE, PROT_READ)
RESTRICT 7ffff7ff4000-7ffff7ff5000 r--p, was rw-p
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from errno import EFAULT, EINVAL, ENOSYS
from typing import NamedTuple

from laconic.memory.bookkeeper import at_address
from laconic.memory.calls import (
    OPERATIONS,
    PR_MDWE_REFUSE_EXEC_GAIN,
    PR_SET_MDWE,
    PR_SET_MEMORY_MERGE,
)
from laconic.memory.change import Outcome
from laconic.memory.flags import (
    ADDRESS_MASK,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_TYPE,
    MCL_CURRENT,
    MREMAP_MAYMOVE,
    MS_SYNC,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
)
from laconic.memory.layout import Layout, get_unmapped_area
from laconic.memory.madvise import mbind, set_vma_name
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.pal import HostError, Pal, refusal_errno
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import DefaultUpcalls, Upcalls
from laconic.memory.vma import Vma

__all__ = ["PAGE_SIZE", "PROT_READ", "PROT_WRITE", "MemoryManager", "VmaInfo"]

#: The top of the mappings and the start of the break of a new address space, as Linux places them
#: without ASLR.
MMAP_BASE = 0x7FFF_F7FF_8000
START_BRK = 0x5555_5556_0000
#: What PR_SET_VMA_ANON_NAME accepts: up to 79 printable ASCII characters, without five that could
#: confuse a parser of `/proc/PID/maps` (is_valid_name_char in kernel/sys.c).
_VMA_NAME = re.compile(r"[^\x00-\x1f\x7f-\U0010ffff\\`$\[\]]{0,79}")


class VmaInfo(NamedTuple):
    """The VMA around an address: `[start, end)` in bytes, and its attributes."""

    start: int
    end: int
    vma: Vma


class MemoryManager:
    """The memory calls of one address space, carried out by `pal`.

    `space` is the bookkeeping (by default empty, with Linux's layout). `upcalls` provides the
    information that only the host has.
    """

    def __init__(
        self, pal: Pal, space: AddressSpace | None = None, upcalls: Upcalls | None = None
    ) -> None:
        self.pal = pal
        self.space = AddressSpace(Layout(MMAP_BASE), (), START_BRK) if space is None else space
        self.upcalls = DefaultUpcalls(self.space) if upcalls is None else upcalls

    def __repr__(self) -> str:
        return f"MemoryManager({self.space!r})"

    # Upcalls of the PAL

    def get_vma_info(self, address: int) -> VmaInfo | None:
        """Return the VMA around `address`, or None in a hole. O(log n)."""
        start, end, vma = self.space.vmas.find(address)
        return None if vma is None else VmaInfo(start, end, vma)

    # Memory calls. Addresses and lengths are in bytes.

    def mmap(
        self,
        address: int | None,
        length: int,
        prot: int,
        flags: int = MAP_PRIVATE | MAP_ANONYMOUS,
        file: OpenFile | None = None,
        offset: int = 0,
    ) -> int:
        """mmap(2): return the address. `file` is the file of the descriptor; it clears
        MAP_ANONYMOUS."""
        if file is None:
            return self._call("mmap", (address or 0, length, prot, flags, ADDRESS_MASK, offset))
        descriptor = 3
        if isinstance(self.upcalls, DefaultUpcalls):
            self.upcalls.files[descriptor] = file
        return self._call(
            "mmap", (address or 0, length, prot, flags & ~MAP_ANONYMOUS, descriptor, offset)
        )

    def munmap(self, address: int, length: int) -> None:
        """munmap(2)."""
        self._call("munmap", (address, length))

    def mprotect(self, address: int, length: int, prot: int) -> None:
        """mprotect(2)."""
        self._call("mprotect", (address, length, prot))

    def pkey_mprotect(self, address: int, length: int, prot: int, pkey: int) -> None:
        """pkey_mprotect(2). The bookkeeping does not record which keys are allocated."""
        self._call("pkey_mprotect", (address, length, prot, pkey))

    def mremap(
        self,
        address: int,
        old_length: int,
        new_length: int,
        flags: int = MREMAP_MAYMOVE,
        new_address: int = 0,
    ) -> int:
        """mremap(2): return the new address."""
        return self._call("mremap", (address, old_length, new_length, flags, new_address))

    def brk(self, address: int = 0) -> int:
        """brk(2): return the new break, or the unchanged break if the call is refused."""
        return self._call("brk", (address,))

    def madvise(self, address: int, length: int, advice: int) -> None:
        """madvise(2)."""
        self._call("madvise", (address, length, advice))

    def mlock(self, address: int, length: int) -> None:
        """mlock(2)."""
        self._call("mlock", (address, length))

    def mlock2(self, address: int, length: int, flags: int = 0) -> None:
        """mlock2(2)."""
        self._call("mlock2", (address, length, flags))

    def munlock(self, address: int, length: int) -> None:
        """munlock(2)."""
        self._call("munlock", (address, length))

    def mlockall(self, flags: int = MCL_CURRENT) -> None:
        """mlockall(2)."""
        self._call("mlockall", (flags,))

    def munlockall(self) -> None:
        """munlockall(2)."""
        self._call("munlockall", ())

    def msync(self, address: int, length: int, flags: int = MS_SYNC) -> None:
        """msync(2)."""
        self._call("msync", (address, length, flags))

    def mseal(self, address: int, length: int) -> None:
        """mseal(2)."""
        self._call("mseal", (address, length, 0))

    def remap_file_pages(self, address: int, length: int, pgoff: int) -> None:
        """remap_file_pages(2); `pgoff` is in pages."""
        self._call("remap_file_pages", (address, length, 0, pgoff, 0))

    def shmdt(self, address: int) -> None:
        """shmdt(2), for System V segments that `space` contained initially: only a host can attach
        one."""
        self._call("shmdt", (address,))

    def mbind(self, address: int, length: int, mode: int, nodemask: bytes = b"") -> None:
        """mbind(2), without flags. `nodemask` is the mask in memory, little-endian. The bookkeeping
        does not check that the nodes exist."""
        end = self._range(address, length)
        if end == address:
            return
        if mode & 0xFF and not self.space.vmas.covered(address, end):
            raise _error(EFAULT)  # queue_pages_test_walk in mm/mempolicy.c
        policy = (mode, nodemask.rstrip(b"\0"))
        self._finish("mbind", mbind(self.space, address, length, policy))

    def set_vma_name(self, address: int, length: int, name: str | None) -> None:
        """prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME): name anonymous memory, or remove its name."""
        if name is not None and not _VMA_NAME.fullmatch(name):
            raise _error(EINVAL)
        if self._range(address, length) != address:
            self._finish("prctl", set_vma_name(self.space, address, length, name))

    def set_memory_merge(self, enabled: bool) -> None:
        """prctl(PR_SET_MEMORY_MERGE): make all mappings MADV_MERGEABLE, or none."""
        self._call("prctl", (PR_SET_MEMORY_MERGE, int(enabled)))

    def set_mdwe(self, flags: int = PR_MDWE_REFUSE_EXEC_GAIN) -> None:
        """prctl(PR_SET_MDWE): from now on, no mapping that is not executable can become
        executable."""
        self._call("prctl", (PR_SET_MDWE, flags))

    def fork(self, pal: Pal | None = None) -> MemoryManager:
        """Return the child's memory manager after fork(2), on `pal` or on this one's PAL. O(n)."""
        upcalls = None if isinstance(self.upcalls, DefaultUpcalls) else self.upcalls
        return MemoryManager(self.pal if pal is None else pal, self.space.fork(), upcalls)

    # The two phases of a call

    def _call(self, name: str, args: Sequence[int]) -> int:
        six = (*(value & ADDRESS_MASK for value in args), *[0] * (6 - len(args)))
        outcome = OPERATIONS[name](self.space, six, self.upcalls)
        return self._finish(name, self._placed(name, six, outcome))

    def _finish(self, name: str, outcome: Outcome) -> int:
        # The second phase: from the outcome of a call to the program's result.
        if outcome.resync:
            raise OSError(ENOSYS, f"only a Linux host can tell what this {name} does")
        refusal = self._apply(outcome)
        if name == "brk" and refusal:
            return self.space.brk
        result = -refusal if refusal else outcome.result
        if result < 0:
            raise _error(-result)
        return result

    def _range(self, address: int, length: int) -> int:
        # The end of a range of pages, as mbind and PR_SET_VMA check it.
        size = page_align(length & ADDRESS_MASK)
        end = address + size & ADDRESS_MASK
        if address % PAGE_SIZE or (length and not size) or end < address:
            raise _error(EINVAL)
        return end

    def _placed(self, name: str, args: tuple[int, ...], outcome: Outcome) -> Outcome:
        # On Linux, the host chooses the addresses of huge pages, devices and large files. Here, the
        # bookkeeping chooses them.
        if not outcome.place:
            return outcome
        kind = args[3] & MAP_TYPE if name == "mmap" else 0
        length = page_align(args[1] if name == "mmap" else args[2])
        shared = MAP_SHARED if kind == MAP_SHARED else 0
        address = get_unmapped_area(self.space.layout, self.space.vmas, 0, length, shared, False)
        if address is None or address < 0:
            return Outcome(address or -ENOSYS)
        chosen = at_address(name, args, address)
        return OPERATIONS[name](self.space, chosen, self.upcalls)

    def _apply(self, outcome: Outcome) -> int:
        # Pass the changes to the PAL, and return 0 or the errno of its refusal. The changes that it
        # carries out become held. However it fails, the rest of the wanted state is reset to the
        # held state: otherwise the next call would find no difference, and this one would be lost.
        for index, change in enumerate(outcome.changes):
            try:
                self.pal.apply(change)
            except BaseException as error:
                end = change.start
                if isinstance(error, HostError) and error.end is not None:
                    end = error.end
                is_inside = change.start <= end <= change.end
                confirmed = list(outcome.changes[:index])
                if is_inside and end > change.start:
                    confirmed.append(change._replace(end=end))
                self.space.commit(outcome._replace(changes=tuple(confirmed), then=None))
                self.space.rollback(outcome.start, outcome.end)
                if not is_inside:
                    raise ValueError(f"HostError: end {end:#x} is outside of {change}") from error
                errno = refusal_errno(error)
                if not errno:
                    raise
                return errno
        self.space.commit(outcome)
        return 0


def _error(errno: int) -> OSError:
    return OSError(errno, os.strerror(errno))
