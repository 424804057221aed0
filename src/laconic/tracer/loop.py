"""The event loop: every stop of every thread, until none is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

from laconic.memory.space import AddressSpace
from laconic.pal import proc
from laconic.tracer import launch, ptrace
from laconic.tracer.mediate import Mediator
from laconic.tracer.process import Mm, Thread, command_name, is_64_bit, read_memory
from laconic.tracer.ptrace import CONT, LISTEN, ORIG_RAX, RDI, RSI, SYSCALL
from laconic.tracer.syscalls import (
    CLONE,
    CLONE3,
    CLONE_THREAD,
    CLONE_UNTRACED,
    CLONE_VFORK,
    CLONE_VM,
    EXECVE,
    EXECVEAT,
    FORK,
    PERSONALITY,
    PROCESS_CALLS,
    PTRACE,
)

_WALL = 0x40000000
_STOP_SIGNALS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_SYSCALL_STOP = signal.SIGTRAP | 0x80
#: Signals that end Laconic by default, and that a person means for the program.
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_SI_KERNEL = 0x80


class Tracer:
    """Runs one program and all that it starts.

    `exit_status` is the first program's own, 128 + signal where one killed it.
    """

    def __init__(self, mediator: Mediator, verify: str = "off") -> None:
        self.mediator = mediator
        self.verify = verify
        self.threads: dict[int, Thread] = {}
        self.early: set[int] = set()
        self.root = 0
        self.exit_status = 0
        self.failure: Exception | None = None

    def run(self, argv: Sequence[str]) -> int:
        """Runs `argv` to the end of its last process; returns the exit status of the first.

        Raises CannotRun or NoTracing where it could not be started.
        """
        options = launch.OPTIONS | (ptrace.O_TRACEEXIT if self.verify != "off" else 0)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.root = launch.launch(argv, options)
        self.mediator.ledger.processes = 1
        self.threads[self.root] = Thread(self.root, self.root, Mm(None))
        self.argv = argv
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        threading.Thread(target=self._forward, daemon=True).start()
        try:
            self._loop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before - _FORWARDED)
        if self.failure is not None:
            raise self.failure
        return self.exit_status

    def _forward(self) -> None:
        # What the terminal sends reaches the program by itself; what was sent to Laconic alone is passed on.
        while True:
            info = signal.sigwaitinfo(_FORWARDED)
            if info.si_code != _SI_KERNEL:
                try:
                    os.kill(self.root, info.si_signo)
                except ProcessLookupError:
                    return

    def _loop(self) -> None:
        waitpid, threads, mediator = os.waitpid, self.threads, self.mediator
        seccomp_stop = signal.SIGTRAP | ptrace.EVENT_SECCOMP << 8
        while True:
            try:
                tid, status = waitpid(-1, _WALL)
            except ChildProcessError:
                return
            thread = threads.get(tid)
            if status & 0xFF != 0x7F:
                self._ended(tid, status)
            elif thread is None:
                self.early.add(tid)  # a new thread whose parent's event is still to come
            elif status >> 8 == seccomp_stop:
                if thread.again:
                    mediator.at_repeated_call(thread)
                elif mediator.registers.load(tid):
                    if mediator.words[ORIG_RAX] in PROCESS_CALLS:
                        self._process_call(thread, mediator.words[ORIG_RAX])
                    else:
                        mediator.at_call(thread)
            elif status >> 8 == _SYSCALL_STOP:
                if thread.awaits_exit:
                    mediator.at_exit(thread)
                    if thread.deferred and thread.task is None:
                        self._deliver_deferred(thread)
                else:
                    self._fork_failed(thread)
            else:
                self._other_stop(thread, status >> 8 & 0xFF, status >> 16)

    # Process calls

    def _process_call(self, thread: Thread, nr: int) -> None:
        words = self.mediator.words
        if nr in (EXECVE, EXECVEAT):
            if self.verify != "off" and len(thread.mm.threads) == 1:
                self.mediator.verify(thread)
        elif nr == PTRACE:
            self._wants_to_trace(thread)
        elif nr == PERSONALITY:
            thread.read_implies_exec = bool(words[RDI] & proc.READ_IMPLIES_EXEC)
        else:
            self._clone(thread, nr)
            return
        ptrace.resume(CONT, thread.tid)

    def _clone(self, thread: Thread, nr: int) -> None:
        words = self.mediator.words
        if nr == CLONE:
            flags = words[RDI]
            if flags & CLONE_UNTRACED:
                # An untraced child would keep the filter with nobody to answer it.
                words[RDI] = flags & ~CLONE_UNTRACED
                self.mediator.registers.store(thread.tid)
        elif nr == CLONE3:
            flags = int.from_bytes(read_memory(thread.tid, words[RDI], 8), "little") if words[RSI] >= 8 else 0
        else:
            flags = 0 if nr == FORK else CLONE_VM | CLONE_VFORK
        thread.child_flags = flags
        if flags & CLONE_VM:
            ptrace.resume(CONT, thread.tid)
        elif thread.mm.busy is not None:
            thread.mm.queue.append(thread)
        else:
            # The address space is copied as it is between two calls: the others wait until it has been.
            thread.mm.busy = thread
            ptrace.resume(SYSCALL, thread.tid)

    def _fork_failed(self, thread: Thread) -> None:
        thread.child_flags = None
        self._release(thread)
        ptrace.resume(CONT, thread.tid)

    def _wants_to_trace(self, thread: Thread) -> None:
        self.mediator.ledger.note(
            f"{command_name(thread.tid)} asked to trace, which the kernel refuses to a program that is traced itself: "
            "run it without Laconic"
        )

    def _release(self, thread: Thread) -> None:
        if thread.mm.busy is thread:
            thread.mm.busy = None
            self.mediator.serve(thread.mm)

    # Events

    def _other_stop(self, thread: Thread, stop_signal: int, event: int) -> None:
        tid = thread.tid
        if event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            self._new_thread(thread)
            ptrace.resume(CONT, tid)
        elif event == ptrace.EVENT_EXEC:
            self._executed(thread)
        elif event == ptrace.EVENT_EXIT:
            if len(thread.mm.threads) == 1:
                self.mediator.verify(thread)
            ptrace.resume(CONT, tid)
        elif event == ptrace.EVENT_STOP:
            # A group-stop stays one until SIGCONT; any other such stop is a new thread's first.
            ptrace.resume(LISTEN if stop_signal in _STOP_SIGNALS else CONT, tid)
        elif thread.again:
            # SIGSTOP, the one signal that cannot be blocked, between two host calls of one memory call: later.
            thread.deferred.append(stop_signal)
            ptrace.resume(CONT, tid)
        else:
            ptrace.resume(CONT, tid, stop_signal)

    def _deliver_deferred(self, thread: Thread) -> None:
        for number in thread.deferred:
            try:
                os.kill(thread.tgid, number)
            except ProcessLookupError:
                pass
        thread.deferred.clear()

    def _new_thread(self, parent: Thread) -> None:
        tid = ptrace.event_message(parent.tid)
        if not tid:
            return
        flags = parent.child_flags or 0
        parent.child_flags = None
        if flags & CLONE_VM:
            mm = parent.mm
        else:
            mm = Mm(parent.mm.space.fork() if parent.mm.space is not None else None)
        child = Thread(tid, parent.tgid if flags & CLONE_THREAD else tid, mm)
        child.read_implies_exec = parent.read_implies_exec
        self.threads[tid] = child
        if not flags & CLONE_THREAD:
            self.mediator.ledger.processes += 1
        if tid in self.early:
            self.early.discard(tid)
            ptrace.resume(CONT, tid)
        self._release(parent)

    def _executed(self, thread: Thread) -> None:
        tid = thread.tid
        for other in [other for other in self.threads.values() if other.tgid == thread.tgid]:
            self._forget(other)
        if tid == self.root:
            launch.failure(tid, self.argv)
        fresh = Thread(tid, tid, Mm(None))
        self.threads[tid] = fresh
        if is_64_bit(tid):
            try:
                fresh.mm.space = self._address_space(fresh)
            except PermissionError:
                self.mediator.give_up(fresh)
            except OSError:
                pass  # it was killed meanwhile
        else:
            self.mediator.ledger.note(
                f"{command_name(tid)} is a 32-bit program: it runs untouched, and its memory calls are not counted"
            )
        ptrace.resume(CONT, tid)

    def _address_space(self, thread: Thread) -> AddressSpace:
        tid = thread.tid
        thread.read_implies_exec = bool(proc.personality(tid) & proc.READ_IMPLIES_EXEC)
        start = proc.read_start(tid)
        space = AddressSpace(proc.read_layout(tid), proc.read_smaps(tid), start.start_brk)
        space.data_size = start.data_size
        return space

    def _forget(self, thread: Thread) -> None:
        # The thread is gone. If its call was under way at the host, only the host knows how far it came.
        self.threads.pop(thread.tid, None)
        thread.leave()
        mm = thread.mm
        if thread in mm.queue:
            mm.queue.remove(thread)
        if mm.busy is thread:
            mm.busy = None
            survivor = next(iter(mm.threads), None)
            if survivor is not None and mm.space is not None:
                if thread.pending is not None:
                    try:
                        mm.space.adopt(proc.read_smaps(survivor))
                    except OSError:
                        pass
                self.mediator.serve(mm)

    def _ended(self, tid: int, status: int) -> None:
        thread = self.threads.get(tid)
        self.early.discard(tid)
        if thread is not None:
            self._forget(thread)
        if tid == self.root:
            self.exit_status = os.waitstatus_to_exitcode(status)
            if self.exit_status < 0:
                self.exit_status = 128 - self.exit_status
            self.failure = launch.failure(tid, self.argv)
