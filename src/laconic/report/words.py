"""A memory call as text: its arguments by the kernel's names, and what it requests."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.memory import flags as f
from laconic.memory.calls import PR_SET_VMA
from laconic.memory.mmap import page_align
from laconic.replay.check import shown
from laconic.report.text import plain
from laconic.trace.exporters import constants
from laconic.trace.exporters.columns import error_name, flags_text
from laconic.trace.records import ARITY
from laconic.trace.words import plural

#: The positions of a call's flags, protection and lengths among its arguments.
_FLAGS = {
    "mmap": 3,
    "mremap": 3,
    "msync": 2,
    "mlockall": 0,
    "mlock2": 2,
    "shmat": 2,
    "mbind": 2,
    "prctl": 0,
}
_PROT = {"mmap": 2, "mprotect": 2, "pkey_mprotect": 2}
_LENGTHS = {
    "mremap": (1, 2),
    "prctl": (3,),
    "brk": (),
    "shmat": (),
    "mlockall": (),
    "arch_prctl": (),
    "shmdt": (),
}
_ACCESS = ("inaccessible", "readable", "writable", "readable and writable")
_ADVICE = {
    f.MADV_DONTNEED: "throw away the contents of",
    f.MADV_DONTNEED_LOCKED: "throw away the contents, locked ones too, of",
    f.MADV_FREE: "let the host throw away, when it needs memory, the contents of",
    f.MADV_REMOVE: "throw away the contents, and the file's, of",
    f.MADV_WILLNEED: "read ahead",
    f.MADV_HUGEPAGE: "use huge pages for",
    f.MADV_NOHUGEPAGE: "use no huge pages for",
    f.MADV_DONTFORK: "keep from forked children",
    f.MADV_DONTDUMP: "leave out of core dumps",
    f.MADV_WIPEONFORK: "give forked children zeroes for",
    f.MADV_POPULATE_READ: "fault in for reading",
    f.MADV_POPULATE_WRITE: "fault in for writing",
    f.MADV_COLD: "reclaim early",
    f.MADV_PAGEOUT: "reclaim now",
}
_PLAIN = {
    "munmap": "unmap",
    "msync": "write back",
    "mlock": "keep in memory",
    "mlock2": "keep in memory",
    "munlock": "keep in memory no longer",
    "mseal": "forbid changes of",
    "mbind": "give a memory policy to",
    "remap_file_pages": "map other pages of the file at",
}
_WHOLE = {
    "mlockall": "keep the whole address space in memory",
    "munlockall": "keep the address space in memory no longer",
    "mincore": "say which pages are in memory",
    "shmat": "attach a segment of shared memory",
    "shmdt": "detach a segment of shared memory",
}


def called(name: str, args: Sequence[int]) -> str:
    """Return a call in C syntax.

    >>> called("mprotect", (0x7F0000000000, 8192, 3, 0, 0, 0))
    'mprotect(0x7f0000000000, 8192, PROT_READ|PROT_WRITE)'
    """
    words = [shown(value) for value in args[: ARITY.get(name, 6)]]
    for at in _LENGTHS.get(name, (1,)):
        if at < len(words):
            words[at] = str(args[at])
    if name in _PROT:
        words[_PROT[name]] = constants.prot(args[_PROT[name]] & 0xFFFFFFFF)
    if name in _FLAGS:
        words[_FLAGS[name]] = flags_text(name, list(args)) or words[_FLAGS[name]]
    if name == "madvise":
        words[2] = advice(args)
    if name == "mmap":
        words[4] = str(_int(args[4]))
    return f"{name}({', '.join(words)})"


def returned(result: int) -> str:
    """Return a result for people.

    >>> returned(-22), returned(0x7F0000000000)
    ('-1 EINVAL', '0x7f0000000000')
    """
    return f"-1 {error_name(result)}" if -4095 <= result < 0 else shown(result & f.ADDRESS_MASK)


def advice(args: Sequence[int]) -> str:
    """Return the advice of an madvise, by name."""
    return constants.one(args[2] & 0xFFFFFFFF, constants.MADV, "MADV")


def pages(length: int) -> str:
    """Return bytes as pages.

    >>> pages(4096), pages(5000)
    ('1 page', '2 pages')
    """
    return plural(page_align(length) >> f.PAGE_SHIFT, "page")


def access(prot: int) -> str:
    """Return a protection as text.

    >>> access(5)
    'readable and executable (PROT_READ|PROT_EXEC)'
    """
    words = _ACCESS[prot & 3]
    if prot & f.PROT_EXEC:
        words = "executable" if not prot & 3 else f"{words.replace(' and ', ', ')} and executable"
    return f"{words} ({constants.prot(prot)})"


def request(name: str, args: Sequence[int], file: str = "", answer: int = 0) -> str:
    """Return what a call requests, as a sentence. `file` is the path of its descriptor."""
    if name in _WHOLE:
        return _WHOLE[name]
    if name == "mmap":
        return _mmap(args, file)
    if name == "brk":
        return f"put the break at {args[0]:#x}" if args[0] else "say where the break is"
    if name == "prctl":
        if args[0] == PR_SET_VMA:
            return f"give a name to {_size(args[3])} at {args[2]:#x}"
        return f"{constants.one(args[0], constants.PR, 'PR')} for the process"
    if name == "mremap":
        return _mremap(args)
    if name in _PLAIN:
        return f"{_PLAIN[name]} {_size(args[1])} at {args[0]:#x}"
    if name == "madvise":
        verb = _ADVICE.get(_int(args[2]))
        about = f"{_size(args[1])} at {args[0]:#x}"
        return (
            f"{verb} {about} ({advice(args)})"
            if verb
            else f"take the advice {advice(args)} about {about}"
        )
    if name in _PROT:
        key = f", with protection key {_int(args[3])}" if name == "pkey_mprotect" else ""
        return f"make {_size(args[1])} at {args[0]:#x} {access(args[2] & 0xFFFFFFFF)}{key}"
    return f"what {name} does"


def _mmap(args: Sequence[int], file: str) -> str:
    address, length, prot, flags, fd, offset = args
    if flags & f.MAP_ANONYMOUS:
        what = "anonymous memory"
    else:
        what = f"{plain(file) or f'descriptor {_int(fd)}'} from byte {offset:,}"
    kind = flags & f.MAP_TYPE
    shared = "shared" if kind in (f.MAP_SHARED, f.MAP_SHARED_VALIDATE) else "private"
    if flags & f.MAP_FIXED:
        where = f"at {address:#x}, replacing what is there"
    elif flags & f.MAP_FIXED_NOREPLACE:
        where = f"at {address:#x}, if nothing is there"
    else:
        where = f"near {address:#x}" if address else "anywhere"
    return f"map {_size(length)} of {what}, {shared}, {access(prot & 0xFFFFFFFF)}, {where}"


def _mremap(args: Sequence[int]) -> str:
    old, length, new_length, flags, new, _ = args
    if flags & f.MREMAP_FIXED:
        where = f"move it to {new:#x}"
    else:
        where = (
            "move it where that is needed" if flags & f.MREMAP_MAYMOVE else "leave it where it is"
        )
    return f"make {_size(length)} at {old:#x} into {_size(new_length)}, and {where}"


def _size(length: int) -> str:
    return f"{pages(length)} ({plural(length, 'byte')})"


def _int(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
