"""The bookkeeper: a memory call from its arguments to the program's result, with nothing done to a
host.

A call has two phases. `begin` edits the wanted state and returns the outcome; `host_arguments` then
decides what reaches the host. `finish` takes the host's answer; `finish_elided` ends a call that
needed no host call. A running program and a replay share the manager; whatever only the host knows
arrives through the upcalls.
"""

from __future__ import annotations

from typing import NamedTuple

from laconic.memory.calls import OPERATIONS, RANGED, Arguments, Call, HostRule, Upcalls, is_error
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
from laconic.memory.ledger import Ledger
from laconic.memory.mmap import page_align, placed
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

#: Results that mean "interrupted, to be restarted by the kernel" (include/linux/errno.h): not
#: results yet.
ERESTARTSYS, ERESTART_RESTARTBLOCK = 512, 516
#: Calls on a range that a stack may have grown into: name → index of the address.
PLACED = {**RANGED, "mremap": 0, "mmap": 0}
_UNCOUNTED = {"userfaultfd", "arch_prctl"}
#: Calls that map, or unmap, what is the host's to describe.
_ADOPTED = {"shmat", "map_shadow_stack", "io_setup", "io_destroy"}
_OUT_OF_BOOKKEEPING = Outcome(0, ask=True, resync=True)


class Answered(NamedTuple):
    """The end of a call that reached the host: its result, what changed, and whether the host chose
    the address."""

    result: int
    changes: tuple[Change, ...]
    chosen: bool = False


class Bookkeeper:
    """Answers the memory calls of any number of address spaces, and counts them in the ledger.

    `rule` decides which calls reach the host. With `observe` all of them do, and the host calls
    that the rule would have made are counted.
    """

    def __init__(self, rule: HostRule, ledger: Ledger, observe: bool = False) -> None:
        self.rule = rule
        self.ledger = ledger
        self.observe = observe
        self.host_arguments: HostRule = as_made if observe else rule

    def begin(
        self, space: AddressSpace, name: str, args: Arguments, up: Upcalls, followed: bool = True
    ) -> Outcome:
        """Edit the wanted state; return the outcome. If not `followed`, the host executes the call
        unseen."""
        if name in PLACED:
            at = PLACED[name]
            if args[at] + args[at + 1] + PAGE_SIZE > space.layout.quiet_below:
                _look_below(space, name, args, up)
        if followed and name in OPERATIONS:
            return OPERATIONS[name](space, args, up)
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
        """Take over the host's answer `value` to the call with `host_args`. It is the program's
        result, but for brk."""
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
                # A break that moved within its last page is elided: the host's own is another one.
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
        """As `finish`, for a host that did just what the outcome predicts, as it nearly always
        does."""
        self._hold(space, name, args, outcome, outcome.result, up)
        self._count(name, args, outcome, host_args, outcome.result, outcome.changes)

    def host_calls(self, name: str, args: Arguments, outcome: Outcome) -> int:
        """Return how many host calls are counted for a call that reached the host, 0 or 1 with
        `observe`."""
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
        narrowed = counted is not None and counted is not args
        self.ledger.count(name, counted is not None, result, narrowed, changes)

    def _refused(self, space: AddressSpace, call: Call, outcome: Outcome, up: Upcalls) -> None:
        # The host may have done part of a call that it refused: what it then has is taken over.
        if outcome.resync:
            space.adopt(up.maps())
        elif edits(outcome):
            if call.name == "mmap" and chooses(*call):
                space.rollback(
                    outcome.start, outcome.end
                )  # __mmap_region maps all of it or nothing
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
            # Which pieces are the attachment's own depends on the segment's size (ksys_shmdt).
            space.settle(outcome.start, outcome.end, up.maps())
        elif name in _ADOPTED:
            _adopt(space, name, args, value, up)


def as_made(name: str, args: Arguments, outcome: Outcome) -> Arguments:
    """Pass a call on as the program made it."""
    return args


def edits(outcome: Outcome) -> bool:
    """Return whether the wanted state was edited, and not only contents requested. O(changes)."""
    if outcome.end == outcome.start:
        return False
    for change in outcome.changes:  # noqa: SIM110 (any() costs three times as much, and every call comes here)
        if change.wanted is not change.held:
            return True
    return False


def refused(name: str, outcome: Outcome, value: int) -> bool:
    """Return whether the host refused a call with `value`. brk has no errno: it returns the old
    break."""
    return is_error(value) or (name == "brk" and value != outcome.result)


def chooses(name: str, args: Arguments) -> bool:
    """Return whether a call leaves the address to the host."""
    fixed = MAP_FIXED | MAP_FIXED_NOREPLACE if name == "mmap" else MREMAP_FIXED
    return name in ("mmap", "mremap") and not args[3] & fixed


def at_address(name: str, args: Arguments, address: int) -> Arguments:
    """Return the arguments of the mmap or mremap that asks for `address`, which was chosen for
    it."""
    if name == "mmap":
        return (address, args[1], args[2], args[3] | MAP_FIXED, args[4], args[5])
    return (args[0], args[1], args[2], args[3] | MREMAP_FIXED | MREMAP_MAYMOVE, address, args[5])


def _look_below(space: AddressSpace, name: str, args: Arguments, up: Upcalls) -> None:
    # Stacks may have grown into or from the range of a call: look before the call depends on it.
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
    # Gives `wanted`, which an mmap has just made, the file identity, and a device's the flags, that
    # the host shows.
    start, end = outcome.changes[0].start, outcome.changes[-1].end
    if wanted.flags & VM_HUGETLB:
        # Huge pages are a file of the kernel's own hugetlbfs, with flags of its own
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
