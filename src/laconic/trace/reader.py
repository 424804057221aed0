"""Reading a trace: up to the first damage, and only rows that were written."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from laconic.errors import LaconicError
from laconic.trace.encoding import arrow_schema, head_checksum
from laconic.trace.schema import BATCH, CODES, EVENTS, LARGEST_BATCH, MOST_RUNS, SCHEMA, Row

if TYPE_CHECKING:
    import pyarrow as pa

#: The sources of traces.
SOURCES = ("run", "strace", "gramine", "perf")
#: Receives the number of bytes on disk that have been read, of all inputs together.
Progress = Callable[[int], None]
T = TypeVar("T")
_END = CODES["end"]
_VERSIONS = range(1, SCHEMA + 1)
_MAGIC = b"\xff\xff\xff\xff"


class TraceReader:
    """A recorded or imported trace.

    `source` is how it was made (`run`, `strace`, `gramine`, `perf`), `about` describes the
    recording, and `machine` the machine on which it was made. After an iteration, `loss` states as
    text what is missing at the end, or is None, and `events` is the number of rows. During an
    iteration, `position` is the byte up to which the file has been read.

    Raises LaconicError if the file cannot be read, is not a trace, or has a newer schema.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.loss: str | None = None
        self.events = 0
        self.position = 0
        file, metadata, stream = self._open_stream()
        file.close()
        self._damage = ""
        layouts = [version for version in _VERSIONS if stream.schema == arrow_schema({}, version)]
        if metadata.get("crc32") != head_checksum(metadata):
            self._damage = "the trace's head is damaged: how it was made is not known. "
            metadata = {"schema": str(max(layouts, default=0)), "source": metadata["source"]}
        self.schema = _number(metadata, "schema")
        self.version = metadata.get("laconic", "?")
        if self.schema > SCHEMA:
            raise LaconicError(
                f"{path!r} is a trace of schema {self.schema}, made by Laconic {self.version}; "
                f"this is Laconic {_version()}, which reads up to schema {SCHEMA}: install Laconic "
                f"{self.version} or newer"
            )
        if self.schema not in layouts:
            raise LaconicError(
                f"{path!r} has a damaged head, and cannot be read: take another copy of it"
            )
        self.source = metadata["source"] if metadata["source"] in SOURCES else "run"
        self.redacted = bool(_json(metadata, "redacted", bool))
        self.machine: dict[str, Any] = _json(metadata, "machine", dict) or {}
        self.about: dict[str, Any] = _json(metadata, "about", dict) or {}
        names = [str(name) for name in _json(metadata, "events", list) or EVENTS][:256]
        # A newer release of the same schema may have more events than this one.
        self.names: list[str] = [*names, *(f"?{code}" for code in range(len(names), 256))]

    @property
    def has_touches(self) -> bool:
        """Whether the trace records which pages were touched."""
        return "touched pages" not in self.about.get("unknown", ())

    @property
    def was_attached(self) -> bool:
        """True if the program was running before the recording began (`laconic attach`)."""
        return "attached_to" in self.about

    @property
    def cpus(self) -> int:
        """The number of CPUs of the machine on which the trace was made, or 0 if it is unknown."""
        count = self.machine.get("cpus")
        return count if isinstance(count, int) else 0

    def batches(self) -> Iterator[list[Row]]:
        """Yield the rows in batches of some thousands, in the order of `laconic.trace.schema.Row`.
        O(rows), bounded memory.

        An impossible row (`laconic.trace.possible`) is replaced by a `lost` row.
        """
        from laconic.trace.encoding import Times, decode, portions
        from laconic.trace.possible import Judge

        self.loss, self.events = None, 0
        file, _, stream = self._open_stream()
        times, judge = Times(), Judge(self.names)
        last: Row | None = None
        with file:
            while True:
                at = file.tell()
                try:
                    _check_size(file)
                    batch, about = stream.read_next_batch_with_custom_metadata()
                    _prove(batch, about, self.events)
                except StopIteration:
                    break
                except _unreadable() as error:
                    self.loss = self._cut(at, error)
                    break
                self.position = file.tell()
                for portion in portions(batch):
                    rows = judge.possible(decode(portion, times))
                    last = rows[-1]
                    self.events += len(rows)
                    yield rows
        if self.loss is None and (last is None or last.event != _END):
            self.loss = (
                "the trace was not ended in order: the recording was killed, or is still under "
                f"way. {self.events:,} events could be read"
            )
        if self._damage:
            self.loss = self._damage + (self.loss or f"All {self.events:,} events could be read")

    def rows(self) -> Iterator[Row]:
        """Yield the rows one by one."""
        for batch in self.batches():
            yield from batch

    def _cut(self, at: int, why: object) -> str:
        return (
            f"the trace is damaged or cut short at byte {at:,} of {self.size:,} "
            f"({' '.join(str(why).split())[:120]}): the {self.events:,} events before could be read"
        )

    def _open_stream(self) -> tuple[BinaryIO, dict[str, str], pa.RecordBatchStreamReader]:
        file = open_input(self.path)
        try:
            head = file.read(8)
            file.seek(0)
            self.size = os.fstat(file.fileno()).st_size
            if not head:
                raise LaconicError(
                    f"{self.path!r} is empty: record a trace with  laconic run -o FILE -- CMD"
                )
            if not head.startswith(_MAGIC):
                raise LaconicError(
                    f"{self.path!r} is not a trace: it looks like {looks_like(head)}{_cure(head)}"
                )
            import pyarrow as pa

            try:
                # Starting threads for each batch costs more than they save.
                stream = pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(use_threads=False))
                metadata = {
                    os.fsdecode(k): os.fsdecode(v)
                    for k, v in (stream.schema.metadata or {}).items()
                }
            except _unreadable() as error:
                raise LaconicError(
                    f"{self.path!r} is cut off within its first {self.size:,} bytes, before the "
                    f"first event: there is nothing to read ({' '.join(str(error).split())[:120]})"
                ) from None
            if "laconic" not in metadata or "source" not in metadata:
                raise LaconicError(
                    f"{self.path!r} is an Arrow stream, but none of Laconic's: give it a trace"
                )
        except BaseException:
            file.close()
            raise
        return file, metadata, stream


def _unreadable() -> tuple[type[Exception], ...]:
    # The exceptions that pyarrow raises for invalid bytes.
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, EOFError, MemoryError, OverflowError


def _check_size(file: BinaryIO) -> None:
    # Raises ValueError for a batch that no release of Laconic wrote, before it is decompressed.
    from laconic.trace.batchsize import batch_size

    size = batch_size(file)
    if size is None:
        return
    if not 0 <= size.rows <= BATCH:
        raise ValueError(f"a batch has {size.rows:,} rows, and {BATCH:,} is the most")
    if size.unpacked > LARGEST_BATCH:
        raise ValueError(
            f"a batch unpacks to {size.unpacked:,} bytes, and {LARGEST_BATCH:,} is the most"
        )


def _prove(batch: pa.RecordBatch, about: Mapping[bytes, bytes] | None, before: int) -> None:
    # Raises ValueError if a batch is not the one that was written next.
    from laconic.trace.encoding import checksum, most_runs

    batch.validate(full=True)
    if any(column.null_count for column in batch.columns):
        raise ValueError("it has null values")
    if most_runs(batch) > MOST_RUNS:
        raise ValueError(f"a row has more than {MOST_RUNS:,} touched runs")
    written = [
        (about or {}).get(key, b"").decode("ascii", "replace") for key in (b"crc32", b"rows")
    ]
    if written != [str(checksum(batch)), str(before + batch.num_rows)]:
        raise ValueError("its checksum is wrong")


def open_input(path: str) -> BinaryIO:
    """Open a regular file for reading, or standard input if `path` is `-`. Raises LaconicError with
    the reason if that fails."""
    if path == "-":
        return open(location(path), "rb")
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise LaconicError(f"{path!r} is a directory: name a trace file")
        if not stat.S_ISREG(mode):
            raise LaconicError(
                f"{path!r} is not a regular file: name a trace file, or pipe a trace in and name -"
            )
        file = open(path, "rb")  # noqa: SIM115
        try:
            file.peek(1)  # a file that can be opened may still not be readable
        except BaseException:
            file.close()
            raise
        return file
    except OSError as error:
        raise LaconicError(
            f"{path!r} cannot be read, {error.strerror}: name a trace file"
        ) from None


#: The copy of standard input: one unnamed file, once it has been read.
_standard_input: list[BinaryIO] = []


def location(path: str) -> str:
    """Return the path under which any process of this user can open a file that this process
    reads: `path` itself, unless it is `-`, standard input.

    Standard input is first read to its end into an unnamed temporary file, because a trace is read
    more than once. Raises LaconicError if that is not possible.
    """
    if path != "-":
        return path
    if not _standard_input:
        _standard_input.append(_copy_of_standard_input())
    return f"/proc/{os.getpid()}/fd/{_standard_input[0].fileno()}"


def _copy_of_standard_input() -> BinaryIO:
    import shutil
    import tempfile

    if os.isatty(0):
        raise LaconicError(
            "standard input is a terminal; pipe a trace in, as in  "
            "laconic run -o - -- CMD | laconic callers -"
        )
    try:
        copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        with os.fdopen(os.dup(0), "rb") as file:
            shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
    except OSError as error:
        raise LaconicError(
            f"standard input could not be copied to a temporary file, {error.strerror}; write it "
            "to a file first, or set TMPDIR"
        ) from None
    return copy


def looks_like(head: bytes) -> str:
    """Return the kind of file that begins with `head`, as text."""
    for magic, what in _LOOKS:
        if head.startswith(magic):
            return what
    if all(byte in b"\t\n\r\x1b" or 32 <= byte < 127 for byte in head):
        return "text"
    return "a binary file of another kind"


_LOOKS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x7fELF", "a program"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"SQLite format", "a SQLite database"),
    (b"PERFILE", "perf.data"),
    (b"{", "JSON"),
    (b"[", "JSON or a log"),
)


def _cure(head: bytes) -> str:
    if looks_like(head) in ("text", "JSON or a log", "a gzip file", "a zstd file"):
        return ". A log is read with  laconic import strace LOG -o FILE"
    return ". A trace is made with  laconic run -o FILE -- CMD"


def _number(metadata: dict[str, str], key: str) -> int:
    try:
        return int(metadata.get(key, ""))
    except ValueError:
        return SCHEMA + 1


def _json(metadata: dict[str, str], key: str, kind: type[T]) -> T | None:
    # Return the value of a key, or None if there is none of that type.
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


def _version() -> str:
    from laconic import __version__

    return __version__
