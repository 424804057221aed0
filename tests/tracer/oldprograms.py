"""Programs of 32 bits, assembled by hand."""

from __future__ import annotations

import struct
from pathlib import Path

BASE = 0x08048000


def elf32(path: Path, code: bytes) -> Path:
    """A static 32-bit program of one segment: its headers, and i386 code at BASE + 84. Skips where
    the kernel won't."""
    size = 84 + len(code)
    header = (
        b"\x7fELF\1\1\1"
        + bytes(9)
        + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    )
    path.write_bytes(header + struct.pack("<8I", 1, 0, BASE, BASE, size, size, 7, 4096) + code)
    path.chmod(0o755)
    return path


def int80(number: int, first: int = 0, second: int = 0, third: int = 0) -> bytes:
    """mov eax, number; mov ebx, first; mov ecx, second; mov edx, third; int 0x80."""
    words = zip((0xB8, 0xBB, 0xB9, 0xBA), (number, first, second, third), strict=True)
    return b"".join(struct.pack("<BI", opcode, value) for opcode, value in words) + b"\xcd\x80"


EXIT, FORK, EXECVE, BRK, MPROTECT, MADVISE, MMAP2 = 1, 2, 11, 45, 125, 219, 192
