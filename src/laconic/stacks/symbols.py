"""Functions by address, at report time: from an ELF file's symbol tables, and those of its separate
debug file."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from laconic.stacks.elf import Elf, Malformed, file_reader, string

#: A function: start, size, binding, name.
Symbol = tuple[int, int, int, str]
_SYMBOL = struct.Struct("<IBBHQQ")
#: magic, zeros, quantum, size of a pointer; functions, files, start of the code; offsets of the
#: names, units, files, programs, and of the table of functions.
_GO_HEADER = struct.Struct("<IHBBQQQQQQQQ")
_GO_TABLES = (".gopclntab", ".data.rel.ro.gopclntab")
_GO_MAGICS = (0xFFFFFFF0, 0xFFFFFFF1)
_STT_NOTYPE, _STT_FUNC, _STT_GNU_IFUNC = 0, 2, 10
_STB_GLOBAL, _STB_WEAK = 1, 2
#: The maximum number of consecutive symbols that start before an address and yet do not reach it.
_STEPS = 256
DEBUG_DIRECTORIES: Final = ("/usr/lib/debug",)


class Line(NamedTuple):
    """A place in the source. `function` may be mangled; it is "" if DWARF has no name. `line` is 0
    if it is unknown."""

    function: str
    file: str
    line: int


class SymbolTable:
    """Functions in order of address. If an address has several names, the plainest is used."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self._symbols = sorted(symbols)
        self._starts = [symbol[0] for symbol in self._symbols]
        ends = (start + size for start, size, _, _ in self._symbols)
        self._reach = list(accumulate(ends, max))

    def __len__(self) -> int:
        return len(set(self._starts))

    def find(self, address: int) -> tuple[str, int] | None:
        """Return the innermost function that covers an address, and its start; None if there is
        none. A function of unknown size covers its first byte. O(log n)."""
        place = bisect_right(self._starts, address) - 1
        for index in range(place, max(place - _STEPS, -1), -1):
            start = self._starts[index]
            if _covers(self._symbols[index], address):
                # The group of one address is sorted by size.
                group = self._symbols[bisect_left(self._starts, start) : index + 1]
                best = min((one for one in group if _covers(one, address)), key=_rank)
                return best[3], start
            if self._reach[index] <= address:
                break
        return None


def _covers(symbol: Symbol, address: int) -> bool:
    return address < symbol[0] + max(symbol[1], 1)


def _rank(symbol: Symbol) -> tuple[object, ...]:
    # The plainest of several names for one address comes first.
    _, size, binding, name = symbol
    exported = binding in (_STB_GLOBAL, _STB_WEAK)
    underscores = len(name) - len(name.lstrip("_"))
    return size == 0, not exported, underscores, len(name), name


def read_symbols(elf: Elf) -> list[Symbol]:
    """Return the functions of .symtab, .dynsym, .gnu_debugdata and .gopclntab, from those that can
    be read."""
    found = []
    for data, names in elf.symbol_tables(".symtab", ".dynsym"):
        for offset, info, _, index, value, size in _SYMBOL.iter_unpack(
            data[: len(data) // 24 * 24]
        ):
            # A label of hand-written code has no type; if it has no size either, it may be
            # anything.
            kind = info & 15
            if index and (kind in (_STT_FUNC, _STT_GNU_IFUNC) or (kind == _STT_NOTYPE and size)):
                text = string(names, offset).partition(b"@")[0].decode("utf-8", "backslashreplace")
                if text:
                    found.append((value, size, info >> 4, text))
    if elf.section(".symtab") is None:
        found += _go(elf)
    return found + _mini(elf)


def is_stripped_go(elf: Elf) -> bool:
    """Return whether a file's only symbols are in the table of Go's runtime, which is read without
    source lines."""
    if elf.section(".symtab") is not None or elf.section(".debug_info") is not None:
        return False
    return elf.section(".zdebug_info") is None and any(map(elf.section, _GO_TABLES))


def _go(elf: Elf) -> list[Symbol]:
    # .gopclntab: Go's runtime keeps the names of all functions, in stripped programs too. The
    # layout is that of Go 1.18 and later (runtime.pcHeader, runtime.functab, runtime._func).
    section = next(filter(None, map(elf.section, _GO_TABLES)), None)
    text = elf.section(".text")
    if section is None or text is None:
        return []
    try:
        data = elf.data(section)
        header = _GO_HEADER.unpack_from(data)
        magic, _, _, pointer, count, _, start, name_at, _, _, _, table_at = header
        if magic not in _GO_MAGICS or pointer != 8:
            return []
        # In position-independent programs a relocation contains the start.
        start = start or text.addr
        rows = data[table_at : table_at + 8 * count + 4]
        offsets = struct.unpack(f"<{len(rows) // 4}I", rows[: len(rows) // 4 * 4])
        found = []
        for entry, function, end in zip(offsets[::2], offsets[1::2], offsets[2::2], strict=False):
            name = struct.unpack_from("<i", data, table_at + function + 4)[0]
            text_of = string(data, name_at + name).decode("utf-8", "backslashreplace")
            if text_of:
                found.append((start + entry, max(end - entry, 0), _STB_GLOBAL, text_of))
    except (Malformed, struct.error):
        return []
    return found


def _mini(elf: Elf) -> list[Symbol]:
    # .gnu_debugdata: a small ELF file, compressed with xz, with the symbols that were stripped.
    section = elf.section(".gnu_debugdata")
    if section is None:
        return []
    try:
        data = lzma.LZMADecompressor(memlimit=1 << 28).decompress(elf.data(section), 1 << 27)
        inner = Elf(lambda offset, size: data[offset : offset + size])
    except (Malformed, lzma.LZMAError, EOFError):
        return []
    return [] if inner.section(".gnu_debugdata") else read_symbols(inner)


def find_debug_file(
    elf: Elf, path: str, directories: Sequence[str] = DEBUG_DIRECTORIES
) -> str | None:
    """Return the separate debug file of an ELF file: by its build-id, otherwise by .gnu_debuglink;
    None if there is none."""
    identity = elf.build_id
    for directory in directories if identity else ():
        candidate = f"{directory}/.build-id/{identity[:2]}/{identity[2:]}.debug"
        if os.path.isfile(candidate):
            return candidate
    section = elf.section(".gnu_debuglink")
    if section is None:
        return None
    data = elf.data(section)[:4096]
    name = os.fsdecode(string(data, 0))
    if not name or "/" in name or len(data) < 8:
        return None
    crc = struct.unpack("<I", data[-4:])[0]
    place = os.path.dirname(os.path.realpath(path))
    candidates = [
        f"{place}/{name}",
        f"{place}/.debug/{name}",
        *(f"{one}{place}/{name}" for one in directories),
    ]
    for candidate in candidates:
        if os.path.isfile(candidate) and not _same(candidate, path) and _crc(candidate) == crc:
            return candidate
    return None


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _crc(path: str) -> int:
    crc = 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                crc = zlib.crc32(piece, crc)
    except OSError:
        return -1
    return crc


def open_elf(path: str) -> Elf:
    """Return the ELF file at a path, which is opened again for each part that is read. Raises
    Malformed if it is not an ELF file."""

    def read(offset: int, size: int) -> bytes:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return b""
        try:
            return file_reader(fd)(offset, size)
        finally:
            os.close(fd)

    return Elf(read)
