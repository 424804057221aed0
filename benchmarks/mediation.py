"""What one memory call costs a program: alone, under Laconic, and under strace, in turns on the
same program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from statistics import median

from benchmarks.builds import COMPILED, FOLDERS, PURE
from benchmarks.machine import RUN, compiled, table
from benchmarks.verifying import cpu_seconds

#: `program elided|host-call N` prints how many ns each of its N mprotects took. Elided: RW again
#: and again, which changes nothing. Host call: R and RW by turns, which always does.
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
#: A tracer that only lets each mprotect go on, after one stop, or after two as a host call needs:
#: `tracer one|two PROGRAM ...`. No tracer can cost less.
TRACER = r"""
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void start(char **words)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {4, code};
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
    execvp(words[0], words);
    _exit(127);
}
int main(int argc, char **argv)
{
    int status, go_on = argv[1][0] == 't' ? PTRACE_SYSCALL : PTRACE_CONT;
    pid_t child = fork();
    if (!child)
        start(argv + 2);
    waitpid(child, &status, 0);
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, child, 0, 0);
    while (waitpid(child, &status, __WALL) == child && WIFSTOPPED(status)) {
        int stop = status >> 8, seccomp = stop == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
        int signal = seccomp || stop == SIGTRAP || stop == (SIGTRAP | 0x80) ? 0 : stop & 0xff;
        ptrace(seccomp ? go_on : PTRACE_CONT, child, 0, signal);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
"""  # noqa: E501
ROUNDS, CALLS_A_RUN = 9, 20_000
LACONIC = [*RUN, "--"]
STRACE = ["strace", "-f", "-o", "/dev/null"]
#: The ways to run a program: name → the words before it, and the variables of its environment.
WAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    "native": ([], {}),
    "laconic": (LACONIC, {"PYTHONPATH": str(FOLDERS[PURE])}),
    "compiled": (LACONIC, {"PYTHONPATH": str(FOLDERS[COMPILED])}),
    "strace": ([*STRACE, "--seccomp-bpf", "-e", "trace=%memory"], {}),
    "only stopped": ([], {}),
}
#: The kinds of call, and how often a tracer must stop for each.
KINDS = {"elided": "one", "host call": "two"}
PLACES = {"all CPUs": False, "one CPU": True}
#: How many times strace's time a call of the compiled build may take, by place and kind.
MOST = {
    ("all CPUs", "elided"): 0.18,
    ("all CPUs", "host call"): 0.60,
    ("one CPU", "elided"): 0.55,
    ("one CPU", "host call"): 1.0,
}
#: CPU milliseconds that Laconic may take to run the shortest program.
MOST_START = 60.0


def measure() -> dict[tuple[str, str, str], float]:
    """Median µs a call by (where, kind, way): each round runs every way once, in turns."""
    if shutil.which("strace") is None:
        raise SystemExit("strace was not found: install it")
    if not FOLDERS[COMPILED].is_dir():
        raise SystemExit("there is no compiled build to compare with: run sh tools/wheel.sh")
    times: dict[tuple[str, str, str], list[float]] = {}
    cpus = os.sched_getaffinity(0)
    with compiled(CALLS) as program, compiled(TRACER) as tracer:
        try:
            for turn in range(ROUNDS):
                for place, one in PLACES.items():
                    os.sched_setaffinity(0, {min(cpus)} if one else cpus)
                    for kind, stops in KINDS.items():
                        for way, (command, variables) in WAYS.items():
                            if way == "only stopped":
                                command = [tracer, stops]
                            run = [*command, program, kind.replace(" ", "-"), str(CALLS_A_RUN)]
                            output = subprocess.run(
                                run,
                                capture_output=True,
                                check=True,
                                env={**os.environ, **variables},
                            ).stdout
                            times.setdefault((place, kind, way), []).append(float(output) / 1000)
                print(f"  round {turn + 1} of {ROUNDS} done", file=sys.stderr)
        finally:
            os.sched_setaffinity(0, cpus)
    return {key: median(values) for key, values in times.items()}


def measure_start() -> dict[str, float]:
    """Median CPU milliseconds that `true` takes by way, in turns. `python3`: the interpreter alone,
    which Laconic cannot do without."""
    commands = {
        "laconic": [*LACONIC, "true"],
        "strace": [*STRACE, "true"],
        "python3": [sys.executable, "-c", ""],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(1000 * cpu_seconds(command))
    return {name: median(values) for name, values in times.items()}


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The page's sections by name, and every target as (what, measured, at most)."""
    times = measure()
    rows = []
    targets = []
    for place, kind in MOST:
        each = [times[place, kind, way] for way in WAYS]
        _, pure, fast, strace, _ = each
        ratios = [pure / strace, fast / strace]
        rows.append([f"{kind}, {place}", *(f"{time:.2f}" for time in [*each, *ratios])])
        targets.append(
            (f"compiled laconic ÷ strace, {kind}, {place}", ratios[1], MOST[place, kind])
        )
    head = ["µs per call", *WAYS, "laconic ÷ strace", "compiled ÷ strace"]
    start = measure_start()
    targets.append(("CPU ms of laconic run -- true", start["laconic"], MOST_START))
    started = [
        *(f"{start[name]:.0f}" for name in ("laconic", "strace", "python3")),
        f"{start['laconic'] / start['strace']:.1f}",
    ]
    text = table(head, rows) + "\n\n"
    text += table(
        ["CPU ms", "laconic run", "strace -f", "python3 -c ''", "laconic ÷ strace"],
        [["true", *started]],
    )
    return {"mediation": text}, targets
