"""laconic callers on programs of which it is known who makes how many redundant calls, however they
were built."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.callers import REDUNDANT, callers
from laconic.analysis.sites import sites
from laconic.analysis.suppressions import BUILT_IN
from laconic.stacks.symbolize import Symbolizer
from laconic.trace.reader import TraceReader
from laconic.trace.stacks import Stacks
from tests.tracer.lab import COMMAND, PROGRAMS, environment, run_alone, tool

FRAME_POINTERS = ("-fno-omit-frame-pointer", "-fomit-frame-pointer")
#: What becomes of a program once it is built with -g: nothing; no DWARF; no symbols but those in a
#: debug file beside it, found by its debuglink; none at all but the dynamic ones.
MADE = ("debug", "symbols", "debuglink", "stripped")
#: Function → (redundant, all) mprotect calls of sites.c, sites.cpp and sites.rs.
C_SITES = {"seal": (40, 44), "open_pages": (25, 27), "worker": (17, 17)}
CPP_SITES = {
    "pool::Arena<unsigned long, 3>::refill(int)": (12, 13),
    "pool::Arena<char, 1>::refill(int)": (7, 7),
    "(anonymous namespace)::Guard::operator<<=(int)": (5, 7),
}
RUST_SITES = {"sites::pool::refill": (13, 14), "<sites::Arena as sites::Seal>::seal": (6, 8)}
Finder = Callable[..., dict[str, Any]]


def call(*words: str | Path) -> None:
    """Runs a tool, which must succeed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def finish(path: Path, made: str) -> None:
    """Makes of a file that was built with -g what `made` says."""
    strip, objcopy = tool("strip"), tool("objcopy")
    if made == "symbols":
        call(strip, "--strip-debug", path)
    elif made == "debuglink":
        debug = f"{path}.debug"
        call(objcopy, "--only-keep-debug", path, debug)
        call(strip, "--strip-all", path)
        call(objcopy, f"--add-gnu-debuglink={debug}", path)
    elif made == "stripped":
        call(strip, "--strip-all", path)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Path]:
    """Builds sites.c with its library, sites.cpp or sites.rs, once in each way."""
    built: dict[tuple[str, str, str], Path] = {}

    def make(source: str, frames: str, made: str) -> Path:
        key = source, frames, made
        if key in built:
            return built[key]
        place = tmp_path_factory.mktemp("sites")
        target = place / "sites"
        if source == "sites.rs":
            forced = "yes" if frames == FRAME_POINTERS[0] else "no"
            words = [
                tool("rustc"),
                "-O",
                "-g",
                "-C",
                f"force-frame-pointers={forced}",
                "--crate-name",
                "sites",
            ]
            call(*words, PROGRAMS / source, "-o", target)
        else:
            words = [tool("gcc" if source == "sites.c" else "g++"), "-O2", "-g", frames, "-pthread"]
            library = place / "libsites.so"
            if source == "sites.c":
                call(
                    *words,
                    "-fPIC",
                    "-shared",
                    "-Wl,-soname,libsites.so",
                    PROGRAMS / "sites_lib.c",
                    "-o",
                    library,
                )
                finish(library, made)
                words += ["-Wl,--enable-new-dtags", f"-Wl,-rpath,{place}"]
            call(
                *words, PROGRAMS / source, *([library] if source == "sites.c" else []), "-o", target
            )
        finish(target, made)
        built[key] = target
        return target

    return make


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Finder:
    """Runs a program once, with all its stacks, and gives what `laconic callers --json` says of
    it."""
    traces: dict[tuple[Path, str], Path] = {}

    def run(program: Path, *options: str, stacks: str = "all") -> dict[str, Any]:
        trace = traces.get((program, stacks))
        if trace is None:
            trace = traces[program, stacks] = tmp_path_factory.mktemp("trace") / "a.trace"
            words = ["run", "--quiet", "-o", str(trace), "--stacks", stacks, "--", str(program)]
            done = run_alone([*COMMAND, *words], env=environment())
            assert (done.returncode, done.stderr) == (0, "")
        words = ["callers", str(trace), "--sort", "redundant", "--json", "-", *options]
        done = run_alone([*COMMAND, *words], env=environment(), cwd=trace.parent)
        assert (done.returncode, done.stderr) == (0, "")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def suppressed(found: dict[str, Any]) -> int:
    """How many redundant calls are suppressed."""
    return sum(one["redundant"] for one in found["suppressed"])


def named(found: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """The callers by name, as in `C_SITES`; each must be there once."""
    counts = {caller["name"]: (caller["redundant"], caller["calls"]) for caller in found["callers"]}
    assert len(counts) == len(found["callers"]) and {
        caller["call"] for caller in found["callers"]
    } == {"mprotect"}
    return counts


def expected(made: str) -> dict[str, tuple[int, int]]:
    """What is to be found of sites.c: an inlined function is in DWARF alone."""
    wanted = dict(C_SITES)
    if made == "symbols":
        wanted["fill"] = wanted.pop("open_pages")
    return wanted


class TestC:
    """sites.c: one site in a shared library, one in an inlined function, one in a thread."""

    @pytest.mark.parametrize("frames", FRAME_POINTERS)
    @pytest.mark.parametrize("made", MADE[:3])
    def test_exactly_these(
        self, build: Callable[..., Path], find: Finder, frames: str, made: str
    ) -> None:
        found = find(build("sites.c", frames, made))
        assert named(found) == expected(made)
        modules = {caller["name"]: caller["module"] for caller in found["callers"]}
        assert modules.pop("seal") == "libsites.so" and set(modules.values()) == {"sites"}
        assert not any(caller["guessed"] for caller in found["callers"]) and found["stackless"] == 0
        assert found["redundant"] - suppressed(found) == 82
        for caller in found["callers"]:
            functions = [place["function"] for place in caller["stack"]]
            assert functions[0] in ("mprotect", "__mprotect")
            below = {
                "seal": ["store", "main"],
                "open_pages": ["fill", "main"],
                "fill": ["main"],
                "worker": [],
            }
            at = functions.index(caller["name"]) + 1
            assert functions[at : at + len(below[caller["name"]])] == below[caller["name"]]
            place = caller["stack"][1]
            assert place["inlined"] == (caller["name"] == "open_pages")
            assert (place["line"] > 0) == (made != "symbols")

    @pytest.mark.parametrize("frames", FRAME_POINTERS)
    def test_without_symbols(self, build: Callable[..., Path], find: Finder, frames: str) -> None:
        """Module and offset, a name only for what the library exports: never that of a function
        nearby."""
        counts = named(find(build("sites.c", frames, "stripped")))
        assert counts.pop("seal") == C_SITES["seal"]
        assert all(name.startswith("sites+0x") for name in counts)
        # The inlined function is in three places: one call in a loop, two behind it that change
        # something.
        assert sorted(counts.values()) == [(17, 17), (25, 25)]

    def test_by_module_program_and_stack(self, build: Callable[..., Path], find: Finder) -> None:
        program = build("sites.c", FRAME_POINTERS[1], "symbols")
        # Of the program's own calls all count: those of `toggle` too, which changed something.
        assert named(find(program, "--by", "module")) == {
            "libsites.so": (40, 44),
            "sites": (42, 55),
        }
        whole = find(program, "--by", "program")["callers"]
        assert [(one["name"], one["redundant"]) for one in whole] == [(str(program), 82)]
        assert whole[0]["calls"] > 99  # ld.so has some more, and the thread's stack has a guard
        stacks = {
            (one["name"], one["redundant"], one["calls"])
            for one in find(program, "--by", "stack")["callers"]
        }
        # `store` calls `seal` from three places, of which two make no call that is redundant.
        assert stacks == {("seal", 40, 40), ("fill", 25, 25), ("worker", 17, 17)}

    def test_inverted(self, build: Callable[..., Path], find: Finder) -> None:
        """Every function of a stack has the calls that are made under it, once; main the guard of a
        stack too."""
        found = find(build("sites.c", FRAME_POINTERS[1], "debug"), "--inverted")
        counts = named(found)
        assert counts["main"] == (65, 78) and counts["store"] == counts["seal"] == C_SITES["seal"]
        assert counts["fill"] == counts["open_pages"] == C_SITES["open_pages"]
        assert counts["start_thread"] == (17, 22) and counts["worker"] == (17, 22)
        assert "toggle" not in counts
        assert counts["_start"] == (65, 78)

    def test_stacks_of_redundant_calls_alone(
        self, build: Callable[..., Path], find: Finder
    ) -> None:
        """How many of each place there were altogether is then not known."""
        found = find(build("sites.c", FRAME_POINTERS[1], "debug"), stacks="redundant")
        assert {one["name"]: (one["redundant"], one["calls"]) for one in found["callers"]} == {
            name: (redundant, None) for name, (redundant, _) in C_SITES.items()
        }
        assert found["stackless_redundant"] == 0 < found["stackless"]

    def test_without_stacks(self, build: Callable[..., Path], find: Finder) -> None:
        found = find(build("sites.c", FRAME_POINTERS[1], "debug"), stacks="none")
        assert {one["name"] for one in found["callers"]} == {"(no stack)"}
        assert found["stackless_redundant"] == found["redundant"] and not found["suppressed"]
        assert found["stackless"] == found["calls"]

    def test_a_command_s_text(self, build: Callable[..., Path], tmp_path: Path) -> None:
        """What a person sees of a program that was run for it; and its exit status is the
        program's."""
        program = build("sites.c", FRAME_POINTERS[1], "debug")
        script = tmp_path / "twice"
        script.write_text(f"#!/bin/sh\n{program}\nexit 7\n")
        script.chmod(0o755)
        done = run_alone(
            [*COMMAND, "callers", "--sort", "redundant", "--frames", "all", "--", str(script)],
            env=environment(COLUMNS="200"),
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (7, "")
        lines = done.stderr.splitlines()
        assert any(line.endswith(" 44         40  mprotect seal (libsites)") for line in lines)
        assert "    seal (libsites.so) sites_lib.c:7" in lines
        assert (
            "    open_pages (sites) sites.c:11 [inlined]" in lines
            and "  < fill (sites) sites.c:25" in lines
        )
        assert max(map(len, lines)) <= 80 and "\x1b" not in done.stderr

    def test_missing_modules_are_named(self, build: Callable[..., Path], tmp_path: Path) -> None:
        """A library that is gone when the trace is read, and a program that is another one by
        then."""
        original = build("sites.c", FRAME_POINTERS[1], "debug")
        for name in ("sites", "libsites.so"):
            shutil.copy(original.parent / name, tmp_path)
        env = environment(LD_LIBRARY_PATH=str(tmp_path))
        words = ["run", "--quiet", "-o", "a.trace", "--", str(tmp_path / "sites")]
        assert run_alone([*COMMAND, *words], env=env, cwd=tmp_path).returncode == 0
        (tmp_path / "libsites.so").unlink()
        shutil.copy(sys.executable, tmp_path / "sites")
        words = ["callers", "a.trace", "--sort", "redundant"]
        done = run_alone([*COMMAND, *words], env=environment(), cwd=tmp_path)
        text = "".join(done.stdout.split())  # a long path goes on in the next line
        assert done.returncode == 0 and "4440mprotectlibsites.so+0x" in text.replace("+40", "40")
        assert f"nosymbolsof{tmp_path}/libsites.so:Nosuchfileordirectory" in text
        assert f"nosymbolsof{tmp_path}/sites:ithasanotherbuild-idnow" in text


SHARED = r"""
#include "lab.h"
#include <dlfcn.h>
static char *at;
static int child(void *path)
{
    while (getppid() == *(volatile pid_t *)at)
        usleep(1000);
    void (*seal)(char *, long, int) = (void (*)(char *, long, int))dlsym(dlopen(path, RTLD_NOW), "seal");
    for (int i = 0; i < 3; i++)
        seal(at, 1, RW);
    _exit(0);
}
int main(int argc, char **argv)
{
    at = map(1, RW);
    char *stack = map(64, RW);
    *(volatile pid_t *)at = getpid();
    if (argc < 2 || clone(child, stack + 64 * PAGE, CLONE_VM | SIGCHLD, argv[1]) < 0)
        return 1;
    _exit(0);
}
"""  # noqa: E501


def test_memory_that_processes_share(tmp_path: Path) -> None:
    """A process goes and leaves its memory to another one, which loads a library: that is found all
    the same."""
    words = [tool("gcc"), "-O2", f"-I{PROGRAMS}"]
    source, library, program = tmp_path / "shared.c", tmp_path / "libsites.so", tmp_path / "shared"
    source.write_text(SHARED)
    call(*words, "-fPIC", "-shared", PROGRAMS / "sites_lib.c", "-o", library)
    call(*words, source, "-o", program, "-ldl")
    words = ["callers", "--sort", "redundant", "--json", "a.json"]
    command = [*COMMAND, *words, "--", str(program), str(library)]
    assert run_alone(command, env=environment(), cwd=tmp_path).returncode == 0
    assert named(json.loads((tmp_path / "a.json").read_text())) == {"seal": (3, 3)}


@pytest.mark.parametrize(
    "frames", [FRAME_POINTERS[1], pytest.param(FRAME_POINTERS[0], marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize(("source", "wanted"), [("sites.cpp", CPP_SITES), ("sites.rs", RUST_SITES)])
def test_mangled_names(
    build: Callable[..., Path],
    find: Finder,
    source: str,
    wanted: dict[str, tuple[int, int]],
    frames: str,
    made: str,
) -> None:
    """C++ and Rust: the names as they stand in the source, with and without DWARF."""
    found = find(build(source, frames, made))
    found["callers"] = [one for one in found["callers"] if one["call"] == "mprotect"]
    counts = named(found)
    if made == "stripped":
        assert all(name.startswith("sites+0x") for name in counts)
        assert sorted(counts.values()) == sorted(wanted.values())
    else:
        assert counts == wanted


class TestBuiltInSuppressions:
    """What ld.so and the C library do is hidden in every program, and nothing else is."""

    @pytest.mark.parametrize(
        "command",
        [
            (
                sys.executable,
                "-c",
                "import json, threading; threading.Thread(target=print).start()",
            ),
            ("bash", "-c", "ls | sort | wc -l"),
            ("sqlite3", ":memory:", "create table t(a); insert into t values(1); select * from t"),
        ],
        ids=["python", "bash", "sqlite3"],
    )
    @pytest.mark.parametrize(
        "directories", [(), ("/usr/lib/debug",)], ids=["without debug files", "with"]
    )
    def test_real_programs(
        self, command: tuple[str, ...], directories: tuple[str, ...], tmp_path: Path
    ) -> None:
        tool(command[0])
        words = [
            "run",
            "--quiet",
            "-o",
            str(tmp_path / "a.trace"),
            "--stacks",
            "all",
            "--",
            *command,
        ]
        assert run_alone([*COMMAND, *words], env=environment()).returncode == 0
        found = sites(
            TraceReader(str(tmp_path / "a.trace")), stacks=Stacks(Symbolizer(directories))
        )
        hidden = callers(found, sort=REDUNDANT, suppressions=BUILT_IN)
        shown = callers(found, sort=REDUNDANT)
        ours = {"libc.so.6", "ld-linux-x86-64.so.2"}
        assert (
            hidden.hidden.total() + sum(one.redundant for one in hidden.callers)
            == found.ledger.elided
        )
        assert {"mmap", "brk"} <= {one.call for one in shown.callers if one.module in ours}
        assert {(one.call, one.module) for one in hidden.callers if one.module in ours} == set()
        others = [(one.name, one.redundant) for one in shown.callers if one.module not in ours]
        assert [(one.name, one.redundant) for one in hidden.callers] == others

    @pytest.mark.parametrize("flag", ["-static", "-static-pie"])
    def test_a_static_program(self, find: Finder, tmp_path: Path, flag: str) -> None:
        """There the C library's functions are in the program's own module: they are known by
        name."""
        source = PROGRAMS / "sites.c"
        target = tmp_path / "sites"
        words = [
            tool("gcc"),
            "-O2",
            flag,
            "-pthread",
            source,
            PROGRAMS / "sites_lib.c",
            "-o",
            target,
        ]
        if subprocess.run([str(word) for word in words], capture_output=True).returncode:
            pytest.skip(f"gcc cannot build with {flag} here")
        found = find(target)
        assert named(found) == expected("symbols") and suppressed(found) >= 3

    def test_a_program_s_own_calls_are_shown(self, tmp_path: Path) -> None:
        """The same calls, made by the program through the C library's wrappers."""
        source = tmp_path / "own.c"
        source.write_text(
            '#include "lab.h"\n'
            "__attribute__((noinline, noipa)) static long ask(int n) {\n"
            "    char *at = map(2, RW);\n"
            "    for (int i = 0; i < n; i++) {\n"
            "        if (sbrk(0) == (void *)-1 || syscall(SYS_brk, 0) < 0) abort();\n"
            "        if (madvise(at, PAGE, MADV_DONTNEED)) abort();\n"
            "        if (mmap(at, PAGE, RW, ANON | MAP_FIXED, -1, 0) != at) abort();\n"
            "    }\n"
            "    return n;\n"
            "}\n"
            "int main(void) { return ask(5) != 5; }\n"
        )
        target = tmp_path / "own"
        call(tool("gcc"), "-O2", f"-I{PROGRAMS}", source, "-o", target)
        trace = tmp_path / "a.trace"
        words = ["run", "--quiet", "-o", str(trace), "--stacks", "all", "--", str(target)]
        assert run_alone([*COMMAND, *words], env=environment()).returncode == 0
        every = sites(TraceReader(str(trace)))
        found = callers(every, sort=REDUNDANT, suppressions=BUILT_IN)
        counts = {one.call: one.redundant for one in found.callers if one.name == "ask"}
        assert (
            counts.keys() == {"brk", "madvise", "mmap"}
            and counts["brk"] >= 5
            and counts["madvise"] == 5
        )


def interpreters() -> Iterator[str]:
    """Python 3.12 and later, wherever they are installed."""
    places = [
        *os.environ.get("PATH", "").split(os.pathsep),
        str(Path.home() / ".pyenv/versions/*/bin"),
    ]
    for place in places:
        yield from sorted(glob.glob(f"{place}/python3.1[2-9]"))


def test_python_functions(tmp_path: Path) -> None:
    """The functions of a Python program are in the stack, once each, with -X perf too."""
    script = "import mmap, os\nprint(os.getpid())\n"
    script += "def deep(m):\n m.madvise(mmap.MADV_NORMAL)\ndef outer(m):\n deep(m)\n"
    script += "m = mmap.mmap(-1, 8192)\nfor _ in range(9): outer(m)\n"
    (tmp_path / "work.py").write_text(script)
    for python in interpreters():
        check = (
            "import sys; sys.exit(not (sys.activate_stack_trampoline('perf') or "
            "sys.is_stack_trampoline_active()))"
        )
        if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("this machine has no Python 3.12 that can write perf maps (Debian 12 has none)")
    words = [*COMMAND, "callers", "--json", "a.json", "--", python, "-X", "perf", "work.py"]
    done = run_alone(words, env=environment(), cwd=tmp_path)
    assert done.returncode == 0
    Path(f"/tmp/perf-{int(done.stdout)}.map").unlink()
    found = json.loads((tmp_path / "a.json").read_text())
    (caller,) = [one for one in found["callers"] if one["call"] == "madvise"]
    names = [place["function"] for place in caller["stack"]]
    lines = [place for place in caller["stack"] if place["module"] == "work.py"]
    assert (caller["redundant"], caller["calls"]) == (9, 9)
    shown = [(place["function"], place["line"]) for place in lines]
    assert shown == [("deep", 4), ("outer", 6), ("<module>", 8)]
    assert all(place["file"].endswith("work.py") for place in lines)
    # Neither the interpreter's loop nor what calls it with -X perf is shown beside them.
    assert not any(name.startswith(("py::", "_PyEval_EvalFrameDefault")) for name in names)


def test_a_log_of_strace(build: Callable[..., Path], tmp_path: Path) -> None:
    """Frames that strace -k has put in words."""
    strace = tool("strace")
    program = build("sites.c", FRAME_POINTERS[1], "symbols")
    log = tmp_path / "log"
    done = run_alone([strace, "-f", "-k", "-y", "-o", log, program])
    if done.returncode or " > " not in log.read_text():
        pytest.skip(f"strace -k does not work here: {done.stderr[-200:]}")
    done = run_alone(
        [*COMMAND, "import", "strace", str(log), "-o", str(tmp_path / "a.trace")], env=environment()
    )
    assert done.returncode == 0, done.stderr
    done = run_alone(
        [*COMMAND, "callers", "--sort", "redundant", "--json", "-", "a.trace"],
        env=environment(),
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    found["callers"] = [one for one in found["callers"] if one["call"] == "mprotect"]
    assert found["source"] == "strace" and found["stackless"] == 0
    assert named(found) == expected("symbols")
