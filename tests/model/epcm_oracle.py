"""Oracles for EPCM and driver that know single pages only: no runs, no epochs, one page after the
other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EFAULT, EINVAL, ENOMEM, EPERM

from laconic.sgx.meter import PT_REG, PT_TCS, PT_TRIM

PAGES = 8
R, W, X = 1, 2, 4
Verdict = tuple[str | int, int] | None  # what refused, and at which page


@dataclass
class Single:
    """One page. `since`: None where nothing is to be tracked; "untracked" before ETRACK; then who
    is still inside."""

    prot: int
    kind: int = PT_REG
    flags: set[str] = field(default_factory=set)
    since: str | set[int] | None = None

    def usable(self) -> bool:
        """A settled regular page."""
        return self.kind == PT_REG and not self.flags & {"pending", "modified"}


class Oracle:
    """An enclave, page by page. Each leaf returns None, "#GP", "#PF" or an error code for one
    page."""

    def __init__(self) -> None:
        self.pages: dict[int, Single] = {}
        self.inside: set[int] = set()
        self.late: set[int] = set()

    def run(self, start: int, end: int, leaf: Callable[[int], str | int | None]) -> Verdict:
        """One page after the other, up to the first that fails."""
        for page in range(start, end):
            verdict = leaf(page) if 0 <= page < PAGES else "#GP"
            if verdict is not None:
                return verdict, page
        return None

    def eaug(self, page: int) -> str | int | None:
        if page in self.pages:
            return "#PF"
        self.pages[page] = Single(R | W, flags={"pending"})
        return None

    def eaccept(self, page: int, prot: int, request: set[str], kind: int) -> str | int | None:
        if kind == PT_REG:
            legal = "modified" not in request and bool(request & {"pending", "pr"})
        else:
            legal = request == {"modified"}
        if not legal:
            return "#GP"
        single = self.pages.get(page)
        if single is None:
            return "#PF"
        if (single.prot, single.kind, single.flags - {"pr"}) != (prot, kind, request - {"pr"}):
            return 19
        if single.since:  # "untracked", or somebody is still inside
            return 11
        single.flags, single.since = set(), None
        return None

    def eacceptcopy(self, page: int, prot: int, source: int) -> str | int | None:
        if prot & 3 == W or source >= PAGES:
            return "#GP"
        original = self.pages.get(source)
        if original is None or not original.usable() or not original.prot & R:
            return "#PF"
        if self.pages.get(page) != Single(R | W, flags={"pending"}):
            return 19
        self.pages[page] = Single(prot)
        return None

    def emodpe(self, page: int, prot: int) -> str | int | None:
        single = self.pages.get(page)
        if single is None or not single.usable():
            return "#PF"
        if (single.prot | prot) & 3 == W:
            return "#GP"
        single.prot |= prot
        return None

    def emodpr(self, page: int, prot: int) -> str | int | None:
        if prot & 3 == W:
            return "#GP"
        single = self.pages.get(page)
        if single is None:
            return "#PF"
        if single.flags & {"pending", "modified"}:
            return 20
        if single.kind != PT_REG:
            return "#PF"
        single.prot &= prot
        single.flags.add("pr")
        single.since = "untracked"
        return None

    def emodt(self, page: int, kind: int) -> str | int | None:
        single = self.pages.get(page)
        if single is None or (single.kind, kind) not in {
            (PT_REG, PT_TCS),
            (PT_REG, PT_TRIM),
            (PT_TCS, PT_TRIM),
        }:
            return "#PF"
        if single.flags & {"pending", "modified"}:
            return 20
        self.pages[page] = Single(0, kind, {"modified"}, "untracked")
        return None

    def eremove(self, page: int) -> str | int | None:
        single = self.pages.get(page)
        if (
            single is not None
            and self.inside
            and (single.kind != PT_TRIM or "modified" in single.flags)
        ):
            return 14
        self.pages.pop(page, None)
        return None

    def etrack(self) -> int | None:
        if self.late:
            return 17
        self.late = set(self.inside)
        for single in self.pages.values():
            if single.since == "untracked":
                single.since = set(self.inside)
        return None

    def enter(self, thread: int) -> None:
        self.leave(thread)
        self.inside.add(thread)

    def leave(self, thread: int) -> None:
        self.inside.discard(thread)
        self.late.discard(thread)
        for single in self.pages.values():
            if isinstance(single.since, set):
                single.since.discard(thread)

    def interrupt(self) -> None:
        for thread in list(self.inside):
            self.enter(thread)

    def access(self, page: int, kind: str) -> str | int | None:
        single = self.pages.get(page)
        good = (
            single is not None
            and single.usable()
            and single.prot & {"load": R, "store": W, "fetch": X}[kind]
        )
        return None if good else "#PF"


class Kernel(Oracle):
    """The driver above it, page by page. `array` gives type and max-prot, `ptes` what is present,
    `splits` the VMAs."""

    ROOM = 6

    def __init__(self) -> None:
        super().__init__()
        self.array: dict[int, tuple[int, int]] = {}
        self.ptes: set[int] = set()
        self.host = dict.fromkeys(range(PAGES), R | W | X)
        self.splits = {0, PAGES}

    def touch(self, page: int, kind: str) -> tuple[int, int] | None:
        """The fault's error code and errno."""
        code = {"load": 4, "store": 6, "fetch": 0x14}[kind]
        prot = self.host[page]
        if not {"load": prot, "store": prot & W, "fetch": prot & X}[kind]:
            return code | (1 if prot and page in self.ptes else 0), 0
        if page not in self.array:
            if len(self.pages) == self.ROOM:
                return code, ENOMEM
            self.eaug(page)
            self.array[page] = PT_REG, R | W | X
        elif page not in self.ptes and prot & ~self.array[page][1]:
            return code, 0
        self.ptes.add(page)
        return None

    def cycle(self) -> None:
        """sgx_enclave_etrack."""
        if self.etrack() == 17:
            self.interrupt()
            assert self.etrack() is None
        self.interrupt()

    def restrict(self, page: int, prot: int) -> tuple[int, int]:
        """Errno and result."""
        if page not in self.array:
            return EFAULT, 0
        if self.array[page][0] != PT_REG:
            return EINVAL, 0
        error = self.emodpr(page, prot)
        if error is not None:
            return EFAULT, error if isinstance(error, int) else 0
        self.cycle()
        return 0, 0

    def modify(self, page: int, kind: int) -> tuple[int, int]:
        """Errno and result."""
        if page not in self.array:
            return EFAULT, 0
        old, max_prot = self.array[page]
        if old != PT_REG and (old, kind) != (PT_TCS, PT_TRIM):
            return EINVAL, 0
        if kind == PT_TCS:
            if max_prot & 3 != 3:
                return EPERM, 0
            max_prot = R | W
            self.ptes.discard(page)
        error = self.emodt(page, kind)
        if error is not None:
            return EFAULT, error if isinstance(error, int) else 0
        self.cycle()
        self.array[page] = kind, max_prot
        return 0, 0

    def remove(self, page: int) -> tuple[int, int]:
        """Errno and result."""
        if page not in self.array:
            return EFAULT, 0
        if self.array[page][0] != PT_TRIM or self.emodpr(page, 7) != "#PF":
            return EPERM, 0
        assert self.eremove(page) is None
        del self.array[page]
        self.ptes.discard(page)
        return 0, 0

    def mprotect(self, start: int, end: int, prot: int) -> int:
        """VMA by VMA."""
        corners = sorted(self.splits)
        for low, high in itertools.pairwise(corners):
            first, last = max(low, start), min(high, end)
            if first >= last:
                continue
            if any(
                prot & ~self.array[page][1] for page in range(first, last) if page in self.array
            ):
                return 13
            if self.host[first] != prot:
                self.splits |= {first, last}
                self.host.update(dict.fromkeys(range(first, last), prot))
        return 0
