"""Source lines and inlined functions by address, from an ELF file's DWARF, through pyelftools: for
the places that `lines` does not find with symbolic.

Only the units that contain a requested address are read. Broken DWARF yields no answer, whatever
pyelftools does with it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile

from laconic.stacks.symbols import Line

_INLINED = "DW_TAG_inlined_subroutine"
_CONTAINERS = {
    "DW_TAG_namespace",
    "DW_TAG_class_type",
    "DW_TAG_structure_type",
    "DW_TAG_union_type",
    "DW_TAG_enumeration_type",
    "DW_TAG_module",
}
_DWO = {"DW_AT_dwo_name", "DW_AT_GNU_dwo_name"}
_SCOPES = {_INLINED, "DW_TAG_lexical_block", "DW_TAG_try_block", "DW_TAG_catch_block"}
#: Limits on the nesting of inlined functions and scopes, and on the references from one entry to
#: another that are followed.
_DEPTH, _REFERENCES = 200, 8


class _Function(NamedTuple):
    start: int
    end: int
    die: Any


class _CompileUnit:
    """One compilation unit: its functions and lines, read when first needed."""

    def __init__(self, dwarf: Any, cu: Any) -> None:
        self._dwarf = dwarf
        self._cu = cu
        self._lines: list[tuple[int, int, int]] | None = None
        self._starts: list[int] = []
        self._functions: list[_Function] | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The attributes of the unit's own entry."""
        found: dict[str, Any] = self._cu.get_top_DIE().attributes
        return found

    def line(self, address: int) -> tuple[int, int]:
        """Return (file's number, line) of an address; zeros if there is none."""
        if self._lines is None:
            # Among rows with the same address the last one counts; the end of another sequence at
            # that address comes before them.
            self._lines = sorted(self._rows(), key=lambda row: (row[0], row[1] >= 0))
            self._starts = [row[0] for row in self._lines]
        place = bisect_right(self._starts, address) - 1
        return self._lines[place][1:] if place >= 0 else (0, 0)

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        program = self._dwarf.line_program_for_CU(self._cu)
        if program is None:
            return
        sequence: list[tuple[int, int, int]] = []
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if not state.end_sequence:
                sequence.append((state.address, state.file, state.line))
                continue
            # The linker leaves the sequences of functions that it dropped at address 0.
            if sequence and sequence[0][0]:
                yield from sequence
                yield state.address, -1, 0
            sequence = []

    def file(self, number: int) -> str:
        """Return the path of a file of this unit; "" if there is none."""
        program = self._dwarf.line_program_for_CU(self._cu)
        if program is None or number < 0:
            return ""
        header = program.header
        new = header["version"] >= 5
        files, directories = header["file_entry"], header["include_directory"]
        index = number if new else number - 1
        if not 0 <= index < len(files):
            return ""
        entry = files[index]
        place = entry["dir_index"] if new else entry["dir_index"] - 1
        directory = _text(directories[place]) if 0 <= place < len(directories) else ""
        base = _text(_value(self._cu.get_top_DIE(), "DW_AT_comp_dir") or b"")
        return os.path.normpath(os.path.join(base, directory, _text(entry["name"])))

    def chain(self, address: int) -> list[Any]:
        """Return the function around an address, and the functions inlined there, outermost first,
        as DIEs."""
        if self._functions is None:
            found = self._find(self._cu.get_top_DIE(), 0)
            self._functions = sorted(found, key=lambda function: function.start)
        place = bisect_right(self._functions, address, key=lambda function: function.start) - 1
        if place < 0 or address >= self._functions[place].end:
            return []
        chain = [self._functions[place].die]
        die: Any = chain[0]
        for _ in range(_DEPTH):
            die = self._inner(die, address)
            if die is None:
                break
            if die.tag == _INLINED:
                chain.append(die)
        return chain

    def _find(self, parent: Any, depth: int) -> Iterator[_Function]:
        for die in parent.iter_children():
            if die.tag == "DW_TAG_subprogram":
                for start, end in self.ranges(die):
                    yield _Function(start, end, die)
            elif die.tag in _CONTAINERS and depth < _DEPTH:
                yield from self._find(die, depth + 1)

    def _inner(self, die: Any, address: int) -> Any:
        for child in die.iter_children():
            if child.tag in _SCOPES and any(
                start <= address < end for start, end in self.ranges(child)
            ):
                return child
        return None

    def ranges(self, die: Any) -> Iterator[tuple[int, int]]:
        """Yield the address ranges of a DIE's code."""
        attributes = die.attributes
        if "DW_AT_ranges" in attributes:
            base = _value(self._cu.get_top_DIE(), "DW_AT_low_pc") or 0
            lists = self._dwarf.range_lists()
            entries = (
                lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, self._cu)
                if lists
                else ()
            )
            for entry in entries:
                if isinstance(entry, BaseAddressEntry):
                    base = entry.base_address
                elif entry.begin_offset < entry.end_offset:
                    add = 0 if getattr(entry, "is_absolute", False) else base
                    yield entry.begin_offset + add, entry.end_offset + add
        elif "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
            low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
            yield low, high.value if high.form == "DW_FORM_addr" else low + high.value


class Units:
    """The compilation units of one file. `path` may be the program's own, or its separate debug
    file.

    `lost`: which of its data is unknown, and why. `broken`: none of it can be read.
    """

    def __init__(self, path: str) -> None:
        self.lost: tuple[str, str] | None = None
        self.broken = False
        self._units: list[tuple[int, int, int]] = []
        self._starts: list[int] = []
        self._known: dict[int, _CompileUnit] = {}
        self._dwarf: Any = None
        try:
            # A link to a supplementary file is relative to the file that contains the link.
            elf = ELFFile(
                _open(path),
                lambda name: _open(os.path.join(os.path.dirname(path), os.fsdecode(name))),
            )
            if elf.has_dwarf_info(strict=True):
                self._dwarf = elf.get_dwarf_info(follow_links=True)
                self._units = sorted(self._find_units())
                self._starts = [unit[0] for unit in self._units]
        except Exception as error:  # hostile files: pyelftools may raise anything
            self._dwarf = None
            self.broken = True
            why = (
                "it is compressed by zstd"
                if "compression type: 0x2" in str(error)
                else "it is broken"
            )
            self.lost = "lines", f"its DWARF cannot be read, {why}"

    def _find_units(self) -> Iterator[tuple[int, int, int]]:
        # (start, end, offset of the unit): from .debug_aranges, and from the units themselves if it
        # does not contain them.
        covered = set()
        aranges = self._dwarf.get_aranges()
        if aranges is not None:
            for entry in aranges.entries:
                covered.add(entry.info_offset)
                yield entry.begin_addr, entry.begin_addr + entry.length, entry.info_offset
        for cu in self._dwarf.iter_CUs():
            if cu.cu_offset not in covered:
                for start, end in _CompileUnit(self._dwarf, cu).ranges(cu.get_top_DIE()):
                    yield start, end, cu.cu_offset

    def find(self, address: int) -> list[Line]:
        """Return the places of an address, innermost first: an inlined function, where it is
        inlined, and so on; the last is the function itself. Empty if DWARF has no place. The first
        call takes O(size of the unit)."""
        if self._dwarf is None:
            return []
        try:
            return self._find(address)
        except Exception:  # as above
            return []

    def _find(self, address: int) -> list[Line]:
        place = bisect_right(self._starts, address) - 1
        # A unit whose range was given with size 0, or one nested in another, may come between.
        for index in range(place, max(place - 4, -1), -1):
            start, end, offset = self._units[index]
            if start <= address < end:
                break
        else:
            return []
        unit = self._known.get(offset)
        if unit is None:
            unit = self._known[offset] = _CompileUnit(self._dwarf, self._dwarf.get_CU_at(offset))
        number, line = unit.line(address)
        found = []
        for die in reversed(unit.chain(address)):
            found.append(Line(_name(die), unit.file(number), line))
            number, line = _value(die, "DW_AT_call_file") or 0, _value(die, "DW_AT_call_line") or 0
        if not found and _DWO & unit.about.keys():
            self.lost = (
                "inlined functions",
                "they are in .dwo files (-gsplit-dwarf), which are not read",
            )
        if not found and line:
            found.append(Line("", unit.file(number), line))
        return found


def _open(path: str) -> BinaryIO:
    # A link may name anything; reading a file that is not a plain one could block.
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    return open(path, "rb")


def _value(die: Any, name: str) -> Any:
    attribute = die.attributes.get(name)
    return None if attribute is None else attribute.value


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def _name(die: Any) -> str:
    # The linkage name distinguishes overloads and namespaces; it may be with the declaration.
    plain, last = "", die
    for _ in range(_REFERENCES):
        for name in ("DW_AT_linkage_name", "DW_AT_MIPS_linkage_name"):
            if name in die.attributes:
                return _text(_value(die, name))
        plain = _text(_value(die, "DW_AT_name") or b"") or plain
        last = die
        for reference in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if reference in die.attributes:
                die = die.get_DIE_from_attribute(reference)
                break
        else:
            break
    # Without a linkage name, the scopes in which it is declared precede it.
    scopes = [plain]
    for _ in range(_DEPTH):
        last = last.get_parent()
        if last is None or last.tag not in _CONTAINERS or not plain:
            break
        scopes.append(_text(_value(last, "DW_AT_name") or b"(anonymous)"))
    return "::".join(reversed(scopes))
