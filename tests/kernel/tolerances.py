"""Where the kernel may answer otherwise than the bookkeeping predicts, each with the kernel
function that causes it.

The tracer takes the host's answer in all of these: what differs is the prediction, never what the
program sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EFAULT, ENOMEM

from laconic.memory.calls import Call
from laconic.memory.change import Outcome
from laconic.memory.flags import VM_DROPPABLE
from tests.kernel.child import Mapping

#: Reasons that concern the result alone: the maps must be as predicted nevertheless.
POPULATE = (
    "mm_populate: all is locked, and then a page cannot be brought in (no access, past "
    "the end of a file)"
)
APART = "is_mergeable_anon_vma: the kernel keeps VMAs apart that look alike, and mremap wants one"
#: Of a comparison of two children: the sequence cannot be followed any further.
CUT_APART = (
    "vms_gather_munmap_vmas: a call that fails leaves VMAs split, and mremap sees it; "
    "the PAL did not make the call"
)
RESULT_ONLY = {POPULATE}


def tolerated(call: Call, outcome: Outcome, value: int, raw: Sequence[Mapping]) -> str | None:
    """The reason why `value` may differ from the prediction, or None. `raw` are the VMAs as the
    kernel cut them."""
    if call.name in ("mlock", "mlock2") and outcome.result == 0 and value == -ENOMEM:
        return POPULATE
    if call.name == "mremap" and value == -EFAULT and _cut(call, raw):
        return APART
    return None


def _cut(call: Call, raw: Sequence[Mapping]) -> bool:
    start, length = call.args[0], call.args[1]
    return any(start < line.start < start + length for line in raw)


def cut_apart(call: Call, native: Sequence[Mapping], other: Sequence[Mapping]) -> bool:
    """True where mremap's source is not the same VMAs on both sides."""
    start, end = call.args[0], call.args[0] + call.args[1]
    sources = [
        [line[:2] for line in raw if line.start < end and start < line.end]
        for raw in (native, other)
    ]
    return sources[0] != sources[1]


def vanished(native: bytes | None, other: bytes | None, freed: bool, flags: int) -> bool:
    """True where a page may have been dropped on one side only.

    After MADV_FREE, and in MAP_DROPPABLE memory, the kernel does so when it likes
    (shrink_folio_list in mm/vmscan.c).
    """
    return bytes(8) in (native, other) and (freed or bool(flags & VM_DROPPABLE))
