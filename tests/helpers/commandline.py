"""The command line as a process of its own, which shows no traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.tracer.lab import COMMAND, environment, run_alone


def laconic(
    *words: str | Path,
    env: Mapping[str, str] | None = None,
    redirect: str = "",
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    """Runs `laconic WORDS`, its descriptors redirected by a shell where `redirect` says so."""
    command: Sequence[str | Path] = [*COMMAND, *words]
    if redirect:
        command = ["sh", "-c", f'"$@" {redirect}', "sh", *command]
    done = run_alone(command, env=env or environment(), **more)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done
