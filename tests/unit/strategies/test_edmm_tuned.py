"""edmm-tuned: what each option costs, the rules that the authors' code has, and its options."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import cast

import pytest

from laconic.errors import LaconicError
from laconic.libos.strategy import Strategy
from laconic.memory import flags as f
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import Vma
from laconic.sgx.meter import Counts, Meter
from laconic.strategies import arguments, base_name, check_name, full_name, maker, strategy
from laconic.strategies.edmm_tuned import OPTIONS, EdmmTuned, Tuning
from laconic.strategies.options import expand, parse_size, show_size, split_names
from tests.helpers.enclaveworld import BASE, FIXED, HEAP, PAGE, Maker, Program, lib, machine

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
MAY = f.VM_MAY_RWX
M = 1 << 20


def cost(program: Program[Strategy]) -> dict[str, int]:
    """What was counted, without the columns that no rule of the reference names."""
    left = ("untouched_pages", "open_windows")
    counts = program.counts.as_dict()
    return {name: count for name, count in counts.items() if count and name not in left}


def tuned(options: str = "edmm", meter: Meter | None = None) -> Program[EdmmTuned]:
    """A program under one setting, started, with nothing counted."""
    program = Program(cast(Maker[EdmmTuned], maker(f"edmm-tuned:{options}")), meter)
    program.load([])
    return program.anew()


def fresh(pages: int, **more: int) -> dict[str, int]:
    """What a plain allocation of RW pages costs."""
    return {"eaug_faults": pages, "eaug": pages, "eaccept": pages, "pages_zeroed": pages, **more}


def trimmed(pages: int, runs: int = 1) -> dict[str, int]:
    """What it costs to give pages back."""
    return {
        "host_calls": 2 * runs, "ioctls": 2 * runs,
        "etrack_ipis": pages, "emodt": pages, "eaccept": pages, "eremove": pages,
    }  # fmt: skip


def restricted(pages: int, **more: int) -> dict[str, int]:
    """What it costs to take permissions away."""
    return {"host_calls": 1, "ioctls": 1, "etrack_ipis": pages, "emodpr": pages, **more}


# Allocation


def test_a_plain_allocation_is_a_fault_for_each_page() -> None:
    program = tuned()
    program.map(BASE, 8, RW)
    assert cost(program) == fresh(8)


def test_a_batch_of_the_old_driver_is_one_fault() -> None:
    program = tuned("batch=fault")
    program.map(BASE, 8, RW)
    assert cost(program) == fresh(8, emodpe=8) | {"eaug_faults": 1}


def test_a_batch_of_the_new_kernel_is_one_host_call() -> None:
    program = tuned("batch=madvise")
    program.map(BASE, 8, RW)
    assert cost(program) == {"host_calls": 1, "eaug": 8, "eaccept": 8, "pages_zeroed": 8}


def test_there_is_a_batch_for_each_fragment_that_the_pool_leaves() -> None:
    program = tuned("batch=madvise,lazyfree=100")
    program.map(BASE + 3 * PAGE, 2, RW)
    program.unmap(BASE + 3 * PAGE, 2)
    program.anew().map(BASE, 8, RW)
    assert cost(program) == {"host_calls": 2, "eaug": 6, "eaccept": 6, "pages_zeroed": 8}


@pytest.mark.parametrize(
    ("prot", "more"),
    [
        (R, restricted(4, eaccept=8)),
        (0, restricted(4, eaccept=8)),
        (RX, restricted(4, eaccept=8, emodpe=4) | {"host_calls": 2}),
        (RWX, {"host_calls": 1, "emodpe": 4}),
        (W, {}),
    ],
)
def test_other_permissions_are_set_afterwards(prot: int, more: dict[str, int]) -> None:
    program = tuned()
    program.map(BASE, 4, prot)
    assert cost(program) == fresh(4) | more
    assert program.strategy.pal.vmas.get(BASE) == (prot | R if prot & W else prot)


def test_a_mapping_over_another_frees_nothing() -> None:
    program = tuned()
    program.map(BASE, 4, RW)
    program.touch(BASE, 4)
    program.anew().map(BASE, 6, RW)
    assert cost(program) == fresh(2) | {"pages_zeroed": 6}
    program.anew().map(BASE, 6, R)
    assert cost(program) == restricted(6, eaccept=6, pages_zeroed=6)
    program.anew().map(BASE, 6, RW)
    assert cost(program) == {"host_calls": 1, "emodpe": 6, "pages_zeroed": 6}


def test_a_file_is_read_whole() -> None:
    program = tuned()
    program.map_file(BASE, 8, R, lib(5.5))
    assert cost(program) == restricted(
        6, eaug_faults=6, eaug=6, eaccept=12, pages_zeroed=6, pages_copied=6
    ) | {"host_calls": 2}
    assert program.strategy.pal.count() == 6, "pages past its end are not allocated"


def test_reading_a_file_touches_its_pages() -> None:
    program = tuned("demand=4")
    program.map_file(BASE, 10, RW, lib(10))
    assert (program.counts.exceptions, program.counts.eaccept) == (3, 10)
    assert program.counts.pages_copied == 10


# Pre-heated pages


def test_pre_heated_pages_are_paid_at_the_start() -> None:
    program = Program(maker("edmm-tuned:preheat=1M"))
    program.load([])
    assert cost(program) == {
        "ecreate": 1, "einit": 1, "ioctls": 1, "eadd": 256, "eaug_faults": 256
    }  # fmt: skip
    assert program.meter.epc_pages == 256
    program.strategy.end()
    assert program.meter.epc_pages == 0


@pytest.mark.parametrize("prot", [0, R, RW, RX, RWX])
def test_pre_heated_pages_cost_their_zeroing(prot: int) -> None:
    program = tuned("preheat=1M")
    program.map(BASE, 8, prot)
    program.protect(BASE, 8, R)
    program.protect(BASE, 8, RX)
    program.unmap(BASE, 8)
    program.map(BASE, 8, RW)
    assert cost(program) == {"pages_zeroed": 16}
    assert program.counts.open_windows >= 8 + 8 + 8


def test_pre_heated_pages_are_used_from_the_end_of_mappings() -> None:
    program = tuned("preheat=16K")
    program.map(BASE, 10, RW)
    assert cost(program) == fresh(6) | {"pages_zeroed": 10}
    program.anew().unmap(BASE, 10)
    assert cost(program) == trimmed(6)
    program.anew().map(BASE, 6, RW)
    assert cost(program) == fresh(6), "the addresses at the end have the pre-heated pages"
    program.anew().map(BASE + 6 * PAGE, 4, RW)
    assert cost(program) == {"pages_zeroed": 4}


def test_every_process_has_pre_heated_pages_of_its_own() -> None:
    program = tuned("preheat=1M")
    program.map(BASE, 8, RW)
    program.touch(BASE, 8)
    program.anew()
    child = program.strategy.fork(program.space.fork(), program.touches.copy())
    assert (program.counts.eadd, program.counts.eaug, program.counts.pages_copied) == (256, 0, 8)
    assert child.pal.room == M - 8 * PAGE


# First touches


def test_demand_allocates_nothing() -> None:
    program = tuned("demand=8")
    for prot in (0, R, RW, RX):
        program.map(BASE, 1 << 20, prot)
        program.unmap(BASE, 1 << 20)
    assert cost(program) == {}


@pytest.mark.parametrize(("window", "faults"), [(1, 10), (4, 3), (8, 2), (64, 1)])
def test_a_window_is_one_exception_and_a_fault_for_each_page(window: int, faults: int) -> None:
    program = tuned(f"demand={window}")
    program.map(BASE, 100, RW)
    program.touch(BASE + 20 * PAGE, 10)
    pages = faults * window
    assert cost(program) == {
        "exceptions": faults, "eaug_faults": pages, "eaug": pages, "eaccept": pages
    }  # fmt: skip
    assert program.strategy.pal.runs(BASE, BASE + 100 * PAGE) == [
        (BASE + 20 * PAGE, BASE + (20 + pages) * PAGE)
    ]
    assert program.counts.untouched_pages == pages - 10


def test_a_window_with_batches_is_one_fault_and_one_host_call() -> None:
    program = tuned("demand=8,batch=madvise")
    program.map(BASE, 16, RW)
    program.touch(BASE, 16)
    assert cost(program) == {
        "exceptions": 2, "host_calls": 2, "eaug_faults": 2, "eaug": 16, "eaccept": 16
    }  # fmt: skip


def test_a_window_goes_on_into_the_next_vma_and_skips_holes_and_committed_pages() -> None:
    program = tuned("demand=8")
    program.map(BASE, 2, RW)
    program.map(BASE + 2 * PAGE, 2, 0)
    program.map(BASE + 5 * PAGE, 3, RX)
    program.touch(BASE + 5 * PAGE, 1)
    program.anew().touch(BASE, 1)
    assert (program.counts.eaccept, program.counts.emodpe) == (4, 0)
    assert program.counts.open_windows == 2, "the inaccessible pages are RW"
    assert program.strategy.pal.committed.get(BASE + 6 * PAGE) == RWX


def test_only_committed_pages_change_their_permissions() -> None:
    program = tuned("demand=1")
    program.map(BASE, 10, RW)
    program.touch(BASE + 2 * PAGE, 1)
    program.touch(BASE + 5 * PAGE, 2)
    program.anew().protect(BASE, 10, R)
    assert cost(program) == restricted(3, eaccept=3) | {"host_calls": 2, "ioctls": 2}


def test_only_committed_runs_are_trimmed() -> None:
    program = tuned("demand=1")
    program.map(BASE, 10, RW)
    program.touch(BASE + 2 * PAGE, 1)
    program.touch(BASE + 5 * PAGE, 2)
    program.anew().unmap(BASE, 10)
    assert cost(program) == trimmed(3, runs=2)


# Permissions


def test_an_equal_permission_costs_nothing() -> None:
    program = tuned()
    program.map(BASE, 8, RW)
    program.anew().protect(BASE, 8, RW)
    assert cost(program) == {}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (RW, R, restricted(4, eaccept=4)),
        (R, RW, {"host_calls": 1, "emodpe": 4}),
        (RW, RX, restricted(4, eaccept=4, emodpe=4) | {"host_calls": 2}),
        (RX, RWX, {"host_calls": 1, "emodpe": 4}),
        (RW, 0, restricted(4, eaccept=4)),
    ],
)
def test_restrict_comes_before_relax(before: int, after: int, expected: dict[str, int]) -> None:
    program = tuned()
    program.map(BASE, 4, before)
    program.anew().protect(BASE, 4, after)
    assert cost(program) == expected


def test_a_vma_with_one_permission_is_one_request() -> None:
    program = tuned()
    for page in range(4):
        program.map(BASE + page * PAGE, 1, RW)
    program.anew().protect(BASE, 4, R)
    assert program.counts.host_calls == 1


def test_the_old_driver_has_all_pages_rwx() -> None:
    program = tuned("batch=fault")
    program.map(BASE, 4, R)
    program.anew().protect(BASE, 4, RX)
    assert cost(program) == {} and program.counts.open_windows == 4


# Freeing


def test_freed_pages_are_trimmed() -> None:
    program = tuned()
    program.map(BASE, 8, RW)
    program.anew().unmap(BASE, 8)
    assert cost(program) == trimmed(8)


def test_freed_pages_below_the_threshold_cost_nothing() -> None:
    program = tuned("lazyfree=15")
    program.map(BASE, 8, RW)
    program.touch(BASE, 8)
    program.anew().unmap(BASE, 8)
    assert cost(program) == {}
    assert (program.counts.open_windows, program.counts.untouched_pages) == (8, 8)
    program.anew().map(BASE + 2 * PAGE, 4, RW)
    assert cost(program) == {"pages_zeroed": 4}
    program.anew().map(BASE + 100 * PAGE, 1, RW)
    assert cost(program) == fresh(1), "the pool is searched by address"
    assert program.strategy.pal.pending == 4 * PAGE


def test_pages_of_the_pool_have_the_permission_that_they_had() -> None:
    program = tuned("lazyfree=15")
    program.map(BASE, 4, R)
    program.unmap(BASE, 4)
    program.anew().map(BASE, 4, RW)
    assert cost(program) == {"host_calls": 1, "emodpe": 4, "pages_zeroed": 4}


def test_an_overflow_trims_the_lowest_entries_whole() -> None:
    program = tuned("heap=64K,lazyfree=50")
    program.map(BASE, 20, RW)
    program.anew().unmap(BASE + 4 * PAGE, 4)
    program.unmap(BASE + 12 * PAGE, 4)
    assert cost(program) == {}, "8 pages are the threshold, and do not exceed it"
    program.unmap(BASE + 19 * PAGE, 1)
    assert cost(program) == trimmed(4), "the lowest entry, not the oldest part"
    program.anew().unmap(BASE + 8 * PAGE, 4)
    assert cost(program) == trimmed(8), "it is one entry with its neighbor, which goes with it"
    assert program.strategy.pal.pending == PAGE


def test_an_entry_larger_than_the_threshold_goes_after_lower_ones() -> None:
    program = tuned("heap=64K,lazyfree=25")
    program.map(BASE, 20, RW)
    program.anew().unmap(BASE, 2)
    program.unmap(BASE + 10 * PAGE, 10)
    assert cost(program) == trimmed(12, runs=2)


def test_discarded_contents_are_set_to_zero_in_place() -> None:
    program = tuned()
    program.map(BASE, 8, RW)
    program.touch(BASE, 8)
    program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_DONTNEED)
    assert cost(program) == {"pages_zeroed": 8} and program.counts.untouched_pages == 8
    program.protect(BASE, 8, R)
    program.touch(BASE, 8)
    program.anew().call("madvise", BASE, 8 * PAGE, f.MADV_DONTNEED)
    assert cost(program) == restricted(8, eaccept=8, emodpe=8, pages_zeroed=8) | {"host_calls": 2}


# The library OS above it


def test_the_break_grows_and_shrinks() -> None:
    program = tuned("batch=madvise")
    program.call("brk", HEAP + 8 * PAGE)
    assert program.counts.host_calls == 1
    program.anew().call("brk", HEAP + 2 * PAGE)
    assert cost(program) == trimmed(6)


def test_mremap_copies_committed_pages() -> None:
    program = tuned("demand=1")
    program.map(BASE, 8, RW)
    program.touch(BASE, 3)
    target = BASE + 100 * PAGE
    program.anew().call(
        "mremap", BASE, 8 * PAGE, 8 * PAGE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, target
    )
    assert (program.counts.pages_copied, program.counts.exceptions) == (3, 3)
    assert program.strategy.pal.count() == 3 and program.counts.eremove == 3


def test_a_thread_allocates_its_stack_and_frees_it() -> None:
    program = tuned("lazyfree=15")
    program.strategy.thread()
    assert cost(program) == fresh(7)
    program.anew().strategy.thread_ends()
    program.strategy.thread()
    assert cost(program) == {"pages_zeroed": 7}, "the same stack, from the pool"


def test_a_child_receives_committed_pages() -> None:
    program = tuned("demand=1")
    program.map(BASE, 100, RW)
    program.touch(BASE, 5)
    program.map(BASE + 200 * PAGE, 3, 0)
    program.anew()
    child = program.strategy.fork(program.space.fork(), program.touches.copy())
    assert cost(program) == {
        "ecreate": 1, "einit": 1, "host_calls": 3, "pages_copied": 5,
        "exceptions": 5, "eaug_faults": 5, "eaug": 5, "eaccept": 5,
    }  # fmt: skip
    assert not program.counts.untouched_pages
    assert child.pal.count() == 5 and not child.pal.pool.count


def test_a_growing_stack_is_no_host_call_of_its_own() -> None:
    program = Program(maker("edmm-tuned:batch=madvise"))
    stack = Vma(RW | MAY | f.VM_GROWSDOWN)
    program.load([(BASE + PAGE * 99, BASE + PAGE * 120, stack)])
    low = BASE + PAGE * 90
    program.space.adopt([(low, BASE + PAGE * 99, stack)])
    program.anew().strategy.grow(low, BASE + PAGE * 99, stack)
    assert cost(program) == {"eaug": 9, "eaccept": 9, "pages_zeroed": 9}


# Carried out on the modelled EPCM

SETTINGS = (
    "edmm", "demand=1", "demand=8", "demand=8,batch=madvise", "batch=madvise,lazyfree=15",
    "heap=64K,lazyfree=50", "demand=4,heap=64K,lazyfree=50", "batch=fault,lazyfree=100",
)  # fmt: skip
PROTS = (0, R, RW, RW, RW, W, RX, RWX, X)


def steps(seed: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Random calls and touches on 60 pages."""
    pick = random.Random(seed)
    for _ in range(100):
        start, pages = BASE + pick.randrange(60) * PAGE, pick.choice((1, 1, 2, 3, 5, 8, 20))
        length, kind = pages * PAGE, pick.randrange(12)
        if kind < 3:
            yield "mmap", (start, length, pick.choice(PROTS), FIXED, (1 << 64) - 1, 0)
        elif kind == 3:
            flags = pick.choice((f.MAP_PRIVATE, f.MAP_SHARED)) | f.MAP_FIXED
            yield "mmap", (start, length, pick.choice(PROTS), flags, 3, 0)
        elif kind < 6:
            yield "mprotect", (start, length, pick.choice(PROTS))
        elif kind == 6:
            yield "munmap", (start, length)
        elif kind == 7:
            yield "madvise", (start, length, f.MADV_DONTNEED)
        elif kind == 8:
            flags = f.MREMAP_MAYMOVE | f.MREMAP_FIXED | pick.choice((0, 0, f.MREMAP_DONTUNMAP))
            yield "mremap", (start, length, length, flags, BASE + (100 + pick.randrange(40)) * PAGE)
        elif kind == 9:
            yield pick.choice(("thread", "thread_ends")), ()
        else:
            yield "touch", (start, pages)


def step(program: Program[EdmmTuned], name: str, args: tuple[int, ...]) -> None:
    """Make one step; calls that only the host can answer are not made."""
    if name == "touch":
        program.touch(*args)
        return
    if name in ("thread", "thread_ends"):
        getattr(program.strategy, name)()
        return
    file: OpenFile | None = lib(10) if name == "mmap" and not args[3] & f.MAP_ANONYMOUS else None
    program.attempt(name, args, file)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_model_refuses_nothing(setting: str, seed: int) -> None:
    """The machine carries each instruction out; the EPCM has what the PAL's record states."""
    checked, plain = tuned(setting, machine()), tuned(setting)
    for name, args in steps(seed):
        for program in (checked, plain):
            step(program, name, args)
        assert checked.counts == plain.counts, (name, args)
        pal = checked.strategy.pal
        actual = checked.meter.driver.epcm.pages  # type: ignore[attr-defined]
        assert [(start, end, prot) for start, end, prot in pal.committed] == [
            (start, end, prot) for start, end, prot in _joined(actual)
        ]
        assert pal.pending == sum(end - start for start, end, _ in pal.pool)
        assert all(
            had is None for start, end, _ in pal.pool for _, _, had in pal.vmas.runs(start, end)
        )
    checked.strategy.end()
    assert checked.meter.epc_pages == 0


def _joined(pages: object) -> list[tuple[int, int, int]]:
    joined: list[tuple[int, int, int]] = []
    for start, end, entry in pages:  # type: ignore[attr-defined]
        if joined and joined[-1][1:] == (start, entry.prot):
            joined[-1] = (joined[-1][0], end, entry.prot)
        else:
            joined.append((start, end, entry.prot))
    return joined


# Options


def test_named_settings() -> None:
    plain = strategy("edmm-tuned")
    assert plain is EdmmTuned is maker("edmm-tuned")
    assert Tuning(**OPTIONS.values) == Tuning(64 * M, 8, "madvise", 15)
    names = {
        "static": "edmm-tuned:preheat=1G",
        "edmm": "edmm-tuned:edmm",
        "edmm+demand": "edmm-tuned:demand=1",
        "+preheat": "edmm-tuned:preheat=64M",
        "+batch": "edmm-tuned:preheat=64M,batch=madvise",
        "+contiguous": "edmm-tuned:preheat=64M,demand=8,batch=madvise",
        "+lazy": "edmm-tuned",
    }
    assert {name: full_name(f"edmm-tuned:{name}") for name in OPTIONS.settings} == names
    assert full_name("edmm-tuned:+lazy,preheat=0") == (
        "edmm-tuned:demand=8,batch=madvise,lazyfree=15"
    )
    assert full_name("edmm-tuned:lazyfree=15,preheat=65536K") == full_name(
        "edmm-tuned:preheat=64M,demand=0,lazyfree=15"
    )


def test_the_threshold_is_a_part_of_the_heap() -> None:
    assert Tuning(lazyfree=15, heap=1000 * PAGE).threshold == 150 * PAGE
    assert Tuning(lazyfree=1, heap=PAGE).threshold == 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("edmm-tuned:preheet=64M", "has no option 'preheet=64M'; use preheat=VALUE .*, demand="),
        ("edmm-tuned:", "has no option ''; use"),
        ("edmm-tuned:demand", "has no option 'demand'; use"),
        ("edmm-tuned:demand=8,edmm", "has no option 'edmm'"),
        ("edmm-tuned:demand=-1", "'demand=-1' is not a value of demand; use the pages"),
        ("edmm-tuned:lazyfree=101", "'lazyfree=101' is not a value of lazyfree; use 0 to 100"),
        ("edmm-tuned:preheat=5", "'preheat=5' is not a value of preheat; use a size in whole"),
        ("edmm-tuned:batch=yes", "'batch=yes' is not a value of batch; use none, fault or madvise"),
        ("edmm-tuned:demand=1,demand=2", "the option 'demand' is there twice"),
        ("edmm-tuned:preheat=2G", "'preheat=2G' exceeds the heap of 1G; use a smaller preheat"),
        ("edmm-tuned:heap=0", "'heap=0' is not a heap"),
        ("edmm-tuned:batch=fault,demand=8", "'batch=fault' cannot be combined with 'demand=8'"),
        ("classify:demand=8", "the strategy 'classify' has no options; use 'classify' alone"),
        ("laconic:demand=8", "the strategy 'laconic' has no option 'demand=8'; use batch=VALUE"),
    ],
)
def test_wrong_options(name: str, message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        check_name(name, "sgx2")
    with pytest.raises(LaconicError, match=message):
        strategy(name)


def test_lists_and_grids_of_names() -> None:
    text = "laconic,edmm-tuned:demand=0/8,lazyfree=0/15,edmm-tuned:edmm/+lazy"
    assert split_names(text) == [
        "laconic", "edmm-tuned:demand=0/8,lazyfree=0/15", "edmm-tuned:edmm/+lazy"
    ]  # fmt: skip
    assert list(expand("edmm-tuned:edmm/+lazy")) == ["edmm-tuned:edmm", "edmm-tuned:+lazy"]
    assert len(list(expand("edmm-tuned:preheat=0/64M,demand=0/1/8,batch=none/madvise"))) == 12
    assert base_name("edmm-tuned:demand=8") == "edmm-tuned"
    assert [show_size(parse_size(size)) for size in ("4K", "1024K", "3G", "0")] == [
        "4K", "1M", "3G", "0"
    ]  # fmt: skip


def test_options_are_for_enclaves() -> None:
    with pytest.raises(LaconicError, match="options are for enclaves; add --host sgx2, or use 'l"):
        check_name("laconic:batch=madvise", "linux")
    with pytest.raises(LaconicError, match="'edmm-tuned:demand=8' has no rule for Linux"):
        check_name("edmm-tuned:demand=8", "linux")


# What laconic learned from it


def test_laconic_on_the_patched_kernel_has_a_fault_and_a_host_call_for_each_window() -> None:
    plain, patched = (Program(maker(f"laconic{options}")) for options in ("", ":batch=madvise"))
    for program in (plain, patched):
        program.map(BASE, 100, RW)
        program.touch(BASE, 60)
    assert plain.counts.exceptions == patched.counts.exceptions == 4, "4, 8, 16 and 32 pages"
    assert (plain.counts.eaug_faults, plain.counts.host_calls) == (60, 0)
    assert (patched.counts.eaug_faults, patched.counts.host_calls) == (4, 4)
    assert plain.counts.eaug == patched.counts.eaug == 60


def test_laconic_on_the_patched_kernel_adds_a_small_mapping_in_one_host_call() -> None:
    program = Program(maker("laconic:batch=madvise"))
    program.map(BASE, 8, RW)
    assert cost(program) == {"host_calls": 1, "eaug": 8, "eaccept": 8}
    program.anew().map(BASE + 100 * PAGE, 1, RW)
    assert cost(program) == {"eaug_faults": 1, "eaug": 1, "eaccept": 1}


def test_equal_settings_of_laconic_have_one_name() -> None:
    assert full_name("laconic:batch=none") == "laconic"
    assert arguments("laconic:batch=none") == {"values": {"batch": "none"}}
    assert full_name("laconic:batch=madvise") == "laconic:batch=madvise"


def test_counts_start_at_zero() -> None:
    assert tuned().counts == Counts()
