"""The check of the law Strict (DESIGN: section 5) in an enclave that runs on the modelled EPCM.

After a step, the access of each existing page must equal the protection of the program's VMA; the
only tolerated gap is a page that is not committed yet. During a step, no page may have access that
was requested neither before nor after it, not even for one instruction. `StrictChecker` checks
after every SGX instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from laconic.memory.change import Change
from laconic.memory.flags import PROT_READ, TASK_SIZE, Prot
from laconic.memory.rangemap import RangeMap, range_text
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.sgx.model.machine import Machine
from laconic.sgx.pal.edmm import permissions

#: Represents unmapped memory, which has no VMA.
_NOTHING = Vma(0)


def breaches(
    machine: Machine,
    space: AddressSpace,
    left: RangeMap[int] | None = None,
    guards: RangeMap[bool] | None = None,
) -> Iterator[str]:
    """Yield, as text, each range whose access differs from what the program requested.
    O(page runs + VMAs).

    `guards` are guard regions, which are inaccessible regardless of their VMA.

    `left` are pages that failures left in the EPC (`Edmm.left`); they are ignored as long as they
    are inaccessible.
    """
    for start, end, prot in machine.effective(0, TASK_SIZE):
        if prot is None:
            continue
        for run_start, run_end, guard in (
            guards.runs(start, end) if prot and guards is not None else ()
        ):
            if guard:
                where = range_text(run_start, run_end, "#x")
                yield f"{where} is {Prot(prot)!r} in the enclave, and is a guard region"
        for run_start, run_end, vma in space.vmas.runs(start, end):
            requested = permissions(vma.flags) if vma is not None else 0
            if vma is not None and prot == requested:
                continue
            for part_start, part_end, state in (
                left.runs(run_start, run_end) if left is not None else [(run_start, run_end, None)]
            ):
                if state is None or prot:
                    what = (
                        "nothing is mapped" if vma is None else f"{Prot(requested)!r} was requested"
                    )
                    where = range_text(part_start, part_end, "#x")
                    yield f"{where} is {Prot(prot)!r} in the enclave, and {what}"


class StrictChecker:
    """Checks one machine after every SGX instruction (`Machine.after_step`), and records violations
    in `windows` as text.

    `expect` receives the changes of a call before its work begins; `space` is as it is after the
    call. `excepted` are the page runs covered by the law's one exception: if mremap moves an
    unreadable page, the EACCEPTCOPY that moves it requires it to be readable.
    """

    def __init__(self, machine: Machine, space: AddressSpace) -> None:
        self.space = space
        self.windows: list[str] = []
        self.excepted: set[tuple[int, int]] = set()
        self._old: RangeMap[Vma] = RangeMap()
        self._moved: RangeMap[bool] = RangeMap()
        self._start = self._end = 0
        machine.after_step = self._look

    def expect(self, changes: Iterable[Change]) -> None:
        """Announce a call with these changes. O(changes log n)."""
        self._old = RangeMap()
        self._moved = RangeMap()
        self._start, self._end = TASK_SIZE, 0
        for _, start, end, _, held, source in changes:
            self._old.set(start, end, held or _NOTHING)
            self._start, self._end = min(self._start, start), max(self._end, end)
            if source is not None:
                self._moved.set(source, source + end - start, True)

    def _look(self, machine: Machine) -> None:
        for start, end, prot in machine.effective(self._start, self._end):
            if not prot:
                continue
            for vma_start, vma_end, vma in self.space.vmas.runs(start, end):
                now = permissions(vma.flags) if vma is not None else 0
                for old_start, old_end, old in self._old.runs(vma_start, vma_end):
                    before = now if old is None else permissions(old.flags)
                    if not (prot & ~before and prot & ~now):
                        continue
                    for part_start, part_end, moved in self._moved.runs(old_start, old_end):
                        if moved and prot == before | PROT_READ:
                            self.excepted.add((part_start, part_end))
                        else:
                            where = range_text(part_start, part_end, "#x")
                            calls = f"between {Prot(before)!r} and {Prot(now)!r}"
                            self.windows.append(f"{where} was {Prot(prot)!r} {calls}")
