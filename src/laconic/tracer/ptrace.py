"""ptrace(2) through ctypes: the requests that the tracer makes, on x86-64.

A request for a thread that is gone returns False or None; the end of the thread is reported by
wait.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from typing import Final

POKEUSER: Final = 6
CONT: Final = 7
GETREGS: Final = 12
SETREGS: Final = 13
DETACH: Final = 17
SYSCALL: Final = 24
GETEVENTMSG: Final = 0x4201
GETSIGINFO: Final = 0x4202
SETSIGINFO: Final = 0x4203
SEIZE: Final = 0x4206
INTERRUPT: Final = 0x4207
LISTEN: Final = 0x4208
GETSIGMASK: Final = 0x420A
SETSIGMASK: Final = 0x420B
GET_SYSCALL_INFO: Final = 0x420E

O_TRACESYSGOOD: Final = 1
O_TRACEFORK: Final = 2
O_TRACEVFORK: Final = 4
O_TRACECLONE: Final = 8
O_TRACEEXEC: Final = 16
O_TRACEEXIT: Final = 64
O_TRACESECCOMP: Final = 128
O_EXITKILL: Final = 1 << 20
#: Follow all threads and descendants, and distinguish system calls from signals.
O_FOLLOW: Final = (
    O_TRACESYSGOOD | O_TRACEFORK | O_TRACEVFORK | O_TRACECLONE | O_TRACEEXEC | O_TRACEEXIT
)

EVENT_FORK: Final = 1
EVENT_VFORK: Final = 2
EVENT_CLONE: Final = 3
EVENT_EXEC: Final = 4
EVENT_EXIT: Final = 6
EVENT_SECCOMP: Final = 7
EVENT_STOP: Final = 128

#: Indices into `struct user_regs_struct` as 27 unsigned 64-bit words.
RAX, RSI, RDI, ORIG_RAX, RIP = 10, 13, 14, 15, 16
WORDS: Final = 27
#: `orig_rax` of a thread that makes no call, and the length of the instruction `syscall` in bytes.
NO_CALL: Final = (1 << 64) - 1
SYSCALL_INSTRUCTION: Final = 2

# PyDLL keeps the GIL: a ptrace request takes a microsecond, and releasing and reacquiring the lock
# would cost as much. Without argtypes a call is faster by half a microsecond; integers then are C
# ints, and an address must be a c_void_p.
_ptrace = ctypes.PyDLL(None).ptrace
_INFO_SIZE = 88
_ORIG_RAX_OFFSET, _RAX_OFFSET = ctypes.c_void_p(ORIG_RAX * 8), ctypes.c_void_p(RAX * 8)
_RDI_OFFSET, _RSI_OFFSET = ctypes.c_void_p(RDI * 8), ctypes.c_void_p(RSI * 8)
_NO_CALL = ctypes.c_void_p(-1)
_SIGSET_SIZE = ctypes.c_void_p(8)
#: The kind of stop in the first byte of struct ptrace_syscall_info.
SYSCALL_INFO_ENTRY, _SYSCALL_INFO_EXIT, SYSCALL_INFO_SECCOMP = 1, 2, 3
#: The architecture of a call in the same structure (include/uapi/linux/audit.h).
AUDIT_ARCH_I386: Final = 0x40000003


class Registers:
    """One thread's general registers. `words` is a view of 27 integers; `load` and `store` move
    them.

    At a stop of a call, `call`, `result` and `skip` access the relevant registers in a third of the
    time that all registers take (struct ptrace_syscall_info in include/uapi/linux/ptrace.h). `stop`
    is the kind of stop at which calls are reported: that of a seccomp filter, or
    SYSCALL_INFO_ENTRY, the stop before any call.
    """

    __slots__ = (
        "_address",
        "_buffer",
        "_info",
        "_info_address",
        "_stop",
        "_unpack_call",
        "_unpack_result",
        "words",
    )

    def __init__(self, stop: int = SYSCALL_INFO_SECCOMP) -> None:
        self._stop = stop
        self._buffer = (ctypes.c_uint64 * WORDS)()
        self._address = ctypes.c_void_p(ctypes.addressof(self._buffer))
        self._info = (ctypes.c_uint64 * (_INFO_SIZE // 8))()
        self._info_address = ctypes.c_void_p(ctypes.addressof(self._info))
        self._unpack_call = struct.Struct("=8xQ8x7Q").unpack_from
        self._unpack_result = struct.Struct("=24xq").unpack_from
        self.words = memoryview(self._buffer).cast("B").cast("Q")

    def load(self, tid: int) -> bool:
        """Read the stopped thread's registers; return False if it is gone."""
        return bool(_ptrace(GETREGS, tid, None, self._address) == 0)

    def store(self, tid: int) -> bool:
        """Write the registers to the thread; return False if it is gone."""
        return bool(_ptrace(SETREGS, tid, None, self._address) == 0)

    def call(self, tid: int) -> tuple[int, ...]:
        """At a call's stop, return the instruction pointer, the number and the six arguments; () at
        any other stop, and if the thread is gone."""
        if _ptrace(GET_SYSCALL_INFO, tid, _INFO_SIZE, self._info_address) <= 0:
            return ()
        if self._info[0] & 0xFF != self._stop:
            return ()
        return self._unpack_call(self._info)

    def is_i386(self) -> bool:
        """True if the last call that was read was made as i386 code makes it (`int 0x80`)."""
        return bool(self._info[0] >> 32 == AUDIT_ARCH_I386)

    def result(self, tid: int) -> int | None:
        """At a call's end, return its result, negative for an error; None if the thread is gone, or
        was killed and has since stopped for its exit."""
        if _ptrace(GET_SYSCALL_INFO, tid, _INFO_SIZE, self._info_address) <= 0:
            return None
        if self._info[0] & 0xFF != _SYSCALL_INFO_EXIT:
            return None
        result: int = self._unpack_result(self._info)[0]
        return result

    def skip(self, tid: int, result: int) -> None:
        """At a call's stop, skip the call and make it return `result`."""
        _ptrace(POKEUSER, tid, _ORIG_RAX_OFFSET, _NO_CALL)
        _ptrace(POKEUSER, tid, _RAX_OFFSET, ctypes.c_void_p(result) if result else None)

    def set_result(self, tid: int, result: int) -> None:
        """At a call's end, replace its result."""
        _ptrace(POKEUSER, tid, _RAX_OFFSET, ctypes.c_void_p(result))

    def set_range(self, tid: int, start: int, length: int) -> None:
        """At a call's stop or end, set the first two arguments: an address and a length in
        bytes."""
        _ptrace(POKEUSER, tid, _RDI_OFFSET, ctypes.c_void_p(start))
        _ptrace(POKEUSER, tid, _RSI_OFFSET, ctypes.c_void_p(length))


def set_signal_mask(tid: int, mask: int) -> int:
    """At a stop, set the thread's signal mask, a kernel sigset_t; return the previous mask."""
    before, after = ctypes.c_uint64(), ctypes.c_uint64(mask)
    _ptrace(GETSIGMASK, tid, _SIGSET_SIZE, ctypes.byref(before))
    _ptrace(SETSIGMASK, tid, _SIGSET_SIZE, ctypes.byref(after))
    return before.value


def resume(request: int, tid: int, signal: int = 0) -> bool:
    """Make the request CONT, SYSCALL, LISTEN or DETACH, delivering `signal`; return False if the
    thread is gone."""
    return bool(_ptrace(request, tid, None, signal) == 0)


#: A stop or an end: the thread's id, its wait status, and at a call's stop the result of
#: `Registers.call`; otherwise ().
Stop = tuple[int, int, tuple[int, ...]]

_WALL: Final = 0x40000000
SECCOMP_STOP: Final = 5 | EVENT_SECCOMP << 8
#: After a wait shorter than this (seconds), the next wait polls for a short while, because waking a
#: sleeping tracer takes longer than most calls do.
_BRISK: Final = 0.0002
_POLLS: Final = range(100)


class Waiter:
    """Waits for the stops and ends of all threads; `registers` reads the call of a thread that has
    stopped for one."""

    def __init__(self, registers: Registers) -> None:
        self._registers = registers
        self._brisk = False

    def wait(self) -> Stop:
        """Return the next stop or end of any thread. Raises ChildProcessError if there are no
        threads left."""
        tid = status = 0
        if self._brisk:
            for _ in _POLLS:
                tid, status = os.waitpid(-1, _WALL | os.WNOHANG)
                if tid:
                    break
                os.sched_yield()
        if not tid:
            began = time.monotonic()
            tid, status = os.waitpid(-1, _WALL)
            self._brisk = time.monotonic() - began < _BRISK
        return tid, status, self._registers.call(tid) if status >> 8 == SECCOMP_STOP else ()


def seize(tid: int, options: int) -> bool:
    """Start tracing a running process; return False if that is not permitted."""
    return bool(_ptrace(SEIZE, tid, None, options) == 0)


def interrupt(tid: int) -> bool:
    """Stop a seized thread, interrupting a wait that it is in; return False if the thread is
    gone."""
    return bool(_ptrace(INTERRUPT, tid, None, None) == 0)


def event_message(tid: int) -> int | None:
    """Return the message of the event that the thread stopped for: a new thread's id, for
    example."""
    message = ctypes.c_ulong()
    if _ptrace(GETEVENTMSG, tid, None, ctypes.byref(message)) != 0:
        return None
    return message.value


def signal_info(tid: int) -> bytes:
    """Return the siginfo_t of the signal that the thread stopped for; empty if the thread is
    gone."""
    info = ctypes.create_string_buffer(128)
    if _ptrace(GETSIGINFO, tid, None, info) != 0:
        return b""
    return info.raw


def set_signal_info(tid: int, info: bytes) -> bool:
    """Replace the siginfo_t of the signal that is about to be delivered; False if the thread is
    gone."""
    return bool(_ptrace(SETSIGINFO, tid, None, info) == 0)


def stopped_for(tid: int) -> int:
    """Return the event that the thread is stopped for now, which may be later than the one that
    wait reported; 0 for none."""
    info = signal_info(tid)
    if not info:
        return 0
    (code,) = struct.unpack_from("=8xi", info)  # SIGTRAP | event << 8
    return int(code) >> 8
