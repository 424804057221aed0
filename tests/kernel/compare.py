"""Two ways to hold the bookkeeping against a real child.

`Prediction`: the child makes each call as it is; the bookkeeping says beforehand what will come of it.
`ThroughPal`: the bookkeeping answers, and a second child hears only what the PAL says; a first one made the call as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from laconic.ledger import Ledger
from laconic.memory.calls import OPERATIONS, Call
from laconic.memory.change import Outcome
from laconic.memory.space import AddressSpace
from laconic.pal import Confirmation, proc
from laconic.pal.linux import LinuxPal, is_error
from laconic.tracer.mediate import Mediator, Pending
from laconic.tracer.process import Mm, Thread
from laconic.tracer.verify import first_difference
from tests.kernel.child import Child, reap
from tests.kernel.tolerances import RESULT_ONLY, tolerated
from tests.model.strategies import ARENA, FORK, READ, WRITE, Bases, resolve

#: Far from all that a program has by itself, with room above it for the largest mapping that `strategies` makes.
LOW_ARENA = 0x10_0000_0000
WALL = 16 * 4096


def open_space(child: Child) -> tuple[AddressSpace, Bases]:
    """The bookkeeping of a new child, as the tracer begins it, and the bases of its regions.

    A wall of inaccessible pages keeps the calls below away from the vdso, which the child's calls are made from; it is
    sealed (Linux 6.10), so that ranges without end stop there.
    """
    start = proc.read_start(child.pid)
    space = AddressSpace(proc.read_layout(child.pid), proc.read_smaps(child.pid), start.start_brk)
    space.data_size = start.data_size
    wall = child.call("mmap", 0, WALL, 0, 0x22, (1 << 64) - 1, 0)
    assert wall > 0
    child.call("mseal", wall, WALL, 0)
    space.adopt(proc.read_smaps(child.pid))
    space.layout.learn(space.vmas, wall, wall + WALL)
    stack = next(line.start for line in child.maps() if line.name == "[stack]")
    return space, Bases(LOW_ARENA, wall, start.start_brk, stack)


class Prediction:
    """One child, its bookkeeping beside it. `step` says what was predicted wrongly, or None."""

    def __init__(self, child: Child, counts: Counter[str] | None = None) -> None:
        self.child = child
        self.space, self.bases = open_space(child)
        self.thread = Thread(child.pid, child.pid, Mm(self.space))
        self.thread.read_implies_exec = bool(proc.personality(child.pid) & proc.READ_IMPLIES_EXEC)
        self.mediator = Mediator(LinuxPal(), Ledger(), observe=True)
        self.counts = counts if counts is not None else Counter()

    def step(self, relative: Call) -> str | None:
        """Makes one call; the first difference in result or maps, in words."""
        call = resolve(relative, self.bases)
        name, args = call
        if name in (WRITE, READ):
            touch = self.child.write(*args[:2]) if name == WRITE else self.child.read(args[0])
            self.counts["touched" if touch else "faulted"] += 1
            self.space.grow(proc.read_smaps(self.child.pid))
            return self.difference()
        if name == FORK:
            return self.forked()
        self.mediator._look_below(self.thread, self.space, name, args)
        outcome = OPERATIONS[name](self.space, args, self.thread)
        raw = self.child.maps() if name == "mremap" else []
        value = self.child.call(name, *args)
        why = reason = None
        if value != outcome.result and not _only_the_host_knows(outcome):
            reason = tolerated(call, outcome, value, raw)
            if reason is None:
                why = f"{name} was to return {_result(outcome.result)}, and the kernel returned {_result(value)}"
            else:
                self.counts[f"tolerated: {reason}"] += 1
        self._count(name, outcome, value)
        failed = is_error(value) and value != outcome.result and reason not in RESULT_ONLY
        pending = Pending(call, outcome)
        self.mediator._settle(self.thread, pending, Confirmation(value if failed else 0, value, 0))
        return why or self.difference()

    def _count(self, name: str, outcome: Outcome, value: int) -> None:
        self.counts["calls"] += 1
        self.counts["failed"] += is_error(value)
        for word in ("ask", "place", "resync"):
            self.counts[f"{word}: {name}"] += bool(getattr(outcome, word))

    def forked(self) -> str | None:
        """Lets the child fork and compares the new process with `AddressSpace.fork`; it is ended then."""
        new = self.child.fork()
        try:
            twin = self.space.fork()
            twin.check()
            return first_difference(twin, proc.read_smaps(new)) or self.difference()
        finally:
            reap(new)

    def difference(self) -> str | None:
        """What differs between the bookkeeping and the child's maps, or what is wrong with the bookkeeping itself."""
        try:
            self.space.check()
        except AssertionError as wrong:
            return f"check(): {wrong}"
        return first_difference(self.space, proc.read_smaps(self.child.pid))


def _only_the_host_knows(outcome: Outcome) -> bool:
    # Asked, or said without any difference in attributes: contents and residency have errors of their own.
    if outcome.ask or outcome.place or outcome.resync:
        return True
    return bool(outcome.changes) and all(change.wanted is change.held for change in outcome.changes)


def _result(value: int) -> str:
    return str(value) if -4096 < value < 4096 else hex(value)
