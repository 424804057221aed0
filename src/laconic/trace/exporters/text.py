"""CSV and JSON Lines: the columns of `laconic.trace.exporters.columns`, one row per line."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, BinaryIO

from laconic.trace.exporters.columns import COLUMNS, Flat, flat_rows

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.exporters import Exported, ExportPart


def write(trace: Trace, output: BinaryIO, part: ExportPart) -> Exported:
    """Write a header and rows (CSV), or one object per line without its nulls (JSON Lines)."""
    from laconic.trace.exporters import Exported

    lines = _csv if part.format == "csv" else _jsonl
    if part.format == "csv":
        output.write((",".join(COLUMNS) + "\n").encode())
    written = Exported()
    for rows in flat_rows(trace, part.window, part.analysis, part.selection):
        output.write(lines(rows))
        written.rows += len(rows)
        part.update(trace.position)
    return written


def _csv(rows: list[Flat]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _jsonl(rows: list[Flat]) -> bytes:
    names = tuple(COLUMNS)
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    objects = (
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in rows
    )
    return "".join(encode(fields) + "\n" for fields in objects).encode()
