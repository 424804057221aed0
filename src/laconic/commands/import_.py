"""laconic import: existing logs, as a trace."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Makes a trace of logs: of strace, of Gramine (loader.log_level = "trace"), or of
perf's text. Several logs of one run (strace -ff) become one trace. LOG may be
packed (gzip, zstd), and - is standard input.
"""
EPILOG = """\
examples:
  strace -f -tt -e trace=%memory,%process,%file,%desc -o a.log CMD
  laconic import strace a.log -o a.trace
  laconic import strace logs/a.log.* -o a.trace
  laconic import gramine a.log --root / -o a.trace
  zstdcat a.log.zst | laconic import strace - -o a.trace

exit codes: 0, also where some lines were not understood (they are shown); 2 for
logs that are none, and outputs that cannot be written
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `import`."""
    from laconic.trace.importers.importing import IMPORTERS

    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("kind", choices=list(IMPORTERS), help="who wrote the log")
    parser.add_argument(
        "logs", nargs="+", metavar="LOG", help="logs, plain or packed; - is standard input"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the trace to write")
    parser.add_argument("--force", action="store_true", help="write over a trace that exists")
    parser.add_argument(
        "--redact",
        action="store_true",
        help="write hashes instead of paths and names, and leave out command lines",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="gramine: look up the files that the program used below DIR (/, or an image's root), "
        "for their sizes and what is mapped at its start",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report to FILE as JSON; - is standard output"
    )
    parser.add_argument("--quiet", action="store_true", help="print no summary")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Import the logs; report what was in them and what was not."""
    from laconic.commands.output import check_outputs, open_output, tell, write_json
    from laconic.commands.progress import progress
    from laconic.trace.importers.importing import import_logs
    from laconic.trace.importers.text import size_of

    check_outputs({"-o": options.output, "--json": options.json}, options.logs)
    output = open_output(options.json)
    with progress(f"reading {options.logs[0]}", size_of(options.logs) or None, "bytes") as update:
        report = import_logs(
            options.kind,
            options.logs,
            options.output,
            force=options.force,
            redact=options.redact,
            root=options.root,
            progress=update,
        )
    if output is not None:
        write_json(report.as_json(), output, options.json)
    if not options.quiet:
        tell(report.as_text(options.output))
    return 0
