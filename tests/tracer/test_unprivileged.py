"""Laconic as an ordinary user: exact as for root; what hides from its own user runs untouched, with
a note."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.lab import COMMAND, STRATEGIES, build, run_alone, run_laconic
from tests.tracer.nobody import NOBODY, Nobody

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="only root with setpriv can become another user",
)


@pytest.fixture(scope="module")
def nobody() -> Iterator[Nobody]:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Nobody(Path(place))


@every_strategy
def test_simple_programs(nobody: Nobody, strategy: str) -> None:
    run = nobody.laconic("sh", "-c", "id -u; (exit 3); exit 5", strategy=strategy)
    assert (run.status, run.out) == (5, f"{NOBODY}\n"), run.err
    assert run.exact()
    assert run.figures["notes"] == []


@every_strategy
def test_every_memory_call(nobody: Nobody, strategy: str) -> None:
    program = build("every_call", "-static")
    alone = nobody.alone(program)
    run = nobody.laconic(program, strategy=strategy)
    assert (run.status, run.out) == (alone.returncode, alone.stdout), run.err
    assert run.exact()


@every_strategy
@pytest.mark.parametrize("name", ["fork", "vfork", "clone3", "forking-threads"])
def test_processes(nobody: Nobody, name: str, strategy: str) -> None:
    run = nobody.laconic(build("processes"), name, strategy=strategy)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()


@every_strategy
def test_threads(nobody: Nobody, strategy: str) -> None:
    run = nobody.laconic(build("threads"), "6", "10", strategy=strategy)
    assert (run.status, run.out) == (0, "done\n"), run.err
    assert run.exact()


@every_strategy
@pytest.mark.parametrize("name", ["locks", "stack", "sysv", "userfaultfd", "hugetlb"])
def test_calls_that_need_a_privilege_or_a_limit(nobody: Nobody, name: str, strategy: str) -> None:
    alone = nobody.alone(build("odd_calls"), name)
    run = nobody.laconic(build("odd_calls"), name, strategy=strategy)
    assert (run.status, run.out) == (alone.returncode, alone.stdout), run.err
    assert run.exact()


@every_strategy
@pytest.mark.parametrize("verify", ["off", "exit", "call"])
def test_a_program_that_hides_its_map_runs_untouched(
    nobody: Nobody, verify: str, strategy: str
) -> None:
    """prctl(PR_SET_DUMPABLE, 0): its files in /proc are root's."""
    alone = nobody.alone(build("filters"), "undumpable")
    run = nobody.laconic(build("filters"), "undumpable", verify=verify, strategy=strategy)
    assert (run.status, run.out) == (alone.returncode, alone.stdout) == (0, "done\n"), run.err
    assert run.figures["verify"]["mismatches"] == 0
    notes = [
        note
        for note in run.figures["notes"]
        if "hides its memory map" in note and "runs untouched" in note
    ]
    assert len(notes) == 1, run.figures["notes"]
    assert "hides its memory map" in " ".join(run.err.split())


def test_a_program_that_may_be_executed_and_not_read(nobody: Nobody) -> None:
    """Its map is hidden from the start, as PR_SET_DUMPABLE would."""
    program = nobody.place / "unreadable"
    shutil.copy(build("every_call", "-static"), program)
    program.chmod(0o711)
    alone = nobody.alone(program)
    run = nobody.laconic(program)
    assert (run.status, run.out) == (alone.returncode, alone.stdout), run.err
    assert run.figures["verify"]["mismatches"] == 0
    assert len(run.figures["notes"]) == 1


def test_a_set_user_id_program_gets_no_privileges(nobody: Nobody) -> None:
    program = nobody.place / "set-user-id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    run = nobody.laconic(program, "-u")
    assert (run.status, run.out) == (0, f"{NOBODY}\n"), run.err
    assert run.figures["verify"]["mismatches"] == 0


def test_doctor(nobody: Nobody) -> None:
    done = nobody.alone(nobody.python, "-m", "laconic", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "limited  set-user-id programs" in done.stdout


def test_root_s_laconic_and_a_program_that_gives_its_privileges_up() -> None:
    """A program that becomes another user is followed all the same."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    run = run_laconic(*become, "sh", "-c", "id -u; exit 6")
    assert (run.status, run.out) == (6, f"{NOBODY}\n"), run.err
    assert run.exact()
    assert run.figures["notes"] == []


@pytest.mark.parametrize(("limit", "message"), [("unlimited", "1 1\n"), ("1000", "1 0\n")])
def test_the_break_of_another_user_s_program(limit: str, message: str) -> None:
    """RLIMIT_DATA is heeded, also where prlimit(2) does not tell it: without CAP_SYS_RESOURCE, as
    in a container."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    words = [*become, "sh", "-c", f"ulimit -d {limit}; exec {build('breaks')}"]
    assert run_alone(words).stdout == message
    for prefix in (COMMAND, ["setpriv", "--bounding-set=-sys_resource", *COMMAND]):
        run = run_laconic(*words, prefix=prefix)
        assert (run.status, run.out) == (0, message), run.err
        assert run.exact()
