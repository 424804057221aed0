"""From a sequence that fails to a short one that still does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
#: The number of the step that fails, and why.
Failed = tuple[int, str]


def shortest(
    steps: list[T], why: str, play: Callable[[list[T]], Failed | None]
) -> tuple[list[T], str]:
    """Leaves out steps, half of them at first and one at a time in the end, as long as the rest
    still fails."""
    size = max(len(steps) // 2, 1)
    while size:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            again = play(fewer) if fewer else None
            if again is not None:
                steps, why = fewer[: again[0] + 1], again[1]
            else:
                start += size
        size //= 2
    return steps, why
