"""Names of functions and modules that are short enough for a line."""

from __future__ import annotations

import re

from laconic.stacks.symbolize import Place

_DIRECTORY_AND_VERSION = re.compile(r"\A.*/|\.so(?:\.[0-9.]+)?\Z")
#: The part of the name of a Python extension module that describes the interpreter.
_PYTHON = re.compile(r"\.(?:cpython-|pypy|abi3)[\w-]*(?=\.so\Z)")
#: The suffix that auditwheel adds to the names of libraries.
_WHEEL = re.compile(r"-[0-9a-f]{8}(?=[.-]|\Z)")
_QUALIFIERS = re.compile(r"(?: (?:const|volatile|&&?|noexcept))+\Z")
_OPERATOR = re.compile(r"\boperator\s*(?:\(\)|<=>|<<=?|>>=?|->\*?|[<>]=?)")
#: The suffixes of GCC's copies of a function, and those that a linker adds to equal names.
_CLONE = re.compile(r"(?:\.(?:constprop|isra|part|cold|lto_priv)(?:\.[0-9]+)*)+(?= \[|\Z)")


def short_module(module: str) -> str:
    """Return a module without its directory, version, and what a packager has added to its name.

    >>> short_module("/lib/libc.so.6"), short_module("libscipy_openblas64_-32a4b2a6.so")
    ('libc', 'libscipy_openblas64_')
    >>> short_module("_umath.cpython-311-x86_64-linux-gnu.so"), short_module("ld-linux-x86-64.so.2")
    ('_umath', 'ld.so')
    """
    name = _PYTHON.sub("", module)
    name = _DIRECTORY_AND_VERSION.sub("", _DIRECTORY_AND_VERSION.sub("", name))
    name = _WHEEL.sub("", name)
    if re.fullmatch(r"ld-(?:linux|musl|[0-9]).*", name):
        return "ld.so"
    return name or module


def short_function(function: str) -> str:
    """Return a function of C++ or Rust without the list of its parameters, and any function without
    what a compiler has added to its name.

    >>> short_function("std::map<int, f(int)>::at(int const&) const")
    'std::map<int, f(int)>::at'
    >>> short_function("(anonymous namespace)::f(int)")
    '(anonymous namespace)::f'
    >>> short_function("Guard::operator()(int)"), short_function("seal.constprop.0")
    ('Guard::operator()', 'seal')
    >>> short_function("{impl#0}")
    '{impl#0}'
    """
    function = _CLONE.sub("", function)
    name = _QUALIFIERS.sub("", function)
    if not name.endswith(")"):
        return function
    operators = [match.end() for match in _OPERATOR.finditer(name)]
    least = operators[-1] if operators else 1
    start = _last_list(name)
    if start < least or name[start - 1] in ":( ":
        return function
    return name[:start]


def _last_list(name: str) -> int:
    # Return where the parenthesized list at the end of the name starts; 0 if there is none.
    depth = 0
    for place in range(len(name) - 1, -1, -1):
        if name[place] == ")":
            depth += 1
        elif name[place] == "(":
            depth -= 1
            if not depth:
                return place
    return 0


def short_line(file: str, line: int) -> str:
    """Return a source line without its directory, "" if it is unknown.

    `__init__.py` and similar files, which each package has, keep the name of their package.
    """
    if not file or not line:
        return ""
    parts = file.rsplit("/", 2)
    return f"{'/'.join(parts[-2:]) if parts[-1].startswith('__') else parts[-1]}:{line}"


def is_interpreted(place: Place) -> bool:
    """True for a named function of an interpreted program: in memory that a JIT compiler wrote, or
    in a Python source file."""
    return place.known and (place.module == "[jit]" or place.is_python)


def is_importlib(place: Place) -> bool:
    """True for a function of Python's import system."""
    return place.is_python and place.file.startswith("<frozen importlib")
