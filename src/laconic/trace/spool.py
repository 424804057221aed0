"""Writing a trace in a separate process, which receives rows through a pipe and outlives their
sender.

The recorded program therefore never waits for compression or the disk, and a short program does not
even wait for the import of pyarrow. If the sender is killed, everything that it sent is still
written.
"""

from __future__ import annotations

import json
import marshal
import mmap
import os
import select
import signal
import struct
import time

from laconic.trace.arrow import import_alone
from laconic.trace.schema import BATCH, Row
from laconic.trace.writer import TraceWriter

_LENGTH = struct.Struct("=Q")
#: The state that the other process publishes: rows in the file, and 1 if it cannot be written.
_STATE = struct.Struct("=QQ")
_PIPE_SIZE = 1 << 20
#: F_SETPIPE_SZ (include/uapi/linux/fcntl.h)
_SETPIPE_SZ = 1031
#: Seconds after which a partial batch is written: the data that a power failure can lose.
PERIOD = 0.8


class RowPipe:
    """The sending end of a pipe to another process. `gone`: that process no longer reads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.gone = False
        try:
            import fcntl

            fcntl.fcntl(fd, _SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # an unprivileged user may have exhausted its share: a smaller pipe suffices

    def send(self, rows: list[Row]) -> None:
        """Send rows; they are lost if the other process was killed. 0.4 µs per row."""
        data = marshal.dumps([tuple(row) for row in rows], 2)  # marshal rejects subclasses of tuple
        left = memoryview(_LENGTH.pack(len(data)) + data)
        try:
            while left and not self.gone:
                left = left[os.write(self._fd, left) :]
        except BrokenPipeError:
            self.gone = True

    def close(self) -> None:
        """Announce that no more rows will come."""
        os.close(self._fd)


class Spool:
    """Sends rows to a process in which `writer` continues. Here, `writer` keeps `rows` and the
    numbers of files.

    Create it before any thread, because it forks. The process is not a child of this one, and
    receives no signals from a terminal.
    """

    def __init__(self, writer: TraceWriter) -> None:
        rows, sends = os.pipe()
        self._outcome, outcome = os.pipe()
        # Readable even after the other process was killed.
        self._state = mmap.mmap(-1, _STATE.size)
        pid = os.fork()
        if not pid:
            be_nobodys_child()
            os.close(sends)
            os.close(self._outcome)
            _write_all(writer, rows, outcome, self._state)
        os.waitpid(pid, 0)
        os.close(rows)
        os.close(outcome)
        writer.leave()
        self._rows = RowPipe(sends)

    @property
    def broken(self) -> bool:
        """True if the file can no longer be written, or the process that writes it is gone."""
        return self._rows.gone or bool(_STATE.unpack(self._state)[1])

    def send(self, rows: list[Row]) -> None:
        """Send rows, like `RowPipe.send`."""
        self._rows.send(rows)

    def close(self) -> tuple[int, str | None]:
        """Have the remaining rows written. Returns the number of rows in the file, and why it is
        incomplete, or None."""
        self._rows.close()
        with open(self._outcome, "rb") as file:
            text = file.read()
        written = _STATE.unpack(self._state)[0]
        failure = json.loads(text) if text else "the process that writes it was killed"
        return written, failure


def be_nobodys_child() -> None:
    """Detach this process, which was forked, from its parent: it gets a session of its own, without
    a terminal."""
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)


def _write_all(writer: TraceWriter, rows: int, outcome: int, state: mmap.mmap) -> None:
    # Never returns.
    try:
        # At once, while the program starts.
        import_alone()
        writer.open_head()
        _receive(writer, rows, state)
        writer.close()
        failure = None if writer.failure is None else writer.failure.strerror
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    finally:
        try:
            _tell(writer, state)
            os.write(outcome, json.dumps(failure).encode())
        finally:
            os._exit(0)


def _receive(writer: TraceWriter, rows: int, state: mmap.mmap) -> None:
    # Write incoming rows until the other end is closed.
    due = time.monotonic() + PERIOD
    received = bytearray()
    while True:
        ready, _, _ = select.select(
            [rows], [], [], max(due - time.monotonic(), 0) if writer.rows else None
        )
        data = os.read(rows, _PIPE_SIZE) if ready else b""
        if ready and not data:
            return
        received += data
        take_rows(received, writer.rows)
        if len(writer.rows) >= BATCH or (writer.rows and time.monotonic() >= due):
            writer.flush()
            _tell(writer, state)
            writer.sync()  # nothing waits for it here
            due = time.monotonic() + PERIOD


def _tell(writer: TraceWriter, state: mmap.mmap) -> None:
    _STATE.pack_into(state, 0, writer.written, writer.failure is not None)


def take_rows(received: bytearray, rows: list[Row]) -> None:
    """Move the rows of all complete chunks that a `RowPipe` sent to `rows`. O(bytes)."""
    at = 0
    while len(received) - at >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(received, at)
        if len(received) - at - _LENGTH.size < length:
            break
        begin = at + _LENGTH.size
        rows.extend(map(Row._make, marshal.loads(memoryview(received)[begin : begin + length])))
        at = begin + length
    if at:
        del received[:at]
