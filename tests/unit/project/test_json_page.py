"""docs/appendix/json.md describes the JSON that the commands print, key by key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.schemas import SCHEMAS
from tests.helpers.traces import small
from tests.tracer.lab import COMMAND, environment, run_alone

ROOT = Path(__file__).parents[3]
LOG = ROOT / "tests" / "corpus" / "strace" / "f.log"
_CODE = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    """The text of a page, without its blocks of code."""
    text = (ROOT / "docs" / name).read_text()
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def section(command: str) -> str:
    """The text of docs/appendix/json.md below the heading of one command."""
    pattern = rf"^## `laconic {command}`\n(.*?)(?=^## |\Z)"
    found = re.search(pattern, page("appendix/json.md"), re.DOTALL | re.MULTILINE)
    assert found is not None, f"docs/appendix/json.md has no section for laconic {command}"
    return found[1]


def tables(text: str) -> list[dict[str, str]]:
    """The tables of a text: for each key of the first column the description in the second."""
    result: list[dict[str, str]] = []
    for line in text.splitlines():
        if line.startswith("| key"):
            result.append({})
        elif line.startswith("| `") and result:
            _, keys, description, _ = re.split(r"(?<!\\)\|", line, maxsplit=3)
            result[-1] |= dict.fromkeys(_CODE.findall(keys), description)
    return result


def printed(tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    """What a command writes with `--json`."""
    path = tmp_path / "out.json"
    path.unlink(missing_ok=True)
    command, *rest = words
    done = run_alone([*COMMAND, command, "--json", path, *rest], env=environment(), cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(path.read_text())
    assert isinstance(figures, dict)
    return figures


def named(values: Mapping[str, Any], description: str) -> None:
    """Every key of an inner object is named in the description of the object."""
    missing = values.keys() - set(_CODE.findall(description))
    assert not missing, f"not documented: {sorted(missing)}"


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A recorded trace."""
    return small(tmp_path / "a.trace")


def test_run(tmp_path: Path) -> None:
    (table,) = tables(section("run"))
    figures = printed(tmp_path, "run", "--quiet", "--", "true")
    assert figures.keys() == table.keys()
    for line in figures["by_call"].values():
        assert line.keys() == set(_CODE.findall(table["by_call"]))
    for key in ("host", "verify"):
        named(figures[key], table[key])
    assert list(figures["changes"]) == _CODE.findall(table["changes"])


@pytest.mark.parametrize("source", ["run", "strace"])
def test_replay(source: str, trace: str, tmp_path: Path) -> None:
    path: str | Path = trace
    if source == "strace":
        path = tmp_path / "log.trace"
        printed(tmp_path, "import", "strace", LOG, "-o", path)
    (table,) = tables(section("replay"))
    figures = printed(tmp_path, "replay", "--check", path)
    (of_run,) = tables(section("run"))
    assert figures.keys() == of_run.keys() | table.keys()
    named(figures["trace"], table["trace"])
    named(figures["check"], table["check"])
    for difference in figures["check"]["first"]:
        named(difference, table["check"])


def test_compare(trace: str, tmp_path: Path) -> None:
    table, of_strategy, _ = tables(section("compare"))
    figures = printed(tmp_path, "compare", "--verify", "--epc", "1M", trace)
    of_command = {"command", "exit_status"}
    assert figures.keys() == table.keys() - of_command
    for key in ("trace", "profile", "epc"):
        named(figures[key], table[key])
    for strategy in figures["strategies"].values():
        assert strategy.keys() <= of_strategy.keys() <= strategy.keys() | {"counts_low"}
        named(strategy["counts"], of_strategy["counts"])
        named(strategy["ratio"], of_strategy["ratio"])
    for findings in figures["verify"].values():
        named(findings, table["verify"])
    with_program = printed(tmp_path, "compare", "--", "true")
    assert with_program.keys() == table.keys()
    assert with_program["epc"] is None


def test_compare_on_linux(trace: str, tmp_path: Path) -> None:
    """The page names the keys that are in the object of enclaves alone."""
    table, of_strategy, _ = tables(section("compare"))
    figures = printed(tmp_path, "compare", "--host", "linux", trace)
    (sentence,) = re.findall(
        r"^With `--host linux`:.*?\n\n", section("compare"), re.DOTALL | re.MULTILINE
    )
    has, has_not = sentence.split("there are no")
    assert not figures.keys() & set(_CODE.findall(has_not))
    assert figures.keys() == table.keys() - {"command", "exit_status"} - set(_CODE.findall(has_not))
    for strategy in figures["strategies"].values():
        assert strategy.keys() <= of_strategy.keys()
        named(strategy["counts"], has)
        named(strategy["ratio"], has)


def test_compare_ablation(trace: str, tmp_path: Path) -> None:
    """The page names the keys that only other comparisons have, and describes each row."""
    table, of_strategy, of_row = tables(section("compare"))
    figures = printed(tmp_path, "compare", "--ablation", trace)
    (sentence,) = re.findall(
        r"^With `--ablation`:.*?\n\n", section("compare"), re.DOTALL | re.MULTILINE
    )
    has_not, has = sentence.split(" but ")
    new = figures.keys() - table.keys()
    assert new == {"traces", "ablation"} <= set(_CODE.findall(has))
    gone = table.keys() - figures.keys() - {"command", "exit_status"}
    assert gone == set(_CODE.findall(has_not)) - {"--ablation"}
    for row in figures["ablation"]:
        assert row.keys() == of_row.keys()
        for each in row["traces"]:
            assert each.keys() <= of_strategy.keys()
    for about in figures["traces"]:
        named(about, table["trace"])


def test_info(trace: str, tmp_path: Path) -> None:
    (table,) = tables(section("info"))
    figures = printed(tmp_path, "info", trace)
    assert figures.keys() == table.keys()
    for key in ("made", "lost", "seconds"):
        named(figures[key], table[key])
    for line in figures["by_call"].values():
        assert line.keys() == set(_CODE.findall(table["by_call"]))
    for program in figures["programs"]:
        named(program, table["programs"])


def test_import(tmp_path: Path) -> None:
    (table,) = tables(section("import"))
    log = tmp_path / "a.log"
    log.write_text(LOG.read_text() + "no line of strace's (\n")
    figures = printed(tmp_path, "import", "strace", log, "-o", tmp_path / "log.trace")
    of_gramine = {"unknown_texts", "texts"}
    assert figures.keys() in (table.keys(), table.keys() - of_gramine)
    for line in figures["puzzles"]:
        named(line, table["puzzles"])


@pytest.mark.parametrize("host", ["linux", "sgx2"])
def test_sweep(host: str, trace: str, tmp_path: Path) -> None:
    (table,) = tables(section("sweep"))
    figures = printed(tmp_path, "sweep", trace, "-o", tmp_path / "r.parquet", "--host", host)
    assert figures.keys() == table.keys()
    if host == "linux":
        for sums in figures["strategies"].values():
            named(sums, table["strategies"])


def test_doctor(tmp_path: Path) -> None:
    figures = printed(tmp_path, "doctor")
    named(figures, section("doctor"))
    for finding in figures["findings"]:
        named(finding, section("doctor"))


#: Commands whose objects need one test only, with the arguments after the trace.
COMMANDS = {
    "callers": (),
    "explain": ("mprotect:1",),
    "html": ("-o", "page.html"),
    "flamegraph": (),
    "check": ("--max-redundant", "100%"),
    "pack": ("-o", "packed.trace"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, trace: str, tmp_path: Path) -> None:
    figures = printed(tmp_path, command, trace, *COMMANDS[command])
    named(figures, section(command))


def test_explain_of_a_row_that_is_not_a_call(trace: str, tmp_path: Path) -> None:
    named(printed(tmp_path, "explain", trace, "1"), section("explain"))


def test_diff(trace: str, tmp_path: Path) -> None:
    named(printed(tmp_path, "diff", trace, trace), section("diff"))


def test_html_of_two_traces(trace: str, tmp_path: Path) -> None:
    figures = printed(tmp_path, "html", trace, trace, "-o", "page.html")
    named(figures, section("html"))
    for values in (figures["before"], figures["sites"][0], figures["graph"], figures["headline"]):
        named(values, section("html"))
    assert f"whose `schema` is {SCHEMAS['html-pair']}:" in section("html")


def test_every_section_states_the_version() -> None:
    """A version that rises rises on the page as well."""
    for command in ("run", "check", "diff"):
        assert re.search(rf"`schema` is {SCHEMAS[command]}[.;]", section(command)), command
    in_tables = (
        "compare", "info", "sweep", "callers", "explain", "flamegraph", "html", "pack",
    )  # fmt: skip
    for command in in_tables:
        (schema,) = {table["schema"] for table in tables(section(command)) if "schema" in table}
        assert schema.strip() == str(SCHEMAS[command]), command
