"""skip-equal while the host fails: at every operation of the driver and of the enclave, of every kind of call.

What may be tried again ends as if nothing had been; else the program gets ENOMEM (for an access, SIGBUS), and the
LibOS's VMAs, the PAL's record and the EPCM agree, and the next call works. Nothing kills the process. The law Strict is
not asked of it: upstream opens what it fills.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from errno import EFAULT, ENOMEM, EPERM
from functools import partial

import pytest
from tests.enclosed import NO_FD
from tests.model.hostfailures import FAILURES, PASSES, STAYS, now_and_then
from tests.model.test_strict import ACCESSES, FORK, THREAD, THREAD_ENDS, steps
from tests.unit.enclaveworld import BASE, LIB, PAGE, machine
from tests.unit.test_sgx_failures import (
    ANON,
    EIGHT,
    ELSEWHERE,
    RW,
    RWX,
    RX,
    SCENES,
    R,
    Switch,
    failing,
    file,
    mapped,
    next_call_works,
    protected,
    stored,
)
from tests.upstream import Upstream

from laconic.memory import flags as f
from laconic.memory.calls import Call
from laconic.memory.layout import Layout
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.pal.sgx.edmm import PalError
from laconic.pal.sgx.failures import Failure, Plan
from laconic.pal.sgx.faults import NOT_TRACKED
from laconic.pal.sgx.gramine import INTERNAL, TRACKER
from laconic.strategies.skip_equal import SkipEqual
from laconic.strategies.touches import Touches

GROW = "grow"
SHARED = f.MAP_SHARED | f.MAP_FIXED
LAZILY = ANON | f.MAP_NORESERVE
#: Beside those of the other strategies: what upstream does in its own way.
OURS: dict[str, tuple[list[Call], Call]] = {
    "several VMAs": ([mapped(0, 2, RW), mapped(2, 2, R), mapped(4, 2, RX), *stored(0, 1)], protected(0, 6, RWX)),
    "map lazily": ([], mapped(0, 8, RW, LAZILY)),
    "MAP_FIXED over lazy ones": ([mapped(0, 8, RW, LAZILY), *stored(1, 2), mapped(8, 2, R)], mapped(0, 10, RX)),
    "munmap of lazy ones": ([mapped(0, 8, RW, LAZILY), *stored(1, 2, 5)], Call("munmap", (BASE, 6 * PAGE))),
    "touch a lazy one": ([mapped(0, 8, RX, LAZILY)], Call("fetch", (BASE + 3 * PAGE,))),
    "read a file": ([], file(0, 6, R, 3)),
    "read a file with a tail": ([], file(0, 6, RX, 5)),
    "protect a tail": ([file(0, 6, R, 5)], protected(0, 6, RW)),
    "msync": ([file(0, 4, f.PROT_WRITE, 3, SHARED)], Call("msync", (BASE, 4 * PAGE, f.MS_SYNC))),
    "msync of what is closed": ([file(0, 4, 0, 3, SHARED)], Call("msync", (BASE, 4 * PAGE, f.MS_SYNC))),
    "grow in place": (EIGHT, Call("mremap", (BASE, 8 * PAGE, 12 * PAGE, 0))),
    "shrink in place": (EIGHT, Call("mremap", (BASE, 8 * PAGE, 3 * PAGE, 0))),
    "fork of what cannot be read": ([*EIGHT, protected(2, 4, 0)], Call(FORK, ())),
    "fork of a file": ([file(0, 6, RX, 5), file(8, 3, RW, 3)], Call(FORK, ())),
    "second thread": ([Call(THREAD, ())], Call(THREAD, ())),
    "thread again": ([Call(THREAD, ()), Call(THREAD_ENDS, ())], Call(THREAD, ())),
    "thread ends": ([Call(THREAD, ())], Call(THREAD_ENDS, ())),
    "stack growth": (EIGHT, Call(GROW, (BASE - 5 * PAGE, BASE))),
}
ALL = {**SCENES, **OURS}
#: What can leave a hole.
UNMAPS = ("mmap", "munmap", "mremap", "brk")
#: What a driver or a leaf can refuse for ever.
FOR_EVER = {
    "restrict": Failure(EPERM),
    "modify_types": Failure(EPERM, after=1),
    "remove": Failure(EPERM),
    "eaug": Failure(ENOMEM),
    "etrack": Failure(EFAULT),
    "eaccept": Failure(code=NOT_TRACKED),
    "emodpe": Failure(),
}


def make(program: Upstream, step: Call) -> int:
    name, args = step
    if name in ACCESSES:
        return program.access(args[0], name)
    if name == THREAD:
        return program.thread()
    if name == THREAD_ENDS:
        program.thread_ends()
        return 0
    if name == GROW:
        return program.grow(*args)
    if name == FORK:
        child = program.fork()
        if child is None:
            return -ENOMEM
        child.check(False)
        child.end()
        return 0
    return program.call(name, *args)


def start(scene: str, plan: Switch) -> tuple[Upstream, Call]:
    before, step = ALL[scene]
    program = Upstream(plan)
    for call in before:
        assert make(program, call) >= 0
    program.check()
    return program, step


def attempt(program: Upstream, step: Call, plan: Switch, counted: bool = False) -> int:
    plan.on = True
    result = make(program, step)
    plan.on = False
    program.check(counted)
    return result


def end(program: Upstream, result: int) -> tuple[object, ...]:
    pages, vmas = list(program.libos.pal.pages), [(at, stop, vma) for at, stop, vma in program.libos.vmas]
    return result, list(program.space.vmas), vmas, pages, dict(program.machine.contents)


def native(scene: str) -> tuple[int, Switch]:
    """What the scene's call comes to while nothing fails, and its operations."""
    plan = Switch(lambda kind, number: None)
    program, step = start(scene, plan)
    return attempt(program, step, plan, step.name != FORK), plan


def once(failures: dict[str, list[Failure]], scene: str) -> Iterator[tuple[str, int, Failure]]:
    for kind, times in native(scene)[1].seen.items():
        for number in range(1, times + 1):
            for failure in failures.get(kind, []):
                yield kind, number, failure


@pytest.mark.parametrize("scene", ALL)
def test_what_passes_leaves_no_trace_in_a_libos(scene: str) -> None:
    quiet = Switch(lambda kind, number: None)
    program, step = start(scene, quiet)
    expected = end(program, attempt(program, step, quiet))
    for kind, number, failure in once(PASSES, scene):
        plan = Switch({(kind, number): failure})
        program, step = start(scene, plan)
        assert end(program, attempt(program, step, plan)) == expected, (kind, number, failure)
        assert not program.pal.left.count


@pytest.mark.parametrize("scene", ALL)
def test_what_stays_kills_nothing(scene: str) -> None:
    expected, _ = native(scene)
    for kind, number, failure in once(STAYS, scene):
        plan = Switch({(kind, number): failure})
        program, step = start(scene, plan)
        before, old = end(program, 0), program.space.brk
        result = attempt(program, step, plan)
        where = (kind, number, failure)
        refused = {"brk": old, "store": signal.SIGBUS, "fetch": signal.SIGBUS}.get(step.name, -ENOMEM)
        assert result in (expected, refused), where
        if result != expected and step.name not in UNMAPS:
            assert end(program, 0)[1:4] == before[1:4], where
        next_call_works(program)
        if kind != "etrack":  # a page that the driver changed and did not track is lost to it
            if result != expected and end(program, 0) == before:
                assert make(program, step) == expected, where
                program.check(False)
            reclaimed(program)
        program.end()
        assert kind == "etrack" or not program.epc.used


@pytest.mark.parametrize("kind", FOR_EVER)
@pytest.mark.parametrize("scene", ALL)
def test_what_fails_for_ever_kills_nothing(scene: str, kind: str) -> None:
    expected, quiet = native(scene)
    for first in range(1, quiet.seen[kind] + 1):
        plan = Switch(partial(failing, kind, first, FOR_EVER[kind]))
        program, step = start(scene, plan)
        program.stuck = RWX if kind in ("restrict", "etrack", "eaccept", "emodpe") else 0
        old = program.space.brk
        refused = {"brk": old, "store": signal.SIGBUS, "fetch": signal.SIGBUS}.get(step.name, -ENOMEM)
        assert attempt(program, step, plan) in (expected, refused)
        next_call_works(program)
        if kind != "etrack":
            reclaimed(program)
        program.end()


def reclaimed(program: Upstream) -> None:
    """What a failure left in the EPC goes as soon as its place is used again."""
    for begin, stop, _ in list(program.pal.left):
        if begin >= INTERNAL:
            assert begin >= TRACKER or program.thread() > 0
            continue
        assert program.call("mmap", begin, stop - begin, RW, ANON, NO_FD, 0) == begin
    assert all(begin >= TRACKER for begin, _, _ in program.pal.left)
    program.check(False)


def test_a_program_that_does_not_fit_is_not_loaded() -> None:
    plan = Plan({("eaug", 3): Failure(ENOMEM)})
    strategy = SkipEqual(machine(plan), AddressSpace(Layout(mmap_base=BASE)), Touches())
    image = [
        (BASE, BASE + 4 * PAGE, Vma(RX | f.VM_MAY_RWX, LIB)),
        (BASE + 4 * PAGE, BASE + 9 * PAGE, Vma(RW | f.VM_MAY_RWX)),
        (BASE + 20 * PAGE, BASE + 24 * PAGE, Vma(RW | f.VM_MAY_RWX | f.VM_GROWSDOWN)),
    ]
    with pytest.raises(PalError):
        strategy.load(image)
    assert not strategy.vmas.count and not strategy.pal.count()
    strategy.load(image)
    assert strategy.vmas.count == 3
    strategy.end()


class TestEpcFull:
    """There is no room for another page."""

    def test_a_mapping_is_there_or_not(self) -> None:
        program = Upstream(epc_pages=6)
        assert program.call("mmap", BASE, 4 * PAGE, RW, ANON, NO_FD, 0) == BASE
        assert program.call("mmap", ELSEWHERE, 4 * PAGE, RX, ANON, NO_FD, 0) == -ENOMEM
        program.check(False)
        assert program.call("munmap", BASE, 4 * PAGE) == 0
        assert program.call("mmap", ELSEWHERE, 4 * PAGE, RX, ANON, NO_FD, 0) == ELSEWHERE
        program.check(False)

    def test_a_touch_is_sigbus(self) -> None:
        program = Upstream(epc_pages=3)
        assert program.call("mmap", BASE, 8 * PAGE, RW, LAZILY, NO_FD, 0) == BASE
        found = [program.access(BASE + page * PAGE, "store") for page in range(4)]
        assert found == [0, 0, signal.SIGBUS, signal.SIGBUS], "one page is the tracker's"
        program.check(False)

    def test_growth_in_place_loses_nothing(self) -> None:
        """The copy that the C library would make needs room first; where there is none, the old pages stay."""
        program = Upstream(epc_pages=10)
        for call in EIGHT:
            make(program, call)
        before = end(program, -ENOMEM)
        result = program.call("mremap", BASE, 8 * PAGE, 12 * PAGE, 0)
        assert end(program, result) == before
        program.check(False)

    def test_mapping_over_leaves_a_hole(self) -> None:
        """As Linux: what was there is unmapped first."""
        program = Upstream(epc_pages=8)
        for call in EIGHT:
            make(program, call)
        assert program.call("mmap", BASE + 4 * PAGE, 6 * PAGE, R, ANON, NO_FD, 0) == -ENOMEM
        assert [(at, stop) for at, stop, _ in program.space.vmas] == [(BASE, BASE + 4 * PAGE)]
        assert program.epc.used == 4
        program.check(False)

    def test_a_child_or_a_thread_that_does_not_fit_leaves_nothing(self) -> None:
        program = Upstream(epc_pages=10)
        for call in EIGHT:
            make(program, call)
        assert program.fork() is None
        assert program.thread() == -ENOMEM
        assert program.epc.used == 8
        program.check(False)
        program.call("munmap", BASE, 7 * PAGE)
        assert program.thread() == 1
        program.check(False)


def test_the_stack_of_a_thread_that_ended_waits_until_the_driver_takes_it() -> None:
    plan = Switch(lambda kind, number: Failure(EPERM) if kind == "modify_types" else None)
    program = Upstream(plan)
    assert program.thread() == 1
    plan.on = True
    program.thread_ends()
    program.check(False)
    assert program.pal.left.count and program.epc.used == 9
    assert program.thread() == -ENOMEM
    plan.on = False
    program.check(False)
    assert program.thread() == 1
    assert not program.pal.left.count and program.epc.used == 9
    program.check(False)


def upstream_knows(program: Upstream, step: Call) -> bool:
    """False for what upstream makes something else of than Linux."""
    name, args = step
    if name == "mprotect":  # Linux changes what comes before a hole
        return program.space.vmas.covered(args[0], args[0] + args[1])
    if name == "mremap":  # the tail of a file
        vma = program.space.vmas.get(args[0])
        return vma is None or vma.file is None
    if name == "mmap":  # a shared file that cannot be written
        return args[4] != 4 or not args[3] & f.MAP_SHARED
    return name != "madvise" or args[2] not in (f.MADV_DONTFORK, f.MADV_WIPEONFORK)


@pytest.mark.parametrize("seed", range(25))
def test_random_steps_while_the_host_fails_a_libos(seed: int) -> None:
    program = Upstream(now_and_then(seed))
    for step in steps(700 + seed):
        if upstream_knows(program, step):
            make(program, step)
            program.check(False)
    program.end()


@pytest.mark.parametrize("seed", range(15))
def test_random_steps_while_every_tenth_operation_fails(seed: int) -> None:
    """Also those that take back what failed. Not among them: an EACCEPT that says what is not so of a page's state."""
    source = random.Random(seed)
    failures = FAILURES | {"eaccept": [failure for failure in FAILURES["eaccept"] if failure.code == NOT_TRACKED]}

    def fail(kind: str, number: int) -> Failure | None:
        return source.choice(failures[kind]) if source.random() < 0.1 else None

    program = Upstream(Plan(fail))
    program.stuck = RWX
    refused = 0
    for step in steps(20_000 + seed):
        if upstream_knows(program, step):
            refused += make(program, step) == -ENOMEM
            program.check(False)
    assert refused
    program.end()


@pytest.mark.parametrize("seed", range(10))
def test_a_machine_that_does_not_fail_counts_as_a_meter(seed: int) -> None:
    program = Upstream()
    for step in steps(800 + seed):
        if upstream_knows(program, step):
            make(program, step)
            program.check()
    program.end()
    assert not program.epc.used
