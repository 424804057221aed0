"""The threads and processes of a strace log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from laconic.trace.importers import tasks
from laconic.trace.importers.strace.descriptors import Files
from laconic.trace.importers.strace.order import Slot


class Process(tasks.Process["Thread"]):
    """One process. `narrow` where it runs 32-bit code, `brk` its last known break, `path` its
    program. `disordered`: the trace says that the order of its threads' calls is not known."""

    __slots__ = ("brk", "disordered", "narrow", "path")

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.narrow = False
        self.brk = 0
        self.path = ""
        self.disordered = False

    def fork(self, pid: int, *, shares_memory: bool) -> Self:
        """Return the process `pid` that this one makes."""
        made = super().fork(pid, shares_memory=shares_memory)
        made.narrow, made.brk = self.narrow, self.brk
        return made


@dataclass(slots=True, eq=False)
class Pending:
    """A call that has begun: its name, the text of its arguments, when, and the place that is kept
    for its rows."""

    name: bytes
    text: bytes
    time: int
    slot: Slot | None = None
    #: The child that is known to be this call's, before the call itself has returned.
    born: int = 0
    #: Its work was entered at its beginning.
    done: bool = False


class Thread(tasks.Thread[Process, Files]):
    """One thread. The log's lines begin with `key`; `pending` is the call that it is in."""

    __slots__ = ("key", "pending")

    def __init__(self, process: Process, tid: int, files: Files) -> None:
        super().__init__(process, tid, files)
        self.key = b"%d" % tid
        self.pending: Pending | None = None
