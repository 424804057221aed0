"""The upcalls of a replay, answered with the information that the trace contains about the current
call."""

from __future__ import annotations

from collections import deque
from typing import Any

from laconic.linux.pagemap import was_untouched
from laconic.memory.change import Outcome
from laconic.memory.layout import Layout
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace, VmaRun
from laconic.memory.vma import File, Vma
from laconic.replay.assumed import AssumedStart, assumed_space
from laconic.trace.schema import DATA_LIMIT, LOCK_LIMIT, READ, RESIDENT, VMA_START, Row


class Mm:
    """One address space of the replay, and the number of threads that live in it.

    `assumed` contains what is assumed about an address space whose log has no initial maps.
    `lossy`: the trace reports missing data about it. `pid`, `number` and `program` (a path)
    identify its program, with `number` as in `Replay.started`; -1 before the program's image is
    known. `was_running`: the program was running before the recording began (`laconic attach`).
    """

    __slots__ = (
        "assumed",
        "lossy",
        "number",
        "pid",
        "program",
        "space",
        "threads",
        "was_running",
    )

    def __init__(self, space: AddressSpace | None, assumed: AssumedStart | None = None) -> None:
        self.space = space
        self.assumed = assumed
        self.threads = 0
        self.lossy = False
        self.pid = 0
        self.number = -1
        self.program = "?"
        self.was_running = False


def started_mm(about: dict[str, Any], start_brk: int, data_size: int) -> Mm:
    """Return the address space of a program that starts, still empty.

    For a recorded trace, it is as the trace describes it; for a log, it is an assumed one.
    `Mm.space` is None if the program is not followed. `start_brk` is an address, `data_size` is in
    bytes. O(1).
    """
    if about.get("bits") == 32 or about.get("followed") is False:
        return Mm(None)
    layout = about.get("layout")
    if layout is None:
        return Mm(assumed_space(), AssumedStart(awaits_maps=bool(about.get("maps"))))
    space = AddressSpace(
        Layout(**layout | {"refused_advice": frozenset(layout["refused_advice"])}), (), start_brk
    )
    space.data_size = data_size
    space.brk = about.get("brk", start_brk)
    mm = Mm(space)
    mm.was_running = "brk" in about  # `Recorder.program` writes it only for these programs
    return mm


class ReplayedThread:
    """One thread of the replay. `begun` is the outcome of a call that has begun and not ended;
    `answers` and `map_runs` are for its next call."""

    __slots__ = ("answers", "begun", "map_runs", "mm", "pid", "read_implies_exec")

    def __init__(self, pid: int, mm: Mm) -> None:
        self.pid = pid
        self.mm = mm
        mm.threads += 1
        self.read_implies_exec = False
        self.begun: Outcome | None = None
        self.answers: dict[int, deque[tuple[int, bytes]]] = {}
        #: The runs of the host's map that differed from the held map, of each call that read it.
        self.map_runs: deque[list[VmaRun]] = deque()


class RecordedUpcalls:
    """Answers like the host did (`laconic.memory.upcalls.Upcalls`), from the recorded facts about
    one call.

    `guessed` is set if the trace does not contain an answer; the assumed answer then costs a host
    call rather than saving one.
    """

    __slots__ = ("files", "guessed", "knows_touched", "read_implies_exec", "row", "thread")

    def __init__(self, knows_touched: bool, files: dict[int, OpenFile]) -> None:
        self.knows_touched = knows_touched
        self.files = files
        self.read_implies_exec = False
        self.row: Row
        self.thread: ReplayedThread
        self.guessed = False

    def open_file(self, fd: int) -> OpenFile | None:
        """Return the file of the call's descriptor."""
        return self.files.get(self.row.file)

    def untouched(self, start: int, end: int) -> bool:
        """Return True if the trace shows that no page was touched."""
        if not self.knows_touched:
            self.guessed = True
            return False
        assert self.thread.mm.space is not None
        vma = self.thread.mm.space.vmas.get(start)
        return vma is not None and was_untouched(self.row.touched, start, end, vma.file is not None)

    def resident(self, start: int, end: int) -> bool:
        """Return True if the trace shows that every page was in memory."""
        known = self.thread.answers.get(RESIDENT)
        if not known:
            self.guessed = True
            return False
        return bool(known.popleft()[0])

    def data_limit(self) -> int:
        """Return RLIMIT_DATA in bytes, -1 for none."""
        return self._recorded(DATA_LIMIT, -1)

    def lock_limit(self) -> int:
        """Return RLIMIT_MEMLOCK in bytes, -1 for none."""
        return self._recorded(LOCK_LIMIT, -1)

    def vma_start(self, address: int) -> int:
        """Return the start of the host's VMA that contains `address`, or 0 if the trace does not
        show it."""
        return self._recorded(VMA_START, 0)

    def _recorded(self, answer: int, default: int) -> int:
        known = self.thread.answers.get(answer)
        return known.popleft()[0] if known else default

    def read(self, address: int, length: int) -> bytes:
        """Return the memory that this call read."""
        known = self.thread.answers.get(READ)
        return known.popleft()[1] if known else b""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        """Return the file of a new mapping as the host showed it."""
        shown = self.files.get(self.row.shown) if self.row.shown else None
        return file if shown is None else shown.file

    def maps(self) -> RangeMap[Vma]:
        """Return the host's map at this call, or the held map if none was recorded."""
        space, runs = self.thread.mm.space, self.thread.map_runs
        assert space is not None
        return seen(space.held, runs.popleft() if runs else [])

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        """Return the host's map within `[start, end)` at this call, or the held map if none was
        recorded."""
        space, runs = self.thread.mm.space, self.thread.map_runs
        assert space is not None
        host: RangeMap[Vma] = RangeMap()
        host_runs = runs.popleft() if runs else []
        for run_start, run_end, vma in [*space.held.runs(start, end), *host_runs]:
            if run_start < end and run_end > start:
                host.set(max(run_start, start), min(run_end, end), vma)
        return host


def seen(held: RangeMap[Vma], runs: list[VmaRun]) -> RangeMap[Vma]:
    """Return the host's map, from the held map and the runs that differed. O(n)."""
    host = held.copy()
    for start, end, vma in runs:
        host.set(start, end, vma)
    return host
