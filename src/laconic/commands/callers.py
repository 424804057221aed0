"""laconic callers: which sites cost most."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from laconic.commands.options import (
    accept_source,
    add_costs,
    add_frames,
    add_json,
    add_limit,
    add_selection,
    add_suppressions,
    check_source,
    load_costs,
    selection,
    suppressions,
)

DESCRIPTION = """\
Names the places in the program whose memory calls cost most in an SGX2 enclave
under today's rule (every-call), and what remains of that under laconic. A place
costs its calls, and the first touch of each page that they mapped. A trace has
the stacks of all calls unless it was recorded with --stacks redundant or none;
an imported log has them if strace -k wrote it.
"""
EPILOG = """\
examples:
  laconic callers a.trace
  laconic callers a.trace --by line --limit 20
  laconic callers a.trace --between 2s 5s --program 'python*' --call mmap
  laconic callers a.trace --sort redundant --json callers.json
  laconic callers --keep json.trace -- python3 -c 'import json'

What ld.so and the C library do in every program is one line each. A file
laconic.toml in the working directory names more that is to be one line:
  [[suppress]]
  reason = "the allocator's own business"
  call = "madvise"
  module = "libjemalloc.so*"
(also: function, program; shell patterns). --no-suppressions shows each site.

exit codes: 0; 2 a wrong option, a trace or a suppression file that cannot be
read; after  -- CMD  the program's own
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `callers`."""
    from laconic.analysis.callers import BY, COST, SORTS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic callers [--by {function,module,line,own-line,program,stack}]\n"
        "                       [--inverted]\n"
        "                       [--sort {cost,redundant,calls,host-calls,pages}]\n"
        "                       [--limit N | --all] [--frames N|all] [-v]\n"
        "                       [--suppressions FILE | --no-suppressions]\n"
        "                       [--costs NAME|FILE] [--json FILE] [--between START END]\n"
        "                       [--pid P] [--program PATTERN] [--call NAME]\n"
        "                       FILE | [--keep TRACE [--force]] -- CMD [ARG ...]"
    )
    parser.add_argument(
        "--by",
        choices=BY,
        default="function",
        help="what sites are put together by; own-line: the innermost line of the program's own "
        "code",
    )
    parser.add_argument(
        "--sort", choices=SORTS, default=COST, help="what comes first (default: cost)"
    )
    parser.add_argument(
        "--inverted",
        action="store_true",
        help="count calls under every function of their stack, main included",
    )
    how_many = parser.add_mutually_exclusive_group()
    add_limit(how_many)
    how_many.add_argument("--all", action="store_true", help="show all places")
    add_frames(parser)
    add_suppressions(parser)
    add_selection(parser)
    add_costs(parser)
    add_json(parser)
    accept_source(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the callers."""
    from laconic.analysis.advise.hints import Hints
    from laconic.analysis.callers import callers
    from laconic.analysis.headline import headline
    from laconic.analysis.sites import sites
    from laconic.commands.output import open_output
    from laconic.commands.progress import progress
    from laconic.commands.source import hand_over, traced
    from laconic.commands.traces import tell_loss
    from laconic.errors import LaconicError
    from laconic.report.callers import Style, as_json, as_text

    if options.inverted and options.by not in ("function", "module", "line"):
        raise LaconicError(
            f"--inverted counts under functions, lines or modules, not --by {options.by}: leave "
            "one out"
        )
    check_source(options, "callers")
    rules = suppressions(options)
    chosen = selection(options)
    profile = load_costs(options.costs)
    output = open_output(options.json)
    with traced(options, "callers") as (trace, status):
        with progress(f"replaying {trace.path}", trace.size) as update:
            # A part of the calls does not determine what a manifest needs.
            hints = Hints() if chosen is None else None
            found = sites(trace, progress=update, selection=chosen, hints=hints, profile=profile)
        tell_loss(trace, found.loss)
    result = callers(
        found,
        options.by,
        sort=options.sort,
        inverted=options.inverted,
        suppressions=rules,
        profile=profile,
    )
    first = headline(found, rules, profile)
    limit = None if options.all else options.limit
    style = Style(options.frames, options.verbose)
    hand_over(
        options,
        output,
        lambda: as_json(result, found.stacks, first),
        lambda width: (
            as_text(result, found.stacks, width, limit, first, style)
            + _next(options, found.hints, width)
        ),
    )
    return status


def _next(options: argparse.Namespace, hints: Sequence[str], width: int) -> str:
    # Name the command that shows what to do, if there is something.
    if not hints:
        return ""
    from laconic.report.names import filled

    if options.command is not None and options.keep is None:
        words = ["--", *options.command]
    else:
        words = [options.keep or options.words[0]]
    what = filled(f"({', '.join(hints)})", width, "  ")
    line = f"next: laconic advise {shlex.join(words)}"
    if words[0] == "--" and len(line) > width:
        line = "next: laconic advise -- CMD"
    return "\n".join(["", line, *what, ""])
