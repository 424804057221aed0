"""Rust's v0 symbol names (RFC 2603) in the language's own words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_BASIC: Final = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize", "j": "usize",
    "l": "i32", "m": "u32", "n": "i128", "o": "u128", "s": "i16", "t": "u16", "u": "()", "v": "...", "x": "i64",
    "y": "u64", "z": "!", "p": "_",
}  # fmt: skip
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ONCE: Final = re.compile(r"_?[Rr]([A-Za-z0-9_]+)(?:[.$].*)?", re.DOTALL)
#: What no honest name exceeds: nesting, and letters. References may make a short name a very long
#: one.
_DEPTH, _LETTERS = 128, 1 << 16


class _Unknown(Exception):
    pass


def demangle_v0(name: str) -> str | None:
    """The name in words, without hashes; None where it is none of v0. O(length of the result),
    which is bounded."""
    match = _ONCE.fullmatch(name)
    if match is None:
        return None
    try:
        return _Decoder(match[1]).path(True)
    except (_Unknown, IndexError, ValueError):
        return None


class _Decoder:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._letters = 0
        self._lifetimes = 0

    # Letters and numbers

    def _peek(self, letter: str) -> bool:
        return self._text.startswith(letter, self._at)

    def _eat(self, letter: str) -> bool:
        if self._peek(letter):
            self._at += 1
            return True
        return False

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _base62(self) -> int:
        # 0 is "_", n + 1 is n in base 62.
        if self._eat("_"):
            return 0
        value = 0
        while not self._eat("_"):
            value = value * 62 + _DIGITS.index(self._next())
            if value >> 64:
                raise _Unknown
        return value + 1

    def _tagged(self, tag: str) -> int:
        return self._base62() + 1 if self._eat(tag) else 0

    def _decimal(self) -> int:
        start = self._at
        if self._eat("0"):
            return 0
        while self._text[self._at : self._at + 1].isdecimal():
            self._at += 1
        if not 0 < self._at - start < 10:
            raise _Unknown
        return int(self._text[start : self._at])

    def _plain_name(self) -> str:
        puny = self._eat("u")
        length = self._decimal()
        self._eat("_")
        name = self._text[self._at : self._at + length]
        if len(name) < length:
            raise _Unknown
        self._at += length
        if puny:
            head, mark, tail = name.rpartition("_")
            name = (head + "-" * bool(mark) + tail).encode("ascii").decode("punycode")
        return self._count(name)

    def _count(self, text: str) -> str:
        self._letters += len(text) + 1
        if self._letters > _LETTERS:
            raise _Unknown
        return text

    def _nested(self, what: Callable[[], str]) -> str:
        self._depth += 1
        if self._depth > _DEPTH:
            raise _Unknown
        self._count("")
        result = what()
        self._depth -= 1
        return result

    def _back(self, what: Callable[[], str]) -> str:
        # A reference to an earlier place: always backwards, so that there is an end.
        start = self._at - 1
        place = self._base62()
        if place >= start:
            raise _Unknown
        after, self._at = self._at, place
        result = self._nested(what)
        self._at = after
        return result

    def _until_end(self, what: Callable[[], str]) -> list[str]:
        found = []
        while not self._eat("E"):
            found.append(what())
        return found

    # Paths

    def path(self, value: bool) -> str:
        return self._nested(lambda: self._path(value))

    def _path(self, value: bool) -> str:
        letter = self._next()
        if letter == "C":
            self._tagged("s")
            return self._plain_name()
        if letter in "MX":
            self._tagged("s")
            self.path(False)  # where the impl is says little
        if letter == "M":
            return f"<{self.type()}>"
        if letter in "XY":
            kind = self.type()
            return f"<{kind} as {self.path(False)}>"
        if letter == "N":
            return self._in_namespace(value)
        if letter == "I":
            base = self.path(value)
            arguments = ", ".join(self._until_end(self._generic))
            return f"{base}{'::' * value}<{arguments}>"
        if letter == "B":
            return self._back(lambda: self.path(value))
        raise _Unknown

    def _in_namespace(self, value: bool) -> str:
        namespace = self._next()
        base = self.path(value)
        number = self._tagged("s")
        name = self._plain_name()
        if namespace.isupper():
            kind = {"C": "closure", "S": "shim"}.get(namespace, namespace)
            return f"{base}::{{{kind}{':' * bool(name)}{name}#{number}}}"
        return f"{base}::{name}" if name else base

    def _generic(self) -> str:
        if self._eat("L"):
            return self._lifetime(self._base62())
        if self._eat("K"):
            return self.const()
        return self.type()

    # Types

    def type(self) -> str:
        return self._nested(self._type)

    def _type(self) -> str:
        letter = self._next()
        if letter in _BASIC:
            return _BASIC[letter]
        if letter == "A":
            element = self.type()
            return f"[{element}; {self.const()}]"
        if letter == "S":
            return f"[{self.type()}]"
        if letter == "T":
            parts = self._until_end(self.type)
            return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
        if letter in "RQ":
            lifetime = self._lifetime(self._base62()) if self._eat("L") else ""
            mutable = "mut " if letter == "Q" else ""
            return f"&{lifetime}{' ' * bool(lifetime.strip('_'))}{mutable}{self.type()}"
        if letter in "PO":
            return f"*{'const' if letter == 'P' else 'mut'} {self.type()}"
        if letter == "F":
            return self._bound(self._function)
        if letter == "D":
            bounds = "dyn " + self._bound(lambda: " + ".join(self._until_end(self._dyn_trait)))
            if not self._eat("L"):
                raise _Unknown
            index = self._base62()
            return f"{bounds} + {self._lifetime(index)}" if index else bounds
        if letter == "B":
            return self._back(self.type)
        self._at -= 1
        return self.path(False)

    def _lifetime(self, index: int) -> str:
        if not index:
            return "'_"
        depth = self._lifetimes - index
        if depth < 0:
            raise _Unknown
        return f"'{chr(97 + depth)}" if depth < 26 else f"'_{depth}"

    def _bound(self, what: Callable[[], str]) -> str:
        count = self._tagged("G")
        if count > 64:
            raise _Unknown
        self._lifetimes += count
        names = ", ".join(self._lifetime(index) for index in range(count, 0, -1))
        result = (f"for<{names}> " if names else "") + what()
        self._lifetimes -= count
        return result

    def _function(self) -> str:
        unsafe = "unsafe " if self._eat("U") else ""
        abi = ""
        if self._eat("K"):
            name = "C" if self._eat("C") else self._plain_name().replace("_", "-")
            abi = f'extern "{name}" '
        arguments = ", ".join(self._until_end(self.type))
        result = self.type()
        return f"{unsafe}{abi}fn({arguments})" + ("" if result == "()" else f" -> {result}")

    def _dyn_trait(self) -> str:
        trait = self.path(False)
        bindings = []
        while self._eat("p"):
            name = self._plain_name()
            bindings.append(f"{name} = {self.type()}")
        if not bindings:
            return trait
        together = ", ".join(bindings)
        return f"{trait[:-1]}, {together}>" if trait.endswith(">") else f"{trait}<{together}>"

    # Constants

    def const(self) -> str:
        return self._nested(self._const)

    def _const(self) -> str:
        letter = self._next()
        if letter == "p":
            return "_"
        if letter == "B":
            return self._back(self.const)
        if letter not in "abchijlmnostxy":
            raise _Unknown
        negative = self._eat("n")
        end = self._text.index("_", self._at)
        digits, self._at = self._text[self._at : end], end + 1
        number = int(digits or "0", 16)
        if letter == "b":
            return "true" if number else "false"
        if letter == "c":
            return repr(chr(number)) if number < 0x110000 else "_"
        return self._count(f"{'-' * negative}{number if number >> 64 == 0 else hex(number)}")
