"""A log's times: from the text of its lines to nanoseconds since the first line."""

from __future__ import annotations

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
#: A limit that no log reaches; nanoseconds below it fit into 64 bits.
_LONGEST = 4 * 10**18


class Clock:
    """Converts times of `-t`, `-tt`, `-ttt` (time of day, which restarts at midnight, or seconds
    since 1970) and of `-r`.

    `in_order`: the lines are in the order of their times. A time earlier than the previous one then
    means that the clock was set back (NTP, the end of daylight saving time): later times continue
    from there, and `set_back` counts it. The logs of a `-ff` set are interleaved, so their times do
    not show it.
    """

    def __init__(self) -> None:
        self.in_order = True
        self.set_back = 0
        self._offset = 0
        self._first: int | None = None
        self._last = 0
        self._days = 0
        self._elapsed = 0

    def second(self, text: bytes, fraction: bytes) -> int:
        """Return the nanoseconds from the log's first line to the start of this second.

        That is negative for the first line, which is `fraction` (digits) after the start of its
        second. Raises ValueError if the text is not a time.
        """
        if text[2:3] == b":":
            now = (
                int(text[:2]) * 3600 + int(text[3:5]) * 60 + int(text[6:8])
            ) * _SECOND + self._days
            if now < self._last - _DAY // 2:
                self._days += _DAY
                now += _DAY
            elif now > self._last + _DAY // 2 and self._days and now - _DAY >= 0:
                now -= _DAY  # a line from the previous day, from another thread
            else:
                self._follow(now)
        else:
            now = int(text) * _SECOND
            if self._first is not None and not -_LONGEST < now - self._first < _LONGEST:
                raise ValueError(text)
            self._follow(now)
        if self._first is None:
            self._first = now + nanoseconds(fraction)
        return min(now - self._first + self._offset, _LONGEST)

    def start_at(self, time: int) -> None:
        """Count from `time` on, in nanoseconds since the first line that was read."""
        if self._first is not None:
            self._first += time

    def _follow(self, now: int) -> None:
        if self.in_order and self._first is not None and now < self._last:
            self._offset += self._last - now
            self.set_back += 1
        self._last = now

    def elapsed(self, seconds: bytes, fraction: bytes) -> int:
        """Add a relative time; return the nanoseconds since the first line. The first line's own
        time is ignored."""
        step = int(seconds) * _SECOND + nanoseconds(fraction)
        if self._first is None:
            self._first = 0
            step = 0
        self._elapsed = min(self._elapsed + step, _LONGEST)
        return self._elapsed


def nanoseconds(fraction: bytes) -> int:
    """Return the nanoseconds for the digits after the decimal point of a number of seconds."""
    return int(fraction.ljust(9, b"0")[:9]) if fraction else 0
