"""laconic replay: recorded calls, on the same bookkeeping, under any strategy."""

from __future__ import annotations

import argparse

from laconic.commands.enclaves import enclaves
from laconic.commands.options import add_costs, load_costs
from laconic.strategies import NAMES, base_name, check_name

DESCRIPTION = """\
Feeds the calls of a trace to the bookkeeping that `laconic run` uses and prints
the same summary. Without --strategy by the rule that the trace was made with.
"""
EPILOG = """\
examples:
  laconic replay a.trace
  laconic replay a.trace --strategy every-call --json figures.json
  laconic replay a.trace --check
  laconic replay a.trace --host sgx2 --strategy classify --costs pie-j5005

exit codes: 0; 1 where --check found results that the model does not explain
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `replay`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument("--strategy", metavar="S", help=", ".join(NAMES))
    parser.add_argument(
        "--host",
        choices=("linux", "sgx2"),
        default="linux",
        help="linux (default): the system calls; sgx2: what the strategy costs in SGX2 enclaves, "
        "beside every-call",
    )
    add_costs(parser)
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures to FILE as JSON; - is standard output"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare each result with the recorded one; say of each difference whether the model "
        "is wrong, the trace lost something, or its beginning is not known",
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Replay the trace and print the figures."""
    from laconic.commands.output import open_output, width, write_json
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace, show, tell_loss
    from laconic.errors import LaconicError
    from laconic.replay import replay_trace
    from laconic.replay.check import MODEL_ERROR
    from laconic.report.replay import as_json, as_text

    if options.strategy is not None:
        check_name(options.strategy, options.host)
    sgx2 = options.host == "sgx2"
    if options.costs is not None and not sgx2:
        raise LaconicError(f"--costs {options.costs!r} is about enclaves: add --host sgx2")
    profile = load_costs(options.costs) if sgx2 else None
    trace = open_trace(options.trace)
    output = open_output(options.json)
    with progress(f"replaying {options.trace}", trace.size) as update:
        replayed = replay_trace(trace, options.strategy, update, check=options.check)
    tell_loss(trace, replayed.loss)
    figures = as_json(trace, replayed)
    if profile is not None:
        recorded = replayed.strategy if base_name(replayed.strategy) in NAMES else "laconic"
        rule = options.strategy or recorded
        figures["enclave"] = enclaves(trace, list(dict.fromkeys(("every-call", rule))), profile)[0]
    if output is not None:
        write_json(figures, output, options.json)
    if options.json != "-":
        show(as_text(figures, width(1)))
    return int(replayed.check is not None and replayed.check.counts[MODEL_ERROR] > 0)
