"""`--listen`: a program that viewers can watch from other terminals."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laconic.live.feed import Feed
    from laconic.live.hub import Hub
    from laconic.tracer.loop import Tracer
    from laconic.tracer.mediate import Mediator
    from laconic.tracer.record import Recorder

#: The value of `--listen` and `--connect` without an address.
DEFAULT = ""


def add_listen(parser: argparse.ArgumentParser) -> None:
    """Declare `--listen [ADDRESS]`."""
    parser.add_argument(
        "--listen",
        nargs="?",
        const=DEFAULT,
        metavar="ADDRESS",
        help="let laconic live --connect show the program: at the path of a Unix socket (default: "
        "one in $XDG_RUNTIME_DIR), or at tcp:PORT of this machine",
    )


def start_hub(command: Sequence[str], address: str | None, *, view: bool) -> Hub:
    """Start the hub of a program, which listens at `address` unless that is None, and print the
    address.

    Call this before any thread is started. Raises LaconicError.
    """
    from laconic.commands.output import tell
    from laconic.live.address import listen
    from laconic.live.hub import Hub

    if address is None:
        return Hub(command, view=view)
    listener, where, path = listen(address)
    hub = Hub(command, view=view, listener=listener, path=path)
    tell(f"laconic: to watch, use  laconic live --connect {shlex.quote(where)}\n")
    return hub


class Published:
    """A program that this process traces, and that viewers can watch.

    Create it before any thread is started. Raises LaconicError.
    """

    def __init__(self, command: Sequence[str], address: str) -> None:
        self._hub = start_hub(command, address, view=False)
        self._feed: Feed | None = None

    def follow(self, recorder: Recorder | None) -> Recorder:
        """Return the recorder whose rows are the source of the viewers' costs: the given one, which
        must capture no stacks itself, or one without a trace."""
        from laconic.trace.writer import Rows
        from laconic.tracer.record import Recorder

        recorder = recorder or Recorder(Rows())
        recorder.followers.append(self._hub.rows)
        return recorder

    def tracer(
        self, mediator: Mediator, waiting: Callable[[str], AbstractContextManager[object]]
    ) -> Tracer:
        """Return the tracer of the program."""
        from laconic.live.feed import Feed

        self._feed = Feed(mediator, self._hub.figures, waiting)
        return self._feed

    def end(self, status: int, notes: Sequence[str]) -> None:
        """Notify viewers that the program has ended. The recorder must be finished."""
        if self._feed is not None:
            self._feed.say_end(status, notes)
        self._hub.close()
