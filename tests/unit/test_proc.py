"""Reading what the host shows."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from laconic.linux import proc
from laconic.linux.pagemap import Pagemap, _entries, _runs, was_untouched
from laconic.memory.flags import VM_LOCKED, VM_MAYSHARE, VM_READ, VM_WRITE
from laconic.memory.vma import File, Vma

SMAPS = b"""\
00400000-00401000 r--p 00000000 08:01 77                         /bin/with space
Size:                  4 kB
VmFlags: rd mr mw me
00401000-00403000 r--p 00001000 08:01 77                         /bin/with space
Rss:                   4 kB
VmFlags: rd mr mw me sd
00403000-00404000 rw-s 00000000 00:01 9                          /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms lo
7fff0000-7fff1000 rw-p 00000000 00:00 0                          [anon:heap one]
VmFlags: rd wr mr mw me ac
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
"""


def test_parses_smaps_and_merges_what_is_equal() -> None:
    """Neighbours whose offsets go on are one; [vsyscall] is nobody's VMA."""
    host = list(proc.parse_smaps(SMAPS))
    assert [(start, end) for start, end, _ in host] == [
        (0x400000, 0x403000),
        (0x403000, 0x404000),
        (0x7FFF0000, 0x7FFF1000),
    ]
    program, shared, named = (vma for _, _, vma in host)
    assert program == Vma(0x71, File(8, 1, 77), 0x400000)
    assert program.file is not None
    assert program.file.path == "/bin/with space"
    assert shared.flags & (VM_LOCKED | VM_MAYSHARE | VM_WRITE) == VM_LOCKED | VM_MAYSHARE | VM_WRITE
    assert named.name == "heap one"


def test_the_segment_with_the_id_0_has_a_file() -> None:
    line = b"7f0000000000-7f0000001000 rw-s 00000000 00:01 0                          /SYSV00000000 (deleted)"
    seen, _ = proc._parse_header(line)
    assert seen.file == File(0, 1, 0)
    anonymous, _ = proc._parse_header(b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0")
    assert anonymous.file is None


def test_a_descriptor_of_o_path_is_not_open_to_mmap(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for flags in (os.O_PATH, os.O_RDONLY, os.O_WRONLY, os.O_ACCMODE):
        fd = os.open(path, flags)
        file = proc.open_file(os.getpid(), fd)
        os.close(fd)
        assert (file is None) == (flags == os.O_PATH)
        if file is not None:
            assert (file.readable, file.writable) == (flags == os.O_RDONLY, flags == os.O_WRONLY)


@pytest.mark.skipif(not hasattr(os, "MFD_HUGETLB"), reason="memfd_create is not available")
def test_a_file_of_hugetlbfs_shows_its_page_size() -> None:
    try:
        fd = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    except OSError:
        pytest.skip("this kernel has no huge pages of 2 MiB")
    file = proc.open_file(os.getpid(), fd)
    os.close(fd)
    assert file is not None
    assert (file.plain, file.huge) == (False, 2 << 20)


@pytest.mark.parametrize(
    ("overall", "size", "aligns"),
    [
        ("[never]", "[never]", False),
        ("[never]", "[inherit]", False),
        ("[never]", "[advise]", True),
        ("[never]", "[within_size]", True),
        ("[advise]", "[inherit]", True),
        ("[force]", "[never]", True),
        ("[deny]", "[always]", False),
    ],
)
def test_large_folios_of_shared_memory(
    overall: str, size: str, aligns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shmem_enabled").write_text(f"always {overall} deny\n")
    for name in ("hugepages-16kB", "hugepages-64kB"):
        (tmp_path / name).mkdir()
    (tmp_path / "hugepages-16kB" / "shmem_enabled").write_text("always [never]\n")
    (tmp_path / "hugepages-64kB" / "shmem_enabled").write_text(f"{size}\n")
    monkeypatch.setattr(proc, "THP", str(tmp_path))
    assert proc.aligns_shared() == aligns


def test_a_text_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    """A process may be killed while its map is read."""
    for cut in range(0, len(SMAPS), 7):
        assert len(proc.parse_smaps(SMAPS[:cut])) <= 3


def test_both_ways_to_ask_for_one_vma_agree(tmp_path: Path) -> None:
    """PROCMAP_QUERY, and the search through the text that stands in for it on older kernels."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as view:
        pointer = ctypes.c_char.from_buffer(view)
        address = ctypes.addressof(pointer)
        asked = proc.query_vma(os.getpid(), address)
        with proc.MapsFile(os.getpid()) as maps:
            searched = list(maps._read(address, address + 1))
        del pointer
    assert [asked] == searched
    assert asked is not None
    assert asked.file is not None
    assert asked.file.inode == path.stat().st_ino


def test_both_ways_to_ask_for_touched_pages_agree() -> None:
    """PAGEMAP_SCAN, and the reading of pagemap that stands in for it."""
    view = mmap.mmap(-1, 8 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pointer = ctypes.c_char.from_buffer(view)
    address = ctypes.addressof(pointer)
    ranges = [(address + 4096 * a, address + 4096 * b) for a in range(8) for b in range(a + 1, 9)]

    def answers() -> list[tuple[bool, bool]]:
        pages = Pagemap(os.getpid())
        return [
            (
                pages.untouched(*bounds, False),
                was_untouched(_runs(_entries(pages._fd, *bounds), bounds[0]), *bounds, False),
            )
            for bounds in ranges
        ]

    assert set(answers()) == {(True, True)}
    view[3 * 4096] = 1
    for (start, end), (quick, slow) in zip(ranges, answers(), strict=True):
        assert quick == slow == (not start <= address + 3 * 4096 < end)
    del pointer


def test_an_open_file_is_told_by_its_mode(tmp_path: Path) -> None:
    """Which mappings it allows depends on how it was opened."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as reading, path.open("ab") as writing:
        read_only = proc.open_file(os.getpid(), reading.fileno())
        write_only = proc.open_file(os.getpid(), writing.fileno())
    assert read_only is not None
    assert write_only is not None
    assert (read_only.readable, read_only.writable, read_only.plain) == (True, False, True)
    assert (write_only.readable, write_only.writable) == (False, True)
    assert read_only.file is write_only.file
    assert proc.open_file(os.getpid(), 999_999) is None
    with open("/dev/null", "rb") as device:
        null = proc.open_file(os.getpid(), device.fileno())
    assert null is not None
    assert not null.plain


def test_reads_its_own_map() -> None:
    """The stack is readable and writable, and the map covers this module's code objects."""
    host = proc.read_smaps(os.getpid())
    assert any(vma.flags & (VM_READ | VM_WRITE) == VM_READ | VM_WRITE for _, _, vma in host)
    host.check()
