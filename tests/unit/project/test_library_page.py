"""docs/library.md and the examples: their code runs, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import pytest

from laconic.commands import main
from tests.helpers.traces import small

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "library.md"
BLOCK = re.compile(r"^```(python|text|strace)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_s_code_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = ""
    compared = 0
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "strace":
            (tmp_path / "a.log").write_text(text)
            assert main(["import", "strace", "a.log", "-o", "a.trace"]) == 0
            capsys.readouterr()
        elif language == "text":
            assert printed == text
            compared += 1
        else:
            exec(compile(text, str(PAGE), "exec"), names)
            printed = capsys.readouterr().out
    assert compared >= 12


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "real_mmap",
            [r"2 system calls for 1,002 memory calls; .* b'xxxx'", r"[0-9a-f]+-[0-9a-f]+ r--p .*"],
        ),
        ("hypervisor", [r"EXTEND +8", r"MAP +1", r"UNMAP +2", r"shootdown +16,384"]),
    ],
)
def test_examples_run(name: str, lines: list[str]) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = out.getvalue().splitlines()
    for line, expected in zip(printed, lines, strict=False):
        assert re.fullmatch(expected, line), line
    assert len(printed) >= len(lines)


def test_the_example_of_a_strategy_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small(tmp_path / "a.trace", source="strace")
    monkeypatch.setattr(sys, "argv", ["strategy.py", path])
    runpy.run_path(str(ROOT / "examples" / "strategy.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in printed]
    assert names == ["every-call", "laconic", "fixed-heap", "bound"]
    assert re.fullmatch(
        r"fixed-heap +\d+ host calls +[1-9][\d,]+ pages added .* cycles", printed[2]
    )
    assert " 0 pages added" in printed[0]


def test_the_example_of_a_strategy_is_accepted_by_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = small(tmp_path / "a.trace", source="strace")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["compare", path, "--strategy", "examples.strategy:FixedHeap"]) == 0
    assert "examples.strategy:FixedHeap" in capfd.readouterr().out


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples").glob("*.py")))
def test_the_page_names_every_example(name: str) -> None:
    assert f"`examples/{name}.py`" in PAGE.read_text()
