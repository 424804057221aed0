"""Both builds give the same results, byte for byte."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import laconic
import laconic.analysis.compare
from laconic.analysis.compare import BOUND, compare
from laconic.commands import installed_build, main
from laconic.memory.vma import File, Vma
from laconic.sgx.costs import load
from laconic.strategies import NAMES
from tests.compiled.reports import REPORTS
from tests.helpers.comparetraces import busy

ROOT = Path(__file__).parents[2]
#: Where each build is.
PLACES = {"pure Python": ROOT / "src", "compiled": Path(laconic.__file__).parents[1]}
#: Logs of real programs: with forks, threads, execve and files.
LOGS = {
    "strace": ["strace/f-all.log", "strace/f-tt.log", "strace/single.log"],
    "gramine": ["gramine/real/pyjson.log.gz", "gramine/real/thr.log.gz"],
    "perf": ["perf/script.log"],
}


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    """A few traces, in a folder."""
    paths = [str(tmp_path / "busy.trace")]
    busy(Path(paths[0]), 3).end()
    for source, logs in LOGS.items():
        for log in logs:
            paths.append(str(tmp_path / f"{source}-{log.split('/')[-1].split('.')[0]}.trace"))
            assert main(["import", source, str(ROOT / "tests/corpus" / log), "-o", paths[-1]]) == 0
    return paths


def test_reports_of_both_builds_are_identical(traces: list[str], tmp_path: Path) -> None:
    written = {}
    for name, place in PLACES.items():
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.compiled.reports", str(folder), *traces],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(place)},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert done.stdout.decode().splitlines()[-1] == name, "the build that was to be measured"
        written[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    pure, compiled = written.values()
    assert installed_build() == "compiled"
    assert len(pure) == len(traces) * len(REPORTS)
    for report, text in pure.items():
        assert compiled[report] == text, report


def test_processes_of_the_compiled_build_share_a_long_trace(
    traces: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they are given, and what they send back, is pickled."""
    monkeypatch.setattr(laconic.analysis.compare, "LONG", 10)
    alone, shared = (compare(traces[0], [*NAMES, BOUND], load(), jobs=jobs) for jobs in (1, 2))
    assert shared == alone


def test_classes_without_assignment_are_pickled() -> None:
    file = File(8, 1, 42, "/lib/c.so")
    for value in (load(), file, Vma(0x71, file, 0x7000)):
        again = pickle.loads(pickle.dumps(value))
        assert again == value and type(again) is type(value)
    assert pickle.loads(pickle.dumps(file)).path == file.path
