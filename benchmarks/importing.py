"""The import of an strace log of a million lines, against `wc -l` and a bare regular expression on
the same lines.

The log is made here, with `strace -f -tt -e trace=%memory,%process,%file,%desc` of an allocator
with one thread and with three, python, a compiler and file tools. The other lines are opens, reads,
closes, and halves of calls.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.machine import compiled, table

LINES = 1_000_000
RUNS = 5
SOURCE = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static int rounds;
static void *work(void *argument) {
    unsigned seed = (unsigned)(long)argument;
    char text[64];
    for (int i = 0; i < rounds; i++) {
        size_t size = 4096 * (1 + rand_r(&seed) % 16);
        char *area = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        area[0] = 1;
        if (i % 3 == 0) mprotect(area, 4096, PROT_READ);
        if (i % 5 == 0) madvise(area, 4096, MADV_DONTNEED);
        if (i % 2 == 0) {
            int fd = open("/etc/passwd", O_RDONLY);
            if (read(fd, text, 64) > 0) lseek(fd, 0, SEEK_SET);
            if (i % 8 == 0) munmap(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0), 4096);
            close(fd);
        }
        munmap(area, size);
    }
    return 0;
}
int main(int count, char **words) {
    pthread_t threads[8];
    int many = atoi(words[1]);
    rounds = atoi(words[2]);
    for (long i = 0; i < many; i++) pthread_create(&threads[i], 0, work, (void *)(i + 1));
    for (int i = 0; i < many; i++) pthread_join(threads[i], 0);
    return count != 3;
}
"""
SCRIPT = """
"$0" 1 90000
"$0" 3 8000
for i in 1 2 3 4 5; do "$1" -c 'import json, email, http.client, xml.dom.minidom, decimal'; done
for i in 1 2 3; do echo 'int main(void) { return 0; }' | gcc -O2 -x c - -o /dev/null; done
find /usr -type f | head -8000 | xargs stat > /dev/null
"$0" 1 120000
"""
PATTERN = re.compile(rb"(\d+) +([\d:.]+) (\w+)\(([^,)]*)(?:, [^,)]*)*.* = (\S+)")


def report() -> tuple[dict[str, str], list[tuple[str, float, float]]]:
    """The section of the page, and the targets: what, measured, at most. Raises SystemExit without
    strace."""
    from laconic.trace.importers.importing import import_logs

    with tempfile.TemporaryDirectory() as directory:
        log, trace = Path(directory) / "log", Path(directory) / "trace"
        lines = _make(log)
        size = log.stat().st_size
        imports = partial(import_logs, "strace", [str(log)], str(trace), force=True)
        found = imports()
        # In turns: whatever else the machine does meets all of them.
        steps: tuple[Callable[[], object], ...] = (
            partial(_count, log),
            partial(_match, log),
            imports,
        )
        seconds = [[_seconds(step) for step in steps] for _ in range(RUNS)]
        counting, matching, importing = (min(each) for each in zip(*seconds, strict=True))
        stored = trace.stat().st_size
    calls = sum(found.by_call.values())
    rows = [
        ["`wc -l`", f"{lines / counting / 1e6:,.0f}", f"{importing / counting:,.0f}"],
        [
            "one regular expression per line",
            f"{lines / matching / 1e6:,.2f}",
            f"{importing / matching:.2f}",
        ],
        ["`laconic import strace`", f"{lines / importing / 1e6:,.2f}", "1"],
    ]
    text = (
        f"An strace log of {lines:,} lines ({size / 1e6:,.0f} MB), {calls:,} of them memory and "
        f"process calls; one "
        f"core, the best of {RUNS}. The trace has {stored / calls:.1f} bytes per call.\n\n"
        + table(["", "million lines per second", "import ÷ this"], rows)
    )
    targets = [
        ("seconds for 300,000 lines of an strace log", 300_000 * importing / lines, 1.0),
        ("import ÷ one regular expression per line", importing / matching, 1.3),
    ]
    return {"importing": text}, targets


def _make(log: Path) -> int:
    if shutil.which("strace") is None:
        raise SystemExit("strace was not found: install strace")
    with compiled(SOURCE) as program:
        words = ["strace", "-f", "-tt", "-e", "trace=%memory,%process,%file,%desc", "-o", str(log)]
        command = [*words, "sh", "-c", SCRIPT, program, sys.executable]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    with log.open("rb") as file:
        kept = [line for line, _ in zip(file, range(LINES), strict=False)]
    log.write_bytes(b"".join(kept))
    return len(kept)


def _seconds(step: Callable[[], object]) -> float:
    began = time.process_time()
    children = _children()
    step()
    return time.process_time() - began + _children() - children


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _count(log: Path) -> None:
    subprocess.run(["wc", "-l", log], stdout=subprocess.DEVNULL, check=True)


def _match(log: Path) -> None:
    match = PATTERN.match
    with log.open("rb") as file:
        for line in file:
            match(line)
