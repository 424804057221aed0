"""The process between a traced program and its viewers.

It receives the tracer's messages (`laconic.live.feed`) and the rows of the trace, adds what the
sites cost in an enclave to the messages, and passes them on: to the view of `laconic live`, and
with `--listen` to any number of viewers, which can come and go. A viewer that reads too slowly is
disconnected, so the program never waits for a viewer.

A viewer first receives a line with `feed` (the version of the messages), `laconic`, `command` and
`pid`; then one message with everything that was sent so far; then messages as they arrive. A
message with `costs` has the result of `RunningCosts.message`; `behind`, the number of rows that
have not been replayed yet; and `stopped`, the reason why costs are known only up to its `time`, or
"".
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from laconic import __version__
from laconic.live.address import is_same_user
from laconic.trace.schema import Row
from laconic.trace.spool import RowPipe, be_nobodys_child, take_rows

#: The version of the messages.
FEED = 1
#: Seconds between two messages about costs, and the minimum time between two as a multiple of the
#: time that one takes.
_PERIOD, _PATIENCE = 1.0, 10
#: The maximum number of rows that may wait to be replayed; beyond it, costs are no longer followed.
_MOST_ROWS = 2_000_000
#: Seconds for which the replay continues after the program has ended.
_LAST = 10.0
#: The maximum number of bytes that may wait for a viewer, and seconds that a viewer has to read the
#: end.
_MOST_BYTES, _PARTING = 16 << 20, 2.0


class Hub:
    """Starts the process; create it before any thread.

    The tracer writes its messages to `figures`, and its recorder sends rows to `rows`; the view of
    this process reads `view`, -1 without a view. `listener` is a bound socket, or None. `path`: a
    socket's file, which is removed at the end, or "".
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        view: bool,
        listener: socket.socket | None = None,
        path: str = "",
    ) -> None:
        figures, self.figures = os.pipe()
        rows, sends = os.pipe()
        self.view, shows = os.pipe() if view else (-1, -1)
        owner = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                be_nobodys_child()
                for fd in (self.figures, sends, self.view):
                    if fd >= 0:
                        os.close(fd)
                _HubRelay(command, owner, listener, path).run(figures, rows, shows)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        for fd in (figures, rows, shows):
            if fd >= 0:
                os.close(fd)
        if listener is not None:
            listener.close()
        self.rows = RowPipe(sends)

    def close(self) -> None:
        """Close this process's copies of the descriptors that the tracer writes to; another process
        keeps them."""
        os.close(self.figures)
        self.rows.close()


class _Viewer:
    # A reader of the messages, at its own pace.

    def __init__(self, fd: int, connection: socket.socket | None = None) -> None:
        self._fd = fd
        self._connection = connection
        # Bytes, each counted by one thread.
        self._taken = self._written = 0
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.gone = False
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        if self._connection is not None and self._taken - self._written > _MOST_BYTES:
            self.gone = True
            try:
                self._connection.shutdown(socket.SHUT_RDWR)  # this wakes the waiting thread
            except OSError:
                pass
        if not self.gone:
            self._taken += len(data)
            self._queue.put(data)

    def _write(self) -> None:
        try:
            while (data := self._queue.get()) is not None:
                left = data
                while left:
                    left = left[os.write(self._fd, left) :]
                self._written += len(data)
        except OSError:
            self.gone = True
            self._queue.put(None)
        if self._connection is None:
            os.close(self._fd)
        else:
            self._connection.close()

    def end(self) -> None:
        self._queue.put(None)

    def join(self, seconds: float | None) -> None:
        self._thread.join(seconds)


class _HubRelay:
    # The part that runs in the process.

    def __init__(
        self, command: Sequence[str], owner: int, listener: socket.socket | None, path: str
    ) -> None:
        self._head = {"feed": FEED, "laconic": __version__, "command": list(command), "pid": owner}
        self._listener = listener
        self._path = path
        self._lock = threading.Lock()
        self._viewers: list[_Viewer] = []
        # Everything that was sent so far, for viewers that connect later.
        self._figures: dict[str, Any] = {}
        self._stack_rows: list[Any] = []
        self._counts: dict[tuple[Any, ...], Any] = {}
        self._costs: dict[str, Any] = {}
        self._site_costs: dict[tuple[Any, ...], Any] = {}
        self._around: dict[str, Any] = {}
        # Rows that wait to be replayed, and their number.
        self._rows: deque[list[Row]] = deque()
        self._behind = 0
        self._came = threading.Condition()
        self._rows_ended = False
        self._stopped = ""
        self._deadline: float | None = None
        self._replayed = threading.Event()

    def run(self, figures: int, rows: int, shows: int) -> None:
        view = _Viewer(shows) if shows >= 0 else None
        if view is not None:
            self._viewers.append(view)
        threads = [
            threading.Thread(target=self._receive_rows, args=(rows,), daemon=True),
            threading.Thread(target=self._relay_figures, args=(figures,), daemon=True),
        ]
        if self._listener is not None:
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        for thread in threads:
            thread.start()
        self._replay()
        for thread in threads:
            thread.join()
        if self._path:
            try:
                os.unlink(self._path)
            except OSError:
                pass
        with self._lock:
            viewers, self._viewers = self._viewers, []
        for viewer in viewers:
            viewer.end()
        deadline = time.monotonic() + _PARTING
        for viewer in viewers:
            viewer.join(None if viewer is view else max(deadline - time.monotonic(), 0))

    # The tracer's messages

    def _relay_figures(self, fd: int) -> None:
        with os.fdopen(fd, "rb") as file:
            for line in file:
                message = json.loads(line)
                if "end" in message or "failed" in message:
                    # Viewers are notified of the end when the costs are known.
                    self._finish_costs()
                with self._lock:
                    self._keep(message)
                    self._send(line)
        self._finish_costs()

    def _finish_costs(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + _LAST
        with self._came:
            self._came.notify()
        self._replayed.wait()

    def _keep(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self._figures = message
            return
        self._stack_rows += message["rows"]
        for *key, count in message["sites"]:
            self._counts[tuple(key)] = count
        self._figures = message

    def _send(self, line: bytes) -> None:
        for viewer in self._viewers:
            viewer.send(line)
        self._viewers = [viewer for viewer in self._viewers if not viewer.gone]

    # Costs

    def _receive_rows(self, fd: int) -> None:
        received = bytearray()
        while data := os.read(fd, 1 << 20):
            received += data
            rows: list[Row] = []
            take_rows(received, rows)
            if not rows or self._stopped:
                continue
            with self._came:
                self._rows.append(rows)
                self._behind += len(rows)
                if self._behind > _MOST_ROWS:
                    self._stopped = "the program makes calls faster than they can be replayed"
                    self._rows.clear()
                self._came.notify()
        with self._came:
            self._rows_ended = True
            self._came.notify()

    def _waiting_rows(self) -> Iterator[list[Row]]:
        while True:
            with self._came:
                while not self._rows and not self._rows_ended and not self._stopped:
                    # Wakes regularly, so that what has been replayed is reported.
                    self._came.wait(_PERIOD)
                    if not self._rows:
                        break
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._stopped = "the program had ended before all of its calls were replayed"
                if self._stopped or (self._rows_ended and not self._rows):
                    return
                rows = self._rows.popleft() if self._rows else []
                self._behind -= len(rows)
            yield rows

    def _replay(self) -> None:
        from laconic.analysis.running import RunningCosts

        costs = RunningCosts()
        due = time.monotonic() + _PERIOD / 2

        def between() -> None:
            nonlocal due
            began = time.monotonic()
            if began >= due:
                self._tell(costs.message())
                due = max(began + _PERIOD, began + _PATIENCE * (time.monotonic() - began))

        try:
            costs.run(self._waiting_rows(), between)
            self._tell(costs.message())
        except Exception as error:  # the calls are still counted
            self._stopped = f"{type(error).__name__}: {error}"
            self._tell({"time": costs.time / 1e9, "sites": [], "around": []})
        finally:
            self._replayed.set()

    def _tell(self, message: dict[str, Any]) -> None:
        message |= {"behind": self._behind, "stopped": self._stopped}
        with self._lock:
            self._costs = message
            for site in message["sites"]:
                self._site_costs[tuple(site[:3])] = site
            for work in message["around"]:
                self._around[work[0]] = work
            self._send(_line({"costs": message}))

    # Viewers

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if not is_same_user(connection):
                connection.close()
                continue
            # Nothing is read from a viewer.
            connection.shutdown(socket.SHUT_RD)
            with self._lock:
                viewer = _Viewer(connection.fileno(), connection)
                viewer.send(_line(self._head) + self._so_far())
                self._viewers.append(viewer)

    def _so_far(self) -> bytes:
        sent = b""
        if self._figures and "failed" not in self._figures:
            sites = [[*key, count] for key, count in self._counts.items()]
            sent = _line({**self._figures, "rows": self._stack_rows, "sites": sites})
        if self._costs:
            known = {"sites": [*self._site_costs.values()], "around": [*self._around.values()]}
            sent += _line({"costs": {**self._costs, **known}})
        return sent


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
