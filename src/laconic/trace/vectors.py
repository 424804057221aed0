"""A vector file: memory calls, and what an implementation of a strategy did after each.

The file is text that C reads with `sscanf`: one item per line, whose first word names the item.
docs/appendix/vector-file.md describes every field with its unit. A file written by another
implementation has the same form, but may omit the inputs.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TextIO

from laconic.errors import LaconicError
from laconic.sgx.meter import Counts
from laconic.trace.reader import location

#: The first line of a file; the number rises when a field changes its meaning or is removed.
HEADER: Final = "laconic-vectors 1"
#: The counts of a `counts` line, in this order: the fields of `laconic.sgx.meter.Counts` that
#: another implementation can count.
COUNTED: Final = (
    "host_calls",
    "ioctls",
    "eaug_faults",
    "exceptions",
    "etrack_ipis",
    "eaug",
    "eaccept",
    "eacceptcopy",
    "emodpe",
    "emodpr",
    "emodt",
    "eremove",
    "pages_zeroed",
    "pages_copied",
)
NO_COUNTS: Final = (0,) * len(COUNTED)
#: `VectorStrategy.table`. SPLIT: VMAs never merge, and the table is compared unchanged. MERGED:
#: neighbors with equal attributes are one line.
SPLIT, MERGED = "split", "merged"
#: `InitialVma.kind`: how the loader maps it.
ANONYMOUS, FROM_FILE, STACK, VDSO = range(4)
#: `PalCall.old`, `new` and `kinds`: not a single value, or unknown; also a count that is not kept.
UNKNOWN: Final = -1
#: `PalCall.flags`. LAZY: no page is committed yet. SINGLE: one PAL call for each page. INTERNAL:
#: memory of the library OS, at an address of its own choice.
LAZY, SINGLE, INTERNAL = 1, 2, 4
PAL_CALLS: Final = ("alloc", "free", "protect")
_MASK: Final = (1 << 64) - 1


class VmaLine(NamedTuple):
    """One line of a VMA table. `start`, `end` and `offset` are in bytes; `file` is the number of a
    file, or 0; `shared` is 1 for MAP_SHARED."""

    start: int
    end: int
    prot: int
    shared: int = 0
    file: int = 0
    offset: int = 0

    def __str__(self) -> str:
        start, end, prot, shared, file, offset = self
        return f"{start:x} {end:x} {prot} {shared} {file} {offset:x}"


class VectorStrategy(NamedTuple):
    """One of the strategies in a vector file. `table` is SPLIT or MERGED; `pal` is False if PAL
    calls are not recorded."""

    name: str
    table: str
    pal: bool


class InitialVma(NamedTuple):
    """A VMA that exists when a process starts."""

    process: int
    row: VmaLine
    kind: int


class VectorEvent(NamedTuple):
    """One event: a memory call under its own name, or one of `load`, `touch`, `fork`, `thread`,
    `thread-end`, `grow`, `end`, `other`.

    `result` is the call's value, or a negative errno. `file` is the number of the descriptor's
    file, `size` its size in bytes, `writable` 1 if it is open for writing.
    """

    number: int
    name: str
    process: int
    args: tuple[int, ...] = (0,) * 6
    result: int = 0
    file: int = 0
    size: int = 0
    writable: int = 0


class PalCall(NamedTuple):
    """One call of the PAL for `[start, end)`, in bytes.

    `new` is the requested protection, `old` that of the pages. `kinds` are `ChangeKind` bits.
    """

    name: str
    process: int
    start: int
    end: int
    old: int
    new: int
    kinds: int
    flags: int

    def __str__(self) -> str:
        name, process, start, end, old, new, kinds, flags = self
        return f"{name} {process} {start:x} {end:x} {old} {new} {kinds} {flags}"


@dataclass
class VectorState:
    """What one strategy did for one event, and the table of `process` after it.

    `crc` is the CRC-32 of the table, `vmas` its number of lines, `epc` the number of pages
    committed in all enclaves of the strategy. `dropped` are the starts of removed rows, `added` the
    new rows. `clear`: all earlier rows are removed. `unknown` names the parts that another
    implementation omits: `table`, `pal`, `internal` (PAL calls for the library OS's own memory) or
    `counts`.
    """

    event: int
    strategy: int
    process: int
    crc: int
    vmas: int
    epc: int
    counts: tuple[int, ...] = NO_COUNTS
    pal: list[PalCall] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    added: list[VmaLine] = field(default_factory=list)
    clear: bool = False
    unknown: set[str] = field(default_factory=set)


Item = str | tuple[int, VectorStrategy] | InitialVma | VectorEvent | VectorState


def counted(counts: Counts) -> tuple[int, ...]:
    """Return the values of a `counts` line. O(1)."""
    return tuple(getattr(counts, name) for name in COUNTED)


def crc(table: Iterable[VmaLine]) -> int:
    """Return the CRC-32 (zlib's) of a table, one line per row. O(n).

    >>> f"{crc([Row(0x1000, 0x3000, 3), Row(0x3000, 0x4000, 1, 0, 2, 0x1000)]):08x}"
    'b9ad6f4b'
    """
    return zlib.crc32("".join(f"{row}\n" for row in table).encode())


def merged(table: Iterable[VmaLine]) -> list[VmaLine]:
    """Return the table with neighbors joined that differ only in their position. O(n).

    >>> merged([Row(0x1000, 0x2000, 3), Row(0x2000, 0x3000, 3)])
    [Row(start=4096, end=12288, prot=3, shared=0, file=0, offset=0)]
    """
    rows: list[VmaLine] = []
    for row in table:
        last = rows[-1] if rows else None
        if (
            last is not None
            and last.end == row.start
            and last[2:5] == row[2:5]
            and (not row.file or last.offset + row.start - last.start == row.offset)
        ):
            rows[-1] = last._replace(end=row.end)
        else:
            rows.append(row)
    return rows


# Writing


def lines(item: Item) -> Iterator[str]:
    """Yield the lines of one item, without newlines. A string is a comment. O(lines)."""
    match item:
        case str():
            yield f"# {item}"
        case (int(number), VectorStrategy(name, table, pal)):
            yield f"strategy {number} {name} {table} {int(pal)}"
        case InitialVma(process, row, kind):
            yield f"init {process} {row} {kind}"
        case VectorEvent(number, name, process, args, result, file, size, writable):
            words = " ".join(f"{value & _MASK:x}" for value in (*args, result))
            yield f"event {number} {name} {process} {words} {file} {size} {writable}"
        case VectorState():
            yield (
                f"state {item.event} {item.strategy} {item.process} "
                f"{item.crc:08x} {item.vmas} {item.epc}"
            )
            if item.counts != NO_COUNTS:
                yield "counts " + " ".join(map(str, item.counts))
            yield from (f"pal {call}" for call in item.pal)
            yield from (f"unknown {what}" for what in sorted(item.unknown))
            if item.clear:
                yield "clear"
            yield from (f"drop {start:x}" for start in item.dropped)
            yield from (f"vma {row}" for row in item.added)


# Reading


@dataclass
class Vectors:
    """A whole vector file. `states` are in the order of the file."""

    path: str
    strategies: dict[int, VectorStrategy] = field(default_factory=dict)
    inits: list[InitialVma] = field(default_factory=list)
    events: dict[int, VectorEvent] = field(default_factory=dict)
    states: list[VectorState] = field(default_factory=list)


def read(path: str) -> Vectors:
    """Read a vector file, compressed with gzip or not.

    Raises LaconicError if it cannot be read or is malformed, with the number of the line. O(lines).
    """
    try:
        with _open(path) as file:
            return _parse(path, file)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise LaconicError(f"{path!r} cannot be read, {why}; check the name") from None
    except UnicodeDecodeError:
        raise LaconicError(f"{path!r} is not text; pass a vector file") from None


def _open(path: str) -> TextIO:
    path = location(path)
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def _parse(path: str, file: TextIO) -> Vectors:
    vectors = Vectors(path)
    first = file.readline().strip()
    if first != HEADER:
        raise LaconicError(
            f"{path!r} begins with {first[:60]!r}, not with {HEADER!r}; pass a vector file"
        )
    for number, line in enumerate(file, 2):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if line.strip() == HEADER:
            raise LaconicError(
                f"{path!r}, line {number}: another vector file begins here; pass one file at a time"
            )
        try:
            _take(vectors, words)
        except (ValueError, IndexError, TypeError):
            raise LaconicError(
                f"{path!r}, line {number}: {line.strip()[:80]!r} is not an item of a vector file; "
                "docs/appendix/vector-file.md lists them"
            ) from None
    return vectors


def _take(vectors: Vectors, words: list[str]) -> None:
    item, fields = words[0], words[1:]
    match item:
        case "strategy":
            number, name, table, pal = fields
            if table not in (SPLIT, MERGED):
                raise ValueError(table)
            vectors.strategies[int(number)] = VectorStrategy(name, table, bool(int(pal)))
        case "init":
            process, *row, kind = fields
            vectors.inits.append(InitialVma(int(process), _row(row), int(kind)))
        case "event":
            event = _event(fields)
            vectors.events[event.number] = event
        case "state":
            number, strategy, process, checksum, vmas, epc = fields
            vectors.states.append(
                VectorState(
                    int(number), int(strategy), int(process), int(checksum, 16), int(vmas), int(epc)
                )
            )
        case "counts":
            counts = tuple(map(int, fields))
            if len(counts) != len(COUNTED):
                raise ValueError(item)
            vectors.states[-1].counts = counts
        case "pal":
            vectors.states[-1].pal.append(_pal_call(fields))
        case "unknown":
            (what,) = fields
            if what not in ("table", "pal", "internal", "counts"):
                raise ValueError(what)
            vectors.states[-1].unknown.add(what)
        case "clear":
            vectors.states[-1].clear = True
        case "drop":
            (start,) = fields
            vectors.states[-1].dropped.append(int(start, 16))
        case "vma":
            vectors.states[-1].added.append(_row(fields))
        case _:
            raise ValueError(item)


def _row(fields: list[str]) -> VmaLine:
    start, end, prot, shared, file, offset = fields
    return VmaLine(int(start, 16), int(end, 16), int(prot), int(shared), int(file), int(offset, 16))


def _event(fields: list[str]) -> VectorEvent:
    number, name, process, *values, file, size, writable = fields
    if len(values) != 7:
        raise ValueError(values)
    *args, result = (int(value, 16) for value in values)
    if result >> 63:
        result -= 1 << 64
    where = int(number), name, int(process)
    return VectorEvent(*where, tuple(args), result, int(file), int(size), int(writable))


def _pal_call(fields: list[str]) -> PalCall:
    name, process, start, end, *numbers = fields
    if name not in PAL_CALLS:
        raise ValueError(name)
    old, new, kinds, flags = map(int, numbers)
    return PalCall(name, int(process), int(start, 16), int(end, 16), old, new, kinds, flags)
