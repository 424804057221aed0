"""laconic export: every format holds the trace, is read by its tools, and what cannot be written is
said."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.analysis.export import analyse_calls
from laconic.analysis.sites import sites
from laconic.commands import progress
from laconic.sgx import costs
from laconic.trace.exporters import FORMATS, ExportPart, Window, export
from laconic.trace.exporters.columns import COLUMNS
from laconic.trace.schema import CODES, NO_RESULT, READABLE, UNFINISHED, UNKNOWN_IDENTITY
from tests.helpers.pagetraces import known
from tests.helpers.sitetraces import sited
from tests.helpers.traces import BASE, PATHS, Builder, large, small
from tests.tracer.lab import COMMAND, environment, run_bytes

duckdb = pytest.importorskip("duckdb")
pl = pytest.importorskip("polars")


def laconic_export(
    *words: str | Path, status: int = 0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Runs `laconic export WORDS`; never a traceback."""
    command = [*COMMAND, "export", *map(str, words)]
    done = run_bytes(command, env=environment(), **options)
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    return done


def written(
    trace: str, kind: str, directory: Path, window: Window | None = None, limit: int | None = None
) -> Path:
    """Exports within this process; the file."""
    path = directory / f"out.{kind}"
    with path.open("wb") as output:
        export(laconic.trace.open(trace), output, ExportPart(kind, window or Window(), limit))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """The small trace."""
    return small(tmp_path / "small.trace")


# Tables


def test_parquet_in_duckdb(trace: str, tmp_path: Path) -> None:
    """DuckDB answers questions about calls, files and programs."""
    table = written(trace, "parquet", tmp_path)

    def ask(query: str) -> list[Any]:
        return duckdb.sql(query.replace("TABLE", f"'{table}'")).fetchall()  # type: ignore[no-any-return]

    assert ask("select count(*), sum(host_calls) from TABLE where prot is not null") == [(8, 6)]
    assert ask("select call, errno from TABLE where errno is not null") == [("munmap", "EINVAL")]
    paths = ask("select path from TABLE where call = 'mmap' and path is not null order by event")
    assert paths == [(path,) for path in PATHS]
    assert ask(
        "select distinct device, min(inode), max(file_size) from TABLE where inode is not null "
        "group by 1"
    ) == [("08:01", 7, 5000)]
    assert ask("select program, count(*) from TABLE where call = 'mmap' group by 1 order by 1") == [
        ("/bin/prog", 5), ("/bin/true", 1),
    ]  # fmt: skip
    assert ask("select touched_pages from TABLE where call = 'madvise'") == [(1,)]
    assert ask(
        "select address, length, result, flags, kinds, state from TABLE where length > 1e9"
    ) == [
        (0, 1 << 36, BASE + (1 << 30), "MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE", "MAP", "chosen")
    ]
    assert ask("select arg4 from TABLE where length > 1e9") == [((1 << 64) - 1,)]
    assert ask("select result from TABLE where state = 'unfinished'") == [(None,)]
    assert ask("select call, result from TABLE where call in ('exit', 'end') order by event") == [
        ("exit", 9), ("exit", 0), ("exit", 768), ("end", 768),
    ]  # fmt: skip


def test_parquet_in_polars(trace: str, tmp_path: Path) -> None:
    """Polars reads the same, with the types that are documented."""
    frame = pl.read_parquet(written(trace, "parquet", tmp_path))
    assert tuple(frame.columns) == tuple(COLUMNS)
    kinds = {
        "int64": pl.Int64,
        "int32": pl.Int32,
        "uint64": pl.UInt64,
        "uint32": pl.UInt32,
        "string": pl.String,
        "bool_": pl.Boolean,
        "float64": pl.Float64,
    }
    assert frame.schema == pl.Schema({name: kinds[kind] for name, kind in COLUMNS.items()})
    assert (
        frame.filter(pl.col("call") == "mprotect")["prot"].to_list() == ["PROT_READ|PROT_WRITE"] * 2
    )
    assert frame["event"].is_sorted() and frame["time_ns"].is_sorted()
    import pyarrow.parquet as pq

    about = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert about.metadata[b"source"] == b"run" and about.metadata[b"loss"] == b""
    assert about.row_group(0).column(0).compression == "ZSTD"


def test_text_tables_hold_the_same(trace: str, tmp_path: Path) -> None:
    """CSV and JSON Lines have the rows of Parquet."""
    rows = pl.read_parquet(written(trace, "parquet", tmp_path)).to_dicts()
    lines = written(trace, "jsonl", tmp_path).read_text().splitlines()
    assert [{name: json.loads(line).get(name) for name in COLUMNS} for line in lines] == rows
    with written(trace, "csv", tmp_path).open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{name: "" if v is None else str(v) for name, v in row.items()} for row in rows]


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    """A longer trace is written in several row groups, and every row once."""
    import pyarrow.parquet as pq

    path = written(large(tmp_path / "large.trace", 200_000), "parquet", tmp_path)
    about = pq.ParquetFile(path).metadata
    assert about.num_rows == 200_003
    assert about.num_row_groups == 2
    found = duckdb.sql(f"select count(distinct event), max(time_ns) from '{path}'").fetchall()
    assert found == [(200_003, 200_000_000)]


def test_columns_that_a_log_does_not_record_are_null(tmp_path: Path) -> None:
    """An imported trace says nothing of host calls, touched pages, devices."""
    builder = Builder(tmp_path / "a.trace", "strace", {"unknown": ["touched pages"]})
    number = builder.file("/x", size=-1, mode=UNKNOWN_IDENTITY)
    builder.row("mmap", 0, 4096, 1, 2, 3, 0, state=NO_RESULT, file=number)
    builder.row("stack", data=b"/lib/libc.so.6(mmap+0x17) [0x11f2a7]")
    builder.row("munmap", BASE, 4096, result=0)
    frame = pl.read_parquet(written(builder.end(), "parquet", tmp_path))
    nulls = ("host_calls", "kinds", "touched_pages", "device", "inode", "file_size", "result")
    assert frame.select(nulls).row(0) == (None,) * len(nulls)
    assert frame["path"][0] == "/x" and frame["state"][0] == "no_result"
    assert frame["stack"].to_list() == [None, "/lib/libc.so.6(mmap+0x17) [0x11f2a7]", None]


def test_a_call_that_was_begun_before(tmp_path: Path) -> None:
    """What its `begin` row knows, its file and touched pages, is in the call's own row."""
    builder = Builder(tmp_path / "a.trace")
    number = builder.file("/x", mode=READABLE)
    runs = ((BASE, BASE + 8192, 0),)
    builder.row(
        "begin", 0, 8192, 1, 0x8002, 3, 0, call_code=CODES["mmap"], file=number, touched=runs
    )
    builder.row("munmap", BASE, 4096, tid=101)
    builder.row("mmap", 0, 8192, 1, 0x8002, 3, 0, result=BASE)
    frame = pl.read_parquet(written(builder.end(), "parquet", tmp_path))
    assert frame["call"].to_list() == ["munmap", "mmap", "end"]
    assert frame["path"].to_list() == [None, "/x", None]
    assert frame["touched_pages"].to_list() == [0, 2, None]


def test_window(trace: str, tmp_path: Path) -> None:
    """Only what lies within it is written, with what went before still known."""
    frame = pl.read_parquet(written(trace, "parquet", tmp_path, Window(9_000_000, 13_000_000)))
    assert frame["time_ns"].to_list() == [9_000_000, 10_000_000, 11_000_000, 12_000_000, 13_000_000]
    assert set(frame["program"]) == {"/bin/prog"}
    lines = (
        written(trace, "strace", tmp_path, Window(9_000_000, 13_000_000)).read_text().splitlines()
    )
    assert len(lines) == 5


# Perfetto


def perfetto(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events and metadata, the events checked for what the trace event format demands."""
    document = json.loads(path.read_text())
    depth: Counter[tuple[int, int]] = Counter()
    for event in document["traceEvents"]:
        assert event["ph"] in "MBEiC"
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and event["ts"] >= 0
        assert event["ph"] == "E" or event["name"]
        if event["ph"] == "i":
            assert event["s"] in "tpg"
        depth[event["pid"], event["tid"]] += {"B": 1, "E": -1}.get(event["ph"], 0)
        assert depth[event["pid"], event["tid"]] in (0, 1)
    assert not any(depth.values())
    return document["traceEvents"], document["otherData"]


def test_perfetto(trace: str, tmp_path: Path) -> None:
    """Processes and threads have names, programs are slices, calls instants, the totals
    counters."""
    events, about = perfetto(written(trace, "perfetto", tmp_path))
    names = [(e["pid"], e["args"]["name"]) for e in events if e.get("name") == "process_name"]
    assert (100, "prog") in names and names[-2] == (102, "true")
    assert {e["tid"] for e in events if e.get("name") == "thread_name"} == {100, 101, 102}
    slices = [(e["pid"], e["name"], e["ts"]) for e in events if e["ph"] == "B"]
    assert slices == [
        (100, "/bin/prog", 1000),
        (102, "/bin/prog", 15000),
        (102, "/bin/true", 16000),
    ]
    calls = Counter(e["name"] for e in events if e["ph"] == "i")
    assert calls["mmap"] == 6 and calls["exit"] == 3
    (madvise,) = (e for e in events if e.get("name") == "madvise")
    assert (
        madvise["args"]["advice"] == "MADV_DONTNEED"
        and madvise["args"]["address"] == f"{BASE + (1 << 30):#x}"
    )
    assert [e["args"] for e in events if e["ph"] == "C" and e["pid"] == 100][-1] == {
        "calls": 14,
        "host_calls": 8,
    }
    assert about["loss"] == "none" and "cut" not in about


def test_perfetto_is_cut_at_a_size(tmp_path: Path) -> None:
    """The limit holds, and the cut is said on standard error, in the metadata and on the time
    line."""
    trace = large(tmp_path / "large.trace", 5000)
    done = laconic_export(trace, "--to", "perfetto", "-o", tmp_path / "a.json", "--limit", "100000")
    assert b"cut 0.0" in done.stderr and b"--limit" in done.stderr
    assert 90_000 < (tmp_path / "a.json").stat().st_size <= 100_000
    events, about = perfetto(tmp_path / "a.json")
    assert "100,000 bytes" in about["cut"]
    assert any("100,000 bytes" in e.get("name", "") for e in events)
    whole, about = perfetto(written(trace, "perfetto", tmp_path))
    assert "cut" not in about and len(whole) > 5000


def test_perfetto_window(trace: str, tmp_path: Path) -> None:
    """A window's processes have their names, though they began before it."""
    events, _ = perfetto(written(trace, "perfetto", tmp_path, Window(11_000_000, 18_000_000)))
    assert all(11_000 <= e["ts"] <= 18_000 for e in events if e["ph"] != "M")
    assert {e["args"]["name"] for e in events if e.get("name") == "thread_name"} == {"prog", "true"}


# The command


@pytest.mark.parametrize("kind", FORMATS)
def test_command(trace: str, tmp_path: Path, kind: str) -> None:
    """Says what was written; refuses a file that exists; --force writes it anew; - is standard
    output."""
    path = tmp_path / "an out'put"
    done = laconic_export(trace, "--to", kind, "-o", path)
    assert str(path).encode() in done.stderr and b"next:  " in done.stderr
    content = path.read_bytes()
    done = laconic_export(trace, "--to", kind, "-o", path, status=2)
    assert b"--force" in done.stderr and path.read_bytes() == content
    laconic_export(trace, "--to", kind, "-o", path, "--force")
    assert path.read_bytes() == content
    done = laconic_export(trace, "--to", kind, "-o", "-")
    assert done.stdout == content
    command = (
        laconic_export(trace, "--to", kind, "-o", path, "--force")
        .stderr.decode()
        .split("next:  ")[1]
    )
    if command.startswith("duckdb"):
        words = ["sh", "-c", command.replace("duckdb -c", "printf %s")]
        query = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        rows = duckdb.sql(query).fetchall()
        if kind == "jsonl":
            assert ("mmap", 6, 0) in rows
        else:
            assert (None, "mmap", 5, 0) in [row[:4] for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "parquet"], "-o"),
        (["-o", "x"], "--to"),
        (["--to", "word", "-o", "x"], "'word'"),
        (["--to", "csv", "-o", "x", "--limit", "5"], "--limit"),
        (["--to", "perfetto", "-o", "x", "--limit", "0"], "--limit"),
        (["--to", "csv", "-o", "x", "--between", "nan", "1"], "'nan'"),
        (["--to", "csv", "-o", "x", "--between", "5", "4"], "--between"),
        (["--to", "csv", "-o", "x", "--between", "1", "soon"], "'soon'"),
        (["--to", "csv", "-o", "/nowhere/x"], "/nowhere/x"),
        (["--to", "csv", "-o", "."], "'.'"),
    ],
)
def test_wrong_options(trace: str, tmp_path: Path, words: list[str], message: str) -> None:
    """Each is named, nothing is written, and the exit code is 2."""
    done = laconic_export(trace, *words, status=2, cwd=tmp_path)
    assert message in done.stderr.decode()
    assert os.listdir(tmp_path) == ["small.trace"]


def test_wrong_inputs(trace: str, tmp_path: Path) -> None:
    """No trace, and the trace itself as output."""
    for name in ("missing.trace", "."):
        laconic_export(tmp_path / name, "--to", "csv", "-o", tmp_path / "x", status=2)
    before = Path(trace).read_bytes()
    done = laconic_export(trace, "--to", "csv", "-o", trace, "--force", status=2)
    assert b"the trace itself" in done.stderr and Path(trace).read_bytes() == before


def small_files() -> None:
    """A file may have 20 KB: what is beyond does not fit, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("parquet", "strace") else pytest.mark.slow)
        for kind in FORMATS
    ],
)
def test_full_disk(tmp_path: Path, kind: str) -> None:
    """Is told with the path and the cure; what was written is removed."""
    trace = large(tmp_path / "large.trace", 50_000)
    path = tmp_path / "out"
    done = laconic_export(trace, "--to", kind, "-o", path, status=2, preexec_fn=small_files)
    assert str(path).encode() in done.stderr and b"free some space" in done.stderr
    assert not path.exists()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "export", trace, "--to", kind, "-o", "-"],
            stdout=full, stderr=subprocess.PIPE, env=environment(), check=False,
        )  # fmt: skip
    assert (
        done.returncode == 2 and b"No space left" in done.stderr and b"Traceback" not in done.stderr
    )


def test_reader_that_goes(tmp_path: Path) -> None:
    """`| head` ends the export without a word."""
    trace = large(tmp_path / "large.trace", 50_000)
    line = f"{sys.executable} -m laconic export {trace} --to csv -o - | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment(), check=False)
    assert done.stdout.startswith(b"event,") and done.stderr == b""


@pytest.mark.parametrize("kind", FORMATS)
def test_loss_is_told(tmp_path: Path, kind: str) -> None:
    """A trace that is cut is exported as far as it goes; standard error and the file say so."""
    whole = Path(large(tmp_path / "large.trace", 40_000)).read_bytes()
    cut = tmp_path / "cut.trace"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    done = laconic_export(cut, "--to", kind, "-o", tmp_path / "out")
    assert b"not complete" in done.stderr and b"could be read" in done.stderr
    read: dict[str, Callable[[], object]] = {
        "parquet": lambda: pl.read_parquet(tmp_path / "out").filter(call="lost")["text"].to_list(),
        "perfetto": lambda: perfetto(tmp_path / "out")[1]["loss"],
    }
    content = str(read.get(kind, lambda: (tmp_path / "out").read_text())())
    assert "could be read" in content


def test_unfinished_is_not_finished(tmp_path: Path) -> None:
    """A call that never returned has no result in any table."""
    builder = Builder(tmp_path / "a.trace")
    builder.row("munmap", BASE, 4096, result=0, state=UNFINISHED)
    assert pl.read_parquet(written(builder.end(), "parquet", tmp_path))["result"][0] is None


# Progress


class Terminal(io.StringIO):
    """A standard error that is a terminal, or none."""

    terminal = True

    def isatty(self) -> bool:
        """As told."""
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "patience", "shows"), [(True, 0, True), (True, 60, False), (False, 0, False)]
)
def test_progress(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, patience: float, shows: bool
) -> None:
    """A bar, only on a terminal, only for what takes long; then it goes."""
    stderr = Terminal()
    stderr.terminal = terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with progress.progress("reading a.trace", 100) as update:
        update(10)
        update(50)
    assert ("reading a.trace" in stderr.getvalue()) == shows
    if not shows:
        assert stderr.getvalue() == ""


# What a replay adds: stacks, sites, redundant calls, cycles


def analysed(trace: str, kind: str, directory: Path) -> Path:
    """As `written`, with the analysis."""
    path = directory / f"analysed.{kind}"
    with path.open("wb") as output:
        opened = laconic.trace.open(trace)
        analysis = analyse_calls(opened, costs.load())
        export(opened, output, ExportPart(kind, Window(), analysis=analysis))
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_sites_add_up(kind: str, tmp_path: Path) -> None:
    """The calls of each site have its redundant calls and its cycles, as `laconic callers` counts
    them."""
    trace = known(tmp_path / "known.trace")
    table = analysed(trace, kind, tmp_path)
    columns = [
        f"{name}_cycles_{end}" for name in ("every_call", "laconic") for end in ("low", "high")
    ]
    sums = ", ".join(f"sum({column})" for column in columns)
    query = (
        f"select call, program, stack, count(*), count(*) filter (redundant), {sums} from "
        f"'{table}' "
        "where redundant is not null group by all"
    )
    rows = {tuple(row[:3]): row[3:] for row in duckdb.sql(query).fetchall()}
    found = sites(trace)
    assert len(rows) == len(found.sites) == 5
    for site in found.sites:
        stack = "\n".join(
            f"{place.function} ({place.module})"
            + (f" {place.file}:{place.line}" if place.file else "")
            for place in found.frames(site)
        )
        calls, redundant, *cycles = rows[site.call, site.program, stack or None]
        assert (calls, redundant) == (site.calls, site.redundant)
        expected = [
            value
            for name in ("every-call", "laconic")
            for value in costs.load().cycles(site.cost(name))
        ]
        assert cycles == pytest.approx(expected)
    places = (
        f"select distinct function, module, source_file, source_line from '{table}' where "
        f"stack is not null"
    )
    inner = [found.frames(site)[0] for site in found.sites if found.frames(site)]
    assert set(duckdb.sql(places).fetchall()) == {
        (place.function, place.module, place.file or None, place.line or None) for place in inner
    }


def test_a_log_has_kinds_and_stacks(tmp_path: Path) -> None:
    """The kinds of change of a log's calls are those of the replay; with `--raw` they are unknown,
    and the stack is the log's own text."""
    trace = sited(tmp_path / "log.trace", {"grow": (2, 1)})
    table = analysed(trace, "parquet", tmp_path)
    query = (
        "select kinds, redundant, function, stack from TABLE where call = 'mprotect' order by event"
    )
    assert duckdb.sql(query.replace("TABLE", f"'{table}'")).fetchall() == [
        (None, True, "grow", "grow (libgrow.so)\nmain (prog)"),
        (None, True, "grow", "grow (libgrow.so)\nmain (prog)"),
        ("RESTRICT", False, "grow", "grow (libgrow.so)\nmain (prog)"),
    ]
    raw = tmp_path / "raw.parquet"
    laconic_export(trace, "--to", "parquet", "--raw", "-o", raw)
    logged = "/opt/lib/libgrow.so(grow+0x10) [0x4010]\n/opt/bin/prog(main+0x20) [0x5020]"
    assert (
        duckdb.sql(query.replace("TABLE", f"'{raw}'")).fetchall()
        == [(None, None, None, logged)] * 3
    )
    assert duckdb.sql(f"select count(laconic_cycles_low) from '{raw}'").fetchall() == [(0,)]


def test_recorded_stacks_in_perfetto_and_strace(tmp_path: Path) -> None:
    """Perfetto's arguments have the stack, and an import of strace's text finds the same
    functions."""
    trace = known(tmp_path / "known.trace")
    events = json.loads(analysed(trace, "perfetto", tmp_path).read_text())["traceEvents"]
    arguments = [event["args"] for event in events if "function" in event.get("args", {})]
    assert arguments and all(
        args["stack"].startswith(f"{args['function']} ({args['module']})") for args in arguments
    )
    log, again = tmp_path / "a.log", tmp_path / "again.trace"
    laconic_export(trace, "--to", "strace", "-o", log)
    subprocess.run(
        [*COMMAND, "import", "strace", log, "-o", again],
        env=environment(),
        check=True,
        capture_output=True,
    )

    def functions(path: str) -> Counter[tuple[str, str]]:
        found = sites(path, ())
        counted: Counter[tuple[str, str]] = Counter()
        for site in found.sites:
            for place in found.frames(site)[:1]:
                counted[site.call, place.function] += site.calls
        return counted

    assert functions(str(again)) == functions(trace) != Counter()


def test_the_query_by_function_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    found = re.search(r"<!-- by function -->.*?duckdb -c \"(.*?)\"\n[┌]", page, re.DOTALL)
    assert found is not None
    table = analysed(
        sited(tmp_path / "log.trace", {"grow": (3, 1), "shrink": (0, 1)}), "parquet", tmp_path
    )
    rows = duckdb.sql(found[1].replace("real.parquet", str(table))).fetchall()
    assert {row[:5] for row in rows} == {
        ("setup", "libgrow.so", "mmap", 1, 0),
        ("grow", "libgrow.so", "mprotect", 4, 3),
        ("shrink", "libgrow.so", "mprotect", 1, 0),
    }
    assert [row[5] for row in rows] == sorted((row[5] for row in rows), reverse=True)
    assert all(row[6] <= row[5] for row in rows)
