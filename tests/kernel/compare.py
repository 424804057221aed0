"""Two ways to hold the bookkeeping against a real child.

`Prediction`: the child makes each call as it is; the bookkeeping says beforehand what will come of
it. `ThroughPal`: one child makes the call as it is; for the other the bookkeeping answers, and it
makes only host calls.
"""

from __future__ import annotations

from collections import Counter

from laconic.linux import proc
from laconic.linux.pal import only_changes
from laconic.memory.calls import Call, is_error
from laconic.memory.change import Outcome
from laconic.memory.flags import MADV_FREE, PAGE_SIZE, VM_SPECIAL
from laconic.memory.ledger import Ledger
from laconic.memory.rangemap import RangeMap
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma, describe
from laconic.tracer.mediate import Mediator
from laconic.tracer.process import PendingCall, TracedMm, TracedThread
from laconic.tracer.verify import first_difference
from tests.kernel.child import Child, Ended, reap
from tests.kernel.tolerances import CUT_APART, RESULT_ONLY, cut_apart, tolerated, vanished
from tests.model.strategies import ARENA, FORK, READ, WRITE, Bases, resolve

#: Far from all that a program has by itself, with room above it for the largest mapping that
#: `strategies` makes.
LOW_ARENA = 0x10_0000_0000
WALL = 16 * 4096


def open_space(child: Child) -> tuple[AddressSpace, Bases]:
    """The bookkeeping of a new child, as the tracer begins it, and the bases of its regions.

    A wall of inaccessible pages keeps the calls below away from the vdso, which the child's calls
    are made from; it is sealed (Linux 6.10), so that ranges without end stop there.
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
    top = wall if space.layout.top_down else wall + WALL + ARENA * PAGE_SIZE
    return space, Bases(LOW_ARENA, top, start.start_brk, stack)


class _Side:
    """A child, its bookkeeping, and the tracer's own code that leads from an outcome to what is
    held."""

    def __init__(self, child: Child, observe: bool, counts: Counter[str] | None) -> None:
        self.child = child
        self.space, self.bases = open_space(child)
        self.thread = TracedThread(child.pid, child.pid, TracedMm(self.space))
        self.thread.mm.busy = self.thread  # its call is always the one under way
        self.thread.read_implies_exec = bool(proc.personality(child.pid) & proc.READ_IMPLIES_EXEC)
        self.mediator = Mediator(only_changes, Ledger(), observe=observe)
        self.counts = counts if counts is not None else Counter()

    def difference(self) -> str | None:
        """What differs between the bookkeeping and the child's maps, or what is wrong with the
        bookkeeping itself."""
        try:
            self.space.check()
        except AssertionError as wrong:
            return f"check(): {wrong}"
        return first_difference(self.space, proc.read_smaps(self.child.pid))

    def forked(self) -> str | None:
        """Lets the child fork and compares the new process with `AddressSpace.fork`; it is ended
        then."""
        new = self.child.fork()
        try:
            twin = self.space.fork()
            twin.check()
            return first_difference(twin, proc.read_smaps(new)) or self.difference()
        finally:
            reap(new)

    def outcome(self, call: Call) -> Outcome:
        """What the bookkeeping makes of a call."""
        outcome = self.mediator.manager.begin(self.space, call.name, call.args, self.thread)
        self.counts["calls"] += 1
        for word in ("ask", "place", "resync"):
            self.counts[f"{word}: {call.name}"] += bool(getattr(outcome, word))
        return outcome

    def finish(self) -> str | None:
        """What is wrong at the end of a sequence."""
        return None


class Prediction(_Side):
    """One child, its bookkeeping beside it. `step` says what was predicted wrongly, or None."""

    def __init__(self, child: Child, counts: Counter[str] | None = None) -> None:
        super().__init__(child, True, counts)

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
        outcome = self.outcome(call)
        raw = self.child.maps() if name == "mremap" else []
        value = self.child.call(name, *args)
        why = reason = None
        if value != outcome.result and not _only_the_host_knows(outcome):
            reason = tolerated(call, outcome, value, raw)
            if reason is None:
                why = (
                    f"{name} was to return {_result(outcome.result)}, and the kernel returned "
                    f"{_result(value)}"
                )
            else:
                self.counts[f"tolerated: {reason}"] += 1
        self.counts["failed"] += is_error(value)
        if reason in RESULT_ONLY:
            value = outcome.result
        self.mediator.settle(self.thread, PendingCall(call, outcome, args), value)
        return why or self.difference()


class ThroughPal(_Side):
    """Two children: `native` makes each call as it is, the other makes only the host calls."""

    def __init__(self, native: Child, child: Child, counts: Counter[str] | None = None) -> None:
        super().__init__(child, False, counts)
        self.native = native
        self.freed = False
        assert open_space(native)[1] == self.bases, "two children made alike are alike"

    def step(self, relative: Call, compare: bool = True) -> str | None:
        """Makes one call on both sides; the first difference in result or maps (unless `compare` is
        off), in words."""
        call = resolve(relative, self.bases)
        name, args = call
        if name in (WRITE, READ):
            first, second = (
                side.write(*args[:2]) if name == WRITE else side.read(args[0])
                for side in self._children
            )
            if first != second:
                return (
                    f"{name} {'succeeds' if first else 'faults'} natively, and not so under Laconic"
                )
            self.space.grow(proc.read_smaps(self.child.pid))
        elif name == FORK:
            reap(self.native.fork())
            return self.forked()
        else:
            self.freed |= name == "madvise" and args[2] == MADV_FREE
            cuts = [side.maps() for side in self._children] if name == "mremap" else []
            value = self.native.call(name, *args)
            result = self._through(call)
            if cuts and cut_apart(call, *cuts):
                self.counts[f"tolerated: {CUT_APART}"] += 1
                raise Ended
            if value != result:
                return (
                    f"{name} returns {_result(value)} natively, and {_result(result)} under Laconic"
                )
        return self.difference() or self._apart() if compare else None

    @property
    def _children(self) -> tuple[Child, Child]:
        return self.native, self.child

    def _through(self, call: Call) -> int:
        outcome = self.outcome(call)
        host_args = self.mediator.manager.host_arguments(call.name, call.args, outcome)
        if host_args is None:
            self.counts["elided"] += not is_error(outcome.result)
            return self.mediator.manager.finish_elided(call.name, outcome)
        self.counts["host calls"] += 1
        value = self.child.call(call.name, *host_args)
        self.mediator.settle(self.thread, PendingCall(call, outcome, host_args), value)
        return value

    def _apart(self) -> str | None:
        native, child = (_anonymised(proc.read_smaps(side.pid)) for side in self._children)
        for mine, other in zip(native, child, strict=False):
            if mine != other:
                return (
                    f"the maps differ:\n  natively      {describe(*mine)}\n"
                    f"  under Laconic {describe(*other)}"
                )
        return None if len(native) == len(child) else "one map is longer than the other"

    def finish(self) -> str | None:
        """Compares the contents of all pages on both sides."""
        for start, end, vma in self.space.vmas:
            if vma.flags & VM_SPECIAL or end - start > 64 * PAGE_SIZE:
                continue
            for page in range(start, end, PAGE_SIZE):
                first, second = (side.peek(page) for side in self._children)
                if first != second and not vanished(first, second, self.freed, vma.flags):
                    return (
                        f"contents differ at {page:#x}: {first!r} natively, {second!r} under "
                        f"Laconic"
                    )
        return None


def _anonymised(host: RangeMap[Vma]) -> list[tuple[int, int, Vma]]:
    # Files by the order in which they appear: the two children have different ones that mean the
    # same.
    files: dict[File, File] = {}
    entries = []
    for start, end, vma in host:
        file = vma.file and files.setdefault(vma.file, File(0, 0, len(files) + 1, vma.file.path))
        entries.append((start, end, vma._replace(file=file)))
    return entries


def _only_the_host_knows(outcome: Outcome) -> bool:
    # Asked, or said without any difference in attributes: contents and residency have errors of
    # their own.
    if outcome.ask or outcome.place or outcome.resync:
        return True
    return bool(outcome.changes) and all(change.wanted is change.held for change in outcome.changes)


def _result(value: int) -> str:
    return str(value) if -4096 < value < 4096 else hex(value)
