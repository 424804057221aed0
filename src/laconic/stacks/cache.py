"""Symbols that an earlier report has read, in the user's cache folder: symcaches, and names by
address.

A cache only saves time. If the folder or a file in it is faulty, the symbols are read again from
the modules: no function here raises OSError.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Final

#: The size of all files of the folder together, in bytes; the least recently used files are
#: removed. One file may take a quarter of it.
LIMIT: Final = 1 << 29
_MAGIC: Final = b"LACSYM1\n"
_DIGEST: Final = 32


def cache_folder() -> str | None:
    """Return $XDG_CACHE_HOME/laconic/symbols or ~/.cache/laconic/symbols; None for a user without a
    home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return f"{base}/laconic/symbols" if os.path.isabs(base) else None


class SymbolCache:
    """Files by key and kind. Keys and kinds are letters and digits.

    The folder is used only if it belongs to this user and is closed to all others (mode 0700),
    because names from it are shown. Two processes may write the same file: each writes a file of
    its own and renames it, so a reader sees one of the two complete.
    """

    def __init__(self, folder: str | None = None, limit: int = LIMIT) -> None:
        self.folder = folder if folder is not None else cache_folder()
        self._limit = limit

    def read(self, key: str, kind: str) -> bytes | None:
        """Return the data that `write` stored; None if it is not there, or is corrupt, in which
        case it is removed. O(bytes)."""
        name = f"{key}.{kind}"
        with contextlib.suppress(OSError, ValueError), self._open(create=False) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(name, flags, dir_fd=folder), "rb") as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                    return None
                head = file.read(len(_MAGIC) + _DIGEST)
                data = file.read()
                if head == _head(name, data):
                    os.utime(file.fileno())
                    return data
            os.unlink(name, dir_fd=folder)
        return None

    def write(self, key: str, kind: str, data: bytes) -> None:
        """Store `data` under a key, if there is room. O(bytes + files of the folder)."""
        if len(data) > self._limit // 4:
            return
        name = f"{key}.{kind}"
        new = f"{name}.{os.getpid()}.new"
        with contextlib.suppress(OSError, ValueError), self._open(create=True) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(new, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(_head(name, data))
                    file.write(data)
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(new, dir_fd=folder)
                raise
            self._prune(folder)

    @contextlib.contextmanager
    def _open(self, create: bool) -> Iterator[int]:
        if self.folder is None:
            raise FileNotFoundError
        if create and not os.path.isdir(self.folder):
            parent = self.folder
            while not os.path.isdir(parent):
                parent = os.path.dirname(parent)
            # `sudo` may keep HOME: root must leave no folder in it that its user cannot use.
            if os.stat(parent).st_uid != os.geteuid():
                raise PermissionError
            os.makedirs(self.folder, 0o700, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(self.folder, flags)
        try:
            about = os.fstat(folder)
            if about.st_uid != os.geteuid() or about.st_mode & 0o077:
                raise PermissionError
            yield folder
        finally:
            os.close(folder)

    def _prune(self, folder: int) -> None:
        files = []
        with os.scandir(folder) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                files.append((about.st_mtime_ns, about.st_size, entry.name))
        total = sum(size for _, size, _ in files)
        for _, size, name in sorted(files):
            if total <= self._limit:
                break
            os.unlink(name, dir_fd=folder)
            total -= size


def _head(name: str, data: bytes) -> bytes:
    # The name is part of the checksum, so a renamed file is not used for another module.
    digest = hashlib.sha256(name.encode())
    digest.update(data)
    return _MAGIC + digest.digest()


def file_identity(path: str, build_id: str) -> str:
    """Return what distinguishes a file's symbols from those of any other file: its build-id, size
    and time of change, or the hash of its contents if it has no build-id.

    A stripped copy has the build-id of the original. O(1) or O(size). Raises OSError.
    """
    if build_id:
        about = os.stat(path)
        return f"{build_id}-{about.st_size}-{about.st_mtime_ns}"
    with open(path, "rb", opener=_open_regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_regular(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("it is not a regular file")
    return fd


def key_of(*identities: str) -> str:
    """Return the key of data that depends on all of these."""
    return hashlib.sha256("\0".join(identities).encode("utf-8", "surrogateescape")).hexdigest()[:40]
