"""Writing a trace: rows are collected, and appended to the file in batches."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from laconic import __version__
from laconic.errors import LaconicError
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import File
from laconic.trace.schema import (
    BATCH,
    CODES,
    EVENTS,
    HUGE_SHIFT,
    LARGEST_BATCH,
    MOST_RUNS,
    NOEXEC,
    PLACES,
    PLAIN,
    READABLE,
    SCHEMA,
    WRITABLE,
    Row,
)

if TYPE_CHECKING:
    import pyarrow as pa

_MASK = (1 << 64) - 1


class Rows:
    """The rows of a trace, in order, in `rows`, and the numbers of the files that they refer to.

    `redact` writes hashes instead of paths, names and command lines.
    """

    def __init__(self, redact: bool = False) -> None:
        self.rows: list[Row] = []
        self._salt = os.urandom(16) if redact else b""
        self._files: dict[tuple[Any, ...], int] = {}

    def file(
        self, file: File, size: int, mode: int, *, now: tuple[int, int, int] = (0, 0, 0)
    ) -> int:
        """Return the number of a file; if the file is new, append its row.

        `size` is in bytes, `mode` the `FileMode` bits, `now` the time, pid and tid of the row.
        """
        key = (file.major, file.minor, file.inode, file.path, size, mode)
        number = self._files.get(key)
        if number is None:
            number = self._files[key] = len(self._files) + 1
            path = self.hidden_path(file.path)
            row = Row(
                CODES["file"],
                *now,
                a0=file.major,
                a1=file.minor,
                a2=file.inode & _MASK,
                a3=size & _MASK,
                a4=mode,
                file=number,
                data=path,
            )
            self.rows.append(row)
        return number

    @property
    def redacts(self) -> bool:
        """True if paths, names and command lines are replaced with hashes."""
        return bool(self._salt)

    def hidden(self, text: str) -> bytes:
        """Return `text` as bytes, or its hash if the trace is redacted. Equal texts have equal
        hashes within a trace."""
        data = os.fsencode(text)
        if not self._salt or not data:
            return data
        from hashlib import blake2b

        return b"#" + blake2b(data, digest_size=8, key=self._salt).hexdigest().encode()

    def hidden_path(self, path: str) -> bytes:
        """Like `hidden`, but keep the kernel's own labels (`[stack]`, `/dev/zero (deleted)`)."""
        if not self._salt or path.startswith("[") or path in _PUBLIC:
            return os.fsencode(path)
        return self.hidden(path)


class TraceWriter(Rows):
    """Appends a trace to `path`; `-` is standard output.

    `source` is how the trace is made (`run`, `strace`, `gramine`, ...), and `about` describes the
    recording further (JSON values). Callers append rows, in order, to `rows`, and call `flush` when
    there are `BATCH` of them or after some time. If the file can no longer be written, the trace
    ends, but not the program: `failure` is the errno, and `written` counts the rows in the file.

    Raises LaconicError if the file cannot be created.
    """

    def __init__(
        self,
        path: str,
        source: str,
        about: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
        redact: bool = False,
    ) -> None:
        super().__init__(redact)
        self.path = path
        self.failure: OSError | None = None
        self.written = 0
        self.batches = 0
        self._metadata = {
            "laconic": __version__,
            "schema": str(SCHEMA),
            "source": source,
            "events": json.dumps(EVENTS),
            "machine": json.dumps(_machine()),
            "redacted": json.dumps(redact),
            "about": json.dumps(dict(about or {})),
        }
        self._time = 0
        self._sink = io.BytesIO()
        self._stream: pa.RecordBatchStreamWriter | None = None
        if path == "-" and os.isatty(1):
            raise LaconicError(
                "standard output is a terminal, and a trace is not text; name a file with -o, or "
                "pipe the trace, as in  laconic run -o - -- CMD | laconic callers -"
            )
        self._fd = create(path, force)

    def describe(self, **about: Any) -> None:
        """Add to the description of the recording, before the first batch: JSON values, by name."""
        known = json.loads(self._metadata["about"])
        self._metadata["about"] = json.dumps({**known, **about})

    # Batches

    def flush(self) -> None:
        """Write the collected rows. O(rows), about a microsecond per row."""
        while self.rows:
            batch = self.rows[:BATCH]
            del self.rows[:BATCH]
            if self.failure is None:
                self._append(batch)

    def close(self) -> None:
        """Write the remaining rows and the end of the stream. The last row of a complete trace is
        an `end` row."""
        self.flush()
        self.open_head()
        if self._stream is not None and self.failure is None:
            self._stream.close()
            self._write_out()
        if self._fd >= 0:
            try:
                os.close(self._fd)
            except OSError as error:
                self.failure = self.failure or error
            self._fd = -1

    def sync(self) -> None:
        """Have the batches so far written to the disk, so that they survive a power failure."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # no disk behind it
                self.failure = self.failure or error

    def leave(self) -> None:
        """Close the file here, because another process writes it from now on."""
        os.close(self._fd)
        self._fd = -1

    def _open_stream(self) -> None:
        import pyarrow as pa

        from laconic.trace.encoding import arrow_schema

        self._schema = arrow_schema(self._metadata)
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))
        self._stream = pa.ipc.new_stream(self._sink, self._schema, options=options)

    def open_head(self) -> None:
        """Write the head of the trace, which precedes the first batch. From then on, the file is a
        trace."""
        if self._stream is None and self.failure is None:
            self._open_stream()
            self._write_out()

    def _append(self, rows: list[Row]) -> None:
        from laconic.trace.encoding import checksum, encode, most_runs

        if self._stream is None:
            self._open_stream()
        assert self._stream is not None
        batch, time = encode(self._schema, rows, self._time)
        if batch.nbytes > LARGEST_BATCH // 2 and len(rows) > 1:
            middle = len(rows) // 2
            self._append(rows[:middle])
            self._append(rows[middle:])
            return
        if most_runs(batch) > MOST_RUNS:
            self._append([piece for row in rows for piece in _cut(row)])
            return
        self._time = time
        self.batches += 1
        total = self.written + len(rows)
        about = {"batch": str(self.batches), "crc32": str(checksum(batch)), "rows": str(total)}
        self._stream.write_batch(batch, custom_metadata=about)
        self._write_out()
        if self.failure is None:
            self.written = total

    def _write_out(self) -> None:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        try:
            done = 0
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except OSError as error:
            self.failure = error


def _cut(row: Row) -> list[Row]:
    # Return the row with at most `MOST_RUNS` touched runs; if it has more, add a row that reports
    # the loss.
    if len(row.touched) <= MOST_RUNS:
        return [row]
    text = b"touched pages: a process had more ranges of them than a trace holds"
    lost = Row(CODES["lost"], row.time, row.pid, row.tid, data=text)
    return [row._replace(touched=row.touched[:MOST_RUNS]), lost]


_PUBLIC = {"", "/dev/zero (deleted)", "/SYSV00000000 (deleted)", "/dev/zero", "/dev/null"}


def create(path: str, force: bool) -> int:
    """Create a file, and return its descriptor; `-` is standard output. Raises LaconicError if the
    file already exists (without `force`) or cannot be created."""
    if path == "-":
        return os.dup(1)
    try:
        if force and not stat.S_ISREG(os.stat(path).st_mode):
            raise LaconicError(f"-o {path!r} is not a regular file: name another")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LaconicError(
            f"-o {path!r} cannot be written, {error.strerror}: name another file"
        ) from None
    flags = (
        os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND | (os.O_TRUNC if force else os.O_EXCL)
    )
    try:
        return os.open(path, flags, 0o644)
    except FileExistsError:
        raise LaconicError(
            f"-o {path!r} exists already: name another file, or give --force"
        ) from None
    except OSError as error:
        raise LaconicError(
            f"-o {path!r} cannot be written, {error.strerror}: name another file"
        ) from None


def remove(path: str) -> None:
    """Remove the incomplete file that `create` made. Standard output is left alone."""
    if path != "-":
        os.unlink(path)


def mode_bits(file: OpenFile) -> int:
    """Return the `FileMode` bits of an open file."""
    return (
        file.readable * READABLE
        | file.writable * WRITABLE
        | file.plain * PLAIN
        | file.noexec * NOEXEC
        | file.places * PLACES
        | (file.huge.bit_length() - 1 << HUGE_SHIFT if file.huge else 0)
    )


def _machine() -> dict[str, Any]:
    system = os.uname()
    return {
        "system": system.sysname,
        "release": system.release,
        "machine": system.machine,
        "cpus": os.cpu_count(),
    }
