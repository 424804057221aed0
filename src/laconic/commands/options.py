"""The options that several verbs share: how each is declared, and how its value is read."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.baseline import EnclaveBasis
    from laconic.analysis.suppressions import Suppression
    from laconic.sgx.costs import CostProfile
    from laconic.trace.selection import Selection
    from laconic.tracer.record import RecordingLimit

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

    An unknown option ends Laconic with a message that names the most similar options.
    """
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    # The remaining arguments of `laconic run` are the program's, even without `--`.
    if not any(action.nargs == argparse.REMAINDER for action in verb._actions):
        _check_options(verb, words[:place])
    if not verb.get_default("accepts_command"):
        options, unknown = parser.parse_known_args(words)
        _check_options(verb, unknown)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options
    options = parser.parse_args(_with_negative_values(words[:place]))
    options.command = words[place + 1 :] if place < len(words) else None
    return options


def _check_options(verb: argparse.ArgumentParser, words: Sequence[str]) -> None:
    # argparse reports a missing argument before an unknown option, although the option is then the
    # cause: laconic html --outptu a.html a.trace.
    known = [name for action in verb._actions for name in action.option_strings]
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            verb.error(f"there is no option {name!r}{did_you_mean(name, known, f'{verb.prog} -h')}")


def did_you_mean(word: str, known: Iterable[str], command: str) -> str:
    """Return the end of a message about an unknown word: the known words that are most similar to
    it, or the command that lists them all.

    >>> did_you_mean("flame-graph", ["callers", "flamegraph"], "laconic --help")
    "; did you mean 'flamegraph'?"
    """
    import difflib

    known = list(known)
    longer = [name for name in known if name.startswith(word)]
    similar = longer[:2] or difflib.get_close_matches(word, known, n=2)
    if not similar:
        return f"; see  {command}"
    return f"; did you mean {' or '.join(map(repr, similar))}?"


def _with_negative_values(words: Sequence[str]) -> list[str]:
    # argparse treats -5M as an option, and would not report the error in the value.
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
    metavar: str = "FILE",
    what: str = "a trace that was recorded or imported; - is standard input",
    force: str = "overwrite the trace that --keep names",
) -> None:
    """Declare `FILE | [--keep TRACE [--force]] -- CMD`; `force` is the help of `--force`."""
    parser.add_argument("words", nargs="*", metavar=metavar, help=what)
    parser.add_argument("--keep", metavar="TRACE", help="keep the trace of CMD in TRACE")
    parser.add_argument("--force", action="store_true", help=force)
    accept_command(parser)


def check_source(options: argparse.Namespace, verb: str) -> None:
    """Raise LaconicError unless there is either one trace (`options.words`) or a program
    (`options.command`), whose trace can be kept at `options.keep`."""
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
    if options.words:
        command = as_command(options.words[0])
        if command is not None:
            raise LaconicError(
                f"{options.words[0]!r} is a program, not a trace: to run it,  laconic {verb} -- "
                f"{command}"
            )
    check_kept(options)


def as_command(path: str) -> str | None:
    """Return the shell command that runs the program or script at `path`; None if it is neither."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError:
        return None
    words = [path if "/" in path else f"./{path}"]
    if not (head.startswith((b"#!", b"\x7fELF")) and os.access(path, os.X_OK)):
        interpreter = {".py": "python3", ".sh": "sh"}.get(os.path.splitext(path)[1])
        if interpreter is None:
            return None
        words = [interpreter, path]
    return shlex.join(words)


def check_kept(options: argparse.Namespace) -> None:
    """Raise LaconicError if `--keep` or `--force` has no file to write, or two options name one
    file.

    `options.output` is absent in verbs that write no file of their own.
    """
    from laconic.commands.output import check_outputs

    output, keep = getattr(options, "output", None), options.keep
    check_outputs({"-o": output, "--keep": keep, "--json": options.json}, options.words)
    if options.command is None and keep is not None:
        raise LaconicError(f"--keep {keep!r} keeps the trace of a program; name a program after --")
    if options.force and keep is None and output is None:
        raise LaconicError(
            "--force is about the trace of a program; name the trace with --keep TRACE"
        )
    if keep == "-":
        raise LaconicError(
            "--keep - cannot write to standard output, because the trace is read again; name a "
            "file, or use  laconic run -o - -- CMD"
        )


# Selections


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `selection` reads: which calls are counted and shown."""
    group = parser.add_argument_group("selection", "which calls are counted and shown")
    group.add_argument(
        "--between",
        nargs=2,
        metavar=("START", "END"),
        help="calls in this window of time, as in 1.5s 2s, 500ms end",
    )
    group.add_argument(
        "--pid",
        action="append",
        type=whole("process"),
        metavar="P",
        help="calls of this process; can be repeated",
    )
    group.add_argument(
        "--program",
        action="append",
        metavar="PATTERN",
        help="calls of this program, a path or name (redis*); can be repeated",
    )
    group.add_argument(
        "--call", action="append", metavar="NAME", help="calls of this name; can be repeated"
    )


def selection(options: argparse.Namespace) -> Selection | None:
    """Return which calls the options select; None for all. Raises LaconicError."""
    between, pids, programs, calls = (
        options.between,
        options.pid or (),
        options.program or (),
        options.call or (),
    )
    if between is None and not (pids or programs or calls):
        return None
    from laconic.trace.schema import MEMORY_EVENTS, PROCESS_EVENTS
    from laconic.trace.selection import Selection

    known = (*MEMORY_EVENTS, *PROCESS_EVENTS)
    for call in calls:
        if call not in known:
            raise LaconicError(
                f"--call {call!r} is not a call that traces contain"
                f"{did_you_mean(call, known, 'laconic info TRACE')}"
            )
    start, end = (0, None) if between is None else _window(*between)
    return Selection(start, end, tuple(pids), tuple(programs), tuple(calls))


def _window(first: str, last: str) -> tuple[int, int | None]:
    start, end = _time(first), None if last == "end" else _time(last)
    if end is not None and end < start:
        raise LaconicError(f"--between {first} {last} ends before it starts; exchange the times")
    return start, end


def _time(text: str) -> int:
    # Return nanoseconds since the trace began.
    time = nanoseconds(text)
    if time is None:
        raise LaconicError(
            f"--between {text!r} is not a time; give seconds or milliseconds since the trace "
            "began, as in  --between 1.5s 2s, or end"
        )
    return time


def nanoseconds(text: str) -> int | None:
    """Return a time in nanoseconds from an option's form, a number with ms, s (or no unit), m or h;
    None if it is invalid.

    >>> nanoseconds("500ms"), nanoseconds("1.5"), nanoseconds("2m"), nanoseconds("soon")
    (500000000, 1500000000, 120000000000, None)
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[smh]?)", text, re.ASCII)
    if match is None:
        return None
    unit = {"ms": 10**6, "s": 10**9, "": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}[match[2]]
    return round(float(match[1]) * unit)


# Results


def add_json(
    parser: argparse.ArgumentParser, what: str = "all of it", metavar: str = "FILE"
) -> None:
    """Declare `--json`, whose file `open_output` opens."""
    parser.add_argument(
        "--json", metavar=metavar, help=f"write {what} to {metavar} as JSON; - is standard output"
    )


def add_limit(parser: argparse._ActionsContainer, default: int = 10) -> None:
    """Declare `--limit`: the number of places that are shown."""
    parser.add_argument(
        "--limit",
        type=whole("number of places"),
        default=default,
        metavar="N",
        help=f"how many are shown (default: {default})",
    )


def add_frames(parser: argparse.ArgumentParser) -> None:
    """Declare `--frames` and `-v`: how stacks are shown."""
    parser.add_argument(
        "--frames",
        type=frame_count,
        metavar="N|all",
        help="how many frames of a stack (default: up to the program's own code)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show the parameters of C++ functions"
    )


def frame_count(text: str) -> int:
    """Return the value of `--frames`, for argparse.

    >>> frame_count("12"), frame_count("all") > 10**9
    (12, True)
    """
    return 1 << 40 if text == "all" else whole("number of frames, nor all")(text)


def add_suppressions(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `suppressions` reads."""
    hiding = parser.add_mutually_exclusive_group()
    hiding.add_argument(
        "--suppressions", metavar="FILE", help="what not to show (default: laconic.toml here)"
    )
    hiding.add_argument("--no-suppressions", action="store_true", help="show everything")


def suppressions(options: argparse.Namespace) -> list[Suppression]:
    """Return the suppressions: the file's, and the built-in ones. Raises LaconicError."""
    from laconic.analysis.suppressions import BUILT_IN, DEFAULT, load

    if options.no_suppressions:
        return []
    path = options.suppressions or (DEFAULT if os.path.exists(DEFAULT) else None)
    return [*(load(input_path(path)) if path else []), *BUILT_IN]


def input_path(path: str) -> str:
    """Return the path of a file that is read once: `-` is standard input."""
    return "/dev/stdin" if path == "-" else path


# A recording


def add_recording(parser: argparse.ArgumentParser) -> None:
    """Declare what is recorded with `-o`, and the options that `limit` reads."""
    parser.add_argument("--force", action="store_true", help="overwrite the trace that -o names")
    parser.add_argument(
        "--redact",
        action="store_true",
        help="write hashes instead of paths, names and command lines in the trace",
    )
    parser.add_argument(
        "--stacks",
        choices=("all", "redundant", "none"),
        help="with -o: record where all calls are made (default), redundant ones, or none; laconic "
        "callers shows it",
    )
    parser.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        metavar="TIME",
        help="end the recording after TIME, as 500ms, 30s, 2m or 1h; the program goes on",
    )
    parser.add_argument(
        "--until-size",
        type=trace_size,
        metavar="SIZE",
        help="end the recording when the trace has SIZE bytes, as 100M; it may have more, by what "
        "is written in a second; the program goes on",
    )


def limit(options: argparse.Namespace) -> RecordingLimit:
    """Return the limits of a recording. Raises LaconicError."""
    from laconic.tracer.record import RecordingLimit

    if options.until_size is not None and options.output is None:
        raise LaconicError("--until-size is about a trace: name it with -o FILE")
    return RecordingLimit(options.seconds, options.until_size)


def trace_size(text: str) -> int:
    """Return bytes, from a number and a unit, for argparse."""
    from laconic.strategies.options import parse_size

    try:
        size = parse_size(text)
    except ValueError:
        size = 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: name whole pages, as in 100M")
    return size


def duration(text: str) -> float:
    """Return seconds, from a number and a unit, for argparse.

    >>> duration("1.5m"), duration("300ms")
    (90.0, 0.3)
    """
    time = nanoseconds(text)
    if not time:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: name one, as in 500ms, 30s, 2m, 1h"
        )
    return time / 1e9


# Costs and numbers


def add_costs(parser: argparse.ArgumentParser) -> None:
    """Declare `--costs`."""
    parser.add_argument(
        "--costs",
        metavar="NAME|FILE",
        help="the cost profile: a shipped one's name, or a file (default: published)",
    )


def add_enclave(parser: argparse.ArgumentParser) -> None:
    """Declare `--enclave`, `--strategy` and `--costs`, which `enclave` reads."""
    parser.add_argument(
        "--enclave", action="store_true", help="count host calls and cycles in an enclave too"
    )
    add_strategy(parser)


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """Declare `--strategy` and `--costs`, which `enclave` reads."""
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        help="the strategy of the enclave (default: every-call)",
    )
    add_costs(parser)


def add_order(parser: argparse.ArgumentParser, sorts: Sequence[str]) -> None:
    """Declare `--sort`: in which order sites are listed, the first of `sorts` by default."""
    parser.add_argument(
        "--sort",
        choices=sorts,
        default=sorts[0],
        help="what comes first (default: cost, in an enclave)",
    )


def enclave(options: argparse.Namespace, *, wanted: bool) -> EnclaveBasis | None:
    """Return the enclave whose figures are `wanted`; None for none. Raises LaconicError."""
    if not wanted:
        for name, value in (("--strategy", options.strategy), ("--costs", options.costs)):
            if value is not None:
                raise LaconicError(f"{name} {value!r} is about enclaves; add --enclave")
        return None
    from laconic.analysis.baseline import EnclaveBasis
    from laconic.strategies import check_name

    strategy = options.strategy or "every-call"
    check_name(strategy, "sgx2")
    return EnclaveBasis(strategy, load_costs(options.costs))


def load_costs(path_or_name: str | None) -> CostProfile:
    """Return the cost profile that `--costs` names. Raises LaconicError if there is no such
    profile."""
    from laconic.sgx import costs

    return costs.load(costs.DEFAULT if path_or_name is None else input_path(path_or_name))


def whole(what: str, least: int = 1) -> Callable[[str], int]:
    """Return a parser of numbers of at most 15 digits, for argparse; its error message names
    `what`.

    >>> whole("number of places")("12")
    12
    """

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what}: name {least} or more")
        return int(text)

    return read


def job_count(text: str) -> int:
    """Return the number of processes that `-j` names. Raises LaconicError if it is invalid."""
    if not re.fullmatch(r"0*[1-9]\d{,8}", text, re.ASCII):
        raise LaconicError(f"-j {text!r} is not a number of processes: name 1 or more")
    return int(text)
