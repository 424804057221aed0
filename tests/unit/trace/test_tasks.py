"""The processes of a log: what a clone shares, and what an execve and an exit leave."""

from __future__ import annotations

from laconic.linux.clone import CLONE_FILES, CLONE_THREAD, CLONE_VM
from laconic.memory.flags import PAGE_SIZE
from laconic.memory.rangemap import TOP
from laconic.trace.importers.pathfiles import Paths
from laconic.trace.importers.perf.processes import PerfProcess, PerfThread


def first() -> PerfThread:
    """A process of one thread, which has a file open."""
    return PerfThread(PerfProcess(10), 10, Paths({3: b"/a"}))


def test_a_thread_shares_process_and_descriptors() -> None:
    leader = first()
    thread = leader.clone(11, CLONE_VM | CLONE_FILES | CLONE_THREAD)
    assert thread.process is leader.process
    assert (thread.pid, thread.tid) == (10, 11)
    assert thread.files is leader.files
    assert list(leader.process.threads.values()) == [leader, thread]


def test_a_fork_copies_memory_and_descriptors() -> None:
    parent = first()
    parent.process.space.kinds.set(0, PAGE_SIZE, 1)
    child = parent.clone(11, 0)
    child.files[4] = b"/b"
    child.process.space.kinds.clear(0, PAGE_SIZE)
    assert (child.pid, child.tid) == (11, 11)
    assert parent.files == {3: b"/a"}
    assert parent.process.space.kinds.get(0) == 1


def test_a_vfork_shares_memory_until_the_last_process_leaves() -> None:
    parent = first()
    child = parent.clone(11, CLONE_VM)
    parent.process.space.touch(PAGE_SIZE, True)
    assert child.process.space is parent.process.space
    assert child.files is not parent.files
    child.end()
    assert child.process.leave() == ()
    assert parent.process.leave() == ((PAGE_SIZE, 2 * PAGE_SIZE, 0),)
    assert parent.process.space.taken(0, TOP, forget=False) == ()


def test_an_execve_ends_the_other_threads() -> None:
    leader = first()
    thread = leader.clone(11, CLONE_VM | CLONE_FILES | CLONE_THREAD)
    before = leader.process
    assert thread.execute(thread.pid) == [leader]
    assert (thread.pid, thread.tid) == (10, 10)
    assert thread.process is not before
    assert list(thread.process.threads.values()) == [thread]
    assert thread.files == {3: b"/a"}
    assert thread.files is not leader.files


def test_a_thread_that_replaces_its_leader_has_its_id() -> None:
    leader = first()
    thread = leader.clone(11, CLONE_VM | CLONE_THREAD)
    thread.replace_leader(leader)
    assert thread.process.threads == {10: thread}
    leader.end()  # it is gone already
    assert thread.process.threads == {10: thread}
    thread.end()
    assert thread.process.threads == {}
