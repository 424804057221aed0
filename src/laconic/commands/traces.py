"""The common steps of all verbs that read a trace: opening it, and reporting what is missing in
it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laconic.commands.output import colored, harmless, tell, write_all
from laconic.errors import LaconicError
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.trace import Trace

#: The number of losses that are listed individually.
SHOWN = 10


def open_trace(path: str) -> Trace:
    """Return the trace at `path`. Raises LaconicError, which names the fix, if it is not a
    trace."""
    import laconic.trace
    from laconic.trace.arrow import import_alone

    import_alone()
    return laconic.trace.open(path)


def losses(trace: Trace, lost: Sequence[str] = ()) -> list[str]:
    """Return what is missing, one sentence each; empty if the trace is complete. `lost` are the
    sentences about the `lost` rows, and may end with the trace's own loss, which is reported once.

    The trace must have been read to its end.
    """
    lost = [sentence for sentence in lost if sentence != trace.loss]
    more = len(lost) - SHOWN
    found = [
        *lost[:SHOWN],
        *([f"and {plural(more, 'more kind')} of loss"] if more > 0 else []),
    ]
    return [*found, trace.loss] if trace.loss else found


def tell_loss(trace: Trace, lost: Sequence[str] = ()) -> None:
    """Report on standard error what is missing, which readers of the figures must know. As
    `losses`."""
    from laconic.report.names import seen

    for sentence in losses(trace, lost):
        tell(f"laconic: {trace.path!r} is not complete: {seen(sentence)}\n")


def show(text: str) -> None:
    """Write to standard output, as `harmless`; a reader that has gone (`| head`) is not an error.
    Raises LaconicError for a full disk."""
    try:
        write_all(1, colored(harmless(text), 1))
    except BrokenPipeError:
        pass
    except OSError as error:
        raise LaconicError(
            f"standard output cannot be written, {error.strerror}: give it another place"
        ) from None
