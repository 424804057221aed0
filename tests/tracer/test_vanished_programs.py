"""Names of programs, and of functions of programs that no longer exist when a report is made."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from laconic.linux.proc import program_path
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES
from laconic.trace.stacks import Stacks
from tests.tracer.lab import COMMAND, compiler, environment, run_alone

SOURCE = """
#include <sys/mman.h>
__attribute__((noinline)) int grow(char *page) { return mprotect(page, 4096, PROT_READ); }
int main(void) { return grow(mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }
"""


def record(trace: Path, *command: str | Path, options: tuple[str, ...] = ()) -> None:
    """Records a program with its stacks, which is the default."""
    words = [*COMMAND, "run", "--quiet", "-o", str(trace), *options, "--", *map(str, command)]
    done = run_alone(words, env=environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("redact", [False, True])
def test_names_of_a_deleted_program(tmp_path: Path, redact: bool) -> None:
    gcc = compiler()
    if gcc is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "a.c").write_text(SOURCE)
    script = (
        f"cd {tmp_path} && {gcc} -g -O1 a.c -o prog && ./prog; status=$?; rm prog; exit $status"
    )
    record(tmp_path / "a.trace", "sh", "-c", script, options=("--redact",) * redact)
    stacks, shown = Stacks(), []
    for row in TraceReader(str(tmp_path / "a.trace")).rows():
        stacks.take(row)
        if row.event == CODES["mprotect"]:
            shown.append(stacks.next[row.tid])
    assert not (tmp_path / "prog").exists()
    found = [
        (place.function, place.module, place.line)
        for number in shown
        for place, _ in stacks.places(number)
        if place.module == "prog"
    ]
    if redact:
        assert not stacks.packed and not found
    else:
        assert ("grow", "prog", 3) in found and ("main", "prog", 4) in found


def test_names_of_programs_are_those_that_were_executed(tmp_path: Path) -> None:
    """A link, by an absolute, a relative and a searched path; the file itself; a script."""
    shutil.copy("/bin/true", tmp_path / "check")
    (tmp_path / "server").symlink_to("check")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n./server; {tmp_path}/server; PATH=$PWD server; ./check\n")
    script.chmod(0o755)
    record(tmp_path / "a.trace", "sh", "-c", f"cd {tmp_path} && ./script")
    programs = [
        json.loads(row.data)["path"]
        for row in TraceReader(str(tmp_path / "a.trace")).rows()
        if row.event == CODES["program"]
    ]
    assert programs[-4:] == [str(tmp_path / name) for name in ("server",) * 3 + ("check",)]
    assert str(script) not in programs and os.path.realpath("/bin/sh") in programs
    assert os.path.realpath(program_path(os.getpid())) == os.readlink("/proc/self/exe")
