"""laconic export: a trace in the formats of other tools."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from laconic.commands.options import add_costs, add_selection, load_costs, selection, whole
from laconic.errors import LaconicError
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.sgx.costs import CostProfile
    from laconic.trace import Trace
    from laconic.trace.exporters import Analysis, Exported, ExportPart, Window
    from laconic.trace.selection import Selection

#: The format whose rows depend on strategies: a replay writes it.
VECTORS = "vectors"
DESCRIPTION = """\
Writes a trace in another format. parquet, csv and jsonl hold one flat row per
call, for DuckDB, Polars and the like: arguments, stack and site by name,
whether the call was redundant, and its cost in an enclave. perfetto is Chrome's
JSON for the Perfetto UI. strace is text that laconic import strace reads back.
vectors are the memory calls with what each strategy does after each, for an
implementation in another language to check itself against (docs/vectors.md).
"""
EPILOG = """\
examples:
  laconic export a.trace --to parquet -o a.parquet
  laconic export a.trace --to perfetto --between 1.5s 2s -o a.json
  laconic export a.trace --to strace -o - | less
  laconic export a.trace --to vectors --strategy skip-equal -o a.vectors
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    from laconic.trace.exporters import FORMATS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument("--to", choices=(*FORMATS, VECTORS), required=True, help="the format")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="the file; - is standard output"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="only what the trace contains, without a replay: no names, sites, redundant, cycles",
    )
    add_costs(parser)
    add_selection(parser)
    parser.add_argument(
        "--limit",
        type=whole("number of bytes"),
        metavar="BYTES",
        help="perfetto: cut the file at this size (default 100,000,000)",
    )
    parser.add_argument(
        "--strategy",
        nargs="+",
        action="extend",
        type=_names,
        metavar="NAME",
        help="vectors: the strategies (default: every-call skip-equal classify laconic)",
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the file; report on standard error what was written, what is missing and how to use
    it."""
    from laconic.commands.output import tell
    from laconic.commands.progress import progress
    from laconic.commands.source import selection_as_text
    from laconic.commands.traces import open_trace, tell_loss
    from laconic.trace.exporters import LIMITED, ExportPart

    chosen = _selection(options)
    if options.limit is not None and (options.to not in LIMITED or options.limit < 1):
        raise LaconicError(
            f"--limit {options.limit} does not go with --to {options.to}: it cuts a perfetto file "
            "at so many bytes"
        )
    _check_vectors(options)
    profile = load_costs(options.costs)
    trace = open_trace(options.trace)
    output = _open(options)
    with progress(f"reading {options.trace}", trace.size) as update:
        try:
            part = ExportPart(options.to, _window(chosen), options.limit, update, None, chosen)
            written = _write(trace, output, part, options, profile)
        except BrokenPipeError:
            return 0  # the reader stopped reading
    tell(selection_as_text(chosen))
    for note in written.notes:
        tell(f"laconic: {note}\n")
    tell_loss(trace)
    unit = {"strace": "line", VECTORS: "event"}.get(options.to, "row")
    size = "" if options.output == "-" else f", {os.path.getsize(options.output):,} bytes"
    where = "standard output" if options.output == "-" else options.output
    tell(f"laconic: wrote {where}: {plural(written.rows, unit)}{size}\n")
    if options.output != "-":
        tell(f"next:  {_next(options.to, options.output, options.raw)}\n")
    return 0


def _window(chosen: Selection | None) -> Window:
    # Rows that are not calls are left out too if they are outside of the window.
    from laconic.trace.exporters import Window

    return Window() if chosen is None else Window(chosen.start, chosen.end)


def _selection(options: argparse.Namespace) -> Selection | None:
    chosen = selection(options)
    if chosen is None or options.to != VECTORS:
        return chosen
    if chosen.start or chosen.pids or chosen.programs or chosen.calls:
        raise LaconicError(
            "the state after a call depends on all calls before it, so vectors contain all of "
            "them; select only where they end, as in  --between 0 2s"
        )
    return chosen


def _analysis(
    trace: Trace,
    profile: CostProfile,
    options: argparse.Namespace,
    update: Callable[[int], None],
) -> Analysis | None:
    # A replay adds facts about each call that the trace does not contain.
    from laconic.analysis.export import analyse_calls

    if options.raw or options.to == VECTORS:
        return None
    # strace's format has stacks, but no cycles.
    return analyse_calls(trace, None if options.to == "strace" else profile, update)


def _open(options: argparse.Namespace) -> BinaryIO:
    from laconic.commands.output import is_same_file
    from laconic.trace.writer import create

    path = options.output
    if path == "-":
        if options.to == "parquet" and os.isatty(1):
            raise LaconicError(
                "standard output is a terminal, and Parquet is not text: name a file with -o"
            )
        return os.fdopen(os.dup(1), "wb")
    if is_same_file(path, options.trace):
        raise LaconicError(f"-o {path!r} is the trace itself: name another file")
    return os.fdopen(create(path, options.force), "wb")


def _check_vectors(options: argparse.Namespace) -> None:
    # Check the options that only vectors have, and those that vectors do not have.
    from laconic.strategies import check_name

    if options.to != VECTORS:
        if options.strategy is not None:
            raise LaconicError(f"--strategy does not apply to --to {options.to}; use --to vectors")
        return
    for name in _chosen(options):
        check_name(name, "sgx2")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _chosen(options: argparse.Namespace) -> list[str]:
    # Return the strategies of --strategy, each once: names may also be separated by commas.
    return list(dict.fromkeys(name for names in options.strategy or () for name in names))


def _vectors(trace: Trace, output: BinaryIO, part: ExportPart, names: Sequence[str]) -> Exported:
    from laconic.analysis.vectors import DEFAULT, record
    from laconic.report.vectors import write
    from laconic.trace.exporters import Exported

    until = part.window.until
    recorded = record(
        trace,
        tuple(names) or DEFAULT,
        write(output),
        None if until is None else lambda number, time: time > until,
        part.update,
    )
    return Exported(recorded.events, recorded.notes)


def _write(
    trace: Trace,
    output: BinaryIO,
    part: ExportPart,
    options: argparse.Namespace,
    profile: CostProfile,
) -> Exported:
    # An incomplete file is removed: half a Parquet file is unreadable, and half a log would pass
    # for a complete one.
    from laconic.trace.exporters import export

    path = options.output
    try:
        if part.format == VECTORS:
            written = _vectors(trace, output, part, _chosen(options))
        else:
            analysis = _analysis(trace, profile, options, part.update)
            written = export(trace, output, replace(part, analysis=analysis))
        output.close()
    except BaseException as error:
        _abandon(output, path)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            what = "standard output" if path == "-" else f"-o {path!r}"
            left = "" if path == "-" else ", and what there was of it has been removed"
            raise LaconicError(
                f"{what} could not be written, {error.strerror or error}{left}: free some space, "
                "or name another place"
            ) from None
        raise
    return written


def _abandon(output: BinaryIO, path: str) -> None:
    from laconic.trace.writer import remove

    try:
        output.close()
    except OSError:
        pass
    remove(path)


def _next(kind: str, path: str, raw: bool) -> str:
    if kind == "perfetto":
        return f"open https://ui.perfetto.dev and give it {path}"
    if kind == "strace":
        return f"laconic import strace {shlex.quote(path)} -o again.trace"
    if kind == VECTORS:
        return f"laconic vectors check MINE --against {shlex.quote(path)}"
    reader = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[kind]
    table = "{}('{}')".format(reader, path.replace("'", "''"))
    query = f"select call, count(*), count(errno) from {table} group by call order by 2 desc"
    if kind != "jsonl" and not raw:
        # JSON Lines omit nulls, and DuckDB does not see a column without values.
        query = (
            "select function, call, count(*), count(*) filter (redundant), "
            f"sum(every_call_cycles_high) from {table} where redundant is not null "
            "group by all order by 5 desc limit 10"
        )
    # SQL's strings are in single quotes, so double quotes around them are easier to read, if the
    # path permits.
    return "duckdb -c " + (shlex.quote(query) if set(path) & set('"$`\\!') else f'"{query}"')
