"""The options that several verbs share: how each is declared, and how its value is read."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.suppressions import Suppression
    from laconic.sgx.costs import CostProfile
    from laconic.tracer.record import Limit

# Programs and traces


def accept_command(parser: argparse.ArgumentParser) -> None:
    """Declare that everything after the first `--` is a program and its arguments.

    `parse` stores them as `options.command`.
    """
    parser.set_defaults(accepts_command=True)


def parse(
    parser: argparse.ArgumentParser, verb: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """Parse a command line whose first word names `verb`, a subparser of `parser`.

    If the verb accepts a command, it is taken off the end first, because argparse's own rules for
    `--` differ from release to release. `options.command` is None if there is no `--`.
    """
    if not verb.get_default("accepts_command"):
        return parser.parse_args(arguments)
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(_with_negative_values(words[:place]))
    options.command = words[place + 1 :] if place < len(words) else None
    return options


def _with_negative_values(words: Sequence[str]) -> list[str]:
    # argparse takes -5M for an option, and would not report what is wrong with the value.
    joined: list[str] = []
    for word in words:
        if joined and re.match(r"-\d", word) and re.fullmatch(r"--?[a-z-]+", joined[-1]):
            joined[-1] += f"={word}" if joined[-1].startswith("--") else word
        else:
            joined.append(word)
    return joined


def accept_source(
    parser: argparse.ArgumentParser,
    *,
    keep: bool = False,
    metavar: str = "FILE",
    what: str = "a trace that was recorded or imported",
) -> None:
    """Declares `FILE | -- CMD`; with `keep` also `-o TRACE [--force]`, which keeps the trace of
    CMD."""
    parser.add_argument("words", nargs="*", metavar=metavar, help=what)
    if keep:
        parser.add_argument("-o", "--output", metavar="TRACE", help="keep the trace of CMD")
        parser.add_argument(
            "--force", action="store_true", help="overwrite the trace that -o names"
        )
    accept_command(parser)


def check_source(options: argparse.Namespace, verb: str) -> None:
    """Raises LaconicError unless there is either one trace (`options.words`) or a program
    (`options.command`)."""
    example = f"as in  laconic {verb} -- python3 -V"
    if options.command is None:
        if len(options.words) != 1:
            what = "no trace was" if not options.words else "more than one trace was"
            raise LaconicError(f"{what} named: give one, or a program after --, {example}")
    elif options.words:
        raise LaconicError(
            f"{options.words[0]!r} stands before --: name a trace, or a program after --, not both"
        )
    elif not options.command:
        raise LaconicError(f"no command was given: name a program, {example}")


def check_kept(options: argparse.Namespace) -> None:
    """Raises LaconicError where `-o` or `--force` has no trace to keep."""
    from laconic.commands.output import check_outputs

    check_outputs({"-o": options.output, "--json": options.json}, options.words)
    if options.command is None and (options.output is not None or options.force):
        raise LaconicError("-o and --force are about the trace of a program: name that after --")
    if options.force and options.output is None:
        raise LaconicError("--force is about a trace: name it with -o TRACE")


# Results


def add_json(
    parser: argparse.ArgumentParser, what: str = "all of it", metavar: str = "FILE"
) -> None:
    """Declares `--json`, whose file `open_output` opens."""
    parser.add_argument(
        "--json", metavar=metavar, help=f"write {what} to {metavar} as JSON; - is standard output"
    )


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Declares `--limit`: how many places are shown."""
    parser.add_argument(
        "--limit",
        type=whole("number of places"),
        default=10,
        metavar="N",
        help="how many are shown (default: 10)",
    )


def add_suppressions(parser: argparse.ArgumentParser) -> None:
    """Declares the options that `suppressions` reads."""
    hiding = parser.add_mutually_exclusive_group()
    hiding.add_argument(
        "--suppressions", metavar="FILE", help="what not to show (default: laconic.toml here)"
    )
    hiding.add_argument("--no-suppressions", action="store_true", help="show everything")


def suppressions(options: argparse.Namespace) -> list[Suppression]:
    """What is not to be shown: the file's, and the built-in ones. Raises LaconicError."""
    from laconic.analysis.suppressions import BUILT_IN, DEFAULT, load

    if options.no_suppressions:
        return []
    path = options.suppressions or (DEFAULT if os.path.exists(DEFAULT) else None)
    return [*(load(path) if path else []), *BUILT_IN]


# Limits of a recording


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declares the options that `limit` reads."""
    parser.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        metavar="TIME",
        help="end the recording after TIME, as 30s, 2m or 1h; the program goes on",
    )
    parser.add_argument(
        "--until-size",
        type=trace_size,
        metavar="SIZE",
        help="end the recording when the trace has SIZE bytes, as 100M; the program goes on",
    )


def limit(options: argparse.Namespace) -> Limit:
    """Where a recording ends. Raises LaconicError."""
    from laconic.tracer.record import Limit

    if options.until_size is not None and options.output is None:
        raise LaconicError("--until-size is about a trace: name it with -o FILE")
    return Limit(options.seconds, options.until_size)


def trace_size(text: str) -> int:
    """Bytes, from a number and a unit, as argparse reads them."""
    from laconic.strategies.options import parse_size

    try:
        size = parse_size(text)
    except ValueError:
        size = 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: name whole pages, as in 100M")
    return size


def duration(text: str) -> float:
    """Seconds, from a number and a unit, as argparse reads them.

    >>> duration("1.5m")
    90.0
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", text, re.ASCII)
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: name seconds, as in 30s, 2m, 1h")
    return seconds


# Costs and numbers


def add_costs(parser: argparse.ArgumentParser) -> None:
    """Declares `--costs`."""
    parser.add_argument(
        "--costs",
        metavar="NAME|FILE",
        help="the cost profile: a shipped one's name, or a file (default: published)",
    )


def load_costs(path_or_name: str | None) -> CostProfile:
    """The cost profile that `--costs` names. Raises LaconicError where it is none."""
    from laconic.sgx import costs

    return costs.load(costs.DEFAULT if path_or_name is None else path_or_name)


def whole(what: str, least: int = 1) -> Callable[[str], int]:
    """What argparse reads a number of at most 15 digits with; `what` is named where it is none.

    >>> whole("number of places")("12")
    12
    """

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}: name {least} or more")
        return int(text)

    return read


def job_count(text: str) -> int:
    """How many processes `-j` names. Raises LaconicError for what is no such number."""
    if not re.fullmatch(r"0*[1-9]\d{,8}", text, re.ASCII):
        raise LaconicError(f"-j {text!r} is no number of processes: name 1 or more")
    return int(text)
