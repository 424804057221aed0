"""What Gramine does around the calls: one test or more for each thing, with the counts that were
found by running Gramine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import pytest

from laconic.errors import LaconicError
from laconic.libos.gramine import VMA_INTERNAL
from laconic.libos.settings import Settings, read_manifest
from laconic.libos.slab import ALWAYS, AREA, FIRST, OBJECTS, VmaSlab, list_pages
from laconic.libos.touches import Touches
from laconic.memory import flags as f
from laconic.memory.mmap import OpenFile
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Counts, Meter
from laconic.strategies import maker
from laconic.strategies.every_call import EveryCall
from laconic.strategies.skip_equal import SkipEqual
from tests.helpers.enclaveworld import (
    BASE,
    FIXED,
    HEAP,
    LIB,
    PAGE,
    Cost,
    Maker,
    Program,
    cost,
    lib,
    machine,
)
from tests.helpers.gramine_vectors import InitialVma, calls

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX = R | W, R | X
MAY = f.VM_MAY_RWX
SHARED_FILE = f.MAP_SHARED | f.MAP_FIXED
BOTH = pytest.mark.parametrize("rule", [EveryCall, SkipEqual])


def hello() -> list[Entry]:
    """The image of the program hello, as Linux maps it: program, ld.so, [vdso] and [stack]."""
    entries: list[Entry] = []
    for item in calls("hello"):
        if not isinstance(item, InitialVma):
            continue
        flags = item.prot | MAY
        if item.file:
            name = f"/{item.file}"
            vma = Vma(flags, File(8, 1, item.file, name), item.start)
        elif item.prot == RW:
            vma = Vma(flags | f.VM_GROWSDOWN)
        else:
            vma = Vma(flags | f.VM_DONTEXPAND)
        entries.append((item.start, item.end, vma))
    return entries


# Program load


@BOTH
def test_the_load_of_hello(rule: type[EveryCall]) -> None:
    """10 Allocs and 20 Protects: 21 ioctls, 194 EMODPR, 124 EAUG."""
    p = Program(rule, machine())
    p.load(hello())
    assert (p.counts.ioctls, p.counts.emodpr, p.counts.eaug) == (21, 194, 124)
    assert p.counts.ecreate == 1
    stack = [(end - start) // PAGE for start, end, vma in p.strategy.vmas if vma.prot in (0, RW)]
    assert stack[-2:] == [1, 64], "sys.stack.size, and a guard page below it"


def test_a_larger_stack_in_the_manifest() -> None:
    p = Program(partial(EveryCall, settings=Settings(stack_size=8 << 20)))
    p.load(hello())
    assert p.counts.eaug == 124 - 64 + 2048


# execve


@BOTH
def test_execve_goes_on_in_the_same_enclave(rule: type[EveryCall]) -> None:
    """One Free for each VMA, then a load without a vDSO, whose VMA was freed with the others."""
    p = Program(rule, machine())
    p.load(hello())
    p.strategy.thread()
    p.strategy.thread_ends()
    before = p.meter.epc_pages
    p.anew()
    space, touches = AddressSpace(p.space.layout, hello()), Touches()
    after = p.strategy.execute(space, touches)
    vmas = 10 + 1
    assert (p.counts.ioctls, p.counts.emodt, p.counts.eremove) == (2 * vmas, 124, 124)
    p.anew()
    after.load(space.vmas)
    assert (p.counts.ecreate, p.counts.einit) == (0, 0)
    assert (p.counts.ioctls, p.counts.emodpr, p.counts.eaug) == (20, 193, 123)
    assert p.meter.epc_pages == before - 1
    assert p.meter.peak_epc_pages >= before + 65, "the new stack comes before the old is freed"
    p.anew()
    after.thread()
    assert p.counts.eaug == 8, "the slot of the earlier program's thread is used again"
    after.end()
    assert p.meter.epc_pages == 0


def test_execve_frees_the_heap_at_once() -> None:
    """Three growths are three VMAs, and one Free."""
    p = Program(EveryCall)
    for pages in (1, 3, 6):
        p.call("brk", HEAP + pages * PAGE)
    p.map(BASE, 2, RW)
    p.map(BASE + 2 * PAGE, 2, R)
    p.anew().strategy.execute(p.space, p.touches)
    assert cost(p) == Cost(2 + 2 * 2, 6 + 4)


# Threads


@pytest.mark.parametrize(("max_threads", "free"), [(1, 0), (4, 0), (5, 1), (7, 3)])
def test_threads_within_the_manifests_number_have_slots(max_threads: int, free: int) -> None:
    """Gramine's helpers need three of the slots, and the first thread one."""
    p = Program(partial(EveryCall, settings=Settings(max_threads=max_threads)))
    for _ in range(free):
        p.anew().strategy.thread()
        assert cost(p) == Cost(1, 9, 1, 8), "a stack in the LibOS, and its guard page"
    p.anew().strategy.thread()
    assert (p.counts.eaug, p.counts.eaccept, p.counts.ioctls) == (98, 100, 2)
    p.strategy.thread_ends()
    p.anew().strategy.thread()
    assert cost(p) == Cost(1, 9, 1, 8), "slots are never given back"


# Shared mappings of files


def tail(prot: int, writable: bool = True) -> Program[EveryCall]:
    """A shared mapping that reaches past the end of its file."""
    p = Program(EveryCall)
    file = OpenFile(File(8, 1, 5, "/f"), True, writable, size=2 * PAGE + 100)
    p.map_file(BASE, 4, prot, file, SHARED_FILE)
    return p.anew()


@pytest.mark.parametrize(("prot", "protects"), [(RW, 2), (R, 4)])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_shared_mapping_is_written_back_before_it_goes(
    prot: int, protects: int, fixed: bool
) -> None:
    """Also one that is read-only, if its descriptor may write. All mappings of the file are then
    refreshed and read again."""
    p = tail(prot)
    if fixed:
        p.map(BASE, 4, 0, FIXED | f.MAP_NORESERVE)
    else:
        p.unmap(BASE, 4)
    assert p.counts.ioctls == protects + 2
    assert p.strategy.transfers == 1 + 2, "a write; a read, and one that returns 0"
    assert p.counts.pages_copied == 3 + 3


def test_a_descriptor_that_cannot_write_flushes_nothing() -> None:
    p = tail(R, writable=False)
    p.unmap(BASE, 4)
    assert (p.counts.ioctls, p.strategy.transfers) == (2, 0)


def test_a_private_mapping_flushes_nothing() -> None:
    p = Program(EveryCall)
    p.map_file(BASE, 4, RW, lib(4))
    p.anew().unmap(BASE, 4)
    assert (p.counts.ioctls, p.strategy.transfers) == (2, 0)


def test_a_write_refreshes_private_mappings_and_reads_shared_ones() -> None:
    p = Program(EveryCall)
    p.map_file(BASE, 2, RW, lib(2), SHARED_FILE)
    p.map_file(BASE + 16 * PAGE, 2, R, lib(2))
    p.anew().unmap(BASE, 2)
    assert p.counts.ioctls == 2 + 2
    assert p.strategy.transfers == 2


def test_a_truncated_file_takes_pages_away_and_a_longer_one_gives_them_back() -> None:
    """Today the pages past the end are committed, and inaccessible."""
    p = Program(EveryCall)
    p.map_file(BASE, 4, R, lib(3), SHARED_FILE)
    assert prots(p) == [R, R, R, 0]
    p.anew().strategy.file_written(LIB, PAGE, truncated=True)
    assert prots(p) == [R, 0, 0, 0]
    assert (p.counts.ioctls, p.strategy.transfers) == (2, 0)
    p.anew().strategy.file_written(LIB, 4 * PAGE - 1, truncated=False)
    assert prots(p) == [R, R, R, R]
    assert p.counts.ioctls == 1 + 2, "refreshed, and opened to be read"
    p.anew().strategy.file_written(LIB, 10, truncated=False)
    assert prots(p) == [R, R, R, R], "a write before the end does not move it"


@pytest.mark.parametrize("switches", ["reserve=on", "demand=16", "reserve=on,copy=on"])
def test_pages_past_the_end_of_a_file_come_when_it_grows(switches: str) -> None:
    """With these changes to Gramine, they do not exist before."""
    p = Program(cast(Maker[EveryCall], maker(f"every-call:{switches}")))
    p.map_file(BASE, 4, R, lib(3), SHARED_FILE)
    pages = p.strategy.pal.pages
    assert pages.get(BASE + 3 * PAGE) is None
    p.strategy.file_written(LIB, PAGE, truncated=True)
    assert [pages.get(BASE + n * PAGE) is None for n in range(4)] == [False, True, True, True]
    p.strategy.file_written(LIB, 4 * PAGE, truncated=False)
    assert [pages.get(BASE + n * PAGE) is None for n in range(4)] == [False] * 4


def prots(p: Program[EveryCall]) -> list[int | None]:
    return [p.strategy.pal.pages.get(BASE + n * PAGE) for n in range(4)]


def test_a_file_that_is_not_mapped_is_written_without_work() -> None:
    p = Program(EveryCall)
    p.map_file(BASE, 2, RW, lib(2), SHARED_FILE)
    p.unmap(BASE, 2)
    p.anew().strategy.file_written(LIB, PAGE, truncated=True)
    assert p.counts == Counts()


def test_msync_is_synchronous_or_refused() -> None:
    for flags, writes in ((f.MS_SYNC, 1), (f.MS_ASYNC, 1), (0, 1), (f.MS_INVALIDATE, 0)):
        p = tail(RW)
        p.call("msync", BASE, 4 * PAGE, flags)
        assert bool(p.strategy.transfers) == bool(writes)


# madvise


def test_dontneed_stops_at_a_file_that_was_written() -> None:
    """ENOSYS: what comes before it is cleared, and what comes after it is not."""
    p = Program(EveryCall)
    p.map(BASE, 2, RW)
    p.map_file(BASE + 2 * PAGE, 1, R, lib(1))
    p.map(BASE + 3 * PAGE, 3, RW)
    p.map_file(BASE + 6 * PAGE, 1, RW, lib(1))
    p.map(BASE + 7 * PAGE, 4, RW)
    p.anew().call("madvise", BASE, 11 * PAGE, f.MADV_DONTNEED)
    assert p.counts.pages_zeroed == 5


def test_dontneed_goes_on_after_a_hole() -> None:
    """ENOMEM, but what is mapped is cleared on both sides, as in Linux."""
    p = Program(EveryCall)
    p.map(BASE, 2, RW)
    p.map(BASE + 3 * PAGE, 3, RW)
    assert p.anew().call("madvise", BASE, 6 * PAGE, f.MADV_DONTNEED) < 0
    assert p.counts.pages_zeroed == 5


@pytest.mark.parametrize(
    "advice",
    [f.MADV_DONTFORK, f.MADV_DOFORK, f.MADV_WIPEONFORK, f.MADV_KEEPONFORK, f.MADV_DONTDUMP,
     f.MADV_DODUMP],
)  # fmt: skip
def test_advice_that_is_enosys_does_nothing(advice: int) -> None:
    p = Program(EveryCall)
    p.map(BASE, 4, RW)
    p.anew().call("madvise", BASE, 4 * PAGE, advice)
    assert p.counts == Counts()


# The lazy tracker


@pytest.mark.parametrize("call", ["mmap", "munmap", "mprotect"])
def test_every_pal_call_needs_the_trackers_bits(call: str) -> None:
    """One page for each 128 MiB, at the first Alloc, Free or Protect there."""
    chunk = 128 << 20
    p = Program(EveryCall, tracked=True)
    p.map(BASE, 1, RW)
    assert p.counts.eaug == 1 + 1
    p.anew().map(BASE + PAGE, 1, RW)
    assert p.counts.eaug == 1
    p.anew().map(BASE + chunk - PAGE, 2, RW)
    assert p.counts.eaug == 2 + 1
    p.strategy.pal.pages.set(BASE + 5 * chunk, BASE + 5 * chunk + PAGE, RW)
    p.anew()
    if call == "mmap":
        p.map(BASE + 4 * chunk, 1, RW)
        assert p.counts.eaug == 1 + 1
    elif call == "munmap":
        p.strategy.pal.free(BASE + 5 * chunk, BASE + 5 * chunk + PAGE)
        assert p.counts.eaug == 1
    else:
        p.strategy.pal.protect(BASE + 5 * chunk, BASE + 5 * chunk + PAGE, R)
        assert p.counts.eaug == 1


# The heap


def test_the_heaps_limit_is_noted() -> None:
    p = Program(EveryCall)
    p.call("brk", HEAP + 64 * PAGE)
    assert p.meter.exceeded == {}
    p.call("brk", HEAP + 65 * PAGE)
    p.call("brk", HEAP + PAGE)
    assert p.meter.exceeded == {"sys.brk.max_size": 65 * PAGE}


# The LibOS's own memory


def test_vma_objects_have_memory_that_stays() -> None:
    """An area is two pages, and has 85 objects, one of them for the area itself."""
    slab = VmaSlab(BASE)
    assert OBJECTS == 85
    assert slab.hold(FIRST - ALWAYS) is None
    assert slab.hold(FIRST - ALWAYS + 1) == (BASE, BASE + AREA)
    assert slab.hold(FIRST - ALWAYS + OBJECTS - 1) is None
    assert slab.hold(FIRST - ALWAYS + 3 * OBJECTS) == (BASE + AREA, BASE + 4 * AREA)
    assert slab.hold(1) is None


def test_the_vmas_of_per_page() -> None:
    """4,000 mprotects, each of a page of one mapping: 48 areas; munmap's list of them has 63
    pages."""
    p = Program(EveryCall)
    p.map(BASE, 4000, RW)
    for page in range(20):
        # Those of libc.so, ld.so, the program and the stack.
        p.map(BASE - (2 * page + 2) * PAGE, 1, RW)
    p.anew()
    for page in range(4000):
        p.protect(BASE + page * PAGE, 1, RW)
    assert p.counts.eaug == 2 * 48
    p.anew().unmap(BASE, 4000)
    assert p.counts.eaug == 63
    assert p.counts.ioctls == 2 * 4000 + 2


def test_short_lists_need_no_memory_of_their_own() -> None:
    assert [list_pages(count) for count in (1, 64, 129, 130, 4001)] == [0, 0, 0, 3, 63]


def test_internal_vmas_are_not_the_programs() -> None:
    p = Program(EveryCall)
    p.strategy.thread()
    assert all(vma.flags & VMA_INTERNAL for _, _, vma in p.strategy.vmas)
    child = p.strategy.fork(p.space.fork(), p.touches.copy())
    assert sum(end - start for start, end, _ in child.vmas) == 7 * PAGE, "only its checkpoint"


# The manifest


def test_the_manifests_options(tmp_path: Path) -> None:
    path = tmp_path / "hello.manifest"
    path.write_text('sys.stack.size = "8M"\nsys.brk.max_size = "1G"\n[sgx]\nmax_threads = 16\n')
    assert read_manifest(str(path)) == (Settings(8 << 20, 1 << 30, 16), False)
    path.write_text("loader.log_level = 'trace'\n")
    assert Settings() == (256 << 10, 256 << 10, 4)
    assert read_manifest(str(path)) == (Settings(), False)
    path.write_text("sgx.edmm_enable = true\n")
    assert read_manifest(str(path)) == (Settings(), True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('sys.stack.size = "8Q"', "sys.stack.size = '8Q'"),
        ("sys.brk.max_size = 5", "sys.brk.max_size = 5"),
        ('sys.brk.max_size = "0"', "a size is text"),
        ("sgx.max_threads = 0", "sgx.max_threads = 0"),
        ("sgx.max_threads = true", "give a number"),
        ("{{ execdir }}", "not valid TOML"),
    ],
)
def test_a_manifest_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.manifest"
    path.write_text(text)
    with pytest.raises(LaconicError, match=r"wrong\.manifest") as error:
        read_manifest(str(path))
    assert reason in str(error.value)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="cannot be read"):
        read_manifest(str(tmp_path / "none"))


def test_a_meter_keeps_the_most_that_was_needed() -> None:
    meter = Meter()
    meter.exceeds("sys.brk.max_size", 5)
    meter.exceeds("sys.brk.max_size", 3)
    meter.exceeds("sys.stack.size", 1)
    assert meter.exceeded == {"sys.brk.max_size": 5, "sys.stack.size": 1}
