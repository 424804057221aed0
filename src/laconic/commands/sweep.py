"""laconic sweep: many traces under many strategies, into one Parquet file."""

from __future__ import annotations

import argparse
import shlex
import sys

from laconic.commands.options import add_costs, job_count, load_costs
from laconic.errors import LaconicError

DESCRIPTION = """\
Replays every trace under every strategy, on all CPUs or on a Dask cluster, and
writes one row for each pair to a Parquet file. What is finished is kept in
RESULT.partial: a sweep that was interrupted goes on where it was when it is
started again with the same words. A trace that is damaged counts as far as it
goes; one that cannot be read, or that kills three workers, is a row with its
error, is listed at the end, and is tried again by the next start that finds
the sweep unfinished.
"""

EPILOG = """\
exit codes:
  0    every trace was read, damaged ones as far as they go
  1    the result is there, and holds traces that could not be read
  2    nothing could be done, or the sweep could not go on
  130  interrupted: start it again to go on

examples:
  laconic sweep traces/ -o result.parquet
  laconic sweep 'logs/**/*.trace' --strategy laconic -j 8 -o result.parquet
  laconic sweep traces/ --host sgx2 --strategy all -o result.parquet
  laconic sweep traces/ --scheduler tcp://10.0.0.1:8786 -o result.parquet
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sweep`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "traces",
        nargs="+",
        metavar="DIR|GLOB",
        help="a directory, searched for *.trace; a trace; or a glob, quoted",
    )
    parser.add_argument(
        "--strategy",
        default="all",
        metavar="NAME[,NAME]",
        help="the strategies to replay under (default: all)",
    )
    parser.add_argument(
        "--host",
        choices=("linux", "sgx2"),
        default="linux",
        help="linux (default): the system calls; sgx2: what "
        "each strategy comes to in SGX2 enclaves",
    )
    add_costs(parser)
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument(
        "-j", dest="jobs", type=_jobs, metavar="N", help="processes to use (default: one a CPU)"
    )
    workers.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use the workers of this Dask scheduler, which must see the traces under the same "
        "paths; needs pip install 'laconic-mm[cluster]'",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a RESULT that exists; else it is refused"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the summary to FILE as JSON; - is standard output"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="RESULT", help="the Parquet file to write"
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Sweep; return 1 if a trace could not be read."""
    from laconic.analysis import sweep
    from laconic.commands.ending import tidied
    from laconic.commands.output import (
        check_outputs,
        open_output,
        spare_traces,
        tell,
        width,
        write_json,
    )
    from laconic.commands.progress import progress
    from laconic.commands.traces import show
    from laconic.report.sweep import as_json, as_text

    strategies = sweep.choose(options.strategy, options.host)
    if options.costs is not None and options.host == "linux":
        raise LaconicError(f"--costs {options.costs!r} is about enclaves: add --host sgx2")
    profile = load_costs(options.costs) if options.host == "sgx2" else None
    traces = sweep.find(options.traces)
    check_outputs({"-o": options.output, "--json": options.json}, traces)
    if options.output == "-":
        raise LaconicError(
            "-o - cannot be standard output, because a sweep continues the file that it began; "
            "name a file"
        )
    if options.force:
        spare_traces("-o", options.output)
    again = shlex.join(["laconic", *sys.argv[1:]])
    output = open_output(options.json)
    try:
        with tidied(), progress("sweeping", len(traces) * len(strategies), "rows") as update:
            swept = sweep.sweep(
                traces,
                strategies,
                options.output,
                jobs=options.jobs,
                scheduler=options.scheduler,
                force=options.force,
                profile=profile,
                progress=update,
            )
    except KeyboardInterrupt:
        tell(f"laconic: interrupted; what is done is kept, and this goes on with it:\n  {again}\n")
        return 130
    figures = as_json(swept.rows, options.output, swept.kept, swept.seconds, options.host)
    if output is not None:
        write_json(figures, output, options.json)
    if options.json == "-":
        tell(as_text(figures, width(2)))
    else:
        show(as_text(figures, width(1)))
    return 1 if figures["errors"] else 0


def _jobs(text: str) -> int:
    try:
        return job_count(text)
    except LaconicError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("-j ")) from None
