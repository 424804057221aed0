"""strace logs of real programs: the trace has each call as often as strace itself counted it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from laconic.replay.engine import Replay
from laconic.trace import Trace
from laconic.trace.importers.importing import import_logs
from laconic.trace.records import CallRecord
from laconic.trace.schema import MEMORY_EVENTS, PROCESS_EVENTS
from tests.apps.harness import place
from tests.apps.workloads import WORKLOADS, Workload

STRACE = ("strace", "-f", "-tt", "-C", "-e", "trace=%memory,%process,%file,%desc")
THREADS = """
import mmap, threading
def work():
    for n in range(150):
        area = mmap.mmap(-1, 1 << 20)
        area[0] = 1
        more = bytearray(3 << 20)
        area.close()
group = [threading.Thread(target=work) for _ in range(5)]
[each.start() for each in group]
[each.join() for each in group]
"""
PROCESSES = """
import multiprocessing
def work(n):
    return len([bytearray(n << 12) for _ in range(20)])
if __name__ == "__main__":
    with multiprocessing.Pool(4) as pool:
        print(sum(pool.map(work, range(100))))
"""
PROGRAMS: dict[str, tuple[str, ...]] = {
    "python-threads": (sys.executable, "-c", THREADS),
    "python-processes": (sys.executable, "processes.py"),
    "bash": ("bash", "-c", "for i in 1 2 3 4 5; do ls -l / | sort | wc -l; (exit 3) & done; wait"),
    "perl": (
        "perl",
        "-e",
        "for (1 .. 20) { my @a = map { 'x' x $_ } 1 .. 2000; fork or exit 0; wait }",
    ),
    "gcc": ("gcc", "-O2", "small.c", "-o", "small"),
}
RECORDED = ("python3-processes", "redis", "node", "postgresql", "java-serial")
"""Workloads that `laconic run -o` records in test_apps too."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_counts_equal_strace_s(name: str, tmp_path: Path) -> None:
    """strace -C writes the log and, behind it, how often it saw each call."""
    command = PROGRAMS[name]
    for needed in ("strace", command[0]):
        if shutil.which(needed) is None:
            pytest.skip(f"not installed: {needed}")
    (tmp_path / "processes.py").write_text(PROCESSES)
    (tmp_path / "small.c").write_text("int main(void) { return 0; }\n")
    log = tmp_path / "log"
    words = [*STRACE, "-o", str(log), *command]
    subprocess.run(
        words,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    imports_and_replays(log)


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else [])
        for each in WORKLOADS
        if each.name in RECORDED
    ],
)
def test_counts_of_workloads_equal_strace_s(workload: Workload) -> None:
    """The same for servers with their clients."""
    if reason := workload.missing():
        pytest.skip(reason)
    with place(workload) as here:
        log = here.top / "log"
        here.run((*STRACE, "-o", str(log)))
        imports_and_replays(log)


def imports_and_replays(log: Path) -> None:
    """Import a log, and assert that the counts are strace's and that no result contradicts the
    model."""
    trace = log.with_suffix(".trace")
    report = import_logs("strace", [str(log)], str(trace))
    assert report.not_understood == 0, report.puzzles
    # strace counts a call when it returns; one in which its thread was killed it counts, or not, by
    # the moment.
    unfinished = Counter(
        each.call
        for each in Trace(str(trace))
        if isinstance(each, CallRecord) and each.result is None
    )
    theirs = Counter(counted(log.read_text(errors="replace")))
    assert Counter(report.by_call) - unfinished <= theirs <= Counter(report.by_call)
    engine = Replay(Trace(str(trace)), check=True)
    engine.run()
    assert engine.check is not None and not engine.losses
    assert not engine.check.counts["model error"], engine.check.differences[:3]


def counted(log: str) -> dict[str, int]:
    """Memory and process calls by name, as in the table at the log's end."""
    table = log[log.rindex("% time") :]
    names = {*MEMORY_EVENTS, *PROCESS_EVENTS} - {"prctl", "arch_prctl"}
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", table, re.MULTILINE)
    found = {name: int(count) for count, name in rows if name in names}
    for line in re.findall(r"^.* = \? ERESTART.*$", log, re.MULTILINE):
        # Such a call did not happen, and comes again.
        match = re.search(r"\b(\w+)(?:\(| resumed)", line)
        if match and match[1] in found:
            found[match[1]] -= 1
    return found
