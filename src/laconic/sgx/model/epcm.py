"""The enclave page cache map (EPCM) of one enclave, and the SGX instructions that read and write
it.

Modelled after the pseudocode in the Intel SDM, volume 3D. An entry does not contain its address, so
a run of equal pages is one entry of a `RangeMap`, and an instruction on a million equal pages costs
O(runs). Each instruction runs page by page over `[start, end)` in bytes, lowest first. It raises a
`Refused` at the first page that fails; the pages below that one are done.

Not modelled: contents (and therefore the checks of EACCEPT inside a TCS), two instructions at once
on one page ("in use"), other enclaves' pages, and cached translations. A permission is lost as soon
as the EPCM loses it; the accesses that a stale translation would still allow are why EACCEPT
requires the page to be tracked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from laconic.memory.flags import PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_RWX, PROT_WRITE
from laconic.memory.rangemap import RangeMap, range_text
from laconic.sgx.meter import MODIFIED, PENDING, PR, PT_REG, PT_TCS, PT_TRIM
from laconic.sgx.model.faults import (
    CHILD_PRESENT,
    ENCLAVE_ACT,
    NOT_TRACKED,
    PAGE_ATTRIBUTES_MISMATCH,
    PAGE_NOT_MODIFIABLE,
    PF_ACCESS,
    PF_PROT,
    PF_SGX,
    PREV_TRK_INCMPL,
    GeneralProtection,
    LeafError,
    PageFault,
    Refused,
)

_UNSETTLED: Final = PENDING | MODIFIED
_STATES: Final = PENDING | MODIFIED | PR
#: The epoch of a tracked page. A tracked page stays tracked, because epochs only increase.
TRACKED: Final = 0

#: The permission that an access requires.
NEEDS: Final = {"load": PROT_READ, "store": PROT_WRITE, "fetch": PROT_EXEC}


class EpcmEntry(NamedTuple):
    """One valid EPCM entry; a hole in the map is VALID=0.

    `prot` contains R, W and X as PROT_READ, PROT_WRITE and PROT_EXEC. `state` contains PENDING,
    MODIFIED and PR. `epoch` is that of the change that must be tracked before EACCEPT.
    `displacement` (bytes) is ENCLAVEADDRESS minus the address at which the page is mapped: 0 unless
    the host maps it elsewhere. ENCLAVESECS is always this enclave.
    """

    prot: int
    page_type: int = PT_REG
    state: int = 0
    epoch: int = TRACKED
    displacement: int = 0

    @property
    def accessible(self) -> bool:
        """True if R, W and X alone decide an access: for a settled regular page at its own address.
        PR does not matter."""
        return self.page_type == PT_REG and not self.state & _UNSETTLED and not self.displacement


#: Returns the exception if an SGX instruction fails on a page with this entry at this address, and
#: otherwise None.
PageCheck = Callable[[EpcmEntry | None, int], Refused | None]


class Epcm:
    """The EPCM entries of one enclave, its SECS, and its threads.

    ECREATE is the constructor: `base` and `size` (bytes) are the ELRANGE. Raises #GP unless the
    size is a power of two and at least two pages, and the base is aligned to it. `pages` maps
    addresses to entries. `epoch` is the SECS's tracking epoch; `threads` maps each thread inside to
    the epoch at which it entered.
    """

    def __init__(self, base: int, size: int) -> None:
        if size < 2 * PAGE_SIZE or size & (size - 1):
            raise GeneralProtection(
                "ECREATE", base, f"SECS.SIZE {size:#x} is not a power of two of two pages or more"
            )
        if base % size:
            raise GeneralProtection(
                "ECREATE", base, f"SECS.BASEADDR {base:#x} is not aligned to SIZE {size:#x}"
            )
        self.base = base
        self.limit = base + size
        self.initialised = False
        self.valid = True
        self.epoch = 1
        self.threads: dict[int, int] = {}
        self.pages: RangeMap[EpcmEntry] = RangeMap()

    # Building

    def eadd(self, start: int, end: int, prot: int, page_type: int = PT_REG) -> None:
        """Add pages with their first permissions, or none for a TCS. #GP, #PF. O(log n + k), like
        all instructions."""
        self._gp(
            "EADD",
            start,
            end,
            page_type not in (PT_REG, PT_TCS),
            f"PT {page_type} is neither REG nor TCS",
        )
        self._gp("EADD", start, end, page_type == PT_REG and _bad(prot), "W without R")

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            if entry is not None:
                return PageFault("EADD", at, PF_SGX | PF_PROT, "the page is VALID already")
            return (
                GeneralProtection("EADD", at, "the enclave is initialised")
                if self.initialised
                else None
            )

        self._fill(
            "EADD", start, end, check, EpcmEntry(0 if page_type == PT_TCS else prot, page_type)
        )

    def einit(self) -> None:
        """Make the enclave ready to be entered. #GP if it is already."""
        if self.initialised or not self.valid:
            raise GeneralProtection(
                "EINIT", self.base, "the enclave is initialised already, or gone"
            )
        self.initialised = True

    def eaug(self, start: int, end: int) -> None:
        """Add zeroed pages, PENDING, with R and W. #GP, #PF."""

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            if entry is not None:
                return PageFault("EAUG", at, PF_SGX | PF_PROT, "the page is VALID already")
            return (
                None
                if self.initialised
                else GeneralProtection("EAUG", at, "the enclave is not initialised")
            )

        self._fill("EAUG", start, end, check, EpcmEntry(PROT_READ | PROT_WRITE, PT_REG, PENDING))

    # The enclave's own instructions

    def eaccept(
        self,
        start: int,
        end: int,
        prot: int,
        request: int,
        page_type: int = PT_REG,
        secinfo: int | None = None,
    ) -> None:
        """Accept the host's change: `request` is PENDING or PR on a REG page, and MODIFIED on a TCS
        or TRIM page.

        `secinfo` is the address of the page that contains the SECINFO; None represents a page known
        to be good. #GP, #PF, PAGE_ATTRIBUTES_MISMATCH (PR itself is not compared), NOT_TRACKED.
        """
        self._secinfo("EACCEPT", start, end, secinfo)
        if page_type == PT_REG:
            legal = bool(request & (PENDING | PR)) and not request & MODIFIED
        else:
            legal = page_type in (PT_TCS, PT_TRIM) and request & _STATES == MODIFIED
        self._gp(
            "EACCEPT",
            start,
            end,
            not legal or bool(request & ~_STATES or prot & ~PROT_RWX),
            "illegal SECINFO",
        )
        wanted = request & (PENDING | MODIFIED)

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            if entry is None or entry.page_type not in (PT_REG, PT_TCS, PT_TRIM):
                return PageFault("EACCEPT", at, PF_ACCESS["load"] | PF_SGX | PF_PROT, "not VALID")
            if (
                entry.displacement
                or entry.state & (PENDING | MODIFIED) != wanted
                or entry.prot != prot
                or entry.page_type != page_type
            ):
                return LeafError("EACCEPT", at, PAGE_ATTRIBUTES_MISMATCH)
            return None if self.tracked(entry) else LeafError("EACCEPT", at, NOT_TRACKED)

        self._run("EACCEPT", start, end, check, _accepted)

    def eacceptcopy(
        self, start: int, end: int, prot: int, source: int | None = None, secinfo: int | None = None
    ) -> None:
        """Accept pending pages with `prot` in one step, and copy their contents from the pages at
        `source`.

        If `source` is None, the pages copied from are known to be good. #GP, #PF,
        PAGE_ATTRIBUTES_MISMATCH.
        """
        self._secinfo("EACCEPTCOPY", start, end, secinfo)
        self._gp("EACCEPTCOPY", start, end, _bad(prot), "W without R, or bits that are reserved")

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            fresh = entry is not None and entry.state & ~PR == PENDING and not entry.displacement
            if (
                entry is None
                or not fresh
                or entry.page_type != PT_REG
                or entry.prot != PROT_READ | PROT_WRITE
            ):
                return LeafError("EACCEPTCOPY", at, PAGE_ATTRIBUTES_MISMATCH)
            return None

        def lift(piece_start: int, piece_end: int) -> None:
            self._run("EACCEPTCOPY", piece_start, piece_end, check, lambda old: EpcmEntry(prot))

        if source is None:
            return lift(start, end)
        ahead = start - source
        self._gp(
            "EACCEPTCOPY",
            start,
            end,
            bool(source % PAGE_SIZE) or source < self.base,
            "a bad source address",
        )
        inside = max(start, min(end, self.limit, self.limit + ahead))
        piece_start = start
        while piece_start < inside:
            # Pages filled by this operation may be the source of its later pages.
            piece_end = min(inside, piece_start + ahead) if ahead > 0 else inside
            readable = self._sources(piece_start - ahead, piece_end - ahead) + ahead
            if piece_start < readable:
                lift(piece_start, readable)
            if readable < piece_end:
                raise self._unreadable("EACCEPTCOPY", readable, "the source")
            piece_start = piece_end
        if inside < end:
            raise GeneralProtection(
                "EACCEPTCOPY", inside, "source or destination is outside the ELRANGE"
            )
        return None

    def emodpe(self, start: int, end: int, prot: int, secinfo: int | None = None) -> None:
        """Add `prot` to the pages' permissions. #GP, #PF."""
        self._secinfo("EMODPE", start, end, secinfo)
        self._gp("EMODPE", start, end, bool(prot & ~PROT_RWX), "bits that are reserved")

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            if entry is None or not entry.accessible:
                why = "not a valid, settled REG page at its place"
                return PageFault("EMODPE", at, PF_ACCESS["load"] | PF_SGX | PF_PROT, why)
            return (
                GeneralProtection("EMODPE", at, "W without R") if _bad(entry.prot | prot) else None
            )

        self._run("EMODPE", start, end, check, lambda old: old._replace(prot=old.prot | prot))

    # The kernel's instructions

    def emodpr(self, start: int, end: int, prot: int) -> None:
        """Remove all permissions except `prot` from the pages; none is added.

        #GP, #PF, PAGE_NOT_MODIFIABLE.
        """
        self._gp("EMODPR", start, end, _bad(prot), "W without R, or bits that are reserved")

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            if entry is None:
                return PageFault("EMODPR", at, PF_SGX | PF_PROT, "not VALID")
            if not self.initialised:
                return GeneralProtection("EMODPR", at, "the enclave is not initialised")
            if entry.state & (PENDING | MODIFIED):
                return LeafError("EMODPR", at, PAGE_NOT_MODIFIABLE)
            return (
                None
                if entry.page_type == PT_REG
                else PageFault("EMODPR", at, PF_SGX | PF_PROT, "not a REG page")
            )

        epoch = self.epoch
        self._run(
            "EMODPR",
            start,
            end,
            check,
            lambda old: old._replace(prot=old.prot & prot, state=old.state | PR, epoch=epoch),
        )

    def emodt(self, start: int, end: int, page_type: int) -> None:
        """Make REG pages TCS, or REG and TCS pages TRIM: MODIFIED, without permissions. #GP, #PF,
        PAGE_NOT_MODIFIABLE."""
        self._gp(
            "EMODT",
            start,
            end,
            page_type not in (PT_TCS, PT_TRIM),
            f"PT {page_type} is neither TCS nor TRIM",
        )

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            if entry is None:
                return PageFault("EMODT", at, PF_SGX | PF_PROT, "not VALID")
            if not self.initialised:
                return GeneralProtection("EMODT", at, "the enclave is not initialised")
            if entry.page_type != PT_REG and not (
                entry.page_type == PT_TCS and page_type == PT_TRIM
            ):
                return PageFault(
                    "EMODT",
                    at,
                    PF_SGX | PF_PROT,
                    f"no page of PT {entry.page_type} may become this",
                )
            return (
                LeafError("EMODT", at, PAGE_NOT_MODIFIABLE)
                if entry.state & (PENDING | MODIFIED)
                else None
            )

        epoch = self.epoch
        self._run(
            "EMODT",
            start,
            end,
            check,
            lambda old: EpcmEntry(0, page_type, MODIFIED, epoch, old.displacement),
        )

    def eremove(self, start: int, end: int) -> None:
        """Free the pages; a page that is not VALID counts as success. #GP, and ENCLAVE_ACT if a
        thread is inside.

        An accepted TRIM page can be removed with threads inside.
        """

        def check(entry: EpcmEntry | None, at: int) -> Refused | None:
            free = (
                entry is None
                or not self.threads
                or (entry.page_type == PT_TRIM and not entry.state & MODIFIED)
            )
            return None if free else LeafError("EREMOVE", at, ENCLAVE_ACT)

        self._run("EREMOVE", start, end, check, lambda old: None)

    def eremove_secs(self) -> None:
        """Free the SECS, which ends the enclave. CHILD_PRESENT if it still has pages."""
        if self.pages.count:
            raise LeafError("EREMOVE", self.base, CHILD_PRESENT)
        self.valid = self.initialised = False

    # Tracking

    def enter(self, thread: int) -> None:
        """Let a thread enter (EENTER, ERESUME), at the current epoch."""
        self.threads[thread] = self.epoch

    def leave(self, thread: int) -> None:
        """Let a thread leave (EEXIT, AEX)."""
        self.threads.pop(thread, None)

    def interrupt(self) -> None:
        """Interrupt every processor inside: each thread exits (AEX) and re-enters at the current
        epoch. O(threads)."""
        self.threads = dict.fromkeys(self.threads, self.epoch)

    def etrack(self) -> None:
        """Start an epoch. PREV_TRK_INCMPL if a thread entered before the current one.
        O(threads)."""
        if any(entered < self.epoch for entered in self.threads.values()):
            raise LeafError("ETRACK", self.base, PREV_TRK_INCMPL)
        self.epoch += 1

    def tracked(self, entry: EpcmEntry) -> bool:
        """Return whether no thread can have a translation from before the page's last change.
        O(threads)."""
        changed = entry.epoch
        return changed == TRACKED or (
            changed < self.epoch and all(entered > changed for entered in self.threads.values())
        )

    def settle(self, start: int, end: int) -> None:
        """Store the epoch of tracked pages as TRACKED, so that pages that are otherwise equal are
        one entry. O(log n + k)."""
        self.pages.edit(
            start, end, lambda old: old._replace(epoch=TRACKED) if self.tracked(old) else old
        )

    # Access

    def access(self, start: int, end: int, kind: str) -> None:
        """Check a "load", "store" or "fetch" of each page by a thread inside; the page walk
        precedes this.

        #PF with the SGX bit; #GP for a fetch outside the ELRANGE. The EPCM does not check loads and
        stores outside it.
        """
        if kind == "fetch" and not (self.base <= start and end <= self.limit):
            outside = start if not self.base <= start < self.limit else self.limit
            raise GeneralProtection(kind, outside, "a fetch from outside the enclave")
        need = NEEDS[kind]
        for at, _, entry in self.pages.runs(max(start, self.base), min(end, self.limit)):
            if entry is None or not entry.accessible or not entry.prot & need:
                raise PageFault(kind, at, PF_ACCESS[kind] | PF_SGX | PF_PROT, "the EPCM refuses")

    # Runs

    def _gp(self, leaf: str, start: int, end: int, wrong: bool, why: str) -> None:
        if (start | end) % PAGE_SIZE or start >= end:
            where = range_text(start, end, "#x")
            raise GeneralProtection(leaf, start, f"{where} is misaligned or empty")
        if wrong:
            raise GeneralProtection(leaf, start, why)

    def _stop(
        self, leaf: str, start: int, end: int, check: PageCheck
    ) -> tuple[int, Refused | None]:
        # The address at which the operation fails, and its refusal. Below the ELRANGE it fails
        # immediately; above, when it reaches the limit.
        self._gp(leaf, start, end, not self.valid, "the SECS is not VALID")
        if not self.base <= start < self.limit:
            return start, GeneralProtection(leaf, start, "outside the ELRANGE")
        for at, _, entry in self.pages.runs(start, min(end, self.limit)):
            refused = check(entry, at)
            if refused is not None:
                return at, refused
        if end > self.limit:
            return self.limit, GeneralProtection(leaf, self.limit, "outside the ELRANGE")
        return end, None

    def _run(
        self,
        leaf: str,
        start: int,
        end: int,
        check: PageCheck,
        change: Callable[[EpcmEntry], EpcmEntry | None],
    ) -> None:
        cut_end, refused = self._stop(leaf, start, end, check)
        if start < cut_end:
            self.pages.edit(start, cut_end, change)
        if refused is not None:
            raise refused

    def _fill(self, leaf: str, start: int, end: int, check: PageCheck, entry: EpcmEntry) -> None:
        cut_end, refused = self._stop(leaf, start, end, check)
        if start < cut_end:
            self.pages.set(start, cut_end, entry)
        if refused is not None:
            raise refused

    def _secinfo(self, leaf: str, start: int, end: int, secinfo: int | None) -> None:
        self._gp(leaf, start, end, False, "")
        if secinfo is None:
            return
        if secinfo % 64 or not self.base <= secinfo < self.limit:
            raise GeneralProtection(
                leaf, start, f"SECINFO {secinfo:#x} is misaligned or outside the ELRANGE"
            )
        page = secinfo - secinfo % PAGE_SIZE
        if self._sources(page, page + PAGE_SIZE) == page:
            raise self._unreadable(leaf, start, "SECINFO")

    def _sources(self, start: int, end: int) -> int:
        # The first address in the range that an instruction cannot read, or the end of the range.
        for at, _, entry in self.pages.runs(start, end):
            if entry is None or not entry.accessible or not entry.prot & PROT_READ:
                return at
        return end

    def _unreadable(self, leaf: str, at: int, what: str) -> PageFault:
        return PageFault(
            leaf, at, PF_ACCESS["load"] | PF_SGX | PF_PROT, f"{what} is not a readable REG page"
        )


def _bad(prot: int) -> bool:
    # W without R, or bits other than R, W and X.
    return prot & (PROT_READ | PROT_WRITE) == PROT_WRITE or bool(prot & ~PROT_RWX)


def _accepted(old: EpcmEntry) -> EpcmEntry:
    # The page is tracked now, and stays tracked.
    return old._replace(state=old.state & ~_STATES, epoch=TRACKED)
