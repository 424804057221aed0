"""PALs that record their calls: one record for each call, and the work itself is done and counted
too."""

from __future__ import annotations

import pytest

from laconic.libos.touches import Touches
from laconic.memory.change import EXTEND, MAP, RESTRICT, UNMAP
from laconic.replay.recording import (
    RecordingEdmm,
    RecordingGramine,
    RecordingMeter,
    recording,
    records_pal_calls,
)
from laconic.strategies import NAMES, strategy
from tests.helpers.pictures import RW, RX, R, at, space

Call = tuple[str, int, int, int | None, int | None, int, bool, bool]


@pytest.fixture
def meter() -> RecordingMeter:
    return RecordingMeter()


def calls(meter: RecordingMeter) -> list[Call]:
    """The records since the last time, in pages of a picture."""
    records = [
        (
            record.name,
            (record.start - at(0)) // 4096,
            (record.end - at(0)) // 4096,
            record.old,
            record.new,
            record.kinds,
            record.lazy,
            record.single,
        )
        for record in meter.pal_calls
    ]
    meter.pal_calls.clear()
    return records


def test_all_work_is_counted_in_one_place(meter: RecordingMeter) -> None:
    before = meter.counts
    meter.at(3, "mmap")
    assert meter.counts is before and not meter.tables and meter.pal_calls == []


def test_calls_of_gramine_s_pal(meter: RecordingMeter) -> None:
    pal = RecordingGramine(meter)
    pal.alloc(at(0), at(2), RW)
    pal.alloc(at(2), at(4), R, lazy=True)
    pal.alloc(at(4), at(6), RX, by_page=True)
    assert calls(meter) == [
        ("alloc", 0, 2, None, RW, MAP, False, False),
        ("alloc", 2, 4, None, R, MAP, True, False),
        ("alloc", 4, 6, None, RX, MAP, False, True),
    ]
    assert meter.pal_calls == [] and pal.committed(at(0), at(6)) == [(at(0), at(2)), (at(4), at(6))]
    pal.protect(at(0), at(2), R)
    pal.protect(at(0), at(2), 2, single=True)  # W is RW
    pal.protect(at(0), at(2), RX)
    assert calls(meter) == [
        ("protect", 0, 2, RW, R, RESTRICT, False, False),
        ("protect", 0, 2, R, 2, EXTEND, False, True),
        ("protect", 0, 2, RW, RX, EXTEND | RESTRICT, False, False),
    ]
    assert pal.pages.get(at(1)) == RX
    pal.free(at(0), at(2))
    pal.free(at(0), at(2))
    assert calls(meter) == [
        ("free", 0, 2, RX, None, UNMAP, False, False),
        ("free", 0, 2, None, None, UNMAP, False, False),
    ]
    assert pal.pages.get(at(0)) is None


def test_pages_of_several_permissions_have_no_old_ones(meter: RecordingMeter) -> None:
    # w  x  lazy  pages: lazy ones have no permissions yet
    pal = RecordingGramine(meter)
    pal.alloc(at(0), at(1), RW)
    pal.alloc(at(1), at(2), RX)
    pal.alloc(at(2), at(3), RX, lazy=True)
    calls(meter)
    pal.protect(at(1), at(3), RX)
    pal.protect(at(0), at(3), R)
    pal.protect(at(2), at(3), R)
    assert [call[3:6] for call in calls(meter)] == [
        (RX, RX, 0),
        (None, R, RESTRICT),
        (None, R, 0),
    ]


def test_calls_of_laconic_s_pal(meter: RecordingMeter) -> None:
    pal = RecordingEdmm(meter)
    pal.commit(at(0), at(2), RW)
    pal.commit(at(2), at(4), R)
    assert calls(meter) == [
        ("alloc", 0, 2, None, RW, MAP, False, False),
        ("alloc", 2, 4, None, R, MAP, False, False),
    ]
    pal.protect([(at(0), at(4), R), (at(6), at(8), R)])
    pal.protect([(at(0), at(1), RX)])
    assert calls(meter) == [
        ("protect", 0, 2, RW, R, RESTRICT, False, False),
        ("protect", 0, 1, R, RX, EXTEND, False, False),
    ]
    assert pal.committed.get(at(0)) == RX
    pal.trim([(at(0), at(1)), (at(1), at(3)), (at(6), at(8))])
    assert calls(meter) == [("free", 0, 3, None, None, UNMAP, False, False)]
    pal.trim([(at(3), at(8))])
    assert calls(meter) == [("free", 3, 4, R, None, UNMAP, False, False)]
    assert not pal.committed.count and meter.counts.eremove == 4


def test_strategies_with_one_of_the_two_pals_are_recorded(meter: RecordingMeter) -> None:
    recorded = {name for name in NAMES if records_pal_calls(strategy(name))}
    assert {"every-call", "classify", "laconic"} <= recorded and "sgx-emm" not in recorded
    pals = {}
    for name in NAMES:
        enclave = recording(strategy(name))(meter, space("ww"), Touches())
        pals[name] = type(getattr(enclave, "pal", None))
        assert (pals[name] in (RecordingGramine, RecordingEdmm)) == (name in recorded)
    assert pals["every-call"] is RecordingGramine and pals["laconic"] is RecordingEdmm
