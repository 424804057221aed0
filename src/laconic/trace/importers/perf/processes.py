"""The processes of a perf log: shared address spaces, touched pages, and the rows of the calls."""

from __future__ import annotations

import json
import os
from typing import Self

from laconic.linux.clone import CLONE_THREAD, CLONE_VFORK, CLONE_VM
from laconic.linux.pagemap import FILE_PAGE, ZERO_PAGE, Touched
from laconic.memory.flags import (
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_SHARED,
    PAGE_MASK,
    PAGE_SIZE,
    TASK_SIZE,
)
from laconic.memory.rangemap import TOP, RangeMap
from laconic.trace.importers import tasks
from laconic.trace.importers.importing import Import, lost
from laconic.trace.importers.pathfiles import PathFiles, Paths
from laconic.trace.importers.perf.line import MEMORY, PerfEvent
from laconic.trace.schema import CHOSEN, CODES, UNFINISHED, Row, make_row
from laconic.trace.writer import TraceWriter

_CLONES = {"clone", "clone3", "fork", "vfork"}
#: The flags that glibc passes to clone3 for a thread.
_THREAD = 0x3D0F00
_DISCARDS = {MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_REMOVE}
_ANONYMOUS, _SHARED, _FILE = 1, 2, 3
_MASK = (1 << 64) - 1
_MANY = 65536


class PerfSpace:
    """One address space: its touched pages (value: how, plus 1), the kinds of its mappings, its
    break."""

    __slots__ = ("brk", "kinds", "touched", "users")

    def __init__(self) -> None:
        self.touched: RangeMap[int] = RangeMap()
        self.kinds: RangeMap[int] = RangeMap()
        self.brk = 0
        self.users = 1

    def touch(self, address: int, write: bool | None) -> None:
        """Record a touched page; `write` is None if it is unknown whether it was written.
        O(log n)."""
        start = address & PAGE_MASK
        if start + PAGE_SIZE > TASK_SIZE:
            return  # the vsyscall page, which belongs to the kernel
        kind = self.kinds.get(address) or _FILE
        if kind == _SHARED or (kind == _FILE and not write):
            how = FILE_PAGE
        else:
            how = ZERO_PAGE if kind == _ANONYMOUS and write is False else 0
        before = self.touched.get(start)
        self.touched.set(
            start, start + PAGE_SIZE, (how if before is None else how & (before - 1)) + 1
        )

    def taken(self, start: int, end: int, *, forget: bool) -> tuple[Touched, ...]:
        """Return the touched runs of a range; with `forget`, remove them. O(log n + k)."""
        start, end = start & PAGE_MASK, min(-(-end & PAGE_MASK), TOP)
        if start >= end:
            return ()
        runs = tuple(
            (a, b, how - 1) for a, b, how in self.touched.runs(start, end) if how is not None
        )
        if forget and runs:
            self.touched.clear(start, end)
        return runs

    def fork(self) -> PerfSpace:
        """Return a copy for a child; the files' own pages are not in its page tables. O(n)."""
        child = PerfSpace()
        child.kinds, child.brk = self.kinds.copy(), self.brk
        for start, end, how in self.touched:
            if not (how - 1) & FILE_PAGE:
                child.touched.set(start, end, how)
        return child


class PerfProcess(tasks.LoggedProcess["PerfThread"]):
    """One process, and its address space, which several processes may share."""

    __slots__ = ("space",)

    def __init__(self, pid: int, space: PerfSpace | None = None) -> None:
        super().__init__(pid)
        self.space = PerfSpace() if space is None else space

    def fork(self, pid: int, *, shares_memory: bool) -> Self:
        """Return the process `pid` that this one forks. O(n) without shared memory."""
        if shares_memory:
            self.space.users += 1
            return type(self)(pid, self.space)
        return type(self)(pid, self.space.fork())

    def leave(self) -> tuple[Touched, ...]:
        """Handle the end of the process, or its execve. Returns the touched pages that are lost
        with it: those of its address space, if no other process uses it. O(n)."""
        self.space.users -= 1
        return self.space.taken(0, TOP, forget=True) if self.space.users <= 0 else ()


class PerfThread(tasks.LoggedThread[PerfProcess, Paths]):
    """One thread."""

    __slots__ = ()


class PerfProcesses:
    """Writes the rows of a log's events, which must be in order. `births`: thread → its clone
    flags."""

    def __init__(self, writer: TraceWriter, report: Import, births: dict[int, int]) -> None:
        self._writer, self._report, self._births = writer, report, births
        self._threads: dict[int, PerfThread] = {}
        self._files = PathFiles(writer)
        self._opened = 0
        self.now = 0
        self.touched = 0

    def take(self, event: PerfEvent, now: int) -> None:
        """Handle one event, at `now` nanoseconds since the log began."""
        self.now = now
        name = event.name
        if name == "lost":
            text = (
                event.path.decode("utf-8", "replace")
                or "events that perf lost: its buffers were full"
            )
            lost(self._writer, event.args[0], text, (now, 0, 0))
            return
        thread = self._thread(event)
        if name == "fault":
            self.touched += 1
            thread.process.space.touch(event.args[0], event.write)
        elif name == "beginning":
            lost(
                self._writer,
                1,
                f"the beginning of a call of {event.path.decode()}",
                (now, thread.pid, thread.tid),
            )
        elif name in _CLONES:
            self._clone(thread, event)
        elif name in ("execve", "execveat"):
            self._exec(thread, event)
        elif name in ("exit", "exit_group"):
            self._exit(thread, event.args[0], whole=name == "exit_group")
        elif name in MEMORY:
            self._memory(thread, event)
        else:
            self._file_call(thread, event)

    def finish(self) -> None:
        """End the log."""
        if any(len(thread.process.space.touched) for thread in self._threads.values()):
            self._report.doubt("touched pages of processes whose end is not shown")

    # Processes

    def _thread(self, event: PerfEvent) -> PerfThread:
        thread = self._threads.get(event.tid)
        if thread is None:
            pid = event.pid or event.tid
            leader = self._threads.get(pid)
            if leader is None:
                thread = PerfThread(PerfProcess(pid), event.tid, Paths())
                self._writer.rows.append(Row(CODES["process"], self.now, pid, event.tid))
                self._report.processes += 1
            else:
                thread = PerfThread(leader.process, event.tid, leader.files)
            self._add(thread)
        return thread

    def _add(self, thread: PerfThread) -> None:
        if len(self._threads) >= _MANY:  # of so many, most ended unseen
            self._threads.pop(next(iter(self._threads))).end()
        before = self._threads.get(thread.tid)
        if before is not None:
            before.end()  # it ended unseen, because its id is reused
        self._threads[thread.tid] = thread
        self._report.threads += 1

    def _clone(self, thread: PerfThread, event: PerfEvent) -> None:
        child = event.result or 0
        flags = (
            event.args[0] if event.args else CLONE_VM | CLONE_VFORK if event.name == "vfork" else 0
        )
        if child in self._births:
            flags = self._births.pop(child) | flags & 0xFF
        elif event.name == "clone3":
            flags = _THREAD
            self._report.note(
                "the flags of clone3 are not in the log, and each is taken for a new thread: "
                "record the event task:task_newtask as well"
            )
        self._row(thread, event, (flags,))
        if child <= 0 or child >= 1 << 31:
            return
        known = self._threads.get(child)
        if known is not None and known.tid != known.pid:
            return  # its own lines, which show its process, came first
        self._report.processes += not flags & CLONE_THREAD
        self._add(thread.clone(child, flags))

    def _exec(self, thread: PerfThread, event: PerfEvent) -> None:
        shown = os.fsdecode(event.path)
        data = self._writer.hidden_path(shown)
        if event.result:
            self._row(thread, event, (), data)
            return
        if event.result == 0 and thread.pid != thread.tid and not event.pid:
            # Only a separate process keeps its id here, so the clone3 that made it was wrongly
            # treated as a thread's.
            self._writer.rows.append(
                Row(CODES["process"], self.now, thread.tid, thread.tid, a0=1, result=thread.pid)
            )
            thread.end()
            process = thread.process.fork(thread.tid, shares_memory=True)
            thread = self._threads[thread.tid] = PerfThread(
                process, thread.tid, thread.files.copy()
            )
        self._row(thread, event, (), data, touched=thread.process.leave())
        about = {"path": os.fsdecode(data), "argv": [], "bits": 64}
        self._writer.rows.append(
            Row(CODES["program"], self.now, thread.pid, thread.tid, data=json.dumps(about).encode())
        )
        del self._threads[thread.tid]
        for other in thread.execute(thread.pid):
            del self._threads[other.tid]
        self._threads[thread.tid] = thread

    def _exit(self, thread: PerfThread, code: int, *, whole: bool) -> None:
        process = thread.process
        others = [one for one in process.threads.values() if one is not thread] if whole else []
        for one in [*others, thread]:
            del self._threads[one.tid]
            one.end()
            touched = () if process.threads else process.leave()
            where = self.now, one.pid, one.tid
            status = (code & 0xFF) << 8
            self._writer.rows.append(Row(CODES["exit"], *where, a0=status, touched=touched))

    # Memory

    def _memory(self, thread: PerfThread, event: PerfEvent) -> None:
        state = file = 0
        args, space = event.args, thread.process.space
        now = self.now, thread.pid, thread.tid
        if event.name == "mmap":
            flags = args[3]
            state = 0 if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) else CHOSEN
            if not flags & MAP_ANONYMOUS:
                file = self._files.number(thread.files.get(args[4] & 0xFFFFFFFF), args[4], now)
        done = event.result is not None and event.result >= 0
        touched = _changed(space, event.name, args, (event.result or 0) & _MASK) if done else ()
        self._row(thread, event, args, state=state, file=file, touched=touched)

    def _row(
        self,
        thread: PerfThread,
        event: PerfEvent,
        args: tuple[int, ...],
        data: bytes = b"",
        *,
        state: int = 0,
        file: int = 0,
        touched: tuple[Touched, ...] = (),
    ) -> None:
        calls = self._report.by_call
        calls[event.name] = calls.get(event.name, 0) + 1
        state |= UNFINISHED if event.result is None else 0
        self._writer.rows.append(
            make_row(
                CODES[event.name],
                (self.now, thread.pid, thread.tid),
                args,
                event.result or 0,
                state,
                file=file,
                data=data,
                touched=touched,
            )
        )

    def _file_call(self, thread: PerfThread, event: PerfEvent) -> None:
        done, files = event.result, thread.files
        if done is None or done < 0:
            return
        if event.name == "close":
            files.pop(event.args[0], None)
        elif event.name.startswith("dup"):
            path = files.get(event.args[0])
            if path is not None:
                files[done] = path
        else:
            # The name of the file is unknown, but it is one file until it is closed.
            self._opened += 1
            files[done] = event.path or b"?fd %d of P%d, opened as file %d" % (
                done,
                thread.pid,
                min(self._opened, _MANY),
            )
        if len(files) > _MANY:
            files.clear()


def _changed(
    space: PerfSpace, name: str, args: tuple[int, ...], result: int
) -> tuple[Touched, ...]:
    # Return the touched pages in the range that a call changes, and update the address space.
    if name == "brk":
        return _moved_break(space, result)
    if len(args) < 2:
        return ()
    start, length = args[0], args[1]
    if name == "mmap":
        end = min(result + length + PAGE_SIZE - 1 & PAGE_MASK, TOP)
        touched = space.taken(result, end, forget=True)
        kind = _SHARED if args[3] & MAP_SHARED else _ANONYMOUS if args[3] & MAP_ANONYMOUS else _FILE
        if result & PAGE_MASK < end:
            space.kinds.set(result & PAGE_MASK, end, kind)
        return touched
    if name == "mremap":
        return _moved(space, start, length, args[2], result)
    gone = name == "munmap"
    if gone or name in ("mprotect", "pkey_mprotect") or name == "madvise":
        touched = space.taken(
            start, start + length, forget=gone or (name == "madvise" and args[2] in _DISCARDS)
        )
        if gone and length:
            space.kinds.clear(
                start & PAGE_MASK, min(start + length + PAGE_SIZE - 1 & PAGE_MASK, TOP)
            )
        return touched
    return ()


def _moved_break(space: PerfSpace, result: int) -> tuple[Touched, ...]:
    old, space.brk = space.brk, result
    if not old or old == result:
        return ()
    start, end = (
        (min(old, result) + PAGE_SIZE - 1) & PAGE_MASK,
        (max(old, result) + PAGE_SIZE - 1) & PAGE_MASK,
    )
    touched = space.taken(start, end, forget=True) if result < old else ()
    if start < end <= TOP:
        space.kinds.set(start, end, _ANONYMOUS if result > old else None)
    return touched


def _moved(space: PerfSpace, start: int, old: int, new: int, result: int) -> tuple[Touched, ...]:
    touched = space.taken(start, start + old, forget=True)
    kind = space.kinds.get(start)
    end = min(result + new + PAGE_SIZE - 1 & PAGE_MASK, TOP)
    if result & PAGE_MASK < end:
        space.taken(result, end, forget=True)
        if start & PAGE_MASK < min(start + old, TOP):
            space.kinds.clear(start & PAGE_MASK, min(start + old + PAGE_SIZE - 1 & PAGE_MASK, TOP))
        space.kinds.set(result & PAGE_MASK, end, kind)
        for run_start, run_end, how in touched:
            run_start, run_end = run_start - start + result, min(run_end - start + result, end)
            if result <= run_start < run_end:
                space.touched.set(run_start, run_end, how + 1)
    return touched
