"""How times grow with the input: each input once and twice as large, in turns, in CPU time.

A C program makes processes, threads, VMAs and so on; it is recorded, and its trace is read by the
reports. Logs are written here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import compiled, table
from benchmarks.verifying import cpu_seconds

#: `program KIND N`. FUNCTIONS stands for 4,096 functions, each with a memory call of its own.
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define PAGE 4096L
static char *area;
static void *reserve(long pages)
{
    return mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}
static void *one(void *unused)
{
    munmap(reserve(1), PAGE);
    return unused;
}
static void split(long vmas)
{
    area = reserve(vmas);
    for (long i = 0; i < vmas; i += 2)
        mprotect(area + i * PAGE, PAGE, PROT_READ);
}
static void fork_one(void)
{
    pid_t child = fork();
    if (!child) {
        one(0);
        _exit(0);
    }
    waitpid(child, 0, 0);
}
/* A stack of its own for each number: its binary digits choose the functions. */
static int even(long number, int digits);
__attribute__((noinline)) static int odd(long number, int digits)
{
    if (!digits)
        return mprotect(area, PAGE, PROT_READ | PROT_WRITE) + 1;
    return 1 + (number & 1 ? odd(number >> 1, digits - 1) : even(number >> 1, digits - 1));
}
__attribute__((noinline)) static int even(long number, int digits)
{
    if (!digits)
        return mprotect(area, PAGE, PROT_READ | PROT_WRITE) + 2;
    return 2 + (number & 1 ? odd(number >> 1, digits - 1) : even(number >> 1, digits - 1));
}
FUNCTIONS
int main(int count, char **words)
{
    const char *kind = words[1];
    long n = atol(words[2]);
    area = reserve(1);
    if (!strcmp(kind, "processes"))
        for (long i = 0; i < n; i++)
            fork_one();
    else if (!strcmp(kind, "threads"))
        for (long i = 0; i < n; i++) {
            pthread_t thread;
            pthread_create(&thread, 0, one, 0);
            pthread_join(thread, 0);
        }
    else if (!strcmp(kind, "vmas"))
        split(n);
    else if (!strcmp(kind, "forks")) {
        split(n);
        for (int i = 0; i < 50; i++)
            fork_one();
    } else if (!strcmp(kind, "files"))
        for (long i = 0; i < n; i++) {
            char name[32];
            sprintf(name, "file%ld", i);
            int file = open(name, O_RDWR | O_CREAT, 0600);
            if (ftruncate(file, PAGE))
                return 3;
            mmap(0, PAGE, PROT_READ, MAP_SHARED, file, 0);
            close(file);
        }
    else if (!strcmp(kind, "stacks"))
        for (long i = 0; i < n; i++)
            even(i, 16);
    else if (!strcmp(kind, "sites"))
        for (long i = 0; i < n; i++)
            functions[i]();
    return count != 3;
}
"""  # noqa: E501
FUNCTIONS = 4096
RUNS = 3
MOST = 2.3
LACONIC = [sys.executable, "-m", "laconic"]


class Input(NamedTuple):
    """What is doubled: its name in words, the program's argument, how many, and the options of
    `laconic run`."""

    name: str
    kind: str
    size: int
    options: tuple[str, ...] = ()


INPUTS = (
    Input("processes", "processes", 500),
    Input("threads", "threads", 2_000),
    Input("VMAs", "vmas", 20_000),
    Input("VMAs of a process that forks 50 times", "forks", 4_000),
    Input("mapped files", "files", 2_000),
    Input("distinct stacks", "stacks", 10_000, ("--stacks", "all")),
    Input("distinct sites", "sites", 2_048, ("--stacks", "all")),
)
#: The reports of a trace: column → the command's words before the trace.
REPORTS = {
    "compare": ["compare"],
    "callers": ["callers", "--no-suppressions"],
    "html": ["html", "--force", "-o", "page.html"],
}


def source() -> str:
    """The C program, with its many functions."""
    functions = [
        f"static void f{number}(void) {{ mprotect(area, PAGE, PROT_READ | PROT_WRITE); }}"
        for number in range(FUNCTIONS)
    ]
    names = ", ".join(f"f{number}" for number in range(FUNCTIONS))
    return SOURCE.replace(
        "FUNCTIONS", "\n".join([*functions, f"static void (*functions[])(void) = {{{names}}};"])
    )


def log_lines(count: int, *, processes: int) -> Iterator[str]:
    """An strace log of `count` calls, by turns of `processes` processes, without a clone."""
    for number in range(count):
        pid = 1000 + number % processes
        address = 0x7F00_0000_0000 + number * 0x2000
        flags = "PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0"
        yield f"{pid} {number / 1e4:.6f} mmap(NULL, 4096, {flags}) = {address:#x}\n"


def ratio(once: Callable[[], float], twice: Callable[[], float]) -> float:
    """How many times the CPU time of `once` `twice` takes: the best of each, taken by turns."""
    times = [(once(), twice()) for _ in range(RUNS)]
    return min(second for _, second in times) / min(first for first, _ in times)


def _recorded(program: str, each: Input, count: int, trace: Path) -> list[str]:
    words = [*LACONIC, "run", "--quiet", "--force", "-o", str(trace), *each.options, "--"]
    return [*words, program, each.kind, str(count)]


def grow(program: str, each: Input) -> dict[str, float]:
    """The ratios of one input by column."""
    ratios = {}
    once, twice = Path("once.trace"), Path("twice.trace")
    ratios["record"] = ratio(
        lambda: cpu_seconds(_recorded(program, each, each.size, once)),
        lambda: cpu_seconds(_recorded(program, each, 2 * each.size, twice)),
    )
    verify = [*LACONIC, "run", "--quiet", "--verify", "call", "--", program, each.kind]
    ratios["--verify call"] = ratio(
        lambda: cpu_seconds([*verify, str(each.size)]),
        lambda: cpu_seconds([*verify, str(2 * each.size)]),
    )
    for column, words in REPORTS.items():
        ratios[column] = ratio(
            lambda words=words: cpu_seconds([*LACONIC, *words, str(once)]),  # type: ignore[misc]
            lambda words=words: cpu_seconds([*LACONIC, *words, str(twice)]),  # type: ignore[misc]
        )
    return ratios


def grow_log(*, processes: int | None, count: int) -> float:
    """The ratio of the import of logs of `count` lines and twice as many; None: as many processes
    as lines."""
    paths = []
    for name, lines in (("once.log", count), ("twice.log", 2 * count)):
        path = Path(name)
        path.write_text("".join(log_lines(lines, processes=processes or lines)))
        paths.append(path)
    words = [*LACONIC, "import", "strace", "--force", "-o", "log.trace"]
    return ratio(
        lambda: cpu_seconds([*words, str(paths[0])]), lambda: cpu_seconds([*words, str(paths[1])])
    )


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The section of the page, and the targets: what, measured, at most."""
    columns = ["record", "--verify call", *REPORTS]
    rows, targets = [], []
    before = os.getcwd()
    with compiled(source()) as program, tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            for each in INPUTS:
                ratios = grow(program, each)
                rows.append([each.name, *(f"{ratios[name]:.2f}" for name in columns)])
                targets += [(f"{name}, {each.name}", ratios[name], MOST) for name in columns]
                print(f"  {each.name}: done", file=sys.stderr)
            logs = {
                "lines of an strace log": grow_log(processes=8, count=200_000),
                "processes of a log without clone lines": grow_log(processes=None, count=20_000),
            }
        finally:
            os.chdir(before)
    text = table(["time for twice as many ÷ time", *columns], rows)
    text += "\n\n" + table(
        ["time for twice as many ÷ time", "import"],
        [[name, f"{value:.2f}"] for name, value in logs.items()],
    )
    worst = max(targets, key=lambda target: target[1])
    targets = [(f"the highest ratio of reports ({worst[0]})", worst[1], MOST)]
    targets += [(f"import, {name}", value, MOST) for name, value in logs.items()]
    return {"growth": text}, targets
