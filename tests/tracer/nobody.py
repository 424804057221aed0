"""A user without privileges."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mypy_extensions
import pytest
import rich

from tests.tracer.lab import SOURCES, Run, run_alone, run_laconic

NOBODY = 65534


class Nobody:
    """Runs commands as a user without privileges, who reads Laconic from a copy of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(place),
            "HOME": "/",
            "LANG": "C.UTF-8",
        }
        self.python = self._interpreter()
        # Of rich, what Laconic uses, which needs none of what rich depends on.
        shutil.copytree(Path(rich.__file__).parent, place / "rich")
        shutil.copy(mypy_extensions.__file__, place)
        shutil.copytree(SOURCES / "laconic", place / "laconic")
        for shared in SOURCES.glob("laconic__mypyc.*"):  # of the compiled build
            shutil.copy(shared, place)

    def _interpreter(self) -> str:
        for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
            try:
                check = (
                    "import os, sys; sys.exit(sys.version_info < (3, 11) or not "
                    "os.access(sys.executable, os.X_OK))"
                )
                if (
                    subprocess.run(
                        [*self.become, python, "-c", check], env=self.env, stderr=-3
                    ).returncode
                    == 0
                ):
                    return python
            except OSError:
                continue
        pytest.skip("there is no Python 3.11 that another user can execute")

    def alone(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command as that user."""
        return run_alone([*self.become, *command], env=self.env, cwd="/")

    def laconic(self, *command: str | Path, **more: Any) -> Run:
        """Runs a command under that user's Laconic."""
        prefix = [*self.become, self.python, "-m", "laconic"]
        return run_laconic(*command, prefix=prefix, env=self.env, cwd="/", **more)
