"""laconic html: a trace, or the difference of two, as one page for a browser."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from laconic.commands.options import (
    accept_source,
    add_costs,
    add_json,
    add_selection,
    add_suppressions,
    check_kept,
    check_source,
    load_costs,
    selection,
    suppressions,
)
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.pair import Pair
    from laconic.analysis.suppressions import Suppression
    from laconic.analysis.timeline.collect import Page
    from laconic.sgx.costs import CostProfile
    from laconic.trace import Trace
    from laconic.trace.selection import Selection

DESCRIPTION = """\
Writes one HTML file that shows a trace: first what costs most in an enclave and
why, then the cost of each site, the call graph, the strategies compared, the
calls over time and the address spaces. It needs no network. With -- CMD the
program is run and recorded first, its stacks too; its output and exit status
are its own. Of two traces, A and B, the page shows what became better or worse.
"""
EPILOG = """\
examples:
  laconic html a.trace -o report.html
  laconic html a.trace -o report.html --costs pie-j5005 --json report.json
  laconic html a.trace -o report.html --no-suppressions
  laconic html -o report.html -- python3 -c 'import json'
  laconic html before.trace after.trace -o change.html

What laconic.toml here and the built-in suppressions match, as in  laconic
callers, has one row for each reason; all figures and pictures have it. The
sites of ld.so are one of the costliest sites. --no-suppressions shows all sites
one by one.

exit codes:
  0    done; a trace that is not complete is shown up to where it ends
  2    a wrong option, a trace or a suppression file that cannot be read, a page
       that cannot be written
  with -- CMD the program's own (126, 127: it cannot be executed, was not found)
"""
_EXAMPLE = "html -o a.html"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `html`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic html [-o REPORT] [--force] [--costs NAME|FILE]\n"
        "                    [--suppressions FILE | --no-suppressions]\n"
        "                    [--json FILE] [--between START END] [--pid P]\n"
        "                    [--program PATTERN] [--call NAME]\n"
        "                    FILE | A B | [--keep TRACE] -- CMD [ARG ...]"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="REPORT",
        help="the page to write; - is standard output (default, unless that is a terminal)",
    )
    add_costs(parser)
    add_suppressions(parser)
    add_selection(parser)
    add_json(parser, "what the page holds")
    accept_source(parser, force="overwrite the files that -o and --keep name")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the page; return the exit status of CMD, if there is one."""
    from laconic.commands.output import open_output, spare_traces, tell, write_json
    from laconic.commands.source import selection_as_json, selection_as_text, traced
    from laconic.report.html import as_html, as_json
    from laconic.trace.writer import create, remove

    _choose_output(options)
    is_pair = options.command is None and len(options.words) == 2
    if is_pair:
        check_kept(options)
    else:
        check_source(options, _EXAMPLE)
    if options.force:
        spare_traces("-o", options.output)
    rules = suppressions(options)
    profile = load_costs(options.costs)
    chosen = selection(options)
    # A wrong path must not lose a run, and a wrong trace must not lose a page.
    fd = None
    status = 0
    page: Page | Pair
    try:
        if options.command is not None:
            fd = create(options.output, options.force)
            output = open_output(options.json)
        if is_pair:
            page = _compare(options.words, profile, rules, chosen)
        else:
            with traced(options, _EXAMPLE) as (trace, status):
                page = _collect(trace, profile, rules, chosen)
        if fd is None:
            fd = create(options.output, options.force)
            output = open_output(options.json)
        made = as_html(page)
        _write(fd, made, options.output)
    except BaseException:
        if fd is not None:
            # An incomplete page is removed.
            remove(options.output)
        raise
    finally:
        if fd is not None:
            os.close(fd)
    if output is not None:
        result = {**as_json(page), **selection_as_json(chosen)}
        write_json(result, output, options.json, program=options.command is not None)
    tell(selection_as_text(chosen))
    where = "standard output" if options.output == "-" else options.output
    tell(f"laconic: wrote {where}: {len(made):,} bytes; open it in a browser\n")
    if hidden := _hidden(page):
        calls = f"{hidden:,} redundant call{' is' if hidden == 1 else 's are'}"
        tell(f"laconic: {calls} hidden in it (--no-suppressions shows them)\n")
    return status


def _choose_output(options: argparse.Namespace) -> None:
    if options.output is not None:
        return
    if options.command is not None:
        raise LaconicError("name the page with -o, because standard output is the program's")
    if sys.stdout.isatty():
        raise LaconicError("standard output is a terminal; name the page with -o, as in  -o a.html")
    options.output = "-"


def _collect(
    trace: Trace,
    profile: CostProfile,
    rules: Sequence[Suppression],
    chosen: Selection | None,
) -> Page:
    from laconic.analysis.timeline.collect import collect
    from laconic.commands.progress import progress
    from laconic.commands.traces import tell_loss

    with progress(f"replaying {trace.path}", trace.size) as update:
        page = collect(trace, profile, update, suppressions=rules, selection=chosen)
    tell_loss(trace, page.loss)
    return page


def _compare(
    paths: Sequence[str],
    profile: CostProfile,
    rules: Sequence[Suppression],
    chosen: Selection | None,
) -> Pair:
    from laconic.analysis.pair import pair
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace, tell_loss

    if list(paths) == ["-", "-"]:
        raise LaconicError("standard input can be only one of the two runs; name a file for one")
    before, after = (open_trace(path) for path in paths)
    total = before.size + after.size
    with progress(f"replaying {before.path} and {after.path}", total) as update:
        found = pair(before, after, profile, rules, progress=update, selection=chosen)
    for trace, side in ((before, found.before), (after, found.after)):
        tell_loss(trace, side.sites.loss)
    return found


def _hidden(page: Page | Pair) -> int:
    # Return the number of suppressed redundant calls.
    from laconic.analysis.pair import Pair

    if isinstance(page, Pair):
        return sum(page.difference.hidden)
    return sum(page.sites[number].redundant for number in page.hidden)


def _write(fd: int, data: bytes, path: str) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError as error:
        raise LaconicError(
            f"-o {path!r} could not be written, {error.strerror}, and what there was of it has "
            "been removed: free some space, or name another place"
        ) from None
