"""every-call counts what upstream Gramine's SGX PAL does with EDMM, for each of its operations and
LibOS calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from laconic.libos.strategy import MemoryCall
from laconic.memory import flags as f
from laconic.memory.change import EXTEND, FILE, FLAGS, MAP, UNMAP, Change
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import File, Vma
from laconic.sgx.meter import Counts, Meter
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.pal.gramine import LAZY, Gramine
from laconic.strategies.every_call import EveryCall, ProcessKilled
from tests.helpers.enclaveworld import (
    BASE,
    FIXED,
    HEAP,
    LIB,
    PAGE,
    PRIVATE,
    Cost,
    Program,
    cost,
    lib,
    machine,
)

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
MAY = f.VM_MAY_RWX
NORESERVE = FIXED | f.MAP_NORESERVE
SHARED_FILE = f.MAP_SHARED | f.MAP_FIXED
#: Pages of sys.stack.size.
STACK = 64


def fresh() -> Program[EveryCall]:
    return Program(EveryCall)


def total(*costs: Cost) -> Cost:
    """All of these costs together."""
    return Cost(*map(sum, zip(*costs, strict=True)))


Step = Callable[[Program[EveryCall], int], None]


def nothing(p: Program[EveryCall], n: int) -> None:
    pass


def mapped(prot: int, flags: int = FIXED) -> Step:
    return lambda p, n: p.map(BASE, n, prot, flags)


def lazily(p: Program[EveryCall], n: int, runs: int) -> None:
    # Every second page of a lazy range is touched.
    p.map(BASE, 2 * runs, RW, NORESERVE)
    for run in range(runs):
        p.touch(BASE + 2 * run * PAGE, 1)


def per_page(p: Program[EveryCall], n: int) -> None:
    for page in range(n):
        p.protect(BASE + page * PAGE, 1, RW)


def tracked(p: Program[EveryCall], n: int) -> None:
    p.strategy.pal = Gramine(p.meter)
    p.map(BASE, n, RW, NORESERVE)


def lazily_in_part(p: Program[EveryCall], n: int) -> None:
    p.map(BASE - PAGE * n, 2 * n, 0, NORESERVE)
    p.unmap(BASE, n)


def protected(prot: int) -> Step:
    return lambda p, n: p.protect(BASE, n, prot)


def stack_size(n: int) -> int:
    """Pages of a stack that is n pages in the trace: at least those of sys.stack.size."""
    return max(n, STACK)


def stack(p: Program[EveryCall], n: int) -> None:
    p.load([(BASE, BASE + n * PAGE, Vma(RW | MAY | f.VM_GROWSDOWN))])


def written(p: Program[EveryCall], n: int) -> None:
    assert p.call("msync", BASE, n * PAGE, f.MS_SYNC) == 0


def dontneed(p: Program[EveryCall], n: int) -> None:
    assert p.call("madvise", BASE, n * PAGE, f.MADV_DONTNEED) == 0


#: name: what is there before, the operation, its cost for N pages. A file's tail past its end is 3
#: pages.
ROWS: dict[str, tuple[Step, Step, Callable[[int], Cost]]] = {
    "alloc RW": (nothing, mapped(RW), lambda n: Cost(0, n, 0, n)),
    "alloc W": (nothing, mapped(W), lambda n: Cost(0, n, 0, n)),
    "alloc RWX": (nothing, mapped(RWX), lambda n: Cost(0, n, n, n)),
    "alloc R": (nothing, mapped(R), lambda n: Cost(1, 2 * n, 0, n)),
    "alloc NONE": (nothing, mapped(0), lambda n: Cost(1, 2 * n, 0, n)),
    "alloc RX": (nothing, mapped(RX), lambda n: Cost(1, 2 * n, n, n)),
    "alloc lazy, new bits": (nothing, tracked, lambda n: Cost(0, 1, 0, 1)),
    "alloc lazy": (
        lazily_in_part,
        mapped(0, NORESERVE),
        lambda n: Cost(),
    ),
    "touch of lazy RW": (mapped(RW, NORESERVE), lambda p, n: p.touch(BASE, n),
                         lambda n: Cost(0, n, 0, n, n)),
    "touch of lazy RX": (
        mapped(RX, NORESERVE), lambda p, n: p.touch(BASE, n), lambda n: Cost(n, 2 * n, n, n, n),
    ),
    "touch of RW": (mapped(RW), lambda p, n: p.touch(BASE, n), lambda n: Cost()),
    "free": (mapped(RW), lambda p, n: p.unmap(BASE, n), lambda n: Cost(2, n)),
    "free NONE": (mapped(0), lambda p, n: p.unmap(BASE, n), lambda n: Cost(2, n)),
    "free lazy": (mapped(RW, NORESERVE), lambda p, n: p.unmap(BASE, n), lambda n: Cost()),
    "free lazy, n runs": (
        lambda p, n: lazily(p, n, n), lambda p, n: p.unmap(BASE, 2 * n), lambda n: Cost(2 * n, n),
    ),
    "protect lazy": (mapped(RW, NORESERVE), lambda p, n: p.protect(BASE, n, R), lambda n: Cost()),
    "protect lazy, n runs": (
        lambda p, n: lazily(p, n, n), lambda p, n: p.protect(BASE, 2 * n, R),
        lambda n: Cost(n, n, n),
    ),
    "fixed RW over RW": (mapped(RW), mapped(RW), lambda n: Cost(2, 2 * n, 0, n)),
    "protect per page": (mapped(RW), per_page, lambda n: Cost(n, n, n)),
    "file R": (nothing, lambda p, n: p.map_file(BASE, n, R, lib(n)),
               lambda n: Cost(1, 2 * n, n, n)),
    "file RW": (nothing, lambda p, n: p.map_file(BASE, n, RW, lib(n)), lambda n: Cost(0, n, 0, n)),
    "file RX": (nothing, lambda p, n: p.map_file(BASE, n, RX, lib(n)),
                lambda n: Cost(1, 2 * n, 2 * n, n)),
    "file R, tail": (
        nothing,
        lambda p, n: p.map_file(BASE, n + 3, R, lib(n - 0.5)),
        lambda n: Cost(2, 2 * (n + 3) + 3, n + 3 + 3, n + 3),
    ),
    "file RW, tail": (
        nothing, lambda p, n: p.map_file(BASE, n + 3, RW, lib(n)),
        lambda n: Cost(1, n + 3 + 3, 3, n + 3),
    ),
    "stack": (
        nothing,
        stack,
        lambda n: Cost(2, 3 * stack_size(n) + 2, stack_size(n), stack_size(n) + 1),
    ),
    "DONTNEED RW": (mapped(RW), dontneed, lambda n: Cost()),
    "DONTNEED R": (mapped(R), dontneed, lambda n: Cost(2, 2 * n, 2 * n)),
    "DONTNEED lazy": (mapped(R, NORESERVE), dontneed, lambda n: Cost()),
    "write to a file": (
        lambda p, n: p.map_file(BASE, n, RW, lib(n), SHARED_FILE), written, lambda n: Cost(1, n, n),
    ),
    "write to a file, tail": (
        lambda p, n: p.map_file(BASE, n + 3, RW, lib(n), SHARED_FILE), written,
        lambda n: Cost(2, n + 3, n + 3),
    ),
}  # fmt: skip
# Protect to anything, also to what it is.
ROWS |= {
    f"protect {old}→{new}": (
        mapped(old),
        protected(new),
        lambda n: Cost(1, n, n),
    )
    for old in (0, R, W, RW, RX, RWX)
    for new in (0, R, W, RW, RX, RWX)
}


@pytest.mark.parametrize(("row", "n"), [(row, (1, 7, 1000)[i % 3]) for i, row in enumerate(ROWS)])
def test_each_row_of_upstreams_table(row: str, n: int) -> None:
    """The numbers are exact, and the modelled hardware, where it runs beside, agrees to every
    step."""
    before, operation, expected = ROWS[row]
    hardware = machine()
    for meter in (Meter(), hardware):
        p = Program(EveryCall, meter)
        before(p, n)
        p.anew()
        operation(p, n)
        assert cost(p) == expected(n)
    for start, end, had in p.strategy.pal.pages:
        effective = [(start, end, None)] if had == LAZY else [(start, end, had)]
        assert list(hardware.effective(start, end)) == effective


# What the LibOS makes of calls


def test_vmas_never_merge() -> None:
    """Ten mprotects, each back to what it was, leave VMAs behind, and munmap frees each by
    itself."""
    p = fresh()
    p.map(BASE, 21, RW)
    for k in range(10):
        p.protect(BASE + (2 * k + 1) * PAGE, 1, R)
        p.protect(BASE + (2 * k + 1) * PAGE, 1, RW)
    assert p.strategy.vmas.count == 21
    assert p.space.vmas.count == 1, "Linux has one"
    p.anew().unmap(BASE, 21)
    assert cost(p) == Cost(2 * 21, 21)
    assert not p.strategy.vmas.count


def test_an_equal_mprotect_splits_too() -> None:
    p = fresh()
    p.map(BASE, 3, RW)
    p.protect(BASE + PAGE, 1, RW)
    assert [(end - start) // PAGE for start, end, _ in p.strategy.vmas] == [1, 1, 1]


def test_neighbours_stay_apart_and_are_one_protect() -> None:
    """Two mmaps side by side: mprotect of both is one host call, munmap of both four."""
    p = fresh()
    p.map(BASE, 2, RW)
    p.map(BASE + 2 * PAGE, 3, RW)
    p.anew().protect(BASE, 5, R)
    assert cost(p) == Cost(1, 5, 5)
    p.anew().unmap(BASE, 5)
    assert cost(p) == Cost(4, 5)


def test_map_fixed_frees_each_vma_below_it() -> None:
    p = fresh()
    p.map(BASE, 3, RW)
    p.map(BASE + 3 * PAGE, 3, R)
    p.anew().map(BASE + 2 * PAGE, 2, RW)
    assert cost(p) == Cost(4, 4, 0, 2)
    assert [(end - start) // PAGE for start, end, _ in p.strategy.vmas] == [2, 2, 2]


def test_a_hint_that_is_free_frees_nothing() -> None:
    p = fresh()
    p.map(BASE, 3, RW, PRIVATE)
    assert cost(p) == Cost(0, 3, 0, 3)


@pytest.mark.parametrize("size", [0, 1 << 30])
def test_a_file_of_unknown_size_is_all_there(size: int) -> None:
    p = fresh()
    p.map_file(BASE, 4, R, OpenFile(LIB, True, True, plain=bool(size), size=size))
    assert cost(p) == Cost(1, 8, 4, 4)
    assert p.counts.pages_copied == 4


def test_contents_are_one_read_of_the_pages_that_the_file_has() -> None:
    p = fresh()
    p.map_file(BASE, 5, R, lib(6.5), page=4)
    assert (p.strategy.transfers, p.counts.pages_copied) == (2, 3), "the second read returns 0"
    assert p.counts.host_calls == 4 and p.counts.ioctls == 2
    p.anew().map_file(BASE + 16 * PAGE, 5, R, lib(3), page=4)
    assert (p.strategy.transfers, p.counts.pages_copied) == (1, 0), "nothing of it is in the file"
    p.anew().map_file(BASE + 32 * PAGE, 5, R, lib(8))
    assert (p.strategy.transfers, p.counts.pages_copied) == (1, 5), "all of it is in the file"


def test_mprotect_opens_a_files_tail() -> None:
    """Pages past the end of the file are a SIGBUS in Linux; upstream's Protect covers them too, and
    is caught."""
    p = fresh()
    p.map_file(BASE, 4, R, lib(3))
    assert p.strategy.pal.pages.get(BASE + 3 * PAGE) == 0
    p.anew().protect(BASE, 4, RW)
    assert p.strategy.pal.pages.get(BASE + 3 * PAGE) == RW
    assert p.counts.open_windows == 1


def test_a_write_reaches_every_mapping_of_the_file() -> None:
    p = fresh()
    p.map_file(BASE, 2, RW, lib(4), SHARED_FILE)
    p.map_file(BASE + 8 * PAGE, 3, R, lib(4), SHARED_FILE, page=2)
    p.map_file(BASE + 16 * PAGE, 4, RW, lib(4, File(8, 1, 78, "/other")), SHARED_FILE)
    p.unmap(BASE + 10 * PAGE, 1)
    p.map(BASE + 10 * PAGE, 1, RW)
    p.anew()
    written(p, 2)
    assert p.strategy.transfers == 1 + 2, "one write; both mappings are read again"
    assert cost(p) == Cost(2 + 2, 4 + 4, 4 + 4), (
        "two pages here, two there, and these are opened and closed again to be read; "
        "what was mapped over it is no longer the file's"
    )


def test_msync_opens_what_cannot_be_read() -> None:
    p = fresh()
    p.map_file(BASE, 2, RW, lib(2), SHARED_FILE)
    p.protect(BASE, 2, 0)
    p.anew()
    written(p, 2)
    assert cost(p) == Cost(5, 10, 10), "opened to write, refreshed, opened to read, closed twice"
    assert p.counts.open_windows == 4


def test_other_advice_costs_nothing() -> None:
    p = fresh()
    p.map(BASE, 4, RW)
    p.map_file(BASE + 8 * PAGE, 4, RW, lib(4))
    p.map_file(BASE + 16 * PAGE, 4, R, lib(4))
    p.anew()
    for advice in (f.MADV_FREE, f.MADV_WILLNEED, f.MADV_HUGEPAGE, f.MADV_DONTFORK):
        p.call("madvise", BASE, 4 * PAGE, advice)
    for start in (BASE + 8 * PAGE, BASE + 16 * PAGE):
        p.call("madvise", start, 4 * PAGE, f.MADV_DONTNEED)
    p.call("msync", BASE, 4 * PAGE, f.MS_SYNC)
    p.call("mlock", BASE, 4 * PAGE)
    assert p.counts == Counts()


def test_dontneed_zeroes_what_is_committed() -> None:
    p = fresh()
    p.map(BASE, 8, RW, NORESERVE)
    p.touch(BASE + PAGE, 3)
    p.map(BASE + 8 * PAGE, 2, R)
    p.anew().call("madvise", BASE, 10 * PAGE, f.MADV_DONTNEED)
    assert p.counts.pages_zeroed == 5
    assert p.counts.open_windows == 2


def test_brk() -> None:
    """Each growth is a VMA, also to Linux's one; what is given up is one Free, and a break that
    stays nothing."""
    p = fresh()
    for pages in (1, 3, 6):
        p.anew().call("brk", HEAP + pages * PAGE - 8)
        assert p.counts.host_calls == 0
    assert cost(p) == Cost(0, 3, 0, 3)
    assert p.strategy.vmas.count == 3
    p.anew().call("brk", HEAP + 6 * PAGE)
    assert p.counts == Counts()
    p.call("brk", HEAP + 2 * PAGE)
    assert cost(p) == Cost(2, 4)
    assert [(end - start) // PAGE for start, end, _ in p.strategy.vmas] == [1, 1]


def test_the_image_of_a_program() -> None:
    p = fresh()
    p.load(
        [
            (BASE, BASE + 2 * PAGE, Vma(RX | MAY, LIB, BASE)),
            (BASE + 2 * PAGE, BASE + 3 * PAGE, Vma(RW | MAY, LIB, BASE)),
            (BASE + 3 * PAGE, BASE + 7 * PAGE, Vma(RW | MAY)),
            (BASE + 20 * PAGE, BASE + 24 * PAGE, Vma(R | f.VM_IO | f.VM_PFNMAP | f.VM_DONTEXPAND)),
            (BASE + 24 * PAGE, BASE + 26 * PAGE, Vma(RX | MAY | f.VM_DONTEXPAND)),
        ]
    )
    text, last_page = Cost(1, 4, 4, 2), Cost(2, 2, 2)
    data, bss, vdso = Cost(0, 1, 0, 1), Cost(0, 4, 0, 4), Cost(1, 2, 1, 1)
    assert cost(p) == total(text, last_page, data, bss, vdso)
    assert (p.counts.ecreate, p.counts.einit, p.strategy.transfers) == (1, 1, 2)
    assert p.counts.open_windows == 4, (
        "the text is RWX until it is read, and its last page once more; the vDSO on its way to RX"
    )
    assert not p.strategy.vmas.covered(BASE + 20 * PAGE, BASE + 24 * PAGE)


def test_a_stack_has_its_full_size_from_the_start() -> None:
    """Beyond that size, which upstream's cannot have, the pages cost what they would have cost at
    the start, and the VMA stays one."""
    p = fresh()
    top = BASE + 100 * PAGE
    stack_vma = Vma(RW | MAY | f.VM_GROWSDOWN)
    p.load([(top - 4 * PAGE, top, stack_vma)])
    p.anew().strategy.grow(top - STACK * PAGE, top - 4 * PAGE, stack_vma)
    assert p.counts == Counts()
    assert p.meter.exceeded == {}
    p.strategy.grow(top - (STACK + 6) * PAGE, top - STACK * PAGE, stack_vma)
    assert cost(p) == Cost(0, 3 * 6, 6, 6)
    assert p.meter.exceeded == {"sys.stack.size": (STACK + 6) * PAGE}
    p.strategy.grow(top - (STACK + 8) * PAGE, top - (STACK + 6) * PAGE, stack_vma)
    sizes = [((end - start) // PAGE, vma.prot) for start, end, vma in p.strategy.vmas]
    assert sizes == [(1, 0), (STACK + 8, RW)], "the guard page stays below"
    assert p.strategy.pal.pages.get(top - (STACK + 9) * PAGE) == 0


def test_a_mapping_that_grows_down_has_no_guard_page() -> None:
    p = fresh()
    p.map(BASE, 4, RW, FIXED | f.MAP_GROWSDOWN)
    p.anew().strategy.grow(BASE - 3 * PAGE, BASE, Vma(RW | MAY | f.VM_GROWSDOWN))
    assert cost(p) == Cost(0, 3 * 3, 3, 3)
    assert p.strategy.vmas.count == 1
    assert p.meter.exceeded == {}


def test_thread_stacks_have_a_guard_page_that_the_bookkeeping_does_not_know() -> None:
    p = Program(EveryCall, machine())
    p.strategy.thread()
    stack, slot = Cost(1, 9, 1, 8), Cost(1, 91, 0, 90)
    assert cost(p) == total(stack, slot)
    assert (p.counts.eaug, p.counts.eaccept) == (98, 100)
    (start, end, vma), *_ = p.strategy.vmas
    assert (end - start, vma.prot) == (8 * PAGE, RW)
    assert p.strategy.pal.pages.get(start) == 0, (
        "the example of issue #1708: the VMA says RW, the page has nothing"
    )
    p.anew().strategy.thread_ends()
    assert cost(p) == Cost(2, 8)
    p.anew().strategy.thread()
    assert cost(p) == stack, "the slot of the ended thread is used again"
    p.strategy.thread()
    assert p.strategy.vmas.count == 4
    p.strategy.end()
    assert p.meter.epc_pages == 0


# mremap, which upstream does not have


def test_mremap_is_what_the_c_library_does() -> None:
    p = fresh()
    p.map(BASE, 4, RW)
    p.map(BASE + 4 * PAGE, 1, RW)
    p.protect(BASE + 4 * PAGE, 1, R)
    p.anew()
    target = p.call("mremap", BASE, 4 * PAGE, 9 * PAGE, f.MREMAP_MAYMOVE)
    assert target > BASE + 5 * PAGE
    assert cost(p) == Cost(2, 9 + 4, 0, 9)
    assert (p.counts.pages_copied, p.meter.peak_epc_pages) == (4, 1 + 4 + 9)
    p.anew().call("mremap", target, 9 * PAGE, 2 * PAGE, 0)
    assert cost(p) == Cost(2, 7)
    p.anew().call("mremap", target, 2 * PAGE, 2 * PAGE, 0)
    assert p.counts == Counts()
    p.call("mremap", BASE + 4 * PAGE, PAGE, 3 * PAGE, 0)
    assert cost(p) == Cost(2 + 1, 1 + 3 + 3, 3, 3), (
        "in place for Linux; a copy, and R at the end, here"
    )
    assert p.meter.peak_epc_pages == 14
    p.unmap(target, 2)
    p.unmap(BASE, 8)
    assert p.meter.epc_pages == 0


def test_mremap_of_lazy_memory_commits_it_by_copying() -> None:
    p = Program(EveryCall, machine())
    p.map(BASE, 4, RW, NORESERVE)
    p.touch(BASE, 1)
    p.anew()
    target = p.call(
        "mremap", BASE, 4 * PAGE, 4 * PAGE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, BASE - (1 << 30)
    )
    assert cost(p) == Cost(2, 3 + 4 + 4, 0, 3 + 4, 3)
    p.touch(target, 4)
    assert p.counts.untouched_pages == 0


# Failures, unknown calls


def test_a_call_that_fails_costs_nothing() -> None:
    p = fresh()
    p.map(BASE, 2, RW)
    p.anew()
    assert p.call("mprotect", BASE, 4 * PAGE, R) < 0
    assert p.call("mmap", BASE, 0, RW, FIXED) < 0
    assert p.call("munmap", BASE + 1, PAGE) < 0
    assert p.counts == Counts()
    assert [vma.prot for _, _, vma in p.strategy.vmas] == [RW], (
        "bkeep_mprotect refuses before it changes anything"
    )


def test_a_mapping_that_only_the_host_can_describe_is_allocated() -> None:
    p = fresh()
    segment = Vma(RW | MAY | f.VM_SHARED | f.VM_MAYSHARE, File(0, 1, 5, "/SYSV00000000"), BASE)
    change = Change(MAP, BASE, BASE + 4 * PAGE, segment, None)
    p.tell(MemoryCall("shmat", (0,) * 6, BASE, (change,)))
    assert cost(p) == Cost(0, 4, 0, 4)
    p.anew().tell(
        MemoryCall(
            "shmdt", (BASE,) + (0,) * 5, 0, (Change(UNMAP, BASE, BASE + 4 * PAGE, None, segment),)
        )
    )
    assert cost(p) == Cost(2, 4)


def test_changes_without_a_call_are_followed() -> None:
    """The host was seen to hold something else: wider pages, another file, nothing."""
    p = fresh()
    p.map(BASE, 8, R)
    plain, wide, other = Vma(R | MAY), Vma(RW | MAY), Vma(R | MAY, LIB, BASE)
    changes = (
        Change(EXTEND, BASE, BASE + 2 * PAGE, wide, plain),
        Change(FILE, BASE + 2 * PAGE, BASE + 4 * PAGE, other, plain),
        Change(UNMAP, BASE + 4 * PAGE, BASE + 5 * PAGE, None, plain),
        Change(FLAGS, BASE + 5 * PAGE, BASE + 8 * PAGE, plain, plain),
    )
    p.anew().tell(MemoryCall("other", (0,) * 6, 0, changes))
    assert cost(p) == Cost(1 + 3 + 2, 2 + 2 + 4 + 1, 2 + 2, 2)
    assert [vma.prot for _, _, vma in p.strategy.vmas] == [RW, R, R]


def test_prot_growsdown_begins_with_the_vma() -> None:
    p = fresh()
    p.map(BASE, 8, RW, FIXED | f.MAP_GROWSDOWN)
    p.anew().protect(BASE + 4 * PAGE, 2, R | f.PROT_GROWSDOWN)
    assert cost(p) == Cost(1, 6, 6)


@pytest.mark.parametrize(
    "kind", ["eaug", "eaccept", "emodpe", "restrict", "modify_types", "remove"]
)
def test_any_failure_kills_the_process(kind: str) -> None:
    """Upstream's die_or_inf_loop; no other strategy has that."""
    p = Program(
        EveryCall, machine(Plan(lambda which, nth: Failure(error=16) if which == kind else None))
    )
    with pytest.raises(ProcessKilled, match="ends the process"):
        p.map(BASE, 2, RX)
        p.unmap(BASE, 2)


# What is found


@pytest.mark.parametrize(
    ("old", "new", "windows"),
    [(RW, RX, 5), (R, RW, 0), (RW, R, 0), (RX, RW, 5), (0, RWX, 0), (RW, RW, 0)],
)
def test_open_windows_of_mprotect(old: int, new: int, windows: int) -> None:
    """EMODPE before EMODPR: on the way from RW to RX the pages are RWX. The machine sees it too."""
    seen: set[int | None] = set()
    meter = machine()
    p = Program(EveryCall, meter)
    p.map(BASE, 5, old)
    meter.after_step = lambda m: seen.update(
        prot for _, _, prot in m.effective(BASE, BASE + 5 * PAGE)
    )
    p.anew().protect(BASE, 5, new)
    assert p.counts.open_windows == windows
    assert (RWX in seen and RWX not in (old, new)) == bool(windows)


@pytest.mark.parametrize(("prot", "windows"), [(RW, 0), (W, 0), (RWX, 0), (R, 5), (0, 5), (RX, 5)])
@pytest.mark.parametrize("file", [False, True])
def test_open_windows_of_mmap(prot: int, windows: int, file: bool) -> None:
    p = fresh()
    if file:
        p.map_file(BASE, 5, prot, lib(5))
    else:
        p.map(BASE, 5, prot)
    assert p.counts.open_windows == windows


def test_untouched_pages() -> None:
    """What is committed before it is touched, or cleared in place, and then given back or kept for
    nothing."""
    p = fresh()
    p.map(BASE, 8, RW)
    p.touch(BASE, 5)
    assert p.counts.untouched_pages == 3
    p.call("madvise", BASE + 4 * PAGE, 4 * PAGE, f.MADV_DONTNEED)
    assert p.counts.untouched_pages == 4
    p.touch(BASE, 8)
    assert p.counts.untouched_pages == 0
    p.map(BASE, 4, R)
    p.unmap(BASE, 8)
    p.map(BASE, 8, RW, NORESERVE)
    p.touch(BASE, 2)
    assert p.counts.untouched_pages == 4, "the four that were mapped over and never read"


def test_untouched_pages_of_a_file_that_is_discarded() -> None:
    """Upstream ignores DONTNEED there: the pages stay, and the program's next touch is no
    commit."""
    p = fresh()
    p.map_file(BASE, 4, R, lib(4))
    p.touch(BASE, 4)
    dontneed(p, 4)
    p.touch(BASE, 2)
    assert p.counts.untouched_pages == 2
