"""skip-equal: every-call, but mprotect leaves out each VMA whose protection is equal already (Gramine's PR #1824).

The rule alone is wrong wherever a VMA does not say what the pages have, and what it is wrong about is done right here:

- a guard page in a VMA that says RW: it is bookkept as what it is;
- the tail of a file mapping past the end of the file, inaccessible whatever the VMA says: Protect never reaches it;
- memory opened for the LibOS to fill it, while the VMA has the final protection already: the Protect that closes it
  again is not subject to the rule;
- a Protect that fails after the VMA was changed: VMAs are changed afterwards, and what was done is undone.
"""

from __future__ import annotations

from laconic.errors import LaconicError
from laconic.pal.sgx.faults import SgxError
from laconic.strategies.every_call import EveryCall
from laconic.strategies.libos import VMA_INTERNAL, LibosVma, changed


class NotProtected(LaconicError):
    """An mprotect failed, and all is as it was: the program gets ENOMEM."""


class SkipEqual(EveryCall):
    """The rule `skip-equal`. A failing mprotect raises `NotProtected`; any other failure is as in every-call."""

    name = "skip-equal"

    def protect(self, start: int, end: int, prot: int) -> None:
        """One Protect for each VMA of `[start, end)` whose protection differs; equal ones are not split.

        O(log n + VMAs). Raises NotProtected where the host refuses.
        """
        done: list[tuple[int, int, LibosVma]] = []
        for begin, stop, vma in list(self.vmas.runs(start, end)):
            if vma is None or vma.prot == prot:
                continue
            try:
                if begin < vma.valid_end:
                    self.pal.protect(begin, min(stop, vma.valid_end), prot)
            except SgxError as error:
                self._undo([*done, (begin, stop, vma)])
                raise NotProtected(f"mprotect of {begin:#x}-{stop:#x} failed, nothing has changed: {error}") from error
            self.vmas.set(begin, stop, changed(vma, prot))
            done.append((begin, stop, vma))

    def _undo(self, done: list[tuple[int, int, LibosVma]]) -> None:
        # If this fails too, there is no way on: as in every-call.
        for begin, stop, vma in reversed(done):
            if begin < vma.valid_end:
                self.pal.protect(begin, min(stop, vma.valid_end), vma.prot)
            self.vmas.set(begin, stop, vma)

    def guard(self, start: int, end: int) -> None:
        """A guard page, bookkept: a VMA of its own. O(log n)."""
        self.pal.protect(start, end, 0)
        self.vmas.set(start, end, LibosVma(0, VMA_INTERNAL))
