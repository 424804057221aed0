"""One memory call of one thread: from its stop to the answer.

The call edits what is wanted; the PAL's host calls are made inside the thread, one at a time, by giving the stopped
system call other arguments; what the host confirms becomes held; the program gets its result. Where nothing changes,
the system call is skipped and answered at once.
"""

from __future__ import annotations

import time

from laconic.ledger import Ledger
from laconic.manager import Answered, MemoryManager, chooses
from laconic.memory.calls import Call
from laconic.memory.change import Outcome
from laconic.pal import Confirmation, HostCall, proc
from laconic.pal.linux import LinuxPal, is_error
from laconic.trace.schema import CHOSEN, FAILED, UNFOLLOWED
from laconic.tracer import ptrace
from laconic.tracer.process import Mm, Pending, Thread, command_name, give_up
from laconic.tracer.ptrace import (
    ARGUMENTS,
    CONT,
    MASK,
    ORIG_RAX,
    RAX,
    RIP,
    SYSCALL,
    Registers,
)
from laconic.tracer.record import Recorder
from laconic.tracer.syscalls import (
    CLONE_VM,
    I386_ALIKE,
    I386_BRK,
    I386_MARK,
    MEMORY_CALLS,
    NUMBERS,
    PR_SET_SECCOMP,
    SECCOMP_MODE_STRICT,
)
from laconic.tracer.verify import Checker, first_difference

_LOCKING = {"mlock", "mlock2", "mlockall"}


class Mediator:
    """Answers memory calls. `observe` lets every call through as it is, and enters what would have been said.

    `inject` maps the number of a host call (counted from 1) to an errno that it is made to fail with, for tests.
    """

    def __init__(
        self,
        pal: LinuxPal,
        ledger: Ledger,
        checker: Checker | None = None,
        observe: bool = False,
        inject: dict[int, int] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.pal = pal
        self.ledger = ledger
        self.manager = MemoryManager(pal, ledger, observe)
        self.recorder = recorder
        self.stacks = None if recorder is None else recorder.stacks
        self.checker = checker or Checker(ledger, "off")
        self.observe = observe
        self.registers = Registers()
        self.words = self.registers.words
        self.inject = inject or {}
        self.host_calls = 0

    # The stop of a call

    def at_call(self, thread: Thread, stop: tuple[int, ...]) -> None:
        """Answers the memory call that `thread` has stopped for; `stop` is what `Registers.call` read."""
        mm = thread.mm
        space = mm.space
        if mm.busy is not None and not self._overtakes(mm):
            mm.queue.append(thread)
            return
        name = MEMORY_CALLS.get(stop[1]) or ("i386_brk" if stop[1] == I386_BRK else "other")
        if stop[1] in I386_ALIKE and ptrace.event_message(thread.tid) == I386_MARK:
            name = "other"
        args = stop[2:]
        if name == "prctl" and args[0] == PR_SET_SECCOMP:
            thread.own_filter = True
            if args[1] == SECCOMP_MODE_STRICT:
                self.ledger.note(
                    f"{command_name(thread.tid)} asked for seccomp's strict mode, which the kernel refuses to a "
                    "program that has a filter, as Laconic's: run it without Laconic"
                )
            ptrace.resume(CONT, thread.tid)
            return
        if space is None:
            ptrace.resume(CONT, thread.tid)
            return
        manager = self.manager
        try:
            outcome = manager.begin(space, name, args, thread, not thread.supervised)
        except PermissionError:
            give_up(thread, self.ledger)
            ptrace.resume(CONT, thread.tid)
            return
        stacks = self.stacks
        wanted = stacks is not None and (stacks.all or not outcome.changes and not outcome.ask)
        if wanted and stacks is not None and self.registers.load(thread.tid):
            stacks.take(thread, self.words)
        if not manager.unsaid(outcome):
            self._say(thread, Pending(Call(name, args), outcome), stop[0])
            return
        result = manager.finish_unsaid(name, outcome)
        if self.checker.each_call:
            self.checker.after_call(thread, Call(name, args), Answered(result, 0, ()))
        self.registers.skip(thread.tid, result)
        ptrace.resume(CONT, thread.tid)
        if self.recorder is not None:
            self.recorder.call(thread, name, args, result, 0, 0, 0)

    def _overtakes(self, mm: Mm) -> bool:
        # mlock sets its locks at once, and then brings pages in with the address space free for others, who may be
        # those that bring the pages (userfaultfd, FUSE): once the host shows the locks, the others need not wait.
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
        busy.pending = Pending(busy.pending.call, rest)
        mm.busy = None
        return True

    # Host calls inside the thread

    def _say(self, thread: Thread, pending: Pending, instruction: int) -> None:
        outcome = pending.outcome
        thread.pending = pending
        thread.call_registers = []  # as the program set them, unless they are read below
        # A call about contents alone (write-back, residency, discards) does not keep the others of its address space
        # waiting. One with nothing to say does: where the host hears it all the same, it hears it in this order.
        if self.recorder is not None:
            self.recorder.before(thread, outcome)
        if outcome.ask or outcome.then or not outcome.changes or _edits(outcome):
            thread.mm.busy = thread
        elif self.recorder is not None:
            self.recorder.begins(thread, *pending.call)
        thread.again = False
        if self.observe or not self.inject and self.pal.as_asked(pending.call, outcome):
            thread.awaits_exit = True
            ptrace.resume(SYSCALL, thread.tid)
            return
        # The instruction that makes the calls is the two bytes before the one that the program goes on with.
        thread.task = self.pal.apply(pending.call, outcome, instruction - 2, thread.own_filter)
        first = next(thread.task)
        failing = self._failing()
        if failing or first.name != pending.call.name or first.args != pending.call.args:
            if not self.registers.load(thread.tid):
                return
            thread.call_registers = self.words.tolist()
            # A planned failure: the host call is not made, and answers with the errno it was given.
            self._set_call(MASK if failing else NUMBERS.get(first.name), first, 0)
            self.registers.store(thread.tid)
        thread.awaits_exit = True
        ptrace.resume(SYSCALL, thread.tid)

    def _failing(self) -> bool:
        self.host_calls += 1
        return self.host_calls in self.inject

    def _set_call(self, nr: int | None, host_call: HostCall, back: int) -> None:
        words = self.words
        if nr is not None:
            words[RAX if back else ORIG_RAX] = nr
        if nr == MASK:
            words[RAX] = -self.inject[self.host_calls] & MASK
        words[RIP] -= back
        for register, value in zip(ARGUMENTS, host_call.args, strict=False):
            words[register] = value & MASK

    def _repeat(self, thread: Thread, host_call: HostCall) -> None:
        # One more host call: back to the `syscall` instruction, with no signal coming between.
        if thread.signal_mask is None:
            thread.signal_mask = ptrace.signal_mask(thread.tid)
            ptrace.set_signal_mask(thread.tid, MASK)
        if not thread.call_registers:
            # The call was made as it was: only its result differs.
            if not self.registers.load(thread.tid):
                return
            thread.call_registers = self.words.tolist()
        self._put(thread.call_registers)
        self._set_call(NUMBERS[host_call.name], host_call, 2)
        self.registers.store(thread.tid)
        thread.again = True
        ptrace.resume(CONT, thread.tid)

    def _put(self, registers: list[int]) -> None:
        words = self.words
        for index, value in enumerate(registers):
            words[index] = value

    def at_repeated_call(self, thread: Thread) -> None:
        """The stop of a further host call of Laconic's own: let it through to the host."""
        thread.again = False
        thread.awaits_exit = True
        if self._failing():
            self.registers.skip(thread.tid, -self.inject[self.host_calls])
        ptrace.resume(SYSCALL, thread.tid)

    def at_exit(self, thread: Thread) -> None:
        """The end of a host call: the next one, or the program's answer."""
        thread.awaits_exit = False
        value = self.registers.result(thread.tid)
        if value is None:
            return
        if thread.task is None:
            self._finish(thread, Confirmation(value if is_error(value) else 0, value, 1))
            return
        try:
            following = thread.task.send(value)
        except StopIteration as stop:
            thread.task = None
            self._finish(thread, stop.value)
        else:
            self._repeat(thread, following)

    # The answer

    def _finish(self, thread: Thread, confirmation: Confirmation) -> None:
        pending = thread.pending
        assert pending is not None
        thread.pending = None
        mm = thread.mm
        try:
            answered = self._settle(thread, pending, confirmation)
        except PermissionError:
            give_up(thread, self.ledger)
            answered = Answered(confirmation.value, confirmation.said, ())
        except OSError:
            # The process is being killed; nobody will see this.
            answered = Answered(confirmation.value, confirmation.said, ())
        result = answered.result
        if thread.call_registers:
            thread.call_registers[RAX] = result & MASK
            self._put(thread.call_registers)
            self.registers.store(thread.tid)
        elif result != confirmation.value:
            self.registers.set_result(thread.tid, result)
        if thread.signal_mask is not None:
            ptrace.set_signal_mask(thread.tid, thread.signal_mask)
            thread.signal_mask = None
        if mm.busy is thread:
            mm.busy = None
        if self.checker.each_call:
            self.checker.after_call(thread, pending.call, answered)
        ptrace.resume(CONT, thread.tid)
        self.serve(mm)

    def serve(self, mm: Mm) -> None:
        """Takes up the calls that waited for this address space, as far as they can go now."""
        while mm.queue and mm.busy is None:
            waiting = mm.queue.popleft()
            if waiting.child_flags is not None and not waiting.child_flags & CLONE_VM:
                mm.busy = waiting
                ptrace.resume(SYSCALL, waiting.tid)
            elif ptrace.stopped_for(waiting.tid) == ptrace.EVENT_SECCOMP and (stop := self.registers.call(waiting.tid)):
                self.at_call(waiting, stop)

    def _settle(self, thread: Thread, pending: Pending, confirmation: Confirmation) -> Answered:
        # Held takes what the host did.
        call, outcome = pending
        space = thread.mm.space
        assert space is not None
        chosen = (self.observe or thread.own_filter) and chooses(*call)
        edited = thread.mm.busy is thread
        answered = self.manager.finish(space, call, outcome, confirmation, thread, edited=edited, chosen=chosen)
        if self.stacks is not None:
            self.stacks.changed(thread.mm, answered.changes, outcome.ask)
        if self.recorder is not None:
            kinds = 0
            for change in answered.changes:
                kinds |= change.kind
            state = (FAILED if confirmation.error else 0) | (CHOSEN if chosen or outcome.place else 0)
            state |= UNFOLLOWED if thread.supervised else 0
            self.recorder.call(thread, *call, answered.result, answered.said, kinds, state)
        return answered


def _edits(outcome: Outcome) -> bool:
    for change in outcome.changes:  # noqa: SIM110 (any() costs three times as much, and every call comes here)
        if change.wanted is not change.held:
            return True
    return False
