"""Linux memory, one page at a time: a dictionary from page numbers to what each page is. Here the
calls that map.

Written to be obviously right and nothing else, and without any of `laconic.memory`'s operations
(constants apart): every call is loops over pages. What Linux says about VMAs is said about runs of
pages that are alike.
"""

from __future__ import annotations

from errno import (
    EACCES,
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)
from typing import NamedTuple

from laconic.memory import flags as f
from tests.model.strategies import FD_DIRECTORY, FD_OTHER, FD_PIPE, FD_RO, FD_RW, FD_WO

SHIFT = 12
END = f.TASK_SIZE >> SHIFT
HUGE = f.PMD_SIZE >> SHIFT
GAP = 256
#: RLIMIT_STACK in pages: nothing grows larger.
STACK_LIMIT = 2048
LOCKS = f.VM_LOCKED | f.VM_LOCKONFAULT
#: descriptor → (file, readable, writable)
FILES = {
    FD_RW: ("file", True, True),
    FD_RO: ("file", True, False),
    FD_WO: ("file", False, True),
    FD_OTHER: ("other", True, True),
    FD_PIPE: ("pipe", True, False),
    FD_DIRECTORY: ("directory", True, False),
}
UNMAPPABLE = ("pipe", "directory")
#: The content of a page that MADV_GUARD_INSTALL has poisoned.
GUARD = -1


class Page(NamedTuple):
    """One page. `content`: None where it was never touched, 0 as it was when mapped, else what was
    written."""

    flags: int
    file: str | None = None
    offset: int = 0
    content: int | None = None

    def alike(self, other: Page, distance: int) -> bool:
        """True where `other`, so many pages higher, belongs to the same VMA."""
        same = (self.flags, self.file) == (other.flags, other.file)
        return same and (self.file is None or self.offset + distance == other.offset)


def up(length: int) -> int:
    """Bytes, rounded up to whole pages modulo 2**64, in pages."""
    return (length + 4095 & f.ADDRESS_MASK) >> SHIFT


class Mappings:
    """One address space: its pages, and the calls that map, unmap and move them.
    `tests.model.oracle` has the rest."""

    def __init__(self, pages: dict[int, Page], mmap_base: int, start_brk: int) -> None:
        self.pages = pages
        self.mmap_base = mmap_base
        self.start_brk = self.brk_ = start_brk
        self.def_flags = 0
        self.fresh = 0

    # Pages

    def mapped(self, start: int, end: int) -> list[int]:
        """The pages there are in `[start, end)`."""
        return sorted(page for page in self.pages if start <= page < end)

    def first_hole(self, start: int, end: int) -> int:
        """The first page of `[start, end)` that is not there, or `end`."""
        while start < end and start in self.pages:
            start += 1
        return start

    def vma(self, page: int) -> tuple[int, int]:
        """The run of pages alike around a page."""
        start = end = page
        while start - 1 in self.pages and self.pages[start - 1].alike(self.pages[start], 1):
            start -= 1
        while end in self.pages and (end == page or self.pages[end - 1].alike(self.pages[end], 1)):
            end += 1
        return start, end

    def flag(self, page: int, clear: int, put: int) -> None:
        """Changes the flags of a page."""
        self.pages[page] = self.pages[page]._replace(flags=self.pages[page].flags & ~clear | put)

    def sealed(self, start: int, end: int) -> bool:
        """True where a page is sealed."""
        return any(self.pages[page].flags & f.VM_SEALED for page in self.mapped(start, end))

    def touch(self, page: int, value: int = 0, write: bool = False) -> bool:
        """The program reads or writes a page; False where that faults. A stack grows down to it."""
        if page not in self.pages:
            above = min((one for one in self.pages if one > page), default=None)
            if above is None or not self.pages[above].flags & f.VM_GROWSDOWN or self.crowded(page):
                return False
            if self.vma(above)[1] - page > STACK_LIMIT:
                return False
            for one in range(page, above):
                self.pages[one] = self.pages[above]._replace(content=None)
        found = self.pages[page]
        if not found.flags & (f.VM_WRITE if write else f.VM_PROT) or found.content == GUARD:
            return False
        if write and not found.flags & f.VM_MAYSHARE:
            self.pages[page] = found._replace(content=value)
        elif found.content is None:
            self.pages[page] = found._replace(content=0)
        return True

    def crowded(self, page: int) -> bool:
        """True where a stack may not grow down to a page: an accessible VMA is within the guard gap
        below."""
        below = max((one for one in self.pages if one < page), default=None)
        if below is None or below < page - GAP:
            return False
        return not self.pages[below].flags & f.VM_GROWSDOWN and bool(
            self.pages[below].flags & f.VM_PROT
        )

    def populate(self, start: int, end: int) -> bool:
        """Brings pages in; False at one that is inaccessible."""
        for page in self.mapped(start, end):
            if not self.pages[page].flags & f.VM_LOCKONFAULT:
                if not self.pages[page].flags & f.VM_PROT:
                    return False
                if self.pages[page].content is None:
                    self.pages[page] = self.pages[page]._replace(content=0)
        return True

    # Places

    def limit(self, end: int) -> int:
        """Where the guard gap of the next VMA at or above `end` begins."""
        above = min((page for page in self.pages if page >= end), default=None)
        return (
            END
            if above is None
            else above - GAP
            if self.pages[above].flags & f.VM_GROWSDOWN
            else above
        )

    def downwards(self, size: int) -> int:
        """The highest place below the base."""
        high = self.mmap_base >> SHIFT
        if size > high - HUGE:
            return -ENOMEM
        while True:
            free, page = 0, high
            while free < size:
                page -= 1
                free = 0 if page in self.pages else free + 1
            if self.limit(page + size) >= page + size:
                return page
            high = self.limit(page + size)

    def upwards(self, size: int, low: int, high: int) -> int:
        """The lowest place in `[low, high)`."""
        free, page = 0, low
        while page < high:
            free = 0 if page in self.pages else free + 1
            page += 1
            if free == size:
                if self.limit(page) >= page:
                    return page - size
                while page not in self.pages:
                    page += 1
                page, free = self.vma(page)[1], 0
        return -ENOMEM

    def place(self, hint: int, size: int, flags: int, anonymous: bool) -> int:
        """The page that Linux would choose."""
        if anonymous and not hint and size % HUGE == 0:
            padded = self.place(0, size + HUGE, flags, False)
            if padded > 0:
                return padded + (-padded % HUGE or HUGE)
        high = 0x80000 if flags & f.MAP_32BIT else END
        if (
            hint
            and hint + size <= high
            and not self.mapped(hint, hint + size)
            and hint + size <= self.limit(hint)
        ):
            return hint
        return self.upwards(size, 0x40000, 0x80000) if flags & f.MAP_32BIT else self.downwards(size)

    # Calls

    def do_mmap(
        self, address: int, length: int, prot: int, flags: int, fd: int, offset: int
    ) -> int:
        file = None if flags & f.MAP_ANONYMOUS else FILES.get(fd & 0xFFFFFFFF)
        if offset % 4096:
            return -EINVAL
        if not flags & f.MAP_ANONYMOUS and file is None:
            return -EBADF
        if not length:
            return -EINVAL
        size = up(length)
        if not size or size > END:
            return -ENOMEM
        if flags & (f.MAP_FIXED | f.MAP_FIXED_NOREPLACE):
            if (address >> SHIFT) + size > END:
                return -ENOMEM
            if address % 4096:
                return -EINVAL
            start = address >> SHIFT
        else:
            hint = address >> SHIFT
            start = self.place(
                max(hint, 16) if hint else 0, size, flags, file is None and not flags & f.MAP_SHARED
            )
            if start < 0:
                return start
        if flags & f.MAP_FIXED_NOREPLACE and self.mapped(start, start + size):
            return -EEXIST
        page = (
            self.file_page(prot, flags, *file, offset, size) if file else self.anonymous_page(flags)
        )
        if isinstance(page, int):
            return page
        bits = page.flags | prot & f.PROT_RWX | self.def_flags
        bits |= f.VM_GROWSDOWN if flags & f.MAP_GROWSDOWN else 0
        bits |= f.VM_LOCKED if flags & f.MAP_LOCKED else 0
        bits |= f.VM_SYNC if flags & f.MAP_SYNC else 0
        bits |= f.VM_NOHUGEPAGE if flags & f.MAP_STACK else 0
        bits |= f.VM_NORESERVE if flags & f.MAP_NORESERVE else 0
        bits &= ~LOCKS if bits & f.VM_DROPPABLE else -1
        if self.sealed(start, start + size):
            return -EPERM
        self.fresh += not file and bool(bits & f.VM_MAYSHARE)
        for number in range(size):
            self.pages[start + number] = page._replace(
                flags=bits, offset=page.offset + number if page.file else 0
            )
        if bits & f.VM_LOCKED or flags & (f.MAP_POPULATE | f.MAP_NONBLOCK) == f.MAP_POPULATE:
            self.populate(start, start + size)
        return start << SHIFT

    def anonymous_page(self, flags: int) -> Page | int:
        kind = flags & f.MAP_TYPE
        if kind == f.MAP_PRIVATE:
            return Page(f.VM_MAY_RWX)
        if kind == f.MAP_SHARED and not flags & f.MAP_GROWSDOWN:
            return Page(f.VM_MAY_RWX | f.VM_SHARED | f.VM_MAYSHARE, f"shared {self.fresh + 1}")
        if kind == f.MAP_DROPPABLE and not flags & (f.MAP_LOCKED | f.MAP_GROWSDOWN):
            return Page(
                f.VM_MAY_RWX | f.VM_DROPPABLE | f.VM_NORESERVE | f.VM_WIPEONFORK | f.VM_DONTDUMP
            )
        return -EINVAL

    def file_page(
        self,
        prot: int,
        flags: int,
        file: str,
        readable: bool,
        writable: bool,
        offset: int,
        size: int,
    ) -> Page | int:
        if offset + size * 4096 > ((1 << 64) - 1 if file in UNMAPPABLE else (1 << 63) - 1):
            return -EOVERFLOW
        kind = flags & f.MAP_TYPE
        known = f.LEGACY_MAP_MASK | (f.MAP_SYNC if file not in UNMAPPABLE else 0)
        if kind == f.MAP_SHARED_VALIDATE and flags & ~known:
            return -EOPNOTSUPP
        bits = f.VM_MAY_RWX
        if kind in (f.MAP_SHARED, f.MAP_SHARED_VALIDATE):
            if prot & f.PROT_WRITE and not writable:
                return -EACCES
            bits |= f.VM_SHARED | f.VM_MAYSHARE
            bits &= -1 if writable else ~(f.VM_MAYWRITE | f.VM_SHARED)
        elif kind != f.MAP_PRIVATE:
            return -EINVAL
        if not readable:
            return -EACCES
        if file in UNMAPPABLE:
            return -EPERM if file == "pipe" and prot & f.PROT_EXEC else -ENODEV
        if flags & f.MAP_GROWSDOWN:
            return -EINVAL
        return -EOPNOTSUPP if flags & f.MAP_SYNC else Page(bits, file, offset >> SHIFT)

    def do_munmap(self, address: int, length: int) -> int:
        if address % 4096 or address + length > f.TASK_SIZE or not length:
            return -EINVAL
        start, end = address >> SHIFT, (address >> SHIFT) + up(length)
        if self.sealed(start, end):
            return -EPERM
        for page in self.mapped(start, end):
            del self.pages[page]
        return 0

    def do_mprotect(self, address: int, length: int, prot: int) -> int:
        down, grows_up = prot & f.PROT_GROWSDOWN, prot & f.PROT_GROWSUP
        prot &= ~(down | grows_up)
        if (down and grows_up) or address % 4096:
            return -EINVAL
        if not length:
            return 0
        start, end = address >> SHIFT, (address >> SHIFT) + up(length)
        if end >= 1 << 52 or end == start:
            return -ENOMEM
        if prot & ~(f.PROT_RWX | f.PROT_SEM):
            return -EINVAL
        if down:
            start = min(self.mapped(start, end), default=start)
        if start not in self.pages:
            return -ENOMEM
        if grows_up or (down and not self.pages[start].flags & f.VM_GROWSDOWN):
            return -EINVAL
        for page in range(self.vma(start)[0] if down else start, end):
            if page not in self.pages:
                return -ENOMEM
            if prot & f.PROT_RWX & ~(self.pages[page].flags >> 4):
                return -EACCES
            if self.pages[page].flags & f.VM_SEALED:
                return -EPERM
            self.flag(page, f.PROT_RWX, prot & f.PROT_RWX)
        return 0

    def do_brk(self, address: int) -> int:
        old, new = up(self.brk_), up(address)
        if address < self.start_brk or address > f.TASK_SIZE:
            return self.brk_
        if new < old:
            if not self.mapped(new, old) or self.sealed(new, old):
                return self.brk_
            for page in self.mapped(new, old):
                del self.pages[page]
        elif new > old:
            if self.mapped(old, new + 1) or self.limit(old) < new + 1:
                return self.brk_
            for page in range(old, new):
                self.pages[page] = Page(f.VM_READ | f.VM_WRITE | f.VM_MAY_RWX | self.def_flags)
            if self.def_flags & f.VM_LOCKED:
                self.populate(old, new)
        self.brk_ = address
        return address

    def do_mremap(  # noqa: C901 (the kernel's checks, in its order)
        self, address: int, old_length: int, new_length: int, flags: int, new_address: int
    ) -> int:
        old, new, start, to = up(old_length), up(new_length), address >> SHIFT, new_address >> SHIFT
        fixed, kept = flags & f.MREMAP_FIXED, flags & f.MREMAP_DONTUNMAP
        if flags > 7 or address % 4096 or not new or new > END:
            return -EINVAL
        if fixed or kept:
            if (
                not flags & f.MREMAP_MAYMOVE
                or (kept and old != new)
                or new_address % 4096
                or to + new > END
            ):
                return -EINVAL
            if (start + old) % (1 << 52) > to and to + new > start:
                return -EINVAL
        if start not in self.pages:
            return -EFAULT
        first = self.pages[start]
        if first.flags & f.VM_SEALED:
            return -EPERM
        if not fixed and not kept and new <= old:
            if new == old:
                return address
            result = self.do_munmap((start + new) << SHIFT, (old - new) << SHIFT)
            return result or address
        if not old and not first.flags & f.VM_MAYSHARE:
            return -EINVAL
        end = self.vma(start)[1]
        if min(old, new) > end - start:
            return self.move_several(start, old, to, kept) if fixed and old == new else -EFAULT
        if fixed or kept:
            if fixed:
                failed = self.do_munmap(new_address, new << SHIFT)
                if failed:
                    return failed
                if start not in self.pages:
                    return -EFAULT
            if new < old:
                failed = self.do_munmap((start + new) << SHIFT, (old - new) << SHIFT)
                if failed:
                    return failed
            anonymous = first.file is None
            return self.move(
                start, old, new, kept, to if fixed else self.place(to, new, 0, anonymous)
            )
        if start + old == end and not self.mapped(end, start + new) and start + new <= END:
            for page in range(end, start + new):
                self.pages[page] = self.shifted(first, page - start)
            if first.flags & f.VM_LOCKED:
                self.populate(end, start + new)
            return address
        if not flags & f.MREMAP_MAYMOVE:
            return -ENOMEM
        return self.move(start, old, new, 0, self.place(0, new, 0, first.file is None))

    def shifted(self, page: Page, distance: int) -> Page:
        return page._replace(content=None, offset=page.offset + distance if page.file else 0)

    def move(self, start: int, old: int, new: int, kept: int, to: int) -> int:
        if to < 0:
            return to
        first = self.pages[start]
        run = self.vma(start)
        for number in range(new):
            moved = self.pages.get(start + number, first)
            self.pages[to + number] = moved if number < old else self.shifted(first, number)
        for page in range(start, start + min(old, new)):
            if kept:
                self.pages[page] = self.pages[page]._replace(content=None)
            else:
                del self.pages[page]
        if kept and first.flags & f.VM_LOCKED:
            for page in range(*run):
                self.flag(page, LOCKS, 0)
        if first.flags & f.VM_LOCKED and new > old:
            self.populate(to, to + new)
        return to << SHIFT

    def move_several(self, start: int, size: int, to: int, kept: int) -> int:
        page = start
        while page < start + size:
            run_end = min(self.vma(page)[1], start + size)
            if self.pages[page].flags & f.VM_SEALED:
                return -EPERM
            failed = self.do_munmap((to + page - start) << SHIFT, (run_end - page) << SHIFT)
            if failed:
                return failed
            self.move(page, run_end - page, run_end - page, kept, to + page - start)
            page = min(self.mapped(run_end, start + size), default=start + size)
        return to << SHIFT
