"""The command line: one module per verb, found by name and imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

from laconic import __version__
from laconic.commands import ending as _ending  # noqa: F401  (its exit function comes last)
from laconic.commands.options import did_you_mean, parse
from laconic.commands.output import hold_standard_streams, tell
from laconic.errors import LaconicError

#: The verbs, grouped by the question that they answer, in the order of `laconic --help`.
QUESTIONS = {
    "Run and record": {
        "run": "run a program on exact VMA bookkeeping, and count its memory calls",
        "live": "run a program and watch its memory calls, as in top",
        "attach": "observe a program that is running already, and leave it as it was",
        "import": "make a trace from a log of strace, Gramine or perf",
        "doctor": "test what this machine lets Laconic do",
    },
    "Which calls cost most?": {
        "callers": "list the places in the program whose calls cost most",
        "html": "show a trace, or a program's run, as one page for a browser",
        "flamegraph": "write the stacks as folded stacks, speedscope or SVG",
        "explain": "explain one memory call: what it requested, what differed, why",
    },
    "What would an enclave cost?": {
        "compare": "count what the calls cost in enclaves under each strategy",
        "advise": "print settings for a Gramine manifest and for the program",
        "sweep": "replay many traces under many strategies, into a Parquet file",
    },
    "Keep it from getting worse": {
        "diff": "show what got better or worse between two runs",
        "check": "test a run against limits and a baseline: the gate for CI",
    },
    "Traces": {
        "info": "show what is in a trace, and what is missing",
        "maps": "print a recorded address space at some moment",
        "replay": "repeat the calls of a trace on the same bookkeeping",
        "export": "write a trace as parquet, csv, jsonl, perfetto, strace, vectors",
        "pack": "add symbols to a trace, for use on another machine",
        "vectors": "compare another implementation of the bookkeeping with vectors",
    },
    "Help": {
        "help": "show the help of a verb, or write the manual page",
        "completion": "write the completions for bash, zsh or fish",
    },
}
VERBS = {verb: summary for verbs in QUESTIONS.values() for verb, summary in verbs.items()}

EXIT_CODES = """\
exit codes:
  the program's own    laconic run, and every verb with -- CMD (128 + N where
                       signal N killed it)
  1                    replay --check found a model error; sweep, a trace that
                       could not be read; check, a limit that is not kept
  2                    a wrong option or argument
  70                   --verify found bookkeeping and host to differ
  71                   this machine does not let Laconic trace: laconic doctor
  126, 127             the program cannot be executed, was not found
"""
EXAMPLES = """\
try:
  laconic doctor
  laconic run -- python3 -c 'print("hello")'
  laconic help callers
"""


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=80)


class _Version(argparse.Action):
    # The build is looked up only if it is requested, so that each start is quick.

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"laconic {__version__} ({installed_build()})")
        parser.exit()


def installed_build() -> str:
    """Return "compiled" or "pure Python": which build of Laconic is installed."""
    module = importlib.util.find_spec("laconic.memory.rangemap")
    assert module is not None and module.origin is not None
    return "pure Python" if module.origin.endswith(".py") else "compiled"


def build(
    configured: Collection[str],
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of `laconic`, and the parser of each verb by its name.

    Only the verbs in `configured` have their options: each of them is imported, which takes time.
    """
    parser = argparse.ArgumentParser(
        prog="laconic",
        usage="laconic [-h] [--version] VERB ...",
        description="A library OS memory subsystem that "
        "calls its host only when something changes.",
        epilog=f"{_listing()}\n{EXIT_CODES}\n{EXAMPLES}",
        formatter_class=_formatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version and the build, and exit"
    )
    # The epilog lists the verbs by question. argparse's own list has no groups.
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", prog="laconic", required=True, help=argparse.SUPPRESS
    )
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, formatter_class=_formatter)
        if verb in configured:
            module = "import_" if verb == "import" else verb  # a keyword cannot name a module
            importlib.import_module(f"laconic.commands.{module}").configure(sub)
    return parser, dict(verbs.choices)


def _listing() -> str:
    lines = []
    for question, verbs in QUESTIONS.items():
        lines.append(question)
        lines += [f"  {verb:<11} {summary}" for verb, summary in verbs.items()]
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    hold_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, verbs = build(arguments[:1])
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    word = arguments[0]
    if word not in verbs and not word.startswith("-"):
        parser.error(f"there is no verb {word!r}{did_you_mean(word, verbs, 'laconic --help')}")
    options = parse(parser, verbs.get(word, parser), arguments)
    try:
        return int(options.execute(options))
    except LaconicError as error:
        tell(f"laconic: {error}\n")
        return error.exit_code
    except ImportError as error:
        why = " ".join(str(error).split())[:200]
        tell(
            f"laconic: a library cannot be imported ({why}); "
            "use pip install --upgrade laconic-mm, or install the named library\n"
        )
        return 2
    except KeyboardInterrupt:
        return 130
