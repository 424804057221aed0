"""The seccomp filter that stops memory and process calls, and lets all others run at native speed.

A classic BPF program over `struct seccomp_data` (include/uapi/linux/seccomp.h). It checks the
architecture first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from laconic.tracer.syscalls import (
    BY_FIRST_ARGUMENT,
    I386_MEMORY_CALLS,
    MEMORY_CALLS,
    PERSONALITY,
    PROCESS_CALLS,
    X32_BIT,
)

AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_I386 = 0x40000003
RET_ALLOW = 0x7FFF0000
RET_TRACE = 0x7FF00000

_LD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_NR, _ARCH, _ARG0 = 0, 4, 16

Instruction = tuple[int, int, int, int]
#: (code, operand, label if true, label if false); a None label falls through.
_BpfLine = tuple[int, int, str | None, str | None]


def build_filter() -> list[Instruction]:
    """Return the filter as `(code, jt, jf, k)`. It looks numbers up by bisection, with about six
    comparisons per call."""
    lines: list[_BpfLine | str] = [
        (_LD, _ARCH, None, None),
        (_JEQ, AUDIT_ARCH_X86_64, "x86-64", None),
        (_JEQ, AUDIT_ARCH_I386, None, "allow"),
        (_LD, _NR, None, None),
        *_bisect(sorted(I386_MEMORY_CALLS), "i386"),
        "x86-64",
        (_LD, _NR, None, None),
        (_JGE, X32_BIT, "trace", None),
        *_bisect(sorted({*MEMORY_CALLS, *PROCESS_CALLS}), "nr"),
    ]
    for number, arguments in BY_FIRST_ARGUMENT.items():
        lines += [f"nr{number}", (_LD, _ARG0, None, None)]
        lines += [(_JEQ, argument, "trace", None) for argument in arguments]
        lines.append((_JEQ, 0, "allow", "allow"))
    lines += [f"nr{PERSONALITY}", (_LD, _ARG0, None, None), (_JEQ, 0xFFFFFFFF, "allow", "trace")]
    lines += ["trace", (_RET, RET_TRACE, None, None), "allow", (_RET, RET_ALLOW, None, None)]
    return _assemble(lines)


def _bisect(numbers: list[int], prefix: str) -> list[_BpfLine | str]:
    special = {*BY_FIRST_ARGUMENT, PERSONALITY} if prefix == "nr" else set()
    if len(numbers) == 1:
        target = f"nr{numbers[0]}" if numbers[0] in special else "trace"
        return [(_JEQ, numbers[0], target, "allow")]
    middle = len(numbers) // 2
    label = f"{prefix}>={numbers[middle]}"
    return [
        (_JGE, numbers[middle], label, None),
        *_bisect(numbers[:middle], prefix),
        label,
        *_bisect(numbers[middle:], prefix),
    ]


def _assemble(lines: Iterable[_BpfLine | str]) -> list[Instruction]:
    labels: dict[str, int] = {}
    code: list[_BpfLine] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(code)
        else:
            code.append(line)
    program = []
    for at, (operation, operand, then, otherwise) in enumerate(code):
        offsets = [labels[label] - at - 1 if label else 0 for label in (then, otherwise)]
        assert all(0 <= offset < 256 for offset in offsets), (
            "a BPF jump reaches 255 instructions forward"
        )
        program.append((operation, offsets[0], offsets[1], operand))
    return program


def pack_filter(program: Iterable[Instruction]) -> bytes:
    """Return the filter as an array of `struct sock_filter`."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
