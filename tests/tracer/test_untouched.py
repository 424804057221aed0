"""Programs that Laconic cannot follow run untouched, and a note says so: 32-bit programs, tracers,
Laconic itself."""

from __future__ import annotations

import errno
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracer.lab import COMMAND, PATIENCE, STRATEGIES, environment, run_alone, run_laconic
from tests.tracer.oldprograms import (
    BASE,
    BRK,
    EXECVE,
    EXIT,
    FORK,
    MADVISE,
    MMAP2,
    MPROTECT,
    elf32,
    int80,
)

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
NOTE = "is a 32-bit program: it runs untouched"


#: mov ebx, eax; shr ebx, 16; mov eax, 1; int 0x80: exits with a high byte of the last result.
EXIT_WITH_RESULT = b"\x89\xc3\xc1\xeb\x18\xb8\x01\0\0\0\xcd\x80"


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """A 32-bit program that exits with 7."""
    program = elf32(tmp_path / "seven", int80(EXIT, 7))
    try:
        assert run_alone([program]).returncode == 7
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    return program


@every_strategy
def test_a_32_bit_program(seven: Path, strategy: str) -> None:
    run = run_laconic(seven, strategy=strategy)
    assert run.status == run.figures["exit_status"] == 7
    (note,) = run.figures["notes"]
    assert note.startswith(f"seven {NOTE}")
    assert f"note: seven {NOTE}" in " ".join(run.err.split())
    assert run.figures["calls"] == run.figures["verify"]["mismatches"] == 0
    assert run.figures["processes"] == 1


@every_strategy
def test_a_64_bit_program_that_execs_a_32_bit_one(seven: Path, strategy: str) -> None:
    run = run_laconic("sh", "-c", f"{seven}; echo $?; exec {seven}", strategy=strategy)
    assert (run.status, run.out) == (7, "7\n"), run.err
    assert run.exact()
    assert len(run.figures["notes"]) == 1
    assert run.figures["processes"] == 2
    assert run.figures["calls"] > 0


@every_strategy
def test_a_32_bit_program_that_execs_a_64_bit_one(
    seven: Path, tmp_path: Path, strategy: str
) -> None:
    """What it executes is followed again."""
    path = shutil.which("true") or ""
    # Behind the code: the path, argv = {path, NULL}.
    at = BASE + 84 + 22
    code = (
        int80(EXECVE, at, at + 64, 0) + path.encode().ljust(64, b"\0") + struct.pack("<II", at, 0)
    )
    run = run_laconic(elf32(tmp_path / "starts", code), strategy=strategy)
    assert run.status == 0, run.err
    assert run.exact()
    assert run.figures["calls"] > 0
    assert len(run.figures["notes"]) == 1


@every_strategy
def test_memory_calls_and_forks_of_a_32_bit_program(
    seven: Path, tmp_path: Path, strategy: str
) -> None:
    code = b""
    for _ in range(3):
        code += (
            int80(BRK)
            + int80(MMAP2, 0, 8192, 3)
            + int80(MPROTECT, BASE, 4096, 7)
            + int80(MADVISE, BASE, 4096, 0)
        )
    code += int80(FORK) + int80(BRK) + int80(EXIT, 9)
    program = elf32(tmp_path / "calls", code)
    assert run_alone([program]).returncode == 9
    run = run_laconic(program, strategy=strategy)
    assert run.status == 9, run.err
    assert run.figures["processes"] == 2
    assert run.figures["calls"] == run.figures["verify"]["mismatches"] == 0


def test_a_32_bit_program_that_a_signal_ends(seven: Path, tmp_path: Path) -> None:
    program = elf32(tmp_path / "faults", b"\x0f\x0b")  # ud2
    assert run_alone([program]).returncode == -4
    assert run_laconic(program).status == 132


def test_a_name_that_would_talk_to_the_terminal(seven: Path, tmp_path: Path) -> None:
    """Nobody's file name moves the cursor of who reads the notes."""
    evil = seven.rename(tmp_path / "\x1b[31mred\r")
    run = run_laconic(evil)
    assert run.status == 7
    assert "\x1b" not in run.err and "\r" not in run.err
    assert len(run.figures["notes"]) == 1


@pytest.mark.parametrize(
    "tracer", [["strace", "-f", "true"], ["gdb", "-nx", "-batch", "-ex", "run", "true"]]
)
def test_tracers_are_refused_and_do_not_hang(tracer: list[str]) -> None:
    if shutil.which(tracer[0]) is None:
        pytest.skip(f"{tracer[0]} is not installed")
    tracer[-1] = shutil.which(tracer[-1]) or tracer[-1]
    run = run_laconic(*tracer, verify="exit")
    assert run.figures["verify"]["mismatches"] == 0
    assert any(note.startswith(f"{tracer[0]} asked to trace") for note in run.figures["notes"]), (
        run.err
    )
    assert "asked to trace" in run.err
    assert "not permitted" in run.err + run.out


def test_a_program_that_waits_for_its_tracer_for_ever_is_explained_while_it_waits(
    tmp_path: Path,
) -> None:
    script = (
        "import ctypes, signal; libc = ctypes.CDLL(None); libc.ptrace(0, 0, None, None); "
        "signal.pause()"
    )
    path = tmp_path / "figures.json"
    words = [*COMMAND, "run", "--json", str(path), "--", sys.executable, "-c", script]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        note = process.stderr.readline()
        assert re.match("laconic: note: .* asked to trace, which the kernel refuses", note)
        assert process.poll() is None
        process.terminate()
        assert "note: " in process.stderr.read()
        assert process.wait(PATIENCE) == 143
    assert len(json.loads(path.read_text())["notes"]) == 1


def test_attaching_is_refused_too() -> None:
    """A program that lets itself be traced, and one that would trace another (PTRACE_ATTACH,
    PTRACE_SEIZE)."""
    script = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
read, write = os.pipe()
pid = os.fork()
if not pid:
    os.close(write)
    os.read(read, 1)
    os._exit(0)
for request in (16, 0x4206):
    print(libc.ptrace(request, pid, None, None), ctypes.get_errno())
os.close(write)
print(os.waitpid(pid, 0)[1], libc.ptrace(0, 0, None, None), ctypes.get_errno())
"""
    run = run_laconic(sys.executable, "-c", script, verify="exit")
    assert (run.status, run.out) == (0, "-1 1\n-1 1\n0 -1 1\n"), run.err
    assert run.exact()
    assert len(run.figures["notes"]) == 1


@pytest.mark.parametrize("verify", ["off", "exit"])
def test_laconic_under_laconic(verify: str) -> None:
    run = run_laconic(*COMMAND, "run", "--", "echo", "ran", verify=verify)
    assert (run.status, run.out) == (71, "")
    assert "laconic: ptrace was refused" in run.err
    assert run.figures["verify"]["mismatches"] == 0
    assert any("asked to trace" in note for note in run.figures["notes"])


def test_doctor_under_laconic() -> None:
    run = run_laconic(*COMMAND, "doctor", verify="off")
    assert run.status == 71
    assert "missing  ptrace" in run.out


def test_laconic_under_strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    done = run_alone(["strace", "-f", "-o", "/dev/null", *COMMAND, "run", "--", "echo", "ran"])
    assert (done.returncode, done.stdout) == (71, "")
    assert "laconic: ptrace was refused" in done.stderr


def test_strict_seccomp_is_refused_and_told() -> None:
    """A program that has Laconic's filter gets no other mode (seccomp_may_assign_mode)."""
    script = "import ctypes; print(ctypes.CDLL(None).prctl(22, 1, 0, 0, 0))"
    run = run_laconic(sys.executable, "-c", script, verify="exit")
    assert (run.status, run.out) == (0, "-1\n") and run.exact()
    (note,) = run.figures["notes"]
    assert " asked for seccomp's strict mode, which the kernel refuses" in note
