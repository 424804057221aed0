"""Options of a strategy, behind a colon in its name, and grids of them.

`edmm-tuned:preheat=64M,demand=8` names one setting. A value may list alternatives, separated by
slashes: `edmm-tuned:demand=0/8,lazyfree=0/15` is a grid of four settings. A strategy may also name
whole settings, which come first: `edmm-tuned:+lazy,preheat=0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

from laconic.errors import LaconicError
from laconic.memory.flags import PAGE_SIZE

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class Option(NamedTuple):
    """One option. `parse` turns text into a value and raises ValueError; `accepts` describes the
    accepted values, for messages; `show` is the reverse of `parse`; `off` is the value without the
    option."""

    parse: Callable[[str], Any]
    accepts: str
    off: Any
    show: Callable[[Any], str] = str


def parse_size(text: str) -> int:
    """Return the bytes of a size in whole pages, such as `64M`. Raises ValueError.

    >>> parse_size("64M"), parse_size("0")
    (67108864, 0)
    """
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)", text, re.ASCII)
    if found is None:
        raise ValueError(text)
    size = int(found[1]) << _UNITS[found[2]]
    if size % PAGE_SIZE or size >> 47:
        raise ValueError(text)
    return size


def show_size(size: int) -> str:
    """Return a size in the largest unit that divides it.

    >>> show_size(3 << 20), show_size(0)
    ('3M', '0')
    """
    for unit, shift in reversed(_UNITS.items()):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`, which raises ValueError."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return parse


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser of one of `words`, which raises ValueError."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse


def switch(text: str) -> bool:
    """Return whether an option is on. Raises ValueError."""
    return choice("on", "off")(text) == "on"


def show_switch(value: bool) -> str:
    """Return the text that `switch` parses."""
    return "on" if value else "off"


class Options:
    """The options of one strategy.

    `strategy` is its name. `options` are the options by name. `settings` are sets of option values,
    each under one name. `values` are the values that the strategy's bare name selects; if None, all
    options are off. `check` raises LaconicError if values cannot be combined. `shown` are the
    settings whose names are shown instead of their options. `is_strict` returns whether the
    strategy never violates the law Strict with given values; it is None if the values make no
    difference.
    """

    def __init__(
        self,
        strategy: str,
        options: Mapping[str, Option],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        values: Mapping[str, Any] | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
        shown: Iterable[str] = (),
        is_strict: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.strategy = strategy
        self.options = options
        self.settings = {} if settings is None else settings
        self.off = {name: option.off for name, option in options.items()}
        self.values = self.off | dict(values or {})
        self.is_strict = is_strict
        self._check = check
        self._shown = [(name, self.off | dict(self.settings[name])) for name in shown]

    def full_name(self, values: Mapping[str, Any]) -> str:
        """Return the strategy's name with the options that are not off, in one order.

        Equal settings therefore have equal names.
        """
        if values == self.values:
            return self.strategy
        for setting, those in self._shown:
            if values == those:
                return f"{self.strategy}:{setting}"
        given = [
            f"{name}={option.show(values[name])}"
            for name, option in self.options.items()
            if values[name] != option.off
        ]
        given = given or [name for name, setting in self.settings.items() if not setting]
        return f"{self.strategy}:{','.join(given)}"

    def parse(self, text: str) -> dict[str, Any]:
        """Return the value of each option according to `text`, the part of a name after the colon.

        Raises LaconicError for an unknown option or a wrong value.
        """
        values = dict(self.off)
        seen: set[str] = set()
        for place, word in enumerate(text.split(",")):
            name, equals, value = word.partition("=")
            if not equals and place == 0 and word in self.settings:
                values |= self.settings[word]
                continue
            option = self.options.get(name)
            if option is None or not equals:
                raise LaconicError(self._unknown(word))
            if name in seen:
                raise LaconicError(
                    f"{self.strategy}: the option {name!r} is there twice; use it once"
                )
            seen.add(name)
            try:
                values[name] = option.parse(value)
            except ValueError:
                raise LaconicError(
                    f"{self.strategy}: {word!r} is not a value of {name}; use {option.accepts}"
                ) from None
        if self._check is not None:
            self._check(values)
        return values

    def _unknown(self, word: str) -> str:
        known = [f"{name}=VALUE ({option.accepts})" for name, option in self.options.items()]
        message = f"the strategy {self.strategy!r} has no option {word!r}; use {', '.join(known)}"
        if self.settings:
            message += f", or begin with a setting: {', '.join(self.settings)}"
        return message


def split_names(text: str) -> list[str]:
    """Return the names in a comma-separated list; the options of a strategy stay with it.

    >>> split_names("laconic,edmm-tuned:demand=8,lazyfree=15,classify")
    ['laconic', 'edmm-tuned:demand=8,lazyfree=15', 'classify']
    """
    names: list[str] = []
    for part in text.split(","):
        if names and "=" in part and ":" not in part and ":" in names[-1]:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names


def expand(name: str) -> Iterable[str]:
    """Return the names that a grid represents; the last option varies fastest.

    >>> list(expand("edmm-tuned:demand=0/8,lazyfree=15"))
    ['edmm-tuned:demand=0,lazyfree=15', 'edmm-tuned:demand=8,lazyfree=15']
    """
    base, colon, text = name.partition(":")
    if not colon or "/" not in text:
        return [name]
    alternatives = []
    for word in text.split(","):
        option, equals, value = word.rpartition("=")
        alternatives.append([f"{option}{equals}{each}" for each in value.split("/")])
    return [f"{base}:{','.join(words)}" for words in product(*alternatives)]
