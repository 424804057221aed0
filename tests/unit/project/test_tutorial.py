"""The tutorial shows what its commands print."""

from __future__ import annotations

import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "tutorial.md"
#: Lines with counts that are the same in every run; costs depend on the pages that were touched.
EXACT = re.compile(
    r"^(?:\$ .*|(?:calls|redundant|host calls) .*|.* memory calls in 1 process.*)$", re.MULTILINE
)


@pytest.mark.slow
def test_the_tutorial_shows_what_its_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    spec = spec_from_file_location("tutorial", ROOT / "tools" / "tutorial.py")
    assert spec is not None and spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = tmp_path / "tutorial.md"
    shutil.copy(PAGE, page)
    monkeypatch.setattr(tool, "PAGE", page)
    tool.main()
    shown = EXACT.findall(PAGE.read_text())
    assert len(shown) > 15
    assert EXACT.findall(page.read_text()) == shown
