"""All that a program can ask about itself and its surroundings: the same with Laconic as
without."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.tracer.lab import COMMAND, PROGRAMS, build, environment, run_alone
from tests.tracer.natively import both, comparable, laconic

TERMINAL = (sys.executable, str(PROGRAMS / "terminal.py"))


def test_everything_by_default(tmp_path: Path) -> None:
    seen = both('"$@"', cwd=tmp_path, env=environment(), options=("--json", str(tmp_path / "json")))
    assert f"cwd {tmp_path}" in seen
    assert "group is the parent's: 1" in seen
    assert [line.split()[1] for line in seen.splitlines() if line.startswith("fd ")] == [
        "0",
        "1",
        "2",
    ]


@pytest.mark.parametrize("verify", ["off", "exit", "call"])
def test_an_empty_environment(verify: str) -> None:
    """Not even LC_CTYPE, which a Python in the C locale adds to its own."""
    seen = both('env -i "$@"', options=("--verify", verify))
    assert "environment [" not in seen.replace("environment [_=", "")
    seen = both('env -i A=1 LC_ALL=C B= "$@"')
    assert re.findall(r"environment \[(.*)\]", seen) == ["A=1", "LC_ALL=C", "B="]


@pytest.mark.parametrize(
    "words",
    [
        "LC_ALL=POSIX",
        "LC_CTYPE=C",
        "PYTHONPATH=/nowhere",
        "PYTHONUTF8=0",
        "A=$'\\xff\\xfe'",
        "A=$'two\\nlines'",
    ],
)
def test_an_environment_that_python_has_opinions_on(words: str) -> None:
    both(f'env -i {words} "$@"')


@pytest.mark.parametrize(
    "tunables",
    [
        "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=134217728:glibc.malloc.arena_max=1",
        "glibc.malloc.arena_max=1",
        "glibc.none.such=1:x:=:glibc.malloc.arena_max=1:",
        "",
    ],
)
def test_an_environment_that_ld_so_has_written_to(tunables: str) -> None:
    seen = both(f'env -i A=1 GLIBC_TUNABLES={tunables} B=2 "$@"')
    assert f"environment [GLIBC_TUNABLES={tunables}]" in seen


def test_an_environment_with_a_name_twice() -> None:
    """What execve gets is what main got, entries without a name and duplicates included."""
    script = (
        "import ctypes, signal, sys; signal.signal(13, signal.SIG_DFL); signal.signal(25, "
        "signal.SIG_DFL); "
    )
    script += "strings = lambda *w: (ctypes.c_char_p * (len(w) + 1))(*w); "
    script += "words = [w.encode() for w in sys.argv[1:]]; "
    script += (
        "ctypes.CDLL(None).execve(words[0], strings(*words), strings(b'A=1', b'A=2', "
        "b'nameless', b'=odd', b''))"
    )
    seen = both(f'{sys.executable} -c "{script}" "$@"')
    assert "environment [A=2]" in seen


def test_arguments() -> None:
    words = ["", " ", "a b", "*", "-x", "--", "--json", "é", "a\udcff", "two\nlines", "x" * 5000]
    seen = both('"$@"', *words)
    assert seen.count("argument ") == len(words) + 1


@pytest.mark.parametrize(
    "script",
    [
        'umask 027; "$@"',
        'nice -n 5 "$@"',
        'ulimit -n 200 -s 4096 -c 0; "$@"',
        'ulimit -u 5000; ulimit -S -v 900000; "$@"',
        'trap "" HUP; "$@"',
        'trap "" INT QUIT TERM USR1; "$@"',
        '"$@" & wait $!',
        '"$@" </dev/null >/dev/stdout 2>&1',
        '"$@" 5</dev/null 9>/dev/null 77<>/dev/zero',
        'exec <&-; "$@"',
        'echo "hello there" | "$@" | cat',
        '"$@" <<<"a document"',
        'printf "one\\ntwo\\n" >file; exec <file; read line; "$@"',
        'cd /; "$@"',
        'mkdir gone; cd gone; rmdir ../gone; "$@"',
        'ln -s . link; cd link; "$@"',
        'setarch -R "$@"',
        'taskset 1 "$@"',
        'chrt -b 0 "$@"',
        'ionice -c 3 "$@"',
    ],
)
def test_an_arrangement_of_the_shell_is_seen_as_natively(script: str, tmp_path: Path) -> None:
    # Python cannot start where there is no directory and a path in PYTHONPATH is relative to it.
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    both(f"rm -rf place; mkdir place; cd place; {script}", cwd=tmp_path, env=env)


def test_signals_that_are_blocked() -> None:
    script = "import os, signal, sys; signal.pthread_sigmask(0, {1, 2, 10, 15, 40}); "
    script += (
        "[signal.signal(number, signal.SIG_DFL) for number in (13, 25)]; "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    seen = both(f"{sys.executable} -c '{script}' \"$@\"")
    assert "SigBlk:\t0000008000004203" in seen


def test_a_path_that_is_relative_and_one_found_through_path(tmp_path: Path) -> None:
    program = build("identity")
    (tmp_path / "here").symlink_to(program)
    for name, env in (
        ("./here", environment()),
        ("here", environment(PATH=f"{tmp_path}:{os.environ['PATH']}")),
    ):
        alone = run_alone(["bash", "-c", '"$@"; exit $?', "bash", name], cwd=tmp_path, env=env)
        words = ["bash", "-c", '"$@"; exit $?', "bash", *laconic(), name]
        traced = run_alone(words, cwd=tmp_path, env=env)
        assert alone.returncode == 0
        assert comparable(traced.stdout) == comparable(alone.stdout), traced.stderr


def test_a_terminal() -> None:
    """Input, output, window size, foreground group and controlling terminal are the program's
    own."""
    program = str(build("identity"))
    words = [*TERMINAL, "bash", "-c", '"$@"; exit $?', "bash"]
    alone = run_alone([*words, program], env=environment())
    traced = run_alone([*words, *laconic(), program], env=environment())
    assert alone.stdout.count("33 rows, 101 columns, foreground 1") == 3
    assert (traced.returncode, comparable(traced.stdout)) == (
        alone.returncode,
        comparable(alone.stdout),
    )


def test_an_interactive_shell_in_a_terminal() -> None:
    command = [
        "bash",
        "--norc",
        "-ic",
        "echo $-; { sleep 0.01 & } 2>/dev/null; fg >/dev/null; jobs; exit 6",
    ]
    alone = run_alone([*TERMINAL, *command], env=environment())
    traced = run_alone([*TERMINAL, *laconic(), *command], env=environment())
    assert alone.returncode == 6
    assert (traced.returncode, traced.stdout) == (6, alone.stdout)


def test_a_table_in_a_terminal_has_no_more_columns_than_it() -> None:
    done = run_alone([*TERMINAL, *COMMAND, "run", "--", "true"], env=environment(TERM="xterm"))
    assert done.returncode == 0
    assert "memory calls" in done.stdout
    assert all(len(line) <= 101 for line in done.stdout.splitlines())


def test_a_megabyte_through_standard_input_and_output() -> None:
    script = "head -c 1000000 /dev/zero | tr '\\0' x | \"$@\" cat | sha256sum"
    alone = run_alone(["bash", "-c", script, "bash", "env"])
    assert alone.stdout == run_alone(["bash", "-c", script, "bash", *laconic()]).stdout
