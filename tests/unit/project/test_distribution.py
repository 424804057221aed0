"""The distribution is named laconic-mm, because `laconic` on PyPI is an unrelated project.

Its metadata are consistent, and every instruction to install it uses that name.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Everything that a user or contributor reads, and everything that runs an installation.
FOLDERS = ("src", "docs", "tools", "benchmarks", "examples", ".github", ".ci")
SUFFIXES = {
    "",
    ".css",
    ".html",
    ".ini",
    ".js",
    ".md",
    ".py",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}

#: A command that installs something, up to the end of its line.
INSTALLATION = re.compile(
    r"\b(?:(?:pip3?|pipx|uv|poetry|conda)\b[^\n]*?\b(?:install|add|download)|pipx "
    r"run|uvx)\s+([^\n]*)"
)
#: Ends the command: a quotation mark of Markdown, a comment, or the next command.
END_OF_COMMAND = re.compile(r"`|\s#|;|&&|\||\)")
#: The unrelated project as a requirement: the name alone, or with a version or an extra.
UNRELATED = re.compile(r"laconic(?:$|[\[<>=!~@])")
#: An extra of the unrelated project, without a command before it.
EXTRA_OF_UNRELATED = re.compile(r"\blaconic\[[a-z]")
OUR_EXTRAS = re.compile(r"\blaconic-mm\[([a-z, ]+)\]")


def texts() -> Iterator[tuple[str, str]]:
    """Each text to check with its path: whole files, and string literals as Python joins them."""
    paths = [path for path in ROOT.iterdir() if path.suffix]
    for folder in FOLDERS:
        paths += (ROOT / folder).rglob("*")
    for path in sorted(paths):
        if not path.is_file() or path.suffix not in SUFFIXES or ".egg-info" in str(path):
            continue
        text = path.read_text()
        name = str(path.relative_to(ROOT))
        yield name, text
        if path.suffix == ".py":
            for literal in literals(text):
                yield name, literal


def literals(source: str) -> Iterator[str]:
    """The string literals of a module; adjacent literals are one, and an f-string's values are
    `{}`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "".join(str(part) for part in parts)


def wrong_names(text: str) -> list[str]:
    """Each place in a text that would install the unrelated project."""
    wrong = EXTRA_OF_UNRELATED.findall(text)
    for command in INSTALLATION.finditer(text):
        arguments = END_OF_COMMAND.split(command[1])[0].split()
        names = [argument.strip("'\",.") for argument in arguments]
        wrong += [f"{command[0]}: {name}" for name in names if UNRELATED.match(name)]
    return wrong


TEXTS = list(texts())


def test_every_instruction_names_laconic_mm() -> None:
    wrong = {(name, place) for name, text in TEXTS for place in wrong_names(text)}
    assert not wrong


def test_the_texts_include_messages_pages_and_workflows() -> None:
    names = {name for name, _ in TEXTS}
    assert names >= {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "pyproject.toml",
        "docs/sweep.md",
    }
    assert names >= {
        "src/laconic/commands/live.py",
        ".github/workflows/ci.yml",
        "tools/test.sh",
        ".ci/run",
    }
    naming = {name for name, text in TEXTS if "laconic-mm" in text}
    assert naming >= {
        "README.md",
        "docs/sweep.md",
        "src/laconic/commands/live.py",
        "pyproject.toml",
    }


@pytest.mark.parametrize(
    "text",
    [
        "pip install laconic",
        "`pip install laconic`, then",
        "pip install --upgrade laconic, or",
        "python -m pip install -q 'laconic>=0.1'",
        'pip install numpy "laconic[live]"  # here',
        "needs 'laconic[cluster]'",
        "- run: uv pip install laconic==0.1.0",
        "pipx run laconic",
        "uv add laconic",
    ],
)
def test_the_unrelated_project_is_noticed(text: str) -> None:
    assert wrong_names(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'laconic-mm[live]'",
        "pip install ./laconic-mm    # a clone",
        "pip install numpy; laconic doctor",
        "`pip install numpy` and run laconic",
        "pip install .  # then laconic is there",
        "pip uninstall laconic",
    ],
)
def test_other_commands_are_accepted(text: str) -> None:
    assert not wrong_names(text)


def test_literals_are_joined_as_python_joins_them() -> None:
    source = (
        'tell("pip "\n    "install laconic")\ntell(f"{why}; pip install "\n'
        '    f"--upgrade laconic")\n'
    )
    wrong = [literal for literal in literals(source) if wrong_names(literal)]
    assert {"pip install laconic", "{}; pip install --upgrade laconic"} <= {*wrong}


def test_every_extra_exists() -> None:
    named = {
        (name, extra.strip())
        for name, text in TEXTS
        for extras in OUR_EXTRAS.findall(text)
        for extra in extras.split(",")
    }
    assert named
    assert {extra for _, extra in named} <= PROJECT["optional-dependencies"].keys()


def test_the_readme_warns_of_the_namesake() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [
        line for line in lines if "`laconic-mm`" in line and "PyPI" in line and "unrelated" in line
    ]


def test_command_import_and_plug_in_remain_laconic() -> None:
    assert PROJECT["name"] == "laconic-mm"
    assert PROJECT["scripts"] == {"laconic": "laconic.commands:main"}
    assert PROJECT["entry-points"]["pytest11"] == {"laconic": "laconic.pytest_plugin"}


def test_the_workflow_runs_ci_run_on_each_version_of_the_classifiers() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.search(r"run: bash \.ci/run$", workflow, re.MULTILINE)
    (versions,) = re.findall(r"^ +python: (\[.*\])$", workflow, re.MULTILINE)
    classifiers = re.findall(
        r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE
    )
    assert ast.literal_eval(versions) == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"


def test_the_license_is_an_expression() -> None:
    """PEP 639 forbids a license classifier next to an SPDX expression."""
    assert PROJECT["license"] == "Apache-2.0"
    assert all((ROOT / path).is_file() for path in PROJECT["license-files"])
    assert not [
        classifier for classifier in PROJECT["classifiers"] if classifier.startswith("License")
    ]


def test_the_old_name_is_uninstalled(tmp_path: Path) -> None:
    """tools/python.sh removes what an earlier version installed as `laconic`, editable or not."""
    make_environment(tmp_path)
    (site,) = tmp_path.glob(".venv/lib/python3*/site-packages")
    script = tmp_path / ".venv" / "bin" / "laconic"
    editable = site / "__editable__.laconic-0.1.0.pth"
    package = site / "laconic" / "__init__.py"
    build = tmp_path / "src" / "laconic.egg-info"
    old = site / "laconic-0.1.0.dist-info"
    new = site / "laconic_mm-0.1.0.dist-info"
    for folder in (old, new, package.parent, build):
        folder.mkdir(parents=True)
    for file in (script, editable, package):
        file.touch()
    for metadata, name in ((old, "laconic"), (new, "laconic-mm")):
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        owned = [metadata / "METADATA", metadata / "RECORD", script, editable, package]
        (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in owned))

    for _ in range(2):  # the second time, the old name is not installed
        subprocess.run(["sh", tmp_path / "tools" / "uninstall.sh"], check=True)

    assert [path for path in (old, editable, package, build) if path.exists()] == []
    assert new.exists()


def make_environment(root: Path) -> None:
    """A clone in which tools/uninstall.sh runs `uninstall_old_name` on .venv; its pip is the one of
    this Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    pip = importlib.util.find_spec("pip")
    assert pip is not None and pip.origin is not None
    (root / "lib").mkdir()
    (root / "lib" / "pip").symlink_to(Path(pip.origin).parent)
    command = root / ".venv" / "bin" / "pip"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH={root}/lib exec {root}/.venv/bin/python -m pip "$@"\n'
    )
    command.chmod(0o755)
    (root / "tools").mkdir()
    (root / "tools" / "python.sh").write_text((ROOT / "tools" / "python.sh").read_text())
    (root / "tools" / "uninstall.sh").write_text(
        '. "$(dirname "$0")/python.sh"\nuninstall_old_name\n'
    )


def test_environment_uninstalls_the_old_name_first() -> None:
    """Afterwards it would delete bin/laconic, which both names own."""
    body = (ROOT / "tools" / "python.sh").read_text().partition("\nenvironment() {")[2]
    assert 0 < body.index("uninstall_old_name") < body.index("pip install")
