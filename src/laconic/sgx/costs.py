"""What each counted thing costs, in cycles: data files in which every number has a low, a high, a
source and a machine.

An estimate is a range and is shown with its profile's name, never in place of the counts. Nobody
has published a figure for all things: what is an assumption has no source, and is shown so.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from laconic.errors import LaconicError
from laconic.sgx.meter import THINGS, Counts

#: What is counted and has no price of its own.
_FREE = ("untouched_pages", "open_windows")
#: The things that cost cycles, in the order of the counts.
COSTED = tuple(name for name in THINGS if name not in _FREE)
#: The profile that is used where none is named.
DEFAULT = "published"
#: Bytes of a file that are read at most: a slip of the hand names a device, or a trace.
_MOST = 1 << 20
_DIRECTORY = files("laconic.sgx") / "profiles"


@dataclass(frozen=True, slots=True)
class Figure:
    """What one thing costs: `low` to `high` cycles, by `source`, on `machine`. `note` says how it
    was arrived at."""

    low: float
    high: float
    source: str
    machine: str
    note: str = ""

    @property
    def sourced(self) -> bool:
        """False for an assumption."""
        return bool(self.source)


@dataclass(frozen=True, slots=True)
class CostProfile:
    """The cost of every thing in `COSTED`. `machine` is a line for people: what all the figures are
    about."""

    name: str
    machine: str
    figures: dict[str, Figure]

    @property
    def sourced(self) -> bool:
        """True where every figure has a source."""
        return not self.unsourced

    @property
    def unsourced(self) -> tuple[str, ...]:
        """The things whose figures are assumptions."""
        return tuple(name for name in COSTED if not self.figures[name].sourced)

    def vector(self, high: bool) -> dict[str, float]:
        """The low or the high cost of each thing, in cycles."""
        return {name: figure.high if high else figure.low for name, figure in self.figures.items()}

    def cycles(self, counts: Counts) -> tuple[float, float]:
        """What `counts` cost at least and at most, in cycles.

        >>> profile = load("published")
        >>> profile.cycles(Counts(host_calls=2)) == (2 * profile.figures["host_calls"].low,
        ...                                          2 * profile.figures["host_calls"].high)
        True
        """
        low = high = 0.0
        for name, figure in self.figures.items():
            times = getattr(counts, name)
            low += times * figure.low
            high += times * figure.high
        return low, high

    def lines(self) -> list[str]:
        """One line a figure, for people: the range, the source or `no source`, the machine, the
        note."""
        return [
            f"{name}: {figure.low:,.0f} to {figure.high:,.0f} cycles; "
            f"{figure.source or 'no source'}"
            + "".join(f"; {text}" for text in (figure.machine, figure.note) if text)
            for name, figure in ((name, self.figures[name]) for name in COSTED)
        ]


def shipped() -> tuple[str, ...]:
    """The names of the profiles that come with Laconic, sorted."""
    names = (entry.name for entry in _DIRECTORY.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load(path_or_name: str | Path = DEFAULT) -> CostProfile:
    """The shipped profile of that name, or else the one in that file.

    Raises LaconicError, with file, key, value and cure, where it cannot be read or says something
    else than a profile.
    """
    place = str(path_or_name)
    try:
        if place in shipped():
            text = (_DIRECTORY / f"{place}.toml").read_text(encoding="utf-8")
        else:
            with open(place, "rb") as file:
                raw = file.read(_MOST + 1)
            if len(raw) > _MOST:
                raise LaconicError(
                    f"{place}: has more than {_MOST:,} bytes: give a cost profile, a page of text"
                )
            text = raw.decode("utf-8")
    except FileNotFoundError:
        names = ", ".join(shipped())
        raise LaconicError(
            f"{place}: there is no such cost profile: give a file, or one of {names}"
        ) from None
    except UnicodeDecodeError as error:
        raise LaconicError(
            f"{place}: byte {error.start} is not UTF-8: a cost profile is TOML text"
        ) from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise LaconicError(
            f"{place}: cannot be read: {reason}: give a readable TOML file"
        ) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LaconicError(f"{place}: is not TOML: {error}: mend that line") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # an integer of thousands of digits; thousands of brackets
        raise LaconicError(
            f"{place}: is not TOML that can be read: {error}: write plain numbers and tables"
        ) from None
    return _profile(place, data)


def _profile(place: str, data: dict[str, Any]) -> CostProfile:
    for key, value in data.items():
        if key not in COSTED and key not in ("name", "machine"):
            raise LaconicError(
                f"{place}: {key} = {_shown(value)}: is not a thing that is costed: {_or(COSTED)}"
            )
    figures = {}
    for name in COSTED:
        if name not in data:
            raise LaconicError(
                f"{place}: {name} is missing: add [{name}] with low, high, source and machine"
            )
        figures[name] = _figure(place, name, data[name])
    return CostProfile(
        _text(place, "name", data, Path(place).stem),
        _text(place, "machine", data, "not stated"),
        figures,
    )


def _figure(place: str, name: str, table: object) -> Figure:
    if not isinstance(table, dict):
        raise LaconicError(
            f"{place}: {name} = {_shown(table)}: must be a table: write [{name}] with low and high"
        )
    for key, value in table.items():
        if key not in _FIELDS:
            raise LaconicError(
                f"{place}: {name}.{key} = {_shown(value)}: is not known: {_or(_FIELDS)}"
            )
    found = {}
    for key, read in _FIELDS.items():
        if key not in table and key != "note":
            cure = (
                'write source = "" for an assumption'
                if key == "source"
                else f"add {key} under [{name}]"
            )
            raise LaconicError(f"{place}: {name}.{key} is missing: {cure}")
        found[key] = read(place, f"{name}.{key}", table, "")
    figure = Figure(**found)
    if figure.low > figure.high:
        raise LaconicError(
            f"{place}: {name}.low = {figure.low:g} is more than {name}.high = {figure.high:g}: "
            "exchange them"
        )
    return figure


def _number(place: str, key: str, table: dict[str, Any], default: object) -> float:
    value = table[key.rpartition(".")[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LaconicError(
            f"{place}: {key} = {_shown(value)}: is not a number: give cycles, such as 8000"
        )
    try:
        cycles = float(value)
    except OverflowError:
        cycles = math.inf
    if not math.isfinite(cycles):
        raise LaconicError(
            f"{place}: {key} = {_shown(value)}: is not a finite number: give cycles, such as 8000"
        )
    if cycles < 0:
        raise LaconicError(f"{place}: {key} = {_shown(value)}: is negative: give 0 or more cycles")
    return cycles


def _text(place: str, key: str, table: dict[str, Any], default: str) -> str:
    value = table.get(key.rpartition(".")[2], default)
    if not isinstance(value, str):
        raise LaconicError(
            f"{place}: {key} = {_shown(value)}: is not text: put it in quotation marks"
        )
    return value


_FIELDS: dict[str, Callable[[str, str, dict[str, Any], Any], Any]] = {
    "low": _number,
    "high": _number,
    "source": _text,
    "machine": _text,
    "note": _text,
}


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _or(names: object) -> str:
    return f"take one of {', '.join(names)}" if isinstance(names, dict | tuple) else ""
