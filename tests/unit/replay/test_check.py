"""What `--check` keeps of the differences, and how they are shown."""

from __future__ import annotations

import pytest

from laconic.replay.check import LOST_DATA, MODEL_ERROR, Check, ReplayDifference, shown
from laconic.trace.schema import CODES, make_row
from tests.helpers.traces import BASE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-12, "-12"),
        (4095, "4095"),
        (4096, "0x1000"),
        (-4095, "-4095"),  # the last errno
        (-4096, "-0x1000"),
        (BASE, "0x7f0000000000"),
    ],
)
def test_numbers_and_errnos_are_decimal_and_addresses_hexadecimal(value: int, text: str) -> None:
    assert shown(value) == text


def test_a_difference_says_where_and_what() -> None:
    check = Check()
    assert (check.compared, check.counts, check.differences) == (0, {}, [])
    args = (BASE, 8192, 3, 4, 5, 6)
    row = make_row(CODES["mprotect"], (1000, 100, 101), args, result=-13)
    check.differs(7, row, "mprotect", "0", MODEL_ERROR, "another result")
    check.differs(8, row, "a name without a signature", "0", MODEL_ERROR, "another result")
    assert check.differences[0] == ReplayDifference(
        7, 1000, 100, 101, "mprotect(0x7f0000000000, 0x2000, 3)", "-13", "0", MODEL_ERROR,
        "another result",
    )  # fmt: skip
    assert check.differences[1].call.endswith("(0x7f0000000000, 0x2000, 3, 4, 5, 6)")


def test_the_first_hundred_of_each_cause_are_kept() -> None:
    check = Check()
    row = make_row(CODES["munmap"], (0, 1, 1), (0, 0, 0, 0, 0, 0))
    for number in range(102):
        check.differs(number, row, "munmap", "0", MODEL_ERROR, "why")
    check.differs(102, row, "munmap", "0", LOST_DATA, "why")
    assert check.counts == {MODEL_ERROR: 102, LOST_DATA: 1}
    assert [difference.number for difference in check.differences] == [*range(100), 102]
