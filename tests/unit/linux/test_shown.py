"""Comparison with /proc/PID/maps, and a range of the host's map read as cheaply as possible."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from laconic.linux import proc
from laconic.linux.shown import agrees, is_private_zero
from laconic.memory.flags import (
    PAGE_SIZE,
    VM_DONTCOPY,
    VM_MAYSHARE,
    VM_PROT,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from laconic.memory.layout import Layout
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.tracer.process import TracedMm, TracedThread

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = libc.mprotect.argtypes
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
RW, MADV_DONTFORK = VM_READ | VM_WRITE, 10
PAGES = 8


@pytest.fixture
def start() -> Iterator[int]:
    """The address of eight pages between two inaccessible ones."""
    view = mmap.mmap(-1, (PAGES + 2) * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pointer = ctypes.c_char.from_buffer(view)
    start = ctypes.addressof(pointer) + PAGE_SIZE
    for guard in (start - PAGE_SIZE, start + PAGES * PAGE_SIZE):
        assert libc.mprotect(guard, PAGE_SIZE, 0) == 0
    yield start
    assert libc.mprotect(start - PAGE_SIZE, (PAGES + 2) * PAGE_SIZE, RW) in (0, -1)
    del pointer
    view.close()


@pytest.fixture
def thread(start: int) -> TracedThread:
    """This process as a thread that Laconic follows; its bookkeeping is exact now."""
    pid = os.getpid()
    return TracedThread(pid, pid, TracedMm(AddressSpace(Layout(), proc.read_smaps(pid))))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ends of the ranges for which smaps was read."""
    ends: list[int] = []
    read = proc.read_smaps_in

    def counted(pid: int, start: int, end: int) -> RangeMap[Vma]:
        ends.append(end)
        return read(pid, start, end)

    monkeypatch.setattr(proc, "read_smaps_in", counted)
    return ends


def protect(space: AddressSpace, start: int, end: int, prot: int) -> None:
    """Make another protection wanted."""
    space.edit(start, end, lambda vma: vma.with_flags(vma.flags & ~VM_PROT | prot))


def within(host: RangeMap[Vma], start: int, end: int) -> list[tuple[int, int, Vma | None]]:
    return list(host.runs(start, end))


def test_a_call_that_the_host_did_half_is_read_without_smaps(
    start: int, thread: TracedThread, reads: list[int]
) -> None:
    space, end = thread.mm.space, start + PAGES * PAGE_SIZE
    assert space is not None
    protect(space, start, end, VM_READ)
    assert libc.mprotect(start, 3 * PAGE_SIZE, VM_READ) == 0
    host = thread.maps_in(start, end)
    assert not reads
    assert within(host, start, end) == within(proc.read_smaps(thread.tid), start, end)
    assert [vma.flags & VM_PROT for _, _, vma in host] == [VM_READ, RW]


def test_a_hole_is_a_hole(start: int, thread: TracedThread, reads: list[int]) -> None:
    end = start + PAGES * PAGE_SIZE
    assert libc.munmap(start + 2 * PAGE_SIZE, PAGE_SIZE) == 0
    host = thread.maps_in(start, end)
    assert not reads
    assert [(a - start) // PAGE_SIZE for a, b, vma in host.runs(start, end) if vma is None] == [2]


def test_flags_that_maps_does_not_show_are_read_from_smaps(
    start: int, thread: TracedThread, reads: list[int]
) -> None:
    space, end = thread.mm.space, start + PAGES * PAGE_SIZE
    assert space is not None
    space.edit(start, end, lambda vma: vma.with_flags(vma.flags | VM_DONTCOPY))
    assert libc.madvise(start, 2 * PAGE_SIZE, MADV_DONTFORK) == 0
    host = thread.maps_in(start, end)
    assert reads == [end]
    assert [bool(vma.flags & VM_DONTCOPY) for _, _, vma in host] == [True, False]
    assert within(host, start, end) == within(proc.read_smaps(thread.tid), start, end)


def test_unknown_mappings_are_read_from_smaps(
    start: int, thread: TracedThread, reads: list[int]
) -> None:
    end = start + PAGES * PAGE_SIZE
    assert libc.mprotect(start, PAGE_SIZE, 0) == 0
    host = thread.maps_in(start, end)
    assert reads == [end]
    assert within(host, start, end) == within(proc.read_smaps(thread.tid), start, end)


@pytest.mark.parametrize("query", [True, False])
def test_agreement_covers_the_range_and_its_neighbors(
    start: int, thread: TracedThread, query: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With PROCMAP_QUERY, and with the text that older kernels have."""
    space, middle, end = thread.mm.space, start + 3 * PAGE_SIZE, start + PAGES * PAGE_SIZE
    assert space is not None
    if not query:

        def unknown(file: object, request: int, argument: bytes) -> bytes:
            raise OSError(25, "no such ioctl")

        monkeypatch.setattr(fcntl, "ioctl", unknown)
    vmas = space.vmas.copy()
    with proc.MapsFile(thread.tid) as maps:
        assert agrees(maps, vmas, middle, middle + PAGE_SIZE)
        for first, last, wrong in (
            (middle, middle + PAGE_SIZE, None),
            (end - PAGE_SIZE, end, None),
            (middle, middle + PAGE_SIZE, Vma(VM_READ)),
            (start, middle, Vma(VM_READ)),
        ):
            vmas.set(first, last, wrong)
            assert not agrees(maps, vmas, middle, middle + PAGE_SIZE)
            vmas = space.vmas.copy()
        assert libc.munmap(middle, PAGE_SIZE) == 0
        assert not agrees(maps, vmas, middle, middle + PAGE_SIZE)
        vmas.clear(middle, middle + PAGE_SIZE)
        assert agrees(maps, vmas, middle, middle + PAGE_SIZE)


def test_vmas_that_touch_the_range_are_compared_too(start: int, thread: TracedThread) -> None:
    """They must be as wanted, and where there is none, none may be wanted."""
    space, end = thread.mm.space, start + PAGES * PAGE_SIZE
    assert space is not None
    vmas = space.vmas.copy()
    with proc.MapsFile(thread.tid) as maps:
        for guard, first, last in (
            (end, end - PAGE_SIZE, end),
            (start - PAGE_SIZE, start, start + PAGE_SIZE),
        ):
            assert agrees(maps, vmas, first, last)
            vmas.set(guard, guard + PAGE_SIZE, Vma(VM_READ))
            assert not agrees(maps, vmas, first, last)
            vmas = space.vmas.copy()
        hole = start + 3 * PAGE_SIZE
        assert libc.munmap(hole, PAGE_SIZE) == 0
        for first in (hole - PAGE_SIZE, hole + PAGE_SIZE):
            assert not agrees(maps, vmas, first, first + PAGE_SIZE)
        vmas.clear(hole, hole + PAGE_SIZE)
        for first in (hole - PAGE_SIZE, hole + PAGE_SIZE):
            assert agrees(maps, vmas, first, first + PAGE_SIZE)


def test_the_file_is_that_of_the_process_when_it_was_opened() -> None:
    """After its end there is nothing to read, and a new process with its id is not taken for it."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)
    maps = proc.MapsFile(pid)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with maps, pytest.raises(OSError):
        list(maps.vmas(0, 1 << 47))


def test_private_mappings_of_dev_zero() -> None:
    zero = File(0, 6, 5, "/dev/zero")
    assert is_private_zero(Vma(RW, zero))
    assert is_private_zero(Vma(RW | VM_MAYSHARE, zero)), "shared, of a read-only descriptor"
    assert not is_private_zero(Vma(RW | VM_MAYSHARE | VM_SHARED, zero))
    assert not is_private_zero(Vma(RW))
    assert not is_private_zero(Vma(RW, File(8, 1, 5, "/zero")))
