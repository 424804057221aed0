"""The bookkeeping of one `mm`: what the program requested, and what its host holds.

Every memory call edits `vmas` (what is *wanted*); the difference to `held` over the range it
touched is the work for the host; what the host confirms becomes held. Between two calls both
maps are equal, so undoing a call is copying held back over wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter

from laconic.memory.change import Change, Outcome, classify, new
from laconic.memory.flags import (
    PAGE_SIZE,
    VM_DONTCOPY,
    VM_GROWSDOWN,
    VM_LOCKED_MASK,
    VM_MERGEABLE,
    flag_names,
)
from laconic.memory.html import html_table
from laconic.memory.layout import Layout
from laconic.memory.names import maps_text, shown_name, stack_start
from laconic.memory.rangemap import RangeMap
from laconic.memory.vma import File, Vma

Entry = tuple[int, int, Vma]
Run = tuple[int, int, Vma | None]
_flags = attrgetter("flags")


class AddressSpace:
    """All VMAs of one `mm`, the host's held state of the same pages, the break, and the layout.

    `start_brk` and `brk` are addresses in bytes. `def_flags` are the VM_LOCKED bits that new
    mappings inherit (mlockall). `merge_any`: they are MADV_MERGEABLE (prctl(PR_SET_MEMORY_MERGE)).
    `mdwe` is set by prctl(PR_SET_MDWE); `mdwe_inherited` is False after PR_MDWE_NO_INHERIT.
    `opaque` is set where something that bookkeeping does not see may decide the contents of pages
    (userfaultfd): equal attributes then never mean that nothing changes.
    """

    __slots__ = (
        "_confirmed",
        "_held",
        "brk",
        "data_size",
        "def_flags",
        "layout",
        "mdwe",
        "mdwe_inherited",
        "merge_any",
        "opaque",
        "start_brk",
        "vmas",
    )

    def __init__(self, layout: Layout, entries: Iterable[Entry] = (), start_brk: int = 0) -> None:
        self.layout = layout
        self.start_brk = self.brk = start_brk
        self.data_size = 0
        self.def_flags = 0
        self.mdwe = False
        self.mdwe_inherited = True
        self.opaque = False
        self.vmas: RangeMap[Vma] = RangeMap()
        self.adopt(entries)
        # A program inherits PR_SET_MEMORY_MERGE, and shows it by its first VMAs (ksm_execve in
        # mm/ksm.c).
        self.merge_any = any(vma.flags & VM_MERGEABLE for _, _, vma in self.vmas)

    def __str__(self) -> str:
        """All VMAs in the format of `/proc/PID/maps`."""
        return maps_text(self).removesuffix("\n")

    def __repr__(self) -> str:
        vmas = "1 VMA" if self.map_count == 1 else f"{self.map_count:,} VMAs"
        return f"<AddressSpace of {vmas}, break at {self.brk:x}>"

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        columns = ("start", "end", "permissions", "VmFlags", "offset", "backing")
        stack = stack_start(self)
        rows = (
            (
                f"{start:x}",
                f"{end:x}",
                vma.permissions(),
                flag_names(vma.flags),
                f"{start - vma.base:x}" if vma.file else "",
                shown_name(self, start, end, vma, stack),
            )
            for start, end, vma in self.vmas
        )
        return html_table(columns, rows, self.map_count)

    def adopt(self, entries: Iterable[Entry]) -> None:
        """Begins anew from what the host has: `entries` are `(start, end, vma)`, ascending. O(n log
        n)."""
        self.vmas = RangeMap()
        for start, end, vma in entries:
            self.vmas.set(start, end, vma)
        self._hold()

    def _hold(self) -> None:
        # What is wanted is held.
        self._held = self.vmas.copy()
        self._confirmed: list[Change] = []

    # Reading

    @property
    def held(self) -> RangeMap[Vma]:
        """What the host has confirmed. O(1), after O(changes log n) for what was committed since
        the last look."""
        for _, start, end, wanted, _, _ in self._confirmed:
            self._held.set(start, end, wanted)
        self._confirmed.clear()
        return self._held

    @property
    def map_count(self) -> int:
        """How many VMAs there are. The kernel's own count may be higher: it does not merge all
        neighbours that are equal (is_mergeable_anon_vma in mm/vma.c)."""
        return self.vmas.count

    def diff(self, start: int, end: int, held: Iterable[Run] | None = None) -> tuple[Change, ...]:
        """The runs of `[start, end)` on which wanted and held differ, ascending. O(log n + k).

        `held`: what is held there, for a caller that knows it.
        """
        changes = []
        runs = iter(self.held.runs(start, end) if held is None else held)
        stop, value = start, None
        for begin, finish, wanted in self.vmas.runs(start, end):
            position = begin
            while position < finish:
                if stop <= position:
                    _, stop, value = next(runs)
                cut = stop if stop < finish else finish
                if value is not wanted:
                    kind = classify(value, wanted)
                    if kind:
                        changes.append(new(Change, (kind, position, cut, wanted, value, None)))
                position = cut
        return tuple(changes)

    def must_look_below(self, start: int, end: int) -> bool:
        """True if a VM_GROWSDOWN VMA may have grown into, or from, part of `[start, end)` since the
        last look.

        A stack grows on a fault (expand_stack in mm/memory.c), which no call reports. The pages
        that grew must be known before a call edits their range, and before it edits the VMA that
        they grew from: afterwards nothing in the bookkeeping shows whose they are. O(log n + k).
        """
        if end <= self.layout.quiet_below:
            return False
        for begin, _, vma in self.vmas.runs(start, end):
            if vma is None:
                above = self.vmas.get(self.vmas.find(begin)[1])
                if above is not None and above.flags & VM_GROWSDOWN:
                    return True
            elif vma.flags & VM_GROWSDOWN and begin == start and self.vmas.get(start - 1) is None:
                return True
        return False

    # Writing

    def edit(self, start: int, end: int, change: Callable[[Vma], Vma]) -> tuple[Change, ...]:
        """Replace each VMA of `[start, end)` by `change(vma)`; return the changes. O(log n + k).

        No other edit of the range may be waiting for the host.
        """
        changes: list[Change] = []
        keys: list[int] = []
        values: list[Vma | None] = []
        last: Vma | None = None
        for begin, stop, held in self.vmas.runs(start, end):
            wanted = None if held is None else change(held)
            if wanted is not held:
                kind = classify(held, wanted)
                if kind:
                    changes.append(new(Change, (kind, begin, stop, wanted, held, None)))
            if not keys or wanted != last:
                keys.append(begin)
                values.append(wanted)
                last = wanted
        if changes:
            self.vmas.replace(start, end, keys, values)
        return tuple(changes)

    def commit(self, outcome: Outcome) -> None:
        """Takes the host's word that all of `outcome` is done. O(changes).

        Most calls have no need to look at what is held, so it is brought up to date when somebody
        looks. Where nobody does for long, a copy of what is wanted costs less: a call that edits is
        the only one under way that does.
        """
        confirmed = self._confirmed
        for change in outcome.changes:
            if change.wanted is not change.held:
                confirmed.append(change)
                if len(confirmed) > 100 and len(confirmed) > self.vmas.count // 16:
                    self._hold()
                    confirmed = self._confirmed
        if outcome.then is not None:
            outcome.then()

    def rollback(self, start: int, end: int) -> None:
        """Makes wanted what is held again over `[start, end)`. O(log n + k)."""
        self.vmas.replace(start, end, *self._steps(self.held, start, end))

    def settle(self, start: int, end: int, host: RangeMap[Vma]) -> None:
        """Takes over `[start, end)` from what the host was seen to hold. O(log n + k)."""
        steps = self._steps(host, start, end)
        self.held.replace(start, end, *steps)
        self.vmas.replace(start, end, *steps)

    def grow(self, host: RangeMap[Vma]) -> int:
        """Take in the growth of stacks that `host` shows; return its size in bytes. O(n)."""
        grown = 0
        for start, end, vma in host:
            if not vma.flags & VM_GROWSDOWN:
                continue
            for begin, stop, ours in self.vmas.runs(start, end):
                above = self.vmas.get(stop) if ours is None else None
                if above is not None and above.flags & VM_GROWSDOWN:
                    pages = vma._replace(
                        pkey=above.pkey, policy=above.policy
                    )  # smaps shows neither
                    self.vmas.set(begin, stop, pages)
                    self.held.set(begin, stop, pages)
                    grown += stop - begin
        return grown

    def rebind(self, start: int, end: int, file: File) -> None:
        """Gives the mappings of `[start, end)` the file identity that the host confirmed. O(log n +
        k)."""

        def identify(vma: Vma) -> Vma:
            return vma._replace(file=file)

        self.vmas.edit(start, end, identify)
        self.held.edit(start, end, identify)

    def fork(self) -> AddressSpace:
        """Return the child's copy after fork: no VM_DONTCOPY VMAs, no locks (dup_mmap in
        mm/mmap.c).

        Complexity: O(n), without work in Python for each VMA unless one of them is locked or is not
        copied.
        """
        child = AddressSpace(self.layout.copy(), (), self.start_brk)
        child.brk, child.data_size, child.opaque = self.brk, self.data_size, self.opaque
        child.mdwe = self.mdwe and self.mdwe_inherited  # mmf_init_flags in include/linux/mm_types.h
        child.merge_any = self.merge_any
        child.vmas = self.vmas.copy()
        if any(flags & (VM_DONTCOPY | VM_LOCKED_MASK) for flags in self.vmas.distinct(_flags)):
            child._drop_what_fork_drops()
        child._hold()
        return child

    def _drop_what_fork_drops(self) -> None:
        for start, end, vma in list(self.vmas):
            if vma.flags & VM_DONTCOPY:
                self.vmas.clear(start, end)
            elif vma.flags & VM_LOCKED_MASK:
                self.vmas.set(start, end, vma.with_flags(vma.flags & ~VM_LOCKED_MASK))

    def check(self) -> None:
        """Asserts every invariant that holds between two calls. O(n)."""
        self.vmas.check()
        self.held.check()
        assert list(self.vmas) == list(self.held), "between two calls wanted and held are equal"
        for start, end, vma in self.vmas:
            assert start % PAGE_SIZE == end % PAGE_SIZE == 0, f"{start:#x}-{end:#x} is page aligned"
            assert vma.file is not None or vma.base == 0, (
                f"anonymous memory at {start:#x} has no file offset"
            )
            assert (start - vma.base) % PAGE_SIZE == 0, (
                f"the file offset at {start:#x} is page aligned"
            )

    @staticmethod
    def _steps(source: RangeMap[Vma], start: int, end: int) -> tuple[list[int], list[Vma | None]]:
        runs = list(source.runs(start, end))
        return [begin for begin, _, _ in runs], [vma for _, _, vma in runs]
