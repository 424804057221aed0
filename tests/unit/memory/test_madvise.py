"""madvise and its like: what each advice changes, and what msync passes on."""

from __future__ import annotations

from errno import EBADF, EINVAL, ENOMEM, EOVERFLOW, EPERM

import pytest

from laconic.memory import flags as f
from laconic.memory.change import Outcome
from laconic.memory.madvise import (
    DISCARDS,
    FLAG_ADVICE,
    RESIDENCY,
    madvise,
    mbind,
    mseal,
    msync,
    remap_file_pages,
    set_memory_merge,
    set_vma_name,
)
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import FILE, LEGEND, MAY, PAGE, RW, SHARED, R, at, changes, draw, space

ASIDE = -PAGE & f.ADDRESS_MASK


def of(*vmas: Vma | None, **layout: int) -> AddressSpace:
    """One page of each VMA, from the first page on; None is a hole."""
    here = space("." * len(vmas), **layout)
    entries = [(at(page), at(page + 1), vma) for page, vma in enumerate(vmas) if vma is not None]
    here.adopt(entries)
    return here


def flags_at(here: AddressSpace, page: int) -> int:
    """The flags of the VMA at a page."""
    vma = here.vmas.get(at(page))
    assert vma is not None
    return vma.flags


def private(flags: int, file: File | None = None) -> Vma:
    """A read-write VMA with further flags."""
    return Vma(RW | MAY | flags, file, at(0) if file else 0)


# Advice that sets flags


@pytest.mark.parametrize(
    ("advice", "before", "after"),
    [
        (f.MADV_NORMAL, f.VM_RAND_READ, 0),
        (f.MADV_NORMAL, f.VM_SEQ_READ, 0),
        (f.MADV_RANDOM, f.VM_SEQ_READ, f.VM_RAND_READ),
        (f.MADV_SEQUENTIAL, f.VM_RAND_READ, f.VM_SEQ_READ),
        (f.MADV_DONTFORK, 0, f.VM_DONTCOPY),
        (f.MADV_DOFORK, f.VM_DONTCOPY, 0),
        (f.MADV_WIPEONFORK, 0, f.VM_WIPEONFORK),
        (f.MADV_KEEPONFORK, f.VM_WIPEONFORK, 0),
        (f.MADV_DONTDUMP, 0, f.VM_DONTDUMP),
        (f.MADV_DODUMP, f.VM_DONTDUMP, 0),
        (f.MADV_MERGEABLE, 0, f.VM_MERGEABLE),
        (f.MADV_UNMERGEABLE, f.VM_MERGEABLE, 0),
        (f.MADV_HUGEPAGE, f.VM_NOHUGEPAGE, f.VM_HUGEPAGE),
        (f.MADV_NOHUGEPAGE, f.VM_HUGEPAGE, f.VM_NOHUGEPAGE),
    ],
)
def test_advice_sets_and_clears_flags(advice: int, before: int, after: int) -> None:
    # madvise_vma_behavior in mm/madvise.c
    for prot in (0, RW):
        here = of(Vma(prot | MAY | before))
        outcome = madvise(here, at(0), PAGE, advice)
        assert flags_at(here, 0) == prot | MAY | after
        assert changes(outcome) == ["FLAGS 0-1"]
        here.commit(outcome)
        assert madvise(here, at(0), PAGE, advice) == Outcome(0, (), at(0), at(1))


def test_every_advice_has_one_meaning() -> None:
    groups = [set(FLAG_ADVICE), DISCARDS, RESIDENCY]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 13 + 5 + 7


@pytest.mark.parametrize(
    ("advice", "vma", "result"),
    [
        (f.MADV_DOFORK, private(f.VM_IO), -EINVAL),
        (f.MADV_DOFORK, private(f.VM_PFNMAP), 0),
        (f.MADV_WIPEONFORK, LEGEND["f"], -EINVAL),
        (f.MADV_WIPEONFORK, private(SHARED), -EINVAL),
        (f.MADV_WIPEONFORK, private(0), 0),
        (f.MADV_KEEPONFORK, private(f.VM_DROPPABLE), -EINVAL),
        (f.MADV_KEEPONFORK, private(0), 0),
        (f.MADV_DODUMP, private(f.VM_DROPPABLE), -EINVAL),
        (f.MADV_DODUMP, private(f.VM_DONTEXPAND), -EINVAL),
        (f.MADV_DODUMP, private(f.VM_DONTEXPAND | f.VM_HUGETLB), 0),
        (f.MADV_DODUMP, private(0), 0),
        (f.MADV_DONTDUMP, private(f.VM_DROPPABLE | f.VM_IO), 0),
    ],
)
def test_advice_that_some_mappings_refuse(advice: int, vma: Vma, result: int) -> None:
    assert madvise(of(vma), at(0), PAGE, advice).result == result


@pytest.mark.parametrize(
    ("advice", "flags", "result"),
    [
        (f.MADV_DONTFORK, R, -EPERM),
        (f.MADV_WIPEONFORK, R, -EPERM),
        (f.MADV_DONTFORK, RW, 0),  # what can be written could be emptied too
        (f.MADV_DONTFORK, R | f.VM_DONTEXPAND, 0),
        (f.MADV_DONTDUMP, R, 0),
    ],
)
def test_sealed_memory_must_not_vanish_in_a_child(advice: int, flags: int, result: int) -> None:
    # can_madvise_modify in mm/madvise.c
    outcome = madvise(of(Vma(flags | MAY | f.VM_SEALED)), at(0), PAGE, advice)
    assert (outcome.result, outcome.ask) == (result, result < 0)
    unsealed = madvise(of(Vma(flags | MAY)), at(0), PAGE, advice)
    assert (unsealed.result, unsealed.ask) == (0, False)
    file = madvise(of(Vma(R | MAY | f.VM_SEALED, FILE, at(0))), at(0), PAGE, f.MADV_DONTFORK)
    assert file.result == 0, "a file's contents are elsewhere"


def test_mergeable_spares_what_can_never_be_merged() -> None:
    # vma_ksm_compatible in mm/ksm.c
    here = of(private(SHARED, FILE), private(0))
    outcome = madvise(here, at(0), 2 * PAGE, f.MADV_MERGEABLE)
    assert (outcome.result, changes(outcome)) == (0, ["FLAGS 1-2"])


def test_a_refusal_stops_and_a_hole_does_not() -> None:
    # ww.ff.ww  WIPEONFORK: what is before the file changes, behind the hole too
    here = space("w.wffw")
    outcome = madvise(here, at(0), 6 * PAGE, f.MADV_WIPEONFORK)
    assert (outcome.result, changes(outcome)) == (-EINVAL, ["FLAGS 0-1", "FLAGS 2-3"])
    outcome = madvise(space("w.w"), at(0), 3 * PAGE, f.MADV_WIPEONFORK)
    assert (outcome.result, changes(outcome)) == (-ENOMEM, ["FLAGS 0-1", "FLAGS 2-3"])
    assert madvise(space("fw"), at(0), 2 * PAGE, f.MADV_WIPEONFORK).changes == ()


# Discards and residency


@pytest.mark.parametrize("advice", sorted(DISCARDS))
def test_a_discard_is_a_change_of_contents(advice: int) -> None:
    outcome = madvise(space("ww.w"), at(0), 4 * PAGE, advice)
    assert (outcome.result, changes(outcome)) == (-ENOMEM, ["ZERO 0-2", "ZERO 3-4"])


@pytest.mark.parametrize("advice", sorted(RESIDENCY))
def test_advice_about_residency_is_passed_on(advice: int) -> None:
    # ww.w  POPULATE stops at the hole (madvise_populate), all other advice continues behind it
    outcome = madvise(space("ww.w"), at(0), 4 * PAGE, advice)
    populates = advice in (f.MADV_POPULATE_READ, f.MADV_POPULATE_WRITE)
    assert changes(outcome) == ["ADVISE 0-2", "ADVISE 3-4"][: 1 if populates else 2]
    assert outcome.result == -ENOMEM


@pytest.mark.parametrize(
    ("vma", "opaque", "elided"),
    [
        (private(0), False, True),
        (private(0), True, False),
        (private(f.VM_LOCKED), False, False),
        (private(f.VM_PFNMAP), False, False),
        (private(f.VM_HUGETLB), False, False),
        (private(f.VM_SEALED), False, False),
        (private(0, FILE), False, False),
    ],
)
def test_discarding_untouched_anonymous_memory_is_nothing(
    vma: Vma, opaque: bool, elided: bool
) -> None:
    here = of(vma)
    here.opaque = opaque
    outcome = madvise(here, at(0), PAGE, f.MADV_DONTNEED, untouched=lambda start, end: True)
    assert (outcome.changes == ()) == elided
    free = madvise(here, at(0), PAGE, f.MADV_FREE, untouched=lambda start, end: True)
    assert changes(free) == ["ZERO 0-1"], "only MADV_DONTNEED is judged by touched pages"


# Ranges


@pytest.mark.parametrize(
    ("start", "length", "advice", "result", "only_host"),
    [
        (at(0) + 1, PAGE, f.MADV_NORMAL, -EINVAL, False),
        (at(0), ASIDE, f.MADV_NORMAL, -EINVAL, False),
        (at(0), (1 << 64) - 1, f.MADV_NORMAL, -EINVAL, False),
        (at(0), 0, f.MADV_NORMAL, 0, False),
        (at(0), 0, f.MADV_WILLNEED, 0, False),
        (at(0), 0, f.MADV_DONTNEED, 0, False),
        (at(0), 0, f.MADV_FREE, 0, True),
        (at(5), PAGE, f.MADV_NORMAL, -ENOMEM, False),
        (at(5), PAGE, f.MADV_DONTNEED, -ENOMEM, False),
        (at(5), PAGE, f.MADV_WILLNEED, -ENOMEM, True),
        (at(0), PAGE, f.MADV_HWPOISON, 0, True),
        (at(0), PAGE, -1, 0, True),
    ],
)
def test_ranges_of_madvise(
    start: int, length: int, advice: int, result: int, only_host: bool
) -> None:
    outcome = madvise(space("ww...."), start, length, advice)
    assert (outcome.result, outcome.ask, outcome.changes) == (result, only_host, ())


def test_advice_that_the_kernel_was_built_without() -> None:
    here = space("ww")
    here.layout.refused_advice = frozenset({f.MADV_MERGEABLE})
    assert madvise(here, at(0), PAGE, f.MADV_MERGEABLE) == Outcome(-EINVAL)
    assert madvise(here, at(0), PAGE, f.MADV_HUGEPAGE).result == 0


def test_a_length_is_rounded_up() -> None:
    assert changes(madvise(space("wwww"), at(1), PAGE + 1, f.MADV_FREE)) == ["ZERO 1-3"]


# msync


def test_msync_writes_back_shared_files_that_can_be_written() -> None:
    # sswwoo  shared, private, and shared from a descriptor that is open for reading only
    # 0-2     to the host: nothing else has anything to write
    outcome = msync(space("sswwoo"), at(0), 6 * PAGE, f.MS_SYNC)
    assert (outcome.result, changes(outcome)) == (0, ["ADVISE 0-2"])
    assert msync(space("oo"), at(0), 2 * PAGE, f.MS_SYNC).changes == ()
    assert msync(of(private(SHARED)), at(0), PAGE, f.MS_SYNC).changes == ()


def test_msync_is_cut_to_its_range() -> None:
    assert changes(msync(space("ssss"), at(1), 2 * PAGE, f.MS_SYNC)) == ["ADVISE 1-3"]


def test_msync_reports_a_hole_after_its_work() -> None:
    outcome = msync(space("s.s"), at(0), 3 * PAGE, f.MS_SYNC)
    assert (outcome.result, changes(outcome)) == (-ENOMEM, ["ADVISE 0-1", "ADVISE 2-3"])


@pytest.mark.parametrize("flags", [0, f.MS_ASYNC, f.MS_INVALIDATE])
def test_msync_without_sync_writes_nothing_back(flags: int) -> None:
    assert msync(space("ss"), at(0), 2 * PAGE, flags) == Outcome(0, (), at(0), at(2))


def test_msync_invalidate_of_locked_memory_is_the_host_s_to_refuse() -> None:
    # EBUSY, unless a hole or a failing write-back comes first
    here = of(private(SHARED, FILE), private(SHARED | f.VM_LOCKED, FILE))
    assert msync(here, at(0), 2 * PAGE, f.MS_INVALIDATE) == Outcome(0, ask=True)
    assert not msync(here, at(0), PAGE, f.MS_INVALIDATE).ask
    assert not msync(here, at(0), 2 * PAGE, f.MS_SYNC).ask


def test_ranges_of_msync() -> None:
    here = space("ss")
    assert msync(here, at(0), ASIDE, f.MS_SYNC).result == -ENOMEM
    assert msync(here, at(0), 0, f.MS_SYNC) == Outcome(0)
    assert msync(here, at(0), PAGE, 8).result == -EINVAL


# mseal, names, policies


def test_mseal_asks_the_host_about_what_it_refuses() -> None:
    here = space("ww.")
    for start, length, flags in (
        (at(0), PAGE, 1),
        (at(0) + 1, PAGE, 0),
        (at(0), 0, 0),
        (at(0), (1 << 64) - 1, 0),
        (at(0), ASIDE, 0),
    ):
        assert mseal(here, start, length, flags) == Outcome(0, ask=True)
    assert mseal(here, at(1), 2 * PAGE, 0) == Outcome(-ENOMEM, ask=True)
    outcome = mseal(here, at(0), PAGE, 0)
    assert (outcome.start, outcome.end, changes(outcome)) == (at(0), at(1), ["FLAGS 0-1"])


def test_names_are_for_anonymous_and_shared_memory() -> None:
    # w.wff  named across a hole, up to the file
    here = space("w.wff")
    outcome = set_vma_name(here, at(0), 5 * PAGE, "heap")
    assert (outcome.result, changes(outcome)) == (-EBADF, ["FLAGS 0-1", "FLAGS 2-3"])
    assert (outcome.start, outcome.end) == (at(0), at(5))
    assert here.vmas.get(at(2)) == LEGEND["w"]._replace(name="heap")
    hole = set_vma_name(space("w.w"), at(0), 3 * PAGE, "heap")
    assert (hole.result, len(hole.changes)) == (-ENOMEM, 2)
    assert set_vma_name(space("fw"), at(0), 2 * PAGE, "heap") == Outcome(-EBADF, ask=True)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (File(0, 1, -1, "/dev/zero (deleted)"), True),
        (File(0, 1, 7, "/dev/zero (deleted)"), True),
        (File(8, 1, 7, "/lib/a.so"), False),
    ],
)
def test_names_of_memory_with_a_file(file: File, named: bool) -> None:
    outcome = set_vma_name(of(private(SHARED, file)), at(0), PAGE, "heap")
    assert (outcome.result == 0) == named


def test_a_kernel_without_names_refuses_them() -> None:
    here = space("ww", anon_names=False)
    assert set_vma_name(here, at(0), PAGE, "heap") == Outcome(-EINVAL)
    here = space("ww")
    for start, length in ((at(0) + 1, PAGE), (at(0), 0), (at(0), (1 << 64) - 1), (at(0), ASIDE)):
        assert set_vma_name(here, start, length, "heap") == Outcome(0, ask=True)


def test_mbind_is_passed_on_and_splits_vmas() -> None:
    # wwww  a policy for the two pages in the middle
    here = space("wwww")
    outcome = mbind(here, at(1), 2 * PAGE, (2 | 1 << 15, b"\1"))
    assert outcome.ask and changes(outcome) == ["FLAGS 1-3"]
    here.commit(outcome)
    assert here.map_count == 3
    default = mbind(here, at(0), 4 * PAGE, (1 << 15, b""))
    assert changes(default) == ["FLAGS 1-3"] and here.map_count == 1
    for start, length in ((at(0) + 1, PAGE), (at(0), 0), (at(3), 2 * PAGE), (at(0), ASIDE)):
        assert mbind(here, start, length, (2, b"\1")) == Outcome(0, ask=True)


def test_merging_all_memory_is_for_what_can_be_merged() -> None:
    # ws  PR_SET_MEMORY_MERGE
    here = space("ws")
    outcome = set_memory_merge(here, True)
    assert outcome.ask and changes(outcome) == ["FLAGS 0-1"]
    assert (outcome.start, outcome.end) == (0, f.TASK_SIZE)
    assert not here.merge_any
    here.commit(outcome)
    assert here.merge_any
    again = set_memory_merge(here, True)
    assert again.ask and again.changes == () and again.end == 0
    back = set_memory_merge(here, False)
    assert changes(back) == ["FLAGS 0-1"]
    here.commit(back)
    assert not here.merge_any and draw(here.vmas, 2, LEGEND) == "ws"


# remap_file_pages


def test_remap_file_pages_is_a_new_mapping_of_another_part() -> None:
    # ssss  page 1 shows page 3 of the file
    here = space("ssss")
    outcome = remap_file_pages(here, at(1) + 5, PAGE + 5, 0, 3, 0)
    assert outcome.ask and changes(outcome) == ["FILE 1-2"]
    vma = here.vmas.get(at(1))
    assert vma is not None and at(1) - vma.base == 3 * PAGE
    same = remap_file_pages(space("ssss"), at(1), PAGE, 0, 1, 0)
    assert changes(same) == ["ADVISE 1-2"], "the pages are brought in"


def test_remap_file_pages_keeps_the_protection_and_locks_and_drops_advice() -> None:
    shared = Vma(R | MAY | SHARED | f.VM_LOCKED | f.VM_DONTCOPY, FILE, at(0))
    here = of(shared)
    here.def_flags = f.VM_LOCKONFAULT
    remap_file_pages(here, at(0), PAGE, 0, 0, 0, read_implies_exec=True)
    expected = R | f.VM_EXEC | MAY | SHARED | f.VM_LOCKED | f.VM_LOCKONFAULT
    assert flags_at(here, 0) == expected
    for kept, exec_ in ((f.VM_READ, False), (f.VM_MAYEXEC, False)):
        here = of(Vma((R | MAY | SHARED) & ~kept, FILE, at(0)))
        remap_file_pages(here, at(0), PAGE, 0, 0, 0, read_implies_exec=True)
        assert bool(flags_at(here, 0) & f.VM_EXEC) == exec_


@pytest.mark.parametrize(
    ("flags", "path", "result", "resync"),
    [
        (SHARED, "/a", 0, False),
        (f.VM_MAYSHARE, "/a", -EINVAL, False),
        (SHARED | f.VM_SEALED, "/a", -EPERM, False),
        (SHARED | f.VM_DONTEXPAND, "/a", 0, True),
        (SHARED | f.VM_HUGETLB, "/a", 0, True),
        (SHARED | f.VM_SYNC, "/a", 0, True),
        (SHARED, "/secretmem (deleted)", 0, True),
    ],
)
def test_mappings_of_remap_file_pages(flags: int, path: str, result: int, resync: bool) -> None:
    here = of(Vma(RW | MAY | flags, File(8, 1, 7, path), at(0)))
    outcome = remap_file_pages(here, at(0), PAGE, 0, 0, 0)
    assert (outcome.result, outcome.resync) == (result, resync)
    if resync:
        assert (outcome.ask, outcome.start, outcome.end) == (True, at(0), at(1))


def test_ranges_of_remap_file_pages() -> None:
    here = space("ssw.")
    assert remap_file_pages(here, at(0), 3 * PAGE, 0, 0, 0).resync, "more than one VMA"
    for start, size, prot, pgoff in (
        (at(3), PAGE, 0, 0),
        (at(2), PAGE, 0, 0),
        (at(0), PAGE, R, 0),
        (at(0), PAGE - 1, 0, 0),
        (at(0), PAGE, 0, (1 << 64) - 1),
    ):
        assert remap_file_pages(here, start, size, prot, pgoff, 0).result == -EINVAL
    largest = (1 << 63) // PAGE
    assert remap_file_pages(here, at(0), PAGE, 0, largest - 1, 0).result == -EOVERFLOW
    assert remap_file_pages(here, at(0), PAGE, 0, largest - 2, 0).result == 0
