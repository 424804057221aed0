"""laconic info: the contents of a trace."""

from __future__ import annotations

import argparse

from laconic.commands.options import add_selection, selection

DESCRIPTION = """\
Says what a trace holds: programs, processes, calls by name, time span, whether
it is complete and what it cannot know, size, and how it was made.
"""
EPILOG = """\
examples:
  laconic info a.trace
  laconic info a.trace --json - | python3 -m json.tool
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `info`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument(
        "--json", metavar="FILE", help="write the same to FILE as JSON; - is standard output"
    )
    add_selection(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the contents of the trace; an incomplete trace is reported, but is not a failure."""
    from laconic.analysis.info import contents
    from laconic.commands.output import open_output, write_json
    from laconic.commands.progress import progress
    from laconic.commands.source import selection_as_json, selection_as_text
    from laconic.commands.traces import losses, open_trace, show, tell_loss
    from laconic.report.info import as_json, as_text

    chosen = selection(options)
    trace = open_trace(options.trace)
    output = open_output(options.json)
    with progress(f"reading {options.trace}", trace.size) as update:
        found = contents(trace, update, chosen)
    lost = found.lost.sentences()
    figures = as_json(trace, found, losses(trace, lost)) | selection_as_json(chosen)
    if output is not None:
        write_json(figures, output, options.json)
    if options.json == "-":
        tell_loss(trace, lost)
    else:
        show(selection_as_text(chosen) + as_text(figures))
    return 0
