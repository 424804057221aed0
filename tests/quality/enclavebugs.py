"""Bugs to plant into the enclave's PAL and the strategies, as `tests.quality.bugs` has them for the
bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from errno import ENOMEM
from typing import Any

import pytest

from laconic.libos.sizes import FileSizes
from laconic.memory.flags import PROT_READ, TASK_SIZE
from laconic.memory.vma import Vma
from laconic.sgx.meter import MODIFIED, PR, Meter
from laconic.sgx.model.faults import SgxError
from laconic.sgx.pal import edmm
from laconic.sgx.pal.edmm import RW, Edmm, PalError
from laconic.strategies.classify import PAGE, Classify
from laconic.strategies.laconic import Laconic
from tests.helpers.enclosed import Recorder

Patch = pytest.MonkeyPatch
#: Those that show whatever the host does, and those that show where it fails.
BUGS: dict[str, Callable[[Patch], None]] = {}
FAILING: dict[str, Callable[[Patch], None]] = {}


def _bug(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    BUGS[plant.__name__] = plant
    return plant


def _failing(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    FAILING[plant.__name__] = plant
    return plant


# Strict


@_bug
def emodpe_before_emodpr(patch: Patch) -> None:
    """RW to RX is RWX for a moment, as upstream has it."""

    def wrong(self: Edmm, runs: list[tuple[int, int, int, int]]) -> None:
        self.meter.host_call(1 if self.batch else len(runs))
        for start, end, _, prot in runs:
            self.meter.emodpe(start, end, prot)
            self.meter.restrict(start, end, prot)
            self.meter.eaccept(start, end, prot, PR)
            self.committed.set(start, end, prot)

    patch.setattr(Edmm, "_restrict", wrong)


@_bug
def first_permissions_are_corrected_afterwards(patch: Patch) -> None:
    """Pages are committed RW, and then get what was asked."""
    commit = Edmm.commit

    def wrong(
        self: Edmm,
        start: int,
        end: int,
        prot: int,
        contents: bool = False,
        source: int | None = None,
    ) -> None:
        commit(self, start, end, RW | prot, contents, source)
        self.protect([(start, end, prot)])

    patch.setattr(Edmm, "commit", wrong)


@_bug
def the_inaccessible_is_committed_accessible(patch: Patch) -> None:
    """PROT_NONE has the permissions of PROT_READ."""
    right = edmm.permissions

    def wrong(vm_flags: int) -> int:
        return right(vm_flags) or PROT_READ

    patch.setattr("laconic.strategies.classify.permissions", wrong)


@_bug
def a_restriction_is_not_accepted(patch: Patch) -> None:
    """EMODPR without the EACCEPT that makes sure of it."""
    for meter in (Meter, Recorder):
        patch.setattr(meter, "eaccept", _skips_pr(meter.eaccept))


def _skips_pr(eaccept: Callable[..., None]) -> Callable[..., None]:
    def wrong(self: Any, start: int, end: int, prot: int, request: int) -> None:
        if request != PR:
            eaccept(self, start, end, prot, request)

    return wrong


@_bug
def an_extension_is_only_entered(patch: Patch) -> None:
    """The record has the new permissions, the EPCM the old ones."""
    patch.setattr(
        Edmm, "_extend", lambda self, start, end, prot: self.committed.set(start, end, prot)
    )


@_bug
def trim_is_forgotten_at_munmap(patch: Patch) -> None:
    """What the program unmaps stays committed."""
    patch.setattr(Classify, "unmap", lambda self, ranges: None)


@_bug
def half_is_trimmed(patch: Patch) -> None:
    """Of several runs only the first is given back."""
    trim = Edmm.trim
    patch.setattr(Edmm, "trim", lambda self, ranges: trim(self, list(ranges)[:1]))


@_bug
def the_record_forgets_before_the_trim(patch: Patch) -> None:
    """A page that exists is taken for absent, and would be accepted a second time."""

    def wrong(self: Edmm, ranges: Iterable[tuple[int, int]]) -> None:
        for start, end in ranges:
            self.committed.set(start, end, None)

    patch.setattr(Edmm, "trim", wrong)


@_bug
def a_window_leaves_the_mapping(patch: Patch) -> None:
    """What is committed ahead goes on past the VMA's end."""

    def wrong(self: Laconic, start: int, end: int, vma: Vma) -> None:
        self.meter.exception()
        window_end = min(end + 8 * PAGE, self.pal.committed.find(start)[1])
        self.commit(start, window_end, vma)

    patch.setattr(Laconic, "fault", wrong)


# The page-fault handler


@_bug
def the_handler_does_not_look_at_the_access(patch: Patch) -> None:
    """A store to read-only memory is taken for a first touch."""
    handler = Classify.page_fault

    def wrong(self: Classify, address: int, access: int) -> int:
        vma = self.space.vmas.get(address)
        return handler(self, address, access if vma is None else edmm.permissions(vma.flags))

    patch.setattr(Classify, "page_fault", wrong)


@_bug
def files_have_no_end(patch: Patch) -> None:
    """Pages past the end of a file exist."""
    patch.setattr(FileSizes, "valid_end", lambda self, vma: TASK_SIZE)


# Contents


@_bug
def zeroing_is_forgotten(patch: Patch) -> None:
    """After DONTNEED the old contents are there."""
    patch.setattr(Classify, "overwrite", lambda self, start, end, vma: None)


@_bug
def zeroing_leaves_the_last_page(patch: Patch) -> None:
    """One page too few."""
    overwrite = Classify.overwrite
    patch.setattr(
        Classify, "overwrite", lambda self, start, end, vma: overwrite(self, start, end - PAGE, vma)
    )


@_bug
def a_file_is_committed_empty(patch: Patch) -> None:
    """The contents are not copied."""
    patch.setattr(Classify, "host", lambda self, vma: False)


@_bug
def a_move_leaves_the_contents(patch: Patch) -> None:
    """The new place is zero."""

    def wrong(self: Classify, start: int, end: int, vma: Vma, source: int) -> None:
        for run_start, run_end, had in list(self.pal.committed.runs(source, source + end - start)):
            if had is not None:
                distance, prot = start - source, edmm.permissions(vma.flags)
                self.pal.commit(run_start + distance, run_end + distance, prot)

    patch.setattr(Classify, "move", wrong)


@_bug
def free_discards_at_once(patch: Patch) -> None:
    """MADV_FREE is taken for MADV_DONTNEED."""
    patch.setattr("laconic.strategies.classify.MADV_FREE", -1)


@_bug
def a_fork_sends_nothing(patch: Patch) -> None:
    """The child finds zeroes."""
    patch.setattr(Classify, "_send", lambda self, start, end, vma, child: 0)


@_bug
def a_tcs_is_accepted_as_if_trimmed(patch: Patch) -> None:
    """EACCEPT with another page type than MODIFY_TYPES gave."""
    patch.setattr(edmm, "_TCS_MODIFIED", MODIFIED)


# Where the host fails


@_failing
def the_record_is_written_before_success(patch: Patch) -> None:
    """A page is taken for committed of which the commit failed."""
    commit = Edmm.commit

    def wrong(
        self: Edmm,
        start: int,
        end: int,
        prot: int,
        contents: bool = False,
        source: int | None = None,
    ) -> None:
        self.committed.set(start, end, prot)
        commit(self, start, end, prot, contents, source)

    patch.setattr(Edmm, "commit", wrong)


@_failing
def a_retry_begins_anew(patch: Patch) -> None:
    """What the host had done before it stopped is asked for again."""

    def wrong(operation: Callable[..., None], start: int, end: int, *arguments: Any) -> None:
        for _ in range(8):
            try:
                operation(start, end, *arguments)
                return
            except SgxError:
                pass
        operation(start, end, *arguments)

    patch.setattr(edmm, "insist", wrong)


@_failing
def a_partial_count_is_not_looked_at(patch: Patch) -> None:
    """What the driver had done when it failed is taken for not done."""
    insist = edmm.insist

    def wrong(operation: Callable[..., None], start: int, end: int, *arguments: Any) -> None:
        try:
            insist(operation, start, end, *arguments)
        except SgxError as refused:
            refused.done = start
            raise

    patch.setattr(edmm, "insist", wrong)


@_failing
def nothing_is_taken_back(patch: Patch) -> None:
    """A call that fails half way leaves what it has done."""
    patch.setattr(Classify, "_take_back", lambda self, before, fresh, renewed: None)


@_failing
def a_failed_restriction_stays(patch: Patch) -> None:
    """The program gets ENOMEM, and pages that it can no longer write."""

    def wrong(self: Edmm, runs: list[tuple[int, int, int, int]]) -> None:
        self.meter.host_call()
        try:
            for start, end, had, prot in runs:
                edmm.insist(self.meter.restrict, start, end, had & prot)
                edmm.insist(self.meter.eaccept, start, end, had & prot, PR)
        except SgxError as refused:
            raise PalError(ENOMEM, str(refused)) from refused
        for start, end, had, prot in runs:
            self.committed.set(start, end, had & prot)
            if prot & ~had:
                self._extend(start, end, prot)

    patch.setattr(Edmm, "_restrict", wrong)


@_failing
def what_is_left_is_forgotten(patch: Patch) -> None:
    """Pages that a failure left are in nobody's way, until their place is used again."""
    patch.setattr(Edmm, "_reclaim", lambda self, start, end: self.left.set(start, end, None))


@_failing
def what_is_gone_is_not_said(patch: Patch) -> None:
    """A trim that failed half way says that nothing was done."""
    trim = Edmm.trim

    def wrong(self: Edmm, ranges: Iterable[tuple[int, int]]) -> None:
        try:
            trim(self, ranges)
        except PalError as refused:
            refused.gone = []
            raise

    patch.setattr(Edmm, "trim", wrong)
