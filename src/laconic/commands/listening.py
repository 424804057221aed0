"""`--listen`: a program that viewers can watch from other terminals."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laconic.live.hub import Hub

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
    """Start the hub of a program, which listens at `address` unless that is None, and say where.

    To be called before any thread is started. Raises LaconicError.
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
