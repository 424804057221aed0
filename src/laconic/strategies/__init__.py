"""The strategies: the rules that turn a program's memory calls into host work, one file per
strategy.

A strategy is a class that inherits from `laconic.libos.strategy.Strategy`. Its methods are the rule
for enclaves; its `linux_rule`, if it has one, is the rule for Linux.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from laconic.errors import LaconicError

if TYPE_CHECKING:  # `laconic run --help` lists the strategies, and must not wait for imports
    from laconic.libos.strategy import Maker, Strategy
    from laconic.memory.calls import Arguments
    from laconic.memory.change import Outcome
    from laconic.memory.hostrule import HostRule
    from laconic.strategies.options import Options

SGX2, LINUX, GRAMINE = "sgx2", "linux", "gramine"


class _Registered(NamedTuple):
    # The location of a strategy's class, and the hosts for which it has a rule.
    place: str
    hosts: tuple[str, ...]


#: Each strategy, in the order in which tables show them.
_REGISTRY = {
    "every-call": _Registered("every_call:EveryCall", (SGX2, LINUX, GRAMINE)),
    "skip-equal": _Registered("skip_equal:SkipEqual", (SGX2, LINUX, GRAMINE)),
    "classify": _Registered("classify:Classify", (SGX2, LINUX)),
    "laconic": _Registered("laconic:Laconic", (SGX2, LINUX)),
    "sgx-emm": _Registered("sgx_emm:SgxEmm", (SGX2,)),
    "edmm-tuned": _Registered("edmm_tuned:EdmmTuned", (SGX2,)),
}
NAMES = tuple(_REGISTRY)


def names_on(host: str) -> tuple[str, ...]:
    """Return the strategies that have a rule for `host` ("sgx2", "linux" or "gramine"), in the
    order of `NAMES`."""
    return tuple(name for name, entry in _REGISTRY.items() if host in entry.hosts)


def check_name(name: str, host: str, also: Iterable[str] = ()) -> None:
    """Raise LaconicError if no strategy is called `name`, or if it has no rule for `host` ("sgx2",
    "linux" or "gramine").

    A name may be followed by a colon and options (`laconic.strategies.options`). `module:Class` is
    a user's own strategy. `also` are other names that the option accepts; the message lists them
    first.
    """
    accepted = (*also, *names_on(host))
    base = base_name(name)
    if base in accepted and base != name:
        if host != SGX2:
            raise LaconicError(
                f"{name!r}: a strategy's options are for enclaves; add --host sgx2, or use {base!r}"
            )
        strategy(name)
        return
    if name in accepted:
        return
    if host == GRAMINE and (base in NAMES or ":" in name):
        raise LaconicError(
            f"the strategy {name!r} has no rule for gramine-direct: choose from "
            f"{', '.join(accepted)}"
        )
    if ":" in name and base not in NAMES:
        _check_rule(_users_own(name), name, host)
        return
    if base in NAMES:
        raise LaconicError(
            f"the strategy {name!r} has no rule for Linux, only for enclaves: add --host sgx2, or "
            f"choose from {', '.join(accepted)}"
        )
    own = "" if host == GRAMINE else ", or module:Class"
    raise LaconicError(f"there is no strategy {name!r}: choose from {', '.join(accepted)}{own}")


def base_name(name: str) -> str:
    """Return the name of a built-in strategy without its options, and any other name unchanged.

    >>> base_name("edmm-tuned:demand=8"), base_name("my_module:MyClass")
    ('edmm-tuned', 'my_module:MyClass')
    """
    base, _, _ = name.partition(":")
    return base if base in _REGISTRY else name


def full_name(name: str) -> str:
    """Return `name` with its options in a fixed order, so that equal settings have equal names.

    Raises LaconicError.
    """
    base, colon, text = name.partition(":")
    if not colon or base not in _REGISTRY:
        return name
    options = _options(name)
    return options.full_name(options.parse(text))


def has_rule(strategy: str | type[Strategy], host: str) -> bool:
    """Return whether a strategy (its name, `module:Class`, or the class) has a rule for `host`.

    A name with options has a rule for enclaves only. Raises LaconicError if a user's strategy
    cannot be imported.
    """
    if isinstance(strategy, str):
        base = base_name(strategy)
        if base != strategy and host == LINUX:
            return False
        if base in _REGISTRY or ":" not in base:
            return base in names_on(host)
    found = _users_own(strategy) if isinstance(strategy, str) else strategy
    return found.linux_rule is not None if host == LINUX else not _missing(found)


def strategy(strategy: str | type[Strategy]) -> type[Strategy]:
    """Return the class of a strategy for enclaves: by its name, by `module:Class`, or the class
    itself.

    Options in the name are checked, but are not part of the class (`arguments`). Raises
    LaconicError if there is none, or if it has no rule for enclaves.
    """
    return _class_for(strategy, SGX2)


def arguments(strategy: str | type[Strategy]) -> dict[str, Any]:
    """Return the keyword arguments by which a strategy's class gets the options in the name.

    Raises LaconicError for an unknown option or a wrong value.
    """
    if not isinstance(strategy, str) or base_name(strategy) == strategy:
        return {}
    _, _, text = strategy.partition(":")
    return {"values": _options(strategy).parse(text)}


def maker(strategy: str | type[Strategy]) -> Maker:
    """Return the function that makes the enclaves of a strategy: its class, with the options in the
    name.

    Raises LaconicError, like `strategy`.
    """
    made = _class_for(strategy, SGX2)
    options = arguments(strategy)
    return partial(made, **options) if options else made


def is_strict(strategy: str | type[Strategy]) -> bool:
    """Return whether a strategy, with the options in its name, never violates the law Strict.

    Raises LaconicError, like `strategy`.
    """
    found = _class_for(strategy, SGX2)
    values = arguments(strategy).get("values")
    if values is not None and isinstance(strategy, str):
        depends = _options(strategy).is_strict
        if depends is not None:
            return depends(values)
    return found.strict


def linux_rule(strategy: str | type[Strategy]) -> HostRule:
    """Return a strategy's rule for Linux: by its name, by `module:Class`, or of the class.

    Raises LaconicError if there is no such strategy, or if it has no rule for Linux.
    """
    found = _class_for(strategy, LINUX)
    rule = found.linux_rule
    assert rule is not None
    definer = next(each for each in found.__mro__ if "linux_rule" in vars(each))
    return rule if definer.__module__.startswith("laconic.") else _checking(rule)


_CHECKING: dict[HostRule, HostRule] = {}


def _checking(rule: HostRule) -> HostRule:
    # A user's rule with a check of its results. Each rule has exactly one such wrapper, because
    # equal rules are replayed only once.
    if rule in _CHECKING:
        return _CHECKING[rule]

    def checked(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
        host_args = rule(name, args, outcome)
        if host_args is not None and not (isinstance(host_args, tuple) and len(host_args) == 6):
            raise LaconicError(
                f"linux_rule returned {host_args!r} for {name}; return a tuple of six arguments, "
                "or None"
            )
        return host_args

    _CHECKING[rule] = checked
    return checked


def display_name(strategy: str | type[Strategy]) -> str:
    """Return the name under which tables show a strategy: the given string, or the `name` of a
    class.

    Raises LaconicError for a class that is not a strategy.
    """
    if isinstance(strategy, str):
        return strategy
    found = _checked(strategy, getattr(strategy, "__name__", repr(strategy)))
    _check_own_name(found, found.__name__)
    return found.name


def as_list(
    strategies: str | type[Strategy] | Iterable[str | type[Strategy]],
) -> list[str | type[Strategy]]:
    """Return strategies as a list; a single one may be given without a list."""
    if isinstance(strategies, (str, type)):
        return [strategies]
    return list(strategies)


def _class_for(strategy: str | type[Strategy], host: str) -> type[Strategy]:
    if not isinstance(strategy, str):
        _check_rule(_checked(strategy, getattr(strategy, "__name__", repr(strategy))), None, host)
        return strategy
    base = base_name(strategy)
    if base == strategy or host != SGX2:
        check_name(strategy, host)
    if base not in _REGISTRY:
        return _users_own(strategy)
    module, _, class_name = _REGISTRY[base].place.partition(":")
    strategy_class: type[Strategy] = getattr(
        import_module(f"laconic.strategies.{module}"), class_name
    )
    arguments(strategy)
    return strategy_class


def _options(name: str) -> Options:
    # The options of the strategy that `name` selects: OPTIONS of its module.
    base = base_name(name)
    module, _, _ = _REGISTRY[base].place.partition(":")
    options: Options | None = getattr(
        import_module(f"laconic.strategies.{module}"), "OPTIONS", None
    )
    if options is None:
        raise LaconicError(f"{name!r}: the strategy {base!r} has no options; use {base!r} alone")
    return options


def _users_own(name: str) -> type[Strategy]:
    module, _, class_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # like python -m
    try:
        found = getattr(import_module(module), class_name, None)
    except (ImportError, ValueError) as error:
        raise LaconicError(
            f"the strategy {name!r} cannot be imported, {error}: check the module's name"
        ) from None
    return _checked(found, name)


def _checked(found: object, name: str) -> type[Strategy]:
    from laconic.libos.strategy import Strategy

    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise LaconicError(
            f"{name!r} is not a strategy: name a class that inherits from laconic.Strategy"
        )
    return found


def _check_own_name(found: type[Strategy], name: str) -> None:
    own_name = getattr(found, "name", None)
    if not isinstance(own_name, str) or not own_name:
        raise LaconicError(
            f"the strategy {name!r} has no name: add the class attribute name, a string"
        )


def _check_rule(found: type[Strategy], name: str | None, host: str) -> None:
    # A user's class must define everything that its host needs. A class with a rule for Linux only
    # is a strategy for Linux, and may omit the methods for enclaves.
    name = found.__name__ if name is None else name
    if host == LINUX and found.linux_rule is None:
        raise LaconicError(
            f"the strategy {name!r} has no rule for Linux: define linux_rule, or add --host sgx2"
        )
    if host == LINUX and not _takes_three(found.linux_rule):
        raise LaconicError(
            f"the strategy {name!r}: define linux_rule(name, args, outcome) as a @staticmethod"
        )
    missing = _missing(found) if host == SGX2 else []
    if missing:
        raise LaconicError(f"the strategy {name!r} lacks methods: define {', '.join(missing)}")
    _check_own_name(found, name)


def _missing(found: type[Strategy]) -> list[str]:
    # The abstract methods that a class does not define. Strategy does not use ABCMeta: compiled
    # classes would share its cache of subclasses, and would have no list of abstract methods.
    from laconic.libos.strategy import ContinuingStrategy, Strategy

    missing = []
    for name in (
        "call",
        "end",
        "execute",
        "fork",
        "grow",
        "load",
        "thread",
        "thread_ends",
        "touch",
    ):
        base = ContinuingStrategy if name == "execute" else Strategy
        if issubclass(found, base) and getattr(found, name) is getattr(base, name):
            missing.append(name)
    return missing


def _takes_three(rule: object) -> bool:
    # Return whether a rule can be called with a name, arguments and an outcome.
    import inspect  # takes as long as a tenth of `laconic run -- true`

    if not callable(rule):
        return False
    try:
        inspect.signature(rule).bind("mmap", (), None)
    except TypeError:
        return False
    except ValueError:  # a callable without a signature, such as a compiled one
        return True
    return True
