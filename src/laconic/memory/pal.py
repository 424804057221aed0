"""The PAL: the layer that carries out changes on a host.

A library OS hands each `Change` of a call to its PAL, in ascending order of address. A PAL does
what the change's kind requires, or raises `HostError`. The bookkeeping never accesses a host by
itself.
"""

from __future__ import annotations

import os
from typing import Protocol

from laconic.memory.change import Change
from laconic.memory.flags import PAGE_SIZE


class HostError(OSError):
    """A host's refusal to carry out a change, with the errno that the program receives.

    `errno` is positive, as in C. `end` is the address up to which the change was carried out
    (bytes, page aligned); None means that none of it was. Raises ValueError for other values.

    >>> from errno import ENOMEM
    >>> HostError(ENOMEM).errno == ENOMEM
    True
    """

    def __init__(self, errno: int, end: int | None = None) -> None:
        if errno <= 0:
            raise ValueError(
                f"errno {errno} is not positive; pass ENOMEM, for example, not -ENOMEM"
            )
        if end is not None and end % PAGE_SIZE:
            raise ValueError(f"end {end:#x} is not page aligned")
        super().__init__(errno, os.strerror(errno))
        self.end = end

    def __reduce__(self) -> tuple[type[HostError], tuple[int, int | None]]:
        # OSError.__reduce__ would pass the message as the second argument.
        return type(self), (refusal_errno(self), self.end)


class Pal(Protocol):
    """One host."""

    def apply(self, change: Change) -> None:
        """Carry out one change. Raise HostError to refuse it.

        Any other OSError with an errno refuses the whole change. Other exceptions reach the caller
        of the memory call; the bookkeeping then assumes that none of this change was carried out.
        """


def refusal_errno(error: BaseException) -> int:
    """Return the errno for the program if a PAL's exception is a refusal; otherwise return 0."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.errno
    return 0
