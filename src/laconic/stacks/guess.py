"""Unwinding without call-frame information: a return address on the stack is recognized by the call
instruction before it.

A call's target identifies the called function. If that is the function that runs, the word is its
return address, whether or not the function keeps a frame pointer: the C library musl has neither
frame pointers nor CFI.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from laconic.stacks.memory import Memory

#: Bytes of stack that are searched, also for a function that calls nothing; the maximum distance of
#: a program counter from its function's first byte.
_REACH: Final = 4096
_LEAF: Final = 128
#: The maximum size in bytes of a frame found by its frame pointer.
_FRAME: Final = 1 << 23
_FUNCTION: Final = 1 << 16
#: What precedes a word: no call; a call through a register, or through memory whose contents are no
#: longer known.
_NONE, _INDIRECT = -1, -2
#: What a word is: not a return address; that of a call of another function; of an unknown function;
#: of one that starts shortly before the program counter; of the function that is looked up.
_NO, _ELSEWHERE, _UNKNOWN, _LIKELY, _SURE = range(5)
#: What follows a `ret` or `jmp`: padding that aligns the next function, or its start.
_BOUNDARY = re.compile(
    rb"\xc3(?:[\x90\xcc]|\x66[\x90\x0f\x2e\x66]|\x0f\x1f|\xf3\x0f\x1e\xfa)|\xcc\xcc|\xeb.\xcc|\xe9.{4}\xcc",
    re.DOTALL,
)
#: Near jumps, with and without a condition. `_HOPS` is the number of pieces of a function that are
#: searched for them.
_JUMP = re.compile(rb"(?:\xe9|\x0f[\x80-\x8f])(?=(.{4}))", re.DOTALL)
_HOPS: Final = 8
#: How often a stack is searched for a program counter for which nothing is found: the outermost
#: function has no caller.
_PATIENCE: Final = 8
#: Words that are searched in one walk: a hostile stack has no end of return addresses.
BUDGET: Final = 2048
#: The maximum number of words whose call is kept.
_KEPT: Final = 100_000
_ENDBR64 = b"\xf3\x0f\x1e\xfa"


class ReturnAddresses:
    """Finds return addresses in one address space; `is_code` returns whether an address is
    executable there."""

    def __init__(self, memory: Memory, is_code: Callable[[int], bool]) -> None:
        self._memory = memory
        self._is_code = is_code
        self._targets: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._joined: dict[tuple[int, int], bool] = {}
        self._fruitless: dict[int, int] = {}
        #: Words that may still be searched in this walk.
        self.left = BUDGET
        self._over: dict[tuple[int, int], bool] = {}

    def clear(self) -> None:
        """Forget everything, because the executable memory has changed. O(1)."""
        self._targets.clear()
        self._sizes.clear()
        self._joined.clear()
        self._fruitless.clear()
        self._over.clear()

    def frame(
        self, tid: int, pc: int, leaf: bool, sp: int, rbp: int, stack_start: int, stack_end: int
    ) -> int | None:
        """Return the CFA of the function around `pc`; None if only its frame pointer can be used.

        `leaf`: the function has called nothing. The stack from `stack_start` to `stack_end` is in
        the buffer of `Memory`. O(1) for a program counter that was looked up before, otherwise
        O(words searched).
        """
        stack = self._memory.words
        end = min(sp + _REACH, stack_end - 7)
        chained = _NO
        if sp <= rbp < sp + _FRAME and not (rbp - stack_start) & 7:
            here = rbp <= stack_end - 16
            word = (
                stack[(rbp + 8 - stack_start) >> 3]
                if here
                else int.from_bytes(self._memory.read(tid, rbp + 8, 8), "little")
            )
            chained = self._leads(tid, word, pc)
            if chained == _SURE:
                return None
            if chained != _NO:
                end = min(end, rbp + 8)
        size, tried = self._sizes.get(pc, 8), self._fruitless.get(pc, 0)
        if sp + size <= stack_end:
            rank = self._leads(tid, stack[(sp + size - 8 - stack_start) >> 3], pc)
            if rank == _SURE:
                return sp + size
            fits = rank != _NO if leaf else rank == _LIKELY and chained == _NO
            if fits and tried >= _PATIENCE and pc in self._sizes and chained < _UNKNOWN:
                return sp + size  # this many searches have found nothing better
        near = likely = None
        end = min(end, sp + 8 * self.left)
        at = sp - 8
        for at in range(sp, end, 8) if tried < _PATIENCE else ():
            rank = self._leads(tid, stack[(at - stack_start) >> 3], pc)
            if rank == _SURE:
                if len(self._sizes) >= _KEPT:
                    self._sizes.clear()
                self._sizes[pc] = at + 8 - sp
                self.left -= (at - sp >> 3) + 1
                return at + 8
            if rank and near is None and leaf and at < sp + _LEAF:
                near = at + 8
            if rank == _LIKELY and likely is None and chained == _NO:
                likely = at + 8
        # The function may have been called through a register, or reached by a jump from the called
        # one.
        found = None if chained >= _UNKNOWN else near or likely
        self.left -= (at - sp >> 3) + 1
        if tried < _PATIENCE and self.left:
            if len(self._fruitless) >= _KEPT:
                self._fruitless.clear()
            self._fruitless[pc] = tried + 1
            if found is not None:
                self._sizes[pc] = found - sp
        return found

    def _leads(self, tid: int, word: int, pc: int) -> int:
        # Rank `word` as the return address of a call of the function around pc.
        target = self._targets.get(word)
        if target is None:
            if len(self._targets) >= _KEPT:
                self._targets.clear()
            target = self._targets[word] = self._target(tid, word) if self._is_code(word) else _NONE
        if target < 0:
            return _NO if target == _NONE else _UNKNOWN
        if not 0 <= pc - target < _FUNCTION:
            return _ELSEWHERE
        if self._whole(tid, target, pc):
            return _SURE
        return _LIKELY if self._jumps(tid, target, pc) else _ELSEWHERE

    def _whole(self, tid: int, target: int, pc: int) -> bool:
        # True if no other function starts between two addresses.
        found = self._joined.get((target, pc))
        if found is None:
            if len(self._joined) >= _KEPT:
                self._joined.clear()
            code = self._memory.read(tid, target, pc - target) if pc - target < _REACH else b""
            found = self._joined[target, pc] = len(
                code
            ) == pc - target < _REACH and not _BOUNDARY.search(code)
        return found

    def _jumps(self, tid: int, target: int, pc: int) -> bool:
        # True if a jump leads from the function at `target` over the ends in between: to its own
        # later part, or to a function that it continues in (a tail call).
        found = self._over.get((target, pc))
        if found is None:
            if len(self._over) >= _KEPT:
                self._over.clear()
            todo, seen = [target], 0
            found = False
            while todo and seen < _HOPS and not found:
                at, seen = todo.pop(0), seen + 1
                code = self._memory.read(tid, at, _REACH)
                end = _BOUNDARY.search(code)
                code = code[: end.end() if end else 0]
                for jump in _JUMP.finditer(code):
                    text = jump[1]
                    to = at + jump.end() + len(text) + int.from_bytes(text, "little", signed=True)
                    if at + len(code) < to <= pc and to not in todo:
                        todo.append(to)
                        found = found or self._whole(tid, to, pc)
            self._over[target, pc] = found
        return found

    def _target(self, tid: int, word: int) -> int:
        # Return the target of the call instruction before an address.
        code = self._memory.read(tid, word - 7, 7)
        if len(code) < 7:
            return _NONE
        offset = int.from_bytes(code[3:], "little", signed=True)
        if code[2] == 0xE8 and self._is_code(word + offset):  # call rel32
            return self._behind(tid, word + offset)
        if code[1:3] == b"\xff\x15":  # call *rel32(%rip)
            return self._pointer(tid, word + offset)
        # call *%reg, *disp8(%reg), *disp32(%reg), with a SIB byte and without
        for size, kinds in (
            (2, (0x10, 0xD0)),
            (3, (0x10, 0x50)),
            (4, (0x50,)),
            (6, (0x90,)),
            (7, (0x90,)),
        ):
            if code[-size] == 0xFF and code[1 - size] & 0xF8 in kinds:
                return _INDIRECT
        return _NONE

    def _behind(self, tid: int, target: int) -> int:
        # Return the function itself, or the target of an entry of the procedure linkage table.
        code = self._memory.read(tid, target, 16)
        at = 4 if code.startswith(_ENDBR64) else 0
        at += code[at : at + 1] == b"\xf2"
        if code[at : at + 2] != b"\xff\x25" or len(code) < at + 6:  # jmp *rel32(%rip)
            return target
        return self._pointer(
            tid, target + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)
        )

    def _pointer(self, tid: int, address: int) -> int:
        word = int.from_bytes(self._memory.read(tid, address, 8), "little")
        return word if self._is_code(word) else _INDIRECT
