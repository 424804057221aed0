"""Traces for the HTML page: with stacks and symbols, of any length, and with names that mean
harm."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from laconic.memory.change import EXTEND, MAP, UNMAP
from laconic.trace.schema import CHOSEN, FRAME, PLAIN, READABLE
from tests.helpers.traces import BASE, Builder

PAGE = 4096
#: Names that would end an element, a string or a script, turn the line round, hide themselves, or
#: fill the page.
HOSTILE = (
    "</script><script>document.documentElement.dataset.harmed='yes'</script>",
    "<img src=x onerror=\"document.documentElement.dataset.harmed='yes'\">",
    "<!--<script>",
    "'\"`${alert(1)}\\",
    "evil\u202etxt.exe\u2066",
    "\x1b[31mred\x07\x00\u200b\u2028end",
    "a\udcffb",
    "שלום-العربية-你好-🦊",
    "x" * 100_000,
    "@@data@@ @@script@@ {{x}} &amp; ]]>",
    "javascript:alert(1)//http://example.invalid/",
    "__proto__",
    "constructor",
)


class Stacked(Builder):
    """A trace whose calls have stacks: lists of function names, innermost first, all of one module
    that is packed."""

    def __init__(self, path: Path, source: str = "run", module: str = "/lib/libx.so") -> None:
        super().__init__(path, source, {"command": ["prog", "--fast"]})
        self._functions: dict[str, int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}
        about = {"kind": "file", "path": module, "build_id": "ab" * 20}
        self.row("module", 1, pid=0, data=json.dumps(about).encode())
        self.short = module.rsplit("/", 1)[-1] or module

    def stack(self, functions: Sequence[str], pid: int = 100) -> None:
        """The stack of the next call."""
        for function in functions:
            if function not in self._functions:
                number = self._functions[function] = len(self._functions) + 1
                places: dict[str, object] = {
                    f"{number * 16:x}e": [[function, self.short, "x.c", number, False, True]]
                }
                self._packed(places)
                self.row("frames", number, pid=0, data=FRAME.pack(1 << 2 | 2, number * 16))
        key = tuple(self._functions[function] for function in functions)
        new = key not in self._stacks
        number = self._stacks.setdefault(key, len(self._stacks) + 1)
        self.row("site", number, pid=pid, data=struct.pack(f"<{len(key)}I", *key) if new else b"")

    def _packed(self, places: dict[str, object]) -> None:
        self._known = {**getattr(self, "_known", {}), **places}

    def end(self, status: int = 0) -> str:
        """Ends the trace in order, after the symbols; its path."""
        known = getattr(self, "_known", {})
        self.row("symbols", 1, pid=0, data=json.dumps({"places": known}).encode())
        return super().end(status)


def known(path: Path) -> str:
    """Twelve calls of two processes: of eight mprotects from `grow` six are redundant."""
    trace = Stacked(path)
    trace.program("/bin/prog", ["prog", "--fast"])
    number = trace.file("/lib/libx.so", inode=9, mode=READABLE | PLAIN)
    trace.row(
        "mmap",
        0,
        16 * PAGE,
        5,
        2,
        3,
        0,
        result=BASE + (1 << 24),
        state=CHOSEN,
        host_calls=1,
        kinds=MAP,
        file=number,
    )
    trace.stack(["mmap", "arena", "main"])
    trace.mapping(64 * PAGE, 0)
    for step in range(8):
        trace.stack(["mprotect", "grow", "main"])
        trace.row(
            "mprotect",
            BASE,
            (2 if step < 4 else 4) * PAGE,
            3,
            result=0,
            host_calls=int(step in (0, 4)),
            kinds=EXTEND,
        )
    trace.row("clone", 0x1200011, result=200)
    trace.program("/bin/child", ["child"], pid=200)
    trace.mapping(PAGE, pid=200)
    trace.row("munmap", BASE, PAGE, pid=200, result=0, host_calls=1, kinds=UNMAP)
    return trace.end()


def many(path: Path, calls: int, stacks: int = 400, places: int = 5_000) -> str:
    """A trace of that many calls of one process: arenas that come, are opened, asked for again, and
    go."""
    trace = Stacked(path)
    trace.program("/bin/prog", ["prog"])
    for number in range(calls):
        slot, turn = number // 5 % places, number % 5
        start = BASE + slot * 64 * PAGE
        depth = number % stacks % 7
        trace.stack(
            [
                f"wrapper_{turn}",
                *(f"function_{number % stacks}_{level}" for level in range(depth)),
                "main",
            ]
        )
        if turn == 0:
            trace.row(
                "mmap", start, 32 * PAGE, 0, 0x32, -1, 0, result=start, host_calls=1, kinds=MAP
            )
        elif turn == 4:
            trace.row("munmap", start, (8 + slot % 24) * PAGE, result=0, host_calls=1, kinds=UNMAP)
        else:
            trace.row(
                "mprotect", start, turn // 2 * 4 * PAGE, 3, result=0, host_calls=1, kinds=EXTEND
            )
        if len(trace.writer.rows) >= 16384:
            trace.writer.flush()
    return trace.end()


def hostile(path: Path) -> str:
    """A trace in which every name means harm: programs, files, functions, modules, notes, the
    command line."""
    trace = Stacked(path, module="/lib/" + HOSTILE[0])
    for place, name in enumerate(HOSTILE):
        pid = 100 + place
        if place:
            trace.row("clone", 0x1200011, pid=pid - 1, result=pid)
        trace.program("/bin/" + name.replace("\0", ""), [name], pid=pid)
        number = trace.file(
            "/tmp/" + name.replace("\0", ""), inode=20 + place, mode=READABLE | PLAIN
        )
        start = BASE + place * (1 << 24)
        trace.stack([name, "main"], pid=pid)
        trace.row(
            "mmap",
            start,
            2 * PAGE,
            1,
            0x12,
            3,
            0,
            pid=pid,
            result=start,
            host_calls=1,
            kinds=MAP,
            file=number,
        )
        for _ in range(2):
            trace.stack([name, HOSTILE[0], "main"], pid=pid)
            trace.row("mprotect", start, PAGE, 1, pid=pid, result=0)
        trace.row("note", pid=pid, data=name.encode("utf-8", "replace"))
        trace.row("lost", 1, pid=pid, data=name.encode("utf-8", "replace"))
    return trace.end()
