"""The documentation: its Python example runs, and the command lines in it name verbs and options
that exist."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconic.commands import VERBS
from laconic.commands.options import parse
from laconic.memory.change import UNMAP
from tests.helpers.traces import BASE, Builder

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
#: A word of a usage line: it stands for something, and is not a command to be given.
USAGE = re.compile(r"[\[\]{}|…]|\.\.\.")
#: What ends a command in a shell's line; and the gap before the explanation in a list of commands.
END = re.compile(r"\s{3}|\s(?:\||>|<|2>|&&|;|#)\s?|;\s|\s\\$|$")


def examples(page: Path) -> Iterator[tuple[str, bool]]:
    """Each `laconic ...` of a page, and whether it stands in a block: there it is whole, in a
    sentence it may be the beginning of one."""
    fenced = False
    spans: list[str] = []
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            command = re.search(r"(?:^|\$ |\| |&& )\s*(laconic [a-z-].*)", line)
            if command:
                yield _first(command[1]), True
        else:
            spans += re.findall(r"`(laconic [^`]+)`", line)
    for span in spans:
        yield _first(span), False


def _first(line: str) -> str:
    end = END.search(line)
    assert end is not None
    return line[: end.start()]


def parser(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb, as `laconic VERB` makes it."""
    made = argparse.ArgumentParser(prog=f"laconic {verb}")
    importlib.import_module(
        f"laconic.commands.{'import_' if verb == 'import' else verb}"
    ).configure(made)
    return made


def options(verb: str, words: list[str]) -> list[str]:
    """The options among a command's words, those of a program that is run left out."""
    if "--" in words:
        words = words[: words.index("--")]
    return [option for word in words for option in re.findall(r"^\[?(--?[a-z-]+)", word)]


LINES = [
    (str(page.relative_to(ROOT)), line, block) for page in PAGES for line, block in examples(page)
]


@pytest.mark.parametrize("page", sorted({page for page, _, _ in LINES}))
def test_commands_exist(page: str) -> None:
    """Each verb and option on a page exists, and the parser accepts each complete command."""
    for name, line, block in LINES:
        if name == page and line not in ("laconic --help", "laconic --version"):
            check_command(page, line, block)


def check_command(page: str, line: str, block: bool) -> None:
    """Fail the test unless the verb, the options and, in a block, the whole command exist."""
    _, verb, *words = shlex.split(line)
    assert verb in VERBS, f"{page}: {line}"
    made = parser(verb)
    for option in options(verb, words):
        assert option in made._option_string_actions, f"{page}: laconic {verb} has no {option}"
    if block and not USAGE.search(line):
        output = io.StringIO()
        try:
            with contextlib.redirect_stderr(output):
                parse(made, made, words)
        except SystemExit:
            pytest.fail(f"{page}: {line}: {output.getvalue()}")


#: Words that these pages once used where a plainer one exists.
OLD = re.compile(
    r"\b(anew|as asked|as far as it goes|dearer|dearest|in the place of|needless|nobody|told of)\b"
)
#: How many words the pages outside of the appendix may have, tables and examples included.
MOST_WORDS = 25_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_plain_words(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not OLD.findall(prose)


def test_the_pages_stay_short() -> None:
    words = [len(page.read_text().split()) for page in (ROOT / "docs").glob("*.md")]
    assert sum(words) <= MOST_WORDS


def test_there_are_commands() -> None:
    """Every verb is shown somewhere, so the search for them works."""
    assert {line.split()[1] for _, line, _ in LINES} >= set(VERBS)


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is run as it stands in the page, on a trace of two unmappings, one of them of pages half
    touched."""
    trace = Builder(tmp_path / "a.trace")
    trace.program("/bin/prog", ["prog"])
    half = ((BASE, BASE + 4096, 0), (BASE + 12288, BASE + 16384, 0))
    trace.row("munmap", BASE, 16384, result=0, host_calls=1, kinds=UNMAP, touched=half)
    trace.row("munmap", BASE + 65536, 8192, result=0, host_calls=1, kinds=UNMAP)
    trace.end()
    page = (ROOT / "docs" / "traces.md").read_text()
    found = re.search(r"<!-- example -->\n+```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(found[1], "docs/traces.md", "exec"), {})
    assert capsys.readouterr().out == "6 pages unmapped, 2 of them touched; nothing is missing\n"
