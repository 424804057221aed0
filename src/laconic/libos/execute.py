"""execve: the same process goes on in the same enclave, with another program."""

from __future__ import annotations

from laconic.libos.gramine import VMA_INTERNAL, Libos
from laconic.libos.heap import reset_brk
from laconic.memory.flags import PAGE_SHIFT, PAGE_SIZE


def free_program(libos: Libos) -> None:
    """libos_syscall_execve_rtld: the old program's memory goes, one Free for each VMA. O(n).

    Files that are mapped shared are not written back. The new stack is allocated before anything is
    freed: it is in the peak.
    """
    meter = libos.meter
    stack = libos.settings.stack_size + PAGE_SIZE >> PAGE_SHIFT
    meter.peak_epc_pages = max(meter.peak_epc_pages, meter.epc_pages + stack)
    reset_brk(libos)
    vmas = [(start, end) for start, end, vma in libos.vmas if not vma.flags & VMA_INTERNAL]
    listed = libos.begin_list(len(vmas))
    for start, end in vmas:
        libos.pal.free(start, end)
        libos.vmas.set(start, end, None)
    libos.end_list(listed)
    libos.mapped.clear()
