"""The driver: arguments and errnos of the ioctls, partial completion, faults, the host's mappings,
planned failures."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, ENODEV, ENOMEM, EPERM
from signal import SIGBUS, SIGSEGV

import pytest

from laconic.errors import LaconicError
from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_TCS, PT_TRIM
from laconic.sgx.model.driver import Driver, DriverPage, Epc, Reply
from laconic.sgx.model.epcm import EpcmEntry
from laconic.sgx.model.failures import Failure, Plan
from laconic.sgx.model.faults import EPC_PAGE_CONFLICT, PAGE_NOT_MODIFIABLE, HostFault

PAGE = 4096
BASE = 1 << 30
SIZE = 64 * PAGE
R, W, X = 1, 2, 4
RW, RX, RWX = R | W, R | X, R | W | X
Ioctl = Callable[[Driver, int, int], Reply]


def at(page: int) -> int:
    """The address of a page of the enclave."""
    return BASE + page * PAGE


def made(pages: int = 8, plan: Plan | None = None, **options: object) -> Driver:
    """An enclave whose first pages are committed, RW."""
    driver = Driver.ready(BASE, SIZE, plan=plan, **options)  # type: ignore[arg-type]
    if pages:
        driver.touch(at(0), at(pages), "load")
        driver.epcm.eaccept(at(0), at(pages), RW, PENDING)
    return driver


IOCTLS: dict[str, Ioctl] = {
    "restrict": lambda driver, offset, length: driver.restrict_permissions(offset, length, R),
    "modify_types": lambda driver, offset, length: driver.modify_types(offset, length, PT_TRIM),
    "remove": lambda driver, offset, length: driver.remove_pages(offset, length),
}


@pytest.mark.parametrize("kind", IOCTLS)
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (1, PAGE), (0, PAGE + 1), (SIZE, PAGE), (0, SIZE + PAGE), (-PAGE, PAGE)],
)
def test_bad_ranges(kind: str, offset: int, length: int) -> None:
    """`sgx_validate_offset_length`."""
    assert IOCTLS[kind](made(), offset, length) == Reply(-EINVAL, 0)


@pytest.mark.parametrize("kind", IOCTLS)
def test_not_ready(kind: str) -> None:
    """Another ioctl under way, no SGX2, not initialised: in this order."""
    driver = Driver(BASE, SIZE, sgx2=False)
    driver.ioctl_flag = True
    assert IOCTLS[kind](driver, 0, PAGE) == Reply(-EBUSY, 0)
    driver.ioctl_flag = False
    assert IOCTLS[kind](driver, 0, PAGE) == Reply(-ENODEV, 0)
    assert IOCTLS[kind](Driver(BASE, SIZE), 0, PAGE) == Reply(-EINVAL, 0)


def test_bad_arguments() -> None:
    """W without R, unknown bits, a type that pages cannot get, results that are not zero on
    entry."""
    driver = made()
    for reply in (
        driver.restrict_permissions(0, PAGE, W),
        driver.restrict_permissions(0, PAGE, 8),
        driver.restrict_permissions(0, PAGE, R, result=1),
        driver.restrict_permissions(0, PAGE, R, count=1),
        driver.modify_types(0, PAGE, PT_REG),
        driver.modify_types(0, PAGE, 9),
        driver.modify_types(0, PAGE, PT_TRIM, result=1),
        driver.modify_types(0, PAGE, PT_TRIM, count=1),
        driver.remove_pages(0, PAGE, count=1),
    ):
        assert reply == Reply(-EINVAL, 0)
    assert list(driver.epcm.pages) == [(at(0), at(8), EpcmEntry(RW))]


@pytest.mark.parametrize("kind", ["restrict", "modify_types"])
def test_stops_at_an_absent_page(kind: str) -> None:
    """EFAULT with result 0; the pages before it stay changed, and can be accepted."""
    driver = made(3)
    assert IOCTLS[kind](driver, 0, 8 * PAGE) == Reply(-EFAULT, 3 * PAGE, 0)
    if kind == "restrict":
        driver.epcm.eaccept(at(0), at(3), R, PR)
    else:
        driver.epcm.eaccept(at(0), at(3), 0, MODIFIED, PT_TRIM)


@pytest.mark.parametrize("kind", ["restrict", "modify_types"])
def test_stops_at_a_pending_page(kind: str) -> None:
    """EFAULT with the leaf's code in `result`: a page that was never accepted has nothing to
    change."""
    driver = made(3)
    driver.touch(at(3), at(4), "store")
    assert IOCTLS[kind](driver, 0, 4 * PAGE) == Reply(-EFAULT, 3 * PAGE, PAGE_NOT_MODIFIABLE)


def test_types() -> None:
    """Permissions of REG pages only; a TCS can only be trimmed; a TCS needs RW as max-prot."""
    driver = Driver(BASE, SIZE)
    assert driver.add_pages(0, PAGE, R) == Reply(0, PAGE)
    assert driver.add_pages(PAGE, PAGE, 0, PT_TCS) == Reply(0, PAGE)
    driver.init()
    assert driver.restrict_permissions(PAGE, PAGE, R) == Reply(-EINVAL, 0)
    assert driver.modify_types(0, PAGE, PT_TCS) == Reply(-EPERM, 0)
    assert driver.modify_types(PAGE, PAGE, PT_TCS) == Reply(-EINVAL, 0)
    assert driver.modify_types(0, 2 * PAGE, PT_TRIM) == Reply(0, 2 * PAGE)
    assert driver.modify_types(0, PAGE, PT_TRIM) == Reply(-EINVAL, 0)


def test_remove_stops_at_what_was_not_accepted() -> None:
    """EPERM; the pages before it are gone from the EPC."""
    driver = made(4)
    assert driver.modify_types(0, 3 * PAGE, PT_TRIM).error == 0
    driver.epcm.eaccept(at(0), at(2), 0, MODIFIED, PT_TRIM)
    assert driver.remove_pages(0, 4 * PAGE) == Reply(-EPERM, 2 * PAGE)
    assert driver.epc.used == 2
    assert driver.remove_pages(0, PAGE) == Reply(-EFAULT, 0), "there is no page any more"
    driver.epcm.eaccept(at(2), at(3), 0, MODIFIED, PT_TRIM)
    assert driver.remove_pages(2 * PAGE, 2 * PAGE) == Reply(-EPERM, PAGE), (
        "page 3 is not a TRIM page"
    )


def test_add_pages() -> None:
    """Before EINIT only, with what EPC there is, and not twice."""
    driver = Driver(BASE, SIZE, Epc(3))
    for bad in (
        driver.add_pages(0, PAGE, W),
        driver.add_pages(0, PAGE, R, PT_TCS),
        driver.add_pages(0, 1, R),
    ):
        assert bad == Reply(-EINVAL, 0)
    assert driver.add_pages(PAGE, PAGE, R) == Reply(0, PAGE)
    assert driver.add_pages(0, 3 * PAGE, R) == Reply(-EBUSY, PAGE)
    assert driver.add_pages(2 * PAGE, 3 * PAGE, R) == Reply(-ENOMEM, PAGE)
    assert (driver.init(), driver.init()) == (0, -EINVAL)
    assert driver.add_pages(9 * PAGE, PAGE, R) == Reply(-EINVAL, 0)
    assert driver.destroy() == 3
    assert driver.epc.used == 0


# Tracking


def test_each_ioctl_tracks_its_pages() -> None:
    """Also with threads inside since before: the interrupt brings them out."""
    driver = made()
    driver.epcm.enter(1)
    assert driver.restrict_permissions(0, 8 * PAGE, R) == Reply(0, 8 * PAGE)
    driver.epcm.eaccept(at(0), at(8), R, PR)


def test_a_cycle_left_open_is_completed_first() -> None:
    """ETRACK returns 17, the driver interrupts and tries once more."""
    driver = made()
    driver.epcm.enter(1)
    driver.epcm.etrack()
    assert driver.modify_types(0, PAGE, PT_TRIM) == Reply(0, PAGE)
    driver.epcm.eaccept(at(0), at(1), 0, MODIFIED, PT_TRIM)


# Faults


def fault(driver: Driver, address: int, kind: str) -> tuple[int, int, int]:
    """How the kernel refuses an access: error code, signal, errno."""
    with pytest.raises(HostFault) as caught:
        driver.access(address, kind)
    assert caught.value.address == address & ~(PAGE - 1)
    return caught.value.error_code, caught.value.signal, caught.value.error


def test_faults_without_eaug() -> None:
    """Outside the enclave, not initialised, no SGX2, a VMA that allows too little or more than the
    max-prot."""
    assert fault(made(), BASE - PAGE, "load") == (4, SIGSEGV, 0)
    early = Driver(BASE, SIZE)
    early.host.mmap(at(0), at(8), RWX)
    assert fault(early, at(0), "store") == (6, SIGBUS, 0)
    early.add_pages(0, PAGE, R)
    early.init()
    assert fault(early, at(0), "load") == (4, SIGBUS, 0)
    assert early.mprotect(at(0), at(1), R) == 0
    early.access(at(0), "load")
    early.sgx2 = False
    assert fault(early, at(1), "load") == (4, SIGBUS, 0)
    driver = made(0)
    driver.mprotect(at(0), at(1), 0)
    assert fault(driver, at(0), "fetch") == (0x14, SIGSEGV, 0)


def test_the_epc_is_full() -> None:
    """The pages that there was room for are there; enclaves share the EPC."""
    epc = Epc(10)
    first, second = (Driver.ready(BASE, SIZE, epc) for _ in range(2))
    assert first.touch(at(0), at(4), "load") == 4
    with pytest.raises(HostFault) as caught:
        second.touch(at(0), at(8), "load")
    assert (caught.value.address, caught.value.error, caught.value.signal) == (
        at(6),
        ENOMEM,
        SIGBUS,
    )
    assert (epc.used, epc.room(5)) == (10, 0)
    assert first.destroy() == 4
    assert second.touch(at(0), at(8), "load") == 2, "six exist already"


@pytest.mark.parametrize("pages", [0, -1])
def test_epc_of_no_pages(pages: int) -> None:
    """The message names the value and the cure."""
    with pytest.raises(LaconicError, match=rf"EPC size is {pages} pages: give at least 1"):
        Epc(pages)


def test_unknown_pte() -> None:
    """The message names the value and the choice."""
    with pytest.raises(LaconicError, match="'lazy': choose one of rwx, sync"):
        Driver.ready(BASE, SIZE, pte="lazy")


# The host's mappings


def test_may_map() -> None:
    """`sgx_encl_may_map`: within the enclave, and within the max-prot of each page that exists."""
    driver = Driver(BASE, SIZE)
    driver.add_pages(0, PAGE, R)
    driver.init()
    assert driver.host.mmap(at(0), at(8), RW) == -EACCES
    assert driver.host.mmap(at(1), at(8), RWX) == 0
    assert driver.host.mmap(at(0), at(1), R) == 0
    assert driver.host.mmap(at(60), at(65), R) == -EACCES
    assert driver.host.mmap(at(9), at(10), R, shared=False) == -EINVAL
    assert driver.host.mmap(at(9) + 1, at(10), R) == -EINVAL
    assert driver.mprotect(at(0), at(2), RW) == -EACCES
    assert driver.mprotect(at(7), at(9), R) == -ENOMEM, "a hole"
    assert [vma.prot for _, _, vma in driver.host.vmas] == [R, RWX, R], (
        "what was done before the hole stays"
    )


def test_a_tcs_is_mapped_rw_at_most() -> None:
    """The max-prot of a page that becomes a TCS is RW from then on, and its page table entry is
    zapped."""
    driver = made(2)
    assert driver.modify_types(0, PAGE, PT_TCS) == Reply(0, PAGE)
    assert driver.pages.get(at(0)) == DriverPage(PT_TCS, RW)
    assert driver.ptes.get(at(0)) is None and driver.ptes.get(at(1))
    assert driver.mprotect(at(0), at(1), RX) == -EACCES
    assert driver.mprotect(at(0), at(1), RW) == 0


def test_splits_never_merge() -> None:
    """Also where neighbours are equal again; and no split where nothing changes."""
    driver = made(0)
    counts = []
    for start, end, prot in [
        (2, 4, RWX),
        (2, 4, R),
        (2, 4, RWX),
        (0, 64, RWX),
        (0, 64, R),
        (3, 5, R),
        (3, 5, RW),
    ]:
        assert driver.mprotect(at(start), at(end), prot) == 0
        counts.append(len(driver.host.vmas))
    assert counts == [1, 3, 3, 3, 3, 3, 5]


def test_max_map_count() -> None:
    """ENOMEM at the limit; a first split that was made before stays made."""
    driver = made(0, max_map_count=4)
    assert driver.mprotect(at(2), at(4), R) == 0
    assert driver.mprotect(at(10), at(12), R) == -ENOMEM
    assert [(start, end, vma.prot) for start, end, vma in driver.host.vmas] == [
        (at(0), at(2), RWX),
        (at(2), at(4), R),
        (at(4), at(10), RWX),
        (at(10), at(64), RWX),
    ]
    assert driver.mprotect(at(10), at(64), R) == 0, "no split"
    assert driver.host.mmap(at(0), at(1), R) == -ENOMEM


# Planned failures


@pytest.mark.parametrize("kind", IOCTLS)
@pytest.mark.parametrize("error", [EBUSY, EAGAIN, EFAULT])
@pytest.mark.parametrize("after", [0, 3])
def test_planned_ioctl_failure(kind: str, error: int, after: int) -> None:
    """The nth ioctl of a kind fails after so many pages; what it did stays done, and the rest goes
    when asked again."""
    driver = made(plan=Plan({(kind, 2): Failure(error, EPC_PAGE_CONFLICT, after)}))
    if kind == "remove":
        assert driver.modify_types(0, 8 * PAGE, PT_TRIM).error == 0
        driver.epcm.eaccept(at(0), at(8), 0, MODIFIED, PT_TRIM)
    ioctl = IOCTLS[kind]
    assert ioctl(driver, 0, PAGE) == Reply(0, PAGE)
    assert ioctl(driver, PAGE, 7 * PAGE) == Reply(-error, after * PAGE, EPC_PAGE_CONFLICT)
    rest = 1 + after
    assert ioctl(driver, rest * PAGE, (8 - rest) * PAGE) == Reply(0, (8 - rest) * PAGE)


def test_planned_failure_that_is_not_reached() -> None:
    """An ioctl of fewer pages succeeds."""
    driver = made(plan=Plan({("restrict", 1): Failure(EAGAIN, after=3)}))
    assert driver.restrict_permissions(0, 3 * PAGE, R) == Reply(0, 3 * PAGE)


def test_planned_by_a_function() -> None:
    """A plan can be a rule."""
    driver = made(
        plan=Plan(
            lambda kind, number: Failure(EBUSY) if kind == "restrict" and number % 2 else None
        )
    )
    assert [driver.restrict_permissions(0, PAGE, R).error for _ in range(4)] == [
        -EBUSY,
        0,
        -EBUSY,
        0,
    ]


def test_planned_failure_of_etrack() -> None:
    """EFAULT with result 0, and one page is changed beyond `count`: changed, but not tracked."""
    driver = made(plan=Plan({("etrack", 1): Failure(after=2)}))
    assert driver.restrict_permissions(0, 4 * PAGE, R) == Reply(-EFAULT, 2 * PAGE, 0)
    prots = [
        (start, entry.prot)
        for start, _, entry in driver.epcm.pages.runs(at(0), at(4))
        if entry is not None
    ]
    assert prots == [(at(0), R), (at(2), R), (at(3), RW)]
    driver.epcm.eaccept(at(0), at(2), R, PR)


def test_planned_eaug_and_mprotect() -> None:
    """The EPC is full for once; the host has no VMA left for once."""
    driver = made(
        0, plan=Plan({("eaug", 1): Failure(ENOMEM, after=2), ("mprotect", 1): Failure(ENOMEM)})
    )
    with pytest.raises(HostFault) as caught:
        driver.touch(at(0), at(4), "load")
    assert (caught.value.address, caught.value.error) == (at(2), ENOMEM)
    assert driver.touch(at(0), at(4), "load") == 2
    assert driver.mprotect(at(0), at(4), R) == -ENOMEM
    assert driver.mprotect(at(0), at(4), R) == 0
