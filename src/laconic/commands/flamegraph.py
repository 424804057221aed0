"""laconic flamegraph: the stacks of memory calls, for the tools that draw them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from laconic.commands.options import (
    accept_source,
    add_costs,
    add_json,
    add_selection,
    add_suppressions,
    check_source,
    load_costs,
    selection,
    suppressions,
)
from laconic.errors import LaconicError
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.analysis.flamegraph import Flames
    from laconic.trace import Trace

DESCRIPTION = """\
Writes the stacks of a trace's memory calls, each with what it costs in an SGX2
enclave under today's rule (every-call): as folded stacks, which flamegraph.pl,
inferno and many others read; as JSON for speedscope.app; or as an SVG that any
browser shows. A trace has stacks where it was recorded with --stacks all, or
where strace -k wrote the log.
"""
EPILOG = """\
examples:
  laconic flamegraph a.trace --to svg -o a.svg
  laconic flamegraph a.trace --to folded -o - | flamegraph.pl > a.svg
  laconic flamegraph a.trace --to speedscope --weight pages -o a.json
  laconic flamegraph a.trace --redundant --weight calls --json stacks.json
  laconic flamegraph --to svg -o a.svg -- python3 -c 'import json'

--json is Laconic's own form, beside a file that --to and -o name or alone.
Weights: cycles (an estimate, the middle of the cost profile), host-calls and
pages are what an enclave spends on the calls and their pages under every-call.

exit codes: 0; 2 a wrong option, a trace that cannot be read, a file that cannot
be written; after  -- CMD  the program's own
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `flamegraph`."""
    from laconic.analysis.flamegraph import CYCLES, WEIGHTS
    from laconic.report.flamegraph import FORMATS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic flamegraph [--to {folded,speedscope,svg} -o OUT [--force]]\n"
        "                          [--json FILE] [--redundant]\n"
        "                          [--weight {cycles,calls,host-calls,pages}]\n"
        "                          [--costs NAME|FILE]\n"
        "                          [--suppressions FILE | --no-suppressions]\n"
        "                          [--between START END] [--pid P] [--program PATTERN]\n"
        "                          [--call NAME]\n"
        "                          FILE | [--keep TRACE] -- CMD [ARG ...]"
    )
    parser.add_argument("--to", choices=FORMATS, help="the format")
    parser.add_argument("-o", "--output", metavar="OUT", help="the file; - is standard output")
    parser.add_argument("--redundant", action="store_true", help="of redundant calls only")
    parser.add_argument(
        "--weight", choices=WEIGHTS, default=CYCLES, help="what a stack weighs (default: cycles)"
    )
    add_costs(parser)
    add_suppressions(parser)
    add_selection(parser)
    add_json(parser, "the stacks and their weights")
    accept_source(parser, force="overwrite the files that -o and --keep name")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the file; report on standard error what was written and what is missing."""
    from laconic.analysis.flamegraph import CYCLES, flames
    from laconic.analysis.sites import EVERY_CALL, sites
    from laconic.commands.output import open_output, tell, write_json
    from laconic.commands.progress import progress
    from laconic.commands.source import selection_as_json, selection_as_text, traced
    from laconic.commands.traces import tell_loss
    from laconic.report.flamegraph import as_json

    _check_options(options)
    check_source(options, "flamegraph --to svg -o a.svg")
    rules = suppressions(options)
    chosen = selection(options)
    profile = load_costs(options.costs) if options.weight == CYCLES else None
    _check_output(options)
    output = open_output(options.json)
    with traced(options, "flamegraph --to svg -o a.svg") as (trace, status):
        with progress(f"replaying {trace.path}", trace.size) as update:
            found = sites(trace, (EVERY_CALL,), progress=update, selection=chosen)
        tell_loss(trace, found.loss)
        made = flames(
            found,
            options.weight,
            redundant=options.redundant,
            suppressions=rules,
            profile=profile,
        )
        if options.to is not None:
            _write(_text(made, options.to, trace), options)
    missing = {module.path: why for module, why in found.stacks.symbolizer.missing.items()}
    if output is not None:
        write_json(
            {**as_json(made, missing), **selection_as_json(chosen)},
            output,
            options.json,
            program=options.command is not None,
        )
    tell(selection_as_text(chosen))
    _tell(made, missing, options.output or options.json)
    return status


def _check_options(options: argparse.Namespace) -> None:
    from laconic.analysis.flamegraph import CYCLES

    if options.to is None and options.json is None:
        raise LaconicError(
            "no file was named: give --to FORMAT -o OUT, as in  --to svg -o a.svg, or --json FILE"
        )
    if (options.to is None) != (options.output is None):
        raise LaconicError("--to and -o go together: give both, as in  --to svg -o a.svg")
    if options.output is None and options.keep is None and options.force:
        raise LaconicError("--force overwrites the file that -o names: add -o OUT, or leave it out")
    if options.output == options.json == "-":
        raise LaconicError(
            "-o - and --json - would both write to standard output: give one of them a file"
        )
    if options.costs is not None and options.weight != CYCLES:
        raise LaconicError(f"--costs {options.costs!r} is about cycles: leave out --weight")


def _check_output(options: argparse.Namespace) -> None:
    # Check the path first: a long replay, or a run, must not be lost to a wrong path.
    from laconic.commands.output import is_same_file, spare_traces

    path = options.output
    if path in (None, "-") or not os.path.exists(path):
        return
    trace = options.words[0] if options.words else None
    if trace is not None and is_same_file(path, trace):
        raise LaconicError(f"-o {path!r} is the trace itself: name another file")
    if not options.force:
        raise LaconicError(f"-o {path!r} exists already: name another file, or give --force")
    spare_traces("-o", path)


def _text(made: Flames, to: str, trace: Trace) -> str:
    from laconic import __version__
    from laconic.report.flamegraph import as_folded, as_speedscope, as_svg

    if to == "folded":
        return as_folded(made)
    if to == "svg":
        return as_svg(made)
    return as_speedscope(made, os.path.basename(trace.path), __version__)


def _write(text: str, options: argparse.Namespace) -> None:
    from laconic.commands.output import write_all
    from laconic.commands.traces import show
    from laconic.trace.writer import create

    path = options.output
    if path == "-":
        show(text)
        return
    fd = create(path, options.force)
    try:
        write_all(fd, text)
    except OSError as error:
        os.unlink(path)
        raise LaconicError(
            f"-o {path!r} could not be written, {error.strerror}, and what there was of it has "
            "been removed: free some space, or name another place"
        ) from None
    finally:
        os.close(fd)


def _tell(made: Flames, missing: Mapping[str, str], path: str) -> None:
    from laconic.commands.output import tell, width
    from laconic.report.flamegraph import amount, title
    from laconic.report.names import filled

    columns = width(2)

    def say(text: str) -> None:
        tell("\n".join(filled(f"laconic: {text}", columns)) + "\n")

    where = "standard output" if path == "-" else path
    stacks = plural(len(made.stacks), "stack")
    say(f"wrote {where}: {title(made)}, {amount(made, made.total)} in {stacks}")
    if made.stackless:
        say(
            f"{made.stackless:,} calls have no stack: record with  laconic run -o FILE --stacks all"
        )
    if made.hidden:
        say(
            f"{sum(made.hidden.values()):,} redundant calls are suppressed (--no-suppressions "
            "shows them)"
        )
    for module, why in sorted(missing.items()):
        say(f"no symbols of {module}: {why}")
