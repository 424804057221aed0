"""Numbers for people: three significant digits, and one unit for all numbers that are compared."""

from __future__ import annotations

from laconic.memory.flags import PAGE_SIZE
from laconic.trace.numbers import Unit, cycles, digits, ends_text, low_to_high, span, unit

__all__ = [
    "CLOCK",
    "Unit",
    "change",
    "cycles",
    "digits",
    "ends_text",
    "low_to_high",
    "seconds",
    "share",
    "size",
    "span",
    "unit",
]

#: The clock rate at which cycles are shown as seconds, in Hz.
CLOCK = 3_000_000_000
_SIZES: tuple[Unit, ...] = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def change(low: float, high: float, of: Unit | None = None) -> str:
    """Return the change of a range, at its low and at its high end, with its sign and its unit.

    >>> change(0.6e9, 0.9e9), change(-390e6, -200e6), change(-2e6, 1e6), change(0, 0)
    ('+0.600–0.900 G', '-200–390 M', '-2.00 to +1.00 M', '0')
    """
    if not low and not high:
        return "0"
    least, most = min(low, high), max(low, high)
    of = of or unit([abs(least), abs(most)])
    if least >= 0:
        text = f"+{span(least, most, of)}"
    elif most <= 0:
        text = f"-{span(-most, -least, of)}"
    else:
        text = f"-{span(-least, -least, of)} to +{span(most, most, of)}"
    return f"{text} {of[1]}".rstrip()


def seconds(low: float, high: float) -> str:
    """Return cycles as seconds at `CLOCK`.

    >>> seconds(4e9, 6e9), seconds(1.2e7, 1.2e7)
    ('1.33–2.00 s', '4.00 ms')
    """
    for size, letter in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if high / CLOCK >= size / 10 or letter == "ns":
            break
    first, last = digits(low / CLOCK / size), digits(high / CLOCK / size)
    return f"{ends_text(first, last)} {letter}"


def size(pages: int) -> str:
    """Return the size of pages in bytes.

    >>> size(46_400), size(1), size(0)
    ('181 MiB', '4.00 KiB', '0 KiB')
    """
    length = pages * PAGE_SIZE
    for scale, letter in _SIZES:
        if length >= scale:
            return f"{digits(length / scale)} {letter}"
    return "0 KiB"


def share(part: float, whole: float) -> str:
    """Return a part in percent. It may be negative, or more than the whole.

    >>> [share(part, 1000) for part in (0, 0.5, 75, 190, 997, 999.6)]
    ['0 %', '<0.1 %', '7.5 %', '19 %', '99.7 %', '100 %']
    >>> [share(part, 1000) for part in (1004, 1012, 2000, 14_521, -75, -0.5)]
    ['100 %', '101 %', '200 %', '1,450 %', '-7.5 %', '>-0.1 %']
    """
    percent = 100 * part / whole if whole else 0
    if not percent:
        return "0 %"
    size = abs(percent)
    if size < 0.1:
        return "<0.1 %" if percent > 0 else ">-0.1 %"
    if size >= 99.95:
        return f"{digits(percent)} %"
    return f"{percent:.1f} %" if size < 9.95 or size > 99 else f"{percent:.0f} %"
