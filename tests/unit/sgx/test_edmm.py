"""The enclave's PAL alone, on a machine: its sequences leaf by leaf, its record, the host's mapping
that follows."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EBUSY, EFAULT, ENOMEM, EPERM
from typing import Any

import pytest

from laconic.memory.flags import PAGE_SIZE
from laconic.sgx.meter import PT_TCS
from laconic.sgx.model.driver import Driver, Epc
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import NOT_TRACKED, PAGE_ATTRIBUTES_MISMATCH, SgxError
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.edmm import (
    ACCEPTED,
    CHANGED,
    RETYPED,
    RW,
    TRIMMED,
    Edmm,
    PalError,
    permissions,
)

R, W, X = 1, 2, 4
RX, RWX = R | X, R | W | X
BASE = 1 << 30
LEAVES = (
    *("host_call", "restrict", "modify_types", "remove", "host_protect"),
    *("eaug", "eaccept", "eacceptcopy", "emodpe", "zero", "copy"),
)
Failures = dict[tuple[str, int], Failure] | Callable[[str, int], Failure | None]


def at(page: int) -> int:
    return BASE + page * PAGE_SIZE


class Told(Machine):
    """A machine that writes down what it is told: pages as numbers from BASE on."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.log: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in LEAVES:
            return found

        def told(*args: Any) -> None:
            pages = [
                (arg - BASE) // PAGE_SIZE if isinstance(arg, int) and arg >= BASE else arg
                for arg in args
            ]
            self.log.append(" ".join(map(str, [name, *pages])))
            found(*args)

        told.__name__ = name
        return told


def enclave(
    failures: Failures | None = None, batch: bool = True, sync: bool = False, epc: int | None = None
) -> tuple[Edmm, Told]:
    machine = Told(Driver.ready(0, 1 << 32, Epc(epc), "sync" if sync else "rwx", Plan(failures)))
    return Edmm(machine, batch, sync), machine


def committed(prot: int, pages: int = 4, **how: Any) -> tuple[Edmm, Told]:
    """Pages 0 to 3 with `prot`, and nothing told."""
    pal, machine = enclave(**how)
    pal.commit(at(0), at(pages), prot)
    machine.log.clear()
    return pal, machine


def record(pal: Edmm) -> list[tuple[int, int, int]]:
    return [
        ((start - BASE) // PAGE_SIZE, (end - BASE) // PAGE_SIZE, prot)
        for start, end, prot in pal.committed
    ]


def left(pal: Edmm) -> list[tuple[int, int, int]]:
    return [
        ((start - BASE) // PAGE_SIZE, (end - BASE) // PAGE_SIZE, state)
        for start, end, state in pal.left
    ]


@pytest.mark.parametrize(
    ("requested", "given"), [(0, 0), (R, R), (W, RW), (X, X), (W | X, RWX), (0x73, RW)]
)
def test_the_epcm_has_no_write_without_read(requested: int, given: int) -> None:
    assert permissions(requested) == given


class TestCommit:
    def test_rw_is_eaccept(self) -> None:
        pal, machine = enclave()
        pal.commit(at(0), at(3), RW)
        assert machine.log == ["eaug 0 3", "eaccept 0 3 3 8"]
        assert record(pal) == [(0, 3, RW)]
        assert pal.pages() == machine.epc_pages == 3

    @pytest.mark.parametrize("prot", [0, R, X, RX, RWX])
    def test_all_else_is_eacceptcopy(self, prot: int) -> None:
        pal, machine = enclave()
        pal.commit(at(0), at(3), prot)
        assert machine.log == ["eaug 0 3", f"eacceptcopy 0 3 {prot} None"]

    def test_contents_go_through_a_staging_page(self) -> None:
        pal, machine = enclave()
        pal.commit(at(0), at(3), RW, contents=True)
        assert machine.log == ["eaug 0 3", "copy 3", "eacceptcopy 0 3 3 None"]

    def test_or_come_from_other_pages(self) -> None:
        pal, machine = committed(RW)
        pal.commit(at(8), at(10), R, source=at(1))
        assert machine.log == ["eaug 8 10", "eacceptcopy 8 10 1 1"]

    def test_a_retry_goes_on_in_the_source_too(self) -> None:
        pal, machine = enclave({("eacceptcopy", 1): Failure(code=7, after=2)})
        pal.commit(at(0), at(4), RW)
        machine.log.clear()
        pal.commit(at(8), at(12), R, source=at(0))
        assert machine.log == ["eaug 8 12", "eacceptcopy 8 12 1 0", "eacceptcopy 10 12 1 2"]

    def test_no_page_is_accepted_twice(self) -> None:
        pal, _ = committed(RW)
        with pytest.raises(PalError):
            pal.commit(at(2), at(6), RW)

    def test_no_room_leaves_nothing(self) -> None:
        pal, machine = enclave(epc=2)
        with pytest.raises(PalError) as refused:
            pal.commit(at(0), at(4), RW)
        assert refused.value.error == ENOMEM
        assert not record(pal) and not left(pal)
        assert machine.log[-4:] == [
            "modify_types 0 2 4",
            "eaccept 0 2 0 16",
            "host_call",
            "remove 0 2",
        ]
        assert not machine.epc_pages
        pal.commit(at(0), at(2), RW)

    def test_pending_pages_go_without_ever_being_accessible(self) -> None:
        pal, machine = enclave({("eaccept", 1): Failure(code=PAGE_ATTRIBUTES_MISMATCH)})
        with pytest.raises(PalError):
            pal.commit(at(0), at(2), RW)
        assert "eacceptcopy 0 2 0 None" in machine.log
        assert not machine.epc_pages


class TestProtect:
    def test_extension(self) -> None:
        pal, machine = committed(R)
        pal.protect([(at(0), at(4), RWX)])
        assert machine.log == ["emodpe 0 4 7"]
        assert record(pal) == [(0, 4, RWX)]

    def test_restriction(self) -> None:
        pal, machine = committed(RW)
        pal.protect([(at(1), at(3), R)])
        assert machine.log == ["host_call 1", "restrict 1 3 1", "eaccept 1 3 1 32"]
        assert record(pal) == [(0, 1, RW), (1, 3, R), (3, 4, RW)]

    def test_both_is_emodpr_first(self) -> None:
        pal, machine = committed(RW)
        pal.protect([(at(0), at(4), RX)])
        assert machine.log == ["host_call 1", "restrict 0 4 1", "eaccept 0 4 1 32", "emodpe 0 4 5"]

    def test_equal_and_absent_pages_are_not_said(self) -> None:
        pal, machine = committed(R)
        pal.protect([(at(0), at(100), R)])
        assert not machine.log

    @pytest.mark.parametrize(
        ("batch", "host_calls"), [(True, "host_call 1"), (False, "host_call 2")]
    )
    def test_runs_share_a_host_call(self, batch: bool, host_calls: str) -> None:
        pal, machine = committed(RW, batch=batch)
        pal.protect([(at(1), at(2), R)])
        machine.log.clear()
        pal.protect([(at(0), at(4), R)])
        assert machine.log[:3] == [host_calls, "restrict 0 1 1", "restrict 2 4 1"]

    def test_a_refused_one_is_taken_back_within_the_enclave(self) -> None:
        pal, machine = committed(RW, failures={("restrict", 2): Failure(EPERM)})
        pal.protect([(at(1), at(2), R)])
        machine.log.clear()
        with pytest.raises(PalError):
            pal.protect([(at(0), at(4), 0)])
        assert record(pal) == [(0, 1, RW), (1, 2, R), (2, 4, RW)]
        assert list(machine.effective(at(0), at(4))) == [
            (at(0), at(1), RW),
            (at(1), at(2), R),
            (at(2), at(4), RW),
        ]

    def test_partial_counts_are_gone_on_from(self) -> None:
        pal, machine = committed(RW, failures={("restrict", 1): Failure(EBUSY, after=3)})
        pal.protect([(at(0), at(4), R)])
        assert machine.log == [
            "host_call 1",
            "restrict 0 4 1",
            "restrict 3 4 1",
            "eaccept 0 4 1 32",
        ]

    def test_a_failure_that_never_passes_is_given_up(self) -> None:
        pal, machine = committed(
            RW, failures=lambda kind, number: Failure(EAGAIN) if kind == "restrict" else None
        )
        with pytest.raises(PalError):
            pal.protect([(at(0), at(4), R)])
        assert machine.log.count("restrict 0 4 1") == 9
        assert record(pal) == [(0, 4, RW)]


class TestTrim:
    def test_runs_are_two_host_calls(self) -> None:
        pal, machine = committed(RW)
        pal.commit(at(8), at(9), R)
        machine.log.clear()
        pal.trim([(at(0), at(20))])
        assert machine.log == [
            *(
                "host_call 1",
                "modify_types 0 4 4",
                "modify_types 8 9 4",
                "eaccept 0 4 0 16",
                "eaccept 8 9 0 16",
            ),
            *("host_call 1", "remove 0 4", "remove 8 9"),
        ]
        assert not pal.pages()

    def test_pages_that_do_not_exist_cause_no_host_call(self) -> None:
        pal, machine = enclave()
        pal.trim([(at(0), at(100))])
        assert not machine.log

    def test_half_done_it_says_what_is_gone(self) -> None:
        pal, _ = committed(RW, failures={("modify_types", 1): Failure(EFAULT, after=3)})
        with pytest.raises(PalError) as refused:
            pal.trim([(at(0), at(4))])
        assert refused.value.gone == [(at(0), at(3))]
        assert record(pal) == [(3, 4, RW)]

    def test_a_page_that_was_changed_but_not_tracked_is_gone_too(self) -> None:
        pal, _ = committed(RW, failures={("etrack", 1): Failure(EFAULT, after=1)})
        with pytest.raises(PalError) as refused:
            pal.trim([(at(0), at(4))])
        assert refused.value.gone == [(at(0), at(2))], "EACCEPT with what it had says so"
        assert record(pal) == [(2, 4, RW)]

    @pytest.mark.parametrize(
        ("kind", "failure", "state"),
        [
            ("eaccept", Failure(code=NOT_TRACKED), CHANGED),
            ("remove", Failure(EPERM, after=1), TRIMMED),
        ],
    )
    def test_left_over_pages_go_when_their_place_is_used(
        self, kind: str, failure: Failure, state: int
    ) -> None:
        broken = True
        pal, machine = committed(
            RW,
            failures=lambda what, number: (
                failure if broken and what == kind and number > 1 else None
            ),
        )
        first = 1 if kind == "remove" else 0
        if first:  # the commit had no REMOVE_PAGES to number
            pal.commit(at(10), at(11), RW)
            pal.trim([(at(10), at(11))])
        pal.trim([(at(0), at(4))])
        assert not record(pal)
        assert [run[2] for run in left(pal)] == [state]
        broken = False
        pal.commit(at(0), at(4), RW)
        assert not left(pal) and record(pal) == [(0, 4, RW)]
        assert machine.epc_pages == 4


class TestTcs:
    def test_a_tcs(self) -> None:
        pal, machine = enclave()
        pal.add_tcs(at(0))
        assert machine.log == [
            "eaug 0 1",
            "eaccept 0 1 3 8",
            "host_call",
            "modify_types 0 1 1",
            "eaccept 0 1 0 272",
        ]
        entry = machine.driver.epcm.pages.get(at(0))
        assert entry is not None and entry.page_type == PT_TCS and not entry.state
        assert record(pal) == [(0, 1, 0)]

    @pytest.mark.parametrize(
        ("plan", "state"),
        [
            (("modify_types", EPERM, 0), ACCEPTED),
            (("etrack", EFAULT, 0), RETYPED),
            (("eaccept", 0, NOT_TRACKED), CHANGED),
        ],
    )
    def test_a_failed_one_can_be_made_later(self, plan: tuple[str, int, int], state: int) -> None:
        kind, error, code = plan
        broken = True
        pal, machine = enclave(
            lambda what, number: Failure(error, code) if broken and what == kind else None
        )
        with pytest.raises(PalError):
            pal.add_tcs(at(0))
        assert left(pal) == [(0, 1, state)] and not record(pal)
        broken = False
        if kind != "etrack":
            pal.add_tcs(at(0))
            assert record(pal) == [(0, 1, 0)] and not left(pal)
            assert machine.epc_pages == 1


class TestSync:
    """The host's mapping equals the EPCM: each change of it is a host call of its own."""

    def mapping(self, machine: Machine, pages: int = 4) -> list[int]:
        found = [machine.driver.host.vmas.get(at(page)) for page in range(pages)]
        return [vma.prot for vma in found if vma is not None]

    @pytest.mark.parametrize("prot", [0, R, RW, X, RX, RWX])
    def test_commit(self, prot: int) -> None:
        _pal, machine = committed(prot, sync=True)
        assert self.mapping(machine) == [prot] * 4

    @pytest.mark.parametrize("had", [0, R, RW, X, RX, RWX])
    @pytest.mark.parametrize("prot", [0, R, RW, X, RX, RWX])
    def test_protect_is_one_more_host_call(self, had: int, prot: int) -> None:
        pal, machine = committed(had, sync=True)
        pal.protect([(at(0), at(4), prot)])
        assert self.mapping(machine) == [prot] * 4
        assert sum("host_protect" in line for line in machine.log) == (had != prot)
        assert next(machine.effective(at(0), at(4)))[2] == prot

    def test_the_mapping_is_widened_before_the_pages_are(self) -> None:
        """RW to RX: EMODPE comes last, when the host's mapping allows what it adds."""
        pal, machine = committed(RW, sync=True)
        pal.protect([(at(0), at(4), RX)])
        restricted = ["host_call 1", "restrict 0 4 1", "eaccept 0 4 1 32"]
        assert machine.log == [*restricted, "host_protect 0 4 5", "emodpe 0 4 5"]

    @pytest.mark.parametrize(("prot", "changes"), [(RW, 1), (X, 1), (0, 2)])
    def test_trim_makes_it_readable_only_where_it_is_not(self, prot: int, changes: int) -> None:
        pal, machine = committed(prot, sync=True)
        pal.trim([(at(0), at(4))])
        assert sum("host_protect" in line for line in machine.log) == changes
        assert self.mapping(machine) == [0] * 4

    def test_a_mapping_that_does_not_widen_is_no_extension(self) -> None:
        pal, machine = committed(R, sync=True, failures={("mprotect", 3): Failure(ENOMEM)})
        with pytest.raises(PalError):
            pal.protect([(at(0), at(4), RW)])
        assert record(pal) == [(0, 4, R)]
        assert next(machine.effective(at(0), at(4)))[2] == R
        pal.protect([(at(0), at(4), RW)])
        assert self.mapping(machine) == [RW] * 4

    def test_one_that_does_not_narrow_makes_no_difference(self) -> None:
        pal, machine = committed(RW, sync=True, failures={("mprotect", 2): Failure(ENOMEM)})
        pal.protect([(at(0), at(4), R)])
        assert next(machine.effective(at(0), at(4)))[2] == R, "host mapping ∩ EPCM"


class TestDiscard:
    def test_pages_that_the_driver_refuses_are_closed(self) -> None:
        pal, machine = committed(
            RW, failures=lambda kind, n: Failure(EPERM) if kind == "modify_types" else None
        )
        pal.discard([(at(0), at(4))])
        assert not record(pal) and left(pal) == [(0, 4, ACCEPTED)]
        with pytest.raises(SgxError):
            machine.access(at(0), "load")
