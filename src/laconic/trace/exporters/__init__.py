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
#: Formats whose output can be limited to a size.
LIMITED: Final = frozenset({"perfetto"})


@dataclass(frozen=True)
class ExportPart:
    """The part of a trace to write: a format, a window of time, and at most `limit` bytes.

    `update` receives the number of bytes read. Only calls in `selection` are written. `analysis`
    contains facts about the calls that only a replay provides; None omits them.
    """

    format: str
    window: Window
    limit: int | None = None
    update: Callable[[int], None] = lambda position: None
    analysis: Analysis | None = None
    selection: Selection | None = None


@dataclass
class Exported:
    """The result of an export: the number of rows (for strace: lines), and messages about
    omissions."""

    rows: int = 0
    notes: list[str] = field(default_factory=list)


class Exporter(Protocol):
    """The module of one format."""

    def write(self, trace: Trace, output: BinaryIO, part: ExportPart) -> Exported:
        """Write the trace. Raises OSError if the output cannot be written."""


def export(trace: Trace, output: BinaryIO, part: ExportPart) -> Exported:
    """Write `part` of a trace to `output`, which stays open. Raises OSError if it cannot be
    written. O(events)."""
    return cast(Exporter, importlib.import_module(FORMATS[part.format])).write(trace, output, part)


__all__ = ["FORMATS", "LIMITED", "Analysis", "Exporter", "Part", "Window", "Written", "export"]
