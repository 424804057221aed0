"""Reading what the host shows."""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import io
import mmap
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from laconic.linux import proc
from laconic.linux.pagemap import Pagemap, _entries, _runs, was_untouched
from laconic.memory.flags import VM_EXEC, VM_LOCKED, VM_MAYSHARE, VM_READ, VM_WRITE
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


def test_parses_the_protection_key_but_not_that_of_execution_alone() -> None:
    text = b"".join(
        b"%x000-%x000 %b 00000000 00:00 0 \nTHPeligible: 0\nProtectionKey:         %d\n"
        b"VmFlags: %b\n" % (start, start + 1, permissions, key, codes)
        for start, permissions, key, codes in (
            (1, b"rw-p", 2, b"rd wr mr mw me"),
            (3, b"--xp", 1, b"ex mr mw me"),
            (5, b"rw-p", 0, b"rd wr mr mw me"),
        )
    )
    assert [(start >> 12, vma.pkey) for start, _, vma in proc.parse_smaps(text)] == [
        (1, 2),
        (3, 0),
        (5, 0),
    ]


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
    line = (
        b"7f0000000000-7f0000001000 rw-s 00000000 00:01 0                          "
        b"/SYSV00000000 (deleted)"
    )
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
    overall: str, size: str, aligns: bool, tmp_path: Path
) -> None:
    (tmp_path / "shmem_enabled").write_text(f"always {overall} deny\n")
    for name in ("hugepages-16kB", "hugepages-64kB"):
        (tmp_path / name).mkdir()
    (tmp_path / "hugepages-16kB" / "shmem_enabled").write_text("always [never]\n")
    (tmp_path / "hugepages-64kB" / "shmem_enabled").write_text(f"{size}\n")
    assert proc.aligns_shared(str(tmp_path)) == aligns


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
        answer = proc.query_vma(os.getpid(), address)
        with proc.MapsFile(os.getpid()) as maps:
            searched = list(maps._read(address, address + 1))
        del pointer
    assert [answer] == searched
    assert answer is not None
    assert answer.file is not None
    assert answer.file.inode == path.stat().st_ino


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


ENTRY = """{start:x}-{end:x} {permissions} 00001000 {device} {inode} {path}
Rss: 4 kB
VmFlags: {codes}
"""


def entry(
    start: int, end: int, permissions: str = "rw-p", codes: str = "rd wr mr mw me", **more: object
) -> str:
    """One VMA of smaps."""
    file = {"device": "00:00", "inode": 0, "path": ""} | more
    return ENTRY.format(start=start, end=end, permissions=permissions, codes=codes, **file)


def test_equal_neighbors_merge_and_holes_stay() -> None:
    text = entry(0x1000, 0x2000) + entry(0x2000, 0x3000) + entry(0x5000, 0x6000)
    text += entry(0x6000, 0x7000, codes="rd wr mr mw me lo")
    vma = Vma(0x73)
    assert list(proc.parse_smaps(text.encode())) == [
        (0x1000, 0x3000, vma),
        (0x5000, 0x6000, vma),
        (0x6000, 0x7000, vma.with_flags(0x73 | VM_LOCKED)),
    ]


def test_sharing_is_read_from_the_permissions_and_the_rest_from_the_codes() -> None:
    file = {"device": "08:a1", "inode": 77, "path": "/a b"}
    text = entry(0x3000, 0x4000, "r--s", "rd mr me xx", **file)
    ((start, end, vma),) = proc.parse_smaps(text.encode())
    assert (start, end) == (0x3000, 0x4000)
    assert vma == Vma(VM_READ | 0x10 | 0x40 | VM_MAYSHARE, File(8, 0xA1, 77), 0x2000)
    named = entry(0x3000, 0x4000, path="[anon_shmem:a:b]", device="00:01", inode=5)
    ((_, _, vma),) = proc.parse_smaps(named.encode())
    assert vma.name == "a:b" and vma.file == File(0, 1, 5)
    ((_, _, stack),) = proc.parse_smaps(entry(0x3000, 0x4000, path="[stack]").encode())
    assert stack == Vma(0x73)


def test_the_highest_address_of_a_program_is_a_vma_and_above_it_is_none() -> None:
    top = (1 << 47) - 4096
    text = (
        entry(top - 4096, top) + entry(top, top + 4096, codes="rd") + entry(1 << 63, (1 << 63) + 1)
    )
    assert [start for start, _, _ in proc.parse_smaps(text.encode())] == [top - 4096, top]


def test_a_line_of_maps() -> None:
    line = b"00401000-00403000 r-xs 00002000 08:a1 77                         /bin/with space"
    vma, path = proc._parse_header(line)
    assert vma == proc.HostVma(
        0x401000, 0x403000, 0x2000, File(8, 0xA1, 77), VM_READ | VM_EXEC | VM_MAYSHARE
    )
    assert path == "/bin/with space" and vma.file is not None and vma.file.path == path
    vma, path = proc._parse_header(b"00401000-00403000 -w-p 00000000 00:00 0 ")
    assert (vma.flags, vma.file, path) == (VM_WRITE, None, "")


@pytest.fixture
def three() -> Iterator[int]:
    """The address of three pages of this process: read-write, read-only, read-write."""
    view = mmap.mmap(-1, 3 * 4096, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    pointer = ctypes.c_char.from_buffer(view)
    address = ctypes.addressof(pointer)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 4096), 4096, 1) == 0
    yield address
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 4096), 4096, 3) == 0
    del pointer


@pytest.mark.parametrize("queries", [False, True])
def test_vmas_of_a_range(queries: bool, three: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with PROCMAP_QUERY and by reading the text."""

    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOTTY, "")

    if not queries:
        monkeypatch.setattr(fcntl, "ioctl", refused)
    page = 4096
    with proc.MapsFile(os.getpid()) as maps:
        inside = list(maps.vmas(three, three + 3 * page))
        assert [(vma.start - three) // page for vma in inside] == [0, 1, 2]
        assert [vma.flags & 3 for vma in inside] == [3, 1, 3]
        assert all(vma.flags & VM_MAYSHARE and vma.file is not None for vma in inside)
        assert [vma.offset for vma in inside] == [0, page, 2 * page]
        assert [vma.start for vma in maps.vmas(three + page, three + page + 1)] == [three + page]
        assert [vma.start for vma in maps.vmas(three + page - 1, three + page + 1)] == [
            three,
            three + page,
        ]
        assert [vma.start for vma in maps.vmas(three, three + page)] == [three]
        assert {vma.file.path for vma in inside if vma.file} == {
            "" if queries and proc.has_query(os.getpid()) else "/dev/zero (deleted)"
        }
        assert list(maps.vmas(three, three)) == []
        assert list(maps.vmas((1 << 47) - 4096, 1 << 47)) == []
    assert maps._file.closed
    named = proc.query_vma(os.getpid(), three + page)
    assert named is not None and named.file is not None
    assert named.file.path == "/dev/zero (deleted)"
    assert proc.query_vma(os.getpid(), 0) is None
    assert proc.has_query(os.getpid()) == queries or queries


def test_part_of_smaps_is_cut_to_its_range(three: int) -> None:
    host = proc.read_smaps_in(os.getpid(), three + 100, three + 4096)
    assert [(start - three, end - three) for start, end, _ in host] == [(100, 4096)]
    host = proc.read_smaps_in(os.getpid(), three, three + 3 * 4096)
    assert [vma.flags & 3 for _, _, vma in host] == [3, 1, 3]


def test_the_identity_of_shared_memory_is_read_after_it_is_mapped(three: int) -> None:
    before = File(0, 1, -5, "/dev/zero (deleted)")
    shown = proc.identify(os.getpid(), -1, three, before)
    assert shown.inode > 0 and shown.path == "/dev/zero (deleted)"
    assert proc.identify(os.getpid(), -1, 0, before) is before, "nothing is mapped there"


def test_the_identity_of_a_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as view:
        opened = proc.open_file(os.getpid(), file.fileno())
        assert opened is not None and opened.size == 4096
        pointer = ctypes.c_char.from_buffer(view)
        shown = proc.identify(os.getpid(), file.fileno(), ctypes.addressof(pointer), opened.file)
        assert shown.path == str(path)
        again = proc.open_file(os.getpid(), file.fileno())
        assert again is not None and again.file == shown
        monkeypatch.setattr(builtins, "open", None)  # the map is not read again
        assert proc.identify(os.getpid(), file.fileno(), ctypes.addressof(pointer), shown) is shown
        del pointer


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memfd_create is not available")
@pytest.mark.parametrize(
    ("seals", "plain"),
    [(0, True), (fcntl.F_SEAL_GROW, True), (fcntl.F_SEAL_WRITE, False), (0x10, False)],
)
def test_a_memfd_that_is_sealed_against_writing_decides_flags(seals: int, plain: bool) -> None:
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    file = proc.open_file(os.getpid(), fd)
    os.close(fd)
    assert file is not None and (file.plain, file.huge, file.places) == (plain, 0, True)
    assert (file.readable, file.writable, file.noexec) == (True, True, file.noexec)


@pytest.fixture
def sleeper(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process that has called the parameter, a function, before its program started."""
    child = subprocess.Popen(["sleep", "60"], preexec_fn=request.param)
    yield child.pid
    child.kill()
    child.wait()


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (123 << 20, 124 << 20))
    resource.setrlimit(
        resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    )


def _old_layout() -> None:
    _limits()
    ctypes.CDLL(None).personality(0x0200000)


@pytest.mark.parametrize("sleeper", [_limits], indirect=True)
def test_a_process_with_limits(sleeper: int) -> None:
    assert proc.shown_limit(sleeper, resource.RLIMIT_DATA) == 123 << 20
    assert proc.personality(sleeper) == 0
    layout = proc.read_layout(sleeper)
    assert layout.top_down and layout.mmap_base is None
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    assert layout.max_map_count == limit
    fields = Path(f"/proc/{sleeper}/stat").read_text().rpartition(")")[2].split()
    start_data, end_data, start_brk = (int(fields[number - 3]) for number in (45, 46, 47))
    assert proc.read_start(sleeper) == (start_brk, end_data - start_data)


@pytest.mark.parametrize("sleeper", [_old_layout], indirect=True)
def test_a_process_with_an_old_layout(sleeper: int) -> None:
    if not proc.personality(sleeper):
        pytest.skip("this kernel hides a personality")
    assert proc.personality(sleeper) == proc.ADDR_COMPAT_LAYOUT == 0x0200000
    assert proc.READ_IMPLIES_EXEC == 0x0400000
    assert not proc.read_layout(sleeper).top_down


def test_a_process_that_is_gone() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert (proc.shown_limit(child.pid, resource.RLIMIT_DATA), proc.personality(child.pid)) == (
        0,
        0,
    )
    assert proc.open_file(child.pid, 0) is None
    with pytest.raises(OSError, match="No such"):
        proc.read_smaps(child.pid)


def test_settings_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("always [advise] never\n")
    assert proc._chosen(str(tmp_path / "a")) == "advise"
    assert proc._chosen(str(tmp_path / "b")) == ""


def test_a_sysctl_that_is_not_there_has_a_default() -> None:
    assert proc._sysctl("laconic/nothing", 17) == 17
    assert proc._sysctl("kernel/ostype", 18) == 18, "no number"


class Smaps(io.BytesIO):
    """An smaps file in memory, of single pages that differ from their neighbors; `pieces` counts
    the reads."""

    pieces = 0

    def __init__(self, path: str, mode: str, buffering: int) -> None:
        assert (path, mode, buffering) == ("/proc/7/smaps", "rb", 0)
        codes = ("rd wr mr mw", "rd mr mw ac")
        entries = [
            entry(page << 12, page + 1 << 12, codes=codes[page % 2]) for page in range(256, 656)
        ]
        super().__init__("".join(entries).encode())

    def read(self, size: int | None = -1) -> bytes:
        """At most a page, as the kernel returns."""
        assert size == 4096
        Smaps.pieces += 1
        return super().read(size)


@pytest.mark.pure
def test_smaps_is_read_no_further_than_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "open", Smaps, raising=False)
    pieces = []
    for start, end in ((258, 260), (355, 357), (654, 656)):
        monkeypatch.setattr(Smaps, "pieces", 0)
        host = proc.read_smaps_in(7, start << 12, end << 12)
        assert [(first >> 12, last >> 12) for first, last, _ in host] == [
            (start, start + 1),
            (start + 1, end),
        ]
        pieces.append(Smaps.pieces)
    assert pieces == [1, 2, 8]


def test_a_layout_takes_the_kernel_s_settings_or_its_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "_sysctl", lambda name, default: default)
    layout = proc.read_layout(os.getpid())
    assert (layout.mmap_min_addr, layout.max_map_count) == (65536, 65530)
    assert not layout.overcommit_never
    settings = {"vm/mmap_min_addr": 4096, "vm/max_map_count": 100, "vm/overcommit_memory": 2}
    monkeypatch.setattr(proc, "_sysctl", lambda name, default: settings[name])
    layout = proc.read_layout(os.getpid())
    assert (layout.mmap_min_addr, layout.max_map_count) == (4096, 100)
    assert layout.overcommit_never
    settings["vm/overcommit_memory"] = 1
    assert not proc.read_layout(os.getpid()).overcommit_never


def test_secret_memory_decides_flags() -> None:
    assert proc._decides_flags("/no/such/link", "/secretmem (deleted)")
    assert not proc._decides_flags("/no/such/link", "/memfd:x (deleted)"), "it was closed"
    assert not proc._decides_flags("/no/such/link", "/data")


@pytest.mark.pure
def test_the_identity_of_the_file_of_descriptor_0_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On btrfs and overlayfs the host shows another device than stat."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    shown = File(0, 44, 9, "/shown")
    monkeypatch.setattr(proc, "_files", {})
    monkeypatch.setattr(proc, "_shown", set())
    monkeypatch.setattr(
        proc, "query_vma", lambda pid, address: proc.HostVma(0, 4096, 0, shown, VM_READ)
    )
    with path.open("rb") as file:
        child = subprocess.Popen(["sleep", "60"], stdin=file)
    opened = proc.open_file(child.pid, 0)
    assert opened is not None and opened.file != shown
    identified = proc.identify(child.pid, 0, 0, opened.file)
    again = proc.open_file(child.pid, 0)
    child.kill()
    child.wait()
    assert identified is shown and again is not None and again.file is shown
    assert proc.identify(child.pid, 0, 0, shown) is shown
    gone = File(8, 1, 5, "/gone")
    assert proc.identify(child.pid, 0, 0, gone) is shown, "the process is gone"


def test_a_vma_at_address_0() -> None:
    """It can be mapped where vm.mmap_min_addr is 0."""
    text = entry(0, 0x1000) + entry(0x1000, 0x2000, codes="rd")
    assert [(start, end) for start, end, _ in proc.parse_smaps(text.encode())] == [
        (0, 0x1000),
        (0x1000, 0x2000),
    ]


def test_the_cache_of_parsed_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, left in ((99_999, 100_000), (100_000, 1)):
        cache = dict.fromkeys(range(size))
        monkeypatch.setattr(proc, "_entries", cache)
        proc.parse_smaps(entry(0x1000, 0x2000).encode())
        assert len(cache) == left


@contextmanager
def running(command: list[str], cwd: Path) -> Iterator[int]:
    """The process id of a program that copies its input, and has begun to."""
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"x")
        assert child.stdout.read(1) == b"x"
        yield child.pid
        child.stdin.close()


@pytest.mark.parametrize("path", ["/link", "./link", "./" * 2043 + "link"], ids=len)
def test_the_path_by_which_a_program_was_executed(path: str, tmp_path: Path) -> None:
    """A link to it, and not the file behind that; also a path that fills more than a page."""
    (tmp_path / "link").symlink_to(os.path.realpath("/bin/cat"))
    command = [str(tmp_path) + path if path == "/link" else path, "-"]
    with running(command, tmp_path) as pid:
        assert proc.program_path(pid) == str(tmp_path / "link")
        assert proc.command_line(pid) == command
    assert proc.command_line(pid) == []


def test_the_program_of_a_script_is_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec 3<&0\nhead -c 1\nread line <&3\n")
    script.chmod(0o700)
    with running([str(script)], tmp_path) as pid:
        assert proc.program_path(pid) == os.path.realpath("/bin/sh")


@pytest.mark.pure
def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (resource.RLIMIT_DATA, resource.RLIMIT_MEMLOCK):
        assert proc.shown_limit(os.getpid(), number) == resource.getrlimit(number)[0]
    assert proc._limit(os.getpid(), b"Max nothing") == 0
    monkeypatch.setattr(proc, "_limit", lambda pid, name: -1 if name == b"Max stack size" else 0)
    assert not proc.read_layout(os.getpid()).top_down, "there is no room below an unlimited stack"


def test_advice_that_a_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        def __init__(self, fd: int, length: int, flags: int) -> None:
            assert (fd, length, flags) == (-1, 4096, 0x22)

        def madvise(self, advice: int) -> None:
            """A kernel without KSM."""
            if advice in (mmap.MADV_MERGEABLE, mmap.MADV_UNMERGEABLE):
                raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(mmap, "mmap", Page)
    refused = proc._refused_advice.__wrapped__()
    assert refused == {mmap.MADV_MERGEABLE, mmap.MADV_UNMERGEABLE}


def test_whether_a_kernel_names_memory(three: int) -> None:
    prctl = ctypes.CDLL(None).prctl
    named = prctl(0x53564D41, 0, ctypes.c_ulong(three), ctypes.c_ulong(4096), b"laconic") == 0
    assert proc._names_memory.__wrapped__() == named
