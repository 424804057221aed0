"""The formats of the lines of an strace log."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

_COMM = rb"(?:<[^>\n]*>)?"
_NUMBER = rb"\[ *[\d?]+\] "
_POINTER = rb"\[[0-9a-f?]{8,16}\] "

#: The prefix of a call: pid in brackets, bare pid, clock (seconds, fraction), relative time
#: (seconds, fraction); then, without groups, the call's number and the instruction pointer.
PREFIX = re.compile(
    rb"(?:\[pid +(\d{1,9})" + _COMM + rb"\] |(\d{1,8})" + _COMM + rb" +(?![.:]))?"
    rb"(?:(\d\d:\d\d:\d\d|\d{9,12})(?:\.(\d{1,9}))? (?:\(\+ +[\d.]+\) )?| *(\d{1,9})\.(\d{1,9}) )?"
    rb"(?:" + _NUMBER + rb")?(?:" + _POINTER + rb")?"
)
CALL = re.compile(rb"([a-z_]\w*)\((.*)\) += (\S+)(.*)", re.DOTALL)
BEGINNING = re.compile(rb"([a-z_]\w*)\((.*)", re.DOTALL)
UNFINISHED = re.compile(rb"([a-z_]\w*)\((.*) <unfinished \.\.\.>", re.DOTALL)
RESUMED = re.compile(rb"<\.\.\. ([a-z_]\w*) resumed>? ?(.*)", re.DOTALL)
ENDING = re.compile(rb"\) += \S")
RESULT = re.compile(rb"\s*= (\S+)(.*)", re.DOTALL)
ENDED = re.compile(rb"\+\+\+ (?:exited with (-?\d{1,9})|killed by (SIG\w+)(?: \([^)]*\))?) ?\+\+\+")
SUPERSEDED = re.compile(rb"\+\+\+ superseded by execve in pid (\d{1,9}) \+\+\+")
SIGNAL = re.compile(rb"--- .* ---$")
MODE = re.compile(rb"(?:strace: )?\[ Process PID=(\d{1,9}) runs in (64 bit|32 bit|x32) mode\. \]")
ATTACHED = re.compile(
    rb"(?:strace: )?Process (\d{1,9}) attached(?: with (\d{1,6}) threads)?(?: \(.*\))?$"
)
#: The start of a call that strace interrupted to report that it attached to a new process; `
#: <unfinished ...>` is the next line.
BROKEN = re.compile(rb"(.*\w\(.*?)(?:strace: )?Process \d{1,9} attached$", re.DOTALL)
#: Other messages of strace, and the table of -c and -C.
OTHER = re.compile(
    rb"(?:strace: |Process \d+ (?:suspended|resumed|detached)|PANIC: |% time |[ -]*------"
    rb"|[ \d.]+ total$|\s*\d+\.\d+ +\d+\.\d+ +\d+ |System call usage"
    rb"|<detached \.\.\.>$| <unfinished \.\.\.>$)"
)
FRAME = re.compile(rb" > |\s+> |stacktrace:|backtrace:")


class LogStyle(NamedTuple):
    """The prefix of a log's calls. `pid` is bracket, bare or none; `time` is clock, relative or
    none.

    `plain`: the prefix consists only of words between white space, each of which is a pid or a
    time. `whole` is the length of a time's seconds, `fraction` that of the digits after the point.
    `stacks`: frames follow the calls.
    """

    pid: str = "none"
    time: str = "none"
    plain: bool = True
    whole: int = 8
    fraction: int = 0
    stacks: bool = False

    @property
    def clock(self) -> str:
        """The resolution of the times: none, seconds, milliseconds, microseconds, nanoseconds."""
        if self.time == "none":
            return "none"
        return {0: "seconds", 3: "milliseconds", 9: "nanoseconds"}.get(
            self.fraction, "microseconds"
        )

    @property
    def words(self) -> int:
        """The number of words before the call, if the style is plain."""
        return (self.pid == "bare") + (self.time != "none")


def style_of(head: bytes) -> tuple[LogStyle, int]:
    """Return the most frequent style of strace's lines in the head, and the number of such lines.
    O(head)."""
    found: Counter[LogStyle] = Counter()
    for line in head.replace(b"\r\n", b"\n").split(b"\n")[:2000]:
        match = PREFIX.match(line)
        if match is not None and is_event(line[match.end() :]):
            found[_style(match)] += 1
    if not found:
        return LogStyle(), 0
    style = found.most_common(1)[0][0]
    if re.search(rb"^ +> ", head, re.MULTILINE):
        style = style._replace(stacks=True)
    if any(other.pid == "bracket" for other in found):
        style = style._replace(pid="bracket", plain=False)
    return style, found.total()


def _style(match: re.Match[bytes]) -> LogStyle:
    bracket, bare, clock, fine, relative, little = match.groups()
    time = "clock" if clock else "relative" if relative is not None else "none"
    pid = "bracket" if bracket else "bare" if bare else "none"
    plain = time != "relative" and match[0].split() == [
        word for word in (bare, _point(clock, fine)) if word
    ]
    return LogStyle(
        pid, time, plain and not bracket, len(clock or b"12345678"), len(fine or little or b"")
    )


def _point(whole: bytes | None, fraction: bytes | None) -> bytes | None:
    return whole + b"." + fraction if whole and fraction else whole


def is_event(rest: bytes) -> bool:
    """Return whether this is the part after the prefix of a line that strace wrote for a call, a
    signal or an exit."""
    return bool(
        CALL.match(rest)
        or UNFINISHED.match(rest)
        or RESUMED.match(rest)
        or ENDED.match(rest)
        or SIGNAL.match(rest)
    )
