"""The PAL: carries changes out on a host, and is the only code that may touch one.

`Pal.apply` is a generator, because a host call may block: it yields each `HostCall`, is sent that call's
result, and returns what became of the changes. Whoever drives it (the tracer inside a traced program, a model at once)
decides how a call is carried out and what happens meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, Protocol

from laconic.memory.calls import Call
from laconic.memory.change import Outcome


class HostCall(NamedTuple):
    """One request to the host: a system call's name and six arguments."""

    name: str
    args: tuple[int, ...]


class Confirmation(NamedTuple):
    """What the host made of an outcome.

    `error` is 0, or the negative errno of the first call that failed, after which no other was made; `value`
    is the last call's result; `said` counts the calls made.
    """

    error: int
    value: int
    said: int


class Pal(Protocol):
    """One host. Held state is written by the caller, from what `apply` confirms."""

    def apply(self, call: Call, outcome: Outcome) -> Generator[HostCall, int, Confirmation]:
        """Carries out `outcome`, the work of `call`, and stops at the first failure."""
