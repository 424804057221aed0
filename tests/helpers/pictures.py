"""Address spaces as pictures: one character is one page, a run of the same letter one VMA, a dot a
hole.

    before = space("ww..xx")        # two pages read-write, a hole of two, two read-execute
    assert draw(before.vmas) == "ww..xx"

Page 0 of a picture lies at ORIGIN. LEGEND says what the letters are; `read` takes any other legend.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, TypeVar

from laconic.memory import flags as f
from laconic.memory.change import ChangeKind, Outcome
from laconic.memory.layout import Layout
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma

V = TypeVar("V")

PAGE = 4096
ORIGIN = 0x10_0000_0000
FILE = File(8, 1, 77, "/lib/file.so")
R, W, X = f.PROT_READ, f.PROT_WRITE, f.PROT_EXEC
RW, RX, RWX = R | W, R | X, R | W | X
MAY = f.VM_MAY_RWX
SHARED = f.VM_SHARED | f.VM_MAYSHARE

#: What the letters are. Files are mapped so that page 0 of the picture is page 0 of the file.
LEGEND: dict[str, Vma] = {
    "n": Vma(MAY),
    "r": Vma(R | MAY),
    "w": Vma(RW | MAY),
    "x": Vma(RX | MAY),
    "e": Vma(RWX | MAY),
    "L": Vma(RW | MAY | f.VM_LOCKED),
    "D": Vma(RW | MAY | f.VM_DONTCOPY),
    "Z": Vma(RW | MAY | f.VM_SEALED),
    "G": Vma(RW | MAY | f.VM_GROWSDOWN),
    "f": Vma(R | MAY, FILE, ORIGIN),
    "F": Vma(RX | MAY, FILE, ORIGIN),
    "d": Vma(RW | MAY, FILE, ORIGIN),
    "o": Vma(R | MAY & ~f.VM_MAYWRITE | f.VM_MAYSHARE, FILE, ORIGIN),
    "s": Vma(RW | MAY | SHARED, FILE, ORIGIN),
}


def at(page: int) -> int:
    """The address of a page of the picture."""
    return ORIGIN + page * PAGE


def read(picture: str, legend: Mapping[str, V]) -> list[tuple[int, int, V]]:
    """A picture as entries; a dot is a hole.

    >>> read("AA.B", {"A": 1, "B": 2})[1]
    (68719489024, 68719493120, 2)
    """
    entries = []
    page = 0
    for letter, run in groupby(picture):
        length = len(list(run))
        if letter != ".":
            entries.append((at(page), at(page + length), legend[letter]))
        page += length
    return entries


def draw(vmas: RangeMap[V], pages: int, legend: Mapping[str, V]) -> str:
    """A map's first pages as a picture; a question mark is what the legend does not have."""
    letters = {value: letter for letter, value in legend.items()} | {None: "."}
    return "".join(letters.get(vmas.get(at(page)), "?") for page in range(pages))


def space(picture: str, **rules: Any) -> AddressSpace:
    """An address space as in the picture, its mmap base right above it (`rules` are fields of
    Layout)."""
    layout = Layout(mmap_base=at(len(picture)), **rules)
    return AddressSpace(layout, read(picture, LEGEND), start_brk=at(0))


def changes(outcome: Outcome) -> list[str]:
    """What the host must hear, for comparison: `["EXTEND 2-4"]` is pages 2 and 3."""
    return [
        f"{ChangeKind(change.kind).name} "
        f"{(change.start - ORIGIN) // PAGE}-{(change.end - ORIGIN) // PAGE}"
        for change in outcome.changes
    ]
