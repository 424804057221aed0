"""skip-equal is every-call with PR #1824's rule, and right where that rule by itself is wrong."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.memory.vma import Vma
from laconic.sgx.meter import Counts
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.gramine import INTERNAL
from laconic.strategies.every_call import EveryCall
from laconic.strategies.skip_equal import SkipEqual
from tests.helpers.enclaveworld import BASE, PAGE, Program, lib, machine

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
MAY = f.VM_MAY_RWX


def effective(p: Program[EveryCall], pages: int) -> list[tuple[int, int | None]]:
    """What the pages from BASE on really allow: runs of (pages, permissions)."""
    assert isinstance(p.meter, Machine)
    runs: list[tuple[int, int | None]] = []
    for start, end, prot in p.meter.effective(BASE, BASE + pages * PAGE):
        size = (end - start) // PAGE
        if runs and runs[-1][1] == prot:
            size += runs.pop()[0]
        runs.append((size, prot))
    return runs


def bookkept(p: Program[EveryCall]) -> list[tuple[int, int]]:
    """The LibOS's VMAs as (pages, prot)."""
    return [((end - start) // PAGE, vma.prot) for start, end, vma in p.strategy.vmas]


def committed(strategy: EveryCall) -> list[int]:
    """The permissions of the program's pages, run by run."""
    return [had for start, _, had in strategy.pal.pages if start < INTERNAL]


# The rule


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_an_equal_mprotect_is_nothing_at_all(n: int) -> None:
    """No host call, and no split either."""
    p = Program(SkipEqual)
    p.map(BASE, n, RW)
    p.anew()
    for page in range(n):
        p.protect(BASE + page * PAGE, 1, RW)
    p.protect(BASE, n, RW)
    assert p.counts == Counts()
    assert bookkept(p) == [(n, RW)]


def test_each_vma_that_differs_is_a_protect_of_its_own() -> None:
    p = Program(SkipEqual, machine())
    for page, prot in enumerate((RW, RW, R, RW, 0)):
        p.map(BASE + page * PAGE, 1, prot)
    p.anew().protect(BASE, 5, RW)
    assert (p.counts.host_calls, p.counts.ioctls, p.counts.emodpe, p.counts.eaccept) == (2, 2, 2, 2)
    assert effective(p, 5) == [(5, RW)]
    p.anew().protect(BASE, 5, R)
    assert p.counts.host_calls == 5, "where every-call has one: upstream's VMAs never merge"


def test_a_part_that_differs_is_split_off() -> None:
    p = Program(SkipEqual)
    p.map(BASE, 9, RW)
    p.anew().protect(BASE + 3 * PAGE, 3, R)
    assert bookkept(p) == [(3, RW), (3, R), (3, RW)]
    assert (p.counts.host_calls, p.counts.emodpe) == (1, 3)


def test_w_and_rw_are_not_equal() -> None:
    """The rule compares what was asked, and not what the EPCM makes of it."""
    p = Program(SkipEqual)
    p.map(BASE, 2, W)
    p.anew().protect(BASE, 2, RW)
    assert p.counts.host_calls == 1


def test_everything_else_is_every_calls() -> None:
    counts = []
    for maker in (EveryCall, SkipEqual):
        p = Program(maker)
        p.load([(BASE - 4 * PAGE, BASE, Vma(RW | MAY | f.VM_GROWSDOWN))])
        p.map(BASE, 8, RW)
        p.map(BASE + 2 * PAGE, 4, RW)
        p.map_file(BASE + 8 * PAGE, 4, R, lib(2))
        p.call("madvise", BASE + 8 * PAGE, PAGE, f.MADV_DONTNEED)
        p.strategy.thread()
        p.strategy.fork(p.space.fork(), p.touches.copy())
        p.strategy.thread_ends()
        p.unmap(BASE, 12)
        counts.append(p.counts)
    assert counts[0] == counts[1]


def test_less_than_every_call() -> None:
    """The workload of issue #1708: mmap(RW), and then mprotect(RW) page by page."""
    saved = {}
    for maker in (EveryCall, SkipEqual):
        p = Program(maker)
        p.map(BASE, 100, RW)
        p.anew()
        for page in range(100):
            p.protect(BASE + page * PAGE, 1, RW)
        saved[maker] = p.counts.host_calls
    assert saved == {EveryCall: 100, SkipEqual: 0}


# Where the rule alone is wrong


def test_a_guard_page_is_bookkept_as_such() -> None:
    """The rule alone: the VMA says RW, the page has nothing. An mprotect(RW) of it would be
    skipped, and stay NONE."""
    p = Program(SkipEqual, machine())
    p.strategy.thread()
    assert bookkept(p) == [(1, 0), (7, RW), (90, RW)], "the guard page, the stack, the slot"
    start = next(iter(p.strategy.vmas))[0]
    assert p.strategy.pal.pages.get(start) == 0
    p.anew().strategy.protect(start, start + 8 * PAGE, RW)
    assert (p.counts.host_calls, p.counts.eaccept) == (1, 1)
    assert p.strategy.pal.pages.get(start) == RW
    p.anew().strategy.thread_ends()
    assert (p.counts.host_calls, p.counts.eaccept) == (2, 8), "one Free, over both VMAs"


def test_the_tail_of_a_file_stays_inaccessible() -> None:
    """The rule alone: Protect covers the whole VMA, and what lies past the end of the file is
    opened with it."""
    p = Program(SkipEqual, machine())
    p.map_file(BASE, 5, R, lib(3))
    assert effective(p, 5) == [(3, R), (2, 0)]
    p.anew().protect(BASE, 5, RW)
    assert effective(p, 5) == [(3, RW), (2, 0)]
    assert (p.counts.host_calls, p.counts.eaccept, p.counts.open_windows) == (1, 3, 0)
    p.protect(BASE, 5, R)
    p.anew().protect(BASE + 3 * PAGE, 2, R)
    assert p.counts == Counts(), "equal to what the VMA says, and nothing to do either"
    p.protect(BASE + 3 * PAGE, 2, RW)
    assert p.counts == Counts(), "not equal to what the VMA says, and still nothing to do"
    assert effective(p, 5) == [(3, R), (2, 0)]


@pytest.mark.parametrize("maker", [EveryCall, SkipEqual])
def test_a_tail_is_no_more_than_its_own_vma(maker: type[EveryCall]) -> None:
    """In a child, a VMA that is all tail closes itself, and not what lies between it and the end of
    the file."""
    p = Program(maker)
    p.map_file(BASE, 6, R, lib(2))
    p.map(BASE + 3 * PAGE, 1, RW)
    child = p.strategy.fork(p.space.fork(), p.touches.copy())
    assert committed(child) == [R, 0, RW, 0]


@pytest.mark.parametrize("prot", [0, R, RX])
def test_the_libos_closes_the_pages_that_it_opened(prot: int) -> None:
    """The rule alone: a file mapping's VMA says R before its pages are filled, so that the
    Protect(R) after that looks equal. Skipped, it leaves them writable for good."""
    p = Program(SkipEqual, machine())
    p.map_file(BASE, 4, prot, lib(4))
    assert effective(p, 4) == [(4, prot)]
    p.map(BASE + 4 * PAGE, 2, prot)
    p.call("madvise", BASE + 4 * PAGE, 2 * PAGE, f.MADV_DONTNEED)
    assert effective(p, 6) == [(6, prot)]


def test_the_vdso_is_closed() -> None:
    """The same: upstream bookkeeps it as RX and fills it as RW."""
    p = Program(SkipEqual, machine())
    p.load([(BASE, BASE + 2 * PAGE, Vma(RX | MAY | f.VM_DONTEXPAND))])
    assert effective(p, 2) == [(1, RX), (1, None)], "Gramine's own vDSO has one page"
