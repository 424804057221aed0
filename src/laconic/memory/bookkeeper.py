"""The bookkeeper carries a memory call from its arguments to the program's result. It has no host.

A call has two phases. `begin` edits the wanted state and returns the outcome. `host_arguments` then
decides what reaches the host. `finish` takes over the host's answer; `finish_elided` ends a call
that needed no host call. The tracer and the replay use the same class. Information that only the
host has arrives through the upcalls.
"""

from __future__ import annotations

from typing import NamedTuple

from laconic.memory.calls import OPERATIONS, RANGED, Arguments, Call, is_error
from laconic.memory.change import Change, Outcome
from laconic.memory.flags import (
    ADDRESS_MASK,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SIZE,
    SHM_REMAP,
    VM_HUGETLB,
)
from laconic.memory.hostrule import HostRule
from laconic.memory.ledger import Ledger
from laconic.memory.mmap import page_align, placed
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import Upcalls
from laconic.memory.vma import Vma

#: Values that mean "interrupted; the kernel restarts the call" (include/linux/errno.h). They are
#: not results yet.
ERESTARTSYS, ERESTART_RESTARTBLOCK = 512, 516
#: Calls on a range into which a stack may have grown: name → index of the address.
PLACED = {**RANGED, "mremap": 0, "mmap": 0}
_UNCOUNTED = {"userfaultfd", "arch_prctl"}
#: Calls that map or unmap memory that only the host can describe.
_ADOPTED = {"shmat", "map_shadow_stack", "io_setup", "io_destroy"}
_OUT_OF_BOOKKEEPING = Outcome(0, ask=True, resync=True)


class Answered(NamedTuple):
    """The end of a call that reached the host.

    `result` is the program's result. `changes` are the confirmed changes. `chosen`: the host chose
    the address.
    """

    result: int
    changes: tuple[Change, ...]
    chosen: bool = False


class Bookkeeper:
    """Answers the memory calls of any number of address spaces, and counts them in the ledger.

    `rule` decides which calls reach the host. With `observe`, every call reaches the host, and the
    ledger counts the host calls that the rule would have made.
    """

    def __init__(self, rule: HostRule, ledger: Ledger, observe: bool = False) -> None:
        self.rule = rule
        self.ledger = ledger
        self.observe = observe
        self.host_arguments: HostRule = as_made if observe else rule

    def begin(
        self, space: AddressSpace, name: str, args: Arguments, up: Upcalls, followed: bool = True
    ) -> Outcome:
        """Edit the wanted state; return the outcome.

        If `followed` is False, the host executes the call unobserved, and the bookkeeping is
        re-read afterwards.
        """
        at = PLACED.get(name)
        if at is not None:
            if args[at] + args[at + 1] + PAGE_SIZE > space.layout.quiet_below:
                _look_below(space, name, args, up)
        elif name == "shmat" and args[2] & SHM_REMAP:
            # The segment replaces existing mappings, and only the host knows its size.
            space.grow(up.maps())
        operation = OPERATIONS.get(name) if followed else None
        if operation is not None:
            return operation(space, args, up)
        return _OUT_OF_BOOKKEEPING

    def finish_elided(self, name: str, outcome: Outcome) -> int:
        """End a call that needed no host call; return the program's result."""
        if outcome.then is not None:
            outcome.then()
        self.ledger.count(name, 0, outcome.result)
        return outcome.result

    def finish(
        self,
        space: AddressSpace,
        call: Call,
        outcome: Outcome,
        host_args: Arguments,
        value: int,
        up: Upcalls,
    ) -> Answered:
        """Take over `value`, the host's answer to the call with `host_args`.

        `value` is the program's result, except for brk.
        """
        if value == outcome.result and (value >= 0 or not outcome.changes) and not outcome.ask:
            self.finish_as_predicted(space, call.name, call.args, outcome, host_args, up)
            return Answered(value, outcome.changes)
        if -ERESTART_RESTARTBLOCK <= value <= -ERESTARTSYS:
            # The kernel restarts the call; a signal may have stopped it halfway (mremap has
            # unmapped its target).
            self._refused(space, call, outcome, up)
            return Answered(value, ())
        if refused(call.name, outcome, value):
            self._refused(space, call, outcome, up)
            answered = Answered(value, outcome.changes if value == outcome.result else ())
            if call.name == "brk":
                # Moves of the break within its last page are elided, so the host's break differs.
                answered = Answered(space.brk, ())
        else:
            answered = self._accepted(space, call, outcome, value, up)
        self._count(call.name, call.args, outcome, host_args, answered.result, answered.changes)
        return answered

    def finish_as_predicted(
        self,
        space: AddressSpace,
        name: str,
        args: Arguments,
        outcome: Outcome,
        host_args: Arguments,
        up: Upcalls,
    ) -> None:
        """Finish a call whose result is the one that the outcome predicts, as almost all are."""
        self._hold(space, name, args, outcome, outcome.result, up)
        self._count(name, args, outcome, host_args, outcome.result, outcome.changes)

    def host_calls(self, name: str, args: Arguments, outcome: Outcome) -> int:
        """Return the number of host calls, 0 or 1, that count for a call that reached the host.

        It is 0 only if the bookkeeper observes and the rule would have elided the call.
        """
        return 1 if not self.observe or self.rule(name, args, outcome) is not None else 0

    def _count(
        self,
        name: str,
        args: Arguments,
        outcome: Outcome,
        host_args: Arguments,
        result: int,
        changes: tuple[Change, ...],
    ) -> None:
        if name in _UNCOUNTED:
            return
        if name == "i386_brk":
            name = "other"
        counted = self.rule(name, args, outcome) if self.observe else host_args
        narrowed = counted is not None and counted != args
        self.ledger.count(name, counted is not None, result, narrowed, changes)

    def _refused(self, space: AddressSpace, call: Call, outcome: Outcome, up: Upcalls) -> None:
        # The host may have carried out a part of a call that it refused: take over its state.
        if outcome.resync:
            space.adopt(up.maps())
        elif edits(outcome):
            if call.name == "mmap" and chooses(*call):
                # __mmap_region maps all of the range or nothing.
                space.rollback(outcome.start, outcome.end)
            else:
                space.settle(outcome.start, outcome.end, up.maps_in(outcome.start, outcome.end))

    def _accepted(
        self, space: AddressSpace, call: Call, outcome: Outcome, value: int, up: Upcalls
    ) -> Answered:
        name, args = call
        if outcome.place and name == "mmap":
            outcome = placed(space, outcome, value)
            self._hold(space, name, args, outcome, value, up)
            return Answered(value, outcome.changes, chosen=True)
        moved = value != outcome.result and outcome.result >= 0 and chooses(name, args)
        if outcome.place or moved:
            if edits(outcome):
                space.rollback(outcome.start, outcome.end)
            args = at_address(name, args, value)
            outcome = OPERATIONS[name](space, args, up)
        if outcome.resync or outcome.result < 0:
            self.ledger.count_resynced(name)
            if name == "i386_brk":
                space.brk = value
            space.adopt(up.maps())
            return Answered(value, ())
        self._hold(space, name, args, outcome, value, up)
        return Answered(value, outcome.changes, moved)

    def _hold(
        self,
        space: AddressSpace,
        name: str,
        args: Arguments,
        outcome: Outcome,
        value: int,
        up: Upcalls,
    ) -> None:
        space.commit(outcome)
        if name == "mmap":
            wanted = outcome.changes[0].wanted if outcome.changes else None
            if wanted is not None and (wanted.file is not None or wanted.flags & VM_HUGETLB):
                _identify(space, outcome, wanted, args, up)
        elif name == "shmdt" and outcome.changes:
            # Which pieces belong to the attachment depends on the segment's size (ksys_shmdt).
            space.settle(outcome.start, outcome.end, up.maps())
        elif name in _ADOPTED:
            _adopt(space, name, args, value, up)


def as_made(name: str, args: Arguments, outcome: Outcome) -> Arguments:
    """Pass a call on as the program made it."""
    return args


def edits(outcome: Outcome) -> bool:
    """Return whether a call edited the wanted state, rather than only contents. O(changes).

    A move always edits it, even if the moved pages look like those that they replace, because the
    kernel unmaps those first.
    """
    if outcome.end == outcome.start:
        return False
    # any() would cost three times as much, and this runs for every call.
    for change in outcome.changes:
        if change.wanted is not change.held or change.source is not None:
            return True
    return False


def refused(name: str, outcome: Outcome, value: int) -> bool:
    """Return whether `value` is a refusal. brk returns the old break instead of an errno."""
    return is_error(value) or (name == "brk" and value != outcome.result)


def chooses(name: str, args: Arguments) -> bool:
    """Return whether the host chooses the address that a call returns."""
    fixed = MAP_FIXED | MAP_FIXED_NOREPLACE if name == "mmap" else MREMAP_FIXED
    return name in ("mmap", "mremap") and not args[3] & fixed


def at_address(name: str, args: Arguments, address: int) -> Arguments:
    """Return the arguments of the same mmap or mremap at the fixed address `address`."""
    if name == "mmap":
        return (address, args[1], args[2], args[3] | MAP_FIXED, args[4], args[5])
    return (args[0], args[1], args[2], args[3] | MREMAP_FIXED | MREMAP_MAYMOVE, address, args[5])


def _look_below(space: AddressSpace, name: str, args: Arguments, up: Upcalls) -> None:
    # A stack may have grown into or from the range of a call. Read the host's map before that
    # matters.
    at = PLACED[name]
    if name == "mmap" and chooses(name, args) and not args[0]:
        return
    start = args[at] & -PAGE_SIZE
    end = start + page_align(args[at + 1])
    if name == "mremap":
        end = max(end, start + page_align(args[2]))
        if args[3] & MREMAP_FIXED:
            start, end = min(start, args[4]), max(end, args[4] + page_align(args[2]))
    if start < end <= ADDRESS_MASK and space.must_look_below(start, end):
        space.grow(up.maps())


def _identify(
    space: AddressSpace, outcome: Outcome, wanted: Vma, args: tuple[int, ...], up: Upcalls
) -> None:
    # Give a new mapping the file identity that the host shows, and a device's mapping its flags.
    start, end = outcome.changes[0].start, outcome.changes[-1].end
    if wanted.flags & VM_HUGETLB:
        # Huge pages belong to a file of the kernel's hugetlbfs, which sets flags
        # (hugetlbfs_file_mmap).
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
        # The driver decides the flags of a device's mapping (vm_flags_set in its mmap).
        space.settle(start, end, up.maps())


def _adopt(space: AddressSpace, name: str, args: tuple[int, ...], value: int, up: Upcalls) -> None:
    # Take over the VMA that one of the `_ADOPTED` calls mapped or unmapped; `value` is its result.
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
