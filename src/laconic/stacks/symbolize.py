"""Frames in words: function, file and line, at report time."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from laconic.stacks.demangle import demangle
from laconic.stacks.elf import Elf
from laconic.stacks.jit import PerfMap, read_perf_map
from laconic.stacks.lines import Line, Lines
from laconic.stacks.modules import BROKEN, read_mappings
from laconic.stacks.symbols import (
    DEBUG_DIRECTORIES,
    SymbolTable,
    find_debug_file,
    open_elf,
    read_symbols,
)
from laconic.stacks.table import CUT, FILE, JIT, PYTHON, Frame, Module


class Place(NamedTuple):
    """One line of a stack as it is shown. `function` is demangled; where it is not known (`known`),
    it is `module+0xaddress`. `file` is "" and `line` 0 where there is no DWARF. `inlined`: into the
    place after it. The module of a Python function is the name of its source file."""

    function: str
    module: str
    file: str = ""
    line: int = 0
    inlined: bool = False
    known: bool = True

    @property
    def is_python(self) -> bool:
        """True for a Python function."""
        return bool(self.file) and self.module == _short(self.file)


def _short(path: str) -> str:
    return path.rpartition("/")[2] or path


@dataclass
class _Symbols:
    table: SymbolTable
    lines: list[Lines]


class Symbolizer:
    """Finds the names of frames. `missing` says of each module that could not be used why;
    `partial`, of which a part could not be, what part and why.

    `perf_maps` are maps by process, where they were kept; of other processes /tmp is looked
    through.
    """

    def __init__(
        self,
        debug_directories: Sequence[str] = DEBUG_DIRECTORIES,
        perf_maps: Mapping[int, PerfMap] | None = None,
    ) -> None:
        self.missing: dict[Module, str] = {}
        self.partial: dict[Module, tuple[str, str]] = {}
        self._directories = debug_directories
        self._symbols: dict[Module, _Symbols | None] = {}
        self._maps: dict[int, PerfMap | None] = dict(perf_maps or {})
        self._places: dict[tuple[Module, int], tuple[Place, ...]] = {}

    def places(self, module: Module, frame: Frame) -> tuple[Place, ...]:
        """What a frame is, innermost first: functions inlined there, and last the one that they are
        inlined into.

        Never empty, never raises. O(size of the module) at first, O(1) for an address that was
        looked up before.
        """
        if module.kind == CUT:
            return (Place(module.path, module.path, known=False),)
        if module.kind == PYTHON:
            return (Place(module.name, _short(module.path), module.path, frame.address),)
        key = module, frame.address << 1 | frame.exact
        places = self._places.get(key)
        if places is None:
            places = self._places[key] = self._find(module, frame)
        return places

    def _find(self, module: Module, frame: Frame) -> tuple[Place, ...]:
        short = _short(module.path)
        if module.kind == JIT:
            name = self._jit(module.pid, frame.lookup)
            return (Place("[jit]" if name is None else name, "[jit]", known=name is not None),)
        unknown = Place(f"{short}+{frame.address:#x}", short, known=False)
        symbols = self._load(module)
        if symbols is None:
            return (unknown,)
        found = symbols.table.find(frame.lookup)
        lines: list[Line] = next(
            (answer for one in symbols.lines if (answer := one.find(frame.lookup))), []
        )
        for one in symbols.lines:
            if one.lost is not None:
                self.partial[module] = one.lost
        if not lines:
            return (unknown if found is None else Place(demangle(found[0]), short),)
        places = [
            Place(demangle(line.function) or "?", short, line.file, line.line, True)
            for line in lines[:-1]
        ]
        # The symbol table knows clones (`.part.0`), and what the code was linked as.
        name = found[0] if found is not None else lines[-1].function
        last = (
            Place(demangle(name), short, *lines[-1][1:])
            if name
            else unknown._replace(file=lines[-1].file)
        )
        return (*places, last)

    def _jit(self, pid: int, address: int) -> str | None:
        if pid not in self._maps:
            self._maps[pid] = read_perf_map(pid)
        found = self._maps[pid]
        name = None if found is None else found.name(address)
        return None if name is None else demangle(name)

    def _load(self, module: Module) -> _Symbols | None:
        if module not in self._symbols:
            try:
                self._symbols[module] = self._read(module)
            except (*BROKEN, OSError) as error:
                self.missing[module] = str(error) or type(error).__name__
                self._symbols[module] = None
        return self._symbols[module]

    def _read(self, module: Module) -> _Symbols | None:
        if module.kind != FILE:
            elf = _own_vdso()
            if elf is None or elf.build_id != module.build_id:
                self.missing[module] = "it is another kernel's"
                return None
            return _Symbols(SymbolTable(read_symbols(elf)), [])
        why = changed(module)
        path = module.path
        if why:
            # The file is gone or another one; its debug file may still be there.
            found = self._by_build_id(module.build_id)
            if found is None:
                self.missing[module] = why
                return None
            path = found
        elf = open_elf(path)
        symbols = read_symbols(elf)
        debug = None if why else find_debug_file(elf, path, self._directories)
        if debug is not None:
            symbols += read_symbols(open_elf(debug))
        return _Symbols(
            SymbolTable(symbols), [Lines(one) for one in (path, debug) if one is not None]
        )

    def _by_build_id(self, identity: str) -> str | None:
        for directory in self._directories if identity else ():
            path = f"{directory}/.build-id/{identity[:2]}/{identity[2:]}.debug"
            if os.path.isfile(path):
                return path
        return None


def changed(module: Module) -> str:
    """Why the file at a module's path is not the one that was mapped; "" where it is that one."""
    try:
        about = os.stat(module.path)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if module.build_id:
        try:
            return (
                ""
                if open_elf(module.path).build_id == module.build_id
                else "it has another build-id now"
            )
        except BROKEN:
            return "it is no ELF file any more"
    if module.size and (about.st_size, about.st_mtime_ns) != (module.size, module.mtime):
        return "it has changed since"
    return ""


def _own_vdso() -> Elf | None:
    image = next((found for found in read_mappings(os.getpid()) if found.path == "[vdso]"), None)
    if image is None:
        return None
    data = ctypes.string_at(image.start, image.end - image.start)
    return Elf(lambda offset, size: data[offset : offset + size])
