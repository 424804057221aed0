"""Law Exact, checked against the host: the bookkeeping's VMAs and `/proc/PID/smaps`, after equal
neighbors are merged on both sides.

A complete check reads smaps, which costs some microseconds per VMA. `--verify call` therefore
compares, after each call, the range that the call affected and its neighbors with PROCMAP_QUERY. A
complete check follows only when the calls since the last one have paid for it (`_VMAS_PER_CALL`).

Only these differences are tolerated, each because of the named kernel function:

- growth of a VM_GROWSDOWN VMA since the last scan (expand_stack, mm/memory.c): adopted first;
- paths (d_path shows renames and unlinks) and the labels `[heap]` and `[stack]` (show_map_vma):
  files are compared by device and inode;
- neighbors that the kernel keeps apart although everything that it shows of them is equal
  (is_mergeable_anon_vma, mm/vma.c);
- the flags that `laconic.memory.flags.VMFLAG_CODES` leaves out, with the reason there;
- protection keys, NUMA policies and VM_LOCKONFAULT if the kernel does not show them;
- the offset of a private mapping of /dev/zero: mremap replaces it by the address if no page was
  touched (copy_vma, mm/vma.c);
- a thread that a signal ends in execve: it may already have the new program's address space
  (begin_new_exec and bprm_execve, fs/exec.c), so nothing is compared at its end; the old program
  was compared before the execve;
- calls that a seccomp supervisor lets through (seccomp_do_user_notification, kernel/seccomp.c) do
  not stop for Laconic: differences in such a process are adopted, and counted as resynced.
"""

from __future__ import annotations

from collections.abc import Sequence

from laconic.linux import proc
from laconic.linux.shown import agrees, is_private_zero
from laconic.memory.bookkeeper import PLACED, Answered
from laconic.memory.calls import Call
from laconic.memory.change import FLAGS, coalesce
from laconic.memory.flags import ADDRESS_MASK, MAP_FIXED, MAP_FIXED_NOREPLACE, VM_SHOWN, flag_names
from laconic.memory.ledger import Ledger
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma, describe
from laconic.trace.schema import ADOPTED, GREW
from laconic.tracer.process import TracedMm, TracedThread, command_name, give_up

#: Entries before and after the first difference that a mismatch shows.
_CONTEXT = 10


def first_difference(space: AddressSpace, host: RangeMap[Vma]) -> str | None:
    """Return the first difference between bookkeeping and host, as text, or None. Adopts stack
    growth. O(n)."""
    # Comparing the values in C is fast; what a host shows of them matters only if they differ.
    ours, theirs = list(space.vmas), list(host)
    if ours == theirs:
        return None
    space.grow(host)
    ours = list(_shown(space.vmas))
    theirs = list(_shown(host))
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return (
                f"{_field(mine, other)}:\n"
                f"  bookkeeping {describe(*mine)}\n"
                f"  host        {describe(*other)}"
            )
    if len(ours) != len(theirs):
        longer = "the host" if len(theirs) > len(ours) else "bookkeeping"
        extra = max(ours, theirs, key=len)[min(len(ours), len(theirs))]
        return f"only {longer} has\n  {describe(*extra)}"
    return None


def _shown(vmas: RangeMap[Vma]) -> RangeMap[Vma]:
    # Convert a VMA to what the host shows of it: no policy, no key, and not every flag.
    shown: RangeMap[Vma] = RangeMap()
    for start, end, vma in vmas:
        base = 0 if is_private_zero(vma) else vma.base
        shown.set(start, end, Vma(vma.flags & VM_SHOWN, vma.file, base, vma.name))
    return shown


def _field(mine: tuple[int, int, Vma], other: tuple[int, int, Vma]) -> str:
    if mine[0] != other[0]:
        return "the first field that differs is the start"
    a, b = mine[2], other[2]
    if a.prot != b.prot:
        return (
            f"the first field that differs is the protection, {a.permissions()} against "
            f"{b.permissions()}"
        )
    if a.flags != b.flags:
        return f"the first field that differs is VmFlags, by '{flag_names(a.flags ^ b.flags)}'"
    if a.file != b.file:
        return "the first field that differs is the file"
    if a.base != b.base:
        return "the first field that differs is the offset"
    if a.name != b.name:
        return "the first field that differs is the name"
    return "the first field that differs is the end"


def both_maps(space: AddressSpace, host: RangeMap[Vma]) -> str:
    """Return both maps in full, for the report of a mismatch."""
    ours = "\n".join(f"  {describe(*entry)}" for entry in space.vmas)
    theirs = "\n".join(f"  {describe(*entry)}" for entry in host)
    return f"bookkeeping:\n{ours}\nhost:\n{theirs}"


def maps_around_difference(space: AddressSpace, host: RangeMap[Vma]) -> str:
    """Return the entries at which the maps first differ, with up to ten before and after them."""
    ours, theirs = list(_shown(space.vmas)), list(_shown(host))
    index = 0
    while index < min(len(ours), len(theirs)) and ours[index] == theirs[index]:
        index += 1
    return (
        f"bookkeeping:\n{_entries_around(ours, index)}\nhost:\n{_entries_around(theirs, index)}\n"
        "(-v prints the complete maps)"
    )


def _entries_around(entries: Sequence[tuple[int, int, Vma]], index: int) -> str:
    start = max(index - _CONTEXT, 0)
    lines = []
    for place, entry in enumerate(entries[start : index + _CONTEXT + 1], start):
        mark = ">" if place == index else " "
        lines.append(f"{mark} {describe(*entry)}")
    return "\n".join(lines)


#: The number of VMAs of a complete check that each call pays for; a call that changes flags which
#: only smaps shows pays for more. A complete check is due when the calls since the last one have
#: paid for all VMAs.
_VMAS_PER_CALL = 8
_VMAS_PER_HIDDEN_CHANGE = 64
#: The maximum number of `/proc/PID/maps` files that are kept open.
_OPEN_MAPS = 64


class Checker:
    """Checks the law for one run: at each process's end (`exit`), after every call too (`call`), or
    never (`off`).

    `mismatch` is the first mismatch as text; after it, checking continues from the host's state.
    `verbose`: with the complete maps.
    """

    def __init__(self, ledger: Ledger, mode: str, verbose: bool = False) -> None:
        self.ledger = ledger
        self.maps_of = both_maps if verbose else maps_around_difference
        self.each_call = mode == "call"
        self.each_exit = mode != "off"
        self.mismatch: str | None = None
        self._maps: dict[TracedMm, proc.MapsFile] = {}

    def check(self, thread: TracedThread) -> None:
        """Compare the whole address space of a thread, unless a call is in progress in it. O(VMAs +
        resident pages)."""
        space = thread.mm.space
        if space is None or thread.mm.busy is not None:
            return
        try:
            host = proc.read_smaps(thread.tid)
        except PermissionError:
            give_up(thread, self.ledger)
            return
        except OSError:
            return
        if not len(host):
            return  # the process is being killed, and its memory is gone already
        thread.mm.unchecked = 0
        self.ledger.checks += 1
        notes = thread.notes
        if notes is not None and list(space.vmas) != list(host):
            notes.recorder.looked(thread, space.held, host, GREW)
        difference = first_difference(space, host)
        if difference is not None and thread.supervised:
            self.ledger.count_resynced("other")
            self.ledger.note(
                f"{command_name(thread.tid)} has a seccomp supervisor, which let memory calls "
                "through: they are not counted, and the map was read from the host after them"
            )
        else:
            difference = difference or _broken_invariant(space)
            if difference is None:
                return
            self.ledger.mismatches += 1
            if self.mismatch is None:
                self.mismatch = f"process {thread.tgid}: {difference}\n{self.maps_of(space, host)}"
        if notes is not None:
            notes.recorder.looked(thread, space.held, host, ADOPTED)
        space.adopt(host)

    def after_call(
        self, thread: TracedThread, call: Call, answered: Answered, elided: bool = False
    ) -> None:
        """Compare what a call affected, and its neighbors; compare everything if that is due.

        A difference triggers a complete comparison, which alone decides. Complexity: amortized O(k
        log n) for k VMAs affected.
        """
        mm = thread.mm
        if mm.space is None or mm.busy is not None:
            return
        hidden = any(change.kind & FLAGS for change in answered.changes)
        mm.unchecked += _VMAS_PER_HIDDEN_CHANGE if hidden else _VMAS_PER_CALL
        if mm.unchecked >= mm.space.map_count:
            self.check(thread)
            return
        ranges = [] if elided and answered.result < 0 else _affected(call, answered)
        if not ranges:
            return
        if self._agrees(thread, ranges):
            self.ledger.checks += 1
        else:
            self.check(thread)

    def forget(self, mm: TracedMm) -> None:
        """Close the files that are open for an address space that has ended."""
        maps = self._maps.pop(mm, None)
        if maps is not None:
            maps.close()

    def _agrees(self, thread: TracedThread, ranges: list[tuple[int, int]]) -> bool:
        mm = thread.mm
        assert mm.space is not None
        try:
            maps = self._maps.get(mm)
            if maps is None:
                if len(self._maps) >= _OPEN_MAPS:
                    for other in list(self._maps):
                        self.forget(other)
                maps = self._maps[mm] = proc.MapsFile(thread.tid)
            return all(agrees(maps, mm.space.vmas, start, end) for start, end in ranges)
        except OSError:
            self.forget(mm)
            return False


def _affected(call: Call, answered: Answered) -> list[tuple[int, int]]:
    # Return the ranges that a call may have changed, or that it left alone because they were as
    # requested.
    if answered.changes:
        return coalesce(answered.changes)
    name, args = call
    if name == "mmap" and not args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        return []
    at = PLACED.get(name)
    if at is None:
        return []
    start = args[at]
    end = min(start + args[at + 1], ADDRESS_MASK)
    return [(start, end)] if start < end else []


def _broken_invariant(space: AddressSpace) -> str | None:
    try:
        space.check()
    except AssertionError as broken:
        return f"bookkeeping breaks its own rule, {broken}"
    return None
