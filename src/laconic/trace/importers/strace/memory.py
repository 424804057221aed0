"""The memory calls of a log: from printed arguments to rows."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF

from laconic.memory.calls import PR_SET_VMA
from laconic.memory.flags import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    TASK_SIZE,
)
from laconic.trace.importers.strace.arguments import annotation, bare, number, unquote
from laconic.trace.importers.strace.names import SUBCALLS
from laconic.trace.importers.strace.processes import StraceThread
from laconic.trace.importers.strace.state import LogState
from laconic.trace.possible import impossible_call
from laconic.trace.records import ARITY
from laconic.trace.schema import (
    CHOSEN,
    CODES,
    MEMORY_EVENTS,
    NO_RESULT,
    READ,
    UNFINISHED,
    Row,
    call_row,
    make_row,
)

_NOWHERE = MAP_FIXED | MAP_FIXED_NOREPLACE
_MASK = (1 << 64) - 1
_MMAP, _MUNMAP, _MPROTECT, _BRK, _MADVISE = (
    CODES[name] for name in ("mmap", "munmap", "mprotect", "brk", "madvise")
)
_ANSWER = CODES["answer"]
_GREATER = ord(">")


class FlagNumbers(dict[bytes, int]):
    """Printed flags → their number; each text is parsed once."""

    def __missing__(self, text: bytes) -> int:
        value = number(text)
        if len(self) > 4096:
            self.clear()
        self[text] = value
        return value


class MemoryCalls:
    """Writes the rows of memory calls."""

    def __init__(self, log: LogState) -> None:
        self.log = log
        self.numbers = FlagNumbers()
        #: The calls with a fast parser for their usual format, which raises ValueError for any
        #: other.
        self.quick: dict[bytes, Callable[[StraceThread, int, bytes], None]] = {
            b"mmap": self._mmap,
            b"munmap": self._munmap,
            b"mprotect": self._mprotect,
            b"brk": self._brk,
            b"madvise": self._madvise,
        }

    def call(
        self, name: str, thread: StraceThread, time: int, args: list[bytes], result: int, state: int
    ) -> None:
        """Append the row of any memory call. Raises ValueError if its arguments are
        unrecognized."""
        if name in SUBCALLS and not _is_memory(name, args):
            return
        if thread.process.narrow:
            self.log.narrow_calls += 1
            return
        values = _values(name, args)
        why = "" if state & (NO_RESULT | UNFINISHED) else impossible_call(name, values, result)
        if why:
            raise ValueError(why)
        where = (time, thread.pid, thread.tid)
        file = 0
        if name == "mmap":
            if not values[3] & MAP_ANONYMOUS and result != -EBADF:
                file = self.log.file_of(thread, args[4], where)
            if not values[3] & _NOWHERE:
                state |= CHOSEN
            if values[4] == 0xFFFFFFFF:
                values[4] = _MASK  # -1; strace shows only half of the register
        elif name == "mremap":
            if not values[3] & MREMAP_FIXED:
                state |= CHOSEN
        elif name == "brk" and not state & (NO_RESULT | UNFINISHED):
            thread.process.brk = result
        self._answers(name, where, args, values)
        self.log.order.rows.append(make_row(CODES[name], where, values, result, state, file=file))

    def _answers(
        self, name: str, where: tuple[int, int, int], args: list[bytes], values: list[int]
    ) -> None:
        # The memory that the call read or wrote, as the log shows it.
        rows = self.log.order.rows
        if name == "prctl" and values[0] == PR_SET_VMA and len(args) > 4:
            text = unquote(args[4])
            if text is not None:
                values[4] = values[4] or 1
                data = self.log.writer.hidden(text.decode("utf-8", "surrogateescape"))
                rows.append(Row(_ANSWER, *where, a0=READ, a1=values[4], a2=80, data=data))
        elif name == "mbind" and len(args) > 4:
            mask = _words(args[3])
            if mask:
                values[3] = values[3] or 1
                length = (max(min(values[4], 4096) - 1, 0) + 63) // 64 * 8
                rows.append(Row(_ANSWER, *where, a0=READ, a1=values[3], a2=length, data=mask))

    # The frequent calls, if they succeeded; anything else raises ValueError.

    def _mmap(self, thread: StraceThread, time: int, text: bytes) -> None:
        address, length, prot, flags, fd, tail = text.split(b", ")
        bits = self.numbers[flags]
        offset, _, end = tail.partition(b")")
        result = int(end[3:], 16) if end[:5] == b" = 0x" and end[-1] != _GREATER else _address(end)
        start, size = 0 if address == b"NULL" else int(address, 16), int(length)
        place = 0 if offset == b"0" else int(offset, 16)
        if thread.process.narrow or (start | size | place | result << 1) >> 64:
            raise ValueError
        if (
            not size
            or (place | result) & 4095
            or result + size > TASK_SIZE
            or (bits & _NOWHERE and result != start)
        ):
            raise ValueError
        if bits & MAP_ANONYMOUS:
            file, handle = 0, _MASK if fd == b"-1" else number(fd)
        else:
            file, handle = (
                self.log.file_of(thread, fd, (time, thread.pid, thread.tid)),
                number(fd),
            )
        self.log.order.rows.append(
            call_row(
                _MMAP,
                time,
                thread.pid,
                thread.tid,
                start,
                size,
                self.numbers[prot],
                bits,
                handle,
                place,
                result=result,
                state=0 if bits & _NOWHERE else CHOSEN,
                file=file,
            )
        )

    def _munmap(self, thread: StraceThread, time: int, text: bytes) -> None:
        address, tail = text.split(b", ")
        length, _, end = tail.partition(b")")
        start, size = int(address, 16), int(length)
        if (end != b" = 0" and not _is_done(end)) or thread.process.narrow or (start | size) >> 64:
            raise ValueError
        if not size or start & 4095 or start + size > TASK_SIZE:
            raise ValueError
        self.log.order.rows.append(call_row(_MUNMAP, time, thread.pid, thread.tid, start, size))

    def _mprotect(self, thread: StraceThread, time: int, text: bytes) -> None:
        self._ranged(_MPROTECT, thread, time, text)

    def _madvise(self, thread: StraceThread, time: int, text: bytes) -> None:
        self._ranged(_MADVISE, thread, time, text)

    def _ranged(self, code: int, thread: StraceThread, time: int, text: bytes) -> None:
        address, length, tail = text.split(b", ")
        flags, _, end = tail.partition(b")")
        start, size = int(address, 16), int(length)
        if (end != b" = 0" and not _is_done(end)) or thread.process.narrow or (start | size) >> 64:
            raise ValueError
        if start & 4095 or start + size > TASK_SIZE:
            raise ValueError
        self.log.order.rows.append(
            call_row(code, time, thread.pid, thread.tid, start, size, self.numbers[flags])
        )

    def _brk(self, thread: StraceThread, time: int, text: bytes) -> None:
        argument, _, end = text.partition(b")")
        address = 0 if argument == b"NULL" else int(argument, 16)
        result = _address(end)
        if thread.process.narrow or address >> 64 or result > TASK_SIZE:
            raise ValueError
        thread.process.brk = result
        self.log.order.rows.append(
            call_row(_BRK, time, thread.pid, thread.tid, address, result=result)
        )


def _address(end: bytes) -> int:
    # `   = 0x7f0000000000 <0.000012>`: return the address. Raises ValueError if the result is not
    # an address.
    words = end.split()
    if len(words) < 2 or words[0] != b"=" or words[1][:2] != b"0x" or len(words[1]) > 18:
        raise ValueError
    return int(words[1], 16)


def _is_done(end: bytes) -> bool:
    # `   = 0 <0.000012>`
    return end.split()[:2] == [b"=", b"0"]


def _is_memory(name: str, args: list[bytes]) -> bool:
    try:
        return bool(args) and number(args[0]) in SUBCALLS[name]
    except ValueError:
        return False  # one of the many options that have no number here


def _values(name: str, args: list[bytes]) -> list[int]:
    # Return six numbers. If the log shows the target of a pointer in its place, the pointer is
    # unknown.
    values = [0] * 6
    for place, argument in enumerate(args[: min(ARITY[name], 6)]):
        try:
            values[place] = number(argument)
        except ValueError:
            text = bare(argument)
            if not text.startswith((b"[", b"{", b'"')):
                known = annotation(argument)
                if known is None:
                    raise
    if len(args) < _LEAST.get(name, 0):
        raise ValueError(args)
    return values


def _words(argument: bytes) -> bytes:
    # Return `[0x1, 0x2]` as the program's memory contains it.
    text = bare(argument)
    if not text.startswith(b"[") or not text.endswith(b"]"):
        return b""
    try:
        return b"".join(
            number(word).to_bytes(8, "little")
            for word in text[1:-1].replace(b",", b" ").split()[:64]
        )
    except ValueError:
        return b""


#: The minimum number of arguments without which a call cannot be followed.
_LEAST = {
    "mmap": 6,
    "mprotect": 3,
    "munmap": 2,
    "brk": 1,
    "mremap": 4,
    "madvise": 3,
    "pkey_mprotect": 4,
    "shmat": 3,
    "shmdt": 1,
    "mlock": 2,
    "munlock": 2,
    "mlockall": 1,
    "msync": 3,
    "mlock2": 3,
    "remap_file_pages": 5,
    "mseal": 3,
}
assert _LEAST.keys() <= set(MEMORY_EVENTS)
