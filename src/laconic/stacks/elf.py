"""The parts of an ELF file that unwinding and symbols need: segments, sections, the build-id.
64-bit x86 only.

An image is read by a function `(offset, size) -> bytes` that returns fewer bytes past the end; it
reads from a file, or from a process's memory. Whatever the bytes are, the only exception raised is
Malformed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Final, NamedTuple

Reader = Callable[[int, int], bytes]

PT_LOAD: Final = 1
PT_NOTE: Final = 4
PT_GNU_EH_FRAME: Final = 0x6474E550
SHT_NOBITS: Final = 8
SHF_COMPRESSED: Final = 0x800
EM_X86_64: Final = 62
_NT_GNU_BUILD_ID = 3

_HEADER = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
#: Limits: the bytes of a section that is read, and the segments or sections of a file.
_MOST: Final = 1 << 28
_COUNT: Final = 1 << 14


class Malformed(Exception):
    """The bytes are not a valid ELF image."""


class Segment(NamedTuple):
    """A program header; bytes."""

    kind: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


class Section(NamedTuple):
    """A section header; bytes. `link` is the number of another section."""

    name: str
    kind: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    entsize: int


class Elf:
    """One ELF image. `by_vaddr`: the reader takes addresses of the program, not offsets in the
    file.

    Raises Malformed if it is not an ELF image, or is for another machine.
    """

    def __init__(self, read: Reader, by_vaddr: bool = False) -> None:
        self._read = read
        self._by_vaddr = by_vaddr
        header = read(0, _HEADER.size)
        if len(header) < _HEADER.size:
            raise Malformed("the ELF header is cut off")
        fields = _HEADER.unpack(header)
        magic, bits, order, self.kind, machine = fields[:5]
        if magic != b"\x7fELF" or bits != 2 or order != 1 or machine != EM_X86_64:
            raise Malformed("no 64-bit x86 ELF file")
        phoff, self._shoff = fields[7:9]
        phentsize, phnum, shentsize, self._shnum, self._shstrndx = fields[11:]
        self._shentsize = shentsize
        if phentsize != _SEGMENT.size and phnum:
            raise Malformed("program headers of an unknown size")
        table = read(phoff, min(phnum, _COUNT) * _SEGMENT.size)
        self.segments = []
        for place in range(len(table) // _SEGMENT.size):
            kind, flags, offset, vaddr, _, filesz, memsz, _ = _SEGMENT.unpack_from(
                table, place * _SEGMENT.size
            )
            self.segments.append(Segment(kind, flags, offset, vaddr, filesz, memsz))

    def bias(self, start: int, offset: int, executable: bool = True) -> int | None:
        """Return what a mapping of file offset `offset` at `start` adds to every address of the
        image; None if no segment is mapped from there."""
        for segment in self.segments:
            # The kernel maps whole pages, from the page that contains the start of the segment.
            first = segment.offset & -4096
            if segment.kind != PT_LOAD or (executable and not segment.flags & 1):
                continue
            if first <= offset < segment.offset + max(segment.filesz, 1):
                return start - (segment.vaddr + offset - segment.offset)
        return None

    def at(self, vaddr: int, size: int) -> bytes:
        """Return up to `size` bytes at an address, up to the end of its segment in the file."""
        for kind, _, offset, segment_start, filesz, _ in self.segments:
            if kind == PT_LOAD and segment_start <= vaddr < segment_start + filesz:
                size = min(size, segment_start + filesz - vaddr, _MOST)
                return self._read(vaddr if self._by_vaddr else offset + vaddr - segment_start, size)
        return b""

    @cached_property
    def sections(self) -> list[Section]:
        """Return the section headers; empty if there are none, as in memory."""
        if self._by_vaddr or not self._shoff or self._shentsize != _SECTION.size:
            return []
        table = self._read(self._shoff, min(self._shnum, _COUNT) * _SECTION.size)
        raw = [
            _SECTION.unpack_from(table, at)
            for at in range(0, len(table) - _SECTION.size + 1, _SECTION.size)
        ]
        names = b""
        if self._shstrndx < len(raw):
            names = self._read(raw[self._shstrndx][4], min(raw[self._shstrndx][5], 1 << 20))
        found = []
        for name, kind, flags, addr, offset, size, link, _, _, entsize in raw:
            text = string(names, name).decode("utf-8", "replace")
            found.append(Section(text, kind, flags, addr, offset, size, link, entsize))
        return found

    def section(self, name: str) -> Section | None:
        """Return the first section of a name that has bytes in the file."""
        for section in self.sections:
            if section.name == name and section.kind != SHT_NOBITS:
                return section
        return None

    def symbol_tables(self, *names: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield the symbols and the names of each of these sections that can be read."""
        for name in names:
            section = self.section(name)
            if section is None or not 0 < section.link < len(self.sections):
                continue
            try:
                tables = self.data(section), self.data(self.sections[section.link])
            except Malformed:
                continue
            yield tables

    def data(self, section: Section) -> bytes:
        """Return a section's bytes, decompressed if they are compressed (zlib). Raises Malformed if
        it is too large."""
        if section.kind == SHT_NOBITS:
            return b""
        if section.size > _MOST:
            raise Malformed("a section is too large")
        raw = self._read(section.offset, section.size)
        if not section.flags & SHF_COMPRESSED:
            return raw
        if len(raw) < 24:
            raise Malformed("a compressed section is cut off")
        kind, _, size, _ = struct.unpack_from("<IIQQ", raw)
        if kind != 1 or size > _MOST:
            raise Malformed("a section is compressed in an unknown way")
        try:
            return zlib.decompressobj().decompress(raw[24:], size)
        except zlib.error as error:
            raise Malformed("a compressed section is broken") from error

    @cached_property
    def build_id(self) -> str:
        """Return the build-id in hexadecimal; empty if there is none."""
        for segment in self.segments:
            if segment.kind == PT_NOTE:
                where = segment.vaddr if self._by_vaddr else segment.offset
                found = _build_id(self._read(where, min(segment.filesz, 1 << 16)))
                if found:
                    return found
        return ""


def _build_id(notes: bytes) -> str:
    at = 0
    while at + 12 <= len(notes):
        namesz, descsz, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        desc = name + (namesz + 3 & -4)
        if kind == _NT_GNU_BUILD_ID and notes[name : name + namesz] == b"GNU\0" and descsz <= 64:
            return notes[desc : desc + descsz].hex()
        at = desc + (descsz + 3 & -4)
    return ""


def string(table: bytes, at: int) -> bytes:
    """Return the zero-terminated string at an offset of a string table; empty past its end."""
    end = table.find(b"\0", at) if at < len(table) else at
    return table[at : end if end >= 0 else len(table)]


def file_reader(fd: int) -> Reader:
    """Return a reader of an open file, which may be truncated or change while it is read."""

    def read(offset: int, size: int) -> bytes:
        try:
            return os.pread(fd, min(size, _MOST), offset)
        except (OSError, OverflowError, ValueError):
            return b""

    return read
