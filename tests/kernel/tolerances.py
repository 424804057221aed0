"""Where the kernel may answer otherwise than the bookkeeping predicts, each with the kernel function that causes it.

The tracer takes the host's answer in all of these: what differs is the prediction, never what the program sees.
"""

from __future__ import annotations

from collections.abc import Sequence

from laconic.memory.calls import Call
from laconic.memory.change import Outcome
from tests.kernel.child import Mapping


def tolerated(call: Call, outcome: Outcome, value: int, raw: Sequence[Mapping]) -> str | None:
    """The reason why `value` may differ from the prediction, or None. `raw` are the VMAs as the kernel cut them."""
    return None
