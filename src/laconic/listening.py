"""A memory manager that keeps what its last call came to, for whoever must know more than the answer."""

from __future__ import annotations

from laconic.manager import MemoryManager
from laconic.memory.calls import Upcalls
from laconic.memory.change import NOTHING, Outcome
from laconic.memory.space import AddressSpace


class ListeningManager(MemoryManager):
    """`last` is the outcome of the call that was begun last."""

    last: Outcome = NOTHING

    def begin(
        self, space: AddressSpace, name: str, args: tuple[int, ...], up: Upcalls, followed: bool = True
    ) -> Outcome:
        """As `MemoryManager.begin`."""
        self.last = super().begin(space, name, args, up, followed)
        return self.last
