"""Frames as text: function, file and line, at report time."""

from __future__ import annotations

import ctypes
import json
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from laconic import __version__
from laconic.stacks import notice
from laconic.stacks.cache import SymbolCache, file_identity, key_of
from laconic.stacks.demangle import demangle, has_demangler
from laconic.stacks.elf import Elf
from laconic.stacks.jit import PerfMap, read_perf_map
from laconic.stacks.lines import Lines
from laconic.stacks.modules import BROKEN, read_mappings
from laconic.stacks.symbols import (
    DEBUG_DIRECTORIES,
    Line,
    SymbolTable,
    find_debug_file,
    is_stripped_go,
    open_elf,
    read_symbols,
)
from laconic.stacks.table import CUT, FILE, JIT, PYTHON, Frame, Module


class Place(NamedTuple):
    """One line of a stack as it is shown. `function` is demangled; if it is unknown (not `known`),
    it is `module+0xaddress`. `file` is "" and `line` 0 if there is no DWARF. `inlined`: into the
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


class _Symbols:
    """The symbols of one module: its symbol tables and DWARF, read when an address is looked up
    that no earlier report has looked up."""

    def __init__(
        self, elfs: Sequence[Elf], paths: Sequence[str], cache: SymbolCache | None
    ) -> None:
        self._elfs = elfs
        self._paths = paths
        self._cache = cache

    @cached_property
    def table(self) -> SymbolTable:
        return SymbolTable(symbol for elf in self._elfs for symbol in read_symbols(elf))

    @cached_property
    def lines(self) -> list[Lines]:
        return [Lines(path, self._cache) for path in self._paths]


class _Known:
    """The places of the addresses of one module that were looked up, by this or an earlier report.

    If there are new ones, they are stored in the cache when their symbolizer is deleted, unless a
    part of the module's symbols could not be read: every report then says so, and tries again.
    """

    def __init__(self, cache: SymbolCache, key: str) -> None:
        self._cache = cache
        self._key = key
        self._new = 0
        self.partial = False
        data = cache.read(key, "names")
        self.places: dict[str, list[list[Any]]] = {} if data is None else json.loads(data)

    def find(self, frame: Frame) -> tuple[Place, ...] | None:
        found = self.places.get(frame.key)
        return None if found is None else tuple(Place(*place) for place in found)

    def add(self, frame: Frame, places: Sequence[Place]) -> None:
        self.places[frame.key] = [list(place) for place in places]
        self._new += 1

    def save(self) -> None:
        if self._new and not self.partial:
            self._new = 0
            text = json.dumps(self.places, separators=(",", ":"))
            self._cache.write(self._key, "names", text.encode())


def _save(known: Mapping[Module, _Known]) -> None:
    for one in known.values():
        one.save()


class Symbolizer:
    """Finds the names of frames. `missing` has the reason for each module that could not be used;
    `partial`, the part of a module that could not be named, and why.

    `perf_maps` are the stored maps by process; for other processes /tmp is searched. `cache` is the
    user's; new symbols are stored there when the symbolizer is deleted.
    """

    def __init__(
        self,
        debug_directories: Sequence[str] = DEBUG_DIRECTORIES,
        perf_maps: Mapping[int, PerfMap] | None = None,
        cache: SymbolCache | None = None,
    ) -> None:
        self.missing: dict[Module, str] = {}
        self.partial: dict[Module, tuple[str, str]] = {}
        self._directories = debug_directories
        self._cache = cache or SymbolCache()
        self._symbols: dict[Module, _Symbols | None] = {}
        self._known: dict[Module, _Known] = {}
        self._maps: dict[int, PerfMap | None] = dict(perf_maps or {})
        self._places: dict[tuple[Module, int], tuple[Place, ...]] = {}
        self._seconds = 0.0
        weakref.finalize(self, _save, self._known)

    def places(self, module: Module, frame: Frame) -> tuple[Place, ...]:
        """Return the places of a frame, innermost first: functions inlined there, and last the
        function that they are inlined into.

        Never empty, never raises. O(size of the module) the first time, O(1) for an address that
        was looked up before.
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
        known = self._known.get(module)
        places = None if known is None else known.find(frame)
        if places is None:
            try:
                with self._noticed(short):
                    places = self._read_places(module, symbols, frame, unknown)
            except (*BROKEN, OSError) as error:
                self._miss(module, error)
                return (unknown,)
            if known is not None:
                known.partial = module in self.partial
                known.add(frame, places)
        return places

    @contextmanager
    def _noticed(self, module: str) -> Iterator[None]:
        began = time.monotonic()
        patience = notice.PATIENCE - self._seconds
        with notice.show(f"reading symbols of {module}", patience):
            yield
        self._seconds += time.monotonic() - began

    def _read_places(
        self, module: Module, symbols: _Symbols, frame: Frame, unknown: Place
    ) -> tuple[Place, ...]:
        short = unknown.module
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
        # The symbol table contains clones (`.part.0`), and the name under which the code was
        # linked.
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
                self._miss(module, error)
        return self._symbols[module]

    def _miss(self, module: Module, error: Exception) -> None:
        self.missing[module] = str(error) or type(error).__name__
        self._symbols[module] = None

    def _read(self, module: Module) -> _Symbols | None:
        if module.kind != FILE:
            elf = _own_vdso()
            if elf is None or elf.build_id != module.build_id:
                self.missing[module] = "it is another kernel's"
                return None
            return _Symbols([elf], [], self._cache)
        why = changed(module)
        path = module.path
        if why:
            # The file is gone, or is a different one; its debug file may still be there.
            found = self._by_build_id(module.build_id)
            if found is None:
                self.missing[module] = why
                return None
            path = found
        elfs, paths = [open_elf(path)], [path]
        debug = None if why else find_debug_file(elfs[0], path, self._directories)
        if debug is not None:
            elfs.append(open_elf(debug))
            paths.append(debug)
        if debug is None and is_stripped_go(elfs[0]):
            known = "its function names are from the table that Go's runtime keeps"
            self.partial[module] = "source lines", f"it is stripped; {known}"
        identities = [
            file_identity(path, elf.build_id) for path, elf in zip(paths, elfs, strict=True)
        ]
        short = os.path.basename(module.path)
        key = key_of(__version__, str(has_demangler()), short, *identities)
        self._known[module] = _Known(self._cache, key)
        return _Symbols(elfs, paths, self._cache)

    def _by_build_id(self, identity: str) -> str | None:
        for directory in self._directories if identity else ():
            path = f"{directory}/.build-id/{identity[:2]}/{identity[2:]}.debug"
            if os.path.isfile(path):
                return path
        return None


def changed(module: Module) -> str:
    """Return why the file at a module's path is not the one that was mapped; "" if it is."""
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
            return "it is not an ELF file any more"
    if module.size and (about.st_size, about.st_mtime_ns) != (module.size, module.mtime):
        return "it has changed since"
    return ""


def _own_vdso() -> Elf | None:
    image = next((found for found in read_mappings(os.getpid()) if found.path == "[vdso]"), None)
    if image is None:
        return None
    data = ctypes.string_at(image.start, image.end - image.start)
    return Elf(lambda offset, size: data[offset : offset + size])
