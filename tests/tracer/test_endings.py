"""Signals to Laconic and to the program, statuses, and how a run ends: as without Laconic."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracer.lab import (
    COMMAND,
    PATIENCE,
    PROGRAMS,
    STRATEGIES,
    build,
    children_of,
    environment,
    is_alive,
    run_alone,
    run_laconic,
    wait_until,
)

TERMINAL = (sys.executable, str(PROGRAMS / "terminal.py"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_sent_to_laconic_alone_reaches_the_program_once(name: str) -> None:
    number = int(signal.Signals[name])
    run = run_laconic(build("to_laconic"), "send", str(number), verify="exit")
    assert (run.status, run.out) == (7, f"signal {number}, 1 times\n"), run.err
    assert run.figures["exit_status"] == 7
    assert run.exact()


def test_a_signal_sent_to_laconic_reaches_what_the_program_left_running() -> None:
    run = run_laconic(build("to_laconic"), "children-left", str(int(signal.SIGTERM)), verify="exit")
    assert (run.status, run.out) == (3, f"signal {int(signal.SIGTERM)}, 1 times\n"), run.err
    assert run.exact()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_program_that_a_forwarded_signal_ends(name: str) -> None:
    """Laconic still writes its figures, and has the status that a shell would have."""
    run = run_laconic(
        "sh", "-c", f"kill -{name[3:]} $PPID; exec sleep 20", verify="exit", options=("--quiet",)
    )
    assert run.err == ""
    assert run.status == run.figures["exit_status"] == 128 + int(signal.Signals[name])


def test_an_interrupt_from_the_terminal_reaches_the_program_once() -> None:
    """The terminal sends it to the whole foreground group; Laconic does not pass it on once
    more."""
    program = str(build("to_laconic"))
    words = [*TERMINAL, "-c"]
    alone = run_alone([*words, program, "wait", "2"])
    done = run_alone(
        [*words, *COMMAND, "run", "--quiet", "--", program, "wait", "2"], env=environment()
    )
    assert alone.stdout == "ready\n^Csignal 2, 1 times\n"
    assert (done.returncode, done.stdout) == (alone.returncode, alone.stdout) == (7, alone.stdout)


@pytest.mark.parametrize("attempt", range(10))
def test_an_interrupt_from_the_terminal_ends_the_program_and_not_laconic(
    attempt: int, tmp_path: Path
) -> None:
    """Laconic gets the signal too; the program may end of it before Laconic has looked at its
    own."""
    path = tmp_path / "figures.json"
    words = [
        *TERMINAL,
        "-c",
        *COMMAND,
        "run",
        "--json",
        str(path),
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 20",
    ]
    done = run_alone(words, env=environment(NO_COLOR="1"))
    assert done.returncode == 130
    assert "Traceback" not in done.stdout
    assert "laconic: " in done.stdout, "the table is lost"
    assert json.loads(path.read_text())["exit_status"] == 130


@pytest.mark.parametrize("options", [(), ("--observe",), ("-o", "a.trace")])
def test_every_signal_to_the_process_group_of_the_program(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """Laconic, a member of the group, outlives it, and delivers none a second time."""
    program = str(build("to_laconic"))
    alone = run_alone([program, "group"])
    words = [*COMMAND, "run", "--quiet", *options, "--", program, "group"]
    done = run_alone(words, env=environment(), cwd=tmp_path)
    assert alone.stdout.split().count("1") == 60
    assert (
        (done.returncode, done.stdout) == (alone.returncode, alone.stdout) == (7, alone.stdout)
    ), done.stderr


@contextmanager
def busy_machine() -> Iterator[None]:
    """Twice as many processes as processors, which do nothing but run."""
    count = 2 * len(os.sched_getaffinity(0))
    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def no_signal_is_pending(pid: int) -> bool:
    """True if a process has taken every signal that it was sent."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["ShdPnd"], 16) == 0


def signal_log(
    words: Sequence[str | Path], rounds: int, group_reaches_it: bool = True
) -> list[str]:
    """What a listening program prints of signals to its group and to `words` alone, in the order of
    sending."""
    libc = ctypes.CDLL(None)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    ) as run:
        assert run.stdout is not None
        watchdog = threading.Timer(
            3 * PATIENCE, run.kill
        )  # a signal that is lost must not hang the tests
        watchdog.start()
        try:
            lines = [run.stdout.readline()]
            for _ in range(rounds):
                # If the program does not report a signal to its group, one to Laconic alone could
                # come while the first is pending, and be dropped.
                to_group = [signal.SIGUSR1, signal.SIGRTMIN + 3, signal.SIGCONT]
                for number in [*to_group, signal.SIGALRM] if group_reaches_it else to_group:
                    os.killpg(run.pid, number)
                    if group_reaches_it:
                        lines.append(run.stdout.readline())
                # While a standard signal is pending, a second one is dropped: the program may have
                # taken a signal to the group before Laconic has.
                wait_until(lambda: no_signal_is_pending(run.pid), "the signals to the group")
                for number in (
                    signal.SIGUSR2,
                    signal.SIGALRM,
                    signal.SIGWINCH,
                    signal.SIGRTMIN + 4,
                ):
                    os.kill(run.pid, number)
                    lines.append(run.stdout.readline())
                libc.sigqueue(run.pid, signal.SIGRTMIN + 5, ctypes.c_void_p(77))
                lines.append(run.stdout.readline())
            os.kill(run.pid, signal.SIGTERM)
            lines += run.stdout.readlines()
            assert run.wait(PATIENCE) == 7
        finally:
            watchdog.cancel()
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    return lines


@pytest.mark.parametrize("how", ["handler", "sigwait", "signalfd"])
def test_signals_from_outside_are_delivered_once(how: str) -> None:
    """To the group or to Laconic alone; with the sender and the value that the program sees without
    Laconic."""
    words: list[str | Path] = [build("to_laconic"), "listen", how]
    with busy_machine():
        alone = signal_log(words, 3)
        traced = signal_log([*COMMAND, "run", "--quiet", "--", *words], 3)
    assert len(alone) == 2 + 3 * 9
    if how != "handler":
        # Taken without a stop for delivery: sent by rt_sigqueueinfo(), the signal keeps that code.
        alone, traced = (
            [line.replace("code 0", "code -1") for line in lines] for lines in (alone, traced)
        )
    assert traced == alone


def test_signals_to_the_group_that_a_program_has_left() -> None:
    words: list[str | Path] = [
        *COMMAND,
        "run",
        "--quiet",
        "--",
        build("to_laconic"),
        "listen",
        "setsid",
    ]
    lines = signal_log(words, 2, group_reaches_it=False)
    numbers = [int(line.split()[1].rstrip(",")) for line in lines[1:]]
    assert numbers == [*[12, 14, 28, signal.SIGRTMIN + 4, signal.SIGRTMIN + 5] * 2, signal.SIGTERM]


@pytest.mark.parametrize("attempt", range(3))
def test_a_signal_to_laconic_and_then_to_the_group(attempt: int) -> None:
    """As timeout(1) does. As without Laconic, the second comes while the first is pending, and the
    program gets one."""
    words: list[str | Path] = [*COMMAND, "run", "--quiet", "--", build("to_laconic"), "wait", "10"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        os.kill(run.pid, signal.SIGUSR1)
        os.killpg(run.pid, signal.SIGUSR1)
        assert run.stdout.readlines() == ["signal 10, 1 times\n"]


def test_a_stop_of_the_group_that_is_ended_for_laconic_alone() -> None:
    """The witness that Laconic asks was stopped too."""
    words: list[str | Path] = [
        *COMMAND,
        "run",
        "--quiet",
        "--",
        build("to_laconic"),
        "listen",
        "handler",
    ]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        os.killpg(run.pid, signal.SIGSTOP)
        os.kill(run.pid, signal.SIGCONT)
        assert run.stdout.readline().startswith("signal 18,")
        os.kill(run.pid, signal.SIGTERM)
        assert [line[:10] for line in run.stdout] == ["signal 15,"]
        assert run.wait(PATIENCE) == 7


def test_laconic_leaves_no_process_and_holds_no_pipe() -> None:
    """The witness ends with Laconic, also if that is killed, and has none of its files open."""
    words = [
        *COMMAND,
        "run",
        "--quiet",
        "--",
        "sh",
        "-c",
        "exec >&-; echo ready >&2; exec sleep 20",
    ]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment(),
    ) as run:
        assert run.stderr is not None and run.stderr.readline() == b"ready\n"
        processes = children_of(run.pid)
        assert len(processes) == 2
        pipe = os.readlink(f"/proc/{run.pid}/fd/1")
        for process in processes:
            assert pipe not in [os.readlink(fd) for fd in Path(f"/proc/{process}/fd").iterdir()]
        run.kill()
    wait_until(lambda: not any(map(is_alive, processes)), "the end of all processes")


@pytest.mark.parametrize("options", [(), ("--verify", "exit"), ("-o", "a.trace")])
def test_a_pidfd_is_readable_only_when_waitpid_finds_the_child(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    words: list[str | Path] = [
        *COMMAND,
        "run",
        "--quiet",
        *options,
        "--",
        build("exit_order"),
        "200",
    ]
    done = run_alone(words, env=environment(), cwd=tmp_path)
    assert done.stdout == "missed after exit 0, signal 0, threads 0, SIGKILL 0\n", done.stderr


def test_a_laconic_that_is_killed_leaves_no_half_of_its_figures(tmp_path: Path) -> None:
    """Neither under their own name nor under another."""
    words = [*COMMAND, "run", "--json", str(tmp_path / "figures.json"), "--"]
    done = run_alone([*words, "sh", "-c", "kill -KILL $PPID; exec sleep 20"], env=environment())
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_outlives_a_laconic_that_is_killed(strategy: str) -> None:
    run = run_laconic(build("to_laconic"), "kill", strategy=strategy)
    assert run.status == -signal.SIGKILL
    processes = [int(word) for word in run.out.split()]
    assert len(processes) == 6
    wait_until(lambda: not any(map(is_alive, processes)), "the end of all processes")


@pytest.mark.parametrize("status", [0, 1, 3, 70, 71, 126, 127, 130, 255])
def test_a_status_is_the_program_s_own(status: int) -> None:
    run = run_laconic("sh", "-c", f"exit {status}", verify="off")
    assert run.status == run.figures["exit_status"] == status


@pytest.mark.parametrize(
    "name", ["SIGHUP", "SIGINT", "SIGPIPE", "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGRTMIN"]
)
def test_a_program_that_kills_itself(name: str) -> None:
    number = int(signal.Signals[name])
    script = f"import os, signal; signal.signal({number}, signal.SIG_DFL) if {number} != 9 else 0; "
    script += f"os.kill(os.getpid(), {number})"
    alone = run_alone([sys.executable, "-S", "-c", script])
    assert alone.returncode == -number
    run = run_laconic(sys.executable, "-S", "-c", script, verify="off")
    assert run.status == run.figures["exit_status"] == 128 + number


@pytest.mark.parametrize("limit", [0, -1])
def test_wait_returns_the_same_for_a_child_that_dumps_core(limit: int, tmp_path: Path) -> None:
    """The bit that says "core dumped" is there when it is without Laconic, and the signal is the
    same."""
    script = f"""
import ctypes, os, resource
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, ({limit} if hard == -1 else 0, hard))
for die in (lambda: ctypes.string_at(0), os.abort, lambda: os.kill(os.getpid(), 11), lambda: os._exit(3)):
    pid = os.fork()
    if not pid:
        die()
    print(os.waitpid(pid, 0)[1])
"""  # noqa: E501
    (tmp_path / "alone").mkdir()
    (tmp_path / "traced").mkdir()
    alone = run_alone([sys.executable, "-c", script], cwd=tmp_path / "alone")
    run = run_laconic(sys.executable, "-c", script, verify="exit", cwd=tmp_path / "traced")
    assert [int(line) & 0x7F for line in alone.stdout.split()[:3]] == [11, 6, 11]
    assert (run.status, run.out) == (0, alone.stdout), run.err
    assert run.exact()
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() == "core":
        assert len(list((tmp_path / "traced").iterdir())) == len(
            list((tmp_path / "alone").iterdir())
        )


def test_the_status_is_that_of_the_first_program_not_of_the_last() -> None:
    run = run_laconic("sh", "-c", "(sleep 0.2; exit 9) & exit 4", verify="exit")
    assert run.status == 4
    assert run.exact()


def test_output_that_nobody_reads_ends_the_program_by_sigpipe() -> None:
    alone = run_alone(["bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}"])
    script = '"$@" yes | head -1; echo ${PIPESTATUS[0]}'
    done = run_alone(
        ["bash", "-c", script, "bash", *COMMAND, "run", "--quiet", "--"], env=environment()
    )
    assert done.stdout == alone.stdout == "y\n141\n"
    assert os.strerror(32) not in done.stderr
