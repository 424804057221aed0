"""Traces of programs whose symbols must be read."""

from __future__ import annotations

from pathlib import Path

from laconic.memory.change import MAP
from laconic.memory.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
)
from tests.helpers.pagetraces import Stacked
from tests.helpers.traces import BASE

PAGE = 4096

FIXED = MAP_PRIVATE | MAP_FIXED

ANONYMOUS = FIXED | MAP_ANONYMOUS


def unpacked(path: Path) -> str:
    """A trace with a stack whose module is not there, and no symbols."""
    trace = Stacked(path, module="/nowhere/libgone.so")
    trace.program("/bin/prog", ["prog"])
    trace.stack(["grow"])
    trace.row("mmap", BASE, PAGE, 3, ANONYMOUS, -1, 0, result=BASE, host_calls=1, kinds=MAP)
    trace.row("end", 0, pid=0, data=b"{}")
    return trace.cut()
