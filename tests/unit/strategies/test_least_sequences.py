"""The whole matrix of changes: the least sequence of each is named here, it is what the PAL does,
and none is less.

"Less" is searched among all sequences that one page allows (`onepage`): fewer host calls, then
fewer leaves; and by the cost under both ends of every shipped profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

import pytest

from laconic.sgx import costs
from laconic.sgx.meter import MODIFIED, PENDING, PT_TRIM, Meter
from laconic.sgx.pal.edmm import Edmm, permissions
from tests.helpers.onepage import ABSENT, Found, Page, Rules, Things, search

PAGE = 4096
Price = Callable[[Things], tuple[float, ...]]
#: The program's protections, by name; the EPCM has no W without R.
ASKED = {"---": 0, "r--": 1, "-w-": 2, "rw-": 3, "--x": 4, "r-x": 5, "-wx": 6, "rwx": 7}
TRIMMED = ["EMODT", "EACCEPT TRIM", "EREMOVE"]

#: For a committed page: what it has, what it gets → the least sequence. W alone is RW, and WX is
#: RWX.
PROTECT = """
       ---                 r--                 rw-         --x                 r-x                 rwx
 ---   .                   E                   E           E                   E                   E
 r--   P0,A                .                   E           P0,A,E              E                   E
 rw-   P0,A                P1,A                .           P0,A,E              P1,A,E              E
 --x   P0,A                P0,A,E              P0,A,E      .                   E                   E
 r-x   P0,A                P1,A                P1,A,E      P4,A                .                   E
 rwx   P0,A                P1,A                P3,A        P4,A                P5,A                .
"""  # noqa: E501
#: For a page that does not exist: what it gets → the least sequence, of zeroes and of a file's
#: contents.
COMMIT = {
    "---": ("EACCEPTCOPY 0", "EACCEPTCOPY 0 file"),
    "r--": ("EACCEPTCOPY 1", "EACCEPTCOPY 1 file"),
    "rw-": ("EACCEPT", "EACCEPTCOPY 3 file"),
    "--x": ("EACCEPTCOPY 4", "EACCEPTCOPY 4 file"),
    "r-x": ("EACCEPTCOPY 5", "EACCEPTCOPY 5 file"),
    "rwx": ("EACCEPTCOPY 7", "EACCEPTCOPY 7 file"),
}


def protect_table() -> dict[tuple[str, str], list[str]]:
    """PROTECT in full words: P5 is EMODPR to permissions 5, A the EACCEPT after it, E EMODPE to
    what it gets."""
    head, *rows = PROTECT.strip("\n").splitlines()
    table = {}
    for row in rows:
        had, *cells = row.split()
        for want, cell in zip(head.split(), cells, strict=True):
            words = {"E": f"EMODPE {ASKED[want]}", "A": "EACCEPT PR"}
            steps = [] if cell == "." else cell.split(",")
            table[had, want] = [words.get(step) or f"EMODPR {step[1:]}" for step in steps]
    return table


def row(name: str) -> str:
    """The row or column of a protection: that of its EPCM permissions."""
    return next(other for other, prot in ASKED.items() if prot == permissions(ASKED[name]))


class Recorder(Meter):
    """A meter that writes down what the PAL does, in the words of `onepage`."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self._copied = False

    def restrict(self, start: int, end: int, prot: int) -> None:
        super().restrict(start, end, prot)
        self.done.append(f"EMODPR {prot}")

    def modify_types(self, start: int, end: int, page_type: int) -> None:
        super().modify_types(start, end, page_type)
        assert page_type == PT_TRIM
        self.done.append("EMODT")

    def remove(self, start: int, end: int) -> None:
        super().remove(start, end)
        self.done.append("EREMOVE")

    def eaug(self, start: int, end: int, faults: int | None = None) -> None:
        super().eaug(start, end, faults)
        self.done.append("EAUG")

    def eaccept(self, start: int, end: int, prot: int, request: int) -> None:
        super().eaccept(start, end, prot, request)
        self.done.append({PENDING: "EACCEPT", MODIFIED: "EACCEPT TRIM"}.get(request, "EACCEPT PR"))

    def eacceptcopy(self, start: int, end: int, prot: int, source: int | None) -> None:
        super().eacceptcopy(start, end, prot, source)
        self.done.append(f"EACCEPTCOPY {prot}" + (" file" if self._copied else ""))

    def emodpe(self, start: int, end: int, prot: int) -> None:
        super().emodpe(start, end, prot)
        self.done.append(f"EMODPE {prot}")

    def copy(self, pages: int) -> None:
        super().copy(pages)
        self._copied = True

    def things(self) -> Things:
        """All that was counted, one name for each time."""
        return tuple(name for name, times in self.counts.as_dict().items() for _ in range(times))


def shortest(things: Things) -> tuple[float, ...]:
    """Host calls, then leaves."""
    leaf = (
        "eaug",
        "eaccept",
        "eacceptcopy",
        "emodpe",
        "emodpr",
        "emodt",
        "eremove",
        "pages_zeroed",
        "pages_copied",
    )
    return things.count("host_calls"), sum(things.count(name) for name in leaf)


def _priced(vector: Mapping[str, float], things: Things) -> tuple[float, ...]:
    return (sum(vector[thing] for thing in things),)


def prices() -> list[Price]:
    """The measure above, and the cost under both ends of every shipped profile."""
    found: list[Price] = [shortest]
    for name, high in product(costs.shipped(), (False, True)):
        vector = costs.load(name).vector(high)
        found.append(partial(_priced, vector))
    return found


def least(start: Page, goal: Page, rules: Rules, price: Price) -> Found:
    """The cheapest legal way from the one to the other."""
    return search(start, rules, price)[goal, ()]


def check(recorder: Recorder, named: list[str], start: Page, goal: Page, rules: Rules) -> None:
    """The PAL did what is named, and nothing legal is less."""
    assert recorder.done == named
    for price in prices():
        found = least(start, goal, rules, price)
        done = price(recorder.things())
        assert done == pytest.approx(found.cost), f"{found.done} is less than {named}"


@pytest.mark.parametrize(("had", "want"), list(product(ASKED, ASKED)))
def test_a_committed_page_gets_other_permissions(had: str, want: str) -> None:
    """Equal is nothing, an extension no host call, a restriction one, and both EMODPR before
    EMODPE."""
    recorder = Recorder()
    pal = Edmm(recorder)
    before, after = permissions(ASKED[had]), permissions(ASKED[want])
    pal.committed.set(0, PAGE, before)
    pal.protect([(0, PAGE, after)])
    rules = Rules(before, after, frozenset(["live"]))
    named = protect_table()[row(had), row(want)]
    check(recorder, named, Page("regular", before, "live"), Page("regular", after, "live"), rules)
    assert pal.committed.get(0) == after
    assert recorder.counts.host_calls == bool(before & ~after)


@pytest.mark.parametrize(("want", "file"), list(product(ASKED, (False, True))))
def test_a_page_that_does_not_exist_is_committed(want: str, file: bool) -> None:
    """One fault, one accepting instruction, permissions right from the first moment."""
    recorder = Recorder()
    pal = Edmm(recorder)
    after = permissions(ASKED[want])
    pal.commit(0, PAGE, after, contents=file)
    contents = "file" if file else "zero"
    rules = Rules(None, after, frozenset([contents]))
    check(
        recorder, ["EAUG", COMMIT[row(want)][file]], ABSENT, Page("regular", after, contents), rules
    )
    assert recorder.counts.host_calls == 0


@pytest.mark.parametrize("had", ASKED)
def test_a_committed_page_is_unmapped(had: str) -> None:
    """EMODT, the enclave's EACCEPT, and only then EREMOVE: two host calls."""
    recorder = Recorder()
    pal = Edmm(recorder)
    before = permissions(ASKED[had])
    pal.committed.set(0, PAGE, before)
    pal.trim([(0, PAGE)])
    rules = Rules(before, None, frozenset(["live"]))
    check(recorder, TRIMMED, Page("regular", before, "live"), ABSENT, rules)
    assert (recorder.counts.host_calls, recorder.counts.ioctls) == (2, 2)


@pytest.mark.parametrize(("had", "want"), list(product([*ASKED, None], [*ASKED, None])))
def test_a_page_that_was_never_committed_costs_nothing(had: str | None, want: str | None) -> None:
    """Whatever it is asked for, absent too: no permission to change, nothing to give back."""
    recorder = Recorder()
    pal = Edmm(recorder)
    if want is None:
        pal.trim([(0, PAGE)])
    else:
        pal.protect([(0, PAGE, permissions(ASKED[want]))])
    assert recorder.done == [] and not any(recorder.counts.as_dict().values())


def test_the_matrix_is_whole() -> None:
    """Every pair of EPCM permissions is named."""
    kinds = {row(name) for name in ASKED}
    assert set(protect_table()) == set(product(kinds, kinds)) and set(COMMIT) == kinds


def test_the_search_finds_a_shorter_sequence() -> None:
    """A planted waste is seen: a needless EMODPR is not least; and upstream's order, EMODPE first,
    is not legal."""
    rules = Rules(3, 5, frozenset(["live"]))
    found = least(Page("regular", 3, "live"), Page("regular", 5, "live"), rules, shortest)
    assert found.cost == (1, 3) and found.done[0].startswith("EMODPR")
    recorder = Recorder()
    pal = Edmm(recorder)
    pal.commit(0, PAGE, 3)
    recorder.emodpe(0, PAGE, 7)
    recorder.restrict(0, PAGE, 5)
    with pytest.raises(AssertionError, match="is less than"):
        check(
            recorder,
            recorder.done,
            ABSENT,
            Page("regular", 3, "zero"),
            Rules(None, 3, frozenset(["zero"])),
        )
