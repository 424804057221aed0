"""The machine: counts as the meter does, does what it counts, says how far it came, and costs by
runs, not pages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from errno import EAGAIN, EBUSY, EFAULT, EINVAL, ENOMEM, EPERM
from typing import Any

import pytest

from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_TCS, PT_TRIM, Meter
from laconic.sgx.model.driver import Driver, Epc
from laconic.sgx.model.epcm import EpcmEntry
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import (
    NOT_TRACKED,
    PAGE_ATTRIBUTES_MISMATCH,
    PAGE_NOT_MODIFIABLE,
    SgxError,
)
from laconic.sgx.model.machine import Machine

PAGE = 4096
BASE, SIZE = 0, 1 << 47
R, W, X = 1, 2, 4
RW, RX, RWX = R | W, R | X, R | W | X


def at(page: int) -> int:
    """The address of a page."""
    return BASE + page * PAGE


def made(
    plan: Plan | None = None, epc: int | None = None, pte: str = "rwx", limit: int = 65_530
) -> Machine:
    """A machine of one empty enclave, which counts for one call."""
    machine = Machine(Driver.ready(BASE, SIZE, Epc(epc), pte, plan, limit))
    machine.at(1, "mmap")
    return machine


def counted(machine: Meter) -> dict[str, int]:
    """What is not zero."""
    return {name: number for name, number in machine.total().as_dict().items() if number}


def refused(action: Callable[[], object]) -> SgxError:
    """How the model refuses."""
    with pytest.raises(SgxError) as caught:
        action()
    return caught.value


def whole_life(meter: Meter, start: int, end: int) -> None:
    """Every operation once on these pages: committed, restricted, extended, zeroed, trimmed."""
    meter.eaug(start, end)
    meter.eaccept(start, end, RW, PENDING)
    meter.zero(start, end)
    meter.host_call()
    meter.restrict(start, end, R)
    meter.emodpe(start, end, RX)
    meter.eaccept(start, end, RX, PR)
    meter.host_call(2)
    meter.modify_types(start, end, PT_TRIM)
    meter.eaccept(start, end, 0, MODIFIED)
    meter.remove(start, end)
    meter.eaug(start, end)
    meter.eacceptcopy(start, end, X, None)


def test_counts_as_the_meter_does() -> None:
    """And what is counted has happened."""
    machine, meter = made(), Meter()
    meter.at(1, "mmap")
    whole_life(machine, at(2), at(9))
    whole_life(meter, at(2), at(9))
    assert machine.tables == meter.tables
    assert (
        (machine.epc_pages, machine.peak_epc_pages)
        == (meter.epc_pages, meter.peak_epc_pages)
        == (7, 7)
    )
    assert counted(machine) == {
        "host_calls": 3,
        "ioctls": 3,
        "eaug_faults": 14,
        "etrack_ipis": 14,
        "eaug": 14,
        "eaccept": 21,
        "eacceptcopy": 7,
        "emodpe": 7,
        "emodpr": 7,
        "emodt": 7,
        "eremove": 7,
        "pages_zeroed": 7,
    }
    assert list(machine.driver.epcm.pages) == [(at(2), at(9), EpcmEntry(X))]
    assert machine.driver.epc.used == 7


def test_a_million_pages_cost_as_one() -> None:
    """One entry at every step, and as many steps of Python as for a single page, give or take one
    branch."""

    def steps(pages: int) -> int:
        machine = made()
        sizes: list[int] = []
        machine.after_step = lambda seen: sizes.append(len(seen.driver.epcm.pages))
        count = 0

        def trace(frame: object, event: str, argument: object) -> Any:
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)
        try:
            whole_life(machine, at(0), at(pages))
        finally:
            sys.settrace(None)
        assert set(sizes) <= {0, 1} and len(sizes) == 11
        assert machine.driver.destroy() == pages
        return count

    steps(1)  # whatever is done once for all
    assert abs(steps(1_000_000) - steps(1)) < 50 and steps(1) < 10_000


def test_machines_share_a_book() -> None:
    """Two enclaves of one strategy: one table, one peak."""
    epc = Epc(10)
    book = Meter()
    machines = [Machine(Driver.ready(BASE, SIZE, epc), book.book) for _ in range(2)]
    for number, machine in enumerate(machines):
        machine.at(number, "mmap")
        machine.create()
        machine.eaug(at(0), at(4))
    assert (book.epc_pages, book.peak_epc_pages, epc.used) == (8, 8, 8)
    machines[0].destroy(4)
    machines[1].eaug(at(4), at(9))
    assert (book.epc_pages, book.peak_epc_pages, epc.used) == (9, 9, 9)
    assert machines[0].total() == book.total() and set(book.tables) == {(0, "mmap"), (1, "mmap")}
    assert counted(book) == {"ecreate": 2, "einit": 2, "eaug_faults": 13, "eaug": 13}
    assert "held 9 pages, not 8" in str(refused(lambda: machines[1].destroy(8)))


def test_the_model_refuses() -> None:
    """What the hardware would refuse the machine does not do, nor count; it says what, where and
    why."""
    machine = made()
    machine.eaug(at(0), at(4))
    cases: list[tuple[Callable[[], object], str, int, int, int, int]] = [
        (
            lambda: machine.restrict(at(0), at(4), R),
            "RESTRICT_PERMISSIONS",
            0,
            EFAULT,
            PAGE_NOT_MODIFIABLE,
            0,
        ),
        (lambda: machine.restrict(at(5), at(6), W), "RESTRICT_PERMISSIONS", 5, EINVAL, 0, 0),
        (lambda: machine.modify_types(at(6), at(8), PT_TRIM), "MODIFY_TYPES", 6, EFAULT, 0, 0),
        (lambda: machine.remove(at(0), at(1)), "REMOVE_PAGES", 0, EPERM, 0, 0),
        (lambda: machine.eaug(at(3), at(5)), "EAUG", 3, 0, 0, 0),
        (
            lambda: machine.eaccept(at(0), at(6), R, PENDING),
            "EACCEPT",
            0,
            0,
            PAGE_ATTRIBUTES_MISMATCH,
            0,
        ),
        (lambda: machine.eaccept(at(4), at(5), RW, PENDING), "EACCEPT", 4, 0, 0, 0x4),
        (lambda: machine.eacceptcopy(at(0), at(2), RW, at(2)), "EACCEPTCOPY", 0, 0, 0, 0x8005),
        (lambda: machine.emodpe(at(0), at(1), X), "EMODPE", 0, 0, 0, 0x8005),
        (lambda: machine.zero(at(0), at(1)), "store", 0, 0, 0, 0x8007),
        (lambda: machine.access(at(0) + 9, "store"), "store", 0, 0, 0, 0x8007),
        (lambda: machine.access(at(4), "store"), "store", 4, 0, 0, 0x6),
        (lambda: machine.access(at(4), "fetch"), "fetch", 4, 0, 0, 0x14),
    ]
    for action, what, done, error, code, fault in cases:
        error_seen = refused(action)
        found = (
            error_seen.what,
            error_seen.done,
            error_seen.error,
            error_seen.code,
            error_seen.fault,
        )
        assert found == (what, at(done), error, code, fault), str(error_seen)
    assert counted(machine) == {"eaug_faults": 4, "eaug": 4, "ioctls": 4}
    machine.eaccept(at(0), at(2), RW, PENDING)
    assert (
        refused(lambda: machine.eaccept(at(1), at(2), RW, PENDING)).code == PAGE_ATTRIBUTES_MISMATCH
    ), "twice"
    assert refused(lambda: machine.zero(at(0), at(4))).done == at(2)
    assert counted(machine)["pages_zeroed"] == 2
    general = refused(lambda: machine.eacceptcopy(at(2), at(3), W, None))
    assert (general.error, general.code, general.fault) == (0, 0, 0) and "#GP" in str(general)


def test_the_epc_fills_up() -> None:
    """ENOMEM, after the pages that there was room for, which are counted."""
    machine = made(epc=5)
    error = refused(lambda: machine.eaug(at(10), at(20)))
    assert (error.what, error.done, error.error) == ("fault", at(15), ENOMEM)
    assert (machine.epc_pages, counted(machine)) == (5, {"eaug_faults": 5, "eaug": 5})
    assert [run[:2] for run in machine.driver.epcm.pages] == [(at(10), at(15))]


OPERATIONS: dict[str, Callable[[Machine, int, int], None]] = {
    "eaug": lambda machine, start, end: machine.eaug(start + at(100), end + at(100)),
    "eaccept": lambda machine, start, end: machine.eaccept(start, end, RW, PR),
    "emodpe": lambda machine, start, end: machine.emodpe(start, end, X),
    "restrict": lambda machine, start, end: machine.restrict(start, end, R),
    "modify_types": lambda machine, start, end: machine.modify_types(start, end, PT_TRIM),
}


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize(("failure", "after"), [(EBUSY, 0), (EAGAIN, 2), (ENOMEM, 3)])
def test_planned_failures(kind: str, failure: int, after: int) -> None:
    """An operation stops where it is told to; what is left of it then goes through."""
    number = 2 if kind == "eaug" or kind == "eaccept" else 1
    machine = made(Plan({(kind, number): Failure(failure, NOT_TRACKED, after)}))
    machine.eaug(at(0), at(8))
    machine.eaccept(at(0), at(8), RW, PENDING)
    operation = OPERATIONS[kind]
    shift = at(100) if kind == "eaug" else 0
    error = refused(lambda: operation(machine, at(0), at(8)))
    assert (error.done, error.error) == (at(after) + shift, failure)
    assert error.code == (0 if kind == "eaug" else NOT_TRACKED)
    operation(machine, error.done - shift, at(8))
    thing = {"restrict": "emodpr", "modify_types": "emodt"}.get(kind, kind)
    assert counted(machine)[thing] == (16 if number == 2 else 8)


def test_after_every_step() -> None:
    """The hook sees what the program could do then: here that RW to RX never shows W and X
    together."""
    machine = made()
    seen: list[list[int | None]] = []
    machine.eaug(at(0), at(2))
    machine.after_step = lambda now: seen.append(
        [prot for _, _, prot in now.effective(at(0), at(3))]
    )
    machine.eaccept(at(0), at(2), RW, PENDING)
    machine.restrict(at(0), at(2), R)
    machine.emodpe(at(0), at(2), RX)
    machine.eaccept(at(0), at(2), RX, PR)
    machine.modify_types(at(0), at(2), PT_TRIM)
    machine.eaccept(at(0), at(2), 0, MODIFIED)
    machine.remove(at(0), at(2))
    assert seen == [
        [RW, None],
        [R, None],
        [RX, None],
        [RX, None],
        [None, None],
        [None, None],
        [None],
    ]
    seen.clear()
    refused(lambda: machine.remove(at(0), at(1)))
    assert seen == [[None]], "also after one that fails"


def test_effective() -> None:
    """Absent, pending, trimmed: None. A TCS: nothing. Else the EPCM's, cut by the host's
    mapping."""
    machine = made()
    machine.eaug(at(0), at(6))
    machine.eaccept(at(0), at(5), RW, PENDING)
    machine.modify_types(at(1), at(2), PT_TRIM)
    machine.modify_types(at(2), at(3), PT_TCS)
    machine.eaccept(at(2), at(3), 0, MODIFIED | PT_TCS << 8)
    machine.restrict(at(3), at(4), 0)
    machine.driver.mprotect(at(4), at(5), RX)
    assert [prot for _, _, prot in machine.effective(at(0), at(7))] == [
        RW,
        None,
        0,
        0,
        R,
        None,
        None,
    ]
    machine.access(at(0), "store")
    assert refused(lambda: machine.access(at(4), "store")).fault == 0x7
    assert machine.driver.epcm.pages.get(at(2)) == EpcmEntry(0, PT_TCS)
    assert machine.driver.epcm.pages.get(at(5)) == EpcmEntry(RW, PT_REG, PENDING)


def test_copies_from_pages_of_the_enclave() -> None:
    """A page that cannot be read is not a source, as for mremap of a PROT_NONE page."""
    machine = made()
    machine.eaug(at(0), at(3))
    machine.eaccept(at(0), at(3), RW, PENDING)
    machine.restrict(at(2), at(3), 0)
    machine.eaug(at(8), at(11))
    error = refused(lambda: machine.eacceptcopy(at(8), at(11), RX, at(0)))
    assert (error.done, error.fault) == (at(10), 0x8005)
    machine.eacceptcopy(at(10), at(11), 0, None)
    assert [prot for _, _, prot in machine.effective(at(8), at(11))] == [RX, 0]


def test_sync_keeps_the_host_mapping_equal() -> None:
    """Each change is a host call and a split that stays; without one the enclave's leaves cannot
    reach the page."""
    machine = made(pte="sync", limit=6)
    assert refused(lambda: machine.eaug(at(0), at(4))).fault == 0x4
    machine.host_protect(at(0), at(4), RW)
    machine.eaug(at(0), at(4))
    machine.eaccept(at(0), at(4), RW, PENDING)
    machine.host_protect(at(1), at(2), R)
    assert refused(lambda: machine.zero(at(0), at(2))).fault == 0x7
    machine.host_protect(at(1), at(2), RW)
    machine.zero(at(0), at(2))
    assert len(machine.driver.host.vmas) == 4
    machine.host_protect(at(3), at(4), R)
    error = refused(lambda: machine.host_protect(at(10), at(12), RW))
    assert (error.what, error.error, error.done) == ("mprotect", ENOMEM, at(10))
    assert counted(machine)["host_calls"] == 5
