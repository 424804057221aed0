"""Bad traces and logs: impossible calls, clocks that were set back, batches that unpack to
gigabytes, full disks."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import time
from argparse import Namespace
from array import array
from pathlib import Path

import pyarrow as pa
import pytest

import laconic.trace
from laconic.commands import main
from laconic.memory.ledger import Ledger
from laconic.replay import replay_trace
from laconic.trace.encoding import Times, arrow_schema, checksum, encode, portions
from laconic.trace.importers.importing import import_logs
from laconic.trace.schema import CODES, EVENTS, LARGEST_BATCH, MOST_RUNS, Row
from laconic.trace.writer import TraceWriter
from tests import fuzz_verbs
from tests.helpers.commandline import laconic as command
from tests.helpers.traces import BASE, Builder
from tests.tracer.lab import COMMAND, environment

PAGE = 4096
MMAP = "100 {} mmap(NULL, {}, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {}"
#: The verbs that a bad trace used to end with a traceback.
VERBS = (
    "compare -j 1",
    "callers",
    "html -o page.html --force",
    "replay --check",
    "info",
    "export --to csv -o -",
)


def imported(folder: Path, *lines: str, kind: str = "strace") -> Path:
    """A trace of a log of these lines."""
    log, trace = folder / "a.log", folder / "a.trace"
    log.write_text("".join(f"{line}\n" for line in lines))
    import_logs(kind, [str(log)], str(trace), force=True)
    return trace


def times(trace: Path) -> list[int]:
    """The times of the memory calls, in milliseconds."""
    return [
        row.time // 1_000_000 for row in laconic.trace.open(str(trace)).rows() if row.event < 64
    ]


class TestImpossible:
    """What the kernel cannot have answered is an unrecognized line of a log, and a lost row of a
    trace."""

    @pytest.mark.parametrize(
        "line",
        [
            "mmap(NULL, 0, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000",
            "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000010",
            "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7ffffffff000",
            "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0x10) = 0x7f0000000000",
            "mmap(0x7f0000001000, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = "
            "0x7f0000000000",
            "munmap(0x7f0000000000, 0) = 0",
            "munmap(0x7f0000000001, 4096) = 0",
            "munmap(0x7f0000000000, 0x7f0000000000) = 0",
            "mprotect(0x7f0000000800, 4096, PROT_READ) = 0",
            "mprotect(0x7f0000000000, 18446744073709547520, PROT_READ) = 0",
            "madvise(0xffffffffffffe000, 4096, MADV_DONTNEED) = 0",
            "mremap(0x7f0000000000, 4096, 0, MREMAP_MAYMOVE) = 0x7f0000000000",
            "brk(0xfffffffffffff000) = 0x1fffffffffffffff",
        ],
    )
    def test_a_line(self, line: str, tmp_path: Path) -> None:
        log = tmp_path / "a.log"
        log.write_text(
            f"100 brk(NULL) = 0x555500000000\n100 {line}\n100 brk(NULL) = 0x555500000000\n"
        )
        report = import_logs("strace", [str(log)], str(tmp_path / "a.trace"))
        assert (report.not_understood, report.puzzles[0].line, report.by_call) == (1, 2, {"brk": 2})
        lost = [
            row.data
            for row in laconic.trace.open(str(tmp_path / "a.trace")).rows()
            if row.event == CODES["lost"]
        ]
        assert lost == [
            b"lines that were not understood, and may have been memory or process calls"
        ]

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            (
                "gramine",
                "[P1:T1:x] trace: ---- mmap(0, 0, PROT_READ, MAP_PRIVATE|MAP_ANON, 0, 0) = "
                "0x7f0000000000",
            ),
            (
                "perf",
                " 1.000 ( 0.001 ms): x/5 mmap(len: 0, prot: READ, flags: PRIVATE|ANONYMOUS) = "
                "0x7f0000000000",
            ),
        ],
    )
    def test_a_line_of_other_logs(self, kind: str, line: str, tmp_path: Path) -> None:
        good = line.replace("(0, 0,", "(0, 4096,").replace("len: 0", "len: 4096")
        (tmp_path / "a.log").write_text(f"{good}\n{line}\n{good}\n")
        report = import_logs(kind, [str(tmp_path / "a.log")], str(tmp_path / "a.trace"))
        assert (report.not_understood, report.by_call) == (1, {"mmap": 2})

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("source", ["run", "strace"])
    def test_a_row(self, source: str, verb: str, tmp_path: Path) -> None:
        """As older releases imported it."""
        trace = Builder(
            tmp_path / "a.trace", source, {"unknown": ["touched pages", "initial maps"]}
        )
        trace.row("process")
        trace.row("brk", 0, result=0x5555_5555_6000)
        trace.row("mmap", 0, 0, 3, 0x22, -1, 0, result=BASE, state=4)
        trace.row("vma", 5, 4)
        trace.row("program", data=b"[]")
        done = command(*verb.split(), trace.end(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        output = done.stdout if verb == "info" else done.stderr
        assert "mmap events that cannot be true (1)" in output or verb.startswith("export")

    def test_a_failed_mmap_of_a_log_is_not_replayed_as_zero(self, tmp_path: Path) -> None:
        refused = MMAP.format("12:00:00.000100", 8192, "-1 ENOMEM (Cannot allocate memory)")
        trace = imported(tmp_path, refused)
        check = replay_trace(laconic.trace.open(str(trace)), check=True).check
        assert check is not None
        assert [one.replayed for one in check.differences] == ["an address that the host chooses"]

    def test_a_mapping_over_another_reaches_the_enclave(self, tmp_path: Path) -> None:
        """The host puts a mapping where the bookkeeping has one: a munmap is missing in the log."""
        rw = MMAP.replace("PROT_READ", "PROT_READ|PROT_WRITE")
        again = [rw.format("12:00:00.000100", 8192, "0x7f0000000000")] * 2
        done = command("compare", "-j", "1", "--verify", imported(tmp_path, *again))
        assert done.returncode in (0, 70) and "verify: laconic" in done.stdout


class TestClock:
    """Times never go backwards."""

    LINES = (
        MMAP.format("12:00:05.500000", PAGE, "0x7f0000000000"),
        MMAP.format(
            "11:59:58.250000", PAGE, "0x7f0000001000"
        ),  # set back by more than seven seconds
        "100 mprotect(0x7f0000000000, 4096, PROT_READ) = 0",  # a line without a time
        MMAP.format("11:59:59.250000", PAGE, "0x7f0000002000"),
    )

    def test_it_continues_from_before(self, tmp_path: Path) -> None:
        trace = imported(tmp_path, *self.LINES)
        assert times(trace) == [0, 0, 0, 750]
        info = json.loads(command("info", trace, "--json", "-").stdout)
        assert info["seconds"] == {"from": 0.0, "until": 0.75}
        assert (
            "the log's clock was set back once; the times after that continue from the time before"
            in info["notes"]
        )

    def test_all_lines_are_exported(self, tmp_path: Path) -> None:
        trace = imported(tmp_path, *self.LINES)
        assert command("export", "--to", "csv", "-o", "-", trace).stdout.count(",mmap,") == 3

    def test_html(self, tmp_path: Path) -> None:
        command("html", "-o", tmp_path / "page.html", imported(tmp_path, *self.LINES))
        assert (tmp_path / "page.html").stat().st_size > 10_000

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_trace_of_an_older_release(self, verb: str, tmp_path: Path) -> None:
        """Its rows have negative differences of time."""
        steps = [5, -43_193, 1, 2]
        rows = [Row(CODES["mprotect"], 0, 1, 1, BASE, PAGE, 1) for _ in steps]
        about = {
            "laconic": "0.1.0",
            "schema": "1",
            "source": "strace",
            "events": json.dumps(EVENTS),
        }
        schema = arrow_schema(about)
        batch, _ = encode(schema, rows, 0)
        columns = batch.columns
        columns[1] = pa.array([step * 1_000_000_000 for step in steps], pa.int64())
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        path = tmp_path / "old.trace"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            stream.write_batch(
                batch, custom_metadata={"batch": "1", "crc32": str(checksum(batch)), "rows": "4"}
            )
        assert [row.time // 10**9 for row in laconic.trace.open(str(path)).rows()] == [5, 5, 5, 5]
        assert command(*verb.split(), path, cwd=tmp_path).returncode == 0

    def test_times_in_two_batches(self) -> None:
        shown = Times()
        assert shown.take(array("q", [5, -3])) == [5, 5]
        assert shown.take(array("q", [1, 1, 5])) == [5, 5, 9]
        assert shown.take(array("q", [1 << 62, 1 << 62])) == [9 + (1 << 62), (1 << 63) - 1]


class TestMemory:
    """A batch is measured before it is unpacked."""

    def test_a_batch_that_unpacks_to_a_gigabyte(self, tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace")
        trace.row("brk", 0, result=0x5555_5555_6000)
        trace.writer.flush()
        writer = trace.writer
        row = Row(CODES["note"], 0, 1, 1, data=bytes(LARGEST_BATCH + (1 << 20)))
        batch, _ = encode(writer._schema, [row], 0)
        assert writer._stream is not None
        writer._stream.write_batch(
            batch, custom_metadata={"crc32": str(checksum(batch)), "rows": "2"}
        )
        writer._write_out()
        path = Path(trace.end())
        assert path.stat().st_size < 1 << 16
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read = laconic.trace.open(str(path))
        assert [found[0] for found in read.rows()] == [CODES["brk"]]
        assert read.loss is not None and f"{LARGEST_BATCH:,} is the most" in read.loss
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10

    def test_a_writer_splits_what_is_too_large(self, tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace")
        for _ in range(3):
            trace.row("note", data=bytes(LARGEST_BATCH // 4))
        read = laconic.trace.open(trace.end())
        assert sum(row.event == CODES["note"] for row in read.rows()) == 3
        assert (read.loss, trace.writer.batches > 1) == (None, True)

    def test_touched_runs_beyond_the_limit_are_lost(self, tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace")
        runs = tuple((2 * n * PAGE, (2 * n + 1) * PAGE, 0) for n in range(MOST_RUNS + 5))
        trace.row("exit", touched=runs)
        rows = list(laconic.trace.open(trace.end()).rows())
        assert [len(row.touched) for row in rows] == [MOST_RUNS, 0, 0]
        assert rows[1].event == CODES["lost"] and b"touched pages" in rows[1].data

    def test_portions(self) -> None:
        """Rows with many runs are decoded some at a time, and come out as they went in."""
        from laconic.trace import encoding

        run = (PAGE, 2 * PAGE, 0)
        counts = [3, encoding.RUNS, 0, 5, encoding.RUNS - 4, 1, 1]
        rows = [Row(1, at, 1, 1, touched=(run,) * count) for at, count in enumerate(counts)]
        batch, _ = encode(arrow_schema({}), rows, 0)
        parts = list(portions(batch))
        times = Times()
        assert [part.num_rows for part in parts] == [1, 2, 1, 3]
        assert [row for part in parts for row in encoding.decode(part, times)] == rows


class TestOutput:
    """What a person is told is true, and harmless."""

    def test_control_characters(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        trace = Builder(tmp_path / "a.trace", "strace")
        number = trace.file("/tmp/\x1b[2J\x9b31m\x07é")
        trace.row("process")
        trace.row("mmap", 0, PAGE, 1, 2, 3, 0, result=BASE, state=4, file=number)
        trace.row("note", data=b"a note \x1b]0;title\x07")
        path = trace.end()
        for verb in ("maps", "replay", "info", "callers"):
            assert main([verb, path]) == 0
            out, err = capfd.readouterr()
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err), verb
            assert verb != "maps" or "/tmp/\\x1b[2J\\x9b31m\\x07é" in out

    @pytest.mark.skipif(os.geteuid() != 0, reason="this machine's user cannot mount")
    @pytest.mark.parametrize(("size", "kept"), [("4k", False), ("200k", True)])
    def test_import_on_a_full_disk(self, size: str, kept: bool, tmp_path: Path) -> None:
        """The number of events in the message is that of the file; a file without events is
        removed."""
        log, disk = tmp_path / "long.log", tmp_path / "disk"
        disk.mkdir()
        text = "10 mmap(NULL, {}, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = {:#x}\n"
        log.write_text(
            "".join(
                text.format(PAGE * (n * 7919 % 1000 + 1), n * 0x7919_3000) for n in range(60_000)
            )
        )
        words = " ".join([*COMMAND, "import", "strace", str(log), "-o", f"{disk}/trace"])
        script = (
            f"mount -t tmpfs -o size={size} none {disk} && {words}; ls {disk}; cat "
            f"{disk}/trace >{tmp_path}/copy"
        )
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip("this kernel does not let us mount")
        assert "No space left on device" in done.stderr
        if not kept:
            assert "and was removed" in done.stderr and done.stdout == ""
            return
        found = re.search(r"it contains the first ([\d,]+) events", done.stderr)
        assert found is not None
        read = laconic.trace.open(str(tmp_path / "copy"))
        assert sum(1 for _ in read.rows()) == int(found[1].replace(",", "")) > 0

    def test_rows_are_counted_when_they_are_written(self, tmp_path: Path) -> None:
        writer = TraceWriter(str(tmp_path / "a.trace"), "run")
        os.close(writer._fd)
        writer._fd = os.open("/dev/full", os.O_WRONLY)
        writer.rows.append(Row(CODES["brk"], 0, 1, 1))
        writer.close()
        assert writer.failure is not None and writer.written == 0


class TestLinear:
    """Imports take time in proportion to the log."""

    @staticmethod
    def seconds(folder: Path, lines: list[str]) -> float:
        """CPU time for an import."""
        log = folder / "a.log"
        log.write_text("\n".join(lines) + "\n")
        began = time.process_time()
        import_logs("strace", [str(log)], str(folder / "a.trace"), force=True)
        return time.process_time() - began

    @pytest.mark.parametrize(
        "text",
        [
            "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000",
            'execve("/bin/true", ["true"], 0x7ffd /* 1 var */) = 0',
            "munmap(0x7f0000000000, 4096 <unfinished ...>",
            "clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        ],
    )
    def test_processes_without_a_clone(self, text: str, tmp_path: Path) -> None:
        few, many = ([f"{1000 + n} {text}" for n in range(count)] for count in (4_000, 32_000))
        self.seconds(tmp_path, few)
        once = min(self.seconds(tmp_path, few) for _ in range(2))
        assert self.seconds(tmp_path, many) < 24 * once  # 8 times the lines; quadratic: 64


class TestRedundant:
    """Redundant calls are calls that succeeded."""

    def test_the_ledger(self) -> None:
        ledger = Ledger()
        for output, result in ((0, 0), (0, -22), (1, 0), (1, -12)):
            ledger.count("mprotect", output, result)
        line = ledger.by_call["mprotect"]
        assert (line.elided, line.redundant, line.failed, ledger.redundant) == (2, 1, 2, 1)

    def test_calls_that_all_fail(self, tmp_path: Path) -> None:
        """22 mprotects at one site, of memory that is not mapped or at an unaligned address."""
        trace = Builder(tmp_path / "a.trace")
        trace.program("/bin/prog", ["prog"])
        trace.row("maps", 0, 2)
        trace.row("mprotect", BASE, PAGE, 3, result=-12)
        for number in range(21):
            trace.row("stack", data=b"/lib/libx.so(grow+0x1) [0x1]")
            trace.row("mprotect", BASE + number % 2, PAGE, 3, result=-22 if number % 2 else -12)
        path = trace.end()
        figures = json.loads(command("callers", path, "--json", "-").stdout)
        assert (figures["calls"], figures["redundant"]) == (22, 0)
        assert "22 memory calls, 0 redundant (0 %)" in command("callers", path).stdout
        run = json.loads(command("replay", path, "--json", "-").stdout)
        assert (run["elided"], run["redundant"], run["by_call"]["mprotect"]["failed"]) == (
            22,
            0,
            22,
        )
        assert command("check", "--max-redundant", "0", path).returncode == 0
        command("html", path, "-o", tmp_path / "page.html", "--json", tmp_path / "page.json")
        page = json.loads((tmp_path / "page.json").read_text())
        sites = sum(row[6] for row in page["sites"])
        assert (page["summary"]["redundant"], sum(page["time"]["redundant"]), sites) == (0, 0, 0)
        words = re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text())
        assert "Calls 22 0 redundant , 0 %" in " ".join(words.split())
        command("flamegraph", path, "--redundant", "--json", tmp_path / "flames.json")
        assert json.loads((tmp_path / "flames.json").read_text())["total"] == 0
        assert "of 22 memory calls" in command("check", "--max-redundant", "0", path).stdout
        compared = json.loads(command("diff", path, path, "--json", "-").stdout)
        assert compared["total"]["redundant"] == {"was": 0, "now": 0, "change": 0}


def test_every_verb_on_damaged_input() -> None:
    """Some seeds of `tests.fuzz_verbs`, which is run for longer by hand."""
    counts, _, runs = fuzz_verbs.main_loop(Namespace(minutes=1.0, seed=7, count=6))
    assert counts.total() > 0 and runs >= counts.total()
