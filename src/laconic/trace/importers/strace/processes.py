"""The threads and processes of a strace log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from laconic.trace.importers import tasks
from laconic.trace.importers.strace.descriptors import StraceDescriptors


class StraceProcess(tasks.LoggedProcess["StraceThread"]):
    """One process. `narrow`: it runs 32-bit code. `brk` is its last known break, `path` its
    program. `disordered`: the trace reports that the order of its threads' calls is unknown."""

    __slots__ = ("brk", "disordered", "narrow", "path")

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.narrow = False
        self.brk = 0
        self.path = ""
        self.disordered = False

    def fork(self, pid: int, *, shares_memory: bool) -> Self:
        """Return the process `pid` that this one forks."""
        made = super().fork(pid, shares_memory=shares_memory)
        made.narrow, made.brk = self.narrow, self.brk
        return made


class Slot(list[Any]):
    """The position reserved for the rows of a call in progress of `thread`. `open` until the rows
    are known or given up."""

    __slots__ = ("open", "thread")

    def __init__(self, thread: StraceThread) -> None:
        super().__init__()
        self.open = True
        self.thread = thread


@dataclass(slots=True, eq=False)
class UnfinishedCall:
    """A call in progress: its name, the text of its arguments, its start time, and the slot
    reserved for its rows."""

    name: bytes
    text: bytes
    time: int
    slot: Slot | None = None
    #: The child that is known to belong to this call, before the call itself has returned.
    born: int = 0
    #: True if its effect was recorded when it started.
    done: bool = False


class StraceThread(tasks.LoggedThread[StraceProcess, StraceDescriptors]):
    """One thread. `key` is the start of its lines in the log; `pending` is its call in progress."""

    __slots__ = ("key", "pending")

    def __init__(self, process: StraceProcess, tid: int, files: StraceDescriptors) -> None:
        super().__init__(process, tid, files)
        self.key = b"%d" % tid
        self.pending: UnfinishedCall | None = None
