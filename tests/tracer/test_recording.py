"""A recording holds everything: whatever program runs, a replay of its trace comes to the same
figures."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EACCES, EINVAL, ENOENT
from pathlib import Path
from typing import Any

import pyarrow
import pytest

import laconic.trace
from laconic.commands import main
from laconic.linux.pagemap import FILE_PAGE, UNSEEN, ZERO_PAGE
from laconic.replay import replay_trace
from laconic.report.replay import as_json
from laconic.trace.records import CallRecord, End, Exit, ProgramRecord, Record
from tests.tracer.failing import failing
from tests.tracer.lab import (
    COMMAND,
    STRATEGIES,
    Run,
    build,
    environment,
    run_alone,
    run_laconic,
    skip_where_it_did,
)
from tests.tracer.natively import both
from tests.tracer.nobody import Nobody
from tests.tracer.oldprograms import EXIT, elf32, int80

#: The lab's programs with their arguments; some need flags of the compiler before the bar.
PROGRAMS = (
    "every_call -static |",
    "threads | 6 10",
    "races | 25",
    "signals | 20",
    "own_places |",
    "exec_thread | 1",
    "exec_thread | 4",
    "registers |",
    *(f"processes | {name}" for name in (
        "fork", "vfork", "spawn", "clone", "clone3", "untraced-clone3", "failing-clone",
        "forking-threads", "zombies",
        "two-hundred", "limited",
    )),
    *(f"dying | {name}" for name in (
        "exit-group", "many-exits", "sibling", "sibling-with-threads", "random-kills", "segv",
        "abort",
    )),
    *(f"odd_calls | {name}" for name in (
        "stack", "growsdown", "aio", "sysv", "shared", "hugetlb", "locks", "mseal", "pkeys",
        "process-madvise",
        "userfaultfd", "names", "guards", "mdwe", "int80",
    )),
    "odd_calls -static -no-pie | int80-brk",
    *(f"filters | {name}" for name in (
        "errno", "trap", "kill", "notify", "notify-memory", "mmap-flags", "undumpable",
    )),
    *(f"blocked | {name}" for name in ("populate", "mlock", "mlockall", "discard")),
)  # fmt: skip


def record(path: Path, *command: str | Path, options: Sequence[str] = (), **more: Any) -> Run:
    """Runs a command with its calls recorded at `path`."""
    return run_laconic(*command, options=("-o", str(path), *options), **{"verify": "off", **more})


def figures(path: Path, strategy: str | None = None, check: bool = True) -> dict[str, Any]:
    """What a replay prints as JSON."""
    trace = laconic.trace.open(str(path))
    report: dict[str, Any] = as_json(trace, replay_trace(trace, strategy, check=check))
    found: dict[str, Any] = json.loads(json.dumps(report))
    return found


def same_figures(path: Path, run: Run) -> None:
    """The replay gives the run's own figures, with no difference in any result."""
    again = figures(path)
    assert again.pop("check")["differences"] == {
        "model error": 0,
        "lost data": 0,
        "unknown start": 0,
    }
    trace = again.pop("trace")
    assert (trace["loss"], trace["uncertain"]) == ([], {})
    assert again == run.figures


def events(path: Path) -> list[Record]:
    """The typed records of a complete trace."""
    with laconic.trace.open(str(path)) as trace:
        found = list(trace)
        assert trace.loss is None
    return found


def calls(path: Path, *names: str) -> list[CallRecord]:
    """The calls of some names."""
    return [
        record for record in events(path) if isinstance(record, CallRecord) and record.call in names
    ]


@pytest.mark.parametrize(
    ("words", "strategy"),
    [
        pytest.param(words, name, marks=marks)
        for at, words in enumerate(PROGRAMS)
        for name, marks in (
            ("laconic", ()),
            (("every-call", "observe")[at % 2], pytest.mark.slow if at % 4 > 1 else ()),
        )
    ],
)
def test_every_program_of_the_lab(words: str, strategy: str, tmp_path: Path) -> None:
    before, _, after = words.partition("|")
    name, *flags = before.split()
    path = tmp_path / "a.trace"
    run = record(path, build(name, *flags), *after.split(), strategy=strategy)
    skip_where_it_did(run)
    same_figures(path, run)


@pytest.mark.parametrize("verify", ["exit", "call"])
@pytest.mark.parametrize(
    "words", ["every_call -static |", "threads | 6 10", "odd_calls | stack", "dying | many-exits"]
)
def test_with_checks(words: str, verify: str, tmp_path: Path) -> None:
    """Looks at the host's map between calls change nothing in the trace's figures."""
    before, _, after = words.partition("|")
    name, *flags = before.split()
    run = record(tmp_path / "a.trace", build(name, *flags), *after.split(), verify=verify)
    assert run.exact()
    same_figures(tmp_path / "a.trace", run)


def test_recording_checks_nothing_by_itself(tmp_path: Path) -> None:
    run = record(tmp_path / "a.trace", "sh", "-c", "(exit 1); exit 4")
    assert run.status == 4
    assert run.figures["verify"] == {"mode": "off", "checks": 0, "mismatches": 0}


def test_process_calls_that_fail_and_that_do_not(tmp_path: Path) -> None:
    """With errno, path, exit status and signal; the new program follows its execve."""
    path = tmp_path / "a.trace"
    assert record(path, build("recorded"), "fails").status == 7
    (first, *execs) = calls(path, "execve")
    assert first.path == str(build("recorded"))
    assert [(call.path, call.result) for call in execs] == [
        ("/no/such/program", -ENOENT), ("/etc", -EACCES), ("/bin/true", 0),
    ]  # fmt: skip
    started = calls(path, "clone", "clone3", "vfork", "fork")
    assert [call.result for call in started[:2]] == [-EINVAL, -EINVAL]
    vforked, forked = started[2:]
    assert vforked.call == "vfork" and vforked.result == execs[2].pid
    found = events(path)
    programs = [record for record in found if isinstance(record, ProgramRecord)]
    assert [program.pid for program in programs] == [first.pid, vforked.result]
    assert programs[1].about["argv"] == ["true"] and programs[1].about["bits"] == 64
    statuses = {record.pid: record.status for record in found if isinstance(record, Exit)}
    assert statuses == {vforked.result: 0, forked.result: signal.SIGKILL, first.pid: 7 << 8}
    assert isinstance(found[-1], End) and found[-1].status == 7


@pytest.mark.parametrize("times", [1, 2])
def test_an_exec_from_a_thread_that_is_not_the_leader(times: int, tmp_path: Path) -> None:
    """The call is that thread's, with the pages that the old program leaves touched."""
    path = tmp_path / "a.trace"
    record(path, build("exec_thread"), str(times))
    first, *others = calls(path, "execve")
    assert len(others) == times
    for call in others:
        assert (call.pid, call.result, call.path) == (first.pid, 0, str(build("exec_thread")))
        assert call.tid != call.pid
        assert len(call.touched) > 5


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_the_end_of_a_program_that_a_signal_kills(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    run = record(
        path,
        sys.executable,
        "-S",
        "-c",
        f"import os; os.kill(os.getpid(), {int(signal.Signals[name])})",
    )
    assert run.status == 128 + signal.Signals[name]
    *_, gone, end = events(path)
    assert isinstance(gone, Exit) and gone.status & 0x7F == signal.Signals[name]
    assert isinstance(end, End) and end.status == run.status
    same_figures(path, run)


def fixed_places(path: Path, strategy: str) -> Run:
    """The program of every memory call, at the same addresses in each run, recorded."""
    if shutil.which("setarch") is None:
        pytest.skip("setarch is not installed")
    return record(
        path, build("every_call", "-static"), strategy=strategy, prefix=("setarch", "-R", *COMMAND)
    )


@pytest.mark.parametrize("recorded", STRATEGIES)
def test_a_replay_by_another_strategy_gives_the_figures_of_its_run(
    recorded: str, tmp_path: Path
) -> None:
    """Whichever was recorded: each strategy's replay counts what a run by it counts."""
    fixed_places(tmp_path / "a.trace", recorded)
    for strategy in ("laconic", "every-call"):
        run = fixed_places(tmp_path / f"{strategy}.trace", strategy)
        again = figures(tmp_path / "a.trace", strategy)
        assert again["check"]["first"] == []
        for key in (
            "calls",
            "by_call",
            "host_calls",
            "elided",
            "narrowed",
            "changes",
            "resynced",
            "processes",
        ):
            assert again[key] == run.figures[key], (strategy, key)
    assert again["elided"] == 0


HALF_WAY = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_long
libc.mmap.argtypes = [ctypes.c_long] * 6
at = libc.mmap(0, 16 * 4096, 3, 0x22, -1, 0)
where = ctypes.c_long(at)
print(libc.munmap(ctypes.c_long(at + 8 * 4096), 4096), libc.mprotect(where, 16 * 4096, 3))
print(libc.mlock(where, 16 * 4096), libc.msync(where, 4096, 2), libc.msync(ctypes.c_long(at + 9 * 4096), 4096, 2))
"""  # noqa: E501


@pytest.mark.parametrize("recorded", STRATEGIES)
def test_calls_that_stop_half_way_at_a_hole(recorded: str, tmp_path: Path) -> None:
    """What the host was asked by one strategy, and by the other not, belongs to that one call."""
    path = tmp_path / "a.trace"
    run = record(path, sys.executable, "-S", "-c", HALF_WAY, strategy=recorded, verify="call")
    assert run.out == "0 -1\n-1 -1 0\n"
    same_figures(path, run)
    for strategy in ("laconic", "every-call"):
        again = figures(path, strategy)
        assert again["check"]["first"] == []
        assert again["calls"] == run.figures["calls"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_failures_of_the_host_are_replayed_as_they_were(strategy: str, tmp_path: Path) -> None:
    """Calls of several host calls that fail half way, included."""
    program = build("every_call", "-static")
    for place, first in enumerate(range(8, 32, 8)):
        path = tmp_path / f"{place}.trace"
        plan = failing((number, (12, 11, 1)[place]) for number in range(first, 120, 5 + place))
        run = record(path, program, prefix=plan, strategy=strategy, verify="call")
        assert run.exact()
        same_figures(path, run)


# Touched pages


def test_touched_pages_are_exactly_those(tmp_path: Path) -> None:
    """Of each call that takes pages away, and at the exit; none where nothing was touched."""
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(16 * 4096))
    path = tmp_path / "a.trace"
    run = record(path, build("recorded"), "touches", backing)
    assert run.status == 0, run.err
    seen = set()
    found = events(path)
    (end,) = (record for record in found if isinstance(record, Exit))
    for line in run.out.splitlines():
        word, text = line.split()
        at = int(text, 16)
        name = {"file": "munmap", "untouched": "munmap", "reserved": "munmap"}.get(word, word)
        rows = [
            call for call in calls(path, name) if call.args[0] == at and call.number not in seen
        ]
        written = [(at + 4096, at + 3 * 4096, 0), (at + 5 * 4096, at + 6 * 4096, 0)]
        if word == "exit":
            runs = [run for run in end.touched if at <= run[0] < at + 16 * 4096]
        else:
            # Places are used again: the call meant is the first with pages touched, if any.
            call = next((call for call in rows if call.touched), rows[0])
            seen.add(call.number)
            runs = list(call.touched)
        if word == "file":
            runs = [run for run in runs if not run[2] & FILE_PAGE]
        if word in ("untouched", "reserved"):
            assert runs == [] or word == "untouched", word
        else:
            read = [] if word == "file" else [(at + 9 * 4096, at + 10 * 4096, ZERO_PAGE)]
            assert runs == written + read, word
        if word == "reserved":
            inside = [run for run in end.touched if at <= run[0] < at + (64 << 30)]
            assert inside == []


def test_a_forked_child_leaves_its_own_touched_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    record(path, build("recorded"), "fails")
    ends = {record.pid: record for record in events(path) if isinstance(record, Exit)}
    killed = next(call for call in calls(path, "clone", "fork") if call.result and call.result > 0)
    assert killed.result is not None
    mapped = next(
        call
        for call in calls(path, "mmap")
        if call.pid == killed.result and call.args[1] == 3 * 4096
    )
    assert mapped.result is not None
    inside = [
        run
        for run in ends[killed.result].touched
        if mapped.result <= run[0] < mapped.result + 3 * 4096
    ]
    assert [run[:2] for run in inside] == [(mapped.result, mapped.result + 4096)]


# Maps


def parsed(text: str) -> list[tuple[int, int, str, int, str, int, str]]:
    """The lines of /proc/PID/maps, equal neighbours joined, without [vsyscall]."""
    result: list[tuple[int, int, str, int, str, int, str]] = []
    for line in text.splitlines():
        where, permissions, offset, device, inode, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in where.split("-"))
        label = name[0] if name else ""
        if label == "[vsyscall]":
            continue
        if label.startswith("[vvar"):
            label = "[vvar]"
        entry = (start, end, permissions, int(offset, 16), device, int(inode), label)
        last = result[-1] if result else entry
        follows = last[3] + last[1] - last[0] == entry[3] or not entry[5]
        if last[1] == start and last[2] == permissions and last[4:] == entry[4:] and follows:
            result[-1] = (last[0], end, *last[2:])
        else:
            result.append(entry)
    return result


def without_growth(
    entries: list[tuple[int, int, str, int, str, int, str]],
) -> list[tuple[Any, ...]]:
    """The same but for where the stack begins: it grows by a fault, which no call tells of."""
    return [(entry[6] != "[stack]" and entry[0], *entry[1:]) for entry in entries]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_maps_are_those_that_the_program_saw(
    strategy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """At each moment that the program has marked by a call, and at its end."""
    path = tmp_path / "a.trace"
    run = record(
        path, build("recorded"), "maps", tmp_path / "saved", strategy=strategy, cwd=tmp_path
    )
    assert run.status == 0, run.out
    marks = {call.args[1]: call for call in calls(path, "madvise") if call.args[2] == 77}
    assert sorted(marks) == [0, 1, 2, 3]
    for number, call in marks.items():
        real = (tmp_path / f"saved.{number}").read_text().replace(" (deleted)", "")
        for moment in [
            str(call.number),
            f"{call.time / 1e9:.9f}s",
            *(["end"] if number == 3 else []),
        ]:
            assert main(["maps", str(path), "--pid", str(call.pid), "--at", moment]) == 0
            out, err = capfd.readouterr()
            assert err == ""
            ours, theirs = parsed(out.replace(" (deleted)", "")), parsed(real)
            assert without_growth(ours) == without_growth(theirs), (number, moment)
            if moment == "end" or number < 3:
                assert ours == theirs, (number, moment)


# Redaction


@contextmanager
def secrets_of(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A program with distinctive names, and all of these."""
    place = tmp_path / "customer-4711"
    place.mkdir()
    program = place / "topsecret-program"
    shutil.copy(build("recorded"), program)
    (place / "private-file").write_bytes(bytes(65536))
    yield program, ["customer-4711", "topsecret", "private-file", "hush-hush", "touches"]


def everything(path: Path) -> bytes:
    """All bytes of a trace, decompressed: rows' data and metadata."""
    trace = laconic.trace.open(str(path))
    return b"\n".join(
        [row.data for row in trace.rows()] + [repr(vars(trace)).replace(str(path), "").encode()]
    )


def test_redacted_traces_hold_no_name(tmp_path: Path) -> None:
    """Nor argument nor path; the figures are the same, and so are the hashes of one name in one
    trace."""
    with secrets_of(tmp_path) as (program, secrets):
        words: list[str | Path] = [program, "touches", program.parent / "private-file"]
        script = 'exec -a hush-hush "$@"'
        both = [tmp_path / "one.trace", tmp_path / "two.trace"]
        runs = [
            record(path, "bash", "-c", script, "bash", *words, options=("--redact",))
            for path in both
        ]
        plain = tmp_path / "plain.trace"
        record(plain, "bash", "-c", script, "bash", *words)
    for secret in secrets:
        assert secret.encode() in everything(plain)
        for path in both:
            assert secret.encode() not in everything(path), secret
            assert secret.encode() not in path.read_bytes()
    hashes = []
    for path, run in zip(both, runs, strict=True):
        again = figures(path)
        assert again["check"]["first"] == []
        assert again["by_call"] == run.figures["by_call"]
        trace = laconic.trace.open(str(path))
        assert trace.redacted
        program_rows = [record for record in trace if isinstance(record, ProgramRecord)]
        paths = [call.path for call in calls(path, "execve")]
        assert program_rows[-1].about["path"] == paths[-1]
        mapped = {call.file.file.path for call in calls(path, "mmap") if call.file}
        assert all(name.startswith(("#", "/dev/")) for name in mapped)
        hashes.append({paths[-1], *mapped})
    assert not hashes[0] & hashes[1], "each trace has hashes of its own"


def test_redacted_names_of_memory_and_notes(tmp_path: Path) -> None:
    """What the program calls its memory, and what notes say of programs."""
    path = tmp_path / "a.trace"
    run = record(path, build("odd_calls"), "names", options=("--redact",))
    skip_where_it_did(run)
    assert b"laconic\0" not in everything(path)
    assert figures(path)["check"]["first"] == []


def can_run_32_bit(tmp_path: Path) -> Path:
    """A 32-bit program that exits with 7, where this kernel runs such."""
    program = elf32(tmp_path / "oldtimer", int80(EXIT, 7))
    try:
        assert run_alone([program]).returncode == 7
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    return program


def test_a_32_bit_program(tmp_path: Path) -> None:
    """The trace says so, and each verb that reads it."""
    path = tmp_path / "a.trace"
    program = can_run_32_bit(tmp_path)
    run = record(path, program)
    assert run.status == 7
    (about,) = (record.about for record in events(path) if isinstance(record, ProgramRecord))
    assert about["bits"] == 32
    same_figures(path, run)
    for verb in ("replay", "info"):
        done = run_alone([*COMMAND, verb, path], env=environment())
        assert done.returncode == 0
        assert "oldtimer is a 32-bit program" in " ".join(done.stdout.split()), verb
    done = run_alone([*COMMAND, "maps", path], env=environment())
    assert done.returncode == 2 and "is not followed: a 32-bit program" in done.stderr
    hidden = tmp_path / "hidden.trace"
    record(hidden, program, options=("--redact",))
    assert b"oldtimer" not in everything(hidden)
    assert b"is a 32-bit program" in everything(hidden)


# Where the trace goes


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    """One sentence, status 2, and the program is not started."""
    started = tmp_path / "started"
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    cases = [
        (tmp_path / "old", (), "exists already: name another file, or give --force"),
        (tmp_path, (), "exists already"),
        (tmp_path, ("--force",), "is not a regular file: name another"),
        (Path("/dev/full"), (), "exists already"),
        (Path("/dev/full"), ("--force",), "is not a regular file: name another"),
        (tmp_path / "no" / "such", (), "No such file or directory: name another file"),
        (tmp_path / "no" / "such", ("--force",), "No such file or directory: name another file"),
        (tmp_path / "old" / "such", (), "Not a directory: name another file"),
        (tmp_path / "link", (), "exists already"),
        (Path("/proc/a.trace"), (), "cannot be written"),
    ]
    for path, options, what in cases:
        done = record(path, "touch", started, options=options)
        assert done.status == 2, (path, done.err)
        assert repr(str(path)) in done.err and what in done.err
        assert done.err.count("\n") == 1
    assert not started.exists()
    assert (tmp_path / "old").read_text() == "old"


def test_force_replaces_an_older_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    record(path, "sh", "-c", "(exit 1); (exit 1); (exit 1)")
    size = path.stat().st_size
    run = record(path, "true", options=("--force",))
    same_figures(path, run)
    assert path.stat().st_size < size


def test_no_space_left_by_the_limit_of_a_file_s_size(tmp_path: Path) -> None:
    """The program is not disturbed; the failure and the cure are told; what was written is read."""
    path = tmp_path / "a.trace"
    script = (
        "import mmap, sys; [mmap.mmap(-1, 8192 + 4096 * (i % 99)).close() for i in "
        "range(3000)]; sys.exit(9)"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words: list[str | Path] = [
        *COMMAND,
        "run",
        "-o",
        path,
        "--quiet",
        "--",
        sys.executable,
        "-S",
        "-c",
        script,
    ]
    done = run_alone(words, env=environment(), preexec_fn=limit)
    assert done.returncode == 9
    assert (
        "could not be written to its end, File too large" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert path.stat().st_size == 20_000
    trace = laconic.trace.open(str(path))
    assert len(list(trace.rows())) == trace.events
    assert trace.loss is not None


def test_no_space_left(tmp_path: Path) -> None:
    """On a small file system of its own, with what a person then does."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(words, capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody mount a tmpfs here")
    try:
        path = disk / "a.trace"
        script = (
            "import mmap, sys, time\n"
            "def calls(n):\n"
            "    for i in range(n): mmap.mmap(-1, 8192 + 4096 * (i % 99)).close()\n"
            "calls(600); time.sleep(1.5)\n"  # a first batch, which finds room
            "calls(9000); sys.exit(9)"
        )
        run = record(path, sys.executable, "-S", "-c", script)
        assert run.status == run.figures["exit_status"] == 9
        assert "could not be written to its end, No space left on device" in run.err
        trace = laconic.trace.open(str(path))
        assert len(list(trace.rows())) == trace.events > 500
        assert trace.loss is not None and "damaged or cut short" in trace.loss
        again = record(disk / "b.trace", "true")
        assert again.status == 0
        assert "could not be written to its end, No space left on device" in again.err
        done = run_alone([*COMMAND, "replay", disk / "b.trace"], env=environment())
        assert done.returncode == 2 and repr(str(disk / "b.trace")) in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("command", "status"), [("no-such-program", 127), ("/etc", 126)])
def test_a_program_that_cannot_be_started_leaves_no_trace(
    command: str, status: int, tmp_path: Path
) -> None:
    """So that the same command, mended, is not refused."""
    path = tmp_path / "a.trace"
    assert record(path, command).status == status
    assert not path.exists()


@pytest.mark.parametrize(
    "script", ['"$@"', 'exec <&-; "$@"', 'trap "" HUP; "$@"', 'ulimit -n 64; env -i "$@"']
)
def test_a_program_does_not_notice_that_it_is_recorded(script: str, tmp_path: Path) -> None:
    """Its descriptors, parents, groups, signals, limits and environment are the same."""
    place = tmp_path / "a.trace"
    both(script, cwd=tmp_path, env=environment(), options=("-o", str(place)))
    assert laconic.trace.open(str(place)).source == "run"


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user"
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_process_that_hides_its_memory_from_its_user(strategy: str) -> None:
    """What nobody can look at counts as touched, so it is discarded as the program asked; the trace
    says UNSEEN."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o777)
        nobody = Nobody(place)
        (place / "pyarrow").symlink_to(Path(pyarrow.__file__).parent)
        # as the process that writes does
        check = "import sys; sys.modules['numpy'] = None; import pyarrow"
        if run_alone(
            [*nobody.become, nobody.python, "-c", check], env=nobody.env, cwd="/"
        ).returncode:
            pytest.skip("this machine has no pyarrow that another user can import")
        path = place / "a.trace"
        run = nobody.laconic(
            build("recorded"), "hides", strategy=strategy, options=("-o", str(path)), verify="off"
        )
        assert (run.status, run.out) == (0, "discarded\n"), run.err
        same_figures(path, run)
        hidden = [call for call in calls(path, "madvise") if call.args[2] == 4]
    assert len(hidden) == 1
    assert hidden[0].touched == ((hidden[0].args[0], hidden[0].args[0] + 16 * 4096, UNSEEN),)
