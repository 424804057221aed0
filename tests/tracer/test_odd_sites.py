"""laconic callers where stacks are odd: a C library without CFI, coroutines, files of one name, a
library rewritten."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconic.stacks.symbolize import Symbolizer
from laconic.stacks.table import FILE, Frame, Module
from tests.tracer.lab import COMMAND, environment, run_alone, tool

OWN = "__attribute__((noinline, noipa))"
HEAD = f"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#define OWN {OWN}
#define RW (PROT_READ | PROT_WRITE)
volatile int kept;
char *at;
"""
NO_CFI = ("-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fomit-frame-pointer")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Compiles sources, by the name of the file, into a program or a library."""

    def build(
        target: str, sources: dict[str, str], *flags: str | Path, compiler: str = "gcc"
    ) -> Path:
        for name, text in sources.items():
            (tmp_path / name).write_text(HEAD + text if name.startswith("main") else text)
        words = [tool(compiler), *sources, *flags, "-o", target]
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / target

    return build


def run(
    program: Path, *arguments: str, stacks: str = "all", by: str = "function"
) -> dict[str, Any]:
    """What `laconic callers --json` says of a program's run."""
    here = program.parent
    words = [
        "run",
        "--quiet",
        "--force",
        "-o",
        "a.trace",
        "--stacks",
        stacks,
        "--",
        str(program),
        *arguments,
    ]
    done = run_alone([*COMMAND, *words], env=environment(), cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    done = run_alone(
        [*COMMAND, "callers", "a.trace", "--sort", "redundant", "--by", by, "--json", "-"],
        env=environment(),
        cwd=here,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    found["callers"] = [caller for caller in found["callers"] if caller["call"] == "mprotect"]
    return found


def counts(found: dict[str, Any]) -> list[tuple[str, int, int | None]]:
    """Name, redundant and all calls of each caller, in order of their names."""
    return sorted(
        (caller["name"], caller["redundant"], caller["calls"]) for caller in found["callers"]
    )


def functions(found: dict[str, Any], number: int = 0) -> list[str]:
    """The stack of a caller by its functions."""
    return [place["function"] for place in found["callers"][number]["stack"]]


BARE = """
#define _GNU_SOURCE
#include <sys/syscall.h>
static __attribute__((noinline, noipa)) long answer(long value) { return value < 0 ? -1 : value; }
int mprotect(void *at, unsigned long size, int prot)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_mprotect), "D"(at), "S"(size), "d"(prot)
                     : "rcx", "r11", "memory");
    return answer(result) + 0;
}
"""
CALLS = """
OWN static void seal(int times) { for (int i = 0; i < times; i++) kept += mprotect(at, 4096, RW); kept++; }
OWN static void store(int times) { seal(times); kept++; }
OWN static int last(void) { return mprotect(at, 4096, RW); }
OWN static void pointed(int (*call)(void *, size_t, int)) { kept += call(at, 4096, RW); kept++; }
int main(void)
{
    at = mmap(0, 8192, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    store(9);
    for (int i = 0; i < 4; i++) kept += last();
    pointed(mprotect);
    return 0;
}
"""  # noqa: E501


class TestNoCfi:
    """The function that makes the system call has no CFI and keeps no frame pointer, as in musl."""

    @pytest.mark.parametrize(
        "flags", [("-O2",), ("-O0", "-fno-omit-frame-pointer"), ("-O2", "-fno-plt"), NO_CFI]
    )
    def test_a_library(self, make: Callable[..., Path], flags: tuple[str, ...]) -> None:
        make("libbare.so", {"bare.c": BARE}, *NO_CFI, "-fPIC", "-shared")
        found = run(
            make("program", {"main.c": CALLS}, *flags, "./libbare.so", "-Wl,-rpath,$ORIGIN")
        )
        # An optimised `last` is not there any more when the system call is made.
        last = "last" if "-O0" in flags else "main"
        assert counts(found) == sorted([("seal", 9, 9), (last, 4, 4), ("pointed", 1, 1)])
        stacks = [functions(found, number) for number in range(3)]
        assert stacks[0][:4] == ["mprotect", "seal", "store", "main"]
        assert all(caller["guessed"] for caller in found["callers"])
        assert all(caller["stack"][1]["guessed"] for caller in found["callers"])

    @pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-static"), ("-O0",)])
    def test_musl(self, make: Callable[..., Path], flags: tuple[str, ...]) -> None:
        found = run(make("program", {"main.c": CALLS}, *flags, compiler="musl-gcc"))
        last = "last" if "-O0" in flags else "main"
        assert counts(found) == sorted([("seal", 9, 9), (last, 4, 4), ("pointed", 1, 1)])
        assert functions(found)[1:4] == ["seal", "store", "main"]


COROUTINE = """
static ucontext_t one, other;
OWN static void work(void) { for (int i = 0; i < 5; i++) kept += mprotect(at, 4096, RW); swapcontext(&other, &one); }
int main(void)
{
    at = mmap(0, 1 << 17, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&other);
    other.uc_stack.ss_sp = at + (1 << 16);
    other.uc_stack.ss_size = 1 << 16;
    makecontext(&other, work, 0);
    return swapcontext(&one, &other);
}
"""  # noqa: E501


@pytest.mark.parametrize("flag", ["-O0", "-O2"])
def test_a_coroutine(make: Callable[..., Path], flag: str) -> None:
    """Its first function returns to one that nobody has called: the stack ends there, and nothing
    of it is guessed."""
    found = run(make("program", {"main.c": COROUTINE}, flag, "-fcf-protection=none"))
    assert counts(found) == [("work", 5, 5)] and not found["callers"][0]["guessed"]
    assert functions(found)[1] == "work" and len(functions(found)) == 3
    assert functions(found)[2] == "__start_context" or functions(found)[2].startswith("libc")


TWIN = f"""
#include <sys/mman.h>
extern char *at;
extern volatile int kept;
{OWN} static void twin(int n) {{ for (int i = 0; i < n; i++) kept += mprotect(at, 4096, 3); kept++; }}
void second(int n) {{ twin(n); kept++; }}
"""  # noqa: E501
TWINS = """
void second(int n);
OWN static void twin(int n) { for (int i = 0; i < n; i++) kept += mprotect(at, 4096, 3); kept++; }
int main(void) { at = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); twin(5); second(9); return 0; }
"""  # noqa: E501


def test_static_functions_of_one_name(make: Callable[..., Path]) -> None:
    """Two files each have their own: they are two callers, as far as DWARF tells the files."""
    found = run(make("program", {"main.c": TWINS, "second.c": TWIN}, "-O1", "-g"))
    assert counts(found) == [("twin", 5, 5), ("twin", 9, 9)]
    assert [caller["stack"][1]["file"].rsplit("/", 1)[-1] for caller in found["callers"]] == [
        "second.c",
        "main.c",
    ]
    assert counts(
        run(make("program", {"main.c": TWINS, "second.c": TWIN}, "-O1", "-g"), by="module")
    ) == [("program", 14, 14)]


PART = f"""
#include <sys/mman.h>
volatile int kept;
{OWN} static void inner(char *at, int n) {{ PAD; for (int i = 0; i < n; i++) kept += mprotect(at, 4096, 3); kept++; }}
void enter(char *at, int n) {{ inner(at, n); kept++; }}
"""  # noqa: E501
LOADS = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words)
{
    char line[4200];
    at = mmap(0, 8192, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 1; i < count; i++) {
        snprintf(line, sizeof line, "cat %s > %s.so", words[i], words[0]);
        if (system(line)) return 1;
        snprintf(line, sizeof line, "%s.so", words[0]);
        void *handle = dlopen(line, RTLD_NOW);
        if (!handle) return 2;
        ((void (*)(char *, int))dlsym(handle, "enter"))(at, i);
        dlclose(handle);
    }
    return 0;
}
"""


@pytest.mark.parametrize("stacks", ["all", "redundant"])
def test_a_library_that_is_rewritten(make: Callable[..., Path], stacks: str) -> None:
    """Same path, same inode, same place, other code: rules of the one that was there before do not
    do for it."""
    first = make("first", {"part.c": PART}, "-O2", "-g", "-fPIC", "-shared", "-DPAD=")
    second = make(
        "second",
        {"part.c": PART},
        "-O2",
        "-fPIC",
        "-shared",
        "-DPAD=volatile char pad[900]; pad[1] = 1",
    )
    program = make("program", {"main.c": LOADS}, "-O2")
    found = run(program, str(first), str(second), str(first), str(second), stacks=stacks)
    assert [caller["redundant"] for caller in found["callers"]] == [6, 4]
    for number in range(2):
        assert "main" in functions(found, number) and not found["callers"][number]["guessed"]
    assert functions(found, 0)[1:4] == ["inner", "enter", "main"]


DEEP = """
OWN static void down(int n) { if (n) down(n - 1); else kept += mprotect(at, 4096, RW); kept++; }
int main(void) { at = mmap(0, 8192, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); down(5000); down(200); return 0; }
"""  # noqa: E501


def test_recursion(make: Callable[..., Path], tmp_path: Path) -> None:
    """200 deep is there to its end; what is deeper than 512 frames is cut off, and the report does
    not hide that."""
    found = run(make("program", {"main.c": DEEP}, "-O1"), by="stack")
    assert counts(found) == [("down", 1, 1)] * 2
    whole, cut = sorted((functions(found, number) for number in range(2)), key=len)
    assert whole.count("down") == 201 and whole[-1] == "_start" and "main" in whole
    assert len(cut) == 513 and cut[-1] == "[cut]" and "main" not in cut
    output = run_alone(
        [*COMMAND, "callers", "a.trace", "--by", "stack"], env=environment(), cwd=tmp_path
    ).stdout
    assert "  < 503 more, and what is beyond them\n" in output and output.count("beyond them") == 1


def joined(text: str) -> str:
    """Without the line ends that a long path brings."""
    return "".join(text.split())


def test_dwarf_that_is_not_all_there(make: Callable[..., Path], tmp_path: Path) -> None:
    """Inlined functions in .dwo files: what is missing is reported, with the reason. Nothing is
    missing of sections that are compressed by zstd."""
    source = (
        "static inline __attribute__((always_inline)) void in(void) { kept += mprotect(at, "
        "4096, RW); }\n"
    )
    source += (
        "int main(void) { at = mmap(0, 8192, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); "
        "in(); in(); return 0; }\n"
    )
    program = make("program", {"main.c": source}, "-O2", "-g", "-gsplit-dwarf")
    assert counts(run(program)) == [("main", 2, 2)]
    output = run_alone([*COMMAND, "callers", "a.trace"], env=environment(), cwd=tmp_path).stdout
    assert joined(f"no inlined functions of {program}: they are in .dwo files") in joined(output)
    packed = make("packed", {"main.c": source}, "-O2", "-g")
    done = subprocess.run(
        [tool("objcopy"), "--compress-debug-sections=zstd", packed], capture_output=True
    )
    if done.returncode:
        pytest.skip("this objcopy knows no zstd")
    found = run(packed)
    assert counts(found) == [("in", 2, 2)]
    assert [place["line"] > 0 for place in found["callers"][0]["stack"][1:3]] == [True, True]
    output = run_alone([*COMMAND, "callers", "a.trace"], env=environment(), cwd=tmp_path).stdout
    assert joined(f"of {packed}:") not in joined(output)
    about = Module(FILE, str(program))
    symbolizer = Symbolizer(())
    assert symbolizer.places(about, Frame(1, 1, True, False)) and not symbolizer.partial


@pytest.mark.slow  # Go is a large package
def test_go(tmp_path: Path) -> None:
    """Go's packages of system calls are wrappers: the function that uses them makes the calls."""
    (tmp_path / "work.go").write_text(
        'package main\nimport "syscall"\n//go:noinline\n'
        "func seal(m []byte, n int) { for i := 0; i < n; i++ { syscall.Mprotect(m, 3) } }\n"
        "func main() { m, _ := syscall.Mmap(-1, 0, 8192, 3, 34); seal(m, 7) }\n"
    )
    words = [tool("go"), "build", "-o", "work", "work.go"]
    environ = environment(GOCACHE=str(tmp_path / "cache"), GO111MODULE="off", HOME=str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environ)
    if done.returncode:
        pytest.skip(f"go cannot build here: {done.stderr[-200:]}")
    found = run(tmp_path / "work")
    assert counts(found) == [("main.seal", 7, 7)]
    assert found["callers"][0]["stack"][-1]["function"].startswith("runtime.goexit")
