"""Names of functions and modules, short enough for a line; the opened stack has all in full."""

from __future__ import annotations

import re

#: The dynamic loader, whatever its file is called.
LOADER = "ld.so"
_LOADERS = re.compile(
    r"ld-(?:linux|musl)[\w.-]*\.so[\d.]*|ld-[\d.]+\.so|ld64\.so[\d.]*|ld\.so[\d.]*"
)
_PYTHON_TAG = re.compile(r"\.(?:cpython|pypy\d*|abi3)[\w-]*\.so$|\.abi3\.so$")
_VERSION = re.compile(r"\.so(?:\.[\d.]+)?$")
#: What auditwheel adds to the names of libraries.
_WHEEL_HASH = re.compile(r"(?:-[0-9a-f]{8})+$")
_LONG = 40


def short_module(module: str) -> str:
    """A module without its directory, version, Python tag and wheel hash.

    >>> short_module("/lib64/ld-linux-x86-64.so.2"), short_module("libscipy_openblas64_-32a4b2a6.so")
    ('ld.so', 'libscipy_openblas64_')
    >>> short_module("_multiarray_umath.cpython-311-x86_64-linux-gnu.so"), short_module("libc.so.6")
    ('_multiarray_umath', 'libc')
    """
    base = module.rsplit("/", 1)[-1]
    if _LOADERS.fullmatch(base):
        return LOADER
    base = _VERSION.sub("", _PYTHON_TAG.sub("", base))
    return _WHEEL_HASH.sub("", base) or module


def short_function(function: str) -> str:
    """A function without its parameters and template arguments, its last two parts if it is long.

    >>> short_function("std::vector<int, std::allocator<int> >::push_back(int const&)")
    'std::vector<…>::push_back'
    """
    shown: list[str] = []
    depth = 0
    if function.startswith("operator") or "::operator" in function:
        return function
    for character in function:
        if character == "<":
            if not depth and shown:
                shown.append("<…>")
            depth += 1
        elif character == ">" and depth:
            depth -= 1
        elif not depth:
            shown.append(character)
    text = re.sub(r"\((?!anonymous).*\)( const)?$", "", "".join(shown))
    if depth or not text:
        return function
    if len(text) > _LONG and "::" in text:
        return "::".join(text.split("::")[-2:])
    return text


def short_line(file: str, line: int) -> str:
    """A source line without its directory, empty if it is unknown."""
    return f"{file.rsplit('/', 1)[-1]}:{line}" if file and line else ""
