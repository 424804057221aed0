"""Logs that real Gramine wrote: every call is read, the program's start is known, and what hardware
counted is kept."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.info import contents
from laconic.errors import LaconicError
from laconic.memory.flags import PROT_EXEC, PROT_READ, PROT_WRITE, VM_GROWSDOWN, VM_PROT
from laconic.replay.enclaves import Enclaves
from laconic.replay.engine import Replay
from laconic.strategies.every_call import EveryCall
from laconic.trace.importers.gramine.glue import CUT, split
from laconic.trace.importers.gramine.start import Mounts, path_of
from laconic.trace.importers.importing import import_logs
from laconic.trace.records import Loss, Maps, ProcessRecord, ProgramRecord
from laconic.trace.schema import CODES
from laconic.trace.sysroot import Sysroot
from tests.helpers.gramlogs import BUSYBOX, REAL, elf, rootfs, take
from tests.helpers.tracewriter import Lines, Step, Variant, log
from tests.tracer.lab import COMMAND, environment, run_alone

LOGS = sorted(path.name for path in REAL.iterdir())
FOLLOWED = {
    "mmap",
    "munmap",
    "mprotect",
    "brk",
    "madvise",
    "msync",
    "mincore",
    "clone",
    "fork",
    "vfork",
    "execve",
}
HEADER = b"(libos_parser.c:1701:buf_write_all) [P1:T%d:thr] trace: "


def text_of(name: str) -> bytes:
    data = (REAL / name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


def losses(trace: laconic.trace.Trace) -> list[str]:
    return [record.text for record in trace if isinstance(record, Loss)]


def checked(trace: laconic.trace.Trace) -> Counter[str]:
    replay = Replay(trace, check=True)
    replay.run()
    assert replay.check is not None
    return replay.check.counts


# Lines of several threads in one


@pytest.mark.parametrize("name", LOGS)
def test_as_many_calls_as_a_grep_finds(tmp_path: Path, name: str) -> None:
    found = Counter(call.decode() for call in re.findall(rb"trace: ---- (\w+)\(", text_of(name)))
    trace, report = take(tmp_path, REAL / name)
    assert report.by_call == {call: count for call, count in found.items() if call in FOLLOWED}
    assert {call: line.calls for call, line in contents(trace).by_call.items()} == report.by_call
    assert report.not_understood == 0
    assert losses(trace) == []


@pytest.mark.parametrize("name", LOGS)
def test_a_replay_blames_neither_the_log_nor_the_model(tmp_path: Path, name: str) -> None:
    counts = checked(take(tmp_path, REAL / name)[0])
    # node's madvise(MADV_DONTFORK), which Gramine always refuses.
    assert counts == ({"unknown start": 19} if name.startswith("nodever") else {})


def test_text_that_is_not_recognized_is_listed_with_its_line(tmp_path: Path) -> None:
    words: list[str | Path] = [
        "import",
        "gramine",
        REAL / "glued-minimal.log",
        "-o",
        tmp_path / "a.trace",
    ]
    done = run_alone([*COMMAND, *words], env=environment())
    assert done.returncode == 0
    output = done.stderr
    assert "calls: 1 madvise, 1 mmap" in output
    assert "not recognized (output of the program, or pieces of lines): 2 lines" in output
    assert "  glued-minimal.log:4: SIGWINCH\n" in output
    assert "  glued-minimal.log:3: ---- rt_sigprocmask(BLOCK, [SIGHUP,SIGINT,\n" in output


def test_both_calls_of_a_line_are_read_and_the_rest_finds_its_beginning(tmp_path: Path) -> None:
    text = (
        HEADER % 1 + b"---- clone(CLONE_VM|CLONE_THREAD, 0x1, 0x2, "
        + HEADER % 2 + b"---- munmap(0x1000, 0x1000) ...\n0x3, 0x4) ...\n"
        + HEADER % 2 + b"---- return from munmap(...) = 0x0\n"
        + HEADER % 1 + b"---- return from clone(...) = 0x3\n"
    )  # fmt: skip
    trace, report = take(tmp_path, text)
    assert report.by_call == {"clone": 1, "munmap": 1}
    assert (report.lines, report.not_understood, report.unknown_texts) == (4, 0, 0)
    assert losses(trace) == []


def test_three_threads_in_one_line(tmp_path: Path) -> None:
    text = (
        HEADER % 1 + b"---- mprotect(0x1000, "
        + HEADER % 2 + b"---- mprotect(0x2000, "
        + HEADER % 3 + b"---- brk(0) = 0x5000\n0x1000, PROT_READ) ...\n0x2000, PROT_READ) ...\n"
        + HEADER % 1 + b"---- return from mprotect(...) = 0x0\n"
        + HEADER % 2 + b"---- return from mprotect(...) = 0x0\n"
    )  # fmt: skip
    trace, report = take(tmp_path, text)
    assert report.by_call == {"mprotect": 2, "brk": 1}
    assert losses(trace) == []


@pytest.mark.parametrize("front", [b"", b"2024-01-01T00:00:00.000000001Z "])
def test_the_program_writes_in_the_middle_of_a_line(tmp_path: Path, front: bytes) -> None:
    text = (
        front + HEADER % 1 + b"---- clone(CLONE_VM|CLONE_THREAD, 0x1, hello\n"
        + front + b"0x2, 0x3, 0x4) ...\n"
        + front + HEADER % 1 + b"---- return from clone(...) = 0x2\n"
        + front + b"done\n"
    )  # fmt: skip
    trace, report = take(tmp_path, text)
    assert report.by_call == {"clone": 1}
    assert losses(trace) == []
    assert [(puzzle.line, puzzle.text) for puzzle in report.texts] == [
        (4, (front + b"done").decode())
    ]


def test_a_call_whose_rest_never_comes_is_lost_at_its_own_line(tmp_path: Path) -> None:
    text = (
        HEADER % 2 + b"---- brk(0) = 0x1000\n"
        + HEADER % 1 + b"---- mprotect(0x1000, " + HEADER % 2 + b"---- brk(0) = 0x1000\n"
        + HEADER % 2 + b"---- brk(0) = 0x1000\n"
        + HEADER % 1 + b"---- brk(0) = 0x1000\n"
    )  # fmt: skip
    trace, report = take(tmp_path, text)
    assert report.by_call == {"brk": 4}
    assert [(puzzle.line, puzzle.text) for puzzle in report.puzzles] == [(2, "mprotect(0x1000, ")]
    assert losses(trace) == ["line 2 of a.log was not understood"]


def test_a_block_without_glued_lines_is_left_alone() -> None:
    for name in LOGS:
        text = text_of(name)
        parts = split(text)
        assert parts.replace(CUT + b"\n", b"") == text
        glued = [
            line for line in text.split(b"\n") if len(re.findall(rb"\.c:\d+:\w+\) ", line)) > 1
        ]
        assert parts.count(CUT) == len(glued)


# Every loss has a row


LOST = {
    "a line that is not a call": HEADER % 1 + b"---- nonsense\n",
    "arguments": HEADER % 1 + b"---- mmap(0x1000, PROT_WHAT, 1) = 0x1000\n",
    "an openat": HEADER % 1 + b"---- openat(AT_FDCWD, \"x\", O_RDONLY, 0000) = what\n",
    "the end of a call": HEADER % 1
    + b"---- mmap(0, 0x1000, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0) ...\n"
    + HEADER % 1 + b"---- mprotect(0x1000, 0x1000, PROT_READ) ...\n"
    + HEADER % 1 + b"---- return from mprotect(...) = 0x0\n",
    "the beginning of a call": HEADER % 1 + b"---- return from mprotect(...) = 0x0\n",
    "a call after the end": b"(a.c:1:f) [P1:T1:a] debug: ---- exit_group (returning 0)\n"
    + HEADER % 2 + b"---- brk(0) = 0x1000\n",
    "statistics": b"(a.c:1:f) ----- Total SGX stats for process 7 -----\n  # of EENTERs:   5\n",
}  # fmt: skip


@pytest.mark.parametrize("what", LOST)
def test_lost_lines_have_a_row_and_info_reports_them(tmp_path: Path, what: str) -> None:
    trace, _ = take(tmp_path, log([Step("brk", (0,), 0x1000, tid=2)]) + LOST[what])
    assert len(losses(trace)) == 1
    done = run_alone([*COMMAND, "info", trace.path, "--json", "-"], env=environment())
    figures = json.loads(done.stdout)
    assert figures["complete"] is False and figures["lost"]["places"] == 1


# The program's start


def test_the_start_of_each_program_is_in_the_trace(tmp_path: Path) -> None:
    trace, report = take(tmp_path, REAL / "busybox.log.gz", rootfs(tmp_path))
    records = list(trace)
    assert not any(isinstance(record, ProcessRecord) for record in records)
    programs = [record for record in records if isinstance(record, ProgramRecord)]
    assert [(one.pid, one.about["path"]) for one in programs] == [
        (pid, "/usr/bin/busybox") for pid in (1, 3, 5, 7, 8, 9)
    ]
    maps = [record for record in records if isinstance(record, Maps)]
    assert len(maps) == 6
    runs = {(start, end): vma for start, end, vma in maps[0].runs if vma is not None}
    assert sorted(runs) == [
        (0x400000, 0x401000), (0x401000, 0x585000), (0x585000, 0x5DB000), (0x5DB000, 0x5E5000),
        (0x5E5000, 0x5EC000),
        (0x167226B21000, 0x167226B22000), (0x167226B22000, 0x167226B23000),
        (0x167226B23000, 0x167226B63000),
    ]  # fmt: skip
    data, bss = runs[0x5DB000, 0x5E5000], runs[0x5E5000, 0x5EC000]
    assert data.file is not None and data.file.path == "/usr/bin/busybox"
    assert 0x5DB000 - data.base == 0x1DA000
    assert (data.flags & VM_PROT, bss.file) == (PROT_READ | PROT_WRITE, None)
    stack = runs[0x167226B23000, 0x167226B63000]
    assert stack.flags & VM_GROWSDOWN and not runs[0x167226B22000, 0x167226B23000].flags & VM_PROT
    assert runs[0x167226B21000, 0x167226B22000].flags & VM_PROT == PROT_READ | PROT_EXEC
    assert report.unknown == ["touched pages"]
    assert checked(trace) == {}


def test_relro_is_known_where_the_file_is(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "busybox.log.gz", rootfs(tmp_path))
    replay = Replay(trace, keep=True)
    replay.run()
    assert replay.processes[1].space is not None
    shown = [
        (start, end, vma)
        for start, end, vma in replay.processes[1].space.vmas
        if 0x5DB000 <= start < 0x5EC000
    ]
    assert [(start, end) for start, end, _ in shown] == [
        (0x5DB000, 0x5E2000),
        (0x5E2000, 0x5E5000),
        (0x5E5000, 0x5EC000),
    ]
    relro = shown[0][2]
    assert relro.flags & VM_PROT == PROT_READ
    assert relro.file is not None and relro.file.path == "/usr/bin/busybox"
    # mprotect of RELRO was a change of pages that are known: no range.
    assert "mprotect" not in replay.uncertain


def test_without_the_files_the_rest_of_the_start_stays_unknown(tmp_path: Path) -> None:
    trace, report = take(tmp_path, REAL / "busybox.log.gz")
    assert report.unknown == ["touched pages", "initial maps"]
    assert any("/usr/bin/busybox" in note and "--root" in note for note in report.notes)
    first = next(record for record in trace if isinstance(record, Maps))
    assert [start for start, _, _ in first.runs] == [0x167226B21000, 0x167226B22000, 0x167226B23000]


def test_each_process_has_one_enclave(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "busybox.log.gz", rootfs(tmp_path))
    enclaves = Enclaves({"every-call": EveryCall})
    replay = Replay(trace, "laconic", listeners=[enclaves])
    replay.run()
    assert replay.ledger.processes == 9
    # Six programs began, and eight children were forked. Five of the programs were executed, in
    # their processes' enclaves.
    assert [process.path for process in replay.started] == ["/usr/bin/busybox"] * 14
    assert enclaves.meters["every-call"].total().ecreate == 9


def test_sizes_and_identity_of_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    libc = root / "usr/lib/x86_64-linux-gnu/libc.so.6"
    libc.parent.mkdir(parents=True)
    libc.write_bytes(bytes(0x1D6458))
    (root / "lib").symlink_to("/usr/lib")  # as in an image: absolute, and within it
    trace, report = take(tmp_path, REAL / "hello.log.gz", root)
    sizes = {row.a3 for row in trace.rows() if row.event == CODES["file"]}
    inodes = {row.a2 for row in trace.rows() if row.event == CODES["file"]}
    assert (sizes, inodes) == ({0x1D6458}, {libc.stat().st_ino})
    assert "sizes of files" not in report.unknown
    _, report = take(tmp_path, REAL / "hello.log.gz")
    assert "sizes of files" in report.unknown
    assert not any("below DIR" in note for note in report.notes)


def test_files_that_are_not_below_the_root_are_named(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    _, report = take(tmp_path, REAL / "hello.log.gz", root)
    notes = [note for note in report.notes if "below DIR" in note]
    assert len(notes) == 2
    assert notes[0].endswith("are not in the log: no ELF file below DIR has them")
    assert notes[1].startswith("files without a size, because they are not below DIR: /lib")


def test_files_are_found_through_mounts() -> None:
    mounts = Mounts()
    mounts.add(b"file:/", b"/")
    mounts.add(b"file:/srv/image/lib", b"/lib")
    mounts.add(b"tmpfs", b"/tmp")
    assert mounts.host("/lib/libc.so.6") == "/srv/image/lib/libc.so.6"
    assert mounts.host("/bin/true") == "/bin/true" and mounts.host("/library/x") == "/library/x"
    assert (
        mounts.guest("/srv/image/lib/ld.so") == "/lib/ld.so"
        and mounts.guest("/bin/true") == "/bin/true"
    )
    assert path_of(b"file://usr/bin/true") == "/usr/bin/true" and path_of(b"file:true") == "true"
    assert path_of(b"dev:tty") is None


def test_nothing_outside_of_the_root_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"12345")
    (root / "up").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    (root / "pipe").mkdir()
    sysroot = Sysroot(str(root))
    for path in ("/up", "/../secret", "/loop", "/pipe", "/missing", "/a\0b"):
        assert sysroot.find(path) is None and sysroot.segments(path) is None
    (root / "text").write_bytes(b"no program")
    found = sysroot.find("/text")
    assert found is not None and found.size == 10 and sysroot.segments("/text") is None
    with pytest.raises(LaconicError, match="--root"):
        Sysroot(str(root / "text"))


def test_a_root_is_for_logs_of_gramine(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"10 brk(NULL) = 0x1000\n")
    with pytest.raises(LaconicError, match=r"--root .* is for logs of gramine"):
        import_logs("strace", [str(path)], str(tmp_path / "o"), root=str(tmp_path))
    assert not (tmp_path / "o").exists()


def test_a_file_that_is_no_program_is_reported_as_unknown(tmp_path: Path) -> None:
    for data in (b"", b"\x7fELF", elf(2, [(4, 0, 1 << 62, 1 << 40, 1 << 40)]), BUSYBOX[:100]):
        root = tmp_path / f"root{len(data)}"
        (root / "usr/bin").mkdir(parents=True)
        (root / "usr/bin/busybox").write_bytes(data)
        _, report = take(tmp_path, REAL / "busybox.log.gz", root)
        assert "initial maps" in report.unknown


# What else the log shows


def test_memory_that_forked_children_received(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "busybox.log.gz")
    rows = [row for row in trace.rows() if row.event == CODES["received"]]
    entries = len(re.findall(rb"memory entry \[", text_of("busybox.log.gz")))
    assert sum(row.a2 for row in rows) == entries == 968
    assert {row.pid for row in rows} == set(range(2, 10))
    # The stack of the first child: one entry for the VMA, then its pages one by one.
    first = [(row.a0, row.a1, row.a2) for row in rows if row.pid == 2]
    assert (0x167226B23000, 0x167226B63000, 64) in first


def test_the_build_and_the_host(tmp_path: Path) -> None:
    trace, report = take(tmp_path, REAL / "hello.log.gz")
    assert trace.about["gramine_commit"] == "ff71d7afea730dffd56a97af39bb6a73ee6c7662"
    assert trace.about["gramine_host"] == "Linux"
    both = text_of("hello.log.gz") + text_of("hello.log.gz").replace(
        b"Host: Linux", b"Host: Linux-SGX"
    )
    _, report = take(tmp_path, both)
    assert any("several builds or hosts" in note for note in report.notes)


def test_arch_prctl_is_no_memory_call(tmp_path: Path) -> None:
    assert b"---- arch_prctl(" in text_of("hello.log.gz")
    trace, report = take(tmp_path, REAL / "hello.log.gz")
    assert "arch_prctl" not in report.by_call
    replay = Replay(trace)
    replay.run()
    assert replay.ledger.calls == 13 and not replay.ledger.resynced


STATISTICS = b"""\
(host_thread.c:45:print_global_sgx_stats) ----- Total SGX stats for process 87219 -----
  # of EENTERs:        224
  # of EEXITs:         192
  # of AEXs:           2010
  # of sync signals:   32
  # of async signals:  1
"""


def test_counts_of_hardware_are_shown_next_to_the_model(tmp_path: Path) -> None:
    thread = STATISTICS.replace(b"Total SGX stats for process 87219", b"SGX stats for thread 87220")
    trace, report = take(tmp_path, text_of("hello.log.gz") + thread + STATISTICS)
    assert report.unknown_texts == 0
    rows = [
        (row.pid, row.result, row.a5, row.args[:5])
        for row in trace.rows()
        if row.event == CODES["measured"]
    ]
    counts = (224, 192, 2010, 32, 1)
    assert rows == [(1, 87220, 0, counts), (1, 87219, 1, counts)]
    words = [*COMMAND, "compare", trace.path]
    figures = tmp_path / "a.json"
    done = run_alone([*words, "--json", figures], env=environment())
    measured = json.loads(figures.read_text())["measured"]
    assert measured["total"] == {
        "eenters": 224, "eexits": 192, "aexs": 2010, "sync_signals": 32, "async_signals": 1,
    }  # fmt: skip
    assert len(measured["entries"]) == 2
    every_call = json.loads(figures.read_text())["strategies"]["every-call"]
    # The log does not have the size of libc.so.6.
    ends = every_call["counts_low"], every_call["counts"]
    low, high = (counts["host_calls"] for counts in ends)
    assert low < high
    model = measured["from_memory_calls"]["every-call"]
    assert model["eexits"] == [low, high]
    assert model["aexs"] == [counts["eaug_faults"] for counts in ends]
    shown = " ".join(done.stdout.split())
    assert "measured on hardware 224 192 2,010 32 1" in shown
    share = f"{100 * low / 192:.1f} to {100 * high / 192:.1f} %"
    assert f"account for {low} to {high} of the 192 EEXITs ({share})" in shown


def test_a_trace_without_statistics_says_nothing_of_them(tmp_path: Path) -> None:
    trace, _ = take(tmp_path, REAL / "hello.log.gz")
    done = run_alone([*COMMAND, "compare", trace.path, "--json", "-"], env=environment())
    assert json.loads(done.stdout)["measured"] is None


def test_a_model_with_more_than_was_measured_is_pointed_out(tmp_path: Path) -> None:
    few = STATISTICS.replace(b"192", b"2").replace(b"2010", b"0")
    trace, _ = take(tmp_path, text_of("hello.log.gz") + few)
    done = run_alone([*COMMAND, "compare", trace.path], env=environment())
    shown = " ".join(done.stdout.split())
    assert "The model has more than was measured" in shown and "no share is defined" in shown


def test_redaction_hides_what_the_start_shows(tmp_path: Path) -> None:
    source = tmp_path / "a.log"
    source.write_bytes(text_of("busybox.log.gz") + b"the program's secret\n")
    target = tmp_path / "a.trace"
    import_logs("gramine", [str(source)], str(target), redact=True, root=str(rootfs(tmp_path)))
    for row in laconic.trace.open(str(target)).rows():
        assert b"busybox" not in row.data and b"secret" not in row.data


def test_a_second_run_without_an_end_of_the_first(tmp_path: Path) -> None:
    text = text_of("hello.log.gz")
    first = text[: text.index(b"debug: ---- exit_group")].rpartition(b"\n")[0] + b"\n"
    trace, report = take(tmp_path, first + text)
    assert report.processes == 2 and report.by_call["mmap"] == 14
    assert [
        type(record).__name__
        for record in trace
        if isinstance(record, (ProgramRecord, ProcessRecord))
    ] == ["ProgramRecord"] * 2
    assert checked(trace) == {}


def test_lines_of_old_formats_show_the_start_too(tmp_path: Path) -> None:
    lines = Lines(Variant(source=False))
    step = Step("brk", (0,), 0x2000)
    text = (
        lines.line(step, "debug", "Allocated stack at 0x7f0000001000 (size = 262144)")
        + lines.line(step, "debug", "adding file:/bin/x at 0x400000")
        + lines.end(step)
    )
    trace, _ = take(tmp_path, text)
    first = next(record for record in trace if isinstance(record, Maps))
    assert [run[:2] for run in first.runs][-1] == (0x7F0000001000, 0x7F0000041000)
