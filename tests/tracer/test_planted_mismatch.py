"""A Laconic with a planted bug: `--verify` finds it, says what differs first, and the program runs
to its end."""

from __future__ import annotations

import re
import sys

import pytest

from tests.tracer.lab import COMMAND, Run, build, run_laconic

#: What is broken → the code that breaks it. Each goes wrong once, in the program's own memory
#: calls.
BUGS = {
    "a munmap is lost between bookkeeping and host": """
from laconic.strategies.laconic import Laconic
whole = Laconic.linux_rule
def rule(name, args, outcome):
    host_args = whole(name, args, outcome)
    if name == "munmap" and args[1] == PAGES and host_args:
        return (args[0], 4096, *args[2:])
    return host_args
Laconic.linux_rule = staticmethod(rule)
""",
    "an mprotect reaches the host with another range": """
from laconic.strategies.laconic import Laconic
whole = Laconic.linux_rule
def rule(name, args, outcome):
    host_args = whole(name, args, outcome)
    if name == "mprotect" and args[1] == PAGES and host_args:
        return (args[0], PAGES - 4096, *args[2:])
    return host_args
Laconic.linux_rule = staticmethod(rule)
""",
    "bookkeeping forgets a page": """
from laconic.memory.space import AddressSpace
whole = AddressSpace.commit
def commit(self, outcome):
    whole(self, outcome)
    edited = outcome.changes and outcome.changes[0].held is not None
    if outcome.end - outcome.start == PAGES and edited and self.vmas.covered(outcome.start, outcome.end):
        self.vmas.clear(outcome.end - 4096, outcome.end)
AddressSpace.commit = commit
""",  # noqa: E501
}
SCRIPT = (
    "PAGES = 37 * 4096\n{bug}\nimport sys\nfrom laconic.commands import main\nsys.exit(main())\n"
)
PROGRAM = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
print("begins", flush=True)
size, page = 37 * 4096, 4096
at = libc.mmap(None, size, 3, 0x22, -1, 0)
libc.mprotect(at + 10 * page, page, 1)
print(libc.mprotect(at, size, 1), flush=True)
libc.munmap(at + 10 * page, page)
print(libc.munmap(at, size), flush=True)
print("x" * 100000)
print("to standard error", file=sys.stderr)
sys.exit(3)
"""  # noqa: E501
TOLD = (
    r"process \d+: (the first field that differs is (the "
    r")?(start|end|protection|VmFlags|file|offset|name)|only )"
)


ENTRY = r"[0-9a-f]+-[0-9a-f]+ .*"


def broken(bug: str, verify: str, *options: str) -> Run:
    """A run of the program under a Laconic with that bug."""
    prefix = (sys.executable, "-c", SCRIPT.format(bug=bug))
    return run_laconic(sys.executable, "-c", PROGRAM, prefix=prefix, verify=verify, options=options)


def maps_of(run: Run, entry: str) -> tuple[list[str], list[str]]:
    """The lines that match `entry` in bookkeeping's and in the host's map, as the message shows
    them."""
    _, _, maps = run.err.partition("\nbookkeeping:\n")
    ours, _, theirs = maps.partition("\nhost:\n")
    return re.findall(f"^{entry}$", ours, re.MULTILINE), re.findall(
        f"^{entry}$", theirs, re.MULTILINE
    )


@pytest.mark.pure
@pytest.mark.parametrize("name", BUGS)
@pytest.mark.parametrize("verify", ["call", "exit"])
def test_a_planted_bug_is_found_and_told(name: str, verify: str) -> None:
    run = broken(BUGS[name], verify)
    if verify == "exit" and "mprotect" in name:
        assert run.status == 3, (
            "what is wrong for a while and gone at the end is for --verify call to find"
        )
        return
    assert run.status == 70
    lines = run.out.splitlines()
    assert lines[0] == "begins" and lines[-1] == "x" * 100000, (
        "the program's own output is not complete"
    )
    assert (run.figures["exit_status"], run.figures["verify"]["mode"]) == (3, verify)
    assert run.figures["verify"]["mismatches"] >= 1
    assert "to standard error\n" in run.err
    assert "bookkeeping and host differ" in run.err
    assert "exit status 3" in run.err
    assert re.search(TOLD, run.err)
    # Both maps where they differ, with ten entries before and after it.
    marked = maps_of(run, f"> {ENTRY}")
    assert [len(lines) for lines in marked] == [1, 1]
    assert marked[0] != marked[1]
    for lines in maps_of(run, f"[> ] {ENTRY}"):
        assert 11 <= len(lines) <= 21
        assert [line[0] for line in lines].index(">") <= 10
    assert "(-v prints the complete maps)" in run.err


def test_the_complete_maps() -> None:
    """The program's stack is in each."""
    run = broken(BUGS["a munmap is lost between bookkeeping and host"], "call", "-v")
    assert run.status == 70
    mine, other = maps_of(run, f"  {ENTRY}")
    assert len(mine) > 21 and len(other) > 21
    assert 1 <= len({*mine} ^ {*other}) <= 6


def test_the_field_is_named() -> None:
    run = broken(BUGS["an mprotect reaches the host with another range"], "call")
    assert "the first field that differs is the end" in run.err
    assert re.search(
        r"\n  bookkeeping [0-9a-f]+-[0-9a-f]+ r--p.*\n  host +[0-9a-f]+-[0-9a-f]+ r--p", run.err
    )


def test_checks_that_are_off_find_nothing() -> None:
    """And the status is the program's."""
    run = broken(BUGS["a munmap is lost between bookkeeping and host"], "off")
    assert run.status == 3
    assert run.figures["verify"] == {"mode": "off", "checks": 0, "mismatches": 0}


@pytest.mark.pure
def test_a_bug_that_changes_a_result_of_every_call_ends_in_no_hang() -> None:
    """A Laconic that loses its mind still ends: the program goes on with what the host has."""
    bug = """
from laconic.memory.space import AddressSpace
AddressSpace.commit = lambda self, outcome: self.vmas.clear(outcome.start, outcome.end) if outcome.changes else None
"""  # noqa: E501
    run = broken(bug, "call")
    assert run.status == 70
    assert run.out.startswith("begins\n")
    assert run.figures["verify"]["mismatches"] > 1
    # Told once, in full; the others are counted.
    assert run.err.count("\nbookkeeping:\n") == 1


def test_the_runner_itself_is_sound() -> None:
    run = broken("", "call")
    assert run.status == 3, run.err
    assert run.exact()
    plain = run_laconic(sys.executable, "-c", PROGRAM, prefix=COMMAND)
    assert plain.out == run.out


def test_a_mismatch_with_quiet_is_told() -> None:
    prefix = (
        sys.executable,
        "-c",
        SCRIPT.format(bug=BUGS["a munmap is lost between bookkeeping and host"]),
    )
    run = run_laconic(sys.executable, "-c", PROGRAM, prefix=prefix, options=("--quiet",))
    assert run.status == 70
    assert "bookkeeping and host differ" in run.err
    assert "memory calls in" not in run.err


def test_nothing_planted_in_a_c_program() -> None:
    run = run_laconic(build("every_call", "-static"))
    assert run.exact() and "differ" not in run.err
