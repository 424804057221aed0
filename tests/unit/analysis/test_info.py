"""laconic info: what is in a trace, and what is missing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.analysis.info import contents
from laconic.commands.traces import losses
from laconic.report.info import as_json, as_text
from laconic.trace.schema import NO_RESULT
from tests.helpers.traces import BASE, Builder, large, small
from tests.tracer.lab import COMMAND, environment, run_alone


def laconic_info(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs `laconic info WORDS`; never a traceback."""
    done = run_alone([*COMMAND, "info", *words], env=environment())
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    return done


def figures(path: str) -> dict[str, Any]:
    """The JSON of a trace."""
    trace = laconic.trace.open(path)
    found = contents(trace)
    return as_json(trace, found, losses(trace, found.lost.sentences()))


def test_figures(tmp_path: Path) -> None:
    """Counts, span, programs, size: as the trace was written."""
    found = figures(small(tmp_path / "a.trace", about={"verify": "off"}))
    assert found["by_call"]["mmap"] == {"calls": 6, "failed": 0, "unfinished": 1, "no_result": 0}
    assert found["by_call"]["munmap"] == {"calls": 1, "failed": 1, "unfinished": 0, "no_result": 0}
    assert found["calls"] == 16
    assert (found["processes"], found["threads"], found["exits"], found["files"]) == (2, 3, 3, 4)
    assert found["seconds"] == {"from": 0.0, "until": 0.021}
    assert found["programs"] == [
        {"path": "/bin/prog", "argv": ["prog", 'a "b"\n', "é"], "starts": 1},
        {"path": "/bin/true", "argv": ["true"], "starts": 1},
    ]
    assert found["bytes"] == os.path.getsize(tmp_path / "a.trace")
    assert found["bytes_per_call"] == pytest.approx(found["bytes"] / 16, abs=0.001)
    assert found["touched_pages"] == 3
    assert found["complete"] and found["missing"] == [] and found["status"] == 3 << 8
    assert found["made"]["source"] == "run" and found["made"]["about"] == {"verify": "off"}


def test_text(tmp_path: Path) -> None:
    """A person reads the same; no name moves the terminal's cursor, and lines fit where they
    can."""
    builder = Builder(
        tmp_path / "a.trace", "strace", {"unknown": ["touched pages", "initial maps"]}
    )
    builder.program("/bin/\x1b[31m", ["a\r\n", "\udcff"])
    builder.program("/bin/\x1b[31m", ["again"])
    builder.row("mmap", 0, 4096, 1, 2, -1, 0, state=NO_RESULT)
    builder.row("lost", 7, data=b"7 lines were not understood")
    builder.row("note", data=b"the log begins in the middle")
    text = as_text(figures(builder.end()))
    assert all(char.isprintable() or char == "\n" for char in text)
    for words in (
        "imported from strace",
        "what the source cannot know: touched pages, initial maps",
        "touched    not known",
        "complete   no",
        "missing: 7 lines were not understood",
        "missing in all: 7 lines or calls",
        "(2 times; the first)",
        "note: the log begins in the middle",
        "no result",
    ):
        assert words in text


def test_redacted(tmp_path: Path) -> None:
    """A redacted trace is called so, and shows no name."""
    path = small(tmp_path / "a.trace", redact=True)
    text = laconic_info(path).stdout
    assert "redacted" in text and "/bin/prog" not in text and "#" in text


def test_losses(tmp_path: Path) -> None:
    """A cut trace is not a failure, and is said in text and JSON."""
    whole = Path(large(tmp_path / "large.trace", 40_000)).read_bytes()
    cut = tmp_path / "cut.trace"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    assert "complete   no\n" in laconic_info(cut).stdout
    done = laconic_info(cut, "--json", "-")
    assert "not complete" in done.stderr
    found = json.loads(done.stdout)
    assert not found["complete"] and "could be read" in found["missing"][0]
    assert found["events"] == found["calls"] + found["programs"][0]["starts"] > 10_000


def test_many_losses_are_counted(tmp_path: Path) -> None:
    """Ten are shown, the rest is a number."""
    builder = Builder(tmp_path / "a.trace")
    for number in range(25):
        builder.row("lost", 2, data=f"place {number}".encode())
    found = figures(builder.end())
    assert len(found["missing"]) == 11 and found["missing"][-1] == "and 15 more kinds of loss"
    assert found["lost"] == {"places": 25, "lines_or_calls": 50}


def test_empty_traces(tmp_path: Path) -> None:
    """One without events, and one without calls."""
    text = as_text(figures(Builder(tmp_path / "none.trace").cut()))
    assert "no calls" in text and "complete   no" in text
    text = as_text(figures(Builder(tmp_path / "end.trace").end()))
    assert "no calls" in text and "complete   yes" in text


def test_command(tmp_path: Path) -> None:
    """--json FILE writes the figures beside the text."""
    path = small(tmp_path / "a.trace")
    done = laconic_info(path, "--json", tmp_path / "a.json")
    assert done.stderr == "" and done.stdout == as_text(figures(path))
    assert json.loads((tmp_path / "a.json").read_text()) == figures(path)


def test_wrong_inputs(tmp_path: Path) -> None:
    """Each is named with what it is, and the exit code is 2."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("12 mmap(NULL, 4096) = 0\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for name, output in (
        ("missing", "No such file"),
        ("empty", "is empty"),
        (".", "is a directory"),
        ("text", "looks like text"),
        ("binary", "not a trace"),
    ):
        done = laconic_info(tmp_path / name, status=2)
        assert output in done.stderr and done.stdout == ""
    laconic_info(small(tmp_path / "a.trace"), "--json", "/nowhere/x", status=2)


def test_a_reader_that_goes(tmp_path: Path) -> None:
    """`| true` is not an error."""
    path = small(tmp_path / "a.trace")
    read, write = os.pipe()
    os.close(read)
    command = [*COMMAND, "info", path]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(write)
    assert done.returncode == 0 and done.stderr == b""


def test_same_program_in_two_processes(tmp_path: Path) -> None:
    """Is one program, started twice."""
    builder = Builder(tmp_path / "a.trace")
    builder.program("/bin/sh", ["sh"])
    builder.program("/bin/sh", ["sh", "-c"], pid=200)
    builder.row("munmap", BASE, 4096, pid=200)
    found = figures(builder.end())
    assert found["programs"] == [{"path": "/bin/sh", "argv": ["sh"], "starts": 2}]
    assert found["processes"] == 2
