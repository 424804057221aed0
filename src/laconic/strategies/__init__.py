"""The strategies: the rules that turn a program's memory calls into host work, one file per
strategy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from laconic.errors import LaconicError

if TYPE_CHECKING:  # `laconic run --help` lists the strategies, and must not wait for imports
    from laconic.libos.strategy import Strategy

#: Where each strategy is, in the order in which tables show them.
_MODULES = {
    "every-call": "every_call:EveryCall",
    "skip-equal": "skip_equal:SkipEqual",
    "classify": "classify:Classify",
    "laconic": "laconic:Laconic",
    "sgx-emm": "sgx_emm:SgxEmm",
    "edmm-tuned": "edmm_tuned:EdmmTuned",
}
NAMES = tuple(_MODULES)
#: Those that have Gramine's LibOS, and so a rule for its Linux PAL (`libos/direct.py`).
_GRAMINE = ("every-call", "skip-equal")


def names_on(host: str) -> tuple[str, ...]:
    """Return the strategies that have a rule for `host` ("sgx2", "linux" or "gramine"), in the
    order of `NAMES`."""
    from laconic.linux.pal import RULES

    if host == "gramine":
        return _GRAMINE

    return NAMES if host == "sgx2" else tuple(name for name in NAMES if name in RULES)


def check_name(name: str, host: str, also: Iterable[str] = ()) -> None:
    """Raise LaconicError if no strategy is called `name`, or if it has no rule for `host` ("sgx2",
    "linux" or "gramine").

    A name may be followed by a colon and options (`laconic.strategies.options`). `module:Class` is
    a user's own strategy, for enclaves. `also` are other names that the option accepts; the message
    lists them first.
    """
    accepted = (*also, *names_on(host))
    base = base_name(name)
    if base in accepted and base != name:
        if host != "sgx2":
            raise LaconicError(
                f"{name!r}: a strategy's options are for enclaves; add --host sgx2, or use {base!r}"
            )
        strategy(name)
        return
    if name in accepted or (base not in NAMES and ":" in name and host == "sgx2"):
        return
    if host == "gramine" and (name in NAMES or ":" in name):
        raise LaconicError(
            f"the strategy {name!r} has no rule for gramine-direct: choose from "
            f"{', '.join(accepted)}"
        )
    if name in NAMES or ":" in name:
        raise LaconicError(
            f"the strategy {name!r} has no rule for Linux, only for enclaves: add --host sgx2, or choose from "
            f"{', '.join(accepted)}"
        )
    raise LaconicError(f"there is no strategy {name!r}: choose from {', '.join(accepted)}")


def base_name(name: str) -> str:
    """Return the name of a strategy of `NAMES` without its options; other names as they are.

    >>> base_name("edmm-tuned:demand=8"), base_name("my_module:MyClass")
    ('edmm-tuned', 'my_module:MyClass')
    """
    base, _, _ = name.partition(":")
    return base if base in _MODULES else name


def strategy(name: str) -> type[Strategy]:
    """Return the class of the strategy called `name`, or of a user's `module:Class`. Raises
    LaconicError."""
    base = base_name(name)
    if base not in _MODULES:
        check_name(name, "sgx2")
        return _users_own(name)
    module, _, class_name = _MODULES[base].partition(":")
    strategy_class: type[Strategy] = getattr(
        import_module(f"laconic.strategies.{module}"), class_name
    )
    return strategy_class if base == name else _tuned(strategy_class, name)


def full_name(name: str) -> str:
    """Return `name` with its options in their order, so that equal settings have equal names.

    Raises LaconicError.
    """
    return name if base_name(name) == name else strategy(name).name


def _tuned(strategy_class: type[Strategy], name: str) -> type[Strategy]:
    from laconic.strategies.options import Tunable

    base, _, options = name.partition(":")
    if not issubclass(strategy_class, Tunable):
        raise LaconicError(f"{name!r}: the strategy {base!r} has no options; use {base!r} alone")
    return strategy_class.tuned(options)


def _users_own(name: str) -> type[Strategy]:
    from laconic.libos.strategy import Strategy

    module, _, class_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        found = getattr(import_module(module), class_name, None)
    except (ImportError, ValueError) as error:
        raise LaconicError(
            f"the strategy {name!r} cannot be imported, {error}: check the module's name"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise LaconicError(
            f"{name!r} is not a strategy: name a class that inherits from laconic.libos.strategy.Strategy"
        )
    if found.__abstractmethods__:
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise LaconicError(f"the strategy {name!r} lacks methods: define {missing}")
    return found
