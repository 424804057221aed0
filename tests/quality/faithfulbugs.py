"""Bugs that a program can observe, although bookkeeping and host agree: what tests/faithful is
there to find.

Each was in Laconic once. They are planted by a MonkeyPatch in a Laconic of its own
(`tests.quality.planted`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from errno import EINVAL
from typing import Any

import pytest

from laconic.linux import pal, proc
from laconic.memory import calls, mmap, mremap
from laconic.memory.change import Outcome
from laconic.memory.flags import MAP_HUGETLB, MAP_NORESERVE, VM_GROWSDOWN
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File
from laconic.strategies.laconic import Laconic
from laconic.tracer import loop, ptrace
from laconic.tracer.signals import SignalRelay, signal_set

Patch = pytest.MonkeyPatch
BUGS: dict[str, Callable[[Patch], None]] = {}


def _bug(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    BUGS[plant.__name__] = plant
    return plant


@_bug
def growth_is_forgotten_with_its_origin(patch: Patch) -> None:
    """The pages that grew stay unknown if the VMA from which they grew is unmapped."""

    def wrong(self: AddressSpace, start: int, end: int) -> bool:
        if end <= self.layout.quiet_below:
            return False
        for run_start, _, vma in self.vmas.runs(start, end):
            above = self.vmas.get(self.vmas.find(run_start)[1]) if vma is None else None
            if above is not None and above.flags & VM_GROWSDOWN:
                return True
        return False

    patch.setattr(AddressSpace, "must_look_below", wrong)


@_bug
def growth_is_not_expected(patch: Patch) -> None:
    """A MAP_GROWSDOWN mapping below all others is never looked at again."""
    for module in (mmap, mremap):
        patch.setattr(module, "grown_below", lambda space, vma: None)


def _rule(
    patch: Patch, name: str, narrow: Callable[[tuple[int, ...], Outcome], tuple[int, ...]]
) -> None:
    # Another rule of what reaches the host, for one call.
    right = pal.only_changes

    def wrong(call: str, args: tuple[int, ...], outcome: Outcome) -> tuple[int, ...] | None:
        passed = right(call, args, outcome)
        if call != name or passed is not args or not outcome.changes:
            return passed
        return narrow(args, outcome)

    patch.setattr(Laconic, "linux_rule", staticmethod(wrong))


@_bug
def a_fixed_mmap_is_done_in_parts(patch: Patch) -> None:
    """The first part of an mmap that fails as a whole is mapped."""

    def narrow(args: tuple[int, ...], outcome: Outcome) -> tuple[int, ...]:
        first = outcome.changes[0]
        return (first.start, first.end - first.start, *args[2:])

    _rule(patch, "mmap", narrow)


@_bug
def an_mlock_is_narrowed(patch: Patch) -> None:
    """RLIMIT_MEMLOCK counts fewer pages than the call names."""

    def narrow(args: tuple[int, ...], outcome: Outcome) -> tuple[int, ...]:
        start, end = outcome.changes[0].start, outcome.changes[-1].end
        return (start, end - start, *args[2:])

    _rule(patch, "mlock", narrow)


@_bug
def a_signal_to_the_group_ends_laconic(patch: Patch) -> None:
    """Only the usual signals are kept from Laconic itself."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    usual = signal_set(signal.Signals[name] for name in names)
    patch.setattr(SignalRelay.__init__, "__defaults__", (usual,))


@_bug
def the_first_segment_has_no_file(patch: Patch) -> None:
    """Inode 0 is taken for the lack of a file."""
    right = proc._file

    def wrong(major: int, minor: int, inode: int, path: str) -> File | None:
        return right(major, minor, inode, path) if inode else None

    patch.setattr(proc, "_file", wrong)


@_bug
def mdwe_is_inherited(patch: Patch) -> None:
    """PR_MDWE_NO_INHERIT is ignored."""
    right = AddressSpace.fork

    def wrong(self: AddressSpace) -> AddressSpace:
        child = right(self)
        child.mdwe = self.mdwe
        return child

    patch.setattr(AddressSpace, "fork", wrong)


def _operation(
    patch: Patch, name: str, spoil: Callable[[tuple[int, ...], Outcome], Outcome]
) -> None:
    right = calls.OPERATIONS[name]

    def wrong(space: AddressSpace, args: tuple[int, ...], up: Any) -> Outcome:
        return spoil(args, right(space, args, up))

    patch.setitem(calls.OPERATIONS, name, wrong)


@_bug
def huge_pages_without_reserve_are_refused(patch: Patch) -> None:
    """A valid combination of mmap's flags is an error."""

    def spoil(args: tuple[int, ...], outcome: Outcome) -> Outcome:
        wanted = MAP_HUGETLB | MAP_NORESERVE
        return Outcome(-EINVAL) if args[3] & wanted == wanted else outcome

    _operation(patch, "mmap", spoil)


@_bug
def a_path_descriptor_is_open(patch: Patch) -> None:
    """A descriptor that was opened with O_PATH is taken for one without permissions."""
    patch.setattr(proc, "_is_path_only", lambda pid, fd: False)


def _without_ask(args: tuple[int, ...], outcome: Outcome) -> Outcome:
    return outcome._replace(ask=False) if outcome.result < 0 else outcome


@_bug
def an_mmap_is_refused_without_the_host(patch: Patch) -> None:
    """The errno is that of a later check than the kernel's first."""
    _operation(patch, "mmap", _without_ask)


@_bug
def a_key_is_checked_last(patch: Patch) -> None:
    """pkey_mprotect with a key that is not allocated, where nothing is mapped, is ENOMEM."""
    _operation(patch, "pkey_mprotect", _without_ask)


@_bug
def a_wrapping_mlock_is_refused_without_the_host(patch: Patch) -> None:
    """RLIMIT_MEMLOCK is checked after the range."""
    _operation(patch, "mlock", _without_ask)


@_bug
def a_thread_stays_traced_at_its_exit(patch: Patch) -> None:
    """A pidfd is readable before waitpid finds the child."""
    patch.setattr(loop, "DETACH", ptrace.CONT)
