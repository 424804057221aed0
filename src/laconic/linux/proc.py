"""A process as the Linux host shows it: `/proc/PID/` maps, smaps, stat, fd. Read-only.

Every function raises OSError (ProcessLookupError, FileNotFoundError) if the process is gone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import re
import resource
import stat
import struct
from collections.abc import Iterator
from functools import cache
from io import FileIO
from typing import NamedTuple

from laconic.memory.calls import PR_SET_VMA
from laconic.memory.flags import (
    PAGE_SIZE,
    PMD_SIZE,
    TASK_SIZE,
    VM_EXEC,
    VM_MAYSHARE,
    VM_PROT,
    VM_READ,
    VM_WRITE,
    VMFLAG_BITS,
)
from laconic.memory.layout import Layout
from laconic.memory.madvise import FLAG_ADVICE
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import TOP, RangeMap
from laconic.memory.vma import File, Vma

#: PROCMAP_QUERY (Linux 6.11), include/uapi/linux/fs.h.
PROCMAP_QUERY = 0xC0686611
_QUERY = struct.Struct("=9Q4I2Q")
#: include/uapi/linux/magic.h
HUGETLBFS_MAGIC = 0x958458F6
#: The settings of transparent huge pages.
THP = "/sys/kernel/mm/transparent_hugepage"
#: PROCMAP_QUERY_VMA_SHARED in the answer, whose low three bits are the protection, and
#: PROCMAP_QUERY_COVERING_OR_NEXT_VMA in the query.
_SHARED = 8
_COVERING_OR_NEXT = 16
#: Bytes per read of maps or smaps: the kernel fills one page at a time (seq_read_iter in
#: fs/seq_file.c).
_PIECE = 4096


def read_smaps(pid: int) -> RangeMap[Vma]:
    """Return the host's VMAs of a process, equal neighbors merged. O(VMAs + resident pages)."""
    with open(f"/proc/{pid}/smaps", "rb") as file:
        return parse_smaps(file.read())


def has_query(pid: int) -> bool:
    """Return whether the kernel answers queries for one VMA (PROCMAP_QUERY)."""
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
        return answers(file, PROCMAP_QUERY)


def answers(file: FileIO, request: int) -> bool:
    """Return whether a file supports an ioctl, even if it refuses an empty argument."""
    try:
        fcntl.ioctl(file, request, bytes(8))
    except OSError as error:
        return error.errno != errno.ENOTTY
    return True


def read_smaps_in(pid: int, start: int, end: int) -> RangeMap[Vma]:
    """Return the host's VMAs within `[start, end)`, truncated to it, equal neighbors merged.

    Complexity: O(VMAs below `end` + their resident pages), since smaps can be read only from its
    beginning.
    """
    text = bytearray()
    with open(f"/proc/{pid}/smaps", "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            text += piece
            if _passed(piece, end):
                break
    host = parse_smaps(bytes(text[: text.rfind(b"\n") + 1]))
    within: RangeMap[Vma] = RangeMap()
    for vma_start, vma_end, vma in host.parts(start, end):
        within.set(vma_start, vma_end, vma)
    return within


_HEADER = re.compile(rb"^([0-9a-f]+)-[0-9a-f]+ ", re.MULTILINE)


def _passed(piece: bytes, end: int) -> bool:
    # True if this piece of smaps contains the header of a VMA at or above `end`.
    return any(int(match[1], 16) >= end for match in _HEADER.finditer(piece))


def parse_smaps(text: bytes) -> RangeMap[Vma]:
    """Return the VMAs in the text of `/proc/PID/smaps`. O(lines).

    Parsed entries are cached, because few VMAs change between two checks.
    """
    keys: list[int] = [0]
    values: list[Vma | None] = [None]
    # Each piece except the first is the rest of a VmFlags line, the header of the next VMA, and its
    # sizes. The protection key is the last line of the sizes.
    pieces = text.split(b"VmFlags:")
    header_and_sizes = pieces[0]
    for piece in pieces[1:]:
        header = header_and_sizes[: header_and_sizes.find(b"\n")]
        label_at = header_and_sizes.rfind(_KEY_LABEL)
        key = header_and_sizes[label_at + len(_KEY_LABEL) :] if label_at >= 0 else b"0"
        codes, _, header_and_sizes = piece.partition(b"\n")
        entry = _entries.get((header, key, codes))
        if entry is None:
            entry = _parse_entry(header, key, codes)
        start, end, vma = entry
        if start > TASK_SIZE:
            continue  # [vsyscall] is in every maps file, but is not a mapping
        if keys[-1] != start:
            keys.append(start)
            values.append(vma)
        elif len(values) > 1 and values[-2] == vma:
            del keys[-1], values[-1]
        else:
            values[-1] = vma
        keys.append(end)
        values.append(None)
    host: RangeMap[Vma] = RangeMap()
    host.replace(0, TOP, keys, values)
    return host


_entries: dict[tuple[bytes, bytes, bytes], tuple[int, int, Vma]] = {}
#: The label of the protection key, on processors that have such keys (arch_show_smap).
_KEY_LABEL = b"ProtectionKey:"


def _parse_entry(header: bytes, key: bytes, codes: bytes) -> tuple[int, int, Vma]:
    seen, path = _parse_header(header)
    flags = seen.flags & VM_MAYSHARE
    for code in codes.split():
        flags |= VMFLAG_BITS.get(code, 0)
    name = path[path.index(":") + 1 : -1] if path.startswith(("[anon:", "[anon_shmem:")) else None
    base = seen.start - seen.offset if seen.file is not None else 0
    # Execute-only memory has a key that the program did not request (execute_only_pkey).
    pkey = 0 if flags & VM_PROT == VM_EXEC else int(key)
    vma = Vma(flags, seen.file, base, name, pkey)
    if len(_entries) >= 100_000:
        _entries.clear()
    entry = _entries[header, key, codes] = (seen.start, seen.end, vma)
    return entry


def _parse_header(line: bytes) -> tuple[HostVma, str]:
    # Parse a line of maps, or the first line of a VMA in smaps. Returns the VMA, and its path or
    # label.
    parts = line.split(None, 5)
    addresses, permissions, offset, device, inode = parts[:5]
    path = os.fsdecode(parts[5]) if len(parts) > 5 else ""
    start, end = (int(address, 16) for address in addresses.split(b"-"))
    major, minor = (int(number, 16) for number in device.split(b":"))
    # The System V segment with the id 0 has the inode 0 (newseg in ipc/shm.c), and a device.
    named = inode != b"0" or device != b"00:00"
    file = _file(major, minor, int(inode), path) if named else None
    flags = VM_MAYSHARE if permissions[3:4] == b"s" else 0
    for letter, bit in zip(b"rwx", (VM_READ, VM_WRITE, VM_EXEC), strict=True):
        if letter in permissions:
            flags |= bit
    return HostVma(start, end, int(offset, 16), file, flags), path


@cache
def _file(major: int, minor: int, inode: int, path: str) -> File:
    # One object per file, so that comparisons compare references.
    return File(major, minor, inode, path)


class HostVma(NamedTuple):
    """One VMA as `/proc/PID/maps` shows it; `start`, `end`, `offset` in bytes.

    `flags` are the protection and VM_MAYSHARE: the file shows no other flags.
    """

    start: int
    end: int
    offset: int
    file: File | None
    flags: int


def query_vma(pid: int, address: int) -> HostVma | None:
    """Return the host's VMA around `address`, or None in a hole.

    Complexity: O(log VMAs), O(VMAs below) before Linux 6.11.
    """
    with MapsFile(pid) as maps:
        return next(maps.vmas(address, address + 1, named=True), None)


class MapsFile:
    """`/proc/PID/maps` of one address space, held open for PROCMAP_QUERY.

    The file belongs to the address space in which it was opened. After an execve or the end of the
    process, `vmas` raises OSError or yields nothing.
    """

    __slots__ = ("_file",)

    def __init__(self, pid: int) -> None:
        """Open the file; raises OSError if the process is gone or hides its map."""
        self._file = open(f"/proc/{pid}/maps", "rb", buffering=0)  # noqa: SIM115

    def __enter__(self) -> MapsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def vmas(self, start: int, end: int, named: bool = False) -> Iterator[HostVma]:
        """Yield the host's VMAs that overlap `[start, end)`, lowest first, whole and not merged.

        Files have a path only if `named`. Complexity: O(k log VMAs), O(VMAs below `end`) before
        Linux 6.11. Raises OSError if the address space is gone.
        """
        while start < end:
            try:
                vma = self._query(start, named)
            except FileNotFoundError:
                return  # no VMA at or above `start`
            except OSError as error:
                if error.errno != errno.ENOTTY:
                    raise
                yield from self._read(start, end)
                return
            if vma.start >= end:
                return
            yield vma
            start = vma.end

    def _query(self, address: int, named: bool) -> HostVma:
        # The VMA around `address`, or the next one above it.
        name = ctypes.create_string_buffer(4096 if named else 1)
        size, where = (len(name), ctypes.addressof(name)) if named else (0, 0)
        query = _QUERY.pack(
            _QUERY.size, _COVERING_OR_NEXT, address, 0, 0, 0, 0, 0, 0, 0, 0, size, 0, where, 0
        )
        answer = fcntl.ioctl(self._file, PROCMAP_QUERY, query)
        start, end, permissions, _, offset, inode, major, minor = _QUERY.unpack(answer)[3:11]
        path = os.fsdecode(name.value) if named else ""
        file = _file(major, minor, inode, path) if inode or major or minor else None
        flags = permissions & VM_PROT
        if permissions & _SHARED:
            flags |= VM_MAYSHARE
        return HostVma(start, end, offset, file, flags)

    def _read(self, start: int, end: int) -> Iterator[HostVma]:
        # Without the ioctl, read the text from its beginning up to `end`.
        self._file.seek(0)
        rest = b""
        while text := self._file.read(_PIECE):
            *lines, rest = (rest + text).split(b"\n")
            for line in lines:
                vma, _ = _parse_header(line)
                if vma.start >= end:
                    return
                if vma.end > start and vma.start < TASK_SIZE:
                    yield vma


def command_line(pid: int) -> list[str]:
    """Return the program and its arguments; empty if the process is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


class ProcessStart(NamedTuple):
    """The start of the break, and the size of the program's data in bytes (`/proc/PID/stat`)."""

    start_brk: int
    data_size: int


def read_start(pid: int) -> ProcessStart:
    """Return start_brk, and end_data - start_data, which RLIMIT_DATA counts too."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # Fields 45, 46 and 47 of proc(5), without the first two, pid and comm.
    start_data, end_data, start_brk = (int(field) for field in fields[42:45])
    return ProcessStart(start_brk, end_data - start_data)


def read_layout(pid: int) -> Layout:
    """Return the layout of a process that has just started; its first mmap will reveal the base."""
    return Layout(
        top_down=not _legacy(pid),
        mmap_min_addr=_sysctl("vm/mmap_min_addr", 65536),
        thp=os.path.exists(THP),
        thp_align=aligns_huge(),
        shmem_align=aligns_shared(),
        max_map_count=_sysctl("vm/max_map_count", 65530),
        overcommit_never=_sysctl("vm/overcommit_memory", 0) == 2,
        refused_advice=_refused_advice(),
        anon_names=_names_memory(),
    )


#: AT_EXECFN: the auxiliary vector's entry for the address of the executed path. PATH_MAX: the
#: maximum number of bytes of that path to read.
_AT_EXECFN, _PATH_MAX = 31, 4096


def program_path(pid: int) -> str:
    """Return the absolute path by which a process's program was executed.

    The path is not resolved: a symbolic link such as `/usr/bin/redis-server` stays as it is. If the
    process was given another path (a script is executed by its interpreter, a descriptor has no
    path), the result is the file's own path.
    """
    file = os.readlink(f"/proc/{pid}/exe")
    try:
        path = _executed(pid)
        path = os.path.normpath(os.path.join(os.readlink(f"/proc/{pid}/cwd"), path))
        # In /proc and /dev, a path means something different to each process.
        if path.startswith(("/proc/", "/dev/")):
            return file
        if os.path.samefile(f"/proc/{pid}/root{path}", f"/proc/{pid}/exe"):
            return path
    except (OSError, ValueError):
        pass
    return file


def _executed(pid: int) -> str:
    # The path in the auxiliary vector, as it was passed to execve.
    with open(f"/proc/{pid}/auxv", "rb") as vector:
        entries = dict(struct.iter_unpack("=QQ", vector.read(1024)))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        address = entries.get(_AT_EXECFN, 0)
        start = os.pread(memory.fileno(), PAGE_SIZE - address % PAGE_SIZE, address)
        text, end, _ = start.partition(b"\0")
        if not end:
            more = os.pread(memory.fileno(), _PATH_MAX, address + len(start))
            text += more.partition(b"\0")[0]
    if not text:
        raise ValueError("no path")
    return os.fsdecode(text)


def personality(pid: int) -> int:
    """Return a thread's personality bits, or 0 if they cannot be read."""
    try:
        with open(f"/proc/{pid}/personality", "rb") as file:
            return int(file.read(), 16)
    except OSError:
        return 0


ADDR_COMPAT_LAYOUT = 0x0200000
READ_IMPLIES_EXEC = 0x0400000


def _legacy(pid: int) -> bool:
    # mmap_is_legacy (arch/x86/mm/mmap.c): below an unlimited stack there is no room for mappings.
    if personality(pid) & ADDR_COMPAT_LAYOUT:
        return True
    return _limit(pid, b"Max stack size") == -1


#: The labels of `/proc/PID/limits`, by the limit's number.
_LIMIT_LABELS = {
    resource.RLIMIT_DATA: b"Max data size",
    resource.RLIMIT_MEMLOCK: b"Max locked memory",
}


def shown_limit(pid: int, number: int) -> int:
    """Return RLIMIT_DATA or RLIMIT_MEMLOCK in bytes, -1 for none, or 0 if the process is gone."""
    try:
        return _limit(pid, _LIMIT_LABELS[number])
    except OSError:
        return 0


def _limit(pid: int, name: bytes) -> int:
    # The soft limit of this name, in bytes; -1 for none.
    with open(f"/proc/{pid}/limits", "rb") as file:
        for line in file:
            if line.startswith(name):
                soft = line.removeprefix(name).split()[0]
                return -1 if soft == b"unlimited" else int(soft)
    return 0


@cache
def _sysctl(name: str, default: int) -> int:
    try:
        with open(f"/proc/sys/{name}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return default


@cache
def aligns_huge() -> bool:
    """Return whether this kernel aligns anonymous mappings of whole huge pages.

    It is tried once, with mappings of Laconic's own process.
    """
    import mmap

    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    mappings = []
    for _ in range(3):
        mappings.append(mmap.mmap(-1, PAGE_SIZE, flags))
        mappings.append(mmap.mmap(-1, 2 * PMD_SIZE, flags))
        if ctypes.addressof(ctypes.c_char.from_buffer(mappings[-1])) % PMD_SIZE:
            return False
    return True


def aligns_shared(folder: str = THP) -> bool:
    """Return whether this kernel may align shared anonymous mappings (shmem_get_unmapped_area).

    It does so for the largest folio that it may use for them. An administrator may change the
    settings in `folder` at any time, so they are read for each new program.
    """
    overall = _chosen(f"{folder}/shmem_enabled")
    if overall == "deny":
        return False
    if overall not in ("never", ""):
        return True
    sizes = glob.glob(f"{folder}/hugepages-*/shmem_enabled")
    return any(_chosen(size) in ("always", "within_size", "advise") for size in sizes)


def _chosen(setting: str) -> str:
    # The word in brackets in a file of /sys that lists all choices; empty if there is none.
    try:
        with open(setting) as file:
            return file.read().partition("[")[2].partition("]")[0]
    except OSError:
        return ""


@cache
def _refused_advice() -> frozenset[int]:
    # The advice that this kernel was built without, tried with a page of Laconic's own process.
    import mmap

    page = mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    refused = set()
    for advice in FLAG_ADVICE:
        try:
            page.madvise(advice)
        except OSError:
            refused.add(advice)
    return frozenset(refused)


@cache
def _names_memory() -> bool:
    # With a length of 0, the kernel names nothing, but reports whether it supports names.
    return bool(
        ctypes.CDLL(None).prctl(
            PR_SET_VMA, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), None
        )
        == 0
    )


_F_SEAL_FUTURE_WRITE = 0x10  # include/uapi/linux/fcntl.h; not in the module fcntl

_files: dict[tuple[int, int], File] = {}
_shown: set[File] = set()


def open_file(pid: int, fd: int) -> OpenFile | None:
    """Return the open file of a process's descriptor; None if it is not open, or only as a path.

    The file has the identity that `stat` returns until `identify` has read the one that the host
    shows; the two differ on btrfs and overlayfs. Raises PermissionError if the process hides its
    descriptors.
    """
    link = f"/proc/{pid}/fd/{fd}"
    try:
        # The process may be killed between any two of these lines.
        mode = os.lstat(link).st_mode
        if not mode & (stat.S_IRUSR | stat.S_IWUSR) and _is_path_only(pid, fd):
            return None
        about = os.stat(link)
        plain = stat.S_ISREG(about.st_mode)
        noexec = plain and bool(os.statvfs(link).f_flag & os.ST_NOEXEC)
        file = _files.get((about.st_dev, about.st_ino))
        path = os.readlink(link) if file is None else ""
    except (FileNotFoundError, ProcessLookupError):
        return None
    if file is None:
        file = _file(os.major(about.st_dev), os.minor(about.st_dev), about.st_ino, path)
        if plain:
            _files[about.st_dev, about.st_ino] = file
    # Huge pages: hugetlbfs, or a tmpfs that was mounted with them.
    huge = plain and about.st_blksize >= PMD_SIZE
    plain = plain and not huge and not _decides_flags(link, file.path)
    return OpenFile(
        file,
        readable=bool(mode & stat.S_IRUSR),
        writable=bool(mode & stat.S_IWUSR),
        plain=plain,
        noexec=noexec,
        places=True,
        size=about.st_size,
        huge=about.st_blksize if huge and _on_hugetlbfs(link) else 0,
    )


def _is_path_only(pid: int, fd: int) -> bool:
    # True for a descriptor that was opened with O_PATH, which fget ignores.
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        for line in file:
            if line.startswith("flags:"):
                return bool(int(line.split()[1], 8) & os.O_PATH)
    return False


def _on_hugetlbfs(path: str) -> bool:
    # is_file_hugepages. The first word of struct statfs is the file system's type.
    about = (ctypes.c_long * 32)()
    if ctypes.CDLL(None).statfs(os.fsencode(path), about):
        return False
    return about[0] == HUGETLBFS_MAGIC


def _decides_flags(link: str, path: str) -> bool:
    # True for a regular file that sets vm_flags of its mappings, as a device does: memfd_secret
    # (secretmem_mmap_prepare in mm/secretmem.c), and a memfd that is sealed against writing
    # (memfd_check_seals_mmap in mm/memfd.c).
    if path.startswith("/secretmem"):
        return True
    if not path.startswith("/memfd:"):
        return False
    try:
        with open(link, "rb", buffering=0) as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return bool(seals & (fcntl.F_SEAL_WRITE | _F_SEAL_FUTURE_WRITE))


def identify(pid: int, fd: int, address: int, file: File) -> File:
    """Return `file` as the host shows it; it was just mapped at `address` from `fd` (-1: none).

    `stat` and `/proc/PID/maps` identify a file differently on btrfs and overlayfs, so the answer is
    cached for the descriptor's file. A shared anonymous mapping has no identity before it exists.
    """
    if file in _shown:
        return file
    seen = query_vma(pid, address)
    if seen is None or seen.file is None:
        return file
    if fd >= 0:
        _shown.add(seen.file)
        try:
            about = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError:
            return seen.file  # another thread has closed the descriptor
        if seen.file != file and _files.get((about.st_dev, about.st_ino)) is file:
            _files[about.st_dev, about.st_ino] = seen.file
    return seen.file
