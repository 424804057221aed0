"""Source lines and inlined functions by address: through symbolic, and through pyelftools for what
symbolic omits.

symbolic converts all DWARF of a file at once into a symcache, which can be queried in microseconds.
It omits the following, which are looked up through `dwarf`:

- the namespace and class of a function without a linkage name (GCC writes none for functions that
  no other file can call), and the names of functions that dwz has moved to a supplementary file;
- lines of code that no function's entry covers: all of a unit that was compiled with -gsplit-dwarf,
  and functions whose entry link-time optimization has dropped.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from laconic.stacks.cache import SymbolCache, file_identity, key_of
from laconic.stacks.elf import PT_LOAD, Elf, Malformed
from laconic.stacks.symbols import Line, open_elf

if TYPE_CHECKING:
    from laconic.stacks.dwarf import Units

#: Languages with namespaces, and how their linkage names begin.
_SCOPED: Final = {"cpp": ("_Z",), "objcpp": ("_Z",), "rust": ("_Z", "_R")}
#: A symcache contains addresses of 32 bits.
_HIGHEST: Final = (1 << 32) - 1


class Lines:
    """The DWARF of one file. `path` may be the program's own, or its separate debug file.

    `lost`: which of its data is unknown, and why. O(size of the DWARF) without a cache.
    """

    def __init__(self, path: str, cache: SymbolCache | None = None) -> None:
        self.lost: tuple[str, str] | None = None
        self._path = path
        self._symcache: Any = None
        self._units: Units | None = None
        self._base = 0
        self._present = False
        try:
            elf = open_elf(path)
            self._present = any(elf.section(name) for name in (".debug_info", ".zdebug_info"))
            if self._present:
                loaded = (part.vaddr for part in elf.segments if part.kind == PT_LOAD)
                self._base = next(loaded, 0)
                self._elf = elf
                self._symcache = _symcache(path, elf.build_id, cache)
        except (Malformed, OSError):
            self._present = False

    def find(self, address: int) -> list[Line]:
        """Return the places of an address, innermost first: an inlined function, where it is
        inlined, and so on; the last is the function itself. Empty if DWARF has no place. O(log
        lines), or O(size of the unit) for what symbolic omits."""
        if not self._present:
            return []
        if self._symcache is None:
            return self._read_units(address, [])
        places = self._look_up(address)
        lines = [
            Line(place.symbol, os.path.normpath(place.full_path), place.line)
            for place in places
            if place.full_path
        ]
        if not lines and not self._is_covered(address):
            return []
        unnamed = any(
            not place.symbol
            or (place.lang in _SCOPED and not place.symbol.startswith(_SCOPED[place.lang]))
            for place in places[:-1]
        )
        if not lines or unnamed:
            return self._read_units(address, lines)
        return lines

    def _look_up(self, address: int) -> list[Any]:
        offset = address - self._base
        if not 0 <= offset < _HIGHEST:
            return []
        try:
            return list(self._symcache.lookup(offset))
        except Exception:  # damaged DWARF: symbolic may raise anything
            return []

    def _read_units(self, address: int, lines: list[Line]) -> list[Line]:
        if self._units is None:
            from laconic.stacks.dwarf import Units

            self._units = Units(self._path)
        found = self._units.find(address)
        if self._symcache is None or not self._units.broken:
            self.lost = self._units.lost
        return found or lines

    def _is_covered(self, address: int) -> bool:
        # Whether a unit has a line for code that no function covers. `_start` is at the end of most
        # stacks and has none, and searching the units for it may take seconds.
        if self._ranges is None:
            return self._is_split
        starts, ends = self._ranges
        place = bisect_right(starts, address) - 1
        return place >= 0 and address < ends[place]

    @cached_property
    def _ranges(self) -> tuple[list[int], list[int]] | None:
        return _ranges(self._elf)

    @cached_property
    def _is_split(self) -> bool:
        # Assemblers and GCC write .debug_aranges. In the output of other compilers, functions cover
        # all code, unless they are in .dwo files.
        for name in (".debug_str", ".debug_line_str"):
            section = self._elf.section(name)
            try:
                if section is not None and b".dwo\0" in self._elf.data(section):
                    return True
            except Malformed:
                continue
        return False


def _symcache(path: str, build_id: str, cache: SymbolCache | None) -> Any:
    # Return None if symbolic cannot read the file, or is not installed: it does not have wheels for
    # every C library.
    key = "" if cache is None else key_of(file_identity(path, build_id))
    known = None if cache is None else cache.read(key, "symcache")
    try:
        library = _symbolic()
        if known is not None:
            symcache = library.SymCache.from_bytes(known)
            if symcache.is_latest_version:
                return symcache
        symcache = next(library.Archive.open(os.fsencode(path)).iter_objects()).make_symcache()
        if cache is not None:
            cache.write(key, "symcache", symcache.open_stream().read())
        return symcache
    except Exception:  # hostile files: symbolic may raise anything
        return None


def _symbolic() -> Any:
    # Imported for the first file that has DWARF, because that takes 30 ms. The import sets a
    # variable that Rust programs obey, which a report must not change.
    name = "RUST_BACKTRACE"
    before = os.environ.get(name)
    import symbolic

    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before
    return symbolic


def _ranges(elf: Elf) -> tuple[list[int], list[int]] | None:
    # The addresses that .debug_aranges covers, as sorted starts and their ends; None if it is
    # missing or unreadable. O(ranges log ranges).
    section = elf.section(".debug_aranges")
    if section is None:
        return None
    found = []
    try:
        data = elf.data(section)
        at = 0
        while at + 16 <= len(data):
            length, _, _, width, _ = struct.unpack_from("<IHIBB", data, at)
            if length >= 0xFFFFFFF0 or width != 8:
                return None
            end = at + 4 + length
            pairs = data[at + 16 : end]  # they are aligned to their size
            for start, size in struct.iter_unpack("<QQ", pairs[: len(pairs) // 16 * 16]):
                if size:
                    found.append((start, start + size))
            at = end
    except Malformed:
        return None
    found.sort()
    return [start for start, _ in found], [end for _, end in found]
