"""The threads and processes of a log: who shares what with whom, and what each has open."""

from __future__ import annotations

from dataclasses import dataclass, field

from laconic.trace.importers.strace.descriptors import Files
from laconic.trace.importers.strace.order import Slot


@dataclass(slots=True, eq=False)
class Process:
    """What the threads of one process share. `narrow` where it runs 32-bit code, `brk` its last
    known break. `threads` are those that have not ended, in the order of their beginning."""

    pid: int
    narrow: bool = False
    brk: int = 0
    path: str = ""
    disordered: bool = False
    threads: dict[Thread, None] = field(default_factory=dict)


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


@dataclass(slots=True, eq=False)
class Thread:
    """One thread: `pid` and `tid` as rows have them, `key` as the log's lines do."""

    pid: int
    tid: int
    process: Process
    files: Files
    key: bytes = b""
    pending: Pending | None = None

    def __post_init__(self) -> None:
        self.process.threads[self] = None
