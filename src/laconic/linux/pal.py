"""The Linux host: the one system call, if any, that carries out the outcome of a memory call.

A call reaches the host as the program made it, or narrowed to the span from the first to the last
page that differs, or not at all. It is never split, so a call that fails does so as a whole, and no
other thread sees it half done. Pages inside the span that do not differ already have the requested
state; requesting it again changes nothing.
"""

from __future__ import annotations

from laconic.memory.calls import Arguments
from laconic.memory.change import Outcome
from laconic.memory.flags import PAGE_MASK, PAGE_SIZE, PROT_GROWSDOWN
from laconic.memory.madvise import FLAG_ADVICE


def only_changes(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
    """Pass a call on if it changes something, narrowed to the pages that change if possible. O(1).

    Only successful calls that set attributes page by page are narrowed. Limits count the length of
    mmap, mlock, mremap and brk, and a failing call may report pages that do not change.
    """
    if outcome.ask:
        return args
    changes = outcome.changes
    if not changes:
        return None
    sets_attributes = name in ("mprotect", "munmap") or (
        name == "madvise" and args[2] in FLAG_ADVICE
    )
    if outcome.result < 0 or not sets_attributes:
        return args
    if name == "mprotect" and args[2] & PROT_GROWSDOWN:
        return args  # the kernel checks the first VMA, so the start must not move
    return _narrowed(args, changes[0].start, changes[-1].end)


def skip_equal(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
    """Pass every call on, but an mprotect only if a protection changes (Gramine PR #1824)."""
    if name in ("mprotect", "pkey_mprotect"):
        return only_changes(name, args, outcome)
    return args


def _narrowed(args: Arguments, start: int, end: int) -> Arguments:
    requested = args[0]
    requested_end = requested + args[1] + PAGE_SIZE - 1 & PAGE_MASK
    if start == requested and end == requested_end:
        return args
    return (start, end - start, *args[2:])
