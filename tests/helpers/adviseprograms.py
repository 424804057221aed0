"""Programs for the advice: address spaces with known habits, and what is advised of them."""

from __future__ import annotations

from pathlib import Path

import laconic.analysis.advise.advice
import laconic.trace
from laconic.analysis.advise import advisor
from laconic.analysis.advise.advice import Advice
from laconic.analysis.advise.figures import AdviceFigures, measure
from laconic.analysis.advise.watch import ARENA, MIB
from laconic.sgx import costs
from laconic.trace.schema import CHOSEN
from tests.helpers.traces import BASE, Builder

NONE, R, RW, RX, RWX = 0, 1, 3, 5, 7

ANONYMOUS, NORESERVE, STACK_FLAGS = 0x22, 0x4022, 0x20022

FIXED = 0x10

DONTNEED = 4

PAGE = 4096

PROFILE = costs.load()


class Program(Builder):
    """A trace of one program, and short words for what it does."""

    def __init__(
        self, path: Path, name: str = "/bin/prog", *words: str, source: str = "run"
    ) -> None:
        super().__init__(path / "a.trace", source)
        self.program(name, [name, *words])

    def mmap(
        self,
        start: int,
        length: int,
        prot: int,
        flags: int = ANONYMOUS,
        file: int = 0,
        pid: int = 100,
    ) -> int:
        """Maps at `start`, which the host chose unless it is fixed."""
        state = 0 if flags & FIXED else CHOSEN
        hint = start if flags & FIXED else 0
        self.row(
            "mmap",
            hint,
            length,
            prot,
            flags,
            3 if file else -1,
            0,
            result=start,
            state=state,
            file=file,
            pid=pid,
        )
        return start

    def call(self, name: str, *args: int, result: int = 0) -> None:
        """Any other call, which succeeds unless told."""
        self.row(name, *args, result=result)

    libraries = 0

    def library(self, name: str) -> None:
        """Maps a file of that name, behind those before."""
        self.mmap(
            BASE + (1 << 38) + self.libraries * 2 * PAGE,
            2 * PAGE,
            R,
            2,
            self.file(f"/usr/lib/{name}"),
        )
        self.libraries += 1

    def touched(self, *runs: tuple[int, int]) -> str:
        """The process ends, these pages touched; the trace's path."""
        self.row("exit", 0, touched=tuple((start, end, 0) for start, end in runs))
        return self.end()


def measured(path: str) -> AdviceFigures:
    """The figures of a trace."""
    return measure(lambda: laconic.trace.open(path), PROFILE)


def advised(path: str) -> dict[str, Advice]:
    """The advice for a trace, by option."""
    return {each.option: each for each in advisor.advise(measured(path), PROFILE)}


def settings(path: str) -> dict[str, Advice]:
    """Of that, what is not the manifest's own."""
    return {name: each for name, each in advised(path).items() if each.where != "manifest"}


def arenas(trace: Program, count: int, growths: int) -> None:
    """As glibc's threads do: 128 MiB reserved, cut to 64 MiB aligned, a first piece made RW, and
    more page by page."""
    for place in range(count):
        base = BASE + place * 4 * ARENA
        trace.mmap(base, 2 * ARENA, NONE, NORESERVE)
        trace.call("munmap", base + ARENA, ARENA)
        trace.call("mprotect", base, 0x21000, RW)
        for growth in range(growths):
            trace.call("mprotect", base + 0x21000 + growth * PAGE, PAGE, RW)


def hotspot(trace: Program, bitmaps: int = 2, steps: int = 5) -> list[tuple[int, int]]:
    """A JVM's reservations, each opened a little; the pages that are touched."""
    trace.library("libjvm.so")
    heap, code, classes, more = BASE, BASE + (8 << 30), BASE + (10 << 30), BASE + (16 << 30)
    trace.mmap(heap, 6 << 30, NONE, NORESERVE)
    for step in range(steps):
        trace.mmap(heap + step * 160 * MIB // steps, 160 * MIB // steps, RW, NORESERVE | FIXED)
    trace.mmap(code, 240 * MIB, NONE, NORESERVE)
    trace.mmap(code, 2 * MIB, RWX, NORESERVE | FIXED)
    trace.mmap(classes, (1 << 30) + 16 * MIB, NONE, NORESERVE)
    trace.call("mprotect", classes, 4 * MIB, RW)
    for place in range(bitmaps):
        trace.mmap(more + place * (1 << 30), (6 << 30) // 64, NONE, NORESERVE)
    return [(heap, heap + 40 * MIB), (code, code + MIB), (classes, classes + 2 * MIB)]
