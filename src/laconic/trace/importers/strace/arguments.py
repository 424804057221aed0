"""The arguments of a call as strace prints them: splitting that respects quotes and brackets, and
conversion to numbers."""

from __future__ import annotations

import re

from laconic.trace.importers.strace.names import ERRNOS, NUMBERS

_MASK = (1 << 64) - 1
#: A quoted string, a descriptor's path (`3</a, b>`, `0</dev/pts/1<char 136:1>>`), a comment, a
#: bracket, or anything else.
_PIECE = re.compile(
    rb'"(?:[^"\\]|\\.)*+"|(?<=[0-9D])<(?![<.])(?:[^<>\n]|<[^<>\n]*>)*+>|/\*.*?\*/|[(\[{]|[)\]}]|,|=>|[^"<(\[{)\]},/=]+|.',
    re.DOTALL,
)
_COMMENT = re.compile(rb"/\*.*?\*/")
_NAMED = re.compile(rb"[a-z_][a-z0-9_]*=(?!=)")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_SIMPLE = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b"v": b"\v",
    b"f": b"\f",
    b"a": b"\a",
    b"b": b"\b",
    b"e": b"\x1b",
}
_PATH_OF = re.compile(rb"(?:-?\d+|AT_FDCWD|-100 /\* AT_FDCWD \*/)<(.*)>", re.DOTALL)
_DEVICE = re.compile(rb"<(?:char|block) \d+:\d+>$")


def split(text: bytes) -> tuple[list[bytes], bytes] | None:
    """Split `a, {b, c}) = 0` into its arguments and the text after the closing bracket; None if
    there is none. O(text)."""
    found: list[bytes] = []
    depth, start = 0, 0
    for match in _PIECE.finditer(text):
        piece = match.group()
        if piece in (b"(", b"[", b"{"):
            depth += 1
        elif piece in (b")", b"]", b"}"):
            if depth == 0:
                last = text[start : match.start()].strip()
                if last or found:
                    found.append(last)
                return found, text[match.end() :]
            depth -= 1
        elif piece == b"," and depth == 0:
            found.append(text[start : match.start()].strip())
            start = match.end()
    return None


def number(text: bytes) -> int:
    """Return a number, in any of strace's formats, as unsigned 64 bits. Raises ValueError if the
    text is not a number.

    >>> number(b"PROT_READ|PROT_WRITE"), number(b"0x22 /* MAP_PRIVATE|MAP_ANONYMOUS */")
    (3, 34)
    >>> number(b"NULL")
    0
    """
    if b"/*" in text:
        text = _COMMENT.sub(b"", text).strip()
    if b"<" in text and b"<<" not in text:
        text = text.partition(b"<")[0]
    if b"=" in text:
        text = bare(text)
    total = 0
    for part in text.split(b"|"):
        total |= _one(part.strip())
    return total & _MASK


def _one(part: bytes) -> int:
    value = NUMBERS.get(part)
    if value is not None:
        return value
    left, shifted, right = part.partition(b"<<")
    if shifted:
        by = _one(right)
        if not 0 <= by < 64:
            raise ValueError(part)
        return _one(left) << by
    if len(part) > 24:
        raise ValueError(part)
    if part.startswith((b"0x", b"0X")):
        return int(part, 16)
    if len(part) > 1 and part[:1] == b"0":
        return int(part, 8)
    return int(part)


def bare(argument: bytes) -> bytes:
    """Return an argument without the name that `-N` prepends."""
    match = _NAMED.match(argument)
    return argument[match.end() :] if match else argument


def unquote(argument: bytes) -> bytes | None:
    """Return the bytes of a quoted string, as truncated by strace; None if the argument is not a
    string."""
    argument = bare(argument)
    end = argument.rfind(b'"')
    if argument[:1] != b'"' or end < 1:
        return None
    inner = argument[1:end]
    if b"\\" not in inner:
        return inner
    return _ESCAPE.sub(_unescaped, inner)


def unescape(text: bytes) -> bytes:
    """Return text with its escapes resolved."""
    return _ESCAPE.sub(_unescaped, text) if b"\\" in text else text


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match.group(1)
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    if code[:1].isdigit():
        return bytes([int(code, 8) & 255]) if code.strip(b"01234567") == b"" else code
    return _SIMPLE.get(code, code)


def strings(argument: bytes) -> list[bytes]:
    """Return the strings of an array, as in `["ls", "-l"]`."""
    argument = bare(argument)
    if not argument.startswith(b"["):
        return []
    return [
        _ESCAPE.sub(_unescaped, match) for match in re.findall(rb'"((?:[^"\\]|\\.)*+)"', argument)
    ]


def annotation(argument: bytes) -> tuple[bytes, bool] | None:
    """Return the path that `-y` shows for a descriptor, and whether it was `(deleted)`; None if
    there is none."""
    match = _PATH_OF.match(bare(argument))
    if match is None:
        return None
    path = _DEVICE.sub(b"", match.group(1))
    return unescape(path), argument.endswith(b"(deleted)")


def result_of(word: bytes, rest: bytes) -> int:
    """Return the value, or a negative errno, of a result and the text after it. Raises ValueError
    if it is not a result."""
    if word == b"-1":
        text = rest.split(None, 1)
        name = text[0] if text else b""
        if name in ERRNOS:
            return -ERRNOS[name]
        match = re.match(rb"\s*(?:\(errno |ERRNO_)(\d{1,9})", rest)
        if match:
            return -int(match.group(1))
        return -1
    if b"<" in word:
        word = word.partition(b"<")[0]
    if len(word) > 24:
        raise ValueError(word)
    value = int(word, 16) if word[:2] == b"0x" else int(word)
    if value >= 1 << 63:
        value -= 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(word)
    return value
