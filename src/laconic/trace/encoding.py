"""Conversion between rows and Arrow record batches.

Numbers are converted by `array`, which takes a fifth of the time of pyarrow's own conversion of
Python objects. Times are stored as differences from the previous row, and touched runs as pages
relative to the row's a0; both compress well.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, repeat
from operator import sub
from typing import TYPE_CHECKING, Any

from laconic.linux.pagemap import Touched
from laconic.memory.change import new
from laconic.memory.flags import PAGE_SHIFT
from laconic.trace.schema import NUMBERS, SCHEMA, Row

if TYPE_CHECKING:
    import pyarrow as pa

#: The latest time of a row, in nanoseconds since the trace began.
LATEST = (1 << 63) - 1
#: The maximum number of touched runs that are decoded at once.
RUNS = 1 << 17
#: The fields of `Row` → the names of their columns, of numbers.
_COLUMNS = {number.name: number.column for number in NUMBERS}
_RUN = (("start", "q", "int64"), ("pages", "Q", "uint64"), ("how", "B", "uint8"))


def arrow_schema(metadata: dict[str, str], version: int = SCHEMA) -> pa.Schema:
    """Return the Arrow schema of a file of schema `version`, with the description of the recording
    and its checksum as metadata."""
    import pyarrow as pa

    runs = pa.struct(
        [pa.field(name, getattr(pa, kind)(), nullable=False) for name, _, kind in _RUN]
    )
    types: dict[str, Any] = {
        number.name: getattr(pa, number.arrow)() for number in NUMBERS if number.since <= version
    }
    types["data"] = pa.binary()
    types["touched"] = pa.list_(pa.field("item", runs, nullable=False))
    fields = [
        pa.field(_COLUMNS.get(name, name), types[name], nullable=False)
        for name in Row._fields
        if name in types
    ]
    return pa.schema(fields, metadata=metadata | {"crc32": head_checksum(metadata)})


def encode(schema: pa.Schema, rows: Sequence[Row], time: int) -> tuple[pa.RecordBatch, int]:
    """Return one record batch of `rows` (at least one), and the time of its last row; `time` is
    that of the row before them. O(rows).

    Times never decrease: a row with an earlier time than the previous row gets that row's time.
    """
    import pyarrow as pa

    columns = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
    times = tuple(islice(accumulate(columns["time"], max, initial=time), 1, None))
    columns["time"] = tuple(map(sub, times, (time, *times[:-1])))
    arrays: dict[str, Any] = {
        number.column: _numbers(number.code, number.arrow, columns[number.name])
        for number in NUMBERS
    }
    data = columns["data"]
    arrays["data"] = pa.BinaryArray.from_buffers(
        pa.binary(), len(rows), [None, _offsets(map(len, data)), pa.py_buffer(b"".join(data))]
    )
    touched = columns["touched"]
    runs = [
        (start - (base & -4096) >> PAGE_SHIFT, end - start >> PAGE_SHIFT, how)
        for base, of_row in zip(columns["a0"], touched, strict=True)
        if of_row
        for start, end, how in of_row
    ]
    parts = list(zip(*runs, strict=True)) or [(), (), ()]
    struct = pa.StructArray.from_arrays(
        [_numbers(code, kind, part) for (_, code, kind), part in zip(_RUN, parts, strict=True)],
        fields=list(schema.field("touched").type.value_type),
    )
    offsets = pa.Array.from_buffers(pa.int32(), len(rows) + 1, [None, _offsets(map(len, touched))])
    arrays["touched"] = pa.ListArray.from_arrays(offsets, struct, type=schema.field("touched").type)
    return pa.RecordBatch.from_arrays(
        [arrays[name] for name in schema.names], schema=schema
    ), times[-1]


class Times:
    """The times of the rows decoded so far, in nanoseconds since the trace began.

    `written` is the last row's time in the file, `shown` the latest time given to a row. They
    differ only in traces that older releases imported from a log whose clock was set back.
    """

    __slots__ = ("shown", "written")

    def __init__(self) -> None:
        self.written = self.shown = 0

    def take(self, steps: array[int]) -> list[int]:
        """Return the times of the next rows, from the differences in the file. O(rows).

        No time is earlier than the one before it, and none is later than `LATEST`.
        """
        written = list(islice(accumulate(steps, initial=self.written), 1, None))
        if not written:
            return written
        shown = written
        if self.written != self.shown or min(steps) < 0:
            shown = list(islice(accumulate(written, max, initial=self.shown), 1, None))
        if shown[-1] > LATEST:
            shown = [min(time, LATEST) for time in shown]
        self.written, self.shown = written[-1], shown[-1]
        return shown


def most_runs(batch: pa.RecordBatch) -> int:
    """Return an upper bound of the touched runs of one row.

    It is exact if the batch has more than `RUNS`, and O(rows) then; otherwise it is the total of
    the batch.
    """
    touched = batch.column("touched")
    if len(touched.values) <= RUNS:
        return len(touched.values)
    offsets = _values("i", touched.offsets)
    lengths: Iterable[int] = map(sub, offsets[1:], offsets)
    return max(lengths)


def portions(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch in pieces of at most `RUNS` touched runs, or of one row. O(rows).

    A decoded run takes ten times its bytes in the file.
    """
    touched = batch.column("touched")
    count = batch.num_rows
    if len(touched.values) <= RUNS:
        if count:
            yield batch
        return
    offsets = _values("i", touched.offsets)
    start = 0
    while start < count:
        end = max(bisect_right(offsets, offsets[start] + RUNS) - 1, start + 1)
        end = min(end, count)
        yield batch.slice(start, end - start)
        start = end


def decode(batch: pa.RecordBatch, times: Times) -> list[Row]:
    """Return the rows of a batch; `times` contains those of the rows before. O(rows).

    A column that an older file's schema lacks has its default in every row.
    """
    count = batch.num_rows
    columns: dict[str, Any] = {
        name: repeat(default, count) for name, default in Row._field_defaults.items()
    }
    numbers = {
        number.name: _values(number.code, batch.column(number.column))
        for number in NUMBERS
        if number.column in batch.schema.names
    }
    for name, values in numbers.items():
        # In most batches, most columns contain a single value, which need not be created again for
        # each row.
        is_uniform = values and values.tobytes() == values[:1].tobytes() * count
        columns[name] = repeat(values[0], count) if is_uniform else values
    columns["time"] = times.take(numbers["time"])
    data, touched = batch.column("data"), batch.column("touched")
    if data.get_total_buffer_size() > 4 * (count + 1):
        columns["data"] = data.to_pylist()
    if len(touched.values):
        columns["touched"] = _touched(touched, numbers["a0"])
    in_order = [columns[name] for name in Row._fields]
    # Equivalent to `map(Row._make, ...)`, in a third of its time.
    return list(map(new, repeat(Row), zip(*in_order, strict=True)))


def checksum(batch: pa.RecordBatch) -> int:
    """Return the CRC-32 of a batch's contents, regardless of its compression. O(bytes)."""
    crc = 0
    for column in batch.columns:
        for buffer in column.buffers():
            if buffer is not None:
                crc = zlib.crc32(buffer, crc)
    return crc


def head_checksum(metadata: Mapping[str, str]) -> str:
    """Return the CRC-32 of a trace's description, as stored in its `crc32`."""
    items = sorted(item for item in metadata.items() if item[0] != "crc32")
    return str(zlib.crc32(repr(items).encode("utf-8", "surrogateescape")))


def _numbers(code: str, kind: str, values: Iterable[int]) -> pa.Array:
    import pyarrow as pa

    packed = array(code, values)
    return pa.Array.from_buffers(getattr(pa, kind)(), len(packed), [None, pa.py_buffer(packed)])


def _offsets(lengths: Iterable[int]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(array("i", accumulate(lengths, initial=0)))


def _values(code: str, column: pa.Array) -> array[int]:
    values = array(code)
    buffer = column.buffers()[1]
    if buffer is not None and len(column):
        size = values.itemsize
        values.frombytes(
            memoryview(buffer)[column.offset * size : (column.offset + len(column)) * size]
        )
    return values


def _touched(column: pa.ListArray, bases: Iterable[int]) -> list[tuple[Touched, ...]]:
    offsets = _values("i", column.offsets)
    counts = list(map(sub, offsets[1:], offsets))
    # `flatten` would import pyarrow.compute, which takes longer than all of this.
    of_batch = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    first_pages, pages, hows = (
        _values(code, of_batch.field(at)) for at, (_, code, _) in enumerate(_RUN)
    )
    of_runs = chain.from_iterable(map(repeat, bases, counts))
    starts = [
        (base & -4096) + (first_page << PAGE_SHIFT)
        for base, first_page in zip(of_runs, first_pages, strict=True)
    ]
    ends = [start + (length << PAGE_SHIFT) for start, length in zip(starts, pages, strict=True)]
    runs = zip(starts, ends, hows, strict=True)
    return [tuple(islice(runs, count)) if count else () for count in counts]
