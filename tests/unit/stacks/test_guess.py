"""Return addresses found by the calls in front of them, in memory made up by hand."""

from __future__ import annotations

import struct

from laconic.stacks.guess import BUDGET, ReturnAddresses
from laconic.stacks.memory import WINDOW, Memory

CODE, STACK, PLT, GOT = 0x400000, 0x7FFF0000, 0x410000, 0x41F000


class Made(Memory):
    """Memory of no process."""

    def __init__(self) -> None:
        super().__init__()
        self.code = bytearray(b"\x90" * 0x20000)
        self.searches = 0

    def read(self, tid: int, address: int, size: int) -> bytes:
        self.searches += 1
        return bytes(self.code[max(address - CODE, 0) :][:size]) if address >= CODE else b""

    def put(self, address: int, data: bytes) -> int:
        """Writes code; returns the address behind it."""
        self.code[address - CODE : address - CODE + len(data)] = data
        return address + len(data)

    def call(self, at: int, target: int) -> int:
        """A call at an address; returns where it returns to."""
        return self.put(at, b"\xe8" + struct.pack("<i", target - at - 5))

    def frame(
        self,
        pc: int,
        *words: int,
        rbp: int = 0,
        leaf: bool = True,
        calls: ReturnAddresses | None = None,
    ) -> int | None:
        """What is found of a stack of these words: the CFA from its begin."""
        for number in range(WINDOW // 8):
            self.words[number] = words[number] if number < len(words) else 0
        calls = calls or ReturnAddresses(self, lambda address: CODE <= address < CODE + 0x20000)
        calls.left = BUDGET
        found = calls.frame(1, pc, leaf, STACK, rbp, STACK, STACK + WINDOW)
        return None if found is None else found - STACK


def test_the_call_of_this_function() -> None:
    """Of many return addresses that one whose call leads to the function that runs."""
    made = Made()
    function, other = CODE + 0x1000, CODE + 0x2000
    made.put(function + 0x20, b"\xc3\x90\x90")
    made.put(other - 2, b"\xc3\xcc")
    ours, stale = made.call(CODE + 0x100, function), made.call(CODE + 0x200, other)
    through = made.call(CODE + 0x300, PLT)
    made.put(PLT, b"\xf3\x0f\x1e\xfa\xf2\xff\x25" + struct.pack("<i", GOT - PLT - 11))
    made.put(GOT, struct.pack("<Q", function))
    assert made.frame(function + 8, stale, 5, ours) == 24
    assert made.frame(function + 8, stale, through, ours) == 16
    assert made.frame(function + 8, 0, CODE + 0x1100, ours, leaf=False) == 24
    # Behind that function's end another may begin, and it is a stale one's unless a jump leads
    # there.
    assert made.frame(function + 0x40, 0, ours) == 16
    assert made.frame(function + 0x40, 0, ours, leaf=False) is None
    made.put(function + 0x10, b"\x0f\x85" + struct.pack("<i", 0x40 - 0x16))
    assert made.frame(function + 0x48, 0, ours, leaf=False) == 16
    assert made.frame(function - 8, 0, ours, leaf=False) is None


def test_frame_pointers() -> None:
    """One that leads to the function's own call is right; one that leads elsewhere is the
    caller's."""
    made = Made()
    function, caller = CODE + 0x1000, CODE + 0x3000
    made.put(function - 2, b"\xc3\xcc")
    ours, callers = made.call(caller + 0x10, function), made.call(CODE + 0x100, caller)
    indirect = made.put(CODE + 0x200, b"\xff\xd0")
    assert made.frame(function + 8, 1, 2, STACK + 64, ours, rbp=STACK + 16) is None
    assert made.frame(function + 8, 1, ours, STACK + 64, callers, rbp=STACK + 16) == 16
    # Who was called through a register is not known: by the frame pointer, unless there is a call
    # of this function.
    assert made.frame(function + 8, 1, 2, STACK + 64, indirect, rbp=STACK + 16) is None
    assert made.frame(function + 8, ours, 2, STACK + 64, indirect, rbp=STACK + 16) == 8
    # Above that frame there is nothing to be found, and a frame pointer that is none leads nowhere.
    assert made.frame(function + 8, 1, 2, STACK + 64, indirect, ours, rbp=STACK + 16) is None
    assert made.frame(function + 8, 1, indirect, rbp=STACK + 4096) == 16
    assert made.frame(function + 8, 1, indirect, rbp=STACK + 4096, leaf=False) is None


def test_calls_through_registers_and_memory() -> None:
    """Each form of `call` is one, and nothing else."""
    made = Made()
    pc = CODE + 0x9000
    for number, code in enumerate(
        (
            "ffd0",
            "41ffd4",
            "ff10",
            "ff5008",
            "ff542408",
            "ff9000010000",
            "ff942400010000",
            "41ff5708",
        )
    ):
        word = made.put(CODE + 0x100 + 32 * number, bytes.fromhex(code))
        assert made.frame(pc, 7, word) == 16, code
    for number, code in enumerate(("ff25", "ffe0", "4889e5", "e9f0ffffff", "c3")):
        word = made.put(CODE + 0x1000 + 32 * number, bytes.fromhex(code))
        assert made.frame(pc, 7, word) is None, code


def test_a_tail_call_is_kept_too() -> None:
    """Where a function was jumped to nothing is sure: after some searches what they have found is
    taken."""
    made = Made()
    calls = ReturnAddresses(made, lambda address: CODE <= address < CODE + 0x20000)
    function = CODE + 0x1000
    made.put(function, b"\xe9" + struct.pack("<i", 0x100 - 5) + b"\xcc\xcc")
    ours = made.call(CODE + 0x100, function)
    stack = [0] * 300 + [ours]
    spent = []
    for _ in range(20):
        assert made.frame(function + 0x108, *stack, leaf=False, calls=calls) == 8 * 301
        spent.append(BUDGET - calls.left)
    assert spent[0] > 300 and spent[-1] == 0
    assert made.frame(function + 0x108, *[0] * 400, leaf=False, calls=calls) is None


def test_a_walk_has_an_end() -> None:
    """However many frames of this kind a stack has, no more than so many words of it are gone
    through."""
    made = Made()
    calls = ReturnAddresses(made, lambda address: CODE <= address < CODE + 0x20000)
    made.frame(CODE + 0x8000, calls=calls, leaf=False)
    for number in range(20):
        calls.frame(1, CODE + 0x8000 + 16 * number, False, STACK, 0, STACK, STACK + WINDOW)
    assert calls.left == 0


def test_a_guess_is_read_from_memory_once() -> None:
    """A program counter that comes again costs no reading, also where nothing is found; until code
    changes."""
    made = Made()
    calls = ReturnAddresses(made, lambda address: CODE <= address < CODE + 0x20000)
    ours = made.call(CODE + 0x100, CODE + 0x1000)
    for _ in range(3):
        assert made.frame(CODE + 0x1008, 0, 0, ours, calls=calls) == 24
    searches = made.searches
    assert made.frame(CODE + 0x1008, 0, 0, ours, calls=calls) == 24 and made.searches == searches
    for _ in range(20):
        assert made.frame(CODE + 0x8000, 3, 4, leaf=False, calls=calls) is None
    calls.clear()
    assert made.frame(CODE + 0x1008, 0, 0, ours, calls=calls) == 24 and made.searches > searches
