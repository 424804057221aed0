"""skip-equal: every-call, but mprotect leaves out each VMA whose protection is equal already
(Gramine's PR #1824).

The rule alone is wrong wherever a VMA does not say what the pages have, and what it is wrong about
is done right here:

- a guard page in a VMA that says RW: it is bookkept as what it is;
- the tail of a file mapping past the end of the file, inaccessible whatever the VMA says: Protect
  never reaches it;
- memory opened for the LibOS to fill it, while the VMA has the final protection already: the
  Protect that closes it again is not subject to the rule.
"""

from __future__ import annotations

from typing import ClassVar

from mypy_extensions import mypyc_attr

from laconic.libos.gramine import VMA_INTERNAL, LibosVma, changed
from laconic.linux.pal import skip_equal
from laconic.memory.calls import HostRule
from laconic.strategies.every_call import EveryCall


@mypyc_attr(allow_interpreted_subclasses=True)
class SkipEqual(EveryCall):
    """The strategy `skip-equal`."""

    name: ClassVar[str] = "skip-equal"
    linux_rule: ClassVar[HostRule | None] = skip_equal

    def protect(self, start: int, end: int, prot: int) -> None:
        """One Protect for each VMA of `[start, end)` whose protection differs; equal ones are not
        split.

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
