"""The whole oracle: `mappings`, and the calls that change flags or contents of pages that stay
where they are."""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENOMEM, EOVERFLOW, EPERM

from laconic.memory import flags as f
from tests.model.mappings import GUARD, LOCKS, SHIFT, Mappings, Page, up

#: How many arguments a call has, where it is not all six.
COUNTS = {
    "brk": 1,
    "munmap": 2,
    "mlock": 2,
    "munlock": 2,
    "mlockall": 1,
    "munlockall": 0,
    "mprotect": 3,
}
COUNTS |= {
    "madvise": 3,
    "mlock2": 3,
    "msync": 3,
    "mseal": 3,
    "remap_file_pages": 5,
    "mremap": 5,
    "mmap": 6,
}

#: advice → flags to clear, flags to set
ADVICE = {
    f.MADV_NORMAL: (f.VM_RAND_READ | f.VM_SEQ_READ, 0),
    f.MADV_RANDOM: (f.VM_SEQ_READ, f.VM_RAND_READ),
    f.MADV_SEQUENTIAL: (f.VM_RAND_READ, f.VM_SEQ_READ),
    f.MADV_DONTFORK: (0, f.VM_DONTCOPY),
    f.MADV_DOFORK: (f.VM_DONTCOPY, 0),
    f.MADV_WIPEONFORK: (0, f.VM_WIPEONFORK),
    f.MADV_KEEPONFORK: (f.VM_WIPEONFORK, 0),
    f.MADV_DONTDUMP: (0, f.VM_DONTDUMP),
    f.MADV_DODUMP: (f.VM_DONTDUMP, 0),
    f.MADV_MERGEABLE: (0, f.VM_MERGEABLE),
    f.MADV_UNMERGEABLE: (f.VM_MERGEABLE, 0),
    f.MADV_HUGEPAGE: (f.VM_NOHUGEPAGE, f.VM_HUGEPAGE),
    f.MADV_NOHUGEPAGE: (f.VM_HUGEPAGE, f.VM_NOHUGEPAGE),
}
DISCARDS = (
    f.MADV_DONTNEED,
    f.MADV_FREE,
    f.MADV_REMOVE,
    f.MADV_DONTNEED_LOCKED,
    f.MADV_GUARD_INSTALL,
)
SILENT = (f.MADV_WILLNEED, f.MADV_COLD, f.MADV_PAGEOUT, f.MADV_COLLAPSE, f.MADV_GUARD_REMOVE)
POPULATES = (f.MADV_POPULATE_READ, f.MADV_POPULATE_WRITE)


class Oracle(Mappings):
    """One address space. `call` makes a call by name and returns its result, a negative errno where
    it fails."""

    def call(self, name: str, args: tuple[int, ...]) -> int:
        """Makes one call."""
        result: int = getattr(self, "do_" + name)(*args[: COUNTS[name]])
        return result

    def copy(self) -> Oracle:
        """Another address space that is the same."""
        twin = Oracle(dict(self.pages), self.mmap_base, self.start_brk)
        twin.brk_, twin.def_flags, twin.fresh = self.brk_, self.def_flags, self.fresh
        return twin

    def fork(self) -> Oracle:
        """What a child process gets."""
        twin = self.copy()
        twin.def_flags = 0
        for number, page in self.pages.items():
            if page.flags & f.VM_DONTCOPY:
                del twin.pages[number]
            else:
                twin.flag(number, LOCKS, 0)
        return twin

    def do_madvise(self, address: int, length: int, advice: int) -> int:
        start, end = address >> SHIFT, (address >> SHIFT) + up(length)
        if advice not in ADVICE and advice not in DISCARDS + SILENT + POPULATES:
            return -EINVAL
        if address % 4096 or (length and not up(length)) or end >= 1 << 52:
            return -EINVAL
        if advice in POPULATES:
            return self.populated(
                start, end, f.VM_READ if advice == f.MADV_POPULATE_READ else f.VM_WRITE
            )
        pages = self.mapped(start, end)
        for page in pages:
            failed = self.advise(page, advice)
            if failed:
                return failed
        return 0 if len(pages) == end - start else -ENOMEM

    def populated(self, start: int, end: int, access: int) -> int:
        for page in range(start, end):
            if page not in self.pages:
                return -ENOMEM
            if not self.pages[page].flags & access:
                return -EINVAL
            self.populate(page, page + 1)
        return 0

    def advise(self, number: int, advice: int) -> int:
        page = self.pages[number]
        flags = page.flags
        fixed = flags & f.VM_SEALED and not flags & f.VM_WRITE and page.file is None
        if fixed and advice in (*DISCARDS, f.MADV_DONTFORK, f.MADV_WIPEONFORK):
            return -EPERM
        if advice in DISCARDS:
            return self.discard(number, page, advice)
        if advice == f.MADV_GUARD_REMOVE and page.content == GUARD:
            self.pages[number] = page._replace(content=None)
        if advice == f.MADV_WIPEONFORK and page.file is not None:
            return -EINVAL
        if advice in (f.MADV_KEEPONFORK, f.MADV_DODUMP) and flags & f.VM_DROPPABLE:
            return -EINVAL
        if advice == f.MADV_MERGEABLE and flags & (f.VM_MAYSHARE | f.VM_DROPPABLE):
            return 0
        if advice in ADVICE:
            self.flag(number, *ADVICE[advice])
        return 0

    def discard(self, number: int, page: Page, advice: int) -> int:
        if page.flags & f.VM_LOCKED and advice != f.MADV_DONTNEED_LOCKED:
            return -EINVAL
        if advice == f.MADV_FREE:
            return 0 if page.file is None else -EINVAL
        if advice == f.MADV_REMOVE:
            if page.file is None:
                return -EINVAL
            if page.flags & (f.VM_SHARED | f.VM_WRITE) != f.VM_SHARED | f.VM_WRITE:
                return -EACCES
        if advice == f.MADV_GUARD_INSTALL:
            self.pages[number] = page._replace(content=GUARD)
        elif page.content != GUARD:
            self.pages[number] = page._replace(content=None)
        return 0

    def lock(self, address: int, length: int, locks: int) -> int:
        start = address >> SHIFT
        size = up(length + address % 4096)
        if start + size >= 1 << 52:
            return -EINVAL
        for page in range(start, start + size):
            if page not in self.pages:
                return -ENOMEM
            if not self.pages[page].flags & f.VM_DROPPABLE:
                self.flag(page, LOCKS, locks)
        return 0 if not locks or self.populate(start, start + size) else -ENOMEM

    def do_mlock(self, address: int, length: int) -> int:
        return self.lock(address, length, f.VM_LOCKED)

    def do_mlock2(self, address: int, length: int, flags: int) -> int:
        if flags & ~f.MLOCK_ONFAULT:
            return -EINVAL
        return self.lock(address, length, f.VM_LOCKED | (f.VM_LOCKONFAULT if flags else 0))

    def do_munlock(self, address: int, length: int) -> int:
        return self.lock(address, length, 0)

    def do_mlockall(self, flags: int) -> int:
        if flags not in (1, 2, 3, 5, 6, 7):
            return -EINVAL
        locks = f.VM_LOCKED | (f.VM_LOCKONFAULT if flags & f.MCL_ONFAULT else 0)
        self.def_flags = locks if flags & f.MCL_FUTURE else 0
        if flags & f.MCL_CURRENT:
            self.lock_all(locks)
            for page in list(self.pages):
                self.populate(page, page + 1)
        return 0

    def do_munlockall(self) -> int:
        self.def_flags = 0
        self.lock_all(0)
        return 0

    def lock_all(self, locks: int) -> None:
        for page in list(self.pages):
            if not self.pages[page].flags & f.VM_DROPPABLE:
                self.flag(page, LOCKS, locks)

    def do_msync(self, address: int, length: int, flags: int) -> int:
        start, end = address >> SHIFT, (address >> SHIFT) + up(length)
        if flags & ~7 or address % 4096 or (flags & f.MS_ASYNC and flags & f.MS_SYNC):
            return -EINVAL
        if end >= 1 << 52:
            return -ENOMEM
        pages = self.mapped(start, end)
        if flags & f.MS_INVALIDATE and any(self.pages[page].flags & f.VM_LOCKED for page in pages):
            return -EBUSY
        return 0 if len(pages) == end - start else -ENOMEM

    def do_mseal(self, address: int, length: int, flags: int) -> int:
        start, end = address >> SHIFT, (address >> SHIFT) + up(length)
        if flags or address % 4096 or (length and not up(length)) or end >= 1 << 52:
            return -EINVAL
        if self.first_hole(start, end) < end:
            return -ENOMEM
        for page in range(start, end):
            self.flag(page, 0, f.VM_SEALED)
        return 0

    def do_remap_file_pages(
        self, address: int, length: int, prot: int, offset: int, flags: int
    ) -> int:
        start, size = address >> SHIFT, length >> SHIFT
        first = self.pages.get(start)
        if (
            prot
            or not size
            or start + size >= 1 << 52
            or first is None
            or not first.flags & f.VM_SHARED
        ):
            return -EINVAL
        for page in range(start, start + size):
            found = self.pages.get(page)
            if found is None or (found.flags, found.file) != (first.flags, first.file):
                return -EINVAL
        if (offset + size) << SHIFT > (1 << 63) - 1:
            return -EOVERFLOW
        if first.flags & f.VM_SEALED:
            return -EPERM
        kept = f.PROT_RWX | f.VM_MAY_RWX | f.VM_SHARED | f.VM_MAYSHARE | f.VM_LOCKED
        for number in range(size):
            flags = first.flags & kept | self.def_flags
            self.pages[start + number] = Page(flags, first.file, offset + number)
        self.populate(start, start + size)
        return 0
