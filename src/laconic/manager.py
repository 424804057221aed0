"""The memory manager: a memory call from its arguments to the program's result, with nothing done to a host.

A running program and a replay share it. What the host did comes in as a `Confirmation`; what only the host can know
comes in through the upcalls.
"""

from __future__ import annotations

from typing import NamedTuple

from laconic.ledger import Ledger
from laconic.memory.calls import OPERATIONS, RANGED, Call, Upcalls
from laconic.memory.change import Change, Outcome
from laconic.memory.flags import (
    ADDRESS_MASK,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SIZE,
    VM_HUGETLB,
)
from laconic.memory.mmap import page_align, placed
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.pal import Confirmation
from laconic.pal.linux import LinuxPal

#: Results that mean "interrupted, to be restarted by the kernel" (include/linux/errno.h): not results yet.
ERESTARTSYS, ERESTART_RESTARTBLOCK = 512, 516
#: Calls on a range that a stack may have grown into: name → index of the address.
_PLACED = {**RANGED, "mremap": 0, "mmap": 0}
_UNCOUNTED = {"userfaultfd", "arch_prctl"}
#: Calls that map, or unmap, what is the host's to describe.
_ADOPTED = {"shmat", "map_shadow_stack", "io_setup", "io_destroy"}
#: Calls that may be said for fewer pages than asked: name → index of the length.
_NARROWED = {name: at + 1 for name, at in _PLACED.items() if name != "mremap"}
_OUT_OF_BOOKKEEPING = Outcome(0, ask=True, resync=True)


class Answered(NamedTuple):
    """What became of a call: the program's result, the host calls made, and what changed."""

    result: int
    said: int
    changes: tuple[Change, ...]


class MemoryManager:
    """Answers the memory calls of any number of address spaces, and enters them in the ledger.

    `observe`: the host carries every call out as the program made it; what would have been said is entered.
    """

    def __init__(self, pal: LinuxPal, ledger: Ledger, observe: bool = False) -> None:
        self.pal = pal
        self.ledger = ledger
        self.observe = observe
        self.passes = observe or pal.every_call

    def begin(
        self, space: AddressSpace, name: str, args: tuple[int, ...], up: Upcalls, followed: bool = True
    ) -> Outcome:
        """What the call comes to; wanted is edited. Not `followed`: the host does it unseen, and is looked at after."""
        if name in _PLACED:
            at = _PLACED[name]
            if args[at] + args[at + 1] + PAGE_SIZE > space.layout.quiet_below:
                _look_below(space, name, args, up)
        if followed and name in OPERATIONS:
            return OPERATIONS[name](space, args, up)
        return _OUT_OF_BOOKKEEPING

    def unsaid(self, outcome: Outcome) -> bool:
        """True where the host need not hear of the call at all."""
        return not outcome.changes and not outcome.ask and not self.passes

    def finish_unsaid(self, name: str, outcome: Outcome) -> int:
        """The end of a call that the host does not hear of; returns the program's result."""
        if outcome.then is not None:
            outcome.then()
        self.ledger.count(name, 0, outcome.result)
        return outcome.result

    def finish(
        self,
        space: AddressSpace,
        call: Call,
        outcome: Outcome,
        confirmation: Confirmation,
        up: Upcalls,
        *,
        edited: bool = True,
        chosen: bool = False,
    ) -> Answered:
        """Takes over what the host did. `edited`: the call has changed what is wanted; `chosen`: the host was given
        the choice of the address."""
        name, args = call
        error, value, said = confirmation
        if value == outcome.result and not error and not outcome.ask and not self.observe:
            self.done(space, name, args, outcome, said, up)
            return Answered(value, said, outcome.changes)
        if -ERESTART_RESTARTBLOCK <= value <= -ERESTARTSYS:
            if outcome.end and edited:
                space.rollback(outcome.start, outcome.end)
            return Answered(value, said, ())
        if self.observe:
            said = len(self.pal.host_calls(call, outcome))
        if error or self.observe and name == "brk" and value != outcome.result:
            result = space.brk if name == "brk" else value
            if outcome.resync:
                space.adopt(up.maps())
            # A call that kept nobody waiting has edited nothing, and another's may be half done.
            elif outcome.end > outcome.start and edited:
                host = up.maps()
                space.grow(host)
                space.settle(outcome.start, outcome.end, host)
            changes: tuple[Change, ...] = ()
        else:
            asked = outcome.ask or self.passes or chosen
            result = value if asked and outcome.result >= 0 else outcome.result
            changes = self._take(space, call, outcome, value, up, chosen)
        self._enter(name, args, outcome, result, said, changes)
        return Answered(result, said, changes)

    def done(
        self, space: AddressSpace, name: str, args: tuple[int, ...], outcome: Outcome, said: int, up: Upcalls
    ) -> None:
        """As `finish`, where the host did just what the outcome says, as it nearly always does."""
        self._hold(space, name, args, outcome, outcome.result, up)
        self._enter(name, args, outcome, outcome.result, said, outcome.changes)

    def _enter(
        self, name: str, args: tuple[int, ...], outcome: Outcome, result: int, said: int, changes: tuple[Change, ...]
    ) -> None:
        narrowed = False
        if name in _NARROWED:
            if said and outcome.changes and not outcome.ask and not self.pal.every_call:
                covered = 0
                for _, start, end, _, _, _ in outcome.changes:
                    covered += end - start
                narrowed = covered < args[_NARROWED[name]]  # whole pages are covered: no need to round up
        elif name in _UNCOUNTED:
            return
        elif name == "i386_brk":
            name = "other"
        self.ledger.count(name, said, result, narrowed, changes)

    def _take(
        self, space: AddressSpace, call: Call, outcome: Outcome, value: int, up: Upcalls, chosen: bool
    ) -> tuple[Change, ...]:
        name, args = call
        if outcome.resync or outcome.ask and outcome.result < 0:
            self.ledger.resynced += 1
            if name == "i386_brk":
                space.brk = value
            space.adopt(up.maps())
            return ()
        if outcome.place:
            outcome = placed(space, outcome, value)
        elif chosen and value != outcome.result:
            # The host chose another address than bookkeeping would have.
            if outcome.end:
                space.rollback(outcome.start, outcome.end)
            if name == "mmap":
                args = (value, args[1], args[2], args[3] | MAP_FIXED, args[4], args[5])
            else:
                args = (args[0], args[1], args[2], args[3] | MREMAP_FIXED | MREMAP_MAYMOVE, value, args[5])
            outcome = OPERATIONS[name](space, args, up)
        self._hold(space, name, args, outcome, value, up)
        return outcome.changes

    def _hold(
        self, space: AddressSpace, name: str, args: tuple[int, ...], outcome: Outcome, value: int, up: Upcalls
    ) -> None:
        space.commit(outcome)
        if name == "mmap":
            wanted = outcome.changes[0].wanted if outcome.changes else None
            if wanted is not None and (wanted.file is not None or wanted.flags & VM_HUGETLB):
                _identify(space, outcome, wanted, args, up)
        elif name == "shmdt" and outcome.changes:
            # Which pieces are the attachment's own depends on the segment's size (ksys_shmdt).
            space.settle(outcome.start, outcome.end, up.maps())
        elif name in _ADOPTED:
            _adopt(space, name, args, value, up)


def chooses(name: str, args: tuple[int, ...]) -> bool:
    """True for a call that leaves the address to the host."""
    fixed = MAP_FIXED | MAP_FIXED_NOREPLACE if name == "mmap" else MREMAP_FIXED
    return name in ("mmap", "mremap") and not args[3] & fixed


def _look_below(space: AddressSpace, name: str, args: tuple[int, ...], up: Upcalls) -> None:
    # A stack may have grown into what bookkeeping takes for a hole: look before the call counts on it.
    at = RANGED.get(name, 0)
    if name == "mmap" and not args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE) and not args[0]:
        return
    start = args[at] & -PAGE_SIZE
    end = start + page_align(args[at + 1])
    if name == "mremap" and args[3] & MREMAP_FIXED:
        start, end = min(start, args[4]), max(end, args[4] + page_align(args[2]))
    if start < end <= ADDRESS_MASK and space.must_look_below(start, end):
        space.grow(up.maps())


def _identify(space: AddressSpace, outcome: Outcome, wanted: Vma, args: tuple[int, ...], up: Upcalls) -> None:
    # Gives `wanted`, which an mmap has just made, the file identity, and a device's the flags, that the host shows.
    start, end = outcome.changes[0].start, outcome.changes[-1].end
    if wanted.flags & VM_HUGETLB:
        # Huge pages are a file of the kernel's own hugetlbfs, with flags of its own (hugetlbfs_file_mmap).
        space.settle(start, end, up.maps())
        return
    if wanted.file is None:
        return
    fd = -1 if wanted.file.inode < 0 else args[4] & 0xFFFFFFFF
    file = up.shown_file(fd, start, wanted.file)
    if file is not wanted.file and file != wanted.file:
        space.rebind(start, end, file)
    open_file = up.open_file(fd) if fd >= 0 else None
    if open_file is not None and not open_file.plain:
        # A device decides its mapping's flags itself (vm_flags_set in the driver's mmap).
        space.settle(start, end, up.maps())


def _adopt(space: AddressSpace, name: str, args: tuple[int, ...], value: int, up: Upcalls) -> None:
    # Takes over what one of the `_ADOPTED` calls has made or removed; `value` is its result.
    if name == "io_destroy":
        start, end, vma = space.vmas.find(args[0])
        if vma is not None:
            space.settle(start, end, up.maps())
        return
    if name == "io_setup":
        value = int.from_bytes(up.read(args[1], 8), "little")
    host = up.maps()
    start, end, vma = host.find(value)
    if vma is not None:
        space.settle(start, end, host)
