"""The lines of logs: plain files, gzip, zstd or standard input, streamed in bounded memory."""

from __future__ import annotations

import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from laconic.errors import LaconicError
from laconic.trace.reader import Progress

#: Bytes per read.
CHUNK = 1 << 20
#: Longer lines are truncated to this many bytes: no log has such lines, and memory stays bounded.
MAX_LINE = 1 << 20
#: Bytes at the start of a log that are inspected to determine its kind.
HEAD = 1 << 16

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class Log:
    """One log, named by a path, or `-` for standard input.

    `name` is for messages (the path's last part), `head` contains its first `HEAD` bytes,
    decompressed, `size` is its size on disk in bytes (0 if unknown), and `consumed` the bytes read
    so far. `loss` states as text what is missing at the end of the part read so far. The log is
    opened when it is read, and closed at its end.

    Raises LaconicError if it cannot be read at all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == "-" else os.path.basename(path)
        self.size = 0
        self.consumed = 0
        self.loss: str | None = None
        self._input: BinaryIO | None = None
        self._left = b""
        file = self._open()
        # A file that is not regular cannot be opened twice: it stays open, and its head is stored.
        keep = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self.size = 0 if keep else os.fstat(file.fileno()).st_size
        try:
            reader = self._decompressed(file)
        except OSError as error:
            file.close()
            raise LaconicError(f"{path!r} cannot be read, {error.strerror}: name a log") from None
        self.head = self._read_head(reader)
        if self.loss is not None and not self.head:
            raise LaconicError(f"{path!r} cannot be read: {self.loss}: name a log")
        if keep:
            self._input, self._left = reader, self.head
        else:
            reader.close()
            self.consumed = 0

    def blocks(self, progress: Progress | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """Yield the log in blocks of about `chunk` bytes, each with complete lines that end in a
        bare newline.

        `progress` receives `consumed` after each block. An unreadable end is not an error; it sets
        `loss`. O(bytes).
        """
        reader = self._input or self._decompressed(self._open())
        carry, self._left = self._left, b""
        skipping = False
        try:
            while data := self._read(reader, chunk):
                end = data.rfind(b"\n") + 1
                if skipping:
                    start = data.find(b"\n") + 1
                    if not start:
                        continue
                    skipping = False
                    data, end = data[start:], end - start
                block, carry = (carry + data[:end], data[end:]) if end else (b"", carry + data)
                if len(carry) > MAX_LINE:
                    block, carry, skipping = block + carry[:MAX_LINE] + b"\n", b"", True
                if block:
                    yield _bare(block)
                if progress is not None:
                    progress(self.consumed)
            if carry:
                yield _bare(carry if carry.endswith(b"\n") else carry + b"\n")
        finally:
            reader.close()
            self._input = None

    def lines(self, progress: Progress | None = None) -> Iterator[bytes]:
        """Yield the log's lines, without their newlines."""
        for block in self.blocks(progress):
            yield from block[:-1].split(b"\n")

    def _open(self) -> BinaryIO:
        path = self.path
        try:
            if path == "-":
                return os.fdopen(os.dup(0), "rb", buffering=0)
            if stat.S_ISDIR(os.stat(path).st_mode):
                raise LaconicError(
                    f"{path!r} is a directory: name the logs in it, as in  {path.rstrip('/')}/*"
                )
            return open(path, "rb", buffering=0)
        except OSError as error:
            what = "standard input" if path == "-" else repr(path)
            raise LaconicError(f"{what} cannot be read, {error.strerror}: name a log") from None

    def _decompressed(self, file: BinaryIO) -> BinaryIO:
        counted = cast(BinaryIO, _Counted(self, file))
        magic = counted.read(4)
        cast(_Counted, counted).give_back(magic)
        if magic.startswith(_GZIP):
            return cast(BinaryIO, _Unpacked(counted, lambda: zlib.decompressobj(31), 1 << 10))
        if magic == _ZSTD:
            try:
                import zstandard
            except ImportError:
                file.close()
                raise LaconicError(
                    f"{self.path!r} is a zstd file, and zstandard is not installed: pip install "
                    f"zstandard, or give the plain text:  zstd -dc {self.name} | laconic import "
                    "... -"
                ) from None
            return cast(
                BinaryIO,
                _Unpacked(counted, lambda: zstandard.ZstdDecompressor().decompressobj(), 1 << 10),
            )
        return counted

    def _read_head(self, reader: BinaryIO) -> bytes:
        head = b""
        while len(head) < HEAD and (data := self._read(reader, HEAD - len(head))):
            head += data
            if self._input is None and self.path == "-" and b"\n" in head and len(head) > 4096:
                break  # a pipe that is still being written: do not wait for more than necessary
        return head

    def _read(self, reader: BinaryIO, count: int) -> bytes:
        # A corrupt or truncated compressed file is read up to the damage.
        try:
            return reader.read(count) or b""
        except (OSError, EOFError, zlib.error, MemoryError) as error:
            self.loss = (
                f"{self.name} is damaged or cut short ({' '.join(str(error).split())[:120]})"
            )
        except Exception as error:  # zstandard.ZstdError, which is not imported here
            if type(error).__name__ != "ZstdError":
                raise
            self.loss = (
                f"{self.name} is damaged or cut short ({' '.join(str(error).split())[:120]})"
            )
        return b""


class _Counted:
    # Counts a file's bytes as they are read.

    def __init__(self, log: Log, file: BinaryIO) -> None:
        self._log, self._file, self._back = log, file, b""

    def give_back(self, data: bytes) -> None:
        self._back = data
        self._log.consumed -= len(data)

    def read(self, count: int = -1) -> bytes:
        if self._back:
            cut = count if count >= 0 else len(self._back)
            data, self._back = self._back[:cut], self._back[cut:]
        else:
            data = self._file.read(count) or b""
        self._log.consumed += len(data)
        return data

    def close(self) -> None:
        self._file.close()


class _Unpacked:
    # Decompresses a file, including all of its parts. It is fed in small pieces, because a small
    # piece may decompress to very much.

    def __init__(self, file: BinaryIO, unpacker: Callable[[], Any], feed: int) -> None:
        self._file, self._unpacker, self._feed = file, unpacker, feed
        self._part: Any = None
        self._left = b""

    def read(self, count: int) -> bytes:
        found: list[bytes] = []
        size = 0
        while size < count:
            data = self._left or self._file.read(self._feed)
            self._left = b""
            if not data:
                if self._part is not None and not size:
                    raise EOFError("its packed data end too early")
                break
            if self._part is None:
                data = data.lstrip(b"\0")  # padding between parts
                if not data:
                    continue
                self._part = self._unpacker()
            try:
                found.append(self._part.decompress(data))
            except Exception:
                if not size:
                    raise
                self._left = data  # it fails again after the data before it has been taken
                break
            size += len(found[-1])
            if self._part.eof:
                self._left, self._part = self._part.unused_data, None
        return b"".join(found)

    def close(self) -> None:
        self._file.close()


def _bare(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n") if b"\r" in block else block


def open_logs(paths: list[str]) -> list[Log]:
    """Open the logs at these paths. Raises LaconicError if one cannot be read, or if all are
    empty."""
    if paths.count("-") > 1:
        raise LaconicError("standard input was named twice: name - once")
    if "-" in paths and sys.stdin is not None and sys.stdin.isatty():
        raise LaconicError(
            "standard input is a terminal: give a log, as in  laconic import strace LOG -o FILE"
        )
    logs = [Log(path) for path in paths]
    if not any(log.head for log in logs):
        what = "standard input" if paths == ["-"] else ", ".join(map(repr, paths[:3]))
        raise LaconicError(f"{what} is empty: give a log with lines in it")
    return logs


def size_of(paths: list[str]) -> int:
    """Return the total size of these logs on disk in bytes, or 0 if it is unknown."""
    try:
        return sum(os.stat(path).st_size for path in paths) if "-" not in paths else 0
    except OSError:
        return 0
