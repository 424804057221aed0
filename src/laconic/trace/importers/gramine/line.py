"""One line of a Gramine trace log: its content, and its arguments as numbers.

The formats are those of Gramine 1.0 to 1.9 and of Graphene before it; docs/importers.md lists them.
"""

from __future__ import annotations

import calendar
import re
import signal
import time

from laconic.linux.clone import CLONE_FLAGS
from laconic.memory import flags as kernel
from laconic.trace.schema import MEMORY_EVENTS

_MASK = (1 << 64) - 1
#: The maximum number of cached values.
_CACHED = 4096

#: A line that shows a call, whatever precedes it, or otherwise the whole line. Groups: the text
#: before it, process and thread, Graphene's thread number, `return from `, the call's name, the
#: text after its bracket; the whole line.
LINE = re.compile(
    rb"^([^\[(\n]*+.*?)(?:\(\S+\) )?"
    rb"(?:\[(P\d{1,10}:(?:T\d{1,10})?|:):?[^\n]*?\] (?:trace|debug): |\[( *\d{1,10})\] )"
    rb"---- (return from )?(?:shim_)?(\w+) ?\((.*)$|^(.*)$",
    re.MULTILINE,
)
_WHO = rb"\[(P\d{1,10}:(?:T\d{1,10})?|:):?[^\n]{0,40}?\] "
_LEVEL = rb"(trace|debug|warning|error): "
#: The header that Gramine puts before each body. Groups: process and thread, level (with the source
#: location before them); the same without it. `log_always` prints no level.
HEADER = re.compile(
    rb"\([\w.+-]+\.[ch]:\d+:\w+\) (?:" + _WHO + rb")?(?:" + _LEVEL + rb")?|" + _WHO + _LEVEL
)
#: A call whose line has lost its start.
BARE = re.compile(rb"(?:^|trace: )---- (return from )?(?:shim_)?(\w+) ?\((.*)$")
#: The end of a complete body: of a call's start, or of its result.
WHOLE = re.compile(rb"\) (?:\.\.\.|= -?\w+(?: \(mock\))?)$")
#: Gramine prints a body in pieces of this many bytes, and writes each line in pieces of this size.
BUFFER = 256
#: Any line of Gramine's log, at any level.
ANY = re.compile(rb"(\[(?:P\d+|:):[^\n]*?\] |\[ *\d+\] ---- |---- )(trace|debug|warning|error)?")
UNSUPPORTED = re.compile(rb"Unsupported system call (?:shim_)?(\w+)")
COLOUR = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")

_FAMILIES = ("PROT_", "MAP_", "MADV_", "MS_", "MCL_", "MLOCK_")
_SYMBOLS: dict[bytes, int] = {
    **{name.encode(): value for name, value in vars(kernel).items() if name.startswith(_FAMILIES)},
    **{name.encode(): bit for name, bit in CLONE_FLAGS.items()},
    **{f"[{one.name}]".encode(): one.value for one in signal.Signals},
    b"PROT_NONE": 0,
    b"MAP_FILE": 0,
    b"MAP_ANON": kernel.MAP_ANONYMOUS,
}
_UNKNOWN = re.compile(rb"\((?:unknown|invalid): (-?\w+)\)")


class ArgumentNumbers(dict[bytes, int]):
    """Arguments as written in the log → unsigned 64-bit numbers; bounded. Raises ValueError if a
    text is not a number."""

    def __missing__(self, text: bytes) -> int:
        value = 0
        for part in text.split(b"|"):
            part = part.strip()
            symbol = _SYMBOLS.get(part)
            if symbol is None:
                unknown = _UNKNOWN.fullmatch(part)
                symbol = int(unknown[1] if unknown else part.strip(b"[]"), 0)
            value |= symbol
        if len(self) >= _CACHED:
            self.clear()
        self[text] = value & _MASK
        return value & _MASK


_NUMBERS = ArgumentNumbers()
_RANGES = {b"munmap", b"mprotect", b"madvise"}


def arguments(name: bytes, text: bytes) -> tuple[int, int, int, int, int, int]:
    """Return the six registers of a memory call. Raises ValueError if the text is not a list of the
    call's arguments."""
    if name == b"mmap":
        address, length, prot, flags, fd, offset = text.split(b",")
        return (
            int(address, 0) & _MASK,
            int(length, 0) & _MASK,
            _NUMBERS[prot],
            _NUMBERS[flags],
            _NUMBERS[fd],
            int(offset, 0) & _MASK,
        )
    parts = text.split(b",") if text else []
    if name in _RANGES and len(parts) < 3 - (name == b"munmap"):
        raise ValueError(text)
    a, b, c, d, e, f = (*map(_number, parts), *[0] * (6 - len(parts)))
    return a, b, c, d, e, f


def _number(text: bytes) -> int:
    try:
        return int(text, 0) & _MASK
    except ValueError:
        return _NUMBERS[text]


def result(text: bytes) -> int:
    """Return a call's result as a signed 64-bit number. Raises ValueError."""
    value = int(text, 0)
    return value if -1 << 63 <= value < 1 << 63 else ((value + (1 << 63)) & _MASK) - (1 << 63)


def clone_flags(text: bytes) -> int:
    """Return the flags of a clone, from all its arguments. Raises ValueError."""
    return _NUMBERS[text.split(b",", 1)[0]]


def string(text: bytes) -> tuple[bytes, bytes]:
    """Return the first string among arguments, and the text after it. `(invalid-addr 0x10)`
    represents an unreadable string."""
    if text.startswith(b'"'):
        for end in (text.find(b'", '), text.rfind(b'"')):
            if end > 0:
                return text[1:end], text[end + 1 :].lstrip(b", ")
    shown, _, rest = text.partition(b", ")
    return b"?" + shown.strip(b'("'), rest


#: Calls that get rows, in addition to exit and exit_group. Gramine's arch_prctl sets the FS base
#: and no memory.
MEMORY = {
    name.encode() for name in MEMORY_EVENTS if name not in ("other", "i386_brk", "arch_prctl")
}
PROCESS = {b"clone", b"fork", b"vfork", b"execve"}
#: Calls that show the files of descriptors, and writes to files.
FILES = {
    *(b"open", b"openat", b"creat", b"close", b"dup", b"dup2", b"dup3", b"fcntl"),
    *(b"read", b"readv", b"lseek", b"write", b"writev", b"pwrite64", b"sendfile"),
    *(b"truncate", b"ftruncate"),
}

# Times

_FRONT = rb"^(?:\[[^\]]*\] |[\w.-]+ +\| )?"
_ISO = re.compile(
    _FRONT
    + rb"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:Z|([+-]\d\d):?(\d\d))?"
)
_SHORT = re.compile(_FRONT + rb"([A-Z][a-z]{2} [ \d]\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
_KLOG = re.compile(_FRONT + rb"[IWEF](\d{4}) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")
_UNIX = re.compile(_FRONT + rb"(\d{9,11})\.(\d{1,9}) ")


class LineTimes:
    """The times before lines, in nanoseconds since the first one; they never decrease.

    `style` is the log's time format: the first one found.
    """

    def __init__(self) -> None:
        self.style = ""
        self.now = 0
        self._styles: tuple[tuple[str, re.Pattern[bytes]], ...] = _STYLES
        self._first: int | None = None
        self._days: dict[bytes, int] = {}
        self._second = b"\n", 0

    def read(self, front: bytes) -> int:
        """Return the time of a line, from the text before it, or the time of the previous line if
        it shows none."""
        try:
            at = self._at(front)
        except (ValueError, OverflowError):
            at = None
        if at is not None:
            if self._first is None:
                self._first = at
            # A log of many processes is only roughly in order, and a date without a year starts
            # again.
            self.now = min(max(self.now, at - self._first), (1 << 63) - 1)
        return self.now

    def behind(self, line: bytes) -> bytes:
        """Return a line without the time before it, if there is one."""
        for style, pattern in self._styles:
            shown = pattern.match(line)
            if shown is not None:
                return _BEHIND[style].sub(b"", line[shown.end() :], count=1)
        return line

    def _at(self, front: bytes) -> int | None:
        # Most lines have the same second as the previous line.
        second, began = self._second
        if front.startswith(second) and (fraction := _FRACTION.match(front, len(second))):
            return began + int(fraction[1].ljust(9, b"0"))
        for style, pattern in self._styles:
            if found := pattern.match(front):
                self.style, self._styles = style, ((style, pattern),)
                if style == "unix":
                    return int(found[1]) * 10**9 + int(found[2].ljust(9, b"0"))
                seconds = (
                    self._day(found[1]) + int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4])
                )
                if style == "iso" and found[6]:
                    east = int(found[7]) * 60
                    seconds -= int(found[6]) * 3600 + (-east if found[6].startswith(b"-") else east)
                if style != "iso" or not found[6]:
                    self._second = front[: found.end(4)], seconds * 10**9
                return seconds * 10**9 + int((found[5] or b"0").ljust(9, b"0"))
        return None

    def _day(self, text: bytes) -> int:
        day = self._days.get(text)
        if day is None:
            shape = {10: "%Y-%m-%d", 4: "%Y%m%d"}.get(len(text), "%Y %b %d")
            # Assume a leap year if none is shown.
            year = "" if len(text) == 10 else "2000" if len(text) == 4 else "2000 "
            self._days.clear()
            day = self._days[text] = calendar.timegm(time.strptime(year + text.decode(), shape))
        return day


_FRACTION = re.compile(rb"\.(\d{1,9})(?:Z? |$)")
#: The text between the time and the line itself.
_BEHIND = {
    "iso": re.compile(rb"^ "),
    "short": re.compile(rb"^ \S+ [^\s:]+: "),
    "klog": re.compile(rb"^ [^\]]*\] "),
    "unix": re.compile(rb"^ "),
}
_STYLES = (("iso", _ISO), ("short", _SHORT), ("klog", _KLOG), ("unix", _UNIX))
