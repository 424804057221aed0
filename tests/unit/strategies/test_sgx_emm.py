"""sgx-emm: what Intel's memory manager avoids, what it does not avoid, and the library OS above
it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from errno import EBUSY, EFAULT
from functools import partial

import pytest

from laconic.libos.strategy import MemoryCall
from laconic.memory import flags as f
from laconic.memory.change import FILE, MAP, Change
from laconic.memory.flags import TASK_SIZE
from laconic.memory.vma import Vma
from laconic.sgx.meter import Meter
from laconic.sgx.model.driver import Driver
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import SgxError
from laconic.sgx.model.machine import Machine
from laconic.strategies.sgx_emm import Aborted, Emm, SgxEmm
from laconic.strategies.verified import Report, Verified
from tests.helpers.enclaveworld import BASE, FIXED, HEAP, LIB, PAGE, Program, lib

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
MAY = f.VM_MAY_RWX
POPULATE = FIXED | f.MAP_POPULATE


def following(plan: Plan | None = None) -> Machine:
    """A machine whose host mapping follows, as the SDK's does."""
    return Machine(Driver.ready(0, 1 << 48, pte="sync", plan=plan))


def cost(program: Program[SgxEmm]) -> dict[str, int]:
    return {name: count for name, count in program.counts.as_dict().items() if count}


def used(pages: int, prot: int = RW, meter: Meter | None = None) -> Program[SgxEmm]:
    """A program with so many touched pages at BASE, in one region, and nothing counted."""
    program = Program(SgxEmm, meter)
    program.map(BASE, pages, RW)
    program.touch(BASE, pages)
    if prot != RW:
        program.protect(BASE, pages, prot)
    return program.anew()


def regions(program: Program[SgxEmm]) -> list[tuple[int, int]]:
    """The regions from BASE on, as (pages, permission)."""
    parts = program.strategy.emm.regions.parts(BASE, TASK_SIZE)
    return [((end - start) // PAGE, region.prot) for start, end, region in parts]


def change(pages: int, **more: int) -> dict[str, int]:
    """What one OCALL that changes permissions costs, whatever the direction."""
    return {"host_calls": 1, "ioctls": 1, "etrack_ipis": pages, "emodpr": pages, **more}


# What it avoids


@pytest.mark.parametrize("prot", [0, R, RW, RX, RWX])
def test_equal_permission_is_skipped(prot: int) -> None:
    program = used(8, prot)
    program.protect(BASE, 8, prot)
    program.protect(BASE + 3 * PAGE, 1, prot)
    assert cost(program) == {} and regions(program) == [(8, prot)]


def test_equal_permission_is_skipped_per_region() -> None:
    program = used(9)
    program.protect(BASE + 3 * PAGE, 3, R)
    program.anew().protect(BASE, 9, R)
    assert cost(program) == {
        **change(3, eaccept=6),
        "host_calls": 2,
        "ioctls": 2,
        "etrack_ipis": 6,
        "emodpr": 6,
    }
    assert regions(program) == [(3, R)] * 3


def test_only_uncommitted_pages_are_committed() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 8, RW)
    program.touch(BASE + 2 * PAGE, 3)
    program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_POPULATE_WRITE)
    assert (program.counts.eaug, program.counts.eaccept, program.counts.exceptions) == (5, 5, 0)
    program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_POPULATE_WRITE)
    assert cost(program) == {}


@pytest.mark.parametrize("discard", ["munmap", "madvise"])
def test_only_runs_of_committed_pages_are_trimmed(discard: str) -> None:
    program = Program(SgxEmm)
    program.map(BASE, 100, RW)
    program.touch(BASE + 10 * PAGE, 5)
    program.touch(BASE + 50 * PAGE, 2)
    program.anew().call(discard, BASE, 100 * PAGE, f.MADV_DONTNEED if discard == "madvise" else 0)
    assert cost(program) == {
        "host_calls": 4, "ioctls": 4, "etrack_ipis": 7, "emodt": 7, "eaccept": 7, "eremove": 7
    }  # fmt: skip


def test_unmapping_untouched_memory_is_no_host_call() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 1000, RW)
    program.anew().unmap(BASE, 1000)
    assert cost(program) == {} and regions(program) == []


@pytest.mark.parametrize(
    ("before", "after", "extends"), [(RW, R, False), (RW, RX, True), (R, RW, True), (RX, R, False)]
)
def test_emodpe_only_if_a_permission_is_added(before: int, after: int, extends: bool) -> None:
    program = used(4, before)
    program.protect(BASE, 4, after)
    assert program.counts.emodpe == (4 if extends else 0)


def test_no_eaccept_if_the_pages_become_writable_and_executable() -> None:
    program = used(4)
    program.protect(BASE, 4, RWX)
    assert cost(program) == change(4, emodpe=4)


# What it does not avoid


@pytest.mark.parametrize(("before", "after"), [(R, RW), (R, RX), (RX, RWX), (0, R)])
def test_a_pure_extension_is_a_host_call_that_restricts(before: int, after: int) -> None:
    program = used(4, before)
    program.protect(BASE, 4, after)
    accepted = {} if after == RWX else {"eaccept": 4}
    assert cost(program) == change(4, emodpe=4, **accepted)


def test_the_host_mapping_follows_in_the_same_host_call() -> None:
    """The untrusted side calls mprotect too, whatever the direction."""
    program = used(4, meter=following())
    assert isinstance(program.meter, Machine)
    for prot in (R, RW, RX, RWX, R):
        program.anew().protect(BASE, 4, prot)
        mapped = program.meter.driver.host.vmas.get(BASE)
        assert mapped is not None and mapped.prot == prot
        assert program.counts.host_calls == 1


def test_permissions_that_eacceptcopy_has_set_are_set_again() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 4, R)
    assert cost(program) == {
        **change(4, eaug_faults=4, eaug=4, eacceptcopy=4, eaccept=4, untouched_pages=4),
        "host_calls": 2
    }  # fmt: skip


def test_a_change_of_uncommitted_pages_is_refused() -> None:
    emm = Emm(Meter())
    emm.alloc(BASE, BASE + 8 * PAGE)
    emm.commit(BASE, BASE + 3 * PAGE)
    with pytest.raises(ValueError, match="uncommitted pages"):
        emm.modify_permissions(BASE, BASE + 8 * PAGE, R)


def test_pages_are_committed_before_their_permissions_change() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 8, RW)
    program.touch(BASE + 2 * PAGE, 3)
    program.anew().protect(BASE, 8, R)
    assert cost(program) == change(8, eaug_faults=5, eaug=5, eaccept=5 + 8, untouched_pages=5)
    assert regions(program) == [(8, R)]


def test_a_region_that_becomes_inaccessible_is_split_at_uncommitted_pages() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 8, RW)
    program.touch(BASE + 2 * PAGE, 3)
    program.anew().protect(BASE, 8, 0)
    assert cost(program) == {**change(3, eaccept=3), "host_calls": 2}
    assert regions(program) == [(2, 0), (3, 0), (3, 0)]
    program.anew().protect(BASE, 8, RW)
    assert cost(program) == {**change(3, emodpe=3, eaccept=3), "host_calls": 3}, (
        "two are allocated, one changes"
    )


def test_no_access_is_a_second_host_call_after_eaccept() -> None:
    program = used(4)
    program.protect(BASE, 4, 0)
    assert cost(program) == {**change(4, eaccept=4), "host_calls": 2}


def test_inaccessible_pages_are_opened_to_be_trimmed() -> None:
    program = used(4, 0)
    program.unmap(BASE, 4)
    assert cost(program) == {
        **change(4, emodpe=4, eaccept=4 + 4, emodt=4, eremove=4, open_windows=4),
        "host_calls": 3, "ioctls": 3, "etrack_ipis": 8,
    }  # fmt: skip


def test_regions_never_merge() -> None:
    program = used(4)
    for page in range(4):
        program.protect(BASE + page * PAGE, 1, R)
    program.protect(BASE, 4, RW)
    program.anew().protect(BASE, 4, R)
    assert program.counts.host_calls == 4 and regions(program) == [(1, R)] * 4
    program.anew().unmap(BASE, 4)
    assert program.counts.host_calls == 8


def test_a_failing_eaccept_leaves_the_bookkeeping_stale() -> None:
    """ema_modify_permissions returns before it updates the region; the pages below are changed
    already."""
    program = used(4, meter=following(Plan({("eaccept", 2): Failure(code=19, after=2)})))
    with pytest.raises(SgxError, match="EACCEPT"):
        program.protect(BASE, 4, R)
    assert regions(program) == [(4, RW)]
    assert isinstance(program.meter, Machine)
    assert {prot for _, _, prot in program.meter.effective(BASE, BASE + 4 * PAGE)} == {R}


def test_a_failing_eaccept_aborts_a_commit() -> None:
    program = Program(SgxEmm, following(Plan({("eaccept", 1): Failure(code=19)})))
    program.map(BASE, 4, RW)
    with pytest.raises(Aborted, match="sgx-emm aborts"):
        program.touch(BASE, 4)


def test_a_busy_driver_is_asked_for_the_rest() -> None:
    program = used(8, meter=following(Plan({("restrict", 1): Failure(error=EBUSY, after=3)})))
    program.protect(BASE, 8, R)
    assert (program.counts.ioctls, program.counts.emodpr, program.counts.host_calls) == (2, 8, 1)


def test_another_failure_of_the_driver_is_final() -> None:
    program = used(8, meter=following(Plan({("restrict", 1): Failure(error=EFAULT, after=3)})))
    with pytest.raises(SgxError):
        program.protect(BASE, 8, R)
    assert regions(program) == [(8, RW)]


# The library OS above it


def test_memory_is_committed_page_by_page_at_its_first_touch() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 100, RW)
    assert cost(program) == {"host_calls": 1}
    program.anew().touch(BASE, 3)
    assert cost(program) == {"eaug_faults": 3, "eaug": 3, "exceptions": 3, "eaccept": 3}
    program.anew().touch(BASE, 3)
    assert cost(program) == {}


def test_a_reservation_is_no_host_call() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 1 << 24, 0)
    assert cost(program) == {}
    program.protect(BASE, 16, RW)
    assert cost(program) == {"host_calls": 1}, "allocated within the reservation"


def test_populated_memory_is_committed_without_exceptions() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 8, RW, POPULATE)
    assert cost(program) == {
        "host_calls": 1,
        "eaug_faults": 8,
        "eaug": 8,
        "eaccept": 8,
        "untouched_pages": 8,
    }
    program.touch(BASE, 8)
    assert not program.counts.untouched_pages and not program.counts.exceptions


def test_locked_memory_is_committed() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 8, RW)
    program.anew().call("mlock", BASE, 8 * PAGE)
    assert program.counts.eaccept == 8


def test_a_file_is_read_and_committed_whole() -> None:
    program = Program(SgxEmm)
    program.map_file(BASE, 8, RX, lib(5.5))
    assert program.counts.pages_copied == program.counts.eacceptcopy == 6, (
        "pages past its end are reserved"
    )
    assert program.counts.host_calls == 3, "alloc, read, permissions"
    program.anew().touch(BASE, 6)
    assert program.counts.untouched_pages == -6 and not program.counts.exceptions


def test_a_mapping_over_another_replaces_it() -> None:
    program = used(4)
    program.map(BASE, 4, RW)
    assert (program.counts.host_calls, program.counts.eremove) == (3, 4)
    assert regions(program) == [(4, RW)] and not program.strategy.emm.count()


def test_discarded_file_contents_are_read_again() -> None:
    program = Program(SgxEmm)
    program.map_file(BASE, 4, R, lib(4))
    program.touch(BASE, 4)
    program.anew().call("madvise", BASE, 4 * PAGE, f.MADV_DONTNEED)
    assert (program.counts.eremove, program.counts.eacceptcopy, program.counts.pages_copied) == (
        4,
        4,
        4,
    )


def test_contents_stay_after_madv_free() -> None:
    program = used(4)
    program.call("madvise", BASE, 4 * PAGE, f.MADV_FREE)
    assert cost(program) == {}


def test_the_break_grows_by_a_region_each_time() -> None:
    program = Program(SgxEmm)
    for size in (4, 8):
        program.call("brk", HEAP + size * PAGE)
    assert cost(program) == {"host_calls": 2}
    program.touch(HEAP, 8)
    program.anew().call("brk", HEAP + 2 * PAGE)
    assert (program.counts.host_calls, program.counts.eremove) == (4, 6), (
        "two host calls for each region"
    )


def test_mremap_copies_committed_pages() -> None:
    program = used(4, R)
    target = BASE + 100 * PAGE
    program.call("mremap", BASE, 4 * PAGE, 8 * PAGE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, target)
    assert program.counts.eacceptcopy == 4 + 4, "moved, and the new tail, which is not RW"
    assert program.strategy.emm.count() == 8
    assert regions(program) == [(4, R), (4, R)]


def test_inaccessible_pages_that_are_copied_are_closed_again() -> None:
    """MREMAP_DONTUNMAP: shared memory is mapped a second time, and stays where it was."""
    program = Program(SgxEmm)
    program.map(BASE, 2, RW, f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_FIXED)
    program.touch(BASE, 2)
    program.protect(BASE, 2, 0)
    target = BASE + 100 * PAGE
    flags = f.MREMAP_MAYMOVE | f.MREMAP_FIXED | f.MREMAP_DONTUNMAP
    program.anew().call("mremap", BASE, 2 * PAGE, 2 * PAGE, flags, target)
    assert regions(program) == [(2, 0), (2, 0)]
    assert (program.counts.open_windows, program.counts.eacceptcopy) == (2, 2)


def test_shared_memory_stays_and_counts_as_untouched_after_madv_dontneed() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 4, RW, f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_FIXED)
    program.touch(BASE, 4)
    program.anew().call("madvise", BASE, 4 * PAGE, f.MADV_DONTNEED)
    assert cost(program) == {"untouched_pages": 4}
    program.touch(BASE, 4)
    assert cost(program) == {}


def test_msync_is_a_host_call() -> None:
    program = Program(SgxEmm)
    program.map_file(BASE, 4, RW, lib(4), f.MAP_SHARED | f.MAP_FIXED)
    program.anew().call("msync", BASE, 4 * PAGE, f.MS_SYNC)
    assert cost(program) == {"host_calls": 1}
    program.anew().call("msync", BASE, 4 * PAGE, f.MS_ASYNC)
    assert cost(program) == {}


def test_a_program_begins_in_a_new_enclave() -> None:
    program = Program(SgxEmm)
    text = Vma(R | X | MAY, LIB, BASE)
    stack = Vma(RW | MAY | f.VM_GROWSDOWN)
    vvar = Vma(R | MAY | f.VM_IO | f.VM_PFNMAP)
    program.load([(BASE, BASE + 4 * PAGE, text), (BASE + PAGE * 99, BASE + PAGE * 120, stack),
                  (BASE + PAGE * 200, BASE + PAGE * 204, vvar)])  # fmt: skip
    assert (program.counts.ecreate, program.counts.eacceptcopy, program.counts.eaug) == (1, 4, 4)
    assert regions(program) == [(4, RX), (21, RW)]
    program.strategy.end()
    assert program.meter.epc_pages == 0


def test_a_growing_stack_is_no_host_call() -> None:
    program = Program(SgxEmm)
    stack = Vma(RW | MAY | f.VM_GROWSDOWN)
    program.load([(BASE + PAGE * 99, BASE + PAGE * 120, stack)])
    low = BASE + PAGE * 90
    program.space.adopt([(low, BASE + PAGE * 99, stack)])
    program.anew().strategy.grow(low, BASE + PAGE * 99, stack)
    program.touch(low, 9)
    assert cost(program) == {"eaug_faults": 9, "eaug": 9, "exceptions": 9, "eaccept": 9}


def test_a_child_receives_committed_pages_only() -> None:
    program = Program(SgxEmm)
    program.map(BASE, 100, RW)
    program.touch(BASE, 5)
    program.map(BASE + 200 * PAGE, 3, R)
    program.map(BASE + 300 * PAGE, 50, 0)
    program.anew()
    child = program.strategy.fork(program.space.fork(), program.touches.copy())
    assert cost(program) == {
        **change(3, ecreate=1, einit=1, eaug_faults=8, eaug=8, eacceptcopy=8, eaccept=3,
                 pages_copied=8),
        "host_calls": 1 + 2 + 2 + 1, "untouched_pages": 3,
    }  # fmt: skip
    assert child.emm.count() == 8 and len(child.emm.regions.parts(BASE, TASK_SIZE)) == 3


def test_memory_wiped_on_fork_is_not_sent() -> None:
    program = used(4)
    program.call("madvise", BASE, 2 * PAGE, f.MADV_WIPEONFORK)
    program.call("madvise", BASE + 2 * PAGE, PAGE, f.MADV_DONTFORK)
    program.anew()
    child = program.strategy.fork(program.space.fork(), program.touches.copy())
    assert child.emm.count() == 1 and program.counts.pages_copied == 1
    assert [
        (end - start) // PAGE for start, end, _ in child.emm.regions.parts(BASE, TASK_SIZE)
    ] == [2, 1]


def test_a_thread_is_a_stack_and_a_tcs_that_are_used_again() -> None:
    program = Program(SgxEmm)
    program.strategy.thread()
    assert cost(program) == {
        "host_calls": 2, "ioctls": 1, "eaug_faults": 8, "eaug": 8, "eaccept": 9, "emodt": 1,
        "etrack_ipis": 1
    }  # fmt: skip
    program.strategy.thread_ends()
    program.anew().strategy.thread()
    assert cost(program) == {}
    program.strategy.end()
    assert program.meter.epc_pages == 0


def test_shared_memory_that_only_the_host_can_describe() -> None:
    program = Program(SgxEmm)
    vma = Vma(RW | MAY | f.VM_SHARED | f.VM_MAYSHARE)
    program.space.adopt([(BASE, BASE + 4 * PAGE, vma)])
    changes = (Change(MAP, BASE, BASE + 4 * PAGE, vma, None),)
    program.tell(MemoryCall("shmat", (1, 0, 0, 0, 0, 0), BASE, changes))
    assert cost(program) == {"host_calls": 1} and regions(program) == [(4, RW)]
    program.touch(BASE, 4)
    program.anew().tell(
        MemoryCall(
            "shmat", (1, 0, 0, 0, 0, 0), BASE, (Change(FILE, BASE, BASE + 4 * PAGE, vma, vma),)
        )
    )
    assert (program.counts.host_calls, program.counts.eremove) == (3, 4), (
        "another segment in its place (SHM_REMAP)"
    )
    assert not program.strategy.emm.count()


# Carried out on the modelled EPCM


PROTS = (0, R, RW, RW, RW, W, RX, RWX, X)
ADVICE = (
    f.MADV_DONTNEED,
    f.MADV_DONTNEED,
    f.MADV_FREE,
    f.MADV_WIPEONFORK,
    f.MADV_POPULATE_READ,
    f.MADV_GUARD_INSTALL,
)


def steps(seed: int, prots: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Random calls and touches on 60 pages."""
    pick = random.Random(seed)
    for _ in range(120):
        start, pages = BASE + pick.randrange(60) * PAGE, pick.choice((1, 1, 2, 3, 5, 8, 20))
        length, kind = pages * PAGE, pick.randrange(12)
        if kind < 3:
            extra = pick.choice((0, 0, f.MAP_POPULATE, f.MAP_NORESERVE))
            yield "mmap", (start, length, pick.choice(prots), FIXED | extra, (1 << 64) - 1, 0)
        elif kind == 3:
            flags = pick.choice((f.MAP_PRIVATE, f.MAP_SHARED)) | f.MAP_FIXED
            yield "mmap", (start, length, pick.choice(prots), flags, 3, 0)
        elif kind < 6:
            yield "mprotect", (start, length, pick.choice(prots))
        elif kind == 6:
            yield "munmap", (start, length)
        elif kind == 7:
            yield "madvise", (start, length, pick.choice(ADVICE))
        elif kind == 8:
            flags = f.MREMAP_MAYMOVE | f.MREMAP_FIXED | pick.choice((0, 0, f.MREMAP_DONTUNMAP))
            yield "mremap", (start, length, length, flags, BASE + (100 + pick.randrange(40)) * PAGE)
        elif kind == 9:
            yield pick.choice(("thread", "thread_ends", "fork")), ()
        else:
            yield "touch", (start, pages)


class Twin:
    """A program under sgx-emm twice: on a meter, and leaf by leaf on a machine that is checked
    after every step."""

    def __init__(self) -> None:
        self.report = Report()
        # The check that `compare --verify` makes of strict strategies.
        self.checked = Program(partial(Verified, make=SgxEmm, report=self.report, pte="sync"))
        self.plain = Program(SgxEmm)

    def step(self, name: str, args: tuple[int, ...]) -> None:
        file = lib(10) if name == "mmap" and not args[3] & f.MAP_ANONYMOUS else None
        for program in (self.checked, self.plain):
            if name == "touch":
                program.touch(*args)
            elif name == "fork":
                program.strategy.fork(program.space.fork(), program.touches.copy()).end()
            elif name == "thread_ends":
                if self.plain.strategy.threads:
                    program.strategy.thread_ends()
            elif name == "thread":
                program.strategy.thread()
            else:
                program.attempt(name, args, file)


@pytest.mark.parametrize("seed", range(12))
def test_random_steps_are_carried_out_as_counted(seed: int) -> None:
    """The model refuses nothing, access is as requested, and a page is opened only where it is
    counted."""
    twin = Twin()
    for name, args in steps(seed, tuple(prot for prot in PROTS if prot != X)):
        before, opened = twin.report.breaches, twin.checked.counts.open_windows
        twin.step(name, args)
        assert twin.checked.counts == twin.plain.counts, (name, args)
        assert twin.checked.meter.epc_pages == twin.plain.meter.epc_pages, (name, args)
        if twin.report.breaches > before:
            assert twin.checked.counts.open_windows > opened, (name, args, twin.report.first)
    assert all(" was " in found for found in twin.report.first), (
        "accessible wider for a moment, and never for longer"
    )
    assert twin.report.steps > 80
    for program in (twin.checked, twin.plain):
        program.strategy.end()
        assert program.meter.epc_pages == 0


@pytest.mark.parametrize("seed", range(4))
def test_without_inaccessible_memory_the_law_strict_holds(seed: int) -> None:
    twin = Twin()
    for name, args in steps(100 + seed, (R, RW, RW, RW, RX, RWX, W)):
        twin.step(name, args)
        assert not twin.report.breaches, (name, args, twin.report.first)
    assert not twin.checked.counts.open_windows and twin.report.steps > 80


def test_pages_that_are_only_executable_are_readable_too() -> None:
    twin = Twin()
    twin.step("mmap", (BASE, 4 * PAGE, X, FIXED, (1 << 64) - 1, 0))
    assert twin.checked.counts.open_windows == 4
    assert "in the enclave, and" in twin.report.first[-1]
