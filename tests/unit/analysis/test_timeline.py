"""What a page keeps of a long trace: series that do not grow, and the areas of address spaces,
drawn more coarsely."""

from __future__ import annotations

import random

import pytest

from laconic.analysis.timeline.areas import Area, broader, fitted
from laconic.analysis.timeline.cells import Cells
from laconic.analysis.timeline.collect import pages_of
from laconic.analysis.timeline.series import Bins, Sampled, Scattered


class TestSeries:
    """Lists that do not grow."""

    def test_bins_double(self) -> None:
        bins = Bins(1, limit=4)
        for at in range(100):
            bins.count(at, at % 2, redundant=at % 4 == 0)
        assert bins.width == 32
        assert (sum(bins.calls), sum(bins.host_calls), sum(bins.redundant)) == (100, 50, 25)
        assert bins.calls == [32, 32, 32, 4]

    def test_cells_become_wider(self) -> None:
        """Bins and cells stay below their limits, as far as wider bins can help; no call is
        lost."""
        cells = Cells(1, bins=8, limit=20)
        for moment in range(1000):
            cells.at(moment % 2, moment % 3, moment).calls += 1
        assert cells.width == 512
        assert len(cells.tallies) == 12
        assert {number: tally.calls for number, tally in cells.by_site().items()} == {
            0: 334,
            1: 333,
            2: 333,
        }
        assert cells.last == max(cell.bin for cell in cells.tallies) == 1
        coarse = cells.widened(6)
        assert (len(coarse.tallies), coarse.last) == (6, 0)
        assert sum(tally.calls for tally in coarse.tallies.values()) == 1000
        assert len(cells.tallies) > 6

    def test_spread_cycles_follow_the_calls(self) -> None:
        bins = Bins(10)
        for at in (0, 1, 12, 25):
            bins.count(at, 1, redundant=False, cycles=5)
        bins.spread(0, 20, 30)
        assert bins.cycles == [30, 15, 5]

    def test_sampled_is_even(self) -> None:
        sampled: Sampled[int] = Sampled(10)
        for number in range(1000):
            sampled.see(number)
        assert sampled.kept == list(range(0, 1000, sampled.step))

    @pytest.mark.parametrize("period", [2, 3, 4, 5, 7, 8, 16, 25])
    def test_scattered_falls_in_step_with_no_loop(self, period: int) -> None:
        """Of a loop's parts each is taken about as often, however few are taken."""
        scattered: Scattered[int] = Scattered(2_000)
        for number in range(100_000):
            scattered.see(number % period)
        step, kept = scattered.fewer(1_000)
        assert 250 <= len(kept) <= 1_000
        assert len(kept) * step == pytest.approx(100_000, rel=0.1)
        counts = [kept.count(part) for part in range(period)]
        assert min(counts) > 0.5 * len(kept) / period

    def test_fewer_areas_are_the_state_at_every_nth_call(self) -> None:
        """At these calls nothing is changed, and between them nothing is missing."""
        areas = [
            Area(0, page, page + 1, prot, "", since, since + 3)
            for page in range(40)
            for since, prot in ((at, (at // 3 + page) % 8) for at in range(0, 600, 3))
        ]
        left, step, grain, left_out = fitted(areas, 1, 1, 6_000)
        assert (len(left) <= 6_000, step > 1, grain, left_out) == (True, True, 1, 0)
        for call in range(598):
            seen = call // step * step
            wanted = sorted(area[1:4] for area in areas if area.since <= seen < area.until)
            assert sorted(area[1:4] for area in left if area.since <= call < area.until) == wanted

    @pytest.mark.parametrize("grain", [1, 8])
    def test_broader_areas_keep_what_is_mapped(self, grain: int) -> None:
        """At any call the same pages are mapped, and the first of each `grain` without a gap are as
        they were."""
        rng = random.Random(grain)
        areas = []
        for process in (0, 1):
            for page in range(0, 300, 3):
                now = rng.randrange(3)
                while now < 20:
                    until = now + rng.randrange(1, 8)
                    if rng.random() < 0.8:
                        areas.append(
                            Area(
                                process,
                                page,
                                page + 3,
                                rng.randrange(2),
                                rng.choice("ab"),
                                now,
                                until,
                            )
                        )
                    now = until
        made = broader(areas, grain)
        assert len(made) < len(areas) or grain < 8
        for now in range(28):
            for process in (0, 1):
                before, after = pages_at(areas, process, now), pages_at(made, process, now)
                assert set(after) == set(before)
                for page, look in before.items():
                    first = max(
                        page - page % grain,
                        min(at for at in range(page, -1, -1) if inside(before, at, page)),
                    )
                    assert after[page] == before[first], (page, first, look)

    def test_neighbours_that_are_alike_are_joined_before_anything_is_lost(self) -> None:
        """Pages that were opened one by one, and are alike then, are one area; nothing is left
        out."""
        areas = [Area(0, page, page + 1, 3, "", page // 100, 60) for page in range(5_000)]
        left, step, grain, left_out = fitted(areas, 1, 1, 200)
        assert (len(left) <= 200, step, grain, left_out) == (True, 1, 1, 0)
        assert pages_at(left, 0, 59) == pages_at(areas, 0, 59)

    def test_a_grain_where_joining_is_not_enough(self) -> None:
        areas = [Area(0, page, page + 1, page % 2 * 3, "", 0, 10) for page in range(5_000)]
        areas = [
            *areas,
            *(Area(0, page, page + 1, page * 7 % 5, "", 10, 20) for page in range(5_000)),
        ]
        left, _, grain, left_out = fitted(areas, 1, 1, 1_000)
        assert (len(left) <= 1_000, grain > 1, left_out) == (True, True, 0)
        assert set(pages_at(left, 0, 15)) == set(range(5_000))

    def test_areas_of_one_moment_the_smallest_go(self) -> None:
        areas = [
            Area(0, 1000 * number, 1000 * number + number + 1, 3, "", 0, 1) for number in range(50)
        ]
        left, step, grain, left_out = fitted(areas, 1, 1, 20)
        assert (sorted(left), step, grain, left_out) == (areas[30:], 1, 1, 30)

    @pytest.mark.parametrize(
        ("call", "args", "result", "pages"),
        [
            ("mprotect", (8192, 1), 0, (2, 1)),
            ("mmap", (0, 4097), 1 << 20, (256, 2)),
            ("prctl", (1, 2, 4096, 8192), 0, (1, 2)),
            ("brk", (4096,), 0, (0, 0)),
            ("mprotect", ((1 << 64) - 4096, 8192), -12, (0, 0)),
        ],
    )
    def test_pages_of(
        self, call: str, args: tuple[int, ...], result: int, pages: tuple[int, int]
    ) -> None:
        assert pages_of(call, args, result) == pages


def pages_at(areas: list[Area], process: int, now: int) -> dict[int, tuple[int, str]]:
    """What each page of a process is at a call. No two areas may have the same page then."""
    found: dict[int, tuple[int, str]] = {}
    for area in areas:
        if area.process == process and area.since <= now < area.until:
            for page in range(area.start, area.end):
                assert page not in found
                found[page] = area.prot, area.name
    return found


def inside(pages: dict[int, tuple[int, str]], start: int, end: int) -> bool:
    """True where every page from `start` to `end`, both too, is mapped."""
    return all(page in pages for page in range(start, end + 1))
