"""One enclave page and all that can be done to it within one call: a model so small that it can be
searched whole.

It knows the EPCM's rules for one page (Intel SDM 3D: EAUG to EMODT) and the law Strict: at no
moment is the page accessible wider than the program asked before the call, or than it asks after
it; what is accessible has the contents from before the call, or those from after it. It shares no
code with the strategies, the PAL and the bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

R, W, X = 1, 2, 4
PROTS = (0, R, R | W, X, R | X, R | W | X)
Things = tuple[str, ...]


class Page(NamedTuple):
    """`phase`: absent, pending, regular, modified (TRIM asked for) or trimmed. `pr`: restricted,
    not yet accepted."""

    phase: str
    prot: int = 0
    contents: str = ""
    pr: bool = False


ABSENT = Page("absent")


class Rules(NamedTuple):
    """What one call allows: the permissions asked before and after, None where nothing is mapped;
    the contents that may be seen while it lasts."""

    before: int | None
    after: int | None
    visible: frozenset[str]

    def allow(self, page: Page) -> bool:
        """True where the page may be like this for a moment."""
        if page.phase != "regular" or not page.prot:
            return True
        requested = [prot for prot in (self.before, self.after) if prot is not None]
        return page.contents in self.visible and any(not page.prot & ~prot for prot in requested)


def leaves(page: Page) -> Iterator[tuple[str, Things, Page]]:
    """What the enclave can do by itself: a name, the things counted, the page after it."""
    if page.phase == "absent":
        yield "EAUG", ("eaug", "eaug_faults"), Page("pending")
    elif page.phase == "pending":
        yield "EACCEPT", ("eaccept",), Page("regular", R | W, "zero")
        for prot in PROTS:
            yield f"EACCEPTCOPY {prot}", ("eacceptcopy",), Page("regular", prot, "zero")
            yield (
                f"EACCEPTCOPY {prot} file",
                ("pages_copied", "eacceptcopy"),
                Page("regular", prot, "file"),
            )
    elif page.phase == "regular":
        for prot in PROTS:
            if prot & page.prot == page.prot != prot:
                yield f"EMODPE {prot}", ("emodpe",), page._replace(prot=prot)
        if page.prot & W:
            yield "zero", ("pages_zeroed",), page._replace(contents="zero")
            yield "copy", ("pages_copied",), page._replace(contents="file")
        if page.pr:
            yield "EACCEPT PR", ("eaccept",), page._replace(pr=False)
    elif page.phase == "modified":
        yield "EACCEPT TRIM", ("eaccept",), Page("trimmed")


def ioctls(page: Page) -> Iterator[tuple[str, Things, Page]]:
    """What only the driver can do, for a host call."""
    if page.phase == "regular":
        for prot in PROTS:
            if (
                prot & page.prot == prot
            ):  # its own permissions too: then it only lies between others
                yield f"EMODPR {prot}", ("emodpr", "etrack_ipis"), page._replace(prot=prot, pr=True)
        yield "EMODT", ("emodt", "etrack_ipis"), Page("modified")
    elif page.phase == "trimmed":
        yield "EREMOVE", ("eremove",), ABSENT


def moves(page: Page, outside: bool) -> Iterator[tuple[str, Things, Page, bool]]:
    """All that can be done next. `outside`: the host call goes on, and may carry another ioctl."""
    for name, things, after in leaves(page):
        yield name, things, after, False
    for name, things, after in ioctls(page):
        yield (
            name,
            (*things, "ioctls") if outside else (*things, "ioctls", "host_calls"),
            after,
            True,
        )


class Found(NamedTuple):
    """The cheapest way to a page: its cost, what was done, the things counted."""

    cost: tuple[float, ...]
    done: tuple[str, ...]
    things: Things


def search(
    start: Page,
    rules: Rules,
    price: Callable[[Things], tuple[float, ...]],
    longest: int = 99,
    apart: bool = False,
) -> dict[tuple[Page, Things], Found]:
    """The cheapest way to each page that can be reached with at most `longest` ioctls (Dijkstra).

    `price` is added up over the steps. `apart`: ways with other host calls and ioctls are other
    ends: the second part of the key then is `(`, for a host call, and the names of the ioctls in
    it.
    """
    order = count()
    queue: list[tuple[tuple[float, ...], int, Page, bool, Things, tuple[str, ...], Things]] = []
    heapq.heappush(queue, (price(()), next(order), start, False, (), (), ()))
    seen: set[tuple[Page, bool, Things]] = set()
    found: dict[tuple[Page, Things], Found] = {}
    while queue:
        cost, _, page, outside, requested, done, things = heapq.heappop(queue)
        if (page, outside, requested) in seen:
            continue
        seen.add((page, outside, requested))
        found.setdefault((page, requested), Found(cost, done, things))
        for name, more, after, out in moves(page, outside):
            if not rules.allow(after) or (out and things.count("ioctls") == longest):
                continue
            total = tuple(a + b for a, b in zip(cost, price(more), strict=True))
            output = requested
            if apart and out:
                output = (*requested, *(() if outside else ("(",)), name.split()[0])
            heapq.heappush(
                queue, (total, next(order), after, out, output, (*done, name), things + more)
            )
    return found
