"""`laconic live` on real programs: in a terminal, without one, and its picture."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.tracer.lab import COMMAND, PATIENCE, build, environment, run_alone, wait_until

ROOT = Path(__file__).parents[2]
#: Makes 20 rounds a second of 10 redundant mprotect calls and 2 others, says so, and ends with its
#: argument.
ROUNDS = "steady"


class Terminal:
    """A program on a terminal of 80 by 24."""

    def __init__(self, *words: str | Path, cwd: Path | None = None) -> None:
        self.fd, other = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, words)], stdin=other, stdout=other, stderr=other, cwd=cwd,
            start_new_session=True,
            env=environment(TERM="xterm-256color"),
        )  # fmt: skip
        os.close(other)
        self.seen = b""

    def until(self, text: bytes) -> None:
        """Reads until `text` has been written."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:]
            self.read()

    def read(self) -> bool:
        """Reads what there is; False at the end."""
        if not select.select([self.fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.seen += data
        return bool(data)

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self.fd, keys.encode())

    def status(self) -> int:
        """Waits for the end: the exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.read():
            if time.monotonic() > deadline:
                os.killpg(self.process.pid, signal.SIGKILL)
                pytest.fail(f"it hangs: {self.seen[-2000:]!r}")
        os.close(self.fd)
        return self.process.wait(timeout=PATIENCE)

    def after_the_view(self) -> list[str]:
        """What stands on the terminal when the view is gone (it is drawn on the alternate
        screen)."""
        text = self.seen.rpartition(b"\x1b[?1049l")[2].decode()
        return re.sub(r"\x1b\[[0-9;:?<>=]*[a-zA-Z]", "", text).splitlines()


class TestInATerminal:
    """The view."""

    @pytest.fixture(autouse=True)
    def _textual(self) -> None:
        pytest.importorskip("textual")

    def test_q_leaves_and_the_program_goes_on(self) -> None:
        """What it wrote stands there afterwards, and what it still writes; its status is
        Laconic's."""
        terminal = Terminal("live", "--delay", "0.2", "--", build(ROUNDS), "60", "3")
        terminal.until(b"again")
        terminal.press("q")
        assert terminal.status() == 3
        lines = [line for line in terminal.after_the_view() if line.startswith("round")]
        assert lines == [f"round {number}" for number in range(60)]
        text = " ".join(" ".join(terminal.after_the_view()).split())
        assert "memory calls in 1 process:" in text and " host calls, " in text

    def test_the_program_can_be_interrupted(self) -> None:
        terminal = Terminal("live", "--delay", "0.2", "--", build(ROUNDS), "10000", "3")
        terminal.until(b"again")
        terminal.press("\x03")
        terminal.until(b"exit status 130")
        terminal.press("q")
        assert terminal.status() == 130

    def test_output_to_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "out"
        terminal = Terminal("live", "--program-output", path, "--", build(ROUNDS), "5", "0")
        terminal.until(b"exit status 0")
        terminal.press("q")
        assert terminal.status() == 0
        assert path.read_text() == "".join(f"round {number}\n" for number in range(5))
        assert b"round" not in terminal.seen

    def test_it_ends_with_the_program_if_the_terminal_is_gone(self) -> None:
        terminal = Terminal("live", "--delay", "0.2", "--", build(ROUNDS), "60", "3")
        terminal.until(b"mprotect")
        # Nobody reads, so that the view is about to write when the terminal goes away.
        time.sleep(1)
        os.close(terminal.fd)
        assert terminal.process.wait(timeout=PATIENCE) == 3

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        """The view ends by itself."""
        terminal = Terminal("live", "--", "./missing", cwd=tmp_path)
        assert terminal.status() == 127
        assert "'./missing' does not exist" in " ".join(terminal.after_the_view())


class TestWithoutATerminal:
    """A line each time, on standard error; the program's output is its own."""

    def test_lines(self) -> None:
        done = run_alone(
            [*COMMAND, "live", "--delay", "0.5", "--", build(ROUNDS), "40", "7"], env=environment()
        )
        assert (done.returncode, done.stdout) == (
            7,
            "".join(f"round {number}\n" for number in range(40)),
        )
        lines = done.stderr.partition("laconic: ")[0].splitlines()
        assert done.stderr.count("laconic: ") == 1
        assert len(lines) >= 2
        assert all(" calls/s, " in line and " in 1 process" in line for line in lines)
        # All that was counted: 400 redundant mprotects, and what ld.so and the C library do.
        words = " ".join(done.stderr.split()).split()
        elided = int(words[words.index("elided") - 1])
        assert 400 <= elided <= 410

    @pytest.mark.parametrize(
        ("script", "status"),
        [("exit 5", 5), ("kill -9 $$", 137), ("kill -TERM $PPID; exec sleep 20", 143)],
    )
    def test_statuses(self, script: str, status: int) -> None:
        """The last one: a signal to the tracing process is passed on."""
        assert (
            run_alone([*COMMAND, "live", "--", "sh", "-c", script], env=environment()).returncode
            == status
        )

    def test_programs_that_cannot_run(self, tmp_path: Path) -> None:
        for name, status in (("./missing", 127), (str(tmp_path), 126)):
            done = run_alone([*COMMAND, "live", "--", name], env=environment(), cwd=tmp_path)
            assert (done.returncode, done.stdout) == (status, "")
            assert done.stderr.startswith("laconic: ")
            assert done.stderr.count("\n") == 1

    def test_a_signal_to_laconic_reaches_the_program(self) -> None:
        with subprocess.Popen(
            [*COMMAND, "live", "--", build(ROUNDS), "10000", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(),
        ) as process:  # fmt: skip
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE) == 143

    def test_every_signal_to_the_process_group_of_the_program(self) -> None:
        """Neither the watching nor the tracing process ends by it, or passes it on."""
        program = build("to_laconic")
        alone = run_alone([program, "group"])
        done = run_alone([*COMMAND, "live", "--", program, "group"], env=environment())
        assert (done.returncode, done.stdout) == (7, alone.stdout)

    def test_the_tracing_process_is_killed(self) -> None:
        """It takes the program with it; that is said, and is not a hang."""
        with subprocess.Popen(
            [*COMMAND, "live", "--", build(ROUNDS), "10000", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        ) as process:  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_until(lambda: children.read_text(), "the tracing process")
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
            assert process.wait(timeout=PATIENCE) == 137
            assert "ended with status 137" in process.stderr.read()


def test_the_picture(tmp_path: Path) -> None:
    """The view, without a terminal, of a real program: the function that makes the calls, its
    process, its output."""
    pytest.importorskip("textual")
    path = tmp_path / "live.svg"
    tool: list[str | Path] = [
        sys.executable,
        ROOT / "tools" / "live_picture.py",
        "-o",
        path,
        "--seconds",
        "15",
        "--size",
        "100x28",
    ]
    done = run_alone([*tool, "--", build(ROUNDS), "40", "4"], env=environment())
    assert done.returncode == 4, done.stderr
    text = path.read_text().replace("&#160;", " ")
    assert re.search(r"> +400 <", text)
    for words in ("exit status 4", "mprotect again", "round 39", "every-call, M cycles", "load"):
        assert words in text, words
    assert "@font-face" not in text


def test_costs_are_those_of_callers(tmp_path: Path) -> None:
    """Taken while the program runs, they are what a replay of its trace finds."""
    figures, trace = tmp_path / "live.json", tmp_path / "a.trace"
    words = [*COMMAND, "live", "--lines", "--json", str(figures), "-o", str(trace)]
    words += ["--", str(build(ROUNDS))]
    done = run_alone([*words, "20", "0"], env=environment())
    assert done.returncode == 0, done.stderr
    live = json.loads(figures.read_text())
    done = run_alone([*COMMAND, "callers", "--json", "-", trace], env=environment())
    callers = json.loads(done.stdout)
    assert live["cycles"] == callers["cycles"]
    assert live["cycles_stopped"] is None
    assert [(site["function"], site["calls"], site["cycles"]) for site in live["sites"]] == [
        (site["name"], site["calls"], site["cycles"]) for site in callers["callers"]
    ]
    assert [work["cycles"] for work in live["around"]] == [
        work["cycles"] for work in callers["around"]
    ]


def test_failing_calls_are_not_redundant(tmp_path: Path) -> None:
    """22 mprotect calls at one place fail, and need no host call."""
    figures = tmp_path / "live.json"
    done = run_alone(
        [*COMMAND, "live", "--lines", "--json", figures, "--", build("failing")], env=environment()
    )
    assert done.returncode == 0, done.stderr
    live = json.loads(figures.read_text())
    assert (
        live["by_call"]["mprotect"]["elided"] >= 22
        and live["by_call"]["mprotect"]["redundant"] == 0
    )
    at_mprotect = [site for site in live["sites"] if site["call"] == "mprotect"]
    assert at_mprotect and not any(site["redundant"] for site in at_mprotect)
    done = run_alone(
        [*COMMAND, "callers", "--sort", "redundant", "--no-suppressions", "--", build("failing")],
        env=environment(),
    )
    assert done.returncode == 0 and "mprotect" not in done.stderr, done.stderr
