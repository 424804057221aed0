"""The importer of perf's text: real output of perf 6.1, the pages that faults show, and input that
is no such log."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import laconic.trace
from laconic.errors import LaconicError
from laconic.trace.importers.importing import Import, import_logs
from laconic.trace.importers.perf.processes import PerfSpace
from laconic.trace.records import CallRecord, Exit, Loss, ProcessRecord, ProgramRecord, Record
from laconic.trace.schema import CHOSEN, FILE_SIZES, UNFINISHED
from tests.helpers.tracewriter import VARIANTS, log, steps

CORPUS = Path(__file__).parents[2] / "corpus" / "perf"
LOGS = sorted(CORPUS.glob("*.log"))
PAGE = 4096


def take(tmp_path: Path, text: bytes, kind: str = "perf") -> tuple[list[Record], Import]:
    source, target = tmp_path / "a.log", tmp_path / "a.trace"
    source.write_bytes(text)
    report = import_logs(kind, [str(source)], str(target), force=True)
    return list(laconic.trace.open(str(target))), report


def calls(records: list[Record], name: str = "") -> list[CallRecord]:
    return [one for one in records if isinstance(one, CallRecord) and name in ("", one.call)]


def brief(records: list[Record]) -> list[Any]:
    found: list[Any] = []
    for one in records:
        if isinstance(one, CallRecord):
            pages = sum(end - start for start, end, _ in one.touched) // PAGE
            path = one.file.file.path if one.file else one.path
            found.append(
                [one.call, one.pid, one.tid, [f"{a:#x}" for a in one.args], one.result, pages, path]
            )
        elif isinstance(one, Exit):
            found.append(
                [
                    "exit",
                    one.pid,
                    one.tid,
                    one.status,
                    sum(end - start for start, end, _ in one.touched) // PAGE,
                ]
            )
    return found


@pytest.mark.parametrize("source", LOGS, ids=lambda path: path.name)
def test_corpus(tmp_path: Path, source: Path) -> None:
    records, report = take(tmp_path, source.read_bytes())
    assert brief(records) == json.loads(source.with_suffix(".json").read_text())
    # perf trace leaves the advice out where it does not know its name; perf script has it.
    assert report.not_understood == source.name.startswith("trace")


@pytest.mark.parametrize("source", LOGS, ids=lambda path: path.name)
def test_the_log_gives_the_calls_that_the_program_made(tmp_path: Path, source: Path) -> None:
    # calls.c, read by a person.
    records, report = take(tmp_path, source.read_bytes())
    assert (report.processes, report.threads) == (3, 4)
    main = calls(records)[0].pid
    reserved = next(one for one in calls(records, "mmap") if one.args[1] == 1 << 16)
    assert reserved.args[2:5] == (0, 0x4022, (1 << 64) - 1) and reserved.state == CHOSEN
    assert reserved.result is not None
    moved = calls(records, "mremap")[0]
    assert moved.args[:4] == (reserved.result + 8192, 8192, 1 << 20, 1)
    assert [one.result for one in calls(records, "mmap") if one.args[1] == 0] == [-22]
    private, shared = [
        one
        for one in calls(records, "mmap")
        if one.pid == main and one.args[1] == PAGE and one.file
    ]
    assert private.file and shared.file and private.file.file.inode != shared.file.file.inode
    assert (shared.args[3], shared.args[5]) == (1, 4096)
    thread, child, vfork = (calls(records, name)[0] for name in ("clone3", "clone", "vfork"))
    assert thread.args[0] & 0x10100 == 0x10100 and child.args[0] & 0x1FF == 17
    own = [one for one in calls(records) if one.tid == thread.result]
    assert {one.pid for one in own} == {main}
    assert [one.call for one in own] == ["mmap", "munmap", "madvise"]
    ends = {one.tid: one.status for one in records if isinstance(one, Exit)}
    assert ends == {main: 3 << 8, thread.result: 0, child.result: 0, vfork.result: 0}
    programs = [one for one in records if isinstance(one, ProgramRecord)]
    assert len(programs) == 3 and all(one.about["path"].endswith(("true", "b")) for one in programs)
    assert [one.pid for one in records if isinstance(one, ProcessRecord)] == [main]
    order = [one.pid for one in calls(records)]
    assert child.result is not None
    assert order.index(child.result) > order.index(main)


@pytest.mark.parametrize(
    "source", [path for path in LOGS if "calls" not in path.name], ids=lambda path: path.name
)
def test_touched_pages_go_to_the_call_that_changes_them(tmp_path: Path, source: Path) -> None:
    records, _ = take(tmp_path, source.read_bytes())
    reserved = next(one for one in calls(records, "mmap") if one.args[1] == 1 << 16).result
    assert reserved is not None
    first, second = [one for one in calls(records, "madvise") if one.args[0] == reserved][:2]
    assert first.touched == ((reserved, reserved + PAGE, 0),)
    assert second.touched == ()
    thread = calls(records, "clone3")[0].result
    gone = next(one for one in calls(records, "munmap") if one.tid == thread)
    assert gone.touched == ((gone.args[0], gone.args[0] + PAGE, 0),)
    main = next(one for one in records if isinstance(one, Exit) and one.status)
    private = next(
        one
        for one in calls(records, "mmap")
        if one.pid == main.pid and one.args[1] == PAGE and one.file
    )
    how = [how for start, end, how in main.touched if start <= (private.result or 0) < end]
    if source.name in ("script.log", "script-pid.log"):
        assert how == [0], "written, and so a copy of its own"
    child = calls(records, "clone")[0].result
    old = next(one for one in calls(records, "execve") if one.pid == child)
    assert old.touched, "what the child had of its parent, and of its own, before it ran a program"


def test_every_log_tells_the_same_calls(tmp_path: Path) -> None:
    names = []
    for source in LOGS:
        report = take(tmp_path, source.read_bytes())[1]
        names.append({name: count for name, count in report.by_call.items() if name != "madvise"})
    assert all(one == names[0] for one in names)


def test_unknown_is_what_the_text_does_not_hold(tmp_path: Path) -> None:
    found = {source.name: take(tmp_path, source.read_bytes())[1].unknown for source in LOGS}
    assert found == {
        "script-pid.log": ["initial maps", FILE_SIZES],
        "script-samples.log": ["touched pages of files", "initial maps", FILE_SIZES],
        "script.log": ["initial maps", FILE_SIZES],
        "trace-calls.log": ["touched pages", "initial maps", FILE_SIZES],
        "trace-faults.log": ["touched pages of files", "initial maps", FILE_SIZES],
    }


def gramines(records: list[Record]) -> list[Record]:
    # What Gramine would have shown of the same run: it has no mremap and no clone3.
    shown = {"mmap", "munmap", "mprotect", "brk", "madvise", "clone", "vfork", "execve", "msync"}
    plain = [
        one._replace(call="clone") if isinstance(one, CallRecord) and one.call == "clone3" else one
        for one in records
    ]
    return [one for one in plain if not isinstance(one, CallRecord) or one.call in shown]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_real_run_written_as_a_gramine_log_comes_back(tmp_path: Path, variant: str) -> None:
    kept = gramines(take(tmp_path, (CORPUS / "script-pid.log").read_bytes())[0])
    got, report = take(tmp_path, log(steps(kept), VARIANTS[variant]), "gramine")
    assert report.not_understood == 0
    assert [(one.call, one.pid, one.tid, one.args, one.result) for one in calls(got)] == [
        (one.call, one.pid, one.tid, one.args, one.result) for one in calls(kept)
    ]
    ends = [(one.pid, one.tid, one.status) for one in got if isinstance(one, Exit)]
    assert ends == [(one.pid, one.tid, one.status) for one in kept if isinstance(one, Exit)]


def test_lines_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    lines = (CORPUS / "trace-faults.log").read_bytes().splitlines(keepends=True)
    want, _ = take(tmp_path, b"".join(lines))
    tids = sorted({line.split(b"/")[1].split()[0] for line in lines if b"/" in line})
    shuffled = [line for tid in reversed(tids) for line in lines if b"/" + tid + b" " in line]
    got, _report = take(tmp_path, b"".join(shuffled))
    # perf itself put them in no order that can be relied on: only what one thread did.
    for tid in {one.tid for one in calls(want)}:
        mine = [(one.call, one.args, one.result) for one in calls(want) if one.tid == tid]
        assert [(one.call, one.args, one.result) for one in calls(got) if one.tid == tid] == mine
    assert [one.time for one in got] == sorted(one.time for one in got)


def test_lost_events_unfinished_calls_and_lines_without_a_name(tmp_path: Path) -> None:
    text = (
        b"     0.100 ( 0.010 ms): mmap(len: 4096, prot: PROT_READ, flags: MAP_PRIVATE|ANONYMOUS) "
        b"= 0x7f0000000000\n"
        b"LOST 12 events!\n"
        b"     0.200 (         ): munmap(addr: 0x7f0000000000, len: 4096)      ...\n"
        b"     0.300 ( 0.010 ms): brk(brk: what)   = 0\n"
        b"                                       __GI___mmap (/usr/lib/libc.so.6)\n"
    )
    records, report = take(tmp_path, text)
    assert [(one.call, one.tid, one.state) for one in calls(records)] == [
        ("mmap", 1, CHOSEN),
        ("munmap", 1, UNFINISHED),
    ]
    assert sorted(one.missing for one in records if isinstance(one, Loss)) == [1, 12]
    assert report.not_understood == 1


def test_a_thread_that_runs_a_program_is_a_process(tmp_path: Path) -> None:
    text = (
        b" 1.0 ( 0.1 ms): sh/10 brk() = 0x1000\n"
        b" 2.0 ( 0.9 ms): sh/10 clone3(uargs: 0x7f, size: 88) = 11\n"
        b" 3.0 ( 0.1 ms): ls/11 execve(filename: 0x1, argv: 0x2, envp: 0x3) = 0\n"
        b" 4.0 ( 0.1 ms): ls/11 brk() = 0x2000\n"
    )
    records, report = take(tmp_path, text)
    assert [(one.call, one.pid) for one in calls(records)] == [
        ("brk", 10),
        ("clone3", 10),
        ("execve", 11),
        ("brk", 11),
    ]
    processes = [one for one in records if isinstance(one, ProcessRecord)]
    assert [(one.pid, one.parent, one.shares_memory) for one in processes] == [
        (10, 0, False),
        (11, 10, True),
    ]
    assert any("task_newtask" in note for note in report.notes)


def test_a_space_keeps_what_was_touched() -> None:
    space = PerfSpace()
    space.kinds.set(0x10000, 0x20000, 1)
    space.touch(0x10004, False)
    space.touch(0x11004, True)
    space.touch(0x90004, False)
    space.touch((1 << 64) - 1, True)
    assert space.taken(0, 0x20000, forget=False) == ((0x10000, 0x11000, 2), (0x11000, 0x12000, 0))
    space.touch(0x10008, True)
    assert space.taken(0, 1 << 63, forget=False) == ((0x10000, 0x12000, 0), (0x90000, 0x91000, 1))
    assert space.fork().taken(0, 1 << 63, forget=False) == ((0x10000, 0x12000, 0),)
    assert space.taken(0x11000, 0x11001, forget=True) == ((0x11000, 0x12000, 0),)
    assert space.taken(0x11000, 0x12000, forget=True) == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PERFILE2" + bytes(100), "looks like perf.data"),
        (bytes(range(256)) * 4, "a binary file"),
        (b'execve("/bin/true", ["true"], 0x7ffd) = 0\n', "other text, whose first line is"),
    ],
)
def test_no_such_log(tmp_path: Path, data: bytes, message: str) -> None:
    source = tmp_path / "a.log"
    source.write_bytes(data)
    with pytest.raises(LaconicError, match=message):
        import_logs("perf", [str(source)], str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_two_commands_at_once(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="one command at a time"):
        import_logs("perf", [str(LOGS[0]), str(LOGS[-1])], str(tmp_path / "o"))


def test_perf_here_counts_as_strace_does(tmp_path: Path) -> None:
    if not shutil.which("perf") or not shutil.which("strace"):
        pytest.skip("this machine has no perf or no strace")
    names = "mmap,munmap,mprotect,brk,execve"
    events = f"{names},exit_group,openat,close"
    perf = ["perf", "trace", "-F", "all", "-e", events, "-o", str(tmp_path / "p.log"), "/bin/true"]
    done = subprocess.run(perf, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(
            f"this kernel lets nobody here trace with perf: {' '.join(done.stderr.split())[:100]}"
        )
    _, report = take(tmp_path, (tmp_path / "p.log").read_bytes())
    counted = subprocess.run(
        ["strace", "-c", "-U", "calls,name", "-e", f"trace={names}", "/bin/true"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if counted.returncode:
        pytest.skip(f"this machine's strace cannot trace: {' '.join(counted.stderr.split())[:100]}")
    want = {
        name: int(count)
        for count, name in re.findall(r"^ *(\d+) (\w+)$", counted.stderr, re.MULTILINE)
    }
    want.pop("total", None)
    assert report.not_understood == 0
    assert report.by_call == want


LINES = [line for path in LOGS for line in path.read_bytes().splitlines(keepends=True)]
NOISE = st.one_of(
    st.sampled_from(LINES),
    st.binary(max_size=80),
    st.builds(lambda line, at, put: line[:at] + put + line[at:], st.sampled_from(LINES),
              st.integers(0, 150),
              st.sampled_from([b"\n", b")", b"(", b" = ", b": ", b"9" * 5000, b"-1",
                               b"0x" + b"f" * 40, b"|", b","])),
    st.builds(lambda line, a, b: line[:a] + line[b:], st.sampled_from(LINES), st.integers(0, 150),
              st.integers(0, 150)),
)  # fmt: skip


@given(st.sampled_from(LOGS), st.lists(NOISE, min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_fuzz(tmp_path_factory: pytest.TempPathFactory, first: Path, parts: list[bytes]) -> None:
    folder = tmp_path_factory.getbasetemp() / "perf-fuzz"
    folder.mkdir(exist_ok=True)
    records, report = take(
        folder, first.read_bytes().splitlines(keepends=True)[0] + b"".join(parts)
    )
    assert report.lines >= 1
    assert sum(report.by_call.values()) == len(calls(records))
