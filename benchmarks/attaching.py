"""What one system call costs a program that is attached to: alone, under `laconic attach`, and
under `strace -f -p`, in turns on the same program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from statistics import median

from benchmarks.machine import compiled, table

#: `program` makes calls whenever it reads a line: `other N` N calls of getppid, which is not a
#: memory call, `memory N` N mprotects that each change something; it prints how many ns each took.
CALLS = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void)
{
    char *page = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char kind[16];
    long n;
    struct timespec begin, end;
    page[4096] = 1;
    while (scanf("%15s %ld", kind, &n) == 2) {
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (long i = 0; i < n; i++)
            if (kind[0] == 'm')
                mprotect(page + 4096, 4096, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ);
            else
                syscall(SYS_getppid);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / n);
        fflush(stdout);
    }
    return 0;
}
"""
ROUNDS, CALLS_A_RUN = 5, 10_000
WAYS = {
    "native": [],
    "laconic": [sys.executable, "-m", "laconic", "attach", "--quiet"],
    "strace": ["strace", "-f", "-e", "trace=%memory", "-o", "/dev/null", "-p"],
}
KINDS = {"other": 2.5, "memory": 4.0}
PLACES = {"all CPUs": False, "one CPU": True}


def _attached(pid: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return "TracerPid:\t0" not in file.read()


def _measure_once(program: str, way: str) -> dict[str, float]:
    # µs a call by kind, of a program that is attached to after it has started.
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        tracer = None
        if WAYS[way]:
            command = [*WAYS[way], str(process.pid)]
            tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            while not _attached(process.pid):
                time.sleep(0.01)
            time.sleep(0.1)
        times = {}
        for kind in KINDS:
            process.stdin.write(f"{kind} {CALLS_A_RUN}\n")
            process.stdin.flush()
            times[kind] = float(process.stdout.readline()) / 1000
        if tracer is not None:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        process.stdin.close()
    return times


def measure() -> dict[tuple[str, str, str], float]:
    """Median µs a call by (where, kind, way): each round runs every way once, in turns."""
    if shutil.which("strace") is None:
        raise SystemExit("strace was not found: install it")
    times: dict[tuple[str, str, str], list[float]] = {}
    cpus = os.sched_getaffinity(0)
    with compiled(CALLS) as program:
        try:
            for turn in range(ROUNDS):
                for place, one in PLACES.items():
                    os.sched_setaffinity(0, {min(cpus)} if one else cpus)
                    for way in WAYS:
                        for kind, microseconds in _measure_once(program, way).items():
                            times.setdefault((place, kind, way), []).append(microseconds)
                print(f"  round {turn + 1} of {ROUNDS} done", file=sys.stderr)
        finally:
            os.sched_setaffinity(0, cpus)
    return {key: median(values) for key, values in times.items()}


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    times = measure()
    rows = []
    targets = []
    for place in PLACES:
        for kind, most in KINDS.items():
            native, ours, strace = (times[place, kind, way] for way in WAYS)
            rows.append(
                [
                    f"{kind} call, {place}",
                    *(f"{t:.2f}" for t in (native, ours, strace)),
                    f"{ours / strace:.2f}",
                ]
            )
            if place == "all CPUs":
                targets.append((f"laconic attach ÷ strace, {kind} call", ours / strace, most))
    head = ["µs per call", "native", "laconic attach", "strace -f -p", "laconic ÷ strace"]
    return {"attaching": table(head, rows)}, targets
