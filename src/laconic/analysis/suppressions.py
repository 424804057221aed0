"""Sites that a user does not want to see, because they cannot be changed or were decided on.
`laconic.toml` names them.

    [[suppress]]
    reason = "the allocator's own business"
    call = "madvise"
    module = "libjemalloc.so*"

Each key is a shell pattern, and all given keys must match: `call`; `function` and `module`, of the
same frame; `program`, the path of the program.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from laconic.errors import LaconicError
from laconic.stacks.symbolize import Place

#: The maximum size of a file, in bytes.
_MOST = 1 << 20
#: The suppression file if none is named.
DEFAULT = "laconic.toml"
KEYS = ("reason", "call", "function", "module", "program")


#: The frames to which `function` and `module` apply: any frame of the stack, the one that makes the
#: call, all.
ANY, SITE, ALL = "any", "site", "all"


@dataclass(frozen=True, slots=True)
class Suppression:
    """One rule; an empty pattern matches everything. `where` is ANY, SITE or ALL.

    `only_redundant`: the rule concerns redundant calls, and has no effect on lists of costs.
    """

    reason: str
    call: str = ""
    function: str = ""
    module: str = ""
    program: str = ""
    where: str = ANY
    only_redundant: bool = False

    def matches(self, call: str, program: str, places: Iterable[Place]) -> bool:
        """True if a site is to be suppressed; `places` are its stack, innermost first, without the
        system call's own wrapper. No more of them are read than necessary. O(frames)."""
        if (self.call and not fnmatchcase(call, self.call)) or (
            self.program and not fnmatchcase(program, self.program)
        ):
            return False
        if not self.function and not self.module:
            return True
        fitting = map(self._fits, places)
        return (
            next(fitting, False)
            if self.where == SITE
            else all(fitting)
            if self.where == ALL
            else any(fitting)
        )

    def _fits(self, place: Place) -> bool:
        return (not self.function or fnmatchcase(place.function, self.function)) and (
            not self.module or fnmatchcase(place.module, self.module)
        )


#: The reason for everything that the dynamic loader does: one line of a list, for any number of
#: libraries.
LOADING = "ld.so loads libraries"
_LOADER_BREAK = "ld.so queries the break"
_BREAK = "the C library queries the break"
_STACK = "the C library discards an ended thread's stack"
_LOADERS = ("ld-linux*.so*", "ld-[0-9]*.so")
#: What ld.so and the C library do in every program, and users cannot change. Functions are matched
#: too: in a static program they are in the program's module, in a redacted trace in a module
#: without a name.
BUILT_IN = (
    *(Suppression(LOADING, "m*", module=name, where=SITE) for name in _LOADERS),
    *(
        Suppression(LOADING, "m*", name, where=SITE)
        for name in (
            *("_dl_map_segments", "_dl_map_segment", "_dl_map_object_from_fd", "_dl_protect_relro"),
            *("map_library", "unmap_library"),  # musl's
        )
    ),
    # musl's loader is its C library, so redundant calls there are the loader's.
    Suppression(LOADING, "mmap", module="ld-musl-*", where=SITE, only_redundant=True),
    *(Suppression(_LOADER_BREAK, "brk", module=name, where=SITE) for name in _LOADERS),
    Suppression(_LOADER_BREAK, "brk", "_dl_sysdep_start", where=SITE),
    *(
        Suppression(_BREAK, "brk", module=name, where=SITE, only_redundant=True)
        for name in ("libc.so*", "libc-[0-9]*.so", "ld-musl-*")
    ),
    *(
        Suppression(_BREAK, "brk", name, where=SITE, only_redundant=True)
        for name in (
            *("sysmalloc", "__default_morecore", "_dl_early_allocate", "__libc_setup_tls"),
            *("__malloc_alloc_meta", "__expand_heap"),  # musl's
        )
    ),
    *(
        Suppression(_STACK, "madvise", name, where=SITE)
        for name in ("advise_stack_range", "start_thread")
    ),
    Suppression(_STACK, "madvise", module="libpthread*.so*", where=SITE),
    # Without symbols: all other madvise calls of the C library are made for an outside caller.
    Suppression(_STACK, "madvise", module="libc.so*", where=ALL),
)


def load(path: str) -> list[Suppression]:
    """Return the suppressions of a file. Raises LaconicError with line and column of the error."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise LaconicError(
            f"suppressions {path!r} cannot be read, {why}: name another file"
        ) from None
    if len(data) > _MOST:
        raise LaconicError(
            f"suppressions {path!r} are longer than {_MOST:,} bytes: name another file"
        )
    text = data.decode("utf-8", "replace")
    try:
        parsed = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise _wrong(
            path, text, len(data[: error.start].decode("utf-8", "replace")), "it is not UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        why, at = _place(text.replace("\r\n", "\n"), str(error))
        raise _wrong(path, text.replace("\r\n", "\n"), at, f"{why}: it is not TOML") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits; thousands of brackets
        raise _wrong(
            path, text, 0, "it is not TOML that can be read: write [[suppress]] tables alone"
        ) from None
    return _rules(path, text, parsed)


def _rules(path: str, text: str, parsed: dict[str, Any]) -> list[Suppression]:
    for key in parsed:
        if key != "suppress":
            raise _wrong(
                path, text, _find(text, 0, key), f"there is no key {key!r}: write [[suppress]]"
            )
    tables = parsed.get("suppress", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _wrong(
            path, text, _find(text, 0, "suppress"), "suppress must be written as [[suppress]]"
        )
    found = []
    for number, table in enumerate(tables, 1):
        for key, value in table.items():
            why = None
            if key not in KEYS:
                why = f"there is no key {key!r}: choose from {', '.join(KEYS)}"
            elif not isinstance(value, str):
                why = f"{key} = {str(value)[:40]!r} is not text: put it in quotes"
            elif not value:
                why = f"{key} is empty: leave it out, or name something"
            if why is not None:
                raise _wrong(path, text, _find(text, number, key), why)
        if all(key == "reason" or set(pattern) == {"*"} for key, pattern in table.items()):
            why = f"this rule would hide everything: say which with {', '.join(KEYS[1:])}"
            raise _wrong(path, text, _find(text, number), why)
        found.append(Suppression(**{"reason": path, **table}))
    return found


def _place(text: str, error: str) -> tuple[str, int]:
    # Return tomllib's message, and the position that it names.
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z", error)
    if match is None:
        return error, 0
    if match[1] is None:
        return error[: match.start()], len(text)
    lines = text.split("\n")[: int(match[1]) - 1]
    return error[: match.start()], sum(len(line) + 1 for line in lines) + int(match[2]) - 1


def _find(text: str, number: int, key: str = "") -> int:
    # Return where the `number`th table has `key`, or starts; 0: the whole file.
    heads = [match.start(1) for match in re.finditer(r"(?m)^[ \t]*(\[\[\s*[\"']?suppress)", text)]
    at = heads[number - 1] if 0 < number <= len(heads) else 0
    if not key:
        return at
    name = re.escape(key)
    in_front = rf"(?m)^[ \t]*\[*[ \t]*(?:suppress\.)?[\"']?({name})[\"']?[ \t]*[=\].]"
    for pattern in (in_front, rf"(?<![\w-])({name})[\"']?\s*="):
        found = re.compile(pattern).search(text, at)
        if found is not None:
            return found.start(1)
    return at


def _wrong(path: str, text: str, at: int, why: str) -> LaconicError:
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return LaconicError(f"suppressions {path!r}, line {line}, column {column}: {why}")


def matching(
    suppressions: Iterable[Suppression], call: str, program: str, places: Iterable[Place]
) -> Suppression | None:
    """Return the first suppression that matches a site, or None. O(suppressions × frames)."""
    return next((one for one in suppressions if one.matches(call, program, places)), None)
