"""The importer of strace logs, as versions 4 to 7 write them with any of their options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from laconic.trace.importers.importing import UNKNOWN, Import, refuse
from laconic.trace.importers.strace.lines import LogStyle, style_of
from laconic.trace.importers.strace.reading import StraceReading
from laconic.trace.importers.strace.session import Session
from laconic.trace.importers.strace.sets import keys_of, read_set
from laconic.trace.importers.text import HEAD, Log
from laconic.trace.reader import Progress
from laconic.trace.writer import TraceWriter

_CURE = "A log is made with  strace -f -tt -e trace=%memory,%process,%file,%desc -o LOG CMD"


def inspect(logs: Sequence[Log]) -> dict[str, Any]:
    """Return a description of the logs from their heads. Raises LaconicError for a log that strace
    did not write."""
    style, _ = _style(logs)
    return {
        "log": ", ".join(log.name for log in logs[:10])
        + (f" and {len(logs) - 10} more" if len(logs) > 10 else ""),
        "strace_options_seen": _options(style, logs),
        "unknown": list(UNKNOWN),
        "clock": style.clock,
    }


def import_log(
    logs: Sequence[Log], writer: TraceWriter, report: Import, progress: Progress | None
) -> None:
    """Append the rows of all logs: of one log, of several consecutive logs, or of a `-ff` set."""
    session = Session(writer, report)
    report_progress = progress and (lambda _: progress(sum(log.consumed for log in logs)))
    keys = keys_of(logs)
    if keys:
        read_set(session, logs, keys, report_progress)
    else:
        for log in logs:
            StraceReading(session, log, style_of(log.head)[0]).run(report_progress)
    for log in logs:
        if log.loss is not None:
            session.lost(0, log.loss, (0, 0, 0))
            report.note(log.loss)
    session.finish()


def _style(logs: Sequence[Log]) -> tuple[LogStyle, int]:
    best, count = LogStyle(), 0
    for log in logs:
        style, found = style_of(log.head)
        if log.head and not found:
            raise refuse(log, "strace", _CURE)
        if found > count:
            best, count = style, found
    return best, count


def _options(style: LogStyle, logs: Sequence[Log]) -> list[str]:
    # The options of strace that the logs' heads reveal.
    head = b"\n".join(log.head[:HEAD] for log in logs[:10])
    found = {"bracket": ["-f"], "bare": ["-f", "-o"]}.get(style.pid, [])
    if keys_of(logs):
        found = ["-ff", "-o"]
    if style.time == "relative":
        found.append("-r")
    elif style.time == "clock":
        found.append("-ttt" if style.whole > 8 else "-tt" if style.fraction else "-t")
    return found + [option for option, shape in _SHAPES if shape.search(head)]


_SHAPES = (
    ("-T", re.compile(rb"\) += [^\n]* <\d+\.\d+>$", re.MULTILINE)),
    ("-y", re.compile(rb"[( ]\d+</")),
    ("-yy", re.compile(rb"[( ]\d+<(?:TCP|UDP|UNIX|NETLINK)|<(?:char|block) \d+:\d+>>")),
    ("-Y", re.compile(rb"^(?:\[pid +)?\d+<[^>\n/]+>", re.MULTILINE)),
    ("-k", re.compile(rb"^ +> ", re.MULTILINE)),
    ("-X raw", re.compile(rb"mmap\([^,\n]+, \w+, 0x[0-9a-f]+, 0x[0-9a-f]+, ")),
    ("-X verbose", re.compile(rb"0x[0-9a-f]+ /\* (?:PROT|MAP)_")),
    ("-n", re.compile(rb"^[^(\n]*\[ *\d+\] (?:\[\w+\] )?[a-z_]\w*\(", re.MULTILINE)),
    ("-i", re.compile(rb"^[^(\n]*\[[0-9a-f]{8,16}\] [a-z_]\w*\(", re.MULTILINE)),
    ("-N", re.compile(rb"mmap\(addr=")),
)
