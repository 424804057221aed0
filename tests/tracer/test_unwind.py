"""Stacks of real processes: what the unwinder finds is what the program itself knows of its
calls."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from laconic.stacks.modules import Mapping, Modules, read_mappings
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.table import JIT, Frame
from laconic.stacks.unwind import Space
from laconic.tracer import ptrace
from tests.tracer.debugger import Comparison, sampled
from tests.tracer.stops import LIBRARY, PROGRAM, WALL, Stopped, builder, stopped

#: How a compiler may be told to build; the last two have no .eh_frame of their own.
BUILDS = {
    "plain": ("-O2",),
    "frame pointers": ("-O2", "-fno-omit-frame-pointer"),
    "unoptimised": ("-O0",),
    "stripped": ("-O2", "-s"),
    "static": ("-O2", "-static"),
    "static pie": ("-O2", "-static-pie"),
    "no pie": ("-O2", "-no-pie"),
    "no table": ("-O2", "-Wl,--no-eh-frame-hdr"),
    "size": ("-Os", "-fno-plt", "-fcf-protection=none"),
    "debug_frame": ("-O2", "-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    "compressed debug_frame": (
        "-O2",
        "-g",
        "-gz",
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
    ),
}
GUESSED = (
    "-O2",
    "-fno-omit-frame-pointer",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles a source with flags, once."""
    return builder(tmp_path_factory.mktemp("unwind"))


def holds(addresses: Sequence[int | None], truth: Sequence[int]) -> bool:
    """True where `truth` is in `addresses` in one piece, right behind the innermost frame."""
    return list(addresses[1 : 1 + len(truth)]) == list(truth)


@pytest.mark.parametrize("how", BUILDS)
@pytest.mark.parametrize("scene", ["r", "l", "t"])
def test_call_chains(build: Callable[..., Path], how: str, scene: str) -> None:
    """Recursion 200 deep, frames of 100 kB, realigned ones, in a thread, however the program was
    built."""
    with stopped(build(*BUILDS[how]), scene) as (program, _):
        frames = program.walk()
        assert holds(program.addresses, program.truth), [
            hex(word or 0) for word in program.addresses
        ]
        assert len(program.truth) == {"r": 203, "l": 4, "t": 5}[scene] and len(frames) > len(
            program.truth
        )
        assert (
            not any(frame.guessed for frame in frames) and frames[0].exact and not frames[1].exact
        )
        assert (
            frames[-1].module == frames[len(program.truth) + (scene == "r")].module
            or "static" not in how
        )


@pytest.mark.parametrize("scene", ["r", "l"])
def test_frame_pointers_where_cfi_is_missing(build: Callable[..., Path], scene: str) -> None:
    with stopped(build(*GUESSED), scene) as (program, _):
        frames = program.walk()
        assert holds(program.addresses, program.truth)
        assert (
            all(frame.guessed for frame in frames[1 : 1 + len(program.truth)])
            and not frames[0].guessed
        )
        # main itself has none: its caller in the C library is a guess, and goes on by CFI.
        assert not frames[len(program.truth) + 2].guessed


@pytest.mark.parametrize("how", ["plain", "frame pointers", "static", "debug_frame"])
@pytest.mark.parametrize("scene", ["s", "sa"])
def test_signal_frames(build: Callable[..., Path], how: str, scene: str) -> None:
    """Through a handler, on its own stack too, to what it interrupted, whose address is exact."""
    with stopped(build(*BUILDS[how]), scene) as (program, _):
        frames = program.walk()
        *handler, interrupted = program.truth
        place = len(handler)
        assert holds(program.addresses, handler)
        assert frames[place].exact and frames[place + 1].exact
        assert [frame.exact for frame in frames].count(True) == 3
        assert interrupted in program.addresses[place + 2 :]


def test_libc_in_between(build: Callable[..., Path]) -> None:
    with stopped(build(*BUILDS["plain"]), "q") as (program, _):
        places = [place.function for place in program.places()]
        assert places[:3] == ["stop", "leaf", "compare"] and "qsort_r" in places[3:7]
        assert places[-2:] == ["__libc_start_main", "_start"] and "main" in places
        assert holds(program.addresses, program.truth)


def test_every_instruction(build: Callable[..., Path]) -> None:
    """Instruction by instruction through lazy binding, the C library and the vDSO: the stack is
    always what calls and returns make it."""
    program_path = build("-O2", "-Wl,-z,lazy")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
    with stopped(program_path, "w", env=environment) as (program, _):
        program.walk()
        shadow = [address for address in reversed(program.addresses[1:]) if address is not None]
        words, kinds, steps = program.registers.words, set(), 0
        sp, pc = words[19], words[ptrace.RIP]
        while program.step():
            steps += 1
            before, at, sp, pc = sp, pc, words[19], words[ptrace.RIP]
            if sp == before - 8:
                pushed = struct.unpack("<Q", program.memory(sp, 8))[0]
                if 2 <= pushed - at <= 8 and pc != pushed:
                    shadow.append(pushed)
            elif shadow and pc == shadow[-1] and sp > before:
                shadow.pop()
            frames = program.walk()
            kinds |= {program.space.modules.tables.modules[frame.module].path for frame in frames}
            assert program.addresses[1:] == shadow[::-1], (steps, hex(pc), program.places())
        assert steps > 3000 and "[vdso]" in kinds and len(kinds) >= 4, (steps, kinds)


def test_libraries_that_come_and_go(build: Callable[..., Path], tmp_path: Path) -> None:
    """Two libraries, one after the other at the same place; who knows of the change says so."""
    first, second = (
        build("-O2", "-shared", "-fPIC", f"-DPAD={pad}", f"-DPLUS={plus}", source=LIBRARY)
        for pad, plus in (("", 1), ("volatile char pad[200]; pad[1] = 1", 2))
    )
    with stopped(build(*BUILDS["plain"]), "d", first, second) as (program, process):
        for path in (first, second):
            if path is second:
                program.go(process)
                program.space.invalidate()
            modules = {
                program.space.modules.tables.modules[frame.module].path for frame in program.walk()
            }
            assert str(path) in modules and len({str(first), str(second)} & modules) == 1
            names = [place.function for place in program.places()]
            assert names[:2] == ["stop", "leaf"] and names[4:6] == ["library", "main"]
            assert names[2].endswith(f"+{program.walk()[2].address:#x}") or names[2] == "inner"
            assert names[3] == "enter"


def test_a_deleted_program(build: Callable[..., Path], tmp_path: Path) -> None:
    copy = tmp_path / "gone"
    shutil.copy(build(*BUILDS["plain"]), copy)
    with stopped(copy, "r", "20") as (program, _):
        copy.unlink()
        program.walk()
        assert holds(program.addresses, program.truth)
        symbolizer = Symbolizer(debug_directories=())
        assert program.places(symbolizer)[1].function == f"gone+{program.walk()[1].address:#x}"
        assert [module.path for module in symbolizer.missing] == [str(copy)]


def test_a_program_that_is_built_again(build: Callable[..., Path], tmp_path: Path) -> None:
    """Another file at the same path, with the same inode number perhaps: its rules are its own."""
    path, modules = tmp_path / "program", Modules()
    for flags in (BUILDS["plain"], BUILDS["unoptimised"], BUILDS["frame pointers"]):
        path.unlink(missing_ok=True)
        shutil.copy(build(*flags), path)
        with stopped(path, "l", modules=modules) as (program, _):
            program.walk()
            assert holds(program.addresses, program.truth)
            assert [place.function for place in program.places()][:4] == [
                "stop",
                "leaf",
                "realigned",
                "large",
            ]
    assert len([module for module in modules.tables.modules if module.path == str(path)]) == 3


def test_an_image_in_memory(build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be opened, the process's memory has the call-frame information too."""
    monkeypatch.setattr("laconic.stacks.modules.open_mapped", lambda pid, mapping: None)
    with stopped(build(*BUILDS["plain"]), "l") as (program, _):
        assert not any(frame.guessed for frame in program.walk())
        assert holds(program.addresses, program.truth)


def test_jit_frames(build: Callable[..., Path]) -> None:
    """Code of no file: frame pointers, and names from a perf map."""
    with stopped(build("-O2", "-fno-omit-frame-pointer"), "j") as (program, _):
        frames = program.walk()
        modules = program.space.modules.tables.modules
        assert holds(program.addresses, program.truth[:2])
        assert modules[frames[2].module].kind == JIT and frames[3].guessed and not frames[2].guessed
        assert program.truth[2] in program.addresses[4:]
        assert program.places()[2] == Place("[jit]", "[jit]", known=False)
        path = Path(f"/tmp/perf-{program.pid}.map")
        path.write_text(f"{frames[2].address - 6:x} 9 py::deep:<string>.py\n")
        try:
            assert program.places()[2] == Place("py::deep:<string>.py", "[jit]")
        finally:
            path.unlink()


def perf_pythons() -> list[str]:
    """Interpreters that write perf maps (3.12 and up)."""
    found = []
    for name in (sys.executable, "python3", "python3.12", "python3.13", "python3.14"):
        script = "import os, sys; sys.is_stack_trampoline_active; print(sys.executable)"
        script += "; os.unlink(f'/tmp/perf-{os.getpid()}.map')"
        command = [name, "-X", "perf", "-c", script]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() not in found:
            found.append(done.stdout.strip())
    return found


def test_python_functions() -> None:
    """Python's own functions are in the stack, by its perf map, in their order."""
    interpreters = perf_pythons()
    if not interpreters:
        pytest.skip("this machine has no Python that knows -X perf (3.12; Debian 12 has none)")
    script = """if 1:
        import os, sys
        sys.is_stack_trampoline_active() or sys.exit("skip: it has no trampolines")
        def inner(n): print("ready", flush=True); return os.read(0, 1)
        def middle(n): return middle(n - 1) if n else inner(n)
        def outer(): return middle(3)
        outer()"""
    seen = 0
    for python in interpreters:
        command = [python, "-X", "perf", "-c", script]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    continue
                assert ptrace.seize(process.pid, 0)
                os.kill(process.pid, signal.SIGSTOP)
                os.waitpid(process.pid, WALL)
                program = Stopped(process.pid, process.pid, [], Space(process.pid, Modules()))
                modules, symbolizer = program.space.modules.tables.modules, Symbolizer()
                jit = [frame for frame in program.walk() if modules[frame.module].kind == JIT]
                names = [
                    symbolizer.places(modules[frame.module], frame)[0].function for frame in jit
                ]
            finally:
                process.kill()
                Path(f"/tmp/perf-{process.pid}.map").unlink(missing_ok=True)
        wanted = ["inner", "middle", "middle", "middle", "middle", "outer", "<module>"]
        assert names == [f"py::{name}:<string>" for name in wanted]
        seen += 1
    if not seen:
        pytest.skip("this machine has no Python with perf trampolines")


def test_caches_are_shared_and_exact(build: Callable[..., Path]) -> None:
    """Two processes of one program have the same frames, wherever they are mapped."""
    modules = Modules()
    stacks = []
    for _ in range(2):
        with stopped(build(*BUILDS["plain"]), "l", modules=modules) as (program, _):
            frames = program.walk()
            assert frames == program.walk()
            stacks.append(tuple(frames))
    assert stacks[0] == stacks[1]
    assert (
        len({module.path for module in modules.tables.modules}) == len(modules.tables.modules) == 3
    )


def test_depth_is_bounded(build: Callable[..., Path]) -> None:
    with stopped(build(*BUILDS["plain"]), "r", "100") as (program, _):
        program.space = Space(program.pid, Modules(), depth=50)
        frames = program.walk()
        assert len(frames) == 51 and frames[-1] == Frame(0, 0, True, False)
        assert program.addresses[1:50] == program.truth[:49]
        assert program.places()[-1] == Place("[cut]", "[cut]", known=False)


def test_broken_stacks_end_quietly(build: Callable[..., Path]) -> None:
    """Registers that point anywhere: the walk ends, and never raises."""
    choose = random.Random(5)
    with stopped(build(*BUILDS["frame pointers"]), "s") as (program, _):
        whole = len(program.walk())
        honest = program.registers.words.tolist()
        code = [mapping for mapping in read_mappings(program.pid) if mapping.start < 1 << 47]
        lengths = set()
        for _ in range(3000):
            words = list(honest)
            for register in choose.sample((4, 5, 16, 19, 12), choose.randrange(1, 4)):
                mapping = choose.choice(code)
                words[register] = choose.choice(
                    (
                        0,
                        8,
                        (1 << 64) - choose.randrange(1, 64),
                        choose.getrandbits(64),
                        choose.randrange(mapping.start, mapping.end),
                        honest[19] + choose.randrange(-4096, 65536),
                    )
                )
            lengths.add(len(program.space.walk(program.tid, words)))
        assert 0 in lengths and 1 in lengths and max(lengths) >= whole - 1
        assert len(program.walk()) == whole


def test_mappings_that_lie(build: Callable[..., Path]) -> None:
    """A map of no such process, or of a file that is none: no rules, no error."""
    with stopped(build(*BUILDS["plain"]), "l") as (program, _):
        true = read_mappings(program.pid)

        def lie() -> list[Mapping]:
            return [mapping._replace(offset=1 << 40, inode=1, path="/dev/zero") for mapping in true]

        program.space = Space(program.pid, Modules(), lie)
        assert len(program.walk()) >= 1
    assert Space(program.pid, Modules()).walk(program.pid, [0] * 27) == ()
    assert read_mappings(program.pid) == []


def test_gdb_at_random_instructions(build: Callable[..., Path]) -> None:
    """A few dozen stops anywhere in a program that calls much."""
    source = PROGRAM.replace('printf("%ld"', 'if (words[1][0] == 102) return; printf("%ld"')
    with subprocess.Popen([build("-O2", source=source), "f"]) as process:
        try:
            comparison = Comparison(process.pid)
            for sample in sampled(process.pid, 60, (), 300):
                comparison.compare(sample)
        finally:
            process.kill()
    assert comparison.stacks == 60 and comparison.frames > 180
    assert comparison.share >= 0.98, "\n".join(comparison.differences)
