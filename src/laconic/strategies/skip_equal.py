"""skip-equal: every-call, but mprotect skips each VMA that already has the protection (Gramine's PR
#1824).

The rule alone is wrong if the permissions of pages differ from their VMA's. This model corrects
those cases:

- a guard page in an RW VMA: it gets an inaccessible VMA of its own;
- the tail of a file mapping past the end of the file, which is inaccessible regardless of the VMA:
  Protect never reaches it;
- memory made accessible so that the LibOS can fill it, while the VMA has the final protection
  already: the rule does not apply to the Protect that restores the protection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from mypy_extensions import mypyc_attr

from laconic.errors import LaconicError
from laconic.libos.settings import DEFAULTS, Settings
from laconic.libos.touches import Touches
from laconic.linux.pal import skip_equal
from laconic.memory.hostrule import HostRule
from laconic.memory.space import AddressSpace
from laconic.sgx.meter import Meter
from laconic.sgx.pal.gramine import Gramine
from laconic.sgx.pal.switches import Switches
from laconic.strategies.every_call import EveryCall
from laconic.strategies.options import Options


class _NoOptions(Options):
    # The options of every-call have the same effect.

    def parse(self, text: str) -> dict[str, Any]:
        raise LaconicError(
            f"'{self.strategy}:{text}': the strategy {self.strategy!r} has no options; "
            f"use every-call:equal=on,{text}"
        )


OPTIONS: Final = _NoOptions("skip-equal", {})
_VALUES: Final[Mapping[str, Any]] = Switches(equal=True)._asdict()


@mypyc_attr(allow_interpreted_subclasses=True)
class SkipEqual(EveryCall):
    """The strategy `skip-equal`: `every-call:equal=on`, with a rule for Linux."""

    name: ClassVar[str] = "skip-equal"
    linux_rule: ClassVar[HostRule | None] = skip_equal

    def __init__(
        self,
        meter: Meter,
        space: AddressSpace,
        touches: Touches,
        *,
        settings: Settings = DEFAULTS,
        pal_type: type[Gramine] = Gramine,
        values: Mapping[str, Any] = _VALUES,
    ) -> None:
        super().__init__(meter, space, touches, settings=settings, pal_type=pal_type, values=values)
