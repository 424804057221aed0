"""Law Exact, checked against the host: bookkeeping's VMAs and `/proc/PID/smaps`, neighbours merged on both sides.

Tolerated, each for the kernel function named, and nothing else:

- growth of a VM_GROWSDOWN VMA since it was last looked at (expand_stack, mm/memory.c): taken in first;
- paths (d_path shows renames and unlinks) and the labels `[heap]` and `[stack]` (show_map_vma): files are compared by
  device and inode;
- neighbours that the kernel keeps apart though all that it shows of them is equal (is_mergeable_anon_vma, mm/vma.c);
- the flags that `laconic.memory.flags.VMFLAG_CODES` leaves out, with the reason there;
- protection keys, NUMA policies and VM_LOCKONFAULT where the kernel does not show them.
"""

from __future__ import annotations

from collections.abc import Sequence

from laconic.ledger import Ledger
from laconic.memory.flags import flag_names
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma, describe
from laconic.pal import proc
from laconic.rangemap import RangeMap
from laconic.trace.schema import ADOPTED, GREW
from laconic.tracer.process import Thread, give_up

#: Entries before and after the first difference that a mismatch shows.
_CONTEXT = 10


def first_difference(space: AddressSpace, host: RangeMap[Vma]) -> str | None:
    """What differs first between bookkeeping and host, in words, or None. Takes growth in. O(n)."""
    # Comparing the values in C is quick; only where they differ is it worth asking what a host shows of them.
    ours, theirs = list(space.vmas), list(host)
    if ours == theirs:
        return None
    space.grow(host)
    ours = list(_shown(space.vmas))
    theirs = list(_shown(host))
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return f"{_field(mine, other)}:\n  bookkeeping {describe(*mine)}\n  host        {describe(*other)}"
    if len(ours) != len(theirs):
        longer = "the host" if len(theirs) > len(ours) else "bookkeeping"
        extra = max(ours, theirs, key=len)[min(len(ours), len(theirs))]
        return f"only {longer} has\n  {describe(*extra)}"
    return None


def _shown(vmas: RangeMap[Vma]) -> RangeMap[Vma]:
    # What the host shows of a VMA: no policy and no key.
    shown: RangeMap[Vma] = RangeMap()
    for start, end, vma in vmas:
        shown.set(start, end, Vma(vma.flags, vma.file, vma.base, vma.name))
    return shown


def _field(mine: tuple[int, int, Vma], other: tuple[int, int, Vma]) -> str:
    if mine[0] != other[0]:
        return "the first field that differs is the start"
    a, b = mine[2], other[2]
    if a.prot != b.prot:
        return f"the first field that differs is the protection, {a.permissions()} against {b.permissions()}"
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
    """Both maps in full, for the report of a mismatch."""
    ours = "\n".join(f"  {describe(*entry)}" for entry in space.vmas)
    theirs = "\n".join(f"  {describe(*entry)}" for entry in host)
    return f"bookkeeping:\n{ours}\nhost:\n{theirs}"


def maps_around_difference(space: AddressSpace, host: RangeMap[Vma]) -> str:
    """Where the maps differ first: that entry of both, and up to ten before and after it."""
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


class Checker:
    """Holds the law for one run: at each process's end (`exit`), after every call too (`call`), or never (`off`).

    `mismatch` is the first one in words; after it the check goes on from what the host has. `verbose`: with the
    complete maps.
    """

    def __init__(self, ledger: Ledger, mode: str, verbose: bool = False) -> None:
        self.ledger = ledger
        self.maps_of = both_maps if verbose else maps_around_difference
        self.each_call = mode == "call"
        self.each_exit = mode != "off"
        self.mismatch: str | None = None

    def check(self, thread: Thread) -> None:
        """Compares all of a thread's address space, unless a call is under way in it. O(VMAs + resident pages)."""
        space = thread.mm.space
        if space is None or thread.mm.busy is not None:
            return
        try:
            host = proc.read_smaps(thread.tid)
            text = proc.read_maps_text(thread.tid) if self.each_call else b""
        except PermissionError:
            give_up(thread, self.ledger)
            return
        except OSError:
            return
        if not len(host):
            return  # the process is being killed, and its memory is gone already
        self.ledger.checks += 1
        thread.mm.verified = text
        notes = thread.notes
        if notes is not None and list(space.vmas) != list(host):
            notes.recorder.looked(thread, space.held, host, GREW)
        difference = first_difference(space, host) or _broken_invariant(space)
        if difference is not None:
            self.ledger.mismatches += 1
            if self.mismatch is None:
                self.mismatch = f"process {thread.tgid}: {difference}\n{self.maps_of(space, host)}"
            if notes is not None:
                notes.recorder.looked(thread, space.held, host, ADOPTED)
            space.adopt(host)

    def check_unsaid(self, thread: Thread) -> None:
        """The check after a call of which the host heard nothing. O(VMAs), and cheap.

        Wanted is held as before: where the host's map is, to the letter, the one that the last check compared in full,
        there is nothing more to compare. Anything else (a stack grew) is compared in full again.
        """
        try:
            text = proc.read_maps_text(thread.tid)
        except OSError:
            return
        if text and text == thread.mm.verified:
            self.ledger.checks += 1
        else:
            self.check(thread)


def _broken_invariant(space: AddressSpace) -> str | None:
    try:
        space.check()
    except AssertionError as broken:
        return f"bookkeeping breaks its own rule, {broken}"
    return None
