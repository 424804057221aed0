"""Names in the form in which a report may show them: every character is shown literally, and none
can break out of its context."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

#: The maximum number of characters of a name that are shown.
LONGEST = 400
#: Control and format characters (including the marks of writing direction), surrogates, private
#: characters, and line separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(text: str, longest: int = LONGEST) -> str:
    r"""Return a name as it is shown: invisible characters are written as escapes, and a long name
    is shortened in its middle.

    >>> plain("a\x1b\u202eb\udcff")
    'a\\x1b\\u202eb\\xff'
    """
    cut = ""
    if len(text) > longest:
        half = longest // 2
        cut = f"…[{len(text) - 2 * half:,} characters]…"
        return _seen(text[:half]) + cut + _seen(text[-half:])
    return _seen(text)


def _seen(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(each) if unicodedata.category(each) in _UNSEEN else each for each in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte that is not UTF-8 (os.fsdecode)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def script_json(value: Any) -> str:
    """Return JSON for use inside a <script>: it contains no `<`, so nothing in it ends or starts an
    element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
