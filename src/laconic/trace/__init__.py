"""Traces: the file of recorded calls, the importers of other tools' logs, the exporters.

from laconic import open_trace
with open_trace("a.trace") as trace:
    for record in trace: ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from laconic.trace import records
from laconic.trace.reader import Trace as _Trace

if TYPE_CHECKING:
    import pyarrow as pa


class Trace(_Trace):
    """A trace that was recorded or imported: iterate over it for typed records
    (`laconic.trace.records`), in order.

    `path` and `size` (bytes) are the file's. `source` is how the trace was made: `run`, `strace`,
    `gramine` or `perf`. `machine` and `about` describe the recording. `loss` is, after the trace
    was read to its end, what is missing at its end, in words, or None.

    `to_arrow()` returns one row per call, as `laconic export --to parquet --raw` writes it. Polars,
    pandas, DuckDB and pyarrow also take the trace itself, batch by batch, through Arrow's PyCapsule
    interface.
    """

    def __iter__(self) -> Iterator[records.Record]:
        return records.records(self.rows(), self.names)

    def __repr__(self) -> str:
        return f"<Trace {self.path!r}, source={self.source}, {self.size:,} bytes>"

    def to_arrow(self) -> pa.Table:
        """Return the trace as an Arrow table. O(rows), and all of it is in memory."""
        return self.record_batches().read_all()

    def record_batches(self) -> pa.RecordBatchReader:
        """Return a reader of the same rows, some thousands at a time. O(rows), bounded memory."""
        import pyarrow as pa

        from laconic.trace.exporters.arrow import record_batches, schema
        from laconic.trace.exporters.columns import Window

        return pa.RecordBatchReader.from_batches(schema(), record_batches(self, Window()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows to another library (Arrow's PyCapsule interface)."""
        return self.record_batches().__arrow_c_stream__(requested_schema)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open(path: str) -> Trace:
    """The trace at `path`. Raises `laconic.errors.LaconicError` where it is none."""
    return Trace(path)
