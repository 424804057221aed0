"""One line of `perf trace` or `perf script` output: its event, and its arguments as numbers.

The formats are those of perf 6; docs/importers.md lists them. Both print a tracepoint's fields by
name. perf trace omits fields that are 0, and writes flags as words without their prefix.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from laconic.linux.clone import CLONE_FLAGS
from laconic.memory import flags as kernel
from laconic.trace.possible import impossible_call
from laconic.trace.schema import CODES, MEMORY_CODES

_MASK = (1 << 64) - 1
_CACHED = 4096

#: A line of perf trace: time in ms or `?`, duration in ms, command name and thread (omitted in the
#: log of a single thread).
TRACE = re.compile(
    rb" *(\?|\d+\.\d+) \( *(?:(\d+\.\d+) ms)?\s*\): (?:(.{0,15}?)/(\d{1,10}) )?(.*)$"
)
_CALL = re.compile(rb"(\w+)\((.*)\) +(?:= (.*)|(\.\.\.))$")
_CONTINUED = re.compile(rb" ?\.\.\. \[continued\]: (\w+)\(\)\) +(?:= ?(.*)|(\.\.\.))$")
_FAULT = re.compile(rb"(?:maj|min)fault \[.*\] => (?:(.*)@)?0x([0-9a-f]{1,16}) \(..\)$")
_BORN = re.compile(
    rb"task:task_newtask:?\(? ?pid[:=] ?(\d{1,10}).*clone_flags(?:: (\d+)|=([0-9a-f]+))"
)
#: A line of perf script: command name, process (if shown), thread, time in seconds, the event.
SCRIPT = re.compile(
    rb" *(.{1,16}?) +(?:(\d{1,10})/)?(\d{1,10}) +(?:\[\d+\] +)?(\d+)\.(\d+): +"
    rb"(?:\d+ +)?([\w-]+(?::[\w-]+)?):(.*)$"
)
_ADDRESS = re.compile(rb"address=0x([0-9a-f]{1,16}) .*error_code=0x([0-9a-f]+)")
_SAMPLE = re.compile(rb"([0-9a-f]{1,16})(?: +[0-9a-f]{1,16} \S+.*)?$")
#: The text that `-F addr` appends to events without an address.
_NO_ADDRESS = re.compile(rb" {8,}0$")
_EXEC = re.compile(rb"filename=(.*) pid=\d+ old_pid=\d+")
_LOST = re.compile(rb"LOST (\d{1,18}) events")
#: One frame of a stack.
_FRAME = re.compile(rb"\s+\S.*\(.*\)$")
#: The end of perf trace's calls, and the start of its table.
SUMMARY = re.compile(rb" *Summary of events:")
_PAIR = re.compile(rb'(\w+): (?:"([^"]*)"|([^,]*))(?:, |$)')

#: Call → the names of its arguments, as in the kernel's tracepoints, in the order of the registers.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "mmap": ("addr", "len", "prot", "flags", "fd", "off"),
    "munmap": ("addr", "len"),
    "brk": ("brk",),
    "mprotect": ("start", "len", "prot"),
    "pkey_mprotect": ("start", "len", "prot", "pkey"),
    "madvise": ("start", "len_in", "behavior"),
    "mremap": ("addr", "old_len", "new_len", "flags", "new_addr"),
    "msync": ("start", "len", "flags"),
    "mlock": ("start", "len"),
    "munlock": ("start", "len"),
    "mlock2": ("start", "len", "flags"),
    "mlockall": ("flags",),
    "munlockall": (),
    "shmat": ("shmid", "shmaddr", "shmflg"),
    "shmdt": ("shmaddr",),
    "mincore": ("start", "len", "vec"),
    "remap_file_pages": ("start", "size", "prot", "pgoff", "flags"),
    "mbind": ("start", "len", "mode", "nmask", "maxnode", "flags"),
    "mseal": ("start", "len", "flags"),
    "clone": ("clone_flags",),
    "clone3": (),
    "fork": (),
    "vfork": (),
    "execve": (),
    "execveat": (),
    "exit": ("error_code",),
    "exit_group": ("error_code",),
    "open": ("filename",),
    "openat": ("filename",),
    "creat": ("filename",),
    "close": ("fd",),
    "dup": ("fildes",),
    "dup2": ("oldfd",),
    "dup3": ("oldfd",),
}
_PREFIXES = {"prot": "PROT_", "behavior": "MADV_", "clone_flags": "CLONE_"}
_FLAGS = {
    "mmap": "MAP_",
    "mremap": "MREMAP_",
    "msync": "MS_",
    "mlockall": "MCL_",
    "mlock2": "MLOCK_",
}
_SYMBOLS = {
    **{name: value for name, value in vars(kernel).items() if isinstance(value, int)},
    **CLONE_FLAGS,
    "PROT_NONE": 0,
    "MAP_ANON": kernel.MAP_ANONYMOUS,
    "MAP_FILE": 0,
}
MEMORY = {name for name, code in CODES.items() if code < MEMORY_CODES}


class PerfEvent(NamedTuple):
    """The event described by one or two lines. `name` is a call's, or one of `fault`, `lost`,
    `beginning` (of a call not seen).

    `start` and `end` are in nanoseconds on the log's own clock; -1 means before its first line.
    `args` are a call's arguments, a fault's address, or the number of lost events. `result` is None
    if it is not shown; `write` is whether a fault was a write, if known. `path` is the name of a
    file or a program, as far as it is shown.
    """

    name: str
    start: int
    end: int
    pid: int
    tid: int
    args: tuple[int, ...] = ()
    result: int | None = 0
    write: bool | None = None
    path: bytes = b""


class WordNumbers:
    """Words of flags → numbers, with a bounded cache."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], int] = {}

    def read(self, prefix: str, text: bytes) -> int:
        """Return an unsigned 64-bit number. Raises ValueError if the text is not a number."""
        value = self._known.get((prefix, text))
        if value is None:
            value = 0
            for word in text.decode("ascii", "replace").split("|"):
                symbol = _SYMBOLS.get(prefix + word) if prefix else None
                if symbol is None:
                    symbol = _SYMBOLS[word] if prefix and word in _SYMBOLS else int(word, 0)
                value |= symbol
            value &= _MASK
            if prefix:
                if len(self._known) >= _CACHED:
                    self._known.clear()
                self._known[prefix, text] = value
        return value


_NUMBERS = WordNumbers()


def arguments(name: str, text: bytes) -> tuple[tuple[int, ...], bytes]:
    """Return a call's arguments in the order of its registers, and its path. Raises ValueError if
    the text is not a list of arguments.

    >>> arguments("mprotect", b"start: 0x1000, len: 4096, prot: READ|WRITE")
    ((4096, 4096, 3), b'')
    """
    shown: dict[str, bytes] = {}
    path = b""
    for found in _PAIR.finditer(text):
        key = found[1].decode()
        if found[2] is not None:
            path = found[2]
        else:
            shown[key] = found[3].strip()
    if text and not shown and not path:
        raise ValueError(text)
    values: list[int] = []
    for key in PARAMETERS[name]:
        raw = shown.get(key)
        if raw is None:
            # perf trace omits fields that are 0, and the descriptor of anonymous memory.
            values.append(
                _MASK if key == "fd" and name == "mmap" and values[3] & kernel.MAP_ANONYMOUS else 0
            )
        elif key == "filename":
            values.append(0)
        else:
            prefix = _PREFIXES.get(key) or (_FLAGS.get(name, "") if key == "flags" else "")
            value = _NUMBERS.read(prefix, raw.partition(b"<")[0])
            values.append(
                value | _MASK << 32 & _MASK if key == "fd" and value >> 31 == 1 else value
            )
    return tuple(values), path


def result(text: bytes) -> int | None:
    """Return the result after `=` in perf trace: a value, `-1 ENOENT (...)`, `16073 (b)`, or `?`.
    Raises ValueError."""
    words = text.split()
    if not words:
        return 0
    if words[0] == b"?":
        return None
    value = int(words[0], 0)
    if value == -1 and len(words) > 1:
        return -_ERRORS.get(words[1].decode("ascii", "replace"), 1)
    return signed(value)


def signed(value: int) -> int:
    """Return a register as a signed 64-bit number."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_ERRORS = {name: number for number, name in errno.errorcode.items()}
_ERRORS |= {
    "ERESTARTSYS": 512,
    "ERESTARTNOINTR": 513,
    "ERESTARTNOHAND": 514,
    "ENOTSUP": errno.EOPNOTSUPP,
}


def nanoseconds(text: bytes) -> int:
    """Return a time in milliseconds, with decimals, as nanoseconds."""
    whole, _, fraction = text.partition(b".")
    return int(whole[:12]) * 1_000_000 + int(fraction[:6].ljust(6, b"0") or b"0")


class TraceLines:
    """Converts `perf trace` lines to events. `file_faults` counts faults in files, for which the
    text shows only the position in the file."""

    def __init__(self) -> None:
        self.last = 0
        self.file_faults = 0
        self.births: dict[int, int] = {}
        self._begun: dict[int, PerfEvent] = {}

    def read(self, line: bytes) -> PerfEvent | None:
        """Return the event that a line completes. Raises ValueError or KeyError if the line is
        unrecognized."""
        found = TRACE.match(line)
        if found is None:
            return _no_event(line, self.last)
        at, took, comm, thread, body = found.groups()
        tid = int(thread or 1) & 0x7FFFFFFF
        start = self.last if at == b"?" else nanoseconds(at)
        self.last = end = start + (nanoseconds(took) if took else 0)
        if call := _CALL.match(body):
            name = call[1].decode()
            if name not in PARAMETERS:
                return None
            args, path = arguments(name, call[2])
            event = PerfEvent(name, start, end, 0, tid, args, None, path=path)
            if call[4]:
                _keep(self._begun, event)
                return None
            return _done(event, end, call[3], comm)
        if fault := _FAULT.match(body):
            mapped = fault[1]
            is_file = mapped is not None and not mapped.startswith((b"//anon", b"["))
            if is_file or mapped == b"[vdso]":
                self.file_faults += 1
                return None
            return PerfEvent("fault", start, end, 0, tid, (int(fault[2], 16),))
        if going := _CONTINUED.match(body):
            begun = self._begun.pop(tid, None)
            if begun is None or going[3] or begun.name != going[1].decode():
                # A child's side of its clone, or the program that perf itself started.
                return (
                    PerfEvent("execve", -1, end, 0, tid, path=comm or b"")
                    if going[1] == b"execve"
                    else None
                )
            return _done(begun, end, going[2], comm)
        if born := _BORN.match(body):
            _bear(self.births, born)
        return None

    def unfinished(self) -> list[PerfEvent]:
        """Return the calls that never returned."""
        return list(self._begun.values())


class ScriptLines:
    """Converts `perf script` lines to events: the start and end of a call are two lines."""

    def __init__(self) -> None:
        self.last = 0
        self.file_faults = 0
        self.births: dict[int, int] = {}
        self._begun: dict[int, PerfEvent] = {}
        self._programs: dict[int, bytes] = {}

    def read(self, line: bytes) -> PerfEvent | None:
        """Return the event that a line completes. Raises ValueError or KeyError if the line is
        unrecognized."""
        found = SCRIPT.match(line)
        if found is None:
            return _no_event(line, self.last)
        comm, process, thread, seconds, fraction, event, text = found.groups()
        pid, tid = int(process or 0) & 0x7FFFFFFF, int(thread) & 0x7FFFFFFF
        now = self.last = int(seconds[:9]) * 10**9 + int(fraction[:9].ljust(9, b"0"))
        text = _NO_ADDRESS.sub(b"", text).strip()
        kind = event.decode("ascii", "replace")
        family, _, name = kind.rpartition(":")
        if name.startswith("sys_enter_"):
            return self._enter(name[10:], now, pid, tid, text)
        if name.startswith("sys_exit_"):
            return self._exit(name[9:], now, pid, tid, text, comm)
        if name in ("page_fault_user", "page_fault_kernel") and (where := _ADDRESS.match(text)):
            return PerfEvent(
                "fault", now, now, pid, tid, (int(where[1], 16),), write=bool(int(where[2], 16) & 2)
            )
        if name in ("page-faults", "minor-faults", "major-faults", "faults") and (
            sample := _SAMPLE.match(text)
        ):
            return PerfEvent("fault", now, now, pid, tid, (int(sample[1], 16),))
        if family == "task" and (born := _BORN.match(f"{kind}:".encode() + text)):
            _bear(self.births, born)
        elif name == "sched_process_exec" and (ran := _EXEC.match(text)):
            if len(self._programs) >= 65536:
                self._programs.clear()
            self._programs[tid] = ran[1]
        return None

    def unfinished(self) -> list[PerfEvent]:
        """Return the calls that never returned."""
        return list(self._begun.values())

    def _enter(self, name: str, now: int, pid: int, tid: int, text: bytes) -> PerfEvent | None:
        self._begun.pop(tid, None)
        if name not in PARAMETERS:
            return None
        args, path = arguments(name, text)
        event = PerfEvent(name, now, now, pid, tid, args, None, path=path)
        if name.startswith("exit"):
            return event
        _keep(self._begun, event)
        return None

    def _exit(
        self, name: str, now: int, pid: int, tid: int, text: bytes, comm: bytes
    ) -> PerfEvent | None:
        begun = self._begun.pop(tid, None)
        value = signed(int(text, 0))
        if begun is None or begun.name != name:
            if name == "execve" and not value:
                # The program that perf itself started: the start of the call was not recorded.
                return PerfEvent(name, -1, now, pid, tid, path=self._programs.pop(tid, comm))
            shared = name in ("clone", "clone3", "fork", "vfork")
            return (
                PerfEvent("beginning", now, now, pid, tid, path=name.encode())
                if name in MEMORY and not shared
                else None
            )
        path = begun.path or (self._programs.pop(tid, comm) if name.startswith("exec") else b"")
        return _possible(begun._replace(end=now, result=value, path=path))


def _done(event: PerfEvent, end: int, shown: bytes, comm: bytes | None) -> PerfEvent:
    # An executed program is known by its new command name.
    path = comm or b"" if event.name == "execve" and not event.path else event.path
    return _possible(event._replace(end=end, result=result(shown), path=path))


def _possible(event: PerfEvent) -> PerfEvent:
    # Return the event itself. Raises ValueError for a result that the kernel cannot have returned.
    if event.name in MEMORY and event.result is not None:
        args = (*event.args, *[0] * (6 - len(event.args)))
        why = impossible_call(event.name, args, event.result)
        if why:
            raise ValueError(why)
    return event


def _keep(begun: dict[int, PerfEvent], event: PerfEvent) -> None:
    if len(begun) >= 65536:
        begun.clear()
    begun[event.tid] = event


def _no_event(line: bytes, now: int) -> PerfEvent | None:
    lost = _LOST.search(line)
    if lost is None and not _FRAME.match(line):
        raise ValueError(line)
    return PerfEvent("lost", now, now, 0, 0, (int(lost[1]),)) if lost else None


def _bear(births: dict[int, int], born: re.Match[bytes]) -> None:
    if len(births) >= 65536:
        births.clear()
    births[int(born[1])] = int(born[2][:20]) if born[2] else int(born[3][:16], 16)
