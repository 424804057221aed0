"""Names as a report may show them: every character is seen as what it is, and none can lead out of
where it stands."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

#: Characters of one name that are shown.
LONGEST = 400
#: Control and format characters (the marks of writing direction among them), halves of pairs,
#: private ones, and what ends a line.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(text: str, longest: int = LONGEST) -> str:
    r"""A name as it is shown: what cannot be seen is written as an escape, and a long one is cut in
    its middle.

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
    """JSON that can stand in a <script>: no `<`, so that nothing in it ends or begins an
    element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
