"""Cost profiles: the cycles of each counted event. Profiles are data files in which every number
has a low value, a high value, a source and a machine.

An estimate is a range, shown with its profile's name and never in place of the counts. No
publication has numbers for all events: an assumption has no source, and is shown as such.
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

#: Counters without a cost.
_FREE = ("untouched_pages", "open_windows")
#: The counters that cost cycles, in the order of the counts.
COSTED = tuple(name for name in THINGS if name not in _FREE)
#: The default profile.
DEFAULT = "published"
#: The maximum size of a profile in bytes: a mistyped path may name a device or a trace.
_MOST = 1 << 20
_DIRECTORY = files("laconic.sgx") / "profiles"


@dataclass(frozen=True, slots=True)
class Figure:
    """The cost of one counted event: `low` to `high` cycles, according to `source`, on `machine`.
    `note` states how it was derived."""

    low: float
    high: float
    source: str
    machine: str
    note: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        """Let other processes make it again: pickle cannot set the fields of a frozen class that
        mypyc has compiled."""
        return Figure, (self.low, self.high, self.source, self.machine, self.note)

    @property
    def sourced(self) -> bool:
        """False for an assumption."""
        return bool(self.source)


@dataclass(frozen=True, slots=True)
class CostProfile:
    """The cost of every counter in `COSTED`. `machine` describes the machines of all costs in one
    line."""

    name: str
    machine: str
    figures: dict[str, Figure]

    def __reduce__(self) -> tuple[object, ...]:
        """Let other processes make it again, as a `Figure`."""
        return CostProfile, (self.name, self.machine, self.figures)

    @property
    def sourced(self) -> bool:
        """True if every cost has a source."""
        return not self.unsourced

    @property
    def unsourced(self) -> tuple[str, ...]:
        """The counters whose costs are assumptions."""
        return tuple(name for name in COSTED if not self.figures[name].sourced)

    def vector(self, high: bool) -> dict[str, float]:
        """Return the low or the high cost of each counter, in cycles."""
        return {name: figure.high if high else figure.low for name, figure in self.figures.items()}

    def cycles(self, counts: Counts) -> tuple[float, float]:
        """Return the minimum and maximum cost of `counts`, in cycles.

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
        """Return one line of text per cost: the range, the source or `no source`, the machine, the
        note."""
        return [
            f"{name}: {figure.low:,.0f} to {figure.high:,.0f} cycles; "
            f"{figure.source or 'no source'}"
            + "".join(f"; {text}" for text in (figure.machine, figure.note) if text)
            for name, figure in ((name, self.figures[name]) for name in COSTED)
        ]


def shipped() -> tuple[str, ...]:
    """Return the names of the profiles that come with Laconic, sorted."""
    names = (entry.name for entry in _DIRECTORY.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load(path_or_name: str | Path = DEFAULT) -> CostProfile:
    """Return the shipped profile of that name; if there is none, read the file at that path.

    Raises LaconicError, with file, key, value and fix, if the file cannot be read or is not a valid
    profile.
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
    ) as error:  # an integer with thousands of digits; thousands of brackets
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
