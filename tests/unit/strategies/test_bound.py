"""The bound on pictures that a person can check: what each history of pages costs at least, and
where it is entered."""

from __future__ import annotations

import gc
import time

import pytest

from laconic.libos.strategy import MemoryCall
from laconic.libos.touches import Touches
from laconic.linux.pagemap import FILE_PAGE
from laconic.memory import flags as f
from laconic.memory.change import Outcome
from laconic.memory.layout import Layout
from laconic.memory.madvise import madvise
from laconic.memory.mmap import mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.mremap import mremap
from laconic.memory.munmap import munmap
from laconic.memory.space import AddressSpace
from laconic.sgx import costs
from laconic.sgx.costs import COSTED, CostProfile, Figure
from laconic.sgx.meter import Counts, Meter
from laconic.strategies.bound import Bound, bound
from laconic.strategies.pagefloor import PageFloor
from tests.helpers.pictures import FILE, LEGEND, PAGE, at, read

RW, RX = f.PROT_READ | f.PROT_WRITE, f.PROT_READ | f.PROT_EXEC
PRIVATE = f.MAP_PRIVATE | f.MAP_ANONYMOUS | f.MAP_FIXED


class Program:
    """A program whose pages lie as in a picture, and its bound."""

    def __init__(
        self, picture: str, profile: CostProfile | None = None, high: bool = False
    ) -> None:
        self.space = AddressSpace(Layout(mmap_base=at(200)), read(picture, LEGEND), start_brk=at(0))
        self.touches, self.meter = Touches(), Meter()
        self.bound = bound(profile or costs.load(), high)(self.meter, self.space, self.touches)
        self.meter.at(1, "start")

    def touch(self, first: int, last: int, how: int = 0) -> None:
        """Touches the pages from `first` up to, not with, `last`."""
        for start, end, vma in self.touches.take([(at(first), at(last), how)], self.space):
            self.bound.touch(start, end, vma)

    def call(self, name: str, args: tuple[int, ...], outcome: Outcome) -> None:
        """Makes a call of which the outcome is known."""
        self.meter.at(1, name)
        self.space.commit(outcome)
        self.bound.call(MemoryCall(name, args, outcome.result, outcome.changes))
        self.touches.apply(name, args, outcome.changes)

    def mprotect(self, first: int, last: int, prot: int) -> None:
        """mprotect of these pages."""
        length = (last - first) * PAGE
        self.call(
            "mprotect", (at(first), length, prot), mprotect(self.space, at(first), length, prot)
        )

    def munmap(self, first: int, last: int) -> None:
        """munmap of these pages."""
        length = (last - first) * PAGE
        self.call("munmap", (at(first), length), munmap(self.space, at(first), length))

    def madvise(self, first: int, last: int, advice: int) -> None:
        """madvise of these pages."""
        length = (last - first) * PAGE
        self.call(
            "madvise", (at(first), length, advice), madvise(self.space, at(first), length, advice)
        )

    def mmap(self, first: int, last: int, prot: int) -> None:
        """A new anonymous mapping over these pages."""
        length = (last - first) * PAGE
        args = at(first), length, prot, PRIVATE, -1, 0
        self.call("mmap", args, mmap(self.space, at(first), length, prot, PRIVATE, None, 0))

    def spent(self, call: str | None = None) -> dict[str, int]:
        """What was entered under a call, or in all; only what is not 0."""
        counts = self.meter.total() if call is None else self.meter.tables[1, call]
        return {name: times for name, times in counts.as_dict().items() if times}


COMMITTED = {"eaug_faults": 1, "eaug": 1, "eaccept": 1}
COPIED = {"eaug_faults": 1, "eaug": 1, "eacceptcopy": 1}
TRIM = {"host_calls": 2, "ioctls": 2, "etrack_ipis": 1, "emodt": 1, "eaccept": 1, "eremove": 1}


def times(number: int, things: dict[str, int]) -> dict[str, int]:
    """So many pages' leaves; host calls and ioctls stay."""
    return {
        name: count if name in ("host_calls", "ioctls") else count * number
        for name, count in things.items()
    }


def test_a_touch_commits_as_the_page_must_be() -> None:
    """RW by EACCEPT, all else by EACCEPTCOPY, and no exception is needed by whoever knows."""
    program = Program("wwrx")
    program.touch(0, 2)
    assert program.spent() == times(2, COMMITTED)
    program.touch(2, 4)
    assert program.spent() == {"eaug_faults": 4, "eaug": 4, "eaccept": 2, "eacceptcopy": 2}
    assert program.meter.epc_pages == program.meter.peak_epc_pages == 4


def test_untouched_pages_cost_nothing() -> None:
    """Mapped, protected, discarded, unmapped: none of it is there."""
    program = Program("w" * 50 + "f" * 50)
    program.mprotect(0, 50, 0)
    program.mprotect(10, 50, RX)
    program.madvise(0, 100, f.MADV_DONTNEED)
    program.mmap(20, 30, RW)
    program.munmap(0, 100)
    program.bound.end()
    assert program.spent() == {}


def test_a_file_is_read_once() -> None:
    """One host call for all pages of a file in one enclave, and a copy for each."""
    program = Program("ffd")
    program.touch(0, 1, FILE_PAGE)
    program.touch(1, 3)
    assert program.spent() == times(3, COPIED) | {"host_calls": 1, "pages_copied": 3}


def test_permissions_of_live_pages() -> None:
    """An extension by EMODPE alone; a restriction by one host call and ioctl, untouched pages left
    out."""
    program = Program("wwwwnn")
    program.touch(0, 2)
    program.mprotect(0, 6, RW | f.PROT_EXEC)
    assert program.spent("mprotect") == {"emodpe": 2}
    program = Program("wwwwww")
    program.touch(0, 2)
    program.mprotect(0, 6, RX)
    assert program.spent("mprotect") == {
        "host_calls": 1, "ioctls": 1, "etrack_ipis": 2, "emodpr": 2, "emodpe": 2, "eaccept": 2,
    }  # fmt: skip


def test_an_ioctl_for_each_run_of_pages() -> None:
    """An ioctl does not reach over a page that is not there; a host call carries all of them."""
    program = Program("wwwww")
    for page in (0, 2, 4):
        program.touch(page, page + 1)
    program.munmap(0, 5)
    assert program.spent("munmap") == times(3, TRIM) | {"ioctls": 6}
    assert program.meter.epc_pages == 0


def test_discarded_and_touched_again_is_zeroed() -> None:
    """The page stays, and nothing is said to the host."""
    program = Program("ww")
    program.touch(0, 2)
    program.madvise(0, 2, f.MADV_DONTNEED)
    program.touch(0, 2)
    assert program.spent() == times(2, COMMITTED) | {"pages_zeroed": 2}


def test_discarded_and_unmapped_is_given_back_unzeroed() -> None:
    """Two host calls, which may have been made at either call: entered where it shows that there
    must be some."""
    program = Program("ww")
    program.touch(0, 2)
    program.madvise(0, 2, f.MADV_DONTNEED)
    assert program.spent("madvise") == {}
    program.munmap(0, 2)
    assert program.spent("munmap") == times(2, TRIM)


def test_host_calls_between_serve_what_was_discarded_before() -> None:
    """Whoever discards at the first call, and gives all back with another's host calls, needs none
    of its own."""
    program = Program("www")
    program.touch(0, 3)
    program.madvise(0, 1, f.MADV_DONTNEED)
    program.munmap(2, 3)
    program.munmap(0, 1)
    assert program.spent("munmap") == times(2, TRIM)
    program = Program("www")
    program.touch(0, 3)
    program.munmap(2, 3)
    program.madvise(0, 1, f.MADV_DONTNEED)
    program.munmap(0, 1)
    assert program.spent("munmap") == times(2, TRIM) | {"host_calls": 4, "ioctls": 4}


def test_pages_that_nobody_may_write_are_released() -> None:
    """R before and after: nothing could zero it."""
    program = Program("w")
    program.touch(0, 1)
    program.mprotect(0, 1, f.PROT_READ)
    program.mmap(0, 1, f.PROT_READ)
    assert program.spent("mmap") == TRIM
    program.touch(0, 1)
    assert program.meter.epc_pages == 1


def test_madv_free_keeps_all() -> None:
    """The program may see the old contents still."""
    program = Program("w")
    program.touch(0, 1)
    program.madvise(0, 1, f.MADV_FREE)
    program.munmap(0, 1)
    assert program.spent("madvise") == {}
    assert program.spent("munmap") == TRIM


def test_a_file_page_that_was_only_read_stays() -> None:
    """Discarded, it has what it will have: of one that was written the file's contents are copied
    over."""
    program = Program("dd")
    program.touch(0, 1, FILE_PAGE)
    program.touch(1, 2)
    program.madvise(0, 2, f.MADV_DONTNEED)
    program.touch(0, 2)
    assert program.spent("madvise") == {"pages_copied": 1}


def test_mremap_moves_live_pages_only() -> None:
    """EACCEPTCOPY from the old place, which is given back; the untouched page goes at no cost."""
    program = Program("ww..")
    program.touch(0, 1)
    args = at(0), 2 * PAGE, 2 * PAGE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, at(8), 0
    program.call("mremap", args, mremap(program.space, at(0), 2 * PAGE, 2 * PAGE, args[3], at(8)))
    assert program.spent("mremap") == TRIM | COPIED
    program.munmap(8, 10)
    assert program.spent("munmap") == TRIM
    assert program.meter.epc_pages == 0


def test_mremap_over_live_pages() -> None:
    """What is there already is copied over, where that is cheaper."""
    program = Program("w.......w")
    program.touch(0, 1)
    program.touch(8, 9)
    args = at(0), PAGE, PAGE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED, at(8), 0
    program.call("mremap", args, mremap(program.space, at(0), PAGE, PAGE, args[3], at(8)))
    assert program.spent("mremap") == TRIM | {"pages_copied": 1}
    assert program.meter.epc_pages == 1


def test_fork_sends_what_only_memory_has() -> None:
    """A file's own page is not sent, nor what the child does not have."""
    program = Program("wwfnD")
    program.touch(0, 1)
    program.touch(2, 3, FILE_PAGE)
    program.touch(4, 5)
    program.meter.at(1, "fork")
    child = program.bound.fork(program.space.fork(), program.touches.copy())
    assert program.spent("fork") == COMMITTED | {
        "host_calls": 3, "ecreate": 1, "einit": 1, "pages_copied": 2,
    }  # fmt: skip
    assert list(child.pages) == [(at(0), at(1), child._live)]
    child.end()
    assert program.meter.epc_pages == 3


def test_threads_are_paid_for_as_many_as_live_at_once() -> None:
    """A stack of seven pages, a TCS, and one host call; what one leaves serves the next."""
    program = Program("")
    program.bound.thread()
    program.bound.thread_ends()
    program.bound.thread()
    assert program.spent() == {
        "eaug_faults": 8, "eaug": 8, "eaccept": 9, "emodt": 1, "etrack_ipis": 1, "host_calls": 1,
        "ioctls": 1,
    }  # fmt: skip
    program.bound.thread()
    spent = program.spent()
    assert (spent["emodt"], spent["host_calls"], spent["ioctls"]) == (2, 1, 1), (
        "one ioctl can make all the TCSs"
    )
    program.bound.end()
    assert program.meter.epc_pages == 0


def test_a_tcs_rides_on_a_host_call_that_there_was() -> None:
    program = Program("w")
    program.touch(0, 1)
    program.munmap(0, 1)
    before = program.spent()
    program.bound.thread()
    spent = program.spent()
    assert (spent["host_calls"], spent["ioctls"]) == (before["host_calls"], before["ioctls"] + 1)


def test_given_back_and_committed_again_within_the_call() -> None:
    """Cheapest where EACCEPTCOPY and zeroing are both dear: EACCEPT gives zeroes, and the W that is
    too much goes."""
    figures = {name: Figure(1, 1, "", "") for name in COSTED}
    figures |= {
        name: Figure(1000, 1000, "", "") for name in ("eacceptcopy", "pages_zeroed", "pages_copied")
    }
    program = Program("w", CostProfile("own", "none", figures), False)
    program.touch(0, 1)
    program.mmap(0, 1, f.PROT_READ)
    program.touch(0, 1)
    spent = program.spent()
    assert spent["eaug"] == 2 and "eacceptcopy" not in spent and "pages_zeroed" not in spent
    assert (spent["emodpr"], spent["emodt"]) == (1, 1)


def test_the_two_ends_may_choose_differently() -> None:
    """Zeroing is cheap at the one end and dear at the other: each end has the counts that are
    cheapest there."""
    figures = {name: Figure(10, 10, "", "") for name in COSTED} | {
        "pages_zeroed": Figure(1, 9999, "", "")
    }
    profile = CostProfile("own", "none", figures)
    spent = []
    for high in (False, True):
        program = Program("w", profile, high)
        program.touch(0, 1)
        program.madvise(0, 1, f.MADV_DONTNEED)
        program.touch(0, 1)
        spent.append(program.spent())
    assert spent[0] == COMMITTED | {"pages_zeroed": 1}
    assert spent[1] == {
        "eaug_faults": 2,
        "eaug": 2,
        "eaccept": 3,
        "etrack_ipis": 1,
        "emodt": 1,
        "eremove": 1,
    }


def test_devices_and_an_empty_enclave() -> None:
    """A device's pages are none of an enclave's; a new enclave is counted."""
    program = Program("w")
    vma = program.space.vmas.get(at(0))
    assert vma is not None
    program.bound.touch(at(0), at(1), vma.with_flags(vma.flags | f.VM_IO))
    assert program.spent() == {}
    program.bound.load(program.space.vmas)
    assert program.spent() == {"ecreate": 1, "einit": 1}


@pytest.mark.parametrize("pages", [1, 1 << 24])
def test_a_reservation_that_is_not_touched_is_nothing(pages: int) -> None:
    """64 GiB take no more than one page: no entry, whatever becomes of it."""
    program = Program("")
    for _ in range(3):
        program.mmap(0, pages, 0)
        program.mprotect(0, pages, RW)
        assert len(program.bound.pages) == 0
        program.munmap(0, pages)
    program.bound.end()
    assert program.spent() == {}


def test_a_call_costs_no_more_after_many() -> None:
    """Forty thousand calls on a thousand pages, in ten rounds."""
    program = Program("w" * 1000)
    program.touch(0, 1000)
    told = []
    for number in range(2000):
        page = number * 7 % 990
        for prot in (f.PROT_READ, RW):
            outcome = mprotect(program.space, at(page), 3 * PAGE, prot)
            program.space.commit(outcome)
            told.append(MemoryCall("mprotect", (at(page), 3 * PAGE, prot), 0, outcome.changes))
    gc.collect()
    rounds = []
    for _ in range(10):
        start = time.process_time()
        for call in told:
            program.bound.call(call)
        rounds.append(time.process_time() - start)
    assert min(rounds[5:]) < 2 * min(rounds[:5])


def test_shapes_are_few() -> None:
    """However often dead pages are protected and opened again, what is open is decided at last."""
    for name in costs.shipped():
        for high in (False, True):
            floor = PageFloor(costs.load(name).vector(high))
            program = Program("w")
            program.bound = Bound(program.meter, program.space, program.touches, floor)
            program.touch(0, 1)
            program.madvise(0, 1, f.MADV_DONTNEED)
            for _ in range(1000):
                program.mprotect(0, 1, 0)
                program.mprotect(0, 1, RW)
            assert len(floor._shapes) < 20
            assert program.bound.pages.count <= 1


def test_the_same_file_by_another_path_is_one() -> None:
    """Identity is device and inode."""
    program = Program("ff")
    program.touch(0, 1, FILE_PAGE)
    vma = program.space.vmas.get(at(1))
    assert vma is not None and vma.file == FILE
    program.bound.touch(at(1), at(2), vma._replace(file=type(FILE)(8, 1, 77, "/other")))
    assert program.spent()["host_calls"] == 1


def test_counts_are_whole() -> None:
    """What is counted is a `Counts` like any other's."""
    program = Program("w")
    program.touch(0, 1)
    assert program.meter.total() == Counts(**COMMITTED)
