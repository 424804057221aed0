"""Code shared by the importers of logs: the report of an import, the list of importers, and the end
of a trace.

An importer is a module with two functions:

`inspect(logs)` reads the logs' heads and returns a description of them (the trace's `about`: `log`,
`unknown`, `clock`, ...). It raises LaconicError (see `refuse`) if they are not logs of its kind.

`import_log(logs, writer, report, progress)` appends the rows of all logs to the writer, and counts
them in the report.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from laconic.errors import LaconicError
from laconic.trace.importers.text import Log
from laconic.trace.nextsteps import next_steps
from laconic.trace.reader import Progress, looks_like
from laconic.trace.schema import BATCH, CODES, FILE_SIZES, Row
from laconic.trace.words import plural
from laconic.trace.writer import TraceWriter, remove

#: Kind of log → the module that reads it.
IMPORTERS = {
    "strace": "laconic.trace.importers.strace",
    "gramine": "laconic.trace.importers.gramine",
    "perf": "laconic.trace.importers.perf",
}
#: The number of unrecognized lines that are shown, and the characters shown of each.
SHOWN, SHOWN_WIDTH = 10, 200
#: Information that no log of system calls contains.
UNKNOWN = ("touched pages", "initial maps", FILE_SIZES)


class Puzzle(NamedTuple):
    """An unrecognized line: its log, its number (from 1), and its text (truncated, undecodable
    bytes escaped)."""

    log: str
    line: int
    text: str


@dataclass
class Import:
    """The report of an import: what was read, and what is missing.

    `calls` counts the memory and process calls that were written, by name. `notes` are messages for
    the user. `time` is the time of the last row, in nanoseconds since the first line. `texts` are
    the first of the `unknown_texts` lines that the tracer did not write: output of the program, or
    pieces of lines.
    """

    lines: int = 0
    not_understood: int = 0
    puzzles: list[Puzzle] = field(default_factory=list)
    unknown_texts: int = 0
    texts: list[Puzzle] = field(default_factory=list)
    unknown: list[str] = field(default_factory=lambda: list(UNKNOWN))
    by_call: dict[str, int] = field(default_factory=dict)
    processes: int = 0
    threads: int = 0
    time: int = 0
    notes: list[str] = field(default_factory=list)

    def puzzle(self, log: Log, number: int, line: bytes) -> None:
        """Count an unrecognized line, and keep it if it is among the first ten."""
        self.not_understood += 1
        if len(self.puzzles) < SHOWN:
            self.puzzles.append(_puzzle(log, number, line))

    def unknown_text(self, log: Log, number: int, line: bytes) -> None:
        """Count a line that the tracer did not write, and keep it if it is among the first ten."""
        self.unknown_texts += 1
        if len(self.texts) < SHOWN:
            self.texts.append(_puzzle(log, number, line))

    def note(self, text: str) -> bool:
        """Add a message, unless it is there already. Returns True if it is new."""
        new = text not in self.notes
        if new:
            self.notes.append(text)
        return new

    def doubt(self, what: str) -> None:
        """Add to the information that is unknown, unless it is there already."""
        if what not in self.unknown:
            self.unknown.append(what)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values; the `end` row contains it too."""
        return {
            "lines": self.lines,
            "not_understood": self.not_understood,
            "puzzles": [puzzle._asdict() for puzzle in self.puzzles],
            "unknown_texts": self.unknown_texts,
            "texts": [text._asdict() for text in self.texts],
            "by_call": dict(sorted(self.by_call.items(), key=lambda item: (-item[1], item[0]))),
            "processes": self.processes,
            "threads": self.threads,
            "unknown": list(self.unknown),
            "notes": list(self.notes),
        }

    def as_text(self, output: str) -> str:
        """Return the report as text, followed by the next commands."""
        calls = sorted(self.by_call.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count:,} {name}" for name, count in calls[:8])
        more = f" and {plural(len(calls) - 8, 'more kind')}" if len(calls) > 8 else ""
        lines = [
            f"{plural(self.lines, 'line')}: "
            f"{plural(sum(self.by_call.values()), 'memory and process call')} of "
            f"{plural(self.processes, 'process', 'processes')}, {plural(self.threads, 'thread')}"
        ]
        if calls:
            lines.append(f"calls: {shown}{more}")
        lines += _listed("not understood", self.not_understood, self.puzzles)
        what = "not recognized (output of the program, or pieces of lines)"
        lines += _listed(what, self.unknown_texts, self.texts)
        if self.unknown:
            lines.append(f"not in the log, and so not known: {'; '.join(self.unknown)}")
        lines += [f"note: {sentence}" for sentence in self.notes]
        if output != "-":
            lines.append(next_steps(output))
        return "\n".join(lines) + "\n"


def _puzzle(log: Log, number: int, line: bytes) -> Puzzle:
    text = line[: 4 * SHOWN_WIDTH].decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return Puzzle(log.name, number, shown[:SHOWN_WIDTH])


def _listed(what: str, count: int, puzzles: Sequence[Puzzle]) -> list[str]:
    if not count:
        return []
    lines = [f"{what}: {plural(count, 'line')}"]
    lines += [f"  {puzzle.log}:{puzzle.line}: {puzzle.text}" for puzzle in puzzles]
    if count > len(puzzles):
        lines.append(f"  and {count - len(puzzles):,} more")
    return lines


class Importer(Protocol):
    """The module of one kind of log."""

    def inspect(self, logs: Sequence[Log]) -> dict[str, Any]:
        """Return a description of the logs from their heads. Raises LaconicError if they are not
        logs of this kind."""

    def import_log(
        self, logs: Sequence[Log], writer: TraceWriter, report: Import, progress: Progress | None
    ) -> None:
        """Append all rows."""


#: `Importer.import_log`.
ImportLog = Callable[[Sequence[Log], TraceWriter, Import, Progress | None], None]


def importer(kind: str) -> Importer:
    """Return the importer of a kind of log, one of `IMPORTERS`."""
    return cast(Importer, importlib.import_module(IMPORTERS[kind]))


def import_logs(
    kind: str,
    paths: list[str],
    output: str,
    *,
    force: bool = False,
    redact: bool = False,
    root: str | None = None,
    progress: Progress | None = None,
) -> Import:
    """Import logs of a kind as a new trace; return the report.

    `root` is the directory that contains the files that the program used, under the paths in the
    log. Raises LaconicError if a log cannot be read or is not of this kind (nothing is written
    then), or if the trace cannot be written (the rows written so far stay readable).
    """
    from laconic.trace.importers.text import open_logs

    module = importer(kind)
    import_log: ImportLog = module.import_log
    if root is not None:
        import_log = _rooted(kind, import_log, root)
    logs = open_logs(paths)
    _spare(paths, output)
    about = module.inspect(logs)
    if redact:
        about.pop("log", None)
    report = Import(unknown=list(about.get("unknown", UNKNOWN)))
    writer = TraceWriter(output, kind, about, force=force, redact=redact)
    # Rows are tuples of numbers, and never part of a reference cycle: scanning them for cycles
    # takes a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        import_log(logs, writer, report, progress)
        end = json.dumps(redacted_report(report) if redact else report.as_json()).encode()
        writer.rows.append(Row(CODES["end"], report.time, 0, 0, data=end))
    finally:
        if collecting:
            gc.enable()
        writer.close()
    check(writer)
    return report


def _rooted(kind: str, import_log: ImportLog, root: str) -> ImportLog:
    # Only a Gramine log shows which files are mapped at a program's start.
    if kind != "gramine":
        raise LaconicError(f"--root {root!r} is for logs of gramine; leave it out for {kind}")
    from laconic.trace.sysroot import Sysroot

    return partial(cast(Any, import_log), root=Sysroot(root))


def _spare(paths: Sequence[str], output: str) -> None:
    # A trace must not overwrite the log that it is imported from.
    for path in paths:
        with suppress(OSError):
            if path != "-" and os.path.samefile(path, output):
                raise LaconicError(f"-o {output!r} is a log that is to be read: name another file")


def redacted_report(report: Import) -> dict[str, Any]:
    """Return the report like `Import.as_json`, without text from the log."""
    about = report.as_json()
    for puzzle in (*about["puzzles"], *about["texts"]):
        puzzle.update(text="", log="")
    return about


def note(
    writer: TraceWriter, report: Import, text: str, now: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """Add a message to the trace and to the report, unless it is there already; `now` is the row's
    time, pid and tid."""
    if report.note(text):
        writer.rows.append(Row(CODES["note"], *now, data=text.encode()))


def lost(writer: TraceWriter, count: int, text: str, now: tuple[int, int, int] = (0, 0, 0)) -> None:
    """Append a row that reports `count` missing lines or calls; 0 if the number is unknown."""
    writer.rows.append(Row(CODES["lost"], *now, a0=count, data=text.encode()))


def flush(writer: TraceWriter) -> None:
    """Write the rows if there are enough for a batch. Raises LaconicError if the disk cannot take
    them."""
    if len(writer.rows) >= BATCH:
        writer.flush()
        check(writer)


def check(writer: TraceWriter) -> None:
    """Raise LaconicError if the trace could not be written; a file without any event is removed."""
    if writer.failure is None:
        return
    problem = f"-o {writer.path!r} could not be written, {writer.failure.strerror}"
    if writer.written:
        raise LaconicError(
            f"{problem}; it contains the first {writer.written:,} events. Free some space and "
            "import again with --force"
        )
    with suppress(OSError):
        remove(writer.path)
    raise LaconicError(f"{problem}, and was removed. Free some space, or name a file elsewhere")


def refuse(log: Log, kind: str, cure: str) -> LaconicError:
    """Return the error for a file that is not a log of this kind, which describes what the file
    looks like. `cure` describes how to make such a log."""
    what = looks_like(log.head)
    first = log.head.split(b"\n", 1)[0].strip()
    if what == "text" and first:
        shown = first[:80].decode("utf-8", "backslashreplace")
        what = f"other text, whose first line is {shown!r}"
    return LaconicError(f"{log.path!r} is not a log of {kind}: it looks like {what}. {cure}")


__all__ = [
    "BATCH",
    "IMPORTERS",
    "Import",
    "Importer",
    "Puzzle",
    "check",
    "flush",
    "import_logs",
    "importer",
    "lost",
    "note",
    "redacted_report",
    "refuse",
]
