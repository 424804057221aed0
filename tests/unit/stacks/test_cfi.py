"""Call-frame information: every row as pyelftools reads it, and no error whatever the bytes are."""

from __future__ import annotations

import io
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from laconic.stacks.cfi import (
    BY_ROW,
    FROM_RBP,
    FROM_RSP,
    GUESS,
    OFFSET,
    OUTERMOST,
    RA,
    RBP,
    CallFrames,
    CfiRow,
    compact,
)
from laconic.stacks.elf import Elf, Malformed
from laconic.stacks.epilogue import epilogue
from laconic.stacks.expression import evaluate, sleb, uleb
from laconic.stacks.modules import BROKEN, Code, Mapping, parse_mappings, read_mappings
from laconic.stacks.symbols import open_elf
from laconic.stacks.table import Frame, Tables

MASK = (1 << 64) - 1
#: How pyelftools calls what `How` numbers.
KINDS = ("OFFSET", "VAL_OFFSET", "EXPRESSION", "VAL_EXPRESSION", "REGISTER", "UNDEFINED")


def libraries() -> list[Path]:
    """The C library, the dynamic linker and others that this process has mapped."""
    found = {
        Path(mapping.path) for mapping in read_mappings(os.getpid()) if mapping.path.startswith("/")
    }
    return sorted(
        path
        for path in found
        if path.name.startswith(("libc.", "ld-", "libm.", "libpthread", "libpython"))
    )


def test_rows_are_pyelftools_rows() -> None:
    rows = 0
    paths = libraries()
    assert paths, "this process has no C library"
    for path in paths:
        ours = Code(open_elf(str(path)), 1, Tables())
        (starts, entries, frames), *_ = ours._sources
        with path.open("rb") as file:
            entities = ELFFile(file).get_dwarf_info().EH_CFI_entries()
        fdes = [entry for entry in entities if isinstance(entry, FDE)]
        assert len(fdes) == len(starts)
        for fde in fdes[:: max(len(fdes) // 150, 1)]:
            place = list(starts).index(fde.header["initial_location"])
            for line in fde.get_decoded().table:
                row = frames.row(entries[place], line["pc"])
                if row is None:  # an entry of no length
                    continue
                same(row, line)
                rows += 1
    assert rows > 300


def same(row: CfiRow, line: dict[Any, Any]) -> None:
    """Both say the same of CFA, the return address and the callee-saved registers."""
    cfa = line["cfa"]
    if cfa.expr is not None:
        assert row.expression == bytes(cfa.expr)
    else:
        assert (row.register, row.offset, row.expression) == (cfa.reg, cfa.offset, None)
    for register in (RA, RBP, 3, 12, 13, 14, 15):
        theirs = line.get(register)
        ours = row.registers.get(register)
        if theirs is None or theirs.type == "SAME_VALUE":
            assert ours is None
            continue
        assert ours is not None and KINDS[ours[0]] == theirs.type
        if ours[0] == OFFSET:
            assert ours[1] == theirs.arg


def test_rows_of_the_usual_shapes_are_compact() -> None:
    usual: dict[int, tuple[int, int | bytes]] = {RA: (OFFSET, -8)}
    assert compact(CfiRow(7, 16, None, usual, False))[:3] == (FROM_RSP, 16, 0)
    saved = usual | {RBP: (OFFSET, -16), 3: (OFFSET, -24)}
    assert compact(CfiRow(6, 16, None, saved, False))[:4] == (FROM_RBP, 16, -2, ((3, -24),))
    assert compact(CfiRow(7, 8, None, {}, False)).shape == OUTERMOST
    slow = (
        CfiRow(10, 0, None, usual, False),
        CfiRow(7, 8, b"\x77\x08", usual, False),
        CfiRow(7, 8, None, usual, True),
        CfiRow(7, -8, None, usual, False),
        CfiRow(7, 8, None, {RA: (OFFSET, -16)}, False),
        CfiRow(7, 8, None, usual | {RBP: (OFFSET, -4)}, False),
        CfiRow(7, 8, None, usual | {7: (OFFSET, -4)}, False),
    )
    assert {compact(row).shape for row in slow} == {BY_ROW}


def image(text: bytes = b"\x90" * 64) -> bytes:
    """A small shared library, written byte by byte: .eh_frame_hdr and .eh_frame for two functions
    of 32 bytes."""
    base = 0x1000
    code = base + 0x200
    cie = (
        struct.pack("<IIB3sBBBBB", 20, 0, 1, b"zR\0", 1, 0x78, 16, 1, 0x1B)
        + b"\x0c\x07\x08\x90\x01\0\0"
    )
    cie = struct.pack("<I", len(cie) - 4) + cie[4:]
    frames = cie
    places = []
    for number in range(2):
        at = len(frames)
        begin = base + 0x40 + at + 8
        instructions = (
            b"\x41\x0e\x10\x86\x02" + b"\0\0"
        )  # after 1 byte: CFA = rsp + 16, rbp at CFA - 16
        body = struct.pack("<IiIB", at + 4, code + 32 * number - begin, 32, 0) + instructions
        frames += struct.pack("<I", len(body)) + body
        places.append((code + 32 * number - base, 0x40 + at))
    header = struct.pack("<BBBBiI", 1, 0x1B, 3, 0x3B, 0x40 - 4, 2)
    header += b"".join(struct.pack("<ii", *place) for place in places)
    segments = struct.pack("<IIQQQQQQ", 1, 5, base, base, base, 0x240, 0x240, 0x1000)
    segments += struct.pack(
        "<IIQQQQQQ", 0x6474E550, 4, base, base, base, len(header), len(header), 4
    )
    elf = struct.pack(
        "<4sBBBBQHHIQQQIHHHHHH",
        b"\x7fELF",
        2,
        1,
        1,
        0,
        0,
        3,
        62,
        1,
        0,
        64,
        0,
        0,
        64,
        56,
        2,
        64,
        0,
        0,
    )
    data = bytearray(base + 0x240)
    data[: len(elf)] = elf
    data[64 : 64 + len(segments)] = segments
    data[base : base + len(header)] = header
    data[base + 0x40 : base + 0x40 + len(frames)] = frames
    data[code : code + 64] = text
    return bytes(data)


def code_of(data: bytes, tables: Tables | None = None) -> Code:
    """The rules of an image in memory."""
    elf = Elf(lambda offset, size: data[offset : offset + size] if offset >= 0 else b"")
    return Code(elf, 1, tables or Tables())


def test_an_image_by_hand() -> None:
    tables = Tables()
    code = code_of(image(), tables)
    assert code.rule(0x1200, True)[:3] == (FROM_RSP, 8, 0)
    assert code.rule(0x1201, True)[:3] == (FROM_RSP, 16, -2)
    assert code.rule(0x1220, False)[:3] == (FROM_RSP, 8, 0)
    assert (
        code.rule(0x1240, False)[0]
        == code.rule(0x11FE, False)[0]
        == code.rule(0x11FF, True)[0]
        == GUESS
    )
    # Returned to and never called: by the entry that begins there.
    entered = code.rule(0x11FF, False)
    assert entered[:2] == (FROM_RSP, 8) and tables.frames[entered[3]] == Frame(
        1, 0x1200, True, False
    )
    assert code.rule(0x1201, True) is code.rule(0x1201, True)
    assert code.elf.bias(0x7F0000001000, 0x1000) == 0x7F0000000000
    assert code.elf.bias(0x7F0000001000, 0x5000) is None


def test_hostile_images() -> None:
    """Thousands of spoilt images: each gives rules or refuses to be one, and none takes long."""
    choose = random.Random(3)
    good = image()
    shapes: set[int | str] = set()
    for _ in range(4000):
        data = bytearray(good)
        for _ in range(choose.randrange(1, 6)):
            place = choose.choice((choose.randrange(0, 200), choose.randrange(0x1000, 0x10A0)))
            data[place] = choose.choice((0, 0xFF, 0x7F, 0x80, choose.randrange(256)))
        if not choose.randrange(8):
            del data[choose.randrange(0x1100) :]
        try:
            code = code_of(bytes(data))
        except Malformed:
            shapes.add("refused")
            continue
        shapes |= {
            code.rule(address, exact)[0]
            for address in (0, 0x1201, 0x1220, 1 << 63)
            for exact in (True, False)
        }
        _ = code.elf.sections, code.elf.build_id, code.elf.bias(0x1000, 0x1000)
    assert {"refused", GUESS, FROM_RSP} <= shapes


def test_hostile_entries() -> None:
    """Random bytes as .eh_frame and as .debug_frame."""
    choose = random.Random(4)
    for _ in range(2000):
        data = choose.randbytes(choose.randrange(4, 120))
        frames = CallFrames(data, 0x1000, choose.random() < 0.5)
        frames.scan()
        for at in (0, 4, len(data) - 1, -5):
            try:
                frames.row(at, 0x1000)
            except BROKEN:
                pass


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (
            "77 08 80 00 3f 1a 3b 2a 33 24 22",
            0x1010,
        ),  # a PLT entry: rsp + 8 + ((rip & 15) >= 11) * 8
        ("77 a0 01 06", 77),  # a signal frame: the word at rsp + 160
        ("08 05 09 fe 1e", MASK - 9),
        ("31 32 12 22 22", 5),
        ("31 32 33 17 1c 1c", 3 - (1 - 2)),
        ("09 f9 32 1b", MASK - 2),
        ("09 ff 1f 34 28 01 00 96 31", 1),
        ("10 80 01 23 02 20 20", 130),
        ("0c ff ff ff ff 38 24 38 25", 0xFFFFFFFF),
    ],
)
def test_expressions(code: str, value: int) -> None:
    memory = {0x1000 + 160: 77}
    registers = {7: 0x1000, 16: 0x401_02B}
    assert evaluate(bytes.fromhex(code), registers, lambda address, size: memory[address]) == value


@pytest.mark.parametrize(
    "code", ["2f fd ff", "22", "06", "ff", "08", "31 30 1d", "2f 00 80", "8f 00", "15 07"]
)
def test_expressions_that_are_none(code: str) -> None:
    with pytest.raises(BROKEN):
        evaluate(bytes.fromhex(code), {7: 0}, lambda address, size: 0)


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("4883c408 c3", (FROM_RSP, 16, 0, ())),
        ("c3", (FROM_RSP, 8, 0, ())),
        ("5d c3", (FROM_RSP, 16, -2, ())),
        ("4881c400010000 5b 5d 415c 58 f3c3", (FROM_RSP, 0x100 + 40, -4, ((3, -40), (12, -24)))),
        ("c9 c3", None),
        ("5c c3", None),
        ("4883c4f8 c3", None),
        ("4883c404 c3", None),
        ("41", None),
        ("5d", None),
        ("", None),
    ],
)
def test_epilogues(code: str, rule: tuple[object, ...] | None) -> None:
    found = epilogue(bytes.fromhex(code))
    assert (found and found[:4]) == rule


def test_numbers() -> None:
    assert uleb(b"\xe5\x8e\x26", 0) == (624485, 3) and uleb(b"\x7f", 0) == (127, 1)
    assert sleb(b"\x9b\xf1\x59", 0) == (-624485, 3) and sleb(b"\x3f", 0) == (63, 1)
    for read in (uleb, sleb):
        with pytest.raises(Malformed):
            read(b"\x80" * 12, 0)
        with pytest.raises(IndexError):
            read(b"\x80", 0)


def test_mappings() -> None:
    text = (
        b"00400000-00401000 r--p 00000000 fe:01 7  /usr/bin/a b\n"
        b"00401000-00402000 r-xp 00001000 fe:01 7  /usr/bin/a b\n"
        b"7f00-7f10 rwxp 00000000 00:00 0\n"
        b"nonsense\n"
        b"7ffe000-7fff000 r-xp 00000000 00:00 0    [vdso]\n"
    )
    assert parse_mappings(text) == [
        Mapping(0x401000, 0x402000, 0x1000, b"fe:01", 7, "/usr/bin/a b", 0x400000),
        Mapping(0x7F00, 0x7F10, 0, b"00:00", 0, "", 0x7F00),
        Mapping(0x7FFE000, 0x7FFF000, 0, b"00:00", 0, "[vdso]", 0x7FFE000),
    ]


def test_this_build_id() -> None:
    for path in libraries():
        with path.open("rb") as file:
            section = ELFFile(io.BytesIO(file.read())).get_section_by_name(".note.gnu.build-id")
            theirs = ""
            if section is not None:
                assert isinstance(section, NoteSection)
                theirs = next(iter(section.iter_notes()))["n_desc"]
        assert open_elf(str(path)).build_id == theirs
