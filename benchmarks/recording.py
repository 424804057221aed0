"""What recording costs: the same programs under `laconic run`, with `-o` and without, with the
stacks of redundant calls and of all, by turns; and bytes a call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.machine import RUN, compiled, table
from laconic.trace.reader import TraceReader
from laconic.trace.schema import MEMORY_CODES

#: `program CALLS` maps, protects and unmaps random blocks, 256 at a time, and touches random pages
#: of them: nothing but memory calls, which is the worst that a recorder can meet.
CALLS = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
int main(int argc, char **argv)
{
    static char *live[256];
    static size_t size[256];
    unsigned seed = 1;
    for (long i = argc > 1 ? atol(argv[1]) : 0; i > 0; i--) {
        int k = rand_r(&seed) % 256;
        if (!live[k]) {
            size[k] = 4096 * (1 + rand_r(&seed) % 64);
            live[k] = mmap(0, size[k], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memset(live[k], 1, 4096 * (1 + rand_r(&seed) % (size[k] / 4096)));
        } else if (rand_r(&seed) % 4 == 0) {
            mprotect(live[k], 4096, rand_r(&seed) % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        } else {
            munmap(live[k], size[k]);
            live[k] = 0;
        }
    }
    return 0;
}
"""
CHURN = 40_000
MILLION = 1_000_000
ROUNDS = 7
PYTHON = (
    "import json, decimal, email; [bytearray(1 << 20) for _ in range(200)]; sum(range(3_000_000))"
)
PROCESSES = "import multiprocessing as m; print(sum(m.Pool(4).map(len, [bytes(1 << 20)] * 64)))"
NODE = (
    "let a = []; for (let i = 0; i < 200; i++) { a = []; for (let j = 0; j < 20000; j++) "
    "a.push({i, j}); }"
)
SHELL = "for i in 1 2 3 4 5 6 7 8; do ls -l /usr/bin | sort | tail -3 | wc -c; done"
MOST = 1.15
MOST_BYTES = 16


#: What `-o` is given beside it, in the order of the columns; the first is without `-o`.
STACKS = (None, "none", "redundant", "all")


def measure(program: str, directory: Path) -> dict[str, list[float]]:
    """Median seconds by program, in the order of `STACKS`."""
    programs = {
        "nothing but memory calls": [program, str(CHURN)],
        "python3": [sys.executable, "-c", PYTHON],
        "python3, 4 processes": [sys.executable, "-c", PROCESSES],
        "a shell's pipelines": ["bash", "-c", SHELL],
        "node": ["node", "-e", NODE],
    }
    times: dict[str, list[list[float]]] = {}
    for turn in range(ROUNDS):
        for name, command in programs.items():
            if shutil.which(command[0]) is None:
                continue
            for stacks, column in zip(
                STACKS, times.setdefault(name, [[] for _ in STACKS]), strict=True
            ):
                options = (
                    []
                    if stacks is None
                    else ["-o", str(directory / "a.trace"), "--force", "--stacks", stacks]
                )
                column.append(_run(command, *options))
        print(f"  round {turn + 1} of {ROUNDS} done", file=sys.stderr)
    return {name: [median(column) for column in columns] for name, columns in times.items()}


def _run(command: list[str], *options: str) -> float:
    began = time.perf_counter()
    subprocess.run([*RUN, *options, "--", *command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def size(program: str, directory: Path) -> tuple[int, int]:
    """Memory calls and bytes of a trace of about a million of them."""
    path = str(directory / "million.trace")
    _run([program, str(MILLION)], "-o", path, "--stacks", "none")
    calls = sum(row.event < MEMORY_CODES for row in TraceReader(path).rows())
    return calls, os.path.getsize(path)


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    with compiled(CALLS) as program, tempfile.TemporaryDirectory() as directory:
        times = measure(program, Path(directory))
        calls, written = size(program, Path(directory))
    rows = [
        [name, f"{without:.2f}", f"{recorded:.2f}", f"{recorded / without:.2f}"]
        for name, (without, recorded, _, _) in times.items()
    ]
    text = table(
        ["seconds under `laconic run`", "without -o", "with -o --stacks none", "ratio"], rows
    )
    rows = [
        [name, f"{redundant:.2f}", f"{redundant / none:.2f}", f"{every:.2f}", f"{every / none:.2f}"]
        for name, (_, none, redundant, every) in times.items()
    ]
    head = [
        "seconds, and the ratio to --stacks none",
        "--stacks redundant",
        "ratio",
        "--stacks all",
        "ratio",
    ]
    text += f"\n\n{table(head, rows)}"
    text += (
        f"\n\nA trace of {calls:,} memory calls has {written:,} bytes: {written / calls:.1f} "
        f"per call."
    )
    targets = [
        (f"recorded ÷ not, {name}", recorded / without, MOST)
        for name, (without, recorded, *_) in times.items()
    ]
    return {"recording": text}, [*targets, ("bytes per call", written / calls, MOST_BYTES)]
