"""Where messages and figures go: standard error and files, either of which may be closed or full."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from laconic.errors import LaconicError


def tell(text: str) -> None:
    """Writes to standard error, as `harmless`; where that is gone or full, the program's exit status still counts."""
    try:
        write_all(2, harmless(text))
    except OSError:
        pass


def harmless(text: str) -> str:
    r"""Text for a terminal, with escapes in the place of control characters: names in a trace come from anywhere. O(n).

    >>> harmless("a\x1b[2J\n")
    'a\\x1b[2J\n'
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    from laconic.report.names import seen

    return "\n".join(map(seen, text.split("\n")))


def write_all(fd: int, text: str) -> None:
    """Writes all of a text to a descriptor. Raises OSError."""
    left = text.encode("utf-8", "surrogateescape")
    while left:
        left = left[os.write(fd, left) :]


def width(fd: int) -> int:
    """Columns for a table: the terminal's behind `fd`, from 60 to 100; 80 where there is none."""
    try:
        return max(min(os.get_terminal_size(fd).columns, 100), 60)
    except OSError:
        return 80


def write_json(result: dict[str, Any], output: TextIO, path: str, *, program: bool = False) -> None:
    """Writes a result as JSON and closes the file; a reader that has gone (`| head`) is no error.

    Raises LaconicError for a full disk; after a `program`, whose exit status counts, it is told alone.
    """
    import json

    try:
        with output:
            json.dump(result, output, indent=2)
            output.write("\n")
    except BrokenPipeError:
        pass
    except OSError as error:
        why = f"--json {path!r} could not be written, {error.strerror}"
        if not program:
            raise LaconicError(f"{why}: name another file") from None
        tell(f"laconic: {why}\n")


def hold_standard_streams() -> None:
    """Where Laconic was started with 0, 1 or 2 closed, lets no file of its own take that number.

    What is opened here is closed again in the program, as it was.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stderr is None:
        # For good: else argparse turns to standard output, which is the program's.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def add_json(parser: argparse.ArgumentParser, what: str = "all of it", metavar: str = "FILE") -> None:
    """Declares `--json`, whose file `open_output` opens."""
    parser.add_argument("--json", metavar=metavar, help=f"write {what} to {metavar} as JSON; - is standard output")


def open_output(path: str | None) -> TextIO | None:
    """The file that `--json` names, `-` being standard output; None for none. Raises LaconicError.

    Opened before the program starts: a run must not be lost to a wrong path.
    """
    if path is None:
        return None
    if path == "-":
        return os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
    spare_traces("--json", path)
    try:
        return open(path, "w", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise LaconicError(f"--json {path!r} cannot be written, {error.strerror}: name another file") from None


def check_outputs(outputs: Mapping[str, str | None], inputs: Iterable[str] = ()) -> None:
    """Raises LaconicError where two of `outputs` (paths by option) are one file, or one is what is read (but for -o).

    One would write over the other. `-` and what is no file, as /dev/null, may be named by all.
    """
    places: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None or path == "-" or os.path.exists(path) and not os.path.isfile(path):
            continue
        other = places.setdefault(os.path.realpath(path), option)
        if other != option:
            raise LaconicError(f"{other} and {option} both name {path!r}: name two files")
    for path in inputs:
        option = places.get(os.path.realpath(path), "-o")
        if option != "-o":
            raise LaconicError(f"{option} {outputs[option]!r} is what is read: name another file")


def spare_traces(option: str, path: str) -> None:
    """Raises LaconicError where the file that `option` would overwrite is a trace, as a slip of the hand makes it."""
    try:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                if file.read(4) == b"\xff\xff\xff\xff":
                    raise LaconicError(f"{option} {path!r} is a trace, and stays as it is: name another file")
    except OSError:
        pass  # what it is shows when it is written
