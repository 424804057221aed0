"""Gramine's real logs: the checkpoints and the execve of a shell, and the system calls of
gramine-direct, which were counted while the logs were written."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from laconic.analysis.compare import Model, compare, compare_direct
from laconic.errors import LaconicError
from laconic.libos.settings import Settings
from laconic.memory.flags import PROT_EXEC, PROT_READ, PROT_WRITE
from laconic.replay.enclaves import AROUND, EXEC, FORK, LOAD, WRITE
from laconic.report.compare import UNSIZED, as_json, as_text, direct_as_json
from laconic.sgx.costs import load
from laconic.trace.reader import TraceReader
from tests.helpers.gramine_vectors import InitialVma
from tests.helpers.gramine_vectors import calls as vector_items
from tests.helpers.gramlogs import REAL, elf, rootfs, take

#: The files that the programs of the logs map, and their sizes in bytes.
SIZES = {
    "lib/x86_64-linux-gnu/libc.so.6": 1_926_232,
    "lib/x86_64-linux-gnu/libexpat.so.1": 174_176,
    "lib/x86_64-linux-gnu/libm.so.6": 911_904,
    "lib/x86_64-linux-gnu/libz.so.1": 121_280,
    "usr/lib/locale/C.utf8/LC_CTYPE": 353_616,
    "usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so": 48_968,
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache": 27_028,
}
STORE = 16384


def files(tmp_path: Path) -> Path:
    """A directory with files of these sizes, without contents."""
    root = tmp_path / "root"
    for name, size in SIZES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
    return root


def test_a_shell_stores_eight_checkpoints_and_executes_five_programs(tmp_path: Path) -> None:
    """busybox.log: 64 MiB committed and trimmed for each fork; 10 Frees of 592 pages, and 6 Allocs
    of 557 pages with 10 Protects, for each execve."""
    trace, _ = take(tmp_path, REAL / "busybox.log.gz", rootfs(tmp_path))
    calls = compare(trace, ["every-call"], load()).strategies["every-call"].by_call
    assert calls[FORK].high.emodt == 8 * STORE
    freed = calls[EXEC].high
    assert (freed.ioctls, freed.emodt, freed.eremove) == (5 * 2 * 10, 5 * 592, 5 * 592)
    # Protects, and the Alloc of a stack without permissions; the first program has a vDSO too.
    loaded = calls[LOAD].high
    assert loaded.ioctls == 6 * (10 + 1) + 1
    trackers = loaded.eaug - (6 * 557 + 1)
    assert 0 < trackers < 6 * 4


def make_program(path: Path, kind: int, number: int) -> None:
    """An ELF file with the segments that a file of the vectors' hello has in memory."""
    vmas = [
        item
        for item in vector_items("hello")
        if isinstance(item, InitialVma) and item.file == number
    ]
    base = vmas[0].start
    flags = {PROT_READ: 4, PROT_READ | PROT_EXEC: 5, PROT_READ | PROT_WRITE: 6}
    segments = [
        (flags[vma.prot], vma.start - base, vma.start - base, size, size)
        for vma in vmas
        for size in [vma.end - vma.start]
    ]
    path.parent.mkdir(parents=True)
    path.write_bytes(elf(kind, segments))


def test_the_load_of_hello(tmp_path: Path) -> None:
    """hello.log: 10 Allocs of 124 pages and 20 Protects. One page more has the tracker's bits for
    the 128 MiB that contain them all; Gramine's stubs, which were counted, had it before."""
    root = tmp_path / "root"
    make_program(root / "home/user/gramine/w/hello", 3, 1)
    make_program(root / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", 3, 2)
    trace, _ = take(tmp_path, REAL / "hello.log.gz", root)
    loaded = compare(trace, ["every-call"], load()).strategies["every-call"].by_call[LOAD].high
    assert (loaded.ioctls, loaded.emodpr, loaded.eaug) == (21, 194, 124 + 1)


@pytest.mark.parametrize(
    ("log", "calls_made", "made"),
    [("hello", 13, 19), ("per_page", 4015, 8070), ("vmatest", 44, 67), ("pyjson", 88, 106)],
)
def test_the_system_calls_of_gramine_direct(
    tmp_path: Path, log: str, calls_made: int, made: int
) -> None:
    """Within 2 % of what strace counted; the load of the program is not among them."""
    trace, _ = take(tmp_path, REAL / f"{log}.log.gz", files(tmp_path))
    found = compare_direct(trace, ["every-call"], Settings())
    assert found.calls == calls_made
    calls = found.strategies["every-call"]
    own = sum(counts.system_calls for call, counts in calls.items() if call not in AROUND)
    assert own == pytest.approx(made, rel=0.02)


def test_mappings_follow_writes_to_their_file(tmp_path: Path) -> None:
    """vmatest writes a byte to a file of which two pages are mapped read-only (three Protects of
    both: to refresh them, and around reading them again), and truncates it to one page (a Protect
    for each of the two parts)."""
    trace, _ = take(tmp_path, REAL / "vmatest.log.gz", files(tmp_path))
    calls = compare_direct(trace, ["every-call"], Settings()).strategies["every-call"]
    assert (calls[WRITE].mmap, calls[WRITE].munmap, calls[WRITE].mprotect) == (0, 0, 5)
    enclave = compare(trace, ["every-call", "laconic"], load()).strategies
    assert enclave["every-call"].by_call[WRITE].high.emodpr == 3 * 2 + 2
    assert enclave["laconic"].by_call[WRITE].high.emodpr == 0


@pytest.mark.parametrize(
    ("shown", "other"),
    [
        (b"ftruncate(3, 0x1000) = 0x0", b'truncate("vmatest.dat", 0x1000) = 0x0'),
        (b"ftruncate(3, 0x1000) = 0x0", b'open("vmatest.dat", O_WRONLY|O_TRUNC, 0000) = 0x5'),
        (b"pwrite64(3, 0x1a30dfaf8010, 0x1, 0x0) = 0x1", b"sendfile(3, 4, 0, 0x10) = 0x1"),
    ],
)
def test_other_calls_that_write_to_a_mapped_file(
    tmp_path: Path, shown: bytes, other: bytes
) -> None:
    """Gramine does the same for them (generic_truncate and fs_ops->write)."""
    text = gzip.decompress((REAL / "vmatest.log.gz").read_bytes())
    assert text.count(shown) == 1
    trace, _ = take(tmp_path, text.replace(shown, other), files(tmp_path))
    calls = compare_direct(trace, ["every-call"], Settings()).strategies["every-call"]
    protects = 4 if b"O_TRUNC" in other else 5  # of a file of 0 bytes, no page is valid
    assert (calls[WRITE].mmap, calls[WRITE].munmap, calls[WRITE].mprotect) == (0, 0, protects)


def test_a_verified_strategy_hears_of_writes_too(tmp_path: Path) -> None:
    """On a machine of its own it does what it does without one."""
    trace, _ = take(tmp_path, REAL / "vmatest.log.gz", files(tmp_path))
    for name in ("every-call:all", "laconic"):
        plain = compare(trace, [name], load()).strategies
        checked = compare(trace, [name], load(), model=Model(verify=True)).strategies
        (one,), (other,) = plain.values(), checked.values()
        assert one.by_call[WRITE].high == other.by_call[WRITE].high
        assert one.by_call.keys() == other.by_call.keys()


def test_unknown_file_sizes_are_noted(tmp_path: Path) -> None:
    """At least, no mapping reaches past its file's end: Gramine's Protect of the pages there, and
    its second read, are missing. At most, each of the 22 mappings of files has both."""
    found = []
    for root in (None, files(tmp_path)):
        trace, report = take(tmp_path, REAL / "pyjson.log.gz", root)
        assert ("sizes of files" in report.unknown) == (root is None)
        enclaves = compare(trace, ["every-call", "skip-equal"], load())
        direct = compare_direct(trace, ["every-call"], Settings())
        assert (UNSIZED in as_json(enclaves)["notes"]) == (root is None)
        assert (UNSIZED in direct_as_json(direct)["notes"]) == (root is None)
        span = enclaves.strategies["every-call"].by_call["mmap"]
        ends = direct.least["every-call"], direct.strategies["every-call"]
        found.append(
            [
                (counts.host_calls, counts.ioctls, calls["mmap"].mprotect)
                for counts, calls in zip((span.low, span.high), ends, strict=True)
            ]
        )
    low, high = found[0]
    mappings = 22
    assert high == (low[0] + 2 * mappings, low[1] + mappings, low[2] + mappings)
    protects, reads = 4, 11
    exact = low[0] + protects + reads, low[1] + protects, low[2] + protects
    assert found[1] == [exact, exact]


def test_skip_equal_saves_what_a_patched_gramine_saved(tmp_path: Path) -> None:
    """PR #1824, built and run: 4,003 host mprotects became 3, and 4,001 munmaps 1."""
    trace, _ = take(tmp_path, REAL / "per_page.log.gz")
    found = compare_direct(trace, ["every-call", "skip-equal"], Settings()).strategies
    assert [found[name]["munmap"].munmap for name in found] == [4001, 1]
    assert found["every-call"]["mprotect"].mprotect == 4003
    assert found["skip-equal"]["mprotect"].mprotect <= 3


def test_the_tables_of_gramine_direct(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "busybox.log.gz", rootfs(tmp_path))
    figures = direct_as_json(compare_direct(trace, ["every-call", "skip-equal"], Settings()))
    assert figures["host"] == "gramine"
    counts = figures["strategies"]["every-call"]["counts"]
    assert counts["mmap"] + counts["munmap"] + counts["mprotect"] == counts["host_calls"]
    assert counts["host_calls_of_calls"] < counts["host_calls"]
    # One page at a time: each is an mmap in the child.
    assert figures["by_call"]["fork"]["every-call"]["counts"]["mmap"] > 8 * 111
    text = as_text(figures, 80, "call")
    assert "42 memory calls in 9 processes, in gramine-direct" in text
    assert {"load", "exec", "fork", "mmap"} <= set(text.split("\n"))


def test_only_strategies_with_gramines_libos(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "hello.log.gz")
    with pytest.raises(LaconicError, match="no rule for gramine-direct"):
        compare_direct(TraceReader(trace.path), ["laconic"], Settings())
