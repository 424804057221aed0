"""The process tree as the tracer sees it: threads, and the address spaces that they share."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
from collections import deque
from typing import NamedTuple

from laconic.linux import proc
from laconic.linux.clone import CLONE_VM
from laconic.linux.pagemap import Pagemap
from laconic.linux.shown import shown_in
from laconic.memory.calls import Arguments, Call
from laconic.memory.change import Outcome
from laconic.memory.ledger import Ledger
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.trace.schema import DATA_LIMIT, LOCK_LIMIT
from laconic.tracer.record import CallNotes


class TracedMm:
    """One address space and the threads that run in it.

    `busy` is the thread whose call the host is executing; until it ends, calls of the other threads
    wait in `queue`, in the order of their stops. `space` is None for a program whose memory calls
    are not followed (32-bit). `unchecked` is the number of VMAs that the calls since the last
    complete check have paid for (`Checker.after_call`). `break_known`: `space.brk` is exact to the
    byte, not only the end of its page.
    """

    __slots__ = ("break_known", "busy", "queue", "space", "threads", "unchecked")

    def __init__(self, space: AddressSpace | None) -> None:
        self.space = space
        self.threads: set[int] = set()
        self.busy: TracedThread | None = None
        self.queue: deque[TracedThread] = deque()
        self.unchecked = 0
        self.break_known = True


class PendingCall(NamedTuple):
    """A call that waits for the host, and the arguments of its host call."""

    call: Call
    outcome: Outcome
    host_args: Arguments


class TracedThread:
    """One traced thread. It answers the bookkeeping's upcalls.

    `supervised`: one of the program's own seccomp filters notifies a supervisor, which may let a
    memory call pass without a stop.

    `notes` records the answers to upcalls if a trace is recorded. `call` is the process call in
    progress; `path` is the program that it executes if it is an execve. While a host call runs with
    every signal blocked, `signal_mask` is the program's own mask, a kernel sigset_t. `repeated`: it
    makes its latest mremap again, because a signal came first.

    `child_flags` are the clone flags of a fork or clone in progress; `untraced_at` is the address
    in memory at which they lack CLONE_UNTRACED until it ends. `executing`: the thread's latest call
    is an execve.
    """

    __slots__ = (
        "awaits_exit",
        "call",
        "child_flags",
        "executing",
        "mm",
        "notes",
        "path",
        "pending",
        "read_implies_exec",
        "repeated",
        "signal_mask",
        "supervised",
        "tgid",
        "tid",
        "untraced_at",
    )

    def __init__(self, tid: int, tgid: int, mm: TracedMm) -> None:
        self.tid = tid
        self.tgid = tgid
        self.mm = mm
        mm.threads.add(tid)
        self.pending: PendingCall | None = None
        self.awaits_exit = False
        self.child_flags: int | None = None
        self.untraced_at: int | None = None
        self.executing = False
        self.read_implies_exec = False
        self.supervised = False
        self.notes: CallNotes | None = None
        self.call = ""
        self.repeated = False
        self.signal_mask: int | None = None
        self.path: str | None = None

    def inherit(self, other: TracedThread) -> None:
        """Take over the state that a new thread, or a new program, inherits from the one before
        it."""
        self.read_implies_exec = other.read_implies_exec
        self.supervised = other.supervised
        self.notes = other.notes and other.notes.twin(self.tgid, self.tid)

    def mm_of_child(self) -> TracedMm:
        """Return the address space of the child of the clone in progress: this one, or a copy.
        O(VMAs)."""
        if (self.child_flags or 0) & CLONE_VM:
            return self.mm
        copy = TracedMm(self.mm.space.fork() if self.mm.space is not None else None)
        copy.break_known = self.mm.break_known
        return copy

    def leave(self) -> None:
        """Remove the thread from its address space."""
        self.mm.threads.discard(self.tid)

    # Upcalls (laconic.memory.upcalls.Upcalls)

    def open_file(self, fd: int) -> OpenFile | None:
        """Return the file that a descriptor of this thread refers to."""
        file = proc.open_file(self.tid, fd)
        if self.notes is not None:
            self.notes.open_file(file)
        return file

    def untouched(self, start: int, end: int) -> bool:
        """True if no page of private memory was touched (anonymous) or written (a file's)."""
        assert self.mm.space is not None
        vma = self.mm.space.vmas.get(start)
        if vma is None:
            return False
        try:
            if self.notes is not None:
                return self.notes.untouched(self, start, end, vma.file is not None)
            return Pagemap(self.tid).untouched(start, end, vma.file is not None)
        except OSError:
            return False

    def resident(self, start: int, end: int) -> bool:
        """True if every page is in memory."""
        try:
            answer = Pagemap(self.tid).resident(start, end)
        except OSError:
            answer = False
        if self.notes is not None:
            self.notes.resident(start, end, answer)
        return answer

    def data_limit(self) -> int:
        """RLIMIT_DATA in bytes, -1 for none."""
        return self._limit(resource.RLIMIT_DATA, DATA_LIMIT)

    def lock_limit(self) -> int:
        """RLIMIT_MEMLOCK in bytes, -1 for none."""
        return self._limit(resource.RLIMIT_MEMLOCK, LOCK_LIMIT)

    def _limit(self, number: int, answer: int) -> int:
        try:
            limit: int = resource.prlimit(self.tid, number)[0]
        except OSError:
            # For a process of another user, only this file shows it (check_prlimit_permission).
            limit = proc.shown_limit(self.tid, number)
        if self.notes is not None and limit != -1:
            self.notes.limit(answer, limit)
        return limit

    def vma_start(self, address: int) -> int:
        """Return the start of the host's VMA that contains `address`; 0 if the process is gone."""
        try:
            vma = proc.query_vma(self.tid, address)
        except OSError:
            vma = None
        start = 0 if vma is None else vma.start
        if self.notes is not None:
            self.notes.vma_start(address, start)
        return start

    def read(self, address: int, length: int) -> bytes:
        """Return the program's memory; empty if it cannot be read."""
        data = read_memory(self.tid, address, length)
        if self.notes is not None:
            self.notes.read(address, length, data)
        return data

    def shown_file(self, fd: int, address: int, file: File) -> File:
        """Return how the host shows `file`, which was just mapped at `address` from `fd` (-1:
        none)."""
        shown = proc.identify(self.tid, fd, address, file)
        if self.notes is not None and shown != file:
            self.notes.shown_file(shown)
        return shown

    def maps(self) -> RangeMap[Vma]:
        """Return the host's map. Raises OSError if the process is gone."""
        host = proc.read_smaps(self.tid)
        if self.notes is not None and self.mm.space is not None:
            self.notes.maps(self.mm.space.held, host)
        return host

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        """Return the host's map within `[start, end)`. Raises OSError if the process is gone."""
        space = self.mm.space
        assert space is not None
        with proc.MapsFile(self.tid) as maps:
            host = shown_in(maps, start, end, (space.held, space.vmas))
        if host is None:
            host = proc.read_smaps_in(self.tid, start, end)
        if self.notes is not None:
            self.notes.maps(space.held, host, 0, start, end)
        return host


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_readv, _writev = ctypes.CDLL(None).process_vm_readv, ctypes.CDLL(None).process_vm_writev
_readv.argtypes = _writev.argtypes = (
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_readv.restype = _writev.restype = ctypes.c_ssize_t


def read_memory(pid: int, address: int, length: int) -> bytes:
    """Return up to `length` bytes of a process's memory at `address`; empty if nothing is mapped
    there, or the process is gone."""
    buffer = ctypes.create_string_buffer(length)
    ours = _Iovec(ctypes.addressof(buffer), length)
    # A string may end on the last mapped page, so bytes beyond that page are read only if they are
    # mapped.
    first = min(length, -address % 4096 or 4096)
    pieces = ((address, first), (address + first, length - first))
    theirs = (_Iovec * 2)(*[_Iovec(*piece) for piece in pieces])
    done = _readv(
        pid, ctypes.addressof(ours), 1, ctypes.addressof(theirs), 2 if length > first else 1, 0
    )
    return buffer.raw[: max(done, 0)]


def write_memory(pid: int, address: int, data: bytes) -> bool:
    """Write to a process's memory at `address`; return False if it cannot be written."""
    buffer = ctypes.create_string_buffer(data, len(data))
    ours, theirs = _Iovec(ctypes.addressof(buffer), len(data)), _Iovec(address, len(data))
    return bool(
        _writev(pid, ctypes.addressof(ours), 1, ctypes.addressof(theirs), 1, 0) == len(data)
    )


def thread_group(tid: int) -> int:
    """Return the process that a thread belongs to, or the thread's own id if it is gone."""
    return _number(tid, "Tgid") or tid


def parent_process(tid: int) -> int:
    """Return the parent process of a thread's process; 0 if it is gone."""
    return _number(tid, "PPid")


def is_traced(tid: int) -> bool:
    """True if the calling thread traces the thread."""
    return _number(tid, "TracerPid") == threading.get_native_id()


def status_line(tid: int, field: str) -> str:
    """Return the value of a line of `/proc/TID/status`; empty if there is none, or the thread is
    gone."""
    start = f"{field}:".encode()
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            for line in file:
                if line.startswith(start):
                    return os.fsdecode(line[len(start) :].strip())
    except OSError:
        pass
    return ""


def has_signal(tid: int) -> bool:
    """True if a signal is pending that a thread does not block."""
    pending = _signal_set(tid, "SigPnd") | _signal_set(tid, "ShdPnd")
    return bool(pending & ~_signal_set(tid, "SigBlk"))


def _signal_set(tid: int, field: str) -> int:
    return int(status_line(tid, field) or "0", 16)


def _number(tid: int, field: str) -> int:
    return int(status_line(tid, field) or 0)


def is_64_bit(pid: int) -> bool:
    """True if a process executes a 64-bit program (ELFCLASS64)."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            return file.read(5)[4:] == b"\x02"
    except OSError:
        return True


def command_name(pid: int) -> str:
    """Return the program's name as `ps` shows it, with a question mark for each character that
    would control a terminal."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = os.fsdecode(file.read().rstrip(b"\n"))
            return "".join(letter if letter.isprintable() else "?" for letter in name)
    except OSError:
        return "?"


def give_up(thread: TracedThread, ledger: Ledger) -> None:
    """Stop following an address space, because its process hides it from this user
    (prctl(PR_SET_DUMPABLE))."""
    thread.mm.space = None
    if thread.notes is not None:
        thread.notes.recorder.unfollowed(thread, "the process hides its memory map")
    ledger.note(
        f"{command_name(thread.tid)} hides its memory map from other processes of its user: it "
        "runs untouched, and its memory calls are not counted; run laconic as root to follow it"
    )
