"""Where a verb's trace comes from: `FILE`, or `-- CMD`, which is run and recorded first; and where
its report goes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.commands.output import Output
    from laconic.trace import Trace


def accept_source(
    parser: argparse.ArgumentParser,
    *,
    keep: bool = False,
    metavar: str = "FILE",
    what: str = "a trace that was recorded or imported",
) -> None:
    """Declares `FILE | -- CMD`; with `keep` also `-o TRACE [--force]`, which keeps the trace of
    CMD."""
    from laconic.commands.recording import accept_command

    parser.add_argument("words", nargs="*", metavar=metavar, help=what)
    if keep:
        parser.add_argument("-o", "--output", metavar="TRACE", help="keep the trace of CMD")
        parser.add_argument(
            "--force", action="store_true", help="overwrite the trace that -o names"
        )
    accept_command(parser)


def check_source(options: argparse.Namespace, verb: str) -> None:
    """Raises LaconicError unless there is either one trace (`options.words`) or a program
    (`options.command`)."""
    example = f"as in  laconic {verb} -- python3 -V"
    if options.command is None:
        if len(options.words) != 1:
            what = "no trace was" if not options.words else "more than one trace was"
            raise LaconicError(f"{what} named: give one, or a program after --, {example}")
    elif options.words:
        raise LaconicError(
            f"{options.words[0]!r} stands before --: name a trace, or a program after --, not both"
        )
    elif not options.command:
        raise LaconicError(f"no command was given: name a program, {example}")


def check_kept(options: argparse.Namespace) -> None:
    """Raises LaconicError where `-o` or `--force` has no trace to keep."""
    from laconic.commands.output import check_outputs

    check_outputs({"-o": options.output, "--json": options.json}, options.words)
    if options.command is None and (options.output is not None or options.force):
        raise LaconicError("-o and --force are about the trace of a program: name that after --")
    if options.force and options.output is None:
        raise LaconicError("--force is about a trace: name it with -o TRACE")


@contextmanager
def traced(
    options: argparse.Namespace, verb: str, stacks: str = "all", *, keep: bool = False
) -> Iterator[tuple[Trace, int]]:
    """The trace that a verb is to read, and the exit status of its program: 0 where it is a file.

    A program's stacks are taken as `stacks` says; with `keep`, its trace stays where
    `options.output` says. Raises LaconicError; once the program has failed, with its exit status.
    """
    from laconic.commands.program import recorded
    from laconic.commands.traces import open_trace

    check_source(options, verb)
    if options.command is None:
        yield open_trace(options.words[0]), 0
        return
    output, force = (options.output, options.force) if keep else (None, False)
    with recorded(options.command, output, force, stacks) as (status, path):
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
    """Writes a result as JSON, where `--json` has opened `output`, and in words, in so many
    columns.

    The words go to standard output, unless that is the JSON's alone; after a program, whose it is,
    to standard error.
    """
    from laconic.commands.output import tell, width, write_json
    from laconic.commands.traces import show

    if output is not None:
        write_json(as_json(), output, options.json, program=options.command is not None)
    if options.command is not None:
        tell(as_text(width(2)))
    elif options.json != "-":
        show(as_text(width(1)))
