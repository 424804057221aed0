"""Results as tables: Arrow for other libraries, HTML for notebooks.

A result that is a table inherits from `Table`. pyarrow, Polars, pandas, DuckDB and others take it
directly, through Arrow's PyCapsule interface, and share its memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laconic.memory.html import html_table
from laconic.trace.charts import Chart, mime_bundle

if TYPE_CHECKING:
    import pyarrow as pa

TableRow = tuple[Any, ...]


class Table(ABC):
    """A result with typed columns. `to_arrow()` copies it into Arrow once. Converting that table
    further (`polars.from_arrow`, `to_pandas`) needs no copy if the library permits it."""

    __slots__ = ()

    @abstractmethod
    def table_columns(self) -> Mapping[str, str]:
        """Return the names of the columns, and the Arrow type of each."""

    @abstractmethod
    def table_rows(self) -> Iterable[TableRow]:
        """Return the rows, in the order of the columns."""

    def shown_columns(self) -> Sequence[str]:
        """Return the columns that a notebook shows; by default, all."""
        return list(self.table_columns())

    def chart(self) -> Chart | None:
        """Return the chart that a notebook shows, or None."""
        return None

    def to_arrow(self) -> pa.Table:
        """Return the result as an Arrow table. O(cells)."""
        return arrow_table(self.table_columns(), self.table_rows())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Pass the table to another library (Arrow's PyCapsule interface)."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        """Return a table, for notebooks."""
        shown = self.shown_columns()
        names = list(self.table_columns())
        places = [names.index(name) for name in shown]
        rows = list(self.table_rows())
        cells = ([row[place] for place in places] for row in rows)
        return html_table([name.replace("_", " ") for name in shown], cells, len(rows))

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> Mapping[str, Any]:
        """Return the table with its chart, and the chart as Vega-Lite, for notebooks."""
        return mime_bundle(self._repr_html_(), self.chart(), include, exclude)


def arrow_table(columns: Mapping[str, str], rows: Iterable[TableRow]) -> pa.Table:
    """Return rows as an Arrow table with these columns and types. O(cells)."""
    import pyarrow as pa

    schema = pa.schema([pa.field(name, getattr(pa, kind)()) for name, kind in columns.items()])
    by_column: list[list[Any]] = [[] for _ in columns]
    for row in rows:
        for cells, cell in zip(by_column, row, strict=True):
            cells.append(cell)
    arrays = [pa.array(cells, field.type) for cells, field in zip(by_column, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
