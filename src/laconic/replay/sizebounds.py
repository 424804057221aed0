"""Bounds of counts that depend on the unknown sizes of files, from a replay's enclaves under
several assumed sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields

from laconic.libos.sizes import ASSUMPTIONS, OBSERVED
from laconic.linux.pagemap import Touched
from laconic.memory.change import Change
from laconic.memory.vma import File
from laconic.replay.enclaves import TOUCH, Enclaves, FileTouch
from laconic.replay.events import CallDone, Listener, Program
from laconic.replay.selected import drop_unselected
from laconic.replay.thread import Mm
from laconic.sgx.meter import Counts, Meter
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES, FILE_SIZES, Row
from laconic.trace.selection import Selection

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


class SizedEnclaves:
    """The enclaves of a trace under each assumption on the sizes of files.

    `make` makes enclaves under one assumption; `assumed` are all of them. `least` and `most` have
    the bounds of their counts, by label, after each event of a replay with `listeners`. If sizes
    are known, all three are the same.
    """

    def __init__(self, trace: TraceReader, make: Callable[[int], Enclaves]) -> None:
        self.assumed = [make(size) for size in assumed_sizes(trace)]
        self.listeners: list[Listener] = [*self.assumed]
        self.least = self.most = self.assumed[0]
        self._bounds: SizeBounds | None = None
        if not self.knows_sizes:
            self._bounds = SizeBounds(self.assumed, every_call=True)
            self.listeners.append(self._bounds)
            self.least, self.most = self._bounds.least, self._bounds.most
            self.least.touched_pages = self.assumed[0].touched_pages

    @property
    def knows_sizes(self) -> bool:
        """Whether the sizes of all mapped files are known."""
        return len(self.assumed) == 1

    def finish(self, selection: Selection | None, programs: Sequence[Program]) -> None:
        """Complete the counts after the replay, which has started `programs`. With a selection, the
        work for other calls is dropped (`drop_unselected`). O(labels)."""
        if self._bounds is not None:
            self._bounds.finish()
        if selection is not None:
            for enclaves in dict.fromkeys((*self.assumed, self.least, self.most)):
                drop_unselected(enclaves, selection, programs)


class SizeBounds(Listener):
    """Bounds the counts of `assumed`: enclaves under different assumed sizes of files. They are
    listeners of the same replay, and come before this one.

    The sizes of two files are independent of each other, and so are two parts of a mapping: one may
    be before, and the other past the end of the file. So the minimum and maximum of each count are
    taken after every call that concerns a file, and summed: into the `tables` of the meters of
    `least` and `most`. After `finish`, they are complete, and those of `assumed` have the counts
    under each assumption. `every_call`: they are also taken after all other calls and after
    touches, so that the listeners that follow see what each adds to `least` and `most`.
    """

    def __init__(
        self,
        assumed: Sequence[Enclaves],
        meter_type: type[Meter] = Meter,
        every_call: bool = False,
    ) -> None:
        self.assumed = assumed
        self._every_call = every_call
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
        """Take the bounds after a call. O(strategies × labels)."""
        if self._every_call or any(_concerns_file(change) for change in done.changes):
            self._take()

    def touched(self, mm: Mm, runs: Iterable[Touched]) -> None:
        """Take the bounds after touches."""
        if self._every_call:
            self._take()

    def call_committed(self, row: Row, mm: Mm, name: str, changes: tuple[Change, ...]) -> None:
        """Take the bounds after the work that a call does before its end."""
        if self._every_call:
            self._take()

    def host_read(self, mm: Mm, changes: tuple[Change, ...], grew: bool) -> None:
        """Take the bounds after the growth of a stack, or changes by an unknown call."""
        if self._every_call:
            self._take()

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
        for bound, choice in ((self.least, min), (self.most, max)):
            for name, meter in bound.meters.items():
                meter.peak_epc_pages = choice(
                    enclaves.meters[name].peak_epc_pages
                    for enclaves in self.assumed
                    if name in enclaves.meters
                )
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


def _concerns_file(change: Change) -> bool:
    held, wanted = change.held, change.wanted
    return (held is not None and held.file is not None) or (
        wanted is not None and wanted.file is not None
    )
