"""Numbers on the page: those of `report.numbers`, without line breaks; `pieces/numbers.js` writes
the same."""

from __future__ import annotations

from laconic.report import numbers
from laconic.report.numbers import CLOCK, Unit, digits, ends_text
from laconic.trace.numbers import LowHigh

__all__ = [
    "CLOCK",
    "Unit",
    "count",
    "cycles",
    "digits",
    "middle",
    "ratio",
    "seconds",
    "share",
    "size",
    "times",
    "unbroken",
    "unit",
]

#: Characters between a number and its unit, and around the dash of a range, that prevent a line
#: break.
_SPACE, _JOIN = "\u00a0", "\u2060"
#: Counts are exact below this.
_EXACT = 10_000


def unbroken(number: str) -> str:
    """Return a number with its unit, without a possible line break."""
    return number.replace(" ", _SPACE).replace("–", f"{_JOIN}–{_JOIN}")


def count(number: int) -> str:
    """Return a count: exact below 10,000, above with three significant digits.

    >>> count(9_999), count(83_794)
    ('9,999', '83,800')
    """
    return f"{number:,}" if number < _EXACT else digits(number)


def unit(cycles: float) -> Unit:
    """Return the unit in which this many cycles are shown."""
    return numbers.unit([cycles])


def ratio(low: float, high: float, letter: str = "") -> str:
    """Return a range of ratios; equal ends are written once."""
    ends = ends_text(digits(low), digits(high))
    return unbroken(f"{ends} {letter}" if letter else ends)


def cycles(span: LowHigh, of: Unit | None = None) -> str:
    """Return a range of cycles, in the unit `of` or in its own; below 1 % of a unit: `<0.01`."""
    scale, letter = of or unit(span[1])
    text = numbers.span(*span, (scale, letter))
    if 0 < span[0] < scale / 1000 and "–" in text:
        text = f"<0.001–{text.split('–', 1)[1]}"
    return unbroken(f"{text} {letter}" if letter and span[1] else text)


def seconds(span: LowHigh) -> str:
    """Return cycles as seconds at the clock rate `CLOCK`."""
    return unbroken(numbers.seconds(*span) if span[1] else "0 s")


def size(pages: int) -> str:
    """Return pages as KiB, MiB, GiB or TiB."""
    return unbroken(numbers.size(pages)) if pages else "0"


def share(part: float, whole: float) -> str:
    """Return a share in percent."""
    return unbroken(numbers.share(part, whole))


def times(low: float, high: float) -> str:
    """Return a ratio as a range: `9.18–10.3 ×`."""
    if low >= 1000:
        return f">1,000{_SPACE}×"
    return ratio(low, high, "×")


def middle(span: LowHigh) -> float:
    """Return the middle of a range, for uses that need one number."""
    return (span[0] + span[1]) / 2
