"""laconic diff: what got better or worse between two runs."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Compares two runs: memory calls asked, redundant ones, and host calls, in all,
by call, and by site. A site is the same where call, function, module and
program have the same names; addresses, directories and lines do not matter.
"""
EPILOG = """\
examples:
  laconic diff before.trace after.trace
  laconic diff before.json after.trace --json diff.json

A and B are traces, or the JSON of laconic run, replay (by call), callers (by
site) or check --write-baseline (both).

exit codes: 0, whether they differ or not (laconic check is the gate); 2 a wrong
option, a file that cannot be read or is of another kind
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `diff`."""
    from laconic.commands.callers import add_suppressions, limit

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("first", metavar="A", help="the run before: a trace, or JSON")
    parser.add_argument("second", metavar="B", help="the run after: a trace, or JSON")
    parser.add_argument("--limit", type=limit, default=10, metavar="N", help="how many are shown (default: 10)")
    add_suppressions(parser)
    parser.add_argument("--json", metavar="FILE", help="write all of it to FILE as JSON; - is standard output")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Prints the difference."""
    from laconic.commands.callers import suppressions
    from laconic.commands.figures import read_figures
    from laconic.commands.output import open_output, width, write_json
    from laconic.commands.traces import show
    from laconic.differ import diff
    from laconic.report.diff import as_json, as_text

    rules = suppressions(options)
    first, _ = read_figures(options.first, rules)
    second, _ = read_figures(options.second, rules)
    output = open_output(options.json)
    found = diff(first, second)
    if output is not None:
        write_json(as_json(found), output, options.json)
    if options.json != "-":
        show(as_text(found, width(1), options.limit))
    return 0
