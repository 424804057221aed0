"""Failures that a test plans: any operation of the driver, and any of the enclave's leaves, can be
made to fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SHIFT


class Failure(NamedTuple):
    """After this many pages the operation fails: with an errno, a leaf's error code (as `result` of
    an ioctl), or both.

    Where it has no more than `after` pages it is not reached, and does not fail.
    """

    error: int = 0
    code: int = 0
    after: int = 0


@mypyc_attr(allow_interpreted_subclasses=True)
class Plan:
    """Which operation fails. The kinds of the driver's: restrict, modify_types, remove, etrack,
    eaug, mprotect.

    Of the enclave's: eaccept, eacceptcopy, emodpe. `failures` says it of the nth operation of a
    kind (from 1), as a mapping or as a function. One operation is one run: an ioctl, one commit of
    a range, one leaf over a range.

    >>> plan = Plan({("remove", 2): Failure(error=11, after=3)})
    >>> plan.next("remove"), plan.next("remove")
    (None, Failure(error=11, code=0, after=3))
    """

    def __init__(
        self,
        failures: Mapping[tuple[str, int], Failure]
        | Callable[[str, int], Failure | None]
        | None = None,
    ) -> None:
        self._failures = failures
        self.seen: Counter[str] = Counter()

    def next(self, kind: str) -> Failure | None:
        """Counts one more operation of this kind, and says how it fails. O(1)."""
        failures = self._failures
        if failures is None:
            return None
        self.seen[kind] += 1
        if callable(failures):
            return failures(kind, self.seen[kind])
        return failures.get((kind, self.seen[kind]))

    def cut(self, kind: str, start: int, end: int) -> tuple[int, Failure | None]:
        """The next operation of this kind, on `[start, end)`: how far it comes (an address), and
        how it fails."""
        failure = self.next(kind)
        if failure is None or start + (failure.after << PAGE_SHIFT) >= end:
            return end, None
        return start + (failure.after << PAGE_SHIFT), failure
