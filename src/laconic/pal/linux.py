"""The Linux PAL: changes as system calls, each over the changed runs alone."""

from __future__ import annotations

from collections.abc import Generator

from laconic.memory.calls import RANGED, Call
from laconic.memory.change import Outcome, coalesce
from laconic.memory.flags import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_GROWSDOWN,
)
from laconic.pal import Confirmation, HostCall, Pal

#: The highest value that is an errno and not an address (MAX_ERRNO in include/linux/err.h).
MAX_ERRNO = 4095


def is_error(result: int) -> bool:
    """True for a system call's result that is a negative errno."""
    return -MAX_ERRNO <= result < 0


class LinuxPal(Pal):
    """Says changes as Linux system calls. `every_call` says each call whole, as today's library OSes do."""

    def __init__(self, every_call: bool = False) -> None:
        self.every_call = every_call

    def apply(
        self, call: Call, outcome: Outcome, last: int = 0, as_made: bool = False
    ) -> Generator[HostCall, int, Confirmation]:
        """Carries out `outcome`; the run that holds `last`, the address that the calls are made from, comes last.

        `as_made`: a new mapping is asked for as the program asks for it, and the host chooses its address, as
        bookkeeping has: a program's own seccomp filter may forbid any flag that the program does not use.
        """
        said = value = 0
        free = as_made and _moves(call, outcome)
        for host_call in [HostCall(*call)] if free else self.host_calls(call, outcome, last):
            said += 1
            value = yield host_call
            if is_error(value):
                return Confirmation(value, value, said)
            if not free and not outcome.place and not outcome.ask and _promised(host_call) not in (None, value):
                # brk says no by returning the old break; an old kernel takes MAP_FIXED_NOREPLACE for a hint.
                return Confirmation(-1, value, said)
        return Confirmation(0, value, said)

    def as_asked(self, call: Call, outcome: Outcome) -> bool:
        """True where the call on a range as the program made it is all that there is to say. O(changes)."""
        return call.name in RANGED and not outcome.ask and self.host_calls(call, outcome) == [HostCall(*call)]

    def host_calls(self, call: Call, outcome: Outcome, last: int = 0) -> list[HostCall]:
        """The host calls that carry out `outcome`, in order. O(changes)."""
        name, args = call
        if outcome.ask or self.every_call:
            return [HostCall(name, _resolved(call, outcome))]
        if not outcome.changes:
            return []
        if name == "mmap":
            return _mappings(args, outcome, last)
        if name in RANGED:
            at = RANGED[name]
            if name == "mprotect" and args[2] & PROT_GROWSDOWN:
                args = (args[0], args[1], args[2] & ~PROT_GROWSDOWN, *args[3:])
            runs = _own_run_last(coalesce(outcome.changes), last)
            return [HostCall(name, (*args[:at], start, end - start, *args[at + 2 :])) for start, end in runs]
        return [HostCall(name, _resolved(call, outcome))]


def _moves(call: Call, outcome: Outcome) -> bool:
    # True for a call whose address bookkeeping chose.
    name, args = call
    if name == "mmap":
        return bool(outcome.changes) and not args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    return name == "mremap" and outcome.result != args[0] and not args[3] & MREMAP_FIXED


def _promised(host_call: HostCall) -> int | None:
    # The only result that is a success, where there is one.
    if host_call.name in ("brk", "mmap"):
        return host_call.args[0]
    if host_call.name == "mremap" and host_call.args[3] & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return host_call.args[4]
    return None


def _mappings(args: tuple[int, ...], outcome: Outcome, last: int) -> list[HostCall]:
    # An address that bookkeeping chose must be free: NOREPLACE makes the host say so if it is not.
    _, _, prot, flags, fd, offset = args
    if not flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        flags = flags & ~MAP_32BIT | MAP_FIXED_NOREPLACE
    calls = []
    for start, end in _own_run_last(coalesce(outcome.changes), last):
        behind = 0 if flags & MAP_ANONYMOUS else start - outcome.result
        calls.append(HostCall("mmap", (start, end - start, prot, flags, fd, offset + behind)))
    return calls


def _resolved(call: Call, outcome: Outcome) -> tuple[int, ...]:
    # The call as it is, but at the address that bookkeeping chose.
    name, args = call
    if outcome.result < 0 or outcome.place or outcome.resync:
        return args
    if name == "mmap" and not args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        return (outcome.result, args[1], args[2], args[3] & ~MAP_32BIT | MAP_FIXED_NOREPLACE, args[4], args[5])
    if name == "mremap" and outcome.result != args[0] and not args[3] & MREMAP_FIXED:
        # With MREMAP_FIXED the host would move several VMAs that look alike, and without it refuses (remap_move): a
        # hint that is free is taken.
        flags = args[3] if args[3] & MREMAP_DONTUNMAP else MREMAP_MAYMOVE | MREMAP_FIXED
        return (args[0], args[1], args[2], flags, outcome.result, args[5])
    return args


def _own_run_last(runs: list[tuple[int, int]], last: int) -> list[tuple[int, int]]:
    if len(runs) < 2:
        return runs
    return sorted(runs, key=lambda run: run[0] <= last < run[1])
