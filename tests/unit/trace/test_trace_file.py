"""The trace file: cut or damaged anywhere it is read as far as it goes, and that is said; what is
none is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

import laconic.trace
from laconic import __version__
from laconic.commands import main
from laconic.errors import LaconicError
from laconic.replay import replay_trace
from laconic.trace import records
from laconic.trace.encoding import LATEST, Times, arrow_schema, decode, encode
from laconic.trace.schema import CHOSEN, CODES, NUMBERS, PLAIN, SCHEMA, Row, make_row
from tests.helpers.traces import BASE, Builder, small
from tests.tracer.lab import environment

#: Every verb that reads a trace, with what it needs besides.
VERBS = (
    ("info",),
    ("replay",),
    ("replay", "--check", "--strategy", "every-call"),
    ("maps",),
    ("export", "--to", "csv", "-o", "-"),
    ("export", "--to", "parquet", "-o", "out"),
)
CURES = (
    "name a trace",
    "record a trace",
    "A trace is made with",
    "laconic import",
    "give it",
    "install ",
    "nothing",
)
every_verb = pytest.mark.parametrize("verb", VERBS, ids=" ".join)


def batches(path: Path) -> tuple[list[int], list[list[Row]]]:
    """A trace of three batches: the byte at which each ends, and its rows."""
    trace = Builder(path, about={"strategy": "laconic", "command": ["prog", "x"]})
    trace.program("/bin/prog", ["prog"])
    ends, parts = [], []
    for part in range(3):
        for number in range(6):
            file = trace.file(f"/lib/{part}{number}", inode=number) if number % 3 == 0 else 0
            touched = (
                ((BASE, BASE + 4096, 0), (BASE + 8192, BASE + 16384, 2)) if number % 4 == 0 else ()
            )
            place = BASE + (part << 20) + number * 8192
            trace.row(
                "mmap",
                0,
                8192,
                1,
                2,
                3,
                result=place,
                state=CHOSEN,
                host_calls=1,
                kinds=1,
                file=file,
                touched=touched,
            )
        if part == 2:
            trace.row("end", 0, pid=0, data=b"{}")
        parts.append(list(trace.writer.rows))
        trace.writer.flush()
        ends.append(path.stat().st_size)
    trace.cut()
    return ends, parts


def head(path: Path, **changes: str | None) -> Path:
    """A trace with no events whose head says other things."""
    output = {
        "laconic": __version__,
        "schema": str(SCHEMA),
        "source": "run",
        "events": "[]",
        "machine": "{}",
    }
    output |= {"redacted": "false", "about": "{}"}
    metadata = {key: value for key, value in (output | changes).items() if value is not None}
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, arrow_schema(metadata)):
        pass
    return path


def test_every_row_comes_back(tmp_path: Path) -> None:
    _, parts = batches(tmp_path / "a.trace")
    trace = laconic.trace.open(str(tmp_path / "a.trace"))
    assert [row for rows in trace.batches() for row in rows] == [
        row for rows in parts for row in rows
    ]
    assert trace.loss is None
    assert (trace.events, trace.position <= trace.size) == (sum(map(len, parts)), True)
    assert list(trace.rows()) == list(trace.rows()), "a trace can be read again"


def test_values_at_their_limits() -> None:
    """The largest and the smallest that each column holds."""
    lowest: dict[str, Any] = {"time": 0, "pid": -1, "tid": -(1 << 31), "result": -(1 << 63)}
    highest: dict[str, Any] = {
        "time": LATEST,
        "pid": (1 << 31) - 1,
        "tid": 1,
        "result": (1 << 63) - 1,
    }
    highest |= {f"a{place}": (1 << 64) - 1 for place in range(6)}
    highest |= {
        "state": 255,
        "host_calls": (1 << 32) - 1,
        "kinds": 65535,
        "file": (1 << 32) - 1,
        "shown": 1,
    }
    highest |= {"data": bytes(range(256)), "touched": ()}
    highest["touched"] = ((0, 4096, 31), ((1 << 64) - 8192, (1 << 64) - 4096, 0))
    names = [number.name for number in NUMBERS]
    plain = dict.fromkeys(names, 0) | {"data": b"", "touched": ()}
    rows = [Row(*(plain | some | {"event": 1}).values()) for some in (plain, lowest, highest)]
    batch, time = encode(arrow_schema({}), rows, 0)
    assert (decode(batch, Times()), time) == (rows, LATEST)


def test_cut_anywhere_in_its_last_two_batches(tmp_path: Path) -> None:
    """At every byte around the end of a batch, and at every fifth elsewhere. It is readable up to
    the batch before, to the row; and that something is missing is said."""
    ends, parts = batches(tmp_path / "a.trace")
    whole = (tmp_path / "a.trace").read_bytes()
    path = tmp_path / "cut.trace"
    near_ends = {end + distance for end in ends for distance in range(-9, 10)}
    lengths = near_ends.union(range(ends[0], len(whole), 5)).intersection(
        range(ends[0], len(whole))
    )
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        trace = laconic.trace.open(str(path))
        full = sum(end <= length for end in ends)
        assert list(trace.batches()) == parts[:full], length
        # On the last bytes, which only mark the end of the stream, nothing depends.
        assert trace.loss is not None or full == 3, length
        if length not in ends and full < 3:
            assert (
                trace.loss is not None
                and f"cut short at byte {ends[full - 1]:,} of {length:,}" in trace.loss
            )


def test_cut_before_the_first_event(tmp_path: Path) -> None:
    ends, _ = batches(tmp_path / "a.trace")
    whole = (tmp_path / "a.trace").read_bytes()
    path = tmp_path / "cut.trace"
    for length in range(1, ends[0], 7):
        path.write_bytes(whole[:length])
        try:
            trace = laconic.trace.open(str(path))
        except LaconicError:
            continue
        assert list(trace.batches()) == []
        assert trace.loss is not None


#: Flips bits, overwrites, cuts out and doubles pieces. A wrong length asks for gigabytes: the
#: memory is bounded.
FLIPS = """
import random, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import laconic.trace
from laconic.errors import LaconicError

source, target, count = sys.argv[1:]
whole = open(source, "rb").read()

def facts(trace):
    return trace.names, trace.about, trace.source, trace.machine, trace.redacted, trace.version, trace.schema

trace = laconic.trace.open(source)
rows, expected = list(trace.rows()), facts(trace)
random.seed(11)
for attempt in range(int(count)):
    data = bytearray(whole)
    at = random.randrange(len(data))
    length = random.choice((1, 4, 8, 64, 512))
    kind = attempt % 8
    if kind == 0:
        data[at : at + length] = random.randbytes(length)
    elif kind == 1:
        data[at : at + length] = bytes(length)
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = data[at : at + length]
    else:
        data[at] ^= 1 << random.randrange(8)
    with open(target, "wb") as file:
        file.write(data)
    try:
        trace = laconic.trace.open(target)
        read = list(trace.rows())
        assert len(list(trace)) <= len(read)
    except LaconicError:
        continue
    where = attempt, kind, at, length
    assert read == rows[: len(read)], ("wrong rows", *where)
    assert trace.loss or len(read) == len(rows) and facts(trace) == expected, ("silent", *where)
print("ok")
"""  # noqa: E501


def test_damage_anywhere(tmp_path: Path) -> None:
    """Never a crash, and never a wrong row: either all is right, or it is said that it is not."""
    batches(tmp_path / "a.trace")
    words = [
        sys.executable,
        "-c",
        FLIPS,
        str(tmp_path / "a.trace"),
        str(tmp_path / "b.trace"),
        "800",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment())
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-2000:]


def test_whole_batches_that_are_missing_twice_there_or_out_of_order(tmp_path: Path) -> None:
    """Each is right by itself; that it is not the next is seen."""
    ends, parts = batches(tmp_path / "a.trace")
    whole = (tmp_path / "a.trace").read_bytes()
    first, second, third = whole[: ends[0]], whole[ends[0] : ends[1]], whole[ends[1] :]
    path = tmp_path / "b.trace"
    for pieces, good in (
        ((first, third), 1),
        ((first, second, second, third), 2),
        ((first, third, second), 1),
    ):
        path.write_bytes(b"".join(pieces))
        trace = laconic.trace.open(str(path))
        assert list(trace.batches()) == parts[:good]
        assert trace.loss is not None and "its checksum is wrong" in trace.loss


def test_a_damaged_head_is_said_and_the_events_are_read(tmp_path: Path) -> None:
    path = Path(small(tmp_path / "a.trace", about={"strategy": "every-call"}))
    rows = list(laconic.trace.open(str(path)).rows())
    path.write_bytes(path.read_bytes().replace(b"every-call", b"every-cald"))
    trace = laconic.trace.open(str(path))
    assert trace.about == {}
    assert list(trace.rows()) == rows
    assert trace.loss is not None and "head is damaged" in trace.loss


@every_verb
def test_loss_is_said_by_every_verb(
    verb: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On standard error, or for `info` in what it prints."""
    monkeypatch.chdir(tmp_path)
    ends, _ = batches(tmp_path / "a.trace")
    (tmp_path / "a.trace").write_bytes((tmp_path / "a.trace").read_bytes()[: ends[1] + 100])
    assert main([verb[0], "a.trace", *verb[1:]]) == 0
    out, err = capfd.readouterr()
    output = " ".join((out if verb[0] == "info" else err).split())
    assert "damaged or cut short" in output
    assert f"byte {ends[1]:,}" in output


def refused(tmp_path: Path) -> Iterator[tuple[str, Path, str]]:
    """What is not a trace: name, file, and what the message must say."""
    yield "missing", tmp_path / "missing", "No such file"
    (tmp_path / "empty").write_bytes(b"")
    yield "empty", tmp_path / "empty", "is empty"
    (tmp_path / "directory").mkdir()
    yield "directory", tmp_path / "directory", "is a directory"
    yield "device", Path("/dev/null"), "is not a regular file"
    os.mkfifo(tmp_path / "pipe")
    yield "pipe", tmp_path / "pipe", "is not a regular file"
    yield "program", Path(sys.executable), "looks like a program"
    (tmp_path / "noise").write_bytes(bytes(range(128, 256)) * 100)
    yield "binary", tmp_path / "noise", "looks like a binary file"
    (tmp_path / "log").write_text("123 mmap(NULL, 4096, PROT_READ, 0, -1, 0) = 0x7f\n")
    yield "log", tmp_path / "log", "laconic import strace"
    pyarrow.parquet.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    yield "parquet", tmp_path / "a.parquet", "looks like a Parquet file"
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, pa.schema([])):
        pass
    yield "arrow file", tmp_path / "a.arrow", "looks like an Arrow file"
    with (
        pa.OSFile(str(tmp_path / "a.arrows"), "wb") as file,
        pa.ipc.new_stream(file, pa.schema([("a", pa.int8())])),
    ):
        pass
    yield "arrow stream", tmp_path / "a.arrows", "none of Laconic's"
    yield (
        "newer",
        head(tmp_path / "newer", schema=str(SCHEMA + 1), laconic="99.0"),
        "install Laconic 99.0 or newer",
    )
    (tmp_path / "cut").write_bytes(head(tmp_path / "whole").read_bytes()[:200])
    yield "cut in its head", tmp_path / "cut", "cut off within its first"
    (tmp_path / "magic").write_bytes(b"\xff\xff\xff\xff" + bytes(range(100)))
    yield "only the magic", tmp_path / "magic", "cut off within its first"
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    if not os.access(secret, os.R_OK):
        yield "not readable", secret, "Permission denied"


@every_verb
def test_a_file_that_is_not_a_trace_is_refused(
    verb: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status 2, and one sentence that names the file, what is wrong with it, and the cure."""
    monkeypatch.chdir(tmp_path)
    for name, path, what in refused(tmp_path):
        assert main([verb[0], str(path), *verb[1:]]) == 2, name
        out, err = capfd.readouterr()
        assert out == "", name
        assert repr(str(path)) in err and what in err, (name, err)
        assert err.startswith("laconic: ") and err.count("\n") == 1, (name, err)
        assert any(cure in err for cure in CURES), (name, err)
        assert not (tmp_path / "out").exists(), name


def test_a_sweep_lists_what_is_no_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good ones are swept all the same."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "traces"
    place.mkdir()
    small(place / "good.trace")
    (place / "bad.trace").write_bytes(b"\x7fELF and so on")
    head(place / "newer.trace", schema=str(SCHEMA + 1))
    assert main(["sweep", "traces", "-j", "1", "-o", "result.parquet"]) == 1
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "bad.trace" in out + err and "newer.trace" in out + err
    assert len(pyarrow.parquet.read_table("result.parquet")) >= 4


def test_an_older_release_of_this_schema_reads_calls_that_it_does_not_know(tmp_path: Path) -> None:
    """A newer release may add calls, at new codes: their rows are kept, under a name of their
    own."""
    path = tmp_path / "a.trace"
    trace = Builder(path)
    trace.writer._metadata["events"] = json.dumps(
        [*json.loads(trace.writer._metadata["events"])[:37], "newcall"]
    )
    trace.writer.rows.append(make_row(37, (5, 100, 100), (1, 2, 3, 4, 5, 6), 7))
    (call,) = laconic.trace.open(trace.cut())
    assert isinstance(call, records.CallRecord)
    assert (call.call, call.args, call.result) == ("newcall", (1, 2, 3, 4, 5, 6), 7)


def release_with_a_column_more(directory: Path) -> Path:
    """A release whose rows have the column `cpu` as well: a directory for PYTHONPATH. It is this
    release, but for `trace/schema.py`, with the changes that docs/architecture.md describes."""
    ours = Path(laconic.__file__).parent
    release = directory / "laconic"
    (release / "trace").mkdir(parents=True)
    for folder in (ours, ours / "trace"):
        for path in folder.iterdir():
            link = release / path.relative_to(ours)
            if not link.exists():
                link.symlink_to(path)
    schema = (ours / "trace" / "schema.py").read_text()
    last_field = "    touched: tuple[Touched, ...] = ()\n"
    last_number = '    Number("shown", "I", "uint32"),\n'
    for old, new in (
        (f"SCHEMA: Final = {SCHEMA}\n", f"SCHEMA: Final = {SCHEMA + 1}\n"),
        (f"{last_field}\n    @property", f"{last_field}    cpu: int = 0\n\n    @property"),
        (last_number, f'{last_number}    Number("cpu", "H", "uint16", {SCHEMA + 1}),\n'),
    ):
        assert schema.count(old) == 1
        schema = schema.replace(old, new)
    (release / "trace" / "schema.py").unlink()
    (release / "trace" / "schema.py").write_text(schema)
    return directory


#: Reads two traces of this release, then writes and reads one with the column `cpu`.
OTHER_RELEASE = """
import sys
import laconic.trace
from laconic.replay import replay_trace
from laconic.trace.schema import CODES, call_row, make_row
from laconic.trace.writer import TraceWriter

def show(path):
    trace = laconic.trace.open(path)
    print(trace.schema, [tuple(row) for row in trace.rows()])

old, damaged, new = sys.argv[1:]
show(old)
show(damaged)
print(replay_trace(old).ledger.calls)
writer = TraceWriter(new, "run")
writer.rows.append(make_row(CODES["brk"], (1, 100, 100), (0,), 4096)._replace(cpu=3))
writer.rows.append(call_row(CODES["brk"], 2, 100, 100, 4096, result=4096))
written = [tuple(row) for row in writer.rows]
writer.close()
show(new)
assert list(map(tuple, laconic.trace.open(new).rows())) == written
print([row[-1] for row in written])
"""


def test_a_column_can_be_added(tmp_path: Path) -> None:
    """A release with a column more reads this one's traces, which have one less. This release
    refuses the other's traces with the reason."""
    old, new = small(tmp_path / "old.trace", about={"strategy": "laconic"}), tmp_path / "new.trace"
    damaged = tmp_path / "damaged.trace"
    damaged.write_bytes(Path(old).read_bytes().replace(b'"laconic"}', b'"lacanic"}'))
    directory = release_with_a_column_more(tmp_path / "release")
    words = [sys.executable, "-c", OTHER_RELEASE, old, str(damaged), str(new)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(directory)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    from_old, from_damaged, calls, from_new, cpus = done.stdout.splitlines()
    rows = [(*row, 0) for row in laconic.trace.open(old).rows()]
    assert from_old == from_damaged == f"{SCHEMA} {rows}"
    assert int(calls) == replay_trace(old).ledger.calls
    assert from_new.startswith(f"{SCHEMA + 1} [") and cpus == "[3, 0]"
    with pytest.raises(LaconicError, match=f"is a trace of schema {SCHEMA + 1}, made by Laconic"):
        laconic.trace.open(str(new))


def test_records_are_typed(tmp_path: Path) -> None:
    """What the documentation's example does: iterate, ask for types, look for loss."""
    with laconic.trace.open(small(tmp_path / "a.trace")) as trace:
        found = list(trace)
        assert trace.loss is None
    assert {type(record) for record in found} == {
        records.CallRecord,
        records.ProgramRecord,
        records.Exit,
        records.End,
    }
    calls = [record for record in found if isinstance(record, records.CallRecord)]
    mapped = next(call for call in calls if call.call == "mmap" and call.file is not None)
    assert mapped.file is not None and mapped.file.file.path == "/lib/libc.so.6"
    assert (mapped.pid, mapped.args[1], mapped.result, mapped.host_calls) == (100, 8192, BASE, 1)
    (discard,) = (call for call in calls if call.call == "madvise")
    assert discard.touched == ((discard.args[0], discard.args[0] + 4096, 0),)
    (unfinished,) = (call for call in calls if call.result is None)
    assert (unfinished.call, unfinished.pid) == ("mmap", 102)
    assert [record.number for record in found] == sorted({record.number for record in found})
    exits = {record.tid: record.status for record in found if isinstance(record, records.Exit)}
    assert exits == {102: 9, 101: 0, 100: 3 << 8}


def test_a_call_that_kept_nobody_waiting_has_what_was_known_when_it_began(tmp_path: Path) -> None:
    """Its touched pages and file stand in the `begin` row; in the typed record they are the
    call's."""
    trace = Builder(tmp_path / "a.trace")
    pages = ((BASE, BASE + 4096, 0),)
    trace.row("begin", BASE, 8192, 4, call_code=CODES["madvise"], touched=pages)
    trace.row("madvise", BASE, 8192, 4, tid=101)
    trace.row("madvise", BASE, 8192, 4)
    trace.row("madvise", BASE, 8192, 4)
    calls = [
        record
        for record in laconic.trace.open(trace.cut())
        if isinstance(record, records.CallRecord)
    ]
    assert [call.touched for call in calls] == [(), pages, ()]


def test_a_file_that_has_changed_has_another_number(tmp_path: Path) -> None:
    """A mapping of a file that has grown since must not be replayed with its old size."""
    trace = Builder(tmp_path / "a.trace")
    numbers = [
        trace.file("/tmp/log", size=4096),
        trace.file("/tmp/log", size=8192),
        trace.file("/tmp/log", size=4096, mode=PLAIN),
        trace.file("/tmp/log", size=4096),
    ]
    assert numbers == [1, 2, 3, 1]
    trace.row("mmap", BASE, 8192, 1, 2, 3, 0, result=BASE, file=2)
    (call,) = (
        record
        for record in laconic.trace.open(trace.cut())
        if isinstance(record, records.CallRecord)
    )
    assert call.file is not None and call.file.size == 8192


def test_loss_in_the_middle_and_at_the_end(tmp_path: Path) -> None:
    trace = Builder(tmp_path / "a.trace", "strace")
    trace.row("lost", 3, data=b"three lines")
    found = laconic.trace.open(trace.cut())
    (loss,) = found
    assert isinstance(loss, records.Loss)
    assert (loss.missing, loss.text) == (3, "three lines")
    assert found.loss is not None and "not ended in order" in found.loss
