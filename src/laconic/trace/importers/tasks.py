"""The processes and threads of a log, whatever wrote it: which thread belongs to which process, and
what a new one shares with its parent.

The rules are the kernel's (clone(2), execve(2)). Importers derive from `Process` and `Thread` what
else they keep of each.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, Self, TypeVar

from laconic.linux.clone import CLONE_FILES, CLONE_THREAD, CLONE_VM


class FileTable(Protocol):
    """A table of descriptors."""

    def copy(self) -> Self:
        """Return the table that a fork makes. O(descriptors)."""

    def execute(self) -> Self:
        """Return the table that a successful execve leaves. O(descriptors)."""


T = TypeVar("T")


class Process(Generic[T]):
    """A thread group. `threads` are those that have not ended, by id, in the order of their
    beginning."""

    __slots__ = ("pid", "threads")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.threads: dict[int, T] = {}

    def fork(self, pid: int, *, shares_memory: bool) -> Self:
        """Return the process `pid` that fork (or vfork, which `shares_memory`) makes of this one;
        it has no threads yet."""
        return type(self)(pid)

    def execute(self) -> Self:
        """Return the process of the program that this one executes: the same id, and no threads
        yet."""
        return type(self)(self.pid)


P = TypeVar("P", bound=Process[Any])
F = TypeVar("F", bound=FileTable)


class Thread(Generic[P, F]):
    """One thread, which belongs to `process`, with its descriptors `files`; it is among the
    process's threads from now on."""

    __slots__ = ("files", "pid", "process", "tid")

    def __init__(self, process: P, tid: int, files: F) -> None:
        self.files = files
        self.tid = tid
        self._join(process)

    def _join(self, process: P) -> None:
        self.process = process
        #: That of the process, which every row has.
        self.pid = process.pid
        process.threads[self.tid] = self

    def clone(self, tid: int, flags: int) -> Self:
        """Return the thread `tid` that this one made by clone with `flags`, in this process or in
        one of its own. O(descriptors), if it has a table of its own."""
        process = self.process
        if not flags & CLONE_THREAD:
            process = process.fork(tid, shares_memory=bool(flags & CLONE_VM))
        return type(self)(process, tid, self.files if flags & CLONE_FILES else self.files.copy())

    def execute(self, tid: int) -> list[Self]:
        """The thread executes a program: its process is a new one, in which it is the first thread,
        with the id `tid` (the kernel gives it the process's).

        Return the other threads of the process before, which have ended. O(threads + descriptors).
        """
        before = self.process
        others = [thread for thread in before.threads.values() if thread is not self]
        before.threads.clear()
        self.tid = tid
        self.files = self.files.execute()
        self._join(before.execute())
        return others

    def replace_leader(self, leader: Self) -> None:
        """The thread executes a program, and so takes the place and the id of its process's first
        thread, which ends. O(1)."""
        threads = self.process.threads
        threads.pop(self.tid, None)
        self.tid = leader.tid
        threads[self.tid] = self

    def end(self) -> None:
        """The thread has ended. O(1)."""
        if self.process.threads.get(self.tid) is self:
            del self.process.threads[self.tid]
