"""Numbers as the page shows them: three significant digits and a unit; `pieces/numbers.js` writes
the same."""

from __future__ import annotations

#: The clock at which cycles are shown as seconds, in Hz.
CLOCK = 3_000_000_000
#: Between a number and its unit, so that a line does not end there.
_SPACE = "\u00a0"
#: Around the dash of a range, so that a line does not end there.
_JOIN = "\u2060"
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
#: Counts are exact below this.
_EXACT = 10_000

Range = tuple[float, float]


def digits(number: float) -> str:
    """A number with three significant digits.

    >>> digits(0.3894), digits(5.957), digits(181), digits(14_521)
    ('0.389', '5.96', '181', '14,500')
    """
    if not number:
        return "0"
    rounded = float(f"{number:.3g}")
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}"
    places = 2
    size = abs(rounded)
    while size < 1 and places < 9:
        size *= 10
        places += 1
    if abs(rounded) >= 10:
        places = 1
    return f"{rounded:.{places}f}"


def count(number: int) -> str:
    """A count: exact below 10,000, above with three significant digits.

    >>> count(9_999), count(83_794)
    ('9,999', '83,800')
    """
    return f"{number:,}" if number < _EXACT else digits(number)


def unit(cycles: float) -> tuple[float, str]:
    """The unit in which so many cycles are shown: its size and its letter."""
    return next((each for each in _UNITS if cycles >= each[0]), _UNITS[-1])


def between(low: float, high: float, scale: float = 1, letter: str = "") -> str:
    """A range in one unit; equal ends are written once.

    >>> between(0.737e9, 1.18e9, 1e9, "G").replace("\u2060", "").replace("\u00a0", " ")
    '0.737–1.18 G'
    """
    first, last = digits(low / scale), digits(high / scale)
    ends = first if first == last else f"{first}{_JOIN}–{_JOIN}{last}"
    return f"{ends}{_SPACE}{letter}" if letter else ends


def cycles(span: Range, of: tuple[float, str] | None = None) -> str:
    """A range of cycles, in the unit `of` or in its own; below 1 % of a unit: `<0.01`."""
    if not span[1]:
        return "0"
    scale, letter = of or unit(span[1])
    if span[1] < scale / 100:
        return f"<0.01{_SPACE}{letter}" if letter else "<0.01"
    text = between(*span, scale, letter)
    if 0 < span[0] < scale / 1000:
        return f"<0.001{_JOIN}–{text.split('–', 1)[1]}"
    return text


def seconds(span: Range) -> str:
    """Cycles as seconds at the clock rate `CLOCK`."""
    if not span[1]:
        return f"0{_SPACE}s"
    low, high = span[0] / CLOCK, span[1] / CLOCK
    for scale, letter in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if high >= 0.1 * scale:
            return between(low, high, scale, letter)
    return between(low, high, 1e-9, "ns")


def size(pages: float) -> str:
    """Pages as KiB, MiB, GiB or TiB.

    >>> size(46_400).replace("\u00a0", " ")
    '181 MiB'
    """
    length = pages * 4096
    for scale, letter in _SIZES:
        if length >= scale:
            return f"{digits(length / scale)}{_SPACE}{letter}"
    return "0"


def share(part: float, whole: float) -> str:
    """A share in percent.

    >>> [share(part, 1000).replace("\u00a0", " ") for part in (0, 0.5, 75, 190, 997, 999.6)]
    ['0 %', '<0.1 %', '7.5 %', '19 %', '99.7 %', '100 %']
    """
    percent = 100 * part / whole if whole else 0
    if not percent:
        text = "0"
    elif percent < 0.1:
        text = "<0.1"
    elif percent >= 99.95:
        text = "100"
    elif percent < 10 or percent > 99:
        text = f"{percent:.1f}"
    else:
        text = f"{percent:.0f}"
    return f"{text}{_SPACE}%"


def times(low: float, high: float) -> str:
    """A ratio as a range: `9.18–10.3 ×`."""
    if low >= 1000:
        return f">1,000{_SPACE}×"
    return between(low, high, 1, "×")


def plural(number: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def middle(span: Range) -> float:
    """The middle of a range, where one number must do."""
    return (span[0] + span[1]) / 2
