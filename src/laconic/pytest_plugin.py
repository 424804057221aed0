"""The pytest plug-in: the fixture `laconic`, whose `run` returns a program's figures, and the
marker `laconic`, which checks every such run of a test against limits. docs/ci.md shows both.

Every pytest run of an environment imports this module, so all other modules are imported when the
fixture is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from laconic.analysis.baseline import RunFigures
    from laconic.analysis.check import Limits
    from laconic.analysis.suppressions import Suppression
    from laconic.trace.stacks import Stacks

_MARKER = (
    "laconic(max_redundant=None, max_host_calls=None, max_enclave_host_calls=None, "
    "max_cycles=None, baseline=None, tolerance=0): hold every laconic.run of the test to limits, "
    "as `laconic check` does"
)
_KEYS = (
    "max_redundant",
    "max_host_calls",
    "max_enclave_host_calls",
    "max_cycles",
    "baseline",
    "tolerance",
)


class SiteCount(NamedTuple):
    """A place in a program that made `calls` memory calls, of which `redundant` changed nothing,
    and `host_calls` host calls."""

    call: str
    function: str
    module: str
    program: str
    redundant: int
    calls: int
    host_calls: int


class Result:
    """The result of a program: it made `calls` memory calls, and `host_calls` for them; `elided`
    calls needed none.

    `redundant` are the elided ones without those that are suppressed (by `laconic.toml` in pytest's
    root directory, and the calls of ld.so and the C library in every program). `trace` is the path
    of the recording, for `laconic callers`.
    """

    def __init__(
        self,
        command: Sequence[str],
        done: subprocess.CompletedProcess[str],
        counts: Mapping[str, Any],
        trace: str,
        rules: Sequence[Suppression],
    ) -> None:
        self.command = list(command)
        self.exit_status: int = counts["exit_status"]
        self.stdout = done.stdout
        self.stderr = done.stderr
        self.calls: int = counts["calls"]
        self.host_calls: int = counts["host_calls"]
        self.elided: int = counts["elided"]
        self.trace = trace
        self._rules = rules

    @property
    def redundant(self) -> int:
        """Calls that changed nothing and are not suppressed."""
        return self._read[0].redundant

    @property
    def redundant_share(self) -> float:
        """The share of redundant calls in all memory calls, from 0 to 1."""
        return self.redundant / self.calls if self.calls else 0.0

    @property
    def sites(self) -> list[SiteCount]:
        """The sites of the calls, the most redundant ones first. Suppressed sites are left out."""
        found = [
            SiteCount(*key, tally.redundant, tally.calls, tally.host_calls)
            for key, tally in (self._read[0].sites or {}).items()
        ]
        return sorted(found, key=lambda site: (-site.redundant, -site.calls, site))

    def failures(self, limits: Limits) -> str:
        """Return the exceeded limits, with the offenders, as `laconic check` prints them; "" if all
        limits are met."""
        from laconic.analysis.check import check
        from laconic.report.check import as_text

        figures, stacks = self._read
        verdicts = [verdict for verdict in check(figures, limits) if not verdict.kept]
        return as_text(figures, verdicts, stacks, limit=10)

    @cached_property
    def _read(self) -> tuple[RunFigures, Stacks]:
        # Replaying and finding symbols cost more than some tests, so this is done at the first use.
        from laconic.analysis.baseline import EnclaveBasis, from_sites
        from laconic.analysis.sites import EVERY_CALL, sites
        from laconic.sgx import costs
        from laconic.trace.reader import TraceReader

        found = sites(TraceReader(self.trace), (EVERY_CALL,))
        enclave = EnclaveBasis(EVERY_CALL, costs.load())
        return from_sites(found, self.trace, self._rules, enclave), found.stacks

    def __repr__(self) -> str:
        counts = f"{self.calls:,} memory calls, {self.host_calls:,} host calls"
        return f"<{self.command[0]}: exit status {self.exit_status}, {counts}>"


class Runner:
    """The fixture's value. `limits` are those of the test's marker, or None."""

    def __init__(self, limits: Limits | None, directory: Path, root: Path) -> None:
        self.limits = limits
        self._directory = directory
        self._root = root
        self._runs = 0

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Run a program on Laconic's bookkeeping and record it; `env` is added to the environment,
        `timeout` is in seconds. A program that fails is not an error: see `exit_status`.

        Raises LaconicError if it cannot be run, and subprocess.TimeoutExpired. Fails the test if
        the marker's limits are exceeded.
        """
        import json

        from laconic.errors import LaconicError

        if isinstance(command, str):
            raise LaconicError(
                f"{command!r} is one text: give a list, as in laconic.run(['python3', '-V'])"
            )
        self._runs += 1
        trace, figures = (self._directory / f"{self._runs}.{kind}" for kind in ("trace", "json"))
        words = [os.fspath(word) for word in command]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "laconic",
                "run",
                "--quiet",
                "-o",
                str(trace),
                "--stacks",
                "all",
                "--json",
                str(figures),
                "--",
                *words,
            ],
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        text = (
            figures.read_text(encoding="utf-8", errors="surrogateescape")
            if figures.exists()
            else ""
        )
        if not text:
            raise LaconicError(
                done.stderr.strip().removeprefix("laconic: ") or f"exit status {done.returncode}"
            )
        result = Result(words, done, json.loads(text), str(trace), self._suppressions())
        if self.limits is not None:
            failures = result.failures(self.limits)
            if failures:
                pytest.fail(f"{' '.join(words)[:200]}\n{failures}", pytrace=False)
        return result

    def _suppressions(self) -> list[Suppression]:
        from laconic.analysis.suppressions import BUILT_IN, DEFAULT, load

        path = self._root / DEFAULT
        return [*(load(str(path)) if path.exists() else []), *BUILT_IN]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Report a marker without the fixture, because it checks nothing and such a test would always
    pass."""
    if item.get_closest_marker("laconic") and "laconic" not in getattr(item, "fixturenames", ()):
        pytest.fail(
            "the marker laconic has no effect without the fixture: add the argument `laconic`",
            pytrace=False,
        )


@pytest.fixture
def laconic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs programs on Laconic's bookkeeping: laconic.run([...]).redundant"""
    directory = tmp_path_factory.mktemp("laconic")
    return Runner(_limits(request), directory, request.config.rootpath)


def _limits(request: pytest.FixtureRequest) -> Limits | None:
    # The innermost marker applies alone: a test's own replaces its class's.
    marker = request.node.get_closest_marker("laconic")
    if marker is None:
        return None
    from laconic.analysis.check import NONE, Limits, parse_cycles, parse_limit
    from laconic.errors import LaconicError

    unknown = [*map(repr, marker.args), *(key for key in marker.kwargs if key not in _KEYS)]
    if unknown:
        pytest.fail(
            f"the marker laconic has no {', '.join(unknown)}: choose from {', '.join(_KEYS)}",
            pytrace=False,
        )
    given = {key: value for key, value in marker.kwargs.items() if value is not None}
    try:
        redundant, tolerance = (given.get(key) for key in ("max_redundant", "tolerance"))
        for name in ("max_host_calls", "max_enclave_host_calls"):
            count = given.get(name)
            if count is not None and (not isinstance(count, int) or count < 0):
                raise ValueError(f"{name}={count!r} is not a number of host calls: name 0 or more")
        cycles = given.get("max_cycles")
        return Limits(
            None if redundant is None else parse_limit(redundant),
            given.get("max_host_calls"),
            _baseline(request, given["baseline"]) if "baseline" in given else None,
            NONE if tolerance is None else parse_limit(tolerance),
            given.get("max_enclave_host_calls"),
            None if cycles is None else parse_cycles(cycles),
        )
    except (ValueError, LaconicError) as error:
        pytest.fail(f"the marker laconic: {error}", pytrace=False)


def _baseline(request: pytest.FixtureRequest, path: str | os.PathLike[str]) -> RunFigures:
    from laconic.analysis.suppressions import BUILT_IN
    from laconic.commands.figures import read_figures

    return read_figures(str(request.config.rootpath / path), BUILT_IN)[0]
