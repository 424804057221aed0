"""A program that stops itself at a place of its choice, and knows which calls led there.

It notes the return address of each of its functions. Then it says that it is ready, waits to be let
go, and stops with int3.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from laconic.stacks.modules import Modules
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.table import Frame
from laconic.stacks.unwind import Space
from laconic.tracer import ptrace
from tests.tracer.lab import compiler

SINGLESTEP = 9
WALL = 0x40000000

PROGRAM = r"""
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#define NOTE (truth[noted++] = (long)__builtin_return_address(0))
#define PLAIN __attribute__((noinline, noclone, noipa))
long truth[1000];
int noted;
volatile int keep;
char **words;

PLAIN void stop(void)
{
    NOTE;
    printf("%ld", (long)syscall(SYS_gettid));
    for (int i = 0; i < noted; i++)
        printf(" %lx", truth[i]);
    printf("\n");
    fflush(stdout);
    char c;
    while (read(0, &c, 1) < 1)
        ;
    __asm__ volatile("int3");
    keep++;
}
PLAIN int leaf(int n) { NOTE; stop(); return n + keep; }
PLAIN int recurse(int n) { NOTE; int r = n ? recurse(n - 1) + 1 : leaf(n); return r + keep; }
PLAIN int realigned(int n)
{
    NOTE;
    char wide[64] __attribute__((aligned(64)));
    char *more = alloca(n + 10);
    memset(more, n, 10);
    memset(wide, more[3], 64);
    return leaf(wide[5]) + more[1];
}
PLAIN int large(int n) { NOTE; char a[100000]; memset(a, n, sizeof a); return realigned(a[77]) + a[n]; }
PLAIN void handler(int s) { NOTE; keep += large(s & 1); }
static int compare(const void *a, const void *b)
{
    if (!keep++)
        keep += leaf(1);
    return *(int *)a - *(int *)b;
}
PLAIN void *thread(void *arg) { NOTE; keep += large(3) + (arg != 0); return 0; }
PLAIN int signalled(int alternate)
{
    NOTE;
    stack_t stack = {.ss_sp = malloc(1 << 18), .ss_size = 1 << 18};
    struct sigaction action = {.sa_handler = handler, .sa_flags = alternate ? SA_ONSTACK : 0};
    if (alternate)
        sigaltstack(&stack, 0);
    sigaction(SIGUSR1, &action, 0);
    keep += syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
    return keep;
}
PLAIN int work(void)
{
    char text[200];
    struct timespec now;
    int numbers[] = {5, 3, 9, 1, 7}, sum = 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof text, "%g %s %ld", 1.5 + now.tv_nsec, words[0], (long)now.tv_sec);
    keep = 1;
    qsort(numbers, 5, sizeof(int), compare);
    for (char *p = text; *p; p++)
        sum += strlen(p) + (strchr(text, *p) - text);
    return sum + realigned(2);
}
PLAIN int jit(void)
{
    NOTE;
    /* push rbp; mov rbp, rsp; call rdi; nop; pop rbp; ret */
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x90, 0x5d, 0xc3};
    unsigned char *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page + 64, code, sizeof code);
    ((int (*)(int (*)(int)))(page + 64))(leaf);
    return keep;
}
PLAIN int library(const char *path)
{
    NOTE;
    void *handle = dlopen(path, RTLD_NOW);
    int (*enter)(int (*)(int)) = handle ? (int (*)(int (*)(int)))dlsym(handle, "enter") : 0;
    if (!enter)
        return printf("skip: %s\n", dlerror());
    enter(leaf);
    dlclose(handle);
    return keep;
}
int main(int argc, char **argv)
{
    char scene = argv[1][0];
    words = argv;
    int numbers[] = {3, 2, 1};
    pthread_t other;
    if (scene == 'r') return recurse(argc > 2 ? atoi(argv[2]) : 200);
    if (scene == 'l') return large(4);
    if (scene == 's') return signalled(argv[1][1] == 'a');
    if (scene == 'q') qsort(numbers, 3, sizeof(int), compare);
    if (scene == 't' && !pthread_create(&other, 0, thread, 0)) pthread_join(other, 0);
    if (scene == 'j') return jit();
    if (scene == 'd') for (int i = 2; i < argc; i++) { noted = 0; library(argv[i]); }
    if (scene == 'w') { leaf(1); keep = 1; return work(); }
    if (scene == 'f') for (;;) { noted = 0; keep = work() & 1; }
    return keep;
}
"""  # noqa: E501
LIBRARY = r"""
__attribute__((visibility("hidden"), noinline, noipa)) int inner(int (*call)(int)) { PAD; return call(PLUS) + 1; }
int enter(int (*call)(int)) { return inner(call) * 2; }
"""  # noqa: E501


def builder(place: Path) -> Callable[..., Path]:
    """What compiles a source with flags, once, into a directory."""
    built: dict[tuple[str, ...], Path] = {}

    def make(*flags: str, source: str = PROGRAM) -> Path:
        gcc = compiler()
        if gcc is None:
            pytest.skip("gcc is not installed")
        key = (source, *flags)
        if key not in built:
            target = place / f"program{len(built)}"
            command = [gcc, "-w", "-pthread", "-x", "c", "-", *flags, "-o", str(target), "-ldl"]
            done = subprocess.run(command, input=source, capture_output=True, text=True)
            if done.returncode and {"-static", "-static-pie"} & {*flags}:
                pytest.skip(f"gcc cannot build with {' '.join(flags)} here")
            assert done.returncode == 0, done.stderr
            built[key] = target
        return built[key]

    return make


@dataclass
class Stopped:
    """A program that has stopped itself. `truth` are return addresses, innermost first."""

    pid: int
    tid: int
    truth: list[int]
    space: Space
    registers: ptrace.Registers = field(default_factory=ptrace.Registers)

    def walk(self) -> list[Frame]:
        """The stack now, as frames."""
        assert self.registers.load(self.tid)
        numbers = self.space.walk(self.tid, self.registers.words)
        self.addresses = [next(iter(self.space.addresses(number)), None) for number in numbers]
        return [self.space.modules.tables.frames[number] for number in numbers]

    def places(self, symbolizer: Symbolizer | None = None) -> list[Place]:
        """The stack in words, inlined functions too."""
        symbolizer = symbolizer or Symbolizer(debug_directories=())
        modules = self.space.modules.tables.modules
        return [
            one for frame in self.walk() for one in symbolizer.places(modules[frame.module], frame)
        ]

    def step(self) -> bool:
        """One instruction; False where the program has stopped itself again, or ended."""
        ptrace.resume(SINGLESTEP, self.tid)
        _, status = os.waitpid(self.tid, WALL)
        if not os.WIFSTOPPED(status):
            return False
        assert self.registers.load(self.tid)
        code = self.memory(self.registers.words[ptrace.RIP] - 1, 1)
        return status >> 8 == signal.SIGTRAP and code != b"\xcc"

    def memory(self, address: int, size: int) -> bytes:
        """The program's memory."""
        return self.space.modules.memory.read(self.tid, address, size)

    def go(self, process: subprocess.Popen[str]) -> None:
        """On to the next stop of the same thread, in the same words."""
        ptrace.resume(ptrace.CONT, self.tid)
        self.truth = read_truth(process)[1]
        release(process, self.tid)


def read_truth(process: subprocess.Popen[str]) -> tuple[int, list[int]]:
    """What the program says before it stops: the thread, and the return addresses, innermost
    first."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if line.startswith("skip: "):
        pytest.skip(line)
    tid, *noted = line.split()
    return int(tid), [int(word, 16) for word in reversed(noted)]


def release(process: subprocess.Popen[str], tid: int) -> None:
    """Lets the program run into its int3."""
    assert process.stdin is not None
    process.stdin.write("g")
    process.stdin.flush()
    while True:
        _, status = os.waitpid(tid, WALL)
        if status >> 8 == signal.SIGTRAP:
            return
        assert os.WIFSTOPPED(status), f"it ended: {status:#x}"
        ptrace.resume(ptrace.CONT, tid, 0 if status >> 16 else os.WSTOPSIG(status))


@contextmanager
def stopped(
    program: Path,
    *words: str | Path,
    modules: Modules | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[tuple[Stopped, subprocess.Popen[str]]]:
    """Runs a program up to its first stop."""
    command = [str(program), *map(str, words)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        tid = process.pid
        try:
            tid, truth = read_truth(process)
            assert ptrace.seize(tid, 0)
            release(process, tid)
            yield (
                Stopped(process.pid, tid, truth, Space(process.pid, modules or Modules())),
                process,
            )
        finally:
            process.kill()
            if tid != process.pid:  # a thread that is traced is waited for before its process is
                os.waitpid(tid, WALL)
