"""The documentation as a site: it builds without a warning."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import laconic

ROOT = Path(__file__).resolve().parents[3]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, text=True, capture_output=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    # Not --quiet: mkdocs then neither prints nor counts warnings, so --strict has no effect.
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages == {path.stem for path in tmp_path.glob("*.html")} - {"404"}
    check_api_page((tmp_path / "api.html").read_text())
    first = (tmp_path / "index.html").read_text()
    assert 'src="pictures/html-light.png"' in first and 'href="stylesheets/extra.css"' in first
    assert (tmp_path / "pictures" / "html-light.png").exists()


def check_api_page(page: str) -> None:
    """Fail the test unless the page has each public name, with signatures, docstrings and
    examples."""
    for name in set(laconic.__all__) - {"__version__"}:
        assert f'id="laconic.{name}"' in page, name
    text = html.unescape(re.sub("<[^>]+>", "", page))
    assert "mprotect(" in text and "address: int, length: int, prot: int" in text
    assert "Return the VMA around address, or None in a hole." in text
    assert ">>> HostError(ENOMEM).errno == ENOMEM" in text, "an example is a block of code"


def test_every_verb_has_a_page_or_a_section() -> None:
    from laconic.commands import VERBS

    documented = {path.stem for path in (ROOT / "docs").glob("*.md")}
    documented.add("import")  # on importers.md
    documented.update(re.findall(r"laconic ([a-z]+)", _headings(ROOT / "docs" / "cli.md")))
    assert set(VERBS) <= documented


def _headings(page: Path) -> str:
    return "\n".join(line for line in page.read_text().splitlines() if line.startswith("## "))
