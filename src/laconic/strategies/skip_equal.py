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

from typing import ClassVar, Self

from laconic.errors import LaconicError
from laconic.linux.pal import skip_equal
from laconic.sgx.pal.switches import Switches
from laconic.strategies.every_call import EveryCall


class SkipEqual(EveryCall):
    """The strategy `skip-equal`: `every-call:equal=on`, with a rule for Linux."""

    name = "skip-equal"
    linux_rule = skip_equal
    switches: ClassVar[Switches] = Switches(equal=True)

    @classmethod
    def tuned(cls, text: str) -> type[Self]:
        """Raise LaconicError: there are no options."""
        raise LaconicError(
            f"'{cls.name}:{text}': the strategy {cls.name!r} has no options; "
            f"use every-call:equal=on,{text}"
        )
