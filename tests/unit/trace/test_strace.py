"""The strace importer on real logs of one program in strace's variants: all must come to the same
rows."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laconic.replay.engine import Replay
from laconic.trace.importers.importing import Import, import_logs
from laconic.trace.importers.strace.clock import nanoseconds
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES, MEMORY_CODES
from tests.fuzz_import import check
from tests.fuzzing import corpus, mutate

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "strace"
#: Logs of all of the program, with all of its calls.
WHOLE = ["f", "f-all", "f-tt", "f-t", "f-ttt-T", "f-r", "f-y", "f-yy", "f-Y", "f-k", "f-n-i",
         "f-X-raw", "f-X-verbose",
         "f-raw", "f-x", "f-a", "f-C", "stderr"]  # fmt: skip
#: Rows that are not of the program's calls.
WORDS = {CODES[name] for name in ("file", "stack", "note", "lost", "end", "process")}


def imported(logs: Iterable[str | Path], where: Path, **options: Any) -> tuple[Import, TraceReader]:
    """The report and the trace of an import."""
    output = str(where / "a.trace")
    report = import_logs("strace", [str(log) for log in logs], output, force=True, **options)
    return report, TraceReader(output)


def from_text(text: str | bytes, where: Path) -> tuple[Import, list[list[Any]]]:
    """The report and the rows of a log with this text."""
    path = where / "a.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    report, trace = imported([path], where)
    return report, plain(trace)


def plain(trace: TraceReader) -> list[list[Any]]:
    """The rows of calls: name, process and thread numbered by appearance, arguments, result, state,
    file, data."""
    seen: dict[int, int] = {}
    children: set[int] = set()
    files: dict[int, str] = {}
    rows = []
    for row in trace.rows():
        if row.event == CODES["file"]:
            files[row.file] = os.path.basename(os.fsdecode(row.data))
        if row.event in WORDS:
            continue
        name = trace.names[row.event]
        result = row.result
        if name in ("clone", "clone3", "fork", "vfork"):
            result = seen.setdefault(result, len(seen) + 1) if result > 0 else result
            children.add(result)
        pid, tid = (seen.setdefault(number, len(seen) + 1) for number in (row.pid, row.tid))
        data = re.sub(r'"path": "[^"]*/', '"path": "', os.fsdecode(row.data))
        rows.append(
            [name, pid, tid, list(row.args), result, row.state, files.get(row.file, ""), data]
        )
    return rows


def calls(rows: list[list[Any]]) -> list[str]:
    """The memory calls, short: name and first argument."""
    return [f"{name} {args[0]:#x}" for name, _, _, args, *_ in rows if CODES[name] < MEMORY_CODES]


def expected() -> list[list[Any]]:
    """What the corpus's program did."""
    rows: list[list[Any]] = [
        json.loads(line) for line in (CORPUS / "expected.jsonl").read_text().splitlines()
    ]
    return rows


def without_shm(rows: list[list[Any]]) -> list[list[Any]]:
    """Rows without the identifier of the shared memory, which is another each time."""
    return [[*row[:3], [0, *row[3][1:]] if row[0] == "shmat" else row[3], *row[4:]] for row in rows]


@pytest.mark.parametrize("name", WHOLE)
def test_variants_come_to_the_same_rows(name: str, tmp_path: Path) -> None:
    """strace's options change how a log looks, not what it says."""
    report, trace = imported([CORPUS / f"{name}.log"], tmp_path)
    assert without_shm(plain(trace)) == without_shm(expected())
    assert report.not_understood == 0, report.puzzles
    assert (report.processes, report.threads) == (3, 4)


@pytest.mark.parametrize("name", ["ff", "ff-tt"])
def test_a_set_comes_to_the_same_rows(name: str, tmp_path: Path) -> None:
    """A file for each thread; with times they are merged, without them each is read by itself,
    parents first."""
    _, trace = imported(sorted(CORPUS.glob(f"{name}.log.*"), reverse=True), tmp_path)
    rows, wanted = without_shm(plain(trace)), without_shm(expected())
    if name == "ff":
        for tid in range(1, 5):
            assert [row for row in rows if row[2] == tid] == [
                row for row in wanted if row[2] == tid
            ]
    else:
        assert sorted(map(str, rows)) == sorted(map(str, wanted))


@pytest.mark.parametrize(
    ("digits", "time"),
    [(b"", 0), (b"5", 500_000_000), (b"000001", 1_000), (b"123456", 123_456_000),
     (b"1234567899", 123_456_789)],
)  # fmt: skip
def test_fractions_of_seconds_are_nanoseconds(digits: bytes, time: int) -> None:
    assert nanoseconds(digits) == time


def test_only_what_succeeded(tmp_path: Path) -> None:
    """-z leaves out what failed, and nothing else."""
    _, trace = imported([CORPUS / "f-z.log"], tmp_path)
    wanted = [
        row for row in without_shm(expected()) if not -4096 < row[4] < 0 and row[0] != "answer"
    ]
    assert without_shm(plain(trace)) == wanted


def test_one_process_alone(tmp_path: Path) -> None:
    """Without -f nothing names a process: it is process 1."""
    for name in ("single", "single-tt-T-y"):
        report, trace = imported([CORPUS / f"{name}.log"], tmp_path)
        assert report.not_understood == 0
        pids = {row.pid for row in trace.rows() if row.event < MEMORY_CODES}
        assert pids == {1}
        wanted = [
            row for row in without_shm(expected()) if row[2] == 1 and CODES[row[0]] < MEMORY_CODES
        ]
        assert [row for row in without_shm(plain(trace)) if CODES[row[0]] < MEMORY_CODES] == wanted


def test_a_signal_s_end(tmp_path: Path) -> None:
    """The wait status of a kill is the signal's number."""
    _, trace = imported([CORPUS / "killed.log"], tmp_path)
    assert [row.a0 for row in trace.rows() if row.event == CODES["exit"]] == [9]


@pytest.mark.parametrize("name", WHOLE)
def test_replay_has_no_model_error(name: str, tmp_path: Path) -> None:
    """Every result is what bookkeeping says, or something that a log cannot show."""
    _, trace = imported([CORPUS / f"{name}.log"], tmp_path)
    engine = Replay(trace, check=True)
    engine.run()
    assert engine.check is not None
    assert engine.check.counts["model error"] == 0 and engine.check.counts["lost data"] == 0


def test_stacks_stand_before_their_calls(tmp_path: Path) -> None:
    """-k: a row with the frames directly before each call's row."""
    _, trace = imported([CORPUS / "f-k.log"], tmp_path)
    rows = list(trace.rows())
    stacks = [place for place, row in enumerate(rows) if row.event == CODES["stack"]]
    text = (CORPUS / "f-k.log").read_text()
    first = re.search(r"brk\(NULL\).*\n((?: > .*\n)+)", text)
    assert first is not None
    wanted = first[1].replace(" > ", "").strip().encode()
    found = [rows[place][16] for place in stacks if rows[place + 1][0] == CODES["brk"]]
    assert found[0] == wanted
    assert all(
        rows[place + 1][0] != CODES["stack"] and rows[place + 1][3] == rows[place][3]
        for place in stacks
    )
    assert len(stacks) > 50


@pytest.mark.parametrize(
    "packing", ["crlf", "gzip", "gzip in parts", "zstd", "wrapped", "no last newline"]
)
def test_however_it_is_packed(packing: str, tmp_path: Path) -> None:
    """Line ends, packers, and a terminal's width."""
    data = (CORPUS / "f-tt.log").read_bytes()
    if packing == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif packing == "gzip":
        data = gzip.compress(data)
    elif packing == "gzip in parts":
        data = gzip.compress(data[:5000]) + gzip.compress(data[5000:])
    elif packing == "zstd":
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    elif packing == "wrapped":
        data = b"".join(
            line[at : at + 80] + b"\n"
            for line in data.splitlines()
            for at in range(0, len(line), 80)
        )
    else:
        data = data.rstrip(b"\n")
    path = tmp_path / "log"
    path.write_bytes(data)
    report, trace = imported([path], tmp_path)
    assert without_shm(plain(trace)) == without_shm(expected())
    assert report.not_understood == 0, report.puzzles


def test_a_cut_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """At every byte of its last two lines, and packed: never an error, and what was whole is
    there."""
    data = (CORPUS / "f.log").read_bytes()
    whole = plain(imported([CORPUS / "f.log"], tmp_path)[1])
    last = data.rfind(b"\n", 0, data.rfind(b"\n", 0, -1)) + 1
    for end in range(last - 40, len(data), 3):
        _, rows = from_text(data[:end], tmp_path)
        assert rows[: len(whole) - 3] == whole[:-3]
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(data)[:-100])
    report, trace = imported([path], tmp_path)
    assert any("cut short" in note for note in report.notes)
    engine = Replay(trace)
    engine.run()
    assert any("cut short" in loss for loss in engine.losses)


def test_a_log_that_begins_in_the_middle(tmp_path: Path) -> None:
    """From any line on; what is not known is said."""
    lines = (CORPUS / "f-tt.log").read_bytes().splitlines(keepends=True)
    for start in range(1, len(lines), 9):
        report, rows = from_text(b"".join(lines[start:]), tmp_path)
        assert report.not_understood == 0, (start, report.puzzles)
        assert rows or start > len(lines) - 4


def test_the_options_that_a_log_shows(tmp_path: Path) -> None:
    """What a log was made with is in the trace."""
    made = {
        "f": ["-f", "-o"],
        "f-ttt-T": ["-f", "-o", "-ttt", "-T"],
        "f-k": ["-f", "-o", "-k"],
        "single": [],
        "stderr": ["-f"],
        "f-n-i": ["-f", "-o", "-n", "-i"],
    }
    for name, options in made.items():
        _, trace = imported([CORPUS / f"{name}.log"], tmp_path)
        assert trace.about["strace_options_seen"] == options, name
    _, trace = imported(CORPUS.glob("ff-tt.log.*"), tmp_path)
    assert trace.about["strace_options_seen"][:3] == ["-ff", "-o", "-tt"]


def test_redaction(tmp_path: Path) -> None:
    """No path, no name, no argument of the program."""
    _, trace = imported([CORPUS / "f-k.log"], tmp_path, redact=True)
    data = b"".join(row.data for row in trace.rows()) + json.dumps(trace.about).encode()
    for word in (b"demo", b"libc", b"data, (1)", b"missing", b"f-k"):
        assert word not in data


HEAD = (
    '10 execve("./a", ["./a"], 0x7ffd00000000 /* 3 vars */) = 0\n'
    "10 clone(child_stack=0x7f00, flags=CLONE_VM|CLONE_THREAD|CLONE_FILES|CLONE_FS|CLONE_SIGHAND)"
    " = 11\n"
)


class TestOrder:
    """What threads do at the same time: takers at their beginning, makers at their end."""

    def test_munmap_before_the_mmap_that_is_given_its_range(self, tmp_path: Path) -> None:
        """The range is free as soon as the munmap has begun."""
        log = HEAD + (
            "10 munmap(0x10000, 4096 <unfinished ...>\n"
            "11 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000\n"
            "10 <... munmap resumed>) = 0\n"
        )
        _, rows = from_text(log, tmp_path)
        assert calls(rows) == ["munmap 0x10000", "mmap 0x0"]

    def test_mmap_behind_the_munmap_that_frees_its_range(self, tmp_path: Path) -> None:
        """Its thread is told late, and nobody knew the address before."""
        log = HEAD + (
            "10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>\n"
            "11 munmap(0x10000, 4096) = 0\n"
            "10 <... mmap resumed>) = 0x10000\n"
            "11 mprotect(0x10000, 4096, PROT_NONE) = 0\n"
        )
        _, rows = from_text(log, tmp_path)
        assert calls(rows) == ["munmap 0x10000", "mmap 0x0", "mprotect 0x10000"]

    def test_mremap_goes_where_both_its_ranges_fit(self, tmp_path: Path) -> None:
        """It made its target late, and another call was given its source before it had ended."""
        log = HEAD + (
            "10 munmap(0x50000, 8192 <unfinished ...>\n"
            "11 mremap(0x10000, 4096, 8192, MREMAP_MAYMOVE <unfinished ...>\n"
            "10 <... munmap resumed>) = 0\n"
            "10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x10000\n"
            "11 <... mremap resumed>) = 0x50000\n"
        )
        _, rows = from_text(log, tmp_path)
        assert calls(rows) == ["munmap 0x50000", "mremap 0x10000", "mmap 0x0"]

    def test_a_break_that_shrinks_is_a_taker(self, tmp_path: Path) -> None:
        """And one that grows is not."""
        log = HEAD + (
            "10 brk(NULL) = 0x20000\n10 brk(0x22000) = 0x22000\n"
            "10 brk(0x21000 <unfinished ...>\n"
            "11 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x90000\n"
            "10 <... brk resumed>) = 0x21000\n"
            "10 brk(0x23000 <unfinished ...>\n"
            "11 munmap(0x90000, 4096) = 0\n"
            "10 <... brk resumed>) = 0x23000\n"
        )
        _, rows = from_text(log, tmp_path)
        wanted = [
            "brk 0x0",
            "brk 0x22000",
            "brk 0x21000",
            "mmap 0x0",
            "munmap 0x90000",
            "brk 0x23000",
        ]
        assert calls(rows) == wanted

    def test_a_child_that_is_seen_before_its_clone_has_returned(self, tmp_path: Path) -> None:
        """The clone's row stands before the child's first."""
        log = HEAD + (
            "10 vfork( <unfinished ...>\n"
            "12 munmap(0x1000, 4096) = 0\n"
            '12 execve("/b", ["b"], 0x7f /* 0 vars */ <unfinished ...>\n'
            "10 <... vfork resumed>) = 12\n"
            "12 <... execve resumed>) = 0\n"
        )
        report, rows = from_text(log, tmp_path)
        assert [row[0] for row in rows[3:]] == ["vfork", "munmap", "execve", "program"]
        assert report.processes == 2

    def test_children_of_two_clones_at_once(self, tmp_path: Path) -> None:
        """Whose child it is, is told by the clone that returns its number."""
        log = HEAD + (
            "10 fork( <unfinished ...>\n11 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>\n"
            "21 munmap(0x1000, 4096) = 0\n22 munmap(0x2000, 4096) = 0\n"
            "10 <... fork resumed>) = 22\n11 <... clone resumed>) = 21\n"
        )
        _, rows = from_text(log, tmp_path)
        assert [(row[0], row[2]) for row in rows[3:]] == [
            ("clone", 2),
            ("munmap", 3),
            ("fork", 1),
            ("munmap", 4),
        ]

    def test_rows_held_back_for_an_unfinished_call_are_bounded(self, tmp_path: Path) -> None:
        """A call that never returns holds back no more than some ten thousand rows; and one that
        died is unfinished."""
        line = "11 mprotect(0x1000, 4096, PROT_NONE) = 0\n"
        log = (
            HEAD
            + "10 munmap(0x10000, 4096 <unfinished ...>\n"
            + line * 60_000
            + "10 <... munmap resumed>) = 0\n"
        )
        _, rows = from_text(log, tmp_path)
        assert rows[3][0] == "munmap" and rows[3][5] == 16 and len(rows) == 60_004
        log = (
            HEAD
            + "10 munmap(0x10000, 4096 <unfinished ...>\n"
            + line
            + "10 +++ killed by SIGKILL +++\n"
        )
        _, rows = from_text(log, tmp_path)
        assert [(row[0], row[5]) for row in rows[3:]] == [
            ("munmap", 1),
            ("mprotect", 0),
            ("exit", 0),
        ]

    def test_an_execve_by_another_thread_takes_the_leader_s_place(self, tmp_path: Path) -> None:
        """`+++ superseded`: the process goes on under the leader's number."""
        log = HEAD + (
            '11 execve("/b", ["b"], 0x7f /* 0 vars */ <unfinished ...>\n'
            "10 +++ superseded by execve in pid 11 +++\n"
            "10 <... execve resumed>) = 0\n"
            "10 brk(NULL) = 0x1000\n"
        )
        report, rows = from_text(log, tmp_path)
        assert [(row[0], row[2]) for row in rows[3:]] == [("execve", 1), ("program", 1), ("brk", 1)]
        assert report.not_understood == 0 and report.processes == 1


class TestDescriptors:
    """Whose file a mapping is."""

    def mapped(self, log: str, where: Path) -> str:
        """The path of the last mapping's file."""
        path = where / "a.log"
        line = "10 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 7, 0) = 0x90000\n"
        path.write_text('10 execve("./a", ["./a"], 0x7f /* 3 vars */) = 0\n' + log + line)
        _, trace = imported([path], where)
        files = {
            row.file: os.fsdecode(row.data) for row in trace.rows() if row.event == CODES["file"]
        }
        return files.get(next(row.file for row in trace.rows() if row.event == CODES["mmap"]), "")

    @pytest.mark.parametrize(
        ("log", "path"),
        [
            ('10 open("/a/./b//c", O_RDONLY) = 7\n', "/a/b/c"),
            ('10 openat(AT_FDCWD, "/a\\n\\"\\303\\244", O_RDWR|O_CLOEXEC) = 7\n', '/a\n"ä'),
            ('10 openat2(AT_FDCWD, "/a", {flags=O_RDWR|O_CLOEXEC, resolve=0}, 24) = 7\n', "/a"),
            ('10 creat("/a", 0644) = 7\n', "/a"),
            ('10 getcwd("/home", 4096) = 6\n10 open("x", O_RDONLY) = 7\n', "/home/x"),
            ('10 chdir("/home") = 0\n10 chdir("y") = 0\n10 open("x", O_RDONLY) = 7\n', "/home/y/x"),
            ('10 open("/d", O_RDONLY|O_DIRECTORY) = 3\n10 openat(3, "x", O_RDONLY) = 7\n', "/d/x"),
            ('10 openat(AT_FDCWD</home>, "x", O_RDONLY) = 7</home/x>\n', "/home/x"),
            ('10 memfd_create("m", MFD_CLOEXEC) = 7\n', "/memfd:m (deleted)"),
            ('10 open("/a", O_RDONLY) = 3\n10 dup(3) = 7\n10 close(3) = 0\n', "/a"),
            ('10 open("/a", O_RDONLY) = 3\n10 dup2(3, 7) = 7\n', "/a"),
            ('10 open("/a", O_RDONLY) = 3\n10 fcntl(3, F_DUPFD, 7) = 7\n', "/a"),
            ('10 open("/a", O_RDONLY) = 3\n10 dup3(3, 7, O_CLOEXEC) = 7\n', "/a"),
            ("10 close(7) = 0\n", "?fd 7 of 10"),
            ('10 open("/a", O_RDONLY) = 7\n10 close_range(3, 4294967295, 0) = 0\n', "?fd 7 of 10"),
            ('10 open("/a", O_RDONLY) = 7\n10 execve("/b", ["b"], 0x7f /* 1 var */) = 0\n', "/a"),
            ('10 open("/a", O_RDONLY|O_CLOEXEC) = 7\n10 execve("/b", ["b"], 0x7f /* 1 var */) = '
             '0\n', "?fd 7 of 10"),
            ('10 open("/a", O_RDONLY) = 7\n10 fcntl(7, F_SETFD, FD_CLOEXEC) = 0\n'
             '10 execve("/b", ["b"], 0x7f /* 1 var */) = 0\n', "?fd 7 of 10"),
            ("10 socket(AF_INET, SOCK_STREAM, IPPROTO_TCP) = 7\n", "socket:[]"),
            ("10 pipe2([6, 7], O_CLOEXEC) = 0\n", "pipe:[]"),
            ("10 pipe2( <unfinished ...>\n10 <... pipe2 resumed>[6, 7], O_CLOEXEC) = 0\n",
             "pipe:[]"),
            ('10 open("/a", O_RDONLY) = -1 ENOENT (No such file or directory)\n', "?fd 7 of 10"),
        ],
    )  # fmt: skip
    def test_paths(self, log: str, path: str, tmp_path: Path) -> None:
        """Opened, copied, kept or closed at an execve."""
        assert self.mapped(log, tmp_path) == path

    def test_annotations_are_believed(self, tmp_path: Path) -> None:
        """What -y shows of the mapping's descriptor itself."""
        for shown, path in {
            "7</a b>": "/a b",
            "7</a (deleted)>": "/a (deleted)",
            "7</a>(deleted)": "/a (deleted)",
            "7</dev/zero<char 1:5>>": "/dev/zero",
            "7<anon_inode:[io_uring]>": "anon_inode:[io_uring]",
        }.items():
            log = (
                f"10 brk(NULL) = 0x1\n10 mmap(NULL, 4096, PROT_READ, MAP_SHARED, {shown}, 0) = "
                f"0x1000\n"
            )
            path_of = tmp_path / "a.log"
            path_of.write_text(log)
            _, trace = imported([path_of], tmp_path)
            assert [
                os.fsdecode(row.data) for row in trace.rows() if row.event == CODES["file"]
            ] == [path]

    def test_a_fork_has_its_own_table_and_a_thread_has_not(self, tmp_path: Path) -> None:
        """CLONE_FILES."""
        log = '10 clone(child_stack=0x7f, flags={}) = 11\n11 open("/a", O_RDONLY) = 7\n'
        assert self.mapped(log.format("CLONE_VM|CLONE_FILES|CLONE_THREAD"), tmp_path) == "/a"
        assert self.mapped(log.format("SIGCHLD"), tmp_path) == "?fd 7 of 10"


class TestForms:
    """Forms of other versions than the corpus's, and of calls that it does not have."""

    @pytest.mark.parametrize(
        ("line", "call", "args", "result"),
        [
            ("mmap(addr=NULL, length=8192, prot=PROT_READ|PROT_WRITE, "
             "flags=MAP_PRIVATE|MAP_ANONYMOUS, fd=-1, offset=0)"
             " = 0x1000", "mmap", [0, 8192, 3, 34, (1 << 64) - 1, 0], 4096),
            ("mmap(NULL, 2097152, PROT_NONE, "
             "MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT, -1, 0) = 0x1000",
             "mmap", [0, 2097152, 0, 0x54040022, (1 << 64) - 1, 0], 4096),
            ("mmap(NULL, 1, 0x3, 0x22 /* MAP_??? */, -1, 0) = -1 ENOMEM (Cannot allocate memory)",
             "mmap", [0, 1, 3, 34, (1 << 64) - 1, 0], -12),
            ("munmap(0x1000, 4096) = -1 (errno 22)", "munmap", [4096, 4096, 0, 0, 0, 0], -22),
            ("munmap(0x1000, 4096) = 0 (INJECTED)", "munmap", [4096, 4096, 0, 0, 0, 0], 0),
            ("munmap(0x1000, 4096) = 0 (DELAYED)", "munmap", [4096, 4096, 0, 0, 0, 0], 0),
            ("mprotect(0x1000, 4096, PROT_READ|PROT_GROWSDOWN)                = 0 <0.000010>",
             "mprotect", [4096, 4096, 0x1000001, 0, 0, 0], 0),
            ("madvise(0x1000, 4096, 0x66 /* MADV_??? */) = 0", "madvise",
             [4096, 4096, 102, 0, 0, 0], 0),
            ("mremap(0x1000, 4096, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, 0x9000) = 0x9000",
             "mremap", [4096, 4096, 8192, 3, 0x9000, 0], 0x9000),
            ("mlock2(0x1000, 4096, MLOCK_ONFAULT) = 0", "mlock2", [4096, 4096, 1, 0, 0, 0], 0),
            ("mlockall(MCL_CURRENT|MCL_FUTURE) = 0", "mlockall", [3, 0, 0, 0, 0, 0], 0),
            ("munlockall() = 0", "munlockall", [0, 0, 0, 0, 0, 0], 0),
            ("shmat(5, 0x1000, SHM_RDONLY) = 0x1000", "shmat", [5, 0x1000, 0o10000, 0, 0, 0],
             0x1000),
            ("pkey_mprotect(0x1000, 4096, PROT_READ, -1) = 0",
             "pkey_mprotect", [4096, 4096, 1, (1 << 64) - 1, 0, 0], 0),
            ("msync(0x1000, 4096, MS_SYNC) = 0", "msync", [4096, 4096, 4, 0, 0, 0], 0),
            ("mincore(0x1000, 8192, [1, 0]) = 0", "mincore", [4096, 8192, 0, 0, 0, 0], 0),
            ("prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) = 0", "prctl",
             [65, 1, 0, 0, 0, 0], 0),
            ("prctl(0x53564d41 /* PR_??? */, 0, 0x1000, 0x1000, 0x5555) = 0",
             "prctl", [0x53564D41, 0, 4096, 4096, 0x5555, 0], 0),
            ("arch_prctl(0x5001 /* ARCH_??? */, 0x1) = -1 EOPNOTSUPP (Operation not supported)",
             "arch_prctl", [0x5001, 1, 0, 0, 0, 0], -95),
            ("mseal(0x1000, 4096, 0) = 0", "mseal", [4096, 4096, 0, 0, 0, 0], 0),
            ("personality(PER_LINUX|ADDR_NO_RANDOMIZE) = 0 (PER_LINUX)",
             "personality", [0x40000, 0, 0, 0, 0, 0], 0),
            ("fork() = 11", "fork", [0, 0, 0, 0, 0, 0], 2),
            ("clone(child_stack=0, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, "
             "child_tidptr=0x7f) = 11",
             "clone", [0x1200011, 0, 0, 0, 0, 0], 2),
            ("clone(0x1200011, 0, 0, 0x7f, 0) = 0xb", "clone", [0x1200011, 0, 0, 0, 0, 0], 2),
            ("clone(child_stack=NULL, flags=SIGCHLD) = 7 /* 11 in strace's PID NS "
             "*/", "clone", [17, 0, 0, 0, 0, 0], 2),
        ],
    )  # fmt: skip
    def test_a_line(
        self, line: str, call: str, args: list[int], result: int, tmp_path: Path
    ) -> None:
        """The row of one line; and the same where the call stands in two halves."""
        name, _, rest = line.partition("(")
        within, _, after = rest.rpartition(") ")
        halves = (
            f"10 {name}({within} <unfinished ...>\n9 getpid() = 9\n"
            f"10 <... {name} resumed> ) {after}\n"
        )
        for text in (f"10 {line}\n", halves):
            report, rows = from_text("10 brk(NULL) = 0x1000\n" + text, tmp_path)
            assert report.not_understood == 0, report.puzzles
            found = [row for row in rows if row[0] == call and row[1] == 1][-1]
            assert (found[3], found[4]) == (args, result)

    @pytest.mark.parametrize(
        "line",
        [
            "munmap(0x1000, 4096) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)",
            "restart_syscall(<... resuming interrupted nanosleep ...>) = 0",
            "prctl(PR_SET_NAME, \"worker (1), = 0\") = 0",
            "arch_prctl(ARCH_SET_FS, 0x7f) = 0",
            "arch_prctl(0x3001 /* ARCH_??? */, 0x7ffd) = -1 EINVAL (Invalid argument)",
            "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL} ---",
            "--- stopped by SIGSTOP ---",
            'write(1, "mmap(1) = 5", 11) = 11',
            "exit_group(0) = ?",
            "",
        ],
    )  # fmt: skip
    def test_a_line_of_no_row(self, line: str, tmp_path: Path) -> None:
        """What did not happen, or is not a memory call."""
        report, rows = from_text(f"10 brk(NULL) = 0x1000\n10 {line}\n\n", tmp_path)
        assert report.not_understood == 0, report.puzzles
        assert calls(rows) == ["brk 0x0"]

    def test_no_result(self, tmp_path: Path) -> None:
        """`?`: whether it was done is not known."""
        _, rows = from_text("10 munmap(0x1000, 4096) = ?\n10 +++ exited with 1 +++\n", tmp_path)
        assert [(row[0], row[5]) for row in rows] == [("munmap", 16), ("exit", 0)]

    def test_old_words(self, tmp_path: Path) -> None:
        """strace 4: other notes on processes, other lists of variables."""
        log = (
            'execve("/bin/a", ["a"], [/* 64 vars */]) = 0\nbrk(0) = 0x1000\n'
            "clone(Process 11 attached\nchild_stack=0, flags=SIGCHLD, child_tidptr=0x7f) = 11\n"
            "[pid    10] munmap(0x1000, 4096 <unfinished ...>\n"
            "[pid    11] munmap(0x2000, 4096) = 0\n"
            "[pid    10] <... munmap resumed> ) = 0\n"
            "[pid    11] +++ exited with 0 +++\n"
            "Process 11 detached\nPANIC: attached pid 12 exited\n"
            "--- SIGCHLD (Child exited) @ 0 (0) ---\n"
            "exit_group(0) = ?\n"
        )
        report, rows = from_text(log, tmp_path)
        assert report.not_understood == 0, report.puzzles
        assert [(row[0], row[1]) for row in rows] == [
            ("execve", 1), ("program", 1), ("brk", 1), ("clone", 1), ("munmap", 1), ("munmap", 2),
            ("exit", 2)
        ]  # fmt: skip

    def test_the_program_s_own_output_between(self, tmp_path: Path) -> None:
        """Before a line, within one, and lines of its own."""
        log = (
            "10 brk(NULL) = 0x1000\nhello\n"
            "no end of line[pid 10] munmap(0x1000, 4096) = 0\n"
            "[pid 10] munmap(0x2000, 4096) = 0\n"
            '[pid 10] write(1, "x\\n", 2x\n)          = 2\n'
            "[pid 10] munmap(0x3000, 4096) = 0\n"
        )
        report, rows = from_text(log, tmp_path)
        assert calls(rows)[1:] == ["munmap 0x1000", "munmap 0x2000", "munmap 0x3000"]
        assert [puzzle.text for puzzle in report.puzzles] == ["hello"]
        assert report.puzzles[0].line == 2

    def test_a_process_of_32_bits_is_not_followed(self, tmp_path: Path) -> None:
        """Its calls are counted, and the trace says so."""
        log = (
            '10 execve("/a", ["a"], 0x7f /* 0 vars */) = 0\n'
            "[ Process PID=10 runs in 32 bit mode. ]\n"
            "10 brk(NULL) = 0x1000\n10 mmap2(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, "
            "-1, 0) = 0x5000\n"
            '10 execve("/b", ["b"], 0x7f /* 0 vars */) = 0\n'
            "[ Process PID=10 runs in 64 bit mode. ]\n"
            "10 brk(NULL) = 0x7000\n"
        )
        report, rows = from_text(log, tmp_path)
        assert [row[0] for row in rows] == [
            "execve",
            "program",
            "program",
            "execve",
            "program",
            "brk",
        ]
        assert '"bits": 32' in rows[2][7]
        assert any("32-bit" in note for note in report.notes)

    def test_threads_of_an_attached_process(self, tmp_path: Path) -> None:
        """-p: strace tells how many threads there are."""
        log = (
            "strace: Process 10 attached with 2 threads\n"
            "[pid    11] munmap(0x1000, 4096) = 0\n[pid    10] munmap(0x2000, 4096) = 0\n"
        )
        _, trace = imported([self.write(log, tmp_path)], tmp_path)
        assert [(row.pid, row.tid) for row in trace.rows() if row.event == CODES["munmap"]] == [
            (10, 11),
            (10, 10),
        ]

    def test_midnight(self, tmp_path: Path) -> None:
        """Times go on."""
        log = "10 23:59:59.999999 brk(NULL) = 0x1000\n10 00:00:00.000001 brk(NULL) = 0x1000\n"
        _, trace = imported([self.write(log, tmp_path)], tmp_path)
        assert [row.time for row in trace.rows() if row.event == CODES["brk"]] == [0, 2000]

    def write(self, log: str, where: Path) -> Path:
        """A log's file."""
        path = where / "b.log"
        path.write_text(log)
        return path


def changes() -> st.SearchStrategy[tuple[int, list[int]]]:
    """Which log, and the numbers that a mutation draws."""
    return st.tuples(st.integers(0, 99), st.lists(st.integers(0, 1 << 16), min_size=4, max_size=60))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes())
def test_mutated_logs(tmp_path: Path, drawn: tuple[int, list[int]]) -> None:
    """Whatever stands in a log: a trace, or an error for people."""
    texts = corpus("strace")
    numbers = iter(drawn[1])
    text = mutate(
        texts[drawn[0] % len(texts)], lambda below: next(numbers, 7) % below, len(drawn[1]) // 4
    )
    check("strace", text, tmp_path)
