"""What `--verify call` reads of the host grows with the calls, not with their number times that of
the VMAs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tracer.lab import Run, build, environment, run_laconic

#: A Laconic that writes to $READ_BYTES how much of smaps, maps and PROCMAP_QUERY it has read.
SCRIPT = """
import os, sys
from laconic.commands import main
from laconic.linux import proc

read = 0

def counted(function, cost):
    def wrapper(*args, **options):
        global read
        result = function(*args, **options)
        read += cost(args, result)
        return result
    return wrapper

proc.parse_smaps = counted(proc.parse_smaps, lambda args, result: len(args[0]))
if hasattr(proc, "read_maps_text"):
    proc.read_maps_text = counted(proc.read_maps_text, lambda args, result: len(result))
if hasattr(proc, "MapsFile"):
    proc.MapsFile._query = counted(proc.MapsFile._query, lambda args, result: 104)
status = main()
with open(os.environ["READ_BYTES"], "w") as file:
    file.write(str(read))
sys.exit(status)
"""


def run_counted(where: Path, *words: str, verify: str = "call") -> tuple[Run, int]:
    """Run many_vmas under Laconic; return the run, and how many bytes Laconic read of the host's
    maps."""
    path = where / "read"
    run = run_laconic(
        build("many_vmas"),
        *words,
        prefix=(sys.executable, "-c", SCRIPT),
        verify=verify,
        env=environment(READ_BYTES=str(path)),
    )
    assert (run.status, run.out) == (0, "done\n"), run.err
    return run, int(path.read_text())


def test_twice_the_calls_and_the_vmas_cost_twice_as_much(tmp_path: Path) -> None:
    _, once = run_counted(tmp_path, "1000")
    run, twice = run_counted(tmp_path, "2000")
    assert run.exact()
    assert run.figures["verify"]["checks"] > 2000, "every call is checked"
    assert twice <= 2.3 * once


@pytest.mark.parametrize("part", ["random", "forks"])
def test_many_vmas_are_exact(part: str, tmp_path: Path) -> None:
    run, _ = run_counted(tmp_path, "500", part, "60")
    assert run.exact()
