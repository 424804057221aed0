"""skip-equal: every-call, but mprotect leaves out each VMA whose protection is equal already (Gramine's PR #1824).

The rule alone is wrong wherever a VMA does not say what the pages have, and what it is wrong about is done right here:

- a guard page in a VMA that says RW: it is bookkept as what it is;
- the tail of a file mapping past the end of the file, inaccessible whatever the VMA says: Protect never reaches it;
- memory opened for the LibOS to fill it, while the VMA has the final protection already: the Protect that closes it
  again is not subject to the rule;
- a failure after a VMA was changed: whatever fails is undone, VMAs and pages, and nothing kills the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from laconic.memory.space import AddressSpace
from laconic.pal.sgx.edmm import PalError
from laconic.pal.sgx.gramine import INTERNAL
from laconic.pal.sgx.meter import Meter
from laconic.pal.sgx.recovery import Recoverable
from laconic.strategies.every_call import THREAD_STACK, EveryCall
from laconic.strategies.libos import VMA_INTERNAL, LibosVma, changed
from laconic.strategies.touches import Touches

#: What can fail half way.
_ENTRIES: Final = ("load", "call", "touch", "grow", "fork", "thread")


class SkipEqual(EveryCall):
    """The rule `skip-equal`. Where the meter can fail, so can all but `end` and `thread_ends`, by PalError(ENOMEM).

    VMAs and pages are then as they were, but for the ranges in its `gone`, which had been unmapped on the way; a touch
    that fails is a SIGBUS. Pages whose permissions a host that refuses for ever does not put back are bookkept with
    those that they have. To undo costs O(n) a step, which a plain meter, that never fails, is spared.
    """

    name = "skip-equal"

    def __init__(self, meter: Meter, space: AddressSpace, touches: Touches) -> None:
        super().__init__(meter, space, touches)
        if type(meter) is not Meter:
            self.pal = pal = Recoverable(meter)
            for entry in _ENTRIES:
                setattr(self, entry, partial(self._attempt, pal, getattr(self, entry)))

    def _attempt(self, pal: Recoverable, work: Callable[..., Any], *args: Any) -> Any:
        # All of the work, or nothing.
        pages, vmas, threads, idle = pal.begin(), self.vmas.copy(), self._threads.copy(), self._idle.copy()
        try:
            return work(*args)
        except PalError as refused:
            gone, stuck = pal.restore(pages)
            for start, end in gone:
                vmas.clear(start, end)
            for start, end, prot in stuck:
                for begin, stop, vma in list(vmas.runs(start, end)):
                    if vma is not None:
                        vmas.set(begin, stop, changed(vma, prot))
            self.vmas, self._threads, self._idle = vmas, threads, idle
            refused.gone = [run for run in gone if run[0] < INTERNAL]
            raise

    def protect(self, start: int, end: int, prot: int) -> None:
        """One Protect for each VMA of `[start, end)` whose protection differs; equal ones are not split.

        O(log n + VMAs).
        """
        for begin, stop, vma in list(self.vmas.runs(start, end)):
            if vma is None or vma.prot == prot:
                continue
            if begin < vma.valid_end:
                self.pal.protect(begin, min(stop, vma.valid_end), prot)
            self.vmas.set(begin, stop, changed(vma, prot))

    def guard(self, start: int, end: int) -> None:
        """A guard page, bookkept: a VMA of its own. O(log n)."""
        self.pal.protect(start, end, 0)
        self.vmas.set(start, end, LibosVma(0, VMA_INTERNAL))

    def thread_ends(self) -> None:
        """As every-call; but an exit cannot fail: a stack that the host does not take back is shut. O(log n)."""
        try:
            super().thread_ends()
        except PalError:
            assert isinstance(self.pal, Recoverable)
            slot = self._idle[-1]
            self.pal.discard(slot, slot + THREAD_STACK)
            self.vmas.clear(slot, slot + THREAD_STACK)
