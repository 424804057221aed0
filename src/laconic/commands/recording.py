"""A program instead of a trace: `FILE | -- CMD`; and a program that is run again only for its
trace.

`laconic.commands.program.recorded` makes the first run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from laconic.commands.program import place_for

#: The maximum number of lines of the program's standard error that are kept, and of characters of
#: each.
LINES, COLUMNS = 3, 200


@contextmanager
def rerun(command: Sequence[str], env: Mapping[str, str]) -> Iterator[tuple[int, str, list[str]]]:
    """Run `command` with `env` added, without input and with its output discarded, in a separate
    process, because one process can trace one program. Return its exit status, its trace, which is
    removed afterwards, and the last lines of its standard error. There is no file if the program
    could not be run.

    Raises LaconicError if no file for the trace can be created.
    """
    with place_for(None) as trace, tempfile.TemporaryFile() as errors:
        words = [sys.executable, "-m", "laconic", "run", "--quiet", "--stacks", "none"]
        words += ["-o", trace, "--", *command]
        done = subprocess.run(
            words,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        )
        errors.seek(max(errors.seek(0, os.SEEK_END) - 100 * COLUMNS, 0))
        lines = errors.read().decode("utf-8", "replace").splitlines()
        last_lines = [
            "".join(char if char.isprintable() else "?" for char in line[:COLUMNS])
            for line in lines[-LINES:]
        ]
        yield 128 - done.returncode if done.returncode < 0 else done.returncode, trace, last_lines
