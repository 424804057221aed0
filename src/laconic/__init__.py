"""Laconic: a library OS memory subsystem that calls its host only when something changes.

The public API. Its names are imported when they are first used, so that the command line starts
quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laconic.errors import LaconicError as LaconicError
    from laconic.memory.calls import DefaultUpcalls as DefaultUpcalls
    from laconic.memory.calls import Upcalls as Upcalls
    from laconic.memory.change import Change as Change
    from laconic.memory.change import ChangeKind as ChangeKind
    from laconic.memory.change import Outcome as Outcome
    from laconic.memory.flags import PAGE_SIZE as PAGE_SIZE
    from laconic.memory.flags import PROT_EXEC as PROT_EXEC
    from laconic.memory.flags import PROT_NONE as PROT_NONE
    from laconic.memory.flags import PROT_READ as PROT_READ
    from laconic.memory.flags import PROT_WRITE as PROT_WRITE
    from laconic.memory.flags import Prot as Prot
    from laconic.memory.layout import Layout as Layout
    from laconic.memory.manager import MemoryManager as MemoryManager
    from laconic.memory.manager import VmaInfo as VmaInfo
    from laconic.memory.mmap import OpenFile as OpenFile
    from laconic.memory.pal import HostError as HostError
    from laconic.memory.pal import Pal as Pal
    from laconic.memory.rangemap import RangeMap as RangeMap
    from laconic.memory.space import AddressSpace as AddressSpace
    from laconic.memory.vma import File as File
    from laconic.memory.vma import Vma as Vma

__version__ = "0.1.0"

#: Each public name and the module that defines it.
_PUBLIC = {
    "AddressSpace": "laconic.memory.space",
    "Change": "laconic.memory.change",
    "ChangeKind": "laconic.memory.change",
    "DefaultUpcalls": "laconic.memory.calls",
    "File": "laconic.memory.vma",
    "HostError": "laconic.memory.pal",
    "LaconicError": "laconic.errors",
    "Layout": "laconic.memory.layout",
    "MemoryManager": "laconic.memory.manager",
    "OpenFile": "laconic.memory.mmap",
    "Outcome": "laconic.memory.change",
    "PAGE_SIZE": "laconic.memory.flags",
    "PROT_EXEC": "laconic.memory.flags",
    "PROT_NONE": "laconic.memory.flags",
    "PROT_READ": "laconic.memory.flags",
    "PROT_WRITE": "laconic.memory.flags",
    "Pal": "laconic.memory.pal",
    "Prot": "laconic.memory.flags",
    "RangeMap": "laconic.memory.rangemap",
    "Upcalls": "laconic.memory.calls",
    "Vma": "laconic.memory.vma",
    "VmaInfo": "laconic.memory.manager",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'laconic' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
