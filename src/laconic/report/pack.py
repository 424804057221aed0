"""The symbols that were packed into a trace, as JSON."""

from __future__ import annotations

from typing import Any

from laconic.analysis.schemas import SCHEMAS
from laconic.trace.packing import Packed


def as_json(packed: Packed, trace: str, written: str | None) -> dict[str, Any]:
    """Return modules and frames; `written` is the trace that contains the symbols now, None if none
    was written."""
    return {
        "schema": SCHEMAS["pack"],
        "trace": trace,
        "written": written,
        "frames": packed.frames,
        "named": packed.named,
        "added": [module.path for module in packed.added],
        "already": packed.already,
        "missing_symbols": {module.path: why for module, why in packed.missing},
        "partial_symbols": {
            module.path: {"what": what, "why": why}
            for module, (what, why) in packed.partial.items()
        },
        "stacks_in_words": packed.texts,
    }
