"""Fuzzing of all verbs that read a log or a trace. `python -m tests.fuzz_verbs --minutes 10`.

An input is a log of the corpus or a trace, damaged in some places. Of a trace either the bytes are
damaged, which the checksums find, or its rows and its head, which are then written with right
checksums: only the reader's own checks stand between them and the verbs. Every verb must end
without a traceback, within 10 seconds of CPU time and 300 MiB of memory, and must not write control
characters to a terminal.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import laconic
from laconic.commands import VERBS, main
from laconic.memory.flags import TASK_SIZE
from laconic.replay import STRATEGIES
from laconic.trace.importers.importing import IMPORTERS, import_logs
from laconic.trace.reader import TraceReader
from laconic.trace.schema import NUMBERS, Row
from laconic.trace.writer import TraceWriter
from tests.fuzzing import Input, add_seeds, corpus, for_seeds, mutate
from tests.helpers.traces import small
from tests.tracer.lab import COMMAND, environment

#: CPU seconds and MiB that one verb may take. The memory includes 100 MiB of the interpreter and
#: its libraries.
SECONDS, MEMORY = 10, 300
#: Wall-clock seconds after which a verb hangs, however busy the machine is.
PATIENCE = 120
#: Verbs that read neither a log nor a trace.
RUNNING = {"run", "attach", "live", "doctor", "help", "completion"}
EVENTS = ("0", "3", "17", "@0", "@0.001", "mmap:1", "mprotect:2", "munmap:1", "brk:1", "clone:1")
#: Verb -> what stands behind it, one of these for each input. TRACE is the trace, OUT a file that
#: does not exist.
WORDS: dict[str, list[str]] = {
    "replay": [
        "TRACE", "--check TRACE", "--json - TRACE", "--host sgx2 TRACE",
        *(f"--strategy {name} TRACE" for name in STRATEGIES),
    ],
    "maps": ["TRACE", "--at 5 TRACE", "--at 0.001s TRACE", "--pid 1 TRACE", "--pid 100 TRACE"],
    "info": ["TRACE", "--json - TRACE"],
    "export": [f"TRACE --to {to} -o OUT" for to in ("parquet", "csv", "jsonl", "perfetto",
                                                    "strace")],
    "callers": ["TRACE", "--by module TRACE", "--by stack TRACE", "--inverted TRACE",
                "--no-suppressions TRACE",
                "--sort redundant TRACE"],
    "explain": [f"TRACE {event}" for event in EVENTS],
    "flamegraph": [f"TRACE --to {to} -o OUT" for to in ("folded", "speedscope", "svg")],
    "pack": ["TRACE -o OUT"],
    "html": ["TRACE -o OUT", "TRACE --no-suppressions -o OUT"],
    "diff": ["TRACE TRACE"],
    "check": ["--max-redundant 5% TRACE", "--max-host-calls 3 TRACE", "--write-baseline OUT TRACE"],
    "compare": ["-j 1 TRACE", "-j 1 --by program TRACE", "-j 1 --verify TRACE",
                "--host linux TRACE"],
    "advise": ["TRACE"],
    "vectors": ["check TRACE --against TRACE"],
    "sweep": ["-j 1 -o OUT TRACE", "-j 1 --host sgx2 -o OUT TRACE"],
}  # fmt: skip
#: Verbs that start other interpreters, which takes seconds: one input in eight goes through them.
RARE = {"sweep"}
assert set(VERBS) == WORDS.keys() | RUNNING | {"import"}
#: A terminal interprets these, and the line feed, which stays.
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]")
_EDGES = (
    0, 1, 2, 5, 4095, 4096, 4097, 8192, 1 << 31, 1 << 32, TASK_SIZE - 4096, TASK_SIZE, 1 << 47,
    1 << 62,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 22, (1 << 64) - 1,
)  # fmt: skip
_BITS = {"B": 8, "H": 16, "I": 32, "i": 32, "Q": 64, "q": 64}


def damaged_rows(path: str, chance: random.Random, out: Path) -> bytes:
    """A trace with some rows, or its head, changed, and right checksums."""
    base = TraceReader(path)
    rows = list(base.rows())
    for _ in range(chance.randrange(1, 12)):
        _damage(rows, chance)
    out.unlink(missing_ok=True)
    writer = TraceWriter(str(out), base.source, base.about)
    if not chance.randrange(8):
        key = chance.choice(("about", "events", "machine", "source", "schema"))
        text = mutate(writer._metadata[key].encode(), chance.randrange, chance.randrange(1, 4))
        writer._metadata[key] = text.decode("utf-8", "replace")
    writer.rows += rows
    writer.close()
    return out.read_bytes()


_DATA, _TOUCHED = Row._fields.index("data"), Row._fields.index("touched")


def _damage(rows: list[Row], chance: random.Random) -> None:
    place = chance.randrange(len(rows))
    row: list[Any] = list(rows[place])
    what = chance.randrange(10)
    if what == 0:
        del rows[place : place + chance.randrange(1, 5)]
        rows += [Row(*row)] if not rows else []
    elif what == 1:
        rows[place:place] = [Row(*row)] * chance.randrange(1, 100)
    elif what == 2:
        other = chance.randrange(len(rows))
        rows[place], rows[other] = rows[other], rows[place]
    elif what == 3:
        row[_DATA] = mutate(row[_DATA], chance.randrange, chance.randrange(1, 5))
        rows[place] = Row(*row)
    elif what == 4:
        start = chance.choice(_EDGES)
        row[_TOUCHED] = tuple(
            (start + 8192 * n, start + 8192 * n + 4096, 0)
            for n in range(chance.choice((1, 2, 5000)))
        )
        row[_TOUCHED] = tuple(run for run in row[_TOUCHED] if run[1] >> 64 == 0)
        rows[place] = Row(*row)
    else:
        number = chance.choice(NUMBERS)
        column, code = Row._fields.index(number.name), number.code
        before: Any = row[column]
        flipped = before ^ 1 << chance.randrange(64)
        value: Any = chance.choice((chance.choice(_EDGES), chance.choice(rows)[column], flipped))
        value &= (1 << _BITS[code]) - 1
        if code in "iq" and value >> (_BITS[code] - 1):
            value -= 1 << _BITS[code]
        row[column] = value
        rows[place] = Row(*row)


def run_verb(words: list[str], output: Path) -> None:
    """Runs a verb in a process of its own. Raises AssertionError where it does what no input may
    cause."""
    pid = os.fork()
    if not pid:
        _be_verb(words, output)
    _, status, usage = os.wait4(pid, 0)
    text = output.read_bytes()
    what = f"laconic {' '.join(words)}"
    assert not os.WIFSIGNALED(status), f"{what} was ended by signal {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    shown = text.decode("utf-8", "replace")[-3000:]
    assert code in (0, 1, 2, 70) and b"Traceback" not in text, f"{what}: {code}, {shown}"
    assert usage.ru_maxrss < MEMORY << 10, f"{what} took {usage.ru_maxrss >> 10} MiB"
    assert not _CONTROL.search(text), (
        f"{what} wrote control characters: {_CONTROL.search(text)}, {text[-2000:]!r}"
    )


def _be_verb(words: list[str], output: Path) -> None:
    # Never returns.
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        signal.alarm(PATIENCE)
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(fd, standard)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def check(data: Input, where: Path, chance: random.Random) -> int:
    """Runs every verb on an input; returns how many. Raises AssertionError as `run_verb`."""
    kind, text = data
    trace, out, output = where / "fuzz.trace", where / "out", where / "output"
    if kind in IMPORTERS:
        log = where / "fuzz.log"
        log.write_bytes(text)
        trace.unlink(missing_ok=True)
        run_verb(["import", kind, str(log), "-o", str(trace)], output)
        if not trace.exists():
            return 1
    else:
        trace.write_bytes(text)
    runs = 1
    for verb, choices in WORDS.items():
        if verb in RARE and chance.randrange(8):
            continue
        runs += 1
        for path in (out, where / "out.partial"):
            path.unlink(missing_ok=True)
        words = chance.choice(choices).replace("TRACE", str(trace)).replace("OUT", str(out))
        run_verb([verb, *words.split(" ")], output)
    return runs


def bases(where: Path) -> list[str]:
    """Traces to begin with: one of a program with all its stacks, one written row by row, and
    imported ones."""
    recorded = str(where / "recorded.trace")
    program = ["sh", "-c", "true | true; (true); true"]
    words = [*COMMAND, "run", "--quiet", "--stacks", "all", "-o", recorded, "--", *program]
    subprocess.run(words, check=True, env=environment(), stdout=subprocess.DEVNULL)
    found = [recorded, small(where / "small.trace")]
    for kind in IMPORTERS:
        for number, text in enumerate(corpus(kind)[:3]):
            log, trace = where / f"{kind}{number}.log", where / f"{kind}{number}.trace"
            log.write_bytes(text)
            import_logs(kind, [str(log)], str(trace))
            found.append(str(trace))
    return found


def maker(where: Path) -> Callable[[random.Random], Input]:
    """Makes inputs from seeds: half of them logs, half of them traces."""
    traces = bases(where)
    texts = {kind: corpus(kind) for kind in IMPORTERS}

    def make(chance: random.Random) -> Input:
        kind = chance.choice([*IMPORTERS, "bytes", "rows", "rows"])
        if kind in IMPORTERS:
            return kind, mutate(
                chance.choice(texts[kind]), chance.randrange, chance.randrange(1, 60)
            )
        path = chance.choice(traces)
        if kind == "rows":
            return kind, damaged_rows(path, chance, where / "damaged.trace")
        return kind, mutate(Path(path).read_bytes(), chance.randrange, chance.randrange(1, 4))

    return make


def _import_all() -> None:
    # What the verbs import is imported once, here, and not in the process of each verb.
    for module in pkgutil.walk_packages(laconic.__path__, "laconic."):
        if module.name not in ("laconic.__main__", "laconic.pytest_plugin"):
            with suppress(ImportError):
                importlib.import_module(module.name)


def main_loop(options: argparse.Namespace) -> tuple[Any, float, int]:
    """Checks the inputs of `options`; returns their counts by kind, the most seconds of one, and
    the runs of verbs."""
    runs = 0
    seed = options.seed

    def check_one(data: Input, where: Path) -> None:
        nonlocal runs, seed
        runs += check(data, where, random.Random(seed))
        seed += 1

    with tempfile.TemporaryDirectory() as directory:
        make = maker(Path(directory))
        _import_all()
        counts, slowest = for_seeds(options, make, check_one)
    return counts, slowest, runs


def run_fuzzer() -> int:
    """Returns 0; raises what an input caused, which is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_seeds(parser)
    options = parser.parse_args()
    counts, slowest, runs = main_loop(options)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    last = options.seed + counts.total() - 1
    print(
        f"seeds {options.seed} to {last}: {kinds}; {runs:,} verbs, the slowest input "
        f"{slowest:.1f} s, {most} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_fuzzer())
