"""Failures planned by a test: any operation of the driver, and any instruction of the enclave, can
be made to fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mypy_extensions import mypyc_attr

from laconic.memory.flags import PAGE_SHIFT


class Failure(NamedTuple):
    """A failure after this many pages of an operation: with an errno, an instruction's error code
    (as `result` of an ioctl), or both.

    An operation of no more than `after` pages does not reach the failure, and succeeds.
    """

    error: int = 0
    code: int = 0
    after: int = 0


@mypyc_attr(allow_interpreted_subclasses=True)
class Plan:
    """The operations that fail. The driver's kinds are restrict, modify_types, remove, etrack, eaug
    and mprotect.

    The enclave's kinds are eaccept, eacceptcopy and emodpe. `failures` maps a kind and the number
    of an operation of that kind (from 1) to its failure, as a mapping or as a function. One
    operation covers one range: an ioctl, the commit of a range, or one instruction over a range.

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
        """Count one more operation of this kind, and return its failure, if any. O(1)."""
        failures = self._failures
        if failures is None:
            return None
        self.seen[kind] += 1
        if callable(failures):
            return failures(kind, self.seen[kind])
        return failures.get((kind, self.seen[kind]))

    def cut(self, kind: str, start: int, end: int) -> tuple[int, Failure | None]:
        """Return the address that the next operation of this kind on `[start, end)` reaches, and
        its failure."""
        failure = self.next(kind)
        if failure is None or start + (failure.after << PAGE_SHIFT) >= end:
            return end, None
        return start + (failure.after << PAGE_SHIFT), failure
