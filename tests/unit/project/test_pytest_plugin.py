"""The pytest plug-in, in a pytest inside this one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracer.lab import build, environment

pytest_plugins = ["pytester"]

#: Where Laconic is installed as it is now, pytest finds the plug-in by itself.
INSTALLED = any(
    point.value == "laconic.pytest_plugin"
    for point in importlib.metadata.entry_points(group="pytest11")
)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that makes 40 redundant mprotect calls in `again`, and 8 that change something in
    `turn`."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return build("gated", "-g")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the installed plug-ins, pytest loads this one: the others take most of its start."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def check(pytester: pytest.Pytester, body: str, *words: str) -> pytest.RunResult:
    """Runs a test file, in a process of its own."""
    pytester.makepyfile(f"import pytest, subprocess\n\n{body}")
    is_found = INSTALLED and "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in os.environ
    plugin = () if is_found else ("-p", "laconic.pytest_plugin")
    return pytester.runpytest_subprocess(*plugin, "-p", "no:cacheprovider", *words)


def test_figures(pytester: pytest.Pytester, program: Path) -> None:
    """The figures are the program's, and its output and status too."""
    check(
        pytester,
        f"""
def test_it(laconic):
    found = laconic.run(["{program}", "3"], input="hello")
    assert (found.exit_status, found.stdout, found.stderr) == (3, "out hello", "err")
    assert found.redundant == 40
    assert found.elided >= 40
    assert found.calls == found.elided + found.host_calls
    assert found.redundant_share == 40 / found.calls
    worst = found.sites[0]
    assert (worst.call, worst.function) == ("mprotect", "again")
    assert (worst.redundant, worst.calls, worst.host_calls) == (40, 40, 0)
    assert [site.host_calls for site in found.sites if site.function == "turn"] == [8]
    assert laconic.run(["sh", "-c", "exit $CODE"], env={{"CODE": "5"}}).exit_status == 5
""",
    ).assert_outcomes(passed=1)


@pytest.mark.usefixtures("alone")
def test_the_marker_s_limits(pytester: pytest.Pytester, program: Path) -> None:
    """Kept and not kept; a failure names the offenders, and the innermost marker counts."""
    result = check(
        pytester,
        f"""
RUN = ["{program}"]

@pytest.mark.laconic(max_redundant="99%", max_host_calls=1000)
def test_kept(laconic):
    laconic.run(RUN)

@pytest.mark.laconic(max_redundant="5%")
def test_share(laconic):
    laconic.run(RUN)
    raise SystemError("not reached")

@pytest.mark.laconic(max_redundant=39)
class TestCount:
    def test_count(self, laconic):
        laconic.run(["true"])
        laconic.run(RUN)

    @pytest.mark.laconic(max_redundant=40)
    def test_own(self, laconic):
        laconic.run(RUN)

@pytest.mark.laconic(max_host_calls=7)
def test_host_calls(laconic):
    laconic.run(RUN)
""",
        "--strict-markers",
    )
    result.assert_outcomes(passed=2, failed=3)
    # pytest's closing summary is cut to a line a failure, but not on a CI machine.
    text = result.stdout.str().partition("short test summary info")[0]
    assert text.count("40 of 40 mprotect calls from here changed nothing") == 2
    assert "again (gated-" in text
    assert "8 host calls for 8 mprotect calls from here" in text
    assert "not reached" not in text


@pytest.mark.usefixtures("alone")
def test_a_baseline_and_suppressions_of_the_root(pytester: pytest.Pytester, program: Path) -> None:
    base = {
        "baseline": 2,
        "calls": 0,
        "redundant": 0,
        "hidden": 0,
        "host_calls": 0,
        "whole": True,
        "by_call": {},
        "sites": [],
    }
    pytester.path.joinpath("base.json").write_text(json.dumps(base))
    pytester.makeini("[pytest]")
    body = f"""
@pytest.mark.laconic(baseline="base.json", tolerance=1000)
def test_kept(laconic):
    laconic.run(["{program}"])

@pytest.mark.laconic(baseline="base.json")
def test_worse(laconic):
    laconic.run(["{program}"])

def test_none(laconic):
    assert laconic.run(["{program}"]).redundant == 0
"""
    result = check(pytester, body)
    result.assert_outcomes(passed=1, failed=2)
    assert (
        "40 of 40 mprotect calls from here changed nothing, 0 in the baseline (+40)"
        in result.stdout.str()
    )
    pytester.path.joinpath("laconic.toml").write_text('[[suppress]]\nfunction = "again"\n')
    check(pytester, body, "-k", "none").assert_outcomes(passed=1, deselected=2)
    pytester.path.joinpath("laconic.toml").write_text("[[suppress\n")
    result = check(pytester, body, "-k", "none")
    result.assert_outcomes(failed=1, deselected=2)
    assert "laconic.toml', line 1" in result.stdout.str()


@pytest.mark.usefixtures("alone")
def test_mistakes_are_named(pytester: pytest.Pytester, program: Path) -> None:
    """A wrong marker, a marker that nothing obeys, a program that is not there."""
    result = check(
        pytester,
        """
@pytest.mark.laconic(max_redundancy="5%")
def test_key(laconic):
    pass

@pytest.mark.laconic("5%")
def test_positional(laconic):
    pass

@pytest.mark.laconic(max_redundant="a lot")
def test_value(laconic):
    pass

@pytest.mark.laconic(max_host_calls="5%")
def test_host_calls(laconic):
    pass

@pytest.mark.laconic(baseline="missing.json")
def test_baseline(laconic):
    pass

@pytest.mark.laconic(max_redundant="5%")
def test_without_the_fixture():
    pass

def test_missing(laconic):
    laconic.run(["./missing"])

def test_text(laconic):
    laconic.run("true")

def test_slow(laconic):
    with pytest.raises(subprocess.TimeoutExpired):
        laconic.run(["sleep", "60"], timeout=1)
""",
    )
    result.assert_outcomes(errors=6, failed=2, passed=1)
    text = result.stdout.str()
    for output in (
        "no max_redundancy: choose from max_redundant",
        "no '5%'",
        "'a lot' is not a limit",
        "max_host_calls='5%'",
        "missing.json",
        "no effect without the fixture",
        "'./missing' does not exist",
        "give a list",
    ):
        assert output in text, output


def test_the_import_is_cheap() -> None:
    """Every pytest run of the environment pays for it."""
    code = (
        "import pytest, sys; old = {*sys.modules}; import laconic.pytest_plugin; "
        "print(*{*sys.modules} - old)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"laconic", "laconic.pytest_plugin", "subprocess",
                                        "_posixsubprocess", "select",
                                        "selectors", "signal"}  # fmt: skip
