"""Writing a trace in a process of its own, which takes rows from a pipe and outlives whoever sends
them.

So the program that is recorded waits for no compression and no disk, a short one not even for
pyarrow to be imported; and what was sent is written when the sender is killed.
"""

from __future__ import annotations

import json
import marshal
import mmap
import os
import select
import signal
import struct
import sys
import time

from laconic.trace.schema import BATCH, Row
from laconic.trace.writer import TraceWriter

_LENGTH = struct.Struct("=Q")
#: What the other process tells at any time: rows in the file, and 1 where it cannot be written.
_STATE = struct.Struct("=QQ")
_PIPE_SIZE = 1 << 20
#: F_SETPIPE_SZ (include/uapi/linux/fcntl.h)
_SETPIPE_SZ = 1031
#: Seconds after which a batch is written though it is not full: what a power cut can take.
PERIOD = 0.8


class RowPipe:
    """The end of a pipe through which rows go to another process. `gone`: it reads no longer."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.gone = False
        try:
            import fcntl

            fcntl.fcntl(fd, _SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # an unprivileged user may have used up its share: a smaller pipe does

    def send(self, rows: list[Row]) -> None:
        """Hands rows over; those that come after the other process was killed are lost. 0.4 µs a
        row."""
        data = marshal.dumps([tuple(row) for row in rows], 2)  # it takes no subclasses of tuple
        left = memoryview(_LENGTH.pack(len(data)) + data)
        try:
            while left and not self.gone:
                left = left[os.write(self._fd, left) :]
        except BrokenPipeError:
            self.gone = True

    def close(self) -> None:
        """No more rows will come."""
        os.close(self._fd)


class Spool:
    """Hands rows to a process that `writer` goes on in; here it is left with `rows` and the numbers
    of files.

    To be made before any thread is: it forks. The process is not a child of this one, and no
    terminal's signal reaches it.
    """

    def __init__(self, writer: TraceWriter) -> None:
        rows, sends = os.pipe()
        self._outcome, outcome = os.pipe()
        # It can be read when the other process was killed.
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
        """True if the file cannot be written any more, or the process that writes it is gone."""
        return self._rows.gone or bool(_STATE.unpack(self._state)[1])

    def send(self, rows: list[Row]) -> None:
        """Hands rows over, as `RowPipe.send`."""
        self._rows.send(rows)

    def close(self) -> tuple[int, str | None]:
        """Has the rest written; how many rows are in the file, and why it has no more where it has
        not all."""
        self._rows.close()
        with open(self._outcome, "rb") as file:
            text = file.read()
        written = _STATE.unpack(self._state)[0]
        failure = json.loads(text) if text else "the process that writes it was killed"
        return written, failure


def be_nobodys_child() -> None:
    """Make this process, which was forked, one that has no waiting parent, in a session of its own
    and without a terminal."""
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)


def _import_pyarrow() -> None:
    # At once, beside the program's start. What pyarrow can do without, and takes longer than
    # itself, is left out.
    for name in ("numpy", "cloudpickle"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        for name in ("numpy", "cloudpickle"):
            del sys.modules[
                name
            ]  # an older pyarrow needs numpy: it is imported with the first batch


def _write_all(writer: TraceWriter, rows: int, outcome: int, state: mmap.mmap) -> None:
    # Never returns.
    try:
        _import_pyarrow()
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
    # Has what comes written, until the other end is closed.
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
    """Move the rows of all whole chunks of what a `RowPipe` sent to `rows`. O(bytes)."""
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
