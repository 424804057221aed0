"""laconic diff: regressions and improvements between two runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from laconic.commands.options import (
    accept_source,
    add_json,
    add_limit,
    add_order,
    add_selection,
    add_strategy,
    add_suppressions,
    check_kept,
    enclave,
    selection,
    suppressions,
)
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.baseline import EnclaveBasis, RunFigures
    from laconic.analysis.suppressions import Suppression
    from laconic.trace.selection import Selection
    from laconic.trace.stacks import Stacks

DESCRIPTION = """\
Compares two runs: memory calls, redundant ones, host calls, and the cost in an
SGX2 enclave, in all, by call, and by site. The site whose cost changed most
comes first. A site is the same where call, function, module and program have
the same names; addresses, directories and lines do not matter.
With -- CMD the second run is made now: CMD is run and recorded, its output and
exit status are its own, and the report goes to standard error.
"""
EPILOG = """\
examples:
  laconic diff before.trace after.trace
  laconic diff before.json after.trace --json diff.json
  laconic diff before.trace --keep after.trace -- python3 -c 'import json'

A and B are traces, or the JSON of laconic run, replay, live (by call), callers
(by site), check (in all) or check --write-baseline (by call and site). Costs
are compared if both have them: traces, callers --json, and check
--write-baseline with --enclave. To see both in a browser:  laconic html A B

exit codes: 0, whether they differ or not (laconic check is the gate); 2 a wrong
option, a file that cannot be read or is of another kind; after  -- CMD  the
program's own
"""
_EXAMPLE = "as in  laconic diff before.trace"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `diff`."""
    from laconic.analysis.diff import SORTS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic diff [--sort {cost,redundant,calls,host-calls}] [--limit N]\n"
        "                    [--suppressions FILE | --no-suppressions]\n"
        "                    [--json FILE] [--between START END] [--pid P]\n"
        "                    [--program PATTERN] [--call NAME]\n"
        "                    [--strategy NAME] [--costs NAME|FILE]\n"
        "                    A B | A [--keep TRACE [--force]] -- CMD [ARG ...]"
    )
    add_order(parser, SORTS)
    add_limit(parser)
    add_suppressions(parser)
    add_selection(parser)
    add_strategy(parser)
    add_json(parser)
    accept_source(parser, metavar="A B", what="the run before, and the run after: traces, or JSON")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the difference; return the exit status of CMD, if there is one."""
    from laconic.analysis.diff import diff
    from laconic.commands.figures import read_figures
    from laconic.commands.output import open_output
    from laconic.commands.source import hand_over
    from laconic.report.diff import as_json, as_text

    _check_words(options)
    check_kept(options)
    rules = suppressions(options)
    chosen = selection(options)
    model = enclave(options, wanted=True)
    first = read_figures(options.words.pop(0), rules, chosen, model)
    if options.command is None:
        second = read_figures(options.words[0], rules, chosen, model)
        output, status = open_output(options.json), 0
    else:
        output = open_output(options.json)
        second, status = _run(options, rules, chosen, model)
    found = diff(first[0], second[0], options.sort)
    hand_over(
        options,
        output,
        lambda: as_json(found),
        lambda width: as_text(found, width, options.limit, (first, second)),
    )
    return status


def _check_words(options: argparse.Namespace) -> None:
    count, program = len(options.words), options.command is not None
    if program and not count:
        raise LaconicError(
            f"the run before is not named: it stands before --, {_EXAMPLE} -- python3 -V"
        )
    if program and count > 1:
        raise LaconicError(
            f"{options.words[1]!r} stands before --: name one run there, {_EXAMPLE} -- python3 -V"
        )
    if options.words == ["-", "-"]:
        raise LaconicError("standard input can be only one of the two runs; name a file for one")
    if not program and count != 2:
        named = f"{count} run{' is' if count == 1 else 's are'} named"
        raise LaconicError(
            f"{named}: give two, {_EXAMPLE} after.trace, or one and a program after --"
        )


def _run(
    options: argparse.Namespace,
    rules: list[Suppression],
    chosen: Selection | None,
    model: EnclaveBasis | None,
) -> tuple[tuple[RunFigures, Stacks], int]:
    import shlex

    from laconic.commands.figures import trace_figures
    from laconic.commands.source import traced

    with traced(options, "diff before.trace") as (trace, status):
        name = shlex.join(options.command)
        return trace_figures(trace, rules, name, chosen, model), status
