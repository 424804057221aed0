"""One memory call of one thread: from its stop to the answer.

The call edits what is wanted; the PAL's host calls are made inside the thread, one at a time, by giving the stopped
system call other arguments; what the host confirms becomes held; the program gets its result. Where nothing changes,
the system call is skipped and answered at once.
"""

from __future__ import annotations

import time

from laconic.ledger import Ledger
from laconic.memory.calls import OPERATIONS, RANGED, Call
from laconic.memory.change import Change, Outcome
from laconic.memory.flags import MAP_FIXED, MAP_FIXED_NOREPLACE, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE_SIZE
from laconic.memory.mmap import page_align, placed
from laconic.memory.space import AddressSpace
from laconic.pal import Confirmation, HostCall, proc
from laconic.pal.linux import LinuxPal, is_error
from laconic.tracer import host_view, ptrace
from laconic.tracer.process import Mm, Pending, Thread, give_up
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
from laconic.tracer.syscalls import (
    CLONE_VM,
    I386_ALIKE,
    I386_BRK,
    I386_MARK,
    MEMORY_CALLS,
    NUMBERS,
    PR_SET_SECCOMP,
)
from laconic.tracer.verify import Checker, first_difference

#: Results that mean "interrupted, to be restarted by the kernel" (include/linux/errno.h): not results yet.
ERESTARTSYS, ERESTART_RESTARTBLOCK = 512, 516
#: Calls on a range that a stack may have grown into.
_PLACED = {*RANGED, "mremap", "mmap"}
_UNCOUNTED = {"userfaultfd", "arch_prctl"}
_LOCKING = {"mlock", "mlock2", "mlockall"}
_OUT_OF_BOOKKEEPING = Outcome(0, ask=True, resync=True)


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
    ) -> None:
        self.pal = pal
        self.ledger = ledger
        self.checker = checker or Checker(ledger, "off")
        self.observe = observe
        self.passes = observe or pal.every_call
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
        name = MEMORY_CALLS.get(stop[1], "other")
        if stop[1] in I386_ALIKE and ptrace.event_message(thread.tid) == I386_MARK:
            name = "other"
        args = stop[2:]
        if name == "prctl" and args[0] == PR_SET_SECCOMP:
            thread.own_filter = True
            ptrace.resume(CONT, thread.tid)
            return
        if space is None:
            ptrace.resume(CONT, thread.tid)
            return
        try:
            at = RANGED.get(name, 0)
            if args[at] + args[at + 1] + PAGE_SIZE > space.layout.quiet_below and name in _PLACED:
                self._look_below(thread, space, name, args)
            operation = None if thread.supervised else OPERATIONS.get(name)
            outcome = operation(space, args, thread) if operation is not None else _OUT_OF_BOOKKEEPING
        except PermissionError:
            give_up(thread, self.ledger)
            ptrace.resume(CONT, thread.tid)
            return
        if not outcome.changes and not outcome.ask and not self.passes:
            if outcome.then is not None:
                outcome.then()
            if self.checker.each_call:
                self.checker.check_unsaid(thread)
            self.registers.skip(thread.tid, outcome.result)
            ptrace.resume(CONT, thread.tid)
            self.ledger.count(name, 0, outcome.result)
            return
        self._say(thread, Pending(Call(name, args), outcome), stop[0])

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
        rest = busy.pending.outcome._replace(changes=(), start=0, end=0, then=None)
        busy.pending = Pending(busy.pending.call, rest)
        mm.busy = None
        return True

    def _look_below(self, thread: Thread, space: AddressSpace, name: str, args: tuple[int, ...]) -> None:
        # A stack may have grown into what bookkeeping takes for a hole: look before the call counts on it.
        at = RANGED.get(name, 0)
        if name == "mmap" and not args[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE) and not args[0]:
            return
        start = args[at] & -PAGE_SIZE
        end = start + page_align(args[at + 1])
        if name == "mremap" and args[3] & MREMAP_FIXED:
            start, end = min(start, args[4]), max(end, args[4] + page_align(args[2]))
        if start < end <= MASK and space.must_look_below(start, end):
            space.grow(proc.read_smaps(thread.tid))

    # Host calls inside the thread

    def _say(self, thread: Thread, pending: Pending, instruction: int) -> None:
        outcome = pending.outcome
        thread.pending = pending
        thread.call_registers = []  # as the program set them, unless they are read below
        # A call about contents alone (write-back, residency, discards) does not keep the others of its address space
        # waiting. One with nothing to say does: where the host hears it all the same, it hears it in this order.
        if outcome.ask or outcome.then or not outcome.changes or _edits(outcome):
            thread.mm.busy = thread
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
            result = self._settle(thread, pending, confirmation)
        except PermissionError:
            give_up(thread, self.ledger)
            result = confirmation.value
        except OSError:
            result = confirmation.value  # the process is being killed; nobody will see this
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
            self.checker.check(thread)
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

    def _settle(self, thread: Thread, pending: Pending, confirmation: Confirmation) -> int:
        # Held takes what the host did; returns the program's result.
        (name, args), outcome = pending
        space = thread.mm.space
        assert space is not None
        value = confirmation.value
        if -ERESTART_RESTARTBLOCK <= value <= -ERESTARTSYS:
            if outcome.end and thread.mm.busy is thread:
                space.rollback(outcome.start, outcome.end)
            return value
        said = confirmation.said
        changes = outcome.changes
        if self.observe:
            said = len(self.pal.host_calls(pending.call, outcome))
        if confirmation.error or self.observe and name == "brk" and value != outcome.result:
            result = space.brk if name == "brk" else value
            if outcome.resync:
                space.adopt(proc.read_smaps(thread.tid))
            # A call that kept nobody waiting has edited nothing, and another's may be half done.
            elif outcome.end > outcome.start and thread.mm.busy is thread:
                host = proc.read_smaps(thread.tid)
                space.grow(host)
                space.settle(outcome.start, outcome.end, host)
            changes = ()
        else:
            asked = outcome.ask or self.observe or self.pal.every_call or self._left_to_host(thread, pending.call)
            result = value if asked and outcome.result >= 0 else outcome.result
            changes = self._take(thread, space, pending, value)
        narrowed = said > 0 and not outcome.ask and _is_narrower(name, args, outcome)
        if name not in _UNCOUNTED:
            self.ledger.count(name, said, result, narrowed and not self.pal.every_call, changes)
        return result

    def _left_to_host(self, thread: Thread, call: Call) -> bool:
        # True where the host was given the choice of an address.
        if not (self.observe or thread.own_filter):
            return False
        fixed = MAP_FIXED | MAP_FIXED_NOREPLACE if call.name == "mmap" else MREMAP_FIXED
        return call.name in ("mmap", "mremap") and not call.args[3] & fixed

    def _take(self, thread: Thread, space: AddressSpace, pending: Pending, value: int) -> tuple[Change, ...]:
        (name, args), outcome = pending
        if outcome.resync or outcome.ask and outcome.result < 0:
            self.ledger.resynced += 1
            if name == "other" and self.registers.load(thread.tid) and self.words[ORIG_RAX] == I386_BRK:
                space.brk = value
            space.adopt(proc.read_smaps(thread.tid))
            return ()
        if outcome.place:
            outcome = placed(space, outcome, value)
        elif value != outcome.result and self._left_to_host(thread, pending.call):
            # The host chose another address than bookkeeping would have.
            if outcome.end:
                space.rollback(outcome.start, outcome.end)
            if name == "mmap":
                args = (value, args[1], args[2], args[3] | MAP_FIXED, args[4], args[5])
            else:
                args = (args[0], args[1], args[2], args[3] | MREMAP_FIXED | MREMAP_MAYMOVE, value, args[5])
            outcome = OPERATIONS[name](space, args, thread)
        space.commit(outcome)
        if name == "mmap":
            host_view.identify(thread, space, outcome, args)
        elif name == "shmdt" and outcome.changes:
            # Which pieces are the attachment's own depends on the segment's size (ksys_shmdt).
            space.settle(outcome.start, outcome.end, proc.read_smaps(thread.tid))
        elif name in host_view.ADOPTED:
            host_view.adopt(thread, space, name, args, value)
        return outcome.changes


def _edits(outcome: Outcome) -> bool:
    for change in outcome.changes:  # noqa: SIM110 (any() costs three times as much, and every call comes here)
        if change.wanted is not change.held:
            return True
    return False


def _is_narrower(name: str, args: tuple[int, ...], outcome: Outcome) -> bool:
    if name not in RANGED and name != "mmap":
        return False
    at = RANGED.get(name, 0)
    covered = 0
    for change in outcome.changes:
        covered += change.end - change.start
    return 0 < covered < page_align(args[at + 1])


