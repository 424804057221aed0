"""The files of the descriptors in a Gramine log, and the effects of calls on the sizes of files."""

from __future__ import annotations

from typing import NamedTuple

from laconic.trace.importers.gramine.line import string
from laconic.trace.importers.pathfiles import DescriptorTable
from laconic.trace.schema import READABLE, WRITABLE

#: The maximum number of descriptors kept per process, and of files.
_MANY = 65536
_ACCESS = {b"O_RDONLY": READABLE, b"O_WRONLY": WRITABLE, b"O_RDWR": READABLE | WRITABLE}


class Description:
    """An open file description: descriptors that were duplicated or inherited share it.

    `access` are READABLE and WRITABLE. `position` is in bytes, None if the log does not show it.
    """

    __slots__ = ("access", "appends", "path", "position")

    def __init__(self, path: bytes, access: int, appends: bool) -> None:
        self.path = path
        self.access = access
        self.appends = appends
        self.position: int | None = 0


class Descriptors(DescriptorTable[Description]):
    """Descriptor → description."""


class FileWrite(NamedTuple):
    """A file that was truncated to `size` bytes, or written to, so that it has at least `size`
    bytes."""

    path: bytes
    size: int
    truncated: bool


class FileCalls:
    """Follows the calls of all processes on files. `sizes` contains the sizes that they show, in
    bytes by path."""

    def __init__(self) -> None:
        self.sizes: dict[bytes, int] = {}

    def call(
        self, descriptors: Descriptors, name: bytes, text: bytes, result: int
    ) -> FileWrite | None:
        """Follow a call that succeeded with `result`; return what it wrote. Raises ValueError if
        the text is not a list of the call's arguments. O(1)."""
        if name in (b"open", b"openat", b"creat"):
            return self._open(descriptors, name, text, result)
        if name == b"truncate":
            path, rest = string(text.lstrip())
            return self._truncate(path, int(rest, 0))
        # A missing argument is empty, and is not a number.
        arguments = [*text.split(b","), b"", b"", b""]
        fd = int(arguments[0], 0)
        if name == b"close":
            descriptors.pop(fd, None)
            return None
        opened = descriptors.get(fd)
        if name.startswith(b"dup") or (name == b"fcntl" and b"DUPFD" in text):
            _set(descriptors, result, opened)
            return None
        if opened is None:
            return None
        if name == b"lseek":
            opened.position = result
        elif name == b"read" or name == b"readv":
            if opened.position is not None:
                opened.position += result
        elif name == b"ftruncate":
            return self._truncate(opened.path, int(arguments[1], 0))
        elif name == b"pwrite64":
            return self._wrote(opened, int(arguments[3], 0) + result)
        elif name == b"write" or name == b"writev":
            return self._write(opened, result)
        elif name == b"sendfile":
            return self._sendfile(descriptors, arguments, opened, result)
        return None

    def _open(
        self, descriptors: Descriptors, name: bytes, text: bytes, fd: int
    ) -> FileWrite | None:
        folder = b""
        if name == b"openat":
            at, _, text = text.partition(b",")
            opened = descriptors.get(int(at, 0)) if at.lstrip(b"-").isalnum() else None
            folder = opened.path if opened is not None else b""
        path, rest = string(text.lstrip())
        if folder and path[:1] != b"/":
            path = folder + b"/" + path
        flags = rest.partition(b",")[0].strip().split(b"|")
        if name == b"creat":
            flags = [b"O_WRONLY", b"O_TRUNC"]
        access = next((_ACCESS[flag] for flag in flags if flag in _ACCESS), READABLE | WRITABLE)
        _set(descriptors, fd, Description(path, access, b"O_APPEND" in flags))
        # dentry_open (libos_namei.c) truncates only what is opened for writing.
        if b"O_TRUNC" in flags and access & WRITABLE:
            return self._truncate(path, 0)
        return None

    def _truncate(self, path: bytes, size: int) -> FileWrite:
        _check(size)
        self._set_size(path, size)
        return FileWrite(path, size, truncated=True)

    def _sendfile(
        self, descriptors: Descriptors, arguments: list[bytes], opened: Description, count: int
    ) -> FileWrite | None:
        # Without an offset, the source is read at its position. Nothing is written at its end.
        source = descriptors.get(int(arguments[1], 0))
        if source is not None and source.position is not None and not int(arguments[2], 0):
            source.position += count
        return self._write(opened, count) if count else None

    def _write(self, opened: Description, count: int) -> FileWrite:
        if opened.appends:
            opened.position = self.sizes.get(opened.path)
        if opened.position is None:
            return self._wrote(opened, 0)
        opened.position += count
        return self._wrote(opened, opened.position)

    def _wrote(self, opened: Description, end: int) -> FileWrite:
        _check(end)
        # A write does not reveal the size of a file that the log has not shown before.
        known = self.sizes.get(opened.path)
        if known is not None:
            self._set_size(opened.path, max(known, end))
        return FileWrite(opened.path, end, truncated=False)

    def _set_size(self, path: bytes, size: int) -> None:
        if path in self.sizes or len(self.sizes) < _MANY:
            self.sizes[path] = size


def _check(size: int) -> None:
    # Raise ValueError for a size that loff_t cannot have.
    if not 0 <= size < 1 << 63:
        raise ValueError(f"a file of {size} bytes")


def _set(descriptors: Descriptors, fd: int, opened: Description | None) -> None:
    if opened is None or len(descriptors) >= _MANY:
        descriptors.pop(fd, None)
    else:
        descriptors[fd] = opened
