"""The program's own frames of a stack: without the wrappers that only make the system call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from laconic.stacks.symbolize import Place
from laconic.trace.stacks import Places, Spot

#: Functions of the C library that only make the system call; without this list every stack would
#: begin with them.
_WRAPPERS = {"syscall", "sbrk"}
_EDGES = "_"
#: Go's wrappers, in its packages of system calls: Syscall6, RawSyscall6.abi0, Mprotect.
_GO = re.compile(
    r"(?:(?:runtime/)?internal/(?:runtime/)?syscall|syscall|golang\.org/x/sys/unix|vendor/golang\.org/x/sys/unix)"
    r"\.(\w+)(?:\.abi0|\.abiinternal)?"
)


class StackPlaces:
    """The places of a stack, for code that iterates over them more than once: found only up to the
    last one that was requested."""

    def __init__(self, places: Sequence[Spot]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[Place]:
        return (place for place, _ in self._places)


def own_frames(call: str, places: Sequence[Spot]) -> Sequence[Spot]:
    """Return a stack without the leading wrappers of the system call. O(frames).

    >>> wrapper, own = (Place("__mmap64", "libc.so.6"), False), (Place("grow", "a.out"), False)
    >>> own_frames("mmap", [wrapper, own]) == [own]
    True
    """
    at = wrappers(call, places)
    return places.after(at) if isinstance(places, Places) else places[at:]


#: Parts of the path of a Python file that belongs to an installation, not to the program.
_INSTALLED = re.compile(r"/(?:site|dist)-packages/|/lib(?:64)?/python[0-9.]+/|\A<")


def own_line(places: Sequence[Spot], program: str) -> Place:
    """Return the frame of the program's own code for which a call is made. O(frames).

    That is the innermost Python function whose file is outside of the installation's libraries
    (site-packages, dist-packages, lib/python*, frozen modules); if there is none, the innermost
    frame in the program's executable; otherwise the innermost frame.

    >>> own_line([(Place("grow", "libx.so"), False), (Place("main", "a.out"), False)], "/bin/a.out")
    Place(function='main', module='a.out', file='', line=0, inlined=False, known=True)
    """
    module = program.removesuffix(" (deleted)").rsplit("/", 1)[-1]
    native = None
    for place, _ in places:
        if place.is_python and not _INSTALLED.search(place.file):
            return place
        if native is None and place.module == module:
            native = place
    return native or places[0][0]


def wrappers(call: str, places: Sequence[Spot]) -> int:
    """Return the number of leading places of a stack that only make the system call; 0 if there are
    no other places. O(frames)."""
    return next((at for at, (place, _) in enumerate(places) if not _wraps(place.function, call)), 0)


def _wraps(function: str, call: str) -> bool:
    bare = (
        function.strip(_EDGES)
        .removeprefix("GI_")
        .strip(_EDGES)
        .removesuffix("64")
        .removesuffix("_nocancel")
    )
    if bare == call or (bare in _WRAPPERS and (call == "brk" or bare == "syscall")):
        return True
    match = _GO.fullmatch(function)
    return match is not None and (match[1].strip("6").lower() in ("syscall", "rawsyscall", call))
