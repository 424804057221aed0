"""What the kernel's own SGX selftests expect, case by case (tools/testing/selftests/sgx), of the
model.

An access that the enclave is refused ends in its vDSO exception: vector and error code are what the
cases look at.
"""

from __future__ import annotations

from errno import EPERM

import pytest

from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_TCS, PT_TRIM
from laconic.sgx.model.driver import Driver, DriverPage, Reply
from laconic.sgx.model.epcm import EpcmEntry
from laconic.sgx.model.faults import NOT_TRACKED, GeneralProtection, LeafError, PageFault

PAGE = 4096
BASE = 1 << 32
SIZE = 64 * PAGE
R, W, X = 1, 2, 4
RW, RX, RWX = R | W, R | X, R | W | X
CODE, DATA, HEAP = BASE, BASE + 2 * PAGE, BASE + 8 * PAGE


@pytest.fixture
def driver() -> Driver:
    """Two pages of code, four of data, a TCS; mapped as they were added, and room above them that
    can be anything."""
    driver = Driver(BASE, SIZE)
    for page, pages, prot, page_type in [(0, 2, RX, PT_REG), (2, 4, RW, PT_REG), (6, 1, 0, PT_TCS)]:
        assert driver.add_pages(page * PAGE, pages * PAGE, prot, page_type) == Reply(
            0, pages * PAGE
        )
    assert driver.init() == 0
    for start, end, prot in [(0, 2, RX), (2, 7, RW), (8, 64, RWX)]:
        assert driver.host.mmap(BASE + start * PAGE, BASE + end * PAGE, prot) == 0
    driver.epcm.enter(1)
    return driver


def code(driver: Driver, address: int, kind: str) -> int:
    """The error code of the fault that the access ends in."""
    with pytest.raises(PageFault) as caught:
        driver.access(address, kind)
    return caught.value.error_code


def run_of(driver: Driver, address: int) -> EpcmEntry | None:
    """The page's EPCM entry."""
    return driver.epcm.pages.get(address)


def test_static_pages_work(driver: Driver) -> None:
    """What was added is there without any EACCEPT."""
    driver.access(CODE, "fetch")
    driver.access(DATA, "store")
    with pytest.raises(GeneralProtection):
        driver.epcm.access(BASE - PAGE, BASE, "fetch")


def test_pte_permissions(driver: Driver) -> None:
    """A page that the host maps read-only: 0x7, no SGX bit; mapped writable again, the store goes
    through."""
    driver.access(DATA, "store")
    assert driver.mprotect(DATA, DATA + PAGE, R) == 0
    assert code(driver, DATA, "store") == 0x7
    driver.access(DATA, "load")
    assert run_of(driver, DATA) == EpcmEntry(RW), "the EPCM knows nothing of it"
    assert driver.mprotect(DATA, DATA + PAGE, RW) == 0
    driver.access(DATA, "store")


def test_epcm_permissions(driver: Driver) -> None:
    """A page that was restricted to R: 0x8007 with the host's mapping still RW; EMODPE cures it
    with no host call."""
    driver.access(DATA, "store")
    assert driver.restrict_permissions(DATA - BASE, PAGE, R) == Reply(0, PAGE)
    assert code(driver, DATA, "store") == 0x8007, "in force before EACCEPT"
    driver.epcm.eaccept(DATA, DATA + PAGE, R, PR)
    driver.access(DATA, "load")
    assert code(driver, DATA, "store") == 0x8007
    driver.epcm.emodpe(DATA, DATA + PAGE, RW)
    driver.access(DATA, "store")


def test_augment(driver: Driver) -> None:
    """The first store adds the page and faults with 0x8007, since it is pending; after EACCEPT it
    goes through."""
    assert run_of(driver, HEAP) is None
    assert code(driver, HEAP, "store") == 0x8007
    assert run_of(driver, HEAP) == EpcmEntry(RW, PT_REG, PENDING)
    assert code(driver, HEAP, "store") == 0x8007, "again, with no second page"
    driver.epcm.eaccept(HEAP, HEAP + PAGE, RW, PENDING)
    driver.access(HEAP, "store")
    assert driver.epc.used == 8


def test_augment_via_eaccept(driver: Driver) -> None:
    """EACCEPT itself is what first touches the page: the kernel adds it, EACCEPT is run anew and
    succeeds."""
    assert driver.touch(HEAP, HEAP + PAGE, "load") == 1
    driver.epcm.eaccept(HEAP, HEAP + PAGE, RW, PENDING)
    driver.access(HEAP, "store")
    driver.access(HEAP, "load")


def test_augment_where_nothing_is_mapped(driver: Driver) -> None:
    """Without a VMA the touch is an ordinary SIGSEGV, and no page is added."""
    assert code(driver, BASE + 7 * PAGE, "store") == 0x6
    assert run_of(driver, BASE + 7 * PAGE) is None


def test_tcs_create(driver: Driver) -> None:
    """A stack, an SSA and a TCS for a new thread, out of added pages; afterwards all three are
    given back."""
    length = 3 * PAGE
    tcs = HEAP + PAGE
    driver.touch(HEAP, HEAP + length, "load")
    driver.epcm.eaccept(HEAP, HEAP + length, RW, PENDING)
    driver.access(tcs, "store")
    assert driver.modify_types(tcs - BASE, PAGE, PT_TCS) == Reply(0, PAGE)
    assert code(driver, tcs, "load") == 0x4, (
        "a host mapping with more than RW does not reach a TCS: SIGBUS"
    )
    assert driver.mprotect(tcs, tcs + PAGE, RW) == 0
    assert code(driver, tcs, "load") == 0x8005
    driver.epcm.eaccept(tcs, tcs + PAGE, 0, MODIFIED, PT_TCS)
    assert run_of(driver, tcs) == EpcmEntry(0, PT_TCS)
    assert code(driver, tcs, "load") == 0x8005, "a TCS is the processor's"

    assert driver.modify_types(HEAP - BASE, length, PT_TRIM) == Reply(0, length)
    driver.epcm.eaccept(HEAP, HEAP + length, 0, MODIFIED, PT_TRIM)
    assert driver.remove_pages(HEAP - BASE, length) == Reply(0, length)
    assert [run_of(driver, HEAP + page * PAGE) for page in range(3)] == [None] * 3


def test_remove_added_page_no_eaccept(driver: Driver) -> None:
    """Trimmed but not accepted: EPERM, nothing removed."""
    driver.access(DATA, "store")
    assert driver.modify_types(DATA - BASE, PAGE, PT_TRIM) == Reply(0, PAGE)
    assert driver.remove_pages(DATA - BASE, PAGE) == Reply(-EPERM, 0)
    assert run_of(driver, DATA) == EpcmEntry(0, PT_TRIM, MODIFIED)


def test_remove_without_trim(driver: Driver) -> None:
    """A regular page is not removed, however it was accepted: EPERM."""
    assert driver.remove_pages(DATA - BASE, PAGE) == Reply(-EPERM, 0)
    driver.access(DATA, "load")


def test_remove_added_page_invalid_access(driver: Driver) -> None:
    """Trimmed, not accepted: the page tables are as before, the EPCM refuses with 0x8005."""
    driver.access(DATA, "store")
    assert driver.modify_types(DATA - BASE, PAGE, PT_TRIM) == Reply(0, PAGE)
    assert code(driver, DATA, "load") == 0x8005


def test_remove_added_page_invalid_access_after_eaccept(driver: Driver) -> None:
    """Trimmed and accepted, not yet removed: 0x8005 as well."""
    driver.access(DATA, "store")
    assert driver.modify_types(DATA - BASE, PAGE, PT_TRIM) == Reply(0, PAGE)
    driver.epcm.eaccept(DATA, DATA + PAGE, 0, MODIFIED, PT_TRIM)
    assert code(driver, DATA, "load") == 0x8005
    assert code(driver, DATA, "store") == 0x8007


def test_remove_untouched_page(driver: Driver) -> None:
    """A page that nobody touched since it was added goes the same way."""
    untouched = DATA + 3 * PAGE
    assert driver.modify_types(untouched - BASE, PAGE, PT_TRIM) == Reply(0, PAGE)
    driver.epcm.eaccept(untouched, untouched + PAGE, 0, MODIFIED, PT_TRIM)
    assert driver.remove_pages(untouched - BASE, PAGE) == Reply(0, PAGE)
    assert driver.pages.get(untouched) is None
    assert driver.pages.get(untouched - PAGE) == DriverPage(PT_REG, RW)


def test_remove_and_touch_again(driver: Driver) -> None:
    """After a whole trim the next touch gives a new page, pending, which EACCEPT takes: zeroes, not
    what was there."""
    driver.access(DATA, "store")
    driver.modify_types(DATA - BASE, PAGE, PT_TRIM)
    driver.epcm.eaccept(DATA, DATA + PAGE, 0, MODIFIED, PT_TRIM)
    driver.remove_pages(DATA - BASE, PAGE)
    assert code(driver, DATA, "store") == 0x8007
    assert run_of(driver, DATA) == EpcmEntry(RW, PT_REG, PENDING)


def test_eaccept_without_a_tracking_cycle(driver: Driver) -> None:
    """A host that leaves ETRACK out is found by EACCEPT."""
    driver.epcm.emodt(DATA, DATA + PAGE, PT_TRIM)
    with pytest.raises(LeafError) as caught:
        driver.epcm.eaccept(DATA, DATA + PAGE, 0, MODIFIED, PT_TRIM)
    assert caught.value.code == NOT_TRACKED
