"""laconic run: a program, on Laconic's bookkeeping."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from laconic.commands.enclaves import enclaves
from laconic.commands.listening import Published, add_listen
from laconic.commands.options import add_costs, add_recording, limit, load_costs
from laconic.commands.output import check_outputs
from laconic.commands.program import place_for, recorder_for, trace_program
from laconic.errors import LaconicError
from laconic.strategies import NAMES, check_name
from laconic.trace.nextsteps import next_steps

if TYPE_CHECKING:
    from laconic.sgx.costs import CostProfile
    from laconic.tracer.record import Recorder

DESCRIPTION = """\
Runs CMD and all that it starts on exact VMA bookkeeping. The program behaves
as it always does; its memory calls reach the kernel only where they change
something. Afterwards a table on standard error shows the memory calls, the host
calls that carried them out, and the calls that were elided.
"""

EPILOG = """\
examples:
  laconic run -- python3 -c 'import json'
  laconic run --verify exit --json figures.json -- make -j2
  laconic run --observe -- redis-server --port 7777
  laconic run -o redis.trace -- redis-server --port 7777
  laconic run -o - -- python3 -c 'import json' | laconic callers -
  laconic run --host sgx2 -- python3 -c 'import json'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `run`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic run [-o FILE [--force] [--redact] [--stacks WHICH]\n"
        "                   [--for TIME] [--until-size SIZE]]\n"
        "                   [--json FILE] [--verify {off,exit,call}] [--observe]\n"
        "                   [--strategy NAME]\n"
        "                   [--host {linux,sgx2}] [--costs NAME|FILE] [--quiet] [-v]\n"
        "                   [--listen [ADDRESS]]\n"
        "                   [--] CMD [ARG ...]"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="record a trace; - is standard output, and the program's goes to standard error",
    )
    add_recording(parser)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, as JSON")
    parser.add_argument(
        "--verify",
        choices=("off", "exit", "call"),
        default="off",
        help="compare bookkeeping with the kernel's maps at each process's end, or after every "
        "memory call; exit 70 where they differ",
    )
    parser.add_argument(
        "--observe",
        action="store_true",
        help="change nothing: count the host calls that would have been made",
    )
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        default="laconic",
        help="laconic (default): a host call only for changes; every-call: a host call for every "
        "call, as library OSes make today; the others are rules for an enclave: "
        f"{', '.join(NAMES)}",
    )
    parser.add_argument(
        "--host",
        choices=("linux", "sgx2"),
        default="linux",
        help="sgx2: the program runs on Linux as ever, and afterwards what the strategy would have "
        "cost in SGX2 enclaves is shown, beside every-call",
    )
    add_costs(parser)
    add_listen(parser)
    parser.add_argument("--quiet", action="store_true", help="print no table")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="with --verify: print the complete maps if they differ, not only where they do",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="CMD", help="the program and its arguments"
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Run the program; return its exit status, or 70 if a check failed."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if command is options.command and command and command[0].startswith("-"):
        raise LaconicError(
            f"there is no option {command[0]!r}; see  laconic help run; a program's name goes "
            "after --"
        )
    if not command:
        raise LaconicError(
            "no command was given: name a program, as in  laconic run -- python3 -c 'print(1)'"
        )
    if options.observe and options.strategy == "every-call":
        raise LaconicError(
            "--observe changes nothing and --strategy every-call says every call: choose one of "
            "them"
        )
    if options.output is None and (options.force or options.redact or options.stacks):
        raise LaconicError("--force, --redact and --stacks are about a trace: name it with -o FILE")
    if options.output is None and options.seconds is not None:
        raise LaconicError("--for is about a trace: name it with -o FILE")
    if options.listen is not None and options.stacks not in (None, "all"):
        raise LaconicError(
            f"--listen shows the sites of all calls, and --stacks {options.stacks} takes fewer; "
            "leave out one of them"
        )
    if options.listen is not None and options.redact:
        raise LaconicError("--listen shows the names that --redact hides; leave out one of them")
    check_outputs({"-o": options.output, "--json": options.json})
    if options.output == "-":
        _check_piped(options)
    profile = _profile(options)
    if options.output is None and profile is None:
        return _run(options, command, None, None)
    with place_for(options.output) as path:
        return _run(options, command, path, profile)


def _check_piped(options: argparse.Namespace) -> None:
    if options.json == "-":
        raise LaconicError(
            "-o - and --json - would both write to standard output; name a file for one of them"
        )
    if options.host == "sgx2":
        raise LaconicError(
            "--host sgx2 reads the trace again, which -o - does not allow; name a file with -o, or "
            "use  laconic run -o - -- CMD | laconic compare -"
        )


def _give_up_standard_output() -> None:
    # The trace goes to standard output, through a descriptor of its own; the output of the program
    # must not get in between.
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _profile(options: argparse.Namespace) -> CostProfile | None:
    # Load the costs of an enclave, if one is requested.
    check_name(options.strategy, options.host)
    if options.host == "sgx2":
        return load_costs(options.costs)
    if options.costs is not None:
        raise LaconicError(f"--costs {options.costs!r} is about enclaves: add --host sgx2")
    return None


def _run(
    options: argparse.Namespace, command: list[str], path: str | None, profile: CostProfile | None
) -> int:
    from laconic.commands.output import announce, open_output, tell, width, write_json
    from laconic.commands.progress import waiting
    from laconic.memory.ledger import Ledger
    from laconic.strategies import linux_rule
    from laconic.tracer.loop import Tracer
    from laconic.tracer.mediate import Mediator
    from laconic.tracer.verify import Checker

    on_linux = options.strategy
    if options.host == "sgx2" and on_linux != "every-call":
        on_linux = "laconic"  # the program runs on Linux as usual; the strategy is for its enclave
    strategy = "observe" if options.observe else on_linux
    output = open_output(options.json)
    ledger = Ledger(announce=None if options.quiet else announce)
    checker = Checker(ledger, options.verify, options.verbose)
    stacks = options.stacks or ("none" if options.output is None else "all")
    published = None if options.listen is None else Published(command, options.listen)
    if published is not None:
        stacks = "none"  # the feed captures them
    recorder = (
        path
        and recorder_for(
            command,
            strategy,
            path,
            force=options.force,
            redact=options.redact,
            stacks=stacks,
            limit=limit(options),
        )
    ) or None
    if options.output == "-":
        _give_up_standard_output()
    if published is not None:
        recorder = published.follow(recorder or None)
    mediator = Mediator(linux_rule(on_linux), ledger, checker, options.observe, recorder)
    if published is None:
        tracer = Tracer(mediator, waiting)
    else:
        tracer = published.tracer(mediator, waiting)
    status, seconds = trace_program(tracer, command, recorder)
    if recorder is not None:
        recorder.finish(status, ledger, seconds, options.verify)
    if published is not None:
        published.end(status, ledger.notes)

    from laconic.report.run import as_json, as_text

    figures = as_json(ledger, command, status, strategy, options.verify, seconds)
    enclave = None if profile is None or path is None else _enclave(path, options.strategy, profile)
    if enclave is not None:
        figures["enclave"] = enclave
    if output is not None:
        write_json(figures, output, options.json, program=True)
    if not options.quiet:
        tell(as_text(figures, width(2)))
        if enclave is not None:
            from laconic.report import compare

            tell(compare.as_text(enclave, width(2)))
    if (
        recorder is not None
        and options.output is not None
        and (recorder.failure is not None or not options.quiet)
    ):
        tell(_recorded(recorder))
    if checker.mismatch is not None:
        tell(
            f"laconic: bookkeeping and host differ, {ledger.mismatches} of {ledger.checks} checks "
            f"failed; the program itself ran to its end with exit status {status}.\n"
            f"The first: {checker.mismatch}\n"
            "This is a defect of Laconic: please report it with the lines above.\n"
        )
        return 70
    return status


def _enclave(path: str, rule: str, profile: CostProfile) -> dict[str, Any] | None:
    # The program has run: whatever happens here, its exit status is returned.
    from laconic.commands.output import tell
    from laconic.commands.traces import open_trace

    try:
        return enclaves(open_trace(path), list(dict.fromkeys(("every-call", rule))), profile)[0]
    except LaconicError as error:
        tell(f"laconic: {error}\n")
        return None


def _recorded(recorder: Recorder) -> str:
    import shlex

    path = shlex.quote(recorder.path)
    if recorder.failure is not None:
        return f"laconic: -o {path} {recorder.outcome}\n"
    if path == "-":
        return f"laconic: {recorder.written:,} events in standard output\n"
    return f"laconic: {recorder.written:,} events in {path}\n{next_steps(recorder.path)}\n"
