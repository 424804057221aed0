"""The memory calls by name: from a system call's six arguments to the operation that models it.

Operations query further information, such as the file of a descriptor or whether pages were
touched, through `Upcalls`. The tracer answers from the program, and a replay from the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
from laconic.memory.mmap import mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.mremap import mremap
from laconic.memory.munmap import munmap, shmdt
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import Upcalls

PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN, PR_MDWE_NO_INHERIT = 1, 2
PR_SET_MEMORY_MERGE = 67
PR_SET_VMA = 0x53564D41


#: The six arguments of a system call.
Arguments = tuple[int, ...]


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
