"""The importer of Gramine logs: the format's variants, threads, processes, loss, and input that is
no such log."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import laconic.trace
from laconic.errors import LaconicError
from laconic.trace.importers.importing import Import, import_logs
from laconic.trace.records import CallRecord, Exit, Loss, ProcessRecord, ProgramRecord, Record
from laconic.trace.schema import CHOSEN, NO_RESULT, UNFINISHED
from tests.helpers.tracewriter import VARIANTS, Lines, Step, Variant, log

CORPUS = Path(__file__).parents[2] / "corpus" / "gramine"
ANON, FIXED = 0x22, 0x32
NO_FD = (1 << 64) - 1
T1: dict[str, Any] = {}
T2: dict[str, Any] = {"tid": 2}
T3: dict[str, Any] = {"tid": 3}

PROGRAM = [
    Step("brk", (0,), 0x2232000),
    Step("openat", (), 3, text="/lib/libc.so.6"),
    Step("mmap", (0, 0x1F2E8, 1, 0x802, 3, 0), 0x3C4CE000),
    Step("mmap", (0x3C4D1000, 0x17000, 5, 0x812, 3, 0x3000), 0x3C4D1000),
    Step("dup", (3,), 5),
    Step("close", (3,), 0),
    Step("mmap", (0, 0x1000, 3, 1, 5, 0), 0x3C500000),
    Step("read", (3, 0x1000, 0x2000), -9),
    Step("mmap", (0, 0x180000000, 0, 0x4022, NO_FD, 0), -12),
    Step("mmap", (0, 0x200000, 3, 0x22 | 0x40000 | 21 << 26, NO_FD, 0), 0x7FFFF7A00000),
    Step("mprotect", (0x3C4D1000, 0x1000, 1 | 1 << 24), 0),
    Step("madvise", (0x3C4D1000, 0x1000, 4), 0),
    Step("madvise", (0x3C4D1000, 0x1000, 222), -22),
    Step("clone", (0x3D0F00, 0, 0, 0, 0), 2),
    Step("mmap", (0, 0x1000, 3, ANON, NO_FD, 0), 0x3C600000, tid=2),
    Step("munmap", (0x3C600000, 0x1000), 0, tid=2),
    Step("exit", (0,), None, tid=2),
    Step("brk", (0x2233000,), 0x2233000),
    Step("exit_group", (3,), None),
]


def read(path: Path) -> list[Record]:
    return list(laconic.trace.open(str(path)))


def take(tmp_path: Path, text: bytes) -> tuple[list[Record], Import]:
    source, target = tmp_path / "a.log", tmp_path / "a.trace"
    source.write_bytes(text)
    report = import_logs("gramine", [str(source)], str(target), force=True)
    return read(target), report


def calls(records: list[Record]) -> list[CallRecord]:
    return [record for record in records if isinstance(record, CallRecord)]


def brief(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(one.call, one.pid, one.tid, one.args, one.result) for one in calls(records)]


def expected(steps: list[Step]) -> list[tuple[object, ...]]:
    arity = {"brk": 1, "munmap": 2, "mprotect": 3, "madvise": 3, "clone": 1, "mmap": 6}
    return [
        (s.name, s.pid, s.tid, s.args[: arity[s.name]], s.result) for s in steps if s.name in arity
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_the_same_calls(tmp_path: Path, name: str) -> None:
    records, report = take(tmp_path, log(PROGRAM, VARIANTS[name]))
    assert brief(records) == expected(PROGRAM)
    assert report.not_understood == 0
    files = [
        one.file.file.path if one.file else None for one in calls(records) if one.call == "mmap"
    ]
    assert files == [*["/lib/libc.so.6"] * 3, *[None] * 3]
    assert isinstance(records[0], ProcessRecord) and not records[0].parent
    assert [(one.tid, one.status) for one in records if isinstance(one, Exit)] == [
        (2, 0),
        (1, 3 << 8),
    ]
    chosen = [bool(one.state & CHOSEN) for one in calls(records) if one.call == "mmap"]
    assert chosen == [True, False, True, True, True, True]


@pytest.mark.parametrize("name", ["docker", "kubectl", "journald", "klog"])
def test_times_in_front(tmp_path: Path, name: str) -> None:
    records, report = take(tmp_path, log(PROGRAM, VARIANTS[name]))
    # brk is line 1, openat line 2, the mmap that follows ends in line 4.
    assert calls(records)[1].time == 3_000_000
    assert report.time == max(one.time for one in records) > 20_000_000


def test_time_zone_and_a_clock_that_runs_back(tmp_path: Path) -> None:
    lines = [
        b"2024-03-10T01:59:59.5+01:00 [P1:T1:a] trace: ---- brk(0) = 0x1000\n",
        b"2024-03-10T01:00:01.5Z [P1:T1:a] trace: ---- brk(0) = 0x1000\n",
        b"2024-03-10T01:00:00.5Z [P1:T1:a] trace: ---- brk(0) = 0x1000\n",
    ]
    records, _ = take(tmp_path, b"".join(lines))
    assert [one.time for one in calls(records)] == [0, 2 * 10**9, 2 * 10**9]


@pytest.mark.parametrize("source", sorted(CORPUS.glob("*.log")), ids=lambda path: path.name)
def test_corpus(tmp_path: Path, source: Path) -> None:
    records, report = take(tmp_path, source.read_bytes())
    want = json.loads((CORPUS / (source.name.split(".")[0] + ".json")).read_text())
    assert [[*one[:3], list(one[3]), one[4]] for one in brief(records)] == want
    assert report.not_understood == 0


def test_a_call_longer_than_the_buffer_is_put_together(tmp_path: Path) -> None:
    words = tuple(f"--option={'x' * 60}{n}" for n in range(20))
    steps = [
        Step("execve", (), -2, text="/bin/" + "d/" * 150 + "tool", argv=words),
        Step("execve", (), None, text="/bin/tool", argv=words),
        Step("openat", (), 3, text="/f" * 200),
        Step("mmap", (0, 0x1000, 1, 2, 3, 0), 0x1000),
    ]
    text = log(steps, Variant())
    assert text.count(b"\n") > 16
    records, report = take(tmp_path, text)
    assert report.not_understood == 0
    failed, ran, mapped = calls(records)
    assert (failed.result, failed.path) == (-2, "/bin/" + "d/" * 150 + "tool")
    assert (ran.result, ran.path) == (0, "/bin/tool")
    program = next(one for one in records if isinstance(one, ProgramRecord))
    assert program.about == {"path": "/bin/tool", "argv": list(words), "bits": 64}
    assert mapped.file is not None and mapped.file.file.path == "/f" * 200


def test_a_split_line_whose_rest_is_missing_is_lost_and_said_so(tmp_path: Path) -> None:
    text = log([Step("execve", (), None, text="/bin/" + "d/" * 150, argv=("a",))], Variant())
    first = text.splitlines(keepends=True)[0]
    records, report = take(tmp_path, first + log([Step("brk", (0,), 0x1000)], Variant()))
    assert report.not_understood == 1 and report.puzzles[0].line == 1
    assert any(isinstance(one, Loss) for one in records)
    assert brief(records) == [("brk", 1, 1, (0,), 0x1000)]


def test_taking_away_counts_from_its_beginning_and_making_from_its_end(tmp_path: Path) -> None:
    lines = Lines(Variant())
    gone = Step("munmap", (0x10000, 0x1000), 0, **T2)
    made = Step("mmap", (0, 0x1000, 3, ANON, NO_FD, 0), 0x10000, **T3)
    other = Step("mprotect", (0x20000, 0x1000, 1), 0, **T1)
    text = b"".join((
        lines.begin(other), lines.begin(made), lines.begin(gone), lines.end(made), lines.end(gone),
        lines.end(other),
    ))  # fmt: skip
    records, _ = take(tmp_path, text)
    assert [one.call for one in calls(records)] == ["munmap", "mmap", "mprotect"]
    assert [one.result for one in calls(records)] == [0, 0x10000, 0]
    assert [one.tid for one in calls(records)] == [2, 3, 1]


def test_a_call_that_never_returned(tmp_path: Path) -> None:
    lines = Lines(Variant())
    mapped = Step("mmap", (0, 0x1000, 3, ANON, NO_FD, 0), 0x10000)
    gone = Step("munmap", (0x10000, 0x1000), 0, **T2)
    records, _ = take(tmp_path, lines.begin(mapped) + lines.begin(gone))
    assert {(one.call, one.state & UNFINISHED, one.result) for one in calls(records)} == {
        ("mmap", UNFINISHED, None),
        ("munmap", UNFINISHED, None),
    }
    records, _ = take(
        tmp_path, lines.begin(mapped) + lines.end(Step("brk", (0,), 0x1000)) + lines.begin(mapped)
    )
    assert [(one.call, one.state & ~CHOSEN) for one in calls(records)] == [
        ("brk", 0), ("mmap", NO_RESULT), ("mmap", UNFINISHED)]  # fmt: skip


def test_a_log_that_begins_in_the_middle_of_a_call(tmp_path: Path) -> None:
    lines = Lines(Variant())
    text = lines.end(Step("mmap", (), 0x10000)) + log([Step("munmap", (0x10000, 0x1000), 0)])
    records, _report = take(tmp_path, text)
    assert [one.call for one in calls(records)] == ["munmap"]
    assert [one.missing for one in records if isinstance(one, Loss)] == [1]


def test_more_rows_than_are_held_back(tmp_path: Path) -> None:
    lines = Lines(Variant())
    stuck = Step("munmap", (0x10000, 0x1000), 0, **T2)
    many = log([Step("brk", (0,), 0x1000)] * 70_000, Variant(source=False))
    records, report = take(tmp_path, lines.begin(stuck) + many + many + lines.end(stuck))
    assert report.by_call == {"munmap": 1, "brk": 140_000}
    first = calls(records)[0]
    assert (first.call, first.state, first.result) == ("munmap", NO_RESULT, None)


@pytest.mark.parametrize("early", [False, True])
def test_processes_are_linked_by_the_id_that_fork_returned(tmp_path: Path, early: bool) -> None:
    lines = Lines(Variant())
    fork = Step("clone", (0x1200011,), 2)
    child = log([Step("openat", (), 4, 2, 2, text="/x"),
                 Step("mmap", (0, 0x1000, 1, 2, 3, 0), 0x5000, 2, 2),
                 Step("exit_group", (1,), None, 2, 2)])  # fmt: skip
    opened = log([Step("openat", (), 3, text="/inherited")])
    end = lines.end(fork)
    text = opened + lines.begin(fork) + (child + end if early else end + child)
    records, report = take(tmp_path, text)
    clone, mapped = calls(records)
    assert (clone.call, clone.args, clone.result) == ("clone", (0x1200011,), 2)
    assert mapped.file is not None and mapped.file.file.path == "/inherited"
    assert [one.pid for one in records if isinstance(one, ProcessRecord)] == [1]
    assert report.processes == 2


def test_vfork_is_answered_as_fork(tmp_path: Path) -> None:
    records, _ = take(
        tmp_path, log([Step("vfork", (), 2), Step("clone", (0x4111,), 3), Step("fork", (), 4)])
    )
    assert [(one.call, one.result) for one in calls(records)] == [
        ("vfork", 2),
        ("clone", 3),
        ("fork", 4),
    ]
    raw = [
        row.a0
        for row in laconic.trace.open(str(tmp_path / "a.trace")).rows()
        if row.result in (2, 3, 4)
    ]
    assert raw == [0, 0x11, 0]


def test_a_program_that_is_run_again_in_the_same_log(tmp_path: Path) -> None:
    once = log([Step("brk", (0,), 0x1000), Step("exit_group", (0,), None)])
    records, report = take(tmp_path, once + once)
    assert [type(one).__name__ for one in records if not isinstance(one, CallRecord)] == [
        "ProcessRecord",
        "Exit",
    ] * 2 + ["End"]
    # A thread that was cut short in another's exit_group may still be heard.
    late = log(
        [
            Step("clone", (0x10F00,), 2),
            Step("exit_group", (0,), None, tid=2),
            Step("madvise", (0, 0, 4), 0),
        ]
    )
    records, report = take(tmp_path, late)
    assert [one.call for one in calls(records)] == ["clone"]
    assert any("had ended" in note for note in report.notes)


def test_unsupported_and_mocked_calls_are_counted_not_rows(tmp_path: Path) -> None:
    text = log([Step("brk", (0,), 0x1000)]) + (
        b"[P1:T1:a] warning: Unsupported system call mremap\n"
        b"[P1:T1:a] warning: Unsupported system call shim_mremap\n"
        b"[P1:T1:a] trace: ---- mbind(...) = 0 (mock)\n"
    )
    records, report = take(tmp_path, text)
    assert [one.call for one in calls(records)] == ["brk"]
    assert [note.split(": ")[1] for note in report.notes] == ["mremap (2)", "mbind (1)"]


def test_brackets_of_every_kind_and_odd_arguments(tmp_path: Path) -> None:
    text = (
        b"[P7:T9:[] trace: ---- brk(0) = 0x1000\n[P3:libos] trace: ---- brk(0) = 0x2000\n"
        b"[P4::exe] trace: ---- brk(0) = 0x3000\n[::exe] trace: ---- brk(0) = 0x4000\n"
        b"... trace: ---- brk(0) = 0x5000\n[P4294967295:T4294967295:...] trace: ---- brk(0) = "
        b"0x6000\n"
        b"[P7:T9:a] trace: ---- openat(AT_FDCWD, (invalid-addr 0x10), O_RDONLY, 0000) = -14\n"
        b"[P7:T9:a] trace: ---- msync(0x1000, 0x1000, MS_SYNC) = 0\n"
        b"[P7:T9:a] trace: ---- mincore(0x1000, 0x1000, 0x2000) = 0\n"
        b"[P7:T9:a] trace: ---- munmap(0x1000, 0x1000) ...\n"
        b"[P7:T9:a] trace: ---- return from munmap(...) = -22\n"
    )
    records, report = take(tmp_path, text)
    assert report.not_understood == 0
    ids = [(one.pid, one.tid, one.result) for one in calls(records)]
    assert ids == [(7, 9, 0x1000), (3, 3, 0x2000), (4, 4, 0x3000), (1, 1, 0x4000), (1, 1, 0x5000),
                   (2**31 - 1, 2**31 - 1, 0x6000), (7, 9, 0), (7, 9, 0), (7, 9, -22)]  # fmt: skip
    assert [one.args for one in calls(records)][-3:] == [
        (0x1000, 0x1000, 4),
        (0x1000, 0x1000, 0x2000),
        (0x1000, 0x1000),
    ]


def test_unrecognized_lines_are_counted_and_shown_and_never_fatal(tmp_path: Path) -> None:
    bad = b"[P1:T1:a] trace: ---- mmap(0x1000, PROT_WHAT, 1) = 0x1000\n"
    records, report = take(tmp_path, log([Step("brk", (0,), 0x1000)]) + bad * 15)
    assert report.not_understood == 15
    assert len(report.puzzles) == 10
    assert report.puzzles[0].line == 2 and "PROT_WHAT" in report.puzzles[0].text
    assert len([one for one in records if isinstance(one, Loss)]) == 15


def test_an_unknown_descriptor_is_a_file_of_its_own(tmp_path: Path) -> None:
    records, _ = take(tmp_path, log([Step("mmap", (0, 0x1000, 1, 2, 7, 0), 0x1000)] * 2))
    paths = [one.file.file.path for one in calls(records) if one.file]
    assert len(set(paths)) == 2 and all(path.startswith("?fd 7 of P1") for path in paths)
    assert len({one.file.file.inode for one in calls(records) if one.file}) == 2


def test_several_logs_compressed(tmp_path: Path) -> None:
    first, second = tmp_path / "1.log.gz", tmp_path / "2.log"
    lines = Lines(Variant())
    step = PROGRAM[2]
    first.write_bytes(gzip.compress(log(PROGRAM[:2]) + lines.begin(step)))
    second.write_bytes(lines.end(step))
    report = import_logs("gramine", [str(first), str(second)], str(tmp_path / "o"))
    assert report.by_call == {"brk": 1, "mmap": 1}
    assert laconic.trace.open(str(tmp_path / "o")).about["clock"] == "none"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PAR1" + bytes(100), "looks like a Parquet file"),
        (bytes(range(256)) * 4, "a binary file"),
        (
            b'execve("/bin/true", ["true"], 0x7ffd) = 0\nbrk(NULL) = 0x1000\n',
            "other text, whose first line is",
        ),
        (b"[P1:T1:main] error: mmap failed\n", 'loader.log_level = "trace"'),
    ],
)
def test_no_such_log(tmp_path: Path, data: bytes, message: str) -> None:
    source = tmp_path / "a.log"
    source.write_bytes(data)
    with pytest.raises(LaconicError, match=message):
        import_logs("gramine", [str(source)], str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_redacted(tmp_path: Path) -> None:
    source = tmp_path / "a.log"
    source.write_bytes(
        log([Step("execve", (), None, text="/bin/secret", argv=("secret",)), *PROGRAM])
    )
    import_logs("gramine", [str(source)], str(tmp_path / "o"), redact=True)
    assert not any(
        b"secret" in row.data or b"libc" in row.data
        for row in laconic.trace.open(str(tmp_path / "o")).rows()
    )


LINES = log(PROGRAM, Variant()).splitlines(keepends=True) + log(
    PROGRAM, VARIANTS["graphene"]
).splitlines(keepends=True)
LINES += [line.replace(b"P1:T1", b"P2:T4") for line in LINES]
NOISE = st.one_of(
    st.sampled_from(LINES),
    st.sampled_from(LINES),
    st.binary(max_size=80),
    st.builds(lambda line, at, put: line[:at] + put + line[at:], st.sampled_from(LINES),
              st.integers(0, 150),
              st.sampled_from([b"", b"\n", b")", b"(", b" = ", b"] ", b"9" * 5000, b"----", b"-",
                               b"0x" + b"f" * 40])),
    st.builds(lambda line, a, b: line[:a] + line[b:], st.sampled_from(LINES), st.integers(0, 150),
              st.integers(0, 150)),
)  # fmt: skip


@given(st.lists(NOISE, min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_fuzz(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    folder = tmp_path_factory.getbasetemp() / "gramine-fuzz"
    folder.mkdir(exist_ok=True)
    records, report = take(folder, LINES[0] + b"".join(parts))
    assert report.lines >= 1
    assert sum(report.by_call.values()) == len(calls(records))
