"""A library OS in a bottle: the memory manager on a host that is an oracle, and the program run
natively beside it.

`native` is the oracle that executes each call as the program made it; `host` executes only the host
calls. After every call they must be the same page for page, and the bookkeeping must show what the
host has (law Exact).
"""

from __future__ import annotations

from errno import ENOMEM

from laconic.linux.pal import only_changes
from laconic.memory import flags as f
from laconic.memory.bookkeeper import Bookkeeper
from laconic.memory.calls import Arguments, Call
from laconic.memory.change import ADVISE, FILE, ZERO, Change, Outcome
from laconic.memory.layout import Layout
from laconic.memory.ledger import Ledger
from laconic.memory.mmap import OpenFile, page_align
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.model.mappings import FILES, SHIFT, UNMAPPABLE, Page
from tests.model.oracle import Oracle
from tests.model.strategies import FORK, READ, WRITE, Bases, resolve

BASES = Bases(0x10_0000_0000, 0x7FFF_F7FB_2000, 0x5555_5556_0000, 0x7FFF_FFFD_E000)
#: Made before the program begins: sealed, as the tests against the kernel have it, and right below
#: the base.
WALL = 16
MMAP_BASE = BASES.top + WALL * 4096
STACK_FLAGS = f.VM_READ | f.VM_WRITE | f.VM_MAY_RWX | f.VM_GROWSDOWN


def _first_pages() -> dict[int, Page]:
    wall = {(BASES.top >> SHIFT) + page: Page(f.VM_MAY_RWX | f.VM_SEALED) for page in range(WALL)}
    return wall | {(BASES.stack >> SHIFT) + page: Page(STACK_FLAGS) for page in range(33)}


def _file(name: str) -> File:
    if name.startswith("shared"):
        return File(0, 1, 1000 + int(name.split()[1]), name)
    return File(8, 1, [file for file, _, _ in FILES.values()].index(name) + 1, name)


def _written(page: Page) -> int:
    return max(page.content or 0, 0)


def host_map(host: Oracle) -> RangeMap[Vma]:
    """What `/proc/PID/smaps` would show of an oracle."""
    seen: RangeMap[Vma] = RangeMap()
    for number, page in sorted(host.pages.items()):
        base = (number - page.offset) << SHIFT if page.file else 0
        seen.set(
            number << SHIFT,
            number + 1 << SHIFT,
            Vma(page.flags, _file(page.file) if page.file else None, base),
        )
    return seen


class World:
    """One program. `step` makes a call on all sides and raises AssertionError at the first
    difference."""

    read_implies_exec = False

    def __init__(self) -> None:
        self.native = Oracle(_first_pages(), MMAP_BASE, BASES.heap)
        self.host = self.native.copy()
        layout = Layout(MMAP_BASE, thp_align=True)
        self.space = AddressSpace(layout, host_map(self.host), BASES.heap)
        self.manager = Bookkeeper(only_changes, Ledger())
        self.host_calls = 0

    # Upcalls

    def open_file(self, fd: int) -> OpenFile | None:
        if fd not in FILES:
            return None
        name, readable, writable = FILES[fd]
        plain = name not in UNMAPPABLE
        return OpenFile(_file(name), readable, writable, plain, places=True)

    def untouched(self, start: int, end: int) -> bool:
        pages = [self.host.pages[page] for page in range(start >> SHIFT, end >> SHIFT)]
        return all(
            page.content is None or (page.file is not None and page.content == 0) for page in pages
        )

    def resident(self, start: int, end: int) -> bool:
        contents = [self.host.pages[page].content for page in range(start >> SHIFT, end >> SHIFT)]
        return all(content is not None and content >= 0 for content in contents)

    def data_limit(self) -> int:
        return -1

    def lock_limit(self) -> int:
        return -1

    def vma_start(self, address: int) -> int:
        return 0

    def read(self, address: int, length: int) -> bytes:
        return b""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        name = self.host.pages[address >> SHIFT].file
        assert name is not None
        return _file(name)

    def maps(self) -> RangeMap[Vma]:
        return host_map(self.host)

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        return host_map(self.host)

    # Steps

    def step(self, relative: Call, fail_at: int = 0) -> None:
        """Makes one call; with `fail_at`, the host call of that number fails with ENOMEM and does
        nothing."""
        call = resolve(relative, BASES)
        if call.name in (WRITE, READ):
            page, value, write = call.args[0] >> SHIFT, call.args[1] + 1, call.name == WRITE
            assert self.native.touch(page, value, write) == self.host.touch(page, value, write)
        elif call.name == FORK:
            twin = self.space.fork()
            twin.check()
            assert list(twin.vmas) == list(host_map(self.host.fork())), (
                "the child of a fork is as Linux makes it"
            )
        else:
            self._call(call, fail_at)
        self.space.grow(host_map(self.host))
        self.check()

    def check(self) -> None:
        """All laws that hold between two calls."""
        self.space.check()
        assert list(self.space.vmas) == list(host_map(self.host)), (
            "Exact: the bookkeeping is what the host has"
        )
        native, host = self._shown(self.native), self._shown(self.host)
        wrong = [
            page
            for page in sorted(native.keys() | host.keys())
            if native.get(page) != host.get(page)
        ]
        first = [(hex(page << SHIFT), native.get(page), host.get(page)) for page in wrong[:1]]
        assert not wrong, f"Faithful: {len(wrong)} pages are not as without Laconic, first {first}"

    @staticmethod
    def _shown(side: Oracle) -> dict[int, Page]:
        # A page that was never touched and one that was only read look the same to the program.
        return {
            number: page._replace(content=page.content or 0) for number, page in side.pages.items()
        }

    def _call(self, call: Call, fail_at: int) -> None:
        before = dict(self.host.pages)
        outcome = self.manager.begin(self.space, call.name, call.args, self)
        host_args = self.manager.host_arguments(call.name, call.args, outcome)
        expected = self.native.call(call.name, call.args)
        if host_args is None:
            result = self.manager.finish_elided(call.name, outcome)
        else:
            self.host_calls += 1
            failed = fail_at == 1
            value = -ENOMEM if failed else self.host.call(call.name, host_args)
            result = self.manager.finish(self.space, call, outcome, host_args, value, self).result
            if failed:
                self.native = self.host.copy()
                self.native.brk_ = self.space.brk  # a break within its last page is elided
                return
        assert result == expected, (
            f"{call.name} returns {result:#x}, and {expected:#x} without Laconic"
        )
        if not outcome.ask and not outcome.resync:
            self._complete(outcome, before)
            self._silent(call, outcome, host_args, before)

    # The changes: all that differs (without which held would not be what the host has), and law
    # Silent: nothing else

    def _complete(self, outcome: Outcome, before: dict[int, Page]) -> None:
        kinds = {
            page: change.kind
            for change in outcome.changes
            for page in range(change.start >> SHIFT, change.end >> SHIFT)
        }
        for page in before.keys() | self.host.pages.keys():
            was, now = before.get(page), self.host.pages.get(page)
            if was is not None and now is not None and _written(was) != _written(now):
                assert kinds.get(page, 0) & (ZERO | FILE), (
                    f"the contents of page {page:#x} go, and no change says so"
                )
            elif (
                was is None
                or now is None
                or was._replace(content=None) != now._replace(content=None)
            ):
                assert kinds.get(page, ADVISE) != ADVISE, (
                    f"page {page:#x} differs, and no change says so"
                )

    def _silent(
        self, call: Call, outcome: Outcome, host_args: Arguments | None, before: dict[int, Page]
    ) -> None:
        assert (host_args is not None) == bool(outcome.changes), (
            "Silent: no difference, no host call"
        )
        for change in outcome.changes:
            # Advice to discard is said whatever the contents are, and what mremap moves away is not
            # looked at. Nor where a mapping brings its pages in.
            aside = call.name in ("madvise", "mremap") or (
                call.name == "mmap" and call.args[3] & f.MAP_POPULATE
            )
            aside = aside or (change.wanted is not None and change.wanted.flags & f.VM_LOCKED)
            if change.kind != ADVISE and not (aside and change.kind == ZERO):
                self._differs(change, before)
        if host_args is not None and host_args is not call.args:
            start, end = host_args[0], host_args[0] + host_args[1]
            span = outcome.changes[0].start, outcome.changes[-1].end
            assert (start, end) == span, (
                "Silent: a narrowed call begins and ends with a page that changes"
            )
            assert call.args[0] <= start and end <= call.args[0] + page_align(call.args[1]), (
                "narrowed, not moved"
            )

    def _differs(self, change: Change, before: dict[int, Page]) -> None:
        # Attributes page by page; contents, which the upcall tells for whole runs, run by run.
        pages = range(change.start >> SHIFT, change.end >> SHIFT)
        differ = [before.get(page) != self.host.pages.get(page) for page in pages]
        alike = any(differ) if change.kind == ZERO else all(differ)
        assert alike, (
            f"Silent: {change.kinds!r} for {change.start:#x}-{change.end:#x}, where a page stays "
            f"as it was"
        )
