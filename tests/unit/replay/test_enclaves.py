"""Enclaves beside a replay: what each strategy is given, and under which label its work counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import pytest

import laconic.trace
from laconic.libos.gramine import Libos
from laconic.libos.strategy import ContinuingStrategy, MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.linux.pagemap import FILE_PAGE, UNSEEN
from laconic.memory.change import MAP, UNMAP
from laconic.memory.flags import PAGE_SIZE as PAGE
from laconic.memory.space import AddressSpace, Entry
from laconic.memory.vma import File, Vma
from laconic.replay.enclaves import NOT_SELECTED, Enclave, Enclaves, Touch, Unfinished
from laconic.replay.engine import Replay
from laconic.replay.events import CallDone, Program
from laconic.replay.selected import drop_unselected
from laconic.replay.thread import Mm
from laconic.sgx.costs import load
from laconic.sgx.meter import Meter
from laconic.strategies import NAMES, maker
from laconic.strategies.bound import bound
from laconic.strategies.classify import Classify
from laconic.trace.schema import CODES, GREW, UNFINISHED
from laconic.trace.selection import Selection
from laconic.trace.stacks import NO_STACK
from tests.helpers.comparetraces import ANON, RW, begun
from tests.helpers.traces import BASE, Builder

FORK, THREAD, VFORK = 17, 0x3D0F00, 0x4111


class Recorder(Strategy):
    """A strategy that writes down its work, each of which costs one host call."""

    name = "recorder"

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        self.log: list[str] = []
        logs.append(self.log)

    def _note(self, text: str) -> None:
        self.meter.host_call()
        self.log.append(text)

    def load(self, entries: Iterable[Entry]) -> None:
        self._note(f"load {len(list(entries))}")

    def call(self, call: MemoryCall) -> None:
        self._note(f"{call.name} {len(call.changes)} {self.touches.count(BASE, BASE + 8 * PAGE)}")

    def touch(self, start: int, end: int, vma: Vma) -> None:
        self._note(f"touch {(start - BASE) // PAGE}-{(end - BASE) // PAGE}")

    def grow(self, start: int, end: int, vma: Vma) -> None:
        self._note(f"grow {(end - start) // PAGE}")

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        self._note("fork")
        return type(self)(self.meter, space, touches)

    def thread(self) -> None:
        self._note("thread")

    def thread_ends(self) -> None:
        self._note("thread ends")

    def file_written(self, file: File, size: int, truncated: bool) -> None:
        self._note(f"written {file.path} {size} {truncated}")

    def end(self) -> None:
        self._note("end")


class Continuing(ContinuingStrategy, Recorder):
    """One whose enclave an executed program goes on in, and under which vfork is a fork."""

    def execute(self, space: AddressSpace, touches: Touches) -> Self:
        self._note("execute")
        return type(self)(self.meter, space, touches)


class ChangesOnly(Recorder):
    """One that calls without changes do not concern."""

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        self.needs_unchanged = False


logs: list[list[str]] = []


def mapped(path: Path, pages: int = 4) -> Builder:
    """A program that has mapped some pages."""
    trace = begun(path)
    length = pages * PAGE
    trace.row("mmap", BASE, length, RW, ANON, -1, 0, result=BASE, host_calls=1, kinds=int(MAP))
    return trace


def recorded(
    trace: Builder, rule: type[Recorder] = Recorder, **options: Any
) -> tuple[list[list[str]], Enclaves]:
    """What each enclave was given, in the order of their starts, and all enclaves."""
    logs.clear()
    enclaves = Enclaves({"recorder": rule}, **options)
    Replay(laconic.trace.open(trace.end()), "laconic", listeners=[enclaves]).run()
    return logs.copy(), enclaves


def test_a_program_from_its_load_to_its_end(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    touched = ((BASE, BASE + 2 * PAGE, 0),)
    trace.row("munmap", BASE, 2 * PAGE, host_calls=1, kinds=int(UNMAP), touched=touched)
    found, enclaves = recorded(trace)
    assert found == [["load 0", "mmap 1 0", "mprotect 0 0", "touch 0-2", "munmap 1 2", "end"]]
    counts = {key: table.host_calls for key, table in enclaves.meters["recorder"].tables.items()}
    assert counts == {
        (0, "load"): 1,
        (0, "mmap"): 1,
        (0, "mprotect"): 1,
        (0, "touch"): 1,
        (0, "munmap"): 2,  # and the end, whose label does not matter
    }
    assert enclaves.left == {"recorder": 0} and enclaves.unseen == 0


def test_pages_that_a_call_unmaps_are_touched_until_it_is_over(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    touched = ((BASE, BASE + PAGE, 0),)
    for _ in range(2):
        trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP), touched=touched)
        trace.row(
            "mmap", BASE, PAGE, RW, ANON | 0x10, -1, 0, result=BASE, host_calls=1, kinds=int(MAP)
        )
    (log,), _ = recorded(trace)
    assert log[2:-1] == ["touch 0-1", "munmap 1 1", "mmap 1 0"] * 2


def test_calls_without_changes_reach_only_strategies_that_need_them(tmp_path: Path) -> None:
    logs.clear()
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, RW)
    trace.row("mprotect", BASE, PAGE, 1, host_calls=1)
    trace.row("mprotect", BASE, PAGE, 1)
    enclaves = Enclaves({"recorder": Recorder, "changes_only": ChangesOnly})
    Replay(laconic.trace.open(trace.end()), "laconic", listeners=[enclaves]).run()
    recorder, changes_only = logs
    assert [word for word in recorder if "mprotect" in word] == [
        "mprotect 0 0",
        "mprotect 1 0",
        "mprotect 0 0",
    ]
    assert [word for word in changes_only if "mprotect" in word] == ["mprotect 1 0"]
    assert enclaves.meters["changes_only"].tables[0, "mprotect"].host_calls == 2


def host_calls(enclaves: Enclaves) -> dict[tuple[int, object], int]:
    """The host calls of the recorder, by process and label."""
    tables = enclaves.meters["recorder"].tables
    return {key: counts.host_calls for key, counts in tables.items()}


def test_labels_are_the_caller_s(tmp_path: Path) -> None:
    _, enclaves = recorded(mapped(tmp_path / "a.trace"), label=lambda done: (done.name, done.stack))
    labels = {label for _, label in enclaves.meters["recorder"].tables}
    assert labels == {"load", ("mmap", NO_STACK)}


def test_forks_and_threads(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone3", THREAD, result=101)
    trace.row("clone", FORK, result=200)
    trace.row("exit", 0, tid=101)
    trace.row("munmap", BASE, PAGE, pid=200, host_calls=1, kinds=int(UNMAP))
    trace.row("exit", 0, pid=200)
    found, enclaves = recorded(trace)
    assert found == [
        ["load 0", "mmap 1 0", "thread", "fork", "thread ends", "end"],
        ["munmap 1 0", "end"],
    ]
    tables = enclaves.meters["recorder"].tables
    assert tables[0, "thread"].host_calls == 2 and tables[1, "fork"].host_calls == 1
    assert tables[1, "munmap"].host_calls == 3, "and the two ends, wherever they count"


def test_a_child_has_its_own_touched_pages(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    touched = ((BASE, BASE + PAGE, 0),)
    trace.row("clone", FORK, result=200, touched=touched)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
    trace.row("munmap", BASE, PAGE, pid=200, host_calls=1, kinds=int(UNMAP), touched=touched)
    found, _ = recorded(trace)
    assert found[0] == ["load 0", "mmap 1 0", "touch 0-1", "fork", "munmap 1 1", "end"]
    assert found[1] == ["munmap 1 1", "end"]


def test_growth_and_other_differences_of_the_host_s_map(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    stack = BASE + (1 << 20)
    trace.row("maps", 1, 2)
    trace.row("vma", stack, stack + PAGE, 0x173)
    trace.row("maps", 1, GREW)
    trace.row("vma", stack - 2 * PAGE, stack, 0x173)
    trace.row("maps", 0, 2)
    (log,), enclaves = recorded(trace)
    assert log == ["load 0", "mmap 1 0", "other 1 0", "grow 2", "end"]
    assert {(0, "other"), (0, "stack growth")} <= enclaves.meters["recorder"].tables.keys()


def test_an_unfinished_call_is_what_the_host_s_map_shows(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("maps", 1, 0)
    trace.row("vma", BASE, BASE + PAGE, 0x71)
    trace.row("mprotect", BASE, 2 * PAGE, 1, state=UNFINISHED)
    trace.row("munmap", BASE, PAGE, state=UNFINISHED)
    (log,), _ = recorded(trace)
    assert log == ["load 0", "mmap 1 0", "other 1 0", "end"]


def test_changes_that_are_done_before_the_end_of_their_call(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("begin", BASE, PAGE, call_code=CODES["mlock"], state=1)
    trace.row("mlock", BASE, PAGE, host_calls=1)
    (log,), _ = recorded(trace)
    assert log == ["load 0", "mmap 1 0", "mlock 1 0", "mlock 0 0", "end"]


def test_pages_that_a_log_does_not_show_are_assumed_touched(tmp_path: Path) -> None:
    # wwww  the first page is unmapped, the second made inaccessible, the rest ends with the program
    trace = mapped(tmp_path / "a.trace")
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
    trace.row("mprotect", BASE + PAGE, PAGE, 0, host_calls=1)
    trace.row("mprotect", BASE + PAGE, PAGE, RW, host_calls=1)
    (log,), _ = recorded(trace, assume_touched=True)
    assert log == [
        "load 0", "mmap 1 0", "touch 0-1", "munmap 1 1", "touch 1-2", "mprotect 1 1",
        "mprotect 1 1", "touch 2-4", "end",
    ]  # fmt: skip


def test_a_fork_touches_all_that_may_be_touched(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", FORK, result=200)
    found, _ = recorded(trace, assume_touched=True)
    assert found[0] == ["load 0", "mmap 1 0", "touch 0-4", "fork", "end"]
    assert found[1] == ["end"]


def test_unseen_pages_are_counted(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("exit", 0, touched=((BASE, BASE + 3 * PAGE, UNSEEN),))
    _, enclaves = recorded(trace)
    assert enclaves.unseen == 3


def executes(trace: Builder, path: str, pid: int = 100, bits: int = 64) -> None:
    """The process runs another program; one of 32 bits is not followed."""
    about = {"path": path, "bits": bits}
    trace.row("execve", pid=pid, data=path.encode())
    trace.row("program", 0x5555_5555_6000, 0, pid=pid, data=json.dumps(about).encode())
    trace.row("munmap", BASE, PAGE, pid=pid)


def test_an_executed_program_goes_on_in_the_enclave(tmp_path: Path) -> None:
    for rule, log in (
        (Recorder, ["load 0", "mmap 1 0", "end"]),
        (Continuing, ["load 0", "mmap 1 0", "execute"]),
    ):
        trace = mapped(tmp_path / f"{rule.name}.{rule.__name__}")
        executes(trace, "/bin/new")
        found, enclaves = recorded(trace, rule)
        assert found == [log, ["load 0", "munmap 1 0", "end"]]
        assert ((1, "exec") in host_calls(enclaves)) == (rule is Continuing)


def test_all_that_may_be_touched_is_touched_before_a_program_is_executed(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    executes(trace, "/bin/new")
    found, _ = recorded(trace, Continuing, assume_touched=True)
    assert found[0] == ["load 0", "mmap 1 0", "touch 0-4", "execute"]
    assert host_calls(recorded(mapped(tmp_path / "b.trace"), assume_touched=True)[1])[0, "touch"]


def test_vfork_is_a_fork_for_a_strategy_that_goes_on(tmp_path: Path) -> None:
    """The child has an enclave of its own until it ends, or its program goes on in it. A strategy
    whose enclaves end with their programs makes none."""
    for name, ends in (("exits", True), ("executes", False)):
        for rule in (Recorder, Continuing):
            trace = mapped(tmp_path / f"{name}.{rule.__name__}")
            trace.row("clone", VFORK, result=200)
            if not ends:
                executes(trace, "/bin/child", 200)
            trace.row("exit", 0, pid=200)
            trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
            found, enclaves = recorded(trace, rule)
            parent = ["load 0", "mmap 1 0", "munmap 1 0", "end"]
            child = ["load 0", "munmap 1 0", "end"]
            if rule is Recorder:
                assert found == [parent] if ends else [parent, child]
                continue
            parent.insert(2, "fork")
            assert found == ([parent, ["end"]] if ends else [parent, ["execute"], child])
            assert ((0, "fork") in host_calls(enclaves)) and (1, "fork") not in host_calls(enclaves)


def test_an_enclave_whose_program_is_not_followed_ends_with_the_trace(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", VFORK, result=200)
    executes(trace, "/bin/old", 200, bits=32)
    trace.row("clone", VFORK, result=300)
    found, _ = recorded(trace, Continuing)
    assert found == [["load 0", "mmap 1 0", "fork", "fork", "end"], ["end"], ["end"]]


def test_a_thread_that_shares_the_memory_of_another_process_detaches_nothing(
    tmp_path: Path,
) -> None:
    # The parent executes a program while its vforked child still uses its memory.
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone", VFORK, result=200)
    executes(trace, "/bin/new")
    trace.row("munmap", BASE, PAGE, pid=200, host_calls=1, kinds=int(UNMAP))
    trace.row("exit", 0, pid=200)
    found, _ = recorded(trace, Continuing)
    assert found[0] == ["load 0", "mmap 1 0", "fork", "thread ends", "munmap 1 0", "end"]
    assert found[2] == ["load 0", "munmap 1 0", "end"]


def test_files_that_are_written_or_truncated(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    file = trace.file("/data/a")
    trace.row("written", 8192, 1, file=file)
    trace.row("written", 4096, 0, file=file)
    (log,), enclaves = recorded(trace)
    assert log[2:] == ["written /data/a 8192 False", "written /data/a 4096 True", "end"]
    assert host_calls(enclaves)[0, "write"] == 3  # and the end


@pytest.mark.parametrize("label", [None, lambda done: done.name], ids=["name", "label"])
def test_calls_that_are_not_selected_have_a_label_of_their_own(
    label: Callable[[CallDone], str] | None, tmp_path: Path
) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("mprotect", BASE, PAGE, 1, host_calls=1)
    trace.row("mprotect", BASE, PAGE, RW, host_calls=1)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
    _, enclaves = recorded(trace, label=label, selection=Selection(calls=("mprotect",)))
    assert host_calls(enclaves) == {
        (0, "load"): 1,
        (0, "mprotect"): 2,
        (0, NOT_SELECTED): 3,  # with the end
    }


def label(done: CallDone) -> tuple[str, int]:
    """A label that only the end of a call knows."""
    return done.name, done.number


def locked(path: Path, state: int = 0) -> Builder:
    """An mlock whose locks are seen before its end, and a page that is touched in between."""
    trace = mapped(path)
    trace.row("begin", BASE, PAGE, call_code=CODES["mlock"], state=1)
    trace.row("madvise", BASE, PAGE, 3, tid=101, host_calls=1, touched=((BASE, BASE + PAGE, 0),))
    trace.row("mlock", BASE, PAGE, host_calls=1, state=state)
    trace.row("munlock", BASE, PAGE, host_calls=1)
    return trace


def test_work_before_the_end_of_a_call_is_counted_under_its_label(tmp_path: Path) -> None:
    trace = locked(tmp_path / "a.trace")
    (log,), enclaves = recorded(trace, label=label, by_owner=True)
    assert log[2:] == [
        "mlock 1 0",
        "touch 0-1",
        "madvise 1 1",
        "mlock 0 1",
        "munlock 1 1",
        "end",
    ]
    assert host_calls(enclaves) == {
        (0, "load"): 1,
        (0, ("mmap", 3)): 1,
        (0, Touch(("mmap", 3))): 1,
        (0, ("madvise", 5)): 1,
        (0, ("mlock", 6)): 2,
        (0, ("munlock", 7)): 2,  # and the end
    }


def test_the_same_thread_locks_twice(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    for page in range(2):
        where = BASE + page * PAGE
        trace.row("begin", where, PAGE, call_code=CODES["mlock"], state=1)
        trace.row("mlock", where, PAGE, host_calls=1)
    trace.row("munmap", BASE, PAGE, host_calls=1, kinds=int(UNMAP))
    _, enclaves = recorded(trace, label=lambda done: done.name)
    assert host_calls(enclaves) == {
        (0, "load"): 1,
        (0, "mmap"): 1,
        (0, "mlock"): 4,
        (0, "munmap"): 2,  # and the end
    }


def test_work_of_a_call_that_never_ended_belongs_to_no_call(tmp_path: Path) -> None:
    trace = locked(tmp_path / "a.trace", UNFINISHED)
    _, enclaves = recorded(trace, label=label)
    assert host_calls(enclaves) == {
        (0, "load"): 1, (0, ("mmap", 3)): 1, (0, "touch"): 1, (0, ("madvise", 5)): 1,
        (0, "other"): 1, (0, ("munlock", 7)): 2,
    }  # fmt: skip


def test_work_before_the_end_of_a_call_is_selected_with_it(tmp_path: Path) -> None:
    """Also if the call is not selected; the touched page is that of an mmap, which is not."""
    for name, kept in (("mlock", {(0, "mlock"): 2}), ("munlock", {(0, "munlock"): 2})):
        selection = Selection(calls=(name,))
        trace = locked(tmp_path / f"{name}.trace")
        _, enclaves = recorded(trace, by_owner=True, selection=selection)
        drop_unselected(enclaves, selection, [Program(100, "prog")])
        assert host_calls(enclaves) == kept


def test_work_of_a_call_whose_end_is_missing_belongs_to_no_call(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("begin", BASE, PAGE, call_code=CODES["mlock"], state=1)
    _, enclaves = recorded(trace, label=label)
    # The program ends under the label that was used last.
    assert host_calls(enclaves) == {(0, "load"): 1, (0, ("mmap", 3)): 1, (0, "other"): 2}


def test_counts_are_taken_while_a_call_has_not_ended(tmp_path: Path) -> None:
    """What is taken is not counted again; the work of the mlock is kept for its label."""
    taken: dict[object, int] = {}
    kept: list[list[object]] = []

    class Taking(Enclaves):
        def call_done(self, done: CallDone) -> None:
            """Take the counts after every call."""
            super().call_done(done)
            self.take()

        def call_committed(self, *event: Any) -> None:
            """Take the counts in the middle of a call."""
            super().call_committed(*event)
            self.take()
            kept.append([label for _, label in self.meters["recorder"].tables])

        def take(self) -> None:
            """Add up what is taken."""
            for name, label, counts in self.take_counts():
                assert name == "recorder"
                taken[label] = taken.get(label, 0) + counts.host_calls

    trace = locked(tmp_path / "a.trace")
    for _ in range(2):
        trace.row("mprotect", BASE, PAGE, RW)
    logs.clear()
    enclaves = Taking({"recorder": Recorder}, label=lambda done: done.name)
    Replay(laconic.trace.open(trace.end()), "laconic", listeners=[enclaves]).run()
    assert taken == {
        "load": 1, "mmap": 1, "mlock": 2, "touch": 1, "madvise": 1, "munlock": 1, "mprotect": 2,
    }  # fmt: skip
    assert kept == [[Unfinished("mlock", 100)]]


def test_touched_pages_are_counted_by_the_call_that_mapped_them(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    stack = BASE + (1 << 20)
    trace.row("maps", 1, 2)
    trace.row("vma", stack, stack + PAGE, 0x173)
    trace.row("maps", 1, GREW)
    trace.row("vma", stack - 2 * PAGE, stack, 0x173)
    touched = ((BASE, BASE + 3 * PAGE, 0), (stack - PAGE, stack + PAGE, 0))
    trace.row("clone", FORK, result=200, touched=touched)
    trace.row("exit", 0, pid=200, touched=((BASE, BASE + 4 * PAGE, 0),))
    _, enclaves = recorded(trace, by_owner=True)
    assert enclaves.touched_pages == {
        0: {"mmap": 3, "stack growth": 1, "other": 1},
        1: {"mmap": 1},
    }
    assert host_calls(enclaves)[0, Touch("mmap")] == 1
    _, plain = recorded(mapped(tmp_path / "b.trace"))
    assert plain.touched_pages == {}


class _Last(Enclaves):
    # Keeps the enclave that ended last.

    last: Enclave

    def ended(self, mm: Mm) -> None:
        enclave = self.enclave(mm)
        assert enclave is not None
        self.last = enclave
        super().ended(mm)


def grown(path: Path, touched: int, size: int = PAGE, **options: Any) -> _Last:
    """A program that has mapped four pages of a file of one, and used the first `touched`."""
    trace = begun(path)
    file = trace.file("/data/grows", size=size)
    trace.row("mmap", BASE, 4 * PAGE, RW, 0x11, 3, 0, result=BASE, file=file)
    trace.row("mprotect", BASE, 4 * PAGE, RW, touched=((BASE, BASE + touched * PAGE, FILE_PAGE),))
    rules = {name: maker(name) for name in (*NAMES, "every-call:all", "every-call:reserve=on")}
    enclaves = _Last(rules | {"bound": bound(load())}, **options)
    Replay(laconic.trace.open(trace.end()), "laconic", listeners=[enclaves]).run()
    return enclaves


def test_a_touch_past_the_end_of_a_file_shows_that_it_has_grown(tmp_path: Path) -> None:
    """No page past its end can be touched: every strategy has the file as long as it is then."""
    found = grown(tmp_path / "grown.trace", 2).last
    for name, rule in found.strategies.items():
        assert (
            found.touches.sizes.known_end(Vma(RW, File(8, 1, 7, "/data/grows"), BASE))
            == BASE + 2 * PAGE
        )
        if isinstance(rule, Libos):
            vma = rule.vmas.get(BASE)
            assert vma is not None and vma.valid_end == BASE + 2 * PAGE, name
            assert [rule.pal.pages.get(BASE + page * PAGE) for page in (0, 1)] == [RW, RW], name
        if isinstance(rule, Classify):
            held = [rule.pal.committed.get(BASE + page * PAGE) for page in range(3)]
            assert held == [RW, RW, None], name
    counts = {name: meter.total() for name, meter in grown(tmp_path / "b", 1).meters.items()}
    more = {name: meter.total() for name, meter in grown(tmp_path / "c", 2).meters.items()}
    for name in ("classify", "laconic", "sgx-emm", "bound", "every-call:all"):
        assert more[name].eaug == counts[name].eaug + 1, name
    # Its heap is committed before, and the page is filled.
    assert more["edmm-tuned"].pages_copied == counts["edmm-tuned"].pages_copied + 1
    # Today's Gramine has committed the page, and opens it.
    assert more["every-call"].eaug == counts["every-call"].eaug
    assert more["every-call"].emodpe > counts["every-call"].emodpe


def test_nothing_past_the_end_of_a_file_is_assumed_to_be_touched(tmp_path: Path) -> None:
    found = grown(tmp_path / "grown.trace", 0, assume_touched=True)
    assert found.last.touches.count(BASE, BASE + 4 * PAGE) == 1
    # The size of a device is 0, and logs may show none.
    found = grown(tmp_path / "unsized.trace", 2, size=0, assume_touched=True)
    assert found.last.touches.count(BASE, BASE + 4 * PAGE) == 4


@pytest.mark.parametrize("row", [(3, 1), (2, 0), (0, 0)], ids=["written", "truncated", "emptied"])
def test_a_file_is_as_long_as_its_last_write_or_truncation_says(
    row: tuple[int, int], tmp_path: Path
) -> None:
    pages, writes = row
    trace = begun(tmp_path / "a.trace")
    file = trace.file("/data/a", size=PAGE)
    trace.row("mmap", BASE, 4 * PAGE, RW, 0x11, 3, 0, result=BASE, file=file)
    trace.row("written", pages * PAGE, writes, file=file)
    enclaves = _Last({"recorder": Recorder})
    Replay(laconic.trace.open(trace.end()), "laconic", listeners=[enclaves]).run()
    vma = Vma(RW, File(8, 1, 7, "/data/a"), BASE)
    assert enclaves.last.touches.sizes.valid_end(vma) == BASE + pages * PAGE
