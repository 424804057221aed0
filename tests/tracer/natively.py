"""A program natively and under Laconic."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tracer.lab import SOURCES, build, run_alone

#: Laconic for any environment: of an empty one, no variable leads to it.
PATHS = [str(SOURCES), *sys.path]

MAIN = f"import sys; sys.path[:0] = {PATHS!r}; from laconic.commands import main; sys.exit(main())"


def laconic(*options: str) -> list[str]:
    """The words that put a command under Laconic whatever its environment."""
    return [sys.executable, "-c", MAIN, "run", "--quiet", *options, "--"]


def both(script: str, *words: str | Path, options: Sequence[str] = (), **more: Any) -> str:
    """Runs a shell script in which "$@" is the program, alone and under Laconic; returns what both
    print."""
    # A command after it: the shell must be the parent, not the program itself.
    script += "; exit $?"
    program = [str(build("identity")), *map(str, words)]
    alone = run_alone(["bash", "-c", script, "bash", *program], **more)
    traced = run_alone(["bash", "-c", script, "bash", *laconic(*options), *program], **more)
    assert "cwd " in alone.stdout, alone.stderr
    assert comparable(traced.stdout) == comparable(alone.stdout), traced.stderr
    assert (traced.returncode, traced.stderr) == (alone.returncode, alone.stderr)
    return alone.stdout


def comparable(text: str) -> list[str]:
    """The lines, without what bash says in `_` of the command that it starts."""
    return [line for line in text.splitlines() if not line.startswith("environment [_=")]
