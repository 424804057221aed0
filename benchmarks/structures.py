"""RangeMap and AddressSpace against other structures on one recorded stream; the equal mprotect and
the kernel's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from gc import collect
from random import Random
from time import perf_counter_ns
from typing import Any

from benchmarks.machine import compiled, table
from benchmarks.rivals import Flat, Portion, Ranges, Sorted, Space, Tree
from benchmarks.stream import BASE, FIND, PROTECT, SET, WRITABLE, Operation, layout, record
from laconic.memory.flags import PAGE_SIZE
from laconic.memory.layout import Layout
from laconic.memory.mprotect import mprotect
from laconic.memory.space import AddressSpace

SIZES = (100, 1_000, 10_000, 60_000)
STRUCTURES: tuple[tuple[str, Any], ...] = (
    ("RangeMap", Ranges),
    ("AddressSpace", Space),
    ("flat lists", Flat),
    ("sortedcontainers", Sorted),
    ("intervaltree", Tree),
    ("portion", Portion),
)
#: Structures that take far longer → how many operations they are given at each size.
SHORT = {"intervaltree": (5_000,) * 4, "portion": (200, 50, 10, 5)}
#: Rounds, of which the least time is taken, and operations in each.
ROUNDS, LENGTH = 7, 20_000

#: The equal mprotect's VMAs: three pages, and a hole of one.
STEP = 4 * PAGE_SIZE
EQUAL = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
int main(int argc, char **argv)
{
    long n = atol(argv[1]), fresh = atol(argv[2]), page = 4096, slot = 4 * page;
    char *base = mmap(0, n * slot, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char **pages = malloc(1000 * sizeof *pages);
    double best = 1e18;
    if (argc < 3 || base == MAP_FAILED || !pages)
        return 1;
    for (long i = 0; i < n; i++)
        if (mprotect(base + i * slot, 3 * page, PROT_READ | PROT_WRITE) || munmap(base + i * slot + 3 * page, page))
            return 1;
    for (int round = 0; round < 50; round++) {
        struct timespec begin, end;
        if (round == 0 || fresh)
            for (int i = 0; i < 1000; i++)
                pages[i] = base + random() % n * slot + random() % 3 * page;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (int i = 0; i < 1000; i++)
            if (mprotect(pages[i], page, PROT_READ | PROT_WRITE))
                return 1;
        clock_gettime(CLOCK_MONOTONIC, &end);
        double ns = (end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec;
        if (ns < best)
            best = ns;
    }
    printf("%f\n", best / 1000);
    return 0;
}
"""  # noqa: E501


def _bound(
    target: Any, operations: Iterable[Operation]
) -> list[tuple[Callable[..., object], tuple[Any, ...]]]:
    # The recorded operations as calls on one structure: nothing but the calls is timed.
    calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
    for operation in operations:
        name, start, end, vma = operation
        if name == FIND:
            calls.append((target.find, (start,)))
        elif name == PROTECT:
            calls.append((target.protect, (start, end, operation.change())))
        elif name == SET:
            calls.append((target.set, (start, end, vma)))
        else:
            calls.append((target.clear, (start, end)))
    return calls


def _replay(build: Any, size: int, operations: list[Operation]) -> tuple[float, list[Any]]:
    # ns an operation, and what the structure then holds.
    target = build(layout(size))
    calls = _bound(target, operations)
    collect()
    began = perf_counter_ns()
    for function, arguments in calls:
        function(*arguments)
    return (perf_counter_ns() - began) / len(calls), target.entries()


def compare(sizes: tuple[int, ...] = SIZES) -> dict[str, list[float]]:
    """ns an operation for each structure and size. Raises AssertionError where two end with
    different contents."""
    results: dict[str, list[float]] = {name: [] for name, _ in STRUCTURES}
    for column, size in enumerate(sizes):
        stream = record(size, LENGTH)
        best = dict.fromkeys(results, float("inf"))
        ends: dict[int, list[Any]] = {}
        for turn in range(ROUNDS):
            for name, build in STRUCTURES:
                if (name in SHORT and turn >= 2) or (name == "portion" and turn):
                    continue
                operations = stream[: SHORT[name][column]] if name in SHORT else stream
                time, entries = _replay(build, size, operations)
                best[name] = min(best[name], time)
                length = len(operations)
                if length not in ends:
                    ends[length] = (
                        entries if name == "RangeMap" else _replay(Ranges, size, operations)[1]
                    )
                assert entries == ends[length], f"{name} does not end like RangeMap at {size} VMAs"
        for name in results:
            results[name].append(best[name])
        print(f"  {size:,} VMAs done", file=sys.stderr)
    return results


def _ours(space: AddressSpace, size: int, fresh: bool) -> float:
    random = Random(1)
    addresses: list[int] = []
    best = float("inf")
    for turn in range(50):
        if not turn or fresh:
            if fresh:
                space.vmas.hints.clear()
            addresses = [
                BASE + random.randrange(size) * STEP + random.randrange(3) * PAGE_SIZE
                for _ in range(1000)
            ]
        began = perf_counter_ns()
        for address in addresses:
            mprotect(space, address, PAGE_SIZE, 3)
        best = min(best, (perf_counter_ns() - began) / 1000)
    return best


EQUAL_SIZES = (1, 100, 1_000, 10_000)


def equal() -> dict[str, list[float]]:
    """ns for an mprotect of one page that changes nothing: the kernel's, and bookkeeping's, at 1 to
    10,000 VMAs."""
    results: dict[str, list[float]] = {"kernel": [], "kernel, new": [], "ours": [], "ours, new": []}
    with compiled(EQUAL) as program:
        for size in EQUAL_SIZES:
            entries = [
                (at, at + 3 * PAGE_SIZE, WRITABLE) for at in range(BASE, BASE + size * STEP, STEP)
            ]
            space = AddressSpace(Layout(), entries)
            best = dict.fromkeys(results, float("inf"))
            for _ in range(5):
                for name, fresh in (("kernel", False), ("kernel, new", True)):
                    run = [program, str(size), str(int(fresh))]
                    output = subprocess.run(run, capture_output=True, check=True).stdout
                    best[name] = min(best[name], float(output))
                    ours = name.replace("kernel", "ours")
                    best[ours] = min(best[ours], _ours(space, size, fresh))
            for name in results:
                results[name].append(best[name])
    return results


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    times = compare()
    ours, sorted_dict = times["RangeMap"], times["sortedcontainers"]
    head = ["ns per operation", *(f"{size:,} VMAs" for size in SIZES)]
    rows = [[name, *(f"{time:,.0f}" for time in line)] for name, line in times.items()]
    ratios = [
        [
            "sortedcontainers ÷ RangeMap",
            *(f"{b / a:.2f}" for a, b in zip(ours, sorted_dict, strict=True)),
        ]
    ]
    growth = (
        f"RangeMap at {SIZES[-1]:,} VMAs costs {ours[3] / ours[1]:.2f} of what it costs at "
        f"{SIZES[1]:,}."
    )
    targets = [
        (f"RangeMap ÷ sortedcontainers at {size:,} VMAs", a / b, 1.0 if size == 60_000 else 1 / 2.5)
        for size, a, b in zip(SIZES, ours, sorted_dict, strict=True)
    ]
    targets.append(("RangeMap at 60,000 VMAs ÷ at 1,000", ours[3] / ours[1], 2.0))
    once = equal()
    labels = {
        "kernel": "the kernel, at addresses requested before",
        "ours": "AddressSpace, at addresses requested before",
        "kernel, new": "the kernel, at new addresses",
        "ours, new": "AddressSpace, at new addresses",
    }
    equal_rows = [
        [label, *(f"{time:,.0f}" for time in once[name])] for name, label in labels.items()
    ]
    targets += [
        (f"equal mprotect ÷ the kernel's at {size:,} VMA{'s' if size > 1 else ''}", a / b, 1.0)
        for size, a, b in zip(EQUAL_SIZES, once["ours"], once["kernel"], strict=True)
        if size <= 1_000
    ]
    sections = {
        "structures": table(head, rows + ratios) + "\n\n" + growth,
        "equal": table(
            ["ns per call", *(f"{size:,} VMA{'s' if size > 1 else ''}" for size in EQUAL_SIZES)],
            equal_rows,
        ),
    }
    return sections, targets
