"""Reads the vectors in tests/corpus/gramine/vectors: the calls of a program, and what Gramine's own
object code did after each of them.

NAME.calls.gz has one item a line: `L start end prot 0 file valid_end shared`, a VMA at the
beginning; `T start end prot`, pages that were touched; `C name a0 ... a5 result file size
writable`, a call. Numbers are hexadecimal, except the result, file, size (bytes) and writable.
NAME.gram.gz has the state after the beginning and after each call: number, name, `vmas=`, `crc=`
(CRC-32 of the VMA table), and what the call did.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DIRECTORY = Path(__file__).parent.parent / "corpus" / "gramine" / "vectors"
NAMES = ("hello", "per_page", "rnd1")


class InitialVma(NamedTuple):
    """A VMA at the beginning. `file` is a number, 0 for anonymous memory."""

    start: int
    end: int
    prot: int
    file: int


class Touch(NamedTuple):
    """Pages of `[start, end)` that were seen to be touched before the next call."""

    start: int
    end: int


class VectorCall(NamedTuple):
    """One call. `file` is a number, 0 without a file; `size` is the file's, in bytes."""

    name: str
    args: tuple[int, ...]
    result: int
    file: int
    size: int
    writable: bool


class Answer(NamedTuple):
    """What Gramine did: its user VMAs afterwards, and the counts of this call."""

    name: str
    vmas: int
    crc: int
    counts: dict[str, int]


def calls(name: str) -> Iterator[InitialVma | Touch | VectorCall]:
    """The items of one program, in order."""
    with gzip.open(DIRECTORY / f"{name}.calls.gz", "rt", encoding="ascii") as lines:
        for line in lines:
            kind, *words = line.split()
            if kind == "C":
                args = tuple(int(word, 16) for word in words[1:7])
                result, file, size, writable = (int(word) for word in words[7:])
                yield VectorCall(words[0], args, result, file, size, bool(writable))
                continue
            numbers = [int(word, 16) for word in words]
            if kind == "L":
                yield InitialVma(numbers[0], numbers[1], numbers[2], numbers[4])
            else:
                yield Touch(numbers[0], numbers[1])


def answers(name: str) -> list[Answer]:
    """What Gramine did, first at the beginning, then after each call."""
    found = []
    with gzip.open(DIRECTORY / f"{name}.gram.gz", "rt", encoding="ascii") as lines:
        for line in lines:
            _, call, *words = line.split()
            values = dict(word.split("=") for word in words)
            vmas, crc = int(values.pop("vmas")), int(values.pop("crc"), 16)
            counts = {key: int(value) for key, value in values.items()}
            found.append(Answer(call, vmas, crc, counts))
    return found


def checksum(table: list[tuple[int, int, int]]) -> int:
    """The CRC-32 of a VMA table: a line for each VMA, with its start, end and protection."""
    text = "".join(f"{start:x}-{end:x} {prot}\n" for start, end, prot in table)
    return zlib.crc32(text.encode())
