"""The PAL: whatever carries changes out on a host.

A library OS hands each `Change` of a call to its PAL, in ascending order of address. A PAL does
what the change's kind requires, or raises `HostError`. The bookkeeping never accesses a host by
itself.
"""

from __future__ import annotations

from typing import Protocol

from laconic.memory.change import Change


class HostError(OSError):
    """A host's refusal to carry out a change, with the errno that the program receives.

    `end` is the address up to which the change was carried out (bytes, page aligned); None means
    that none of it was.

    >>> from errno import ENOMEM
    >>> HostError(ENOMEM).errno == ENOMEM
    True
    """

    def __init__(self, errno: int, end: int | None = None) -> None:
        import os

        super().__init__(errno, os.strerror(errno))
        self.end = end


class Pal(Protocol):
    """One host."""

    def apply(self, change: Change) -> None:
        """Carry out one change. Raise HostError to refuse."""
