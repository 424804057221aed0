"""every-call over a program's life: forked processes, huge reservations, and anything at all."""

from __future__ import annotations

from random import Random

import pytest

from laconic.libos.gramine import VMA_TAINTED
from laconic.libos.strategy import MemoryCall
from laconic.memory import flags as f
from laconic.sgx.meter import Counts
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.gramine import LAZY
from laconic.strategies.every_call import EveryCall
from laconic.strategies.skip_equal import SkipEqual
from tests.helpers.enclaveworld import BASE, FIXED, PAGE, Cost, Program, cost, lib, machine

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
NORESERVE = FIXED | f.MAP_NORESERVE
SHARED_FILE = f.MAP_SHARED | f.MAP_FIXED


def fresh() -> Program[EveryCall]:
    return Program(EveryCall)


# Processes


#: Pages of the store that a parent commits and frees, and of the child's copy of its data.
STORE, DATA = 16384, 8


def forked(p: Program[EveryCall]) -> EveryCall:
    """Forks; `p.counts` are those of the memory, without the checkpoint's."""
    p.anew()
    child = p.strategy.fork(p.space.fork(), p.touches.copy())
    counts = p.counts
    counts.host_calls -= 2 + 2
    counts.ioctls -= 2
    for thing, pages in (
        ("eaug", STORE + DATA),
        ("eaug_faults", STORE + DATA),
        ("eaccept", 2 * STORE + DATA),
        ("emodt", STORE),
        ("eremove", STORE),
        ("etrack_ipis", STORE),
        ("pages_copied", DATA),
    ):
        setattr(counts, thing, getattr(counts, thing) - pages)
    return child


def test_a_fork_commits_and_frees_64_mib() -> None:
    """CP_INIT_VMA_SIZE, whatever is in it: most of the cost of a fork, and the peak."""
    p = fresh()
    p.map(BASE, 3, RW)
    child = p.anew().strategy.fork(p.space.fork(), p.touches.copy())
    assert (p.counts.eaug, p.counts.eaccept) == (STORE + DATA + 3, 2 * STORE + DATA + 3)
    assert (p.counts.emodt, p.counts.etrack_ipis, p.counts.eremove) == (STORE,) * 3
    assert p.counts.ioctls == 2
    assert p.meter.peak_epc_pages == 3 + STORE + DATA + 3
    assert p.meter.epc_pages == 3 + DATA + 3, "the child keeps its copy of the checkpoint"
    assert p.counts.untouched_pages == 3
    grandchild = child.fork(p.space.fork(), p.touches.copy())
    grandchild.end()
    child.end()
    p.strategy.end()
    assert p.meter.epc_pages == 0


def test_the_checkpoint_is_as_large_as_in_a_log() -> None:
    """busybox.log: 111 pages and 10 VMAs are 35,624 bytes, 9 pages."""
    p = fresh()
    for vma in range(10):
        p.map(BASE + 32 * vma * PAGE, 12 if vma < 9 else 3, RW)
    child = p.strategy.fork(p.space.fork(), p.touches.copy())
    assert child.pal.count() - 111 == 9


def test_fork_sends_page_by_page() -> None:
    """For each page a write, a read and, read-only, a Protect; what cannot be read is opened for
    it, and closed."""
    p = fresh()
    p.map(BASE, 3, RW)
    forked(p)
    assert (p.counts.host_calls, p.counts.ioctls, p.counts.eaccept, p.counts.pages_copied) == (
        1 + 6,
        0,
        3,
        3,
    )
    p.protect(BASE, 3, R)
    forked(p)
    assert (p.counts.host_calls, p.counts.ioctls, p.counts.eaccept, p.counts.emodpe) == (
        1 + 9,
        3,
        6,
        3,
    )
    p.protect(BASE, 3, 0)
    forked(p)
    assert (p.counts.host_calls, p.counts.ioctls, p.counts.eaccept, p.counts.emodpe) == (
        1 + 15,
        9,
        12,
        9,
    )
    assert (p.counts.ecreate, p.counts.open_windows) == (1, 6)


def test_fork_skips_what_is_not_committed_and_reads_files_anew() -> None:
    p = fresh()
    p.map(BASE, 1 << 20, RW, NORESERVE)
    p.touch(BASE, 2)
    p.map_file(BASE - 8 * PAGE, 4, RX, lib(4))
    p.strategy.thread()
    child = forked(p)
    assert (p.counts.host_calls, p.counts.ioctls) == (1 + 4 + 1 + 1, 1)
    assert (p.counts.eaug, p.counts.pages_copied) == (2 + 4, 2 + 4)
    assert child.pal.count() == 6 + DATA
    assert child.pal.pages.get(BASE + 2 * PAGE) == LAZY, (
        "upstream's child does not know, and fails on it"
    )
    assert p.counts.untouched_pages == 4
    child.end()
    p.strategy.end()
    assert p.meter.epc_pages == 0


def test_fork_sends_what_was_ever_writable_of_a_private_file() -> None:
    """One entry of its valid length; pages past the end of the file are not there in the child."""
    p = fresh()
    p.map_file(BASE, 5, RW, lib(3))
    p.protect(BASE, 5, R)
    assert [bool(vma.flags & VMA_TAINTED) for _, _, vma in p.strategy.vmas] == [True]
    child = forked(p)
    assert (p.counts.host_calls, p.counts.ioctls, p.counts.eaug) == (1 + 2 + 1, 1, 3)
    p.anew()
    child.call(MemoryCall("munmap", (BASE, 5 * PAGE, 0, 0, 0, 0), 0, ()))
    assert cost(p) == Cost(2, 3)
    p.map_file(BASE + 8 * PAGE, 2, RW, lib(2), SHARED_FILE)
    child = forked(p)
    assert p.counts.host_calls == (1 + 2 + 1) + 1, "shared ones are mapped again"


def test_parent_and_child_are_apart() -> None:
    p = fresh()
    p.map(BASE, 4, RW)
    child = forked(p)
    p.protect(BASE, 2, R)
    child.call(MemoryCall("munmap", (BASE, 4 * PAGE, 0, 0, 0, 0), 0, ()))
    assert p.strategy.vmas.count == 2 and child.vmas.count == 1
    assert p.strategy.pal.count() == 4 and child.pal.count() == DATA
    assert p.meter.epc_pages == 4 + DATA


# Size


@pytest.mark.parametrize("maker", [EveryCall, SkipEqual])
def test_a_reservation_of_64_gib_is_one_entry(maker: type[EveryCall]) -> None:
    """Only the tracker's bits are committed: a page of them for each 128 MiB."""
    p = Program(maker, tracked=True)
    pages = 64 << 30 >> 12
    p.map(BASE, pages, 0, NORESERVE)
    assert cost(p) == Cost(0, 512, 0, 512)
    assert p.meter.epc_pages == 512
    p.protect(BASE, pages, RW)
    p.anew().unmap(BASE, pages)
    p.map(BASE, pages, 0, NORESERVE)
    assert p.counts == Counts()
    assert p.strategy.vmas.count == 1
    p.strategy.end()
    assert p.meter.epc_pages == 0


# Anything at all


def anything(p: Program[EveryCall], dice: Random) -> None:
    """One event of a program that knows no files: a call, or a touch."""
    start, pages = BASE + dice.randrange(24) * PAGE, dice.randint(1, 8)
    prot, flags = dice.choice((0, R, RW, RX, RWX, W)), FIXED | dice.choice((0, f.MAP_NORESERVE))
    match dice.randrange(7):
        case 0:
            p.map(start, pages, prot, flags)
        case 1:
            p.unmap(start, pages)
        case 2 | 3 if p.space.vmas.covered(start, start + pages * PAGE):
            # Linux changes what comes before a hole, upstream nothing: from there on the two
            # differ.
            p.protect(start, pages, prot)
        case 4:
            p.call("madvise", start, pages * PAGE, dice.choice((f.MADV_DONTNEED, f.MADV_FREE)))
        case 5:
            to = dice.choice((0, f.MREMAP_MAYMOVE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED))
            target = BASE - dice.randint(20, 40) * PAGE
            old = dice.randint(1, 4)
            if p.space.vmas.find(start)[1] >= start + old * PAGE:
                p.call("mremap", start, old * PAGE, pages * PAGE, to, target)
        case _:
            p.touch(start, pages)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("maker", [EveryCall, SkipEqual])
def test_nothing_that_a_program_does_kills_it(maker: type[EveryCall], seed: int) -> None:
    """The machine agrees to every step, every mapped page is allocated and allows what was asked,
    and at the end nothing is left."""
    dice = Random(seed)
    p = Program(maker, machine())
    for _ in range(150):
        anything(p, dice)
        untouched = 0
        pal = p.strategy.pal
        for start, end, vma in p.space.vmas:
            requested = vma.flags & RWX
            assert all(
                ours is not None and ours.prot == requested
                for _, _, ours in p.strategy.vmas.runs(start, end)
            )
            requested |= R if requested & W else 0
            assert {had for _, _, had in pal.pages.runs(start, end)} <= {requested, LAZY}
            untouched += sum(e - s for s, e in pal.committed(start, end)) // PAGE - p.touches.count(
                start, end
            )
        assert p.counts.untouched_pages >= untouched >= 0
    assert isinstance(p.meter, Machine)
    for start, end, had in pal.pages:
        assert list(p.meter.effective(start, end)) == [(start, end, None if had == LAZY else had)]
    p.unmap(BASE - 64 * PAGE, 256)
    p.strategy.end()
    assert p.meter.epc_pages == 0
