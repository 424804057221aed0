"""Recording: every event of a run as a row of its trace.

The recorder observes the tracer's answers to upcalls and the ends of calls, and changes nothing
there.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from laconic.linux import proc
from laconic.linux.clone import CLONE_VM
from laconic.linux.pagemap import UNSEEN, Pagemap, Touched, was_untouched
from laconic.memory.change import EXTEND, FILE, RESTRICT, UNMAP, ZERO, Outcome
from laconic.memory.flags import VM_GROWSDOWN, VM_PROT
from laconic.memory.ledger import Ledger
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import TOP, RangeMap, join_ranges
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.trace.schema import (
    ADOPTED,
    BREAK,
    CODES,
    GREW,
    READ,
    RESIDENT,
    UNFINISHED,
    VMA_START,
    Row,
    make_row,
)
from laconic.trace.spool import RowPipe, Spool
from laconic.trace.words import plural
from laconic.trace.writer import Rows, TraceWriter, mode_bits, remove

if TYPE_CHECKING:
    from laconic.tracer.process import TracedMm, TracedThread
    from laconic.tracer.stacks import StackCapture

_MASK = (1 << 64) - 1
#: Kinds of change after which it is unknown which pages had been touched before.
_LOSES = UNMAP | FILE | ZERO | EXTEND | RESTRICT
#: Seconds after which rows are handed over; if Laconic is killed, the trace lacks at most this
#: interval.
_PERIOD = 0.1
_OPEN_PAGEMAPS = 32
#: The phrases that follow a program's name in notes.
_NOTED = (
    " memory call",
    " is a 32-bit program",
    " hides its memory map",
    " asked to trace",
    " asked for seccomp",
)
#: Bytes to read of a name that the program gives to its memory (ANON_VMA_NAME_MAX_LEN in
#: mm/madvise.c).
_NAME_BYTES = 80


class RecordingLimit(NamedTuple):
    """Where a recording ends: after `seconds`, or when the file has `size` bytes; None for no such
    limit."""

    seconds: float | None = None
    size: int | None = None


NO_LIMIT = RecordingLimit()


class Recorder:
    """Writes one run's trace, and sends its rows to each of `followers`. With a plain `Rows` as the
    writer, no trace is written, and `path` is "". `began` is the monotonic time that event times
    are relative to, in nanoseconds.

    `limit_reached` is the reason to end the recording, "" while there is none; the file may exceed
    the limit by the data written in one second. `calls` is the number of memory calls made before
    the recording ended, if the program continued. `written` and `failure` are known at the end: the
    number of rows in the file, and why writing stopped early, if it did. Create the recorder before
    any thread.
    """

    def __init__(
        self, writer: Rows, stacks: StackCapture | None = None, limit: RecordingLimit = NO_LIMIT
    ) -> None:
        self.writer = writer
        self.limit = limit
        self.limit_reached = ""
        self.calls: int | None = None
        self.stacks = stacks
        self.rows = writer.rows
        self.written = 0
        self.failure: str | None = None
        self._pagemaps: dict[TracedMm, Pagemap] = {}
        self.followers: list[RowPipe] = []
        self.path = writer.path if isinstance(writer, TraceWriter) else ""
        self._spool = Spool(writer) if isinstance(writer, TraceWriter) else None
        self._done = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self.began = time.monotonic_ns()
        if stacks is not None:
            stacks.began = self.began

    def start(self) -> None:
        """Start handing rows over; call this after the program was forked off."""
        # Rows are short-lived and not in cycles; scanning them repeatedly costs a tenth of
        # recording.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        self._sender.start()

    def finish(self, status: int | None, ledger: Ledger, seconds: float, verify: str) -> None:
        """Write the end of the trace, with the data that is known only at the end of a run.
        `status` is None for a program that continues."""
        if self.stacks is not None:
            self.stacks.name_vanished()
        checks = {"mode": verify, "checks": ledger.checks, "mismatches": ledger.mismatches}
        about: dict[str, Any] = {
            "exit_status": status,
            "seconds": round(seconds, 6),
            "verify": checks,
        }
        notes = [self._hidden_note(note) for note in ledger.notes]
        if self.calls is not None:
            omitted = _omitted(ledger.calls - self.calls, self.limit_reached)
            ledger.note(omitted)
            notes.append(omitted)
        about["notes"] = notes
        self.row("end", 0, 0, status or 0, data=json.dumps(about).encode())
        self.stop()

    def _hidden_note(self, note: str) -> str:
        # A note begins with a program's name; a name that cannot be recognized is hidden entirely.
        if not self.writer.redacts:
            return note
        found = [note.partition(phrase) for phrase in _NOTED if phrase in note]
        name, phrase, rest = min(found, key=lambda parts: len(parts[0]), default=(note, "", ""))
        return os.fsdecode(self.writer.hidden(name)) + phrase + rest

    def stop(self) -> None:
        """Write the rows that are left."""
        self._done.set()
        if self._sender.is_alive():
            self._sender.join()
        self._hand_over()
        if self._spool is not None:
            self.written, self.failure = self._spool.close()

    @property
    def outcome(self) -> str:
        """Return why the trace is incomplete, and how much of it there is, as part of a sentence;
        "" for a complete trace."""
        if self.failure is None:
            return ""
        events = plural(self.written, "event") if self.written else "no event"
        return f"could not be written to its end, {self.failure}; it contains {events}"

    def discard(self) -> None:
        """Delete the trace of a program that could not be started."""
        self.stop()
        if not self.path:
            return
        try:
            remove(self.path)
        except OSError:
            pass

    def _send(self) -> None:
        while not self._done.wait(_PERIOD):
            self._hand_over()
            if not self.limit_reached:
                self.limit_reached = self._reached()

    def _reached(self) -> str:
        # Return the limit that was reached, as part of a sentence.
        seconds, size = self.limit
        if seconds is not None and self.now() >= seconds * 1e9:
            return f"after {seconds:g} s (--for)"
        if size is not None and self._size() >= size:
            return f"at {self._size():,} bytes (--until-size)"
        return ""

    def _size(self) -> int:
        if not self.path:
            return 0
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    @property
    def broken(self) -> bool:
        """True once it is known that the rest of the trace cannot be written."""
        return self._spool is not None and self._spool.broken

    def _hand_over(self) -> None:
        count = len(self.rows)
        if count:
            rows = self.rows[:count]
            if self._spool is not None:
                self._spool.send(rows)
            for follower in self.followers:
                follower.send(rows)
            del self.rows[:count]  # others may have been appended since

    # Rows

    def now(self) -> int:
        """Return nanoseconds since the trace began."""
        return time.monotonic_ns() - self.began

    def row(self, event: str, pid: int, tid: int, *args: int, **more: Any) -> None:
        """Append a row that is not a memory call's."""
        self.rows.append(make_row(CODES[event], (self.now(), pid, tid), args, **more))

    def call(
        self,
        thread: TracedThread,
        name: str,
        args: tuple[int, ...],
        result: int,
        host_calls: int,
        kinds: int,
        state: int,
    ) -> None:
        """Append a memory call that has ended, after the answers to its upcalls."""
        notes = thread.notes
        assert notes is not None
        self._answers(notes)
        self.rows.append(
            make_row(
                CODES[name],
                (self.now(), thread.tgid, thread.tid),
                args,
                result,
                state,
                host_calls=host_calls,
                kinds=kinds,
                file=notes.file,
                shown=notes.shown,
                touched=tuple(notes.touched) if notes.touched else (),
            )
        )
        notes.file = notes.shown = 0
        if notes.touched:
            notes.touched = []

    def begins(
        self, thread: TracedThread, name: str, args: tuple[int, ...], committed: bool = False
    ) -> None:
        """Append the start of a call that does not make other threads of its address space wait.

        `committed`: its changes are treated as made now, before it has ended.
        """
        assert thread.notes is not None
        notes = thread.notes
        self._answers(notes)
        self.row(
            "begin",
            thread.tgid,
            thread.tid,
            *args,
            call_code=CODES[name],
            state=int(committed),
            file=notes.file,
            touched=tuple(notes.touched),
        )
        notes.file, notes.touched = 0, []

    def process_call(
        self, thread: TracedThread, name: str, result: int, *args: int, data: bytes = b""
    ) -> None:
        """Append a process call that has ended."""
        touched: tuple[Touched, ...] = ()
        if thread.notes is not None:
            self._answers(thread.notes)
            touched = tuple(thread.notes.touched)
            thread.notes.touched = []
        self.row(name, thread.tgid, thread.tid, *args, result=result, data=data, touched=touched)

    # Processes

    def forked(self, parent: TracedThread, tid: int, flags: int) -> None:
        """Append the start of a thread or process; for a copied address space, also the touched
        pages that it starts with."""
        if parent.notes is not None and not flags & CLONE_VM:
            self.last_look(parent)
        self.process_call(parent, parent.call, tid, flags)

    def program(
        self, thread: TracedThread, space: AddressSpace | None, bits: int, running: bool = False
    ) -> None:
        """Append the program that a process runs from now on, with its layout and maps; `running`:
        it was already running."""
        path = self.writer.hidden_path(_executable(thread.tid))
        hide = self.writer.hidden
        about: dict[str, Any] = {"path": os.fsdecode(path), "bits": bits}
        about["argv"] = [os.fsdecode(hide(word)) for word in proc.command_line(thread.tid)]
        thread.notes = CallNotes(self, thread.tgid, thread.tid)
        if space is None:
            about["followed"] = False
            self.row("program", thread.tgid, thread.tid, data=json.dumps(about).encode())
            return
        if running:
            about["brk"] = space.brk
        about["layout"] = asdict(space.layout) | {
            "refused_advice": sorted(space.layout.refused_advice)
        }
        self.row(
            "program",
            thread.tgid,
            thread.tid,
            space.start_brk,
            space.data_size,
            int(thread.read_implies_exec),
            data=json.dumps(about).encode(),
        )
        self.looked(thread, RangeMap(), space.held, ADOPTED)

    def running_thread(self, thread: TracedThread, pid: int) -> None:
        """Append a thread that was already running and shares the memory of process `pid`."""
        thread.notes = CallNotes(self, thread.tgid, thread.tid)
        self.row("process", thread.tgid, thread.tid, 1, result=pid)

    def looked(
        self, thread: TracedThread, held: RangeMap[Vma], host: RangeMap[Vma], use: int
    ) -> None:
        """Append the differences that a scan of the host's map found and no call explains, and how
        the bookkeeping used them: it adopted the growth of stacks (GREW), or everything
        (ADOPTED)."""
        assert thread.notes is not None
        thread.notes.maps(held, host, use)
        self._answers(thread.notes)

    def _answers(self, notes: CallNotes) -> None:
        # The answers to upcalls precede the row of their call.
        if notes.rows:
            self.rows.extend(notes.rows)
            notes.rows.clear()

    def executes(self, thread: TracedThread, alone: bool) -> None:
        """Record that an execve may discard this address space, if no other process uses it
        (`alone`)."""
        if thread.notes is not None and alone:
            self.last_look(thread)

    def exits(self, thread: TracedThread, status: int) -> None:
        """Append the end of a thread; for the last thread, also the pages that it leaves
        touched."""
        touched: tuple[Touched, ...] = ()
        if thread.notes is not None:
            if not thread.mm.threads:
                self._grown(thread)
                self.last_look(thread)
                self._forget(thread.mm)
            touched = tuple(thread.notes.touched)
            thread.notes = None
        self.row(
            "exit",
            thread.tgid,
            thread.tid,
            status,
            int(thread.child_flags is not None),
            touched=touched,
        )

    def leave(self, thread: TracedThread) -> None:
        """Append the end of the recording of an address space that continues to exist, with its
        touched pages. O(VMAs + page tables)."""
        notes = thread.notes
        assert notes is not None
        notes.rows.clear()  # rows of a call that is in progress
        self._grown(thread)
        self.last_look(thread)
        touched = tuple(notes.touched)
        notes.touched = []
        self._forget(thread.mm)
        self.row("leave", thread.tgid, thread.tid, touched=touched)

    def leaves(self, calls: int) -> None:
        """Append why the recording ends before the program, which has made `calls` memory calls."""
        self.calls = calls
        text = f"the recording ended {self.limit_reached}, and the program went on"
        self.row("note", 0, 0, data=text.encode())

    def _grown(self, thread: TracedThread) -> None:
        # No call shows how far stacks have grown, so that is recorded at the end.
        space = thread.mm.space
        if space is None:
            return
        stacks = [(start, vma) for start, _, vma in space.held if vma.flags & VM_GROWSDOWN]
        try:
            grown = [(proc.query_vma(thread.tid, start), start, vma) for start, vma in stacks]
        except OSError:
            return
        host = space.held.copy()
        for seen, start, vma in grown:
            if seen is not None and seen.start < start:
                host.set(seen.start, start, vma)
        if list(host) != list(space.held):
            self.looked(thread, space.held, host, GREW)
            space.grow(host)

    def unfollowed(self, thread: TracedThread, why: str) -> None:
        """Append that an address space is no longer followed."""
        self.row("lost", thread.tgid, thread.tid, 0, 1, data=why.encode())

    def ended_in(self, thread: TracedThread, name: str, args: tuple[int, ...]) -> None:
        """Append a call that never returned, because its thread ended in it."""
        if thread.notes is not None:
            self.call(thread, name, args, 0, 0, 0, UNFINISHED)

    # Touched pages

    def before(self, thread: TracedThread, outcome: Outcome) -> None:
        """Record which pages were touched among those that a call is about to change. O(page tables
        of these)."""
        notes = thread.notes
        assert notes is not None
        for kind, start, end, _, held, _ in outcome.changes:
            # Inaccessible pages cannot be touched, so the scan made before they became inaccessible
            # is still valid.
            if (
                held is not None
                and kind & _LOSES
                and held.flags & VM_PROT
                and (start, end) not in notes.looked
            ):
                notes.touched += self.touched(thread, start, end)
        if notes.looked:
            notes.looked.clear()

    def last_look(self, thread: TracedThread) -> None:
        """Record all touched pages of an address space that is about to end, or was copied. O(VMAs
        + page tables)."""
        assert thread.notes is not None
        thread.notes.touched = []
        if thread.mm.space is None:
            return
        for start, end in join_ranges((start, end) for start, end, _ in thread.mm.space.vmas):
            thread.notes.touched += self.touched(thread, start, end)

    def touched(self, thread: TracedThread, start: int, end: int) -> list[Touched]:
        """Return the touched runs of `[start, end)`; if the process hides its memory, one UNSEEN
        run for the whole range."""
        mm = thread.mm
        try:
            pagemap = self._pagemaps.get(mm)
            if pagemap is None:
                if len(self._pagemaps) >= _OPEN_PAGEMAPS:
                    for other in list(self._pagemaps):
                        self._forget(other)
                pagemap = self._pagemaps[mm] = Pagemap(thread.tid)
            return pagemap.touched(start, end)
        except OSError:
            return [(start, end, UNSEEN)]

    def _forget(self, mm: TracedMm) -> None:
        pagemap = self._pagemaps.pop(mm, None)
        if pagemap is not None:
            pagemap.close()
        if self.stacks is not None:
            self.stacks.forget(mm)


class CallNotes:
    """The answers to the upcalls of one thread's call, until the row of the call is written."""

    __slots__ = ("file", "looked", "pid", "recorder", "rows", "shown", "tid", "touched")

    def __init__(self, recorder: Recorder, pid: int, tid: int) -> None:
        self.recorder = recorder
        self.pid = pid
        self.tid = tid
        self.rows: list[Row] = []
        self.touched: list[Touched] = []
        self.looked: list[tuple[int, int]] = []
        self.file = 0
        self.shown = 0

    def twin(self, pid: int, tid: int) -> CallNotes:
        """Return empty notes for another thread."""
        return CallNotes(self.recorder, pid, tid)

    def open_file(self, file: OpenFile | None) -> None:
        """Record the file that the call's descriptor refers to."""
        self.file = 0 if file is None else self._file(file.file, file.size, mode_bits(file))

    def shown_file(self, file: File) -> None:
        """Record the file that the host shows for the new mapping."""
        self.shown = self._file(file, 0, 0)

    def untouched(self, thread: TracedThread, start: int, end: int, private_file: bool) -> bool:
        """Record which pages of `[start, end)` were touched; return True if none was."""
        runs = self.recorder.touched(thread, start, end)
        self.touched += runs
        self.looked.append((start, end))
        return was_untouched(runs, start, end, private_file)

    def resident(self, start: int, end: int, answer: bool) -> None:
        """Record whether a whole range was in memory."""
        self._answer(RESIDENT, start, end, int(answer))

    def limit(self, answer: int, limit: int) -> None:
        """Record a limit in bytes, if there is one; `answer` is DATA_LIMIT or LOCK_LIMIT."""
        self._answer(answer, 0, 0, limit)

    def break_was(self, address: int) -> None:
        """Record the previous break of a program, if only its page was known."""
        self._answer(BREAK, 0, 0, address)

    def vma_start(self, address: int, start: int) -> None:
        """Record the start of the host's VMA that contains an address."""
        self._answer(VMA_START, address, 0, start)

    def read(self, address: int, length: int, data: bytes) -> None:
        """Record what was read from the program's memory."""
        if length == _NAME_BYTES and self.recorder.writer.redacts:
            data = self.recorder.writer.hidden(
                data.split(b"\0")[0].decode("utf-8", "surrogateescape")
            )
        self._answer(READ, address, len(data), 0, data)

    def maps(
        self, held: RangeMap[Vma], host: RangeMap[Vma], use: int = 0, start: int = 0, end: int = TOP
    ) -> None:
        """Record the host's map within `[start, end)`, as its differences to the held map. O(n)."""
        runs = differences(held, host, start, end)
        now = (self.recorder.now(), self.pid, self.tid)
        self.rows.append(Row(CODES["maps"], *now, a0=len(runs), a1=use))
        self.rows += [self._vma(*run) for run in runs]

    def _vma(self, start: int, end: int, vma: Vma | None) -> Row:
        now = (self.recorder.now(), self.pid, self.tid)
        if vma is None:
            return Row(CODES["vma"], *now, a0=start, a1=end, a5=1)
        file = self._file(vma.file, 0, 0) if vma.file is not None else 0
        name = self.recorder.writer.hidden(vma.name) if vma.name is not None else b""
        return Row(
            CODES["vma"],
            *now,
            a0=start,
            a1=end,
            a2=vma.flags,
            a3=vma.base & _MASK,
            a4=vma.pkey,
            file=file,
            data=name,
        )

    def _answer(self, which: int, first: int, second: int, answer: int, data: bytes = b"") -> None:
        now = (self.recorder.now(), self.pid, self.tid)
        self.rows.append(
            Row(CODES["answer"], *now, a0=which, a1=first, a2=second, result=answer, data=data)
        )

    def _file(self, file: File, size: int, mode: int) -> int:
        return self.recorder.writer.file(
            file, size, mode, now=(self.recorder.now(), self.pid, self.tid)
        )


def _omitted(calls: int, why: str) -> str:
    verb = "call is" if calls == 1 else "calls are"
    return f"{calls:,} memory {verb} not in the trace: the recording ended {why}"


def differences(
    held: RangeMap[Vma], host: RangeMap[Vma], start: int = 0, end: int = TOP
) -> list[tuple[int, int, Vma | None]]:
    """Return the runs `(start, end, host's VMA or None)` of a range on which two maps differ.
    O(n)."""
    result: list[tuple[int, int, Vma | None]] = []
    ours = held.runs(start, end)
    _, held_end, vma = next(ours)
    for host_start, host_end, theirs in host.runs(start, end):
        position = host_start
        while position < host_end:
            while held_end <= position:
                _, held_end, vma = next(ours)
            cut = min(held_end, host_end)
            if vma != theirs:
                if result and result[-1][1] == position and result[-1][2] == theirs:
                    result[-1] = (result[-1][0], cut, theirs)
                else:
                    result.append((position, cut, theirs))
            position = cut
    return result


def _executable(tid: int) -> str:
    try:
        return proc.program_path(tid)
    except OSError:
        return "?"
