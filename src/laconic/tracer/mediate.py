"""One memory call of one thread: from its stop to the answer.

The call edits the wanted state. If something changes, the thread makes the call, narrowed to the
pages that change: the program receives the host's answer, and the changes that the host confirms
become held state. If nothing changes, the system call is skipped, and the program receives the
bookkeeping's answer.
"""

from __future__ import annotations

import time

from mypy_extensions import mypyc_attr

from laconic.linux import proc
from laconic.linux.clone import CLONE_VM
from laconic.memory.bookkeeper import Answered, Bookkeeper, edits, refused
from laconic.memory.calls import Call
from laconic.memory.change import Outcome
from laconic.memory.flags import VM_MERGEABLE
from laconic.memory.hostrule import HostRule
from laconic.memory.ledger import Ledger
from laconic.memory.space import AddressSpace
from laconic.trace.schema import CHOSEN, FAILED, UNFOLLOWED
from laconic.tracer import ptrace
from laconic.tracer.process import (
    PendingCall,
    TracedMm,
    TracedThread,
    command_name,
    give_up,
    has_signal,
)
from laconic.tracer.ptrace import (
    CONT,
    NO_CALL,
    ORIG_RAX,
    RAX,
    RIP,
    SYSCALL,
    SYSCALL_INFO_ENTRY,
    SYSCALL_INFO_SECCOMP,
    SYSCALL_INSTRUCTION,
    Registers,
)
from laconic.tracer.record import Recorder
from laconic.tracer.signals import ALL_SIGNALS
from laconic.tracer.syscalls import (
    I386_ALIKE,
    I386_BRK,
    MEMORY_CALLS,
    PR_SET_SECCOMP,
    SECCOMP_MODE_STRICT,
)
from laconic.tracer.verify import Checker, first_difference

_LOCKING = {"mlock", "mlock2", "mlockall"}


@mypyc_attr(allow_interpreted_subclasses=True)
class Mediator:
    """Answers memory calls. `rule` decides which calls reach the host; with `observe` all of them
    do, as the program made them.

    `attached`: the program was already running and has no filter, so it stops at each of its calls.
    Nothing in it may be changed, because Laconic may be gone before it could restore that.
    """

    def __init__(
        self,
        rule: HostRule,
        ledger: Ledger,
        checker: Checker | None = None,
        observe: bool = False,
        recorder: Recorder | None = None,
        attached: bool = False,
    ) -> None:
        self.ledger = ledger
        self.attached = attached
        #: The request that resumes a thread that has nothing to wait for.
        self.go_on = SYSCALL if attached else CONT
        self.manager = Bookkeeper(rule, ledger, observe)
        self.recorder = recorder
        self.stacks = None if recorder is None else recorder.stacks
        self.checker = checker or Checker(ledger, "off")
        self.registers = Registers(SYSCALL_INFO_ENTRY if attached else SYSCALL_INFO_SECCOMP)
        self.words = self.registers.words

    # The stop of a call

    def at_call(self, thread: TracedThread, stop: tuple[int, ...]) -> None:
        """Answer the memory call that `thread` has stopped for; `stop` is what `Registers.call`
        read."""
        mm = thread.mm
        space = mm.space
        if mm.busy is not None and not self._overtakes(mm):
            mm.queue.append(thread)
            return
        name = MEMORY_CALLS.get(stop[1]) or ("i386_brk" if stop[1] == I386_BRK else "other")
        if stop[1] in I386_ALIKE and self.registers.is_i386():
            name = "other"
        args = stop[2:]
        if name == "prctl" and args[0] == PR_SET_SECCOMP:
            if args[1] == SECCOMP_MODE_STRICT and not self.attached:
                self.ledger.note(
                    f"{command_name(thread.tid)} asked for seccomp's strict mode, which the kernel "
                    "refuses to a program that has a filter, as Laconic's: run it without Laconic"
                )
            ptrace.resume(self.go_on, thread.tid)
            return
        if space is None:
            ptrace.resume(self.go_on, thread.tid)
            return
        interruptible = self._is_interruptible(space, name, args)
        if interruptible and self._handles_signal_first(thread, stop[1]):
            return
        manager = self.manager
        try:
            outcome = manager.begin(space, name, args, thread, not thread.supervised)
        except PermissionError:
            give_up(thread, self.ledger)
            ptrace.resume(self.go_on, thread.tid)
            return
        stacks = self.stacks
        redundant = outcome.result >= 0 and not outcome.changes and not outcome.ask
        if stacks is not None and (stacks.all or redundant) and self.registers.load(thread.tid):
            stacks.take(thread, self.words, redundant)
        host_args = manager.host_arguments(name, args, outcome)
        if host_args is not None:
            self._forward(thread, PendingCall(Call(name, args), outcome, host_args), interruptible)
            return
        result = manager.finish_elided(name, outcome)
        if self.checker.each_call:
            self.checker.after_call(thread, Call(name, args), Answered(result, ()), elided=True)
        self.registers.skip(thread.tid, result)
        ptrace.resume(self.go_on, thread.tid)
        if self.recorder is not None:
            self.recorder.call(thread, name, args, result, 0, 0, 0)

    def _is_interruptible(self, space: AddressSpace, name: str, args: tuple[int, ...]) -> bool:
        # A pending signal stops an mremap of mergeable pages (break_ksm in mm/ksm.c), which then
        # begins again. Natively the signal must arrive within those microseconds; here it may
        # arrive at any time during the stop. A frequent timer would stop the call again and again,
        # and an mremap of several VMAs would fail with EFAULT, because the first VMA has moved.
        if name != "mremap" or self.attached:
            return False
        start, length = args[:2]
        return any(
            vma.flags & VM_MERGEABLE for _, _, vma in space.vmas.parts(start, start + length)
        )

    def _handles_signal_first(self, thread: TracedThread, nr: int) -> bool:
        # Return whether the thread handles a signal that came before the stop, and then makes the
        # call again: once, because a frequent timer would always have the next signal ready.
        thread.repeated = not thread.repeated and has_signal(thread.tid)
        if not thread.repeated or not self.registers.load(thread.tid):
            return False
        self.words[RIP] -= SYSCALL_INSTRUCTION
        self.words[RAX] = nr
        self.words[ORIG_RAX] = NO_CALL
        self.registers.store(thread.tid)
        ptrace.resume(self.go_on, thread.tid)
        return True

    def _overtakes(self, mm: TracedMm) -> bool:
        # mlock sets its locks first, and then brings pages in while other threads may use the
        # address space. Those threads may be the ones that provide the pages (userfaultfd, FUSE),
        # so they stop waiting once the host shows the locks.
        assert mm.busy is not None
        busy = mm.busy
        if busy.pending is None or busy.pending.call.name not in _LOCKING or mm.space is None:
            return False
        for _ in range(20):
            try:
                if first_difference(mm.space, proc.read_smaps(busy.tid)) is None:
                    break
            except OSError:
                return False
            time.sleep(0.001)
        else:
            return False
        mm.space.commit(busy.pending.outcome)
        if self.recorder is not None:
            self.recorder.begins(busy, *busy.pending.call, committed=True)
        rest = busy.pending.outcome._replace(changes=(), start=0, end=0, then=None)
        busy.pending = busy.pending._replace(outcome=rest)
        mm.busy = None
        return True

    # The host call

    def _forward(self, thread: TracedThread, pending: PendingCall, interruptible: bool) -> None:
        # Let the thread make the call, with the arguments of the host call.
        call, outcome, host_args = pending
        thread.pending = pending
        # A call that concerns only contents (write-back, residency, discards) does not make other
        # threads of its address space wait. A call without changes does: if every call is passed
        # on, the host executes them in this order.
        if self.recorder is not None:
            self.recorder.before(thread, outcome)
        if outcome.ask or outcome.then or not outcome.changes or edits(outcome):
            thread.mm.busy = thread
        elif self.recorder is not None:
            self.recorder.begins(thread, *call)
        if host_args != call.args:
            self.registers.set_range(thread.tid, host_args[0], host_args[1])
        if interruptible:
            # The signals that come during the stop wait for the end of the call.
            thread.signal_mask = ptrace.set_signal_mask(thread.tid, ALL_SIGNALS)
        thread.awaits_exit = True
        self.make_host_call(thread, call.name)

    def make_host_call(self, thread: TracedThread, name: str) -> None:
        """Let a thread make the host call that it has stopped for, and stop at its end."""
        ptrace.resume(SYSCALL, thread.tid)

    def at_exit(self, thread: TracedThread) -> None:
        """Handle the end of a host call: the program has its answer."""
        thread.awaits_exit = False
        if thread.signal_mask is not None:
            ptrace.set_signal_mask(thread.tid, thread.signal_mask)
            thread.signal_mask = None
        value = self.registers.result(thread.tid)
        pending = thread.pending
        if value is None or pending is None:
            return
        if pending.host_args is not pending.call.args:
            # Linux preserves the argument registers of a call.
            self.registers.set_range(thread.tid, pending.call.args[0], pending.call.args[1])
        self._finish(thread, value)

    def _finish(self, thread: TracedThread, value: int) -> None:
        pending = thread.pending
        assert pending is not None
        thread.pending = None
        mm = thread.mm
        try:
            answered = self.settle(thread, pending, value)
        except PermissionError:
            give_up(thread, self.ledger)
            answered = Answered(value, ())
        except OSError:
            answered = Answered(value, ())  # the process is being killed
        if answered.result != value and not self.attached:
            self.registers.set_result(thread.tid, answered.result)
        if mm.busy is thread:
            mm.busy = None
        if self.checker.each_call:
            self.checker.after_call(thread, pending.call, answered)
        ptrace.resume(self.go_on, thread.tid)
        self.serve(mm)

    def serve(self, mm: TracedMm) -> None:
        """Resume the calls that waited for this address space, up to the next that must wait."""
        while mm.queue and mm.busy is None:
            waiting = mm.queue.popleft()
            if waiting.child_flags is not None and not waiting.child_flags & CLONE_VM:
                mm.busy = waiting
                ptrace.resume(SYSCALL, waiting.tid)
            elif stop := self.registers.call(waiting.tid):
                self.at_call(waiting, stop)

    def _learn_break(
        self, thread: TracedThread, space: AddressSpace, outcome: Outcome, value: int
    ) -> Outcome:
        # /proc shows only the page that contains the break of a running program. A call that does
        # not move the break returns it, and a call that moves it makes it known too.
        thread.mm.break_known = True
        if value == outcome.result:
            return outcome
        space.brk = value
        if thread.notes is not None:
            thread.notes.break_was(value)
        return outcome if outcome.changes else outcome._replace(result=value)

    def settle(self, thread: TracedThread, pending: PendingCall, value: int) -> Answered:
        """Process the host's answer `value`, and record the call. Raises OSError if the process is
        gone."""
        call, outcome, host_args = pending
        space = thread.mm.space
        assert space is not None
        if not thread.mm.break_known and call.name == "brk":
            outcome = self._learn_break(thread, space, outcome, value)
        answered = self.manager.finish(space, call, outcome, host_args, value, thread)
        if self.stacks is not None:
            self.stacks.changed(thread.mm, answered.changes, outcome.ask)
        if self.recorder is not None:
            kinds = 0
            for change in answered.changes:
                kinds |= change.kind
            state = FAILED if refused(call.name, outcome, value) else 0
            state |= CHOSEN if answered.chosen else 0
            state |= UNFOLLOWED if thread.supervised else 0
            host_calls = self.manager.host_calls(call.name, call.args, outcome)
            self.recorder.call(thread, *call, answered.result, host_calls, kinds, state)
        return answered
