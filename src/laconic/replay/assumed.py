"""An address space whose initial maps a log does not show.

A log contains the calls and their results, but not what the kernel mapped by itself: the program,
ld.so, the stack. Therefore, the recorded results take precedence: a mapping is where the log shows
that the host put it, and everything that a successful call presupposes is assumed. Such assumptions
are reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EACCES, EAGAIN, EBADF, EINVAL, ENODEV, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM

from laconic.memory.bookkeeper import Bookkeeper, at_address, chooses
from laconic.memory.calls import RANGED
from laconic.memory.change import EXTEND, FILE, RESTRICT, UNMAP, ZERO, Change, Outcome
from laconic.memory.flags import (
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_MASK,
    PAGE_SIZE,
    TASK_SIZE,
    VM_MAY_RWX,
)
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import Upcalls
from laconic.memory.vma import File, Vma
from laconic.replay.check import LOST_DATA, MODEL_ERROR, UNKNOWN_START, shown

#: The VMA of memory that must be mapped, because a call on it succeeded, and of which nothing else
#: is known.
UNKNOWN = Vma(VM_MAY_RWX, File(0, 3, -1, "?"))
#: The file of a descriptor that the log does not show.
UNKNOWN_FILE = OpenFile(File(0, 3, -2, "?"), readable=True, writable=True, places=True)
#: Errors caused by limits, mounts, privileges or the kernel's configuration, which no log shows.
_HOSTS_OWN = {EPERM, EACCES, EAGAIN, ENODEV, ENOSYS, EOPNOTSUPP, EBADF}
_BY_LIMIT = {(ENOMEM, name) for name in ("mmap", "mremap", "mlock", "mlock2", "mlockall")} | {
    (EINVAL, "madvise")
}
#: Calls whose effect only the host can describe.
_HOSTS_CALLS = {
    "shmat",
    "shmdt",
    "io_setup",
    "io_destroy",
    "map_shadow_stack",
    "other",
    "i386_brk",
    "prctl",
}


def assumed_space() -> AddressSpace:
    """Return an empty address space in which no stack grows, with the default layout. O(1)."""
    return AddressSpace(Layout(quiet_below=TASK_SIZE << 1))


class AssumedStart:
    """Known and assumed facts about one address space.

    `known`: ranges whose contents are known from calls in the log. `brk`: whether a call has
    returned the break. The following concern the last call. `cause` and `why` describe the
    contradiction, if there is one, and `answer` is the bookkeeping's result. `refused`: the host
    refused a call that the bookkeeping would have allowed. `removed`: mappings that had to be
    unmapped for it. `awaits_maps`: the log shows the maps at the program's start, and their row is
    still to come.
    """

    __slots__ = ("answer", "awaits_maps", "brk", "cause", "known", "refused", "removed", "why")

    def __init__(self, awaits_maps: bool = False) -> None:
        self.awaits_maps = awaits_maps
        self.known: RangeMap[bool] = RangeMap()
        self.brk = False
        self.refused = False
        self.removed: tuple[Change, ...] = ()
        self.answer = self.cause = self.why = ""

    def copy(self) -> AssumedStart:
        """Return the facts that a forked process inherits. O(n)."""
        twin = AssumedStart()
        twin.known, twin.brk = self.known.copy(), self.brk
        return twin

    def shows(self, host: RangeMap[Vma]) -> None:
        """Take over maps that the log shows. O(n)."""
        self.awaits_maps = False
        for start, end, _ in host:
            self.known.set(start, end, True)

    def begin(
        self,
        manager: Bookkeeper,
        space: AddressSpace,
        name: str,
        args: tuple[int, ...],
        result: int,
        up: Upcalls,
        lossy: bool,
    ) -> Outcome:
        """Return the outcome of a call, given the recorded `result`; edits the wanted state.

        Sets `cause` if the result requires more than the unknown parts allow.
        """
        self.answer = self.cause = ""
        self.refused = False
        self.removed = ()
        if name == "brk":
            return self._brk(manager, space, args, result, up, lossy)
        ok = result >= 0
        if ok and chooses(name, args):
            args = self._placed(space, name, args, result, lossy)
        start, end = affected(name, args)
        if ok and name == "munmap" and end <= TASK_SIZE:
            self._suppose(space, start, end)
        outcome = manager.begin(space, name, args, up)
        if ok and (outcome.result < 0 or outcome.resync) and start < end <= TASK_SIZE:
            outcome = self._presupposed(manager, space, name, args, up, start, end, lossy)
        if outcome.result != result and not (outcome.ask and ok):
            if outcome.end:
                space.rollback(outcome.start, outcome.end)
            if name not in _HOSTS_CALLS:
                self._differs(name, result, start, end, lossy)
            self.answer = (
                "an address that the host chooses" if outcome.place else shown(outcome.result)
            )
            self.refused = not ok
            outcome = Outcome(result, ask=True)
        if ok and start < end <= TASK_SIZE:
            self.known.set(start, end, True)
            if name == "mremap":
                self.known.set(result, result + max(page_align(args[2]), PAGE_SIZE), True)
        return outcome

    def _suppose(self, space: AddressSpace, start: int, end: int) -> None:
        # Memory that is unmapped and was never seen mapped may have been mapped: assume an unknown
        # mapping there first.
        for run_start, run_end, known in self.known.runs(start, end):
            if not known:
                for hole_start, hole_end, vma in space.vmas.runs(run_start, run_end):
                    if vma is None:
                        space.vmas.set(hole_start, hole_end, UNKNOWN)
                        space.held.set(hole_start, hole_end, UNKNOWN)

    def _brk(
        self,
        manager: Bookkeeper,
        space: AddressSpace,
        args: tuple[int, ...],
        result: int,
        up: Upcalls,
        lossy: bool,
    ) -> Outcome:
        if not self.brk:
            # The first break that the log shows. If it answers a query, no memory below it has been
            # seen in use yet.
            self.brk = True
            space.brk = result
            space.start_brk = result if args[0] != result else 0
            return Outcome(result)
        old = page_align(space.brk)
        outcome = manager.begin(space, "brk", args, up)
        if outcome.result != result:
            if outcome.end:
                space.rollback(outcome.start, outcome.end)
            new = page_align(result)
            if result != space.brk:
                self._differs("brk", result, min(old, new), max(old, new), lossy)
                self.answer = shown(outcome.result)
            space.brk = result
            return Outcome(result, ask=True)
        if outcome.end:
            self.known.set(outcome.start, outcome.end, True)
        return outcome

    def _placed(
        self, space: AddressSpace, name: str, args: tuple[int, ...], result: int, lossy: bool
    ) -> tuple[int, ...]:
        # Return the call's arguments with the address that the host chose. That range was free; if
        # the log contradicts this, MAP_FIXED and MREMAP_FIXED replace the mappings there.
        in_place = False
        if name == "mmap":
            start, end = result, result + page_align(args[1])
            args = at_address(name, args, result)
        elif result != args[0] & PAGE_MASK:
            start, end = result, result + page_align(args[2])
            flags = args[3] & MREMAP_DONTUNMAP | MREMAP_MAYMOVE | MREMAP_FIXED
            args = (args[0], args[1], args[2], flags, result, args[5])
        else:
            start, end = args[0] + page_align(args[1]), args[0] + page_align(args[2])
            in_place = True
        if start < end <= TASK_SIZE:
            taken = [run for run in space.vmas.runs(start, end) if run[2] is not None]
            if taken:
                self.cause = LOST_DATA if lossy else MODEL_ERROR
                self.why = (
                    f"the host put it on {taken[0][0]:#x}, where bookkeeping still has a mapping"
                )
                if in_place:
                    self._remove(space, taken)
        return args

    def _remove(self, space: AddressSpace, runs: Iterable[tuple[int, int, Vma | None]]) -> None:
        # Remove mappings that another mapping grew over.
        for start, end, vma in runs:
            space.vmas.clear(start, end)
            space.held.clear(start, end)
            self.removed += (Change(UNMAP, start, end, None, vma),)

    def _presupposed(
        self,
        manager: Bookkeeper,
        space: AddressSpace,
        name: str,
        args: tuple[int, ...],
        up: Upcalls,
        start: int,
        end: int,
        lossy: bool,
    ) -> Outcome:
        # The call succeeded, so its whole range was mapped: assume an unknown mapping in each hole
        # of the bookkeeping.
        holes = [
            (hole_start, hole_end)
            for hole_start, hole_end, vma in space.vmas.runs(start, end)
            if vma is None
        ]
        if holes:
            unseen = any(not known for _, _, known in self.known.runs(start, end))
            if not unseen:
                self.cause = LOST_DATA if lossy else MODEL_ERROR
                self.why = f"it succeeded, and bookkeeping has nothing at {holes[0][0]:#x}"
            for hole_start, hole_end in holes:
                space.vmas.set(hole_start, hole_end, UNKNOWN)
                space.held.set(hole_start, hole_end, UNKNOWN)
        if name != "mremap":
            return manager.begin(space, name, args, up)
        return self._moved_in_pieces(manager, space, args, up)

    def _moved_in_pieces(
        self, manager: Bookkeeper, space: AddressSpace, args: tuple[int, ...], up: Upcalls
    ) -> Outcome:
        # The kernel moves several VMAs one after the other (remap_move in mm/mremap.c), and so does
        # this.
        address, length = args[0], page_align(args[1])
        outcome = manager.begin(space, "mremap", args, up)
        if not outcome.resync or not args[3] & MREMAP_FIXED:
            return outcome
        for start, end, _ in list(space.vmas.runs(address, address + length)):
            size = end - start
            target = args[4] + start - address
            piece = manager.begin(space, "mremap", (start, size, size, args[3], target, 0), up)
            if piece.result < 0 or piece.resync:
                return piece
            space.commit(piece)
        return Outcome(args[4], ask=True)

    def _differs(self, name: str, result: int, start: int, end: int, lossy: bool) -> None:
        if self.cause:
            return
        unseen = start < end <= TASK_SIZE and any(
            not known for _, _, known in self.known.runs(start, end)
        )
        if lossy:
            self.cause, self.why = (
                LOST_DATA,
                "the log says that lines or calls are missing before this",
            )
        elif -result in _HOSTS_OWN or (-result, name) in _BY_LIMIT:
            self.cause = UNKNOWN_START
            self.why = (
                "the log shows no limits, mounts, privileges or kernel configuration, which can "
                "refuse it"
            )
        elif unseen:
            self.cause, self.why = UNKNOWN_START, "the log does not show what was there before"
        else:
            self.cause, self.why = MODEL_ERROR, "all of its range is known from earlier calls"


def affected(name: str, args: tuple[int, ...]) -> tuple[int, int]:
    """Return the range `[start, end)` that a call concerns, in bytes; empty if there is none.
    O(1)."""
    if name in RANGED or name in ("mmap", "mremap", "pkey_mprotect", "mbind", "remap_file_pages"):
        at = RANGED.get(name, 0)
        start = args[at] & PAGE_MASK
        return start, start + page_align(args[at + 1] + (args[at] - start))
    return 0, 0


def may_be_nothing(outcome: Outcome, guessed: bool) -> bool:
    """Return whether no host call would have been made under another assumption. O(changes).

    That is the case if the pages were untouched (`guessed`: the bookkeeping queried that, and the
    log does not show it), or already as requested, if the log shows neither the file nor the
    permissions.
    """
    return bool(outcome.changes) and all(
        held == UNKNOWN
        or (kind == ZERO and guessed)
        or (kind & FILE and not kind & (EXTEND | RESTRICT) and _unknown(wanted, held))
        for kind, _, _, wanted, held, _ in outcome.changes
    )


def _unknown(wanted: Vma | None, held: Vma | None) -> bool:
    # Return whether the two may be the same file, as far as the log shows.
    files = [vma and vma.file for vma in (wanted, held)]
    return all(files) and any(file is not None and file.path.startswith("?") for file in files)
