"""Runs the commands of docs/tutorial.md in an empty directory, and writes what they print into the
page.

The page's C program is written to arena.c. A line "..." in the page ends what is shown of a
command's output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"^```c\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(command: str, directory: str) -> list[str]:
    """The lines that a command prints. Only a command that reports FAILED may fail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        command,
        shell=True,
        cwd=directory,
        env={**os.environ, "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if finished.returncode and not finished.stdout.startswith("FAILED"):
        raise SystemExit(f"{command}: exit status {finished.returncode}\n{finished.stdout}")
    return finished.stdout.replace(directory, ".").rstrip().splitlines()


def rewritten(block: str, directory: str) -> str:
    """A block of the page with what its commands print now."""
    result: list[str] = []
    for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        printed = run(command.removeprefix("$ "), directory)
        if shown and shown[-1] == "...":
            printed = [*printed[: len(shown) - 1], "..."]
        result += [command, *printed]
    return "\n".join(result) + "\n"


def main() -> None:
    """Rewrites the page."""
    page = PAGE.read_text(encoding="utf-8")
    program = PROGRAM.search(page)
    if program is None:
        raise SystemExit("docs/tutorial.md has no program in C")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "arena.c").write_text(program[1], encoding="utf-8")
        page = BLOCK.sub(lambda block: rewritten(block[0], directory), page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
