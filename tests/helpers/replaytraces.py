"""A recording of which every result is known."""

from __future__ import annotations

import json
from dataclasses import asdict
from errno import ENOMEM
from pathlib import Path

from laconic.memory.change import EXTEND, RESTRICT, UNMAP
from laconic.memory.layout import Layout
from tests.helpers.traces import BASE, Builder

PAGE = 4096

RW, READ, ANON, FIXED = 3, 1, 0x22, 0x10


def known(path: Path, end: bool = True) -> str:
    """A trace of one process of which all is known, by the strategy `laconic`."""
    trace = Builder(path, about={"strategy": "laconic", "command": ["prog"]})
    layout = asdict(Layout(quiet_below=1 << 46)) | {"refused_advice": []}
    about = {"path": "/bin/prog", "argv": ["prog"], "bits": 64, "layout": layout}
    trace.row("execve", data=b"/bin/prog")
    trace.row("program", 0x5555_5555_6000, 0, data=json.dumps(about).encode())
    trace.mapping(8 * PAGE)
    trace.row("mprotect", BASE, 8 * PAGE, RW)
    trace.row("mprotect", BASE, 4 * PAGE, READ, host_calls=1, kinds=int(RESTRICT))
    trace.row("mprotect", BASE, 8 * PAGE, RW, host_calls=1, kinds=int(EXTEND))
    trace.row("mprotect", BASE + (1 << 30), PAGE, RW, result=-ENOMEM)
    trace.row("munmap", BASE + 2 * PAGE, PAGE, host_calls=1, kinds=int(UNMAP))
    trace.row("munmap", BASE + 2 * PAGE, PAGE)
    trace.row("exit", 0)
    return trace.end() if end else trace.cut()
