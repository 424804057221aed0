"""The memory calls by name: from a system call's six arguments to the operation that models it.

Operations query further information, such as the file of a descriptor or whether pages were
touched, through `Upcalls`. The tracer answers from the program, and a replay from the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from laconic.memory.brk import brk
from laconic.memory.change import Outcome
from laconic.memory.flags import MAP_ANONYMOUS, MAX_ERRNO
from laconic.memory.madvise import (
    FLAG_ADVICE,
    madvise,
    mbind,
    mseal,
    msync,
    remap_file_pages,
    set_memory_merge,
    set_vma_name,
)
from laconic.memory.mlock import mlock, mlock2, mlockall, munlock, munlockall
from laconic.memory.mmap import OpenFile, mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.mremap import mremap
from laconic.memory.munmap import munmap, shmdt
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma

PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN, PR_MDWE_NO_INHERIT = 1, 2
PR_SET_MEMORY_MERGE = 67
PR_SET_VMA = 0x53564D41


class Upcalls(Protocol):
    """Queries about the calling thread. Ranges are in bytes and page-aligned."""

    read_implies_exec: bool

    def open_file(self, fd: int) -> OpenFile | None:
        """Return what a descriptor refers to, or None if it is not open."""

    def untouched(self, start: int, end: int) -> bool:
        """Return whether no page of private memory was touched or, in a file mapping, written."""

    def resident(self, start: int, end: int) -> bool:
        """Return whether every page is in memory."""

    def data_limit(self) -> int:
        """Return RLIMIT_DATA in bytes, -1 for none."""

    def lock_limit(self) -> int:
        """RLIMIT_MEMLOCK in bytes, -1 for none."""

    def vma_start(self, address: int) -> int:
        """Return the start of the host's VMA that contains `address`, or 0 if it is unknown."""

    def read(self, address: int, length: int) -> bytes:
        """Return the program's memory: fewer bytes than `length` if not all of it is readable."""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        """Return `file` as the host shows it; it was just mapped at `address` from `fd` (-1: none)."""

    def maps(self) -> RangeMap[Vma]:
        """Return the host's map of the whole address space, with equal neighbors merged."""

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        """Return the host's map within `[start, end)`, truncated to it.

        Within the range, wanted and held maps may differ. The host is expected to have one of the
        two at each page. It is read in full only if the two look alike or it has neither.
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
        """-1: no limit."""
        return -1

    def vma_start(self, address: int) -> int:
        """Return 0: pages that look alike are one VMA."""
        return 0

    def read(self, address: int, length: int) -> bytes:
        """Return nothing: there is no memory to read."""
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


#: The six arguments of a system call.
Arguments = tuple[int, ...]
#: Maps a call's name, arguments and outcome to the arguments of its host call. The result is None
#: if the call is elided, the same object if the call is passed on unchanged, and another tuple if it
#: is narrowed.
HostRule = Callable[[str, Arguments, Outcome], Arguments | None]


def is_error(result: int) -> bool:
    """Return whether a system call's result is a negative errno."""
    return -MAX_ERRNO <= result < 0


class Call(NamedTuple):
    """One memory call as the program made it: its name and six unsigned 64-bit arguments."""

    name: str
    args: tuple[int, ...]


Operation = Callable[[AddressSpace, tuple[int, ...], Upcalls], Outcome]


def _mmap(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    address, length, prot, flags, fd, offset = args
    file = None if flags & MAP_ANONYMOUS else up.open_file(_int(fd))
    return mmap(
        space,
        address,
        length,
        prot,
        flags,
        file,
        offset,
        up.read_implies_exec,
        up.untouched,
    )


def _int(value: int) -> int:
    # A C int in a 64-bit register.
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _mprotect(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    return mprotect(space, args[0], args[1], args[2], -1, up.read_implies_exec, up.vma_start)


def _pkey_mprotect(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    key = _int(args[3])
    return mprotect(space, args[0], args[1], args[2], key, up.read_implies_exec, up.vma_start)


def _brk(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    limit = up.data_limit() if args[0] >= space.start_brk else -1
    return brk(space, args[0], limit, up.read_implies_exec)


def _prctl(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    option = args[0] & 0xFFFFFFFF
    if option == PR_SET_VMA and args[1] == 0:
        name = (
            up.read(args[4], 80).split(b"\0")[0].decode("utf-8", "surrogateescape")
            if args[4]
            else None
        )
        return set_vma_name(space, args[2], args[3], name)
    if option == PR_SET_MDWE:

        def deny() -> None:
            if args[1] & PR_MDWE_REFUSE_EXEC_GAIN:
                space.mdwe = True
                space.mdwe_inherited = not args[1] & PR_MDWE_NO_INHERIT

        return Outcome(0, ask=True, then=deny)
    if args[0] == PR_SET_MEMORY_MERGE and not any(args[2:5]):
        return set_memory_merge(space, bool(args[1]))
    # PR_SET_MM, or an unknown kind of PR_SET_VMA
    return Outcome(0, ask=True, resync=True)


def _mbind(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    bits = max(min(args[4], 4096) - 1, 0)
    mask = up.read(args[3], (bits + 63) // 64 * 8) if args[3] and bits else b""
    return mbind(space, args[0], args[1], (args[2] & 0xFFFFFFFF, mask.rstrip(b"\0")))


def _userfaultfd(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    def opaque() -> None:
        space.opaque = True

    return Outcome(0, ask=True, then=opaque)


def _ask(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    return Outcome(0, ask=True)


def _resync(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    return Outcome(0, ask=True, resync=True)


def _remap_file_pages(space: AddressSpace, args: tuple[int, ...], up: Upcalls) -> Outcome:
    return remap_file_pages(
        space, args[0], args[1], args[2], args[3], args[4], up.read_implies_exec
    )


#: Every call that the bookkeeping models. Some calls map memory that only the host can describe
#: (shmat, io_setup, map_shadow_stack): they are passed on, and the mapping is read from the host.
OPERATIONS: dict[str, Operation] = {
    "mmap": _mmap,
    "munmap": lambda space, args, up: munmap(space, args[0], args[1]),
    "mprotect": _mprotect,
    "pkey_mprotect": _pkey_mprotect,
    "mremap": lambda space, args, up: mremap(space, args[0], args[1], args[2], args[3], args[4]),
    "brk": _brk,
    "madvise": lambda space, args, up: madvise(
        space, args[0], args[1], _int(args[2]), untouched=up.untouched
    ),
    "process_madvise": lambda space, args, up: Outcome(
        0, ask=True, resync=_int(args[3]) in FLAG_ADVICE
    ),
    "mlock": lambda space, args, up: mlock(
        space, args[0], args[1], resident=up.resident, lock_limit=up.lock_limit
    ),
    "mlock2": lambda space, args, up: mlock2(
        space, args[0], args[1], _int(args[2]), resident=up.resident, lock_limit=up.lock_limit
    ),
    "munlock": lambda space, args, up: munlock(space, args[0], args[1]),
    "mlockall": lambda space, args, up: mlockall(space, _int(args[0])),
    "munlockall": lambda space, args, up: munlockall(space),
    "msync": lambda space, args, up: msync(space, args[0], args[1], _int(args[2])),
    "remap_file_pages": _remap_file_pages,
    "mseal": lambda space, args, up: mseal(space, args[0], args[1], args[2]),
    "mbind": _mbind,
    "set_mempolicy_home_node": _ask,
    "prctl": _prctl,
    "shmat": _ask,
    "shmdt": lambda space, args, up: shmdt(space, args[0]),
    "io_setup": _ask,
    "io_destroy": lambda space, args, up: Outcome(0, ask=True),
    "map_shadow_stack": _ask,
    "userfaultfd": _userfaultfd,
    "arch_prctl": _resync,
}

#: Calls on a range whose address and length are two consecutive arguments: name → index of the
#: address.
RANGED = {
    "mprotect": 0,
    "pkey_mprotect": 0,
    "munmap": 0,
    "madvise": 0,
    "mlock": 0,
    "mlock2": 0,
    "munlock": 0,
    "msync": 0,
    "mseal": 0,
    "mbind": 0,
    "prctl": 2,
}
