"""One piece of advice, and how sizes are written in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Where an option is written: the manifest, the program's environment, or its command line.
MANIFEST, ENVIRONMENT, COMMAND = "manifest", "environment", "command"


@dataclass(frozen=True, slots=True)
class Advice:
    """`line` (or lines) is the text to paste; `why` has the measured figures as text, `figures` as
    numbers (bytes, pages, counts).

    `env` has variables and their values, if the advice sets variables. `flag` is an argument to
    insert after the name of one of `programs`; it replaces the arguments that begin with one of
    `replaces`. `heap`: bytes that are mapped without the advice, and come from the break if it is
    followed.
    """

    option: str
    line: str
    where: str
    why: str
    figures: dict[str, Any] = field(default_factory=dict)
    env: tuple[tuple[str, str], ...] = ()
    flag: str = ""
    programs: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    heap: int = 0


def variable(name: str, value: str, why: str, heap: int = 0, **figures: Any) -> Advice:
    """Return the advice to set an environment variable, as a manifest's line."""
    return variables({name: value}, why, heap, **figures)


def variables(pairs: Mapping[str, str], why: str, heap: int = 0, **figures: Any) -> Advice:
    """Return the advice to set variables that are right only together: one line of the manifest for
    each. The first one names the advice."""
    lines = "\n".join(f'loader.env.{name} = "{value}"' for name, value in pairs.items())
    return Advice(
        next(iter(pairs)), lines, ENVIRONMENT, why, figures, env=tuple(pairs.items()), heap=heap
    )


def argument(
    flag: str, programs: tuple[str, ...], why: str, replaces: tuple[str, ...] = (), **figures: Any
) -> Advice:
    """Return the advice to insert a flag right after the name of one of `programs`. An argument
    that begins with the same name (up to its `=`) is always replaced."""
    name, equals, _ = flag.partition("=")
    own = (name + equals, *replaces)
    return Advice(name, flag, COMMAND, why, figures, flag=flag, programs=programs, replaces=own)


def power_of_two(value: int) -> int:
    """Return the smallest power of two that is at least `value`, and at least 1.

    >>> power_of_two(5), power_of_two(8), power_of_two(0)
    (8, 8, 1)
    """
    return 1 << max(value - 1, 0).bit_length()


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least `value`.

    >>> round_up(5, 4)
    8
    """
    return -(-value // unit) * unit


def manifest_size(size: int) -> str:
    """Return a number of bytes as Gramine's manifests write it, with K, M and G.

    >>> manifest_size(256 << 10), manifest_size(3 << 30), manifest_size(5)
    ('256K', '3G', '5')
    """
    for shift, letter in ((30, "G"), (20, "M"), (10, "K")):
        if size and not size & (1 << shift) - 1:
            return f"{size >> shift}{letter}"
    return str(size)


def shown_size(size: float) -> str:
    """Return a number of bytes for people.

    >>> shown_size(1 << 20), shown_size(0), shown_size(68 << 30), shown_size(1536)
    ('1.0 MiB', '0 KiB', '68.0 GiB', '2 KiB')
    >>> shown_size(5), shown_size((1 << 20) - 1), shown_size((1 << 30) - 1)
    ('<1 KiB', '1.0 MiB', '1.0 GiB')
    """
    if 0 < size < 1 << 10:
        return "<1 KiB"
    value, unit, decimals = size / 1024, "KiB", 0
    for larger in ("MiB", "GiB", "TiB"):
        if round(value, decimals) < 1024:
            break
        value, unit, decimals = value / 1024, larger, 1
    return f"{value:,.{decimals}f} {unit}"
