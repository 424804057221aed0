"""laconic explain: one memory call, explained as text."""

from __future__ import annotations

import argparse
import os

from laconic.commands.options import accept_source, add_json, add_selection, check_kept, selection
from laconic.errors import LaconicError

DESCRIPTION = """\
Explains one memory call of a trace: who made it, what it requested, the
address space around it before and after, what differed and why, the host calls
and why, and what an SGX2 enclave would do for it under each strategy.
With -- CMD the program is run and recorded first, with all its stacks; its
output and exit status are its own, the explanation goes to standard error.
"""
EPILOG = """\
examples:
  laconic explain a.trace 1204
  laconic explain a.trace @0.25
  laconic explain a.trace mprotect:3 --json call.json
  laconic explain mprotect:3 -- python3 -c 'import json'

EVENT is the number of a row, as replay --check, export, callers --json and maps
--at have it; @SECONDS, the first memory call at that time or later; or CALL:N,
the Nth call of that name. No two runs are quite alike: --keep keeps the trace,
for a second question about the same one.

exit codes: 0; 2 a trace that cannot be read, an event that is not there; after
-- CMD  the program's own where that is not 0
"""
_TRACE = "as in  laconic explain a.trace mprotect:3"
_PROGRAM = "as in  laconic explain mprotect:3 -- python3 -V"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `explain`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic explain FILE EVENT [--json OUT] [--between START END] [--pid P]\n"
        "                       [--program PATTERN] [--call NAME]\n"
        "       laconic explain EVENT [--json OUT] [--keep TRACE [--force]]\n"
        "                       -- CMD [ARG ...]"
    )
    add_json(parser, metavar="OUT")
    add_selection(parser)
    what = (
        "a trace that was recorded or imported, and EVENT: a number, @SECONDS or CALL:N; before -- "
        "EVENT alone"
    )
    accept_source(parser, metavar="FILE EVENT", what=what)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the explanation; return the exit status of CMD, if there is one."""
    from laconic.analysis.explain import explain, wanted
    from laconic.commands.output import open_output
    from laconic.commands.progress import progress
    from laconic.commands.source import hand_over, traced
    from laconic.commands.traces import tell_loss
    from laconic.report.explain import as_json, as_text

    event = _event(options)
    chosen = selection(options)
    if options.command is not None:
        # An invalid event must be reported before the program runs.
        wanted(event)
    check_kept(options)
    output = open_output(options.json) if options.command is not None else None
    with traced(options, "explain mprotect:3") as (trace, status):
        output = output or open_output(options.json)
        try:
            with progress(f"reading {trace.path}", trace.size) as update:
                explanation = explain(trace, event, update, selection=chosen)
        except LaconicError:
            tell_loss(trace)
            raise
        tell_loss(trace, explanation.loss)
    hand_over(
        options, output, lambda: as_json(explanation), lambda width: as_text(explanation, width)
    )
    return status


def _event(options: argparse.Namespace) -> str:
    # Take it from the arguments, which leaves a trace or nothing.
    words: list[str] = options.words
    if options.command is not None:
        if not words:
            raise LaconicError(f"no event was named: it stands before --, {_PROGRAM}")
        if len(words) > 1:
            raise LaconicError(
                f"{words[0]!r} {words[1]!r} stand before --: give an event alone, {_PROGRAM}"
            )
    elif len(words) > 2:
        raise LaconicError(
            f"{words[2]!r} is one word too many: give a trace and an event, {_TRACE}"
        )
    elif not words:
        raise LaconicError(
            f"no trace and no event was named: give both, {_TRACE}; or run a program, {_PROGRAM}"
        )
    elif len(words) == 1:
        what = "a trace, or a program after --" if _is_event(words[0]) else "an event"
        raise LaconicError(f"{words[0]!r} alone was named: give {what}, too, {_TRACE}")
    elif _is_event(words[0]) and not _is_event(words[1]) and not os.path.exists(words[0]):
        raise LaconicError(
            f"{words[0]!r} is an event, and stands first: a trace stands before it, {_TRACE}; a "
            f"program after --, {_PROGRAM}"
        )
    return words.pop()


def _is_event(word: str) -> bool:
    from laconic.analysis.explain import wanted

    try:
        wanted(word)
    except LaconicError:
        return False
    return True
