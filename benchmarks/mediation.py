"""What one memory call costs a program: alone, under Laconic, and under strace, in turns on the
same program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from statistics import median

from benchmarks.machine import compiled, table

#: `program elided|host-call N` prints how many ns each of its N mprotects took. Elided: RW again
#: and again, which changes nothing. Said: R and RW by turns, which always does.
CALLS = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
int main(int argc, char **argv)
{
    char *page = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int passed = argc > 2 && argv[1][0] == 'h';
    long n = argc > 2 ? atol(argv[2]) : 0;
    struct timespec begin, end;
    if (page == MAP_FAILED || n <= 0)
        return 1;
    page[4096] = 1;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < n; i++)
        if (mprotect(page + 4096, 4096, passed && i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE))
            return 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / n);
    return 0;
}
"""
ROUNDS, CALLS_A_RUN = 9, 20_000
WAYS = {
    "native": [],
    "laconic": [sys.executable, "-m", "laconic", "run", "--quiet", "--"],
    "strace": ["strace", "-f", "--seccomp-bpf", "-e", "trace=%memory", "-o", "/dev/null"],
}
KINDS = {"elided": 0.7, "host call": 1.5}
PLACES = {"all CPUs": False, "one CPU": True}


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
                    for kind in KINDS:
                        for way, command in WAYS.items():
                            run = [*command, program, kind.replace(" ", "-"), str(CALLS_A_RUN)]
                            output = subprocess.run(run, capture_output=True, check=True).stdout
                            times.setdefault((place, kind, way), []).append(float(output) / 1000)
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
                    f"{kind}, {place}",
                    *(f"{t:.2f}" for t in (native, ours, strace)),
                    f"{ours / strace:.2f}",
                ]
            )
            if place == "all CPUs":
                targets.append((f"laconic ÷ strace, {kind}", ours / strace, most))
    head = ["µs per call", "native", "laconic", "strace", "laconic ÷ strace"]
    return {"mediation": table(head, rows)}, targets
