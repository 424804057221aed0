"""Traces of which it is known how many calls each function made, and how many of these changed
nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from laconic.trace.schema import CHOSEN
from tests.helpers.traces import BASE, Builder

#: Function → (calls that change nothing, calls that change something).
Plan = Mapping[str, tuple[int, int]]


def sited(
    path: Path,
    plan: Plan,
    *,
    program: str = "/opt/bin/prog",
    module: str = "/opt/lib/libgrow.so",
    stacks: bool = True,
    unknown: tuple[str, ...] = (),
) -> str:
    """A trace, as of a log with stacks, in which each function of `module` makes mprotect calls as
    planned; its path.

    `unknown` is what the log does not record. There is one mmap more, of `setup`. A function
    `"0x12"` is one of which only the address is known.
    """
    trace = Builder(path, source="strace", about={"unknown": list(unknown)})
    trace.program(program, [program])

    def stack(function: str) -> None:
        name = (
            f"({function}+0x10) [0x4010]" if not function.startswith("0x") else f"() [{function}]"
        )
        if stacks:
            trace.row("stack", data=f"{module}{name}\n{program}(main+0x20) [0x5020]".encode())

    stack("setup")
    trace.row("mmap", 0, 1 << 20, 3, 0x22, -1, 0, result=BASE, state=CHOSEN)
    prot = 3
    for function, (redundant, other) in plan.items():
        for number in range(redundant + other):
            prot = prot if number < redundant else 4 - prot  # 3 and 1 in turn
            stack(function)
            trace.row("mprotect", BASE, 8192, prot, result=0)
    return trace.end()
