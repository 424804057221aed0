"""Bounds of counts that depend on the unknown sizes of files, from a replay's enclaves under
several assumed sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields

from laconic.libos.sizes import ASSUMPTIONS, OBSERVED
from laconic.memory.vma import File
from laconic.replay.enclaves import TOUCH, Enclaves, FileTouch
from laconic.replay.events import CallDone, Listener
from laconic.replay.thread import Mm
from laconic.sgx.meter import Counts, Meter
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES, FILE_SIZES

#: Counts by process and label, as in `Meter.tables`.
CountTables = dict[tuple[int, Hashable], Counts]
Choice = Callable[[Iterable[int]], int]


def assumed_sizes(trace: TraceReader) -> tuple[int, ...]:
    """Return the assumptions on files of unknown size under which a trace is replayed, or OBSERVED
    alone if sizes are known.

    Of the logs, only Gramine's can have sizes. The last row of the trace states whether
    `import --root DIR` found all files. O(events) for such a log.
    """
    if trace.source == "run":
        return (OBSERVED,)
    if trace.source == "gramine":
        unknown: Sequence[str] = (FILE_SIZES,)  # if the last row is missing
        for batch in trace.batches():
            if batch[-1].event == CODES["end"]:
                unknown = json.loads(batch[-1].data or b"{}").get("unknown", ())
        if FILE_SIZES not in unknown:
            return (OBSERVED,)
    return ASSUMPTIONS


class SizeBounds(Listener):
    """Bounds the counts of `assumed`: enclaves under different assumed sizes of files. They are
    listeners of the same replay, and come before this one.

    The sizes of two files are independent of each other, and so are two parts of a mapping: one may
    be before, and the other past the end of the file. So the minimum and maximum of each count are
    taken after every call that concerns a file, and summed. After `finish`, `least` and `most` have
    these sums in the `tables` of their meters; those of `assumed` have the counts under each
    assumption.
    """

    def __init__(self, assumed: Sequence[Enclaves], meter_type: type[Meter] = Meter) -> None:
        self.assumed = assumed
        self.least = Enclaves({}, meter_type=meter_type)
        self.most = Enclaves({}, meter_type=meter_type)
        names = dict.fromkeys(name for enclaves in assumed for name in enclaves.meters)
        for bound in (self.least, self.most):
            bound.meters = {name: meter_type() for name in names}
        self._type = meter_type.counts_type
        self._fields = tuple(field.name for field in fields(self._type))
        self._sums: list[dict[str, CountTables]] = [
            {name: {} for name in enclaves.meters} for enclaves in assumed
        ]

    def call_done(self, done: CallDone) -> None:
        """Take the bounds after a call that concerns a file. O(strategies × labels)."""
        for change in done.changes:
            held, wanted = change.held, change.wanted
            if (held is not None and held.file) or (wanted is not None and wanted.file):
                self._take()
                return

    def started(self, mm: Mm) -> None:
        """Take the bounds after a program was loaded."""
        self._take()

    def forked(self, parent: Mm, child: Mm) -> None:
        """Take the bounds after a fork."""
        self._take()

    def vforked(self, mm: Mm, pid: int) -> None:
        """Take the bounds after a vfork, which is a fork under some strategies."""
        self._take()

    def file_written(self, mm: Mm, file: File, size: int, truncated: bool) -> None:
        """Take the bounds after a write to a file, or its truncation."""
        self._take()

    def ended(self, mm: Mm) -> None:
        """Take the bounds after the end of an address space."""
        self._take()

    def finish(self) -> None:
        """Take the last bounds, after the replay has ended, and publish all."""
        self._take()
        for enclaves, sums in zip(self.assumed, self._sums, strict=True):
            for name, tables in sums.items():
                enclaves.meters[name].tables = tables

    def _take(self) -> None:
        taken = [enclaves.take_tables() for enclaves in self.assumed]
        for tables, sums in zip(taken, self._sums, strict=True):
            for name, found in tables.items():
                for key, counts in found.items():
                    self._add(sums[name], key, counts)
        for name, meter in self.least.meters.items():
            self._bound([tables[name] for tables in taken if name in tables], name, meter)

    def _bound(
        self, found: Sequence[Mapping[tuple[int, Hashable], Counts]], name: str, least: Meter
    ) -> None:
        most = self.most.meters[name]
        nothing = self._type()
        for key in dict.fromkeys(key for tables in found for key in tables):
            counts = [tables.get(key, nothing) for tables in found]
            if all(each == counts[0] for each in counts[1:]):
                low = high = counts[0]
            else:
                low, high = self._choose(counts, min), self._choose(counts, max)
            self._add(least.tables, key, low)
            self._add(most.tables, key, high)

    def _choose(self, counts: Sequence[Counts], choice: Choice) -> Counts:
        return self._type(
            **{name: choice(getattr(each, name) for each in counts) for name in self._fields}
        )

    def _add(self, tables: CountTables, key: tuple[int, Hashable], counts: Counts) -> None:
        process, label = key
        if isinstance(label, FileTouch):
            key = process, TOUCH
        total = tables.get(key)
        if total is None:
            total = tables[key] = self._type()
        for name in self._fields:
            setattr(total, name, getattr(total, name) + getattr(counts, name))
