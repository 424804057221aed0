"""The process that traces the program of `laconic live`, and its messages."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from laconic.analysis.live import LiveModel
from laconic.errors import LaconicError
from laconic.live.hub import Hub
from laconic.tracer.signals import change_mask

if TYPE_CHECKING:
    from laconic.tracer.record import Recorder

#: The maximum number of lines of the program's output that are kept, and of bytes of a line.
LINES, LENGTH = 1000, 4096


class Child:
    """A separate process, in which the program is traced: ptrace requires one thread, and the view
    has several.

    `output` maps the program's descriptors for standard output and error to their replacements; a
    descriptor that maps to None is read here, and its lines are kept in `lines`. `quiet`: the
    program's standard input is empty. `record` makes the recorder; without it, no trace is kept.
    `mask` is the program's signal mask, a kernel sigset_t; without it, the mask of the calling
    thread. `hub` passes on what the process sends, through its own `view`. Create the child before
    any thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        output: dict[int, int | None] | None = None,
        quiet: bool = False,
        record: Callable[[], Recorder] | None = None,
        *,
        mask: int | None = None,
        hub: Hub | None = None,
    ) -> None:
        hub = hub or Hub(command, view=True)
        self._output = -1
        writes = -1
        places = dict(output or {})
        if None in places.values():
            self._output, writes = os.pipe()
        if sys.stdout is not None:  # it was closed
            sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(hub.view)
            output_of = {fd: writes if to is None else to for fd, to in places.items()}
            _run(command, hub, output_of, mask, quiet, record)
        hub.close()
        if writes >= 0:
            os.close(writes)
        self.lines: deque[str] = deque(maxlen=LINES)
        self._fresh: deque[str] = deque(maxlen=LINES)
        self._messages: deque[str] = deque()
        self._through: int | None = None
        self._lock = threading.Lock()
        self._readers = [threading.Thread(target=self._read_figures, args=(hub.view,), daemon=True)]
        if self._output >= 0:
            self._readers.append(threading.Thread(target=self._read_output, daemon=True))
        for reader in self._readers:
            reader.start()

    def _read_figures(self, fd: int) -> None:
        with os.fdopen(fd, encoding="utf-8") as file:
            for line in file:
                self._messages.append(line)

    def _read_output(self) -> None:
        # Bytes are read, not lines: an incomplete line must not block once the view is gone.
        left = b""
        while data := os.read(self._output, 65536):
            with self._lock:
                left = self._take(left + data)
        with self._lock:
            if left and self._take(left):
                self._keep([left])
        os.close(self._output)

    def _take(self, data: bytes) -> bytes:
        # Pass on, or keep, what has arrived; return the start of an incomplete line.
        if self._through is not None:
            _write(self._through, data)
            return b""
        *lines, left = data.split(b"\n")
        if len(left) > LENGTH:
            lines, left = [*lines, left], b""
        self._keep(lines)
        return left

    def _keep(self, lines: list[bytes]) -> None:
        texts = [line[:LENGTH].decode("utf-8", "replace") for line in lines]
        self.lines.extend(texts)
        self._fresh.extend(texts)

    def alive(self) -> bool:
        """False once no more figures will arrive."""
        return self._readers[0].is_alive()

    def drain(self, model: LiveModel) -> None:
        """Pass all messages that have arrived to the model. O(their size)."""
        while self._messages:
            model.take(json.loads(self._messages.popleft()))

    def fresh(self) -> list[str]:
        """Return the lines of output that have arrived since the last call."""
        return [self._fresh.popleft() for _ in range(len(self._fresh))]

    def pass_through(self, fd: int) -> None:
        """Write the kept lines to `fd`, and from now on all output that arrives."""
        with self._lock:
            for line in self.lines:
                _write(fd, f"{line}\n".encode("utf-8", "replace"))
            self._through = fd

    def kill(self, number: int) -> None:
        """Send a signal, which is passed on to the program."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, model: LiveModel) -> int:
        """Wait for the end; return the program's exit status, or Laconic's own if the program could
        not be run."""
        for reader in self._readers:
            reader.join()
        _, status = os.waitpid(self.pid, 0)
        self.drain(model)
        if model.status is None:
            code = os.waitstatus_to_exitcode(status)
            model.status = 128 - code if code < 0 else code or 1
            model.failure = (
                f"the process that traced the program ended with status {model.status}: the "
                "program is gone"
            )
        return model.status


def _write(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def _run(
    command: Sequence[str],
    hub: Hub,
    places: dict[int, int],
    mask: int | None,
    quiet: bool,
    record: Callable[[], Recorder] | None,
) -> None:
    # Runs in the child, and never returns.
    status = 1
    try:
        for fd, to in places.items():
            os.dup2(to, fd)
        for to in {*places.values()} - {0, 1, 2}:
            os.close(to)
        if mask is not None:
            change_mask(signal.SIG_SETMASK, mask)
        if quiet:
            # The terminal belongs to the view.
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        from laconic.live.feed import run
        from laconic.trace.writer import Rows
        from laconic.tracer.record import Recorder

        status = run(command, hub, Recorder(Rows()) if record is None else record())
    except LaconicError as error:
        status = error.exit_code
        _write(hub.figures, json.dumps({"failed": str(error), "status": status}).encode() + b"\n")
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        import traceback

        _write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)
