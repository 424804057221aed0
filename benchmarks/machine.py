"""What the benchmarks share: C programs built here, how Laconic is started, the machine in words,
tables, and the sections of the page."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: The words before a program that runs it under Laconic; the options of the run and -- follow.
RUN = (sys.executable, "-m", "laconic", "run", "--quiet")
DOCS = Path(__file__).resolve().parent.parent / "docs"


@contextmanager
def compiled(source: str) -> Iterator[str]:
    """Builds a C program into a temporary directory; gives its path. Raises SystemExit where there
    is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("no C compiler was found: install gcc")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "program")
        command = [compiler, "-O2", "-x", "c", "-", "-o", path]
        subprocess.run(command, input=source, text=True, check=True)
        yield path


def describe() -> str:
    """The machine, with no name and no path in it."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    release = platform.release().split("-")[0]
    compiler = platform.python_implementation()
    return (
        f"{os.cpu_count()} CPUs ({model}), Linux {release}, {compiler} {platform.python_version()}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_section(name: str, text: str) -> None:
    """Put `text` between the marks for `name`, on the page in docs that has them. Raises SystemExit
    unless exactly one page has them, once."""
    pattern = re.compile(rf"(<!-- begin: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    pages = [path for path in DOCS.rglob("*.md") for _ in pattern.finditer(path.read_text("utf-8"))]
    if len(pages) != 1:
        raise SystemExit(f"docs/ has {len(pages)} sections {name!r}: it must have one")
    page = pages[0].read_text(encoding="utf-8")
    new = pattern.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    pages[0].write_text(new, encoding="utf-8")
