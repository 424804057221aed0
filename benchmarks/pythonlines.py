"""What Python lines cost: a stack with them and without, at the same stops; and the same programs
under `laconic run --stacks all` with them, without, and without stacks, by turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.machine import table
from benchmarks.recording import PYTHON
from laconic.stacks.modules import Modules
from laconic.stacks.unwind import Space
from laconic.tracer import ptrace

#: Makes memory calls without end, in as many functions.
DEEP = """
import mmap, sys
page = mmap.mmap(-1, 1 << 20)
def calls(count):
    while count:
        page.madvise(mmap.MADV_NORMAL)
        count -= 1
def deep(depth, count):
    return deep(depth - 1, count) if depth else calls(count)
deep(int(sys.argv[1]), int(sys.argv[2]))
"""
DEPTHS = (5, 20, 80)
STOPS, WARM, ROUNDS = 1000, 100, 3
CALLS = 20_000
#: Microseconds that a stack of 20 Python functions may cost once warm, as one of 20 C functions;
#: and times that the run of a usual program may take of one with C frames alone.
MOST_STACK, MOST_RUN = 60.0, 1.15
WALL = 0x40000000
_PLAIN = (
    "import sys; from laconic.tracer import stacks\n"
    "class Plain(stacks.Space):\n"
    "    def __init__(self, pid, modules, python=False): super().__init__(pid, modules)\n"
    "stacks.Space = Plain\n"
    "from laconic.__main__ import main; sys.exit(main())"
)


def stack_costs(depth: int) -> tuple[float, float, int]:
    """Median µs of a stack of C frames, and of one with Python frames; and how many these are."""
    process = subprocess.Popen([sys.executable, "-c", DEEP, str(depth), str(1 << 40)])
    times: list[tuple[float, float]] = []
    try:
        time.sleep(0.5)
        pid = process.pid
        if not ptrace.seize(pid, ptrace.O_TRACESYSGOOD):
            raise SystemExit("ptrace was refused: run laconic doctor")
        os.kill(pid, signal.SIGSTOP)
        plain, lines = Space(pid, Modules()), Space(pid, Modules(), python=True)
        registers = ptrace.Registers()
        added = 0
        while len(times) < STOPS:
            _, status = os.waitpid(pid, WALL)
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                registers.load(pid)
                began = time.perf_counter()
                without = plain.walk(pid, registers.words)
                between = time.perf_counter()
                frames = lines.walk(pid, registers.words)
                times.append((between - began, time.perf_counter() - between))
                added = len(frames) - len(without)
            ptrace.resume(ptrace.SYSCALL, pid)
    finally:
        # Popen.kill() would take a stop of the traced process for its end, and send nothing.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    without_lines, with_lines = zip(*times[WARM:], strict=True)
    return median(without_lines) * 1e6, median(with_lines) * 1e6, added


def runs() -> dict[str, list[float]]:
    """Median processor seconds by program, Laconic's and its own: without stacks, with C frames,
    with Python lines."""
    programs = {
        "nothing but memory calls, 20 functions deep": ["-c", DEEP, "20", str(CALLS)],
        "json, decimal, email, 200 MB": ["-c", PYTHON],
    }
    ways = (["-m", "laconic"], ["-c", _PLAIN], ["-m", "laconic"])
    times: dict[str, list[list[float]]] = {name: [[], [], []] for name in programs}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(ROUNDS):
            for name, program in programs.items():
                for column, way in enumerate(ways):
                    which = "all" if column else "none"
                    words = [sys.executable, *way, "run", "--quiet", "--stacks", which, "--force"]
                    words += ["-o", str(Path(directory, "a.trace")), "--", sys.executable, *program]
                    began = os.times()
                    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
                    ended = os.times()
                    used = ended.children_user - began.children_user
                    used += ended.children_system - began.children_system
                    times[name][column].append(used)
    return {name: [median(column) for column in columns] for name, columns in times.items()}


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    rows = []
    warm = {}
    for depth in DEPTHS:
        without, lines, added = stack_costs(depth)
        warm[depth] = lines
        rows.append([f"{depth} functions deep", f"{without:.1f}", f"{lines:.1f}", f"{added:,}"])
    text = table(["µs per stack", "C frames", "with Python lines", "additional frames"], rows)
    measured = runs()
    rows = [
        [name, f"{none:.2f}", f"{plain:.2f}", f"{lines:.2f}", f"{lines / plain:.2f}"]
        for name, (none, plain, lines) in measured.items()
    ]
    head = [
        "CPU seconds under `laconic run -o`",
        "--stacks none",
        "C frames",
        "Python lines",
        "ratio",
    ]
    text += f"\n\n{table(head, rows)}"
    name, (_, plain, lines) = list(measured.items())[-1]
    targets = [
        (f"µs per stack of {DEPTHS[1]} Python functions, warm", warm[DEPTHS[1]], MOST_STACK),
        (f"Python lines ÷ C frames, {name}", lines / plain, MOST_RUN),
    ]
    return {"python-lines": text}, targets
