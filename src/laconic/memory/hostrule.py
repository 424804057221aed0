"""The rule that decides what reaches a host: the type of a strategy's `linux_rule`."""

from __future__ import annotations

from typing import Protocol

from laconic.memory.calls import Arguments
from laconic.memory.change import Outcome


class HostRule(Protocol):
    """Maps a call's name, arguments and outcome to the arguments of its host call.

    The result is None if the call is elided, equal arguments if it is passed on unchanged, and
    different arguments if it is narrowed. This is a protocol, so that a static method of a strategy
    can implement it.
    """

    def __call__(self, name: str, args: Arguments, outcome: Outcome, /) -> Arguments | None:
        """Return the arguments of the host call, or None. O(changes)."""
