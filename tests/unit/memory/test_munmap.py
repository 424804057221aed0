"""munmap and shmdt: limits of the range, splits at the limit of VMAs, and segments in pieces."""

from __future__ import annotations

from errno import EINVAL, ENOMEM, EPERM

import pytest

from laconic.memory import flags as f
from laconic.memory.change import NOTHING, Outcome
from laconic.memory.munmap import munmap, shmdt, unmapped
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import LEGEND, MAY, PAGE, RW, SHARED, R, at, changes, draw, space

SEGMENT = File(0, 1, 32769, "/SYSV00000001 (deleted)")


@pytest.mark.parametrize(
    ("start", "length", "result"),
    [
        (at(0) + 1, PAGE, -EINVAL),
        (at(0), 0, -EINVAL),
        (f.TASK_SIZE, PAGE, -EINVAL),
        (f.TASK_SIZE - PAGE, PAGE, 0),
        (f.TASK_SIZE - PAGE, PAGE + 1, -EINVAL),
        (f.TASK_SIZE + PAGE, PAGE, -EINVAL),
        (at(0), f.TASK_SIZE, -EINVAL),
    ],
)
def test_the_range_lies_below_the_highest_address(start: int, length: int, result: int) -> None:
    assert munmap(space("...."), start, length).result == result


def test_a_length_is_rounded_up() -> None:
    # wwww  one page and a byte
    # ..ww
    here = space("wwww")
    outcome = munmap(here, at(0), PAGE + 1)
    assert changes(outcome) == ["UNMAP 0-2"] and draw(here.vmas, 4, LEGEND) == "..ww"
    assert (outcome.start, outcome.end) == (at(0), at(2))
    assert munmap(here, at(0), 2 * PAGE) is NOTHING


@pytest.mark.parametrize(
    ("start", "pages", "limit", "result"),
    [
        (1, 1, 2, -ENOMEM),  # splits a VMA in two, at the limit
        (1, 1, 3, 0),
        (0, 1, 2, 0),  # the lower end of the VMA: no split
        (1, 2, 2, 0),  # its upper end
        (1, 3, 2, 0),
        (3, 1, 2, 0),  # a hole
    ],
)
def test_a_split_must_not_exceed_the_limit_of_vmas(
    start: int, pages: int, limit: int, result: int
) -> None:
    # www.w  two VMAs
    here = space("www.w", max_map_count=limit)
    outcome = munmap(here, at(start), pages * PAGE)
    assert outcome.result == result
    if result:
        assert outcome == Outcome(result) and draw(here.vmas, 5, LEGEND) == "www.w"


def test_the_host_must_see_a_refusal_for_what_is_sealed() -> None:
    # vms_gather_munmap_vmas has split the VMAs at both ends by then
    here = space("wwZw")
    assert munmap(here, at(0), 4 * PAGE) == Outcome(-EPERM, ask=True)
    assert unmapped(here, at(0), at(4)) is None
    assert draw(here.vmas, 4, LEGEND) == "wwZw"


# shmdt


def attached(*runs: tuple[int, int, Vma]) -> AddressSpace:
    """VMAs from page to page."""
    here = space("........")
    here.adopt([(at(start), at(end), vma) for start, end, vma in runs])
    return here


def piece(start: int = 0, file: File = SEGMENT, prot: int = RW) -> Vma:
    """A mapping of a segment that was attached at a page."""
    return Vma(prot | MAY | SHARED, file, at(start))


def test_a_segment_is_detached_in_all_its_pieces() -> None:
    # sSws....  one segment: its second page is read-only, its third another mapping by now
    # ..w.....
    here = attached((0, 1, piece()), (1, 2, piece(prot=R)), (2, 3, LEGEND["w"]), (3, 4, piece()))
    outcome = shmdt(here, at(0))
    assert outcome.ask and outcome.result == 0
    assert changes(outcome) == ["UNMAP 0-1", "UNMAP 1-2", "UNMAP 3-4"]
    assert (outcome.start, outcome.end) == (at(0), at(4))
    assert draw(here.vmas, 8, LEGEND) == "..w....."


def test_a_segment_is_named_by_the_address_at_which_it_was_attached() -> None:
    # ss..ss  attached twice
    # ....ss
    here = attached((0, 2, piece()), (4, 6, piece(4)))
    assert changes(shmdt(here, at(0))) == ["UNMAP 0-2"]
    assert shmdt(here, at(5)) == Outcome(-EINVAL)
    # its first page may be gone
    here = attached((2, 3, piece()))
    assert changes(shmdt(here, at(0))) == ["UNMAP 2-3"]


def test_only_segments_are_detached() -> None:
    assert shmdt(attached((0, 1, piece(file=File(8, 1, 5, "/a")))), at(0)) == Outcome(-EINVAL)
    assert shmdt(space("ww"), at(0)) == Outcome(-EINVAL)
    assert shmdt(attached((0, 1, piece())), at(0) + 1) == Outcome(-EINVAL)


def test_another_segment_at_the_same_base_stays() -> None:
    other = File(0, 1, 32770, "/SYSV00000002 (deleted)")
    here = attached((0, 1, piece()), (1, 2, piece(file=other)))
    assert changes(shmdt(here, at(0))) == ["UNMAP 0-1"]
