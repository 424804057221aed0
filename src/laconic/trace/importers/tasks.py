"""The processes and threads of a log of any kind: the process of each thread, and what a new thread
shares with its parent.

The rules are the kernel's (clone(2), execve(2)). Importers derive their own classes from
`LoggedProcess` and `LoggedThread` to keep further state.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, Self, TypeVar

from laconic.linux.clone import CLONE_FILES, CLONE_THREAD, CLONE_VM


class FileTable(Protocol):
    """A table of descriptors."""

    def copy(self) -> Self:
        """Return the table of a forked process. O(descriptors)."""

    def execute(self) -> Self:
        """Return the table after a successful execve. O(descriptors)."""


T = TypeVar("T")


class LoggedProcess(Generic[T]):
    """A thread group. `threads` are those that have not ended, by id, in the order in which they
    started."""

    __slots__ = ("pid", "threads")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.threads: dict[int, T] = {}

    def fork(self, pid: int, *, shares_memory: bool) -> Self:
        """Return the process `pid` that this one forks (or vforks, if `shares_memory`); it has no
        threads yet."""
        return type(self)(pid)

    def execute(self) -> Self:
        """Return the process of the program that this one executes: it has the same id, and no
        threads yet."""
        return type(self)(self.pid)


P = TypeVar("P", bound=LoggedProcess[Any])
F = TypeVar("F", bound=FileTable)


class LoggedThread(Generic[P, F]):
    """One thread of `process`, with its descriptors `files`. The constructor adds it to the
    process's threads."""

    __slots__ = ("files", "pid", "process", "tid")

    def __init__(self, process: P, tid: int, files: F) -> None:
        self.files = files
        self.tid = tid
        self._join(process)

    def _join(self, process: P) -> None:
        self.process = process
        #: The process's id, which every row contains.
        self.pid = process.pid
        process.threads[self.tid] = self

    def clone(self, tid: int, flags: int) -> Self:
        """Return the thread `tid` that this one made by clone with `flags`, in this process or a
        new one. O(descriptors) if it has a table of its own."""
        process = self.process
        if not flags & CLONE_THREAD:
            process = process.fork(tid, shares_memory=bool(flags & CLONE_VM))
        return type(self)(process, tid, self.files if flags & CLONE_FILES else self.files.copy())

    def execute(self, tid: int) -> list[Self]:
        """Execute a program: the thread's process is replaced by a new one, in which it is the
        first thread. Its id becomes `tid` (the kernel gives it the process's).

        Returns the other threads of the old process, which have ended. O(threads + descriptors).
        """
        before = self.process
        others = [thread for thread in before.threads.values() if thread is not self]
        before.threads.clear()
        self.tid = tid
        self.files = self.files.execute()
        self._join(before.execute())
        return others

    def replace_leader(self, leader: Self) -> None:
        """Execute a program from a thread that is not the first: it takes the place and the id of
        its process's first thread, which ends. O(1)."""
        threads = self.process.threads
        threads.pop(self.tid, None)
        self.tid = leader.tid
        threads[self.tid] = self

    def end(self) -> None:
        """Remove the thread, which has ended. O(1)."""
        if self.process.threads.get(self.tid) is self:
            del self.process.threads[self.tid]
