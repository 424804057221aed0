"""Numbers with three significant digits and a unit, for the text of analyses and reports."""

from __future__ import annotations

from collections.abc import Iterable

#: A unit: its size, and its letter.
Unit = tuple[float, str]
#: The low and the high end of an estimate.
LowHigh = tuple[float, float]
_UNITS: tuple[Unit, ...] = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))


def digits(number: float, decimals: int = 9) -> str:
    """Return three significant digits, with at most `decimals` decimals.

    >>> digits(0.3894), digits(5.957), digits(181.2), digits(14_521), digits(0.01234, 3), digits(0)
    ('0.389', '5.96', '181', '14,500', '0.012', '0')
    """
    if not number:
        return "0"
    rounded = float(f"{number:.3g}")
    size = abs(rounded)
    if size >= 100:
        return f"{rounded:,.0f}"
    places = 1 if size >= 10 else 2
    while size < 1 and places < decimals:
        size *= 10
        places += 1
    return f"{rounded:.{min(places, decimals)}f}"


def unit(values: Iterable[float]) -> Unit:
    """Return the unit for compared values: the largest one such that some value is at least half of
    it.

    >>> unit([7.1e8, 2e6]), unit([4e8]), unit([12.0]), unit([])
    ((1000000000.0, 'G'), (1000000.0, 'M'), (1, ''), (1, ''))
    """
    largest = max(values, default=0)
    return next((each for each in _UNITS if largest >= each[0] / 2), _UNITS[-1])


def ends_text(first: str, last: str, separator: str = "–") -> str:
    """Return a range from the texts of its ends; one text if both look alike."""
    return first if first == last else f"{first}{separator}{last}"


def low_to_high(low: float, high: float, form: str = ",.0f") -> str:
    """Return a range as it is written in a sentence; one number if both ends look alike.

    >>> low_to_high(5, 5), low_to_high(1000, 2000), low_to_high(1.25, 2, ".1f")
    ('5', '1,000 to 2,000', '1.2 to 2.0')
    """
    return ends_text(f"{low:{form}}", f"{high:{form}}", " to ")


def span(low: float, high: float, of: Unit) -> str:
    """Return a range in the unit `of`, without its letter. Equal ends are shown once, and values
    below a hundredth as `<0.01`.

    >>> span(0.737e9, 1.18e9, (1e9, "G")), span(2e6, 3e6, (1e9, "G")), span(0, 0, (1e9, "G"))
    ('0.737–1.18', '<0.01', '0')
    >>> span(1e3, 19e6, (1e9, "G")), span(0, 19e6, (1e9, "G"))
    ('<0.001–0.019', '0–0.019')
    """
    size, _ = of
    if not high:
        return "0"
    if high < size / 100 and size > 1:
        return "<0.01"
    decimals = 3 if size > 1 else 0
    first, last = digits(low / size, decimals), digits(high / size, decimals)
    if low and first == "0.000":
        first = "<0.001"
    return ends_text(first, last)


def cycles(low: float, high: float, of: Unit | None = None) -> str:
    """Return a range of cycles with its unit: `of`, or by default the one that fits the range.

    >>> cycles(0.49e9, 0.7e9), cycles(13e6, 19e6, (1e9, "G")), cycles(12, 12)
    ('0.490–0.700 G cycles', '0.013–0.019 G cycles', '12 cycles')
    """
    of = of or unit([high])
    return f"{span(low, high, of)} {of[1]}{' ' if of[1] else ''}cycles"
