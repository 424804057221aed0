"""Names on the page: those of `report.shortnames`, with template arguments folded."""

from __future__ import annotations

from laconic.report import shortnames
from laconic.report.shortnames import short_line, short_module

__all__ = ["LOADER", "short_function", "short_line", "short_module"]

#: The name of the dynamic loader, whatever its file's name is.
LOADER = "ld.so"
_LONG = 40


def short_function(function: str) -> str:
    """Return a function without its parameters and template arguments; only its last two parts if
    it is long.

    >>> short_function("std::vector<int, std::allocator<int> >::push_back(int const&)")
    'std::vector<…>::push_back'
    """
    name = shortnames.short_function(function)
    if "operator" in name:
        return name
    shown: list[str] = []
    depth = 0
    for character in name:
        if character == "<":
            if not depth and shown:
                shown.append("<…>")
            depth += 1
        elif character == ">" and depth:
            depth -= 1
        elif not depth:
            shown.append(character)
    text = "".join(shown)
    if depth or not text:
        return name
    if len(text) > _LONG and "::" in text:
        return "::".join(text.split("::")[-2:])
    return text
