"""What the workers of the sweep tests do: `sweep_one`, and now and then something worse on the way.

They leave their tracks in files beside the trace, since they are other processes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from laconic.analysis.sweep import SweepRow, sweep_one


def counted(path: str, strategy: str) -> SweepRow:
    """Enters the computation in the file `tracks`."""
    with Path(path).with_name("tracks").open("a") as tracks:
        tracks.write(f"{Path(path).name} {strategy} {os.getpid()}\n")
    return sweep_one(path, strategy)


def hold(*paths: str | Path) -> None:
    """Lets `held` wait at these traces."""
    for path in paths:
        Path(path).with_suffix(".hold").touch()


def release(directory: Path) -> None:
    """Lets it go on."""
    for path in list(directory.rglob("*.hold")):
        path.unlink()


def deadly(path: str, strategy: str) -> SweepRow:
    """Kills its worker at each trace whose name says so."""
    row = counted(path, strategy)
    if "deadly" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return row


def held(path: str, strategy: str) -> SweepRow:
    """Takes as long as there is a file beside it whose suffix is `.hold`."""
    row = counted(path, strategy)
    while Path(path).with_suffix(".hold").exists():
        time.sleep(0.01)
    return row


def older(path: str, strategy: str) -> SweepRow:
    """As a worker on which another Laconic is installed."""
    return {**sweep_one(path, strategy), "laconic": "0.0.0"}


def rows(path: Path) -> list[SweepRow]:
    """A result's rows, without the seconds that they took."""
    with path.open("rb") as file:
        return [{**row, "seconds": None} for row in pq.read_table(file).to_pylist()]


def tracks(corpus: Path) -> list[list[str]]:
    """The computations so far: trace, strategy, worker."""
    return [
        line.split() for path in corpus.rglob("tracks") for line in path.read_text().splitlines()
    ]


def until(condition: Callable[[], Any]) -> None:
    """Waits for a condition, not for ever."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)


def in_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, its = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(pid))
    return found
