"""The filter, by a BPF interpreter: every number, every architecture."""

from __future__ import annotations

import pytest

from laconic.linux.pal import only_changes
from laconic.memory.ledger import Ledger
from laconic.tracer.attach import Attachment
from laconic.tracer.mediate import Mediator
from laconic.tracer.ptrace import SYSCALL_INFO_ENTRY
from laconic.tracer.seccomp import (
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    RET_ALLOW,
    RET_TRACE,
    Instruction,
    build_filter,
    pack_filter,
)
from laconic.tracer.syscalls import (
    BY_FIRST_ARGUMENT,
    I386_MEMORY_CALLS,
    MEMORY_CALLS,
    PERSONALITY,
    PROCESS_CALLS,
    X32_BIT,
)

FILTER = build_filter()
CONDITIONAL = {*BY_FIRST_ARGUMENT, PERSONALITY}
#: Instructions, and offsets in struct seccomp_data (linux/bpf_common.h, linux/seccomp.h).
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16


def run_filter(program: list[Instruction], arch: int, nr: int, argument: int = 0) -> int:
    """The filter's result for one call, by a BPF interpreter."""
    data = {NUMBER: nr, ARCHITECTURE: arch, FIRST_ARGUMENT: argument & 0xFFFFFFFF}
    accumulator = at = 0
    while True:
        operation, then, otherwise, operand = program[at]
        at += 1
        if operation == RETURN:
            return operand
        if operation == LOAD:
            accumulator = data[operand]
            continue
        equal = operation == JUMP_IF_EQUAL
        is_true = accumulator == operand if equal else accumulator >= operand
        at += then if is_true else otherwise


def test_stops_memory_and_process_calls_and_nothing_else() -> None:
    """All other calls run at native speed."""
    stopped = {
        nr for nr in range(1024) if run_filter(FILTER, AUDIT_ARCH_X86_64, nr, 12345) == RET_TRACE
    }
    assert stopped == ({*MEMORY_CALLS, *PROCESS_CALLS} - CONDITIONAL) | {PERSONALITY}


@pytest.mark.parametrize(("nr", "arguments"), BY_FIRST_ARGUMENT.items())
def test_stops_prctl_only_where_it_is_a_memory_call(nr: int, arguments: tuple[int, ...]) -> None:
    """Programs name their threads by prctl all day long; that is none of our business."""
    for argument in arguments:
        assert run_filter(FILTER, AUDIT_ARCH_X86_64, nr, argument) == RET_TRACE
    assert run_filter(FILTER, AUDIT_ARCH_X86_64, nr, 15) == RET_ALLOW


def test_a_query_of_the_personality_passes() -> None:
    """0xffffffff asks and sets nothing."""
    assert run_filter(FILTER, AUDIT_ARCH_X86_64, PERSONALITY, 0xFFFFFFFF) == RET_ALLOW


def test_checks_the_architecture() -> None:
    """A number means another call in another ABI: 90 is chmod in ours, mmap in i386's."""
    stopped = {nr for nr in range(1024) if run_filter(FILTER, AUDIT_ARCH_I386, nr) == RET_TRACE}
    assert stopped == set(I386_MEMORY_CALLS)
    assert run_filter(FILTER, 0xC00000B7, 9) == RET_ALLOW
    assert not stopped & {*PROCESS_CALLS}, "a process call is told by its number alone"


def test_stops_x32_calls() -> None:
    """Their numbers carry a bit of their own."""
    assert run_filter(FILTER, AUDIT_ARCH_X86_64, X32_BIT | 9) == RET_TRACE


def test_packs_to_eight_bytes_an_instruction() -> None:
    """`struct sock_filter` is eight bytes."""
    assert len(pack_filter(FILTER)) == 8 * len(FILTER)


def test_attach_follows_the_calls_that_the_filter_stops() -> None:
    """Without a filter, the tracer decides by the same rule."""
    mediator = Mediator(only_changes, Ledger(), observe=True, attached=True)
    attachment = Attachment(mediator, 1)
    for arch in (AUDIT_ARCH_X86_64, AUDIT_ARCH_I386):
        mediator.registers._info[0] = SYSCALL_INFO_ENTRY | arch << 32
        for nr in [*range(512), X32_BIT | 9]:
            for argument in (0, 22, 15, 0x5001, 0xFFFFFFFF, 0x53564D41):
                stopped = run_filter(FILTER, arch, nr, argument) == RET_TRACE
                assert attachment._is_followed((0, nr, argument)) == stopped, (arch, nr, argument)
    assert not attachment._is_followed((0, (1 << 64) - 1, 0)), "a call that was skipped"
