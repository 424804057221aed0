"""laconic export: a trace in the formats of other tools."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING, BinaryIO

from laconic.commands.options import whole
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.exporters import Part, Window, Written

DESCRIPTION = """\
Writes a trace in another format. parquet, csv and jsonl hold one flat row a
call, for DuckDB, Polars and the like; perfetto is Chrome's JSON for the
Perfetto UI; strace is text that laconic import strace reads back.
"""
EPILOG = """\
examples:
  laconic export a.trace --to parquet -o a.parquet
  laconic export a.trace --to perfetto --from 1.5 --until 2 -o a.json
  laconic export a.trace --to strace -o - | less
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `export`."""
    from laconic.trace.exporters import FORMATS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument("--to", choices=tuple(FORMATS), required=True, help="the format")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="the file; - is standard output"
    )
    parser.add_argument("--force", action="store_true", help="write OUT anew where it exists")
    parser.add_argument(
        "--from",
        dest="begin",
        type=float,
        metavar="TIME",
        help="leave out what is before (seconds)",
    )
    parser.add_argument(
        "--until", type=float, metavar="TIME", help="leave out what is after (seconds)"
    )
    parser.add_argument(
        "--limit",
        type=whole("number of bytes"),
        metavar="BYTES",
        help="perfetto: cut the file at this size (default 100,000,000)",
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Writes the file; says on standard error what was written, what is missing and what can be
    done with it."""
    from laconic.commands.output import tell
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace, tell_loss
    from laconic.trace.exporters import LIMITED, Part

    window = _window(options)
    if options.limit is not None and (options.to not in LIMITED or options.limit < 1):
        raise LaconicError(
            f"--limit {options.limit} does not go with --to {options.to}: it cuts a perfetto file at so many bytes"
        )
    trace = open_trace(options.trace)
    output = _open(options)
    with progress(f"reading {options.trace}", trace.size) as update:
        try:
            written = _write(
                trace, output, Part(options.to, window, options.limit, update), options.output
            )
        except BrokenPipeError:
            return 0  # the reader has what it wanted
    for note in written.notes:
        tell(f"laconic: {note}\n")
    tell_loss(trace)
    unit = "line" if options.to == "strace" else "row"
    size = "" if options.output == "-" else f", {os.path.getsize(options.output):,} bytes"
    where = "standard output" if options.output == "-" else options.output
    tell(
        f"laconic: wrote {where}: {written.rows:,} {unit}{'' if written.rows == 1 else 's'}{size}\n"
    )
    if options.output != "-":
        tell(f"next:  {_next(options.to, options.output)}\n")
    return 0


def _window(options: argparse.Namespace) -> Window:
    from laconic.trace.exporters import Window

    for name, value in (("--from", options.begin), ("--until", options.until)):
        if value is not None and not 0 <= value < 1e9:
            raise LaconicError(
                f"{name} {value} is no time: give seconds since the trace began, as in {name} 1.5"
            )
    begin = round((options.begin or 0) * 1e9)
    until = None if options.until is None else round(options.until * 1e9)
    if until is not None and until < begin:
        raise LaconicError(
            f"--until {options.until} is before --from {options.begin}: turn them round"
        )
    return Window(begin, until)


def _open(options: argparse.Namespace) -> BinaryIO:
    from laconic.trace.writer import create

    path = options.output
    if path == "-":
        if options.to == "parquet" and os.isatty(1):
            raise LaconicError(
                "standard output is a terminal, and Parquet is no text: name a file with -o"
            )
        return os.fdopen(os.dup(1), "wb")
    if os.path.exists(path) and os.path.samefile(path, options.trace):
        raise LaconicError(f"-o {path!r} is the trace itself: name another file")
    return os.fdopen(create(path, options.force), "wb")


def _write(trace: Trace, output: BinaryIO, part: Part, path: str) -> Written:
    # What is not whole is taken away: half a Parquet file is none, and half a log would pass for a
    # whole one.
    from laconic.trace.exporters import export

    try:
        written = export(trace, output, part)
        output.close()
    except BaseException as error:
        _abandon(output, path)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            what = "standard output" if path == "-" else f"-o {path!r}"
            left = "" if path == "-" else ", and what there was of it has been removed"
            raise LaconicError(
                f"{what} could not be written, {error.strerror or error}{left}: free some space, or name another place"
            ) from None
        raise
    return written


def _abandon(output: BinaryIO, path: str) -> None:
    try:
        output.close()
    except OSError:
        pass
    if path != "-":
        os.unlink(path)


def _next(kind: str, path: str) -> str:
    if kind == "perfetto":
        return f"open https://ui.perfetto.dev and give it {path}"
    if kind == "strace":
        return f"laconic import strace {shlex.quote(path)} -o again.trace"
    reader = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[kind]
    table = "{}('{}')".format(reader, path.replace("'", "''"))
    query = f"select call, count(*), count(errno) from {table} group by call order by 2 desc"
    # Single quotes hold SQL's strings: double ones around them read better, where the path allows
    # it.
    return "duckdb -c " + (shlex.quote(query) if set(path) & set('"$`\\!') else f'"{query}"')
