"""Compiles most of the bookkeeping, the replay, the strategies and the tracer if LACONIC_COMPILE is
set.

Otherwise the build is pure Python, and pyproject.toml says everything. mypyc and a C compiler are
required for the compiled build only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

PACKAGES = ("memory", "linux", "sgx", "libos", "strategies", "replay", "tracer")
#: Not compiled: what users derive classes from that mypyc cannot compile (an exception, Protocols),
#: and what uses parts of ctypes that it cannot compile, or runs once for each program.
PURE = {
    *(Path("src/laconic/memory", name) for name in ("hostrule.py", "pal.py", "upcalls.py")),
    *(
        Path("src/laconic/tracer", name)
        for name in (
            "attach.py",
            "doctor.py",
            "launch.py",
            "process.py",
            "seccomp.py",
            "signals.py",
        )
    ),
}


def compiled_modules() -> list[str]:
    """Return the paths of the modules to compile; a package's `__init__.py` is not."""
    paths: set[Path] = set()
    for package in PACKAGES:
        paths.update(Path("src/laconic", package).rglob("*.py"))
    return sorted(str(path) for path in paths - PURE if path.name != "__init__.py")


arguments: dict[str, Any] = {}
if os.environ.get("LACONIC_COMPILE"):
    # `pip` asks for the requirements first, and for the wheel when they are installed.
    arguments["setup_requires"] = ["mypy>=1.18"]
    if "bdist_wheel" in sys.argv:
        from mypyc.build import mypycify

        arguments["ext_modules"] = mypycify(
            # The types of other packages are not installed while a wheel is built.
            ["--config-file=", "--ignore-missing-imports", *compiled_modules()],
            opt_level=os.environ.get("LACONIC_COMPILE_LEVEL", "3"),
            debug_level="0",
            multi_file=True,
            group_name="laconic",
        )
setup(**arguments)
