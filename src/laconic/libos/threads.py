"""Threads: a stack in the LibOS for each, and a slot in the enclave."""

from __future__ import annotations

from typing import Final

from laconic.libos.gramine import VMA_INTERNAL, Libos, LibosVma
from laconic.libos.settings import Settings
from laconic.memory.flags import PAGE_SIZE
from laconic.sgx.pal.gramine import INTERNAL, RW

#: A thread's stack in the LibOS, its guard page the lowest (LIBOS_THREAD_LIBOS_STACK_SIZE), bytes.
STACK: Final = 8 * PAGE_SIZE
#: What the PAL has for a thread beyond sgx.max_threads (THREAD_DATA_SIZE in pal_threading.c): TCS,
#: two SSA frames of 4 pages, TCB, signal stack, stack; bytes.
DATA: Final = (1 + 2 * 4 + 1 + 16 + 64) * PAGE_SIZE
#: From one thread's memory to the next one's in the model, in bytes.
_STEP: Final = 128 * PAGE_SIZE


class Threads:
    """The threads of one process beside its first.

    A slot (TCS) is used again when its thread has ended, and never given back. Slots that exist
    from the beginning, `sgx.max_threads` without those of Gramine's helpers, cost nothing.
    """

    __slots__ = ("_free_slots", "_made", "_places", "_running")

    def __init__(self, settings: Settings) -> None:
        # g_unused_tcs_pages_num: slots that no thread uses.
        self._free_slots = settings.free_slots
        self._made = 0
        # Where running threads have their stacks, and which places are free.
        self._running: list[int] = []
        self._places: list[int] = []

    def start(self, libos: Libos) -> None:
        """alloc_thread_libos_stack, then create_dynamic_tcs_if_none_available. O(log n)."""
        if self._places:
            place = self._places.pop()
            is_there = libos.switches.threads
        else:
            place = INTERNAL + self._made * _STEP
            is_there = False
            self._made += 1
        self._running.append(place)
        if not is_there:
            _allocate_stack(libos, place)
        if self._free_slots:
            self._free_slots -= 1
            return
        tcs = place + STACK
        libos.pal.alloc(tcs, tcs + DATA, RW)
        libos.vmas.set(tcs, tcs + DATA, LibosVma(RW, VMA_INTERNAL))
        libos.pal.make_tcs(tcs)

    def end(self, libos: Libos) -> None:
        """put_thread: the stack is freed, the slot stays for the next thread; with
        `Switches.threads`, so does the stack. O(log n)."""
        if not self._running:
            return
        place = self._running.pop()
        self._places.append(place)
        self._free_slots += 1
        if libos.switches.threads:
            return
        libos.pal.free(place, place + STACK)
        libos.vmas.set(place, place + STACK, None)


def _allocate_stack(libos: Libos, place: int) -> None:
    # alloc_thread_libos_stack: committed, and then protected at its lowest page; with
    # `Switches.reserve`, that page is never committed.
    end = place + STACK
    libos.vmas.set(place, end, LibosVma(RW, VMA_INTERNAL))
    if libos.switches.reserve:
        libos.pal.alloc(place + PAGE_SIZE, end, RW)
        libos.vmas.set(place, place + PAGE_SIZE, LibosVma(0, VMA_INTERNAL))
    else:
        libos.pal.alloc(place, end, RW)
        libos.guard(place, place + PAGE_SIZE)
