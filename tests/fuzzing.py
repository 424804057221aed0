"""What the two fuzzers share: the texts that they start from, the ways to damage them, and the loop
over seeds."""

from __future__ import annotations

import argparse
import gzip
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
TOKENS = [
    b"(", b")", b"[", b"]", b"{", b"}", b'"', b"\\", b"<", b">", b",", b", ", b" = ", b") = ", b"0",
    b"-1", b"?", b"|",
    b"0x7fffffffffffffffffffffff", b"18446744073709551616", b"NULL", b"...", b" <unfinished ...>",
    b"<... mmap resumed>", b"+++ exited with 0 +++", b"+++ killed by SIGKILL +++",
    b"--- SIGSEGV ---", b"[pid ",
    b"[pid 1] ", b"\r", b"\0",
    b"\xff\xfe", b" > frame(x) [0x1]", b"/* x */", b"<<", b"MAP_FIXED|", b"MAP_HUGE_SHIFT",
    b"mmap(", b"munmap(",
    b"fork(", b"vfork(", b"clone3({flags=", b"execve(", b"mremap(", b"brk(", b"close(",
    b"strace: Process 9 attached",
    b"12:00:00 ", b"99:99:99.999999999 ", b"1700000000.5 ", b"%", b"\x1b[31m", b"\x9b2J",
]  # fmt: skip


def corpus(kind: str) -> list[bytes]:
    """The texts of the logs of a kind."""
    texts = []
    for path in sorted((CORPUS / kind).rglob("*")):
        if ".log" in path.name:
            data = path.read_bytes()
            texts.append(gzip.decompress(data) if path.suffix == ".gz" else data)
    return texts


def mutate(text: bytes, pick: Callable[[int], int], times: int) -> bytes:
    """Changes a text in some places; `pick(n)` is a number below n."""
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


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Declares the options that `for_seeds` takes."""
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="the first seed; each next one is 1 more"
    )
    parser.add_argument("--count", type=int, help="stop after this many seeds")


#: The kind of an input, and its bytes.
Input = tuple[str, bytes]


def for_seeds(
    options: argparse.Namespace,
    make: Callable[[random.Random], Input],
    check: Callable[[Input, Path], None],
) -> tuple[Counter[str], float]:
    """Makes an input from each seed and checks it in a directory, until the time or the count is
    reached.

    Returns how many inputs of each kind there were and the most seconds that one took. An input
    whose check raises is kept in the temporary directory, as `fuzz-KIND-SEED`, and the exception is
    raised.
    """
    until = time.monotonic() + 60 * options.minutes
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as directory:
        while time.monotonic() < until and counts.total() != options.count:
            seed = options.seed + counts.total()
            kind, data = make(random.Random(seed))
            began = time.monotonic()
            try:
                check((kind, data), Path(directory))
            except Exception:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{kind}-{seed}"
                kept.write_bytes(data)
                print(f"seed {seed}: kept as {kept}", file=sys.stderr, flush=True)
                raise
            slowest = max(slowest, time.monotonic() - began)
            counts[kind] += 1
    return counts, slowest
