"""The event loop: every stop of every thread, until none is left."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from mypy_extensions import mypyc_attr

from laconic.linux import proc
from laconic.linux.clone import CLONE_THREAD, CLONE_UNTRACED, CLONE_VFORK, CLONE_VM
from laconic.memory.space import AddressSpace
from laconic.tracer import launch, ptrace
from laconic.tracer.mediate import Mediator
from laconic.tracer.process import (
    TracedMm,
    TracedThread,
    command_name,
    give_up,
    is_64_bit,
    is_traced,
    parent_process,
    read_memory,
    thread_group,
    write_memory,
)
from laconic.tracer.ptrace import DETACH, LISTEN, ORIG_RAX, RAX, RDI, RSI, SYSCALL
from laconic.tracer.signals import SignalInfo, SignalRelay
from laconic.tracer.syscalls import (
    CLONE,
    CLONE3,
    EXECVE,
    EXECVEAT,
    FORK,
    INTERRUPTIBLE,
    PERSONALITY,
    PROCESS_CALLS,
    PTRACE,
    SECCOMP,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
)

STOP_SIGNALS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
#: The stop before or after any call (PTRACE_O_TRACESYSGOOD).
SYSCALL_STOP = signal.SIGTRAP | 0x80
#: EINTR as a register holds it, and the value that makes the kernel restart a call unless a handler
#: runs (include/linux/errno.h).
_EINTR = -errno.EINTR & (1 << 64) - 1
ERESTARTNOHAND = 514
#: The bits of a wait status that hold the signal that ended a thread.
_SIGNAL = 0x7F


@mypyc_attr(allow_interpreted_subclasses=True)
class Tracer:
    """Runs one program and everything that it starts.

    `exit_status` is that of the first program, or 128 + signal if a signal killed it. `waiting`
    returns a context manager for a check at a process's end, which shows that the check takes long.
    `take` follows a stop; `laconic.tracer.attach` passes it the stops of processes that were
    already running.
    """

    def __init__(
        self,
        mediator: Mediator,
        waiting: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.waiting = waiting
        self.mediator = mediator
        self.checker = mediator.checker
        self.recorder = mediator.recorder
        self.go_on = mediator.go_on
        self.threads: dict[int, TracedThread] = {}
        self.early: dict[int, int] = {}
        self.lost: list[tuple[TracedThread, TracedMm]] = []
        # Threads that ended, or were given another parent, before the event of their own parent
        # came.
        self.premature: set[int] = set()
        self.root = 0
        self.argv: Sequence[str] = ()
        self.relay: SignalRelay | None = None
        self.exit_status = 0
        self.failure: Exception | None = None

    def run(self, argv: Sequence[str]) -> int:
        """Run `argv` until its last process ends; return the exit status of the first.

        Raises CannotRun or NoTracing if it could not be started.
        """
        # Before any thread is started, so that each of them blocks the signals that are passed on.
        self.relay = relay = SignalRelay(argv)
        try:
            self.root = launch.launch(argv, relay.mask_before)
        except BaseException:
            relay.stop()
            raise
        self.mediator.ledger.processes = 1
        self.threads[self.root] = TracedThread(self.root, self.root, TracedMm(None))
        self.argv = argv
        # The program still waits, so no signal reaches it, and no witness exists yet.
        relay.start(self._pass_on)
        launch.release(self.root)
        if self.recorder is not None:
            self.recorder.start()
        try:
            self._loop()
        finally:
            relay.stop()
        if self.failure is not None:
            raise self.failure
        return self.exit_status

    def _pass_on(self, info: SignalInfo) -> None:
        # Runs in the relay's thread. After the end of the first program, signals go to every
        # process that it left running.
        assert self.relay is not None
        processes = {thread.tgid for thread in list(self.threads.values())}
        for pid in [self.root] if self.root in processes else processes:
            self.relay.send(pid, info)

    def _loop(self) -> None:
        assert self.relay is not None
        wait = ptrace.Waiter(self.mediator.registers).wait
        while True:
            if not self.threads and not self.early:
                self.relay.dismiss_witness()  # the last child to be waited for
            try:
                stop = wait()
            except ChildProcessError:
                return
            self.take(*stop)

    def take(self, tid: int, status: int, stop: tuple[int, ...]) -> None:
        """Follow one stop or end of a thread, as `Waiter.wait` reports it, and resume the
        thread."""
        thread = self.threads.get(tid)
        if status & 0xFF != 0x7F:
            self._ended(tid, status)
        elif thread is None:
            self._unknown(tid, status >> 8 & 0xFF, status >> 16)
        elif status >> 8 == ptrace.SECCOMP_STOP:
            if stop:
                self.at_call(thread, stop)
        elif status >> 8 == SYSCALL_STOP:
            self.at_end(thread)
        else:
            self._other_stop(thread, status >> 8 & 0xFF, status >> 16)

    def at_call(self, thread: TracedThread, stop: tuple[int, ...]) -> None:
        """Follow the memory or process call that a thread has stopped for; `stop` is what
        `Registers.call` read."""
        recorder = self.recorder
        if recorder is not None and recorder.limit_reached and not self.mediator.attached:
            self.end_recording()
        thread.executing = False
        if stop[1] not in PROCESS_CALLS:
            self.mediator.at_call(thread, stop)
        elif self.mediator.registers.load(thread.tid):
            self._process_call(thread, stop[1])

    def at_end(self, thread: TracedThread) -> None:
        """Follow the end of a call at which the thread had to stop."""
        if thread.awaits_exit:
            self.mediator.at_exit(thread)
        else:
            self._process_call_failed(thread)

    # The end of the recording

    def end_recording(self) -> None:
        """End the recording; the processes continue, and are followed as before."""
        for mm in {id(thread.mm): thread.mm for thread in self.threads.values()}.values():
            self.leave(mm)
        if self.recorder is not None:
            self.recorder.leaves(self.mediator.ledger.calls)
        self.recorder = self.mediator.recorder = self.mediator.stacks = None
        for thread in self.threads.values():
            thread.notes = None

    def leave(self, mm: TracedMm) -> None:
        """End the recording of one address space."""
        thread = next((self.threads[tid] for tid in mm.threads if tid in self.threads), None)
        if thread is not None and thread.notes is not None:
            thread.notes.recorder.leave(thread)

    # Process calls

    def _process_call(self, thread: TracedThread, nr: int) -> None:
        words = self.mediator.words
        if nr in (EXECVE, EXECVEAT):
            thread.executing = True
            if self.checker.each_exit and len(thread.mm.threads) == 1:
                self.checker.check(thread)
            if self.recorder is not None:
                self._executes(thread, nr)
                ptrace.resume(SYSCALL, thread.tid)
                return
        elif nr == PTRACE:
            self._wants_to_trace(thread)
        elif nr == SECCOMP:
            for sibling in self.threads.values():
                if sibling.tgid == thread.tgid:
                    sibling.supervised |= words[RDI] == 1 and bool(
                        words[RSI] & SECCOMP_FILTER_FLAG_NEW_LISTENER
                    )
        elif nr == PERSONALITY:
            thread.read_implies_exec = bool(words[RDI] & proc.READ_IMPLIES_EXEC)
        else:
            self._clone(thread, nr)
            return
        if self.recorder is not None and nr != PTRACE:
            self.recorder.process_call(thread, PROCESS_CALLS[nr], 0, words[RDI], words[RSI])
        ptrace.resume(self.go_on, thread.tid)

    def _executes(self, thread: TracedThread, nr: int) -> None:
        # Record the last scan of the old program, and note the path that the execve requests.
        assert self.recorder is not None
        thread.call = PROCESS_CALLS[nr]
        address = self.mediator.words[RDI if nr == EXECVE else RSI]
        thread.path = os.fsdecode(read_memory(thread.tid, address, 4096).split(b"\0")[0])
        alone = all(
            self.threads[tid].tgid == thread.tgid
            for tid in thread.mm.threads
            if tid in self.threads
        )
        self.recorder.executes(thread, alone)

    def _clone(self, thread: TracedThread, nr: int) -> None:
        words = self.mediator.words
        attached = self.mediator.attached
        if nr == CLONE:
            flags = words[RDI]
            if flags & CLONE_UNTRACED and not attached:
                # An untraced child would keep the filter without a tracer that answers it.
                words[RDI] = flags & ~CLONE_UNTRACED
                self.mediator.registers.store(thread.tid)
        elif nr == CLONE3:
            flags = (
                int.from_bytes(read_memory(thread.tid, words[RDI], 8), "little")
                if words[RSI] >= 8
                else 0
            )
            if (
                flags & CLONE_UNTRACED
                and not attached
                and write_memory(thread.tid, words[RDI], _bytes(flags & ~CLONE_UNTRACED))
            ):
                thread.untraced_at = words[RDI]
        else:
            flags = 0 if nr == FORK else CLONE_VM | CLONE_VFORK
        if flags & CLONE_UNTRACED and attached:
            self._cannot_follow(thread, flags)
        thread.child_flags = flags
        thread.call = PROCESS_CALLS[nr]
        if flags & CLONE_VM:
            quick = thread.untraced_at is None and self.recorder is None
            ptrace.resume(self.go_on if quick else SYSCALL, thread.tid)
        elif thread.mm.busy is not None:
            thread.mm.queue.append(thread)
        else:
            # The kernel copies the address space between two calls, so calls of other threads wait
            # until the copy is complete.
            thread.mm.busy = thread
            ptrace.resume(SYSCALL, thread.tid)

    def _cannot_follow(self, thread: TracedThread, flags: int) -> None:
        # Laconic changes nothing in a program that was already running, so the kernel does not
        # trace this child.
        self.mediator.ledger.note(
            f"{command_name(thread.tid)} started a process or thread that cannot be traced "
            "(CLONE_UNTRACED): its memory calls are not counted"
        )
        if flags & CLONE_VM and thread.mm.space is not None:
            thread.mm.space = None
            if thread.notes is not None:
                thread.notes.recorder.unfollowed(thread, "a thread of it cannot be traced")

    def _process_call_failed(self, thread: TracedThread) -> None:
        # The end of a fork, clone or exec that no ptrace event reports.
        if (
            self.recorder is not None
            and (result := self.mediator.registers.result(thread.tid)) is not None
        ):
            path, thread.path = thread.path, None
            args = () if thread.child_flags is None else (thread.child_flags,)
            data = b"" if path is None else self.recorder.writer.hidden_path(path)
            self.recorder.process_call(thread, thread.call, result, *args, data=data)
        self._restore_flags(thread, [thread.tid])
        thread.child_flags = None
        self._release(thread)
        ptrace.resume(self.go_on, thread.tid)

    def _wants_to_trace(self, thread: TracedThread) -> None:
        self.mediator.ledger.note(
            f"{command_name(thread.tid)} asked to trace, which the kernel refuses to a program "
            "that is traced itself: run it without Laconic",
            urgent=True,
        )

    def _release(self, thread: TracedThread) -> None:
        if thread.mm.busy is thread:
            thread.mm.busy = None
            self.mediator.serve(thread.mm)

    # Events

    def _other_stop(self, thread: TracedThread, stop_signal: int, event: int) -> None:
        tid = thread.tid
        if event in (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE):
            self._new_thread(thread, event)
        elif event == ptrace.EVENT_EXEC:
            self._executed(tid)
        elif event == ptrace.EVENT_EXIT:
            self._exits(thread)
        elif event == ptrace.EVENT_STOP:
            # A group-stop lasts until SIGCONT; any other stop of this kind is the first stop of a
            # new thread.
            ptrace.resume(LISTEN if stop_signal in STOP_SIGNALS else self.go_on, tid)
        else:
            if self.relay is not None:
                self.relay.restore(tid, stop_signal)
            self.restart_interrupted(tid, stop_signal)
            ptrace.resume(self.go_on, tid, stop_signal)

    def restart_interrupted(self, tid: int, stop_signal: int) -> None:
        """Restart the call that a stop interrupted, unless a handler is to run.

        The kernel does not even send a signal that an untraced program ignores (sig_ignored,
        kernel/signal.c). Most waits are restarted in any case; these fail with EINTR as soon as
        anything interrupts them. ERESTARTNOHAND makes the kernel decide once the handlers are
        known. Stop signals and SIGCONT interrupt these waits without a tracer too.
        """
        if stop_signal in STOP_SIGNALS or stop_signal == signal.SIGCONT:
            return
        registers = self.mediator.registers
        if not registers.load(tid):
            return
        words = self.mediator.words
        if words[RAX] == _EINTR and words[ORIG_RAX] in INTERRUPTIBLE:
            registers.set_result(tid, -ERESTARTNOHAND)

    def _new_thread(self, parent: TracedThread, event: int) -> None:
        tid = ptrace.event_message(parent.tid)
        if not tid or ptrace.stopped_for(parent.tid) != event:
            return  # it was killed; if it stops at its exit already, the message is its exit status
        self._restore_flags(parent, [parent.tid, tid])
        self._add(tid, parent, parent.mm_of_child())
        self._release(parent)
        # The parent first: a signal that the child sends to the group would not go to a thread that
        # is stopped (wants_signal in kernel/signal.c), but to another one of the parent's process.
        ptrace.resume(self.go_on, parent.tid)
        self._resume_early(tid)

    def _restore_flags(self, thread: TracedThread, witnesses: list[int]) -> None:
        if thread.untraced_at is not None:
            for tid in witnesses:
                write_memory(tid, thread.untraced_at, _bytes(thread.child_flags or 0))
            thread.untraced_at = None

    def _add(self, tid: int, parent: TracedThread, mm: TracedMm) -> None:
        flags = parent.child_flags or 0
        parent.child_flags = None
        if self.recorder is not None:
            self.recorder.forked(parent, tid, flags)
        if not flags & CLONE_THREAD:
            self.mediator.ledger.processes += 1
        if tid in self.premature:
            self.premature.discard(tid)
            if not is_traced(tid):
                return  # its end was reported already: the entry would stay forever
        child = TracedThread(tid, parent.tgid if flags & CLONE_THREAD else tid, mm)
        child.inherit(parent)
        self.threads[tid] = child

    def _resume_early(self, tid: int) -> None:
        # Resume a new thread that stopped before its parent's event came.
        if tid in self.threads and tid in self.early:
            ptrace.resume(LISTEN if self.early.pop(tid) in STOP_SIGNALS else self.go_on, tid)

    def _unknown(self, tid: int, stop_signal: int, event: int) -> None:
        if event == ptrace.EVENT_EXIT:
            # It was killed before its parent's event came.
            self.early.pop(tid, None)
            self.premature.add(tid)
            ptrace.resume(DETACH, tid)
            return
        if event == ptrace.EVENT_EXEC:
            # Another thread of a process whose first thread has ended: it takes that one's id
            # (de_thread, fs/exec.c).
            self._executed(tid)
            return
        self.early[tid] = stop_signal  # a new thread whose parent's event is still to come
        self._find_parents()

    def _find_parents(self) -> None:
        # A parent that is killed after clone() made the child, but before it stopped to report it,
        # never reports it.
        if not self.lost:
            return
        for tid in list(self.early):
            family = {thread_group(tid), parent_process(tid)}
            if any(
                thread.child_flags is not None and thread.tgid in family
                for thread in self.threads.values()
            ):
                continue
            parent, mm = self.lost.pop()
            self._add(tid, parent, mm)
            self._resume_early(tid)
            self.premature.add(tid)

    def _executed(self, tid: int) -> None:
        old_threads = [thread for thread in self.threads.values() if thread.tgid == tid]
        if not old_threads:
            ptrace.resume(self.go_on, tid)
            return
        caller = self.threads.get(ptrace.event_message(tid) or tid, old_threads[0])
        if self.recorder is not None and caller.path is not None:
            self.recorder.process_call(
                caller, caller.call, 0, data=self.recorder.writer.hidden_path(caller.path)
            )
        for thread in old_threads:
            self._forget(thread)
        if tid == self.root:
            launch.failure(tid, self.argv)
        fresh = TracedThread(tid, tid, TracedMm(None))
        fresh.inherit(caller)
        self.threads[tid] = fresh
        if is_64_bit(tid):
            try:
                fresh.mm.space = address_space(fresh)
            except PermissionError:
                give_up(fresh, self.mediator.ledger)
            except OSError:
                pass  # it was killed in between
        else:
            self.mediator.ledger.note(
                f"{command_name(tid)} is a 32-bit program: it runs untouched, and its memory calls "
                "are not counted"
            )
        if self.recorder is not None:
            self.recorder.program(fresh, fresh.mm.space, 64 if is_64_bit(tid) else 32)
        ptrace.resume(self.go_on, tid)

    def _exits(self, thread: TracedThread) -> None:
        # The last scan of an ending thread's address space; the last of its threads also has it
        # checked. A thread that ends while it is traced wakes its pidfd and its tracer first, and
        # its parent only after the tracer has reaped it (exit_notify, release_task), so a waitpid()
        # by the parent would come too early. The thread is therefore detached here, where it no
        # longer runs code of its program, and ends as an untraced thread does.
        mm = thread.mm
        if mm.busy is thread:
            self._abandon(thread, [thread.tid])
        thread.leave()
        status = ptrace.event_message(thread.tid) or 0
        if not mm.threads and self.checker.each_exit:
            # A thread that a signal ends in execve may already be in the new program's address
            # space.
            if not (thread.executing and status & _SIGNAL):
                with self.waiting(f"checking the address space of process {thread.tgid}"):
                    self.checker.check(thread)
            self.checker.forget(mm)
        if self.recorder is not None:
            self.recorder.exits(thread, status)
        if ptrace.resume(DETACH, thread.tid):
            self._forget(thread)

    def _forget(self, thread: TracedThread) -> None:
        self.threads.pop(thread.tid, None)
        thread.leave()
        mm = thread.mm
        if thread in mm.queue:
            mm.queue.remove(thread)
        elif thread.child_flags is not None:
            self.lost.append((thread, thread.mm_of_child()))
            self._find_parents()
        if mm.busy is thread:
            self._abandon(thread, mm.threads)
        if not mm.threads:
            self.checker.forget(mm)

    def _abandon(self, thread: TracedThread, witnesses: Iterable[int]) -> None:
        # A thread ended in the middle of a call. If the host was executing the call, only the host
        # knows its effect, and shows it through any thread that has not released its memory.
        mm = thread.mm
        mm.busy = None
        if thread.pending is not None and mm.space is not None:
            for witness in witnesses:
                try:
                    host = proc.read_smaps(witness)
                except OSError:
                    continue
                if len(host):
                    if thread.notes is not None:
                        thread.notes.maps(mm.space.held, host)
                    mm.space.adopt(host)
                    break
            if self.recorder is not None:
                self.recorder.ended_in(thread, *thread.pending.call)
        self.mediator.serve(mm)

    def _ended(self, tid: int, status: int) -> None:
        # The end of the first program, which is Laconic's own child, or of a thread that was killed
        # before it could stop to be detached.
        witness = None if self.relay is None else self.relay.witness
        if witness is not None and tid == witness.pid:
            witness.reaped()
            return
        thread = self.threads.get(tid)
        self.early.pop(tid, None)
        if thread is not None:
            self._forget(thread)
            if self.recorder is not None and thread.notes is not None:
                self.recorder.exits(thread, status)
        elif tid != self.root:
            self.premature.add(tid)
        if tid == self.root:
            self.exit_status = os.waitstatus_to_exitcode(status)
            if self.exit_status < 0:
                self.exit_status = 128 - self.exit_status
            self.failure = launch.failure(tid, self.argv)


def address_space(thread: TracedThread) -> AddressSpace:
    """Return the address space of a stopped thread. Raises OSError."""
    tid = thread.tid
    thread.read_implies_exec = bool(proc.personality(tid) & proc.READ_IMPLIES_EXEC)
    start = proc.read_start(tid)
    space = AddressSpace(proc.read_layout(tid), proc.read_smaps(tid), start.start_brk)
    space.data_size = start.data_size
    return space


def _bytes(flags: int) -> bytes:
    return flags.to_bytes(8, "little")
