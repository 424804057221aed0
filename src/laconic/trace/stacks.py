"""The stacks in a trace: where each call was made."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from laconic.stacks.demangle import demangle
from laconic.stacks.symbolize import Place, Symbolizer
from laconic.stacks.table import CUT, FILE, PYTHON, VDSO, Frame, Interned, Module
from laconic.trace.schema import CODES, FRAME, Row

#: The stack number of a call without a stack.
NO_STACK = -1
_MODULE, _FRAMES, _SITE, _STACK, _SYMBOLS = (
    CODES[name] for name in ("module", "frames", "site", "stack", "symbols")
)
_UNKNOWN = Module(FILE, "?")
_NATIVE = (FILE, VDSO, CUT)
#: A frame as `strace -k` prints it: /lib/libc.so.6(mprotect+0xb) [0x10a9b3], or with an empty name
#: in the parentheses.
_LOGGED = re.compile(
    r"(?P<path>.*? \(deleted\)|.*?)\((?P<name>.*?)(?:\+0x[0-9a-f]+)?\) "
    r"\[0x(?P<address>[0-9a-f]+)\]\Z"
)


Spot = tuple[Place, bool]


class Places(Sequence[Spot]):
    """A stack as text, innermost frame first, including inlined functions; True for guessed places.
    Empty if the stack is unknown.

    Each frame's name is resolved when it is first needed, so the DWARF data of frames that are not
    shown is not read. Only the length and the last place require all names.
    """

    def __init__(self, count: int, find: Callable[[int], Sequence[Spot]]) -> None:
        self._count = count
        self._spots = self._found(find)
        self._known: list[Spot] = []
        self._frames: list[int] = []
        self._start = 0

    def _found(self, find: Callable[[int], Sequence[Spot]]) -> Iterator[tuple[Spot, int]]:
        for number in range(self._count):
            for spot in find(number):
                yield spot, number

    def _reach(self, count: int | None) -> None:
        while count is None or len(self._known) < count:
            found = next(self._spots, None)
            if found is None:
                return
            self._known.append(found[0])
            self._frames.append(found[1])

    def frames_after(self, count: int) -> int:
        """Return the number of frames, not counting inlined functions, after the first `count`
        places."""
        self._reach(self._start + count)
        place = min(self._start + count, len(self._known))
        return self._count - 1 - self._frames[place - 1] if place else self._count

    def after(self, count: int) -> Places:
        """Return the stack without its first `count` places. O(1)."""
        rest = Places.__new__(Places)
        rest._count, rest._spots, rest._known, rest._frames = (
            self._count,
            self._spots,
            self._known,
            self._frames,
        )
        rest._start = self._start + count
        return rest

    def __len__(self) -> int:
        self._reach(None)
        return max(len(self._known) - self._start, 0)

    def __bool__(self) -> bool:
        self._reach(self._start + 1)
        return len(self._known) > self._start

    @overload
    def __getitem__(self, index: int) -> Spot: ...

    @overload
    def __getitem__(self, index: slice) -> list[Spot]: ...

    def __getitem__(self, index: int | slice) -> Spot | list[Spot]:
        stop = index.stop if isinstance(index, slice) else index + 1 if index >= 0 else None
        self._reach(self._start + stop if stop is not None and stop >= 0 else None)
        return self._known[self._start :][index]


class Stacks:
    """Reads a trace's rows about stacks, and records the stack of each call.

    `next` maps a thread id to the stack number of the thread's next call. Stacks that a log shows
    as text are numbered too.
    """

    def __init__(self, symbolizer: Symbolizer | None = None) -> None:
        self.next: dict[int, int] = {}
        self.modules: dict[int, Module] = {}
        self.symbolizer = symbolizer or Symbolizer()
        self.packed: dict[int, dict[str, Any]] = {}
        self._frames: dict[int, Frame] = {}
        self._stacks: dict[int, tuple[int, ...]] = {}
        self._texts: Interned[bytes] = Interned()
        self._handlers = {
            _MODULE: self._module,
            _FRAMES: self._take_frames,
            _SITE: self._site,
            _STACK: self._text,
            _SYMBOLS: self._take_symbols,
        }

    @property
    def codes(self) -> list[int]:
        """The codes of the rows that `take` needs."""
        return list(self._handlers)

    def take(self, row: Row) -> None:
        """Take any row; rows about other things are ignored. O(size of the row)."""
        handler = self._handlers.get(row.event)
        if handler is not None:
            handler(row)

    def _module(self, row: Row) -> None:
        module = self.modules[row.a0] = module_of(row)
        if module.kind == PYTHON and module.lost:
            self.symbolizer.partial[module] = ("Python lines", module.lost)

    def _take_frames(self, row: Row) -> None:
        self._frames.update(enumerate(frames_of(row), row.a0))

    def _site(self, row: Row) -> None:
        number, data = row.a0, row.data
        if data:
            self._stacks[number] = struct.unpack_from(f"<{len(data) // 4}I", data)
        self.next[row.tid] = number

    def _text(self, row: Row) -> None:
        self.next[row.tid] = ~(self._texts.number(row.data) + 1)

    def _take_symbols(self, row: Row) -> None:
        self.packed[row.a0] = _object(row.data)

    def __len__(self) -> int:
        return len(self._stacks) + len(self._texts)

    def frames(self, number: int) -> tuple[Frame, ...]:
        """Return the frames of a recorded stack, innermost first. O(frames)."""
        return tuple(
            self._frames[frame] for frame in self._stacks.get(number, ()) if frame in self._frames
        )

    def guessed(self, number: int) -> bool:
        """Return whether any frame of a stack was guessed. O(frames)."""
        return any(frame.guessed for frame in self.frames(number))

    def is_interpreted(self, number: int) -> bool:
        """Return whether a stack has frames that are in no file: those of interpreted programs.
        O(frames)."""
        modules = (self.modules.get(frame.module) for frame in self.frames(number))
        return any(module is not None and module.kind not in _NATIVE for module in modules)

    def is_cut(self, number: int) -> bool:
        """Return whether a stack was too deep to be recorded completely. O(frames)."""
        frames = self.frames(number)
        module = self.modules.get(frames[-1].module) if frames else None
        return module is not None and module.kind == CUT

    def places(self, number: int) -> tuple[Spot, ...]:
        """Return a stack as text, like `Places`. O(frames), plus reading symbols at a module's
        first frame."""
        return tuple(self.walk(number))

    def walk(self, number: int) -> Places:
        """Return a stack as text, which resolves each frame when it is needed. O(frames), not
        counting the names."""
        if number < NO_STACK:
            lines = self._texts[~number - 1].decode("utf-8", "replace").splitlines()
            logged = [line.strip() for line in lines if line.strip()]
            return Places(len(logged), lambda at: [(_logged(logged[at]), False)])
        frames = self.frames(number)
        return Places(
            len(frames),
            lambda at: [(place, frames[at].guessed) for place in self.frame_places(frames[at])],
        )

    def frame_places(self, frame: Frame) -> tuple[Place, ...]:
        """Return one frame as text, inlined functions first."""
        module = self.modules.get(frame.module)
        if module is None:
            return (Place(f"?+{frame.address:#x}", "?", known=False),)
        packed = self.packed.get(frame.module, {}).get("places", {}).get(frame.key)
        if packed is not None:
            return tuple(Place(*place) for place in packed)
        return self.symbolizer.places(module, frame)


def module_of(row: Row) -> Module:
    """Return the module that a `module` row describes; missing or invalid fields have their
    defaults."""
    about = _object(row.data)
    fields = _UNKNOWN._asdict().items()
    known = {
        name: about[name] for name, blank in fields if isinstance(about.get(name), type(blank))
    }
    return _UNKNOWN._replace(**known)


def frames_of(row: Row) -> Iterator[Frame]:
    """Yield the complete frames of a `frames` row. O(frames)."""
    whole = len(row.data) // FRAME.size * FRAME.size
    for word, address in FRAME.iter_unpack(row.data[:whole]):
        yield Frame(word >> 2, address, bool(word & 2), bool(word & 1))


def _object(data: bytes) -> dict[str, Any]:
    # Invalid data, from another version or a damaged file, is ignored.
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _logged(line: str) -> Place:
    match = _LOGGED.match(line)
    if match is None:
        return Place(line, "?", known=False)
    module = match["path"].removesuffix(" (deleted)").rsplit("/", 1)[-1] or "?"
    if not match["name"]:
        return Place(f"{module}+0x{match['address']}", module, known=False)
    return Place(demangle(match["name"]), module)
