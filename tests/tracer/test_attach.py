"""laconic attach: a running program is observed, and nothing about it changes."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.info import contents
from laconic.replay import replay_trace
from laconic.trace import open as open_trace
from laconic.trace.reader import TraceReader
from laconic.tracer import attach
from tests.tracer.lab import (
    COMMAND,
    PATIENCE,
    build,
    environment,
    is_alive,
    run_alone,
    wait_until,
)
from tests.tracer.oldprograms import EXIT, elf32, int80

#: What a shell starts in the background ignores these, and so would all that it starts.
_HEEDED = (signal.SIGINT, signal.SIGQUIT)


def _heeds_signals() -> None:
    for number in _HEEDED:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A program that runs and has said that it is ready, and is ended at the end."""
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heeds_signals,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def attached(pid: int, *options: str | Path, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Laconic, attached to a process."""
    words = [*COMMAND, "attach", str(pid), *map(str, options)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    more = {"preexec_fn": _heeds_signals, **more}
    with subprocess.Popen(words, **pipes, env=environment(), **more) as laconic:
        try:
            assert laconic.stderr is not None
            line = laconic.stderr.readline()
            assert f"attached to process {pid} " in line, line + laconic.stderr.read()
            yield laconic
        finally:
            if laconic.poll() is None:
                laconic.kill()


def left(laconic: subprocess.Popen[str], status: int = 0) -> str:
    """What Laconic prints until it ends by itself."""
    out, err = laconic.communicate(timeout=PATIENCE)
    assert (laconic.returncode, out) == (status, ""), err
    return err


def state(pid: int) -> tuple[str, str]:
    """The states of a process's threads, each letter once, and their tracers."""
    states, tracers = set(), set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(
            line.split(":\t", 1)
            for line in (task / "status").read_text().splitlines()
            if ":\t" in line
        )
        states.add(fields["State"][0])
        tracers.add(fields["TracerPid"])
    return "".join(sorted(states)), " ".join(sorted(tracers))


def untouched(pid: int) -> bool:
    """True if no thread of a process is traced or stopped."""
    states, tracers = state(pid)
    return tracers == "0" and not {*states} & {*"tT"}


def finished(process: subprocess.Popen[str], words: str = "") -> str:
    """What a program prints until it ends, once its standard input is closed."""
    out, _ = process.communicate(words, timeout=PATIENCE)
    assert process.returncode == 0, out
    return out


def replayed(path: Path) -> dict[str, int]:
    """The calls of a trace by name, whose replay must agree with every result."""
    done = replay_trace(TraceReader(str(path)), check=True)
    assert done.check is not None and done.loss == []
    assert not done.check.counts, done.check.differences[:3]
    return {name: line.calls for name, line in done.ledger.by_call.items()}


def test_a_program_with_threads(tmp_path: Path) -> None:
    """Every call of every thread is counted and verified, and the trace replays to the same."""
    trace, figures = tmp_path / "a.trace", tmp_path / "figures.json"
    with running(build("attached"), "threads") as program:
        options = ("--for", "0.5s", "--verify", "call", "-o", trace, "--json", figures)
        with attached(program.pid, *options, "--stacks", "all") as laconic:
            err = left(laconic)
        assert untouched(program.pid)
        assert finished(program) == "done\n"
    about = json.loads(figures.read_text())
    assert about["verify"]["mismatches"] == 0 < about["verify"]["checks"], err
    assert about["calls"] == sum(line["calls"] for line in about["by_call"].values()) > 12
    assert about["strategy"] == "observe" and about["exit_status"] is None
    assert about["attached"]["goes_on"] and 0 < about["attached"]["stopped_seconds"] < PATIENCE
    assert {name: line["calls"] for name, line in about["by_call"].items()} == replayed(trace)
    assert "next:\n  laconic callers " in err and "was running before, and goes on" in err
    found = contents(open_trace(str(trace)))
    assert (found.processes, found.threads, found.status) == (1, 5, None)
    assert found.touched_pages, "the memory that it had when the recording ended"
    done = run_alone([*COMMAND, "callers", trace, "--json", "-"], env=environment())
    assert "map_and_unmap" in done.stdout, done.stderr
    sentence = json.loads(done.stdout)["headline"]["text"]
    assert not sentence.startswith(("The memory", "Loading")), sentence
    done = run_alone([*COMMAND, "compare", trace, "--json", "-"], env=environment())
    load = json.loads(done.stdout)["by_call"]["before attach"]["every-call"]["counts"]
    assert load["eaccept"] > 0, "its memory when the recording began is one line"
    done = run_alone([*COMMAND, "advise", trace, "--json", "-"], env=environment())
    advice = json.loads(done.stdout)
    assert [each["peak_threads"] for each in advice["programs"]] == [5]
    by_option = {each["option"]: each for each in advice["advice"]}
    assert by_option["sgx.max_threads"]["line"] == "sgx.max_threads = 8"
    stack, heap = by_option["sys.stack.size"], by_option["sys.brk.max_size"]
    assert stack["line"].startswith("# sys.stack.size: unknown, at least ")
    assert "4 threads were running already" in stack["why"]
    assert heap["figures"]["peak_brk"] >= 128 << 10, "the buffer of its standard output"
    assert "attached to a running program" in advice["notes"][0]
    page = tmp_path / "page.html"
    done = run_alone([*COMMAND, "html", trace, "-o", page], env=environment())
    assert done.returncode == 0 and page.stat().st_size > 10_000, done.stderr
    assert f"Laconic attached to process {program.pid} while it was running" in page.read_text()


#: Laconic, which lets the program on its standard output begin once it has been imported itself.
PREPARED = """
import os, sys, time
import laconic.report.run, laconic.tracer.attach, laconic.tracer.verify
from laconic.commands import main
os.write(1, b"x")
time.sleep(0.3)
sys.exit(main(["attach", sys.argv[1], "--for", "0.3s"]))
"""


def test_waits_go_on() -> None:
    """What a thread waits in is not seen to be interrupted, not even what Linux never restarts."""
    with running(build("attached"), "waits") as program:
        alone = sorted(finished(program, "x").splitlines())
    with running(build("attached"), "waits") as program:
        words = [sys.executable, "-c", PREPARED, str(program.pid)]
        pipes: dict[str, Any] = {"stdout": program.stdin, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(words, **pipes, env=environment()) as laconic:
            _, err = laconic.communicate(timeout=PATIENCE)
        assert laconic.returncode == 0 and ", 11 threads in 1 process;" in err, err
        assert sorted(finished(program).splitlines()) == alone
    assert len(alone) == 11 and not [line for line in alone if line.endswith(f" {errno.EINTR}")]


@pytest.mark.parametrize("traced", [False, True])
def test_an_ignored_signal_interrupts_no_wait(traced: bool) -> None:
    """A traced program is sent what it ignores; `laconic run` has the wait restarted too."""
    words = [*COMMAND, "run", "--quiet", "--"] if traced else []
    done = run_alone([*words, build("attached"), "ignored"], env=environment())
    assert done.stdout == "0 0\ndone\n"


def test_a_shell_that_forks(tmp_path: Path) -> None:
    """Its children are followed into their programs; output is what it is alone."""
    script = "echo ready; read go; for i in 1 2 3; do /bin/echo $i; (exit $i); echo $?; done | cat"
    with running("bash", "-c", script) as program:
        alone = finished(program, "\n")
    trace = tmp_path / "a.trace"
    with (
        running("bash", "-c", script) as program,
        attached(program.pid, "-o", trace, "--verify", "call") as laconic,
    ):
        assert finished(program, "\n") == alone
        err = left(laconic)
    assert " 0 mismatches" in err and "and ended after " in err
    assert replayed(trace)["mmap"] > 3
    programs = {os.path.basename(one.path) for one in contents(open_trace(str(trace))).programs}
    assert {"bash", "echo", "cat"} <= programs


def test_a_parent_that_waits_in_vfork(tmp_path: Path) -> None:
    """It cannot stop, and its child runs in its memory: both are followed, as one address space."""
    trace = tmp_path / "a.trace"
    with running(build("attached"), "vforks") as program:
        wait_until(lambda: state(program.pid)[0] == "D", "vfork")
        with attached(program.pid, "-o", trace, "--verify", "call") as laconic:
            assert finished(program, "x") == "the child: 0\ndone\n"
            err = left(laconic)
    assert " 0 mismatches" in err and " in 2 processes" in err
    calls = replayed(trace)
    assert calls["munmap"] >= 1 and calls["brk"] > 0


def test_the_break_to_the_byte(tmp_path: Path) -> None:
    """/proc shows only its page: the first call tells it, and the replay knows it too."""
    trace = tmp_path / "a.trace"
    with (
        running(build("attached"), "breaks") as program,
        attached(program.pid, "-o", trace, "--verify", "call") as laconic,
    ):
        assert finished(program, "x") == "1 1 1\ndone\n"
        assert " 0 mismatches" in left(laconic)
    assert replayed(trace)["brk"] == 4


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_to_laconic_ends_it_and_not_the_program(
    number: signal.Signals, tmp_path: Path
) -> None:
    trace = tmp_path / "a.trace"
    with running(build("attached"), "busy") as program:
        with attached(program.pid, "-o", trace) as laconic:
            time.sleep(0.2)
            laconic.send_signal(number)
            err = left(laconic)
        assert untouched(program.pid)
        assert finished(program) == "done\n"
    assert f"by {number.name}" in " ".join(err.split())
    assert replayed(trace)["mmap"] > 5


def test_laconic_is_stopped_by_no_terminal() -> None:
    """The program would wait for it."""
    with running(build("attached"), "busy") as program:
        with attached(program.pid) as laconic:
            laconic.send_signal(signal.SIGTSTP)
            time.sleep(0.1)
            laconic.send_signal(signal.SIGINT)
            left(laconic)
        assert finished(program) == "done\n"


@pytest.mark.parametrize(
    "mode", ["busy", "threads", pytest.param("signals", marks=pytest.mark.slow)]
)
def test_laconic_is_killed(mode: str, tmp_path: Path) -> None:
    """The program goes on, no thread is left stopped, and what was recorded is there."""
    trace = tmp_path / "a.trace"
    with running(build("attached"), mode) as program:
        with attached(program.pid, "-o", trace) as laconic:
            time.sleep(0.4)
            laconic.kill()
            laconic.wait()
        wait_until(lambda: untouched(program.pid), "the kernel to let go")
        assert finished(program).endswith("done\n")
    wait_until(lambda: trace.stat().st_size > 1000, "what was recorded")
    done = replay_trace(TraceReader(str(trace)), check=True)
    assert done.check is not None and not done.check.counts
    assert any("was not ended in order" in loss for loss in done.loss)


def test_the_program_is_killed(tmp_path: Path) -> None:
    with (
        running(build("attached"), "threads") as program,
        attached(program.pid, "-o", tmp_path / "a.trace") as laconic,
    ):
        time.sleep(0.1)
        program.kill()
        assert "and ended after " in left(laconic)
        assert program.wait() == -signal.SIGKILL
    assert replayed(tmp_path / "a.trace")["mmap"] >= 1


def test_a_stopped_program_stays_stopped() -> None:
    """Before, while and after it is attached to; SIGCONT continues it."""
    with running(build("attached"), "threads") as program:
        program.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(program.pid)[0] == "T", "its stop")
        with attached(program.pid) as laconic:
            time.sleep(0.2)
            assert not {*state(program.pid)[0]} & {*"RSD"}
            laconic.send_signal(signal.SIGINT)
            left(laconic)
        assert state(program.pid) == ("T", "0")
        program.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # its threads may not have begun before the stop
        assert finished(program) == "done\n"


def test_a_program_that_sleeps() -> None:
    """It makes no call while it is attached to, and sleeps on."""
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            with attached(sleeper.pid, "--for", "0.2s") as laconic:
                assert "0 memory calls in 1 process" in left(laconic)
            assert state(sleeper.pid) == ("S", "0")
        finally:
            sleeper.kill()


def test_signals_reach_the_program() -> None:
    with running(build("attached"), "signals") as program, attached(program.pid) as laconic:
        for _ in range(3):
            program.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
        assert finished(program) == "3 signals\ndone\n"
        left(laconic)


class TestLimits:
    def test_the_size_of_the_trace(self, tmp_path: Path) -> None:
        trace = tmp_path / "a.trace"
        with running(build("attached"), "busy") as program:
            with attached(program.pid, "-o", trace, "--until-size", "16K") as laconic:
                err = left(laconic)
            assert untouched(program.pid)
            assert finished(program) == "done\n"
        assert 16384 <= trace.stat().st_size < 1 << 20
        assert "(--until-size)" in err.replace("\n", " ")
        assert replayed(trace)["munmap"] > 10

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        """The trace ends, and the program is left."""

        def small() -> None:
            _heeds_signals()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        with running(build("attached"), "busy") as program:
            with attached(program.pid, "-o", tmp_path / "a.trace", preexec_fn=small) as laconic:
                err = left(laconic, status=2)
            assert untouched(program.pid)
            assert finished(program) == "done\n"
        assert "could not be written to its end, File too large" in err

    def test_a_run_goes_on(self, tmp_path: Path) -> None:
        """Its recording ends, its mediation does not; how much is missing is in the trace."""
        trace, figures = tmp_path / "a.trace", tmp_path / "figures.json"
        words = ("run", "-o", trace, "--for", "0.3s", "--verify", "exit", "--json", figures, "--")
        script = f"(sleep 1.2; echo) | {build('attached')} busy"
        done = run_alone([*COMMAND, *words, "sh", "-c", script], env=environment())
        assert done.returncode == 0 and done.stdout == "ready\ndone\n", done.stderr
        about = json.loads(figures.read_text())
        assert about["verify"]["mismatches"] == 0 < about["verify"]["checks"]
        recorded = sum(replayed(trace).values())
        assert 0 < recorded < about["calls"]
        missing = f"{about['calls'] - recorded:,} memory calls are not in the trace: the recording "
        assert [note for note in about["notes"] if note.startswith(missing + "ended after 0.3 s")]
        done = run_alone([*COMMAND, "info", trace], env=environment())
        assert missing in " ".join(done.stdout.split())

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("run", "--for", "1s", "--", "true"), "name it with -o FILE"),
            (("attach", "1", "--until-size", "1M"), "name it with -o FILE"),
            (("attach", "1", "--for", "soon"), "'soon' is not a time: name one, as in 500ms"),
            (("attach", "redis-server"), 'as in  laconic attach "$(pidof -s redis-server)"'),
            (("attach", "1", "--for", "0s"), "'0s' is not a time"),
            (
                ("attach", "1", "--until-size", "5", "-o", "x"),
                "'5' is not a size: name whole pages",
            ),
        ],
    )
    def test_wrong_limits(self, words: tuple[str, ...], message: str) -> None:
        done = run_alone([*COMMAND, *words], env=environment())
        assert done.returncode == 2 and message in done.stderr


class TestRefusals:
    def attach(self, pid: int) -> subprocess.CompletedProcess[str]:
        return run_alone([*COMMAND, "attach", str(pid)], env=environment())

    def test_no_such_process(self) -> None:
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        done = self.attach(gone.pid)
        assert done.returncode == 2
        assert f"there is no process {gone.pid}; ps -e lists" in done.stderr

    def test_a_zombie(self) -> None:
        with subprocess.Popen(["true"]) as zombie:
            wait_until(lambda: state(zombie.pid)[0] == "Z", "its end")
            done = self.attach(zombie.pid)
        assert done.returncode == 2 and "has ended" in done.stderr

    def test_itself(self) -> None:
        words = " ".join([*COMMAND, "attach", "$$"])
        done = run_alone(["bash", "-c", f"exec {words}"], env=environment())
        assert done.returncode == 2 and "is laconic itself; name another" in done.stderr

    def test_one_that_is_traced(self) -> None:
        with running(build("attached"), "signals") as program, attached(program.pid) as laconic:
            done = self.attach(program.pid)
            assert done.returncode == 2
            assert f"is traced by process {laconic.pid} (" in done.stderr
            laconic.send_signal(signal.SIGINT)
            left(laconic)

    def test_a_thread_of_the_kernel(self) -> None:
        kernel = Path("/proc/2/comm")
        if not kernel.exists() or kernel.read_text() != "kthreadd\n":
            pytest.skip("this PID namespace does not show the threads of the kernel")
        done = self.attach(2)
        assert done.returncode == 2
        assert "process 2 (kthreadd) is a thread of the kernel" in done.stderr

    def test_a_32_bit_program(self, tmp_path: Path) -> None:
        # pause(2), until a signal ends it.
        sleeper = elf32(tmp_path / "oldtimer", int80(29) + int80(EXIT, 7))
        try:
            program = subprocess.Popen([sleeper])
        except OSError:
            pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
        with program:
            done = self.attach(program.pid)
            program.kill()
        assert done.returncode == 2 and "is a 32-bit program" in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
    def test_another_users(self) -> None:
        with running(build("attached"), "signals") as program:
            from_nobody = (
                "import os, sys; from laconic.tracer import attach, ptrace; from laconic.errors "
                "import NoTracing;"
                "os.setgid(65534); os.setuid(65534);"
                f"assert not ptrace.seize({program.pid}, attach.OPTIONS);"
                f"error = attach.refusal({program.pid}); assert error.exit_code == 71; print(error)"
            )
            done = run_alone([sys.executable, "-c", from_nobody], env=environment())
            assert is_alive(program.pid)
        assert "belongs to user 0; run laconic as root, or as that user" in done.stdout, done.stderr

    @pytest.mark.parametrize(
        ("scope", "message"),
        [
            (None, "or this container forbids ptrace; run laconic as root"),
            (1, "ptrace_scope is 1; run laconic as root, or sysctl kernel.yama.ptrace_scope=0"),
            (2, "ptrace_scope is 2; run laconic as root, or sysctl kernel.yama.ptrace_scope=0"),
            (3, "ptrace_scope is 3, which forbids it until this machine is started again"),
        ],
    )
    def test_yama(self, scope: int | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message names the setting, and what changes it."""
        monkeypatch.setattr(attach, "yama_scope", lambda: scope)
        monkeypatch.setattr(attach, "capable", lambda capability: False)
        error = attach.refusal(os.getppid())
        assert message in str(error) and error.exit_code == 71
