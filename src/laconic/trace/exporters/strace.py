"""Text in strace's format (`strace -f -ttt -y -k`), which `laconic import strace` converts back to
the same calls.

Times are `EPOCH` plus the seconds since the trace began, because strace's own have ten digits. An
`openat` line before a mapping shows the access mode of its descriptor, unless that is reading and
writing. Events that strace has no format for are omitted, and counted.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from laconic.linux.clone import CLONE_THREAD
from laconic.trace.exporters import constants
from laconic.trace.exporters.columns import Analysis, Window, text
from laconic.trace.records import TracedFile, traced_file
from laconic.trace.schema import (
    CODES,
    MEMORY_CODES,
    NO_RESULT,
    PROCESS_EVENTS,
    READ,
    READABLE,
    UNFINISHED,
    WRITABLE,
    Row,
)
from laconic.trace.selection import CLONES, RowFilter

if TYPE_CHECKING:
    from laconic.stacks.symbolize import Place
    from laconic.stacks.table import Frame, Module
    from laconic.trace import Trace
    from laconic.trace.exporters import Exported, ExportPart
    from laconic.trace.selection import Selection

#: The time at which a trace begins, in seconds.
EPOCH: Final = 1_000_000_000

#: Calls → the kind of each argument, one of `_KINDS`. The other calls are in `_StraceLines`.
_FORMS: Final = {
    "mmap": "pointer size prot map file offset",
    "mprotect": "pointer size prot",
    "munmap": "pointer size",
    "brk": "pointer",
    "madvise": "pointer size advice",
    "msync": "pointer size ms",
    "shmat": "int pointer shm",
    "shmdt": "pointer",
    "mlock": "pointer size",
    "munlock": "pointer size",
    "mlockall": "mcl",
    "munlockall": "",
    "arch_prctl": "hex hex",
    "io_setup": "size pointer",
    "io_destroy": "hex",
    "remap_file_pages": "pointer size prot size map",
    "mbind": "pointer size policy nodes size policy_flags",
    "userfaultfd": "userfault",
    "mlock2": "pointer size mlock",
    "pkey_mprotect": "pointer size prot int",
    "process_madvise": "int pointer size advice hex",
    "set_mempolicy_home_node": "pointer size size hex",
    "map_shadow_stack": "pointer size hex",
    "mseal": "pointer size hex",
    "mincore": "pointer size pointer",
    "get_mempolicy": "pointer pointer size pointer hex",
    "set_mempolicy": "policy pointer size",
    "migrate_pages": "int size pointer pointer",
    "move_pages": "int size pointer pointer pointer policy_flags",
    "pkey_alloc": "hex hex",
    "pkey_free": "int",
    "process_mrelease": "int hex",
    "memfd_secret": "cloexec",
    "personality": "hex",
    "seccomp": "seccomp hex pointer",
}
_BOTH: Final = READABLE | WRITABLE
_ACCESS: Final = {0: "O_PATH", READABLE: "O_RDONLY", WRITABLE: "O_WRONLY", _BOTH: "O_RDWR"}
_UFFD: Final = {os.O_CLOEXEC: "O_CLOEXEC", os.O_NONBLOCK: "O_NONBLOCK", 1: "UFFD_USER_MODE_ONLY"}
_INT: Final = 0xFFFFFFFF
_KINDS: Final[dict[str, Callable[[int], str]]] = {
    "pointer": lambda value: f"{value:#x}" if value else "NULL",
    "size": str,
    "offset": lambda value: f"{value:#x}" if value else "0",
    "hex": lambda value: f"{value:#x}" if value else "0",
    "int": lambda value: str(_signed(value)),
    "prot": constants.prot,
    "map": constants.map_flags,
    "advice": lambda value: constants.one(value & _INT, constants.MADV, "MADV"),
    "ms": lambda value: constants.bits(value & _INT, constants.MS),
    "mcl": lambda value: constants.bits(value & _INT, constants.MCL),
    "mlock": lambda value: constants.bits(value & _INT, constants.MLOCK),
    "shm": lambda value: constants.bits(value & _INT, constants.SHM),
    "policy": lambda value: constants.memory_policy(value & _INT),
    "policy_flags": lambda value: constants.bits(value & _INT, constants.MPOL_MF),
    "userfault": lambda value: constants.bits(value & _INT, _UFFD),
    "cloexec": lambda value: constants.bits(value & _INT, {os.O_CLOEXEC: "O_CLOEXEC"}),
    "seccomp": lambda value: constants.one(value & _INT, constants.SECCOMP, "SECCOMP"),
}
_ADDRESSES: Final = frozenset({"mmap", "mremap", "brk", "shmat", "map_shadow_stack"})
_EXECUTES: Final = frozenset({"execve", "execveat"})
_CALLS: Final = frozenset({*range(MEMORY_CODES), *(CODES[name] for name in PROCESS_EVENTS)})
_SILENT: Final = frozenset(
    {
        "maps",
        "vma",
        "host_call",
        "note",
        "process",
        "leave",
        "end",
        "module",
        "frames",
        "site",
        "symbols",
    }
)


def write(trace: Trace, output: BinaryIO, part: ExportPart) -> Exported:
    """Write one line per call; `Exported.rows` counts lines."""
    from laconic.trace.exporters import Exported

    written = Exported()
    lines = _StraceLines(trace.names, part.window, part.analysis, part.selection)
    for rows in trace.batches():
        found = list(lines.of(rows))
        output.write("".join(found).encode("utf-8", "surrogateescape"))
        written.rows += len(found)
        part.update(trace.position)
    if trace.loss:
        output.write(f"# missing: {trace.loss}\n".encode())
    if lines.left_out:
        names = ", ".join(f"{name} {count:,}" for name, count in sorted(lines.left_out.items()))
        written.notes.append(f"strace has no form for some calls, which were left out: {names}")
    return written


class _StraceLines:
    # Converts rows to lines, with information from earlier rows: files, the memory that an upcall
    # read, a successful execve that waits for the `program` row with its arguments.

    def __init__(
        self,
        names: Sequence[str],
        window: Window,
        analysis: Analysis | None,
        selection: Selection | None,
    ) -> None:
        self._filter = None if selection is None else RowFilter(selection, names)
        self._analysis = analysis
        self._number = -1
        self.left_out: dict[str, int] = {}
        self._names = names
        self._window = window
        self._files: dict[int, TracedFile] = {}
        self._read: dict[int, bytes] = {}
        self._stacks: dict[int, str] = {}
        self._executes: dict[int, Row] = {}
        self._begun: dict[int, int] = {}
        self._open: dict[
            int, dict[int, tuple[str, int]]
        ] = {}  # pid → fd → path and access, as in earlier lines

    def of(self, rows: Iterable[Row]) -> Iterator[str]:
        for row in rows:
            self._number += 1
            selected = self._filter is None or self._filter.includes(row)
            name = self._names[row.event]
            if name == "file":
                self._files[row.file] = traced_file(row)
                continue
            time = row.time
            if name == "mmap" and not row.file and self._begun:
                row = row._replace(file=self._begun.pop(row.tid, 0))
            if name == "program":
                execute = self._executes.pop(row.pid, row)
                line: str | None = self._execute(row, execute)
                time = execute.time
            else:
                line = self._call(row, name) if row.event in _CALLS else self._other(row, name)
            if line is None or not selected or time not in self._window:
                continue
            where = f"{row.tid} {EPOCH + time // 1_000_000_000}.{time % 1_000_000_000:09} "
            if name == "mmap" and (opened := self._opened(row)):
                yield f"{where}{opened}\n"
            stack = self._stacks.pop(row.tid, "") if self._stacks else ""
            if not stack and self._analysis is not None:
                stack = _stack(self._analysis.frames(self._number))
            yield f"{where}{line}\n{stack}"

    def _call(self, row: Row, name: str) -> str | None:
        state = row.state
        if name in _EXECUTES and row.result >= 0 and not state & (UNFINISHED | NO_RESULT):
            self._executes[row.pid] = row
            return None
        if name in CLONES and row.result > 0 and not row.a0 & CLONE_THREAD:
            self._open.setdefault(row.result, dict(self._open.get(row.pid, {})))
        arguments = self._arguments(row, name)
        if arguments is None:
            self.left_out[name] = self.left_out.get(name, 0) + 1
            return None
        return f"{name}({arguments}) = {_result(row, name)}"

    def _arguments(self, row: Row, name: str) -> str | None:
        args = row.args
        if (form := _FORMS.get(name)) is not None:
            return ", ".join(
                self._argument(kind, value, row)
                for kind, value in zip(form.split(), args, strict=False)
            )
        match name:
            case "mremap":
                return _mremap(args)
            case "prctl":
                return self._prctl(args, self._read.pop(row.tid, None))
            case "clone":
                return f"child_stack=NULL, flags={constants.clone_flags(args[0], True)}"
            case "clone3":
                return f"{{flags={constants.clone_flags(args[0], False)}}}, 88"
            case "fork" | "vfork":
                return ""
            case "execve":
                return f"{quoted(row.data)}, {args[1]:#x}, NULL"
            case "execveat":
                return f"{_directory(args[0])}, {quoted(row.data)}, {args[2]:#x}, NULL, 0"
        return None

    def _opened(self, row: Row) -> str | None:
        # An openat, if more is known about the descriptor than the path that `-y` shows.
        file = self._files.get(row.file)
        if file is None or not file.file.path.startswith("/"):
            return None
        path, access = file.file.path, file.mode & _BOTH
        known = self._open.setdefault(row.pid, {})
        known_path, before = known.get(row.a4, ("", 0))
        if access == (before if known_path == path else _BOTH):
            return None
        known[row.a4] = path, access
        name = quoted(os.fsencode(path))
        return f"openat(AT_FDCWD, {name}, {_ACCESS[access]}) = {_signed(row.a4)}{descriptor(file)}"

    def _argument(self, kind: str, value: int, row: Row) -> str:
        if kind == "file":
            return f"{_signed(value)}{descriptor(self._files.get(row.file))}"
        if kind == "nodes":
            return _nodes(value, self._read.pop(row.tid, None))
        return _KINDS[kind](value)

    @staticmethod
    def _prctl(args: Sequence[int], name: bytes | None) -> str:
        operation = constants.one(args[0], constants.PR, "PR")
        numbers = [f"{value:#x}" if value else "0" for value in args[1:5]]
        if args[0] == 0x53564D41 and args[1] == 0:
            last = "NULL" if not args[4] else quoted(name.split(b"\0")[0]) if name else numbers[3]
            return (
                f"{operation}, PR_SET_VMA_ANON_NAME, {_KINDS['pointer'](args[2])}, {args[3]}, "
                f"{last}"
            )
        return ", ".join([operation, *numbers])

    def _other(self, row: Row, name: str) -> str | None:
        match name:
            case "exit":
                if row.pid == row.tid:
                    self._open.pop(row.pid, None)
                return _ended(row.a0)
            case "answer":
                if row.a0 == READ:
                    self._read[row.tid] = row.data
            case "begin":
                self._begun[row.tid] = row.file
            case "stack":
                self._stacks[row.tid] = "".join(
                    f" > {frame}\n" for frame in text(row.data).splitlines()
                )
            case "lost":
                return (
                    f"# missing: {row.a0 or 'unknown number of'} lines or calls: "
                    f"{_plain(text(row.data))}"
                )
            case _ if name not in _SILENT:
                self.left_out[name] = self.left_out.get(name, 0) + 1
        return None

    def _execute(self, program: Row, execute: Row) -> str:
        # The line of a successful execve; if that was not recorded, `execute` is the program's row
        # itself.
        about = json.loads(program.data)
        path = quoted(os.fsencode(about.get("path") or "?") if execute is program else execute.data)
        words = about.get("argv")
        argv = (
            "[...]"
            if words is None
            else f"[{', '.join(quoted(os.fsencode(word)) for word in words)}]"
        )
        if self._names[execute.event] == "execveat":
            return f"execveat({_directory(execute.a0)}, {path}, {argv}, NULL, 0) = 0"
        return f"execve({path}, {argv}, NULL) = 0"


def _stack(frames: Iterable[tuple[Frame, Module | None, Sequence[Place]]]) -> str:
    # The frames as strace -k prints them. Inlined functions have separate lines.
    lines = []
    for frame, module, places in frames:
        path = "?" if module is None else module.path
        for place in places:
            name = place.function if place.known else ""
            lines.append(f" > {path}({name}+0x0) [{frame.address:#x}]\n")
    return "".join(lines)


def quoted(data: bytes) -> str:
    """Return a string as strace prints it.

    >>> print(quoted(b'a "b"\\n\\x01\\x012'))
    "a \\"b\\"\\n\\1\\0012"
    """
    return f'"{_escaped(data, b"")}"'


def descriptor(file: TracedFile | None) -> str:
    """Return the text that `strace -y` adds to a descriptor.

    >>> from laconic.memory.vma import File
    >>> descriptor(TracedFile(File(0, 1, 2, "/memfd:a>b (deleted)"), 0, 0))
    '</memfd:a\\\\76b>(deleted)'
    """
    if file is None or not file.file.path:
        return ""
    path = os.fsencode(file.file.path)
    bare = path.removesuffix(b" (deleted)")
    return f"<{_escaped(bare, b'<>')}>{'(deleted)' if bare != path else ''}"


_ESCAPES: Final = {9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def _escaped(data: bytes, also: bytes) -> str:
    words = []
    for place, byte in enumerate(data):
        if byte in _ESCAPES:
            words.append(_ESCAPES[byte])
        elif 32 <= byte < 127 and byte not in also:
            words.append(chr(byte))
        else:
            # As short as possible: three digits only if another digit follows.
            follows = data[place + 1 : place + 2]
            words.append(f"\\{byte:03o}" if follows and follows in b"01234567" else f"\\{byte:o}")
    return "".join(words)


def _mremap(args: Sequence[int]) -> str:
    words = [
        _KINDS["pointer"](args[0]),
        str(args[1]),
        str(args[2]),
        constants.bits(args[3], constants.MREMAP),
    ]
    # Like strace and the kernel: the last argument exists with MREMAP_FIXED or MREMAP_DONTUNMAP.
    return ", ".join([*words, _KINDS["pointer"](args[4])] if args[3] & 6 else words)


def _nodes(value: int, data: bytes | None) -> str:
    if data is None or not value:
        return _KINDS["pointer"](value)
    words = [int.from_bytes(data[place : place + 8], "little") for place in range(0, len(data), 8)]
    return f"[{', '.join(f'{word:#018x}' for word in words)}]"


def _directory(value: int) -> str:
    number = _signed(value)
    return "AT_FDCWD" if number == -100 else str(number)


def _signed(value: int) -> int:
    value &= _INT
    return value - (1 << 32) if value >> 31 else value


def _result(row: Row, name: str) -> str:
    result, state = row.result, row.state
    if state & (UNFINISHED | NO_RESULT):
        return "?"
    if -4095 <= result < 0:
        number = -result
        if number in errno.errorcode:
            return f"-1 {errno.errorcode[number]} ({os.strerror(number)})"
        return f"? {_RESTARTS[number]}" if number in _RESTARTS else f"-1 (errno {number})"
    return f"{result & (1 << 64) - 1:#x}" if name in _ADDRESSES and result else str(result)


_RESTARTS: Final = {
    512: "ERESTARTSYS (To be restarted if SA_RESTART is set)",
    513: "ERESTARTNOINTR (To be restarted)",
    514: "ERESTARTNOHAND (To be restarted if no handler)",
    516: "ERESTART_RESTARTBLOCK (Interrupted by signal)",
}


def _ended(status: int) -> str:
    if number := status & 0x7F:
        core = " (core dumped)" if status & 0x80 else ""
        return f"+++ killed by {constants.signal_name(number)}{core} +++"
    return f"+++ exited with {status >> 8 & 0xFF} +++"


def _plain(sentence: str) -> str:
    return " ".join(sentence.split())
