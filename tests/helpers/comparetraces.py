"""Recordings of programs that map, protect and unmap, for comparisons of strategies."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laconic.analysis.compare import (
    BOUND,
)
from laconic.memory.change import EXTEND, RESTRICT, UNMAP
from laconic.memory.flags import PAGE_SIZE
from laconic.memory.layout import Layout
from laconic.strategies import NAMES
from tests.helpers.traces import BASE, Builder

ALL = (*NAMES, BOUND)

RW, READ, ANON, NORESERVE = 3, 1, 0x22, 0x4000

#: Pages of the mapping of `busy`.
PAGES = 1000


def begun(path: Path, **options: Any) -> Builder:
    """A recording of one program, whose memory is empty at first."""
    trace = Builder(path, about={"strategy": "laconic", "command": ["prog"]}, **options)
    layout = asdict(Layout(quiet_below=1 << 46)) | {"refused_advice": []}
    about = {"path": "/bin/prog", "argv": ["prog"], "bits": 64, "layout": layout}
    trace.row("execve", data=b"/bin/prog")
    trace.row("program", 0x5555_5555_6000, 0, data=json.dumps(about).encode())
    trace.row("maps", 0, 2)
    return trace


def busy(path: Path, rounds: int = 1, **options: Any) -> Builder:
    """A program that maps `PAGES` pages, touches two, protects them as they are, less and more,
    forks, and unmaps."""
    trace = begun(path, **options)
    length = PAGES * PAGE_SIZE
    touched = ((BASE, BASE + 2 * PAGE_SIZE, 0),)
    for _ in range(rounds):
        trace.mapping(length)
        trace.row("mprotect", BASE, length, RW)
        trace.row(
            "mprotect", BASE, length, READ, host_calls=1, kinds=int(RESTRICT), touched=touched
        )
        trace.row("mprotect", BASE, length, RW, host_calls=1, kinds=int(EXTEND))
        trace.row("munmap", BASE, length, host_calls=1, kinds=int(UNMAP))
    return trace
