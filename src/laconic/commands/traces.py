"""What every verb that reads a trace does alike: opens it, and says what is missing in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laconic.commands.output import colored, harmless, tell, write_all
from laconic.errors import LaconicError
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.trace import Trace

#: Losses that are listed one by one.
SHOWN = 10


def open_trace(path: str) -> Trace:
    """The trace at `path`. Raises LaconicError, which names the cure, where it is none."""
    import laconic.trace

    return laconic.trace.open(path)


def losses(trace: Trace, lost: Sequence[str] = ()) -> list[str]:
    """What is missing, a sentence each; empty where nothing is. `lost` are the sentences about the
    `lost` rows, and may end with the trace's own loss, which is reported once.

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
    """Says on standard error what is missing: whoever reads the figures must know. As `losses`."""
    from laconic.report.names import seen

    for sentence in losses(trace, lost):
        tell(f"laconic: {trace.path!r} is not complete: {seen(sentence)}\n")


def show(text: str) -> None:
    """Writes to standard output, as `harmless`; a reader that has gone (`| head`) is not an error.
    Raises LaconicError for a full disk."""
    try:
        write_all(1, colored(harmless(text), 1))
    except BrokenPipeError:
        pass
    except OSError as error:
        raise LaconicError(
            f"standard output cannot be written, {error.strerror}: give it another place"
        ) from None
