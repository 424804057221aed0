"""The two phases of a call: what reaches the host, and what its answer does to the bookkeeping."""

from __future__ import annotations

from errno import ENOMEM

import pytest

from laconic.linux.pal import only_changes, skip_equal
from laconic.memory import flags as f
from laconic.memory.bookkeeper import (
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    Answered,
    Bookkeeper,
    as_made,
    at_address,
    chooses,
    edits,
    refused,
)
from laconic.memory.calls import Arguments, Call
from laconic.memory.change import ADVISE, EXTEND, MAP, ZERO, Change, Outcome
from laconic.memory.ledger import CallCount, Ledger
from laconic.memory.mmap import OpenFile
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.upcalls import DefaultUpcalls
from laconic.memory.vma import File, Vma
from tests.helpers.pictures import FILE, LEGEND, MAY, PAGE, RW, SHARED, R, at, draw, space

ANON = f.MAP_PRIVATE | f.MAP_ANONYMOUS
DESCRIPTOR = 3
MASK = f.ADDRESS_MASK


class Host(DefaultUpcalls):
    """A host whose map is a picture, or what is held; `reads` counts how often it was read."""

    def __init__(self, here: AddressSpace, picture: str | None = None) -> None:
        super().__init__(here)
        self.picture = picture
        self.memory = b""
        self.shown: File | None = None
        self.asked_for: list[int] = []
        self.reads: list[tuple[int, int] | None] = []

    def _map(self) -> RangeMap[Vma]:
        return self.space.held.copy() if self.picture is None else space(self.picture).vmas

    def maps(self) -> RangeMap[Vma]:
        self.reads.append(None)
        return self._map()

    def maps_in(self, start: int, end: int) -> RangeMap[Vma]:
        self.reads.append((start, end))
        return self._map()

    def read(self, address: int, length: int) -> bytes:
        return self.memory if (address, length) == (0x1000, 8) else b""

    def shown_file(self, fd: int, address: int, file: File) -> File:
        self.asked_for.append(fd)
        return file if self.shown is None else self.shown


def six(*args: int) -> Arguments:
    """Six arguments, as in registers."""
    return (*(value & MASK for value in args), *[0] * (6 - len(args)))


class Run:
    """One address space from a picture, with a bookkeeper and a host."""

    def __init__(
        self, picture: str, host: str | None = None, observe: bool = False, **layout: int
    ) -> None:
        self.space = space(picture, **layout)
        self.host = Host(self.space, host)
        self.ledger = Ledger()
        self.book = Bookkeeper(only_changes, self.ledger, observe)

    def call(self, name: str, *args: int, value: int | None = None) -> Answered | None:
        """Make a call; the host answers `value`, or as predicted. None: it was elided."""
        arguments = six(*args)
        outcome = self.book.begin(self.space, name, arguments, self.host)
        host_args = self.book.host_arguments(name, arguments, outcome)
        if host_args is None:
            self.book.finish_elided(name, outcome)
            return None
        answer = outcome.result if value is None else value
        call = Call(name, arguments)
        return self.book.finish(self.space, call, outcome, host_args, answer, self.host)

    def wanted(self, pages: int) -> str:
        """The wanted state as a picture; it must be held too."""
        drawn = draw(self.space.vmas, pages, LEGEND)
        assert drawn == draw(self.space.held, pages, LEGEND)
        return drawn


# As predicted


def test_a_call_without_changes_is_elided_and_counted() -> None:
    run = Run("wwww")
    assert run.call("mprotect", at(0), PAGE, RW) is None
    assert run.call("mprotect", at(5), PAGE, RW) is None
    assert run.ledger.by_call == {"mprotect": CallCount(calls=2, elided=2, redundant=1, failed=1)}


def test_an_elided_call_takes_effect_too() -> None:
    run = Run("ww")
    effects: list[str] = []
    outcome = Outcome(7, then=lambda: effects.append("then"))
    assert run.book.finish_elided("brk", outcome) == 7
    assert effects == ["then"]


def test_a_call_that_the_host_did_as_predicted_is_held_and_counted() -> None:
    # wwww  one page of four changes: the host call is narrowed to it
    # wrww
    run = Run("rwrr")
    answered = run.call("mprotect", at(0), 4 * PAGE, R)
    assert answered is not None and answered.result == 0 and not answered.chosen
    assert [(change.start, change.end) for change in answered.changes] == [(at(1), at(2))]
    assert run.wanted(4) == "rrrr"
    assert run.ledger.by_call == {"mprotect": CallCount(calls=1, host_calls=1, narrowed=1)}
    assert run.ledger.changes()["restrict"] == 1
    assert run.host.reads == []


def test_a_whole_call_is_not_counted_as_narrowed() -> None:
    run = Run("wwww")
    run.call("mprotect", at(0), 4 * PAGE, R)
    assert run.ledger.by_call == {"mprotect": CallCount(calls=1, host_calls=1)}


def test_a_redundant_mapping_that_reaches_the_host_has_no_identity_to_read() -> None:
    # ww  mapped again, untouched, and passed on nevertheless
    run = Run("ww", observe=True)
    run.host.untouched = lambda start, end: True  # type: ignore[method-assign]
    fixed = ANON | f.MAP_FIXED
    assert run.call("mmap", at(0), 2 * PAGE, RW, fixed, -1, 0) == Answered(at(0), ())
    assert run.host.asked_for == [] and run.host.reads == []


# Refused


def test_after_a_refused_call_the_host_s_map_is_read_and_taken_over() -> None:
    # wwwwww  mprotect of all six pages
    # rrwwww  the host did two of them, and refused
    run = Run("wwwwww", "rrwwww")
    answered = run.call("mprotect", at(0), 6 * PAGE, R, value=-ENOMEM)
    assert answered == Answered(-ENOMEM, ())
    assert run.wanted(6) == "rrwwww"
    assert run.host.reads == [(at(0), at(6))], "the range of the call, and no more"
    assert run.ledger.by_call == {"mprotect": CallCount(calls=1, host_calls=1, failed=1)}


def test_a_refused_mapping_that_the_host_places_is_not_there() -> None:
    # __mmap_region maps all of it or nothing: the host's map need not be read
    run = Run("....")
    assert run.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, value=-ENOMEM) == Answered(-ENOMEM, ())
    assert run.wanted(4) == "...."
    assert run.host.reads == []


def test_a_refused_mapping_at_a_fixed_address_may_have_unmapped_what_was_there() -> None:
    # wwww  MAP_FIXED over two pages, refused after they were unmapped
    # w..w
    run = Run("wwww", "w..w")
    run.call("mmap", at(1), 2 * PAGE, R, ANON | f.MAP_FIXED, -1, 0, value=-ENOMEM)
    assert run.wanted(4) == "w..w"


def test_a_refused_move_may_have_unmapped_its_target() -> None:
    # ww..rr  mremap to pages 4 and 5, refused after those were unmapped
    # ww....
    run = Run("ww..rr", "ww....")
    both = f.MREMAP_MAYMOVE | f.MREMAP_FIXED
    run.call("mremap", at(0), 2 * PAGE, 2 * PAGE, both, at(4), value=-ENOMEM)
    assert run.wanted(6) == "ww...."


def test_an_error_that_was_predicted_keeps_the_changes_before_it() -> None:
    # ww.  mprotect across a hole: ENOMEM, after the two pages before it changed
    # rr.
    run = Run("ww.", "rr.")
    answered = run.call("mprotect", at(0), 3 * PAGE, R)
    assert answered is not None and answered.result == -ENOMEM and len(answered.changes) == 1
    assert run.wanted(3) == "rr."
    assert run.host.reads == [(at(0), at(3))], "the changes are confirmed by the host's map"


def test_an_error_without_changes_needs_no_look() -> None:
    run = Run("wwZw", "....")
    assert run.call("munmap", at(0), 4 * PAGE) == Answered(-1, ())
    assert run.wanted(4) == "wwZw" and run.host.reads == []


@pytest.mark.parametrize("value", [-ERESTARTSYS, -ERESTART_RESTARTBLOCK, -514])
def test_a_call_that_the_kernel_restarts_is_not_counted_yet(value: int) -> None:
    run = Run("wwww", "wwww")
    assert run.call("mprotect", at(0), PAGE, R, value=value) == Answered(value, ())
    assert run.wanted(4) == "wwww"
    assert run.ledger.by_call == {}


@pytest.mark.parametrize("value", [-ERESTARTSYS, -ENOMEM])
def test_a_move_within_one_vma_that_stops_halfway_is_looked_at(value: int) -> None:
    # wwww  page 2 moves over page 1, which looks the same; the host has unmapped only the target
    # w.ww
    run = Run("wwww", "w.ww")
    move = f.MREMAP_MAYMOVE | f.MREMAP_FIXED | f.MREMAP_DONTUNMAP
    assert run.call("mremap", at(2), PAGE, PAGE, move, at(1), value=value) == Answered(value, ())
    assert run.wanted(4) == "w.ww"


@pytest.mark.parametrize("value", [-ERESTARTSYS + 1, -ERESTART_RESTARTBLOCK - 1])
def test_other_errors_are_results(value: int) -> None:
    run = Run("wwww", "wwww")
    run.call("mprotect", at(0), PAGE, R, value=value)
    assert run.ledger.by_call["mprotect"].failed == 1


def test_a_break_that_the_host_refuses_is_where_the_bookkeeping_has_it() -> None:
    # .....  brk up: the host's own break has no part in a page that the bookkeeping moved alone
    run = Run(".....", ".....")
    run.space.brk = at(0) + 5
    assert run.call("brk", at(2), value=at(0)) == Answered(at(0) + 5, ())
    assert run.wanted(5) == "....."


# Another answer


def test_an_address_that_the_host_chose_otherwise_is_taken_over() -> None:
    # ......  predicted right below the base; the host chose page 1
    # .ww...
    run = Run("......")
    answered = run.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, value=at(1))
    assert answered is not None and answered.chosen and answered.result == at(1)
    assert run.wanted(6) == ".ww..."
    assert run.ledger.resynced == 0


def test_a_place_that_only_the_host_could_choose() -> None:
    run = Run("......")
    run.space.layout.mmap_base = None
    answered = run.call("mmap", 0, 2 * PAGE, RW, ANON, -1, 0, value=at(3))
    assert answered is not None and answered.chosen
    assert [(change.kind, change.start) for change in answered.changes] == [(MAP, at(3))]
    assert run.wanted(6) == "...ww."
    assert run.space.layout.mmap_base == at(5)


def test_a_move_to_a_place_that_only_the_host_could_choose() -> None:
    # ww....  grows to three pages; the host moves it to page 3
    # ...www
    run = Run("wwr....")
    run.space.layout.mmap_base = None
    move = at(0), 2 * PAGE, 3 * PAGE, f.MREMAP_MAYMOVE
    answered = run.call("mremap", *move, value=at(4))
    assert answered is not None and answered.result == at(4)
    assert run.wanted(7) == "..r.www"


def test_a_move_that_the_host_placed_otherwise() -> None:
    # wwr....  predicted at the top; the host moved it to page 3
    run = Run("wwr.....")
    answered = run.call("mremap", at(0), 2 * PAGE, 3 * PAGE, f.MREMAP_MAYMOVE, value=at(3))
    assert answered is not None and answered.chosen
    assert run.wanted(8) == "..rwww.."


def test_a_result_that_the_bookkeeping_cannot_explain_is_read_from_the_host() -> None:
    # ZZ  the host unmapped what is sealed to the bookkeeping
    # ..
    run = Run("ZZ", "..")
    assert run.call("munmap", at(0), 2 * PAGE, value=0) == Answered(0, ())
    assert run.wanted(2) == ".."
    assert run.ledger.unmodeled == {"munmap": 1}
    assert run.host.reads == [None]


def test_a_call_that_is_not_modeled_is_read_from_the_host() -> None:
    run = Run("ww", "rr")
    assert run.call("i386_brk", at(1), value=at(1)) == Answered(at(1), ())
    assert run.space.brk == at(1) and run.wanted(2) == "rr"
    assert run.ledger.by_call["other"].calls == 1, "32-bit calls are counted together"
    run.call("arch_prctl", 1, 2)
    assert "arch_prctl" not in run.ledger.by_call and run.ledger.resynced == 2
    assert run.space.brk == at(1)


def test_a_refused_call_that_is_not_modeled_is_read_too() -> None:
    run = Run("ww", "rr")
    run.call("arch_prctl", 1, 2, value=-22)
    assert run.wanted(2) == "rr"


def test_userfaultfd_is_not_counted_as_a_memory_call() -> None:
    run = Run("ww")
    run.call("userfaultfd", 0, value=5)
    assert run.ledger.by_call == {} and run.space.opaque


def test_a_call_of_a_process_that_is_not_followed_is_not_modeled() -> None:
    run = Run("ww")
    outcome = run.book.begin(run.space, "mprotect", six(at(0), PAGE, R), run.host, followed=False)
    assert (outcome.ask, outcome.resync) == (True, True)
    assert run.book.begin(run.space, "unheard_of", six(), run.host).resync


# What the host must describe


def test_a_new_file_mapping_takes_the_identity_that_the_host_shows() -> None:
    # ....  a file: the host shows it under another device
    run = Run("....")
    run.host.files[DESCRIPTOR] = OpenFile(FILE, True, True)
    run.host.shown = File(0, 44, 9, "/lib/file.so")
    private = f.MAP_PRIVATE | f.MAP_FIXED
    run.call("mmap", at(1), PAGE, R, private, DESCRIPTOR | 5 << 32, 0)
    for maps in (run.space.vmas, run.space.held):
        vma = maps.get(at(1))
        assert vma is not None and vma.file == run.host.shown
    assert run.host.asked_for == [DESCRIPTOR] and run.host.reads == []


def test_shared_memory_is_identified_without_a_descriptor() -> None:
    run = Run("....")
    run.host.files = {-1: OpenFile(FILE, True, True, plain=False)}
    run.call("mmap", at(0), PAGE, RW, f.MAP_SHARED | f.MAP_ANONYMOUS | f.MAP_FIXED, -1, 0)
    assert run.host.asked_for == [-1] and run.host.reads == []
    run.call("mmap", at(1), PAGE, RW, ANON | f.MAP_FIXED, -1, 0)
    assert run.host.asked_for == [-1], "private anonymous memory has no identity"


@pytest.mark.parametrize("fd", [0, DESCRIPTOR])
def test_the_flags_of_a_device_are_read_from_the_host(fd: int) -> None:
    # ....  a device: its mapping is what the host shows
    # .x..
    run = Run("....", ".x..")
    run.host.files[fd] = OpenFile(FILE, True, True, plain=False)
    run.call("mmap", at(1), PAGE, R, f.MAP_PRIVATE | f.MAP_FIXED, fd, 0)
    assert run.wanted(4) == ".x.." and run.host.reads == [None]


def test_huge_pages_are_read_from_the_host() -> None:
    run = Run("." * 4, "x" * 4)
    huge = ANON | f.MAP_FIXED | f.MAP_HUGETLB
    start = 1 << 40
    run.space.vmas.clear(start, start + f.PMD_SIZE)
    run.call("mmap", start, f.PMD_SIZE, RW, huge, -1, 0)
    assert run.host.reads == [None] and run.space.vmas.get(start) is None


def test_an_attached_segment_is_taken_over_from_the_host() -> None:
    # ....  shmat at page 1, and shmdt
    # .ss.
    run = Run("....", ".ss.")
    run.call("shmat", 1, 0, 0, value=at(1))
    assert run.wanted(4) == ".ss."


def test_a_detached_segment_is_taken_over_from_the_host() -> None:
    segment = File(0, 1, 9, "/SYSV00000001")
    run = Run("....", "..w.")
    run.space.adopt([(at(1), at(3), Vma(RW | MAY | SHARED, segment, at(1)))])
    run.call("shmdt", at(1))
    assert run.wanted(4) == "..w."


def test_the_ring_of_io_setup_is_where_the_program_reads_it() -> None:
    # ..  io_setup wrote the address of page 1
    # .w
    run = Run("..", ".w")
    run.host.memory = at(1).to_bytes(8, "little")
    run.call("io_setup", 1, 0x1000)
    assert run.wanted(2) == ".w"
    run.host.picture = ".."
    run.call("io_destroy", at(1))
    assert run.wanted(2) == ".."


def test_an_attached_segment_that_the_host_does_not_show_changes_nothing() -> None:
    run = Run("ww", "..")
    run.call("shmat", 1, 0, 0, value=at(1))
    run.call("io_destroy", at(7))
    assert run.wanted(2) == "ww"


# Stacks that grow


@pytest.mark.parametrize(
    ("name", "args", "reads"),
    [
        ("munmap", (at(1), PAGE), 1),
        ("munmap", (at(1) + 9, PAGE), 1),
        ("munmap", (at(3), PAGE), 0),
        ("prctl", (0x53564D41, 0, at(1), PAGE, 0), 1),
        ("mremap", (at(4), PAGE, PAGE, 3, at(1)), 1),
        ("mremap", (at(0), PAGE, 2 * PAGE, 0), 1),
        ("mremap", (at(4), PAGE, PAGE, 1, at(1)), 0),
        ("mmap", (at(1), PAGE, RW, ANON | f.MAP_FIXED, -1, 0), 1),
        ("mmap", (at(1), PAGE, RW, ANON, -1, 0), 1),
        ("mmap", (0, 2 * PAGE, RW, ANON, -1, 0), 0),
        ("munmap", (at(1), MASK), 0),
        ("munmap", (at(1), 0), 0),
    ],
)
def test_the_host_is_read_before_a_call_on_what_a_stack_may_have_grown_into(
    name: str, args: tuple[int, ...], reads: int
) -> None:
    # w.GGr  page 1 may belong to the stack by now
    run = Run("w.GGrr", "w.GGrr")
    run.book.begin(run.space, name, six(*args), run.host)
    assert run.host.reads == [None] * reads


def test_growth_is_seen_before_the_call() -> None:
    # w.GG  mprotect of page 1, which the stack has grown into
    # wGGG
    run = Run("w.GG", "wGGG")
    assert run.book.begin(run.space, "mprotect", six(at(1), PAGE, R), run.host).result == 0


def test_below_the_quiet_line_the_host_is_not_read() -> None:
    # The line is at page 3: a call that ends a page below it need not look.
    for pages, reads in ((1, 0), (2, 1)):
        run = Run("..GG", "..GG", quiet_below=at(2))
        run.book.begin(run.space, "munmap", six(at(0), pages * PAGE), run.host)
        assert len(run.host.reads) <= reads
    run = Run("..GG", "..GG", quiet_below=at(2))
    run.book.begin(run.space, "munmap", six(at(0), 3 * PAGE), run.host)
    assert len(run.host.reads) == 1


# Observing


def test_an_observer_passes_every_call_on_and_counts_what_the_rule_would() -> None:
    run = Run("wwww", observe=True)
    assert run.call("mprotect", at(0), 4 * PAGE, RW) == Answered(0, ())
    run.call("mprotect", at(0), 4 * PAGE, R)
    run.call("mprotect", at(0), PAGE, R)
    run.call("mprotect", at(0), PAGE, RW)
    run.call("mprotect", at(0), 4 * PAGE, R)
    count = run.ledger.by_call["mprotect"]
    assert (count.calls, count.host_calls, count.elided, count.narrowed) == (5, 3, 2, 1)


def test_host_calls_that_are_counted_for_a_call() -> None:
    changed = Outcome(0, (Change(EXTEND, at(0), at(1), LEGEND["w"], LEGEND["r"]),))
    args = six(at(0), PAGE, RW)
    for observe, outcome, count in (
        (False, Outcome(0), 1),
        (True, Outcome(0), 0),
        (True, changed, 1),
    ):
        book = Bookkeeper(only_changes, Ledger(), observe)
        assert book.host_calls("mprotect", args, outcome) == count
    assert Bookkeeper(only_changes, Ledger()).host_calls("mprotect", args, Outcome(0)) == 1
    assert Bookkeeper(skip_equal, Ledger(), True).host_calls("munmap", args, Outcome(0)) == 1
    assert as_made("munmap", args, Outcome(0)) is args


# Helpers


def test_calls_that_edit_the_wanted_state() -> None:
    vma = LEGEND["w"]
    contents = Change(ZERO, at(0), at(1), vma, vma)
    protection = Change(EXTEND, at(1), at(2), vma, LEGEND["r"])
    assert not edits(Outcome(0, (protection,)))
    assert not edits(Outcome(0, (contents,), at(0), at(1)))
    assert edits(Outcome(0, (contents, protection), at(0), at(2)))
    assert not edits(Outcome(0, (Change(ADVISE, at(0), at(1), None, None),), at(0), at(1)))


@pytest.mark.parametrize(
    ("name", "predicted", "value", "refusal"),
    [
        ("mmap", at(0), at(0), False),
        ("mmap", at(0), at(1), False),
        ("mmap", at(0), -ENOMEM, True),
        ("brk", at(2), at(2), False),
        ("brk", at(2), at(0), True),
        ("munmap", 0, 1, False),
    ],
)
def test_a_refusal_is_an_errno_and_for_brk_any_other_break(
    name: str, predicted: int, value: int, refusal: bool
) -> None:
    assert refused(name, Outcome(predicted), value) == refusal


@pytest.mark.parametrize(
    ("name", "flags", "host"),
    [
        ("mmap", ANON, True),
        ("mmap", ANON | f.MAP_FIXED, False),
        ("mmap", ANON | f.MAP_FIXED_NOREPLACE, False),
        ("mremap", f.MREMAP_MAYMOVE, True),
        ("mremap", f.MREMAP_MAYMOVE | f.MREMAP_FIXED, False),
        ("munmap", 0, False),
    ],
)
def test_who_chooses_the_address(name: str, flags: int, host: bool) -> None:
    assert chooses(name, six(at(0), PAGE, PAGE, flags, 0)) == host


def test_a_call_at_the_address_that_was_chosen_for_it() -> None:
    made = at_address("mmap", (1, 2, 3, ANON, 5, 6), at(1))
    assert made == (at(1), 2, 3, ANON | f.MAP_FIXED, 5, 6)
    made = at_address("mremap", (1, 2, 3, 0, 0, 6), at(1))
    assert made == (1, 2, 3, f.MREMAP_FIXED | f.MREMAP_MAYMOVE, at(1), 6)
