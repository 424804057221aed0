"""Running a program on the bookkeeping, with its trace: for the verbs that record a program
themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.tracer.loop import Tracer
    from laconic.tracer.record import Recorder, RecordingLimit


def recorder_for(
    command: Sequence[str],
    strategy: str,
    path: str,
    *,
    force: bool,
    redact: bool,
    stacks: str = "all",
    limit: RecordingLimit | None = None,
    pid: int | None = None,
) -> Recorder:
    """Return a recorder that writes to `path`, with the stacks of all calls, of the redundant ones,
    or none. `pid`: the process, if it is already running.

    Call this before any thread is started. Raises LaconicError.
    """
    from laconic.trace.writer import TraceWriter
    from laconic.tracer.record import NO_LIMIT, Recorder
    from laconic.tracer.stacks import NONE, StackCapture

    writer = TraceWriter(path, "run", force=force, redact=redact)
    writer.describe(
        command=[writer.hidden(word).decode("utf-8", "replace") for word in command],
        strategy=strategy,
    )
    if pid is not None:
        writer.describe(attached_to=pid)
    return Recorder(
        writer, None if stacks == NONE else StackCapture(writer, stacks), limit or NO_LIMIT
    )


def trace_program(
    tracer: Tracer, command: Sequence[str], recorder: Recorder | None
) -> tuple[int, float]:
    """Run the program to its end; return its exit status, and the seconds. The caller must finish
    the recorder.

    Raises LaconicError if it cannot be started; then there is no trace.
    """
    began = time.monotonic()
    try:
        status = tracer.run(list(command))
    except LaconicError:
        if recorder is not None:
            recorder.discard()
        raise
    except BaseException:
        if recorder is not None:
            recorder.stop()
        raise
    return status, time.monotonic() - began


@contextmanager
def place_for(path: str | None) -> Iterator[str]:
    """Return where a trace is written: `path`, or otherwise a temporary file that is removed
    afterwards. Raises LaconicError."""
    if path is not None:
        yield path
        return
    import tempfile

    from laconic.commands.ending import tidied

    try:
        directory = tempfile.TemporaryDirectory(prefix="laconic-", ignore_cleanup_errors=True)
    except OSError as error:
        raise LaconicError(
            f"no temporary trace can be made, {error.strerror}: set TMPDIR, or name a place with "
            "-o FILE"
        ) from None
    with tidied(), directory as place:
        yield os.path.join(place, "a.trace")


@contextmanager
def recorded(
    command: Sequence[str], path: str | None, force: bool, stacks: str = "none"
) -> Iterator[tuple[int, str]]:
    """Run a program and record it, as `laconic run -o`; return its exit status, and its trace, as
    in `place_for`.

    Raises LaconicError if it cannot be started.
    """
    from laconic.commands.output import announce, tell
    from laconic.linux.pal import only_changes
    from laconic.memory.ledger import Ledger
    from laconic.tracer.loop import Tracer
    from laconic.tracer.mediate import Mediator

    with place_for(path) as trace:
        ledger = Ledger(announce=announce)
        recorder = recorder_for(command, "laconic", trace, force=force, redact=False, stacks=stacks)
        tracer = Tracer(Mediator(only_changes, ledger, recorder=recorder))
        status, seconds = trace_program(tracer, command, recorder)
        recorder.finish(status, ledger, seconds, "off")
        if recorder.failure is not None:
            tell(f"laconic: the trace {trace!r} {recorder.outcome}\n")
        yield status, trace
