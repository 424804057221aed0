"""Names as their authors wrote them: C++ by the C++ library's own demangler, Rust by that and
`rust`."""

from __future__ import annotations

import ctypes
import re
from functools import cache, lru_cache
from typing import Any

from laconic.stacks.rust import demangle_v0

#: The library's demangler calls itself: a longer name, which a broken or hostile file may have, is
#: left as it is.
_LONGEST = 8192
_HASH = re.compile(r"::h[0-9a-f]{16}(?=$|[ .])")
_MANGLED = re.compile(r"(_Z[A-Za-z0-9_$.]+?)((?:\.[A-Za-z0-9_.]+)?)(@.*)?", re.DOTALL)
_RUST_SIGNS = {
    "$SP$": "@", "$BP$": "*", "$RF$": "&", "$LT$": "<", "$GT$": ">", "$LP$": "(", "$RP$": ")", "$C$": ",",
}  # fmt: skip
_RUST_SIGN = re.compile(r"\$(?:SP|BP|RF|LT|GT|LP|RP|C)\$|\$u[0-9a-f]{1,6}\$|\.\.")


@lru_cache(maxsize=65536)
def demangle(name: str) -> str:
    """The demangled name; the name itself where it is not mangled, or nothing here can tell. Never
    raises."""
    if len(name) > _LONGEST:
        return name
    if name.startswith("_R"):
        return demangle_v0(name) or name
    if not name.startswith("_Z"):
        return name
    words = _cxa(name)
    if words is None:
        # GCC's clones (`.constprop.0`) are no part of the ABI's names for every version of the
        # library.
        match = _MANGLED.fullmatch(name)
        words = _cxa(match[1]) if match is not None and match[2] else None
        if match is None or words is None:
            return name
        words += f" [clone {match[2]}]"
    if _HASH.search(words):
        # A part of the path that would begin with a sign has an underscore before it.
        words = _RUST_SIGN.sub(_rust_sign, re.sub(r"(^|::)_\$", r"\1$", _HASH.sub("", words)))
    return words


def _rust_sign(match: re.Match[str]) -> str:
    sign = match[0]
    if sign == "..":
        return "::"
    if sign in _RUST_SIGNS:
        return _RUST_SIGNS[sign]
    number = int(sign[2:-1], 16)
    return chr(number) if number < 0x110000 else sign


@cache
def _library() -> tuple[Any, Any] | None:
    for file in ("libstdc++.so.6", "libc++abi.so.1"):
        try:
            function = ctypes.CDLL(file).__cxa_demangle
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_void_p
        function.argtypes = (
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_int),
        )
        free = ctypes.CDLL(None).free
        free.argtypes = (ctypes.c_void_p,)
        return function, free
    return None


def has_demangler() -> bool:
    """True where a C++ library is there to demangle C++ names by; without one they stay as they
    are."""
    return _library() is not None


def _cxa(name: str) -> str | None:
    library = _library()
    if library is None or "\0" in name:
        return None
    function, free = library
    status = ctypes.c_int()
    address = function(name.encode("utf-8", "surrogateescape"), None, None, ctypes.byref(status))
    if not address:
        return None
    try:
        return ctypes.string_at(address).decode("utf-8", "replace") if status.value == 0 else None
    finally:
        free(address)
