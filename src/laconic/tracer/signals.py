"""Signals that Laconic receives: a signal to the process group is ignored, a signal to Laconic
alone is passed on.

Laconic is the program's parent and a member of its process group, so that the program has the
group, session and terminal that a shell gives it, and ^Z stops both. Therefore a signal to the
group reaches Laconic too, and must not end it; and a signal to Laconic's own pid (by a supervisor,
or a shell's `kill $!`) must reach the program.

The two cannot be distinguished directly: the kernel gives both the same siginfo. What the program
receives does not distinguish them either, because a program may block a signal, take it in
sigwait() or from a signalfd, or have left the group. So Laconic uses a witness: a process of its
own in the same group, which blocks every signal and reports those that it received. The kernel
sends a signal to a group while it holds tasklist_lock once (kill_something_info, __kill_pgrp_info),
so a signal that Laconic received was sent to the group if and only if the witness received it. The
witness also recognizes kill(-1), the terminal's signals, and tools that signal every process of a
cgroup or of a name.

Standard signals do not queue: a second one is dropped while the first is pending (legacy_queue,
kernel/signal.c). Therefore Laconic reads the witness's report while the signal is pending in
Laconic itself: until it is taken, no second signal can arrive whose report would belong to the
next. Afterwards Laconic reads the report again, and keeps an entry only if its signal is pending
again.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from laconic.tracer import ptrace

_SYS_RT_SIGPROCMASK: Final = 14
_SYS_RT_SIGPENDING: Final = 127
_SYS_RT_SIGTIMEDWAIT: Final = 128
_SYS_RT_SIGQUEUEINFO: Final = 129
_SYS_SIGNALFD4: Final = 289
_SFD_CLOEXEC: Final = 0o2000000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15

_SI_QUEUE: Final = -1
_SI_TKILL: Final = -6
_SI_KERNEL: Final = 0x80
_SIGINFO_SIZE: Final = 128
_FIRST_REAL_TIME: Final = 32

#: Signals that cannot be blocked, that stop Laconic together with the program (job control), or
#: that the kernel sends for every stop of a traced thread.
_KEPT: Final = (
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)
#: A kernel sigset_t of every signal.
ALL_SIGNALS: Final = (1 << 64) - 1


def signal_set(numbers: Iterable[int]) -> int:
    """Return a kernel sigset_t of these signals."""
    mask = 0
    for number in numbers:
        mask |= 1 << (number - 1)
    return mask


#: The signals that end Laconic by default or that programs may handle, as a kernel sigset_t. They
#: include the C library's own two (32 and 33), which its functions cannot block: hence the raw
#: system calls.
RELAYED: Final = ALL_SIGNALS & ~signal_set(_KEPT)

#: The maximum time (seconds) that a signal to Laconic alone waits for its sender to continue, and
#: how often that is checked.
_SENDER_PATIENCE: Final = 0.2
_SENDER_PERIOD: Final = 0.002
#: A witness that has not answered after this time (seconds) has been stopped.
_WITNESS_PATIENCE: Final = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


class SignalInfo(NamedTuple):
    """A signal that was received. `raw` is its siginfo_t; `pid` and `uid` are its sender's, 0 for
    the kernel."""

    number: int
    code: int
    pid: int
    uid: int
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> SignalInfo:
        """Return the signal that a siginfo_t describes."""
        number, _, code, pid, uid = struct.unpack_from("=iii4xiI", raw)
        return cls(number, code, pid, uid, raw)

    def with_code(self, code: int) -> bytes:
        """Return the siginfo_t with another si_code."""
        return self.raw[:8] + struct.pack("=i", code) + self.raw[12:]

    def same_sender(self, other: SignalInfo) -> bool:
        """True if both have the same number and come from the same sender by the same kind of
        call."""
        return self[:4] == other[:4]


def change_mask(how: int, mask: int) -> int:
    """Change the calling thread's signal mask; return the mask before. Masks are kernel
    sigset_t."""
    new = ctypes.c_uint64(mask)
    old = ctypes.c_uint64()
    _libc.syscall(_SYS_RT_SIGPROCMASK, how, ctypes.byref(new), ctypes.byref(old), 8)
    return old.value


def _pending() -> int:
    # Return the signals that are pending for this process or thread.
    mask = ctypes.c_uint64()
    _libc.syscall(_SYS_RT_SIGPENDING, ctypes.byref(mask), 8)
    return mask.value


def _take(mask: int) -> SignalInfo | None:
    # Take one pending signal of `mask`, without waiting.
    wanted = ctypes.c_uint64(mask)
    info = ctypes.create_string_buffer(_SIGINFO_SIZE)
    no_time = (ctypes.c_long * 2)(0, 0)
    number = _libc.syscall(_SYS_RT_SIGTIMEDWAIT, ctypes.byref(wanted), info, no_time, 8)
    return SignalInfo.parse(info.raw) if number > 0 else None


class SignalRelay:
    """Passes on the signals that are sent to this process alone, from creation until `stop`.

    `deliver` is called in a thread of the relay for each of them. Create the relay before any other
    thread exists: later threads inherit the signal mask, and then no signal can end the process.
    `mask_before` is the mask that a program must start with. `start` starts passing signals on;
    those that arrived before are passed on then.
    """

    def __init__(self, command: Sequence[str], mask: int = RELAYED) -> None:
        self.witness: Witness | None = None
        self._sent: dict[int, SignalInfo] = {}
        self._command = command
        self._mask = mask
        self._reports: list[SignalInfo] = []
        self._thread: threading.Thread | None = None
        self._end_read, self._end_write = os.pipe()
        self.mask_before = change_mask(signal.SIG_BLOCK, mask)

    def start(self, deliver: Callable[[SignalInfo], None]) -> None:
        """Start the witness and the thread; without a witness, only signals sent by a process are
        passed on."""
        try:
            self.witness = Witness(self._command, self._mask)
        except OSError:
            pass  # RLIMIT_NPROC, or no memory
        self._thread = threading.Thread(target=self._run, args=(deliver,), daemon=True)
        self._thread.start()

    def send(self, pid: int, info: SignalInfo) -> None:
        """Send a received signal to a process, with its sender and value; a process that is gone is
        not an error.

        Only the kernel can send the codes SI_USER and SI_KERNEL for another process
        (do_rt_sigqueueinfo). A signal with such a code is sent with SI_QUEUE, and `restore` gives
        it its code when it is delivered.
        """
        raw = info.raw
        if info.code >= 0 or info.code == _SI_TKILL:
            raw = info.with_code(_SI_QUEUE)
            self._sent[info.number] = info
        _libc.syscall(_SYS_RT_SIGQUEUEINFO, pid, info.number, raw)

    def restore(self, tid: int, number: int) -> None:
        """Give a signal that `send` sent its own si_code, at the stop before its delivery."""
        info = self._sent.get(number)
        if info is not None and ptrace.signal_info(tid) == info.with_code(_SI_QUEUE):
            ptrace.set_signal_info(tid, info.raw)

    def dismiss_witness(self) -> None:
        """End the witness: there is no process left to pass a signal on to."""
        if self.witness is not None:
            self.witness.kill()

    def stop(self) -> None:
        """Stop passing signals on. Pending signals have already affected the program, and are
        discarded."""
        os.close(self._end_write)
        if self._thread is not None:
            self._thread.join()
        if self.witness is not None:
            self.witness.reap()
        os.close(self._end_read)
        while _take(self._mask) is not None:
            pass
        change_mask(signal.SIG_SETMASK, self.mask_before)

    def _run(self, deliver: Callable[[SignalInfo], None]) -> None:
        mask = ctypes.c_uint64(self._mask)
        signal_fd = _libc.syscall(_SYS_SIGNALFD4, -1, ctypes.byref(mask), 8, _SFD_CLOEXEC)
        poll = select.poll()
        poll.register(signal_fd, select.POLLIN)
        poll.register(self._end_read, select.POLLHUP)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._end_read in ready:
                os.close(signal_fd)
                return
            self._relay(deliver)

    def _relay(self, deliver: Callable[[SignalInfo], None]) -> None:
        # Take one pending signal. It was pending before the witness is read: see the module's
        # docstring.
        pending = _pending() & self._mask
        self._ask()
        info = _take(pending)
        if info is None:
            return
        to_group = self._was_sent_to_group(info)
        if not to_group and info.number < _FIRST_REAL_TIME:
            _await_sender(info.pid)
        self._ask()
        pending = _pending()
        self._reports = [report for report in self._reports if pending >> (report.number - 1) & 1]
        # timeout(1) signals its child, and then the group. Natively the second is dropped, because
        # the first is still pending. Here the program has the second already: the first is dropped.
        follows = any(map(info.same_sender, self._reports)) and info.number < _FIRST_REAL_TIME
        own = info.number == signal.SIGXCPU and info.code == _SI_KERNEL  # of Laconic's own CPU time
        if not to_group and not follows and not own:
            deliver(info)

    def _ask(self) -> None:
        # Both before and after, every signal that is being sent to the group must have reached all
        # of its members.
        _wait_for_senders()
        if self.witness is not None:
            self._reports += self.witness.report()
        _wait_for_senders()

    def _was_sent_to_group(self, info: SignalInfo) -> bool:
        if self.witness is None or self.witness.gone:
            return info.code == _SI_KERNEL
        for report in self._reports:
            # Standard signals that were dropped need not have the same sender here and there.
            if report.number == info.number and (
                info.number < _FIRST_REAL_TIME or report.raw == info.raw
            ):
                self._reports.remove(report)
                return True
        return False


def _wait_for_senders() -> None:
    # Changes nothing, but takes tasklist_lock for writing (setpgid, kernel/sys.c): kill() holds it
    # for reading while it goes through the members of a group.
    try:
        os.setpgid(0, os.getpgrp())
    except OSError:
        pass  # a session leader, which setpgid refuses only afterwards


def _await_sender(pid: int) -> None:
    # A sender that is still running may be about to send the same signal to the group.
    deadline = time.monotonic() + _SENDER_PATIENCE
    while pid > 0 and _is_running(pid) and time.monotonic() < deadline:
        time.sleep(_SENDER_PERIOD)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"RD"
    except OSError:
        return False


class Witness:
    """A process in this process's group that blocks the signals of `mask`, and reports those that
    it received.

    In lists of processes it has the command line of the program, so that tools which signal every
    process of a command line signal both or neither. Raises OSError if it cannot be started.
    """

    def __init__(self, command: Sequence[str], mask: int) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _witness(theirs, parent, command, mask)
            finally:
                os._exit(0)
        theirs.close()
        ours.settimeout(_WITNESS_PATIENCE)
        self._socket = ours
        self._reaped = False
        self.gone = False

    def report(self) -> list[SignalInfo]:
        """Return the signals that the witness received since the last call."""
        try:
            self._socket.send(b"?", socket.MSG_NOSIGNAL)
            (count,) = struct.unpack("=i", self._receive(4))
            raw = self._receive(count * _SIGINFO_SIZE)
        except OSError:
            self.gone = True
            return []
        infos = [
            SignalInfo.parse(raw[at : at + _SIGINFO_SIZE])
            for at in range(0, len(raw), _SIGINFO_SIZE)
        ]
        return [info for info in infos if (info.number, info.pid) != (signal.SIGCONT, os.getpid())]

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(size - len(data))
            except TimeoutError:
                # A SIGSTOP to the group stops the witness too, and a SIGCONT to Laconic alone does
                # not continue it.
                os.kill(self.pid, signal.SIGCONT)
                continue
            if not piece:
                raise ConnectionResetError
            data += piece
        return data

    def kill(self) -> None:
        """End the process; the caller must then wait for it."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)

    def reaped(self) -> None:
        """Note that another caller has waited for the process."""
        self._reaped = True
        self.gone = True

    def reap(self) -> None:
        """End the process, and wait for it unless that has been done."""
        if not self._reaped:
            self.kill()
            os.waitpid(self.pid, 0)
            self.reaped()
        self._socket.close()


def _witness(channel: socket.socket, parent: int, command: Sequence[str], mask: int) -> None:
    # Runs in the witness. Laconic's files are closed: a pipe's reader must not wait for the
    # witness.
    change_mask(signal.SIG_SETMASK, ALL_SIGNALS)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    fd = channel.fileno()
    os.closerange(0, fd)
    os.closerange(fd + 1, 1 << 20)
    _rename(command)
    while os.getppid() == parent and channel.recv(1):
        infos = []
        while (info := _take(mask)) is not None:
            infos.append(info.raw)
        channel.sendall(struct.pack("=i", len(infos)) + b"".join(infos))


def _rename(command: Sequence[str]) -> None:
    # The command line that others see is the memory between arg_start and arg_end
    # (proc_pid_cmdline_ops).
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])
    words = b"\0".join(map(os.fsencode, command))[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, words, len(words))
    _libc.prctl(_PR_SET_NAME, b"witness", 0, 0, 0)
