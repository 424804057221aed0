"""laconic html: a trace as one page for a browser."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.page.collect import Page
    from laconic.pal.sgx.costs import CostProfile
    from laconic.trace import Trace

DESCRIPTION = """\
Writes one HTML file that shows a trace: what was asked and said over time, the
address spaces as a map, the strategies compared, where redundant calls come
from, and a table of the sites. It needs no network. With -- CMD the program is
run and recorded first, its stacks too; its output and exit status are its own.
"""
EPILOG = """\
examples:
  laconic html a.trace -o report.html
  laconic html a.trace -o report.html --costs pie-j5005 --json report.json
  laconic html -o report.html -- python3 -c 'import json'

exit codes:
  0    done; a trace that is not complete is shown as far as it goes
  2    a wrong option, a trace that cannot be read, a page that cannot be
       written
  with -- CMD the program's own (126, 127: it cannot be executed, was not found)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `html`."""
    from laconic.commands.compare import add_costs
    from laconic.commands.recording import accept_command

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic html -o REPORT [--force] [--costs NAME|FILE] [--json FILE]\n"
        "                    FILE | -- CMD [ARG ...]"
    )
    parser.add_argument("words", nargs="*", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument("-o", "--output", required=True, metavar="REPORT", help="the page to write")
    parser.add_argument("--force", action="store_true", help="overwrite the page that -o names")
    add_costs(parser)
    parser.add_argument("--json", metavar="FILE", help="write what the page holds as JSON; - is standard output")
    accept_command(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Writes the page; returns the exit status of CMD, where there is one."""
    from laconic.commands.compare import load_costs
    from laconic.commands.output import open_output, tell, write_json
    from laconic.commands.source import check_source, traced
    from laconic.report.html import as_html, as_json
    from laconic.trace.writer import create

    check_source(options, "html")
    profile = load_costs(options.costs)
    # A run must not be lost to a wrong path, and a page not to a wrong trace.
    fd = None if options.command is None else create(options.output, options.force)
    try:
        with traced(options, "html") as (trace, status):
            if fd is None:
                _not_itself(options.output, trace.path)
                fd = create(options.output, options.force)
            output = open_output(options.json)
            page = _collect(trace, profile)
        made = as_html(page)
        _write(fd, made, options.output)
    except BaseException:
        if fd is not None:
            # What is not whole is taken away.
            os.unlink(options.output)
        raise
    finally:
        if fd is not None:
            os.close(fd)
    if output is not None:
        write_json(as_json(page), output, options.json)
    tell(f"laconic: wrote {options.output}: {len(made):,} bytes; open it in a browser\n")
    return status


def _collect(trace: Trace, profile: CostProfile) -> Page:
    from laconic.commands.progress import progress
    from laconic.commands.traces import tell_loss
    from laconic.page.collect import collect

    with progress(f"replaying {trace.path}", trace.size) as update:
        page = collect(trace, profile, update)
    tell_loss(trace, page.loss[:-1] if trace.loss else page.loss)
    return page


def _not_itself(path: str, trace: str) -> None:
    if os.path.exists(path) and os.path.samefile(path, trace):
        raise LaconicError(f"-o {path!r} is the trace itself: name another file")


def _write(fd: int, data: bytes, path: str) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError as error:
        raise LaconicError(
            f"-o {path!r} could not be written, {error.strerror}, and what there was of it has been removed: free some "
            "space, or name another place"
        ) from None
