"""Writes the JSON of `replay` and `compare` for traces:
`python -m tests.compiled.reports FOLDER TRACE...`. Prints the build."""

from __future__ import annotations

import sys
from pathlib import Path

from laconic.commands import installed_build, main

#: The end of each report's name, and the command that writes it.
REPORTS = {
    "replay": ("replay", "--check"),
    "every-call": ("replay", "--strategy", "every-call"),
    "skip-equal": ("replay", "--strategy", "skip-equal"),
    "compare": ("compare", "--by", "call", "-j", "1"),
    "sync": ("compare", "--pte", "sync", "--verify", "-j", "1"),
    "linux": ("compare", "--host", "linux"),
    "gramine": ("compare", "--host", "gramine"),
}


def write(folder: Path, traces: list[str]) -> None:
    """Write one file for each trace and report."""
    for trace in traces:
        for name, (verb, *options) in REPORTS.items():
            report = folder / f"{Path(trace).stem}.{name}.json"
            main([verb, trace, *options, "--json", str(report)])


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:])
    print(installed_build())
