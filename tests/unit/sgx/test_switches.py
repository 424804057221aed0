"""Each change to Gramine that can be switched on, by formulas worked out by hand for small
programs; and all combinations on the modelled enclave."""

from __future__ import annotations

from random import Random
from typing import cast

import pytest

from laconic.errors import LaconicError
from laconic.libos.strategy import MemoryCall
from laconic.memory import flags as f
from laconic.memory.flags import TASK_SIZE
from laconic.memory.space import Entry
from laconic.memory.vma import Vma
from laconic.sgx.meter import Counts
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.edmm import permissions
from laconic.sgx.pal.switches import ALL_SWITCHES
from laconic.strategies import full_name, is_strict, maker, strategy
from laconic.strategies.every_call import EveryCall
from laconic.strategies.skip_equal import SkipEqual
from laconic.strategies.strict import StrictChecker, breaches
from tests.helpers.enclaveworld import (
    BASE,
    FIXED,
    LIB,
    PAGE,
    Cost,
    Maker,
    Program,
    cost,
    lib,
    machine,
)

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X


def rule(text: str) -> Maker[EveryCall]:
    """The strategy `every-call` with these switches."""
    return cast(Maker[EveryCall], maker(f"every-call:{text}"))


class Watched(Program[EveryCall]):
    """A program whose enclave is looked at after each SGX instruction."""

    def __init__(self, maker: Maker[EveryCall]) -> None:
        self.hardware = machine()
        super().__init__(maker, self.hardware)
        self.watch = StrictChecker(self.hardware, self.space)

    def tell(self, call: MemoryCall) -> None:
        self.watch.expect(call.changes)
        super().tell(call)


def with_(*switches: str, hardware: bool = False) -> Program[EveryCall]:
    """A program under `every-call` with these switches on, on the modelled enclave if
    `hardware`."""
    options = ",".join(switch if "=" in switch else f"{switch}=on" for switch in switches)
    return Program(rule(options), machine() if hardware else None)


def hardware_of(p: Program[EveryCall]) -> Machine:
    """The modelled enclave of a program."""
    assert isinstance(p.meter, Machine)
    return p.meter


# store

#: Pages of the store that a parent commits and frees, and of the checkpoint's data.
STORE, DATA = 16384, 8


def test_a_lazy_store_commits_what_is_used_of_it() -> None:
    """Today: 16,384 pages are added, accepted, trimmed and removed. Then: as many as the data."""
    p = with_("store")
    p.map(BASE, 3, RW)
    p.anew().strategy.fork(p.space.fork(), p.touches.copy())
    assert p.counts.eaug == p.counts.eaug_faults == DATA + DATA + 3
    assert p.counts.exceptions == DATA
    assert (p.counts.emodt, p.counts.etrack_ipis, p.counts.eremove) == (DATA,) * 3
    assert p.counts.eaccept == 2 * DATA + DATA + 3
    assert (p.counts.ioctls, p.counts.host_calls) == (2, 2 + 1 + 2 + 2 * 3)
    assert p.meter.peak_epc_pages == 3 + DATA + DATA + 3


# send


def test_memory_is_sent_in_runs() -> None:
    """Today each page of a child's memory is a write and a read. Then: each run of pages."""
    p = with_("store", "send")
    p.map(BASE, 30, RW)
    p.map(BASE + 40 * PAGE, 5, R)
    p.anew().strategy.fork(p.space.fork(), p.touches.copy())
    store, data, alone = 2, 2, 1
    sent, protected = 2 * 2, 1
    assert p.counts.host_calls == store + data + alone + sent + protected
    assert p.counts.ioctls == store + protected
    assert p.counts.pages_copied == DATA + 30 + 5


# equal


def test_equal_is_the_strategy_skip_equal() -> None:
    counts = []
    for each in (rule("equal=on"), SkipEqual):
        p = Program(each)
        p.map(BASE, 5, RW)
        for page in range(5):
            p.protect(BASE + page * PAGE, 1, RW)
        p.protect(BASE + PAGE, 2, R)
        p.strategy.thread()
        p.unmap(BASE, 5)
        counts.append(p.counts)
    assert counts[0] == counts[1]
    with pytest.raises(LaconicError, match="use every-call:equal=on,store=on"):
        strategy("skip-equal:store=on")


# kinds, extend

#: By change, and for each page: EMODPE, EMODPR (with its tracking cycle), EACCEPT. Today it is one
#: of each, whatever changes.
CHANGES = {
    (RW, RW): {"kinds": (0, 0, 0), "extend": (1, 0, 0), "both": (0, 0, 0)},
    (R, RW): {"kinds": (1, 1, 1), "extend": (1, 0, 0), "both": (1, 0, 0)},
    (RW, R): {"kinds": (0, 1, 1), "extend": (1, 1, 1), "both": (0, 1, 1)},
    (RW, RX): {"kinds": (1, 1, 1), "extend": (1, 1, 1), "both": (1, 1, 1)},
    (0, R): {"kinds": (1, 1, 1), "extend": (1, 0, 0), "both": (1, 0, 0)},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("switches", ["kinds", "extend", "both"])
def test_a_protect_does_what_changes(change: tuple[int, int], switches: str) -> None:
    before, after = change
    n = 7
    p = with_(*(("kinds", "extend") if switches == "both" else (switches,)), hardware=True)
    p.map(BASE, n, before)
    p.anew().protect(BASE, n, after)
    extended, restricted, accepted = CHANGES[change][switches]
    assert (p.counts.emodpe, p.counts.emodpr, p.counts.etrack_ipis, p.counts.eaccept) == (
        n * extended,
        n * restricted,
        n * restricted,
        n * accepted,
    )
    assert p.counts.host_calls == p.counts.ioctls == restricted
    opens = switches == "extend" and change == (RW, RX)
    assert p.counts.open_windows == (n if opens else 0), "kinds: EMODPR comes first"
    assert list(hardware_of(p).effective(BASE, BASE + n * PAGE)) == [(BASE, BASE + n * PAGE, after)]


def test_runs_of_one_protect_share_an_ioctl_where_they_touch() -> None:
    """RW, R, X: to R, the first and the last are restricted, and R is between them."""
    p = with_("kinds", hardware=True)
    for page, prot in enumerate((RW, RX, R, RWX)):
        p.map(BASE + page * PAGE, 1, prot)
    p.anew().protect(BASE, 4, R)
    assert cost(p) == Cost(2, 3, 0), "the first two are one run"


def test_two_switches_together_split_nothing_of_an_equal_call() -> None:
    p = with_("kinds", "equal")
    p.map(BASE, 4, RW)
    p.anew().protect(BASE + PAGE, 1, RW)
    assert p.counts == Counts()
    assert p.strategy.vmas.count == 1


# copy


@pytest.mark.parametrize("prot", [R, RX, RWX, 0])
def test_the_first_permissions_come_by_eacceptcopy(prot: int) -> None:
    """Today R is EACCEPT, EMODPR and EACCEPT, and a page is RW for a moment. Then: EACCEPTCOPY."""
    n = 7
    p = with_("copy", hardware=True)
    p.map(BASE, n, prot)
    p.map_file(BASE + 16 * PAGE, n, prot, lib(n))
    assert (p.counts.eaug, p.counts.eacceptcopy, p.counts.eaccept) == (2 * n, 2 * n, 0)
    assert (p.counts.ioctls, p.counts.emodpe, p.counts.open_windows) == (0, 0, 0)
    assert (p.counts.host_calls, p.counts.pages_copied) == (1, n), "the file is read"
    for start in (BASE, BASE + 16 * PAGE):
        effective = hardware_of(p).effective(start, start + n * PAGE)
        assert list(effective) == [(start, start + n * PAGE, prot)]


def test_a_segment_and_its_last_page_come_by_eacceptcopy() -> None:
    """Today: 1 ioctl for the protection and 2 for the last page, each segment; the stack 2."""
    p = with_("copy", hardware=True)
    top = BASE + 200 * PAGE
    p.load(
        [
            (BASE, BASE + 4 * PAGE, Vma(RX | f.VM_MAY_RWX, LIB, BASE)),
            (top - 64 * PAGE, top, Vma(RW | f.VM_MAY_RWX | f.VM_GROWSDOWN)),
        ]
    )
    assert (p.counts.ioctls, p.counts.host_calls) == (0, 1)
    assert (p.counts.eacceptcopy, p.counts.eaccept) == (4 + 1, 64), "the guard page"


def test_a_child_gets_a_read_only_page_by_eacceptcopy() -> None:
    p = with_("copy", "store")
    p.map(BASE, 3, R)
    p.anew().strategy.fork(p.space.fork(), p.touches.copy())
    assert (p.counts.eacceptcopy, p.counts.emodpr, p.counts.open_windows) == (3, 0, 0)


# reserve


def test_nothing_inaccessible_is_committed() -> None:
    """Today an inaccessible mapping costs what any other does, and an ioctl. Then: nothing, until
    it is opened."""
    n = 7
    p = with_("reserve", hardware=True)
    p.map(BASE, n, 0)
    assert p.counts == Counts()
    p.protect(BASE, n, RW)
    assert cost(p) == Cost(0, n, 0, n)
    assert p.counts.untouched_pages == n
    p.anew().protect(BASE, n, 0)
    assert cost(p) == Cost(1, n, n), "contents stay, so these pages do"
    p.map_file(BASE + 16 * PAGE, n + 3, R, lib(n))
    p.anew().protect(BASE + 16 * PAGE, n + 3, RW)
    assert p.counts.emodpe == n, "pages past the end of a file do not exist"
    assert p.counts.open_windows == 0


def test_guard_pages_are_not_committed() -> None:
    """Of a thread's 8 pages of LibOS stack 7 are, and no Protect is needed."""
    p = with_("reserve", hardware=True)
    p.strategy.threads._free_slots = 1
    p.strategy.thread()
    assert cost(p) == Cost(0, 7, 0, 7)
    p.load([(BASE, BASE + 64 * PAGE, Vma(RW | f.VM_MAY_RWX | f.VM_GROWSDOWN))])
    assert cost(p) == Cost(0, 7 + 64, 0, 7 + 64)


# demand


@pytest.mark.parametrize(("pages", "exceptions", "committed"), [(1, 5, 5), (4, 3, 12), (16, 2, 24)])
def test_a_first_touch_commits_a_block(pages: int, exceptions: int, committed: int) -> None:
    """24 pages, of which those from 3 to 5 and 16 and 17 are touched: in blocks of 1, 4, 16."""
    p = with_(f"demand={pages}", hardware=True)
    p.map(BASE, 24, RW)
    assert p.counts == Counts()
    p.touch(BASE + 3 * PAGE, 3)
    p.touch(BASE + 16 * PAGE, 2)
    assert cost(p) == Cost(0, committed, 0, committed, exceptions)
    assert p.counts.untouched_pages == committed - 5


def test_a_file_is_read_where_it_is_touched() -> None:
    """One host call for the file, which the host maps; a block ends where the file does."""
    p = with_("demand=16", "copy", hardware=True)
    p.map_file(BASE, 40, RX, lib(35))
    assert p.counts == Counts()
    p.touch(BASE, 1)
    p.touch(BASE + 34 * PAGE, 1)
    assert (p.counts.host_calls, p.counts.exceptions, p.counts.pages_copied) == (1, 2, 16 + 3)
    assert (p.counts.eacceptcopy, p.counts.ioctls) == (16 + 3, 0)


def test_a_block_does_not_leave_its_mapping() -> None:
    p = with_("demand=16", hardware=True)
    p.map(BASE, 4, RW)
    p.map(BASE + 4 * PAGE, 4, R)
    p.anew().touch(BASE + PAGE, 1)
    assert p.counts.eaug == 4


# zero


def test_a_fixed_mapping_keeps_the_pages_that_are_there() -> None:
    """Today each VMA is freed, in 2 ioctls, and all pages are added again."""
    n = 7
    p = with_("zero", hardware=True)
    p.map(BASE, n, RW)
    p.touch(BASE, 2)
    p.anew().map(BASE, n + 2, RW)
    assert p.counts.pages_zeroed == n
    assert cost(p) == Cost(1, n + 2, n, 2), "a Protect, and two new pages"
    assert p.counts.untouched_pages == 2 + 2
    p.map(BASE, n, R)
    p.anew().map(BASE, n, R)
    assert cost(p) == Cost(3, 3 * n, 0, n), "what cannot be written is freed"
    with_kinds = with_("zero", "kinds", hardware=True)
    with_kinds.map(BASE, n, RW)
    with_kinds.anew().map(BASE, n, RW)
    assert cost(with_kinds) == Cost()


def test_dontneed_of_what_cannot_be_written_frees_it() -> None:
    """Today it is opened, cleared and closed: 2 ioctls too, and a window."""
    n = 7
    p = with_("zero", hardware=True)
    p.map(BASE, n, R)
    p.touch(BASE, 2)
    p.anew().call("madvise", BASE, n * PAGE, f.MADV_DONTNEED)
    assert cost(p) == Cost(2, n)
    assert (p.counts.open_windows, p.counts.pages_zeroed, p.counts.untouched_pages) == (0, 0, 0)
    p.touch(BASE, 1)
    assert p.counts.exceptions == 1


# exec


def _image(at: int) -> list[Entry]:
    # Text, data and stack of one program, whose text begins at `at`.
    top = at + 200 * PAGE
    return [
        (at, at + 4 * PAGE, Vma(RX | f.VM_MAY_RWX, LIB, at)),
        (at + 4 * PAGE, at + 6 * PAGE, Vma(RW | f.VM_MAY_RWX, LIB, at)),
        (top - 33 * PAGE, top, Vma(RW | f.VM_MAY_RWX | f.VM_GROWSDOWN)),
    ]


@pytest.mark.parametrize("switch", [None, "exec"])
def test_exec_keeps_the_stack_and_what_the_program_has_too(switch: str | None) -> None:
    """Today 4 + 2 + 65 pages are freed, and added again. With the switch, 2."""
    p = with_("demand=0" if switch is None else switch, hardware=True)
    p.load(_image(BASE))
    other = Program(EveryCall)
    other.space.adopt(_image(BASE + 500 * PAGE))
    p.anew()
    successor = p.strategy.execute(other.space, other.touches)
    freed = (4 + 2 + 65) if switch is None else 2
    assert (p.counts.emodt, p.counts.eremove) == (freed, freed)
    successor.load(other.space.vmas)
    assert p.counts.eaug == freed
    assert p.counts.pages_zeroed == (0 if switch is None else 64)
    start = BASE + 500 * PAGE
    text = hardware_of(p).effective(start, start + 4 * PAGE)
    assert list(text) == [(start, start + 4 * PAGE, RX)]
    stack = start + (200 - 65) * PAGE
    below = hardware_of(p).effective(stack, start + 200 * PAGE)
    assert [prot for _, _, prot in below] == [0, RW]
    successor.end()
    assert p.meter.epc_pages == 0


# threads


def test_the_next_thread_gets_the_stack_of_the_ended_one() -> None:
    """Today 8 pages are trimmed, in 2 ioctls, and added again, with a Protect of the guard page."""
    p = with_("threads", hardware=True)
    p.strategy.thread()
    p.anew().strategy.thread_ends()
    p.strategy.thread()
    assert p.counts == Counts()
    p.strategy.thread()
    assert p.counts.eaug == 98, "two at the same time"


# All combinations

#: The switches that concern the calls of `_anything`.
CALLS = ("equal", "kinds", "extend", "copy", "reserve", "demand", "zero")


def _combination(number: int) -> str:
    chosen = [name for place, name in enumerate(CALLS) if number >> place & 1]
    return ",".join(f"{name}=4" if name == "demand" else f"{name}=on" for name in chosen)


def _anything(p: Program[EveryCall], dice: Random) -> None:
    start, pages = BASE + dice.randrange(24) * PAGE, dice.randint(1, 8)
    prot = dice.choice((0, R, RW, RX, RWX, W))
    choice = dice.randrange(9)
    if choice < 2:
        p.map(start, pages, prot, FIXED | dice.choice((0, f.MAP_NORESERVE)))
    elif choice == 2:
        p.map_file(start, pages, prot, lib(dice.randint(1, 9)), page=dice.randrange(3))
    elif choice == 3:
        p.unmap(start, pages)
    elif choice == 4:
        p.call("madvise", start, pages * PAGE, f.MADV_DONTNEED)
    elif choice < 7 and p.space.vmas.covered(start, start + pages * PAGE):
        p.protect(start, pages, prot)
    else:
        p.touch(start, pages)


@pytest.mark.parametrize("block", range(8))
def test_no_combination_gives_more_access_than_was_requested(block: int) -> None:
    """For each of the 128: the machine refuses nothing; after each step, what is accessible was
    requested; within a step too, if the combination claims to be strict."""
    for number in range(block, 1 << len(CALLS), 8):
        text = _combination(number)
        chosen = rule(text) if text else EveryCall
        p = Watched(chosen)
        dice = Random(number)
        for _ in range(60):
            _anything(p, dice)
            for start, end, prot in p.hardware.effective(0, TASK_SIZE):
                for _, _, vma in p.space.vmas.runs(start, end):
                    requested = 0 if vma is None else permissions(vma.flags)
                    assert not (prot or 0) & ~requested, text
            if _is_strict(text):
                assert not p.watch.windows, text
                assert not list(breaches(p.hardware, p.space)), text
                assert not p.counts.open_windows, text
        p.unmap(BASE - 64 * PAGE, 256)
        p.strategy.end()
        assert p.meter.epc_pages == 0, text


def test_which_combinations_are_strict() -> None:
    strict = [number for number in range(1 << len(CALLS)) if _is_strict(_combination(number))]
    assert len(strict) == 4, "equal and extend make no difference"
    assert is_strict("every-call:all") and not is_strict("every-call")
    assert not is_strict("skip-equal") and is_strict("laconic:batch=madvise")


def test_equal_settings_have_equal_names() -> None:
    everything = ",".join(
        f"{name}={value if name == 'demand' else 'on'}"
        for name, value in ALL_SWITCHES._asdict().items()
    )
    assert full_name("every-call:all") == full_name(f"every-call:{everything}") == "every-call:all"
    assert full_name("every-call:demand=0,kinds=off") == "every-call"
    assert full_name("every-call:all,demand=8").endswith(",demand=8,zero=on,exec=on,threads=on")


def _is_strict(text: str) -> bool:
    return is_strict(f"every-call:{text}" if text else "every-call")
