"""ptrace(2) by ctypes: the requests that the tracer makes, on x86-64.

A request on a thread that is gone returns False or None; whoever waits for that thread learns of its end from wait.
"""

from __future__ import annotations

import ctypes
from typing import Final

CONT: Final = 7
GETREGS: Final = 12
SETREGS: Final = 13
SYSCALL: Final = 24
GETEVENTMSG: Final = 0x4201
GETSIGINFO: Final = 0x4202
SEIZE: Final = 0x4206
LISTEN: Final = 0x4208
GETSIGMASK: Final = 0x420A
SETSIGMASK: Final = 0x420B

O_TRACESYSGOOD: Final = 1
O_TRACEFORK: Final = 2
O_TRACEVFORK: Final = 4
O_TRACECLONE: Final = 8
O_TRACEEXEC: Final = 16
O_TRACEEXIT: Final = 64
O_TRACESECCOMP: Final = 128
O_EXITKILL: Final = 1 << 20

EVENT_FORK: Final = 1
EVENT_VFORK: Final = 2
EVENT_CLONE: Final = 3
EVENT_EXEC: Final = 4
EVENT_EXIT: Final = 6
EVENT_SECCOMP: Final = 7
EVENT_STOP: Final = 128

#: Indices into `struct user_regs_struct` as 27 unsigned 64-bit words.
R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI, ORIG_RAX, RIP, CS = 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
ARGUMENTS: Final = (RDI, RSI, RDX, R10, R8, R9)
WORDS: Final = 27
MASK: Final = (1 << 64) - 1

# PyDLL keeps the GIL: a ptrace request takes a microsecond, giving the lock away and back would cost as much.
_ptrace = ctypes.PyDLL(None).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


class Registers:
    """One thread's general registers. `words` is a view of 27 integers; `load` and `store` move them."""

    __slots__ = ("_address", "_buffer", "words")

    def __init__(self) -> None:
        self._buffer = (ctypes.c_uint64 * WORDS)()
        self._address = ctypes.addressof(self._buffer)
        self.words = memoryview(self._buffer).cast("B").cast("Q")

    def load(self, tid: int) -> bool:
        """Reads the stopped thread's registers; False where it is gone."""
        return bool(_ptrace(GETREGS, tid, None, self._address) == 0)

    def store(self, tid: int) -> bool:
        """Writes them; False where it is gone."""
        return bool(_ptrace(SETREGS, tid, None, self._address) == 0)


def resume(request: int, tid: int, signal: int = 0) -> bool:
    """CONT, SYSCALL or LISTEN, delivering `signal`; False where the thread is gone."""
    return bool(_ptrace(request, tid, None, signal) == 0)


def seize(tid: int, options: int) -> bool:
    """Begins to trace a running process; False where that is not permitted."""
    return bool(_ptrace(SEIZE, tid, None, options) == 0)


def event_message(tid: int) -> int | None:
    """The message of the event that the thread stopped for: a new thread's id, for example."""
    message = ctypes.c_ulong()
    if _ptrace(GETEVENTMSG, tid, None, ctypes.addressof(message)) != 0:
        return None
    return message.value


def signal_mask(tid: int) -> int | None:
    """The thread's blocked signals as a bit set."""
    mask = ctypes.c_uint64()
    if _ptrace(GETSIGMASK, tid, 8, ctypes.addressof(mask)) != 0:
        return None
    return mask.value


def set_signal_mask(tid: int, mask: int) -> bool:
    """Blocks exactly the signals of `mask`; SIGKILL and SIGSTOP cannot be blocked."""
    word = ctypes.c_uint64(mask)
    return bool(_ptrace(SETSIGMASK, tid, 8, ctypes.addressof(word)) == 0)
