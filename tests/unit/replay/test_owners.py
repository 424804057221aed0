"""The cost of touched pages, entered under the calls that mapped them."""

from __future__ import annotations

from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.compare import compare
from laconic.analysis.sites import Sites, sites
from laconic.libos.strategy import MemoryCall
from laconic.linux.pagemap import UNSEEN
from laconic.memory.change import FILE, FLAGS, MAP, RESTRICT, UNMAP, ZERO, Change
from laconic.memory.flags import MADV_DONTNEED
from laconic.memory.flags import PAGE_SIZE as PAGE
from laconic.replay.enclaves import OTHER, STACK, Enclaves
from laconic.replay.engine import Replay
from laconic.replay.owners import Owners
from laconic.replay.sizebounds import SizedEnclaves
from laconic.sgx.meter import Counts
from laconic.strategies import NAMES, strategy
from laconic.trace.importers.importing import import_logs
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CHOSEN, CODES, GREW
from tests.helpers.comparetraces import ANON, RW, begun, busy
from tests.helpers.gramlogs import REAL, take
from tests.helpers.pictures import LEGEND, at, draw, read
from tests.helpers.traces import BASE, Builder

CORPUS = Path(__file__).parents[2] / "corpus"
LOGS = (CORPUS / "strace" / "f-k.log",)
GRAMINE_LOGS = [REAL / f"{name}.log.gz" for name in ("pyjson", "busybox")]


def total(found: Sites, strategy: str) -> Counts:
    """The sum of all sites, and of what no call is the cause of."""
    counts = Counts()
    for work in (*found.sites, *found.around.values()):
        counts.add(work.cost(strategy))
    return counts


def check_sums(trace: TraceReader) -> Sites:
    """All costs add up, and are those of enclaves that attribute nothing."""
    found = sites(trace, NAMES)
    makers = {name: strategy(name) for name in NAMES}
    plain = SizedEnclaves(trace, lambda size: Enclaves(makers, assumed_sizes=size))
    Replay(TraceReader(trace.path), "laconic", listeners=plain.listeners).run()
    plain.finish(None, ())
    for name in NAMES:
        assert total(found, name) == found.total(name) == plain.least.meters[name].total(), name
    return found


def pages(found: Sites) -> dict[str, int]:
    """The touched pages of each call's sites, and of the rest, without zeros."""
    touched: dict[str, int] = {}
    for site in found.sites:
        touched[site.call] = touched.get(site.call, 0) + site.touched_pages
    touched |= {kind: work.touched_pages for kind, work in found.around.items()}
    return {name: count for name, count in touched.items() if count}


def mapping(trace: Builder, start: int, count: int, prot: int = RW) -> None:
    """An mmap of `count` pages, which were not mapped."""
    trace.row(
        "mmap", start, count * PAGE, prot, ANON, -1, 0, result=start, host_calls=1, kinds=int(MAP)
    )


def seen(*ranges: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    """Touched pages, from the first page after BASE to the last."""
    return tuple((BASE + first * PAGE, BASE + last * PAGE, 0) for first, last in ranges)


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
def test_costs_of_a_log_add_up(tmp_path: Path, log: Path) -> None:
    path = str(tmp_path / "a.trace")
    import_logs("strace", [str(log)], path)
    found = check_sums(laconic.trace.open(path))
    assert found.sites and found.total().host_calls > 0


@pytest.mark.parametrize("log", GRAMINE_LOGS, ids=lambda path: path.stem)
def test_costs_of_a_real_gramine_log_add_up(tmp_path: Path, log: Path) -> None:
    trace, _ = take(tmp_path, log)
    found = check_sums(trace)
    assert found.sites and found.total().eaug > 0


def test_costs_of_every_kind_of_event_add_up(tmp_path: Path) -> None:
    trace = busy(tmp_path / "a.trace", rounds=2)
    mapping(trace, BASE, 4)
    trace.row("clone3", 0x3D0F00, result=101)
    trace.row("clone", 17, result=200, touched=seen((0, 1)))
    trace.row("exit", 0, tid=101)
    trace.row("execve", data=b"/bin/true", touched=seen((1, 2)))
    trace.row("exit", 0, pid=200, touched=seen((0, 4)))
    path = trace.end()
    found = check_sums(laconic.trace.open(path))
    assert found.around["fork"].cost() != Counts() != found.around["thread"].cost()
    assert pages(found) == {"mmap": 2 * 2 + 2 + 3}
    compared = compare(path, NAMES, jobs=1)
    for name in NAMES:
        assert found.total(name) == compared.strategies[name].total.low, name


def test_a_touched_page_costs_the_call_that_mapped_it_last(tmp_path: Path) -> None:
    # aaaa  an mmap
    # a.bb  a hole, and mmaps of another site over the rest
    trace = begun(tmp_path / "a.trace", source="strace")
    for name, start, count in (("first", 0, 4), ("second", 2, 2)):
        trace.row("stack", data=f"/lib/l.so({name}+0x1) [0x1]".encode())
        flags = ANON | 0x10  # MAP_FIXED
        where = BASE + start * PAGE
        trace.row("mmap", where, count * PAGE, RW, flags, -1, 0, result=where)
    trace.row("munmap", BASE + PAGE, PAGE)
    trace.row("munmap", BASE, 8 * PAGE, touched=seen((0, 1), (2, 4)))
    found = sites(laconic.trace.open(trace.end()), NAMES)
    touched = {
        found.frames(site)[0].function: site.touched_pages
        for site in found.sites
        if site.call == "mmap"
    }
    assert touched == {"first": 1, "second": 2}


def test_moved_pages_keep_their_owner(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    mapping(trace, BASE, 2)
    target = BASE + 16 * PAGE
    trace.row("mremap", BASE, 2 * PAGE, 6 * PAGE, 1, result=target, host_calls=1, state=CHOSEN)
    trace.row("munmap", target, 6 * PAGE, touched=seen((16, 22)), host_calls=1, kinds=int(UNMAP))
    found = check_sums(laconic.trace.open(trace.end()))
    assert pages(found) == {"mmap": 2, "mremap": 4}


def test_a_page_that_lost_its_contents_still_belongs_to_its_mapping(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    mapping(trace, BASE, 2)
    trace.row("madvise", BASE, 2 * PAGE, MADV_DONTNEED, host_calls=1, touched=seen((0, 2)))
    trace.row("munmap", BASE, 2 * PAGE, touched=seen((0, 1)), host_calls=1, kinds=int(UNMAP))
    found = check_sums(laconic.trace.open(trace.end()))
    assert pages(found) == {"mmap": 3}
    (site,) = (site for site in found.sites if site.call == "mmap")
    assert site.touches["every-call"].eaug == 0, "contents are cleared in place"
    assert site.committed_pages("laconic") == 2


def test_pages_that_no_call_mapped(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    stack = BASE + (1 << 20)
    trace.row("maps", 1, 2)
    trace.row("vma", stack, stack + PAGE, 0x173)
    trace.row("maps", 1, GREW)
    trace.row("vma", stack - 2 * PAGE, stack, 0x173)
    trace.row("maps", 0, 2)
    touched = ((stack - PAGE, stack + PAGE, 0), (BASE, BASE + PAGE, UNSEEN))
    trace.row("exit", 0, touched=touched)
    found = check_sums(laconic.trace.open(trace.end()))
    assert pages(found) == {OTHER: 1, STACK: 1}


def test_a_forked_child_s_pages_belong_to_the_parent_s_calls(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    mapping(trace, BASE, 4)
    trace.row("clone", 17, result=200, touched=seen((0, 1)))
    trace.row(
        "munmap", BASE, 4 * PAGE, pid=200, host_calls=1, kinds=int(UNMAP), touched=seen((0, 3))
    )
    found = check_sums(laconic.trace.open(trace.end()))
    assert pages(found) == {"mmap": 3}, "one page was touched before the fork"


def test_work_before_the_end_of_a_call_belongs_to_its_site(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    mapping(trace, BASE, 4, prot=0)
    trace.row("mprotect", BASE, 4 * PAGE, RW, host_calls=1)
    trace.row("begin", BASE, 4 * PAGE, call_code=CODES["mlock"], state=1)
    trace.row("mlock", BASE, 4 * PAGE, host_calls=1)
    found = check_sums(laconic.trace.open(trace.end()))
    assert found.around[OTHER].cost("laconic") == Counts()
    (site,) = (site for site in found.sites if site.call == "mlock")
    assert site.calls == 1


# The owners of one address space, as a picture: a letter is a label, a dot the default.


def owners(picture: str) -> Owners:
    """Owners whose pages were mapped by calls with these letters as labels."""
    made = Owners(".")
    for start, end, letter in read(picture, {letter: letter for letter in picture}):
        made.pages.set(start, end, letter)
    return made


def changed(owned: Owners, name: str, *changes: Change, result: int = 0, length: int = 0) -> str:
    """The first six pages after a call with the label `N`."""
    owned.call(MemoryCall(name, (at(0), 0, length, 0, 0, 0), result, changes), "N")
    return draw(owned.pages, 6, {letter: letter for letter in "abN"})


def change(
    kind: int, first: int, last: int, wanted: str = "w", source: int | None = None
) -> Change:
    """A change of pages, to the VMA of a letter, or from the page `source`."""
    origin = None if source is None else at(source)
    return Change(kind, at(first), at(last), LEGEND.get(wanted), None, origin)


def test_calls_that_map_own_the_pages() -> None:
    assert changed(owners("aaaa"), "mmap", change(MAP, 1, 3)) == "aNNa.."
    assert changed(owners("aaaa"), "mmap", change(FILE, 1, 3)) == "aNNa.."
    assert changed(owners("aaaa"), "brk", change(MAP, 4, 6)) == "aaaaNN"
    # A fixed mmap replaces pages even if only their contents, or nothing, change.
    assert changed(owners("aaaa"), "mmap", change(ZERO, 0, 2)) == "NNaa.."
    assert changed(owners("aaaa"), "shmat", change(FLAGS, 0, 2)) == "NNaa.."


def test_calls_that_change_attributes_or_contents_own_nothing() -> None:
    for name, kind in (("mprotect", RESTRICT), ("madvise", ZERO), ("mlock", FLAGS)):
        assert changed(owners("aabb"), name, change(kind, 1, 3), result=at(0)) == "aabb.."


def test_pages_that_are_unmapped_have_no_owner_any_more() -> None:
    assert changed(owners("aabb"), "munmap", change(UNMAP, 1, 3, ".")) == "a..b.."


def test_pages_that_move_keep_their_owners_and_those_that_are_added_do_not() -> None:
    # ab....  two pages move to the third, and grow by two
    # ..abNN
    moves = (change(UNMAP, 0, 2, "."), change(MAP, 2, 4, source=0), change(MAP, 4, 6))
    assert changed(owners("ab"), "mremap", *moves, result=at(2), length=4 * PAGE) == "..abNN"
    # Also where they land on other pages, whose contents are replaced.
    moves = (change(UNMAP, 0, 2, "."), change(FLAGS, 2, 4, source=0), change(ZERO, 4, 6))
    assert changed(owners("abbbaa"), "mremap", *moves, result=at(2), length=4 * PAGE) == "..abNN"
    # Only the new place is the call's: pages below and above it are not.
    others = (change(ZERO, 1, 2), change(ZERO, 4, 5))
    assert changed(owners("aaaaa"), "mremap", *others, result=at(2), length=2 * PAGE) == "aaaaa."
    assert changed(owners("aaaaa"), "mremap", change(ZERO, 1, 2), result=-12) == "aaaaa."


def test_first_touches_are_counted_by_owner() -> None:
    owned = owners("aab..a")
    assert [(start, end, owner) for start, end, owner in owned.touch(at(1), at(6))] == [
        (at(1), at(2), "a"),
        (at(2), at(3), "b"),
        (at(3), at(5), "."),
        (at(5), at(6), "a"),
    ]
    assert owned.touched == {"a": 2, "b": 1, ".": 2}
    child = owned.fork()
    child.grow(at(3), at(4), "stack")
    assert child.touched == {} and child.default == "."
    assert list(child.touch(at(3), at(4))) == [(at(3), at(4), "stack")]
    assert list(owned.touch(at(3), at(4))) == [(at(3), at(4), ".")]
