"""EPCM and driver against oracles that know single pages only, driven at random."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_TCS, PT_TRIM
from laconic.sgx.model.driver import Driver, Epc
from laconic.sgx.model.epcm import Epcm
from laconic.sgx.model.faults import GeneralProtection, HostFault, LeafError, PageFault
from tests.model.epcm_oracle import PAGES, Kernel, Oracle, R, Single, Verdict, W

PAGE = 4096
BASE = 1 << 20
Run = tuple[int, int]  # pages, from and to


def compare(epcm: Epcm, oracle: Oracle) -> None:
    """Every page's entry, and that the map is well formed."""
    epcm.pages.check()
    names = {PENDING: "pending", MODIFIED: "modified", PR: "pr"}
    for page in range(PAGES):
        entry, single = epcm.pages.get(BASE + page * PAGE), oracle.pages.get(page)
        if single is None:
            assert entry is None
            continue
        assert entry is not None
        flags = {name for bit, name in names.items() if entry.state & bit}
        assert (entry.prot, entry.page_type, flags) == (single.prot, single.kind, single.flags)
        assert epcm.tracked(entry) == (not single.since)
    assert set(epcm.threads) == oracle.inside


def verdict(action: Callable[[], object]) -> Verdict:
    """What the model says, in the oracle's words; a #PF of the EPCM's has the bits SGX and P."""
    try:
        action()
    except GeneralProtection as fault:
        return "#GP", (fault.address - BASE) // PAGE
    except PageFault as fault:
        return "#PF" if fault.error_code & 0x8001 == 0x8001 else fault.error_code, (
            fault.address - BASE
        ) // PAGE
    except LeafError as error:
        return error.code, (error.address - BASE) // PAGE
    return None


def at(page: int) -> int:
    """The address of a page."""
    return BASE + page * PAGE


PROTS = st.integers(0, 7)
RUNS = st.tuples(st.integers(0, PAGES - 1), st.integers(1, 3)).map(
    lambda run: (run[0], run[0] + run[1])
)
REQUESTS = st.sampled_from(
    [(PENDING, PT_REG)] * 3
    + [(PR, PT_REG)] * 2
    + [(MODIFIED, PT_TRIM)] * 2
    + [
        (MODIFIED, PT_TCS),
        (PENDING | PR, PT_REG),
        (0, PT_REG),
        (MODIFIED, PT_REG),
        (PENDING, PT_TRIM),
    ]
)
#: Nine times of ten a rule looks for a page where it can succeed.
AIMED = st.integers(0, 9).map(bool)
THREADS = st.integers(1, 2)
KINDS = st.sampled_from(["load", "store", "fetch"])
TYPES = st.sampled_from([PT_TCS, PT_TRIM, PT_TRIM])


def names(request: int) -> set[str]:
    """SECINFO's state bits as the oracle has them."""
    return {
        name
        for bit, name in ((PENDING, "pending"), (MODIFIED, "modified"), (PR, "pr"))
        if request & bit
    }


def aim(oracle: Oracle, run: Run, aimed: bool, wanted: Callable[[Single], bool]) -> Run:
    """The run, moved to begin at a page that is as wanted."""
    found = [page for page, single in sorted(oracle.pages.items()) if wanted(single)]
    if not aimed or not found:
        return run
    start = found[run[0] % len(found)]
    return start, start + run[1] - run[0]


def request_of(single: Single) -> tuple[int, int]:
    """The EACCEPT that this page waits for."""
    return (
        MODIFIED if "modified" in single.flags else PENDING if "pending" in single.flags else PR
    ), single.kind


class Leaves(RuleBasedStateMachine):
    """A host that runs any leaf at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.epcm = Epcm(BASE, PAGES * PAGE)
        self.epcm.einit()
        self.oracle = Oracle()

    def both(
        self, run: Run, leaf: Callable[[int, int], object], one: Callable[[int], str | int | None]
    ) -> None:
        """The model at once and the oracle page by page."""
        start, end = run
        actual = verdict(lambda: leaf(at(start), at(end)))
        assert actual == self.oracle.run(start, end, one)

    @rule(run=RUNS)
    def eaug(self, run: Run) -> None:
        self.both(run, self.epcm.eaug, self.oracle.eaug)

    @rule(run=RUNS, prot=PROTS, request=REQUESTS, aimed=AIMED)
    def eaccept(self, run: Run, prot: int, request: tuple[int, int], aimed: bool) -> None:
        run = aim(
            self.oracle,
            run,
            aimed,
            lambda single: bool(single.flags),
        )
        bits, kind = request
        single = self.oracle.pages.get(run[0])
        if aimed and single is not None:
            prot, (bits, kind) = single.prot, request_of(single)
        self.both(
            run,
            lambda start, end: self.epcm.eaccept(start, end, prot, bits, kind),
            lambda page: self.oracle.eaccept(page, prot, names(bits), kind),
        )

    @rule(run=RUNS, prot=PROTS, source=st.integers(0, PAGES - 1), aimed=AIMED)
    def eacceptcopy(self, run: Run, prot: int, source: int, aimed: bool) -> None:
        run = aim(self.oracle, run, aimed, lambda single: "pending" in single.flags)
        source, _ = aim(
            self.oracle,
            (source, source),
            aimed,
            lambda single: single.usable() and single.prot & R == R,
        )
        first = run[0]
        self.both(
            run,
            lambda start, end: self.epcm.eacceptcopy(start, end, prot, at(source)),
            lambda page: self.oracle.eacceptcopy(page, prot, source + page - first),
        )

    @rule(run=RUNS, prot=PROTS, aimed=AIMED)
    def emodpe(self, run: Run, prot: int, aimed: bool) -> None:
        run = aim(self.oracle, run, aimed, Single.usable)
        self.both(
            run,
            lambda a, b: self.epcm.emodpe(a, b, prot),
            lambda page: self.oracle.emodpe(page, prot),
        )

    @rule(run=RUNS, prot=PROTS, aimed=AIMED)
    def emodpr(self, run: Run, prot: int, aimed: bool) -> None:
        run = aim(self.oracle, run, aimed, Single.usable)
        self.both(
            run,
            lambda a, b: self.epcm.emodpr(a, b, prot),
            lambda page: self.oracle.emodpr(page, prot),
        )

    @rule(run=RUNS, kind=TYPES, aimed=AIMED)
    def emodt(self, run: Run, kind: int, aimed: bool) -> None:
        run = aim(
            self.oracle,
            run,
            aimed,
            lambda single: single.kind != PT_TRIM and "pending" not in single.flags,
        )
        self.both(
            run,
            lambda a, b: self.epcm.emodt(a, b, kind),
            lambda page: self.oracle.emodt(page, kind),
        )

    @rule(run=RUNS)
    def eremove(self, run: Run) -> None:
        self.both(run, self.epcm.eremove, self.oracle.eremove)

    @rule()
    def etrack(self) -> None:
        actual = verdict(self.epcm.etrack)
        assert (actual and actual[0]) == self.oracle.etrack()

    @rule(thread=THREADS)
    def enter(self, thread: int) -> None:
        self.epcm.enter(thread)
        self.oracle.enter(thread)

    @rule(thread=THREADS)
    def leave(self, thread: int) -> None:
        self.epcm.leave(thread)
        self.oracle.leave(thread)

    @rule()
    def interrupt(self) -> None:
        self.epcm.interrupt()
        self.oracle.interrupt()

    @rule(run=RUNS)
    def settle(self, run: Run) -> None:
        self.epcm.settle(at(run[0]), at(run[1]))

    @rule(page=st.integers(0, PAGES - 1), kind=KINDS)
    def access(self, page: int, kind: str) -> None:
        self.both(
            (page, page + 1),
            lambda a, b: self.epcm.access(a, b, kind),
            lambda one: self.oracle.access(one, kind),
        )

    @invariant()
    def equal(self) -> None:
        compare(self.epcm, self.oracle)


class Ioctls(RuleBasedStateMachine):
    """A process and its enclave: touches, the enclave's leaves, ioctls, mprotect; the EPC is too
    small for all."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver.ready(BASE, PAGES * PAGE, Epc(Kernel.ROOM))
        self.kernel = Kernel()

    def ioctl(
        self, run: Run, reply: tuple[int, int, int], one: Callable[[int], tuple[int, int]]
    ) -> None:
        """The reply must be what the single pages add up to."""
        start, end = run
        if end > PAGES:
            assert reply == (-EINVAL, 0, 0)
            return
        for page in range(start, end):
            error, result = one(page)
            if error:
                assert reply == (-error, (page - start) * PAGE, result)
                return
        assert reply == (0, (end - start) * PAGE, 0)

    @rule(run=RUNS, kind=KINDS)
    def touch(self, run: Run, kind: str) -> None:
        start, end = run[0], min(run[1], PAGES)
        actual = None
        try:
            self.driver.touch(at(start), at(end), kind)
        except HostFault as fault:
            actual = fault.error_code, fault.error, (fault.address - BASE) // PAGE
        expected = None
        for page in range(start, end):
            refused = self.kernel.touch(page, kind)
            if refused is not None:
                expected = *refused, page
                break
        assert actual == expected

    @rule(run=RUNS, request=REQUESTS, aimed=AIMED)
    def eaccept(self, run: Run, request: tuple[int, int], aimed: bool) -> None:
        run = aim(self.kernel, run, aimed, lambda single: bool(single.flags))
        single = self.kernel.pages.get(run[0])
        prot = 0 if single is None else single.prot
        bits, kind = request if single is None or not aimed else request_of(single)
        actual = verdict(lambda: self.driver.epcm.eaccept(at(run[0]), at(run[1]), prot, bits, kind))
        assert actual == self.kernel.run(
            *run, lambda page: self.kernel.eaccept(page, prot, names(bits), kind)
        )

    @rule(run=RUNS, prot=PROTS, aimed=AIMED)
    def emodpe(self, run: Run, prot: int, aimed: bool) -> None:
        run = aim(self.kernel, run, aimed, Single.usable)
        actual = verdict(lambda: self.driver.epcm.emodpe(at(run[0]), at(run[1]), prot))
        assert actual == self.kernel.run(*run, lambda page: self.kernel.emodpe(page, prot))

    @rule(run=RUNS, prot=PROTS, aimed=AIMED)
    def restrict(self, run: Run, prot: int, aimed: bool) -> None:
        run = aim(self.kernel, run, aimed, Single.usable)
        reply = self.driver.restrict_permissions(run[0] * PAGE, (run[1] - run[0]) * PAGE, prot)
        actual = reply.error, reply.count, reply.result
        if prot & 3 == W:
            assert actual == (-EINVAL, 0, 0)
        else:
            self.ioctl(run, actual, lambda page: self.kernel.restrict(page, prot))

    @rule(run=RUNS, kind=TYPES, aimed=AIMED)
    def modify_types(self, run: Run, kind: int, aimed: bool) -> None:
        run = aim(
            self.kernel, run, aimed, lambda single: single.kind != PT_TRIM and not single.flags
        )
        reply = self.driver.modify_types(run[0] * PAGE, (run[1] - run[0]) * PAGE, kind)
        self.ioctl(
            run,
            (reply.error, reply.count, reply.result),
            lambda page: self.kernel.modify(page, kind),
        )

    @rule(run=RUNS, aimed=AIMED)
    def remove_pages(self, run: Run, aimed: bool) -> None:
        run = aim(self.kernel, run, aimed, lambda single: single.kind == PT_TRIM)
        reply = self.driver.remove_pages(run[0] * PAGE, (run[1] - run[0]) * PAGE)
        self.ioctl(run, (reply.error, reply.count, reply.result), self.kernel.remove)

    @rule(run=RUNS, prot=PROTS)
    def mprotect(self, run: Run, prot: int) -> None:
        start, end = run[0], min(run[1], PAGES)
        assert -self.driver.mprotect(at(start), at(end), prot) == self.kernel.mprotect(
            start, end, prot
        )

    @rule(thread=THREADS)
    def enter(self, thread: int) -> None:
        self.driver.epcm.enter(thread)
        self.kernel.enter(thread)

    @rule()
    def left_open(self) -> None:
        actual = verdict(self.driver.epcm.etrack)
        assert (actual and actual[0]) == self.kernel.etrack()

    @invariant()
    def equal(self) -> None:
        compare(self.driver.epcm, self.kernel)
        for page in range(PAGES):
            held = self.driver.pages.get(at(page))
            assert (
                None if held is None else (held.page_type, held.max_prot)
            ) == self.kernel.array.get(page)
            assert bool(self.driver.ptes.get(at(page))) == (page in self.kernel.ptes)
            vma = self.driver.host.vmas.get(at(page))
            assert vma is not None and vma.prot == self.kernel.host[page]
        assert self.driver.epc.used == len(self.kernel.pages)
        assert len(self.driver.host.vmas) == len(self.kernel.splits) - 1


TestLeaves = Leaves.TestCase
TestLeaves.settings = settings(
    max_examples=80, stateful_step_count=60, deadline=None, derandomize=True
)
TestIoctls = Ioctls.TestCase
TestIoctls.settings = settings(
    max_examples=80, stateful_step_count=60, deadline=None, derandomize=True
)
