"""The processes of a Gramine log: their parents, the files of their descriptors, and the rows of
their calls."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import NamedTuple

from laconic.linux.clone import CLONE_THREAD, CLONE_VFORK, CLONE_VM
from laconic.memory.flags import MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, PAGE_SIZE
from laconic.trace.importers import tasks
from laconic.trace.importers.gramine.descriptors import Descriptors, FileCalls
from laconic.trace.importers.gramine.line import arguments, clone_flags, string
from laconic.trace.importers.gramine.start import Mounts, ProgramStart, StartVma, areas, path_of
from laconic.trace.importers.importing import Import, check, lost
from laconic.trace.importers.pathfiles import PathFiles
from laconic.trace.possible import impossible_call
from laconic.trace.schema import (
    ADOPTED,
    BATCH,
    CHOSEN,
    CODES,
    FILE_SIZES,
    NO_RESULT,
    UNFINISHED,
    Row,
    make_row,
)
from laconic.trace.sysroot import HostFile, Sysroot
from laconic.trace.writer import TraceWriter

_MUNMAP, _EXIT = CODES["munmap"], CODES["exit"]
#: The maximum number of ended processes whose late lines are recognized, and of descriptors and
#: threads that are kept.
_ENDED, _MANY = 4096, 65536
#: The maximum number of unreadable loaded files that a note names.
_UNREAD = 10
_MASK = (1 << 64) - 1


class BegunCall(NamedTuple):
    """A call whose start was seen, but not its end; `place` is the index of its row in the writer's
    list, or -1 if it has none."""

    name: bytes
    args: tuple[int, int, int, int, int, int]
    file: int
    state: int
    text: bytes
    place: int


class GramineProcess(tasks.LoggedProcess["GramineThread"]):
    """One process. `ended` is the thread that made its last call, or 0."""

    __slots__ = ("ended",)

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.ended = 0


class GramineThread(tasks.LoggedThread[GramineProcess, Descriptors]):
    """One thread. `pending` is its call in progress, and `opening` the arguments of a file call in
    progress. `gone`: it has ended."""

    __slots__ = ("gone", "opening", "pending")

    def __init__(self, process: GramineProcess, tid: int, files: Descriptors) -> None:
        super().__init__(process, tid, files)
        self.pending: BegunCall | None = None
        self.opening = b""
        self.gone = False


class GramineProcesses:
    """Writes the rows of a log's calls, in an order that is consistent for one address space.

    Calls that remove memory are placed at their start, all others at their end: another thread can
    be given an address before the call that freed it has returned, and can use a new address only
    after the call that created it. `mounts` maps the program's paths to files of the host, and
    `root` contains those files.
    """

    def __init__(
        self, writer: TraceWriter, report: Import, mounts: Mounts, root: Sysroot | None = None
    ) -> None:
        self.writer = writer
        self.report = report
        self._mounts = mounts
        self._root = root
        # Whether the start of some process is not in the log; and loaded files that could not be
        # read.
        self._unseen_start = False
        self._unread: dict[str, None] = {}
        self.now = 0
        self._processes: dict[int, GramineProcess] = {}
        self.executing: dict[GramineThread, None] = {}
        self._places: dict[GramineThread, None] = {}
        self._forking: dict[GramineThread, int] = {}
        self._cloning: dict[GramineThread, None] = {}
        self._owners: dict[int, int] = {}
        self._files = PathFiles(writer, self._host_file)
        self._calls = FileCalls()
        # By path: the file's number when it was last mapped.
        self._mapped: dict[bytes, int] = {}

    # Processes and threads

    def thread(self, pid: int, tid: int) -> GramineThread:
        """Return the thread with these ids; a new one gets the rows of its start."""
        process = self._processes.get(pid)
        if process is None or process.ended:
            return self._begun(pid, tid)
        thread = process.threads.get(tid)
        if thread is None:
            if len(process.threads) >= _MANY:  # of so many, most ended unseen
                process.threads = dict(list(process.threads.items())[_MANY // 2 :])
            files = next(iter(process.threads.values())).files  # they share them
            thread = GramineThread(process, tid, files)
            self.report.threads += 1
        return thread

    def late(self, pid: int, tid: int) -> bool:
        """Return whether a thread's process was ended by another thread."""
        process = self._processes.get(pid)
        return process is not None and process.ended not in (0, tid)

    def process_of(self, tid: int) -> int:
        """Return the process of a new thread if the log names only threads (Graphene's)."""
        if tid not in self._owners:
            if len(self._owners) >= _MANY:
                self._owners.clear()
            parent = next(iter(self._cloning), None)
            self._owners[tid] = (
                parent.process.pid if parent is not None and tid not in self._processes else tid
            )
        return self._owners[tid]

    def _begun(self, pid: int, tid: int) -> GramineThread:
        # The child's first line may come before its parent's call has returned.
        files = Descriptors()
        for parent, child in self._forking.items():
            if not child:
                pending = parent.pending
                assert pending is not None
                self._forking[parent] = pid
                self._row(parent, pending, pid)
                files = parent.files.copy()
                break
        else:
            self._unseen_start = True
            self.writer.rows.append(Row(CODES["process"], self.now, pid, tid))
        return self._add(GramineThread(GramineProcess(pid), tid, files))

    def started(self, pid: int, tid: int, start: ProgramStart) -> GramineThread:
        """Handle the start of a program in a new process, as the log shows it. O(segments)."""
        old = self._processes.get(pid)
        for thread in list(old.threads.values()) if old is not None else ():
            self.interrupt(thread, UNFINISHED)
            thread.gone = True
        thread = self._add(GramineThread(GramineProcess(pid), tid, Descriptors()))
        path = self._path(start, "?")
        about: dict[str, object] = {"path": os.fsdecode(self.writer.hidden_path(path)), "bits": 64}
        self._program(thread, about, start)
        return thread

    def received(self, pid: int, tid: int, entries: Iterable[tuple[int, int]]) -> GramineThread:
        """Handle the memory that the child of a fork has received.

        `entries` are ranges in bytes, in the log's order. O(entries).
        """
        thread = self.thread(pid, tid)
        runs: list[tuple[int, int, int]] = []
        for start, end in entries:
            # Pages of one VMA come separately, the highest first.
            if runs and end == runs[-1][0] and end - start == PAGE_SIZE:
                runs[-1] = start, runs[-1][1], runs[-1][2] + 1
            else:
                runs.append((start, end, 1))
        for start, end, count in runs:
            self.writer.rows.append(
                Row(CODES["received"], self.now, pid, tid, a0=start, a1=end, a2=count)
            )
        return thread

    def measured(self, host_id: int, is_process: bool, counts: Iterable[int]) -> None:
        """Record SGX's hardware counters for a process or thread, by its id on the host."""
        pid = next(iter(self._processes)) if self.report.processes == 1 else 0
        where = self.now, pid, 0
        args = (*counts, int(is_process))
        self.writer.rows.append(make_row(CODES["measured"], where, args, host_id))

    def _path(self, start: ProgramStart, otherwise: str) -> str:
        # The program's own file is loaded first, even if the execve's path is a link or a script.
        if not start.loaded:
            return otherwise
        uri = start.loaded[0][0]
        host = path_of(uri)
        return self._mounts.guest(host) if host is not None else os.fsdecode(uri)

    def _program(
        self, thread: GramineThread, about: dict[str, object], start: ProgramStart | None
    ) -> None:
        # Append the rows of a program's start: its description, and the known maps.
        maps: list[StartVma] = []
        if start is None:
            self._unseen_start = True
        else:
            maps, unread = areas(start, self._mounts, self._root)
            for path in unread:
                if len(self._unread) < _UNREAD:
                    self._unread[path] = None
        where = self.now, thread.pid, thread.tid
        rows = self.writer.rows
        data = json.dumps(about | {"maps": True} if maps else about).encode()
        rows.append(Row(CODES["program"], *where, data=data))
        if not maps:
            return
        vmas = []
        for area in maps:
            file = base = 0
            if area.path is not None:
                file = self._files.number(os.fsencode(area.path), 0, where)
                base = area.start - area.offset & _MASK
            vmas.append(
                Row(
                    CODES["vma"],
                    *where,
                    a0=area.start,
                    a1=area.end,
                    a2=area.flags,
                    a3=base,
                    file=file,
                )
            )
        rows.append(Row(CODES["maps"], *where, a0=len(vmas), a1=ADOPTED))
        rows += vmas

    def _host_file(self, path: str) -> HostFile | None:
        return self._root.find(self._mounts.host(path)) if self._root is not None else None

    def _add(self, thread: GramineThread) -> GramineThread:
        # Add a process, with its first thread.
        if len(self._processes) >= 2 * _ENDED:
            found = sorted(self._processes.values(), key=lambda one: not one.ended)
            self._processes = {one.pid: one for one in found[-_ENDED:]}
            for one in found[:-_ENDED]:
                one.threads.clear()  # otherwise the two would keep each other in memory
        self._processes[thread.pid] = thread.process
        self.report.processes += 1
        self.report.threads += 1
        return thread

    # Calls

    def begin(self, thread: GramineThread, name: bytes, text: bytes) -> None:
        """Handle the start of a call whose end is shown later. Raises ValueError if its arguments
        are unrecognized."""
        if thread.pending is not None:
            self._miss_end(thread)
        pending = self._pending(thread, name, text)
        if name == b"munmap":
            pending = pending._replace(place=len(self.writer.rows))
            self._places[thread] = None
            self._row(thread, pending, 0, UNFINISHED)
        elif name in _FORKS and not pending.args[0] & CLONE_VM:
            self._forking[thread] = 0
        elif name == b"clone":
            self._cloning[thread] = None
        elif name == b"execve":
            self.executing[thread] = None
        thread.pending = pending

    def end(self, thread: GramineThread, name: bytes, result: int) -> None:
        """Handle the end of the thread's call in progress. Raises ValueError for a result that the
        kernel cannot have returned."""
        pending = thread.pending
        if pending is None or pending.name != name:
            if pending is not None:
                self._miss_end(thread)
            where = self.now, thread.pid, thread.tid
            lost(self.writer, 1, f"the beginning of a call of {name.decode()}", where)
            return
        thread.pending = None
        self.executing.pop(thread, None)
        self._cloning.pop(thread, None)
        why = impossible_call(name.decode(), pending.args, result)
        if pending.place >= 0:
            del self._places[thread]
            row = self.writer.rows[pending.place]
            if why:
                self.writer.rows[pending.place] = row._replace(state=NO_RESULT)
                raise ValueError(why)
            self.writer.rows[pending.place] = row._replace(result=result, state=pending.state)
        elif why:
            raise ValueError(why)
        elif name in _FORKS:
            self._forked(thread, pending, result)
        elif name == b"munmap":
            where = self.now, thread.pid, thread.tid
            lost(self.writer, 1, "the result of an munmap that took too long", where)
        else:
            self._row(thread, pending, result)

    def whole(self, thread: GramineThread, name: bytes, text: bytes, result: int) -> None:
        """Handle a call that is shown in one line. Raises ValueError if its arguments are
        unrecognized, or if the kernel cannot have returned its result."""
        pending = self._pending(thread, name, text)
        why = impossible_call(name.decode(), pending.args, result)
        if why:
            raise ValueError(why)
        if name in _FORKS:
            self._forked(thread, pending, result)
        else:
            self._row(thread, pending, result)

    def _miss_end(self, thread: GramineThread) -> None:
        # The thread continued, but the end of its call is not in the log.
        pending = thread.pending
        assert pending is not None
        where = self.now, thread.pid, thread.tid
        lost(self.writer, 1, f"the end of a call of {pending.name.decode()}", where)
        self.interrupt(thread, NO_RESULT)

    def interrupt(self, thread: GramineThread, state: int) -> None:
        """Handle a call whose end is not shown; `state` is the reason."""
        pending, thread.pending = thread.pending, None
        if pending is None:
            return
        self.executing.pop(thread, None)
        self._cloning.pop(thread, None)
        if pending.place >= 0:
            del self._places[thread]
            row = self.writer.rows[pending.place]
            self.writer.rows[pending.place] = row._replace(state=pending.state | state)
        elif pending.name in _FORKS and self._forking.pop(thread, 0):
            pass  # its row was written when the child was seen
        elif pending.name != b"munmap":
            self._row(thread, pending, 0, state)

    def ran(self, thread: GramineThread, start: ProgramStart | None = None) -> None:
        """Handle the success of the execve in progress: the thread continues in the new program."""
        pending, thread.pending = thread.pending, None
        assert pending is not None
        del self.executing[thread]
        self._row(thread, pending, 0)
        path, rest = string(pending.text)
        inner = rest.partition(b"[")[2].partition(b"]")[0]
        argv = [os.fsdecode(self.writer.hidden(os.fsdecode(one))) for one in inner.split(b",")[:-1]]
        shown = os.fsdecode(path) if start is None else self._path(start, os.fsdecode(path))
        about: dict[str, object] = {
            "path": os.fsdecode(self.writer.hidden_path(shown)),
            "argv": argv,
            "bits": 64,
        }
        self._program(thread, about, start)
        for other in thread.execute(thread.tid):  # Gramine keeps the thread's id
            self.interrupt(other, UNFINISHED)
            other.gone = True
        self._processes[thread.pid] = thread.process

    def exit(self, thread: GramineThread, status: int, *, whole: bool) -> None:
        """End the thread, or with `whole` its process."""
        if thread in self.executing:
            self.ran(thread)
        process = thread.process
        for one in [*(process.threads.values() if whole else ())]:
            if one is not thread:
                self._exit(one, status)
        self._exit(thread, status)
        if not process.threads:
            process.ended = thread.tid

    def _exit(self, thread: GramineThread, status: int) -> None:
        self.interrupt(thread, UNFINISHED)
        thread.gone = True
        thread.end()
        where = self.now, thread.pid, thread.tid
        self.writer.rows.append(Row(_EXIT, *where, a0=(status & 0xFF) << 8))

    def finish(self) -> None:
        """End the log: calls in progress never returned."""
        for process in self._processes.values():
            for thread in process.threads.values():
                self.interrupt(thread, NO_RESULT if thread in self.executing else UNFINISHED)
        report = self.report
        if self._unseen_start or self._unread:
            report.doubt("initial maps")
        has_root = self._root is not None
        if self._unread:
            cure = "no ELF file below DIR has them" if has_root else "--root DIR reads them"
            report.note(f"the segments of {self._listed(self._unread)} are not in the log: {cure}")
        if self._files.missing:
            report.doubt(FILE_SIZES)
            if has_root:
                missing = self._listed(self._files.missing)
                report.note(f"files without a size, because they are not below DIR: {missing}")

    def _listed(self, paths: Iterable[str]) -> str:
        return ", ".join(os.fsdecode(self.writer.hidden_path(path)) for path in paths)

    def flush(self) -> None:
        """Write rows if there are enough. Rows of calls in progress are waited for, within
        limits."""
        rows = self.writer.rows
        if len(rows) < BATCH or (self._places and len(rows) < 4 * BATCH):
            return
        for thread in self._places:
            pending = thread.pending
            assert pending is not None
            rows[pending.place] = rows[pending.place]._replace(state=NO_RESULT)
            thread.pending = pending._replace(place=-1)
        self._places.clear()
        self.writer.flush()
        check(self.writer)

    def _pending(self, thread: GramineThread, name: bytes, text: bytes) -> BegunCall:
        file = state = 0
        if name == b"mmap":
            args = arguments(name, text)
            flags = args[3]
            if not flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
                state = CHOSEN
            if not flags & MAP_ANONYMOUS:
                file = self._mapped_file(thread, args[4])
            text = b""
        elif name in _FORKS:
            # Gramine and Graphene treat vfork as fork: the child has its own memory.
            flags = clone_flags(text) if name == b"clone" else 0
            args = (
                (flags & ~(CLONE_VM | CLONE_VFORK) if flags & CLONE_VFORK else flags),
                0,
                0,
                0,
                0,
                0,
            )
        elif name == b"execve":
            args = 0, 0, 0, 0, 0, 0
        else:
            args = arguments(name, text)
            text = b""
        return BegunCall(name, args, file, state, text, -1)

    def _row(self, thread: GramineThread, pending: BegunCall, result: int, state: int = 0) -> None:
        name = pending.name.decode()
        calls = self.report.by_call
        calls[name] = calls.get(name, 0) + 1
        data = (
            b""
            if name != "execve"
            else self.writer.hidden_path(os.fsdecode(string(pending.text)[0]))
        )
        self.writer.rows.append(
            make_row(
                CODES[name],
                (self.now, thread.pid, thread.tid),
                pending.args,
                result,
                pending.state | state,
                file=pending.file,
                data=data,
            )
        )

    def _forked(self, thread: GramineThread, pending: BegunCall, result: int) -> None:
        child = self._forking.pop(thread, 0)
        where = self.now, thread.pid, thread.tid
        if child:
            # The row was written where the child was first seen.
            if child != result & 0xFFFFFFFF:
                lost(
                    self.writer,
                    0,
                    f"which call started process {child}: another one returned {result}",
                    where,
                )
            return
        self._row(thread, pending, result)
        if not 0 < result < 1 << 31:
            return
        if pending.args[0] & CLONE_THREAD:
            self._owners[result] = thread.pid
            if result not in thread.process.threads:
                self.thread(thread.pid, result)
        elif result not in self._processes or self._processes[result].ended:
            self._owners.pop(result, None)
            self._add(thread.clone(result, pending.args[0]))

    def file_call(self, thread: GramineThread, name: bytes, text: bytes, result: int) -> None:
        """Handle the return of a call on a file. If the file was mapped, a row records what the
        call wrote. Raises ValueError if its arguments are unrecognized."""
        if result < 0:
            return
        written = self._calls.call(thread.files, name, text, result)
        number = self._mapped.get(written.path) if written is not None else None
        if written is None or number is None:
            return
        where = self.now, thread.pid, thread.tid
        row = Row(CODES["written"], *where, a0=written.size, a1=not written.truncated, file=number)
        self.writer.rows.append(row)

    def _mapped_file(self, thread: GramineThread, fd: int) -> int:
        # Return the number of the file of an mmap.
        where = self.now, thread.pid, thread.tid
        opened = thread.files.get(fd & 0xFFFFFFFF)
        if opened is None:
            return self._files.number(None, fd, where)
        path = opened.path
        size = self._calls.sizes.get(path)
        number = self._files.number(path, fd, where, opened.access, size)
        if number and (path in self._mapped or len(self._mapped) < _MANY):
            self._mapped[path] = number
        return number


_FORKS = {b"clone", b"fork", b"vfork"}
