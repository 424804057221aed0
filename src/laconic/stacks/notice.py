"""The notice shown while symbols are read, which may take long: none, unless a command sets
`show`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

#: Seconds that a report may read symbols before it shows that it does.
PATIENCE = 2.0


def silent(what: str, patience: float) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()


#: Called with what is being done, and for how many more seconds nothing should be shown.
show: Callable[[str, float], AbstractContextManager[None]] = silent
