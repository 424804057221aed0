"""The decompressed size of a record batch, read from the head of its Arrow message.

A batch is compressed, and some kilobytes can decompress to gigabytes. The head of the message (a
flatbuffer, described by Arrow's format/Message.fbs) contains the number of rows and the position of
each buffer; a compressed buffer starts with its decompressed size.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

_CONTINUATION = b"\xff\xff\xff\xff"
#: The maximum size of a message's head, in bytes. In a trace, it is below 2,000.
_LARGEST_HEAD = 1 << 16
_RECORD_BATCH = 3
#: Field numbers of the flatbuffer tables Message and RecordBatch in format/Message.fbs.
_HEADER_TYPE, _HEADER = 1, 2
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3


class BatchSize(NamedTuple):
    """A batch's rows, and the decompressed bytes of its buffers."""

    rows: int
    unpacked: int


def batch_size(file: BinaryIO) -> BatchSize | None:
    """Return the size of the record batch at the file's position, which does not change.
    O(buffers).

    Returns None for any other message, and at the end of the stream. Raises ValueError for an
    invalid head.
    """
    at = file.tell()
    try:
        return _batch_size(file)
    except (struct.error, IndexError, OverflowError):
        raise ValueError("the head of its message makes no sense") from None
    finally:
        file.seek(at)


def _batch_size(file: BinaryIO) -> BatchSize | None:
    mark, length = struct.unpack("<4si", file.read(8).ljust(8, b"\0"))
    if mark != _CONTINUATION or not length:
        return None
    if not 0 < length <= _LARGEST_HEAD:
        raise ValueError(f"the head of its message has {length:,} bytes")
    head = file.read(length)
    body = file.tell()
    message = _table(head, 0)
    kind = _field(head, message, _HEADER_TYPE)
    if kind is None or head[kind] != _RECORD_BATCH:
        return None
    batch = _table(head, _at(head, message, _HEADER))
    rows = _field(head, batch, _LENGTH)
    compressed = _field(head, batch, _COMPRESSION) is not None
    buffers = _at(head, batch, _BUFFERS)
    start = buffers + _number("<I", head, buffers)
    unpacked = 0
    for place in range(_number("<I", head, start)):
        offset, size = struct.unpack_from("<qq", head, start + 4 + 16 * place)
        if size and compressed:
            file.seek(body + offset)
            (size_unpacked,) = struct.unpack("<q", file.read(8))
            if size_unpacked != -1:  # the buffer is not compressed
                size = size_unpacked
        if size < 0:
            raise ValueError("a buffer of it has a negative size")
        unpacked += size
    return BatchSize(0 if rows is None else _number("<q", head, rows), unpacked)


def _number(form: str, head: bytes, at: int) -> int:
    (value,) = struct.unpack_from(form, head, at)
    return int(value)


def _table(head: bytes, at: int) -> int:
    # The position of the table whose offset is at `at`.
    return at + _number("<I", head, at)


def _field(head: bytes, table: int, number: int) -> int | None:
    # The position of a field of a table; None if the field has its default.
    entries = table - _number("<i", head, table)
    place = 4 + 2 * number
    if place >= _number("<H", head, entries):
        return None
    offset = _number("<H", head, entries + place)
    return table + offset if offset else None


def _at(head: bytes, table: int, number: int) -> int:
    place = _field(head, table, number)
    if place is None:
        raise ValueError("the head of its message lacks a field")
    return place
