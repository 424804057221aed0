"""Sites that a person does not want to see: what no one can change, or has decided about. `laconic.toml` names them.

    [[suppress]]
    reason = "the allocator's own business"
    call = "madvise"
    module = "libjemalloc.so*"

Each key is a shell pattern, and all that are given must match: `call`; `function` and `module`, of the same frame;
`program`, the path of the program.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from laconic.errors import LaconicError
from laconic.stacks.symbolize import Place

#: Where suppressions are looked for if no file is named.
DEFAULT = "laconic.toml"
KEYS = ("reason", "call", "function", "module", "program")


@dataclass(frozen=True, slots=True)
class Suppression:
    """One rule; an empty pattern matches everything. `site_only`: the frame must be the one that makes the call."""

    reason: str
    call: str = ""
    function: str = ""
    module: str = ""
    program: str = ""
    site_only: bool = False

    def matches(self, call: str, program: str, places: Sequence[Place]) -> bool:
        """True where a site is to be hidden; `places` are its stack, innermost first, without the system call's own
        wrapper. O(frames)."""
        if self.call and not fnmatchcase(call, self.call) or self.program and not fnmatchcase(program, self.program):
            return False
        if not self.function and not self.module:
            return True
        return any(
            (not self.function or fnmatchcase(place.function, self.function))
            and (not self.module or fnmatchcase(place.module, self.module))
            for place in (places[:1] if self.site_only else places)
        )


#: What ld.so and the C library do in every program, and nobody who uses them can change.
BUILT_IN = (
    Suppression("ld.so maps a read-only segment over itself", "mmap", module="ld-linux*.so*", site_only=True),
    Suppression("ld.so maps a read-only segment over itself", "mmap", module="ld-2*.so", site_only=True),
    Suppression("ld.so asks for the break", "brk", module="ld-linux*.so*", site_only=True),
    Suppression("the C library asks for the break", "brk", module="libc.so*", site_only=True),
    Suppression("the C library asks for the break", "brk", module="libc-2*.so", site_only=True),
)


def load(path: str) -> list[Suppression]:
    """The suppressions of a file. Raises LaconicError with line and column of what is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise LaconicError(f"suppressions {path!r} cannot be read, {why}: name another file") from None
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LaconicError(f"suppressions {path!r} are no TOML: {error}") from None
    tables = parsed.get("suppress", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _wrong(path, text, 0, "suppress", "suppress must be written as [[suppress]]")
    found = []
    for number, table in enumerate(tables, 1):
        for key, value in table.items():
            if key not in KEYS:
                raise _wrong(path, text, number, key, f"there is no key {key!r}: choose from {', '.join(KEYS)}")
            if not isinstance(value, str):
                raise _wrong(path, text, number, key, f"{key} = {value!r} is no text: put it in quotes")
        if not set(table) - {"reason"}:
            raise _wrong(path, text, number, "", f"a rule with none of {', '.join(KEYS[1:])} would hide everything")
        found.append(Suppression(**{"reason": path, **table}))
    return found


def _wrong(path: str, text: str, number: int, key: str, why: str) -> LaconicError:
    # Where the `number`th table has `key`, or begins.
    heads = [match.start() for match in re.finditer(r"(?m)^\s*\[\[\s*suppress\s*\]\]", text)]
    at = heads[number - 1] + text[heads[number - 1] :].index("[") if 0 < number <= len(heads) else 0
    if key:
        found = re.compile(rf'(?m)^\s*\[?["\']?({re.escape(key)})["\']?\s*[=\].]').search(text, at)
        at = found.start(1) if found else at
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return LaconicError(f"suppressions {path!r}, line {line}, column {column}: {why}")


def matching(
    suppressions: Iterable[Suppression], call: str, program: str, places: Sequence[Place]
) -> Suppression | None:
    """The first suppression that hides a site, or None. O(suppressions × frames)."""
    return next((one for one in suppressions if one.matches(call, program, places)), None)
