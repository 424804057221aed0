"""The versions of the JSON that the commands write: one table.

A version rises when a key changes its meaning or is removed, but not when a key is added.
"""

from __future__ import annotations

from typing import Any, Final

#: A JSON object that a command writes.
Json = dict[str, Any]

SCHEMAS: Final = {
    "advise": 1,
    "baseline": 2,
    "callers": 3,
    "check": 2,
    "compare": 2,
    "diff": 2,
    "doctor": 1,
    "explain": 2,
    "flamegraph": 2,
    "html": 3,
    "html-pair": 1,
    "info": 2,
    "live": 3,
    "pack": 1,
    "run": 2,
    "sweep": 2,
    "vectors": 1,
}
