"""Threads: a LibOS stack for each, and a slot in the enclave."""

from __future__ import annotations

from typing import Final

from laconic.libos.gramine import VMA_INTERNAL, Libos, LibosVma
from laconic.libos.settings import Settings
from laconic.memory.flags import PAGE_SIZE
from laconic.sgx.pal.gramine import INTERNAL, RW

#: A thread's stack in the LibOS, in bytes; its lowest page is a guard page
#: (LIBOS_THREAD_LIBOS_STACK_SIZE).
STACK: Final = 8 * PAGE_SIZE
#: The PAL's memory for each thread beyond sgx.max_threads, in bytes (THREAD_DATA_SIZE in
#: pal_threading.c): TCS, two SSA frames of 4 pages, TCB, signal stack, stack.
DATA: Final = (1 + 2 * 4 + 1 + 16 + 64) * PAGE_SIZE
#: The distance between the memory of two threads in the model, in bytes.
_STEP: Final = 128 * PAGE_SIZE


class Threads:
    """The threads of one process in addition to its first.

    A slot (TCS) is used again after its thread has ended, and never released. Slots that exist from
    the beginning cost nothing: `sgx.max_threads` minus those of Gramine's helpers.
    """

    __slots__ = ("_free_slots", "_made", "_places", "_running")

    def __init__(self, settings: Settings) -> None:
        # g_unused_tcs_pages_num: slots that no thread uses.
        self._free_slots = settings.free_slots
        self._made = 0
        # The stack addresses of running threads, and the free ones.
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
        """put_thread: free the stack, and keep the slot for the next thread; with
        `Switches.threads`, keep the stack too. O(log n)."""
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
