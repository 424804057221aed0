"""A real process that makes whatever system call it is told to: the judge of the bookkeeping.

A small program is started under ptrace and held where it has just been executed. It never runs an
instruction of its own but the `syscall` in its vdso, so nothing but the calls under test changes
its address space. Address space randomisation is off: two children made alike choose alike.
"""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from laconic.memory.flags import TASK_SIZE
from laconic.tracer import ptrace
from laconic.tracer.ptrace import ORIG_RAX, RAX, RDI, RSI, SYSCALL, Registers
from laconic.tracer.syscalls import FORK, NUMBERS, PERSONALITY

#: Indices into `struct user_regs_struct`, beside those that the tracer uses.
R10, R9, R8, RDX, RIP = 7, 8, 9, 12, 16
ARGUMENTS = (RDI, RSI, RDX, R10, R8, R9)
MASK = (1 << 64) - 1
PAGE = 4096
ADDR_NO_RANDOMIZE = 0x0040000
PREAD64, ACCESS, PRCTL = 17, 21, 157
_SYSCALL_INSTRUCTION = b"\x0f\x05"
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_OPTIONS = ptrace.O_TRACESYSGOOD | ptrace.O_TRACEEXEC | ptrace.O_TRACEFORK | ptrace.O_EXITKILL

#: The descriptors that every child has. The file is FILE_PAGES long and a little; PATTERN is what
#: `write` copies from.
FILE_RW, FILE_RO, FILE_WO, PIPE, DIRECTORY, OTHER, PATTERN, CLOSED = (
    200,
    201,
    202,
    203,
    204,
    205,
    206,
    299,
)
FILE_PAGES = 6


class Files:
    """The files behind one child's descriptors, in a directory of their own."""

    def __init__(self, directory: str) -> None:
        names = [os.path.join(directory, name) for name in ("file", "other", "pattern")]
        for number, name in enumerate(names):
            with open(name, "wb") as file:
                file.write(
                    b"".join(bytes([number * 64 + page + 1]) * PAGE for page in range(FILE_PAGES))
                    + b"end"
                )
        reader, writer = os.pipe()
        os.close(writer)
        self.fds = {
            FILE_RW: os.open(names[0], os.O_RDWR),
            FILE_RO: os.open(names[0], os.O_RDONLY),
            FILE_WO: os.open(names[0], os.O_WRONLY),
            PIPE: reader,
            DIRECTORY: os.open(directory, os.O_RDONLY | os.O_DIRECTORY),
            OTHER: os.open(names[1], os.O_RDWR),
            PATTERN: os.open(names[2], os.O_RDONLY),
        }

    def renew(self) -> None:
        """Gives the files their first contents back."""
        for number, fd in ((0, FILE_RW), (1, OTHER)):
            os.pwrite(
                self.fds[fd],
                b"".join(bytes([number * 64 + page + 1]) * PAGE for page in range(FILE_PAGES))
                + b"end",
                0,
            )

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in self.fds.values():
            os.close(fd)


@contextmanager
def files() -> Iterator[Files]:
    """Files for one child, thrown away afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        made = Files(directory)
        try:
            yield made
        finally:
            made.close()


class Ended(Exception):
    """The child was killed, or can no longer reach its `syscall` instruction."""


class Mapping(NamedTuple):
    """One line of `/proc/PID/maps`, as the kernel cut it: nothing merged."""

    start: int
    end: int
    name: str


class Child:
    """A stopped process and its `syscall` instruction. `call` makes a system call in it and returns
    the result."""

    def __init__(
        self, descriptors: Files | None = None, persona: int = 0, program: str = "/bin/true"
    ) -> None:
        go_read, go_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.read(go_read, 1)
                ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE | persona)
                for number, fd in (descriptors.fds if descriptors else {}).items():
                    os.dup2(fd, number, inheritable=True)
                os.execve(program, [program], {})
            finally:
                os._exit(127)
        os.close(go_read)
        self._registers = Registers()
        assert ptrace.seize(self.pid, _OPTIONS), "ptrace of an own child is permitted"
        os.write(go_write, b"g")
        os.close(go_write)
        assert self._wait() == signal.SIGTRAP | ptrace.EVENT_EXEC << 8
        self._resume()
        vdso = next(line for line in self.maps() if line.name == "[vdso]")
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            memory.seek(vdso.start)
            self._instruction = vdso.start + memory.read(vdso.end - vdso.start).index(
                _SYSCALL_INSTRUCTION
            )

    def _wait(self) -> int:
        status = os.waitpid(self.pid, 0)[1]
        if not os.WIFSTOPPED(status):
            raise Ended(f"status {status:#x}")
        return status >> 8

    def _resume(self) -> int:
        assert ptrace.resume(SYSCALL, self.pid)
        stop = self._wait()
        return (
            self._resume() if stop == signal.SIGCHLD else stop
        )  # a forked process was reaped; the signal is dropped

    def call(self, name: str | int, *args: int) -> int:
        """Makes the system call and returns its result, a negative errno where it failed."""
        self._begin(NUMBERS[name] if isinstance(name, str) else name, args)
        stop = self._resume()
        if stop != _SYSCALL_STOP:
            raise Ended(f"stop {stop:#x} instead of the call's end")
        return self._result()

    def _begin(self, number: int, args: tuple[int, ...]) -> None:
        registers = self._registers
        assert registers.load(self.pid)
        registers.words[ORIG_RAX] = MASK
        registers.words[RAX] = number
        registers.words[RIP] = self._instruction
        for register, value in zip(ARGUMENTS, args, strict=False):
            registers.words[register] = value & MASK
        assert registers.store(self.pid)
        stop = self._resume()
        if stop != _SYSCALL_STOP:
            raise Ended(f"stop {stop:#x} instead of the call's begin")

    def _result(self) -> int:
        assert self._registers.load(self.pid)
        value = self._registers.words[RAX]
        return value - (1 << 64) if value >> 63 else value

    def fork(self) -> int:
        """Makes the child fork; returns the new process's id, stopped at its begin. End it with
        `reap`."""
        self._begin(FORK, ())
        assert self._resume() == signal.SIGTRAP | ptrace.EVENT_FORK << 8
        new = ptrace.event_message(self.pid)
        assert new
        os.waitpid(new, 0)
        assert self._resume() == _SYSCALL_STOP
        return new

    def write(self, address: int, which: int = 0) -> bool:
        """Writes eight bytes of page `which` of the pattern, as the program would; False where that
        faults."""
        return self.call(PREAD64, PATTERN, address, 8, which % FILE_PAGES * PAGE) == 8

    def read(self, address: int) -> bool:
        """Reads memory, as the program would; False where that faults."""
        return self.call(ACCESS, address, 0) != -14

    def peek(self, address: int) -> bytes | None:
        """Eight bytes, whatever the protection; None where there is no page, or none that can be
        had."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            try:
                return memory.read(8)
            except OSError:
                return None

    def maps(self) -> list[Mapping]:
        """The host's VMAs, one by one."""
        with open(f"/proc/{self.pid}/maps") as file:
            lines = [line.split(None, 5) for line in file]
        ranges = [[int(part, 16) for part in parts[0].split("-")] for parts in lines]
        return [
            Mapping(start, end, parts[5].strip() if len(parts) > 5 else "")
            for (start, end), parts in zip(ranges, lines, strict=True)
            if start <= TASK_SIZE
        ]

    def personality(self, persona: int) -> None:
        """Sets the personality, address space randomisation staying off."""
        self.call(PERSONALITY, ADDR_NO_RANDOMIZE | persona)

    def close(self) -> None:
        """Ends the process."""
        reap(self.pid)


def reap(pid: int) -> None:
    """Ends a stopped process and waits for its end."""
    try:
        os.kill(pid, signal.SIGKILL)
        while not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            pass
    except (ProcessLookupError, ChildProcessError):
        pass


@contextmanager
def child(descriptors: Files | None = None, persona: int = 0) -> Iterator[Child]:
    """A child that is ended afterwards."""
    made = Child(descriptors, persona)
    try:
        yield made
    finally:
        made.close()
