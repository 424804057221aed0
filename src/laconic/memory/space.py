"""The bookkeeping of one `mm`: the state that the program wants, and the state that its host holds.

Every memory call edits `vmas`, the *wanted* map. The difference from the *held* map over the edited
range is the work for the host, and the changes that the host confirms become held. Between two
calls both maps are equal, so a call is undone by copying held over wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter

from laconic.memory.change import Change, Outcome, classify, new
from laconic.memory.flags import (
    PAGE_SIZE,
    TASK_SIZE,
    VM_DONTCOPY,
    VM_GROWSDOWN,
    VM_LOCKED_MASK,
    VM_MERGEABLE,
    flag_names,
)
from laconic.memory.html import html_table
from laconic.memory.layout import Layout
from laconic.memory.names import maps_text, shown_name, stack_start
from laconic.memory.rangemap import Range, RangeMap, range_text
from laconic.memory.vma import File, Vma

Entry = tuple[int, int, Vma]
VmaRun = tuple[int, int, Vma | None]
_flags = attrgetter("flags")


class AddressSpace:
    """All VMAs of one `mm`, the host's held state of the same pages, the break, and the layout.

    `start_brk` and `brk` are addresses in bytes. New mappings inherit `def_flags`, the VM_LOCKED
    bits of mlockall, and are MADV_MERGEABLE with `merge_any` (prctl(PR_SET_MEMORY_MERGE)). `mdwe`
    is set by prctl(PR_SET_MDWE); `mdwe_inherited` is False after PR_MDWE_NO_INHERIT. `opaque`:
    contents may come from a source that the bookkeeping does not see (userfaultfd), so a mapping
    over equal attributes always changes something. `locks_miscounted`: the kernel may count more
    locked pages than the VMAs show, because mremap with MREMAP_DONTUNMAP has unlocked pages without
    subtracting them (dontunmap_complete in mm/mremap.c). `guarded`: after MADV_GUARD_INSTALL, VMAs
    may have VM_MAYBE_GUARD, which the bookkeeping does not record, and which a new mapping lacks.
    """

    __slots__ = (
        "_confirmed",
        "_held",
        "brk",
        "data_size",
        "def_flags",
        "guarded",
        "layout",
        "locks_miscounted",
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
        self.guarded = False
        self.locks_miscounted = False
        self.mdwe = False
        self.mdwe_inherited = True
        self.opaque = False
        self.vmas: RangeMap[Vma] = RangeMap()
        self._hold()
        self.adopt(entries)
        # Programs inherit PR_SET_MEMORY_MERGE. The first VMAs show it (ksm_execve in mm/ksm.c).
        self.merge_any = any(vma.flags & VM_MERGEABLE for _, _, vma in self.vmas)

    @property
    def heap(self) -> Range:
        """The range from the start of the break to the break, which may be empty."""
        return self.start_brk, self.brk

    def __str__(self) -> str:
        """Return all VMAs in the format of `/proc/PID/maps`."""
        return maps_text(self.vmas, self.heap).removesuffix("\n")

    def __repr__(self) -> str:
        vmas = "1 VMA" if self.map_count == 1 else f"{self.map_count:,} VMAs"
        return f"<AddressSpace of {vmas}, break at {self.brk:x}>"

    def _repr_html_(self) -> str:
        """Return a table, for notebooks."""
        columns = ("start", "end", "permissions", "VmFlags", "offset", "backing")
        stack = stack_start(self.vmas)
        rows = (
            (
                f"{start:x}",
                f"{end:x}",
                vma.permissions(),
                flag_names(vma.flags),
                f"{start - vma.base:x}" if vma.file else "",
                shown_name(self.heap, start, end, vma, stack),
            )
            for start, end, vma in self.vmas
        )
        return html_table(columns, rows, self.map_count)

    def adopt(self, entries: Iterable[Entry]) -> None:
        """Replace the wanted and held maps by `entries`, the VMAs of the host. O(n log n).

        `entries` are `(start, end, vma)`, ascending.
        """
        policies = self._with_policy(0, TASK_SIZE)
        self.vmas = RangeMap()
        for start, end, vma in entries:
            self.vmas.set(start, end, vma)
        self._hold()
        self._restore_policies(policies)

    def _hold(self) -> None:
        # Everything wanted is held.
        self._held = self.vmas.copy()
        self._confirmed: list[Change] = []

    # Reading

    @property
    def held(self) -> RangeMap[Vma]:
        """Return the map that the host has confirmed.

        Complexity: O(log n) per change that was committed since the previous read.
        """
        for _, start, end, wanted, _, _ in self._confirmed:
            self._held.set(start, end, wanted)
        self._confirmed.clear()
        return self._held

    @property
    def map_count(self) -> int:
        """Return the number of VMAs.

        The kernel's count may be higher, because it does not merge all equal neighbors
        (is_mergeable_anon_vma in mm/vma.c).
        """
        return self.vmas.count

    def diff(
        self, start: int, end: int, held: Iterable[VmaRun] | None = None
    ) -> tuple[Change, ...]:
        """Return the runs of `[start, end)` whose wanted and held states differ. O(log n + k).

        The runs ascend. `held` are the held runs of the range, if the caller has them.
        """
        changes = []
        runs = iter(self.held.runs(start, end) if held is None else held)
        held_end, value = start, None
        for wanted_start, wanted_end, wanted in self.vmas.runs(start, end):
            position = wanted_start
            while position < wanted_end:
                if held_end <= position:
                    _, held_end, value = next(runs)
                cut = held_end if held_end < wanted_end else wanted_end
                if value is not wanted:
                    kind = classify(value, wanted)
                    if kind:
                        changes.append(new(Change, (kind, position, cut, wanted, value, None)))
                position = cut
        return tuple(changes)

    def must_look_below(self, start: int, end: int) -> bool:
        """Return whether a VM_GROWSDOWN VMA may have grown into or from a part of `[start, end)`.

        A stack grows on a fault (expand_stack in mm/memory.c), without a call. The new pages must
        be read from the host before a call edits their range or the VMA that they extend, because
        the bookkeeping could not attribute them afterwards. Complexity: O(log n + k).
        """
        if end <= self.layout.quiet_below:
            return False
        for run_start, _, vma in self.vmas.runs(start, end):
            if vma is None:
                above = self.vmas.get(self.vmas.find(run_start)[1])
                if above is not None and above.flags & VM_GROWSDOWN:
                    return True
            elif (
                vma.flags & VM_GROWSDOWN and run_start == start and self.vmas.get(start - 1) is None
            ):
                return True
        return False

    # Writing

    def edit(self, start: int, end: int, change: Callable[[Vma], Vma]) -> tuple[Change, ...]:
        """Replace each VMA of `[start, end)` by `change(vma)`; return the changes. O(log n + k).

        The range must not have another edit that the host has not confirmed yet.
        """
        changes: list[Change] = []
        keys: list[int] = []
        values: list[Vma | None] = []
        last: Vma | None = None
        for run_start, run_end, held in self.vmas.runs(start, end):
            wanted = None if held is None else change(held)
            if wanted is not held:
                kind = classify(held, wanted)
                if kind:
                    changes.append(new(Change, (kind, run_start, run_end, wanted, held, None)))
            if not keys or wanted != last:
                keys.append(run_start)
                values.append(wanted)
                last = wanted
        if changes:
            self.vmas.replace(start, end, keys, values)
        return tuple(changes)

    def commit(self, outcome: Outcome) -> None:
        """Record that the host has carried out all changes of `outcome`. O(changes).

        Most calls never read `held`, so it is updated lazily; otherwise a munmap would take 1.4
        times as long. If many changes are waiting, `vmas` is copied instead, which costs less. At
        most one editing call is in progress, so the two are equal then.
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
        """Replace the wanted map in `[start, end)` by the held map. O(log n + k)."""
        self.vmas.replace(start, end, *self._steps(self.held, start, end))

    def settle(self, start: int, end: int, host: RangeMap[Vma]) -> None:
        """Replace wanted and held in `[start, end)` by the host's actual map. O(log n + k)."""
        policies = self._with_policy(start, end)
        steps = self._steps(host, start, end)
        self.held.replace(start, end, *steps)
        self.vmas.replace(start, end, *steps)
        self._restore_policies(policies)

    def _with_policy(self, start: int, end: int) -> list[Entry]:
        # The policy of mbind is the only attribute that /proc/PID/smaps does not show.
        held = self.held.parts(start, end)
        return [entry for entry in held if entry[2].policy is not None]

    def _restore_policies(self, entries: Iterable[Entry]) -> None:
        # Restore the policy of pages that the host still maps from the same file and offset.
        for start, end, before in entries:
            for vma_start, vma_end, vma in self.vmas.parts(start, end):
                if (vma.file, vma.base) == (before.file, before.base):
                    vma = vma._replace(policy=before.policy)
                    self.vmas.set(vma_start, vma_end, vma)
                    self.held.set(vma_start, vma_end, vma)

    def grow(self, host: RangeMap[Vma]) -> int:
        """Add the stack growth that `host` shows to both maps; return its size in bytes. O(n).

        On the host, it belongs to the VMA above. So it has that VMA's locks, even if the host was
        read while an mlockall was setting them.
        """
        grown = 0
        for start, end, vma in host:
            if not vma.flags & VM_GROWSDOWN:
                continue
            for run_start, run_end, ours in self.vmas.runs(start, end):
                above = self.vmas.get(run_end) if ours is None else None
                if above is not None and above.flags & VM_GROWSDOWN:
                    # smaps does not show the policy, and older traces do not have the key.
                    flags = vma.flags & ~VM_LOCKED_MASK | above.flags & VM_LOCKED_MASK
                    pages = vma._replace(flags=flags, pkey=above.pkey, policy=above.policy)
                    self.vmas.set(run_start, run_end, pages)
                    self.held.set(run_start, run_end, pages)
                    grown += run_end - run_start
        return grown

    def rebind(self, start: int, end: int, file: File) -> None:
        """Give the mappings of `[start, end)` the file identity that the host shows. O(log n +
        k)."""

        def identify(vma: Vma) -> Vma:
            return vma._replace(file=file)

        self.vmas.edit(start, end, identify)
        self.held.edit(start, end, identify)

    def fork(self) -> AddressSpace:
        """Return the child's address space after fork (dup_mmap in mm/mmap.c).

        It has no VM_DONTCOPY VMAs and no locks. Complexity: O(n), without Python code per VMA
        unless one of them is locked or not copied.
        """
        child = AddressSpace(self.layout.copy(), (), self.start_brk)
        child.brk, child.data_size, child.opaque = self.brk, self.data_size, self.opaque
        child.mdwe = self.mdwe and self.mdwe_inherited  # mmf_init_flags in include/linux/mm_types.h
        child.guarded, child.merge_any = self.guarded, self.merge_any
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
        """Assert every invariant that holds between two calls. O(n)."""
        self.vmas.check()
        self.held.check()
        assert list(self.vmas) == list(self.held), "between two calls wanted and held are equal"
        for start, end, vma in self.vmas:
            assert start % PAGE_SIZE == end % PAGE_SIZE == 0, (
                f"{range_text(start, end, '#x')} is page aligned"
            )
            assert vma.file is not None or vma.base == 0, (
                f"anonymous memory at {start:#x} has no file offset"
            )
            assert (start - vma.base) % PAGE_SIZE == 0, (
                f"the file offset at {start:#x} is page aligned"
            )

    @staticmethod
    def _steps(source: RangeMap[Vma], start: int, end: int) -> tuple[list[int], list[Vma | None]]:
        runs = list(source.runs(start, end))
        return [run_start for run_start, _, _ in runs], [vma for _, _, vma in runs]
