"""The EPCM, leaf by leaf: effects, faults and error codes as the manual has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_SECS, PT_TCS, PT_TRIM, PT_VA
from laconic.sgx.model import faults
from laconic.sgx.model.epcm import TRACKED, Epcm, EpcmEntry
from laconic.sgx.model.faults import GeneralProtection, LeafError, PageFault, Refused

PAGE = 4096
BASE = 1 << 30
SIZE = 16 * PAGE
R, W, X = 1, 2, 4
RW, RX, RWX = R | W, R | X, R | W | X


def at(page: int) -> int:
    """The address of a page of the enclave."""
    return BASE + page * PAGE


def enclave(*entries: EpcmEntry | None) -> Epcm:
    """An initialised enclave that begins with these pages."""
    epcm = Epcm(BASE, SIZE)
    epcm.einit()
    for page, entry in enumerate(entries):
        epcm.pages.set(at(page), at(page + 1), entry)
    return epcm


def outcome(action: Callable[[], object]) -> object:
    """What came of it: None, "#GP", the error code of a #PF as a string, or a leaf's error code."""
    try:
        action()
    except GeneralProtection:
        return "#GP"
    except PageFault as fault:
        return hex(fault.error_code)
    except LeafError as error:
        return error.code
    return None


SETTLED = EpcmEntry(RW)
FRESH = EpcmEntry(RW, PT_REG, PENDING)
REDUCED = EpcmEntry(R, PT_REG, PR)
TRIMMED = EpcmEntry(0, PT_TRIM, MODIFIED)
GONE = EpcmEntry(0, PT_TRIM)
NEW_TCS = EpcmEntry(0, PT_TCS, MODIFIED)
TCS = EpcmEntry(0, PT_TCS)
ELSEWHERE = EpcmEntry(RW, displacement=PAGE)
STALE = EpcmEntry(R, PT_REG, PR, epoch=1)


@pytest.mark.parametrize(
    ("base", "size", "expected"),
    [
        (BASE, SIZE, None),
        (0, 1 << 47, None),
        (BASE, PAGE, "#GP"),
        (BASE, 3 * PAGE, "#GP"),
        (BASE + PAGE, SIZE, "#GP"),
        (BASE, 0, "#GP"),
    ],
)
def test_ecreate(base: int, size: int, expected: object) -> None:
    """The size is a power of two, two pages or more; the base is aligned to it."""
    assert outcome(lambda: Epcm(base, size)) == expected


def test_eadd_and_einit() -> None:
    """Pages are added before EINIT only, with their permissions; a TCS has none."""
    epcm = Epcm(BASE, SIZE)
    epcm.eadd(at(0), at(2), RX)
    epcm.eadd(at(2), at(3), RW, PT_TCS)
    assert [(entry.prot, entry.page_type) for _, _, entry in epcm.pages] == [
        (RX, PT_REG),
        (0, PT_TCS),
    ]
    assert outcome(lambda: epcm.eadd(at(1), at(2), R)) == "0x8001"
    assert outcome(lambda: epcm.eadd(at(3), at(4), W)) == "#GP"
    assert outcome(lambda: epcm.eadd(at(3), at(4), R, PT_TRIM)) == "#GP"
    assert outcome(lambda: epcm.eaug(at(4), at(5))) == "#GP", "EAUG needs an initialised enclave"
    assert outcome(lambda: epcm.emodpr(at(0), at(1), R)) == "#GP"
    assert outcome(lambda: epcm.emodt(at(0), at(1), PT_TRIM)) == "#GP"
    epcm.einit()
    assert outcome(epcm.einit) == "#GP"
    assert outcome(lambda: epcm.eadd(at(3), at(4), R)) == "#GP"


def test_eaug() -> None:
    """R and W, pending, and no access until it is accepted."""
    epcm = enclave()
    epcm.eaug(at(0), at(3))
    assert list(epcm.pages) == [(at(0), at(3), FRESH)]
    assert outcome(lambda: epcm.access(at(1), at(2), "load")) == "0x8005"
    assert outcome(lambda: epcm.access(at(1), at(2), "store")) == "0x8007"
    assert outcome(lambda: epcm.eaug(at(2), at(3))) == "0x8001"
    assert outcome(lambda: epcm.eaug(at(4) + 8, at(5))) == "#GP"
    assert outcome(lambda: epcm.eaug(BASE - PAGE, BASE)) == "#GP"


@pytest.mark.parametrize(
    ("entry", "prot", "states", "page_type", "expected"),
    [
        (FRESH, RW, PENDING, PT_REG, None),
        (FRESH, RW, PENDING | PR, PT_REG, None),  # PR is not compared
        (FRESH, R, PENDING, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),
        (FRESH, RW, PR, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),
        (SETTLED, RW, PENDING, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),  # twice
        (SETTLED, RW, PR, PT_REG, None),  # a check that the page is as believed
        (SETTLED, R, PR, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),
        (REDUCED, R, PR, PT_REG, None),
        (REDUCED, RW, PR, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),
        (STALE, R, PR, PT_REG, faults.NOT_TRACKED),
        (STALE, RW, PR, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),  # before tracking
        (TRIMMED, 0, MODIFIED, PT_TRIM, None),
        (TRIMMED, 0, MODIFIED, PT_TCS, faults.PAGE_ATTRIBUTES_MISMATCH),
        (TRIMMED, R, MODIFIED, PT_TRIM, faults.PAGE_ATTRIBUTES_MISMATCH),
        (GONE, 0, MODIFIED, PT_TRIM, faults.PAGE_ATTRIBUTES_MISMATCH),  # twice
        (NEW_TCS, 0, MODIFIED, PT_TCS, None),
        (ELSEWHERE, RW, PR, PT_REG, faults.PAGE_ATTRIBUTES_MISMATCH),
        (EpcmEntry(0, PT_VA), 0, PR, PT_REG, "0x8005"),
        (None, RW, PENDING, PT_REG, "0x8005"),
        (FRESH, RW, 0, PT_REG, "#GP"),  # neither PENDING nor PR
        (FRESH, RW, PENDING | MODIFIED, PT_REG, "#GP"),
        (TRIMMED, 0, MODIFIED | PENDING, PT_TRIM, "#GP"),
        (TRIMMED, 0, MODIFIED | PR, PT_TRIM, "#GP"),
        (TRIMMED, 0, 0, PT_TRIM, "#GP"),
        (SETTLED, RW, MODIFIED, PT_SECS, "#GP"),
        (SETTLED, RW | 8, PR, PT_REG, "#GP"),  # reserved
        (None, RW, 0, PT_REG, "#GP"),  # the SECINFO is looked at before the page
    ],
)
def test_eaccept(
    entry: EpcmEntry | None, prot: int, states: int, page_type: int, expected: object
) -> None:
    """What agrees settles the page; what does not leaves it alone."""
    epcm = enclave(entry)
    assert outcome(lambda: epcm.eaccept(at(0), at(1), prot, states, page_type)) == expected
    after = epcm.pages.get(at(0))
    if expected is None:
        assert after == EpcmEntry(prot, page_type)
    else:
        assert after == entry


@pytest.mark.parametrize("leaf", ["eaccept", "eacceptcopy", "emodpe"])
@pytest.mark.parametrize(
    ("secinfo", "expected"),
    [
        (SETTLED, None),
        (REDUCED, None),
        (EpcmEntry(X), "0x8005"),
        (FRESH, "0x8005"),
        (TCS, "0x8005"),
        (ELSEWHERE, "0x8005"),
        (None, "0x8005"),
    ],
)
def test_the_page_of_secinfo(leaf: str, secinfo: EpcmEntry | None, expected: object) -> None:
    """It is a settled, readable page of the enclave's own, or the leaf faults; its place is looked
    at first."""
    arguments = (
        (RW, PENDING, PT_REG)
        if leaf == "eaccept"
        else (RW, None)
        if leaf == "eacceptcopy"
        else (RW,)
    )

    def run(where: int, start: int = at(0)) -> object:
        epcm = enclave(SETTLED if leaf == "emodpe" else FRESH, secinfo)
        return outcome(lambda: getattr(epcm, leaf)(start, start + PAGE, *arguments, where))

    assert run(at(1) + 64) == expected
    assert run(at(1) + 8) == "#GP", "64 bytes is its alignment"
    assert run(BASE - PAGE) == "#GP", "outside the enclave"
    assert run(at(1), at(0) + 8) == "#GP"


@pytest.mark.parametrize(
    ("entry", "prot", "expected"),
    [
        (FRESH, RX, None),
        (FRESH, 0, None),
        (FRESH, X, None),
        (FRESH, W, "#GP"),
        (FRESH, 8, "#GP"),
        (SETTLED, RX, faults.PAGE_ATTRIBUTES_MISMATCH),
        (None, RX, faults.PAGE_ATTRIBUTES_MISMATCH),
        (TRIMMED, RX, faults.PAGE_ATTRIBUTES_MISMATCH),
        (EpcmEntry(RWX, PT_REG, PENDING), RX, faults.PAGE_ATTRIBUTES_MISMATCH),
        (FRESH._replace(displacement=PAGE), RX, faults.PAGE_ATTRIBUTES_MISMATCH),
    ],
)
def test_eacceptcopy(entry: EpcmEntry | None, prot: int, expected: object) -> None:
    """A pending page as EAUG makes it gets any permissions at once."""
    epcm = enclave(entry, SETTLED)
    assert outcome(lambda: epcm.eacceptcopy(at(0), at(1), prot, at(1))) == expected
    assert epcm.pages.get(at(0)) == (EpcmEntry(prot) if expected is None else entry)


@pytest.mark.parametrize("source", [None, FRESH, EpcmEntry(X), TCS, GONE])
def test_eacceptcopy_from_what_cannot_be_read(source: EpcmEntry | None) -> None:
    """The source faults before the destination is looked at."""
    epcm = enclave(SETTLED, source)
    assert outcome(lambda: epcm.eacceptcopy(at(0), at(1), RW, at(1))) == "0x8005"
    assert outcome(lambda: epcm.eacceptcopy(at(0), at(1), RW, at(1) + 8)) == "#GP"


def test_eacceptcopy_stops_at_the_first_bad_source() -> None:
    """What was copied stays; and a page that the run has filled is a good source for a later
    one."""
    epcm = enclave(*[FRESH] * 4, SETTLED, SETTLED, FRESH)
    with pytest.raises(PageFault) as caught:
        epcm.eacceptcopy(at(0), at(4), RX, at(4))
    assert caught.value.address == at(2)
    assert list(epcm.pages.runs(at(0), at(4))) == [
        (at(0), at(2), EpcmEntry(RX)),
        (at(2), at(4), FRESH),
    ]
    epcm = enclave(SETTLED, *[FRESH] * 5)
    epcm.eacceptcopy(at(1), at(6), R, at(0))
    assert list(epcm.pages.runs(at(1), at(6))) == [(at(1), at(6), EpcmEntry(R))]
    epcm = enclave(SETTLED, *[FRESH] * 5)
    with pytest.raises(PageFault) as caught:
        epcm.eacceptcopy(at(1), at(6), X, at(0))
    assert caught.value.address == at(2), "page 1 can be executed, not read"


@pytest.mark.parametrize(
    ("entry", "prot", "expected", "after"),
    [
        (SETTLED, X, None, RWX),
        (SETTLED, R, None, RW),
        (REDUCED, W, None, RW),  # PR does not matter
        (EpcmEntry(0), RX, None, RX),
        (EpcmEntry(0), W, "#GP", 0),
        (EpcmEntry(X), W, "#GP", X),
        (EpcmEntry(R), W, None, RW),
        (EpcmEntry(R), 8, "#GP", R),
        (FRESH, X, "0x8005", RW),
        (TRIMMED, R, "0x8005", 0),
        (TCS, R, "0x8005", 0),
        (ELSEWHERE, X, "0x8005", RW),
        (None, R, "0x8005", None),
    ],
)
def test_emodpe(entry: EpcmEntry | None, prot: int, expected: object, after: int | None) -> None:
    """Adds, and keeps PR."""
    epcm = enclave(entry)
    assert outcome(lambda: epcm.emodpe(at(0), at(1), prot)) == expected
    now = epcm.pages.get(at(0))
    assert now == (None if entry is None else entry._replace(prot=after or 0))


@pytest.mark.parametrize(
    ("entry", "prot", "expected", "after"),
    [
        (SETTLED, R, None, R),
        (SETTLED, RWX, None, RW),  # more is not given
        (SETTLED, 0, None, 0),
        (REDUCED, 0, None, 0),
        (SETTLED, W, "#GP", None),
        (SETTLED, 8, "#GP", None),
        (None, R, "0x8001", None),
        (None, W, "#GP", None),
        (FRESH, R, faults.PAGE_NOT_MODIFIABLE, None),
        (TRIMMED, R, faults.PAGE_NOT_MODIFIABLE, None),  # before the type
        (GONE, RWX, "0x8001", None),
        (TCS, R, "0x8001", None),
    ],
)
def test_emodpr(entry: EpcmEntry | None, prot: int, expected: object, after: int | None) -> None:
    """Takes away, sets PR and the epoch."""
    epcm = enclave(entry)
    assert outcome(lambda: epcm.emodpr(at(0), at(1), prot)) == expected
    assert epcm.pages.get(at(0)) == (
        entry if after is None else EpcmEntry(after, PT_REG, PR, epcm.epoch)
    )


@pytest.mark.parametrize(
    ("entry", "page_type", "expected"),
    [
        (SETTLED, PT_TRIM, None),
        (SETTLED, PT_TCS, None),
        (REDUCED, PT_TRIM, None),
        (TCS, PT_TRIM, None),
        (TCS, PT_TCS, "0x8001"),
        (GONE, PT_TRIM, "0x8001"),
        (TRIMMED, PT_TRIM, "0x8001"),
        (NEW_TCS, PT_TRIM, faults.PAGE_NOT_MODIFIABLE),
        (FRESH, PT_TRIM, faults.PAGE_NOT_MODIFIABLE),
        (None, PT_TRIM, "0x8001"),
        (SETTLED, PT_REG, "#GP"),
        (SETTLED, PT_VA, "#GP"),
    ],
)
def test_emodt(entry: EpcmEntry | None, page_type: int, expected: object) -> None:
    """A new type, MODIFIED, with no permissions and without PR."""
    epcm = enclave(entry)
    assert outcome(lambda: epcm.emodt(at(0), at(1), page_type)) == expected
    assert epcm.pages.get(at(0)) == (
        entry if expected else EpcmEntry(0, page_type, MODIFIED, epcm.epoch)
    )


def test_eremove() -> None:
    """What was trimmed and accepted goes at any time; another page not while a thread is inside;
    the SECS last."""
    epcm = enclave(GONE, SETTLED, TRIMMED, None, FRESH)
    epcm.enter(1)
    assert outcome(lambda: epcm.eremove(at(0), at(5))) == faults.ENCLAVE_ACT
    assert [start for start, _, _ in epcm.pages] == [at(1), at(2), at(4)]
    assert outcome(lambda: epcm.eremove(at(2), at(3))) == faults.ENCLAVE_ACT, "not accepted"
    assert outcome(lambda: epcm.eremove(at(3), at(4))) is None, "not VALID is success"
    assert outcome(epcm.eremove_secs) == faults.CHILD_PRESENT
    epcm.leave(1)
    epcm.eremove(BASE, BASE + SIZE)
    assert len(epcm.pages) == 0
    epcm.eremove_secs()
    assert outcome(lambda: epcm.eaug(at(0), at(1))) == "#GP"
    assert outcome(epcm.einit) == "#GP"


ACCESSES = {
    RW: (None, None, "0x8015"),
    R: (None, "0x8007", "0x8015"),
    RX: (None, "0x8007", None),
    X: ("0x8005", "0x8007", None),
    0: ("0x8005", "0x8007", "0x8015"),
}


@pytest.mark.parametrize("prot", ACCESSES)
@pytest.mark.parametrize("state", [0, PR])
def test_access_by_permissions(prot: int, state: int) -> None:
    """PR does not block: the permissions that are left are in force at once."""
    epcm = enclave(EpcmEntry(prot, PT_REG, state))
    got = [outcome(partial(epcm.access, at(0), at(1), kind)) for kind in ("load", "store", "fetch")]
    assert tuple(got) == ACCESSES[prot]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        FRESH,
        TRIMMED,
        GONE,
        TCS,
        NEW_TCS,
        ELSEWHERE,
        EpcmEntry(RWX, PT_VA),
        EpcmEntry(RWX, PT_SECS),
        EpcmEntry(RWX, PT_REG, MODIFIED),
    ],
)
def test_no_access_at_all(entry: EpcmEntry | None) -> None:
    """A page that is not a settled REG page at its own place."""
    epcm = enclave(entry)
    got = [outcome(partial(epcm.access, at(0), at(1), kind)) for kind in ("load", "store", "fetch")]
    assert got == ["0x8005", "0x8007", "0x8015"]


def test_outside_the_elrange() -> None:
    """A fetch is #GP; loads and stores are the host's affair. A leaf is #GP when it gets there."""
    epcm = enclave()
    assert outcome(lambda: epcm.access(BASE - PAGE, BASE, "fetch")) == "#GP"
    assert outcome(lambda: epcm.access(BASE - PAGE, BASE, "load")) is None
    assert outcome(lambda: epcm.access(BASE + SIZE, BASE + SIZE + PAGE, "store")) is None
    with pytest.raises(GeneralProtection) as caught:
        epcm.eaug(at(14), at(20))
    assert caught.value.address == at(16)
    assert list(epcm.pages) == [(at(14), at(16), FRESH)]


def test_a_run_stops_at_the_first_page_that_fails() -> None:
    """And says where; what is below it is done, what is above it is not."""
    epcm = enclave(SETTLED, SETTLED, FRESH, SETTLED)
    with pytest.raises(Refused) as caught:
        epcm.emodpr(at(0), at(4), R)
    assert caught.value.address == at(2)
    assert str(caught.value) == f"EMODPR at {at(2):#x}: PAGE_NOT_MODIFIABLE (20)"
    after = [entry.prot for _, _, entry in epcm.pages.runs(at(0), at(4)) if entry is not None]
    assert after == [R, RW, RW]


def test_tracking() -> None:
    """ETRACK begins an epoch; a page is tracked once nobody inside has entered before it."""
    epcm = enclave(SETTLED, SETTLED)
    epcm.enter(1)
    epcm.emodpr(at(0), at(1), R)

    def accept() -> object:
        return outcome(lambda: epcm.eaccept(at(0), at(1), R, PR))

    assert accept() == faults.NOT_TRACKED, "no ETRACK yet"
    epcm.etrack()
    assert accept() == faults.NOT_TRACKED, "the thread is inside since before"
    assert outcome(epcm.etrack) == faults.PREV_TRK_INCMPL
    epcm.enter(2)
    assert accept() == faults.NOT_TRACKED, "a second thread makes no difference"
    epcm.leave(1)
    assert outcome(epcm.etrack) is None, "the cycle is complete"
    assert accept() is None
    assert epcm.pages.get(at(0)) == EpcmEntry(R)


def test_an_interrupt_completes_a_cycle() -> None:
    """It forces an exit of everybody inside, who come back at the present epoch."""
    epcm = enclave(SETTLED)
    epcm.enter(1)
    epcm.emodt(at(0), at(1), PT_TRIM)
    epcm.etrack()
    epcm.interrupt()
    assert outcome(lambda: epcm.eaccept(at(0), at(1), 0, MODIFIED, PT_TRIM)) is None
    assert epcm.threads == {1: 2}


def test_tracked_pages_merge() -> None:
    """Pages that were restricted in different epochs are one entry once both are tracked."""
    epcm = enclave(SETTLED, SETTLED)
    for page in range(2):
        epcm.emodpr(at(page), at(page + 1), R)
        epcm.etrack()
    assert len(epcm.pages) == 2
    epcm.settle(at(0), at(2))
    assert list(epcm.pages) == [(at(0), at(2), EpcmEntry(R, PT_REG, PR, TRACKED))]


def test_mixed_change_restricts_before_it_extends() -> None:
    """RW to RX: EMODPE is legal while PR is set, EACCEPT compares the final bits, and W and X never
    meet."""
    epcm = enclave(SETTLED)
    epcm.emodpr(at(0), at(1), R)
    epcm.etrack()
    epcm.emodpe(at(0), at(1), X)
    epcm.eaccept(at(0), at(1), RX, PR)
    assert epcm.pages.get(at(0)) == EpcmEntry(RX)
