"""PALs that record their calls, for strategies whose PAL calls are shown one by one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any, NamedTuple

from laconic.libos.gramine import Libos
from laconic.libos.strategy import Maker, Strategy
from laconic.memory.change import EXTEND, MAP, RESTRICT, UNMAP
from laconic.memory.flags import PROT_READ, PROT_WRITE
from laconic.memory.rangemap import Range, join_ranges
from laconic.sgx.meter import Meter
from laconic.sgx.pal.edmm import Edmm
from laconic.sgx.pal.gramine import LAZY, Gramine
from laconic.strategies.classify import Classify

SgxPal = Gramine | Edmm


class PalRecord(NamedTuple):
    """One PAL call for `[start, end)`, in bytes: `alloc`, `free` or `protect`.

    `old` and `new` are protections; `old` is None if the pages' protections differ. `kinds` are
    `ChangeKind` bits. `lazy`: no page is committed yet. `single`: one PAL call for each page.
    """

    pal: SgxPal
    name: str
    start: int
    end: int
    old: int | None
    new: int | None
    kinds: int
    lazy: bool = False
    single: bool = False


class RecordingMeter(Meter):
    """A meter with one sum of counts, and the PAL calls in order. Its owner clears `pal_calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.pal_calls: list[PalRecord] = []

    def at(self, process: int, call: Hashable) -> None:
        """Do nothing: all work is counted together."""


class RecordingGramine(Gramine):
    """Gramine's PAL; its meter is a `RecordingMeter`."""

    __slots__ = ()

    def alloc(
        self, start: int, end: int, prot: int, lazy: bool = False, by_page: bool = False
    ) -> None:
        """Record the call, and execute it."""
        self._record("alloc", start, end, None, prot, MAP, lazy=lazy, single=by_page)
        super().alloc(start, end, prot, lazy, by_page)

    def free(self, start: int, end: int) -> None:
        """Record the call, and execute it."""
        self._record("free", start, end, self._old(start, end)[0], None, UNMAP)
        super().free(start, end)

    def protect(self, start: int, end: int, prot: int, single: bool = False) -> None:
        """Record the call, and execute it."""
        old, kinds = self._old(start, end, prot | PROT_READ if prot & PROT_WRITE else prot)
        self._record("protect", start, end, old, prot, kinds, single=single)
        super().protect(start, end, prot, single)

    def _old(self, start: int, end: int, new: int = 0) -> tuple[int | None, int]:
        # Return the permissions of the committed pages, if they are equal, and the kinds of change
        # that Protect makes.
        found = {had for _, _, had in self.pages.runs(start, end) if had is not None and had < LAZY}
        kinds = 0
        for had in found:
            kinds |= _kinds(had or 0, new)
        return (found.pop() if len(found) == 1 else None), kinds

    def _record(
        self,
        name: str,
        start: int,
        end: int,
        old: int | None,
        new: int | None,
        kinds: int,
        lazy: bool = False,
        single: bool = False,
    ) -> None:
        assert isinstance(self.meter, RecordingMeter)
        record = PalRecord(self, name, start, end, old, new, kinds, lazy, single)
        self.meter.pal_calls.append(record)


class RecordingEdmm(Edmm):
    """Laconic's PAL; its meter is a `RecordingMeter`. Each run of committed pages is one record,
    because this PAL is not called for pages that do not change."""

    __slots__ = ()

    def commit(
        self, start: int, end: int, prot: int, contents: bool = False, source: int | None = None
    ) -> None:
        """Record the call, and execute it."""
        self._record("alloc", start, end, None, prot, MAP)
        super().commit(start, end, prot, contents, source)

    def protect(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Record the runs that change, and execute the call."""
        changes = list(changes)
        for start, end, had, prot in self.differing(changes):
            self._record("protect", start, end, had, prot, _kinds(had, prot))
        super().protect(changes)

    def trim(self, ranges: Iterable[Range]) -> None:
        """Record the committed runs, and execute the call."""
        ranges = list(ranges)
        runs = join_ranges(
            (run_start, run_end)
            for start, end in ranges
            for run_start, run_end, _ in self.committed.parts(start, end)
        )
        for start, end in runs:
            found = {had for _, _, had in self.committed.runs(start, end)}
            old = found.pop() if len(found) == 1 else None
            self._record("free", start, end, old, None, UNMAP)
        super().trim(ranges)

    def _record(
        self, name: str, start: int, end: int, old: int | None, new: int | None, kinds: int
    ) -> None:
        assert isinstance(self.meter, RecordingMeter)
        self.meter.pal_calls.append(PalRecord(self, name, start, end, old, new, kinds))


def recording(rule: type[Strategy], **options: Any) -> Maker:
    """Return a maker of the strategy with a PAL that records, or of the unchanged strategy if it
    uses neither PAL. The meters must be `RecordingMeter`s; `options` are arguments of the class."""
    if issubclass(rule, Libos):
        return partial(rule, pal_type=RecordingGramine, **options)
    if issubclass(rule, Classify):
        return partial(rule, pal_type=RecordingEdmm, **options)
    return partial(rule, **options)


def records_pal_calls(rule: type[Strategy]) -> bool:
    """Return whether `recording` can record the PAL calls of a strategy."""
    return issubclass(rule, (Libos, Classify))


def _kinds(old: int, new: int) -> int:
    kinds = EXTEND if new & ~old else 0
    return kinds | RESTRICT if old & ~new else kinds
