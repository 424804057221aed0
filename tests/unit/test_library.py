"""The public API: one address space's memory calls as methods, on a PAL of the caller's choice."""

from __future__ import annotations

import doctest
import importlib
import inspect
from errno import EACCES, EFAULT, EINVAL, ENOMEM, ENOSYS

import pytest

import laconic
from laconic import (
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
    Change,
    ChangeKind,
    File,
    HostError,
    MemoryManager,
    OpenFile,
)
from laconic.memory import flags as f
from laconic.memory.layout import Layout

RW = PROT_READ | PROT_WRITE


class Recorder:
    """A PAL that keeps the changes, and refuses when told to."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.refusals: dict[int, HostError] = {}

    def apply(self, change: Change) -> None:
        """Keep the change, or raise the refusal planned for its number."""
        number = len(self.changes)
        self.changes.append(change)
        if number in self.refusals:
            raise self.refusals[number]

    def kinds(self) -> list[ChangeKind]:
        """The kinds since the last look."""
        kinds = [change.kinds for change in self.changes]
        self.changes.clear()
        return kinds


@pytest.fixture
def pal() -> Recorder:
    return Recorder()


@pytest.fixture
def mm(pal: Recorder) -> MemoryManager:
    return MemoryManager(pal)


def attributes(mm: MemoryManager) -> list[tuple[int, int, str]]:
    """The VMAs as (start, end, permissions)."""
    return [(start, end, vma.permissions()) for start, end, vma in mm.space.vmas]


def test_a_call_that_changes_nothing_does_not_reach_the_pal(
    mm: MemoryManager, pal: Recorder
) -> None:
    address = mm.mmap(None, 4 * PAGE_SIZE, RW)
    assert pal.kinds() == [ChangeKind.MAP]
    mm.mprotect(address, 4 * PAGE_SIZE, RW)
    assert pal.kinds() == []
    mm.mprotect(address, PAGE_SIZE, PROT_READ)
    assert pal.kinds() == [ChangeKind.RESTRICT]
    mm.mprotect(address, 4 * PAGE_SIZE, PROT_NONE)
    assert pal.kinds() == [ChangeKind.RESTRICT, ChangeKind.RESTRICT]
    mm.munmap(address, 4 * PAGE_SIZE)
    mm.munmap(address, 4 * PAGE_SIZE)
    assert pal.kinds() == [ChangeKind.UNMAP]


def test_errors_are_linux_s(mm: MemoryManager) -> None:
    with pytest.raises(OSError, match="Invalid") as error:
        mm.munmap(1, PAGE_SIZE)
    assert error.value.errno == EINVAL
    address = mm.mmap(None, 2 * PAGE_SIZE, PROT_READ)
    mm.munmap(address + PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(OSError, match="memory") as error:
        mm.mprotect(address, 2 * PAGE_SIZE, RW)
    assert error.value.errno == ENOMEM
    assert attributes(mm) == [(address, address + PAGE_SIZE, "rw-p")], (
        "as on Linux, pages before the hole change"
    )
    with pytest.raises(OSError, match="address") as error:
        mm.mremap(address + PAGE_SIZE, PAGE_SIZE, 2 * PAGE_SIZE)
    assert error.value.errno == EFAULT


def test_a_refusal_leaves_what_was_held(mm: MemoryManager, pal: Recorder) -> None:
    pal.refusals = {0: HostError(ENOMEM)}
    with pytest.raises(OSError, match="memory"):
        mm.mmap(None, PAGE_SIZE, RW)
    assert attributes(mm) == []
    mm.space.check()


def test_a_refusal_halfway_keeps_what_was_carried_out(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, 8 * PAGE_SIZE, RW)
    mm.mprotect(address + 2 * PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ)
    pal.changes.clear()
    # The second of two changes stops after one of its four pages.
    pal.refusals = {1: HostError(EACCES, end=address + 5 * PAGE_SIZE)}
    with pytest.raises(OSError, match="denied") as error:
        mm.mprotect(address, 8 * PAGE_SIZE, PROT_READ)
    assert error.value.errno == EACCES
    assert attributes(mm) == [
        (address, address + 5 * PAGE_SIZE, "r--p"),
        (address + 5 * PAGE_SIZE, address + 8 * PAGE_SIZE, "rw-p"),
    ]
    mm.space.check()


def test_the_break(mm: MemoryManager, pal: Recorder) -> None:
    start = mm.brk()
    assert mm.brk(start + 3 * PAGE_SIZE) == start + 3 * PAGE_SIZE
    pal.changes.clear()
    pal.refusals = {0: HostError(ENOMEM)}
    assert mm.brk(start + 9 * PAGE_SIZE) == start + 3 * PAGE_SIZE, (
        "brk has no errno: it returns the break"
    )
    mm.space.check()


def test_a_file_mapping(mm: MemoryManager, pal: Recorder) -> None:
    library = OpenFile(File(8, 1, 77, "/lib/libc.so"), readable=True, writable=False, size=1 << 20)
    address = mm.mmap(None, 4 * PAGE_SIZE, PROT_READ, f.MAP_PRIVATE, library, PAGE_SIZE)
    info = mm.get_vma_info(address + PAGE_SIZE)
    assert info is not None and (info.start, info.end) == (address, address + 4 * PAGE_SIZE)
    assert info.vma.file == library.file and address - info.vma.base == PAGE_SIZE
    with pytest.raises(OSError, match="denied"):
        mm.mmap(None, PAGE_SIZE, RW, f.MAP_SHARED, library)
    assert mm.get_vma_info(0) is None


def test_only_the_host_chooses_some_places_and_the_library_chooses_them_too(
    mm: MemoryManager,
) -> None:
    big = OpenFile(File(8, 1, 77, "/data"), readable=True, writable=True, places=True, size=8 << 20)
    address = mm.mmap(None, 4 << 20, RW, f.MAP_SHARED, big)
    moved = mm.mremap(address, 4 << 20, 8 << 20)
    assert [(start, end) for start, end, _ in mm.space.vmas] == [(moved, moved + (8 << 20))]
    mm.space.check()


def test_fork_copies_the_space_and_drops_locks(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, 4 * PAGE_SIZE, RW)
    mm.mlock(address, 2 * PAGE_SIZE)
    mm.madvise(address + 3 * PAGE_SIZE, PAGE_SIZE, f.MADV_DONTFORK)
    child = mm.fork(Recorder())
    assert [(start, end) for start, end, _ in child.space.vmas] == [
        (address, address + 3 * PAGE_SIZE)
    ]
    pal.changes.clear()
    child.munmap(address, PAGE_SIZE)
    assert not pal.changes and len(attributes(mm)) == 3, "the parent and its PAL are not affected"


def test_reprs_are_for_engineers(mm: MemoryManager, pal: Recorder) -> None:
    address = mm.mmap(None, PAGE_SIZE, RW)
    assert repr(pal.changes[0]) == f"<Change MAP {address:x}-{address + PAGE_SIZE:x} rw-p>"
    assert repr(mm.space.vmas.get(address)) == "<Vma rw-p>"


def test_every_public_name_is_there_and_documented() -> None:
    for name in laconic.__all__:
        thing = getattr(laconic, name)
        if inspect.isclass(thing):
            assert (inspect.getdoc(thing) or "").strip(), f"{name} has no docstring"
    assert isinstance(MemoryManager(Recorder()).space, AddressSpace)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(laconic, "Nothing")  # noqa: B009


@pytest.mark.parametrize("module", ["change", "manager", "pal", "vma", "flags"])
def test_examples_in_docstrings(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"laconic.memory.{module}"))
    assert attempted > 0 and failed == 0


def test_no_place_for_a_mapping_is_an_error(pal: Recorder) -> None:
    """Of shared files the library chooses the place; a full or an unknown layout has none."""
    big = OpenFile(File(8, 1, 77, "/data"), readable=True, writable=True, places=True, size=8 << 20)
    for base, error in ((None, ENOSYS), (f.TASK_SIZE, ENOMEM)):
        space = AddressSpace(Layout(mmap_base=base))
        mm = MemoryManager(pal, space)
        length = 4 << 20 if base is None else f.TASK_SIZE
        with pytest.raises(OSError, match=r"\w") as failure:
            mm.mmap(None, length, RW, f.MAP_SHARED, big)
        assert failure.value.errno == error
        assert mm.space.map_count == 0


def test_every_call_reaches_its_operation(mm: MemoryManager, pal: Recorder) -> None:
    start = mm.mmap(None, 8 * PAGE_SIZE, RW)
    pal.changes.clear()

    def pages() -> list[tuple[ChangeKind, int, int]]:
        shown = [
            (change.kinds, (change.start - start) // PAGE_SIZE, (change.end - start) // PAGE_SIZE)
            for change in pal.changes
        ]
        pal.changes.clear()
        return shown

    flags, advise = ChangeKind.FLAGS, ChangeKind.ADVISE
    mm.mlock(start, PAGE_SIZE)
    assert pages() == [(flags, 0, 1)]
    mm.mlock2(start + PAGE_SIZE, PAGE_SIZE, f.MLOCK_ONFAULT)
    assert pages() == [(flags, 1, 2)]
    mm.mlock2(start + PAGE_SIZE, PAGE_SIZE)
    assert pages() == [(flags, 1, 2)]
    mm.munlock(start + PAGE_SIZE, PAGE_SIZE)
    assert pages() == [(flags, 1, 2)]
    mm.mlockall()
    assert pages() == [(flags, 1, 8)] and mm.space.def_flags == 0
    mm.munlockall()
    assert pages() == [(flags, 0, 8)]
    mm.madvise(start, PAGE_SIZE, f.MADV_DONTFORK)
    assert pages() == [(flags, 0, 1)]
    mm.pkey_mprotect(start + 2 * PAGE_SIZE, PAGE_SIZE, RW, 3)
    assert pages() == [(flags, 2, 3)]
    mm.mseal(start + 7 * PAGE_SIZE, PAGE_SIZE)
    assert pages() == [(flags, 7, 8)]
    file = OpenFile(File(8, 1, 77, "/data"), readable=True, writable=True)
    start = mm.mmap(None, 2 * PAGE_SIZE, RW, f.MAP_SHARED | f.MAP_ANONYMOUS, file)
    pal.changes.clear()
    mm.msync(start, PAGE_SIZE)
    assert pages() == [(advise, 0, 1)]
    mm.remap_file_pages(start, PAGE_SIZE, 1)
    assert pages() == [(ChangeKind.FILE, 0, 1)]
    with pytest.raises(OSError, match="Linux host") as error:
        mm.remap_file_pages(start, 2 * PAGE_SIZE, 0)
    assert error.value.errno == ENOSYS
    moved = mm.mremap(
        start, PAGE_SIZE, PAGE_SIZE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, start - PAGE_SIZE
    )
    assert moved == start - PAGE_SIZE
