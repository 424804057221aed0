"""A PAL and listeners beside a replay: what they receive of a trace."""

from __future__ import annotations

import json
from dataclasses import asdict
from errno import ENOMEM
from pathlib import Path
from typing import Any

import pytest

from laconic.errors import LaconicError
from laconic.memory.change import EXTEND, MAP, RESTRICT, UNMAP, Change
from laconic.memory.flags import PAGE_SIZE
from laconic.memory.layout import Layout
from laconic.memory.pal import HostError
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.replay import replay_trace
from laconic.replay.events import CallDone, Listener
from laconic.replay.pals import PalFeed
from laconic.replay.thread import Mm
from laconic.trace.schema import CHOSEN, CODES, GREW
from tests.helpers.comparetraces import begun
from tests.helpers.traces import BASE, Builder

RW, READ, ANON = 3, 1, 0x22
SIGCHLD = 17
LENGTH = 4 * PAGE_SIZE


class Shadow:
    """A PAL that keeps what it was told to map, and fails if a change contradicts it."""

    def __init__(self) -> None:
        self.vmas: RangeMap[Vma] = RangeMap()
        self.changes: list[str] = []

    def apply(self, change: Change) -> None:
        """Compare the held state with this one's, and take the wanted state over."""
        for _, _, vma in self.vmas.runs(change.start, change.end):
            assert vma == change.held
        self.vmas.set(change.start, change.end, change.wanted)
        self.changes.append(str(change))


def recorded(path: Path, fork: bool = False) -> str:
    """A recording: maps four pages, protects them twice to no effect and once to read-only, and
    ends with them mapped."""
    trace = Builder(path, about={"strategy": "laconic", "command": ["prog"]})
    layout = asdict(Layout(quiet_below=1 << 46)) | {"refused_advice": []}
    about = {"path": "/bin/prog", "argv": ["prog"], "bits": 64, "layout": layout}
    trace.row("execve", data=b"/bin/prog")
    trace.row("program", 0x5555_5555_6000, 0, data=json.dumps(about).encode())
    trace.row("maps", 0, 2)
    for kind, name, args, result in (
        (MAP, "mmap", (0, LENGTH, RW, ANON, -1, 0), BASE),
        (0, "mprotect", (BASE, LENGTH, RW), 0),
        (RESTRICT, "mprotect", (BASE, LENGTH, READ), 0),
    ):
        state = CHOSEN if name == "mmap" else 0
        trace.row(name, *args, result=result, state=state, host_calls=int(kind > 0), kinds=kind)
    if fork:
        trace.row("clone", SIGCHLD, result=102)
        trace.row("munmap", BASE, PAGE_SIZE, pid=102, host_calls=1, kinds=UNMAP)
        trace.row("exit", 0, pid=102)
    trace.row("mprotect", BASE, PAGE_SIZE, RW, host_calls=1, kinds=EXTEND)
    trace.row("exit", 0)
    return trace.end()


def test_a_pal_receives_every_change_and_the_end(tmp_path: Path) -> None:
    pal = Shadow()
    replayed = replay_trace(recorded(tmp_path / "a.trace"), pal=pal, check=True)
    assert pal.changes == [
        "MAP 7f0000000000-7f0000004000 rw-p",
        "RESTRICT 7f0000000000-7f0000004000 r--p, was rw-p",
        "EXTEND 7f0000000000-7f0000001000 rw-p, was r--p",
        "UNMAP 7f0000000000-7f0000001000, was rw-p",
        "UNMAP 7f0000001000-7f0000004000, was r--p",
    ]
    assert replayed.check is not None and not replayed.check.counts and not replayed.refusals


def test_each_address_space_has_a_pal_of_its_own(tmp_path: Path) -> None:
    pals: dict[int, Shadow] = {}

    def pal_for(mm: Mm) -> Shadow:
        assert mm.program == "/bin/prog"
        return pals.setdefault(mm.pid, Shadow())

    replay_trace(recorded(tmp_path / "a.trace", fork=True), pal_for=pal_for)
    assert list(pals) == [100, 102]
    assert not pals[100].vmas.count and not pals[102].vmas.count
    assert pals[102].changes == [
        "MAP 7f0000000000-7f0000004000 r--p",
        "UNMAP 7f0000000000-7f0000001000, was r--p",
        "UNMAP 7f0000001000-7f0000004000, was r--p",
    ]
    assert len(pals[100].changes) == 5


def test_a_log_s_changes_reach_a_pal(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", source="strace")
    trace.row("mmap", 0, LENGTH, RW, ANON, -1, 0, result=BASE)
    trace.row("munmap", BASE, LENGTH)
    pal = Shadow()
    replay_trace(trace.end(), pal=pal)
    assert pal.changes[0] == "MAP 7f0000000000-7f0000004000 rw-p"
    assert pal.changes[1] == "UNMAP 7f0000000000-7f0000004000, was rw-p"


@pytest.mark.parametrize("refusal", [HostError(ENOMEM), OSError(ENOMEM, "no memory")])
def test_a_pal_that_refuses_changes_nothing_of_what_was_recorded(
    tmp_path: Path, refusal: OSError
) -> None:
    class Refuser:
        def apply(self, change: Change) -> None:
            """Refuse to restrict."""
            if change.kind & RESTRICT:
                raise refusal

    replayed = replay_trace(recorded(tmp_path / "a.trace"), pal=Refuser(), check=True)
    assert [(refusal.process, refusal.errno) for refusal in replayed.refusals] == [(0, ENOMEM)]
    assert replayed.refusals[0].change.kind == RESTRICT
    assert replayed.check is not None and not replayed.check.counts


def test_listeners_receive_the_calls(tmp_path: Path) -> None:
    class Calls(Listener):
        def __init__(self) -> None:
            self.redundant: list[tuple[int, str, tuple[int, ...]]] = []
            self.forks: list[tuple[int, int]] = []

        def call_done(self, done: CallDone) -> None:
            """Keep the redundant calls."""
            if done.is_redundant:
                assert done.mm is done.thread.mm and not done.changes
                self.redundant.append((done.number, done.name, done.args[:3]))

        def forked(self, parent: Mm, child: Mm) -> None:
            """Keep the process ids."""
            self.forks.append((parent.pid, child.pid))

    calls = Calls()
    replay_trace(recorded(tmp_path / "a.trace", fork=True), listeners=[calls])
    assert calls.redundant == [(4, "mprotect", (BASE, LENGTH, RW))]
    assert calls.forks == [(100, 102)]


def test_an_object_that_is_neither_pal_nor_listener_is_named(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.trace")
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"pal": Shadow}, "pal is the class Shadow: pass an object of the class"),
        ({"pal": 5}, "pal is 5, which has no method apply: pass a PAL"),
        ({"pal_for": lambda mm: None}, "pal_for for process 100 is None, which has no method"),
        ({"listeners": Listener()}, r"is not a list: pass listeners=\[MyListener\(\)\]"),
        ({"listeners": [Listener]}, "Listener'> is not a listener: pass listeners="),
    )
    for options, message in wrong:
        with pytest.raises(LaconicError, match=message):
            replay_trace(path, **options)


def test_two_ways_to_give_a_pal_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="exclude each other"):
        replay_trace(recorded(tmp_path / "a.trace"), pal=Shadow(), pal_for=lambda mm: Shadow())


def test_a_pal_receives_what_happens_between_and_within_calls(tmp_path: Path) -> None:
    """The growth of a stack, and the locks of an mlock that has not ended."""
    trace = begun(tmp_path / "a.trace")
    stack = BASE + (1 << 20)
    trace.row("mmap", BASE, PAGE_SIZE, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=MAP)
    trace.row("maps", 1, 2)
    trace.row("vma", stack, stack + PAGE_SIZE, 0x173)
    trace.row("maps", 1, GREW)
    trace.row("vma", stack - PAGE_SIZE, stack, 0x173)
    trace.row("begin", BASE, PAGE_SIZE, call_code=CODES["mlock"], state=1)
    trace.row("mlock", BASE, PAGE_SIZE, host_calls=1)
    pal = Shadow()
    replay_trace(trace.end(), pal=pal)
    assert pal.changes[:4] == [
        "MAP 7f0000000000-7f0000001000 rw-p",
        "MAP 7f0000100000-7f0000101000 rw-p",
        "MAP 7f00000ff000-7f0000100000 rw-p",
        "FLAGS 7f0000000000-7f0000001000 rw-p +lo",
    ]
    assert not pal.vmas.count


def test_a_program_that_is_executed_has_a_pal_of_its_own(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    trace.row("mmap", BASE, PAGE_SIZE, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=MAP)
    trace.row("execve", data=b"/bin/new")
    trace.row("program", 0x5555_5555_6000, 0, data=b'{"path": "/bin/new", "bits": 64}')
    trace.row("mmap", BASE, PAGE_SIZE, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=MAP)
    pals: list[Shadow] = []
    programs: list[str] = []

    def pal_for(mm: Mm) -> Shadow:
        programs.append(mm.program)
        pals.append(Shadow())
        return pals[-1]

    replay_trace(trace.end(), pal_for=pal_for)
    assert programs == ["/bin/prog", "/bin/new"]
    once = ["MAP 7f0000000000-7f0000001000 rw-p", "UNMAP 7f0000000000-7f0000001000, was rw-p"]
    assert [pal.changes for pal in pals] == [once, once]


def test_an_error_without_an_errno_is_no_refusal(tmp_path: Path) -> None:
    class Broken:
        def apply(self, change: Change) -> None:
            """Fail, and not as a host does."""
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        replay_trace(recorded(tmp_path / "a.trace"), pal=Broken())


def test_a_pal_is_forgotten_with_its_address_space() -> None:
    feed = PalFeed(lambda mm: Shadow())
    mm = Mm(AddressSpace(Layout()))
    feed.started(mm)
    feed.ended(mm)
    feed.host_read(mm, (Change(MAP, BASE, BASE + PAGE_SIZE, Vma(RW), None),), False)
    assert not feed._pals and not feed.refusals
