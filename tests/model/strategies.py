"""Random memory calls that collide: one generator for Hypothesis, for the model machine and for the
kernel.

Every decision is one `pick` from a sequence, so that Hypothesis (which shrinks) and `random` (which
is fast) can both make them. Addresses are given relative to four bases that look like addresses but
are none; `resolve` puts the bases of an actual address space in their place, so that a sequence
found in one process can be replayed in any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st

from laconic.memory import flags as f
from laconic.memory.calls import Call

T = TypeVar("T")
Pick = Callable[[Sequence[T]], T]

PAGE = 4096
PMD = 2 << 20
#: Stand-ins for: an arena of free memory; where the kernel puts new mappings, from there down; the
#: break's start; the lowest address of the stack. Odd multiples of 2**48: no address that a call
#: may use is near.
LOW, TOP, HEAP, STACK = (number << 48 for number in (0x11, 0x33, 0x55, 0x77))
_REACH = 1 << 30
#: What is not a memory call: the program touches a page, or forks.
WRITE, READ, FORK = "write", "read", "fork"

FD_RW, FD_RO, FD_WO, FD_PIPE, FD_DIRECTORY, FD_OTHER, FD_CLOSED = 200, 201, 202, 203, 204, 205, 299


class Bases(NamedTuple):
    """Where the four regions are in one address space, in bytes."""

    low: int
    top: int
    heap: int
    stack: int


def resolve(call: Call, bases: Bases) -> Call:
    """The call with actual addresses, and six arguments as registers have them."""
    args = [_resolve(value, bases) for value in call.args]
    return Call(call.name, (*args, *[0] * (6 - len(args))))


def _resolve(value: int, bases: Bases) -> int:
    for stand_in, base in zip((LOW, TOP, HEAP, STACK), bases, strict=True):
        if abs(value - stand_in) < _REACH:
            return base + value - stand_in
    return value


def show(call: Call) -> str:
    """One call as Python that makes it: `Call("munmap", (LOW + 0x1000, 0x2000))`."""
    words = []
    for value in call.args:
        for name, base in (("LOW", LOW), ("TOP", TOP), ("HEAP", HEAP), ("STACK", STACK)):
            if abs(value - base) < _REACH:
                words.append(f"{name} {'-' if value < base else '+'} {abs(value - base):#x}")
                break
        else:
            words.append(hex(value) if value > 9 else str(value))
    return f'Call("{call.name}", ({", ".join(words)}{"," if len(words) == 1 else ""}))'


ARENA = 24
_LOW_PAGES = [LOW + page * PAGE for page in range(ARENA)]
_TOP_PAGES = [TOP - (page + 1) * PAGE for page in range(ARENA)]
_HEAP_PAGES = [HEAP + page * PAGE for page in range(10)]
_STACK_PAGES = [STACK + page * PAGE for page in range(-20, 6)]
_REGIONS = [_LOW_PAGES] * 13 + [_TOP_PAGES] * 4 + [_HEAP_PAGES] * 2 + [_STACK_PAGES]
_LENGTHS = [1, 1, 2, 2, 3, 4, 5, 6, 8, 12]
_HUGE = [1 << 47, (1 << 47) - PAGE, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 1, (1 << 64) - PAGE + 1]
#: How often: one in so many.
_RARELY = range(40)
_SOMETIMES = range(12)


def _address(pick: Pick[Any]) -> int:
    page: int = pick(pick(_REGIONS))
    if pick(_RARELY) == 1:
        return page + int(pick((1, 8, 0x800, 0xFFF)))
    if pick(range(150)) == 1:
        return int(pick((0, PAGE, 1 << 47, (1 << 47) - PAGE, 1 << 63, (1 << 64) - PAGE)))
    return page


def _length(pick: Pick[Any]) -> int:
    pages: int = pick(_LENGTHS)
    odd = pick(_RARELY)
    if odd == 1:
        return pages * PAGE - int(pick((1, 100, 0xFFF)))
    if odd == 2:
        return 0
    if odd == 3:
        return int(pick(_HUGE))
    return pages * PAGE


def _range(pick: Pick[Any]) -> tuple[int, int]:
    return _address(pick), _length(pick)


_PROTS = [0, 1, 1, 3, 3, 3, 3, 2, 4, 5, 5, 6, 7]


def _prot(pick: Pick[Any]) -> int:
    odd = int(pick((8, 0x10, f.PROT_GROWSUP, 0x40000000))) if pick(_RARELY) == 1 else 0
    return int(pick(_PROTS)) | odd


_TYPES = (
    [f.MAP_PRIVATE] * 13 + [f.MAP_SHARED] * 4 + [f.MAP_SHARED_VALIDATE, f.MAP_DROPPABLE, 0, 0x0F]
)
_PLACES = [f.MAP_FIXED] * 10 + [f.MAP_FIXED_NOREPLACE] * 2 + [0] * 6
_PLACES += [f.MAP_32BIT, f.MAP_FIXED | f.MAP_FIXED_NOREPLACE]
_EXTRAS = [
    *(
        f.MAP_GROWSDOWN,
        f.MAP_GROWSDOWN,
        f.MAP_LOCKED,
        f.MAP_NORESERVE,
        f.MAP_NORESERVE,
        f.MAP_POPULATE,
    ),
    *(
        f.MAP_STACK,
        f.MAP_NONBLOCK,
        f.MAP_DENYWRITE,
        f.MAP_EXECUTABLE,
        f.MAP_SYNC,
        f.MAP_ABOVE4G,
        0x200,
        0x1000000,
    ),
    f.MAP_POPULATE | f.MAP_NONBLOCK,
]
_FDS = (
    [FD_RW] * 6
    + [FD_RO] * 5
    + [FD_OTHER] * 2
    + [FD_WO, FD_PIPE, FD_DIRECTORY, FD_CLOSED, 0xFFFFFFFF]
)


def _mmap(pick: Pick[Any]) -> Call:
    address, length = _range(pick)
    place = pick(_PLACES)
    if not place & (f.MAP_FIXED | f.MAP_FIXED_NOREPLACE):
        address = pick((0, address))
        if pick(_RARELY) == 1:
            length = PMD * pick((1, 2))
    flags = pick(_TYPES) | place
    if pick(range(3)) == 1:
        flags |= pick(_EXTRAS)
    if pick(range(3)) > 0:
        offset = pick((0, 0, 0, 0, 0, 0, 0, PAGE, 1)) if pick(_RARELY) < 4 else 0
        return Call(
            "mmap", (address, length, _prot(pick), flags | f.MAP_ANONYMOUS, (1 << 64) - 1, offset)
        )
    offset = pick(range(8)) * PAGE
    if pick(_RARELY) == 1:
        offset = pick((1, PAGE + 1, (1 << 64) - PAGE, (1 << 63) - PAGE, 1 << 63))
    return Call("mmap", (address, length, _prot(pick), flags, pick(_FDS), offset))


def _again(pick: Pick[Any]) -> Call:
    # The same over the same, as a collector gives memory back and takes it again: only the contents
    # go.
    return Call("mmap", (LOW + pick((0, 4, 8)) * PAGE, 4 * PAGE, 3, 0x32, (1 << 64) - 1, 0))


def _munmap(pick: Pick[Any]) -> Call:
    return Call("munmap", _range(pick))


def _mprotect(pick: Pick[Any]) -> Call:
    prot = _prot(pick)
    if pick(_RARELY) < 2:
        prot |= pick((f.PROT_GROWSDOWN, f.PROT_GROWSDOWN, f.PROT_GROWSDOWN | f.PROT_GROWSUP))
    return Call("mprotect", (*_range(pick), prot))


def _mremap(pick: Pick[Any]) -> Call:
    address, old = _range(pick)
    new = pick((old, old, _length(pick), _length(pick)))
    flags = pick((0, 0, 1, 1, 1, 3, 3, 3, 3, 5, 5, 7))
    if pick(_RARELY) == 1:
        flags = pick((2, 4, 6, 8, 9))
    if flags & 4 and pick(range(4)):
        new = old
    to = _address(pick)
    if to >= STACK - _REACH and to < STACK + _REACH and new > 6 * PAGE:
        new = 6 * PAGE
    return Call("mremap", (address, old, new, flags, pick((to, to, 0)) if not flags & 2 else to))


def _brk(pick: Pick[Any]) -> Call:
    if pick(_SOMETIMES) == 1:
        return Call("brk", (pick((0, HEAP - PAGE, 1 << 46, 1 << 47, (1 << 64) - 1)),))
    return Call("brk", (pick(_HEAP_PAGES) + pick((0, 0, 0, 1, 0x7FF, 0xFFF)),))


#: All but MADV_HWPOISON and MADV_SOFT_OFFLINE, which take real memory out of use.
_ADVICE = [*range(5), *range(8, 26), 102, 103, 4, 4, 4, 8, 10, 11, 16, 17, 18]
_NO_ADVICE = [5, 6, 7, 26, 99, 104, 0xFFFFFFFF]


def _madvise(pick: Pick[Any]) -> Call:
    return Call("madvise", (*_range(pick), pick(_ADVICE) if pick(_RARELY) else pick(_NO_ADVICE)))


def _mlock(pick: Pick[Any]) -> Call:
    name = pick(("mlock", "munlock", "munlock", "mlock2"))
    where = _range(pick)
    return Call(name, (*where, pick((0, 1, 1, 2)))) if name == "mlock2" else Call(name, where)


def _mlockall(pick: Pick[Any]) -> Call:
    if pick(range(5)) < 3:
        return Call("munlockall", ())
    return Call("mlockall", (pick((1, 1, 2, 3, 5, 6, 7, 0, 4, 8)),))


def _msync(pick: Pick[Any]) -> Call:
    return Call("msync", (*_range(pick), pick((1, 2, 4, 4, 6, 3, 0, 5, 8, 4 | 2))))


def _mseal(pick: Pick[Any]) -> Call:
    return Call("mseal", (*_range(pick), pick((0, 0, 0, 0, 1))))


def _remap_file_pages(pick: Pick[Any]) -> Call:
    return Call("remap_file_pages", (*_range(pick), pick((0, 0, 0, 1)), pick(range(8)), 0))


def _touch(pick: Pick[Any]) -> Call:
    return Call(pick((WRITE, WRITE, READ)), (pick(pick(_REGIONS)), pick(range(6))))


def _fork(pick: Pick[Any]) -> Call:
    return Call(FORK, ())


_MAKERS: list[Callable[[Pick[Any]], Call]] = (
    [_mmap] * 40
    + [_munmap] * 7
    + [_mprotect] * 20
    + [_mremap] * 14
    + [_brk] * 5
    + [_madvise] * 16
    + [_mlock] * 6
)
_MAKERS += [_again] * 6 + [_mlockall, _msync, _msync, _remap_file_pages] + [_touch] * 20


def random_call(pick: Pick[Any]) -> Call:
    """One call, its addresses relative. Sealing and forking are for good, and so are rare."""
    seldom = pick(range(250))
    if seldom == 1:
        return _mseal(pick)
    if seldom == 2:
        return _fork(pick)
    make: Callable[[Pick[Any]], Call] = pick(_MAKERS)
    return make(pick)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """The same as a Hypothesis strategy."""
    return random_call(lambda choices: draw(st.sampled_from(choices)))
