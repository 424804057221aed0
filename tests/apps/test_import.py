"""strace logs of real programs: the trace has each call as often as strace itself counted it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.replay.engine import Replay
from laconic.trace.importing import import_logs
from laconic.trace.reader import Trace
from laconic.trace.schema import MEMORY_EVENTS, PROCESS_EVENTS

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
REDIS = """
redis-server --port 0 --unixsocket ./redis.sock --save "" --daemonize no & server=$!
until redis-cli -s ./redis.sock ping > /dev/null 2>&1; do sleep 0.1; done
redis-benchmark -s ./redis.sock -n 2000 -c 10 -q > /dev/null
redis-cli -s ./redis.sock shutdown nosave; wait $server
"""
NODE = "let a=[];for(let i=0;i<100;i++){a=[];for(let j=0;j<20000;j++)a.push({i,j})}"
JAVA = "public class Hi { public static void main(String[] a) { byte[][] all = new byte[3000][]; " \
       "for (int i = 0; i < 30000; i++) all[i % 3000] = new byte[9000]; } }"  # fmt: skip
PROGRAMS: dict[str, tuple[str, ...]] = {
    "python-threads": (sys.executable, "-c", THREADS),
    "python-processes": (sys.executable, "processes.py"),
    "bash": ("bash", "-c", "for i in 1 2 3 4 5; do ls -l / | sort | wc -l; (exit 3) & done; wait"),
    "perl": ("perl", "-e", "for (1 .. 20) { my @a = map { 'x' x $_ } 1 .. 2000; fork or exit 0; wait }"),
    "gcc": ("gcc", "-O2", "small.c", "-o", "small"),
    "redis": ("bash", "-c", REDIS),
    "node": ("node", "-e", NODE),
    "java": ("java", "-Xmx100m", "Hi.java"),
}
SLOW = {"redis", "node", "java"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PROGRAMS]
)
def test_counts_equal_strace_s(name: str, tmp_path: Path) -> None:
    """strace -C writes the log and, behind it, how often it saw each call."""
    command = PROGRAMS[name]
    for needed in ("strace", command[0]):
        if shutil.which(needed) is None:
            pytest.skip(f"not installed: {needed}")
    (tmp_path / "processes.py").write_text(PROCESSES)
    (tmp_path / "Hi.java").write_text(JAVA)
    (tmp_path / "small.c").write_text("int main(void) { return 0; }\n")
    log, trace = tmp_path / "log", tmp_path / "trace"
    words = [*STRACE, "-o", str(log), *command]
    subprocess.run(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300, check=False)
    report = import_logs("strace", [str(log)], str(trace))
    assert report.not_understood == 0, report.puzzles
    assert report.calls == counted(log.read_text(errors="replace"))
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
