"""The heap: libos_syscall_brk, and the limit in the manifest (sys.brk.max_size)."""

from __future__ import annotations

from laconic.libos.gramine import Libos
from laconic.libos.settings import BRK_SIZE
from laconic.memory.change import Change, coalesce
from laconic.memory.mmap import page_align
from laconic.sgx.pal.gramine import RW


def brk(libos: Libos, changes: tuple[Change, ...]) -> None:
    """libos_syscall_brk: each growth is a VMA, and shrinking is one Free. An unchanged or refused
    break does nothing. O(log n + VMAs).

    Gramine refuses a heap larger than sys.brk.max_size, and the C library then maps memory in
    pieces of 1 MiB. The trace contains the larger heap, so that is modelled, and the exceeded limit
    is recorded.
    """
    for change in changes:
        if change.wanted is not None:
            libos.unmap(change.start, change.end)
            libos.alloc(change.start, change.end, RW)
    for start, end in coalesce(change for change in changes if change.wanted is None):
        libos.pal.free(start, end)
        libos.vmas.set(start, end, None)
    size = libos.space.brk - libos.space.start_brk
    if size > libos.settings.brk_size:
        libos.meter.exceeds(BRK_SIZE, size)


def reset_brk(libos: Libos) -> None:
    """reset_brk: execve releases the whole heap in one Free, however many VMAs it has.
    O(log n + VMAs)."""
    start, end = libos.space.start_brk, page_align(libos.space.brk)
    if start < end:
        libos.pal.free(start, end)
        libos.vmas.set(start, end, None)
