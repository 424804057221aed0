"""Names as their authors wrote them: C++ by the C++ library's own demangler, Rust by the package
`demangle`."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

#: The library's demangler is recursive, so a longer name, which a broken or hostile file may have,
#: is left as it is.
_LONGEST = 8192
#: Rust's two schemes: v0 (RFC 2603), and the older one, which ends in a hash.
_RUST = re.compile(r"_R|_ZN.*17h[0-9a-f]{16}E", re.DOTALL)
_MANGLED = re.compile(r"(_Z[A-Za-z0-9_$.]+?)((?:\.[A-Za-z0-9_.]+)?)(@.*)?", re.DOTALL)


@lru_cache(maxsize=65536)
def demangle(name: str) -> str:
    """Return the demangled name, or the name itself if it is not mangled or cannot be demangled.
    Never raises."""
    if len(name) > _LONGEST:
        return name
    if _RUST.match(name):
        return _rust()(name, language="rust")
    if not name.startswith("_Z"):
        return name
    words = _cxa(name)
    if words is None:
        # Not every version of the library accepts the suffixes of GCC's clones (`.constprop.0`) as
        # a part of the ABI's names.
        match = _MANGLED.fullmatch(name)
        words = _cxa(match[1]) if match is not None and match[2] else None
        if match is None or words is None:
            return name
        words += f" [clone {match[2]}]"
    return words


@cache
def _rust() -> Callable[..., str]:
    # Imported for the first Rust name: it takes 30 ms, and most programs have none.
    from demangle import demangle as function

    return function


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
    """True if there is a C++ library that demangles C++ names; without one they stay mangled."""
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
