"""The destinations of messages and figures: standard error and files, each of which may be closed
or full."""

from __future__ import annotations

import errno
import os
import stat
import sys
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from laconic.errors import LaconicError


def tell(text: str) -> None:
    """Write to standard error, as `harmless`; if it is gone or full, the program's exit status is
    returned anyway."""
    try:
        write_all(2, colored(harmless(text), 2))
    except OSError:
        pass


def announce(note: str) -> None:
    """Print a note while the program runs."""
    tell(f"laconic: note: {note}\n")


def harmless(text: str) -> str:
    r"""Return text for a terminal, with escapes instead of control characters, because names in a
    trace come from any source. O(n).

    >>> harmless("a\x1b[2J\n")
    'a\\x1b[2J\n'
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    from laconic.report.names import seen

    return "\n".join(map(seen, text.split("\n")))


#: Words at the beginning of a line, and their colors on a terminal.
_BOLD, _RED, _GREEN, _YELLOW, _CYAN = "1", "1;31", "1;32", "33", "36"
_COLORS = {
    "laconic:": _BOLD,
    "FAILED": _RED,
    "worse:": _RED,
    "ok": _GREEN,
    "better:": _GREEN,
    "note:": _YELLOW,
    "selected:": _CYAN,
    "next:": _CYAN,
}


def colored(text: str, fd: int) -> str:
    """Return the text of a report for the file behind `fd`: with colors for the words that lines
    begin with, if that is a terminal. NO_COLOR and TERM=dumb turn them off. O(n)."""
    if not os.isatty(fd) or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return text
    lines = text.split("\n")
    for number, line in enumerate(lines):
        word, space, rest = line.partition(" ")
        color = _COLORS.get(word)
        if color is not None:
            lines[number] = f"\x1b[{color}m{word}\x1b[0m{space}{rest}"
    return "\n".join(lines)


def write_all(fd: int, text: str) -> None:
    """Write all of a text to a descriptor. Raises OSError."""
    left = text.encode("utf-8", "surrogateescape")
    while left:
        left = left[os.write(fd, left) :]


def width(fd: int) -> int:
    """Return the columns for a report: those of the terminal behind `fd`, from 60 to 140; 80 if it
    is not a terminal."""
    try:
        return max(min(os.get_terminal_size(fd).columns, 140), 60)
    except OSError:
        return 80


class Output:
    """A file that is written when the result is complete: it has either all of the result, or its
    previous contents.

    Use it as a context manager, which returns the text file. A new file, or an ordinary file of
    this user, is written under another name, and renamed at the end of the block. While it is empty
    it has no name at all (O_TMPFILE), so a process that is killed leaves nothing behind. Everything
    else is written in place: standard output and its files (`/dev/stdout`), pipes and devices,
    files with several names or another owner, and files in a directory that cannot be written.

    Raises OSError, as open(path, "w") would.
    """

    def __init__(self, path: str) -> None:
        self._target: str | None = None
        self._truncates = False
        self._temporary: weakref.finalize[..., Output] | None = None
        fd = self._open(path)
        self._file = os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape")

    def _open(self, path: str) -> int:
        if path == "-":
            return os.dup(1)
        try:
            before = os.stat(path)
        except FileNotFoundError:
            if not path:
                raise
            if path.endswith("/"):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from None
            return self._open_temporary(os.path.realpath(path))
        for fd in (1, 2):
            if _is_open_as(before, fd):
                return os.dup(fd)  # both descriptors share the position in the file
        in_place = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        if not stat.S_ISREG(before.st_mode):
            return in_place
        if before.st_nlink == 1 and not os.listxattr(path):
            try:
                fd = self._open_temporary(os.path.realpath(path))
            except OSError:
                pass  # the directory cannot be written
            else:
                new = os.fstat(fd)
                if (new.st_uid, new.st_gid) == (before.st_uid, before.st_gid):
                    os.fchmod(fd, stat.S_IMODE(before.st_mode))
                    os.close(in_place)
                    return fd
                os.close(fd)
                self._forget_temporary()
        self._truncates = True
        return in_place

    def _open_temporary(self, target: str) -> int:
        directory = os.path.dirname(target)
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            fd = os.open(directory, flags | os.O_TMPFILE, 0o666)
        except OSError as error:
            # EISDIR: the kernel does not support the flag. The file system may return either error.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            name = self._temporary_name(directory)
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666)
            self._temporary = weakref.finalize(self, _unlink, name)
        self._target = target
        return fd

    def _temporary_name(self, directory: str) -> str:
        return os.path.join(directory, f".laconic-{os.getpid()}-{id(self):x}.new")

    def _forget_temporary(self) -> None:
        self._target = None
        if self._temporary is not None:
            self._temporary()
            self._temporary = None

    def __enter__(self) -> TextIO:
        if self._truncates:
            os.ftruncate(self._file.fileno(), 0)
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            with self._file:
                self._file.flush()
                if kind is None and self._target is not None:
                    self._rename(self._file.fileno(), self._target)
        finally:
            self._forget_temporary()

    def _rename(self, fd: int, target: str) -> None:
        name = self._temporary_name(os.path.dirname(target))
        if self._temporary is None:
            # With a directory's descriptor os.link() calls linkat(), which follows the link.
            directory = os.open(os.path.dirname(target), os.O_PATH | os.O_CLOEXEC)
            try:
                os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=directory, follow_symlinks=True)
            finally:
                os.close(directory)
        try:
            os.replace(name, target)
        except OSError:
            _unlink(name)
            raise


def is_same_file(first: str, second: str) -> bool:
    """True if both paths name one existing file; `-`, a standard stream, is not a file."""
    if "-" in (first, second):
        return False
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def _is_open_as(status: os.stat_result, fd: int) -> bool:
    try:
        return os.path.samestat(status, os.fstat(fd))
    except OSError:
        return False


def _unlink(name: str) -> None:
    try:
        os.unlink(name)
    except OSError:
        pass


def write_json(result: dict[str, Any], output: Output, path: str, *, program: bool = False) -> None:
    """Write a result as JSON and close the file; a reader that has gone (`| head`) is not an error.

    Raises LaconicError for a full disk; after a `program`, whose exit status is returned, it is
    only reported.
    """
    import json

    try:
        with output as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    except BrokenPipeError:
        pass
    except OSError as error:
        why = f"--json {path!r} could not be written, {error.strerror}"
        if not program:
            raise LaconicError(f"{why}: name another file") from None
        tell(f"laconic: {why}\n")


def hold_standard_streams() -> None:
    """If Laconic was started with 0, 1 or 2 closed, keep Laconic's own files from getting these
    numbers.

    The descriptors that are opened here are closed again in the program.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stderr is None:
        # Permanently, because otherwise argparse uses standard output, which belongs to the
        # program.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def open_output(path: str | None, option: str = "--json") -> Output | None:
    """Return the file that `option` names, `-` being standard output; None for none. Raises
    LaconicError.

    Call this before the program starts: a run must not be lost to a wrong path.
    """
    if path is None:
        return None
    spare_traces(option, path)
    try:
        return Output(path)
    except OSError as error:
        raise LaconicError(
            f"{option} {path!r} cannot be written, {error.strerror}: name another file"
        ) from None


def check_outputs(outputs: Mapping[str, str | None], inputs: Iterable[str] = ()) -> None:
    """Raise LaconicError if two of `outputs` (paths by option) are one file, or one of them is an
    input (except for -o).

    One would overwrite the other. Several options may name `-`, and paths that are not files, such
    as /dev/null.
    """
    places: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None or path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
            continue
        other = places.setdefault(os.path.realpath(path), option)
        if other != option:
            raise LaconicError(f"{other} and {option} both name {path!r}: name two files")
    for path in inputs:
        option = places.get(os.path.realpath(path), "-o")
        if option != "-o":
            raise LaconicError(f"{option} {outputs[option]!r} is what is read: name another file")


def spare_traces(option: str, path: str) -> None:
    """Raise LaconicError if the file that `option` would overwrite is a trace, which was named by
    mistake."""
    try:
        if path != "-" and os.path.isfile(path):
            with open(path, "rb") as file:
                if file.read(4) == b"\xff\xff\xff\xff":
                    raise LaconicError(
                        f"{option} {path!r} is a trace, and stays as it is: name another file"
                    )
    except OSError:
        pass  # the error shows when it is written
