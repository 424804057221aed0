"""What an import of strace logs has learned so far."""

from __future__ import annotations

from laconic.memory.vma import LOG_DEVICE, File
from laconic.trace.importers.importing import Import
from laconic.trace.importers.strace.arguments import annotation, number
from laconic.trace.importers.strace.clock import Clock
from laconic.trace.importers.strace.descriptors import StraceDescriptors, mode_of
from laconic.trace.importers.strace.order import Order
from laconic.trace.importers.strace.processes import StraceProcess, StraceThread
from laconic.trace.schema import CODES, UNKNOWN_IDENTITY, Row
from laconic.trace.writer import TraceWriter

#: The maximum number of names for unknown descriptors: so many that no two simultaneous mappings
#: share one.
_STRANGERS = 65536


class LogState:
    """The threads and files of the logs, the rows on their way to the writer, and the messages."""

    def __init__(self, writer: TraceWriter, report: Import) -> None:
        self.writer = writer
        self.report = report
        self.redact = bool(writer.hidden("x") != b"x")
        self.order = Order(writer.rows)
        self.threads: dict[bytes, StraceThread] = {}
        self.clock = Clock()
        self.narrow_calls = 0
        #: Why the order between threads is unknown, if it is.
        self.disorder = ""
        #: Processes that strace attached to, and the number of their threads that have not been
        #: seen yet.
        self.attached: dict[bytes, int] = {}
        self._strange: Row | None = None
        self._files: dict[tuple[bytes, int], int] = {}
        self._inodes: dict[bytes, int] = {}
        self._strangers: list[int] = []
        self._appeared = 0

    # Threads

    def stranger(self, key: bytes, time: int) -> StraceThread:
        """Return a thread whose start is not in the log."""
        if key:
            alone = self.threads.get(b"")
            if alone is not None:
                # While there is only one process, lines do not name it: this is that process.
                alone.key = key
                self.threads[key] = alone
                return alone
            tid = int(key)
        else:
            if len(self.threads) == 1:
                return next(iter(self.threads.values()))
            tid = 1
        owner = self._owner(key, time)
        if owner is not None:
            thread = StraceThread(owner.process, tid, owner.files)
        else:
            thread = StraceThread(StraceProcess(tid), tid, StraceDescriptors())
            self.report.processes += 1
        thread.key = key
        self.threads[key] = thread
        self.report.threads += 1
        self._strange = Row(
            CODES["process"],
            time,
            thread.pid,
            tid,
            a0=int(owner is not None),
            result=owner.pid if owner else 0,
        )
        self.order.rows.append(self._strange)
        return thread

    def _owner(self, key: bytes, time: int) -> StraceThread | None:
        # The process of a thread, if strace has attached to exactly one process with further
        # threads.
        if len(self.attached) != 1 or key in self.attached:
            return None
        pid, left = self.attached.popitem()
        if left > 1:
            self.attached[pid] = left - 1
        owner = self.threads.get(pid)
        if owner is None:
            self.attached, others = {}, self.attached
            owner = self.stranger(pid, time)
            self.attached = others
        return owner

    def known(self, thread: StraceThread) -> None:
        """Handle the start of a program: if it is the first event of its thread, the thread's start
        is not missing."""
        rows = self.order.rows
        if len(rows) > 1 and rows[-2] is self._strange and rows[-1].tid == thread.tid:
            del rows[-2]

    # Files

    def file_of(self, thread: StraceThread, fd: bytes, where: tuple[int, int, int]) -> int:
        """Return the number of the file of an mmap's descriptor. Raises ValueError."""
        shown = annotation(fd) if fd[-1:] in b">)" else None
        handle = number(fd) & 0xFFFFFFFF
        if handle >> 31:
            return 0
        known = thread.files.table.get(handle)
        if shown is not None:
            path = shown[0]
            if shown[1] and not path.endswith(b" (deleted)"):
                path += b" (deleted)"
            mode = known.mode if known is not None and known.path == path else mode_of(path, 3)
        elif known is not None and known.path:
            path, mode = known.path, known.mode
        else:
            return self._stranger(handle, thread, where)
        number_of = self._files.get((path, mode))
        if number_of is None:
            inode = self._inodes.setdefault(path, -len(self._inodes) - 1)
            file = File(*LOG_DEVICE, inode, path.decode("utf-8", "surrogateescape"))
            number_of = self._files[path, mode] = self.writer.file(file, 0, mode, now=where)
        return number_of

    def _stranger(self, fd: int, thread: StraceThread, where: tuple[int, int, int]) -> int:
        self.report.doubt("files of some mappings")
        self._appeared += 1
        if len(self._strangers) == _STRANGERS:
            return self._strangers[self._appeared % _STRANGERS]
        path = f"?fd {fd} of {thread.pid}"
        inode = self._inodes.setdefault(b"?%d" % self._appeared, -len(self._inodes) - 1)
        found = self.writer.file(
            File(*LOG_DEVICE, inode, path), 0, 1 | 2 | 4 | 16 | UNKNOWN_IDENTITY, now=where
        )
        self._strangers.append(found)
        return found

    # Messages

    def note(self, text: str, where: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Add a message, unless it is there already."""
        if self.report.note(text):
            self.order.rows.append(Row(CODES["note"], *where, data=text.encode()))

    def doubt(self, what: str) -> None:
        """Report information that the log does not contain."""
        self.report.doubt(what)

    def lost(self, count: int, text: str, where: tuple[int, int, int]) -> None:
        """Report missing lines or calls."""
        rows = self.order.rows
        data = text.encode()
        last = rows[-1] if rows else None
        if type(last) is Row and last.event == CODES["lost"] and last.data == data:
            rows[-1] = last._replace(a0=last.a0 + count)
        else:
            rows.append(Row(CODES["lost"], *where, a0=count, data=data))
