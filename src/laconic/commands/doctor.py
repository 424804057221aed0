"""laconic doctor: what this machine permits Laconic to do, before the first run."""

from __future__ import annotations

import argparse
import sys

DESCRIPTION = """\
Tries what Laconic needs on this machine, and names the cure for what is
missing. Exit code 71 if it cannot run here.
"""
EPILOG = """\
examples:
  laconic doctor
  laconic doctor --json - | python3 -m json.tool
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `doctor`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "--json", metavar="FILE", help="write the findings to FILE as JSON; - is standard output"
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the findings; return 71 if one of them prevents Laconic from running."""
    from laconic.commands.output import open_output, write_json
    from laconic.report.doctor import as_json, as_text
    from laconic.tracer.doctor import examine

    output = open_output(options.json)
    findings = examine()
    if output is not None:
        write_json(as_json(findings), output, options.json)
    if options.json != "-":
        sys.stdout.write(as_text(findings))
    return 71 if any(finding.level == "missing" for finding in findings) else 0
