"""RangeMap in pictures, and against a dictionary of single pages."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from laconic.memory.rangemap import TOP, RangeMap, join_ranges
from tests.helpers.pictures import ORIGIN, PAGE, at, draw, read

LETTERS = {letter: letter for letter in "ABCabc"}


def made(
    picture: str, load: int = 2, same: Callable[[str, str], bool] | None = None
) -> RangeMap[str]:
    ranges: RangeMap[str] = RangeMap(same, load)
    for start, end, value in read(picture, LETTERS):
        ranges.set(start, end, value)
    ranges.check()
    return ranges


def drawn(ranges: RangeMap[str], pages: int) -> str:
    ranges.check()
    return draw(ranges, pages, LETTERS)


@pytest.mark.parametrize(
    ("before", "start", "end", "value", "after", "entries"),
    [
        ("........", 2, 4, "A", "..AA....", 1),
        ("AAAAAAAA", 2, 4, "B", "AABBAAAA", 3),
        ("AABBAAAA", 2, 4, "A", "AAAAAAAA", 1),
        ("AAAA....", 4, 6, "A", "AAAAAA..", 1),
        ("....AAAA", 2, 4, "A", "..AAAAAA", 1),
        ("AA....AA", 2, 6, "A", "AAAAAAAA", 1),
        ("AABBCCAA", 1, 7, "B", "ABBBBBBA", 3),
        ("AABBCC..", 0, 6, "C", "CCCCCC..", 1),
        ("AAAAAAAA", 2, 4, None, "AA..AAAA", 2),
        ("ABABABAB", 2, 6, None, "AB....AB", 4),
        ("AABBAABB", 2, 4, "A", "AAAAAABB", 2),
        ("AABBAABB", 4, 6, "B", "AABBBBBB", 2),
    ],
)
@pytest.mark.parametrize("load", [1, 2, 3, 512])
def test_set(
    load: int, before: str, start: int, end: int, value: str | None, after: str, entries: int
) -> None:
    ranges = made(before, load)
    ranges.set(at(start), at(end), value)
    assert drawn(ranges, len(before)) == after
    assert len(ranges) == entries


def test_clear() -> None:
    ranges = made("AABBCCAA")
    ranges.clear(at(1), at(7))
    assert drawn(ranges, 8) == "A......A"


@pytest.mark.parametrize(
    ("before", "start", "end", "after"),
    [
        ("AA..BBBB", 0, 8, "aa..bbbb"),
        ("AA..BBBB", 1, 6, "Aa..bbBB"),
        ("aaAAaa..", 2, 4, "aaaaaa.."),
        ("........", 0, 8, "........"),
    ],
)
def test_edit_leaves_holes_and_merges(before: str, start: int, end: int, after: str) -> None:
    ranges = made(before)
    ranges.edit(at(start), at(end), str.lower)
    assert drawn(ranges, 8) == after


def test_edit_to_none_makes_holes() -> None:
    ranges = made("AABBAABB")
    ranges.edit(at(1), at(7), lambda value: None if value == "A" else value)
    assert drawn(ranges, 8) == "A.BB..BB"


def test_replace_writes_a_whole_step_function() -> None:
    ranges = made("AAAAAAAA")
    ranges.replace(at(1), at(7), [at(1), at(3), at(5)], ["B", None, "A"])
    assert drawn(ranges, 8) == "ABB..AAA"
    assert len(ranges) == 3


def test_the_owners_rule_decides_what_merges() -> None:
    ranges = made("AA......", same=lambda a, b: a.lower() == b.lower())
    ranges.set(at(2), at(4), "a")
    assert len(ranges) == 1
    ranges.set(at(4), at(6), "b")
    assert len(ranges) == 2
    ranges.check()


def highest(ranges: RangeMap[str], low: int, high: int, pages: int) -> tuple[int, int] | None:
    hole = ranges.highest_hole(at(low), at(high), pages * PAGE)
    ranges.check()
    return None if hole is None else ((hole[0] - ORIGIN) // PAGE, (hole[1] - ORIGIN) // PAGE)


def test_the_highest_hole_that_is_long_enough() -> None:
    ranges = made("A..B...C.A")
    assert [highest(ranges, 0, 10, pages) for pages in (1, 2, 3, 4)] == [
        (8, 9),
        (4, 7),
        (4, 7),
        None,
    ]
    assert [highest(ranges, 1, 6, pages) for pages in (1, 2, 3)] == [(4, 6), (4, 6), None]
    assert [highest(ranges, 2, 6, pages) for pages in (1, 2)] == [(4, 6), (4, 6)]
    assert highest(ranges, 5, 6, 1) == (5, 6)


@pytest.mark.parametrize("load", [1, 2, 5, 512])
def test_remembered_results_of_a_search_stay_true(load: int) -> None:
    source = random.Random(load)
    ranges: RangeMap[str] = RangeMap(load=load)
    pages: set[int] = set()
    for _ in range(2000):
        start = source.randrange(60)
        end = start + source.randrange(1, 9)
        if source.random() < 0.4:
            ranges.clear(at(start), at(end))
            pages -= set(range(start, end))
        else:
            ranges.set(at(start), at(end), source.choice("AB"))
            pages |= set(range(start, end))
        high = 64 if source.random() < 0.95 else source.randrange(1, 64)
        length = source.randrange(1, 12)
        expected = None
        for top in range(high, length - 1, -1):
            if (
                expected is None
                and pages.isdisjoint(range(top - length, top))
                and (top == high or top in pages)
            ):
                low = top - length
                while low and low - 1 not in pages:
                    low -= 1
                expected = low, top
        assert highest(ranges, 0, high, length) == expected


def test_reading() -> None:
    ranges = made("AA..BB")
    assert ranges.get(at(1)) == "A"
    assert ranges.get(at(2)) is None
    assert ranges.find(at(5)) == (at(4), at(6), "B")
    assert list(ranges.runs(at(1), at(5))) == [
        (at(1), at(2), "A"),
        (at(2), at(4), None),
        (at(4), at(5), "B"),
    ]
    assert list(ranges.entries(at(1), at(5))) == [(at(0), at(2), "A"), (at(4), at(6), "B")]
    assert ranges.covered(at(0), at(2))
    assert not ranges.covered(at(0), at(3))
    assert list(ranges.runs(at(1), at(1))) == []


def test_a_copy_is_independent() -> None:
    ranges = made("AABB")
    twin = ranges.copy()
    twin.clear(at(0), at(4))
    assert drawn(ranges, 4) == "AABB"
    assert drawn(twin, 4) == "...."


@pytest.mark.parametrize(("start", "end"), [(8, 8), (8, 4), (-4, 4), (4, TOP + 1)])
def test_an_empty_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="give start < end"):
        made("AABB").set(start, end, "A")


def test_the_whole_of_64_bits_is_one_entry() -> None:
    ranges: RangeMap[str] = RangeMap()
    ranges.set(0, TOP - PAGE, "A")
    assert len(ranges) == 1
    assert ranges.find(1 << 63) == (0, TOP - PAGE, "A")


@pytest.mark.parametrize("load", [1, 2, 5, 512])
def test_random_edits_against_a_dictionary(load: int) -> None:
    source = random.Random(load)
    ranges: RangeMap[str] = RangeMap(load=load)
    pages: dict[int, str] = {}
    for _ in range(2000):
        start = source.randrange(40)
        end = start + source.randrange(1, 12)
        value = source.choice("ABC...")
        if value == "." and source.random() < 0.5:
            ranges.edit(at(start), at(end), lambda old: "B" if old == "A" else old)
            pages |= {page: "B" for page in range(start, end) if pages.get(page) == "A"}
        elif value == ".":
            ranges.clear(at(start), at(end))
            pages = {page: old for page, old in pages.items() if not start <= page < end}
        else:
            ranges.set(at(start), at(end), value)
            pages |= dict.fromkeys(range(start, end), value)
        assert drawn(ranges, 52) == "".join(pages.get(page, ".") for page in range(52))
        # A hint that an earlier edit left behind is either stale, which its keys show, or true.
        for address in (at(page) for page in range(52)):
            assert hinted(ranges, address) in (None, (pages.get((address - ORIGIN) // PAGE),))
        address = at(source.randrange(52))
        ranges.hint(address, ranges.position(address))


def hinted(ranges: RangeMap[str], address: int) -> tuple[str | None] | None:
    """The value at an address by its hint, as mprotect uses it; None without one, or if it is
    stale."""
    hint = ranges.hints.get(address)
    if hint is None:
        return None
    keys, values, low, high = hint
    try:
        return (values[low],) if keys[low] <= address < keys[high] else None
    except IndexError:
        return None


def test_the_different_results_of_a_function_of_the_values() -> None:
    assert made("AA.bbBB.aC").distinct(str.lower) == {"a", "b", "c"}
    assert made("....").distinct(str.lower) == set()


@pytest.mark.parametrize("load", [2, 3, 128])
def test_set_leaves_what_replace_leaves(load: int) -> None:
    # The same objects too: of two that are alike, the lower stays where they meet, and the new one
    # before the upper.
    source = random.Random(load)
    short: RangeMap[tuple[str, ...]] = RangeMap(load=load)
    whole: RangeMap[tuple[str, ...]] = RangeMap(load=load)
    values = [None, None, *(tuple(letter) for letter in "AABBC")]
    for _ in range(2000):
        start = source.randrange(60)
        end = start + source.choice((1, 1, 2, 5, 30))
        value = source.choice(values)
        short.set(start, end, value)
        whole.replace(start, end, [start], [value])
        short.check()
        left, right = (
            [(low, high, id(held)) for low, high, held in ranges] for ranges in (short, whole)
        )
        assert left == right


def test_ranges_that_touch_are_joined() -> None:
    assert join_ranges([(1, 2), (2, 4), (4, 5), (6, 7)]) == [(1, 5), (6, 7)]
    assert join_ranges([]) == []
