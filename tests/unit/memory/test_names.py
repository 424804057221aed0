"""The labels that the kernel derives for memory without a file, and the backing of each line."""

from __future__ import annotations

import pytest

from laconic.memory import flags as f
from laconic.memory.names import derived_name, maps_text, stack_start
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import FILE, MAY, RW, SHARED, R, at, space


def of(vma: Vma) -> AddressSpace:
    """One page of a VMA."""
    here = space("..")
    here.adopt([(at(0), at(1), vma)])
    here.start_brk = here.brk = at(2)
    return here


def text_of(vma: Vma) -> str:
    """One page of a VMA as `/proc/PID/maps` shows it."""
    here = of(vma)
    return maps_text(here.vmas, here.heap)


def backing(vma: Vma) -> list[str]:
    """Offset, device, inode and label of the one line of a VMA at page 0."""
    return text_of(vma).split(None, 5)[2:]


@pytest.mark.parametrize(
    ("picture", "page"), [("GG.GG.", 3), ("GG....", 0), ("wwww", None), ("....", None)]
)
def test_the_stack_is_the_highest_that_grows_down(picture: str, page: int | None) -> None:
    assert stack_start(space(picture).vmas) == (-1 if page is None else at(page))


@pytest.mark.parametrize(
    ("start", "end", "name"),
    [
        (2, 3, "[heap]"),
        (1, 3, "[heap]"),
        (3, 5, "[heap]"),
        (1, 2, ""),  # ends where the break starts
        (4, 5, ""),  # starts where the break ends
    ],
)
def test_the_heap_overlaps_the_break(start: int, end: int, name: str) -> None:
    # get_vma_name: vma_is_initial_heap in include/linux/mm.h
    here = space("......")
    here.start_brk, here.brk = at(2), at(4)
    assert derived_name(here.heap, at(start), at(end), Vma(RW | MAY), -1) == name


@pytest.mark.parametrize(
    ("vma", "name"),
    [
        (Vma(R | f.VM_PFNMAP), "[vvar]"),
        (Vma(R | f.VM_EXEC | f.VM_DONTEXPAND), "[vdso]"),
        (Vma(R | f.VM_DONTEXPAND), ""),
        (Vma(R | f.VM_EXEC), ""),
        (Vma(R, name="a b"), "[anon:a b]"),
        (Vma(R, name=""), "[anon:]"),
    ],
)
def test_labels_of_memory_without_a_file(vma: Vma, name: str) -> None:
    assert derived_name(of(vma).heap, at(0), at(1), vma, -1) == name
    assert derived_name(of(vma).heap, at(0), at(1), Vma(RW), at(0)) == "[stack]"


@pytest.mark.parametrize(
    ("vma", "text"),
    [
        (Vma(R), ["00000000", "00:00", "0"]),
        (Vma(R, FILE, at(0)), ["00000000", "08:01", "77", "/lib/file.so\n"]),
        (Vma(R, FILE, at(-5)), ["00005000", "08:01", "77", "/lib/file.so\n"]),
        (Vma(R, File(8, 1, 0, "/SYSV"), at(0)), ["00000000", "08:01", "0", "/SYSV\n"]),
        (Vma(R, File(8, 1, -4, "/log"), at(0)), ["00000000", "00:00", "0", "/log\n"]),
        (
            Vma(R, File(0, 1, -4, "/dev/zero (deleted)"), at(0)),
            ["00000000", "00:01", "0", "/dev/zero (deleted)\n"],
        ),
        (Vma(R, File(0, 3, -1, "?"), at(-5)), ["00000000", "00:00", "0", "?\n"]),
        (Vma(R | SHARED, FILE, at(0), "heap"), ["00000000", "08:01", "77", "[anon_shmem:heap]\n"]),
    ],
)
def test_the_backing_of_a_line(vma: Vma, text: list[str]) -> None:
    assert [word for word in backing(vma) if word] == text


def test_names_start_in_column_73() -> None:
    line = text_of(Vma(R, FILE, at(0))).splitlines()[0]
    assert line.index("/lib") == 73
    assert text_of(Vma(R)).endswith("00:00 0 \n"), "as the kernel prints it"
