"""The Linux host: from the outcome of a memory call to the one system call, if any, that carries it
out.

A call reaches the host as the program made it, or narrowed to the span from the first to the last
page that differs, or not at all. It is never split, so a call that fails does so as a whole, and no
other thread sees it half done. Pages inside the span that do not differ already have the requested
state; requesting it again changes nothing.
"""

from __future__ import annotations

from laconic.memory.calls import Arguments
from laconic.memory.change import Outcome
from laconic.memory.flags import PAGE_MASK, PAGE_SIZE
from laconic.memory.madvise import FLAG_ADVICE


def only_changes(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
    """Pass a call on if something changes, and narrow it if the kernel's answer cannot depend on
    the other pages.

    Only calls that set attributes page by page are narrowed: limits count the length of mmap,
    mlock, mremap and brk, and a call that fails reports pages that do not differ too. O(1).
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
    return _narrowed(args, changes[0].start, changes[-1].end)


def skip_equal(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
    """Pass every call on, but an mprotect only if a protection changes (Gramine PR #1824)."""
    if name in ("mprotect", "pkey_mprotect"):
        return only_changes(name, args, outcome)
    return args


def _narrowed(args: Arguments, start: int, end: int) -> Arguments:
    # PROT_GROWSDOWN begins below the first argument: such a call is passed on as it is.
    requested = args[0]
    requested_end = requested + args[1] + PAGE_SIZE - 1 & PAGE_MASK
    if start < requested or (start == requested and end == requested_end):
        return args
    return (start, end - start, *args[2:])
