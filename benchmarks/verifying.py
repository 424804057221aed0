"""What `--verify` costs, in CPU time; and what thousands of VMAs cost a program, beside strace in
the same round."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from statistics import median

from benchmarks.machine import RUN, compiled, table

#: `program random|forks|refused|transcode VMAS TIMES`: makes VMAs of alternating protection, then
#: prints how many ns each of TIMES random mprotects of single pages, forks, or refused mmaps took.
#: `transcode` computes between its calls, as ffmpeg does: it maps, fills and unmaps a buffer, and
#: changes a page's protection, for each frame.
SOURCE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}
static void frame(char *page)
{
    enum { SIZE = 256 << 10 };
    unsigned *buffer = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int turn = 0; turn < 8; turn++)
        for (int i = 1; i < SIZE / 4; i++)
            buffer[i] = buffer[i - 1] * 2654435761u + turn;
    munmap(buffer, SIZE);
    mprotect(page, 4096, PROT_READ);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}
int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    char kind = argv[1][1];
    long vmas = atol(argv[2]), times = atol(argv[3]);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = mmap(0, vmas * 4096, PROT_READ | PROT_WRITE, flags, -1, 0), *writable = calloc(vmas, 1);
    for (long i = 0; i < vmas; i += 2)
        if (mprotect(at + i * 4096, 4096, PROT_READ))
            return 3;
    double began = now();
    for (long i = 0; i < times; i++) {
        long page = random() % vmas;
        if (kind == 'o') { /* forks */
            pid_t pid = fork();
            if (pid == 0)
                _exit(0);
            waitpid(pid, 0, 0);
        } else if (kind == 'e') { /* refused */
            if (mmap(0, 1L << 46, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
                return 4;
        } else if (kind == 'r') { /* transcode */
            frame(at + (page | 1) % vmas * 4096);
        } else { /* random */
            writable[page] ^= 1;
            mprotect(at + page * 4096, 4096, writable[page] ^ (page & 1) ? PROT_READ | PROT_WRITE : PROT_READ);
        }
    }
    printf("%f\n", (now() - began) / times);
    return 0;
}
"""  # noqa: E501
ROUNDS = 5
STRACE = ["strace", "-f", "-o", "/dev/null", "-e", "trace=%memory"]
MODES = ("off", "exit", "call")
MOST = 8.0
RUBY = "a = []; 3_000_000.times { |i| a << i.to_s; a = [] if a.size > 50_000 }"
NODE = (
    "let a; for (let i = 0; i < 400; i++) { a = []; for (let j = 0; j < 20000; j++) "
    "a.push({i, j}); }"
)
PYTHON = "import json; [json.dumps([bytearray(9).hex()] * 4000) for _ in range(1500)]"
#: what → (the program's arguments, how many times strace's time it may take at most)
MANY = {
    "random mprotects, 60,000 VMAs": (("random", "60000", "20000"), 1 / 0.6),
    "forks, 2,000 VMAs": (("forks", "2000", "200"), 1 / 0.7),
    "refused mmaps, 5,000 VMAs": (("refused", "5000", "2000"), 2.0),
}


def cpu_seconds(command: Sequence[str]) -> float:
    """The CPU time of a command and of all its descendants, in seconds."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def verify_costs(program: str) -> dict[str, list[float]]:
    """Median CPU seconds by program: native, and under each mode of `--verify`."""
    programs = {
        "python3": [sys.executable, "-c", PYTHON],
        "ruby": ["ruby", "-e", RUBY],
        "node": ["node", "-e", NODE],
        "frames, 2,000 VMAs": [program, "transcode", "2000", "1000"],
        "frames, 10,000 VMAs": [program, "transcode", "10000", "1000"],
    }
    times: dict[str, list[list[float]]] = {}
    for turn in range(ROUNDS):
        for name, command in programs.items():
            if shutil.which(command[0]) is None:
                continue
            ways = [command, *([*RUN, "--verify", mode, "--", *command] for mode in MODES)]
            for way, column in zip(ways, times.setdefault(name, [[] for _ in ways]), strict=True):
                column.append(cpu_seconds(way))
        print(f"  round {turn + 1} of {ROUNDS} done", file=sys.stderr)
    return {name: [median(column) for column in columns] for name, columns in times.items()}


def many_vmas(program: str) -> dict[str, list[float]]:
    """Median µs by part: native, under Laconic, under strace; each round runs every way once."""
    if shutil.which("strace") is None:
        raise SystemExit("strace was not found: install it")
    ways: tuple[list[str], ...] = ([], [*RUN, "--"], STRACE)
    times: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for name, (words, _) in MANY.items():
            for way, column in zip(ways, times.setdefault(name, [[] for _ in ways]), strict=True):
                output = subprocess.run(
                    [*way, program, *words], capture_output=True, check=True
                ).stdout
                column.append(float(output) / 1000)
    return {name: [median(column) for column in columns] for name, columns in times.items()}


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    with compiled(SOURCE) as program:
        costs = verify_costs(program)
        many = many_vmas(program)
    targets = []
    rows = []
    for name, (native, *modes) in costs.items():
        rows.append([name, f"{native:.2f}", *(f"{seconds / native:.2f}" for seconds in modes)])
        for mode, seconds in zip(MODES[1:], modes[1:], strict=True):
            targets.append((f"--verify {mode} ÷ native, CPU time, {name}", seconds / native, MOST))
    head = ["CPU time", "native, s", *(f"--verify {mode} ÷ native" for mode in MODES)]
    sections = {"verifying": table(head, rows)}
    rows = []
    for name, (native, ours, strace) in many.items():
        rows.append([name, f"{native:.2f}", f"{ours:.1f}", f"{strace:.1f}", f"{ours / strace:.2f}"])
        targets.append((f"laconic ÷ strace, {name}", ours / strace, MANY[name][1]))
    sections["many-vmas"] = table(
        ["µs each", "native", "laconic", "strace", "laconic ÷ strace"], rows
    )
    return sections, targets
