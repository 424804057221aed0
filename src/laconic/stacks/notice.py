"""What is shown while symbols are read, which may take long: nothing, unless a command sets
`show`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

#: Seconds that a report may read symbols before it shows that.
PATIENCE = 2.0


def silent(what: str, patience: float) -> AbstractContextManager[None]:
    """Shows nothing."""
    return nullcontext()


#: Takes what is being done, and for how many more seconds nothing should be shown.
show: Callable[[str, float], AbstractContextManager[None]] = silent
