"""Address spaces over time: rectangles of pages × memory calls, with a permission and a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from laconic.memory.flags import (
    PAGE_SHIFT,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_PFNMAP,
    VM_PROT,
)
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma

ANONYMOUS = "anonymous"
#: The minimum number of moments whose state a picture shows.
MOMENTS = 100
#: The coarsest grain, in pages.
_WIDEST = 1 << 24


class Area(NamedTuple):
    """Pages `[start, end)` of one process, which had the same state from the call `since` until the
    call `until`.

    The numbers are those of pages, and of memory calls over all processes, from 0. `prot` has the
    bits of PROT_*. `site` is the number of the site that mapped the pages, -1 for pages mapped
    before the first call. `tenths` is the share of the pages that were touched by then, in tenths
    (rounded down, but 1 if any page was touched), -1 if the trace does not record it.
    """

    process: int
    start: int
    end: int
    prot: int
    name: str
    since: int
    until: int
    site: int = -1
    tenths: int = -1

    def look(self) -> tuple[int, int, int, int, str, int, int]:
        """Everything except the time: consecutive areas with equal looks are one."""
        return (
            self.process,
            self.start,
            self.end,
            self.prot,
            self.name,
            self.site,
            self.tenths,
        )


#: The protection, the name, the site, and the call since which this is the state.
_State = tuple[int, str, int, int]
#: Returns the number of touched pages in a range of bytes (process, start, end); None if it is
#: unknown.
CountTouched = Callable[[int, int, int], int | None]
#: Returns who mapped the pages of a range: runs of (start, end, site), -1 for none.
FindSites = Callable[[int, int], Iterable[tuple[int, int, int]]]


class Areas:
    """Collects the areas of all processes.

    If more than `limit` areas have ended, `step` doubles: the picture then is the state at every
    `step`th call. If that is not enough, `grain` doubles, as in `broader`; then the smallest areas
    are dropped: `left_out` counts them.
    """

    def __init__(self, touched: CountTouched, limit: int = 60_000) -> None:
        self.touched = touched
        self.limit = limit
        self.step = self.grain = 1
        self.left_out = 0
        self.ended: list[Area] = []
        self._living: dict[int, RangeMap[_State]] = {}

    def sync(
        self,
        process: int,
        space: AddressSpace | None,
        owners: FindSites,
        start: int,
        end: int,
        now: int,
    ) -> None:
        """Adopt the state of `[start, end)` (bytes) at the call `now`. O(log n + runs)."""
        living = self._living.get(process)
        if living is None:
            living = self._living[process] = RangeMap()
        wanted = [] if space is None else _looks(space, owners, start, end)
        for look_start, look_end, look in wanted or [(start, end, None)]:
            for run_start, run_end, state in list(living.runs(look_start, look_end)):
                if look is None:
                    if state is not None:
                        self._end(process, run_start, run_end, state, now)
                        living.clear(run_start, run_end)
                elif state is None:
                    living.set(run_start, run_end, (*look, now))
                elif state[:3] != look:
                    self._end(process, run_start, run_end, state, now)
                    living.set(run_start, run_end, (*look, now))

    def sync_all(
        self, process: int, space: AddressSpace | None, owners: FindSites, now: int
    ) -> None:
        """Adopt the state of a whole address space. O(n)."""
        self.sync(process, space, owners, 0, TASK_SIZE, now)

    def end(self, process: int, now: int) -> None:
        """End the areas of an address space that is gone. O(n)."""
        for start, end, state in self._living.pop(process, ()):
            self._end(process, start, end, state, now)

    def end_all(self, now: int) -> None:
        """End all areas at the end of the trace. O(n)."""
        for process in list(self._living):
            self.end(process, now)

    def _end(self, process: int, start: int, end: int, state: _State, now: int) -> None:
        prot, name, site, since = state
        first_page, end_page = start >> PAGE_SHIFT, end >> PAGE_SHIFT
        pages = self.touched(process, start, end)
        tenths = -1 if pages is None else _tenths(pages, end_page - first_page)
        area = Area(process, first_page, end_page, prot, name, since, now, site, tenths)
        if self.step > 1:
            self.ended += coarser([area], self.step)
        else:
            self.ended.append(area)
        if len(self.ended) > self.limit:
            self.ended, self.step, self.grain, more = fitted(
                self.ended, self.step, self.grain, self.limit // 2
            )
            self.left_out += more


def coarser(areas: Iterable[Area], step: int) -> list[Area]:
    """Return the areas as they are at every `step`th call, each of which represents the calls up to
    the next. O(n log n)."""
    found: list[Area] = []
    cut = (
        area._replace(
            since=-(-area.since // step) * step,
            until=-(-area.until // step) * step,
        )
        for area in areas
    )
    for area in sorted(area for area in cut if area.since < area.until):
        if found and found[-1].look() == area.look() and found[-1].until == area.since:
            found[-1] = found[-1]._replace(until=area.until)
        else:
            found.append(area)
    return found


def broader(areas: Iterable[Area], grain: int) -> list[Area]:
    """Return the areas with the edges between them at multiples of `grain` pages.

    In pages that are mapped without a gap, each block of `grain` shows the state of its first page.
    Which pages are mapped, and when, stays exact. O(moments × areas of one moment).
    """
    found: list[Area] = []
    by_process: dict[int, list[Area]] = {}
    for area in areas:
        by_process.setdefault(area.process, []).append(area)
    for process, own in by_process.items():
        starting: dict[int, list[Area]] = {}
        for area in own:
            starting.setdefault(area.since, []).append(area)
        alive: list[Area] = []
        since: dict[_ShownArea, int] = {}
        for now in sorted({moment for area in own for moment in (area.since, area.until)}):
            alive = sorted([area for area in alive if area.until > now] + starting.get(now, []))
            shown = {cell: since.pop(cell, now) for cell in _cells(alive, grain)}
            # Areas that are no longer shown have ended.
            found += (
                Area(process, start, end, prot, name, area_since, now, site, tenths)
                for (start, end, prot, name, site, tenths), area_since in since.items()
            )
            since = shown
    return found


#: Start, end, protection, name, site, tenths.
_ShownArea = tuple[int, int, int, str, int, int]


def _cells(alive: list[Area], grain: int) -> list[_ShownArea]:
    # Return the areas of one moment, by their start; equal neighbors are joined. They are processed
    # from the highest to the lowest, because an edge that is moved up ends where the pages that are
    # mapped without a gap do.
    found: list[_ShownArea] = []
    mapped_end = above_start = -1
    for number in range(len(alive) - 1, -1, -1):
        area = alive[number]
        if area.end != above_start:
            mapped_end = area.end
        above_start = area.start
        start = area.start
        if number and alive[number - 1].end == area.start:
            start = _rounded_up(area.start, grain)
        start = min(start, mapped_end)
        end = min(_rounded_up(area.end, grain), mapped_end)
        if start == end:
            continue
        shown = (area.prot, area.name, area.site, area.tenths)
        if found and found[-1][0] == end and found[-1][2:] == shown:
            end = found.pop()[1]
        found.append((start, end, *shown))
    return found


def _rounded_up(page: int, grain: int) -> int:
    return -(-page // grain) * grain


def fitted(
    areas: list[Area], step: int, grain: int, limit: int
) -> tuple[list[Area], int, int, int]:
    """Return at most `limit` of the areas, as they are at every `step`th call and every `grain`th
    page, with the final step and grain, and the number of the smallest areas that were left out
    because that was not enough. O(n log n), and if a grain is needed as `broader`."""
    longest = max((area.until for area in areas), default=0)
    while len(areas) > limit and step * MOMENTS < longest:
        step *= 2
        areas = coarser(areas, step)
    if len(areas) > limit:
        # This loses nothing: equal neighbors are joined.
        areas = min(areas, broader(areas, grain), key=len)
    while len(areas) > limit:
        tried = 2 * grain
        # Find a grain at which at most `limit` areas have a page that is shown.
        while (
            tried < _WIDEST
            and sum(min(area.end - area.start, tried) for area in areas) > limit * tried
        ):
            tried *= 2
        coarse = broader(areas, tried)
        if len(coarse) > 0.9 * len(areas):
            break  # a grain does not join mappings with gaps in between
        areas, grain = coarse, tried
    left_out = max(len(areas) - limit, 0)
    if left_out:
        areas = sorted(
            areas, key=lambda area: (-(area.end - area.start) * (area.until - area.since), area)
        )[:limit]
    return areas, step, grain, left_out


#: A range of bytes, and its protection, name and site; None where nothing is mapped.
_Look = tuple[int, int, tuple[int, str, int] | None]


def _looks(space: AddressSpace, owners: FindSites, start: int, end: int) -> list[_Look]:
    looks: list[_Look] = []
    for vma_start, vma_end, vma in space.vmas.runs(start, end):
        if vma is None:
            looks.append((vma_start, vma_end, None))
            continue
        prot, name = vma.flags & VM_PROT, _name(space, vma_start, vma_end, vma)
        looks += (
            (run_start, run_end, (prot, name, site))
            for run_start, run_end, site in owners(vma_start, vma_end)
        )
    return looks


def _tenths(touched: int, pages: int) -> int:
    if not touched:
        return 0
    return max(10 * touched // pages, 1)


def _name(space: AddressSpace, start: int, end: int, vma: Vma) -> str:
    # A label for people; `laconic maps` prints the kernel's labels.
    if vma.file is not None:
        return vma.file.path
    flags = vma.flags
    if flags & VM_PFNMAP:
        return "[vvar]"
    if flags & VM_DONTEXPAND and flags & VM_EXEC:
        return "[vdso]"
    if start < space.brk and space.start_brk < end:
        return "[heap]"
    if flags & VM_GROWSDOWN:
        return "[stack]"
    return ANONYMOUS if vma.name is None else f"[anon:{vma.name}]"
