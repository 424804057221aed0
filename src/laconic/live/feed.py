"""The activity of a running program, reported a few times per second: the tracing half of `laconic
live`.

Messages are lines of JSON; `laconic.analysis.live` reads them. All but the last have `time`
(seconds since the start), `by_call` (name → calls, host_calls, elided, redundant), `ever`
(processes so far), `processes` (pid, name, threads, mapped bytes, VMAs), `sites` (call, stack,
program, redundant calls) that have changed since the previous message, and `rows`, which define
these stacks, as in a trace. The last has `end`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from laconic.errors import LaconicError
from laconic.linux.pal import only_changes
from laconic.memory.ledger import Ledger
from laconic.trace.schema import Row
from laconic.trace.writer import Rows
from laconic.tracer.loop import Tracer
from laconic.tracer.mediate import Mediator
from laconic.tracer.ptrace import ORIG_RAX
from laconic.tracer.stacks import ALL, StackCapture
from laconic.tracer.syscalls import MEMORY_CALLS

if TYPE_CHECKING:
    from laconic.live.hub import Hub
    from laconic.tracer.process import TracedMm, TracedThread
    from laconic.tracer.record import Recorder

#: Seconds between two messages, and the minimum time between two messages as a multiple of the time
#: that one takes.
_PERIOD = 0.25
_PATIENCE = 10
#: The number of address spaces for which details are kept, in addition to those that are alive;
#: beyond it the others are forgotten.
_SPACES = 64
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Watcher(StackCapture):
    """Counts redundant calls by call, stack and program. `fresh` has rows about new stacks, which
    another thread takes; that thread may also read `counts`. All rows also go to `kept`, a
    recorder's rows."""

    def __init__(self, kept: list[Row]) -> None:
        self._sink = Rows()
        super().__init__(self._sink, ALL)
        self.counts: Counter[tuple[str, int, str]] = Counter()
        self.fresh: deque[Row] = deque()
        self._programs: dict[TracedMm, str] = {}
        self._kept = kept

    def take(self, thread: TracedThread, words: Sequence[int], redundant: bool) -> None:
        """Count the call that a thread has stopped for. O(frames)."""
        super().take(thread, words, redundant)
        rows = self._sink.rows
        site = rows[-1]
        if site.data:
            self.fresh.extend(rows)
        self._kept.extend(rows)
        rows.clear()
        if not redundant:
            return
        program = self._programs.get(thread.mm)
        if program is None:
            if len(self._programs) > _SPACES:
                self._forget_the_dead()
            program = self._programs[thread.mm] = _link(f"/proc/{thread.tgid}/exe")
        self.counts[MEMORY_CALLS.get(words[ORIG_RAX], "other"), site.a0, program] += 1

    def _forget_the_dead(self) -> None:
        for mm in [mm for mm in self._programs if not mm.threads]:
            del self._programs[mm]
            self.forget(mm)


class Feed(Tracer):
    """A tracer that reports to `fd`. If the reader is gone, that is not an error: the program
    continues. `watcher` captures the stacks of all calls, which go to the mediator's recorder."""

    def __init__(
        self,
        mediator: Mediator,
        fd: int,
        waiting: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__(mediator, waiting)
        recorder = mediator.recorder
        assert recorder is not None
        watcher = Watcher(recorder.rows)
        watcher.began = recorder.began
        recorder.stacks = mediator.stacks = watcher
        self._ledger = mediator.ledger
        self._watcher = watcher
        self._fd = fd
        self._sent: Mapping[tuple[str, int, str], int] = {}
        self._began = time.monotonic()
        self._done = threading.Event()

    def _loop(self) -> None:
        # The program has been forked off, so threads may be started from here on.
        teller = threading.Thread(target=self._tell, daemon=True)
        teller.start()
        try:
            super()._loop()
        finally:
            self._done.set()
            teller.join()

    def _tell(self) -> None:
        pause = _PERIOD
        while not self._done.wait(pause):
            began = time.monotonic()
            self.say(self.message())
            pause = max(_PERIOD, _PATIENCE * (time.monotonic() - began))

    def message(self) -> dict[str, Any]:
        """Return the current message. O(sites + threads)."""
        counts = dict(self._watcher.counts)
        sent, self._sent = self._sent, counts
        # Read after the counts, so that every counted stack is sent, in this message or an earlier
        # one.
        fresh = self._watcher.fresh
        rows = [fresh.popleft() for _ in range(len(fresh))]
        return {
            "time": round(time.monotonic() - self._began, 6),
            "by_call": {
                name: (line.calls, line.host_calls, line.elided, line.redundant)
                for name, line in list(self._ledger.by_call.items())
            },
            "ever": self._ledger.processes,
            "processes": self._processes(),
            "rows": [(row.event, row.a0, row.data.decode("latin-1")) for row in rows],
            "sites": [(*key, count) for key, count in counts.items() if sent.get(key) != count],
        }

    def _processes(self) -> list[tuple[int, str, int, int, int | None]]:
        found: dict[int, list[TracedThread]] = {}
        for thread in list(self.threads.values()):
            found.setdefault(thread.tgid, []).append(thread)
        processes = []
        for pid, threads in sorted(found.items()):
            try:
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    mapped = int(file.read().split()[0]) * _PAGE
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    name = file.read().rstrip("\n")
            except (OSError, IndexError):
                continue  # it has ended in between
            space = threads[0].mm.space
            processes.append(
                (pid, name, len(threads), mapped, None if space is None else space.map_count)
            )
        return processes

    def say_end(self, status: int, notes: Sequence[str]) -> None:
        """Send the last message. Call this after the recorder has finished."""
        self.say({**self.message(), "end": {"status": status, "notes": list(notes)}})

    def say(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        left = json.dumps(message).encode() + b"\n"
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            pass


def run(command: Sequence[str], hub: Hub, recorder: Recorder) -> int:
    """Run a program to the end of its last process, and report to the hub; return its exit status.
    The recorder, which must capture no stacks itself, is finished.

    Raises CannotRun or NoTracing if it could not be started.
    """
    ledger = Ledger()
    recorder.followers.append(hub.rows)
    feed = Feed(Mediator(only_changes, ledger, recorder=recorder), hub.figures)
    began = time.monotonic()
    try:
        status = feed.run(command)
    except LaconicError:
        recorder.discard()
        raise
    recorder.finish(status, ledger, time.monotonic() - began, "off")
    notes = list(ledger.notes)
    if recorder.failure is not None:
        notes.append(f"the trace {recorder.path!r} {recorder.outcome}")
    feed.say_end(status, notes)
    return status


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return "?"
