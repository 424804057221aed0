"""The strategies: the rules that turn a program's memory calls into host work, one file per strategy."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from laconic.errors import LaconicError
from laconic.libos.strategy import MemoryCall, Strategy
from laconic.libos.touches import Touches
from laconic.memory.space import AddressSpace
from laconic.sgx.meter import Meter

__all__ = ["NAMES", "MemoryCall", "Strategy", "strategy"]

#: Where each strategy is, in the order in which tables show them.
_MODULES = {
    "every-call": "every_call:EveryCall",
    "skip-equal": "skip_equal:SkipEqual",
    "classify": "classify:Classify",
    "laconic": "laconic:Laconic",
}
NAMES = tuple(_MODULES)


def strategy(name: str) -> Callable[[Meter, AddressSpace, Touches], Strategy]:
    """The class of the strategy called `name`. Raises LaconicError where there is none."""
    if name not in _MODULES:
        raise LaconicError(f"there is no strategy {name!r}: choose from {', '.join(NAMES)}")
    module, _, found = _MODULES[name].partition(":")
    made: type[Strategy] = getattr(import_module(f"laconic.strategies.{module}"), found)
    return made
