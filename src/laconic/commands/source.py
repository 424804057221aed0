"""Where a verb's trace comes from: `FILE`, or `-- CMD`, which is run and recorded first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.trace import Trace


def check_source(options: argparse.Namespace, verb: str) -> None:
    """Raises LaconicError unless there is either one trace (`options.words`) or a program (`options.command`)."""
    example = f"as in  laconic {verb} -- python3 -V"
    if options.command is None:
        if len(options.words) != 1:
            what = "no trace was" if not options.words else "more than one trace was"
            raise LaconicError(f"{what} named: give one, or a program after --, {example}")
    elif options.words:
        raise LaconicError(f"{options.words[0]!r} stands before --: name a trace, or a program after --, not both")
    elif not options.command:
        raise LaconicError(f"no command was given: name a program, {example}")


@contextmanager
def traced(options: argparse.Namespace, verb: str, stacks: str = "all") -> Iterator[tuple[Trace, int]]:
    """The trace that a verb is to read, and the exit status of its program: 0 where it is a file.

    A program's stacks are taken as `stacks` says. Raises LaconicError.
    """
    from laconic.commands.program import recorded
    from laconic.commands.traces import open_trace

    check_source(options, verb)
    if options.command is None:
        yield open_trace(options.words[0]), 0
        return
    with recorded(options.command, None, False, stacks) as (status, path):
        yield open_trace(path), status
