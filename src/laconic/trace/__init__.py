"""Traces: the file of recorded calls, the importers of other tools' logs, the exporters.

import laconic.trace
with laconic.trace.open("a.trace") as trace:
    for record in trace: ...
"""

from __future__ import annotations

from collections.abc import Iterator

from laconic.trace import records
from laconic.trace.reader import Trace as _Trace


class Trace(_Trace):
    """A trace, as typed records (`laconic.trace.records`), in order."""

    def __iter__(self) -> Iterator[records.Record]:
        return records.records(self.rows(), self.names)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open(path: str) -> Trace:
    """The trace at `path`. Raises `laconic.errors.LaconicError` where it is none."""
    return Trace(path)
