"""What one stack costs: Laconic's unwinder, and `strace -k`, on the same program in the same run.

`python -m benchmarks.stacks` prints the figures.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from statistics import median

from benchmarks.machine import compiled, describe, table
from laconic.stacks.modules import Modules
from laconic.stacks.unwind import Space
from laconic.tracer import ptrace

#: `program N` makes N mprotect calls 15 calls deep, and prints how many ns each took.
DEEP = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile int keep;
static char *page;
__attribute__((noinline)) static int calls(long n)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < n; i++)
        keep += mprotect(page, 4096, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / n);
    return keep;
}
__attribute__((noinline, noclone)) static int deep(int depth, long n)
{
    int below = depth ? deep(depth - 1, n) : calls(n);
    return below + keep;
}
int main(int argc, char **argv)
{
    page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return deep(13, argc > 1 ? atol(argv[1]) : 1) & 0;
}
"""
FRAMES = 20
ROUNDS, WARM, STOPS, CALLS = 5, 20, 3000, 2000
#: Microseconds that a stack of 20 frames may cost once warm.
MOST = 60.0
WALL = 0x40000000


def ours(program: str) -> tuple[float, float, int]:
    """Median µs a stack at stops of the program's calls, registers read too; of the first one; and
    its frames."""
    process = subprocess.Popen([program, "1000000"], stdout=subprocess.DEVNULL)
    times: list[float] = []
    try:
        time.sleep(0.2)
        pid = process.pid
        if not ptrace.seize(pid, ptrace.O_TRACESYSGOOD):
            raise SystemExit("ptrace was refused: run laconic doctor")
        os.kill(pid, signal.SIGSTOP)
        space, registers = Space(pid, Modules()), ptrace.Registers()
        while len(times) < STOPS:
            _, status = os.waitpid(pid, WALL)
            if not os.WIFSTOPPED(status):
                raise SystemExit("the program has ended too soon")
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                began = time.perf_counter()
                registers.load(pid)
                frames = space.walk(pid, registers.words)
                times.append(time.perf_counter() - began)
            ptrace.resume(ptrace.SYSCALL, pid)
    finally:
        # Popen.kill() would take a stop of the traced process for its end, and send nothing.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return median(times[WARM:]) * 1e6, times[0] * 1e6, len(frames)


def strace(program: str, *options: str) -> float:
    """µs that a call takes under strace."""
    command = ["strace", *options, "-e", "trace=mprotect", "-o", "/dev/null", program, str(CALLS)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout) / 1000


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    if shutil.which("strace") is None:
        raise SystemExit("strace was not found: install it")
    warm, cold, theirs = [], [], []
    with compiled(DEEP) as program:
        for turn in range(ROUNDS):
            one, first, frames = ours(program)
            if frames != FRAMES:
                raise SystemExit(
                    f"the program's stack has {frames} frames: it should have {FRAMES}"
                )
            warm.append(one)
            cold.append(first)
            theirs.append(strace(program, "-k") - strace(program))
            print(f"  round {turn + 1} of {ROUNDS} done", file=sys.stderr)
    us, them = median(warm), median(theirs)
    rows = [
        ["laconic, warm", f"{us:.1f}", f"{us / FRAMES:.2f}", f"{us / them:.3f}"],
        [
            "laconic, the first one",
            f"{median(cold):.0f}",
            f"{median(cold) / FRAMES:.0f}",
            f"{median(cold) / them:.2f}",
        ],
        ["strace -k", f"{them:.0f}", f"{them / FRAMES:.1f}", "1"],
    ]
    head = [f"a stack of {FRAMES} frames", "µs", "µs per frame", "÷ strace -k"]
    targets = [
        (f"µs per stack of {FRAMES} frames, warm", us, MOST),
        ("the same ÷ strace -k", us / them, 1.0),
    ]
    return {"stacks": table(head, rows)}, targets


def main() -> int:
    """Prints the figures; returns 1 where a target is missed."""
    print(describe())
    sections, targets = report()
    print("\n" + "\n".join(sections.values()))
    rows = [
        [what, f"{got:.2f}", f"{most:.2f}", "yes" if got <= most else "**no**"]
        for what, got, most in targets
    ]
    print("\n" + table(["target", "measured", "at most", "met"], rows))
    return int(any(got > most for _, got, most in targets))


if __name__ == "__main__":
    sys.exit(main())
