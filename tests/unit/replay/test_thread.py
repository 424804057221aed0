"""The upcalls of a replay: each answers with what was recorded for the call, and only once."""

from __future__ import annotations

from collections import deque

import pytest

from laconic.linux.pagemap import FILE_PAGE
from laconic.memory.mmap import OpenFile
from laconic.memory.vma import File
from laconic.replay.thread import Mm, RecordedUpcalls, ReplayedThread, seen
from laconic.trace.schema import DATA_LIMIT, READ, RESIDENT, Row
from tests.helpers.pictures import FILE, LEGEND, at, draw, read, space
from tests.helpers.traces import BASE

OPEN = OpenFile(FILE, readable=True, writable=True)
OTHER = OpenFile(File(0, 44, 9, "/shown"), readable=True, writable=True)


def upcalls(picture: str, row: Row | None = None, knows_touched: bool = True) -> RecordedUpcalls:
    """The upcalls of one thread, at a row."""
    up = RecordedUpcalls(knows_touched, {1: OPEN, 2: OTHER})
    up.thread = ReplayedThread(7, Mm(space(picture)))
    up.row = Row(0, 0, 7, 7) if row is None else row
    return up


def test_a_thread_counts_in_its_address_space() -> None:
    mm = Mm(None)
    assert (mm.threads, mm.number, mm.pid, mm.lossy) == (0, -1, 0, False)
    thread = ReplayedThread(7, mm)
    ReplayedThread(7, mm)
    assert mm.threads == 2
    assert (thread.read_implies_exec, thread.begun, thread.answers) == (False, None, {})


def test_the_file_of_a_call_is_the_one_of_its_row() -> None:
    assert upcalls("w").open_file(3) is None
    assert upcalls("w", Row(0, 0, 7, 7, file=1)).open_file(3) is OPEN
    shown = upcalls("w", Row(0, 0, 7, 7, file=1, shown=2))
    assert shown.shown_file(3, BASE, FILE) is OTHER.file
    assert upcalls("w").shown_file(3, BASE, FILE) is FILE
    unknown = upcalls("w", Row(0, 0, 7, 7, shown=9))
    assert unknown.shown_file(3, BASE, FILE) is FILE


@pytest.mark.parametrize(
    ("picture", "how", "untouched"),
    [
        ("ww", 0, False),
        ("ff", 0, False),
        ("ff", FILE_PAGE, True),  # read from the file, not written
        ("ww", FILE_PAGE, False),
        ("..", 0, False),
    ],
)
def test_pages_are_untouched_if_the_trace_shows_none(
    picture: str, how: int, untouched: bool
) -> None:
    up = upcalls(picture, Row(0, 0, 7, 7, touched=((at(0), at(1), how),)))
    assert up.untouched(at(0), at(2)) == untouched
    assert not up.guessed
    if picture != "..":
        assert up.untouched(at(1), at(2)), "the other page was not touched"


def test_without_touched_pages_the_answer_is_a_guess() -> None:
    up = upcalls("ww", knows_touched=False)
    assert not up.untouched(at(0), at(1))
    assert up.guessed


def test_recorded_answers_are_used_once_and_in_order() -> None:
    up = upcalls("ww")
    up.thread.answers = {
        RESIDENT: deque([(1, b""), (0, b"")]),
        DATA_LIMIT: deque([(5, b"")]),
        READ: deque([(0, b"one"), (0, b"two")]),
    }
    assert [up.resident(at(0), at(1)) for _ in range(2)] == [True, False]
    assert not up.guessed
    assert not up.resident(at(0), at(1)) and up.guessed, "none is left"
    assert [up.data_limit() for _ in range(2)] == [5, -1]
    assert (up.lock_limit(), up.vma_start(at(0))) == (-1, 0)
    assert [up.read(0, 8) for _ in range(3)] == [b"one", b"two", b""]


def test_the_host_s_map_is_the_held_one_with_the_recorded_runs() -> None:
    # wwww  held
    #  .r   recorded for pages 1 and 2
    # w.rw
    up = upcalls("wwww")
    up.thread.map_runs = deque([[(at(1), at(2), None), (at(2), at(3), LEGEND["r"])]])
    assert draw(up.maps(), 4, LEGEND) == "w.rw"
    assert draw(up.maps(), 4, LEGEND) == "wwww", "each map was recorded for one call"
    assert draw(up.thread.mm.space.held, 4, LEGEND) == "wwww"  # type: ignore[union-attr]


def test_a_range_of_the_host_s_map_is_cut_to_it() -> None:
    # wwwwww  held; the host had unmapped pages 0 to 3, and protected the last ones
    # ..[.rr].
    up = upcalls("wwwwww")
    up.thread.map_runs = deque([[(at(0), at(3), None), (at(3), at(6), LEGEND["r"])]])
    host = up.maps_in(at(2), at(5))
    assert draw(host, 6, LEGEND) == "...rr."
    assert draw(up.maps_in(at(2), at(5)), 6, LEGEND) == "..www."


def test_a_map_from_runs_leaves_the_held_one() -> None:
    held = space("ww").held
    host = seen(held, [(start, end, vma) for start, end, vma in read("r", LEGEND)])
    assert (draw(host, 2, LEGEND), draw(held, 2, LEGEND)) == ("rw", "ww")
