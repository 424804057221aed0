"""The events that a replay publishes, and the listener that receives them.

A listener overrides the methods for the events that it needs. Listeners are called in the order in
which the replay was given them, and see the bookkeeping as the event describes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mypy_extensions import mypyc_attr

from laconic.linux.pagemap import Touched
from laconic.memory.change import Change, Outcome
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import File
from laconic.replay.thread import Mm, Thread
from laconic.trace.schema import Row
from laconic.trace.selection import Selection


class Program(NamedTuple):
    """One program in one process; its number is `Mm.number`."""

    pid: int
    path: str


class CallDone(NamedTuple):
    """A memory call that is over.

    `number` and `row` are its row in the trace. `changes` are page runs, including those that the
    host was seen to have changed. `host_calls` is 0 or 1. `program` is the path of the program;
    `stack` is the number of the stack of the call. `is_finished` is False if the call never
    returned. `read_host`: the host's map was read for this call.
    """

    number: int
    row: Row
    thread: Thread
    name: str
    result: int
    changes: tuple[Change, ...]
    host_calls: int
    program: str
    stack: int
    outcome: Outcome
    file: OpenFile | None
    is_finished: bool
    read_host: bool

    @property
    def args(self) -> tuple[int, ...]:
        """The six arguments of the call, as the program gave them."""
        return self.row.args

    def is_in(self, selection: Selection) -> bool:
        """Return whether the call is selected. O(options)."""
        return selection.includes(self.row.time, self.row.pid, self.program, self.name)

    @property
    def mm(self) -> Mm:
        """The address space that the call edited; it is as it is after the call."""
        return self.thread.mm

    @property
    def is_redundant(self) -> bool:
        """True for a call that succeeded and changed nothing."""
        return not self.host_calls and self.result >= 0


@mypyc_attr(allow_interpreted_subclasses=True)
class Listener:
    """Receives the events of a replay; each method does nothing by default."""

    def call_begins(self, number: int, row: Row, thread: Thread) -> None:
        """A memory call, or the part of one before its `begin` row, is about to edit the
        bookkeeping."""

    def call_done(self, done: CallDone) -> None:
        """A memory call of a followed address space is over."""

    def call_ignored(self, number: int, row: Row, stack: int, followed: bool) -> None:
        """A memory call without bookkeeping: mincore and similar, or one of an address space that
        is not followed."""

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """The changes of a call that has not ended yet are done (mlock, while it brings pages
        in)."""

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        """Pages were seen to be touched; the event precedes what is about to happen to them."""

    def started(self, mm: Mm) -> None:
        """A program begins in an address space, which holds the program's image."""

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """The host's map was read, and differed by `changes`: the growth of stacks (`grew`), or
        anything."""

    def forked(self, parent: Mm, child: Mm) -> None:
        """A process was forked with a copy of its parent's address space."""

    def vforked(self, mm: Mm, pid: int) -> None:
        """The process `pid` began, and shares its parent's address space (vfork)."""

    def executes(self, mm: Mm, pid: int) -> None:
        """The process `pid` of this address space executes another program. `started` follows, for
        an address space with the same pid, unless the program is not followed."""

    def vfork_ended(self, mm: Mm, pid: int) -> None:
        """The process `pid`, which shared the address space, ended or executes another program."""

    def thread_started(self, mm: Mm) -> None:
        """A thread began, beside the first."""

    def thread_found(self, mm: Mm) -> None:
        """A thread, beside the first, was running already when the recording began."""

    def thread_ended(self, mm: Mm) -> None:
        """A thread ended, and was not the last."""

    def file_written(self, mm: Mm, file: File, size: int, truncated: bool) -> None:
        """A process of the address space wrote to `file`, which has at least `size` bytes now, or
        truncated it to `size` bytes."""

    def trace_ends(self) -> None:
        """The trace is read; the address spaces that are left end next."""

    def ended(self, mm: Mm) -> None:
        """An address space is gone: its last thread ended, or executes another program."""
