"""Runs the benchmarks, prints their tables, and writes them into the pages of docs/ that have a
section for them."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks import (
    attaching,
    calls,
    comparing,
    enclave,
    gramine,
    growth,
    importing,
    mediation,
    operations,
    pythonlines,
    recording,
    replaying,
    stacks,
    structures,
    symbols,
    tuned,
    verifying,
)
from benchmarks.machine import describe, table, write_section

BENCHMARKS = {
    "structures": structures.report,
    "operations": operations.report,
    "calls": calls.report,
    "replaying": replaying.report,
    "mediation": mediation.report,
    "attaching": attaching.report,
    "verifying": verifying.report,
    "recording": recording.report,
    "importing": importing.report,
    "stacks": stacks.report,
    "python-lines": pythonlines.report,
    "symbols": symbols.report,
    "comparing": comparing.report,
    "growth": growth.report,
    "enclave": enclave.report,
    "tuned": tuned.report,
    "gramine": gramine.report,
}


def main() -> int:
    """Returns 1 with --check where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", help=f"{' or '.join(BENCHMARKS)}; all if none is named")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, and exit 1 where a target is missed"
    )
    options = parser.parse_args()
    # An installed package has bytecode, and the commands that are measured must find it too.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    unknown = set(options.which) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {min(unknown)!r}: name {' or '.join(BENCHMARKS)}")
    missed = False
    machine = describe()
    print(machine)
    for name in options.which or BENCHMARKS:
        sections, targets = BENCHMARKS[name]()
        for section, text in sections.items():
            print(f"\n{text}")
            if not options.check:
                write_section(section, f"{machine}.\n\n{text}")
        rows = [
            [what, f"{ratio:.2f}", f"{most:.2f}", "yes" if ratio <= most else "**no**"]
            for what, ratio, most in targets
        ]
        verdict = table(["target", "measured", "at most", "met"], rows)
        print(f"\n{verdict}")
        if not options.check:
            write_section(f"{name}-targets", verdict)
        missed = missed or any(ratio > most for _, ratio, most in targets)
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
