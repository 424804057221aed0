"""laconic vectors: what another implementation did, compared with vectors."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Compares what another implementation of a library OS's memory subsystem did with
vectors: after each memory call its VMA table, its PAL calls, and its counts of
SGX instructions, ioctls and host calls. Prints the first difference.
"""
EPILOG = """\
examples:
  laconic export a.trace --to vectors -o a.vectors
  laconic vectors check mine.out --against a.vectors
  laconic vectors check mine.out --against vectors/issue-1708.vectors.gz

FILE has the form of a vector file (docs/appendix/vector-file.md); it needs no
inputs. The runner in examples/vectors writes one with -w. Files may be
compressed with gzip.

exit codes: 0 no difference; 1 a difference; 2 a wrong option, a file that
cannot be read, or no strategy in common
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vectors`."""
    from laconic.commands.options import add_json

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("action", choices=("check",), help="compare FILE with VECTORS")
    parser.add_argument("file", metavar="FILE", help="what another implementation did")
    parser.add_argument(
        "--against", metavar="VECTORS", required=True, help="the vectors to compare with"
    )
    parser.add_argument(
        "--joined",
        action="store_true",
        help="let neighboring protect calls that change alike count as one call, for an "
        "implementation that joins them or where the vectors do; host calls and ioctls are "
        "then not compared in these states",
    )
    add_json(parser, "the first difference")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the comparison; return 1 if there is a difference."""
    from laconic.analysis.vectors import compare
    from laconic.commands.output import check_outputs, open_output, write_json
    from laconic.commands.traces import show
    from laconic.report.vectors import as_json, as_text
    from laconic.trace.vectors import read

    check_outputs({"--json": options.json}, [options.file, options.against])
    expected = read(options.against)
    comparison = compare(expected, read(options.file), options.joined)
    output = open_output(options.json)
    if output is not None:
        write_json(as_json(comparison, expected), output, options.json)
    if options.json != "-":
        show(as_text(comparison, expected))
    return int(comparison.difference is not None)
