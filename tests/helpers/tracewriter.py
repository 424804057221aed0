"""Writes logs as Gramine and Graphene write them, from calls: the counterpart of the importer, and
independent of it.

The format is the documented one of Gramine's system call printer (libos_parser.c, utils/log.c):
`%p` prints 0 for NULL, pointers come back as addresses or as a decimal errno, other results as
0x%lx or as a negative decimal, bodies go through a buffer of 256 bytes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from laconic.trace.records import CallRecord, Exit, Record

_TOP = 1 << 64
_PROT = ((1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC"), (8, "PROT_SEM"),
         (1 << 24, "PROT_GROWSDOWN"),
         (1 << 25, "PROT_GROWSUP"))  # fmt: skip
_MAP = (
    (0x20, "MAP_ANONYMOUS"), (0x10, "MAP_FIXED"), (0x100000, "MAP_FIXED_NOREPLACE"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"), (0x1000, "MAP_EXECUTABLE"), (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"), (0x10000, "MAP_NONBLOCK"), (0x20000, "MAP_STACK"),
    (0x40000, "MAP_HUGETLB"),
    (0x80000, "MAP_SYNC"),
)  # fmt: skip
_ADVICE = {
    0: "NORMAL", 1: "RANDOM", 2: "SEQUENTIAL", 3: "WILLNEED", 4: "DONTNEED", 8: "FREE", 9: "REMOVE",
    10: "DONTFORK",
    11: "DOFORK", 12: "MERGEABLE", 13: "UNMERGEABLE", 14: "HUGEPAGE", 15: "NOHUGEPAGE",
    16: "DONTDUMP", 17: "DODUMP",
    18: "WIPEONFORK", 19: "KEEPONFORK", 100: "HWPOISON", 101: "SOFT_OFFLINE",
}  # fmt: skip
_CLONE = ((0x100, "VM"), (0x200, "FS"), (0x400, "FILES"), (0x800, "SIGHAND"), (0x2000, "PTRACE"),
          (0x4000, "VFORK"),
          (0x8000, "PARENT"), (0x10000, "THREAD"), (0x40000, "SYSVSEM"), (0x80000, "SETTLS"),
          (0x100000, "PARENT_SETTID"), (0x200000, "CHILD_CLEARTID"), (0x400000, "DETACHED"),
          (0x800000, "UNTRACED"),
          (0x1000000, "CHILD_SETTID"))  # fmt: skip
SLOW = {"mmap", "mprotect", "munmap", "clone", "fork", "vfork", "execve", "read"}
BUFFER = 256


@dataclass(frozen=True)
class Variant:
    """How a log is written. `front` is one of "", docker, kubectl, journald, klog; `bracket` one of
    full, capped."""

    source: bool = True
    shim: bool = False
    graphene: bool = False
    colours: bool = False
    crlf: bool = False
    front: str = ""
    glued: bytes = b""
    bracket: str = "full"


VARIANTS = {
    "gramine-1.9": Variant(),
    "gramine-1.3": Variant(source=False),
    "gramine-1.2": Variant(source=False, shim=True),
    "graphene": Variant(source=False, shim=True, graphene=True),
    "colours": Variant(colours=True),
    "crlf": Variant(crlf=True),
    "docker": Variant(front="docker"),
    "kubectl": Variant(front="kubectl"),
    "journald": Variant(front="journald", source=False),
    "klog": Variant(front="klog"),
    "glued": Variant(glued=b"Listening on (port 80) ---- "),
    "capped": Variant(bracket="capped"),
}


@dataclass(frozen=True)
class Step:
    """One call of a thread: its six arguments and result; `text` is a path, `argv` what an execve
    is given."""

    name: str
    args: tuple[int, ...] = ()
    result: int | None = 0
    pid: int = 1
    tid: int = 1
    text: str = ""
    argv: tuple[str, ...] = ()


def steps(records: Iterable[Record]) -> Iterator[Step]:
    """The calls of a trace as Gramine would show them: files are opened before they are mapped."""
    for record in records:
        if isinstance(record, Exit):
            whole = record.pid == record.tid
            yield Step(
                "exit_group" if whole else "exit",
                (record.status >> 8,),
                None,
                record.pid,
                record.tid,
            )
        if not isinstance(record, CallRecord):
            continue
        where: dict[str, Any] = {"pid": record.pid, "tid": record.tid}
        if record.call == "mmap" and record.file is not None and record.args[4] < 1 << 31:
            yield Step("openat", (), record.args[4], text=record.file.file.path, **where)
            yield Step("mmap", record.args, record.result, **where)
            yield Step("close", (record.args[4],), 0, **where)
        elif record.call == "execve":
            yield Step(
                "execve",
                (),
                None if record.result == 0 else record.result,
                text=record.path,
                argv=("x",),
                **where,
            )
        else:
            yield Step(record.call, record.args, record.result, **where)


def log(calls: Iterable[Step], variant: Variant = Variant()) -> bytes:
    """A whole log, each call's beginning followed by its end."""
    lines = Lines(variant)
    return b"".join(part for step in calls for part in (lines.begin(step), lines.end(step)))


class Lines:
    """Lines of one log. `begin` and `end` can be called apart, with other threads' lines
    between."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self._number = 0

    def begin(self, step: Step) -> bytes:
        """The line that a slow call is announced with; nothing for a fast one, which is shown when
        it is done."""
        if step.name in SLOW:
            return self.trace(step, f"{self._name(step)}({self._args(step)}) ...")
        return b""

    def end(self, step: Step) -> bytes:
        """The line with the result; nothing for a call that never returns."""
        if step.name in ("exit", "exit_group"):
            return self.line(step, "debug", f"---- {step.name} (returning {step.args[0]})")
        if step.result is None:
            return b""
        if step.name in SLOW:
            return self.trace(step, f"return from {self._name(step)}(...) = {_result(step)}")
        return self.trace(step, f"{self._name(step)}({self._args(step)}) = {_result(step)}")

    def trace(self, step: Step, text: str) -> bytes:
        """A body of the system call printer, in as many lines as its buffer needs."""
        body = "---- " + text
        parts = [body[at : at + BUFFER - 1] for at in range(0, len(body), BUFFER - 1)]
        return b"".join(self.line(step, "trace", part) for part in parts)

    def line(self, step: Step, level: str, text: str) -> bytes:
        """One line of the log."""
        variant = self.variant
        self._number += 1
        if variant.graphene:
            body = f"[{step.tid:6}] {text}"
        else:
            bracket = f"[P{step.pid}:T{step.tid}:python3.8] "
            if variant.bracket == "capped":
                bracket = f"[P{step.pid}:T{step.tid}:a-program-with-a-very-long-name"[:26] + "...] "
            body = f"{bracket}{level}: {text}"
            if variant.source:
                body = f"(libos_parser.c:{1600 + self._number % 2}:buf_write_all) {body}"
        if variant.colours:
            grey = body.replace("trace: ", "trace:\x1b[0m ", 1)
            body = f"\x1b[2m{grey}\x1b[0m"
        glued = variant.glued if self._number % 3 == 0 else b""
        end = b"\r\n" if variant.crlf else b"\n"
        return front(variant.front, self._number).encode() + glued + body.encode() + end

    def _name(self, step: Step) -> str:
        return ("shim_" if self.variant.shim else "") + step.name

    def _args(self, step: Step) -> str:
        shown = list(_arguments(step, self.variant))
        return ",".join(shown) if self.variant.graphene else ", ".join(shown)


def front(style: str, number: int) -> str:
    """What stands before line `number`, which is written that many milliseconds after the first
    moment of 2024."""
    at = datetime.datetime(2024, 1, 1) + datetime.timedelta(milliseconds=number)
    if style == "docker":
        return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond * 1000:09}Z "
    if style == "kubectl":
        return "[pod/web-0/app] " + at.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00 ")
    if style == "journald":
        return at.strftime("Jan %e %H:%M:%S.%f host gramine[77]: ")
    if style == "klog":
        return at.strftime("I%m%d %H:%M:%S.%f      42 runner.go:7] ")
    return ""


def _pointer(value: int) -> str:
    return f"{value:#x}" if value else "0"


def _arguments(step: Step, variant: Variant) -> Iterator[str]:
    values = step.args
    size = str if variant.graphene else _pointer
    address = hex if variant.graphene else _pointer
    match step.name:
        case "mmap":
            yield address(values[0])
            yield size(values[1])
            yield _prot(values[2])
            yield _map(values[3], variant)
            yield str(_int(values[4]))
            offset = values[5] - _TOP if values[5] >> 63 else values[5]
            yield str(offset) if variant.graphene or offset < 0 else hex(offset)
        case "munmap" | "mprotect" | "madvise":
            yield address(values[0])
            yield size(values[1])
            if step.name == "mprotect":
                yield _prot(values[2])
            if step.name == "madvise":
                name = _ADVICE.get(values[2])
                yield f"MADV_{name}" if name else f"(unknown: {_int(values[2])})"
        case "clone":
            names = [f"CLONE_{name}" for bit, name in _CLONE if values[0] & bit]
            yield "|".join([*names, *(["[SIGCHLD]"] if values[0] & 0xFF == 17 else [])])
            yield from ("0x7f0000001000", "0x7f0000002000", "0", "0")
        case "execve":
            yield f'"{step.text}"'
            yield "[" + "".join(f"{word}," for word in step.argv) + "]"
            yield "[HOME=/root,]"
        case "openat":
            yield from ("AT_FDCWD", f'"{step.text}"', "O_RDONLY|O_CLOEXEC", "0000")
        case "fork" | "vfork":
            pass
        case "close" | "dup":
            yield str(values[0])
        case _:
            yield from map(address, values)


def _result(step: Step) -> str:
    value = step.result
    assert value is not None
    if step.name in ("mmap", "brk"):
        return str(value) if -4095 <= value < 0 else _pointer(value % _TOP)
    return str(value) if value < 0 else f"{value:#x}"


def _int(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _prot(value: int) -> str:
    return _flags(value, _PROT) or "PROT_NONE"


def _map(value: int, variant: Variant) -> str:
    kind = {1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"}.get(value & 3, "")
    rest = _flags(value & ~3, _MAP)
    text = "|".join(part for part in (kind, rest) if part)
    return text.replace("MAP_ANONYMOUS", "MAP_ANON") if variant.graphene else text


def _flags(value: int, names: tuple[tuple[int, str], ...]) -> str:
    words = [name for bit, name in names if value & bit]
    rest = value & ~sum(bit for bit, _ in names)
    return "|".join([*words, f"{rest:#x}"] if rest else words)


__all__ = ["BUFFER", "SLOW", "VARIANTS", "Lines", "Step", "Variant", "front", "log", "steps"]
