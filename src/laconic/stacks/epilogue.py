"""Rules for code without call-frame information that is about to return: its next instructions are
the rule.

Python's trampolines for `perf` are such code: directly after a call, they restore the stack and
return.
"""

from __future__ import annotations

from laconic.stacks.cfi import CALLEE_SAVED, FROM_RSP, RBP, Compact

#: Bytes of code that are examined.
LENGTH = 32
#: The DWARF number of each register, by its number in the opcode of `pop`.
_POPPED = (0, 2, 1, 3, 7, 6, 4, 5)
_RSP = 7


def epilogue(code: bytes) -> Compact | None:
    """Return the rule at an optional `add rsp, n`, any number of `pop`, and `ret`; None for any
    other code. O(1)."""
    at = offset = 0
    if code[:3] == b"\x48\x83\xc4":
        at, offset = 4, int.from_bytes(code[3:4], "little", signed=True)
    elif code[:3] == b"\x48\x81\xc4":
        at, offset = 7, int.from_bytes(code[3:7], "little", signed=True)
    if offset < 0 or offset % 8:
        return None
    places = {}
    while at < len(code):
        high = code[at] == 0x41
        low = code[at + high : at + high + 1]
        if not low or not 0x58 <= low[0] <= 0x5F:
            break
        register = low[0] - 0x58 + 8 if high else _POPPED[low[0] - 0x58]
        if register == _RSP:
            return None
        places[register] = offset
        offset += 8
        at += 1 + high
    if code[at : at + 1] != b"\xc3" and code[at : at + 2] != b"\xf3\xc3":
        return None
    cfa = offset + 8
    saved = tuple(
        (register, place - cfa) for register, place in places.items() if register in CALLEE_SAVED
    )
    return Compact(FROM_RSP, cfa, (places[RBP] - cfa) // 8 if RBP in places else 0, saved, None)
