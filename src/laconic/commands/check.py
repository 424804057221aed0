"""laconic check: a gate for CI."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from laconic.commands.options import (
    accept_source,
    add_enclave,
    add_json,
    add_limit,
    add_order,
    add_selection,
    add_suppressions,
    check_source,
    enclave,
    load_costs,
    selection,
    suppressions,
    whole,
)
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.baseline import EnclaveBasis, RunFigures
    from laconic.analysis.check import Limit
    from laconic.commands.output import Output

DESCRIPTION = """\
Holds a trace, or a program that is run and recorded, to limits: how many memory
calls may change nothing, how many host calls there may be, and that it is no
worse than a baseline. Says for each limit whether it was kept, and where it was
not, which places in the program make the calls: those first that cost most in
an SGX2 enclave.
"""
EPILOG = """\
examples:
  laconic check a.trace --max-redundant 5%
  laconic check --max-host-calls 2000 --keep a.trace -- python3 -c 'import json'
  laconic check --write-baseline base.json -- python3 -c 'import json'
  laconic check a.trace --max-cycles 800M --costs published
  laconic check --baseline base.json --tolerance 2% -- python3 -c 'import json'

--max-redundant is a share of all memory calls (5%) or a count (20). Suppressed
calls do not count: laconic callers --help says what these are. Worse than the
baseline is: more redundant calls, in all or from any one site, or more host
calls in all. A baseline may also be the JSON of laconic run, replay, callers or
check.

exit codes: 0 all limits are kept; 1 one is not; 2 a wrong option, a file that
cannot be read or written, a trace that is not complete and keeps them as far as
it goes; after  -- CMD  the program's own where that is not 0
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `check`."""
    from laconic.analysis.check import SORTS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic check [--max-redundant N|P%%] [--max-host-calls N]\n"
        "                     [--max-enclave-host-calls N] [--max-cycles N]\n"
        "                     [--enclave] [--strategy NAME] [--costs NAME|FILE]\n"
        "                     [--baseline FILE [--tolerance N|P%%]]\n"
        "                     [--write-baseline FILE] [--github] [--limit N] [-v]\n"
        "                     [--sort {cost,redundant,calls,host-calls,limit}]\n"
        "                     [--suppressions FILE | --no-suppressions]\n"
        "                     [--between START END] [--pid P] [--program PATTERN]\n"
        "                     [--call NAME]\n"
        "                     [--json FILE]\n"
        "                     FILE | [--keep TRACE [--force]] -- CMD [ARG ...]"
    )
    parser.add_argument(
        "--max-redundant", type=_limit, metavar="N|P%", help="how many calls may change nothing"
    )
    parser.add_argument(
        "--max-host-calls",
        type=whole("number of host calls", 0),
        metavar="N",
        help="how many host calls there may be",
    )
    parser.add_argument(
        "--max-enclave-host-calls",
        type=whole("number of host calls", 0),
        metavar="N",
        help="how many host calls the enclave may make",
    )
    parser.add_argument(
        "--max-cycles",
        type=_cycles,
        metavar="N",
        help="how many cycles the enclave may cost, as in 800M or 4.5G: the high end of the "
        "estimate",
    )
    add_enclave(parser)
    add_order(parser, SORTS)
    parser.add_argument("--baseline", metavar="FILE", help="what the run must not be worse than")
    parser.add_argument(
        "--tolerance",
        type=_limit,
        metavar="N|P%",
        help="how much more than in the baseline may be (default: 0)",
    )
    parser.add_argument(
        "--write-baseline",
        metavar="FILE",
        help="keep the figures of this run for --baseline, if all limits are kept",
    )
    parser.add_argument(
        "--github", action="store_true", help="add annotations for GitHub Actions (::error ::...)"
    )
    add_limit(parser, 3)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show all places, with whole stacks"
    )
    add_suppressions(parser)
    add_selection(parser)
    add_json(parser)
    accept_source(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Check the limits; return 1 if one is exceeded, but the program's exit status takes
    precedence."""
    from laconic.analysis import check as gate
    from laconic.commands.figures import read_figures, trace_figures
    from laconic.commands.output import check_outputs, open_output, tell
    from laconic.commands.source import hand_over, traced
    from laconic.commands.traces import show
    from laconic.report.check import as_github, as_json, as_text

    wanted = (
        options.max_redundant,
        options.max_host_calls,
        options.max_enclave_host_calls,
        options.max_cycles,
        options.baseline,
        options.write_baseline,
    )
    if all(value is None for value in wanted):
        raise LaconicError(
            "there is nothing to check: give a limit, as in  --max-redundant 5%, or "
            "--write-baseline"
        )
    if options.tolerance is not None and options.baseline is None:
        raise LaconicError("--tolerance is about a baseline: add --baseline FILE")
    check_source(options, "check --max-redundant 5%")
    outputs = {
        "--keep": options.keep,
        "--json": options.json,
        "--write-baseline": options.write_baseline,
    }
    check_outputs(outputs, options.words)
    check_outputs({"--json": options.json}, [options.baseline or "-"])
    rules = suppressions(options)
    chosen = selection(options)
    # All errors in the options are reported before the program runs.
    limited = options.max_enclave_host_calls is not None or options.max_cycles is not None
    model = enclave(options, wanted=True) if options.enclave or limited else None
    limits = gate.Limits(
        options.max_redundant,
        options.max_host_calls,
        max_enclave_host_calls=options.max_enclave_host_calls,
        max_cycles=options.max_cycles,
    )
    if options.baseline is not None:
        before, _ = read_figures(options.baseline, rules, chosen, model)
        if model is None and not before.is_baseline:
            # The costs of callers are not limits, unless an option makes them limits.
            before.enclave = None
        model = _same_enclave(options, before, model)
        limits = limits._replace(baseline=before, tolerance=options.tolerance or gate.NONE)
    if model is None:
        enclave(options, wanted=False)  # reports options that require an enclave
    output = open_output(options.json)
    baseline = open_output(options.write_baseline, "--write-baseline")
    with traced(options, "check") as (trace, status):
        figures, stacks = trace_figures(
            trace, rules, selection=chosen, enclave=model or _order(options.sort)
        )
        verdicts = gate.check(figures, limits, options.sort)
        kept = all(verdict.kept for verdict in verdicts)
        if baseline is not None and kept and not status and trace.loss is None:
            written = figures if model is not None else replace(figures, enclave=None)
            _write_baseline(written, baseline, options.write_baseline)
    limit = None if options.verbose else options.limit
    hand_over(
        options,
        output,
        lambda: as_json(figures, verdicts, stacks),
        lambda width: as_text(figures, verdicts, stacks, width, limit, options.verbose),
    )
    if options.github:
        root = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
        # If standard output belongs to a program or to the JSON, nothing else is written there.
        say = show if options.command is None and options.json != "-" else tell
        say(as_github(figures, verdicts, stacks, root, os.path.isfile, options.limit))
    if kept and not status and trace.loss is not None:
        raise LaconicError(
            "the trace is not complete, and what is missing may go over the limits: record it again"
        )
    return status or int(not kept)


def _order(sort: str) -> EnclaveBasis | None:
    # Return the enclave by whose costs offenders are sorted, if no enclave is limited.
    from laconic.analysis.baseline import EnclaveBasis
    from laconic.analysis.callers import COST, HOST_CALLS
    from laconic.analysis.sites import EVERY_CALL

    return EnclaveBasis(EVERY_CALL, load_costs(None)) if sort in (COST, HOST_CALLS) else None


def _same_enclave(
    options: argparse.Namespace, before: RunFigures, model: EnclaveBasis | None
) -> EnclaveBasis | None:
    # Use the baseline's enclave, unless options name another one.
    if before.enclave is None:
        if options.enclave:
            raise LaconicError(
                f"--baseline {options.baseline!r} has no enclave figures; write it again with "
                "--enclave, or leave --enclave out"
            )
        return model
    model = model or enclave(options, wanted=True)
    assert model is not None
    now = model.strategy, model.profile.name
    if now != before.enclave:
        strategy, costs = before.enclave
        raise LaconicError(
            f"--baseline {options.baseline!r} has the enclave figures of --strategy {strategy} "
            f"--costs {costs}; give these options, or write it again"
        )
    return model


def _cycles(text: str) -> int:
    from laconic.analysis.check import parse_cycles

    try:
        return parse_cycles(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _write_baseline(figures: RunFigures, output: Output, path: str) -> None:
    import json

    from laconic.analysis.baseline import as_json

    try:
        with output as file:
            json.dump(as_json(figures), file, indent=1)
            file.write("\n")
    except OSError as error:
        raise LaconicError(
            f"--write-baseline {path!r} could not be written, {error.strerror}: name another file"
        ) from None


def _limit(text: str) -> Limit:
    from laconic.analysis.check import parse_limit

    try:
        return parse_limit(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
