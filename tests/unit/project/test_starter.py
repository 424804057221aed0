"""A command that the starter starts is what an interpreter of its own would be."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.starter import starter
from tests.tracer import lab
from tests.tracer.lab import COMMAND, environment, run_bytes

#: What a process inherits: directory, environment, limits, descriptors, signals, session. Not SigQ,
#: which counts the queued signals of all processes of the user.
INHERITED = """
pwd; env | sort; tr '\\0' ' ' < /proc/$PPID/cmdline; ulimit -a; umask
ls /proc/self/fd; grep -E '^(Sig[^Q]|Cap|Uid|Groups)' /proc/self/status
cut -d' ' -f5,6,7 /proc/self/stat | tr ' ' '\\n' | sort -u | wc -l; cat; echo error >&2; exit 3
"""


def fresh(*words: str, **options: Any) -> tuple[int, bytes, bytes]:
    done = lab._run_fresh([*COMMAND, *words], **options)
    return done.returncode, done.stdout, done.stderr


def started(*words: str, **options: Any) -> tuple[int, bytes, bytes]:
    done = lab._run_started([*COMMAND, *words], **options)
    assert done is not None, "an interpreter of its own was started"
    return done.returncode, done.stdout, done.stderr


def test_a_program_inherits_the_same(tmp_path: Path) -> None:
    words = ("run", "--quiet", "--", "sh", "-c", INHERITED)
    (tmp_path / "input").write_text("its input\n")
    results = []
    for run in (fresh, started):
        with open(tmp_path / "input") as stdin:
            env = environment(LACONIC_TEST="a b", TZ="Asia/Tokyo")
            results.append(run(*words, env=env, cwd=tmp_path, stdin=stdin))
    assert results[0] == results[1]
    assert results[0][0] == 3 and b"its input" in results[0][1]


@pytest.mark.parametrize("words", [("--help",), ("nonsense",), ("info", "/nowhere"), ()])
def test_a_command_says_and_returns_the_same(words: tuple[str, ...]) -> None:
    assert started(*words, env=environment()) == fresh(*words, env=environment())


def test_a_signal_ends_it() -> None:
    words = ("run", "--quiet", "--", "sh", "-c", "kill -KILL $PPID; sleep 1")
    status, _, _ = started(*words, env=environment())
    assert status == -signal.SIGKILL


def test_an_environment_that_acts_when_an_interpreter_loads_has_one_of_its_own() -> None:
    assert starter(environment()) is not None
    for name in ("PYTHONHASHSEED", "LC_ALL", "LD_PRELOAD"):
        assert starter(environment(**{name: "1"})) is None


def test_a_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lab, "PATIENCE", 1.0)
    words = [*COMMAND, "run", "--quiet", "--", "sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 60"]
    with pytest.raises(pytest.fail.Exception, match="hangs"):
        run_bytes(words, env=environment())
    pid = int((tmp_path / "pid").read_text())
    lab.wait_until(lambda: not lab.is_alive(pid), "the end of the program")
