"""Fuzzing of the importers: mutated lines of the corpus. `python -m tests.fuzz_import strace --minutes 10`.

No crash, no hang, no unbounded memory: each import must end, within seconds, with a trace or with an error for people.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from laconic.errors import LaconicError
from laconic.replay.engine import Replay
from laconic.trace.importers.importing import import_logs
from laconic.trace.reader import Trace

CORPUS = Path(__file__).resolve().parent / "corpus"
TOKENS = [
    b"(", b")", b"[", b"]", b"{", b"}", b'"', b"\\", b"<", b">", b",", b", ", b" = ", b") = ", b"0", b"-1", b"?", b"|",
    b"0x7fffffffffffffffffffffff", b"18446744073709551616", b"NULL", b"...", b" <unfinished ...>",
    b"<... mmap resumed>", b"+++ exited with 0 +++", b"+++ killed by SIGKILL +++", b"--- SIGSEGV ---", b"[pid ",
    b"[pid 1] ", b"\r", b"\0",
    b"\xff\xfe", b" > frame(x) [0x1]", b"/* x */", b"<<", b"MAP_FIXED|", b"MAP_HUGE_SHIFT", b"mmap(", b"munmap(",
    b"fork(", b"vfork(", b"clone3({flags=", b"execve(", b"mremap(", b"brk(", b"close(", b"strace: Process 9 attached",
    b"12:00:00 ", b"99:99:99.999999999 ", b"1700000000.5 ", b"%", b"\x1b[31m",
]  # fmt: skip


def corpus(kind: str) -> list[bytes]:
    """The texts of the logs of a kind."""
    return [path.read_bytes() for path in sorted((CORPUS / kind).rglob("*")) if ".log" in path.name]


def mutate(text: bytes, pick: Callable[[int], int], times: int) -> bytes:
    """Changes a log in some places; `pick(n)` is a number below n."""
    data = bytearray(text)
    for _ in range(times):
        at = pick(len(data) + 1)
        kind = pick(8)
        if kind == 0:
            data[at : at + 1 + pick(20)] = b""
        elif kind == 1:
            data[at:at] = TOKENS[pick(len(TOKENS))]
        elif kind == 2 and at < len(data):
            data[at] = pick(256)
        elif kind == 3:
            data[at:at] = b"\n"
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            first, second = pick(len(lines)), pick(len(lines))
            lines[first], lines[second] = lines[second], lines[first]
            data = bytearray(b"\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\n")
            place = pick(len(lines))
            lines[place:place] = [lines[pick(len(lines))]] * (1 + pick(4))
            data = bytearray(b"\n".join(lines))
        elif kind == 6:
            end = data.find(b"\n", at)
            data[at : max(end, at)] = b" <unfinished ...>"
        else:
            start, end = pick(len(data) + 1), pick(len(data) + 1)
            data[at:at] = data[start : min(end, start + 400)]
    return bytes(data)


def check(kind: str, text: bytes, where: Path) -> None:
    """Imports the text and replays it. Raises whatever is not an error for people."""
    log, trace = where / "fuzz.log", where / "fuzz.trace"
    log.write_bytes(text)
    try:
        report = import_logs(kind, [str(log)], str(trace), force=True)
    except LaconicError:
        return
    assert report.lines >= report.not_understood
    assert Trace(str(trace)).source == kind
    rows = sum(1 for _ in Trace(str(trace)).rows())
    assert rows < 40 * (report.lines + 10)


def main() -> int:
    """Returns 1 where something was found, which is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--replay", action="store_true", help="replay each trace too")
    options = parser.parse_args()
    texts = corpus(options.kind)
    until = time.monotonic() + 60 * options.minutes
    done, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        while time.monotonic() < until:
            seed = options.seed + done
            chance = random.Random(seed)
            text = mutate(chance.choice(texts), chance.randrange, chance.randrange(1, 60))
            began = time.monotonic()
            try:
                check(options.kind, text, where)
                if options.replay and (where / "fuzz.trace").exists():
                    Replay(Trace(str(where / "fuzz.trace")), check=True).run()
            except Exception:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{options.kind}-{seed}.log"
                kept.write_bytes(text)
                print(f"seed {seed}: kept as {kept}", file=sys.stderr, flush=True)
                raise
            slowest = max(slowest, time.monotonic() - began)
            done += 1
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{done:,} logs, the slowest {slowest:.2f} s, at most {most} MiB, process {os.getpid()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
