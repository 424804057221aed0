"""docs/library.md and the examples: their code runs, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "library.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_s_code_prints_what_the_page_shows() -> None:
    names: dict[str, object] = {}
    printed = ""
    compared = 0
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "text":
            assert printed == text
            compared += 1
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(text, str(PAGE), "exec"), names)
        printed = out.getvalue()
    assert compared >= 5


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
