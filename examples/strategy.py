"""A strategy: an enclave without EDMM, in which all memory is added before the program starts.

laconic run -o a.trace -- python3 -c 'import json'
python examples/strategy.py a.trace
laconic compare a.trace --strategy examples.strategy:FixedHeap
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Self

from laconic import (
    PAGE_SIZE,
    AddressSpace,
    ChangeKind,
    MemoryCall,
    Strategy,
    Touches,
    Vma,
    compare,
)

#: The size of the enclave in bytes (`sgx.enclave_size` in a Gramine manifest).
ENCLAVE_SIZE = 256 << 20
#: Kinds of change after which pages are zero, or have the contents of a file.
FILLED = ChangeKind.MAP | ChangeKind.FILE | ChangeKind.ZERO


class FixedHeap(Strategy):
    """SGX1: pages are added and measured at the start, all of them readable, writable and
    executable. Afterwards memory calls need no host call; the library OS zeroes pages itself."""

    name = "fixed-heap"

    def load(self, entries: Iterable[tuple[int, int, Vma]]) -> None:
        """Build the enclave, and fill in the program's image."""
        self.meter.create()
        self.meter.eadd(0, ENCLAVE_SIZE)
        for start, end, vma in entries:
            self._fill(start, end, vma)

    def call(self, call: MemoryCall) -> None:
        """Fill the pages that are new, discarded, or no longer inaccessible. Permissions cannot
        change."""
        for change in call.changes:
            if change.wanted is None:
                continue
            was_reserved = change.held is not None and not change.held.prot
            if change.kinds & FILLED or was_reserved:
                self._fill(change.start, change.end, change.wanted)

    def touch(self, start: int, end: int, vma: Vma) -> None:
        """Do nothing: every page exists."""

    def grow(self, start: int, end: int, vma: Vma) -> None:
        """Do nothing: the stack has its full size from the start."""

    def fork(self, space: AddressSpace, touches: Touches) -> Self:
        """Build another enclave, and send it the pages of this one."""
        child = type(self)(self.meter, space, touches)
        child.load(space.vmas)
        self.meter.host_call()
        return child

    def thread(self) -> None:
        """Do nothing: threads were reserved at the start."""

    def thread_ends(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Give all pages back."""
        self.meter.destroy(ENCLAVE_SIZE // PAGE_SIZE)

    def _fill(self, start: int, end: int, vma: Vma) -> None:
        # Inaccessible memory (a reservation) occupies no pages until it is made accessible.
        if not vma.prot:
            return
        if vma.file is None:
            self.meter.zero(start, end)
        else:
            self.meter.host_call()  # the host reads the file into a buffer outside of the enclave
            self.meter.copy((end - start) // PAGE_SIZE)


def main(path: str) -> None:
    """Print what the program in a trace would cost in this enclave, beside three strategies."""
    compared = compare(path, ["every-call", "laconic", FixedHeap, "bound"])
    for row in compared.to_arrow().to_pylist():
        print(
            f"{row['strategy']:<11}{row['host_calls']:>7,} host calls{row['eadd']:>9,} pages added"
            f"{row['cycles_low']:>15,.0f} to {row['cycles_high']:,.0f} cycles"
        )


if __name__ == "__main__":
    main(sys.argv[1])
