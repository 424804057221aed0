"""laconic explain: one memory call, in plain words."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Explains one memory call of a trace: who made it, what was asked, the address
space around it before and after, what differed and why, what was said to the
host and why, and what an SGX2 enclave would do for it under each strategy.
"""
EPILOG = """\
examples:
  laconic explain a.trace 1204
  laconic explain a.trace @0.25
  laconic explain a.trace mprotect:3 --json call.json

EVENT is the number of a row, as replay --check, export and maps --at have it;
@SECONDS, the first memory call at that time or later; or CALL:N, the Nth call
of that name.

exit codes: 0; 2 a trace that cannot be read, an event that is not there
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `explain`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument("event", metavar="EVENT", help="a number, @SECONDS or CALL:N")
    parser.add_argument("--json", metavar="OUT", help="write all of it to OUT as JSON; - is standard output")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Prints the explanation."""
    from laconic.commands.output import open_output, width, write_json
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace, show, tell_loss
    from laconic.errors import LaconicError
    from laconic.explain import explain
    from laconic.report.explain import as_json, as_text

    trace = open_trace(options.trace)
    output = open_output(options.json)
    try:
        with progress(f"reading {options.trace}", trace.size) as update:
            told = explain(trace, options.event, update)
    except LaconicError:
        tell_loss(trace)
        raise
    tell_loss(trace, told.loss)
    if output is not None:
        write_json(as_json(told), output, options.json)
    if options.json != "-":
        show(as_text(told, width(1)))
    return 0
