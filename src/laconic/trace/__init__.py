"""Traces: the file of recorded calls, the importers of other tools' logs, and the exporters.

from laconic import open_trace
with open_trace("a.trace") as trace:
    for record in trace: ...
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from laconic.memory.html import html_table
from laconic.trace import records
from laconic.trace.reader import TraceReader
from laconic.trace.schema import BYSTANDERS, MEMORY_CODES

if TYPE_CHECKING:
    import pyarrow as pa


#: The maximum number of events that a notebook reads to show a trace.
_SHOWN = 1_000_000


class Trace(TraceReader):
    """A recorded or imported trace. Iterating over it yields typed records
    (`laconic.trace.records`), in order.

    `path` and `size` (bytes) are the file's. `source` is how the trace was made: `run`, `strace`,
    `gramine` or `perf`. `machine` and `about` describe the recording. After the trace was read to
    its end, `loss` states as text what is missing there, or is None.

    `to_arrow()` returns one row per call, as `laconic export --to parquet --raw` writes it. Polars,
    pandas, DuckDB and pyarrow also take the trace itself, batch by batch, through Arrow's PyCapsule
    interface.
    """

    def __iter__(self) -> Iterator[records.Record]:
        return records.records(self.rows(), self.names)

    def __repr__(self) -> str:
        return f"<Trace {self.path!r}, source={self.source}, {self.size:,} bytes>"

    def to_arrow(self) -> pa.Table:
        """Return the trace as an Arrow table. O(rows) time and memory."""
        return self.record_batches().read_all()

    def record_batches(self) -> pa.RecordBatchReader:
        """Return a reader of the same rows, in batches of some thousands. O(rows), bounded
        memory."""
        import pyarrow as pa

        from laconic.trace.exporters.arrow import record_batches, schema
        from laconic.trace.exporters.columns import Window

        return pa.RecordBatchReader.from_batches(schema(), record_batches(self, Window()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Pass the rows to another library (Arrow's PyCapsule interface)."""
        return self.record_batches().__arrow_c_stream__(requested_schema)

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> Mapping[str, Any]:
        """Return the memory calls by name, as a table and a chart, for notebooks. O(events).

        Only the first million events are read.
        """
        from laconic.trace.charts import Bar, Chart, calls_chart, mime_bundle

        calls, host_calls, failed = Counter[str](), Counter[str](), Counter[str]()
        events = 0
        for rows in self.batches():
            for row in rows:
                if row.event < MEMORY_CODES and self.names[row.event] not in BYSTANDERS:
                    name = self.names[row.event]
                    calls[name] += 1
                    host_calls[name] += row.host_calls
                    failed[name] += row.result < 0
            events += len(rows)
            if events >= _SHOWN:
                break
        title = f"Memory calls of {os.path.basename(self.path)}"
        if events >= _SHOWN:
            title += f", in the first {events:,} events"
        names = sorted(calls)
        if self.source == "run":
            columns: tuple[str, ...] = ("call", "calls", "host calls", "elided", "failed")
            cells: list[tuple[object, ...]] = [
                (name, calls[name], host_calls[name], calls[name] - host_calls[name], failed[name])
                for name in names
            ]
            counts = [(name, host_calls[name], calls[name] - host_calls[name]) for name in names]
            chart = calls_chart(counts, title)
        else:  # a log does not show which calls a host call carried out
            columns = ("call", "calls", "failed")
            cells = [(name, calls[name], failed[name]) for name in names]
            bars = [Bar(name, "calls", 0, calls[name], f"{calls[name]:,}") for name in names]
            chart = Chart(title, "calls", bars)
        return mime_bundle(html_table(columns, cells, len(cells)), chart, include, exclude)

    def _repr_html_(self) -> str:
        """Return the memory calls by name, for notebooks. O(events)."""
        return str(self._repr_mimebundle_()["text/html"])

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open(path: str) -> Trace:
    """Return the trace at `path`. Raises `laconic.errors.LaconicError` if it is not a trace."""
    return Trace(path)
