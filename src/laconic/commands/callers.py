"""laconic callers: who makes the redundant calls."""

from __future__ import annotations

import argparse

from laconic.commands.options import (
    accept_source,
    add_costs,
    add_json,
    add_limit,
    add_suppressions,
    check_kept,
    check_source,
    load_costs,
    suppressions,
)

DESCRIPTION = """\
Names the places in the program that make redundant memory calls, the worst
first: function, stack, program, and what these calls cost in an enclave under
today's rule. A trace has the stacks of all calls unless it was recorded with
--stacks redundant or none; an imported log has them if strace -k wrote it.
"""
EPILOG = """\
examples:
  laconic callers a.trace
  laconic callers a.trace --by module --json callers.json
  laconic callers -o json.trace -- python3 -c 'import json'

A file laconic.toml in the working directory says what not to show:
  [[suppress]]
  reason = "the allocator's own business"
  call = "madvise"
  module = "libjemalloc.so*"
(also: function, program; shell patterns). What ld.so and the C library do in
every program is hidden anyway, and counted; --no-suppressions shows all.

exit codes: 0; 2 a wrong option, a trace or a suppression file that cannot be
read; after  -- CMD  the program's own
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `callers`."""
    from laconic.analysis.callers import BY

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic callers [--by {function,module,program,stack}] [--inverted]\n"
        "                       [--limit N] [--suppressions FILE | --no-suppressions]\n"
        "                       [--costs NAME|FILE] [--json FILE]\n"
        "                       FILE | [-o TRACE [--force]] -- CMD [ARG ...]"
    )
    parser.add_argument(
        "--by", choices=BY, default="function", help="what calls are put together by"
    )
    parser.add_argument(
        "--inverted",
        action="store_true",
        help="count calls under every function of their stack, main included",
    )
    add_limit(parser)
    add_suppressions(parser)
    add_costs(parser)
    add_json(parser)
    accept_source(parser, keep=True)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Prints the callers."""
    from laconic.analysis.callers import callers
    from laconic.analysis.sites import sites
    from laconic.commands.output import open_output
    from laconic.commands.progress import progress
    from laconic.commands.source import hand_over, traced
    from laconic.commands.traces import tell_loss
    from laconic.errors import LaconicError
    from laconic.report.callers import as_json, as_text

    if options.inverted and options.by not in ("function", "module"):
        raise LaconicError(
            f"--inverted counts under functions or modules, not --by {options.by}: leave one out"
        )
    check_source(options, "callers")
    check_kept(options)
    rules = suppressions(options)
    profile = load_costs(options.costs)
    output = open_output(options.json)
    with traced(options, "callers", keep=True) as (trace, status):
        with progress(f"replaying {trace.path}", trace.size) as update:
            found = sites(trace, progress=update)
        tell_loss(trace, found.loss)
    result = callers(
        found, options.by, inverted=options.inverted, suppressions=rules, profile=profile
    )
    hand_over(
        options, output, lambda: as_json(result, found.stacks),
        lambda width: as_text(result, found.stacks, width, options.limit),
    )  # fmt: skip
    return status
