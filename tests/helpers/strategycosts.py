"""What a call costs under `laconic` and `classify`: helpers for tests that name every count.

`cost` is all that was counted and is not zero. Where a picture says it shorter: one letter is one
page of the PAL's record, `.` not committed, `-` committed and inaccessible, else `r`, `w` (RW), `x`
(RX), `X` and `e` (RWX).
"""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.strategies.classify import Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclaveworld import BASE, FIXED, LIB, PAGE, Program

R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
MAY = f.VM_MAY_RWX
NORESERVE, POPULATE = FIXED | f.MAP_NORESERVE, FIXED | f.MAP_POPULATE
LETTERS = {None: ".", 0: "-", R: "r", RW: "w", RX: "x", X: "X", RWX: "e"}
BOTH = pytest.mark.parametrize("rule", [Laconic, Classify])


def at(page: int) -> int:
    return int(BASE + page * PAGE)


def fresh(rule: type[Classify] = Laconic) -> Program[Classify]:
    """A program whose files the host has opened already, so that only what is asked of pages is
    counted."""
    program = Program(rule)
    program.strategy.hosted.add(LIB)
    return program


def cost(program: Program[Classify]) -> dict[str, int]:
    return {name: count for name, count in program.counts.as_dict().items() if count}


def commit(pages: int, copied: bool = False, prot: int = RW) -> dict[str, int]:
    """What so many new pages cost in one piece, and before they are touched."""
    accepted = {"eaccept": pages} if prot == RW and not copied else {"eacceptcopy": pages}
    counted = {"eaug_faults": pages, "eaug": pages, **accepted, "untouched_pages": pages}
    return counted | ({"pages_copied": pages} if copied else {})


def fault(pages: int, touched: int = 1, exceptions: int = 1) -> dict[str, int]:
    """What a first touch costs that commits so many pages of anonymous memory."""
    left = {"untouched_pages": pages - touched} if pages > touched else {}
    return {"eaug_faults": pages, "exceptions": exceptions, "eaug": pages, "eaccept": pages} | left


def picture(program: Program[Classify], pages: int, first: int = 0) -> str:
    return "".join(
        LETTERS[program.strategy.pal.committed.get(at(page))]
        for page in range(first, first + pages)
    )


def used(rule: type[Classify], pages: int, prot: int = RW) -> Program[Classify]:
    """Pages that are mapped, committed and touched, and nothing counted."""
    program = fresh(rule)
    program.map(BASE, pages, RW, POPULATE)
    program.touch(BASE, pages)
    if prot != RW:
        program.protect(BASE, pages, prot)
    return program.anew()
