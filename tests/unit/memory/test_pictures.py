"""Every memory call in pictures: the pages before, the call, the pages after, and the changes for
the host.

`src/laconic/memory/README.md` shows the same pictures; `LACONIC_README=write pytest FILE` writes
them there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from errno import errorcode
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from laconic import memory
from laconic.memory import flags as f
from laconic.memory.brk import brk
from laconic.memory.change import Outcome
from laconic.memory.layout import Layout
from laconic.memory.madvise import madvise, mseal
from laconic.memory.mlock import mlock, mlockall, munlock
from laconic.memory.mmap import OpenFile, mmap
from laconic.memory.mprotect import mprotect
from laconic.memory.mremap import mremap
from laconic.memory.munmap import munmap
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from tests.helpers.pictures import FILE, LEGEND, PAGE, RW, RX, R, at, changes, draw, read, space

Make = Callable[[AddressSpace], Outcome]
ANONYMOUS = f.MAP_PRIVATE | f.MAP_ANONYMOUS
OPEN = OpenFile(FILE, readable=True, writable=True)


def protect(start: int, pages: int, prot: int) -> Make:
    return lambda here: mprotect(here, at(start), pages * PAGE, prot)


def unmap(start: int, pages: int) -> Make:
    return lambda here: munmap(here, at(start), pages * PAGE)


def fixed(start: int, pages: int, prot: int, untouched: bool = False) -> Make:
    def call(here: AddressSpace) -> Outcome:
        flags = ANONYMOUS | f.MAP_FIXED
        return mmap(
            here,
            at(start),
            pages * PAGE,
            prot,
            flags,
            None,
            0,
            untouched=lambda start, end: untouched,
        )

    return call


def file(start: int, pages: int, prot: int, offset: int) -> Make:
    def call(here: AddressSpace) -> Outcome:
        flags = f.MAP_PRIVATE | f.MAP_FIXED
        return mmap(here, at(start), pages * PAGE, prot, flags, OPEN, offset * PAGE)

    return call


def anywhere(pages: int, prot: int, hint: int | None = None, extra: int = 0) -> Make:
    def call(here: AddressSpace) -> Outcome:
        return mmap(
            here, 0 if hint is None else at(hint), pages * PAGE, prot, ANONYMOUS | extra, None, 0
        )

    return call


def remap(start: int, old: int, new: int, flags: int, to: int = 0) -> Make:
    return lambda here: mremap(here, at(start), old * PAGE, new * PAGE, flags, at(to))


def advise(start: int, pages: int, advice: int, untouched: bool = False) -> Make:
    return lambda here: madvise(
        here, at(start), pages * PAGE, advice, untouched=lambda start, end: untouched
    )


MAYMOVE, FIXED = f.MREMAP_MAYMOVE, f.MREMAP_MAYMOVE | f.MREMAP_FIXED
DONTUNMAP = f.MREMAP_MAYMOVE | f.MREMAP_DONTUNMAP
ENOMEM, EFAULT, EINVAL, EEXIST, EACCES, EPERM = -12, -14, -22, -17, -13, -1

#: Of each call: what the picture shows, before, call, after, changes, result (None: an address).
PICTURES: dict[str, list[tuple[str, str, Make, str, list[str], int | None]]] = {
    "mprotect": [
        ("equal is nothing", "wwww", protect(0, 4, RW), "wwww", [], 0),
        ("less", "wwww", protect(1, 2, R), "wrrw", ["RESTRICT 1-3"], 0),
        ("more", "rrrr", protect(1, 2, RW), "rwwr", ["EXTEND 1-3"], 0),
        ("other", "wwww", protect(0, 4, RX), "xxxx", ["EXTEND|RESTRICT 0-4"], 0),
        ("back again merges", "wrrw", protect(1, 2, RW), "wwww", ["EXTEND 1-3"], 0),
        (
            "mixed: just the run that differs",
            "wwrrww",
            protect(0, 6, RW),
            "wwwwww",
            ["EXTEND 2-4"],
            0,
        ),
        ("two runs", "rrwwnn", protect(0, 6, RW), "wwwwww", ["EXTEND 0-2", "EXTEND 4-6"], 0),
        ("commit of a reservation", "nnnnnn", protect(2, 2, RW), "nnwwnn", ["EXTEND 2-4"], 0),
        (
            "a hole: what is before it changes",
            "ww..ww",
            protect(0, 6, R),
            "rr..ww",
            ["RESTRICT 0-2"],
            ENOMEM,
        ),
        ("a hole at the start: nothing does", "..wwww", protect(0, 6, R), "..wwww", [], ENOMEM),
        (
            "a refusal: what is before it changes",
            "rroo",
            protect(0, 4, RW),
            "wwoo",
            ["EXTEND 0-2"],
            EACCES,
        ),
        (
            "sealed: what is before it changes",
            "wwZZ",
            protect(0, 4, R),
            "rrZZ",
            ["RESTRICT 0-2"],
            EPERM,
        ),
        ("sealed fails even where equal", "ZZ", protect(0, 2, RW), "ZZ", [], EPERM),
        ("no pages", "ww", protect(1, 0, R), "ww", [], 0),
        (
            "GROWSDOWN from the start",
            "..GG",
            protect(3, 1, R | f.PROT_GROWSDOWN),
            "..??",
            ["RESTRICT 2-4"],
            0,
        ),
        ("a file", "ffff", protect(1, 2, RX), "fFFf", ["EXTEND 1-3"], 0),
    ],
    "munmap": [
        ("a hole is nothing", "ww..ww", unmap(2, 2), "ww..ww", [], 0),
        ("nothing at all", "......", unmap(0, 6), "......", [], 0),
        ("the middle", "wwwwww", unmap(2, 2), "ww..ww", ["UNMAP 2-4"], 0),
        ("holes need no host call", "ww..rr", unmap(0, 6), "......", ["UNMAP 0-2", "UNMAP 4-6"], 0),
        ("sealed: nothing goes", "wwZw", unmap(0, 4), "wwZw", [], EPERM),
    ],
    "mmap": [
        ("into a hole", "ww..ww", fixed(2, 2, RW), "wwwwww", ["MAP 2-4"], None),
        ("the JVM trap: equal, touched", "wwww", fixed(1, 2, RW), "wwww", ["ZERO 1-3"], None),
        ("equal and untouched is nothing", "wwww", fixed(1, 2, RW, True), "wwww", [], None),
        ("only what differs of it", "wwnn", fixed(0, 4, RW, True), "wwww", ["EXTEND 2-4"], None),
        ("over a file", "ff", fixed(0, 2, R), "rr", ["FILE 0-2"], None),
        (
            "ld.so: a segment over the reservation",
            "ffffff",
            file(2, 2, RX, 2),
            "ffFFff",
            ["EXTEND|ZERO 2-4"],
            None,
        ),
        (
            "ld.so: data from another offset",
            "ffff",
            file(2, 2, RW, 1),
            "ff??",
            ["FILE|EXTEND 2-4"],
            None,
        ),
        ("sealed: nothing goes", "wwZw", fixed(0, 4, R), "wwZw", [], EPERM),
        (
            "the highest hole that fits",
            "w..w...w.w",
            anywhere(3, RW),
            "w..wwwww.w",
            ["MAP 4-7"],
            None,
        ),
        ("a hint that fits", "......", anywhere(2, RW, hint=1), ".ww...", ["MAP 1-3"], None),
        ("a hint that does not", "..rr..", anywhere(2, RW, hint=1), "..rrww", ["MAP 4-6"], None),
        (
            "NOREPLACE",
            "..ww",
            anywhere(3, RW, hint=0, extra=f.MAP_FIXED_NOREPLACE),
            "..ww",
            [],
            EEXIST,
        ),
    ],
    "mremap": [
        ("the same size", "ww", remap(0, 2, 2, 0), "ww", [], None),
        ("shrinks", "wwww", remap(0, 4, 1, 0), "w...", ["UNMAP 1-4"], None),
        ("grows where it is", "ww...", remap(0, 2, 4, 0), "wwww.", ["MAP 2-4"], None),
        ("cannot grow", "wwr..", remap(0, 2, 4, 0), "wwr..", [], ENOMEM),
        (
            "goes to a free place",
            "wwr....",
            remap(0, 2, 4, MAYMOVE),
            "..rwwww",
            ["UNMAP 0-2", "MAP 3-5", "MAP 5-7"],
            None,
        ),
        (
            "goes where it must",
            "ww..rr",
            remap(0, 2, 2, FIXED, 4),
            "....ww",
            ["UNMAP 0-2", "EXTEND|ZERO 4-6"],
            None,
        ),
        (
            "the target loses its contents",
            "ww..ww",
            remap(0, 2, 2, FIXED, 4),
            "....ww",
            ["UNMAP 0-2", "ZERO 4-6"],
            None,
        ),
        (
            "a file's base moves along",
            "ff....",
            remap(0, 2, 2, FIXED, 4),
            "....??",
            ["UNMAP 0-2", "MAP 4-6"],
            None,
        ),
        (
            "DONTUNMAP",
            "ww....",
            remap(0, 2, 2, DONTUNMAP, 4),
            "ww..ww",
            ["ZERO 0-2", "MAP 4-6"],
            None,
        ),
        (
            "shrinks and goes",
            "wwww....",
            remap(0, 4, 2, FIXED, 6),
            "......ww",
            ["UNMAP 0-2", "UNMAP 2-4", "MAP 6-8"],
            None,
        ),
        ("a hole", "..ww", remap(0, 2, 4, MAYMOVE), "..ww", [], EFAULT),
        ("over the end", "wwrr", remap(1, 2, 4, MAYMOVE), "wwrr", [], EFAULT),
    ],
    "madvise": [
        ("DONTFORK", "wwww", advise(1, 2, f.MADV_DONTFORK), "wDDw", ["FLAGS 1-3"], 0),
        ("DONTFORK twice", "DDDD", advise(0, 4, f.MADV_DONTFORK), "DDDD", [], 0),
        (
            "behind a hole it goes on",
            "ww.w",
            advise(0, 4, f.MADV_DONTFORK),
            "DD.D",
            ["FLAGS 0-2", "FLAGS 3-4"],
            ENOMEM,
        ),
        (
            "DONTNEED of touched memory",
            "wwww",
            advise(1, 2, f.MADV_DONTNEED),
            "wwww",
            ["ZERO 1-3"],
            0,
        ),
        (
            "DONTNEED of untouched memory",
            "wwww",
            advise(1, 2, f.MADV_DONTNEED, True),
            "wwww",
            [],
            0,
        ),
        (
            "WIPEONFORK of a file",
            "wwff",
            advise(0, 4, f.MADV_WIPEONFORK),
            "??ff",
            ["FLAGS 0-2"],
            EINVAL,
        ),
    ],
    "mlock": [
        ("locks", "wwww", lambda here: mlock(here, at(1), 2 * PAGE), "wLLw", ["FLAGS 1-3"], 0),
        (
            "locks as far as the hole",
            "ww.w",
            lambda here: mlock(here, at(0), 4 * PAGE),
            "LL.w",
            ["FLAGS 0-2"],
            ENOMEM,
        ),
        ("unlocks", "wLLw", lambda here: munlock(here, at(0), 4 * PAGE), "wwww", ["FLAGS 1-3"], 0),
        ("nothing to unlock", "wwww", lambda here: munlock(here, at(0), 4 * PAGE), "wwww", [], 0),
    ],
    "mseal": [
        ("seals", "wwww", lambda here: mseal(here, at(1), 2 * PAGE, 0), "wZZw", ["FLAGS 1-3"], 0),
        (
            "seals nothing with a hole in it",
            "w.ww",
            lambda here: mseal(here, at(0), 4 * PAGE, 0),
            "w.ww",
            [],
            ENOMEM,
        ),
    ],
    "brk": [
        ("grows", ".....", lambda here: brk(here, at(2)), "ww...", ["MAP 0-2"], at(2)),
        ("one page must stay free", "..r..", lambda here: brk(here, at(2)), "..r..", [], at(0)),
        ("a stack's gap too", "...G.", lambda here: brk(here, at(1)), "...G.", [], at(0)),
    ],
}

CASES = [case for cases in PICTURES.values() for case in cases]


each_case = pytest.mark.parametrize(
    ("before", "call", "after", "expected", "result"),
    [case[1:] for case in CASES],
    ids=[f"{c[1]}: {c[0]}" for c in CASES],
)


@each_case
def test_call(before: str, call: Make, after: str, expected: list[str], result: int | None) -> None:
    here = space(before)
    outcome = call(here)
    assert draw(here.vmas, len(before), LEGEND) == after
    assert changes(outcome) == expected
    assert outcome.result == result if result is not None else outcome.result > 0
    assert draw(here.held, len(before), LEGEND) == before, "held waits for the host"
    here.commit(outcome)
    here.check()


@each_case
def test_rollback(
    before: str, call: Make, after: str, expected: list[str], result: int | None
) -> None:
    here = space(before)
    outcome = call(here)
    if outcome.end:
        here.rollback(outcome.start, outcome.end)
    assert draw(here.vmas, len(before), LEGEND) == before
    if expected:
        here.check()


def test_after_a_failed_call_the_host_s_part_is_taken_over() -> None:
    here = space("rrwwrr")
    outcome = protect(0, 6, RX)(here)
    host: RangeMap[object] = RangeMap()
    for start, end, vma in read("xxwwrr", LEGEND):
        host.set(start, end, vma)
    here.settle(outcome.start, outcome.end, host)  # type: ignore[arg-type]
    assert draw(here.vmas, 6, LEGEND) == "xxwwrr"
    here.check()


def test_the_sources_of_a_move() -> None:
    here = space("wwr......")
    outcome = remap(0, 2, 4, MAYMOVE)(here)
    maps = [change for change in outcome.changes if change.source is not None]
    assert [(change.start, change.source) for change in maps] == [(at(5), at(0))]
    over = remap(0, 2, 2, FIXED, 3)(space("wwrw."))
    assert [change.source for change in over.changes if change.kind != 2] == [at(0), at(1)]


def test_fork() -> None:
    here = space("wwDDLLrr")
    child = here.fork()
    assert draw(child.vmas, 8, LEGEND) == "ww..wwrr"
    child.check()
    assert draw(here.vmas, 8, LEGEND) == "wwDDLLrr"


def lines_of_fork(vmas: int) -> int:
    """How many lines of Python a fork of an address space with so many VMAs executes."""
    entries = [(at(i), at(i + 1), LEGEND["w" if i % 2 else "r"]) for i in range(vmas)]
    parent = AddressSpace(Layout(), entries)
    lines = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        child = parent.fork()
    finally:
        sys.settrace(None)
    assert list(child.vmas) == list(parent.vmas)
    return lines


def test_fork_does_no_work_for_each_vma() -> None:
    assert lines_of_fork(4000) - lines_of_fork(2000) < 2000 / 4


def test_mlockall_for_what_is_to_come() -> None:
    here = space("ww......")
    outcome = mlockall(here, f.MCL_FUTURE)
    assert draw(here.vmas, 2, LEGEND) == "ww"
    here.commit(outcome)
    anywhere(2, RW)(here)
    assert draw(here.vmas, 8, LEGEND) == "ww....LL"


@pytest.mark.parametrize(
    ("ours", "host", "after", "grown"),
    [
        ("......GG", "...GGGGG", "...GGGGG", 3),
        ("..GG..GG", ".GGGGGGG", ".GGGGGGG", 3),
        ("..ww..GG", "..wwGGGG", "..wwGGGG", 2),
        ("..ww....", "..wwGGGG", "..ww....", 0),
        ("......GG", "......GG", "......GG", 0),
    ],
)
def test_growth_of_stacks(ours: str, host: str, after: str, grown: int) -> None:
    here = space(ours)
    assert here.grow(space(host).vmas) == grown * PAGE
    assert draw(here.vmas, 8, LEGEND) == after
    here.check()


def test_a_guard_gap_keeps_new_mappings_away_from_a_stack() -> None:
    here = space("." * 300 + "GG")
    outcome = anywhere(2, RW)(here)
    assert outcome.result == at(300 - 256 - 2)


def test_prot_growsdown_begins_where_the_vma_of_the_host_begins() -> None:
    """The four pages look alike, and are two VMAs of two pages each in the host."""
    here = space("GGGG")
    mprotect(here, at(3), PAGE, R | f.PROT_GROWSDOWN, vma_start=lambda address: at(2))
    restricted = here.vmas.find(at(3))
    assert restricted[:2] == (at(2), at(4))
    assert here.vmas.find(at(0))[:2] == (at(0), at(2))


README = Path(memory.__file__).with_name("README.md")
BEGIN, END = "<!-- pictures -->\n", "<!-- end of the pictures -->\n"


def _drawn() -> str:
    blocks = []
    for call, cases in PICTURES.items():
        lines = [f"{'before':<10} {'after':<10} {'changes':<24} what it shows"]
        for name, before, _, after, expected, result in cases:
            errno = f" ({errorcode[-result]})" if result is not None and -4096 < result < 0 else ""
            lines.append(
                f"{before:<10} {after:<10} {', '.join(expected) or 'nothing':<24} {name}{errno}"
            )
        blocks.append(f"### {call}\n\n```text\n" + "\n".join(lines) + "\n```\n")
    return "\n".join(blocks)


def test_the_readme_shows_these_pictures() -> None:
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    shown, _, tail = rest.partition(END)
    if os.environ.get("LACONIC_README") == "write":
        README.write_text(f"{head}{BEGIN}\n{_drawn()}\n{END}{tail}")
        return
    assert shown.strip() == _drawn().strip()
