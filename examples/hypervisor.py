"""A PAL that only counts: what the memory calls of a program would cost under an imaginary
hypervisor.

python examples/hypervisor.py
"""

from __future__ import annotations

from collections import Counter

from laconic import PAGE_SIZE, PROT_NONE, PROT_READ, PROT_WRITE, Change, ChangeKind, MemoryManager


class Hypervisor:
    """Counts hypercalls: one per change, and one more per page that loses a permission (a TLB
    shootdown)."""

    def __init__(self) -> None:
        self.hypercalls: Counter[str] = Counter()

    def apply(self, change: Change) -> None:
        """Count what the change would cost."""
        for kind in ChangeKind:
            if kind & change.kinds:
                self.hypercalls[str(kind.name)] += 1
        if change.kinds & (ChangeKind.RESTRICT | ChangeKind.UNMAP):
            self.hypercalls["shootdown"] += (change.end - change.start) // PAGE_SIZE


def arena(mm: MemoryManager) -> None:
    """An allocator's arena: reserve 64 MiB, commit it in steps of 128 KiB, free all of it."""
    step = 32 * PAGE_SIZE
    start = mm.mmap(None, 64 << 20, PROT_NONE)
    for address in range(start, start + (1 << 20), step):
        mm.mprotect(address, step, PROT_READ | PROT_WRITE)
    mm.munmap(start, 64 << 20)


def main() -> None:
    """Print the hypercalls of the arena."""
    hypervisor = Hypervisor()
    arena(MemoryManager(hypervisor))
    for name, count in sorted(hypervisor.hypercalls.items()):
        print(f"{name:10}{count:>8,}")


if __name__ == "__main__":
    main()
