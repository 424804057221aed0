"""The source of a verb's trace: `FILE`, or `-- CMD`, which is run and recorded first; and the
destination of its report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laconic.commands.options import check_source, selection
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.commands.output import Output
    from laconic.trace import Trace
    from laconic.trace.selection import Selection


@contextmanager
def traced(
    options: argparse.Namespace, verb: str, stacks: str = "all"
) -> Iterator[tuple[Trace, int]]:
    """Return the trace that a verb is to read, and the exit status of its program: 0 if it is a
    file.

    A program's stacks are recorded according to `stacks`, and its trace is kept at `options.keep`.
    Raises LaconicError; if the program has failed, with its exit status.
    """
    from laconic.commands.program import recorded
    from laconic.commands.traces import open_trace

    check_source(options, verb)
    if options.command is None:
        yield open_trace(options.words[0]), 0
        return
    force = options.force and options.keep is not None
    with recorded(options.command, options.keep, force, stacks) as (status, path):
        try:
            yield open_trace(path), status
        except LaconicError as error:
            error.exit_code = status or error.exit_code
            raise


def hand_over(
    options: argparse.Namespace,
    output: Output | None,
    as_json: Callable[[], dict[str, Any]],
    as_text: Callable[[int], str],
) -> None:
    """Write a result as JSON, if `--json` has opened `output`, and as text, in the given number of
    columns.

    The text goes to standard output, unless that is reserved for the JSON; after a program, which
    owns standard output, it goes to standard error.
    """
    from laconic.commands.output import tell, width, write_json
    from laconic.commands.traces import show

    selection = selected(options)
    if output is not None:
        result = {**as_json(), **selection_as_json(selection)}
        write_json(result, output, options.json, program=options.command is not None)
    heading = selection_as_text(selection)
    if options.command is not None:
        tell(heading + as_text(width(2)))
    elif options.json != "-":
        show(heading + as_text(width(1)))


def selected(options: argparse.Namespace) -> Selection | None:
    """Return which calls the options select; None for all, and for verbs without such options."""
    return selection(options) if hasattr(options, "between") else None


def selection_as_json(selection: Selection | None) -> dict[str, Any]:
    """Return the key that states in a report's JSON what was selected."""
    return {} if selection is None else {"selection": selection.as_json()}


def selection_as_text(selection: Selection | None) -> str:
    """Return the line above a report that states what was selected."""
    return "" if selection is None else f"selected: {selection}\n"
