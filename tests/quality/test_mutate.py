"""The mutation check itself: what it changes, and that a change is what the tests see."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "mutate.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/mutate.py as a module."""
    spec = importlib.util.spec_from_file_location("mutate", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(tool: ModuleType, source: str) -> list[str]:
    """The mutants of a source, as text."""
    makers = tool.mutants(textwrap.dedent(source))
    return [ast.unparse(maker().tree) for maker in makers]


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("a < b", ["a <= b"]),
        ("a is b", ["a is not b"]),
        ("a and b", ["a or b"]),
        ("not a", ["a"]),
        ("a | b", ["a & b"]),
        ("a + 7", ["a - 7", "a + 8"]),
        ("-a", ["a"]),
        ("x = True", ["x = False"]),
        ("f(a)", ["pass"]),
        ("a.b = c", ["pass"]),
        ("a += b", ["a -= b", "pass"]),
        ("if a:\n    b", ["if not a:\n    b"]),
        ("x = a if b else c", ["x = a if not b else c"]),
        ("while a:\n    break", ["while a:\n    pass"]),
        ("del a", ["pass"]),
    ],
)
def test_mutants_are_small_bugs(tool: ModuleType, source: str, mutants: list[str]) -> None:
    assert changed(tool, source) == mutants


@pytest.mark.parametrize(
    "source",
    [
        "Alias = X | None",
        "def f(a: int | str = b) -> int | str:\n    return a",
        "assert a < b",
        "__slots__ = ('a',)\n",
        "from a import b",
        "if TYPE_CHECKING:\n    f(1)",
        "def check(self):\n    return 1 < 2",
        '"""A text."""',
    ],
)
def test_types_checks_and_texts_have_no_mutants(tool: ModuleType, source: str) -> None:
    assert changed(tool, source) == []


def test_a_mutant_names_its_line_and_its_change(tool: ModuleType) -> None:
    source = "def f(a, b):\n    if a < b:\n        return 1\n"
    first = tool.mutants(source)[0]()
    assert (first.line, first.change) == (2, "a < b  →  a <= b")


def test_every_checked_module_has_tests(tool: ModuleType) -> None:
    modules = tool.modules()
    assert {"memory/rangemap", "linux/pal", "replay/engine"} <= set(modules)
    for module in modules:
        assert tool.test_files(module), module


def test_a_mutant_is_what_the_tests_see() -> None:
    """Three mutants of a small module, under its own tests."""
    command = [sys.executable, str(TOOL), "--sample", "3", "--seed", "2", "--no-model"]
    run = subprocess.run([*command, "memory/pal"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"3 of +\d+ mutants, 3 caught by its own tests", run.stdout), run.stdout
