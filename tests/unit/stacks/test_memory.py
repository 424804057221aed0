"""Another process's memory, read at addresses that are there and that are not. The process is this
one."""

from __future__ import annotations

import ctypes
import os

import pytest

from laconic.stacks.memory import MOST_RANGES, WINDOW, Memory, Pieces

#: No program has memory here.
NOWHERE = 8


def test_no_address_is_an_error() -> None:
    memory, pid = Memory(), os.getpid()
    ours = ctypes.create_string_buffer(b"\1\2\3\4\5\6\7\0" * 4, WINDOW)
    assert memory.load(pid, ctypes.addressof(ours)) == WINDOW
    assert memory.words[0] == 0x0007060504030201
    for address in (NOWHERE, -8, -(1 << 80), 1 << 64, (1 << 64) - 8):
        assert memory.load(pid, address) == 0
        assert memory.read(pid, address, 16) == b""


def test_pieces_are_read_up_to_the_first_that_is_missing() -> None:
    ours = ctypes.create_string_buffer(b"abcdefgh")
    address = ctypes.addressof(ours)
    pid = os.getpid()
    assert Pieces([(address, 2), (address + 4, 3)]).read(pid) == b"abefg"
    assert Pieces([(address, 2), (NOWHERE, 2), (address, 2)]).read(pid) == b"ab"
    assert Pieces([(address, 1)] * MOST_RANGES).read(pid) == b"a" * MOST_RANGES
    with pytest.raises(ValueError, match="1,025 ranges, and 1,024 is the most"):
        Pieces([(address, 1)] * (MOST_RANGES + 1))
