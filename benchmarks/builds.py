"""Runs one measurement on both builds of Laconic, pure Python and compiled, each in a process of
its own. `sh tools/wheel.sh` makes the compiled one.

    python -m benchmarks.builds MODULE FUNCTION JSON-LIST
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PURE, COMPILED = "pure", "compiled"
#: Where each build is.
FOLDERS = {PURE: ROOT / "src", COMPILED: ROOT / "build" / "compiled"}


def measured(function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """Return what `function` returns for `arguments`, as JSON has it, by build.

    Raises SystemExit if there is no compiled build.
    """
    if not FOLDERS[COMPILED].is_dir():
        raise SystemExit("there is no compiled build to compare with: run sh tools/wheel.sh")
    results = {}
    for build, folder in FOLDERS.items():
        command = [sys.executable, "-m", "benchmarks.builds", function.__module__]
        done = subprocess.run(
            [*command, function.__name__, json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            check=True,
        )
        results[build] = json.loads(done.stdout)
    return results


if __name__ == "__main__":
    module, name, text = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(text))))
