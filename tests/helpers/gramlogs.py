"""Logs that real Gramine wrote, imported with the files that their programs used."""

from __future__ import annotations

import struct
from pathlib import Path

import laconic.trace
from laconic.trace.importers.importing import Import, import_logs

REAL = Path(__file__).parent.parent / "corpus" / "gramine" / "real"


def take(
    tmp_path: Path, source: Path | bytes, root: Path | None = None
) -> tuple[laconic.trace.Trace, Import]:
    if isinstance(source, bytes):
        path = tmp_path / "a.log"
        path.write_bytes(source)
    else:
        path = source
    target = str(tmp_path / "a.trace")
    report = import_logs(
        "gramine", [str(path)], target, force=True, root=None if root is None else str(root)
    )
    return laconic.trace.open(target), report


def elf(kind: int, segments: list[tuple[int, int, int, int, int]]) -> bytes:
    """An ELF file of (flags, offset, address, size in the file, size in memory)."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1",
        kind,
        62,
        1,
        0,
        64,
        0,
        0,
        64,
        56,
        len(segments),
        0,
        0,
        0,
    )
    table = b"".join(
        struct.pack("<IIQQQQQQ", 1, flags, offset, address, address, size, memory, 4096)
        for flags, offset, address, size, memory in segments
    )
    return header + table


#: busybox of the log, as its forks' memory entries show it.
BUSYBOX = elf(2, [
    (4, 0, 0x400000, 0x6E0, 0x6E0),
    (5, 0x1000, 0x401000, 0x183989, 0x183989),
    (4, 0x185000, 0x585000, 0x55017, 0x55017),
    (6, 0x1DA708, 0x5DB708, 0x9008, 0x10450),
])  # fmt: skip


def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/busybox").write_bytes(BUSYBOX)
    return root
