"""The code that is mapped: a process's executable mappings, and the call-frame information of their
ELF files."""

from __future__ import annotations

import os
import stat
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple

from laconic.memory.rangemap import range_text
from laconic.stacks.cfi import BY_CALL, CallFrames, Compact, compact, encoded
from laconic.stacks.elf import PT_GNU_EH_FRAME, Elf, Malformed, Reader, file_reader
from laconic.stacks.memory import Memory
from laconic.stacks.table import FILE, JIT, PYTHON, VDSO, Frame, Module, Tables

_DELETED = " (deleted)"
#: The encoding that every linker uses for .eh_frame_hdr's table: DW_EH_PE_datarel |
#: DW_EH_PE_sdata4.
_TABLE_ENCODING = 0x3B
#: Exceptions that decoding hostile bytes may raise.
BROKEN: Final = (
    Malformed,
    IndexError,
    KeyError,
    ValueError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    struct.error,
)
#: The maximum number of files that are kept open until the end of a run.
_KEPT: Final = 200
#: Bytes of an entry of a symbol table.
_SYMBOL: Final = 24
#: The maximum number of bytes that are read of .eh_frame_hdr, and of a section of entries.
_TABLE, _ENTRIES = 1 << 25, 1 << 26
#: A rule as the unwinder's loop uses it: shape, offset and rbp of `Compact`, the frame's number,
#: `saved`, `row`.
Rule = tuple[int, int, int, int, tuple[tuple[int, int], ...], object]


class Mapping(NamedTuple):
    """An executable mapping, in bytes. `base` is the address at which the file's first byte is
    mapped, 0 if it is not."""

    start: int
    end: int
    offset: int
    device: bytes
    inode: int
    path: str
    base: int


def parse_mappings(text: bytes) -> list[Mapping]:
    """Return the executable mappings in the text of `/proc/PID/maps`, in order. O(lines)."""
    found = []
    base, of = 0, b""
    for line in text.splitlines():
        parts = line.split(None, 5)
        if len(parts) < 5:
            continue
        file = b" ".join(parts[3:])
        if parts[2] == b"00000000":
            base, of = int(parts[0].partition(b"-")[0], 16), file
        if b"x" in parts[1]:
            start, end = (int(address, 16) for address in parts[0].split(b"-"))
            path = os.fsdecode(parts[5]).replace("\\012", "\n") if len(parts) > 5 else ""
            known = base if of == file else 0
            found.append(
                Mapping(start, end, int(parts[2], 16), parts[3], int(parts[4]), path, known)
            )
    return found


def read_mappings(pid: int) -> list[Mapping]:
    """Return the executable mappings of a process; empty if it is gone, or hides them. O(VMAs)."""
    try:
        with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
            return parse_mappings(file.readall() or b"")
    except OSError:
        return []


class Code:
    """One module's rules by address, shared by all processes that map it. `runtime` and `version`:
    the addresses of CPython's `_PyRuntime` and `Py_Version`, 0 if the module has none."""

    def __init__(self, elf: Elf, number: int, tables: Tables) -> None:
        self.elf = elf
        self.number = number
        section = elf.section(".PyRuntime")
        self.runtime = 0 if section is None else section.addr
        self.version = symbol_address(elf, b"Py_Version") if self.runtime else 0
        self._tables = tables
        self._rules: dict[int, Rule] = {}
        self._sources: list[tuple[Sequence[int], Sequence[int], CallFrames]] = []
        for load in (self._load_header, self._load_eh_frame, self._load_debug_frame):
            try:
                # Without its table all of .eh_frame must be scanned.
                if load != self._load_eh_frame or not self._sources:
                    load()
            except BROKEN:
                pass

    def rule(self, lookup: int, exact: bool) -> Rule:
        """Return the rule for an address of the ELF file. O(log entries) the first time, then
        O(1)."""
        key = ~lookup if exact else lookup
        rule = self._rules.get(key)
        if rule is None:
            how = self._compact(lookup)
            if (
                how is BY_CALL
                and not exact
                and (entered := self._compact(lookup + 1, True)) is not BY_CALL
            ):
                # A function's first byte is not preceded by a call: the address was put on the
                # stack to be returned to (__start_context of makecontext).
                how, lookup, exact = entered, lookup + 1, True
            rule = self._rules[key] = make_rule(self._tables, how, self.number, lookup, exact)
        return rule

    def _compact(self, lookup: int, first: bool = False) -> Compact:
        # Return the rule of the entry that covers an address; `first`: only an entry that starts
        # there.
        for starts, entries, frames in self._sources:
            place = bisect_right(starts, lookup) - 1
            if place < 0 or (first and starts[place] != lookup):
                continue
            try:
                row = frames.row(entries[place], lookup)
                if row is not None:
                    return compact(row)
            except BROKEN:
                continue
        return BY_CALL

    def _load_header(self) -> None:
        # .eh_frame_hdr: a table of (first address, entry), sorted; both are relative to the header
        # itself.
        segment = next((part for part in self.elf.segments if part.kind == PT_GNU_EH_FRAME), None)
        if segment is None:
            return
        header = self.elf.at(segment.vaddr, min(segment.filesz, _TABLE))
        if len(header) < 12 or header[0] != 1 or header[3] != _TABLE_ENCODING:
            return
        address, at = encoded(header[1], header, 4, segment.vaddr, segment.vaddr)
        count, at = encoded(header[2], header, at, segment.vaddr, segment.vaddr)
        count = min(count, (len(header) - at) // 8)
        table = array("i", header[at : at + 8 * count])
        section = self.elf.section(".eh_frame")
        size = (
            min(section.size, _ENTRIES)
            if section is not None and section.addr == address
            else _ENTRIES
        )
        base = segment.vaddr
        starts = array("q", [base + start for start in table[::2]])
        entries = array("q", [base + entry - address for entry in table[1::2]])
        self._sources.append(
            (starts, entries, CallFrames(self.elf.at(address, size), address, True))
        )

    def _load_eh_frame(self) -> None:
        section = self.elf.section(".eh_frame")
        if section is not None and section.size <= _ENTRIES:
            self._add(CallFrames(self.elf.data(section), section.addr, True))

    def _load_debug_frame(self) -> None:
        section = self.elf.section(".debug_frame")
        if section is not None and section.size <= _ENTRIES:
            self._add(CallFrames(self.elf.data(section), 0, False))

    def _add(self, frames: CallFrames) -> None:
        found = frames.scan()
        if found:
            self._sources.append(
                ([start for start, _ in found], [entry for _, entry in found], frames)
            )


_MASK = (1 << 64) - 1


def make_rule(tables: Tables, how: Compact, module: int, lookup: int, exact: bool) -> Rule:
    """Return the rule for one address, with the number of its frame."""
    address = lookup if exact else lookup + 1 & _MASK
    # A signal handler returns to the first byte of what the kernel put there, which was not called.
    exact = exact or (how.row is not None and how.row.signal)
    frame = tables.frames.number(Frame(module, address, exact, False))
    return how.shape, how.offset, how.rbp, frame, how.saved, how.row


class Modules:
    """The code of all files that the processes of a run have mapped. `tables` contains their
    frames.

    `kept`: with `keep`, module → a descriptor of its file, if the file may be gone before the
    report is made, because it is in a temporary directory or deleted already. The caller closes a
    descriptor that it takes out.

    Not thread-safe: all spaces read into one buffer.
    """

    def __init__(self, tables: Tables | None = None, keep: bool = False) -> None:
        self.tables = tables or Tables()
        self.memory = Memory()
        self.kept: dict[int, int] = {}
        self._keep = keep
        self._codes: dict[tuple[object, ...], Code | None] = {}

    def code(self, pid: int, mapping: Mapping, read: Reader) -> Code | None:
        """Return the code of a mapping; None if it does not belong to an ELF file. `read` takes
        (address, size) of the process's memory."""
        if mapping.path == "[vdso]":
            image = read(mapping.start, min(mapping.end - mapping.start, 1 << 16))
            return self._known(
                ("[vdso]", image), lambda: self._memory(VDSO, mapping, _bytes_reader(image))
            )
        if not mapping.inode or not mapping.path.startswith("/"):
            return None
        key: tuple[object, ...]
        found = open_mapped(pid, mapping)
        if found is None:
            if not mapping.base:
                return None
            key = (mapping.device, mapping.inode, mapping.path)
            return self._known(
                key, lambda: self._memory(FILE, mapping, _shifted(read, mapping.base))
            )
        fd, about = found
        try:
            key = (mapping.device, mapping.inode, mapping.path, about.st_size, about.st_mtime_ns)
            return self._known(key, lambda: self._file(fd, mapping.path, about))
        finally:
            os.close(fd)

    def lose_python(self, module: int, why: str) -> None:
        """Note why the Python frames of an interpreter are not read; once for each file."""
        path = self.tables.modules[module].path
        self.tables.modules.number(Module(PYTHON, path, lost=why))

    def jit(self, pid: int) -> int:
        """Return the number of the module that represents a process's executable memory of no
        file."""
        return self.tables.modules.number(Module(JIT, "[jit]", pid=pid))

    def _known(self, key: tuple[object, ...], make: Callable[[], Code]) -> Code | None:
        if key not in self._codes:
            try:
                self._codes[key] = make()
            except BROKEN:
                self._codes[key] = None
        return self._codes[key]

    def _file(self, fd: int, path: str, about: os.stat_result) -> Code:
        elf = Elf(file_reader(fd))
        module = Module(
            FILE, path.removesuffix(_DELETED), elf.build_id, about.st_size, about.st_mtime_ns
        )
        number = self.tables.modules.number(module)
        if self._keep and (path.endswith(_DELETED) or path.startswith(_temporary())):
            self._keep_open(number, fd)
        return Code(elf, number, self.tables)

    def _keep_open(self, number: int, fd: int) -> None:
        if number in self.kept or len(self.kept) >= _KEPT:
            return
        try:
            self.kept[number] = os.dup(fd)
        except OSError:  # too many open files: its names may be lost
            pass

    def _memory(self, kind: str, mapping: Mapping, read: Reader) -> Code:
        elf = Elf(read, by_vaddr=True)
        module = Module(kind, mapping.path.removesuffix(_DELETED), elf.build_id)
        return Code(elf, self.tables.modules.number(module), self.tables)


def symbol_address(elf: Elf, name: bytes) -> int:
    """Return the address of a symbol, as in the ELF file; 0 if there is none. O(size of the
    tables)."""
    for data, names in elf.symbol_tables(".dynsym", ".symtab"):
        offset = names.find(b"\0" + name + b"\0") + 1
        wanted = struct.pack("<I", offset)
        at = data.find(wanted) if offset else -1
        while at >= 0:
            if at % _SYMBOL == 0 and len(data) >= at + _SYMBOL:
                return int.from_bytes(data[at + 8 : at + 16], "little")
            at = data.find(wanted, at + 1)
    return 0


@cache
def _temporary() -> tuple[str, ...]:
    # The prefixes of the paths of temporary files.
    places = ("/tmp", "/var/tmp", "/dev/shm", os.environ.get("TMPDIR") or "/tmp")
    return tuple(f"{place.rstrip('/')}/" for place in places)


def open_mapped(pid: int, mapping: Mapping) -> tuple[int, os.stat_result] | None:
    """Open the file of a mapping, also a deleted one if that is permitted; the caller owns the
    descriptor."""
    whole = f"/proc/{pid}/root{mapping.path}"
    other = None
    # map_files requires CAP_CHECKPOINT_RESTORE; exe does not.
    for path in (
        whole,
        f"/proc/{pid}/map_files/{range_text(mapping.start, mapping.end)}",
        f"/proc/{pid}/exe",
    ):
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device may have an effect
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError):
            continue
        about = os.fstat(fd)
        if stat.S_ISREG(about.st_mode) and about.st_ino == mapping.inode:
            if other is not None:
                os.close(other[0])
            return fd, about
        # On overlayfs the inode that maps shows may be a different one, so the path is compared
        # instead.
        if path is whole and stat.S_ISREG(about.st_mode) and not mapping.path.endswith(_DELETED):
            other = fd, about
        else:
            os.close(fd)
    return other


def _shifted(read: Reader, base: int) -> Reader:
    return lambda address, size: read(base + address, size)


def _bytes_reader(data: bytes) -> Reader:
    return lambda address, size: data[address : address + size]
