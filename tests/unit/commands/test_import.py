"""laconic import: bad input, packed input, outputs, the summary. Never a traceback."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.trace.importers.importing import import_logs
from laconic.trace.importers.text import MAX_LINE, Log
from tests.tracer.lab import COMMAND, environment

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "strace"
LOG = CORPUS / "f.log"


def laconic(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs `laconic import WORDS`."""
    command = [*COMMAND, "import", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment(), check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def test_the_summary(tmp_path: Path) -> None:
    """What was read, what is not known, and what to do next."""
    output = tmp_path / "a b.trace"
    figures = tmp_path / "a.json"
    done = laconic("strace", LOG, "-o", output, "--json", figures)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (0, b"")
    assert "102 lines: 59 memory and process calls of 3 processes, 4 threads" in text
    assert "not known: touched pages; initial maps; sizes of files" in text
    assert f"next:  laconic callers '{output}' " in text
    assert f"       laconic html '{output}' -o report.html " in text
    report = json.loads(figures.read_text())
    assert (
        report["lines"] == 102 and report["by_call"]["mmap"] == 24 and report["not_understood"] == 0
    )
    done = laconic("strace", LOG, "-o", output, "--force", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")


def test_standard_input(tmp_path: Path) -> None:
    """Plain and packed."""
    for number, data in enumerate((LOG.read_bytes(), gzip.compress(LOG.read_bytes()))):
        done = laconic("strace", "-", "-o", tmp_path / str(number), stdin=data)
        assert done.returncode == 0 and b"102 lines" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x7fELF\2\1\1\0\0\0\0\0", "a program"),
        (b"PAR1\x15\x04\x15", "Parquet"),
        (b"SQLite format 3\0", "SQLite"),
        (bytes(range(256)) * 10, "binary"),
        (b"hello\nworld\n", "'hello'"),
        (b'{"a": 1}\n', "JSON"),
        (b"int main(void) { return 0; }\n", "int main"),
        ("10 brk(NULL) = 0x1\n".encode("utf-16"), "binary"),
        (b"\x1f\x8b\x08\x00broken", "cut short"),
    ],
)
def test_a_file_that_is_not_a_log_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """With what it looks like; and nothing is written."""
    path = tmp_path / "log"
    path.write_bytes(content)
    output = tmp_path / "trace"
    for kind, name in (("strace", path), ("strace", "-")):
        done = laconic(kind, name, "-o", output, stdin=content)
        assert done.returncode == 2 and message in done.stderr.decode(), done.stderr
        assert not output.exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, not readable, one of several."""
    output = tmp_path / "trace"
    for words, text in (
        ([tmp_path / "missing"], "No such file"),
        ([tmp_path], "is a directory"),
        ([LOG, tmp_path / "missing"], "No such file"),
        (["-", "-"], "twice"),
    ):
        done = laconic("strace", *words, "-o", output)
        assert done.returncode == 2 and text in done.stderr.decode(), done.stderr
        assert not output.exists()


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    """An output that exists is kept, without --force; a full disk is said."""
    output = tmp_path / "trace"
    output.write_text("precious")
    done = laconic("strace", LOG, "-o", output)
    assert done.returncode == 2 and b"--force" in done.stderr and output.read_text() == "precious"
    done = laconic("strace", LOG, "-o", tmp_path / "missing" / "trace")
    assert done.returncode == 2 and b"No such file" in done.stderr
    done = laconic("strace", LOG)
    assert done.returncode == 2 and b"-o" in done.stderr
    done = laconic("ltrace", LOG, "-o", output)
    assert done.returncode == 2 and b"ltrace" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine's user cannot mount")
def test_a_full_disk(tmp_path: Path) -> None:
    """The import ends, with what could be written."""
    log = tmp_path / "long.log"
    line = b"10 mmap(NULL, %d, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x%x\n"
    log.write_bytes(
        b"".join(line % (4096 * (n * 7919 % 1000 + 1), n * 0x7919_3000) for n in range(60_000))
    )
    command = " ".join([*COMMAND, "import", "strace", str(log), "-o", f"{tmp_path}/disk/trace"])
    script = f"mount -t tmpfs -o size=64k none {tmp_path}/disk && exec {command}"
    (tmp_path / "disk").mkdir()
    words = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, env=environment(), check=False)
    if b"unshare" in done.stderr or b"mount" in done.stderr:
        pytest.skip("this kernel does not let us mount")
    assert done.returncode == 2 and b"No space left" in done.stderr, done.stderr


def test_overlong_lines(tmp_path: Path) -> None:
    """Memory stays bounded where a line has no end."""
    path = tmp_path / "log"
    path.write_bytes(
        b"1 brk(NULL) = 0x1000\n" + b"x" * (3 * MAX_LINE) + b"\n1 brk(NULL) = 0x1000\n"
    )
    found = list(Log(str(path)).lines())
    assert [len(line) for line in found] == [20, MAX_LINE, 20]
    report = import_logs("strace", [str(path)], str(tmp_path / "trace"))
    assert (report.not_understood, report.by_call) == (1, {"brk": 2})
    assert len(report.puzzles[0].text) == 200


def test_memory_is_flat(tmp_path: Path) -> None:
    """A log ten times as long takes no more of it."""
    line = b"10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
    peaks = []
    for count in (50_000, 500_000):
        path = tmp_path / f"{count}.log.gz"
        with gzip.open(path, "wb", 1) as file:
            file.write(b"10 brk(NULL) = 0x1000\n" + line * count)
        code = (
            "import sys; from laconic.commands import main; main(sys.argv[1:]); "
            "print(*(line.split()[1] for line in open('/proc/self/status') if "
            "line.startswith('VmHWM')))"
        )
        words = [
            sys.executable,
            "-c",
            code,
            "import",
            "strace",
            str(path),
            "-o",
            str(tmp_path / str(count)),
            "--quiet",
        ]
        done = subprocess.run(words, capture_output=True, env=environment(), check=True)
        peaks.append(int(done.stdout))
    # Ten times the lines; how far the decompression runs ahead depends on how busy the machine is.
    assert peaks[1] < peaks[0] * 1.4, peaks
