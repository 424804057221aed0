"""Where the kernel may answer otherwise than the bookkeeping predicts, each with the kernel function that causes it.

The tracer takes the host's answer in all of these: what differs is the prediction, never what the program sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import ENOMEM

from laconic.memory.calls import Call
from laconic.memory.change import Outcome
from tests.kernel.child import Mapping

#: Reasons that concern the result alone: the maps must be as predicted nevertheless.
POPULATE = "mm_populate: all is locked, and then a page cannot be brought in (no access, past the end of a file)"
RESULT_ONLY = {POPULATE}


def tolerated(call: Call, outcome: Outcome, value: int, raw: Sequence[Mapping]) -> str | None:
    """The reason why `value` may differ from the prediction, or None. `raw` are the VMAs as the kernel cut them."""
    if call.name in ("mlock", "mlock2") and outcome.result == 0 and value == -ENOMEM:
        return POPULATE
    return None
