"""Exporters: a trace in the formats of other tools.

An exporter is a module with one function, `write(trace, output, part)`, which writes the whole of
`trace` to a binary file and returns what it wrote. It reads the trace once, in bounded memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from laconic.trace.exporters.columns import Analysis, Window

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.selection import Selection

#: Format → the module that writes it.
FORMATS: Final = {
    "parquet": "laconic.trace.exporters.parquet",
    "csv": "laconic.trace.exporters.text",
    "jsonl": "laconic.trace.exporters.text",
    "perfetto": "laconic.trace.exporters.perfetto",
    "strace": "laconic.trace.exporters.strace",
}
#: Formats that can be cut at a size.
LIMITED: Final = frozenset({"perfetto"})


@dataclass(frozen=True)
class Part:
    """What of a trace is written: a format, a window of time, at most `limit` bytes. `update`
    receives the bytes read. Of the calls, only those of `selection` are written. `analysis` has
    what only a replay can tell of the calls; None leaves it out."""

    format: str
    window: Window
    limit: int | None = None
    update: Callable[[int], None] = lambda position: None
    analysis: Analysis | None = None
    selection: Selection | None = None


@dataclass
class Written:
    """What was written: rows (of strace: lines), and sentences on what could not be."""

    rows: int = 0
    notes: list[str] = field(default_factory=list)


class Exporter(Protocol):
    """The module of one format."""

    def write(self, trace: Trace, output: BinaryIO, part: Part) -> Written:
        """Writes the trace. Raises OSError where the output takes no more."""


def export(trace: Trace, output: BinaryIO, part: Part) -> Written:
    """Writes `part` of a trace to `output`, which stays open. Raises OSError where that takes no
    more. O(events)."""
    return cast(Exporter, importlib.import_module(FORMATS[part.format])).write(trace, output, part)


__all__ = ["FORMATS", "LIMITED", "Analysis", "Exporter", "Part", "Window", "Written", "export"]
