"""The command line: one module a verb, found by name, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import NoReturn

from laconic import __version__
from laconic.commands import ending as _ending  # noqa: F401  (its exit function comes last)
from laconic.commands.options import parse
from laconic.commands.output import hold_standard_streams, tell
from laconic.errors import LaconicError

VERBS = {
    "run": "run a program on exact VMA bookkeeping, and say which memory calls changed nothing",
    "import": "make a trace of a log that strace, Gramine or perf wrote",
    "compare": "count what a trace, or a program, costs in enclaves under each strategy",
    "replay": "feed a trace's calls to the same bookkeeping, by any strategy",
    "maps": "print a recorded address space at some moment, as /proc/PID/maps",
    "sweep": "replay many traces under many strategies, into one Parquet file",
    "advise": "say what to write in a Gramine manifest and in a program's settings, and why",
    "info": "say what is in a trace: programs, calls, what is missing, how it was made",
    "export": "write a trace in another format: parquet, csv, jsonl, perfetto, strace, vectors",
    "vectors": "compare another implementation of the bookkeeping and the PAL with vectors",
    "callers": "name the places in the program that make redundant calls",
    "explain": "explain one memory call in plain words: what it requested, what differed, why",
    "flamegraph": "write the stacks of redundant calls as folded stacks, speedscope or SVG",
    "pack": "add symbols to a trace, so that another machine shows the same names",
    "html": "show a trace, or a program's run, as one page for a browser",
    "diff": "say what got better or worse between two runs, by call and by site",
    "check": "hold a trace, or a program, to limits and a baseline: the gate for CI",
    "live": "run a program and watch its memory calls meanwhile, as in top",
    "doctor": "say what this machine lets Laconic do, before the first run",
}

EPILOG = """\
exit codes:
  the program's own    laconic run, and every verb with -- CMD (128 + N where
                       signal N killed it)
  1                    replay --check found a model error; sweep, a trace that
                       could not be read; check, a limit that is not kept
  2                    a wrong option or argument
  70                   --verify found bookkeeping and host to differ
  71                   this machine does not let Laconic trace: laconic doctor
  126, 127             the program cannot be executed, was not found

try:
  laconic doctor
  laconic run -- python3 -c 'print("hello")'
"""


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=80)


class _Version(argparse.Action):
    # The build is looked up only if it is requested, so that each start is quick.

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"laconic {__version__} ({build()})")
        parser.exit()


def build() -> str:
    """Return "compiled" or "pure Python": which build of Laconic is installed."""
    module = importlib.util.find_spec("laconic.memory.rangemap")
    assert module is not None and module.origin is not None
    return "pure Python" if module.origin.endswith(".py") else "compiled"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    hold_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="laconic",
        description="A library OS memory subsystem that says to its host only what changes.",
        epilog=EPILOG,
        formatter_class=_formatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version and the build, and exit"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    # Only the verb that is used is imported and told its options: --help stays quick.
    chosen = parser
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, formatter_class=_formatter)
        if verb in arguments[:1]:
            module = "import_" if verb == "import" else verb  # a keyword cannot name a module
            importlib.import_module(f"laconic.commands.{module}").configure(sub)
            chosen = sub
    options = parse(parser, chosen, arguments)
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
