"""Parquet, which DuckDB, Polars, pandas and Spark read: the columns of
`laconic.trace.exporters.columns`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

from laconic.trace.exporters.arrow import record_batches, schema

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.exporters import Exported, ExportPart

#: Rows per row group: enough for fast queries, and few enough to limit memory.
ROW_GROUP = 1 << 17


def write(trace: Trace, output: BinaryIO, part: ExportPart) -> Exported:
    """Write one Parquet file (zstd). Its metadata describes the trace, and what is missing in
    it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from laconic.trace.exporters import Exported

    columns = schema()
    written = Exported()
    batches: list[Any] = []
    with pq.ParquetWriter(output, columns, compression="zstd", write_statistics=True) as writer:
        for batch in record_batches(trace, part.window, part.analysis, part.selection):
            batches.append(batch)
            written.rows += batch.num_rows
            if sum(batch.num_rows for batch in batches) >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(batches, columns))
                batches.clear()
            part.update(trace.position)
        if batches:
            writer.write_table(pa.Table.from_batches(batches, columns))
        writer.add_key_value_metadata(_about(trace))
    return written


def _about(trace: Trace) -> dict[str, str]:
    return {
        "laconic": trace.version,
        "source": trace.source,
        "machine": json.dumps(trace.machine),
        "about": json.dumps(trace.about),
        "loss": trace.loss or "",
    }
