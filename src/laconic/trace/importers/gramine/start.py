"""The start of a program in Gramine: its stack, the files that the LibOS loads, and the vDSO.

Gramine maps them without a call, but reports their addresses (init_stack in libos_init.c,
load_elf_object and vdso_map_init in libos_rtld.c, append_r_debug in libos_debug.c). The contents at
a file's base are determined by the file: its PT_LOAD segments, which the LibOS maps one by one
(execute_loadcmd in libos_rtld.c).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from laconic.memory.flags import (
    PAGE_MASK,
    PAGE_SIZE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_GROWSDOWN,
    VM_MAY_RWX,
)
from laconic.trace.sysroot import Sysroot

#: The size of the LibOS's vDSO in bytes (libos/src/vdso), which the log does not show.
VDSO_SIZE: Final = PAGE_SIZE
#: The name under which the vDSO is added.
VDSO: Final = b"file:[vdso_libos]"
#: The maximum number of files kept for one program: its own and its loader.
_MOST: Final = 16


@dataclass
class ProgramStart:
    """The start of one program, as a log shows it.

    `stack` is `[start, end)` in bytes without the guard page below it, `loaded` contains the URI
    and the base address of each file in loading order, and `vdso` is the address of the vDSO. None
    means not shown.
    """

    stack: tuple[int, int] | None = None
    loaded: list[tuple[bytes, int]] = field(default_factory=list)
    vdso: int | None = None

    def add(self, uri: bytes, base: int) -> None:
        """Add a file, or the vDSO, that was loaded at `base`."""
        if uri == VDSO:
            self.vdso = base
        elif len(self.loaded) < _MOST:
            self.loaded.append((uri, base))


class StartVma(NamedTuple):
    """One VMA at a program's start: `[start, end)` in bytes, vm_flags, the file's path (None:
    anonymous memory) and the file offset of `start` in bytes."""

    start: int
    end: int
    flags: int
    path: str | None = None
    offset: int = 0


class Mounts:
    """Gramine's mounts: conversion between the program's paths and the host's."""

    def __init__(self) -> None:
        # Mount points and the host's paths, longest mount point first.
        self._mounts: list[tuple[str, str]] = []

    def add(self, uri: bytes, where: bytes) -> None:
        """Add a mount of a host's directory or file."""
        host = path_of(uri)
        guest = "/" + os.fsdecode(where).strip("/")
        if host is None or (guest, host) in self._mounts or len(self._mounts) >= 1024:
            return
        self._mounts.append((guest, host))
        self._mounts.sort(key=lambda mount: -len(mount[0]))

    def host(self, guest: str) -> str:
        """Return the host's path for a path of the program; it is unchanged if nothing is mounted
        there. O(mounts)."""
        for point, host in self._mounts:
            if _is_in(guest, point):
                return host.rstrip("/") + "/" + guest[len(point) :].lstrip("/")
        return guest

    def guest(self, host: str) -> str:
        """Return the program's path for a path of the host. O(mounts)."""
        for point, behind in sorted(self._mounts, key=lambda mount: -len(mount[1])):
            if _is_in(host, behind):
                return point.rstrip("/") + "/" + host[len(behind) :].lstrip("/")
        return host


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def path_of(uri: bytes) -> str | None:
    """Return the host's path in a URI such as `file://usr/bin/true`, or None if it is not a file of
    the host."""
    if not uri.startswith(b"file:") or uri == VDSO:
        return None
    path = os.fsdecode(uri[5:])
    return "/" + path.lstrip("/") if path.startswith("/") else path


def areas(
    start: ProgramStart, mounts: Mounts, root: Sysroot | None
) -> tuple[list[StartVma], list[str]]:
    """Return the VMAs at a program's start, and the paths of the loaded files whose segments are
    unknown."""
    found: list[StartVma] = []
    unknown: list[str] = []
    for uri, base in start.loaded:
        host = path_of(uri)
        path = mounts.guest(host) if host is not None else os.fsdecode(uri)
        segments = None
        if root is not None and host is not None:
            segments = _segments(root, host, path, base)
        if segments is None:
            unknown.append(path)
        else:
            found += segments
    if start.vdso is not None and _fits(start.vdso, start.vdso + VDSO_SIZE):
        flags = PROT_READ | PROT_EXEC | VM_MAY_RWX | VM_DONTEXPAND
        found.append(StartVma(start.vdso, start.vdso + VDSO_SIZE, flags))
    if start.stack is not None:
        stack_start, stack_end = start.stack
        if _fits(stack_start - PAGE_SIZE, stack_end):
            found.append(StartVma(stack_start - PAGE_SIZE, stack_start, VM_MAY_RWX))
            flags = PROT_READ | PROT_WRITE | VM_MAY_RWX | VM_GROWSDOWN
            found.append(StartVma(stack_start, stack_end, flags))
    return found, unknown


def _segments(root: Sysroot, host: str, path: str, base: int) -> list[StartVma] | None:
    # Return the VMAs that read_loadcmd and execute_loadcmd make, or None if the file is missing or
    # not a program.
    segments = root.segments(host)
    if not segments:
        return None
    found: list[StartVma] = []
    for segment in segments:
        prot = 0
        for bit, flag in ((4, PROT_READ), (2, PROT_WRITE), (1, PROT_EXEC)):
            if segment.flags & bit:
                prot |= flag
        start = base + (segment.vaddr & PAGE_MASK)
        mapped = base + (segment.vaddr + segment.filesz + PAGE_SIZE - 1 & PAGE_MASK)
        end = base + (segment.vaddr + segment.memsz + PAGE_SIZE - 1 & PAGE_MASK)
        if not _fits(start, max(end, mapped)):
            return None
        if start < mapped:
            offset = segment.offset & PAGE_MASK
            found.append(StartVma(start, mapped, prot | VM_MAY_RWX, path, offset))
        if mapped < end:
            found.append(StartVma(mapped, end, prot | VM_MAY_RWX))
    return found


def _fits(start: int, end: int) -> bool:
    aligned = start % PAGE_SIZE == 0 and end % PAGE_SIZE == 0
    return aligned and 0 <= start < end <= TASK_SIZE
