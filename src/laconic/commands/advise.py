"""laconic advise: what to write in a Gramine manifest, and in a program's own settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from laconic.commands.options import accept_source, add_costs, check_source, load_costs
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.advise.advice import Advice
    from laconic.analysis.advise.figures import AdviceFigures
    from laconic.analysis.advise.trial import Trial
    from laconic.commands.output import Output
    from laconic.sgx.costs import CostProfile

DESCRIPTION = """\
Says what to write in a Gramine manifest for a program (enclave size, EDMM,
threads, stack, heap), and which settings of its allocators and runtimes would
save work in an enclave. Each advice has the measured figure that it rests on.
With -- CMD the program is run and recorded first; its output and exit status
are its own, and the advice goes to standard error.
"""
EPILOG = """\
examples:
  laconic advise java.trace
  laconic advise java.trace --costs pie-j5005 --json advice.json
  laconic advise -- python3 -c 'import json'
  laconic advise --try -- java -jar app.jar

exit codes:
  0    done; a trace that is not complete counts up to where it ends
  2    a wrong option, or a file that cannot be read
  with -- CMD the program's own (126, 127: it cannot be executed, was not found)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `advise`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic advise [--costs NAME|FILE] [--json FILE] FILE\n"
        "       laconic advise [--costs NAME|FILE] [--json FILE] [--try]\n"
        "                      [--keep TRACE [--force]] -- CMD [ARG ...]"
    )
    parser.add_argument(
        "--try",
        dest="rerun",
        action="store_true",
        help="run CMD again as it is, with each setting that is a variable or a flag, and with all "
        "of them, its output thrown away, and show the figures after",
    )
    add_costs(parser)
    parser.add_argument(
        "--json", metavar="FILE", help="write the advice to FILE as JSON; - is standard output"
    )
    accept_source(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Read the trace, or record the command, and print the advice; return the command's exit
    status."""
    from laconic.commands.output import open_output, tell
    from laconic.commands.program import recorded
    from laconic.commands.traces import open_trace

    if options.rerun and options.command is None:
        raise LaconicError(
            "--try runs the program again, and a trace is none: give it after --, not a file"
        )
    check_source(options, "advise")
    profile = load_costs(options.costs)
    if options.command is None:
        open_trace(options.words[0])  # errors in the trace show before --json creates a file
        return _advise(options, profile, open_output(options.json), options.words[0], None)
    output = open_output(options.json)
    with recorded(options.command, options.keep, options.force) as (status, path):
        try:
            return _advise(options, profile, output, path, status)
        except LaconicError as error:
            # The program has run, so its exit status is returned.
            tell(f"laconic: {error}\n")
            return status


def _advise(
    options: argparse.Namespace,
    profile: CostProfile,
    output: Output | None,
    path: str,
    status: int | None,
) -> int:
    from laconic.analysis.advise.advisor import advise
    from laconic.commands.output import tell, width, write_json
    from laconic.commands.traces import show
    from laconic.report.advise import as_json, as_text

    opened = options.command is None
    figures = _measured(path, profile)
    for sentence in figures.losses:
        tell(f"laconic: {path if opened else 'the trace'!r} is not complete: {sentence}\n")
    if status:
        tell(f"laconic: exit status {status}: the advice is for what the program did until then\n")
    advice = advise(figures, profile)
    tried = _try(options.command, advice, figures, profile, status or 0) if options.rerun else None
    if output is not None:
        known = figures.exit_status if status is None else status
        result = as_json(
            figures, advice, profile, path if opened else None, options.command, known, tried
        )
        write_json(result, output, options.json)
    text = as_text(figures, advice, profile, tried, width(1 if opened else 2))
    if not opened:
        tell(text)
    elif options.json != "-":
        show(text)
    return status or 0


def _measured(path: str, profile: CostProfile) -> AdviceFigures:
    from laconic.analysis.advise.figures import measure
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace

    with progress("replaying the trace", open_trace(path).size) as update:
        return measure(lambda: open_trace(path), profile, update)


def _try(
    command: Sequence[str],
    advice: Sequence[Advice],
    figures: AdviceFigures,
    profile: CostProfile,
    status: int,
) -> Trial:
    # First rerun the unchanged program: a difference between two equal runs is not the effect of a
    # setting. Then try each setting, and all of them together.
    from laconic.analysis.advise.advice import MANIFEST
    from laconic.analysis.advise.trial import After, Trial, after, attempt, exceeded, unchanged
    from laconic.commands.output import tell

    trial, runs = Trial(), [figures]
    settings = {place: each for place, each in enumerate(advice) if each.where != MANIFEST}
    ways = {place: attempt(each, command, {}) for place, each in settings.items()}
    trial.pieces.update({place: how for place, how in ways.items() if isinstance(how, str)})
    chosen = {place: how for place, how in ways.items() if not isinstance(how, str)}
    if not chosen:
        return trial
    count = len(chosen) + 1 + (len(chosen) > 1)
    tell(f"laconic: 1 of {count} reruns: the program as it is, for what two equal runs differ in\n")
    result = _rerun(command, {}, profile)
    if isinstance(result, str):
        trial.again = result
    else:
        trial.again = unchanged(figures, status, *result)
        trial.again.differences.extend(exceeded(advice, result[0], profile))
        runs.append(result[0])
    words, env = list(command), dict[str, str]()
    for number, (place, how) in enumerate(chosen.items(), 2):
        tell(
            f"laconic: {number} of {count} reruns: trying "
            f"{' and '.join(settings[place].line.splitlines())}\n"
        )
        result = _rerun(*how, profile)
        trial.pieces[place] = last = (
            result if isinstance(result, str) else after(runs, status, *result)
        )
        way = attempt(settings[place], words, env)
        words, env = (words, env) if isinstance(way, str) else way
    if len(chosen) > 1:
        tell(f"laconic: {count} of {count} reruns: trying all of these together\n")
        result = _rerun(words, env, profile)
        trial.together = last = result if isinstance(result, str) else after(runs, status, *result)
    if not isinstance(result, str) and isinstance(last, After):
        last.differences.extend(exceeded(advice, result[0], profile))
    return trial


def _rerun(
    command: Sequence[str], env: Mapping[str, str], profile: CostProfile
) -> tuple[AdviceFigures, int, list[str]] | str:
    from laconic.commands.recording import rerun

    with rerun(command, env) as (status, path, last_lines):
        if not os.path.exists(path):
            return f"the rerun could not be recorded: {' '.join(last_lines)}"
        return _measured(path, profile), status, last_lines
