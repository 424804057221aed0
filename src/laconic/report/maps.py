"""The text of `laconic maps`: an address space in the format of `/proc/PID/maps`."""

from __future__ import annotations

from laconic.memory.names import maps_text
from laconic.memory.space import AddressSpace


def as_text(space: AddressSpace) -> str:
    """Return the VMAs, one per line, as the kernel prints them. O(VMAs)."""
    return maps_text(space.vmas, space.heap)
