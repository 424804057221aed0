"""Importing pyarrow alone: with its optional dependencies it takes twice as long."""

from __future__ import annotations

import sys

#: What pyarrow imports if it is installed, and no command needs.
_OPTIONAL = ("numpy", "cloudpickle")


def import_alone() -> None:
    """Import pyarrow without its optional dependencies, which other code can import later.

    pyarrow then cannot convert arrays to numpy's, so this is for commands, not for the library. An
    older pyarrow needs numpy, and is imported with it.
    """
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        pass
    finally:
        for name in hidden:
            del sys.modules[name]
