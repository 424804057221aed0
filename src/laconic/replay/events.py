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
from laconic.replay.thread import Mm, ReplayedThread
from laconic.trace.schema import Row
from laconic.trace.selection import Selection


class Program(NamedTuple):
    """One program in one process. Its position in `Replay.started` is `Mm.number`."""

    pid: int
    path: str


class CallDone(NamedTuple):
    """A completed memory call.

    `number` is the call's row number in the trace, and `row` its row. `changes` are page runs,
    including those that were observed on the host. `host_calls` is 0 or 1. `program` is the path of
    the program; `stack` is the number of the stack of the call. `is_finished` is False if the call
    never returned. `read_host`: the host's map was read for this call.
    """

    number: int
    row: Row
    thread: ReplayedThread
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
        """The address space that the call edited, in its state after the call."""
        return self.thread.mm

    @property
    def is_redundant(self) -> bool:
        """True for a call that succeeded and changed nothing."""
        return not self.host_calls and self.result >= 0


@mypyc_attr(allow_interpreted_subclasses=True)
class Listener:
    """Receives the events of a replay; each method does nothing by default."""

    def call_begins(self, number: int, row: Row, thread: ReplayedThread) -> None:
        """Called before a memory call, or the part of one before its `begin` row, edits the
        bookkeeping."""

    def call_done(self, done: CallDone) -> None:
        """Called after a memory call of a followed address space."""

    def call_ignored(self, number: int, row: Row, stack: int, followed: bool) -> None:
        """Called for a memory call that does not affect the bookkeeping: mincore and similar, or a
        call of an address space that is not followed."""

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Called when the changes of an unfinished call are done (mlock, while it brings pages
        in)."""

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        """Called when pages were observed to be touched, before the event that changes them."""

    def started(self, mm: Mm) -> None:
        """Called when a program starts in an address space, which contains the program's image."""

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Called when the host's map was read and differed by `changes`: only by the growth of
        stacks if `grew`, otherwise in any way."""

    def forked(self, parent: Mm, child: Mm) -> None:
        """Called when a process was forked with a copy of its parent's address space."""

    def vforked(self, mm: Mm, pid: int) -> None:
        """Called when the process `pid` starts in its parent's address space (vfork)."""

    def executes(self, mm: Mm, pid: int) -> None:
        """Called when the process `pid` of this address space executes another program. `started`
        follows, for an address space with the same pid, unless the program is not followed."""

    def vfork_ended(self, mm: Mm, pid: int) -> None:
        """Called when the process `pid`, which shared the address space, ends or executes another
        program."""

    def thread_started(self, mm: Mm) -> None:
        """Called when a thread starts, in addition to the first."""

    def thread_found(self, mm: Mm) -> None:
        """Called for a thread, in addition to the first, that was running before the recording
        began."""

    def thread_ended(self, mm: Mm) -> None:
        """Called when a thread ends that is not the last."""

    def file_written(self, mm: Mm, file: File, size: int, truncated: bool) -> None:
        """Called when a process of the address space writes to `file`, which then has at least
        `size` bytes, or truncates it to `size` bytes."""

    def trace_ends(self) -> None:
        """Called at the end of the trace; the remaining address spaces end next."""

    def ended(self, mm: Mm) -> None:
        """Called when an address space is gone: its last thread ended, or executes another
        program."""
