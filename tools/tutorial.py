"""Runs the commands of docs/tutorial.md in an empty directory and writes what they print into the
page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
SOURCE = ROOT / "tests" / "apps" / "programs" / "per_page.c"


def main() -> None:
    """Fills every section of the page."""
    sections: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

        def show(section: str, *commands: str, status: int = 0) -> None:
            for command in commands:
                done = subprocess.run(
                    command, shell=True, cwd=place, env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                if done.returncode != status:
                    raise SystemExit(f"{command}: exit status {done.returncode}\n{done.stdout}")
                printed = done.stdout.replace(place, ".").rstrip()
                sections.setdefault(section, []).append(f"$ {command}\n{printed}".rstrip())

        (Path(place) / "per_page.c").write_text(
            SOURCE.read_text(encoding="ascii"), encoding="ascii"
        )
        show("source", "sed -n 21,25p per_page.c")
        show(
            "run",
            "gcc -g -O2 -o per_page per_page.c",
            "laconic run -o slow.trace --stacks all -- ./per_page",
        )
        show("callers", "laconic callers slow.trace")
        found = subprocess.run(
            ["laconic", "callers", "slow.trace", "--json", "-"], cwd=place, env=environment, check=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        callers = json.loads(found.stdout)["callers"]
        first = max(callers, key=lambda one: one["redundant"])["first_redundant"]
        show("explain", f"laconic explain slow.trace {first}")
        show("compare", "laconic compare slow.trace")
        show("pack", "laconic pack slow.trace")
        show("fixed", "sed -i 22,23d per_page.c", "gcc -g -O2 -o per_page per_page.c")
        show("fixed", "laconic run -o fixed.trace --stacks all -- ./per_page")
        show("diff", "laconic diff slow.trace fixed.trace")
        show("check", "laconic check fixed.trace --max-redundant 30%")
        show("check", "laconic check slow.trace --max-redundant 30%", status=1)
    page = PAGE.read_text(encoding="utf-8")
    for section, texts in sections.items():
        text = "```console\n" + "\n".join(texts) + "\n```"
        pattern = re.compile(rf"(<!-- begin: {section} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = pattern.subn(
            lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page
        )
        if count != 1:
            raise SystemExit(f"docs/tutorial.md has {count} sections {section!r}: it must have one")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
