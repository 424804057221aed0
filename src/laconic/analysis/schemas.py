"""The versions of the JSON that the commands write: one table.

A version rises when a key changes its meaning or is removed, and not when a key is added.
"""

from __future__ import annotations

from typing import Final

SCHEMAS: Final = {
    "advise": 1,
    "baseline": 1,
    "callers": 1,
    "check": 1,
    "compare": 1,
    "diff": 1,
    "doctor": 1,
    "explain": 1,
    "flamegraph": 1,
    "html": 1,
    "info": 1,
    "live": 1,
    "pack": 1,
    "run": 1,
    "sweep": 1,
    "vectors": 1,
}
