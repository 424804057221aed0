"""The cost of the calls of each site in each short span of time, so that any window can be
summed."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, fields
from typing import NamedTuple


@dataclass(slots=True)
class CellTally:
    """The sums of some calls of one site.

    `pages` are those that the calls name, and `touched` those of the pages that they mapped which
    were touched later. Cycles are those of the calls in an enclave, at the low and the high end of
    the cost profile: `today` under every-call, `laconic` under laconic. `redundant_pages` and
    `redundant_cycles` (the middle of the range, under every-call) are of the redundant calls.
    """

    calls: int = 0
    redundant: int = 0
    host_calls: int = 0
    failed: int = 0
    pages: int = 0
    touched: int = 0
    today_low: float = 0
    today_high: float = 0
    laconic_low: float = 0
    laconic_high: float = 0
    redundant_pages: int = 0
    redundant_cycles: float = 0

    def add(self, other: CellTally) -> None:
        """Add another tally's numbers to these."""
        for name in TALLIED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def rounded(self) -> list[int]:
        """Return the numbers in the order of `TALLIED`."""
        return [round(number) for number in astuple(self)]


#: The names of the tallied quantities.
TALLIED = tuple(each.name for each in fields(CellTally))


class Cell(NamedTuple):
    """The calls that are tallied together: those of one program in one process, from one site, in
    one bin of time."""

    process: int
    site: int
    bin: int


@dataclass(slots=True)
class Cells:
    """Tallies by process, site and bin.

    Bins are `width` wide (nanoseconds, or calls if a trace has no times). If there would be more
    than `bins` of them, or more than `limit` cells, they become twice as wide. `last` is the last
    bin.
    """

    width: int
    bins: int = 512
    limit: int = 6_000
    tallies: dict[Cell, CellTally] = field(default_factory=dict)
    last: int = 0

    def at(self, process: int, site: int, moment: int) -> CellTally:
        """Return the tally for an event at `moment` (0 or more). O(1) amortized."""
        while moment // self.width >= self.bins:
            self._widen()
        key = Cell(process, site, moment // self.width)
        tally = self.tallies.get(key)
        if tally is None:
            # If there is only one bin, widening it does not help.
            while len(self.tallies) >= self.limit and self.last > 0:
                self._widen()
            key = Cell(process, site, moment // self.width)
            self.last = max(self.last, key.bin)
            tally = self.tallies.setdefault(key, CellTally())
        return tally

    def widened(self, limit: int) -> Cells:
        """Return the same tallies in at most `limit` cells, if wider bins can achieve that.
        O(cells)."""
        copy = Cells(self.width, self.bins, limit)
        copy.tallies = dict(self.tallies)
        copy.last = self.last
        while len(copy.tallies) > limit and copy.last > 0:
            copy._widen()
        return copy

    def by_site(self) -> dict[int, CellTally]:
        """Return the sums of each site. O(cells)."""
        sums: dict[int, CellTally] = {}
        for cell, tally in self.tallies.items():
            sums.setdefault(cell.site, CellTally()).add(tally)
        return sums

    def _widen(self) -> None:
        self.width *= 2
        self.last //= 2
        wider: dict[Cell, CellTally] = {}
        for cell, tally in self.tallies.items():
            key = cell._replace(bin=cell.bin // 2)
            if key in wider:
                wider[key].add(tally)
            else:
                wider[key] = CellTally(*astuple(tally))
        self.tallies = wider
