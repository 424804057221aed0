"""Slips of the hand: numbers that are none, one file for two, files that open and cannot be read, a
signal too soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.report.sweep import as_text
from tests.helpers.commandline import laconic
from tests.helpers.traces import large, small
from tests.tracer.lab import COMMAND, environment, is_alive, wait_until

HUGE = "9" * 5000
#: Opens, and fails with EIO when it is read, as a file of a failing disk does.
UNREADABLE = "/proc/self/mem"
LOG = "1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"


@pytest.mark.parametrize("number", ["0", "-1", "1e9", "nan", "", "²", "٣", HUGE])
@pytest.mark.parametrize(
    "words", [["compare", "--epc"], ["compare", "-j"], ["sweep", "-o", "result", "-j"]]
)
def test_a_text_that_is_not_a_number_is_named(
    words: list[str], number: str, tmp_path: Path
) -> None:
    done = laconic(*words, number, small(tmp_path / "a.trace"), cwd=tmp_path)
    what = (
        "is not a size of an EPC: give 4K or more"
        if "--epc" in words
        else "is not a number of processes: name 1 or more"
    )
    assert done.returncode == 2 and f"{number!r} {what}" in done.stderr
    assert os.listdir(tmp_path) == ["a.trace"]


def test_a_sweep_s_own_trace_is_not_its_result(tmp_path: Path) -> None:
    trace = Path(small(tmp_path / "a.trace"))
    before = trace.read_bytes()
    done = laconic("sweep", trace, "--force", "-o", trace)
    assert (done.returncode, done.stderr) == (
        2, f"laconic: -o '{trace}' is a trace, and stays as it is: name another file\n",
    )  # fmt: skip
    assert trace.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "text", "mode", "command"),
    [
        ("work.py", "print(1)\n", 0o644, "python3 work.py"),
        ("my script.py", "print(1)\n", 0o644, "python3 'my script.py'"),
        ("tool", "#!/bin/sh\n", 0o755, "./tool"),
        ("plain", "#!/bin/sh\n", 0o644, None),
    ],
)
def test_a_program_is_no_trace(
    name: str, text: str, mode: int, command: str | None, tmp_path: Path
) -> None:
    """A program in the place of a trace: how to run it is said."""
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    done = laconic("callers", name, cwd=tmp_path)
    expected = f"laconic: {name!r} is a program, not a trace: to run it,  laconic callers -- "
    assert done.returncode == 2
    if command is None:
        assert "is not a trace: it looks like text" in done.stderr
    else:
        assert done.stderr == f"{expected}{command}\n"


@pytest.mark.parametrize("name", ["a.log", "./a.log", "link"])
def test_a_log_is_not_its_own_trace(name: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(LOG)
    (tmp_path / "link").symlink_to(log)
    done = laconic("import", "strace", "a.log", "--force", "-o", name, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2, f"laconic: -o '{name}' is a log that is to be read: name another file\n",
    )  # fmt: skip
    assert log.read_text() == LOG


@pytest.mark.parametrize("number", ["-", "0", "x", "1.5", "٣", HUGE])
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["callers", "--limit"], "number of places"),
        (["export", "--to", "perfetto", "-o", "b", "--limit"], "number of bytes"),
        (["maps", "--pid"], "process"),
    ],
)
def test_a_text_that_is_not_a_count_is_named(
    words: list[str], what: str, number: str, tmp_path: Path
) -> None:
    done = laconic(*words, number, small(tmp_path / "a.trace"), cwd=tmp_path)
    assert done.returncode == 2 and f"{number!r} is not a {what}: name 1 or more" in done.stderr
    assert os.listdir(tmp_path) == ["a.trace"]


def test_a_log_is_not_the_place_for_the_figures(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(LOG)
    done = laconic("import", "strace", "a.log", "-o", "a.trace", "--json", "./a.log", cwd=tmp_path)
    assert (done.returncode, log.read_text()) == (2, LOG)
    assert done.stderr == "laconic: --json './a.log' is what is read: name another file\n"


def test_html_finds_a_wrong_path_before_the_program_runs(tmp_path: Path) -> None:
    done = laconic("html", "-o", "a.html", "--json", "none/a", "--", "touch", "ran", cwd=tmp_path)
    assert (done.returncode, os.listdir(tmp_path)) == (2, [])
    done = laconic(
        "html", "-o", "a.html", "--json", "a.html", small(tmp_path / "a.trace"), cwd=tmp_path
    )
    assert (done.returncode, os.listdir(tmp_path)) == (2, ["a.trace"])


@pytest.mark.parametrize("words", [["compare"], ["replay"], ["info"], ["callers"]])
def test_figures_that_cannot_be_written(words: list[str], tmp_path: Path) -> None:
    trace = small(tmp_path / "a.trace")
    done = laconic(*words, trace, "--json", "-", redirect=">/dev/full")
    assert (
        done.returncode == 2
        and "--json '-' could not be written, No space left on device" in done.stderr
    )
    assert laconic(*words, trace, "--json", "-", redirect="| true").stderr == ""


def test_suppressions_without_an_end(tmp_path: Path) -> None:
    done = laconic("callers", small(tmp_path / "a.trace"), "--suppressions", "/dev/zero")
    assert done.returncode == 2 and "'/dev/zero' are longer than 1,048,576 bytes" in done.stderr


def test_live_with_a_closed_standard_output() -> None:
    done = laconic("live", "--lines", "--", "true", redirect=">&-")
    assert done.returncode == 0 and "Traceback" not in done.stderr and "memory calls" in done.stderr


@pytest.mark.parametrize("same", ["a", "./a"])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "-o", "a"],
        ["compare", "--keep", "a"],
        ["callers", "--keep", "a"],
        ["check", "--max-redundant", "1", "--keep", "a"],
        ["check", "--write-baseline", "a"],
        ["explain", "mmap:1", "--keep", "a"],
        ["live", "--lines", "-o", "a"],
        ["live", "--lines", "--program-output", "a"],
        ["html", "-o", "a"],
        ["flamegraph", "--to", "svg", "-o", "a"],
    ],
)
def test_one_file_for_two(words: list[str], same: str, tmp_path: Path) -> None:
    done = laconic(*words, "--json", same, "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 2 and "name two files" in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ["html", "--force", "-o", "a.trace", "b.trace"],
        ["flamegraph", "--force", "--to", "svg", "-o", "a.trace", "b.trace"],
        ["live", "--lines", "--program-output", "a.trace", "--", "touch", "ran"],
        ["check", "--max-redundant", "100%", "b.trace", "--write-baseline", "a.trace"],
        ["callers", "b.trace", "--json", "a.trace"],
    ],
)
def test_a_trace_is_not_overwritten(words: list[str], tmp_path: Path) -> None:
    trace, _ = small(tmp_path / "a.trace"), small(tmp_path / "b.trace")
    before = Path(trace).read_bytes()
    done = laconic(*words, cwd=tmp_path)
    assert done.returncode == 2 and "'a.trace' is a trace, and stays as it is" in done.stderr
    assert (Path(trace).read_bytes(), sorted(os.listdir(tmp_path))) == (
        before,
        ["a.trace", "b.trace"],
    )


def test_a_baseline_can_be_renewed_and_is_not_the_figures(tmp_path: Path) -> None:
    trace = small(tmp_path / "a.trace")
    assert laconic("check", trace, "--write-baseline", "b.json", cwd=tmp_path).returncode == 0
    kept = (tmp_path / "b.json").read_text()
    assert (
        laconic("check", trace, "--baseline", "b.json", "--json", "b.json", cwd=tmp_path).returncode
        == 2
    )
    done = laconic(
        "check", trace, "--baseline", "b.json", "--write-baseline", "b.json", cwd=tmp_path
    )
    assert (done.returncode, (tmp_path / "b.json").read_text()) == (0, kept)


def test_advise_finds_a_wrong_path_before_the_program_runs(tmp_path: Path) -> None:
    done = laconic("advise", "--json", "none/a", "--", "touch", "ran", cwd=tmp_path)
    assert (done.returncode, os.listdir(tmp_path)) == (2, [])
    assert (
        done.stderr
        == "laconic: --json 'none/a' cannot be written, No such file or directory: name another "
        "file\n"
    )
    done = laconic("advise", "none", "--json", "a", cwd=tmp_path)
    assert (done.returncode, os.listdir(tmp_path)) == (2, [])


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["info", UNREADABLE], "name a trace file"),
        (["compare", UNREADABLE], "name a trace file"),
        (["diff", UNREADABLE, UNREADABLE], "name a trace file"),
        (["import", "strace", UNREADABLE, "-o", "a.trace"], "name a log"),
    ],
)
def test_a_file_that_opens_and_cannot_be_read(words: list[str], cure: str, tmp_path: Path) -> None:
    done = laconic(*words, cwd=tmp_path)
    output = f"laconic: {UNREADABLE!r} cannot be read, Input/output error: {cure}\n"
    assert (done.returncode, done.stderr) == (2, output)
    assert os.listdir(tmp_path) == []


def test_costs_that_never_end(tmp_path: Path) -> None:
    trace = small(tmp_path / "a.trace")
    done = laconic("compare", trace, "--costs", "/dev/zero")
    assert (done.returncode, done.stderr) == (
        2,
        "laconic: /dev/zero: has more than 1,048,576 bytes: give a cost profile, a page of text\n",
    )


@pytest.mark.parametrize(
    "blow", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "words",
    [
        ["compare", "-j", "1"],
        pytest.param(["run", "--host", "sgx2"], marks=pytest.mark.slow),
        pytest.param(["advise"], marks=pytest.mark.slow),
    ],
)
def test_a_signal_after_the_program_s_end_leaves_nothing(
    words: list[str], blow: signal.Signals, tmp_path: Path
) -> None:
    """The strategies are being replayed: Laconic ends by the signal, and its temporary trace goes
    with it."""
    places, mark = tmp_path / "tmp", tmp_path / "mark"
    places.mkdir()
    program = (
        "import mmap, os, sys\nfor _ in range(20000): mmap.mmap(-1, 8192).close()\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))"
    )
    command = [*COMMAND, *words, "--", sys.executable, "-c", program, str(mark)]
    env = {**environment(), "TMPDIR": str(places)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: mark.exists() and mark.read_text() != "", "the program")
        wait_until(lambda: not is_alive(int(mark.read_text())), "its end")
        status = Path(
            f"/proc/{process.pid}/status"
        )  # the tracer's signals are blocked until it has done
        wait_until(lambda: "SigBlk:\t0000000000000000" in status.read_text(), "the tracer's end")
        assert len(os.listdir(places)) == 1
        process.send_signal(blow)
    assert process.returncode == -blow
    assert os.listdir(places) == []


def test_a_sweep_ignores_a_signal_that_its_parent_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    large(tmp_path / "a.trace", 20_000)
    words = [
        "sh",
        "-c",
        'trap "" HUP; exec "$@"',
        "sh",
        *COMMAND,
        "sweep",
        str(tmp_path),
        "-j",
        "1",
        "-o",
        "result",
    ]
    with subprocess.Popen(
        words, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: (tmp_path / "result.partial").exists(), "the journal")
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 0 and (tmp_path / "result").exists()


def test_ctrl_c_reaches_no_worker_that_is_starting(tmp_path: Path) -> None:
    """A terminal interrupts all processes of its group: the sweep alone says a word, however early
    that is."""
    large(tmp_path / "a.trace", 50_000)
    words = [*COMMAND, "sweep", str(tmp_path), "-j", "2", "-o", str(tmp_path / "result")]
    with subprocess.Popen(
        words,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:

        def workers() -> list[str]:
            found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return [
                pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]

        wait_until(workers, "a worker")
        for pid in workers():
            blocked = Path(f"/proc/{pid}/status").read_text().split("SigBlk:")[1].split()[0]
            assert int(blocked, 16) >> (signal.SIGINT - 1) & 1, "Ctrl-C is for the parent alone"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        output = process.stderr.read()
    assert process.returncode == 130 and b"Traceback" not in output, output


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("host", ["linux", "sgx2"])
def test_a_sweep_s_large_numbers_stay_whole_and_in_the_columns(host: str, width: int) -> None:
    big = 123_456_789
    sums = dict.fromkeys(
        ("traces", "calls", "host_calls", "elided", "narrowed", "failed"), 9 * big
    ) | {"uncertain": big}
    sums |= {
        "host_calls": 9 * big,
        "etrack_ipis": 100 * big,
        "cycles_low": 10**7 * big,
        "cycles_high": 10**8 * big,
    }
    about = {
        "traces": 1234,
        "rows": 4936,
        "kept": 0,
        "seconds": 1.0,
        "output": "r.parquet",
        "host": host,
    }
    text = as_text(
        {**about, "strategies": {"every-call": sums}, "incomplete": {}, "errors": []}, width
    )
    table = text[: text.index("Ask it")]
    assert max(map(len, table.splitlines())) <= width
    whole = ("987,654,312 to 1,111,111,101",) if host == "linux" else ("12,345,678,900",)
    assert all(number in table for number in whole)


def test_a_terminal_that_is_closed_under_a_sweep(tmp_path: Path) -> None:
    """All processes of its group hear SIGHUP; what tidies up after them ends last, and has nothing
    to say."""
    for number in range(3):
        large(tmp_path / f"{number}.trace", 50_000)
    words = [*COMMAND, "sweep", str(tmp_path), "-j", "2", "-o", str(tmp_path / "result")]
    with subprocess.Popen(
        words,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        wait_until(lambda: (tmp_path / "result.partial").exists(), "the journal")
        os.killpg(process.pid, signal.SIGHUP)
        assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == -signal.SIGHUP
