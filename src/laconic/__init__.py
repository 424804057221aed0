"""Laconic: a library OS memory subsystem that calls its host only when something changes.

The public API. Its names are imported when they are first used, so that the command line starts
quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laconic.analysis.compare import (
        Compared,
        Figures,
        HostCalls,
        Span,
        compare,
        compare_host_calls,
    )
    from laconic.analysis.sites import Site, Sites
    from laconic.analysis.sites import sites as find_sites
    from laconic.errors import LaconicError
    from laconic.libos.strategy import MemoryCall, Strategy
    from laconic.libos.touches import Touches
    from laconic.memory.change import Change, ChangeKind, Outcome
    from laconic.memory.flags import PAGE_SIZE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, Prot
    from laconic.memory.layout import Layout
    from laconic.memory.manager import MemoryManager, VmaInfo
    from laconic.memory.mmap import OpenFile
    from laconic.memory.pal import HostError, Pal
    from laconic.memory.rangemap import RangeMap
    from laconic.memory.space import AddressSpace
    from laconic.memory.upcalls import DefaultUpcalls, Upcalls
    from laconic.memory.vma import File, Vma
    from laconic.replay import Replayed, replay_trace
    from laconic.replay.events import CallDone, Listener
    from laconic.replay.pals import Refusal
    from laconic.replay.thread import Mm
    from laconic.sgx.costs import CostProfile
    from laconic.sgx.costs import load as load_costs
    from laconic.sgx.meter import Counts, Meter
    from laconic.trace import Trace
    from laconic.trace import open as open_trace

__version__ = "0.1.0"

#: Each public name and the module that defines it, with the name in that module if it differs. The
#: functions are not called `replay` and `trace`, because packages have these names.
_PUBLIC = {
    "AddressSpace": "laconic.memory.space",
    "CallDone": "laconic.replay.events",
    "Change": "laconic.memory.change",
    "ChangeKind": "laconic.memory.change",
    "Compared": "laconic.analysis.compare",
    "CostProfile": "laconic.sgx.costs",
    "Counts": "laconic.sgx.meter",
    "DefaultUpcalls": "laconic.memory.upcalls",
    "Figures": "laconic.analysis.compare",
    "File": "laconic.memory.vma",
    "HostCalls": "laconic.analysis.compare",
    "HostError": "laconic.memory.pal",
    "LaconicError": "laconic.errors",
    "Layout": "laconic.memory.layout",
    "Listener": "laconic.replay.events",
    "MemoryCall": "laconic.libos.strategy",
    "MemoryManager": "laconic.memory.manager",
    "Meter": "laconic.sgx.meter",
    "Mm": "laconic.replay.thread",
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
    "Refusal": "laconic.replay.pals",
    "Replayed": "laconic.replay",
    "Site": "laconic.analysis.sites",
    "Sites": "laconic.analysis.sites",
    "Span": "laconic.analysis.compare",
    "Strategy": "laconic.libos.strategy",
    "Touches": "laconic.libos.touches",
    "Trace": "laconic.trace",
    "Upcalls": "laconic.memory.upcalls",
    "Vma": "laconic.memory.vma",
    "VmaInfo": "laconic.memory.manager",
    "compare": "laconic.analysis.compare",
    "compare_host_calls": "laconic.analysis.compare",
    "find_sites": "laconic.analysis.sites:sites",
    "load_costs": "laconic.sgx.costs:load",
    "open_trace": "laconic.trace:open",
    "replay_trace": "laconic.replay",
}

__all__ = [
    "PAGE_SIZE",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "AddressSpace",
    "CallDone",
    "Change",
    "ChangeKind",
    "Compared",
    "CostProfile",
    "Counts",
    "DefaultUpcalls",
    "Figures",
    "File",
    "HostCalls",
    "HostError",
    "LaconicError",
    "Layout",
    "Listener",
    "MemoryCall",
    "MemoryManager",
    "Meter",
    "Mm",
    "OpenFile",
    "Outcome",
    "Pal",
    "Prot",
    "RangeMap",
    "Refusal",
    "Replayed",
    "Site",
    "Sites",
    "Span",
    "Strategy",
    "Touches",
    "Trace",
    "Upcalls",
    "Vma",
    "VmaInfo",
    "__version__",
    "compare",
    "compare_host_calls",
    "find_sites",
    "load_costs",
    "open_trace",
    "replay_trace",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'laconic' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return list(__all__)
