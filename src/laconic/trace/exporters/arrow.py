"""A trace as Arrow record batches: the columns of `laconic.trace.exporters.columns`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from laconic.trace.exporters.columns import COLUMNS, Analysis, Window, flat_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from laconic.trace import Trace
    from laconic.trace.selection import Selection


def schema() -> pa.Schema:
    """Return the schema of a trace's flat rows."""
    import pyarrow as pa

    return pa.schema([pa.field(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])


def record_batches(
    trace: Trace,
    window: Window,
    analysis: Analysis | None = None,
    selection: Selection | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the flat rows of a trace as record batches of up to some thousands of rows. O(rows),
    bounded memory."""
    import pyarrow as pa

    columns = schema()
    for rows in flat_rows(trace, window, analysis, selection):
        cells = zip(*rows, strict=True) if rows else [()] * len(columns)
        arrays = [pa.array(column, kind) for column, kind in zip(cells, columns.types, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=columns)
