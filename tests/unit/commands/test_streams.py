"""`-`: standard input is read, and standard output written, wherever a file can be named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from laconic.trace.reader import TraceReader
from tests.helpers.commandline import laconic
from tests.helpers.traces import small
from tests.tracer.lab import COMMAND, environment

#: What reads a trace, named `-` here, and writes nothing but standard output.
READERS = (
    "advise -",
    "callers - --no-suppressions --json -",
    "check - --max-host-calls 100",
    "compare - -j 2",
    "diff - a.trace",
    "diff a.trace -",
    "explain - mmap:1",
    "export - --to parquet -o -",
    "flamegraph - --to folded -o -",
    "html - -o -",
    "info -",
    "maps - --at 5",
    "pack - -o -",
    "replay -",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a trace."""
    path = tmp_path_factory.mktemp("streams")
    small(path / "a.trace")
    return path


def bytes_of(words: list[str], place: Path, stdin: bytes = b"") -> bytes:
    """What a command that succeeds writes to standard output."""
    done = subprocess.run(
        [*COMMAND, *words], input=stdin, cwd=place, env=environment(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", READERS)
def test_a_trace_on_standard_input(line: str, place: Path) -> None:
    """The report is that of the file, except for the name."""
    piped = bytes_of(line.split(), place, (place / "a.trace").read_bytes())
    words = line.split()
    words[words.index("-")] = "./-"
    (place / "-").write_bytes((place / "a.trace").read_bytes())
    named = bytes_of(words, place)
    assert piped and piped.replace(b"./-", b"-") == named.replace(b"./-", b"-")


def test_a_run_into_a_pipe(tmp_path: Path) -> None:
    """Standard output has the whole trace and nothing else. The program writes to standard
    error."""
    with (tmp_path / "a.trace").open("wb") as out:
        done = subprocess.run(
            [*COMMAND, "run", "-o", "-", "--", "sh", "-c", "echo mine; exit 3"],
            env=environment(),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 3
    assert done.stderr.startswith("mine\n") and "events in standard output\n" in done.stderr
    trace = TraceReader(str(tmp_path / "a.trace"))
    assert list(trace.rows())[-1].a0 == 3 and trace.loss is None
    script = f"{' '.join(COMMAND)} run --quiet -o - -- true | {' '.join(COMMAND)} info -"
    done = subprocess.run(["sh", "-c", script], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "true" in done.stdout, done.stderr


def test_an_imported_log_into_a_pipe(tmp_path: Path) -> None:
    log = "1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
    trace = bytes_of(["import", "strace", "-", "-o", "-"], tmp_path, log.encode())
    assert b"mmap" in bytes_of(["info", "-"], tmp_path, trace)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run -o - --json - -- true", "name a file for one of them"),
        ("run -o - --host sgx2 -- true", "laconic run -o - -- CMD | laconic compare -"),
        ("callers --keep - -- true", "use  laconic run -o - -- CMD"),
        ("live -o - -- true", "use  laconic run -o - -- CMD"),
        ("sweep a.trace -o -", "continues the file that it began; name a file"),
        ("pack -", "name the packed trace with -o"),
        ("diff - -", "standard input can be only one of the two runs"),
        ("info /dev/stdin", "pipe a trace in and name -"),
    ],
)
def test_paths_that_cannot_be_a_stream_are_named(line: str, message: str, place: Path) -> None:
    with (place / "a.trace").open("rb") as trace:
        pipe = subprocess.Popen(["cat"], stdin=trace, stdout=subprocess.PIPE)
        done = laconic(*line.split(), cwd=place, stdin=pipe.stdout)
        assert pipe.stdout is not None
        pipe.stdout.close()
        pipe.wait()
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_terminal_is_no_trace() -> None:
    """Neither to be read from, which would wait for ever, nor to be written to."""
    terminal, end = os.openpty()
    try:
        done = laconic("info", "-", stdin=end)
        assert (
            done.returncode == 2 and "standard input is a terminal; pipe a trace in" in done.stderr
        )
        done = subprocess.run(
            [*COMMAND, "run", "-o", "-", "--", "true"],
            env=environment(), stdout=end, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and "standard output is a terminal" in done.stderr
    finally:
        os.close(terminal)
        os.close(end)
